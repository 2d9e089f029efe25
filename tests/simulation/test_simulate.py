"""Pools, replayed tables and simulated runs."""

import csv
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon, OfflineOracle, SaturatingUtility
from cero_alloc.baselines import DAPO, NGU, SARA, VIGOR, PilotCommit, ReinforceAda, SpeedRL, Uniform
from cero_alloc.simulation import (
    Pool,
    drifting_pool,
    epoch_batches,
    known_bank,
    load_counts,
    path_optimum_bound,
    regret_bound,
    simulate,
    static_pool,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
HEADER = "prompt_id,epoch,trials,successes\n"


def run(pool, rounds, **kwargs):
    policy = FenchelDualAllocator(
        pool.bank(), total_budget=pool.n_prompts * rounds, n_rounds=rounds, max_rollouts=2, **kwargs
    )
    return simulate(policy, pool, rounds, seed=1)


def test_result_adds_up():
    pool = static_pool(20, seed=1)
    result = run(pool, 40)
    counts = result.counts
    assert counts.shape == (40, 20)
    assert (counts.sum(axis=0) == result.exposure).all()
    assert (result.group_successes <= result.group_rollouts).all()
    q = pool.rates[0] * (1 - pool.rates[0])
    assert result.achieved == pytest.approx(SaturatingUtility().value(q, result.exposure / 40).sum(), rel=1e-12)
    optimum = OfflineOracle().solve(q, 800, equal_share=40, upper=80, integer=True).optimum
    assert result.regret == pytest.approx((optimum - result.achieved) / 20, abs=1e-15)
    np.testing.assert_allclose(result.pacing_gap, np.cumsum(counts.sum(axis=1)) - np.arange(1, 41) * 20)
    assert result.allocating_rounds == np.count_nonzero(counts.sum(axis=1))
    assert (result.mean_counts.sum(axis=1) == 20).all()
    assert result.variation == 0.0
    mixed = (result.group_successes > 0) & (result.group_successes < result.group_rollouts)
    assert result.mixed_group_rate == mixed.mean()


def test_same_seed_same_run():
    pool = static_pool(10, seed=2)
    first, second = run(pool, 30), run(pool, 30)
    assert (first.counts == second.counts).all()
    assert (first.group_successes == second.group_successes).all()


def test_proxy_error_is_that_of_the_closed_round():
    pool = static_pool(4, seed=3)
    bank = pool.bank()
    policy = Uniform(bank, total_budget=8, n_rounds=1, max_rollouts=2)
    result = simulate(policy, pool, 1, seed=0)
    q = pool.rates[0] * (1 - pool.rates[0])
    assert result.proxy_error[0] == pytest.approx(np.abs(bank.value() - q).mean())
    assert np.isnan(result.price).all()


def test_drift_values_new_exposure_at_the_rounds_own_rate():
    pool = drifting_pool(6, 0.8, 0.8, drift=1.0, seed=4)
    result = run(pool, 12)
    utility, z, worth = SaturatingUtility(), np.zeros(6), 0.0
    values = []
    for k, n in enumerate(result.counts):
        p = pool.at(k, 12)
        q = p * (1 - p)
        values.append(q)
        worth += (utility.value(q, (z + n) / 12) - utility.value(q, z / 12)).sum()
        z += n
    assert result.achieved == pytest.approx(worth, rel=1e-12)
    assert result.variation == pytest.approx(np.abs(np.diff(values, axis=0)).max(axis=1).sum())
    bound, _ = path_optimum_bound(np.array(values).T, result.horizon, utility)
    assert result.optimum == pytest.approx(bound)
    assert result.achieved <= bound


def test_path_bound_needs_no_fine_price():
    horizon = Horizon(n_prompts=3, n_rounds=8, total_budget=24, max_rollouts=2, round_capacity=6)
    q = np.random.default_rng(0).random((3, 8)) / 4
    fine, _ = path_optimum_bound(q, horizon, SaturatingUtility(), tolerance=1e-12)
    rough, price = path_optimum_bound(q, horizon, SaturatingUtility())
    assert fine <= rough <= fine * (1 + 1e-4)
    assert price > 0
    abundant = Horizon(n_prompts=3, n_rounds=8, total_budget=48, max_rollouts=2, round_capacity=6)
    _, price = path_optimum_bound(q, abundant, SaturatingUtility())
    assert price == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match=r"values must have shape \(3, 8\), got values = \(8, 3\)"):
        path_optimum_bound(q.T, horizon, SaturatingUtility())


def test_known_bank_never_learns():
    pool = Pool([0.0, 0.3, 1.0])
    bank = known_bank(pool)
    before = bank.value()
    np.testing.assert_allclose(before, [0.0, 0.21, 0.0], atol=1e-14)
    bank.update(None, [0, 0, 0], [1000, 1000, 1000])
    np.testing.assert_allclose(bank.value(), before, atol=1e-11)


def test_string_ids():
    pool = Pool([[0.2, 0.8]], ["x", "y"])
    result = run(pool, 16)
    assert result.exposure.sum() <= 32
    assert result.regret <= result.bound


def test_any_object_with_two_methods_is_a_policy():
    class Everyone:
        def allocate(self, prompt_ids=None, budget=None, *, exact=False):
            return np.ones(3, dtype=np.int64)

        def update(self, prompt_ids, successes, rollouts):
            pass

    horizon = Horizon(n_prompts=3, n_rounds=5, total_budget=15, max_rollouts=1, round_capacity=3)
    result = simulate(Everyone(), static_pool(3), 5, horizon=horizon)
    assert result.exposure.tolist() == [5, 5, 5]
    assert np.isnan(result.proxy_error).all()
    assert np.isnan(result.bound)
    assert np.isnan(result.lift()).all()
    assert np.isnan(result.posterior_mean).all()
    with pytest.raises(ValueError, match="horizon must be given for a policy without one"):
        simulate(Everyone(), static_pool(3), 5)


def test_a_run_without_groups():
    pool = static_pool(3)
    policy = FenchelDualAllocator(pool.bank(), total_budget=1, n_rounds=1, max_rollouts=1, initial_price=1.0)
    result = simulate(policy, pool, 1)
    assert result.allocating_rounds == 0
    assert np.isnan(result.mixed_group_rate)
    assert result.regret <= result.bound


def test_lift_and_variance():
    pool = static_pool(30, 0.5, 0.5, seed=6)
    result = run(pool, 64)
    lift = result.lift()
    assert lift.shape == (5,)
    uniform = simulate(Uniform(pool.bank(), total_budget=30 * 64, n_rounds=64, max_rollouts=2), pool, 64)
    np.testing.assert_allclose(uniform.lift()[~np.isnan(uniform.lift())], 1.0)  # all prompts in all rounds
    assert np.isnan(uniform.observed_variance()).all()  # groups of one
    counts = Uniform(pool.bank(), total_budget=30 * 64, n_rounds=64, max_rollouts=2, rollouts_per_visit=2)
    seen = simulate(counts, pool, 64).observed_variance()
    assert set(seen) == {0.0, 0.5}


def test_paths():
    pool = Pool([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    assert [pool.at(k, 6)[0] for k in range(6)] == [0, 0, 1, 1, 0.5, 0.5]
    linear = Pool(pool.rates, path="linear")
    assert [linear.at(k, 5)[0] for k in range(5)] == [0, 0.5, 1, 0.75, 0.5]
    assert linear.at(0, 1).tolist() == [0, 1]
    assert not pool.static
    assert Pool([0.2, 0.4]).static
    assert static_pool(5, seed=1).sample(8, seed=2).n_prompts == 8
    assert len(set(static_pool(5, seed=1).sample(5, seed=2).rates[0])) == 5


def test_load_counts(tmp_path):
    file = tmp_path / "counts.csv"
    file.write_text(HEADER + "a,1,10,5\nb,1,4,4\na,0,10,1\nb,0,4,0\n")
    pool = load_counts(file, path="linear")
    assert pool.prompt_ids == ["a", "b"]
    assert pool.rates.tolist() == [[0.1, 0.0], [0.5, 1.0]]
    assert pool.at(1, 3).tolist() == [0.3, 0.5]
    assert pool.bank().prompt_ids == ("a", "b")


USUAL = [
    "successes,prompt_id,note,epoch,trials",
    "n_correct,prompt,note,step,n",
    "num_correct,problem_id,note,step,rollouts",
    "passed,id,note,epoch,n",
    "Passed,ID,step,Epoch,Trials",  # where there are both, the epoch is taken
]


@pytest.mark.parametrize("header", USUAL)
def test_load_counts_finds_the_usual_columns(tmp_path, header):
    file = tmp_path / "counts.csv"
    file.write_text(header + "\n5,a,0,1,10\n3,a,1,0,10\n")
    assert load_counts(file).rates.tolist() == [[0.3], [0.5]]


def test_load_counts_takes_the_columns_it_is_given(tmp_path):
    file = tmp_path / "counts.csv"
    file.write_text("id,task,epoch,phase,n,k,successes,wins\na,x,0,2,10,4,5,1\na,y,0,2,10,4,5,3\n")
    pool = load_counts(file, prompt_id="task", epoch="phase", trials="k", successes="wins")
    assert pool.prompt_ids == ["x", "y"]
    assert pool.rates.tolist() == [[0.25, 0.75]]
    with pytest.raises(ValueError, match=r"missing: \['tasks'\], got \['id', 'task', .*pass their names as prompt_id="):
        load_counts(file, prompt_id="tasks")


def test_prompts_without_a_line_keep_their_rates(tmp_path):
    file = tmp_path / "counts.csv"
    file.write_text(HEADER + "a,0,10,5\nb,2,10,1\nc,0,10,9\nc,2,10,7\nb,3,10,2\na,1,10,6\nd,3,10,4\n")
    pool = load_counts(file)
    assert pool.prompt_ids == ["a", "b", "c", "d"]
    assert pool.rates.T.tolist() == [[0.5, 0.6, 0.6, 0.6], [0.1, 0.1, 0.1, 0.2], [0.9, 0.9, 0.7, 0.7], [0.4] * 4]
    match = r"prompt 'a' has no line for epoch 2\. Give every prompt every epoch, or pass missing='hold'"
    with pytest.raises(ValueError, match=match):
        load_counts(file, missing="raise")
    file.write_text(HEADER + "a,0,10,5\nb,0,10,1\n")
    assert load_counts(file, missing="raise").rates.tolist() == load_counts(file).rates.tolist() == [[0.5, 0.1]]


@pytest.mark.parametrize(
    ("name", "shape"), [("cases/logs/47_counts_ragged.csv", (3, 16)), ("data/grpo-run-math-1.5b.csv", (57, 605))]
)
def test_measured_runs_with_ragged_epochs_load(name, shape):
    file = DATA.parent / name
    if not file.is_file():
        pytest.skip(f"the measured run ../shared/{name} is not in this checkout's surroundings")
    pool = load_counts(file)
    assert pool.rates.shape == shape
    with open(file, newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) < pool.rates.size
    column = {prompt: i for i, prompt in enumerate(pool.prompt_ids)}
    for line in lines:  # the epochs of both files count from 0
        rate = int(line["successes"]) / int(line["trials"])
        assert pool.rates[int(line["epoch"]), column[line["prompt_id"]]] == rate
    with pytest.raises(ValueError, match="has no line for epoch"):
        load_counts(file, missing="raise")


BAD_FILES = [
    ("prompt_id,epoch\n", r"missing: \['successes', 'trials'\]"),
    (HEADER, "must hold at least one line of counts"),
    (HEADER + "a,0,10,5\na,0,10,5\n", "line 3: prompt 'a' appears twice in epoch 0"),
    (HEADER + "a,0,10,11\n", "line 2: need 0 <= successes <= trials"),
    (HEADER + "a,0,0,0\n", "line 2: need 0 <= successes <= trials and trials > 0"),
    (HEADER + "a,zero,10,5\n", "line 2: epoch and trials must be integers"),
    ("prompt,step,n,reward\na,0,10,5\n", r"missing: \['successes'\], got \['prompt', 'step', 'n', 'reward'\]"),
    ("trials,successes,epoch,prompt_id\n8,7,0\n", "line 2: a line must name its prompt"),
    ("trials,successes,prompt_id,epoch\n8,7,a\n", "line 2: epoch and trials must be integers"),
]


@pytest.mark.parametrize(("text", "match"), BAD_FILES)
def test_bad_tables(tmp_path, text, match):
    file = tmp_path / "counts.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=match):
        load_counts(file)


def test_errors():
    with pytest.raises(ValueError, match="rates must be finite, at least 0 and at most 1"):
        Pool([0.2, 1.2])
    with pytest.raises(ValueError, match=r"rates must have shape \(n_stages, n_prompts\), got rates = \(1, 1, 1\)"):
        Pool([[[0.5]]])
    with pytest.raises(ValueError, match="path must be 'step' or 'linear', got path = 'curve'"):
        Pool([0.2], path="curve")
    with pytest.raises(ValueError, match="prompt_ids must name the 2 columns of rates"):
        Pool([0.2, 0.3], ["a"])
    pool = static_pool(3)
    policy = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=9, n_rounds=3, max_rollouts=2)
    with pytest.raises(ValueError, match="horizon must fit 3 prompts and 4 rounds"):
        simulate(policy, pool, 4)

    class Broken:
        horizon = policy.horizon

        def allocate(self, *args):
            return np.array([1, -1, 2])

        def update(self, *args):
            pass

    with pytest.raises(ValueError, match=r"counts must be multiples of 1 in \[0, 2\], got counts = \[1, -1, 2\]"):
        simulate(Broken(), pool, 3)
    Broken.allocate = lambda self: np.array([0, 0, 3])
    with pytest.raises(ValueError, match=r"counts must be multiples of 1 in \[0, 2\]"):
        simulate(Broken(), pool, 3)
    Broken.allocate = lambda self: np.array([2, 2, 2])
    with pytest.raises(ValueError, match="counts must sum to at most the 3 left, got counts = 6"):
        simulate(Broken(), pool, 3)
    Broken.allocate = lambda self: np.array([1.0, 0.0, 2.0])
    with pytest.raises(ValueError, match="counts must be integers"):
        simulate(Broken(), pool, 3)


def test_bound_grows_with_error_and_variation():
    horizon = Horizon(n_prompts=64, n_rounds=4096, total_budget=64 * 4096, max_rollouts=2, round_capacity=128)
    utility = SaturatingUtility()
    assert regret_bound(horizon, utility) == pytest.approx(3 / 64)
    assert regret_bound(horizon, utility, proxy_error=0.01) == pytest.approx(3 / 64 + 0.16)
    assert regret_bound(horizon, utility, variation=0.01) == pytest.approx(3 / 64 + 0.12)
    assert regret_bound(horizon, SaturatingUtility("capped-linear"), variation=0.01) == pytest.approx(3 / 64 + 0.16)
    assert regret_bound(horizon, utility, proxy_error=1.0) == 1.0
    assert regret_bound(horizon, SaturatingUtility("log", saturation=3.0), proxy_error=1.0) == 3.0


@pytest.mark.skipif(
    not DATA.is_dir(), reason="measured success counts (../shared/data) are not in this checkout's surroundings"
)
@pytest.mark.parametrize("file", sorted(DATA.glob("*.csv")), ids=lambda file: file.stem)
def test_measured_rates_stay_within_the_theorems(file):
    pool = load_counts(file)
    assert pool.n_prompts in (118, 479, 605)
    small = pool.sample(40, seed=0)
    result = run(small, 32)
    assert 0 <= result.regret <= result.bound


def test_epoch_batches_offer_every_prompt_once_an_epoch():
    batches = epoch_batches(10, 4, 3, seed=1)
    assert [batch.size for batch in batches] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(np.concatenate(batches[3 * epoch : 3 * epoch + 3])) == list(range(10))
    assert not np.array_equal(batches[0], batches[3])
    again = epoch_batches(10, 4, 3, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got batch_size = 0"):
        epoch_batches(10, 0, 3)


def test_batches_are_what_the_policy_is_offered():
    class Recorder(Uniform):
        seen: ClassVar[list] = []

        def allocate(self, prompt_ids=None, budget=None, *, exact=False):
            self.seen.append(list(prompt_ids))
            return super().allocate(prompt_ids, budget, exact=exact)

    pool = Pool([0.1, 0.5, 0.9, 0.4], prompt_ids=list("abcd"))
    batches = [np.array([2, 0]), np.array([1]), np.array([], dtype=int), [3, 2]]
    policy = Recorder(pool.bank(), total_budget=8, n_rounds=4, max_rollouts=4)
    result = simulate(policy, pool, 4, seed=3, batches=batches)
    assert Recorder.seen == [["c", "a"], ["b"], [], ["d", "c"]]
    assert result.exposure.sum() == 8
    assert set(result.group_prompt[result.group_round == 0]) <= {0, 2}
    assert np.isnan(result.bound)
    # The optimum uses that a, b and d are offered once and c twice.
    q, share = np.array([0.09, 0.25, 0.09, 0.24]), 2.0
    best = OfflineOracle().solve(q, 8, equal_share=share, upper=[4, 4, 8, 4], integer=True).optimum
    assert result.optimum == pytest.approx(best, rel=1e-15)
    assert result.achieved == pytest.approx(SaturatingUtility().value(q, result.exposure / share).sum())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([[0]], r"batches must hold 2 rounds, got batches = 1\. Give one batch per round\."),
        ([[0], [4]], r"batches must hold rows between 0 and 3, got batches\[1\] = \[4\]"),
        ([[-1], [0]], r"batches must hold rows between 0 and 3, got batches\[0\] = \[-1\]"),
        ([[0.5], [0]], r"batches must hold rows between 0 and 3, got batches\[0\] = \[0\.5\]"),
        ([[[0]], [0]], r"batches must hold rows between 0 and 3"),
    ],
)
def test_batches_that_do_not_fit(batches, message):
    pool = static_pool(4)
    policy = Uniform(pool.bank(), total_budget=4, n_rounds=2, max_rollouts=2)
    with pytest.raises(ValueError, match=message):
        simulate(policy, pool, 2, batches=batches)


WAVES = (DAPO, ReinforceAda, VIGOR, SpeedRL, PilotCommit, NGU, SARA)


@pytest.mark.parametrize("rule", WAVES)
@pytest.mark.parametrize("batches", [None, epoch_batches(40, 20, 6, seed=3)])
def test_waves_of_a_round_are_one_group_per_prompt(rule, batches):
    pool = static_pool(40, 0.6, 0.6, seed=5)
    policy = rule(pool.bank(), total_budget=12 * 200, n_rounds=12, max_rollouts=32)
    result = simulate(policy, pool, 12, seed=6, batches=batches)
    assert result.group_rollouts.sum() == result.exposure.sum() == policy.ledger.dealt <= 12 * 200
    assert (policy.ledger.exposure_units == result.exposure).all()
    pairs = np.stack([result.group_round, result.group_prompt], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert result.group_rollouts.max() <= 32
    assert (result.group_successes <= result.group_rollouts).all()
    assert (np.cumsum(result.counts.sum(axis=1)) <= np.arange(1, 13) * 200).all()
    assert policy.ledger.outstanding.sum() == 0
    alpha, beta = policy.bank.alpha - 1, policy.bank.beta - 1
    np.testing.assert_allclose(alpha + beta, result.exposure)
    np.testing.assert_allclose(alpha, np.bincount(result.group_prompt, result.group_successes, minlength=40))
    assert result.counts.sum(axis=1).tolist() == [
        int(result.group_rollouts[result.group_round == k].sum()) for k in range(12)
    ]
    assert result.regret >= 0


@pytest.mark.parametrize("rule", WAVES)
def test_waves_spend_no_more_than_uniform_and_can_be_repeated(rule):
    pool = static_pool(30, 0.6, 0.6, seed=7)
    run = {"total_budget": 10 * 160, "n_rounds": 10, "max_rollouts": 32, "seed": 1}
    first, second = (simulate(rule(pool.bank(), **run), pool, 10, seed=8) for _ in range(2))
    even = simulate(Uniform(pool.bank(), **run), pool, 10, seed=8)
    assert (first.counts == second.counts).all()
    assert first.exposure.sum() <= even.exposure.sum() == 1600
    assert first.optimum == even.optimum
    assert first.horizon == even.horizon


def test_waves_without_feedback():
    pool = Pool([0.5] * 8)
    policy = SpeedRL(pool.bank(), total_budget=8 * 24, n_rounds=2, max_rollouts=24)
    result = simulate(policy, pool, 2, feedback=False)
    assert set(result.group_rollouts.tolist()) == {4}  # no group was ever mixed
    assert policy.bank.alpha.tolist() == [1.0] * 8


def test_a_policy_in_waves_that_breaks_the_caps_is_refused():
    class Greedier:
        horizon = Horizon(n_prompts=2, n_rounds=1, total_budget=8, max_rollouts=4, round_capacity=8)

        def allocate(self):
            return np.array([4, 0])

        def update(self, *args):
            pass

        def continue_round(self, counts, successes):
            return counts // 4  # one more, then none

    match = r"counts must be multiples of 1 in \[0, 4\], got counts = \[5\]"
    with pytest.raises(ValueError, match=match):
        simulate(Greedier(), Pool([0.5, 0.5]), 1)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize(("wave", "g"), [([1, 0], 1), ([0, 2], 2), ([4, 4], 1), ([2, 4], 2)])
def test_a_policy_that_never_ends_its_round_is_stopped(wave, g, feedback):
    """Every wave on its own keeps to the caps: what stops it is that the budget is gone. Its own count stops a hang."""

    class Endless:
        horizon = Horizon(n_prompts=2, n_rounds=3, total_budget=24, unit_size=g, max_rollouts=4, round_capacity=8)

        def __init__(self):
            self.dealt = 0

        def allocate(self):
            return self.continue_round(None, None)

        def update(self, *args):
            pass

        def continue_round(self, counts, successes):
            assert self.dealt <= 24, "asked for more after the budget was gone"
            self.dealt += sum(wave)
            return np.array(wave)

    policy = Endless()
    left = 24 % sum(wave)
    match = rf"^counts must sum to at most the {left} left, got counts = {sum(wave)}\. Correct allocate\.$"
    with pytest.raises(ValueError, match=match):
        simulate(policy, Pool([0.5, 0.5]), 3, feedback=feedback)
    assert policy.dealt == 24 - left + sum(wave)  # at the first wave beyond


@pytest.mark.parametrize("wave", [[-1, 0], [1, -1], [5, 0], [0.5, 0.0]])
def test_a_wave_that_breaks_the_caps_is_refused_before_it_is_drawn(wave):
    class Broken:
        horizon = Horizon(n_prompts=2, n_rounds=1, total_budget=8, max_rollouts=4, round_capacity=8)

        def __init__(self):
            self.reports = 0

        def allocate(self):
            return np.array([1, 1])

        def update(self, *args):
            self.reports += 1

        def continue_round(self, counts, successes):
            return np.array(wave)

    policy = Broken()
    with pytest.raises(ValueError, match="counts must be"):
        simulate(policy, Pool([0.5, 0.5]), 1)
    assert policy.reports == 1


class Meddler:
    """Deals at random, and lets the bank age, refit, forget at another rate or learn from elsewhere at any time."""

    def __init__(self, bank, horizon, rng, quiet):
        self.bank, self.horizon, self.rng, self.quiet = bank, horizon, rng, quiet
        self.means, self.values = [], []

    def meddle(self):
        bank, size = self.bank, len(self.bank)
        match 0 if self.quiet else self.rng.integers(7):
            case 1:
                bank.tick(int(self.rng.integers(1, 4)))
            case 2:
                bank.fit_prior()
            case 3:
                bank.fit_prior(self.rng.integers(0, 2, size))
            case 4:
                n = self.rng.integers(0, 9, size)
                bank.update(None, n * self.rng.random(size), n)
            case 5:
                bank.load_state_dict(BetaPosteriorBank(size).state_dict())
            case 6:
                rows = self.rng.permutation(size)
                bank.select_forgetting([(rows, self.rng.integers(0, 5, size), np.full(size, 4))] * 3)

    def allocate(self):
        self.means.append(self.bank.mean())
        self.values.append(self.bank.value())
        self.meddle()
        return self.rng.integers(0, 3, len(self.bank)) * (self.rng.random(len(self.bank)) < 0.5)

    def update(self, prompt_ids, successes, rollouts):
        self.bank.update(prompt_ids, successes, rollouts)
        self.meddle()


@pytest.mark.parametrize("seed", range(40))
def test_what_the_bank_predicts_is_recorded_whatever_a_policy_does_to_it(seed):
    rng = np.random.default_rng(seed)
    size, rounds = int(rng.integers(1, 30)), int(rng.integers(1, 20))
    pool = static_pool(size, seed=rng) if seed % 2 else drifting_pool(size, seed=rng)
    horizon = Horizon(
        n_prompts=size, n_rounds=rounds, total_budget=2 * size * rounds, max_rollouts=2, round_capacity=2 * size
    )
    prior = (1.0, 1.0) if seed % 3 else (rng.uniform(0.1, 3, size), 1.0)
    policy = Meddler(pool.bank(prior=prior, forgetting=0.9 if seed % 5 == 0 else 1.0), horizon, rng, seed % 4 == 0)
    result = simulate(policy, pool, rounds, seed=seed)
    means, values = np.array(policy.means), np.array([*policy.values, policy.bank.value()])
    dealt = (result.group_round, result.group_prompt)
    np.testing.assert_allclose(result.group_mean, means[dealt], rtol=1e-14)
    np.testing.assert_allclose(result.group_value, values[dealt], rtol=1e-14)
    places = np.minimum((means * 5).astype(int), 4)
    assert (result.mean_counts == (places[:, :, None] == np.arange(5)).sum(axis=1)).all()
    p = np.array([pool.at(k, rounds) for k in range(rounds)])
    np.testing.assert_allclose(result.proxy_error, np.abs(values[1:] - p * (1 - p)).mean(axis=1), rtol=1e-12)


def test_a_bank_of_other_prompts_is_refused():
    class Other:
        bank = BetaPosteriorBank(4)
        horizon = Horizon(n_prompts=3, n_rounds=1, total_budget=3, max_rollouts=1, round_capacity=3)
        allocate = update = None

    with pytest.raises(TypeError, match=r"^policy must have the methods allocate and update, got"):
        simulate(Other(), static_pool(3), 1)
    Other.allocate, Other.update = list, dict
    with pytest.raises(ValueError, match=r"^bank must hold the pool's 3 prompts, got bank = 4\. Build it with pool"):
        simulate(Other(), static_pool(3), 1)


def test_keeps_the_expectations_of_the_bank_after_the_run_and_the_utility():
    pool, utility = static_pool(12, seed=5), SaturatingUtility("log", saturation=2.0)
    policy = FenchelDualAllocator(pool.bank(), total_budget=240, n_rounds=20, max_rollouts=2, utility=utility)
    result = simulate(policy, pool, 20)
    np.testing.assert_array_equal(result.posterior_mean, policy.bank.mean())
    assert result.utility is utility
    uniform = Uniform(pool.bank(), total_budget=240, n_rounds=20, max_rollouts=2)
    assert simulate(uniform, pool, 20).utility == SaturatingUtility()
