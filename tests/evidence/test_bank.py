"""BetaPosteriorBank: the recursion, its laziness, ids, coercion and messages."""

import math
import re
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank

quick = settings(max_examples=120)

INTS = list(range(4))
NAMES = ["a", "b", ("c", 1), ("c", 2)]


class Eager:
    """Every prompt's Beta parameters, aged in every round."""

    def __init__(self, ids, prior, rho):
        self.prior = dict(zip(ids, prior, strict=True))
        self.ab = dict(self.prior)
        self.rho = rho

    def tick(self, rounds):
        for _ in range(rounds):
            for name, (a0, b0) in self.prior.items():
                a, b = self.ab[name]
                self.ab[name] = (a0 + self.rho * (a - a0), b0 + self.rho * (b - b0))

    def update(self, ids, successes, rollouts):
        for name, s, n in zip(ids, successes, rollouts, strict=True):
            a, b = self.ab[name]
            self.ab[name] = (a + s, b + n - s)


def variance(a, b):
    return a * b / (a + b) / (a + b + 1)


# ---------------------------------------------------------------- the recursion

feedback = st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 9), st.floats(0, 1)), max_size=4)
histories = st.lists(st.one_of(st.integers(0, 4), feedback), max_size=12)
priors = st.lists(st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)), min_size=4, max_size=4)


@quick
@given(
    history=histories,
    prior=st.one_of(st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)), priors),
    rho=st.sampled_from([1.0, 0.99, 0.5, 1e-3]),
    ids=st.sampled_from([INTS, NAMES]),
)
def test_any_interleaving_matches_the_eager_recursion(history, prior, rho, ids):
    shared = isinstance(prior, tuple)
    given_prior = prior if shared else tuple(zip(*prior, strict=True))
    bank = BetaPosteriorBank(4 if ids is INTS else ids, prior=given_prior, forgetting=rho)
    eager = Eager(ids, [prior] * 4 if shared else prior, rho)
    for event in history:
        if isinstance(event, int):
            bank.tick(event)
            eager.tick(event)
        else:
            names = [ids[row] for row in event]
            rollouts = [n for n, _ in event.values()]
            successes = [n * share for n, share in event.values()]
            bank.update(names, successes, rollouts)
            eager.update(names, successes, rollouts)
    a, b = np.array([eager.ab[name] for name in ids]).T
    np.testing.assert_allclose(bank.alpha, a, rtol=1e-10)
    np.testing.assert_allclose(bank.beta, b, rtol=1e-10)
    np.testing.assert_allclose(bank.mean(), a / (a + b), rtol=1e-10)
    np.testing.assert_allclose(bank.value(), variance(a, b), rtol=1e-10)
    backwards = ids[::-1]
    np.testing.assert_array_equal(bank.mean(backwards), bank.mean()[::-1])
    np.testing.assert_array_equal(bank.value(backwards), bank.value()[::-1])


@quick
@given(updates=st.lists(feedback, max_size=5), order=st.randoms(use_true_random=False))
def test_updates_commute(updates, order):
    banks = [BetaPosteriorBank(4, forgetting=0.9) for _ in range(2)]
    shuffled = list(updates)
    order.shuffle(shuffled)
    for bank, sequence in zip(banks, (updates, shuffled), strict=True):
        bank.update(None, [1, 2, 3, 4], [5] * 4)
        bank.tick(2)
        for event in sequence:
            bank.update(list(event), [n * share for n, share in event.values()], [n for n, _ in event.values()])
    np.testing.assert_allclose(banks[0].alpha, banks[1].alpha, rtol=1e-12)
    np.testing.assert_allclose(banks[0].beta, banks[1].beta, rtol=1e-12)


def test_split_feedback_adds_up():
    whole, split = BetaPosteriorBank(2), BetaPosteriorBank(2)
    whole.update([0, 1], [3, 1], [8, 8])
    split.update([0], [1], [4])
    split.update([1, 0], [1, 2], [8, 4])
    assert whole.alpha.tolist() == split.alpha.tolist() == [4.0, 2.0]
    assert whole.beta.tolist() == split.beta.tolist() == [6.0, 8.0]


def test_none_names_the_whole_pool():
    bank = BetaPosteriorBank(["x", "y"])
    bank.update(None, [1, 0], [2, 2])
    assert bank.alpha.tolist() == [2.0, 1.0]
    assert bank.beta.tolist() == [2.0, 3.0]


def test_fractional_successes():
    bank = BetaPosteriorBank(1)
    bank.update([0], [0.25], [1])
    assert (bank.alpha[0], bank.beta[0]) == (1.25, 1.75)


def test_no_feedback_changes_nothing():
    bank = BetaPosteriorBank(2)
    bank.update([], [], [])
    bank.update([1], [0], [0])
    assert bank.alpha.tolist() == bank.beta.tolist() == [1.0, 1.0]


def test_everything_is_forgotten_in_the_end():
    bank = BetaPosteriorBank(1, prior=(2.0, 3.0), forgetting=0.5)
    bank.update([0], [5], [9])
    bank.tick(10**6)
    assert (bank.alpha[0], bank.beta[0]) == (2.0, 3.0)


def test_without_forgetting_nothing_fades():
    bank = BetaPosteriorBank(1)
    bank.update([0], [5], [9])
    bank.tick(10**6)
    assert (bank.alpha[0], bank.beta[0]) == (6.0, 5.0)


def test_a_billion_rollouts():
    bank = BetaPosteriorBank(2)
    for _ in range(3):
        bank.update([0, 1], [10**9, 10**9 // 2], [10**9, 10**9])
    assert bank.alpha.tolist() == [3e9 + 1, 1.5e9 + 1]
    assert bank.beta.tolist() == [1.0, 1.5e9 + 1]
    np.testing.assert_allclose(bank.value(), [variance(3e9 + 1, 1), variance(1.5e9 + 1, 1.5e9 + 1)], rtol=1e-14)


@pytest.mark.parametrize("prior", [(1e-300, 1e-300), (1e300, 1e300), (1e-300, 1e300), (1e300, 1e-300)])
def test_extreme_priors(prior):
    bank = BetaPosteriorBank(1, prior=prior, forgetting=0.5)
    bank.update([0], [3], [4])
    bank.tick()
    assert bank.alpha[0] == pytest.approx(prior[0] + 1.5)
    assert bank.beta[0] == pytest.approx(prior[1] + 0.5)
    assert 0 <= bank.value()[0] <= 0.25
    assert 0 <= bank.mean()[0] <= 1


def test_extreme_priors_without_evidence():
    assert BetaPosteriorBank(1, prior=(1e300, 1e300)).value()[0] == 0.25
    assert BetaPosteriorBank(1, prior=(1e-300, 1e-300)).value()[0] == pytest.approx(5e-301)
    assert BetaPosteriorBank(1, prior=(1e-300, 1e-300)).mean()[0] == 0.5


@quick
@given(a=st.floats(0.3, 300), b=st.floats(0.3, 300), level=st.sampled_from([0.5, 0.9, 0.95, 0.999, 1.0]))
def test_interval_matches_scipy(a, b, level):
    bank = BetaPosteriorBank(2, prior=([a, 1.0], [b, 2.0]))
    lower, upper = bank.interval(level)
    expected = scipy.stats.beta.interval(level, [a, 1.0], [b, 2.0])
    np.testing.assert_allclose([lower, upper], expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(bank.interval(level, [1]), [lower[1:], upper[1:]])


# ---------------------------------------------------------------- ids


def test_integer_ids():
    bank = BetaPosteriorBank(np.int64(3))
    assert len(bank) == 3
    assert bank.prompt_ids == range(3)
    assert [x in bank for x in (0, 2, 3, -1, np.int32(1), 1.0, "0", True, None, [0])] == [
        True, True, False, False, True, False, False, False, False, False,
    ]  # fmt: skip


def test_names():
    bank = BetaPosteriorBank(NAMES)
    assert len(bank) == 4
    assert bank.prompt_ids == tuple(NAMES)
    assert [x in bank for x in ("a", ("c", 2), "c", 0, [])] == [True, True, False, False, False]


@pytest.mark.parametrize("ids", [np.array(["a", "b"]), np.array([7, 9])])
def test_an_array_of_ids_makes_a_bank(ids):
    bank = BetaPosteriorBank(ids)
    assert bank.prompt_ids == tuple(ids.tolist())


@pytest.mark.parametrize(
    "ids",
    [[2, 0], (2, 0), np.array([2, 0], dtype=np.uint8), np.array([2, 0], dtype=np.int32), iter([2, 0]), {2: 0, 0: 0}],
)
def test_any_collection_of_integer_ids(ids):
    bank = BetaPosteriorBank(3)
    bank.update(ids, [1, 2], [2, 2])
    assert bank.alpha.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("ids", [["c", "a"], ("c", "a"), np.array(["c", "a"]), iter(["c", "a"]), {"c": 0, "a": 0}])
def test_any_collection_of_names(ids):
    bank = BetaPosteriorBank(["a", "b", "c"])
    bank.update(ids, [1, 2], [2, 2])
    assert bank.alpha.tolist() == [3.0, 1.0, 2.0]


def test_no_ids_give_no_values():
    bank = BetaPosteriorBank(3)
    assert bank.value([]).shape == bank.mean([]).shape == (0,)


def test_a_range_of_ids():
    bank = BetaPosteriorBank(5, prior=(np.arange(1.0, 6.0), 1.0))
    np.testing.assert_array_equal(bank.value(range(1, 5, 2)), bank.value()[1:5:2])


def test_results_are_the_callers_own():
    bank = BetaPosteriorBank(2)
    bank.alpha[:] = 9
    bank.value()[:] = 9
    prior = (np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    other = BetaPosteriorBank(2, prior=prior)
    prior[0][:] = 9
    assert bank.alpha.tolist() == [1.0, 1.0]
    assert other.alpha.tolist() == [1.0, 2.0]


def test_repr_and_forgetting():
    bank = BetaPosteriorBank(3, prior=(1, 2.5))
    shown = "BetaPosteriorBank(prompts=3, ids=int such as 0, rollouts={}, prior=(1, 2.5), forgetting=1)"
    assert repr(bank) == shown.format(0)
    bank.update([0, 1], [1, 2], [4, 3])
    assert repr(bank) == shown.format(7)
    assert "per prompt" in repr(BetaPosteriorBank(2, prior=([1, 2], 1)))
    assert BetaPosteriorBank(1, forgetting=0.9).forgetting == 0.9


# ---------------------------------------------------------------- new prompts


def test_new_integer_prompts_extend_the_range():
    bank = BetaPosteriorBank(2)
    bank.update([1], [3], [4])
    bank.add_prompts([2, 3])
    assert bank.prompt_ids == range(4)
    assert bank.alpha.tolist() == [1.0, 4.0, 1.0, 1.0]


@pytest.mark.parametrize("fresh", [[5, 2], ["x", 2]])
def test_other_ids_join_a_range(fresh):
    bank = BetaPosteriorBank(2)
    bank.add_prompts(fresh)
    bank.update([fresh[1], 0], [1, 2], [4, 4])
    assert bank.prompt_ids == (0, 1, *fresh)
    assert bank.alpha.tolist() == [3.0, 1.0, 1.0, 2.0]
    assert fresh[0] in bank


def test_new_prompts_take_the_shared_prior_and_no_evidence():
    bank = BetaPosteriorBank(["a"], prior=(2.0, 3.0), forgetting=0.5)
    bank.update(["a"], [4], [4])
    bank.tick(3)
    bank.add_prompts(["b"])
    bank.update(["b"], [4], [4])
    bank.tick()
    assert bank.alpha.tolist() == [2.25, 4.0]
    assert bank.beta.tolist() == [3.0, 3.0]


def test_new_prompts_with_their_own_prior():
    bank = BetaPosteriorBank(["a", "b"])
    bank.add_prompts(["c", "d"], prior=([5.0, 6.0], 7.0))
    assert bank.alpha.tolist() == [1.0, 1.0, 5.0, 6.0]
    assert bank.beta.tolist() == [1.0, 1.0, 7.0, 7.0]
    bank.add_prompts(["e"], prior=(8.0, 9.0))
    assert bank.value(["e"])[0] == pytest.approx(variance(8, 9))


def test_no_new_prompts():
    bank = BetaPosteriorBank(2)
    bank.add_prompts([])
    assert bank.prompt_ids == range(2)


def assert_still_two(bank):
    assert len(bank) == 2
    assert bank.alpha.tolist() == [1.0, 3.0]
    assert "new" not in bank


@pytest.mark.parametrize(
    ("ids", "prior", "error", "message"),
    [
        (["new", "b"], (1, 1), ValueError, r"ids must be new to the bank, got ids\[1\] = 'b'\. Leave it out"),
        (["new", "new"], (1, 1), ValueError, r"ids must not repeat an id, got ids\[1\] = 'new'\. Give every prompt"),
        (["new"], None, ValueError, r"prior must be given for new prompts, .* Pass prior=\(a, b\)"),
        (["new"], (0, 1), ValueError, r"prior\[0\] must be finite, greater than 0, got prior\[0\] = 0\.0\. A Beta"),
        (["new"], ([1, 2], 1), ValueError, r"prior\[0\] must be a number or have shape \(1,\), got .* = \(2,\)\."),
        ("new", (1, 1), TypeError, r"ids must be a sequence of ids, got ids = 'new'\. Wrap a single id in a list"),
        (3, (1, 1), TypeError, r"ids must be a sequence of ids, got ids = 3\."),
        (["new", []], (1, 1), TypeError, r"ids must be hashable, got ids\[1\] = \[\]\. Use strings"),
    ],
)
def test_new_prompts_that_do_not_fit(ids, prior, error, message):
    bank = BetaPosteriorBank(["a", "b"], prior=([1.0, 3.0], 1.0))
    with pytest.raises(error, match=message):
        bank.add_prompts(ids, prior=prior)
    assert_still_two(bank)


# ---------------------------------------------------------------- messages of the constructor


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (0, ValueError, r"prompts must be at least 1, got prompts = 0\. Give the number of prompts, or their ids\."),
        (-3, ValueError, r"prompts must be at least 1, got prompts = -3\."),
        ([], ValueError, r"prompts must name at least one prompt, got prompts = \[\]\. Pass the ids"),
        (["a", "b", "a"], ValueError, r"prompts must not repeat an id, got prompts\[2\] = 'a'\. Give every prompt"),
        ([1, 1.0], ValueError, r"prompts must not repeat an id, got prompts\[1\] = 1\.0\."),
        (True, TypeError, r"prompts must be an integer, got prompts = True\."),
        ("abc", TypeError, r"prompts must be a sequence of ids, got prompts = 'abc'\. Wrap a single id in a list\."),
        (2.0, TypeError, r"prompts must be a sequence of ids, got prompts = 2\.0\."),
        (None, TypeError, r"prompts must be a sequence of ids, got prompts = None\."),
        (
            ["a", {}],
            TypeError,
            r"prompts must be hashable, got prompts\[1\] = \{\}\. Use strings, integers or tuples\.",
        ),
    ],
)
def test_prompts_that_name_no_pool(prompts, error, message):
    with pytest.raises(error, match=message):
        BetaPosteriorBank(prompts)


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (1.0, ValueError, r"prior must be a pair \(a, b\), got prior = 1\.0\. A Beta prior needs two positive"),
        ((1, 1, 1), ValueError, r"prior must be a pair \(a, b\), got prior = \(1, 1, 1\)\."),
        ((0, 1), ValueError, r"prior\[0\] must be finite, greater than 0, got prior\[0\] = 0\.0\. A Beta prior"),
        ((1, -2.0), ValueError, r"prior\[1\] must be finite, greater than 0, got prior\[1\] = -2\.0\."),
        ((math.nan, 1), ValueError, r"prior\[0\] must be finite, greater than 0, got prior\[0\] = nan\."),
        ((1, [1, math.inf, 1]), ValueError, r"prior\[1\] must be finite, .* got prior\[1\]\[1\] = inf\."),
        (([1, 2], 1), ValueError, r"prior\[0\] must be a number or have shape \(3,\), got prior\[0\] = \(2,\)\. Give"),
        ((1e308, 1e308), ValueError, r"prior must have a finite sum, got prior = \(1e\+308, 1e\+308\)\."),
        (("a", 1), TypeError, r"prior\[0\] must be numbers, got str\. A Beta prior"),
    ],
)
def test_prior_that_is_no_beta(prior, error, message):
    with pytest.raises(error, match=message):
        BetaPosteriorBank(3, prior=prior)


@pytest.mark.parametrize("forgetting", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_forgetting_out_of_range(forgetting):
    message = rf"forgetting must be a number in \(0, 1\], got forgetting = {forgetting!r}\. 1\.0 keeps all evidence\."
    with pytest.raises(ValueError, match=message):
        BetaPosteriorBank(1, forgetting=forgetting)


def test_forgetting_that_is_not_a_number():
    with pytest.raises(TypeError, match=r"forgetting must be a number in \(0, 1\], got forgetting = 'slow'\."):
        BetaPosteriorBank(1, forgetting="slow")


# ---------------------------------------------------------------- messages after which nothing has changed


def practised(prompts):
    """A bank with some evidence of different ages."""
    bank = BetaPosteriorBank(prompts, prior=(1.0, 2.0), forgetting=0.9)
    bank.update(None, [1.0, 2.5, 0.0], [4, 4, 4])
    bank.tick(2)
    bank.update(list(bank.prompt_ids)[:1], [3], [3])
    bank.tick()
    return bank


def refuse(bank, error, message, call):
    """Assert that the call fails with the message and leaves the evidence alone."""
    alpha, beta = bank.alpha, bank.beta
    with pytest.raises(error, match=message):
        call(bank)
    assert bank.alpha.tolist() == alpha.tolist()
    assert bank.beta.tolist() == beta.tolist()


RANGE = "Rewards must lie in"


@pytest.mark.parametrize(
    ("successes", "rollouts", "message"),
    [
        ([1, math.nan], [4, 4], r"successes must be finite and at least 0, got successes\[1\] = nan\. Leave rollouts"),
        ([math.inf, 1], [4, 4], r"successes must be finite and at least 0, got successes\[0\] = inf\."),
        ([1, -0.5], [4, 4], r"successes must be finite and at least 0, got successes\[1\] = -0\.5\."),
        ([1, 4.5], [4, 4], rf"successes must not exceed rollouts\[1\] = 4, got successes\[1\] = 4\.5\. {RANGE}"),
        ([1, 0], [4, -1], r"rollouts must be at least 0, got rollouts\[1\] = -1\. Report what was generated"),
        ([1, 1], [4.0, 4.0], r"rollouts must be integers, got rollouts\[0\] = 4\.0\. Convert them: numpy"),
        ([1, 1], [True, True], r"rollouts must be integers, got rollouts\[0\] = True\."),
        ([1, 1], ["4", "4"], r"rollouts must be integers, got rollouts\[0\] = '4'\."),
        ([1, 1], [None, None], r"rollouts must be integers, got rollouts\[0\] = None\."),
        ([1, 1], [4, 10**30], r"rollouts must be at most 2\*\*53, got rollouts\[1\] = 10"),
        ([1, 1], np.array([4, 2**63], dtype=np.uint64), r"rollouts must be at most 2\*\*53, got rollouts\[1\] = 9"),
        (["1", "1"], [4, 4], r"successes must be numbers, got an array of <U1\. Pass summed rewards"),
        ([None, 1], [4, 4], r"successes must be numbers, got successes\[0\] = None\. Pass summed"),
        ([1], [4, 4], r"successes must have one entry per prompt id, got successes\.shape = \(1,\) for 2 prompt ids\."),
        ([1, 1], [4, 4, 4], r"rollouts must have one entry per prompt id, got rollouts\.shape = \(3,\) for 2 prompt"),
        ([[1], [1]], [4, 4], r"successes must have one entry .* = \(2, 1\) for 2 prompt ids\. Sum the rollouts"),
        (1, [4, 4], r"successes must have one entry per prompt id, got successes\.shape = \(\) for 2"),
    ],
)
def test_bad_feedback(successes, rollouts, message):
    refuse(practised(3), ValueError, message, lambda bank: bank.update([2, 0], successes, rollouts))
    refuse(practised(["a", "b", "c"]), ValueError, message, lambda bank: bank.update(["c", "a"], successes, rollouts))


@pytest.mark.parametrize(
    ("prompts", "ids", "message"),
    [
        (3, [0, 2, 0], r"prompt_ids must not repeat an id, got prompt_ids\[2\] = 0\. Sum the entries"),
        (3, [2, 2, 1], r"prompt_ids must not repeat an id, got prompt_ids\[1\] = 2\."),
        (["a", "b", "c"], ["b", "a", "b"], r"prompt_ids must not repeat an id, got prompt_ids\[2\] = 'b'\."),
    ],
)
def test_repeated_ids(prompts, ids, message):
    refuse(practised(prompts), ValueError, message, lambda bank: bank.update(ids, [1, 1, 1], [4, 4, 4]))


@pytest.mark.parametrize(
    ("prompts", "ids", "unknown", "remedy"),
    [
        (3, [0, 3], "3 (1 in all)", "Check the spelling; a new prompt needs add_prompts."),
        (3, [-1, 0], "-1 (1 in all)", "Check the spelling; a new prompt needs add_prompts."),
        (3, ["a", "b"], "'a', 'b' (2 in all)", "The bank holds int ids like 0, got str"),
        (3, [0.5, 1.5], "0.5, 1.5 (2 in all)", "The bank holds int ids like 0, got float"),
        (3, [2**70, 0], f"{2**70} (1 in all)", "Check the spelling; a new prompt needs add_prompts."),
        (
            3,
            [2**63, 0],
            f"{2**63} (1 in all)",
            "Check the spelling; a new prompt needs add_prompts.",
        ),  # a uint64, which would turn into a row as an int64
        (3, [0, (1, 2)], "(1, 2) (1 in all)", "The bank holds int ids like 0, got tuple"),
        (["a", "b", "c"], ["a", "z"], "'z' (1 in all)", "Check the spelling; a new prompt needs add_prompts."),
        (["a", "b", "c"], ["a", ["b"]], "['b'] (1 in all)", "The bank holds str ids like 'a', got list"),
        (["a", "b", "c"], [0, 1], "0, 1 (2 in all)", "The bank holds str ids like 'a', got int"),
    ],
)
def test_unknown_ids(prompts, ids, unknown, remedy):
    message = f"prompt_ids must be in the bank, unknown: {re.escape(unknown)}\\. {re.escape(remedy)}"
    bank = practised(prompts)
    for call in (
        lambda b: b.update(ids, [1, 1], [4, 4]),
        lambda b: b.value(ids),
        lambda b: b.mean(ids),
        lambda b: b.interval(0.9, ids),
    ):
        refuse(bank, KeyError, message, call)


def test_many_unknown_ids_are_abridged():
    refuse(practised(3), KeyError, r"unknown: 3, 4, 5, 6, 7, \.\.\. \(9 in all\)", lambda bank: bank.value(range(12)))


@pytest.mark.parametrize("prompts", [3, ["a", "b", "c"]])
@pytest.mark.parametrize("ids", ["a", b"a", 0])
def test_ids_that_are_no_collection(prompts, ids):
    message = "prompt_ids must be a collection of ids, got prompt_ids = .*Wrap a single id in a list"
    bank = practised(prompts)
    refuse(bank, TypeError, message, lambda b: b.update(ids, [1], [4]))
    refuse(bank, TypeError, message, lambda b: b.value(ids))


@pytest.mark.parametrize(
    ("rounds", "error", "message"),
    [
        (-1, ValueError, r"rounds must be at least 0, got rounds = -1\. Time only moves forward\."),
        (1.0, TypeError, r"rounds must be an integer, got rounds = 1\.0\."),
        (True, TypeError, r"rounds must be an integer, got rounds = True\."),
        (None, TypeError, r"rounds must be an integer, got rounds = None\."),
    ],
)
def test_bad_tick(rounds, error, message):
    refuse(practised(3), error, message, lambda bank: bank.tick(rounds))


@pytest.mark.parametrize("level", [0.0, -0.1, 1.1, math.nan])
def test_interval_level_out_of_range(level):
    message = rf"level must be a number in \(0, 1\], got level = {level!r}\. Take 0\.95"
    refuse(practised(3), ValueError, message, lambda bank: bank.interval(level))


def test_interval_level_that_is_not_a_number():
    refuse(
        practised(3), TypeError, r"level must be a number in \(0, 1\], got level = None\.", lambda b: b.interval(None)
    )


# ---------------------------------------------------------------- spread, for the allocators


def exact_spread(a, b):
    """Standard deviation of p (1 - p) from its exact moments, which cancel only in floating point."""
    a, b = Fraction(a), Fraction(b)
    s = a + b
    first = a * b / (s * (s + 1))
    second = a * (a + 1) * b * (b + 1) / (s * (s + 1) * (s + 2) * (s + 3))
    variance = second - first * first
    with localcontext() as context:
        context.prec = 50
        return float((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())


parameters = st.floats(-12, 15).map(lambda x: 10.0**x)


@quick
@given(a=parameters, b=parameters)
def test_spread_matches_exact_moments(a, b):
    spread = BetaPosteriorBank(1, prior=(a, b)).evidence.standard_deviations(None)[0]
    assert spread == pytest.approx(exact_spread(a, b), rel=1e-12)
    assert BetaPosteriorBank(1, prior=(b, a)).evidence.standard_deviations(None)[0] == pytest.approx(spread, rel=1e-14)


@quick
@given(a=st.floats(0.05, 300), b=st.floats(0.05, 300))
def test_spread_matches_quadrature(a, b):
    x, weight = scipy.special.roots_jacobi(6, b - 1, a - 1)  # exact for polynomials of degree 11 against the density
    x, weight = (x + 1) / 2, weight / weight.sum()
    variance = weight @ (x * (1 - x) - weight @ (x * (1 - x))) ** 2
    assert BetaPosteriorBank(1, prior=(a, b)).evidence.standard_deviations(None)[0] == pytest.approx(
        math.sqrt(variance), rel=1e-8
    )


def test_spread_of_some_rows_with_evidence():
    bank = practised(3)
    spread = bank.evidence.standard_deviations(None)
    np.testing.assert_allclose(spread, [exact_spread(a, b) for a, b in zip(bank.alpha, bank.beta, strict=True)])
    np.testing.assert_array_equal(bank.evidence.standard_deviations(np.array([2, 0])), spread[[2, 0]])


@pytest.mark.parametrize("prior", [(1e-300, 1e-300), (1e300, 1e300), (1e-300, 1e300), (8e307, 8e307), (1e15, 1.0)])
def test_spread_of_extreme_priors(prior):
    spread = BetaPosteriorBank(1, prior=prior).evidence.standard_deviations(None)[0]
    assert 0 <= spread <= 0.125  # Popoviciu: half of the range


# ---------------------------------------------------------------- storage


def test_whole_counts_are_exact_in_float32():
    rng = np.random.default_rng(4)
    wide, narrow = BetaPosteriorBank(50), BetaPosteriorBank(50, dtype=np.float32)
    for _ in range(40):
        n = rng.integers(0, 400_000, 50)
        s = rng.binomial(n, 0.3)
        for bank in (wide, narrow):
            bank.update(None, s, n)
    assert wide.alpha.max() < 2**24
    assert (wide.alpha == narrow.alpha).all()
    assert (wide.beta == narrow.beta).all()
    assert (wide.value() == narrow.value()).all()


@pytest.mark.parametrize("rho", [0.5, 0.98])
def test_rounding_to_float32_fades_with_the_evidence(rho):
    rng = np.random.default_rng(5)
    wide, narrow = (BetaPosteriorBank(200, forgetting=rho, dtype=dtype) for dtype in ("float64", "float32"))
    most = np.zeros(200)
    for _ in range(300):
        n = rng.integers(0, 9, 200)
        s = n * rng.random(200)
        for bank in (wide, narrow):
            bank.update(None, s, n)
        most = np.maximum(most, wide.alpha - 1.0)
        assert (np.abs(wide.alpha - narrow.alpha) <= 2**-24 / (1 - rho) * most + 1e-12).all()
        for bank in (wide, narrow):
            bank.tick()
    assert (wide.alpha != narrow.alpha).any()  # or nothing was put to the test


def test_float32_takes_less_and_survives_growth_fits_and_state():
    bank = BetaPosteriorBank(4, dtype="float32", forgetting=0.9)
    bank.update(None, [1, 2, 3, 0.5], [4, 4, 4, 4])
    bank.tick()
    bank.add_prompts([4])
    bank.select_forgetting([([0], [1], [2])] * 2, grid=[0.5])
    assert bank.evidence.outcomes.dtype == np.float32
    twin = BetaPosteriorBank(5, dtype="float32")
    twin.load_state_dict(bank.state_dict())
    assert (twin.value() == bank.value()).all()
    with pytest.raises(ValueError, match=r"outcomes.*float64"):
        BetaPosteriorBank(5).load_state_dict(bank.state_dict())


@pytest.mark.parametrize("dtype", [np.float16, "int64", np.complex128])
def test_other_storage_is_refused(dtype):
    with pytest.raises(ValueError, match="dtype must be float64 or float32"):
        BetaPosteriorBank(3, dtype=dtype)


def test_the_clock_has_an_end():
    bank = BetaPosteriorBank(1)
    bank.tick(2**31 - 1)
    with pytest.raises(ValueError, match="rounds must leave the clock, now 2147483647"):
        bank.tick()
    bank.update([0], [1], [1])
    assert bank.alpha.tolist() == [2.0]


def test_the_last_ids_looked_up_are_not_taken_for_others():
    bank = BetaPosteriorBank(["a", "b", "c"])
    assert bank.value(["a", "b"]).size == 2
    bank.update(["a", "b"], [1, 0], [1, 1])
    bank.update(["b", "a"], [4, 0], [4, 4])
    assert bank.alpha.tolist() == [2.0, 5.0, 1.0]
    mutable = ["a", "b"]
    bank.update(mutable, [1, 0], [1, 1])
    mutable[0] = "c"
    bank.update(mutable, [1, 0], [1, 1])
    assert bank.alpha.tolist() == [3.0, 5.0, 2.0]
    with pytest.raises(KeyError, match="unknown"):
        bank.value([np.arange(2), np.arange(2)])
