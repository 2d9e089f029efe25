"""Every class in several forms, and a way to play it that reveals all that it decides."""

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, SaturatingUtility
from cero_alloc.baselines import CONTROLS, PEERS

EVERY = {rule.__name__: rule for rule in (FenchelDualAllocator, ResolvingAllocator, *CONTROLS, *PEERS)}
RUN = {"total_budget": 600, "n_rounds": 12, "max_rollouts": 16, "seed": 5}
MOVING = {"forgetting": 1.0, "drift": 0.02, "trend": 0.3}
FORMS = {  # arguments beside RUN; those of the bank under "bank"
    "FenchelDualAllocator, batches": ("FenchelDualAllocator", {"visits": [6, 5, 7, 8, 9, 9], "catch_up": True, "fit_every": 2}),
    "FenchelDualAllocator, hyperbolic": (
        "FenchelDualAllocator", {"utility": SaturatingUtility("hyperbolic", saturation=2.0), "step_size": (0.3, 0.1)},
    ),
    "ResolvingAllocator, visits": ("ResolvingAllocator", {"visits": 9, "n_rounds": None, "fit_every": 2}),
    "ResolvingAllocator, tokens": ("ResolvingAllocator", {"costs": [1, 2, 3, 4, 5, 6], "exploration": 0.5}),
    "ResolvingAllocator, groups": ("ResolvingAllocator", {"signal": "group", "min_rollouts": 2}),
    "ResolvingAllocator, spread": ("ResolvingAllocator", {"order": "spread", "visits": 9, "min_rollouts": 2, "coverage": 3}),
    "ResolvingAllocator, safe": (
        "ResolvingAllocator",
        {
            "groups": ["x", "y", "x", ("z", 1), "y", "x"], "floors": {"x": 0.2, ("z", 1): 0.3}, "fit_every": 3,
            "retire_at": 0.6, "retire_after": 4, "review": 2,
        },
    ),
    "ResolvingAllocator, safe spread": (
        "ResolvingAllocator",
        {
            "groups": [0, 1, 0, 1, 2, 2], "floors": {2: 0.5}, "order": "spread", "min_rollouts": 2, "visits": 9,
            "retire_at": 0.5, "retire_after": 2, "review": 3,
        },
    ),
    "ResolvingAllocator, waves": ("ResolvingAllocator", {"visits": 9, "min_rollouts": 2, "fit_every": 2, "waves": 2}),
    "ResolvingAllocator, waves in a stream": ("ResolvingAllocator", {"waves": 2}),
    "VIP, process": ("VIP", {"embeddings": np.eye(6)[:, :3] + 0.1}),
    "BOTS, references": ("BOTS", {"references": (np.full(6, 0.2), np.full(6, 0.9))}),
    "FenchelDualAllocator, moving": ("FenchelDualAllocator", {"bank": MOVING, "catch_up": True}),
    "ResolvingAllocator, drift": ("ResolvingAllocator", {"bank": {"forgetting": 1.0, "drift": 0.02}, "visits": 9}),
    "ResolvingAllocator, moving and fading": ("ResolvingAllocator", {"bank": MOVING | {"forgetting": 0.9}}),
    "ResolvingAllocator, graded": ("ResolvingAllocator", {"bank": MOVING | {"reward_range": (-1.0, 2.0)}, "fit_every": 2}),
    "DAPO, moving and graded": ("DAPO", {"bank": MOVING | {"reward_range": (-1.0, 2.0)}}),
    **{name: (name, {}) for name in EVERY},
}  # fmt: skip
IDS = ["p5", "p1", "p4", "p0", "p2", "p3"]


def build(form):
    name, change = FORMS[form]
    arguments = {key: value for key, value in (RUN | change).items() if value is not None}
    bank = arguments.pop("bank", {"forgetting": 0.95})
    return EVERY[name](BetaPosteriorBank(IDS, **bank), **arguments)


def go_on(run, seed, first, last):
    """Play rounds: offers, late and lost feedback, waves, another plan; return all that is decided."""
    said = []
    for turn in range(first, last):
        rng = np.random.default_rng((seed, turn))
        offer = None if rng.random() < 0.5 else [IDS[i] for i in rng.permutation(6)[: rng.integers(1, 7)]]
        counts = run.allocate(offer)
        said.append(counts.tolist())
        graded = run.bank.reward_range != (0.0, 1.0)
        if graded:
            group, rewards = np.repeat(np.arange(counts.size), counts), rng.choice([-1.0, 0.5, 2.0], counts.sum())
            won = np.bincount(group, rewards, counts.size)
        else:
            won = rng.binomial(counts, 0.4)
        if rng.random() < 0.8:
            report = {"round": run.round or None, "delivery_id": turn}
            if graded:
                said.append(run.observe(np.array(offer or IDS)[group], rewards, **report).tolist())
            else:
                run.update(offer, won, counts, **report)
        if hasattr(run, "continue_round") and counts.any():
            said.append(run.continue_round(counts, won).tolist())
        if turn == 6:
            said.append(run.expire(1))
        said += [getattr(run, "price", None), list(run.balance)]
        if hasattr(run, "slopes"):
            said.append(run.slopes.tolist())
    return said
