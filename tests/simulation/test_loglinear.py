"""The policy that learns: its gradients against slow twins, its training under real allocators, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from cero_alloc import FenchelDualAllocator, ResolvingAllocator
from cero_alloc.baselines import DAPO, ReinforceAda, Uniform
from cero_alloc.simulation import LearningResult, LogLinearPool, epoch_batches, loglinear_pool, simulate_learning

WEIGHTINGS = ["rollout", "prompt", "importance"]
seeds = st.integers(0, 2**32 - 1)


def small(seed, most=8):
    """A random pool, weights, and a generator."""
    rng = np.random.default_rng(seed)
    m, f = int(rng.integers(1, most)), int(rng.integers(1, 5))
    return loglinear_pool(m, f, shared=float(rng.random()), n_held_out=5, seed=rng), rng.normal(size=f), rng


# ---------------------------------------------------------------- the pool


@given(seeds)
def test_rates_and_means_are_the_twins(seed):
    pool, w, _ = small(seed)
    rates = [twins.rate(x, b, w) for x, b in zip(pool.features, pool.offsets, strict=True)]
    np.testing.assert_allclose(pool.rates(w), rates, rtol=1e-12)
    assert pool.mean_success(w) == pytest.approx(twins.mean_success(pool.features, pool.offsets, w), rel=1e-12)
    assert pool.held_out(w) == pytest.approx(twins.mean_success(pool.held_features, pool.held_offsets, w), rel=1e-12)


@given(seeds, st.booleans())
def test_the_gradient_is_the_difference_quotient(seed, held_out):
    pool, w, _ = small(seed)
    mean = pool.held_out if held_out else pool.mean_success
    h = 1e-5
    quotient = [(mean(w + h * e) - mean(w - h * e)) / (2 * h) for e in np.eye(w.size)]
    np.testing.assert_allclose(pool.gradient(w, held_out=held_out), quotient, atol=1e-9)


def test_rates_saturate_without_a_warning():
    pool = LogLinearPool([[1.0], [1.0]], [1e5, -1e5], [[1.0]], [0.0])
    assert pool.rates([1e4]).tolist() == [1.0, 0.0]
    assert pool.gradient([1e4]).tolist() == [0.0]


def test_inputs_are_copied():
    offsets = np.zeros(1)
    pool = LogLinearPool([[1.0]], offsets, [[1.0]], [0.0])
    offsets[0] = 9.0
    assert pool.offsets.tolist() == [0.0]


@given(seeds, st.booleans(), st.sampled_from(WEIGHTINGS))
def test_group_gradient_is_advantages_times_scores(seed, normalise, weighting):
    """Whatever the weights: the policy's own rates cancel."""
    pool, w, rng = small(seed)
    rows = rng.permutation(pool.n_prompts)[: rng.integers(1, pool.n_prompts + 1)]
    groups = [(int(i), rng.integers(0, 2, rng.integers(1, 7)).tolist()) for i in rows]
    n = np.array([len(rewards) for _, rewards in groups])
    s = [sum(rewards) for _, rewards in groups]
    exposure = n + rng.integers(0, 30, n.size)
    twin = twins.group_gradient(pool.features, pool.offsets, w, groups, normalise, weighting, exposure)
    how = {"normalise": normalise, "weighting": weighting, "exposure": exposure}
    np.testing.assert_allclose(pool.group_gradient(rows, n, s, **how), twin, atol=1e-12)
    flipped = pool.group_gradient(rows, n, n - s, **how)  # right and wrong are alike
    np.testing.assert_allclose(flipped, pool.group_gradient(rows, n, s, **how), atol=1e-15)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_groups_no_gradient(weighting):
    pool = loglinear_pool(4, 3, n_held_out=1)
    none = np.zeros(0, dtype=np.int64)
    assert pool.group_gradient(none, none, none, weighting=weighting, exposure=none).tolist() == [0.0, 0.0, 0.0]


def test_importance_takes_back_what_visits_gave():
    """Two prompts, one of which has had thrice the rollouts: it weighs a third of the other."""
    pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])
    g = pool.group_gradient([0, 1], [4, 4], [2, 2], weighting="importance", exposure=[12, 4])
    assert g[1] == pytest.approx(3 * g[0])
    assert g.sum() == pytest.approx(pool.group_gradient([0, 1], [4, 4], [2, 2], weighting="prompt").sum())


@given(seeds, st.floats(0, 1), st.integers(1, 60))
def test_drawn_features(seed, shared, f):
    pool = loglinear_pool(30, f, shared=shared, n_held_out=7, seed=seed)
    assert (pool.n_prompts, pool.n_features, pool.held_features.shape) == (30, f, (7, f))
    rest = pool.features - np.sqrt(shared / f)
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), np.sqrt(1 - shared), atol=1e-12)
    again = loglinear_pool(30, f, shared=shared, n_held_out=7, seed=seed)
    assert (again.features == pool.features).all()
    assert (again.held_offsets == pool.held_offsets).all()


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.7])
def test_mean_transfer_and_offsets_are_as_asked(shared):
    pool = loglinear_pool(2000, 40, mean=-1.0, spread=1.5, shared=shared, n_held_out=2000, seed=3)
    for features, offsets in ((pool.features, pool.offsets), (pool.held_features, pool.held_offsets)):
        transfer = features[:1000] @ features[1000:].T
        assert transfer.mean() == pytest.approx(shared, abs=0.02)
        assert offsets.mean() == pytest.approx(-1.0, abs=5 * 1.5 / np.sqrt(2000))
        assert offsets.std() == pytest.approx(1.5, rel=0.1)
    noise = np.sqrt((1 - shared) ** 2 / 40 + 2 * shared * (1 - shared) / 40)  # of z.z' and of u.z + u.z'
    assert (pool.features[:1000] @ pool.features[1000:].T).std() == pytest.approx(noise, rel=0.1)


def test_shared_alone_is_one_direction():
    pool = loglinear_pool(5, 4, shared=1.0, n_held_out=2)
    np.testing.assert_allclose(pool.features, 0.5)


def test_bank_is_that_of_the_training_prompts():
    bank = loglinear_pool(6, 2, n_held_out=9).bank(prior=(2.0, 3.0), forgetting=0.9)
    assert (len(bank), bank.forgetting) == (6, 0.9)
    np.testing.assert_allclose(bank.mean(), 0.4)


POOL = loglinear_pool(4, 3, n_held_out=2)
GROUP = {"rows": [0, 1], "rollouts": [4, 4], "successes": [1, 4]}
BAD_CALLS = [
    (lambda: LogLinearPool([1.0], [0.0], [[1.0]], [0.0]), "features must have shape .n_prompts, n_features., got"),
    (lambda: LogLinearPool(np.ones((0, 2)), [], [[1.0]], [0.0]), "features must have shape"),
    (
        lambda: LogLinearPool([[1.0]], [0.0, 1.0], [[1.0]], [0.0]),
        r"offsets must have shape \(1,\), got offsets = \(2,\)",
    ),
    (
        lambda: LogLinearPool([[1.0]], [0.0], [[1.0, 2.0]], [0.0]),
        r"held_features must have shape \(n_prompts, 1\), got",
    ),
    (lambda: LogLinearPool([[1.0]], [0.0], [[1.0]], []), r"held_offsets must have shape \(1,\)"),
    (lambda: LogLinearPool([[np.nan]], [0.0], [[1.0]], [0.0]), r"features must be finite, .* features\[0\] = nan"),
    (lambda: LogLinearPool([[1.0]], [1e60], [[1.0]], [0.0]), r"offsets must be finite, .* at most 1e\+50"),
    (lambda: POOL.rates([0.0]), r"weights must have shape \(3,\), got weights = \(1,\)"),
    (lambda: POOL.held_out([0.0, np.inf, 0.0]), r"weights must be finite, .* weights\[1\] = inf"),
    (lambda: POOL.gradient(np.zeros(3), held_out=1), "held_out must be True or False, got held_out = 1"),
    (
        lambda: POOL.group_gradient(**GROUP | {"rows": [0, 4]}),
        r"rows must hold rows between 0 and 3, got rows = \[0, 4\]",
    ),
    (lambda: POOL.group_gradient(**GROUP | {"rows": [0.0, 1.0]}), "rows must hold rows between 0 and 3"),
    (
        lambda: POOL.group_gradient(**GROUP | {"rollouts": [4, 0]}),
        r"rollouts must be at least 1, got rollouts\[1\] = 0",
    ),
    (lambda: POOL.group_gradient(**GROUP | {"rollouts": [4]}), "rollouts must have one entry per prompt id"),
    (
        lambda: POOL.group_gradient(**GROUP | {"successes": [1, 5]}),
        r"successes must be whole .* got successes\[1\] = 5",
    ),
    (
        lambda: POOL.group_gradient(**GROUP | {"successes": [0.5, 1]}),
        r"successes must be whole .* successes\[0\] = 0.5",
    ),
    (lambda: POOL.group_gradient(**GROUP | {"successes": [np.nan, 1]}), r"successes must be whole .* = nan"),
    (lambda: POOL.group_gradient(**GROUP, normalise="no"), "normalise must be True or False, got normalise = 'no'"),
    (
        lambda: POOL.group_gradient(**GROUP, weighting="token"),
        "weighting must be 'rollout', 'prompt' or 'importance', got",
    ),
    (lambda: POOL.group_gradient(**GROUP, weighting="importance"), "exposure must be given with 'importance', got"),
    (
        lambda: POOL.group_gradient(**GROUP, weighting="importance", exposure=[4, 3]),
        r"exposure must be at least the rollouts, got exposure\[1\] = 3",
    ),
    (lambda: loglinear_pool(0), "n_prompts must be at least 1, got n_prompts = 0"),
    (lambda: loglinear_pool(4, 0), "n_features must be at least 1"),
    (lambda: loglinear_pool(4, 2, n_held_out=1.5), "n_held_out must be an integer"),
    (lambda: loglinear_pool(4, 2, mean=np.nan), "mean must be a number in"),
    (lambda: loglinear_pool(4, 2, spread=-1.0), "spread must be a number in"),
    (lambda: loglinear_pool(4, 2, shared=1.1), r"shared must be a number in \[0, 1\], got shared = 1.1"),
    (lambda: loglinear_pool(4, 2, seed="x"), "seed must seed a random generator"),
]


@pytest.mark.parametrize(("call", "match"), BAD_CALLS)
def test_bad_calls(call, match):
    with pytest.raises((ValueError, TypeError), match="^" + match):
        call()


# ---------------------------------------------------------------- the training


class Noting:
    """Passes everything on to a policy, and notes a round's groups {row: (rollouts, successes)}, over all its waves."""

    def __init__(self, policy):
        self.policy, self.rounds, self.asked = policy, [], []
        if hasattr(policy, "continue_round"):
            self.continue_round = policy.continue_round

    def allocate(self, *ids, **limits):
        self.rounds.append({})
        self.asked.append((len(ids), limits))
        return self.policy.allocate(*ids, **limits)

    def update(self, ids, successes, rollouts):
        for i, s, n in zip(ids, successes, rollouts, strict=True):
            before = self.rounds[-1].get(int(i), (0, 0))
            self.rounds[-1][int(i)] = (before[0] + int(n), before[1] + int(s))
        self.policy.update(ids, successes, rollouts)


class Fixed:
    """The same counts in every round."""

    def __init__(self, counts):
        self.counts = np.array(counts)

    def allocate(self, prompt_ids=None, budget=None, *, exact=False):
        return self.counts

    def update(self, prompt_ids, successes, rollouts):
        pass


def plan(k, per_round, most=16, **more):
    return {"total_budget": k * per_round, "n_rounds": k, "max_rollouts": most, **more}


POLICIES = {
    "uniform": lambda bank: Uniform(bank, **plan(12, 64, rollouts_per_visit=8)),
    "dapo": lambda bank: DAPO(bank, **plan(12, 64)),
    "ada": lambda bank: ReinforceAda(bank, **plan(12, 64)),
    "resolving": lambda bank: ResolvingAllocator(bank, **plan(12, 64, min_rollouts=2)),
    "fenchel": lambda bank: FenchelDualAllocator(bank, **plan(12, 64, unit_size=4)),
}


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("normalise", "weighting", "mixed_only"),
    [(False, "rollout", False), (True, "prompt", True), (False, "importance", True)],
)
@pytest.mark.parametrize("name", POLICIES)
def test_the_loop_is_the_slow_one(name, optimiser, normalise, weighting, mixed_only):
    pool = loglinear_pool(40, 6, n_held_out=20, seed=2)
    policy = Noting(POLICIES[name](pool.bank()))
    how = {"optimiser": optimiser, "normalise": normalise, "weighting": weighting, "mixed_only": mixed_only}
    exact = name in ("uniform", "resolving")
    result = simulate_learning(policy, pool, 12, 64, learning_rate=0.5, exact=exact, seed=5, **how)
    path = twins.train(pool.features, pool.offsets, policy.rounds, 0.5, optimiser, normalise, weighting, mixed_only)
    np.testing.assert_allclose(result.weights, path[-1], rtol=1e-9, atol=1e-12)
    path = [[0.0] * 6, *path]
    np.testing.assert_allclose(result.trained, [pool.mean_success(w) for w in path], rtol=1e-9)
    np.testing.assert_allclose(result.held_out, [pool.held_out(w) for w in path], rtol=1e-9)
    dealt = [sum(n for n, _ in groups.values()) for groups in policy.rounds]
    live = [sum(n for n, s in groups.values() if 0 < s < n) for groups in policy.rounds]
    assert result.rollouts.tolist() == [0, *np.cumsum(dealt).tolist()]
    assert result.exposure.sum() == result.rollouts[-1] <= 12 * 64
    assert result.signal.tolist() == pytest.approx(
        [a / b if b else np.nan for a, b in zip(live, dealt, strict=True)], nan_ok=True
    )
    for i in range(40):
        assert result.exposure[i] == sum(groups.get(i, (0, 0))[0] for groups in policy.rounds)
    limits = {"budget": 64, "exact": True} if exact else {}
    assert policy.asked == [(0, limits)] * 12


def learn(pool, seed=0, k=60, per_round=128, **how):
    policy = Uniform(pool.bank(), **plan(k, per_round, rollouts_per_visit=8))
    return simulate_learning(policy, pool, k, per_round, **{"learning_rate": 10.0, **how}, seed=seed)


def test_the_seed_decides():
    pool = loglinear_pool(50, 5, n_held_out=20)
    one, same, other = learn(pool), learn(pool), learn(pool, seed=1)
    for name in ("rollouts", "held_out", "trained", "signal", "exposure", "weights"):
        assert (getattr(one, name) == getattr(same, name)).all()
    assert (one.weights != other.weights).all()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"optimiser": "adam", "learning_rate": 0.1},
        {"normalise": True},
        {"weighting": "prompt"},
        {"weighting": "importance"},
        {"mixed_only": True},
    ],
)
def test_success_rises_on_both_sides(how):
    pool = loglinear_pool(200, 20, shared=0.5, n_held_out=500, seed=4)
    result = learn(pool, **how)
    assert result.rollouts[-1] == 60 * 128
    assert result.held_out[-1] > result.held_out[0] + 0.1
    assert result.trained[-1] > result.trained[0] + 0.1
    assert result.held_out[0] < result.area() < result.held_out.max()


def test_nothing_shared_and_many_features_do_not_transfer():
    alone = learn(loglinear_pool(100, 2000, shared=0.0, n_held_out=500, seed=1))
    assert alone.trained[-1] > alone.trained[0] + 0.01
    assert abs(alone.held_out[-1] - alone.held_out[0]) < 0.1 * (alone.trained[-1] - alone.trained[0])


def test_the_step_is_the_exact_gradient_on_average():
    """One round of two rollouts for every prompt, many seeds: (n - 1)/n of the gradient, within its standard error."""
    pool = loglinear_pool(30, 3, n_held_out=1, seed=6)
    steps = np.array(
        [simulate_learning(Fixed([2] * 30), pool, 1, 60, learning_rate=1.0, seed=s).weights for s in range(2000)]
    )
    error = steps.std(axis=0) / np.sqrt(len(steps))
    assert (np.abs(steps.mean(axis=0) - pool.gradient(np.zeros(3)) / 2) < 4.5 * error).all()


def test_batches_are_what_is_offered():
    pool = loglinear_pool(40, 5, n_held_out=5)
    batches = epoch_batches(40, 8, 2, seed=1)
    policy = Noting(Uniform(pool.bank(), **plan(10, 32)))
    result = simulate_learning(policy, pool, 10, 32, learning_rate=1.0, batches=batches)
    assert all(set(groups) <= set(batch.tolist()) for groups, batch in zip(policy.rounds, batches, strict=True))
    assert policy.asked == [(1, {"budget": 32, "exact": True})] * 10
    assert result.rollouts.tolist() == list(range(0, 321, 32))


def test_an_observer_gets_the_true_rates_before_every_round():
    class Clairvoyant(Fixed):
        def __init__(self):
            super().__init__([4, 4, 4])
            self.seen, self.when = [], []

        def observe_rates(self, rates):
            self.seen.append(rates.copy())
            self.when.append("rates")
            rates[:] = 0.0  # the observer's own copy

        def allocate(self, *args, **limits):
            self.when.append("allocate")
            return self.counts

    pool = LogLinearPool(np.eye(3), [0.0, 1.0, -1.0], [[1.0, 1.0, 1.0]], [0.0])
    policy = Clairvoyant()
    result = simulate_learning(policy, pool, 5, 12, learning_rate=2.0, seed=3)
    assert policy.when == ["rates", "allocate"] * 5
    np.testing.assert_allclose([rates.mean() for rates in policy.seen], result.trained[:-1])
    np.testing.assert_allclose(policy.seen[0], pool.rates(np.zeros(3)))
    assert result.trained[-1] > result.trained[0]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_rounds_of_which_nothing_enters_take_no_step(optimiser):
    pool = LogLinearPool([[1.0], [1.0]], [0.0, 60.0], [[1.0]], [0.0])
    idle = simulate_learning(Fixed([0, 0]), pool, 3, 8, learning_rate=1.0, optimiser=optimiser)
    assert (idle.rollouts.tolist(), idle.weights.tolist()) == ([0] * 4, [0.0])
    assert np.isnan(idle.signal).all()
    assert idle.area() == idle.held_out[0] == 0.5
    how = {"learning_rate": 1.0, "optimiser": optimiser, "mixed_only": True, "seed": 1}
    once = simulate_learning(Fixed([4, 0]), pool, 1, 4, **how)
    policy = Fixed([0, 0])
    turns = iter([np.array([4, 0]), np.array([0, 4]), np.array([0, 0])])
    policy.allocate = lambda budget, exact: next(turns)
    then = simulate_learning(policy, pool, 3, 4, **how)
    assert then.weights.tolist() == once.weights.tolist() != [0.0]
    assert then.signal.tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)


def test_a_policy_of_its_own_pace_may_spend_ahead_but_no_more_than_the_run():
    pool = loglinear_pool(2, 2, n_held_out=1)
    turns = iter([[6, 6], [0, 0], [0, 0]])
    policy = Fixed([0, 0])
    policy.allocate = lambda: np.array(next(turns))
    assert simulate_learning(policy, pool, 3, 4, learning_rate=1.0, exact=False).rollouts.tolist() == [0, 12, 12, 12]
    with pytest.raises(ValueError, match=r"^counts must sum to at most the 4 left, got counts = 8\. Correct allocate"):
        simulate_learning(Fixed([4, 4]), pool, 3, 4, learning_rate=1.0, exact=True)
    with pytest.raises(ValueError, match=r"^counts must sum to at most the 4 left, got counts = 8\. Correct allocate"):
        simulate_learning(Fixed([4, 4]), pool, 3, 4, learning_rate=1.0, exact=False)


def test_waves_count_together():
    class Waves(Fixed):
        def continue_round(self, counts, successes):
            return counts // 2

    pool = loglinear_pool(2, 2, n_held_out=1)
    assert simulate_learning(Waves([4, 4]), pool, 1, 14, learning_rate=1.0).exposure.tolist() == [7, 7]
    with pytest.raises(ValueError, match=r"^counts must sum to at most the 1 left, got counts = 2\. Correct allocate"):
        simulate_learning(Waves([4, 4]), pool, 1, 13, learning_rate=1.0)


def curve(rollouts, held_out):
    held_out = np.array(held_out)
    return LearningResult(np.array(rollouts), held_out, held_out, np.ones(len(rollouts) - 1), np.zeros(1), np.zeros(1))


def test_rollouts_to_a_level():
    result = curve([0, 10, 10, 30, 40], [0.2, 0.4, 0.4, 0.6, 0.5])
    levels = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.61]
    assert [result.rollouts_to(level) for level in levels] == pytest.approx([0, 0, 5, 10, 20, 30, np.inf])
    assert curve([0, 8], [0.5, 0.75]).rollouts_to(0.625) == 4.0
    with pytest.raises(ValueError, match=r"^level must be a number in \[0, 1\], got level = 1.5"):
        result.rollouts_to(1.5)


def test_area_is_the_mean_height():
    assert curve([0, 8], [0.5, 0.75]).area() == 0.625
    assert curve([0, 10, 30], [0.2, 0.4, 0.6]).area() == pytest.approx((10 * 0.3 + 20 * 0.5) / 30)
    assert curve([0, 0], [0.5, 0.5]).area() == 0.5


BAD_RUNS = [
    ({"pool": None}, "pool must be a LogLinearPool, got pool = None"),
    ({"n_rounds": 0}, "n_rounds must be at least 1"),
    ({"rollouts_per_round": 2.5}, "rollouts_per_round must be an integer"),
    ({"learning_rate": 0.0}, r"learning_rate must be a number in \(0, 1e\+50\], got learning_rate = 0.0"),
    ({"optimiser": "adamw"}, "optimiser must be 'sgd' or 'adam', got optimiser = 'adamw'"),
    ({"normalise": 1}, "normalise must be True or False"),
    ({"weighting": "mean"}, "weighting must be 'rollout', 'prompt' or 'importance', got weighting = 'mean'"),
    ({"exact": None}, "exact must be True or False"),
    ({"mixed_only": "yes"}, "mixed_only must be True or False"),
    ({"batches": [[0]]}, "batches must hold 2 rounds, got batches = 1"),
    ({"batches": [[0], [4]]}, r"batches must hold rows between 0 and 3, got batches\[1\] = \[4\]"),
    ({"seed": -1}, "seed must seed a random generator"),
]


@pytest.mark.parametrize(("change", "match"), BAD_RUNS)
def test_bad_runs_are_refused_before_they_begin(change, match):
    class Never:
        def allocate(self, *args, **kwargs):
            raise AssertionError("must not be asked")

        update = allocate

    arguments = {"pool": POOL, "n_rounds": 2, "rollouts_per_round": 4, "learning_rate": 1.0, **change}
    with pytest.raises((ValueError, TypeError), match="^" + match):
        simulate_learning(Never(), **arguments)


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ([1.0, 0, 0, 0], "counts must be integers, got counts = dtype"),
        ([-1, 1, 0, 0], r"counts must be multiples of 1 in \[0, 4\], got"),
        ([1, 1], r"counts must have one entry per prompt on offer, shape \(4,\), got counts = \(2,\)"),
    ],
)
def test_counts_that_no_allocator_may_return(counts, match):
    with pytest.raises(ValueError, match="^" + match):
        simulate_learning(Fixed(counts), POOL, 1, 4, learning_rate=1.0)
