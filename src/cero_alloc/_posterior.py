"""BetaPosteriorBank: what is known of each prompt's success rate, and what a rollout of it is therefore worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _kernels
from ._checks import FloatArray, IntArray, counts, error_text, integer, real, reals, successes
from ._index import PromptIndex

_NO_ROWS = np.empty(0, dtype=np.int64)
_PRIOR_REMEDY = "A Beta prior needs two positive parameters; (1, 1) is uniform."
_FEEDBACK_FAULTS = {
    1: ("rollouts", "be at least 0", "Report what was generated, refund what was not."),
    2: ("successes", "be finite and at least 0", "Leave rollouts without a reward out of both counts."),
    3: (
        "successes",
        "not exceed rollouts",
        "Rewards must lie in [0, 1]; rescale them, or check which column is which.",
    ),
}


class BetaPosteriorBank:
    r"""Beta evidence per prompt, with forgetting, and the value it implies.

    Each prompt starts at Beta(:math:`a_0, b_0`). A round (:meth:`tick`) lets the evidence fade and feedback
    (:meth:`update`) adds to it:

    .. math::

        a \leftarrow a_0 + \rho (a - a_0) + S, \qquad b \leftarrow b_0 + \rho (b - b_0) + F, \qquad
        \hat q = E[p (1 - p)] = \frac{a b}{(a + b)(a + b + 1)}.

    Fading is lazy: a prompt that is not touched costs nothing, however many rounds go by.

    Parameters
    ----------
    prompts : int or sequence of hashable
        Number of prompts M, which are then called 0 .. M-1, or their unique ids.
    prior : tuple of two floats or of two array_like, shape (n_prompts,)
        :math:`(a_0, b_0)` in pseudo-rollouts, shared or per prompt.
    forgetting : float, in (0, 1]
        Share :math:`\rho` of the evidence that survives a round; 1 never forgets.

    Raises
    ------
    ValueError
        For no prompts, repeated ids, a prior that is not positive and finite, or forgetting outside (0, 1].
    TypeError
        For ids that are not hashable or a bare string.

    References
    ----------
    arXiv 2610.09679, the Beta-Bernoulli proxy. Claims 2 and 3 of the theory page say what :math:`\hat q` estimates and
    how well.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "hard"])
    >>> bank.update(["easy", "hard"], successes=[8, 3], rollouts=[8, 8])
    >>> bank.mean().round(3).tolist()
    [0.9, 0.4]
    >>> bank.value(["hard"]).round(4).tolist()
    [0.2182]
    """

    def __init__(
        self,
        prompts: SupportsIndex | Sequence[Hashable],
        *,
        prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0),
        forgetting: float = 1.0,
    ) -> None:
        self._index = PromptIndex(prompts)
        size = len(self._index)
        self._a0, self._b0 = _prior_arrays(prior, size)
        self._rho = real("forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy="1.0 never forgets.")
        self._succ = np.zeros(size)
        self._fail = np.zeros(size)
        self._tick = np.zeros(size, dtype=np.int64)
        self._now = 0

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._index

    def __repr__(self) -> str:
        shared = self._a0.size == 1
        prior = f"({self._a0[0]:g}, {self._b0[0]:g})" if shared else "per prompt"
        return f"BetaPosteriorBank({len(self)} prompts, prior={prior}, forgetting={self._rho:g})"

    @property
    def prompt_ids(self) -> Sequence[Hashable]:
        """The ids in row order; a range when they are 0 .. M-1."""
        return self._index.ids

    @property
    def forgetting(self) -> float:
        """Share of the evidence that survives a round."""
        return self._rho

    @property
    def alpha(self) -> FloatArray:
        """First Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self._posterior(None)[0]

    @property
    def beta(self) -> FloatArray:
        """Second Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self._posterior(None)[1]

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards to the evidence; calls commute and add up, in any split and order within a round.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each at most once per call; None names the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts]. Rewards between 0 and 1 count as fractional successes.
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a wrong length, counts that are not integers or negative, or successes that are NaN,
            negative or more than the rollouts. The evidence is unchanged after any error.

        Examples
        --------
        >>> bank = BetaPosteriorBank(3)
        >>> bank.update([0, 2], successes=[4, 1.5], rollouts=[4, 4])
        >>> bank.alpha.tolist(), bank.beta.tolist()
        ([5.0, 1.0, 2.5], [1.0, 1.0, 3.5])
        """
        self._observe(prompt_ids, successes, rollouts)

    def tick(self, rounds: SupportsIndex = 1) -> None:
        """Let ``rounds`` rounds go by: all evidence fades by ``forgetting`` per round.

        Parameters
        ----------
        rounds : int, at least 0
            Rounds that have passed.

        Raises
        ------
        TypeError, ValueError
            For a number of rounds that is not an integer or negative.

        Examples
        --------
        >>> bank = BetaPosteriorBank(1, forgetting=0.5)
        >>> bank.update([0], successes=[4], rollouts=[8])
        >>> bank.tick(2)
        >>> bank.alpha.tolist()
        [2.0]
        """
        self._now += integer("rounds", rounds, least=0, remedy="Time only moves forward.")

    def value(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        r"""Return the posterior expected reward variance :math:`\hat q = E[p(1-p)]`, in [0, 1/4].

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)

        Raises
        ------
        KeyError
            For an unknown id.

        Examples
        --------
        >>> BetaPosteriorBank(2).value().round(4).tolist()
        [0.1667, 0.1667]
        """
        return self._values(None if ids is None else self._index.rows(ids))

    def mean(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        """Return the posterior mean success rate, a / (a + b).

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)

        Raises
        ------
        KeyError
            For an unknown id.

        Examples
        --------
        >>> BetaPosteriorBank(1, prior=(1.0, 3.0)).mean().tolist()
        [0.25]
        """
        alpha, beta = self._posterior(None if ids is None else self._index.rows(ids))
        return alpha / (alpha + beta)

    def interval(self, level: float, ids: Iterable[Hashable] | None = None) -> tuple[FloatArray, FloatArray]:
        """Return equal-tailed credible bounds of the success rate.

        Parameters
        ----------
        level : float, in (0, 1]
            Posterior probability between the bounds, such as 0.95.
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        lower, upper : numpy.ndarray of float64, shape (n_ids,)

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a level outside (0, 1].

        Examples
        --------
        >>> lower, upper = BetaPosteriorBank(1).interval(0.9)
        >>> round(float(lower[0]), 3), round(float(upper[0]), 3)
        (0.05, 0.95)
        """
        from scipy.special import betaincinv  # loaded on first use: keeps the import of the package short

        level = real("level", level, low=0.0, high=1.0, open_low=True, remedy="Take 0.95 for a 95% interval.")
        alpha, beta = self._posterior(None if ids is None else self._index.rows(ids))
        tail = 0.5 * (1.0 - level)
        return betaincinv(alpha, beta, tail), betaincinv(alpha, beta, 1.0 - tail)

    def add_prompts(self, ids: Iterable[Hashable], *, prior: tuple[npt.ArrayLike, npt.ArrayLike] | None = None) -> None:
        """Append new prompts without evidence.

        Parameters
        ----------
        ids : iterable of hashable
            Ids that the bank does not have yet.
        prior : tuple of two floats or of two array_like, shape (n_new,), or None
            Prior of the new prompts; None for the shared prior of the bank.

        Raises
        ------
        ValueError
            For an id that is known or repeated, or a missing prior where the bank holds one per prompt.
        TypeError
            For ids that are not hashable or a bare string.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a"])
        >>> bank.add_prompts(["b", "c"])
        >>> len(bank), "c" in bank
        (3, True)
        """
        fresh = self._index.fresh(ids)
        size, extra = len(self), len(fresh)
        per_prompt = self._a0.size > 1 or prior is not None
        if prior is None:
            if self._a0.size > 1 and extra:
                raise ValueError(
                    "prior must be given for new prompts, because this bank holds one prior per prompt. Pass prior=(a, b)."
                )
            prior = (self._a0[:1], self._b0[:1])
        a_new, b_new = _prior_arrays(prior, extra)
        if per_prompt:
            self._a0 = np.concatenate([np.broadcast_to(self._a0, size), np.broadcast_to(a_new, extra)])
            self._b0 = np.concatenate([np.broadcast_to(self._b0, size), np.broadcast_to(b_new, extra)])
        self._index.append(fresh)
        self._succ = np.concatenate([self._succ, np.zeros(extra)])
        self._fail = np.concatenate([self._fail, np.zeros(extra)])
        self._tick = np.concatenate([self._tick, np.full(extra, self._now, dtype=np.int64)])

    # ------------------------------------------------------------ rows, for the allocators

    def _observe(
        self, prompt_ids: Iterable[Hashable] | None, s: npt.ArrayLike, n: npt.ArrayLike
    ) -> tuple[IntArray, IntArray]:
        """Check feedback, add it to the evidence, and return rows and rollouts for the ledger to settle."""
        rows = self._index.unique_rows(prompt_ids)
        if rows is None:
            rows = np.arange(len(self))
        rollouts, rewarded = counts("rollouts", n, rows.size), successes("successes", s, rows.size)
        index, kind = _kernels.first_bad_feedback(rewarded, rollouts)
        if kind:
            name, condition, remedy = _FEEDBACK_FAULTS[kind]
            bad: Any = rollouts[index] if kind == 1 else rewarded[index]
            if kind == 3:
                condition += f"[{index}] = {rollouts[index]}"
            raise ValueError(error_text(name, condition, bad.item(), remedy, index))
        _kernels.observe(rows, rewarded, rollouts, self._succ, self._fail, self._tick, self._now, self._rho)
        return rows, rollouts

    def _evidence(self, rows: IntArray | None) -> tuple[Any, ...]:
        """Return the arguments that every posterior kernel begins with."""
        chosen = _NO_ROWS if rows is None else rows
        stride = 0 if self._a0.size == 1 else 1
        prior = (self._a0, self._b0, stride)
        return (rows is None, chosen, *prior, self._succ, self._fail, self._tick, self._now, self._rho)

    def _values(self, rows: IntArray | None) -> FloatArray:
        out = np.empty(len(self) if rows is None else rows.size)
        _kernels.values(*self._evidence(rows), out)
        return out

    def _posterior(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        alpha = np.empty(len(self) if rows is None else rows.size)
        beta = np.empty_like(alpha)
        _kernels.posterior(*self._evidence(rows), alpha, beta)
        return alpha, beta


def _prior_arrays(prior: tuple[npt.ArrayLike, npt.ArrayLike], size: int) -> tuple[FloatArray, FloatArray]:
    """Return a0 and b0 with one entry each, or one per prompt."""
    try:
        a, b = prior
    except (TypeError, ValueError):
        raise ValueError(error_text("prior", "be a pair (a, b)", prior, _PRIOR_REMEDY)) from None
    checked = [
        reals(f"prior[{i}]", side, low=0.0, high=np.inf, open_low=True, remedy=_PRIOR_REMEDY)
        for i, side in enumerate((a, b))
    ]
    for i, side in enumerate(checked):
        if side.shape not in ((), (1,), (size,)):
            raise ValueError(
                error_text(f"prior[{i}]", f"be a number or have shape ({size},)", side.shape, "Give one per prompt.")
            )
    wide = size if any(side.shape == (size,) and size > 1 for side in checked) else 1
    a0, b0 = (np.array(np.broadcast_to(side, wide)) for side in checked)
    if (a0 > np.finfo(np.float64).max - b0).any():
        raise ValueError(error_text("prior", "have a finite sum", (a, b), _PRIOR_REMEDY))
    return a0, b0
