"""The state of a round that is dealt in waves, each after the rewards of the wave before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, counts, error_text, successes
from cero_alloc._evidence.rewards import Rewards
from cero_alloc._saving.state import ANYTHING, Field


@dataclass(slots=True)
class OpenWaves:
    """State of a round between two waves; arrays are over the prompts on offer, in ascending rows."""

    rows: IntArray
    order: IntArray  # place of each row in the caller's order
    named: int  # number of the caller's ids
    left: int  # units that the round may still deal
    wave: int  # waves dealt
    dealt: IntArray  # units of each prompt in this round
    last: IntArray  # units of each prompt in the last wave
    seen: IntArray  # rollouts reported
    won: FloatArray  # successes reported
    least: float = 0.0  # units, or tokens, that a planned round must still deal
    most: float = 0.0  # and may still deal

    @classmethod
    def start(cls, rows: IntArray, order: IntArray, named: int, total: int) -> OpenWaves:
        """Open a round over ``rows``."""
        none = np.zeros(rows.size, dtype=np.int64)
        return cls(rows, order, named, total, 0, none, none.copy(), none.copy(), np.zeros(rows.size))

    @classmethod
    def fits(cls, state: Any, n_prompts: int) -> bool:
        """Whether a state is that of a round over rows of a pool of ``n_prompts``."""
        if not isinstance(state, Mapping) or set(state) != set(cls.__slots__):
            return False
        if not all(isinstance(state[name], (int, np.integer)) for name in ("named", "left", "wave")):
            return False
        if not all(isinstance(state[name], (int, float, np.number)) for name in ("least", "most")):
            return False
        if not 0.0 <= state["least"] <= state["most"]:
            return False
        none = np.zeros(np.size(state["rows"]), dtype=np.int64)
        like = cls.start(none, none, 0, 0)
        for name in ("rows", "order", "dealt", "last", "seen", "won"):
            part, model = state[name], getattr(like, name)
            if not isinstance(part, np.ndarray) or (part.shape, part.dtype) != (model.shape, model.dtype):
                return False
        rows: IntArray = state["rows"]
        order: IntArray = np.sort(state["order"])
        apart = bool((order[1:] > order[:-1]).all()) and bool((rows[1:] > rows[:-1]).all())
        return apart and all(
            0 <= some.min(initial=0) <= some.max(initial=0) < max(1, size)
            for some, size in ((rows, n_prompts), (order, state["named"]))
        )

    @property
    def fresh(self) -> IntArray:
        """Positions of the prompts without rollouts in this round."""
        return np.flatnonzero(self.dealt == 0)

    @property
    def mixed(self) -> npt.NDArray[np.bool_]:
        """Whether a prompt has both successes and failures in this round."""
        return (self.won > 0.0) & (self.won < self.seen)

    @property
    def rate(self) -> FloatArray:
        """Success rate in this round, 0 for prompts without reports."""
        return np.divide(self.won, self.seen, out=np.zeros(self.won.size), where=self.seen > 0)

    def reported(
        self, rewards: Rewards, n: npt.ArrayLike, won: npt.ArrayLike, unit_size: int
    ) -> tuple[IntArray, FloatArray]:
        """Check the report of the last wave and return rollouts and successes in order of ascending rows."""
        rollouts, sums = counts("counts", n, self.named), successes("successes", won, self.named)
        dealt = np.zeros(self.named, dtype=np.int64)
        dealt[self.order] = self.last * unit_size
        remedy = "Report the last wave, in the order of the round's ids."
        for i in np.flatnonzero((rollouts < 0) | (rollouts > dealt))[:1].tolist():
            raise ValueError(
                error_text("counts", f"be between 0 and the {dealt[i]} dealt", int(rollouts[i]), remedy, i)
            )
        mapped = rewards.mapped_sums(sums, rollouts)
        for i in np.flatnonzero(~((mapped >= 0.0) & (mapped <= rollouts)))[:1].tolist():
            condition = f"be between 0 and counts[{i}] = {rollouts[i]}"
            if rewards.low != 0.0 or rewards.high != 1.0:
                condition = (
                    f"be a sum of rewards between {rewards.low:g} and {rewards.high:g} over counts[{i}] = {rollouts[i]}"
                )
            raise ValueError(error_text("successes", condition, float(sums[i]), remedy, i))
        return rollouts[self.order], mapped[self.order]


def _pool_size(state: Mapping[str, Any]) -> int:
    """Return how many prompts the state of an allocator has."""
    plan = state.get("plan")
    return int(np.size(plan["tie"] if isinstance(plan, Mapping) else state["visits"]))


OPEN_ROUND = Field(
    when_set=ANYTHING,
    must="be None or an open round",
    holds=lambda opened, state: OpenWaves.fits(opened, _pool_size(state)),
    build=OpenWaves,
)


def require_open(opened: OpenWaves | None) -> OpenWaves:
    """Return the open round, or raise where there is none."""
    if opened is None:
        remedy = "Call allocate first; a round ends with the first wave of zeros."
        raise ValueError(f"continue_round must follow allocate within a round, got no open round. {remedy}")
    return opened
