"""Numbers at the edges: whatever is legal comes out finite and inside its bounds."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc.baselines import CONTROLS, PEERS

KINDS = list(itertools.product(twins.SHAPES, twins.SCALINGS))
TINY, HUGE = 1e-12, 1e12
PRIORS = [(1.0, 1.0), (1e-300, 1e-300), (1e300, 1e300), (1e-300, 1e300), (5e-324, 5e-324), (1e15, 1e15)]
# What the metrics leave open where nothing has been reported, or too little.
MAY_BE_NAN = ("mixed_group_rate", "calibration_bias", "calibration_running_bias", "calibration_error")
MODES = {
    "fenchel": FenchelDualAllocator,
    "fenchel, batches": partial(FenchelDualAllocator, visits="all"),
    "fenchel, catch-up": partial(FenchelDualAllocator, catch_up=True),
    "fenchel, refits": partial(FenchelDualAllocator, fit_every=1),
    "resolving": ResolvingAllocator,
    "resolving, visits": partial(ResolvingAllocator, visits="all"),
    "resolving, visits alone": partial(ResolvingAllocator, visits="all", n_rounds=None),
    "resolving, least": partial(ResolvingAllocator, min_rollouts="two"),
    "resolving, group": partial(ResolvingAllocator, signal="group", min_rollouts="two"),
    "resolving, group, visits": partial(ResolvingAllocator, signal="group", visits="all"),
    "resolving, one cost": partial(ResolvingAllocator, costs=1.0),
    "resolving, costs": partial(ResolvingAllocator, costs="each"),
    "resolving, exploring": partial(ResolvingAllocator, exploration=1e300, front_load=1e300, band=0.0),
}


def bank_at(kind, m, prior, forgetting):
    """A pool at an edge: all alike, worth nothing, worth most, or with very much evidence."""
    bank = BetaPosteriorBank(m, prior=prior, forgetting=forgetting)
    n = {"fresh": 0, "solved": 2**53, "even": 2**52, "many": 10**9}[kind]
    if n:
        won = {"solved": n, "even": n // 2}.get(kind, n * np.arange(m) // m)
        bank.update(None, np.broadcast_to(float(won) if np.ndim(won) == 0 else won, m), np.full(m, n))
    return bank


def check_metrics(metrics):
    for key, value in metrics.items():
        assert type(value) is float, key
        assert math.isfinite(value) or (key in MAY_BE_NAN and math.isnan(value)), (key, value)
    assert metrics["certificate_regret"] >= 0.0


edges = st.fixed_dictionaries(
    {
        "m": st.sampled_from([1, 1, 2, 5]),
        "rounds": st.sampled_from([1, 1, 2, 4]),
        "g": st.sampled_from([1, 2, 8]),
        "max_units": st.sampled_from([1, 2, 5]),
        "budget": st.sampled_from(["one group", "all", "half"]),
        "capacity": st.sampled_from([None, "one prompt", "huge"]),
        "pool": st.sampled_from(["fresh", "solved", "even", "many"]),
        "prior": st.sampled_from(PRIORS),
        "forgetting": st.sampled_from([1.0, 0.5, 5e-324]),
        "utility": st.builds(
            lambda kind, saturation: SaturatingUtility(kind[0], scaling=kind[1], saturation=saturation),
            st.sampled_from(KINDS), st.sampled_from([1.0, TINY, HUGE]),
        ),
    }
)  # fmt: skip


def sizes_of(edge):
    m, rounds, g, max_units = (edge[name] for name in ("m", "rounds", "g", "max_units"))
    cap = {None: m * max_units, "one prompt": max_units, "huge": m * max_units}[edge["capacity"]]
    total = {"one group": 1, "all": rounds * cap, "half": max(1, rounds * cap // 2)}[edge["budget"]]
    run = {"n_rounds": rounds, "unit_size": g, "max_rollouts": max_units * g, "total_budget": total * g}
    if edge["capacity"]:
        run["round_capacity"] = 2**80 * g if edge["capacity"] == "huge" else cap * g
    return run, cap * g


def play(allocator, edge, cap, *, least=0, costs=1.0, stream=False, exact=False, seed=0):
    """Run to the end and past it; every count and every metric within its bounds."""
    rng, m, g = np.random.default_rng(seed), edge["m"], edge["g"]
    spent, costs = 0.0, np.broadcast_to(costs, m)
    total = allocator.remaining_budget
    for k in range(edge["rounds"] + 1):
        offer = np.array([k % m]) if stream else np.arange(m)
        budget = None
        if exact:
            budget = (
                min(allocator.remaining_budget, edge["max_units"] * g, cap) if allocator.round < edge["rounds"] else 0
            )
        counts = allocator.allocate(offer if stream else None, budget, exact=exact)
        assert counts.dtype == np.int64
        assert ((counts == 0) | ((counts >= least) & (counts <= edge["max_units"] * g))).all()
        assert (counts % g == 0).all()
        assert counts.sum() <= cap
        if exact:
            assert counts.sum() == budget
        spent += float((counts * costs[offer]).sum())
        assert spent <= total * (1 + 1e-12)
        assert allocator.remaining_budget == pytest.approx(total - spent, abs=1e-9 * total)
        allocator.update(offer, rng.choice([0, 1]) * counts, counts)
        values = allocator.bank.value()
        assert ((values >= 0.0) & (values <= 0.25)).all()
        check_metrics(allocator.metrics())
        if hasattr(allocator, "price"):
            assert 0.0 <= allocator.price < math.inf
        if hasattr(allocator, "slopes"):
            assert allocator.price <= 1.0
            assert ((allocator.slopes >= 0.0) & (allocator.slopes <= 1.0)).all()


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(edge=edges, stream=st.booleans(), exact=st.booleans(), seed=st.integers(0, 99))
def test_allocators(mode, edge, stream, exact, seed):
    run, cap = sizes_of(edge)
    make, least, costs = MODES[mode], 0, 1.0
    own = dict(getattr(make, "keywords", {}))
    if "visits" in own:
        own["visits"] = edge["rounds"]
    if "min_rollouts" in own:
        least = own["min_rollouts"] = min(2, edge["max_units"]) * edge["g"]
    if own.get("costs") == "each":
        costs = own["costs"] = np.linspace(0.5, 1.0, edge["m"])
        run.pop("round_capacity", None)
        run["total_budget"] = max(0.5 * edge["g"], 0.5 * run["total_budget"])
        cap, exact = edge["m"] * edge["max_units"] * edge["g"], False
    if "n_rounds" in own:
        run.pop("round_capacity", None)
        cap, stream = edge["m"] * edge["max_units"] * edge["g"], False
    if least:
        run["total_budget"] = max(run["total_budget"], least)
        exact = False
    if "costs" in own and np.ndim(own["costs"]) == 0 and run.get("round_capacity", 0) > 1e15:
        run["round_capacity"] = 1e300
    run |= own
    bank = bank_at(edge["pool"], edge["m"], edge["prior"], edge["forgetting"])
    policy = getattr(make, "func", make)
    allocator = policy(bank, **run, utility=edge["utility"], seed=seed)
    play(allocator, edge, cap, least=least, costs=costs, stream=stream, exact=exact, seed=seed)


@pytest.mark.parametrize("policy", [*PEERS, *CONTROLS], ids=lambda policy: policy.__name__)
@settings(max_examples=15)
@given(edge=edges, stream=st.booleans(), seed=st.integers(0, 99))
def test_baselines(policy, edge, stream, seed):
    edge = {**edge, "max_units": 32 // edge["g"], "capacity": None}
    run, cap = sizes_of(edge)
    bank = bank_at(edge["pool"], edge["m"], edge["prior"], edge["forgetting"])
    play(policy(bank, **run, seed=seed), edge, cap, stream=stream, seed=seed)


# ---------------------------------------------------------------- the parts

EXPOSURES = [0.0, 5e-324, 1e-300, 1.0, 1e9, 1e300, 1.7e308]
SATURATIONS = [1e-300, TINY, 1.0, HUGE, 1e100]


@pytest.mark.parametrize(("shape", "scaling"), KINDS)
def test_utilities(shape, scaling):
    q, x, slope = (a.ravel() for a in np.meshgrid([0.0, 5e-324, 1e-300, 1e-9, 0.25], EXPOSURES, EXPOSURES))
    for saturation in SATURATIONS:
        utility = SaturatingUtility(shape, scaling=scaling, saturation=saturation)
        worth, marginal = utility.value(q, x), utility.marginal(q, x)
        assert np.isfinite(worth).all()
        assert (worth >= 0.0).all()
        if shape != "log":
            assert (worth <= 1.0).all()
        assert ((marginal >= 0.0) & (marginal <= saturation)).all()
        wanted, conjugate = utility.demand(q, slope, x), utility.conjugate(q, slope, x)
        assert ((wanted >= 0.0) & (wanted <= x)).all()
        assert (conjugate <= 0.0).all()
        assert not np.isnan(conjugate).any()


@pytest.mark.parametrize("integer", [False, True])
@settings(max_examples=150)
@given(
    kind=st.sampled_from(KINDS), saturation=st.sampled_from([1e-300, TINY, 1.0, HUGE]), seed=st.integers(0, 99),
    m=st.sampled_from([1, 2, 5]), pool=st.sampled_from(["nothing", "most", "tiny", "mixed"]),
    share=st.sampled_from([TINY, 1.0, HUGE, 1e300]), budget=st.sampled_from([0.0, 1.0, 7.0, 1e12, 2.0**53, 1e280]),
    upper=st.sampled_from([0.0, 1.0, 3.0, 1e12, 1e280]),
)  # fmt: skip
def test_oracle(integer, kind, saturation, seed, m, pool, share, budget, upper):
    if integer and min(budget, m * upper) > 2.0**53:
        budget = 2.0**53
    mixed = np.random.default_rng(seed).choice([0.0, 1e-300, 0.1, 0.25], m)
    q = {"nothing": np.zeros(m), "most": np.full(m, 0.25), "tiny": np.full(m, 5e-324), "mixed": mixed}[pool]
    utility = SaturatingUtility(kind[0], scaling=kind[1], saturation=saturation)
    result = OfflineOracle(utility).solve(q, budget, equal_share=share, upper=upper, integer=integer)
    z = result.allocation
    assert np.isfinite(z).all()
    assert ((z >= 0) & (z <= upper)).all()
    assert z.sum() <= budget * (1 + 1e-12)
    assert 0.0 <= result.price < math.inf
    assert 0.0 <= result.optimum < math.inf
    assert 0.0 <= result.gap < math.inf


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("forgetting", [1.0, 0.5, 5e-324])
def test_banks(dtype, prior, forgetting):
    bank = BetaPosteriorBank(4, prior=prior, forgetting=forgetting, dtype=dtype)
    for n in (0, 1, 10**9, 2**53):
        bank.update(None, [0, n, n / 2, 1e-320 * min(n, 1)], [n] * 4)
        for elapsed in (0, 1, 2**30):
            bank.tick(elapsed if bank.evidence.now == 0 or elapsed < 2 else 0)
            value, mean = bank.value(), bank.mean()
            assert ((value >= 0.0) & (value <= 0.25)).all()
            assert ((mean >= 0.0) & (mean <= 1.0)).all()
            low, high = bank.interval(0.95)
            assert ((low >= 0.0) & (low <= high) & (high <= 1.0)).all()
    choice = bank.select_forgetting([(None, [0, 1, 2, 0.5], [2] * 4)] * 3)
    assert np.isfinite(choice.log_likelihood).all()
    assert bank.fit_prior().status == "too few prompts"


@pytest.mark.parametrize(
    "own",
    [
        {"visits": 2**31 - 1},
        {},
        {"min_rollouts": 2},
        {"signal": "group"},
        {"costs": [1.0, 2.0, 3.0, 4.0]},
        {"stream": 1},
    ],
    ids=str,
)
def test_the_largest_sizes_that_are_taken(own):
    own = dict(own)
    stream = own.pop("stream", False)
    allocator = ResolvingAllocator(
        BetaPosteriorBank(4), total_budget=2**52, n_rounds=2**31 - 1, max_rollouts=2**20, **own
    )
    counts = allocator.allocate([0, 3] if stream else None)
    assert counts.min() >= 0
    assert 0 < counts.max() <= 2**20
    allocator.update([0, 3], [counts[0], 0], counts[[0, -1]])
    check_metrics(allocator.metrics())
    allocator.refund([0], [0])


@pytest.mark.parametrize("catch_up", [False, True])
def test_a_round_that_takes_the_largest_budget(catch_up):
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(4), total_budget=2**53, n_rounds=1, max_rollouts=2**53, catch_up=catch_up
    )
    counts = allocator.allocate()
    assert counts.sum() == 2**53
    allocator.update(None, counts // 2, counts)
    assert allocator.remaining_budget == 0
    check_metrics(allocator.metrics())
