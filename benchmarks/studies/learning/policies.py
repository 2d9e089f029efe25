"""The allocators of the learning studies: one roster for all policy models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    ResolvingAllocator,
    SaturatingUtility,
    training_allocator,
)
from cero_alloc._evidence.history import History
from cero_alloc.baselines import DAPO, VIP, Greedy, KnapsackRL, MoPPS, RandomMatched, Uniform
from cero_alloc.simulation import epoch_batches

FORGETTING = 0.98  # per round, of every rule that learns from the bank: evidence ages while a policy learns
REFITS = 12  # of a belief over a run
PER_VISIT = 8  # rollouts of a visited prompt, unless a rule chooses counts


@dataclass(frozen=True, slots=True)
class Plan:
    """The horizon of a run: equal for all policies."""

    n_prompts: int
    n_rounds: int
    rollouts: int  # per round
    seed: int

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments that every allocator takes."""
        return {"total_budget": self.rollouts * self.n_rounds, "n_rounds": self.n_rounds, "seed": self.seed}

    @property
    def batches(self) -> list[npt.NDArray[np.int64]]:
        """Batches of a data loader, one per round, for policies that re-deal them."""
        batch = self.rollouts // PER_VISIT
        epochs = -(-self.n_rounds * batch // self.n_prompts)
        return epoch_batches(self.n_prompts, batch, epochs, seed=[self.seed, 4])[: self.n_rounds]

    @property
    def visits(self) -> int:
        """Offers per prompt where a loader brings batches, rounded down."""
        return self.rollouts * self.n_rounds // (PER_VISIT * self.n_prompts)


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the tables.

    Attributes
    ----------
    build : callable
        Takes a :class:`Plan`, and for random-matched the schedule to match.
    mode : {"select", "re-deal"}
        What is on offer: the whole pool, or the batches of a loader.
    exact : bool
        Whether every round has the same total; Algorithm 1 paces itself.
    weighting : {"rollout", "prompt", "importance"}
        Of the gradient.
    mixed_only : bool
        Whether groups without both outcomes leave the mean, as in DAPO.
    matches : str
        Contender whose counts are played, for random-matched.
    advantages : tuple of two str, or None
        Baseline and scale of ``observe``, which then scores the rollouts; None for GRPO's own.
    """

    build: Callable[..., Any]
    mode: Literal["select", "re-deal"] = "select"
    exact: bool = True
    weighting: str = "rollout"
    mixed_only: bool = False
    matches: str = ""
    advantages: tuple[str, str] | None = None


def believing(plan: Plan) -> BetaPosteriorBank:
    """Return the bank of the recommended allocator, so that schemes which differ in their prompts share a belief."""
    return training_allocator(plan.n_prompts, **plan.shared).bank


class Drawn:
    """Draws prompts without replacement with unequal chances, over the recommended allocator's belief.

    ``moving`` fits drift and trend with the prior, in place of forgetting.
    """

    def __init__(self, plan: Plan, per_visit: int, *, moving: bool = False) -> None:
        self.bank, self._per_visit, self._rounds = believing(plan), per_visit, plan.n_rounds
        if moving:
            self.bank = BetaPosteriorBank(plan.n_prompts)
            self.bank.evidence.history = History()
        self._rng = np.random.default_rng([plan.seed, 11])
        self._round = 0
        self._exposure = np.zeros(plan.n_prompts, dtype=np.int64)

    def order(self) -> npt.NDArray[np.int64]:
        """Return the prompts in the order in which they are drawn."""
        raise NotImplementedError

    def allocate(self, prompt_ids: Any = None, budget: int = 0, *, exact: bool = True) -> npt.NDArray[np.int64]:
        """Return groups of one size for the prompts drawn first."""
        if self._round and self._round % max(1, self._rounds // REFITS) == 0:
            self.bank.evidence.refit(self._rounds)
        counts = np.zeros(len(self.bank), dtype=np.int64)
        counts[self.order()[: budget // self._per_visit]] = self._per_visit
        self._round += 1
        self._exposure += counts
        self.bank.tick()
        return counts

    def update(self, prompt_ids: Any, successes: Any, rollouts: Any) -> None:
        """Add to the evidence."""
        self.bank.update(prompt_ids, successes, rollouts)

    def observe(self, prompt_ids: Any, rewards: Any, **choices: Any) -> npt.NDArray[np.float64]:
        """Return the advantage of each rollout, and add to the evidence."""
        return self.bank.observe(prompt_ids, rewards, **choices)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later calls depend on."""
        return {
            "bank": self.bank.state_dict(),
            "rng": self._rng.bit_generator.state,
            "round": self._round,
            "exposure": self._exposure.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.bank.load_state_dict(state["bank"])
        self._rng.bit_generator.state = state["rng"]
        self._round, self._exposure = state["round"], state["exposure"].copy()


class Evenly(Drawn):
    """Epochs over shuffled prompts: the least exposed first."""

    def order(self) -> npt.NDArray[np.int64]:
        """Return the prompts by their exposure, in random order where it is equal."""
        return np.lexsort((self._rng.random(self._exposure.size), self._exposure))


class Proportional(Drawn):
    """Draws in proportion to the value, as the bank has it."""

    def worth(self) -> npt.NDArray[np.float64]:
        """Return the value of every prompt."""
        return self.bank.value()

    def order(self) -> npt.NDArray[np.int64]:
        """Return the prompts by exponential races."""
        worth = np.maximum(self.worth(), 1e-12)
        return np.argsort(self._rng.exponential(size=worth.size) / worth)


class Clairvoyant(Proportional):
    """Draws in proportion to p (1 - p), as last observed; its evidence only scores the rollouts."""

    def __init__(self, plan: Plan, per_visit: int = PER_VISIT) -> None:
        super().__init__(plan, per_visit)
        self._rates = np.full(plan.n_prompts, 0.5)

    def observe_rates(self, rates: npt.NDArray[np.float64]) -> None:
        """Take the true success rates; shape (n_prompts,)."""
        self._rates = rates

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later calls depend on."""
        return {**super().state_dict(), "rates": self._rates.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._rates = state["rates"].copy()

    def worth(self) -> npt.NDArray[np.float64]:
        """Return the variance of every prompt."""
        return self._rates * (1.0 - self._rates)


def bank(plan: Plan, forgetting: float = FORGETTING) -> BetaPosteriorBank:
    """Return a bank without evidence, its prior flat."""
    return BetaPosteriorBank(plan.n_prompts, forgetting=forgetting)


def resolving(plan: Plan, saturation: float, scaling: Any = "rate", **settings: Any) -> ResolvingAllocator:
    """Return a re-solving allocator that selects groups of 8."""
    forgetting = settings.pop("forgetting", FORGETTING)
    settings = {"min_rollouts": PER_VISIT, "max_rollouts": PER_VISIT, **settings}
    utility = SaturatingUtility(saturation=saturation, scaling=scaling)
    return ResolvingAllocator(bank(plan, forgetting), utility=utility, **settings, **plan.shared)


def training(plan: Plan, saturation: float | None = None) -> ResolvingAllocator:
    """Return what training_allocator returns for groups of 8, or the same with another saturation."""
    changed = {} if saturation is None else {"utility": SaturatingUtility(saturation=saturation, scaling="height")}
    return training_allocator(plan.n_prompts, rollouts_per_visit=PER_VISIT, **changed, **plan.shared)


def algorithm_1(plan: Plan, forgetting: float) -> FenchelDualAllocator:
    """Return Algorithm 1 with the paper's units, 4 rollouts, two at most, and its capacity, 33/32 of the even pace."""
    capacity = plan.rollouts + max(4, plan.rollouts // 32 // 4 * 4)
    return FenchelDualAllocator(
        bank(plan, forgetting), unit_size=4, max_rollouts=8, round_capacity=capacity, **plan.shared
    )


def _groups(rule: Any) -> Callable[[Plan], Any]:
    """Return a builder of a rule that gives every visited prompt 8 rollouts."""
    return lambda plan: rule(bank(plan), max_rollouts=PER_VISIT, rollouts_per_visit=PER_VISIT, **plan.shared)


def _counts(rule: Any, **settings: Any) -> Callable[[Plan], Any]:
    """Return a builder of a rule that distributes a batch over its prompts."""
    return lambda plan: rule(bank(plan), max_rollouts=4 * PER_VISIT, **settings, **plan.shared)


CONTENDERS = {
    "uniform": Contender(_groups(Uniform)),
    "FenchelDual": Contender(lambda plan: algorithm_1(plan, 1.0), exact=False),
    "FenchelDual, forgetting 0.98": Contender(lambda plan: algorithm_1(plan, FORGETTING), exact=False),
    "random-matched": Contender(
        lambda plan, schedule: RandomMatched(bank(plan), schedule, unit_size=4, seed=plan.seed),
        exact=False,
        matches="FenchelDual",
    ),
    "Resolving 1": Contender(lambda plan: resolving(plan, 1.0)),
    "Resolving 0.3": Contender(lambda plan: resolving(plan, 0.3)),
    "Resolving 0.1": Contender(lambda plan: resolving(plan, 0.1)),
    "spread 0.3": Contender(lambda plan: resolving(plan, 0.3, order="spread")),
    "training": Contender(training),
    **{f"training, height {v:g}": Contender(partial(training, saturation=v)) for v in (0.25, 0.5, 2.0)},
    "training, importance weights": Contender(training, weighting="importance"),
    "greedy": Contender(lambda plan: Greedy(bank(plan), max_rollouts=PER_VISIT, **plan.shared)),
    "Knapsack RL": Contender(_counts(KnapsackRL)),
    "Knapsack RL, prompt weights": Contender(_counts(KnapsackRL), weighting="prompt"),
    "VIP": Contender(_counts(VIP)),
    "MoPPS": Contender(_groups(MoPPS)),
    "DAPO": Contender(_counts(DAPO), exact=False, mixed_only=True),
    "clairvoyant": Contender(Clairvoyant),
    "Resolving 1, re-deal": Contender(
        lambda plan: resolving(plan, 1.0, min_rollouts=2, max_rollouts=4 * PER_VISIT, visits=plan.visits),
        mode="re-deal",
    ),
}

# What the settings vary, one at a time.
BASE: dict[str, Any] = {"saturation": 1.0, "scaling": "height", "order": "spread", "fit_every": 31}


def _varied(**changes: Any) -> Contender:
    return Contender(lambda plan: resolving(plan, **{**BASE, **changes}))


SETTINGS = {
    "uniform": CONTENDERS["uniform"],
    "base": _varied(),
    **{f"saturation {v:g}": _varied(saturation=v) for v in (0.15, 0.25, 0.5, 2.0)},
    **{f"rate scaling, saturation {v:g}": _varied(scaling="rate", saturation=v) for v in (0.1, 0.3, 1.0)},
    **{f"forgetting {v:g}": _varied(forgetting=v) for v in (0.9, 0.95, 0.99, 1.0)},
    "fit every 8": _varied(fit_every=8),
    "no fit": _varied(fit_every=None),
    **{f"exploration {v:g}": _varied(exploration=v) for v in (0.5, 1.0)},
    **{f"coverage {v}": _varied(coverage=v) for v in (24, 48)},
    "order best": _varied(order="best"),
    "order best, rate 0.1": _varied(order="best", scaling="rate", saturation=0.1),
    "front load 2": _varied(front_load=2.0),
    "groups of 4": _varied(min_rollouts=4, max_rollouts=4),
    "groups of 16": _varied(min_rollouts=16, max_rollouts=16),
    "re-deal": Contender(
        lambda plan: resolving(
            plan,
            1.0,
            "height",
            fit_every=31,
            exploration=0.0,
            min_rollouts=2,
            max_rollouts=4 * PER_VISIT,
            visits=plan.visits,
        ),
        mode="re-deal",
    ),
}


def _single(
    plan: Plan, group: int, saturation: float | None = None, refits: int | None = None, **changed: Any
) -> ResolvingAllocator:
    """Return what training_allocator recommends for visits of this size, or the same with other settings."""
    if saturation is not None:
        changed["utility"] = SaturatingUtility(saturation=saturation, scaling="height")
    if refits is not None:
        changed["fit_every"] = max(1, plan.n_rounds // refits)
    return training_allocator(plan.n_prompts, rollouts_per_visit=group, **changed, **plan.shared)


def _moving(plan: Plan, group: int) -> ResolvingAllocator:
    """Return the even order over a belief whose drift, trend and prior are fitted, in place of forgetting."""
    return ResolvingAllocator(
        BetaPosteriorBank(plan.n_prompts), min_rollouts=group, max_rollouts=group, order="spread",
        utility=SaturatingUtility(saturation=1.0, scaling="height"), fit_every=max(1, plan.n_rounds // REFITS),
        **plan.shared,
    )  # fmt: skip


def _algorithm_1(plan: Plan, group: int) -> FenchelDualAllocator:
    """Return Algorithm 1 with visits as its units, its capacity as above, over the same belief."""
    return FenchelDualAllocator(
        believing(plan), unit_size=group, max_rollouts=group, fit_every=max(1, plan.n_rounds // REFITS),
        round_capacity=plan.rollouts + max(group, plan.rollouts // 32 // group * group), **plan.shared,
    )  # fmt: skip


def scheme(group: int, baseline: str, scale: str, prompts: str) -> Contender:
    """Return a scheme of the single-rollout study: group size, baseline, scale, and how prompts are chosen."""
    builds: dict[str, Callable[..., Any]] = {
        "uniform": Evenly,
        "re-solving": _single,
        "proportional": Proportional,
        "Algorithm 1": _algorithm_1,
        "clairvoyant": Clairvoyant,
    }
    build = builds[prompts]
    return Contender(lambda plan: build(plan, group), exact=prompts != "Algorithm 1", advantages=(baseline, scale))


def _named(*factors: tuple[int, str, str, str]) -> dict[str, Contender]:
    """Return schemes under their names; the usual scale is not told."""
    usual = {"posterior": "posterior", "group": "group", "batch": "none"}
    return {
        ", ".join((str(group), baseline, *([] if scale == usual[baseline] else [f"scale {scale}"]), prompts)):
        scheme(group, baseline, scale, prompts) for group, baseline, scale, prompts in factors
    }  # fmt: skip


# The main contrast of the single-rollout study, beside GRPO, which is "uniform": groups of 8.
UNCHOSEN, CHOSEN, GROUPS = MAIN = "1, posterior, uniform", "1, posterior, re-solving", "8, group, re-solving"
SCHEMES = _named(
    (1, "posterior", "posterior", "uniform"), (1, "posterior", "posterior", "re-solving"),
    (8, "group", "group", "re-solving"), (1, "posterior", "posterior", "clairvoyant"),
    (1, "posterior", "posterior", "proportional"), (1, "posterior", "posterior", "Algorithm 1"),
    (1, "posterior", "none", "uniform"), (1, "posterior", "none", "re-solving"),
    (1, "batch", "none", "uniform"), (1, "batch", "none", "re-solving"),
    (2, "posterior", "posterior", "re-solving"), (4, "posterior", "posterior", "re-solving"),
    (8, "posterior", "posterior", "uniform"), (8, "posterior", "posterior", "re-solving"),
    (4, "group", "group", "uniform"), (8, "group", "group", "clairvoyant"),
)  # fmt: skip


def lender(name: str) -> str:
    """Return the scheme of the main contrast whose learning rate one of the others takes: the next in size and choice."""
    if name[0] in "48":
        return "uniform" if name.endswith(", uniform") else GROUPS
    return UNCHOSEN if name.endswith(", uniform") else CHOSEN


def _candidate(build: Callable[..., Any], **settings: Any) -> Contender:
    return Contender(lambda plan: build(plan, 1, **settings), advantages=("posterior", "posterior"))


# Settings that were tried for single rollouts, on tuning seeds.
CANDIDATES = {
    **{f"saturation {v:g}": _candidate(_single, saturation=v) for v in (0.5, 1.0, 4.0, 8.0)},
    "saturation 1, refits 4": _candidate(_single, saturation=1.0, refits=4),
    "refits 48": _candidate(_single, refits=48),
    "exploration 0.5": _candidate(_single, exploration=0.5),
    "drift and trend": _candidate(_moving),
    "drift and trend, uniform prompts": _candidate(Evenly, moving=True),
}

ALL = {**SETTINGS, **CONTENDERS, **SCHEMES, **CANDIDATES}
