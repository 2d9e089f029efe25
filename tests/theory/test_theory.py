"""One test per numbered claim of docs/theory.md; test_theory_resolving.py goes on with Claim 10."""

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon, OfflineOracle, SaturatingUtility
from cero_alloc.simulation import (
    Pool,
    RegretCurve,
    drifting_pool,
    known_bank,
    path_optimum_bound,
    regret_bound,
    simulate,
    static_pool,
)
from helpers.theorems import ALL_UTILITIES, SHAPES, theorem_instance, utilities

values = st.floats(0.0, 0.25)
exposures = st.floats(0.0, 20.0)


@given(utilities, values, values, exposures, exposures)
def test_utility_properties_u1_u2_u3(utility, q, q2, x, x2):
    lam = utility.saturation
    low, high = sorted((x, x2))
    assert 0 <= utility.marginal(q, high) <= utility.marginal(q, low) + 1e-12 <= lam + 2e-12
    gain = utility.value(q, high) - utility.value(q, low)
    assert -1e-12 <= gain <= lam * (high - low) + 1e-12
    assert abs(utility.value(q, x) - utility.value(q2, x)) <= 4 * lam * x * abs(q - q2) * (1 + 1e-9) + 1e-12
    assert (utility.value(max(q, q2), x) - utility.value(min(q, q2), x)) >= -1e-12
    if (utility.shape, utility.scaling) != ("capped-linear", "rate"):
        moved = [utility.value(r, high) - utility.value(r, low) for r in (q, q2)]
        assert abs(moved[0] - moved[1]) <= 4 * lam * (high - low) * abs(q - q2) * (1 + 1e-9) + 1e-12 * lam


@given(utilities, values, exposures, st.floats(0.1, 20.0), st.floats(0.0, 1.2))
def test_claim_1_fenchel_young(utility, q, x, upper, share):
    x = min(x, upper)
    slope = share * utility.saturation
    tolerance = 1e-12 * (1 + slope * upper)
    conjugate = utility.conjugate(q, slope, upper)
    assert utility.value(q, x) <= slope * x - conjugate + tolerance
    at = utility.demand(q, slope, upper)
    assert utility.value(q, at) == pytest.approx(slope * at - conjugate, abs=tolerance)
    tangent = utility.marginal(q, x)  # a supergradient at x attains the biconjugate
    assert utility.value(q, x) == pytest.approx(tangent * x - utility.conjugate(q, tangent, upper), rel=1e-7, abs=1e-9)


@given(st.floats(0.01, 0.25), st.floats(0.05, 20), st.floats(0.5, 20), st.floats(0.001, 1.3))
def test_claim_1_exponential_cases(q, lam, z_box, share):
    c, theta = 4 * lam * q, share * 4 * lam * q
    if theta <= c * math.exp(-c * z_box):
        expected, demand = theta * z_box - 1 + math.exp(-c * z_box), z_box
    elif theta < c:
        expected, demand = theta / c * math.log(c / theta) + theta / c - 1, math.log(c / theta) / c
    else:
        expected, demand = 0.0, 0.0
    utility = SaturatingUtility(saturation=lam)
    assert utility.conjugate(q, theta, z_box) == pytest.approx(expected, abs=1e-12 * (1 + theta * z_box))
    assert utility.demand(q, theta, z_box) == pytest.approx(demand, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("group", [2, 3, 5, 8])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.4, 2.5), (7.0, 3.0)])
def test_claim_2_value_is_expected_group_variance(group, a, b):
    # Exact: the number of successes of a group is beta-binomial.
    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    chance = [math.comb(group, s) * math.exp(log_beta(a + s, b + group - s) - log_beta(a, b)) for s in range(group + 1)]
    variance = sum(w * s * (group - s) / (group * (group - 1)) for s, w in enumerate(chance))
    bank = BetaPosteriorBank(1, prior=(a, b))
    assert bank.value()[0] == pytest.approx(variance, rel=1e-12)
    mean = bank.mean()[0]
    assert bank.value()[0] == pytest.approx(mean * (1 - mean) - a * b / ((a + b) ** 2 * (a + b + 1)), rel=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("prior", [(1.0, 1.0), (0.3, 2.0)])
def test_claim_3_learning_rate_of_the_value(p, prior):
    s0 = sum(prior)
    for n in (1, 4, 30, 300):
        chance = [math.comb(n, s) * p**s * (1 - p) ** (n - s) for s in range(n + 1)]
        bank = BetaPosteriorBank(n + 1, prior=prior)
        bank.update(None, np.arange(n + 1), np.full(n + 1, n))
        error = float(chance @ np.abs(bank.value() - p * (1 - p)))
        assert error <= math.sqrt(n) / (2 * (n + s0)) + s0 / (n + s0) + 1 / (4 * (n + s0 + 1)) + 1e-12


@given(st.integers(0, 2**32 - 1), utilities)
def test_claim_4_weak_duality(seed, utility):
    rng = np.random.default_rng(seed)
    m, k, max_units = rng.integers(1, 8), rng.integers(1, 8), rng.integers(1, 4)
    cap = rng.integers(1, m * max_units + 1)
    budget = rng.integers(1, k * cap + 1)
    p = rng.beta(0.6, 0.6, m)
    q, share = p * (1 - p), budget / m
    optimum = OfflineOracle(utility).solve(q, budget, equal_share=share, upper=k * max_units)
    theta, mu = rng.random(m) * utility.saturation / share, rng.random() * utility.saturation / share
    best, left = 0.0, float(cap)
    for margin in sorted(theta - mu, reverse=True):
        dealt = min(max_units, left) if margin > 0 else 0.0
        best, left = best + margin * dealt, left - dealt
    dual = budget / k * mu + best - utility.conjugate(q, theta * share, k * max_units / share).sum() / k
    assert optimum.optimum <= k * dual + 1e-9 * (1 + abs(k * dual))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_claim_5_proposal_is_the_maximiser(seed, exact):
    rng = np.random.default_rng(seed)
    m, max_units = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    cap = int(rng.integers(1, m * max_units + 1))
    p = rng.random(m)
    bank = BetaPosteriorBank(m, prior=(p * 10, (1 - p) * 10 + 1e-9))
    allocator = FenchelDualAllocator(
        bank,
        total_budget=8 * cap,
        n_rounds=8,
        max_rollouts=max_units,
        round_capacity=cap,
        initial_price=float(rng.random()),
    )
    margins = allocator.slopes - (0.0 if exact else allocator.price)
    counts = allocator.allocate(budget=cap, exact=exact)
    assert counts.sum() == cap or not exact
    rivals = (np.array(n) for n in product(range(max_units + 1), repeat=m))
    best = max(float(margins @ n) for n in rivals if (n.sum() == cap if exact else n.sum() <= cap))
    assert margins @ counts == pytest.approx(best, abs=1e-12)


def test_theorem_1_never_violated():
    informative = 0
    for seed in range(1200):
        rng, m, k, kwargs = theorem_instance(seed)
        pool = static_pool(m, 0.5, 0.7, seed=rng)
        known = seed % 3 == 0
        bank = known_bank(pool) if known else pool.bank(prior=tuple(rng.uniform(0.2, 3, 2)))
        result = simulate(FenchelDualAllocator(bank, **kwargs), pool, k, seed=seed, feedback=not known)
        assert -1e-12 <= result.regret <= result.bound + 1e-12, (seed, result.regret, result.bound)
        error = float(result.proxy_error.mean())
        sharper = regret_bound(result.horizon, kwargs["utility"], proxy_error=error / 2)  # the remark's constant 4
        assert result.regret <= sharper + 1e-12, (seed, result.regret, sharper)
        informative += result.bound < kwargs["utility"].ceiling
    assert informative >= 50, "almost every bound is at its cap: the test would show nothing"


def test_theorem_1_rate_for_known_rates():
    # Regret falls at least like K^-0.45 for each shape; benchmarks/regret_sim.py measures the slope at full length.
    rounds = 2 ** np.arange(4, 11)
    for shape in SHAPES:
        slopes = []
        for seed in range(3):
            pool = static_pool(64, seed=[seed, 5])
            results = []
            for k in map(int, rounds):
                policy = FenchelDualAllocator(
                    known_bank(pool),
                    total_budget=64 * k,
                    n_rounds=k,
                    max_rollouts=2,
                    utility=SaturatingUtility(shape),
                    seed=seed,
                )
                result = simulate(policy, pool, k, feedback=False)
                assert result.regret <= result.bound
                results.append(result)
            slopes.append(RegretCurve.of(results).slope)
        assert np.mean(slopes) <= -0.40, (shape, slopes)


def test_theorem_1_cap_is_the_largest_possible_optimum():
    horizon = Horizon(n_prompts=4, n_rounds=1, total_budget=4, max_rollouts=1, round_capacity=4)
    for shape, scaling in ALL_UTILITIES:
        for lam in (0.1, 1.0, 30.0):
            utility = SaturatingUtility(shape, scaling=scaling, saturation=lam)
            optimum = OfflineOracle(utility).solve(np.full(4, 0.25), 4, equal_share=1.0, upper=1).optimum / 4
            assert optimum <= regret_bound(horizon, utility, proxy_error=1e9) + 1e-12


def test_theorem_2_never_violated():
    informative = 0
    for seed in range(240):
        rng, m, k, kwargs = theorem_instance(seed)
        if seed % 2:
            pool = drifting_pool(m, 0.5, 0.7, drift=float(10 ** rng.uniform(-3, 0.3)), seed=rng)
        else:
            pool = Pool(np.clip(rng.random(m) + rng.normal(0, 0.03, (4, m)), 0, 1))  # four stages, jumping
        result = simulate(FenchelDualAllocator(pool.bank(), **kwargs), pool, k, seed=seed)
        assert -1e-9 <= result.regret <= result.bound + 1e-12, (seed, result.regret, result.bound)
        informative += result.bound < kwargs["utility"].saturation
    assert informative >= 10, "almost every bound is at its cap: the test would show nothing"


def test_theorem_2_summation_by_parts():
    rng = np.random.default_rng(0)
    for shape, scaling in ALL_UTILITIES:
        utility = SaturatingUtility(shape, scaling=scaling)
        q, n = rng.random((7, 5)) / 4, rng.integers(0, 3, (7, 5))
        z = np.vstack([np.zeros(5), np.cumsum(n, axis=0)]) / 3.0
        worth = sum(utility.value(q[k], z[k + 1]) - utility.value(q[k], z[k]) for k in range(7)).sum()
        for r in range(7):
            delta = lambda k, x: utility.value(q[k + 1], x) - utility.value(q[k], x)  # noqa: B023, E731
            tail = sum(delta(k, z[7]) - delta(k, z[k + 1]) for k in range(r, 6))
            head = sum(delta(k, z[k + 1]) for k in range(r))
            assert worth == pytest.approx((utility.value(q[r], z[7]) + tail - head).sum(), abs=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), utilities)
def test_claim_6_path_bound_holds_for_every_plan(seed, utility):
    rng = np.random.default_rng(seed)
    m, k, max_units = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    budget = int(rng.integers(1, m * k * max_units + 1))
    q = rng.random((m, k)) / 4
    horizon = Horizon(
        n_prompts=m, n_rounds=k, total_budget=budget, max_rollouts=max_units, round_capacity=m * max_units
    )
    bound, price = path_optimum_bound(q, horizon, utility)
    share = horizon.equal_share_units

    def worth(plan):
        z = np.cumsum(np.concatenate([np.zeros((m, 1)), plan], axis=1), axis=1) / share
        return float((utility.value(q, z[:, 1:]) - utility.value(q, z[:, :-1])).sum())

    plans = rng.integers(0, max_units + 1, (200, m, k))
    best = max((worth(plan) for plan in plans if plan.sum() <= budget), default=0.0)
    assert price >= 0
    assert best <= bound + 1e-9 * (1 + bound)


def test_claim_6_is_tight_on_static_rates():
    rng = np.random.default_rng(4)
    horizon = Horizon(n_prompts=6, n_rounds=12, total_budget=60, max_rollouts=2, round_capacity=12)
    q = rng.random(6) / 4
    utility = SaturatingUtility(saturation=2.0)
    optimum = OfflineOracle(utility).solve(q, 60, equal_share=10, upper=24, integer=True).optimum
    bound, _ = path_optimum_bound(np.repeat(q[:, None], 12, axis=1), horizon, utility)
    assert bound == pytest.approx(optimum, rel=1e-6)
    assert bound >= optimum - 1e-12


@given(st.integers(0, 2**32 - 1), utilities)
def test_claim_7_gap_bounds_every_feasible_allocation(seed, utility):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 10))
    q, upper, share = rng.random(m) / 4, rng.uniform(0.5, 9, m), rng.uniform(0.3, 5)
    lower = upper * rng.random(m) * (rng.random() < 0.5)
    budget = lower.sum() + rng.random() * (upper.sum() - lower.sum()) * 1.2
    result = OfflineOracle(utility).solve(q, budget, equal_share=share, upper=upper, lower=lower)
    assert 0 <= result.gap <= 1e-12 * max(result.optimum, 1e-300)
    for _ in range(20):
        rival = lower + rng.random(m) * (upper - lower)
        if rival.sum() > budget:
            rival = lower + (rival - lower) * (budget - lower.sum()) / (rival - lower).sum()
        assert utility.value(q, rival / share).sum() <= result.optimum + result.gap + 1e-12 * (1 + result.optimum)


@given(st.integers(0, 2**32 - 1), utilities)
def test_claim_8_largest_unit_gains_are_optimal(seed, utility):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    q, upper, share = rng.random(m) / 4, rng.integers(0, 7, m), rng.uniform(0.3, 5)
    budget = int(rng.integers(0, upper.sum() + 2))
    result = OfflineOracle(utility).solve(q, budget, equal_share=share, upper=upper, integer=True)
    grids = [
        np.append(np.diff(utility.value(q[i], np.arange(upper[i] + 1) / share)), 0.0)[: upper[i]] for i in range(m)
    ]
    gains = np.sort(np.concatenate(grids))[::-1]
    assert result.optimum == pytest.approx(gains[:budget].sum(), rel=1e-12, abs=1e-15)
    assert result.allocation.sum() <= budget


@given(st.integers(0, 2**32 - 1))
def test_claim_9_round_plan_is_feasible(seed):
    rng = np.random.default_rng(seed)
    m, k = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    q, max_units = rng.random(m) / 4, int(rng.integers(1, 4))
    budget = int(rng.integers(1, m * k * max_units + 1))
    result = OfflineOracle().solve(q, budget, equal_share=budget / m, upper=k * max_units, integer=True)
    plan = result.schedule(k)
    assert plan.shape == (k, m)
    assert (plan.sum(axis=0) == result.allocation).all()
    assert plan.max(initial=0) <= max_units
    assert plan.sum(axis=1).max() <= -(-int(result.allocation.sum()) // k)


def test_every_claim_of_the_theory_page_is_tested():
    """Statements, the page that shows their tests, and the tests correspond one to one."""
    root = Path(__file__).parents[2]
    theory, shown = ((root / "docs" / f"{name}.md").read_text() for name in ("theory", "claims"))
    files = sorted(file.name for file in (root / "tests" / "theory").glob("test_*.py"))
    tests = {}
    for file in files:
        for name, label in re.findall(
            r"^def (test_((?:claim|theorem)_\d+)_\w+)", (root / "tests" / "theory" / file).read_text(), re.M
        ):
            tests.setdefault(label.replace("_", "-"), []).append((file, name))

    stated = re.findall(r"^#+ (Claim|Theorem) (\d+): .*\n\n(.*)$", theory, re.M)
    assert len(stated) >= 24  # the page was read
    assert sorted(f"{kind.lower()}-{number}" for kind, number, _ in stated) == sorted(tests)
    for kind, number, line in stated:
        label = f"{kind.lower()}-{number}"
        links = ", ".join(f"[`{name}`](claims.md#{label})" for _, name in tests[label])
        assert line == f"*Tested by* {links}"

    sections = re.split(r"^## ", shown, flags=re.M)[1:]
    found = {section.partition("\n")[0].lower().replace(" ", "-"): section for section in sections}
    assert len(found) == len(sections)
    assert set(found) == {*tests, "u1-to-u3"}
    for label, named in tests.items():
        sources = re.findall(
            r"literalinclude} \.\./tests/theory/(\S+)\n:language: python\n:pyobject: (\w+)", found[label]
        )
        assert sources == named
        assert re.findall(r"<summary><code>(\w+)</code>", found[label]) == [name for _, name in named]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), utilities)
def test_claim_18_after_a_change_of_plan_theorem_1_holds_for_the_rest(seed, utility):
    rng = np.random.default_rng(seed)
    m, max_units, rounds = int(rng.integers(1, 30)), int(rng.integers(1, 4)), int(rng.integers(2, 40))
    q = rng.uniform(0.0, 0.25, m)
    p = (1.0 - np.sqrt(1.0 - 4.0 * q)) / 2.0
    bank = BetaPosteriorBank(m, prior=(1e9 * np.maximum(p, 1e-12), 1e9 * (1.0 - p)))  # known as well as can be
    q = bank.value()
    capacity = int(rng.integers(1, m * max_units + 1))
    budget = int(rng.integers(1, rounds * capacity + 1))
    run = FenchelDualAllocator(
        bank, total_budget=budget, n_rounds=rounds, max_rollouts=max_units, round_capacity=capacity, utility=utility
    )
    share = run.horizon.equal_share_units
    for _ in range(int(rng.integers(0, rounds))):
        run.allocate()
    added = int(rng.integers(0, 60))
    room = (run.ledger.rounds_left + added) * capacity - run.remaining_budget
    run.extend_budget(int(rng.integers(-run.remaining_budget, max(0, room) + 1)), rounds=added)
    k, left, before = run.ledger.rounds_left, run.remaining_budget, run.exposure
    if k == 0 or left == 0:
        return
    for _ in range(k):
        run.allocate()
    after = run.exposure
    gained = float((utility.value(q, after / share) - utility.value(q, before / share)).sum())
    best = OfflineOracle(utility).solve(
        q, float(before.sum() + left), equal_share=share, lower=before, upper=before + k * max_units
    )
    optimum = best.optimum - float(utility.value(q, before / share).sum())
    pace = left / k
    scale = max(pace, capacity - pace)
    bound = utility.saturation * (max_units + scale / m) / share * math.sqrt(k)
    assert (optimum - gained) / m <= bound * (1.0 + 1e-9) + 1e-7


@pytest.mark.parametrize("shape", ["exponential", "hyperbolic", "log", "capped-linear"])
def test_claim_18_says_something(shape):
    """Twenty prompts, of which half have had all of the first plan: a bound far below what there is to gain."""
    rng, m = np.random.default_rng(0), 20
    p = rng.beta(0.8, 0.8, m)
    bank = BetaPosteriorBank(m, prior=(1e9 * p, 1e9 * (1.0 - p)))
    utility = SaturatingUtility(shape, scaling="height")
    run = FenchelDualAllocator(bank, total_budget=400, n_rounds=20, max_rollouts=2, round_capacity=40, utility=utility)
    for _ in range(20):
        run.allocate(range(10))
    run.extend_budget(80_000 - int(run.remaining_budget), rounds=4_000)
    k, before, share = 4_000, run.exposure, run.horizon.equal_share_units
    regret, bounds = [], []
    for scale in (1, 8):  # of the utility: a slower one than planned
        slow = SaturatingUtility(shape, saturation=1.0 / (200 * scale), scaling="height")
        twin = FenchelDualAllocator(
            bank, total_budget=400, n_rounds=20, max_rollouts=2, round_capacity=40, utility=slow
        )
        for _ in range(20):
            twin.allocate(range(10))
        twin.extend_budget(80_000 - int(twin.remaining_budget), rounds=k)
        for _ in range(k):
            twin.allocate()
        q, after = bank.value(), twin.exposure
        best = OfflineOracle(slow).solve(
            q, float(before.sum() + 80_000), equal_share=share, lower=before, upper=before + k * 2
        )
        start = float(slow.value(q, before / share).sum())
        regret.append((best.optimum - float(slow.value(q, after / share).sum())) / m)
        bounds.append(slow.saturation * (2 + 20 / m) / share * math.sqrt(k))
        assert regret[-1] <= bounds[-1] < 0.5 * (best.optimum - start) / m
