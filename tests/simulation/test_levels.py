"""Pools of a few reward levels: their values, their draws, what policies are told, and that 0/1 pools are as before."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import (
    AllocationWarning,
    FenchelDualAllocator,
    Horizon,
    OfflineOracle,
    ResolvingAllocator,
    SaturatingUtility,
)
from cero_alloc.baselines import CONTROLS, DAPO, PEERS, Greedy, Preset, RandomMatched, Uniform
from cero_alloc.simulation import Pool, drifting_pool, epoch_batches, known_bank, simulate
from cero_alloc.simulation._rounds import categorical, takes_squares

LEVELS = [0.0, 0.5, 1.0]
CHANCES = [[0, 1, 0], [0.5, 0, 0.5], [0.25, 0.5, 0.25], [1, 0, 0], [0, 0, 1]]
VALUES = [0.0, 0.25, 0.125, 0.0, 0.0]


def pool_of(rng, n_prompts=12):
    """A pool of random levels, some of whose prompts always earn the same."""
    levels = np.unique(rng.choice([0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0], int(rng.integers(1, 6))))
    chances = rng.dirichlet(np.full(levels.size, 0.5), n_prompts)
    chances[::4] = np.eye(levels.size)[rng.integers(0, levels.size, len(chances[::4]))]
    return Pool.of_levels(levels, chances)


# ---------------------------------------------------------------- values


def test_values_are_exact():
    pool = Pool.of_levels(LEVELS, CHANCES, [*"abcde"])
    assert pool.rates.tolist() == [[0.5, 0.5, 0.5, 0.0, 1.0]]
    assert pool.values().tolist() == pool.values(3, 7).tolist() == VALUES
    assert (pool.prompt_ids, pool.n_prompts, pool.static, pool.path) == ([*"abcde"], 5, True, "step")
    assert Pool.of_levels([0.3], [[1.0]]).values().tolist() == [0.0]


@given(st.integers(0, 2**32 - 1))
def test_values_are_the_variances(seed):
    pool = pool_of(np.random.default_rng(seed))
    levels = [Fraction(level) for level in pool.levels.tolist()]
    for chances, mean, value in zip(pool.chances.tolist(), pool.rates[0], pool.values(), strict=True):
        weights = [Fraction(chance) for chance in chances]
        first, second = (sum(w * x**k for w, x in zip(weights, levels, strict=True)) for k in (1, 2))
        assert mean == pytest.approx(float(first), abs=1e-15)
        assert value == pytest.approx(float(second - first * first), abs=1e-15)
        assert 0.0 <= value <= 0.25
    assert (pool.values()[(pool.chances == 1.0).any(axis=1)] == 0.0).all()


def test_values_of_success_rates_are_those_of_coins():
    rates = np.random.default_rng(0).random((3, 20))
    for pool in (Pool(rates), Pool(rates, path="linear"), Pool(rates[0]), drifting_pool(9, seed=1)):
        for k in range(8):
            p = pool.at(k, 8)
            assert (pool.values(k, 8) == p * (1.0 - p)).all()
        assert (pool.values() == pool.rates[0] * (1 - pool.rates[0])).all()
    with pytest.raises(ValueError, match="k must be at most 7, got k = 8"):
        Pool(rates).values(8, 8)
    both = Pool.of_levels([0, 1], np.stack([1 - rates[0], rates[0]], axis=1))
    np.testing.assert_allclose(both.values(), Pool(rates).values(), atol=1e-16)


def test_a_pool_of_levels_can_be_written_out_in_full():
    made = Pool.of_levels(LEVELS, CHANCES)
    pool = Pool(made.rates, None, "linear", LEVELS, CHANCES)
    assert (pool.rates.tolist(), pool.chances.tolist()) == (made.rates.tolist(), made.chances.tolist())
    assert Pool([0.2, 0.4]).levels is None


def test_a_sample_keeps_the_levels():
    pool = Pool.of_levels(LEVELS, CHANCES)
    for size in (3, 5, 9):
        drawn = pool.sample(size, seed=3)
        rows = np.random.default_rng(3).choice(5, size, replace=size > 5)
        assert drawn.values().tolist() == np.array(VALUES)[rows].tolist()
        assert drawn.rates.tolist() == pool.rates[:, rows].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Pool([0.5], levels=[0, 1]),
            r"^chances must be given with levels, got chances = None\. Call Pool\.of_",
        ),
        (
            lambda: Pool([0.5], chances=[[1.0]]),
            r"^levels must be given with chances, got levels = None\. Call Pool\.of_",
        ),
        (
            lambda: Pool.of_levels([0, 2], [[1, 0]]),
            r"^levels must be finite, at least 0 and at most 1, got levels\[1\]",
        ),
        (lambda: Pool.of_levels([], [[]]), r"^levels must ascend, with shape \(n_levels,\), got levels = \[\]\. Sort"),
        (
            lambda: Pool.of_levels([1, 0], [[1, 0]]),
            r"^levels must ascend, with shape \(n_levels,\), got levels = \[1\.0",
        ),
        (
            lambda: Pool.of_levels([1, 1], [[1, 0]]),
            r"^levels must ascend, .* got levels = \[1\.0, 1\.0\]\. Sort the lev",
        ),
        (
            lambda: Pool.of_levels([0, 1], [1, 0]),
            r"^chances must have shape \(n_prompts, 2\), got chances = \(2,\)\. G",
        ),
        (
            lambda: Pool.of_levels([0, 1], [[1]]),
            r"^chances must have shape \(n_prompts, 2\), got chances = \(1, 1\)\. ",
        ),
        (
            lambda: Pool.of_levels([0, 1], [[1, -1]]),
            r"^chances must be finite, at least 0 and at most 1, got chances\[",
        ),
        (
            lambda: Pool.of_levels([0, 1], [[0.5, 0.5], [0.2, 0.7]]),
            r"^chances must sum to 1 for each prompt, got chances\[1\] = \[0\.2, 0\.7\]\. Normalise them\.",
        ),
        (
            lambda: Pool.of_levels([0, 1], [[1, 0]], ["a", "b"]),
            r"^prompt_ids must name the 1 columns of rates, got prom",
        ),
        (
            lambda: Pool([0.4], levels=[0, 1], chances=[[0.5, 0.5]]),
            r"^rates must be the mean rewards of the chances, got rates = \[\[0\.4\]\]\. Call Pool\.of_levels\(levels, ch",
        ),
        (
            lambda: Pool([[0.5], [0.5]], levels=[0, 1], chances=[[0.5, 0.5]]),
            r"^rates must be the mean rewards of the chances, got rates = \[\[0\.5\], \[0\.5\]\]\. Call Pool",
        ),
        (
            lambda: Pool.of_levels(LEVELS, CHANCES).drifted(1.0),
            r"^levels must be None in a pool that drifts, got levels = \[0\.0, 0\.5, 1\.0\]\. Let success rates of the sa",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounded_chances_are_normalised():
    pool = Pool.of_levels([0, 0.5, 1], [[1 / 3 + 1e-12] * 3])
    assert abs(pool.chances.sum() - 1.0) < 1e-15
    with pytest.raises(TypeError, match="chances must be numbers"):
        Pool.of_levels([0, 1], [["a", "b"]])


# ---------------------------------------------------------------- draws


def rewards_one_by_one(rng, levels, chances, n):
    """The twin: every reward of every prompt in a list."""
    return [np.repeat(levels, rng.multinomial(count, row)).tolist() for count, row in zip(n, chances, strict=True)]


@given(st.integers(0, 2**32 - 1))
def test_a_draw_is_its_twin(seed):
    rng = np.random.default_rng(seed)
    pool = pool_of(rng)
    rows = rng.permutation(12)[: rng.integers(1, 13)]
    positions = np.flatnonzero(rng.random(rows.size) < 0.7)
    n = rng.integers(0, 9, positions.size)
    draw = categorical(np.random.default_rng(seed), rows, pool.levels, pool.chances)
    sums, answered, squares = draw(positions, n)
    listed = rewards_one_by_one(np.random.default_rng(seed), pool.levels, pool.chances[rows[positions]], n)
    assert answered is n
    np.testing.assert_allclose(sums, [sum(rewards) for rewards in listed], atol=1e-12)
    np.testing.assert_allclose(squares, [sum(r * r for r in rewards) for rewards in listed], atol=1e-12)
    assert ((sums >= 0) & (sums <= n)).all()


def test_draws_have_the_means_and_the_variances_of_the_pool():
    pool = Pool.of_levels(LEVELS, CHANCES)
    draw = categorical(np.random.default_rng(0), np.arange(5), pool.levels, pool.chances)
    sums, n, squares = draw(np.arange(5), np.full(5, 100_000))
    np.testing.assert_allclose(sums / n, pool.rates[0], atol=0.005)
    np.testing.assert_allclose(squares / n - (sums / n) ** 2, VALUES, atol=0.002)


# ---------------------------------------------------------------- runs


class Told:
    """Deals two rollouts to each prompt and keeps what it is told."""

    def __init__(self):
        self.told = []

    def allocate(self):
        return np.full(5, 2)

    def update(self, prompt_ids, successes, rollouts, *, squares=None):
        self.told.append((successes, rollouts, squares))


class Keywords(Told):
    def update(self, prompt_ids, successes, rollouts, **more):
        super().update(prompt_ids, successes, rollouts, **more)


class SumsOnly(Told):
    def update(self, prompt_ids, successes, rollouts):
        super().update(prompt_ids, successes, rollouts)


HORIZON = Horizon(n_prompts=5, n_rounds=4, total_budget=40, max_rollouts=2, round_capacity=10)


@pytest.mark.parametrize(("kind", "takes"), [(Told, True), (Keywords, True), (SumsOnly, False)])
def test_squares_are_for_those_who_take_them_where_there_are_levels(kind, takes):
    pool = Pool.of_levels(LEVELS, CHANCES)
    policy = kind()
    assert takes_squares(policy) == takes
    result = simulate(policy, pool, 4, horizon=HORIZON)
    assert result.exposure.tolist() == [8] * 5
    assert len(policy.told) == 4
    for k, (successes, rollouts, squares) in enumerate(policy.told):
        groups = result.group_round == k
        assert successes.tolist() == result.group_successes[groups].tolist()
        assert rollouts.tolist() == [2] * 5
        assert (squares.tolist() == result.group_squares[groups].tolist()) if takes else squares is None
    coins = kind()
    simulate(coins, Pool(pool.rates), 4, horizon=HORIZON)
    assert all(squares is None for _, _, squares in coins.told)


def test_a_method_without_a_signature_is_told_the_sums():
    policy = SumsOnly()
    policy.update = dict.fromkeys  # compiled
    assert not takes_squares(policy)
    policy.update = type("Odd", (), {"__signature__": 0, "__call__": lambda self, *args: None})()
    assert not takes_squares(policy)
    assert simulate(policy, Pool.of_levels(LEVELS, CHANCES), 4, horizon=HORIZON).exposure.tolist() == [8] * 5


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("ids", [None, [f"p{i}" for i in range(12)]])
def test_a_result_is_that_of_the_single_rewards(batched, ids):
    rng = np.random.default_rng(3)
    drawn = pool_of(rng)
    pool = Pool.of_levels(drawn.levels, drawn.chances, ids)
    batches = epoch_batches(12, 4, 4, seed=1) if batched else None
    policy = Uniform(pool.bank(), total_budget=12 * 24, n_rounds=12, max_rollouts=8, rollouts_per_visit=6)
    result = simulate(policy, pool, 12, seed=5, batches=batches)
    twin, listed = np.random.default_rng(5), []
    for k in range(12):
        groups = np.flatnonzero(result.group_round == k)
        rows, n = result.group_prompt[groups], result.group_rollouts[groups]
        listed += rewards_one_by_one(twin, pool.levels, pool.chances[rows], n)
    assert len(listed) == result.group_rollouts.size > 12
    np.testing.assert_allclose(result.group_successes, [sum(rewards) for rewards in listed], atol=1e-12)
    np.testing.assert_allclose(result.group_squares, [sum(r * r for r in rewards) for rewards in listed], atol=1e-12)
    assert result.mixed.tolist() == [len(set(rewards)) > 1 for rewards in listed]
    variances = [np.var(rewards, ddof=1) if len(rewards) > 1 else np.nan for rewards in listed]
    np.testing.assert_allclose(result.observed_variance(), variances, atol=1e-12)
    # the bank has learnt what was drawn, and is compared with the true variances
    n = np.bincount(result.group_prompt, result.group_rollouts, 12)
    mean = (1 + np.bincount(result.group_prompt, result.group_successes, 12)) / (2 + n)
    second = (1 + np.bincount(result.group_prompt, result.group_squares, 12)) / (2 + n)
    np.testing.assert_allclose(policy.bank.value(), (second - mean**2) * (2 + n) / (3 + n), rtol=1e-10, atol=1e-14)
    assert result.proxy_error[-1] == pytest.approx(np.abs(policy.bank.value() - pool.values()).mean())
    # the utility is that of the true variances
    worth, share = SaturatingUtility(), result.horizon.equal_share_units
    assert result.achieved == pytest.approx(worth.value(pool.values(), result.exposure / share).sum(), rel=1e-12)
    upper = 8 * (np.bincount(np.concatenate(batches), minlength=12) if batched else 12)
    optimum = OfflineOracle().solve(pool.values(), 12 * 24, equal_share=24, upper=upper, integer=True).optimum
    assert result.optimum == pytest.approx(optimum, rel=1e-13)


def test_a_known_bank_knows_the_variances_and_never_learns():
    pool = pool_of(np.random.default_rng(8), 40)
    bank = known_bank(pool)
    np.testing.assert_allclose(bank.value(), pool.values(), atol=1e-14)
    np.testing.assert_allclose(bank.mean(), pool.rates[0], atol=1e-14)
    n = np.full(40, 1000)
    sums, _, squares = categorical(np.random.default_rng(0), np.arange(40), pool.levels, pool.chances)(np.arange(40), n)
    bank.update(None, sums, n, squares=squares)
    bank.update(None, 0 * n, n)
    np.testing.assert_allclose(bank.value(), pool.values(), atol=1e-11)


def test_regret_stays_within_the_bound_and_falls():
    pool = Pool.of_levels(LEVELS, np.repeat(CHANCES[:3], 8, axis=0))
    regret = {}
    for rounds in (16, 256):
        run = {"total_budget": 24 * rounds, "n_rounds": rounds, "max_rollouts": 2}
        known = simulate(FenchelDualAllocator(known_bank(pool), **run), pool, rounds, feedback=False)
        learnt = simulate(FenchelDualAllocator(pool.bank(), **run), pool, rounds)
        assert -1e-12 <= known.regret <= known.bound
        assert -1e-12 <= learnt.regret <= learnt.bound
        regret[rounds] = known.regret, learnt.regret
    assert regret[256][0] < regret[16][0] / 2
    assert regret[256][1] < regret[16][1] / 2


@pytest.mark.parametrize("kind", [FenchelDualAllocator, ResolvingAllocator, Greedy])
def test_who_is_told_the_squares_leaves_what_teaches_nothing(kind):
    pool = Pool.of_levels(LEVELS, np.repeat(CHANCES[:2], 20, axis=0))  # 0.5 always, and coins
    run = {"total_budget": 40 * 64, "n_rounds": 64, "max_rollouts": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        told = simulate(kind(pool.bank(), **run), pool, 64)
    policy = kind(pool.bank(), **run)

    class Deaf:
        horizon, allocate = policy.horizon, policy.allocate

        def update(self, prompt_ids, successes, rollouts):
            policy.update(prompt_ids, successes, rollouts)

    deaf = simulate(Deaf(), pool, 64)
    wasted = [result.exposure[:20].sum() / result.exposure.sum() for result in (told, deaf)]
    assert wasted[0] < 0.3 < 0.45 < wasted[1]
    assert told.regret < deaf.regret
    assert not told.mixed[told.group_prompt < 20].any()


@pytest.mark.parametrize("rule", [rule for rule in (*PEERS, *CONTROLS) if rule not in (Preset, RandomMatched)])
def test_every_rule_plays_a_pool_of_levels(rule):
    pool = pool_of(np.random.default_rng(2), 40)
    policy = rule(pool.bank(), total_budget=40 * 16, n_rounds=10, max_rollouts=32)
    result = simulate(policy, pool, 10, seed=1)
    assert 0 < result.exposure.sum() <= 640
    assert result.achieved <= result.optimum * (1 + 1e-12)
    assert (result.group_squares <= result.group_successes + 1e-12).all()


# ---------------------------------------------------------------- 0/1 pools are as before

RATES = np.array(
    [[0.0, 0.125, 0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75, 0.875, 1.0], [0.125, 0.5, 0.5, 1.0, 1.0, 1.0]]
)
BEFORE = [  # recorded with version 0.1.0 before there were levels
    (
        (FenchelDualAllocator, "static", False),
        ([0, 1, 2, 3, 4, 5], [8] * 6, [0, 1, 4, 5, 7, 8]),
        ("0x1.abd48ebd48ebfp-2", "0x0.0p+0", "0x1.7800000000000p+1", "0x1.fe00000000000p+1"),
    ),
    (
        (Uniform, "linear", False),
        (
            [0, 1, 2, 3, 4, 5] * 8,
            [1] * 48,
            [int(digit) for digit in "001111010001000111001011001111011111001111000111"],
        ),
        ("0x1.2d5259946bd6dp-1", "0x1.21f58d0fac688p-2", "0x1.7124924924925p+1", "0x1.3b0fac687d634p+2"),
    ),
    (
        (Greedy, "step", True),
        ([3, 1, 2, 5, 4, 0, 3, 1], [6] * 8, [3, 2, 2, 6, 6, 0, 6, 0]),
        ("0x1.30ba60fb650bap-1", "0x1.1000000000000p-2", "0x1.1c00000000000p+1", "0x1.3300680000000p+2"),
    ),
    (
        (DAPO, "linear", True),
        ([1, 2, 3, 0, 4, 5], [8] * 6, [2, 5, 5, 0, 8, 8]),
        ("0x1.479f1136e4e2ap-1", "0x1.21f58d0fac688p-2", "0x1.5343eb1a1f58dp+1", "0x1.3b0fac687d634p+2"),
    ),
    (
        (ResolvingAllocator, "step", False),
        (
            [*[0, 1, 2, 3, 4, 5] * 5, 2, 3, 4, 0, 1, 2, 3, 4, 5, 1, 2, 3, 4],
            [*[1] * 30, 2, 2, 2, *[1] * 6, 3, 1, 1, 1],
            [int(digit) for digit in "0011110001010000110010110001111210101112011"],
        ),
        ("0x1.449c22f87d1b4p-1", "0x1.1000000000000p-2", "0x1.7800000000000p+1", "0x1.3300680000000p+2"),
    ),
]


@pytest.mark.parametrize(("case", "groups", "figures"), BEFORE, ids=[case[0].__name__ for case, _, _ in BEFORE])
def test_a_pool_of_success_rates_is_as_before(case, groups, figures):
    kind, path, batched = case
    pool = Pool(RATES[:1] if path == "static" else RATES, [*"abcdef"], "step" if path == "static" else path)
    batches = epoch_batches(6, 3, 4, seed=2) if batched else None
    policy = kind(pool.bank(), total_budget=48, n_rounds=8, max_rollouts=8, seed=1)
    result = simulate(policy, pool, 8, seed=7, batches=batches, utility=SaturatingUtility("capped-linear"))
    found = result.group_prompt, result.group_rollouts, result.group_successes
    assert tuple(column.tolist() for column in found) == groups
    assert result.group_successes.dtype == np.int64
    assert (result.group_squares == result.group_successes).all()
    assert (result.mixed == ((result.group_successes > 0) & (result.group_successes < result.group_rollouts))).all()
    # The counts are exact; sums of floats may differ in the last bit on another processor.
    expected = [float.fromhex(text) for text in figures]
    got = [result.proxy_error.sum(), result.variation, result.achieved, result.optimum]
    assert got == pytest.approx(expected, rel=1e-14)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_figures_of_coins_are_the_plain_formulas(seed):
    rng = np.random.default_rng(seed)
    pool = Pool(rng.random(10))
    policy = Uniform(
        pool.bank(), total_budget=10 * 24, n_rounds=8, max_rollouts=8, rollouts_per_visit=int(seed % 8) + 1
    )
    result = simulate(policy, pool, 8, seed=seed)
    n, s = result.group_rollouts.astype(float), result.group_successes
    assert (result.mixed == ((s > 0) & (s < n))).all()
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.where(n > 1, s * (n - s) / (n * (n - 1.0)), np.nan)
    np.testing.assert_array_equal(result.observed_variance(), plain)
