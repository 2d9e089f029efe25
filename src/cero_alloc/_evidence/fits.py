"""Fits: prior, forgetting, drift and trend of a bank, chosen by the likelihood of evidence or of a history."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import overload

import numpy as np
import numpy.typing as npt

from cero_alloc._saving.saved import locked

from .estimates import Estimates
from .fitting import BeliefFit, fit_belief, usual_motion
from .forgetting import ForgettingChoice, choose_forgetting, forgetting_grid
from .history import rounds_of
from .prior import PriorFit, group_rows


class Fits(Estimates):
    """The fitting part of :class:`BetaPosteriorBank`."""

    @overload
    def fit_prior(self, groups: None = None) -> PriorFit: ...
    @overload
    def fit_prior(self, groups: Iterable[Hashable]) -> dict[Hashable, PriorFit]: ...
    @locked  # type: ignore[misc]
    def fit_prior(self, groups: Iterable[Hashable] | None = None) -> PriorFit | dict[Hashable, PriorFit]:
        r"""Replace the prior by the one under which the pool's evidence is most likely (empirical Bayes).

        .. math::

            \max_{a_0, b_0} \sum_i \log B(a_0 + S_i, b_0 + F_i) - \log B(a_0, b_0)

        with the evidence :math:`(S_i, F_i)` of every prompt, aged to now. The evidence does not change; the values change
        at once. The uniform prior overrates prompts that are nearly always right or wrong, which are common; a fitted
        prior does not. The prior stays where the data do not determine one; :class:`PriorFit` lists the reasons.

        Parameters
        ----------
        groups : iterable of hashable, length n_prompts, or None
            A label per prompt in row order, such as its data source, to fit one prior per label; None fits one prior
            to the whole pool. Once a group is fitted the bank holds a prior per prompt, and :meth:`add_prompts` needs
            one for new prompts.

        Returns
        -------
        PriorFit, or dict of label to PriorFit
            The fitted parameters, or the reason why the prior stays.

        Raises
        ------
        TypeError, ValueError
            For groups that are not a sequence of hashable labels, one per prompt.

        Notes
        -----
        Fading shrinks the evidence but not its relative sampling error. Where no prompt drifts, a fit to faded evidence
        therefore overestimates the strength a + b: by 6% for a forgetting of 0.98 and feedback up to 20 rounds old, by
        25% for 0.9 and 10 rounds.

        References
        ----------
        Griffiths, Maximum likelihood estimation for the beta-binomial distribution, Biometrics 29 (1973).

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> rng = np.random.default_rng(0)
        >>> bank = BetaPosteriorBank(2000)
        >>> bank.update(None, successes=rng.binomial(8, rng.beta(0.5, 1.5, 2000)), rollouts=np.full(2000, 8))
        >>> fit = bank.fit_prior()
        >>> fit.status, round(fit.alpha, 1), round(fit.beta, 1)
        ('fitted', 0.5, 1.6)
        """
        if groups is None:
            return self.evidence.fit_prior()
        return self.evidence.fit_groups(group_rows(groups, len(self)))

    @locked
    def select_forgetting(
        self,
        history: Iterable[tuple[Iterable[Hashable] | None, npt.ArrayLike, npt.ArrayLike]],
        grid: npt.ArrayLike = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5),
    ) -> ForgettingChoice:
        """Set the forgetting to the candidate that would have predicted a history best.

        For every candidate the history is replayed into an empty bank with the present prior, one tick per round. Every
        entry is scored, before it is added, by the log-probability of its rewards. The largest candidate within 2 nats
        of the best score is chosen. The bank's own evidence is aged to now at the old rate, and fades at the new one
        from then on.

        Parameters
        ----------
        history : iterable of tuples (prompt_ids, successes, rollouts), each of shape (n_ids,)
            One tuple per round, with the arguments of :meth:`update`, the squares last where there are any; the bank need
            not hold this evidence.
        grid : array_like of float, shape (n_grid,), in (0, 1]
            Candidates: shares of the evidence that survive a round.

        Returns
        -------
        ForgettingChoice
            The choice and all scores. Without a prompt that was in two rounds all candidates score alike, and the
            present value stays.

        Raises
        ------
        KeyError, TypeError, ValueError
            For rounds that are not triples or that :meth:`update` would refuse (the message names the round), and for
            candidates outside (0, 1] or none.

        References
        ----------
        Dawid, Present position and potential developments: the prequential approach, J. R. Statist. Soc. A 147 (1984).

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> bank = BetaPosteriorBank(["a", "b"])
        >>> before, after = (["a", "b"], [0, 8], [8, 8]), (["a", "b"], [8, 0], [8, 8])
        >>> choice = bank.select_forgetting([before] * 10 + [after] * 10)
        >>> choice.status, bank.forgetting
        ('selected', 0.5)
        """
        candidates, evidence = forgetting_grid(grid), self.evidence
        rounds = self.rewards.history(self.index, history)
        choice = choose_forgetting(rounds, candidates, evidence.a0, evidence.b0, len(self), evidence.forgetting)
        if choice.forgetting != evidence.forgetting:
            evidence.set_forgetting(choice.forgetting)
        return choice

    @locked
    def fit_drift(self, history: Iterable[tuple[Iterable[Hashable] | None, npt.ArrayLike, npt.ArrayLike]]) -> BeliefFit:
        """Set drift, trend and prior to those that would have predicted a history best.

        The history is replayed into an empty bank, one tick per round; every report is scored, before it is added, by the
        log-probability of its rewards. The search begins at what is usual in a run of that length (log-odds that move by
        1, and early evidence that counts as 10 rollouts in the end); going elsewhere costs half a nat at 7 times or a
        seventh of it, 2 nats at 50 times. Beliefs rest where that explains the history better. The bank's own evidence is
        aged to now at the old rates, and moves at the new ones from then on. An allocator with ``fit_every`` does the same
        from the reports that it has seen.

        Parameters
        ----------
        history : iterable of tuples (prompt_ids, successes, rollouts), each of shape (n_ids,)
            One tuple per round, with the arguments of :meth:`update`, the squares last where there are any; the bank need
            not hold this evidence.

        Returns
        -------
        BeliefFit
            What was chosen, or the reason why the old belief stays.

        Raises
        ------
        KeyError, TypeError, ValueError
            For rounds that are not triples or that :meth:`update` would refuse; the message names the round.

        References
        ----------
        Dawid, Present position and potential developments: the prequential approach, J. R. Statist. Soc. A 147 (1984).

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> rng, logit = np.random.default_rng(0), np.random.default_rng(1).normal(-1.0, 2.0, 300)
        >>> history = []
        >>> for k in range(20):  # a policy that improves
        ...     history.append((None, rng.binomial(8, 1 / (1 + np.exp(-logit - 0.1 * k))), np.full(300, 8)))
        >>> bank = BetaPosteriorBank(300)
        >>> fit = bank.fit_drift(history)
        >>> fit.status, bank.trend > 0.03
        ('fitted', True)
        """
        checked = self.rewards.history(self.index, history)
        evidence = self.evidence
        fit = fit_belief(rounds_of(checked), evidence.a0, evidence.b0, usual_motion(max(1, len(checked))))
        if fit.status == "fitted":
            evidence.set_motion(fit.drift, fit.trend)
            evidence.set_prior(np.array([fit.alpha]), np.array([fit.beta]))
            return fit
        return replace(fit, drift=evidence.drift, trend=evidence.trend)
