"""Deliveries: feedback with an id, so that a repeated delivery is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from cero_alloc._checks import IntArray, error_text
from cero_alloc._saving.state import UNCHANGED, State, Stateful, check_array

DeliveryId = int | str | None


class Receipt(NamedTuple):
    """What is kept of a delivery."""

    method: str
    delivery_id: int | str
    digest: int  # of its content
    repeated: bool


class Deliveries(Stateful):
    """Ids of all deliveries so far, with a digest of each: about 150 bytes per delivery."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int | str, int]] = {}  # by method: a report and a refund may share an id
        self.repeated = 0  # deliveries that were received again

    def receive(
        self, method: str, delivery_id: int | str | np.integer[Any], rows: IntArray, *columns: np.ndarray[Any, Any]
    ) -> Receipt:
        """Tell whether a delivery is a repetition. :meth:`keep` records it once it has been processed.

        Raises
        ------
        TypeError
            For an id that is neither an integer nor a string.
        ValueError
            For an id that was received before with other content.
        """
        if isinstance(delivery_id, np.integer):
            delivery_id = int(delivery_id)
        if isinstance(delivery_id, bool) or not isinstance(delivery_id, (int, str)):
            raise TypeError(
                error_text("delivery_id", "be an integer or a string", delivery_id, "Number the deliveries.")
            )
        order = np.argsort(rows)  # the order of the prompts is no part of the content
        content = blake2b(digest_size=8)
        for column in (rows, *columns):
            content.update(column[order].tobytes())
        digest = int.from_bytes(content.digest(), "little", signed=True)
        before = self._seen.get(method, {}).get(delivery_id)
        if before not in (None, digest):
            remedy = "Repeat a delivery unchanged, and give every other delivery its own id."
            raise ValueError(error_text("delivery_id", "name one delivery", delivery_id, remedy))
        self.repeated += before is not None
        return Receipt(method, delivery_id, digest, before is not None)

    def keep(self, receipt: Receipt) -> None:
        """Record a delivery that has been processed."""
        self._seen.setdefault(receipt.method, {})[receipt.delivery_id] = receipt.digest

    def _snapshot(self) -> State:
        """Return ids and digests by method, oldest first."""
        seen = {
            method: {"id": list(ids), "digest": np.fromiter(ids.values(), dtype=np.int64, count=len(ids))}
            for method, ids in self._seen.items()
        }
        return {"repeated": self.repeated, "seen": seen}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        if (
            not isinstance(state, Mapping)
            or set(state) != {"repeated", "seen"}
            or not isinstance(state["seen"], Mapping)
        ):
            raise ValueError(f"{label} must hold repeated and seen. {UNCHANGED}")
        if type(state["repeated"]) is not int or state["repeated"] < 0:
            raise ValueError(error_text(f"{label}['repeated']", "be a count", state["repeated"], UNCHANGED))
        for method, entry in state["seen"].items():
            where = f"{label}['seen'][{method!r}]"
            if not isinstance(entry, Mapping) or set(entry) != {"id", "digest"} or not isinstance(entry["id"], list):
                raise ValueError(f"{where} must hold ids and digests. {UNCHANGED}")
            for i, name in enumerate(entry["id"]):
                if type(name) not in (int, str):
                    raise ValueError(error_text(f"{where}['id']", "be integers or strings", name, UNCHANGED, i))
            check_array(f"{where}['digest']", np.empty(len(entry["id"]), dtype=np.int64), entry["digest"])

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.repeated = int(state["repeated"])
        self._seen = {
            method: dict(zip(entry["id"], entry["digest"].tolist(), strict=True))
            for method, entry in state["seen"].items()
        }
