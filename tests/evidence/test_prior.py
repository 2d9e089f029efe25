"""Empirical Bayes and prequential likelihood: the likelihood itself, fits, guards, the choice of forgetting, messages."""

import csv
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from cero_alloc import BetaPosteriorBank
from cero_alloc._evidence import prior
from cero_alloc._evidence.forgetting import ForgettingChoice
from cero_alloc._evidence.prior import PriorFit, fit_prior, log_evidence

quick = settings(max_examples=120)
few = settings(max_examples=20)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = sorted(DATA.glob("*.csv"))


def exact_log_evidence(a, b, s, f):
    """The same by rising factorials in exact arithmetic, for whole s and f."""
    a, b = Fraction(a), Fraction(b)
    ratio = Fraction(1)
    for i in range(s):
        ratio *= a + i
    for i in range(f):
        ratio *= b + i
    for i in range(s + f):
        ratio /= a + b + i
    with localcontext() as context:
        context.prec = 50
        return float((Decimal(ratio.numerator) / Decimal(ratio.denominator)).ln())


def pool(seed, size, a, b, n=4):
    """Successes of n rollouts each, at rates drawn from Beta(a, b)."""
    rng = np.random.default_rng(seed)
    return rng.binomial(n, rng.beta(a, b, size)).astype(float)


def bank_of(succ, n=4, **options):
    bank = BetaPosteriorBank(len(succ), **options)
    bank.update(None, succ, np.broadcast_to(n, len(succ)))
    return bank


def grid_optimum(succ, fail, center=None, width=0.0, points=201):
    """Best log-likelihood and (log-odds, log strength) on a dense grid, of the whole box or around a point."""
    if center is None:
        odds, strength = np.linspace(-8, 8, points), np.linspace(math.log(1e-2), math.log(1e3), points)
    else:
        odds, strength = (np.linspace(x - width, x + width, points) for x in center)
    mean = 1 / (1 + np.exp(-odds[:, None]))
    a, b = np.exp(strength) * mean, np.exp(strength) * (1 - mean)
    pairs, counts = np.unique(np.stack([succ, fail]), axis=1, return_counts=True)
    total = sum(n * (betaln(a + s, b + f) - betaln(a, b)) for s, f, n in zip(*pairs, counts, strict=True))
    i, j = np.unravel_index(total.argmax(), total.shape)
    return total[i, j], (odds[i], strength[j])


# ---------------------------------------------------------------- the likelihood

parameters = st.floats(-8, 15).map(lambda x: 10.0**x)


@quick
@given(a=parameters, b=parameters, s=st.integers(0, 60), f=st.integers(0, 60))
def test_log_evidence_matches_exact_products(a, b, s, f):
    expected = exact_log_evidence(a, b, s, f)
    assert float(log_evidence(a, b, s, f)) == pytest.approx(expected, rel=2e-13, abs=1e-14)


@pytest.mark.parametrize(
    ("a", "b", "s", "f"),
    [(1e15, 1.0, 4, 0), (1e15, 1e-8, 4, 0), (1e15, 1e15, 300, 200), (1e9, 3e12, 2, 9), (1e-8, 1e15, 0, 50)],
)
def test_large_parameters_keep_relative_accuracy(a, b, s, f):
    # Differences of betaln have nothing left here: the first result is 4e-15 between numbers of the size of 30.
    assert float(log_evidence(a, b, s, f)) == pytest.approx(exact_log_evidence(a, b, s, f), rel=1e-13, abs=0)


@quick
@given(
    a=st.floats(1e-3, 1e3),
    b=st.floats(1e-3, 1e3),
    s=st.floats(0, 50),
    f=st.floats(0, 50),
)
def test_log_evidence_of_fractional_counts(a, b, s, f):
    here = float(log_evidence(a, b, s, f))
    assert here <= 1e-14
    assert here == pytest.approx(betaln(a + s, b + f) - betaln(a, b), rel=1e-9, abs=1e-9)
    # One more success is worth the log of the posterior mean.
    step = float(log_evidence(a, b, s + 1, f)) - here
    assert step == pytest.approx(math.log((a + s) / (a + b + s + f)), rel=1e-10, abs=1e-12)
    assert float(log_evidence(b, a, f, s)) == pytest.approx(here, rel=1e-12, abs=1e-14)


def test_log_evidence_of_nothing_and_of_very_much():
    assert log_evidence([1e-8, 1.0, 1e15], [1e15, 2.0, 1e15], 0, 0).tolist() == [0.0, 0.0, 0.0]
    assert float(log_evidence(1, 1, 1e9, 0)) == pytest.approx(-math.log1p(1e9), rel=1e-14)
    assert float(log_evidence(1e-285, 1e-285, 3, 0)) == pytest.approx(-math.log(2), rel=1e-12)
    assert float(log_evidence(1e300, 1e300, 3, 2)) == pytest.approx(-5 * math.log(2), rel=1e-14)
    assert log_evidence(np.ones((2, 1)), 1.0, [0.0, 1.0, 2.0], 1.0).shape == (2, 3)


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.5), (1.0, 1.0), (2.0, 6.0), (0.1, 0.3), (8.0, 8.0)])
def test_known_priors_come_back(a, b):
    fits = [bank_of(pool(seed, 2000, a, b, 8), 8).fit_prior() for seed in range(8)]
    assert all(fit.fitted for fit in fits)
    mean = np.mean([fit.alpha / (fit.alpha + fit.beta) for fit in fits])
    strength = np.exp(np.mean([math.log(fit.alpha + fit.beta) for fit in fits]))
    assert mean == pytest.approx(a / (a + b), abs=0.01)
    assert strength == pytest.approx(a + b, rel=0.06)


pools = st.tuples(
    st.integers(0, 10**6), st.integers(20, 60), st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([2, 4, 9, 40])
)


@few
@given(pools, st.sampled_from([1.0, 0.9, 0.5]))
def test_a_fit_is_the_optimum_of_a_dense_grid(sizes, rho):
    seed, size, log_a, log_b, most = sizes
    rng = np.random.default_rng(seed)
    rollouts = rng.integers(2, most + 1, size)
    succ = rng.binomial(rollouts, rng.beta(10**log_a, 10**log_b, size)).astype(float)
    bank = BetaPosteriorBank(size, forgetting=rho)
    for row in rng.permutation(size):
        bank.tick(int(rng.integers(0, 2)))
        bank.update([row], [succ[row]], [rollouts[row]])
    s, f = bank.alpha - 1, bank.beta - 1
    fit = bank.fit_prior()
    if fit.status == "too few prompts":
        assert np.count_nonzero(s + f >= 2 - 1e-6) < 20
        return
    top, at = grid_optimum(s, f)
    if fit.fitted:
        reached = float(log_evidence(fit.alpha, fit.beta, s, f).sum())
        assert reached >= top - 1e-9
        here = (math.log(fit.alpha / fit.beta), math.log(fit.alpha + fit.beta))
        near, place = grid_optimum(s, f, here, 1e-2)
        assert reached >= near - 1e-10
        np.testing.assert_allclose(place, here, atol=2e-4)  # the grid's own step
    else:
        low, high = math.log(1e-2), math.log(1e3)
        assert not s.any() or not f.any() or min(at[1] - low, high - at[1], 8 - abs(at[0])) < 0.2


def test_the_higher_of_two_hills():
    # Evidence that has faded to very different weights: one hill at moderate strength, and a lower one against the
    # strong side, to which the best starting points lead.
    succ = [
        0.001, 26.5, 0, 17, 13, 0.012, 0.125, 3, 0.002, 1.438, 0.005, 0.003, 0, 0.007, 0.938, 0, 0.027, 1.25, 1.75, 0, 6,
    ]  # fmt: skip
    fail = [0.25, 0, 0.004, 0, 0, 0, 0, 0, 0, 0, 0, 0.312, 0.844, 0, 0, 0.003, 0, 0, 0, 0.013, 0]
    s, f = np.tile(succ, 4), np.tile(fail, 4)  # copies leave the hills where they are, and there are enough prompts
    fit = fit_prior(s, f, np.ones(1), np.ones(1))
    assert fit.fitted
    assert fit.alpha + fit.beta == pytest.approx(0.892, abs=1e-3)
    assert float(log_evidence(fit.alpha, fit.beta, s, f).sum()) >= grid_optimum(s, f)[0] - 1e-9


@few
@given(st.integers(0, 10**6), st.integers(1_001, 3_000), st.floats(-1.5, 2), st.floats(-1.5, 2), st.booleans())
def test_a_search_that_begins_with_a_sample_ends_where_the_whole_one_does(seed, size, log_a, log_b, lumped):
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 10, size)
    s = rng.binomial(n, rng.beta(10**log_a, 10**log_b, size)) * 1.0
    fading = rng.uniform(0.3, 1.0, size)
    s, f = s * fading, (n - s) * fading
    if lumped:  # a third of the evidence is that of one pair
        s[: size // 3], f[: size // 3] = 1.0, 3.0
    begun = fit_prior(s, f, np.ones(1), np.ones(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior, "_MANY", 10**9)
        whole = fit_prior(s, f, np.ones(1), np.ones(1))
    assert begun.status == whole.status
    assert (begun.alpha, begun.beta) == pytest.approx((whole.alpha, whole.beta), rel=1e-6)
    assert begun.log_likelihood_gain == pytest.approx(whole.log_likelihood_gain, rel=1e-9, abs=1e-9)


@few
@given(pools)
def test_order_does_not_matter_and_sides_swap(sizes):
    seed, size, log_a, log_b, n = sizes
    succ = pool(seed, size, 10**log_a, 10**log_b, n)
    order = np.random.default_rng(seed).permutation(size)
    fit = bank_of(succ, n).fit_prior()
    shuffled = bank_of(succ[order], n).fit_prior()
    swapped = bank_of(n - succ, n).fit_prior()
    assert fit.status == shuffled.status == swapped.status
    assert (fit.alpha, fit.beta, fit.n_prompts) == (shuffled.alpha, shuffled.beta, shuffled.n_prompts)
    assert (swapped.alpha, swapped.beta) == pytest.approx((fit.beta, fit.alpha), rel=1e-5)
    assert swapped.log_likelihood_gain == pytest.approx(fit.log_likelihood_gain, abs=1e-9)


def test_a_fit_changes_the_prior_and_nothing_else():
    succ = pool(0, 300, 0.4, 1.2)
    bank = bank_of(succ, forgetting=0.9)
    bank.tick(3)
    s, f = bank.alpha - 1, bank.beta - 1
    fit = bank.fit_prior()
    assert isinstance(fit, PriorFit)
    assert fit.n_prompts == 300
    assert fit.log_likelihood_gain > 0
    gain = log_evidence(fit.alpha, fit.beta, s, f).sum() - log_evidence(1, 1, s, f).sum()
    assert fit.log_likelihood_gain == pytest.approx(gain)
    np.testing.assert_allclose(bank.alpha, fit.alpha + s, rtol=1e-12)
    np.testing.assert_allclose(bank.beta, fit.beta + f, rtol=1e-12)
    bank.tick(10**6)  # what is left once everything is forgotten is the new prior
    assert set(bank.alpha) == {fit.alpha}
    bank.add_prompts([300])
    assert bank.alpha[-1] == fit.alpha
    assert "per prompt" not in repr(bank)


def test_a_second_fit_finds_nothing_to_gain():
    bank = bank_of(pool(0, 300, 0.4, 1.2))
    first, second = bank.fit_prior(), bank.fit_prior()
    assert (second.alpha, second.beta) == (first.alpha, first.beta)
    assert second.log_likelihood_gain == 0.0


def test_prompts_without_evidence_do_not_count():
    succ = pool(3, 100, 0.5, 1.0)
    alone = bank_of(succ)
    among = BetaPosteriorBank(1000)
    among.update(range(500, 600), succ, [4] * 100)
    assert among.fit_prior() == alone.fit_prior()


def test_single_rollouts_inform_the_mean_but_are_no_pairs():
    succ = pool(3, 100, 0.5, 1.0)
    bank = BetaPosteriorBank(1100)
    bank.update(range(100), succ, [4] * 100)
    plain = bank.fit_prior()
    bank.update(range(100, 1100), [1] * 1000, [1] * 1000)
    fit = bank.fit_prior()
    assert fit.n_prompts == plain.n_prompts == 100
    assert fit.alpha / fit.beta > plain.alpha / plain.beta


def test_a_prior_per_prompt_that_knew_more_loses():
    rates = np.random.default_rng(0).uniform(0.05, 0.95, 200)
    bank = bank_of(np.random.default_rng(1).binomial(8, rates), 8, prior=(1e3 * rates, 1e3 * (1 - rates)))
    fit = bank.fit_prior()
    assert fit.fitted
    assert fit.log_likelihood_gain < 0
    bank.tick()
    assert "per prompt" not in repr(bank)


@pytest.mark.parametrize("file", FILES or [None], ids=lambda file: file.stem if file else "none")
def test_real_pools_lose_the_upward_bias(file):
    if file is None:
        pytest.skip(f"needs the measured success counts in {DATA}, which are not part of the package")
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    first = min(int(row["epoch"]) for row in rows)
    rates = np.array([int(row["successes"]) / int(row["trials"]) for row in rows if int(row["epoch"]) == first])
    truth = rates * (1 - rates)
    flat_bias, bias, flat_error, error = np.empty((4, 20))
    for seed in range(20):
        bank = bank_of(np.random.default_rng(seed).binomial(4, rates))
        flat_bias[seed], flat_error[seed] = np.mean(bank.value() - truth), np.mean(np.abs(bank.value() - truth))
        assert bank.fit_prior().fitted
        bias[seed], error[seed] = np.mean(bank.value() - truth), np.mean(np.abs(bank.value() - truth))
    assert flat_bias.mean() > 0.02
    assert np.abs(bias).mean() <= 0.01
    assert abs(bias.mean()) <= 0.005
    assert error.mean() <= 0.9 * flat_error.mean()


# ---------------------------------------------------------------- pools that determine no prior


def assert_kept(bank, fit, status, prior=(1.0, 1.0)):
    assert (fit.status, fit.fitted, fit.log_likelihood_gain) == (status, False, 0.0)
    assert (fit.alpha, fit.beta) == prior
    bank.tick(10**9)
    assert (bank.alpha[0], bank.beta[0]) == prior


def test_too_few_prompts():
    succ = pool(0, 20, 1, 1)
    assert bank_of(succ).fit_prior().status != "too few prompts"
    bank = bank_of(succ[:19], prior=(2.0, 3.0), forgetting=0.5)
    fit = bank.fit_prior()
    assert fit.n_prompts == 19
    assert_kept(bank, fit, "too few prompts", (2.0, 3.0))


def test_single_rollouts_determine_no_strength():
    bank = bank_of([0.0, 1.0] * 500, 1, forgetting=0.5)
    fit = bank.fit_prior()
    assert fit.n_prompts == 0
    assert_kept(bank, fit, "too few prompts")


def test_faded_pairs_are_no_pairs():
    bank = bank_of(pool(0, 200, 1, 1, 2), 2, forgetting=0.9)
    assert bank.fit_prior().n_prompts == 200
    bank.tick()
    assert bank.fit_prior().status == "too few prompts"


def test_fractional_pairs_that_miss_two_by_rounding():
    bank = BetaPosteriorBank(300)
    for reward in (0.1, 0.7):
        bank.update(None, np.random.default_rng(0).permuted([reward, 1.0, 0.0] * 100), [1] * 300)
    assert bank.fit_prior().n_prompts == 300


def test_no_evidence():
    bank = BetaPosteriorBank(50, forgetting=0.5)
    assert_kept(bank, bank.fit_prior(), "too few prompts")


@pytest.mark.parametrize(
    "succ",
    [
        [0.0] * 50,  # all failures
        [4.0] * 50,  # all successes
        [0.0] * 30 + [4.0] * 20,  # each all right or all wrong
        [2.0] * 50,  # as even as no coin is
        [1.0, 2.0, 2.0, 3.0] * 20,  # no more spread than coin flips have
        [1e-9] + [0.0] * 49,  # the mean runs away to 0
    ],
)
def test_no_spread(succ):
    bank = bank_of(succ, forgetting=0.5)
    fit = bank.fit_prior()
    assert fit.n_prompts == len(succ)
    assert_kept(bank, fit, "no spread")


def test_one_mixed_prompt_is_spread():
    fit = bank_of([0.0] * 30 + [4.0] * 20 + [2.0]).fit_prior()
    assert fit.fitted
    assert fit.alpha + fit.beta < 0.2


def test_a_refused_fit_leaves_a_prior_per_prompt_alone():
    bank = bank_of([0.0] * 30, prior=(np.arange(1.0, 31.0), 2.0), forgetting=0.5)
    fit = bank.fit_prior()
    assert fit.status == "no spread"
    assert math.isnan(fit.alpha)
    assert fit.beta == 2.0
    assert bank.alpha.tolist() == list(range(1, 31))


# ---------------------------------------------------------------- groups


def test_a_prior_per_group():
    easy, hard, rare = pool(0, 200, 3, 0.5), pool(1, 300, 0.3, 2), [1.0] * 10
    labels = np.array(["easy"] * 200 + ["hard"] * 300 + ["rare"] * 10)
    order = np.random.default_rng(0).permutation(510)
    bank = bank_of(np.concatenate([easy, hard, rare])[order], prior=(2.0, 2.0), forgetting=0.5)
    value = dict(zip(labels[order], bank.value(), strict=True))
    fits = bank.fit_prior(labels[order])
    assert list(fits) == list(dict.fromkeys(labels[order]))
    assert {label: fit.status for label, fit in fits.items()} == {
        "easy": "fitted",
        "hard": "fitted",
        "rare": "too few prompts",
    }
    for label, alone in (("easy", easy), ("hard", hard)):
        expected = bank_of(alone, prior=(2.0, 2.0)).fit_prior()
        assert (fits[label].alpha, fits[label].beta) == (expected.alpha, expected.beta)
        assert fits[label].log_likelihood_gain == pytest.approx(expected.log_likelihood_gain)
    assert (fits["rare"].alpha, fits["rare"].beta) == (2.0, 2.0)
    assert dict(zip(labels[order], bank.value(), strict=True))["rare"] == value["rare"]
    bank.tick(10**6)
    for label, fit in fits.items():
        assert set(bank.alpha[labels[order] == label]) == {fit.alpha}
        assert set(bank.beta[labels[order] == label]) == {fit.beta}


def test_new_prompts_of_a_grouped_bank_need_a_prior():
    bank = bank_of(pool(0, 100, 0.5, 1.0))
    fits = bank.fit_prior([0] * 50 + [1] * 50)
    with pytest.raises(ValueError, match=r"prior must be given for new prompts"):
        bank.add_prompts([100])
    bank.add_prompts([100], prior=(fits[1].alpha, fits[1].beta))
    assert bank.alpha[100] == fits[1].alpha
    # One fit for all makes the prior shared again.
    assert bank.fit_prior().fitted
    bank.add_prompts([101])


def test_groups_without_a_fit_change_nothing():
    bank = bank_of(pool(0, 100, 0.5, 1.0))
    fits = bank.fit_prior(np.arange(100))
    assert {fit.status for fit in fits.values()} == {"too few prompts"}
    bank.add_prompts([100])
    assert bank.beta[-1] == 1.0


def test_one_group_is_the_whole_pool():
    succ = pool(0, 100, 0.5, 1.0)
    alone, grouped = bank_of(succ), bank_of(succ)
    assert grouped.fit_prior(iter([("all", 1)] * 100)) == {("all", 1): alone.fit_prior()}
    np.testing.assert_array_equal(grouped.value(), alone.value())


def test_kept_groups_keep_priors_that_differ():
    bank = bank_of([0.0] * 40, prior=(np.arange(1.0, 41.0), 2.0))
    fits = bank.fit_prior(["a"] * 20 + ["b"] * 20)
    assert math.isnan(fits["a"].alpha)
    assert fits["b"].beta == 2.0
    assert bank.alpha.tolist() == list(range(1, 41))


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ("abc", TypeError, r"groups must be a sequence of labels, got groups = 'abc'\. List one label per prompt"),
        (3, TypeError, r"groups must be a sequence of labels, got groups = 3\."),
        ({0: "a"}, TypeError, r"groups must be a sequence of labels, got groups = \{0: 'a'\}\."),
        ({"a", "b", "c"}, TypeError, r"groups must be a sequence of labels, got groups = \{"),
        (np.array(3), TypeError, r"groups must be a sequence of labels, got groups = array\(3\)\."),
        (
            ["a", "b"],
            ValueError,
            r"len\(groups\) must be 30, got len\(groups\) = 2\. List one label per prompt, in row",
        ),
        ([*range(29), []], TypeError, r"groups must be hashable, got groups\[29\] = \[\]\. Use strings, integers"),
        (np.zeros((30, 2)), TypeError, r"groups must be hashable, got groups\[0\] = \[0\.0, 0\.0\]\."),
    ],
)
def test_bad_groups(groups, error, message):
    bank = bank_of(pool(0, 30, 1, 1))
    alpha = bank.alpha
    with pytest.raises(error, match=message):
        bank.fit_prior(groups)
    assert bank.alpha.tolist() == alpha.tolist()


# ---------------------------------------------------------------- the choice of forgetting


def history_of(seed, rho, n_rounds=60, size=40, n=8, offered=20):
    """Rounds over prompts whose log-odds wander: the smaller rho, the faster."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, size)
    rounds = []
    for _ in range(n_rounds):
        odds = odds + rng.normal(0, 1 - rho, size)
        ids = rng.choice(size, offered, replace=False)
        rounds.append((ids, rng.binomial(n, 1 / (1 + np.exp(-odds[ids]))), np.full(offered, n)))
    return rounds


def test_drift_asks_for_forgetting_and_rest_does_not():
    still = [BetaPosteriorBank(40).select_forgetting(history_of(seed, 1.0)).forgetting for seed in range(10)]
    slow = [BetaPosteriorBank(40).select_forgetting(history_of(seed, 0.9)).forgetting for seed in range(10)]
    fast = [BetaPosteriorBank(40).select_forgetting(history_of(seed, 0.4)).forgetting for seed in range(10)]
    assert still == [1.0] * 10
    assert max(slow) < 1.0
    assert max(fast) <= min(slow)
    assert np.mean(fast) < np.mean(slow)


events = st.lists(
    st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 6), st.floats(0, 1)), max_size=4), max_size=8
)


@quick
@given(events, st.booleans(), st.booleans())
def test_scores_are_those_of_a_replay(history, shared, named):
    ids = ["a", "b", ("c", 1), ("c", 2)] if named else list(range(4))
    prior = (0.7, 1.3) if shared else ([0.5, 1.0, 2.0, 4.0], [1.0, 0.3, 2.0, 5.0])
    grid = (1.0, 0.9, 0.4)
    rounds = [
        ([ids[row] for row in event], [n * share for n, share in event.values()], [n for n, _ in event.values()])
        for event in history
    ]
    choice = BetaPosteriorBank(ids, prior=prior, forgetting=0.77).select_forgetting(rounds, grid)
    expected, repeats = [], 0
    for rho in grid:
        bank = BetaPosteriorBank(ids, prior=prior, forgetting=rho)
        score, seen, repeats = 0.0, set(), 0
        for names, successes, rollouts in rounds:
            bank.tick()
            now = dict(zip(ids, zip(bank.alpha, bank.beta, strict=True), strict=True))
            for name, s, n in zip(names, successes, rollouts, strict=True):
                a, b = now[name]
                score += betaln(a + s, b + n - s) - betaln(a, b)
                repeats += n > 0 and name in seen
            seen |= {name for name, n in zip(names, rollouts, strict=True) if n > 0}
            bank.update(names, successes, rollouts)
        expected.append(score)
    np.testing.assert_allclose(choice.log_likelihood, expected, rtol=1e-9, atol=1e-9)
    assert choice.grid.tolist() == list(grid)
    assert choice.n_predictions == repeats
    assert choice.status == ("selected" if repeats else "no repeats")
    if repeats:
        near = [rho for rho, score in zip(grid, choice.log_likelihood, strict=True) if score >= max(expected) - 2]
        assert choice.forgetting == max(near)


def test_ties_and_near_ties_go_to_the_larger():
    bank = BetaPosteriorBank(1, forgetting=0.5)
    choice = bank.select_forgetting([([0], [4], [8]), ([0], [4], [8])], grid=(0.5, 1.0, 0.9))
    assert choice.log_likelihood.max() - choice.log_likelihood.min() < 2
    assert choice.forgetting == bank.forgetting == 1.0


@quick
@given(seed=st.integers(0, 10**6), old=st.sampled_from([1.0, 0.9, 0.5]), ticks=st.integers(0, 5))
def test_the_past_fades_at_the_old_rate_and_the_future_at_the_new(seed, old, ticks):
    rng = np.random.default_rng(seed)
    bank = BetaPosteriorBank(40, prior=(0.5, 2.0), forgetting=old)
    bank.update(range(10), rng.integers(0, 9, 10), [8] * 10)
    bank.tick(2)
    bank.update(range(5, 20), rng.integers(0, 9, 15), [8] * 15)
    bank.tick(ticks)
    alpha, beta, value = bank.alpha, bank.beta, bank.value()
    new = bank.select_forgetting(history_of(1, 0.4, n_rounds=20)).forgetting
    assert new == bank.forgetting < 1.0
    np.testing.assert_allclose(bank.alpha, alpha, rtol=1e-14)
    np.testing.assert_allclose(bank.beta, beta, rtol=1e-14)
    np.testing.assert_allclose(bank.value(), value, rtol=1e-14)
    bank.tick(3)
    np.testing.assert_allclose(bank.alpha, 0.5 + new**3 * (alpha - 0.5), rtol=1e-13)
    np.testing.assert_allclose(bank.beta, 2.0 + new**3 * (beta - 2.0), rtol=1e-13)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [([0, 1], [1, 2], [4, 4]), ([2, 3], [1, 2], [4, 4])],
        [([0], [0], [0]), ([0], [3], [4])],
        [(None, [0, 1, 2, 3], [4] * 4)],
    ],
)
def test_no_prompt_twice(history):
    bank = BetaPosteriorBank(4, forgetting=0.77)
    bank.update([0], [3], [4])
    bank.tick()
    alpha = bank.alpha
    choice = bank.select_forgetting(iter(history))
    assert isinstance(choice, ForgettingChoice)
    assert (choice.status, choice.forgetting, choice.n_predictions) == ("no repeats", 0.77, 0)
    assert len(set(choice.log_likelihood)) == 1
    assert bank.forgetting == 0.77
    assert bank.alpha.tolist() == alpha.tolist()


def test_the_whole_pool_and_names_and_generators():
    rounds = history_of(2, 0.4, offered=40)
    full = []
    for ids, s, n in rounds:
        row = np.empty(40)
        row[ids] = s
        full.append((None, row, n))
    names = [f"prompt {i}" for i in range(40)]
    named = [((names[i] for i in ids), s, n) for ids, s, n in rounds]
    scores = [
        BetaPosteriorBank(40).select_forgetting(rounds).log_likelihood,
        BetaPosteriorBank(40).select_forgetting(full).log_likelihood,
        BetaPosteriorBank(names).select_forgetting(entry for entry in named).log_likelihood,
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-12)
    np.testing.assert_array_equal(scores[2], scores[0])


@few
@given(seed=st.integers(0, 10**6))
def test_order_within_a_round_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    rounds = history_of(seed, 0.7, n_rounds=10)
    shuffled = []
    for ids, s, n in rounds:
        order = rng.permutation(len(ids))
        shuffled.append((ids[order], s[order], n[order]))
    first, second = (BetaPosteriorBank(40).select_forgetting(entry) for entry in (rounds, shuffled))
    assume(first.log_likelihood.max() != first.log_likelihood.min())
    np.testing.assert_allclose(second.log_likelihood, first.log_likelihood, rtol=1e-12)
    assert second.forgetting == first.forgetting


GOOD = ([0, 1], [1, 2], [4, 4])


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        (3, TypeError, r"history must be a sequence of rounds, got history = 3\. Give \(prompt_ids, successes, roll"),
        ("abc", TypeError, r"history must be a sequence of rounds, got history = 'abc'\."),
        (
            [GOOD, ([0], [1])],
            ValueError,
            r"history must hold three items per round, got history\[1\] = \(\[0\], \[1\]\)",
        ),
        ([GOOD, 3], ValueError, r"history must hold three items per round, got history\[1\] = 3\."),
        ([GOOD, "abc"], ValueError, r"history must hold three items per round, got history\[1\] = 'abc'\."),
        ([GOOD, ([0, 9], [1, 1], [4, 4])], KeyError, r"history\[1\]: prompt_ids must be in the bank, unknown: 9 "),
        ([GOOD, GOOD, ([0, 0], [1, 1], [4, 4])], ValueError, r"history\[2\]: prompt_ids must not repeat an id"),
        ([(3, [1], [4])], TypeError, r"history\[0\]: prompt_ids must be a collection of ids, got prompt_ids = 3\."),
        ([GOOD, ([0], [5], [4])], ValueError, r"history\[1\]: successes must not exceed rollouts\[0\] = 4, got succ"),
        ([GOOD, ([0], [1], [4.0])], ValueError, r"history\[1\]: rollouts must be integers"),
        ([GOOD, (None, [1], [4])], ValueError, r"history\[1\]: rollouts must have one entry per prompt id"),
    ],
)
def test_bad_history(history, error, message):
    for given_history in (history, iter(history) if isinstance(history, list) else history):
        refuse_choice(given_history, (1.0, 0.5), error, message)


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ([], ValueError, r"grid must have shape \(n_grid,\), got grid = \(0,\)\. Offer shares of the evidence"),
        (0.9, ValueError, r"grid must have shape \(n_grid,\), got grid = \(\)\."),
        ([[0.9]], ValueError, r"grid must have shape \(n_grid,\), got grid = \(1, 1\)\."),
        ([0.9, 0.0], ValueError, r"grid must be finite, greater than 0 and at most 1, got grid\[1\] = 0\.0\. Offer"),
        ([1.1], ValueError, r"grid must be finite, greater than 0 and at most 1, got grid\[0\] = 1\.1\."),
        ([math.nan], ValueError, r"grid must be finite, greater than 0 and at most 1, got grid\[0\] = nan\."),
        (["slow"], TypeError, r"grid must be numbers, got list\. Offer shares"),
    ],
)
def test_bad_grid(grid, error, message):
    refuse_choice([GOOD, GOOD], grid, error, message)


def refuse_choice(history, grid, error, message):
    bank = BetaPosteriorBank(4, forgetting=0.77)
    bank.update([0], [3], [4])
    bank.tick()
    alpha = bank.alpha
    with pytest.raises(error, match=message):
        bank.select_forgetting(history, grid)
    assert bank.forgetting == 0.77
    assert bank.alpha.tolist() == alpha.tolist()
    assert bank.calibration().n_groups == 1  # a replay leaves no trace there either
