"""Replays: every policy gets the log's totals, no outcome is used twice, and the figures are what they say."""

import json
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import AllocationWarning, BetaPosteriorBank, training_allocator
from cero_alloc.baselines import PEERS, FixedPacing, Greedy, Uniform
from cero_alloc.replay import _outcomes as _replay_outcomes
from cero_alloc.replay import _results
from cero_alloc.replay._log import RolloutLog, changes
from cero_alloc.replay._outcomes import CountedOutcomes, ListedOutcomes, logged_outcomes
from cero_alloc.replay._policies import default_policies, step_totals
from cero_alloc.replay._reader import read_log
from cero_alloc.replay._replay import replay
from cero_alloc.replay._report import notes_of, replay_report, report_json, report_rows, row_names
from cero_alloc.replay._settings import learn_settings, python_lines
from cero_alloc.replay._text import report_text
from cero_alloc.simulation import epoch_batches

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def make_log(prompt, step, reward, rollouts=None):
    """Return a log of rows, which need not be sorted or distinct."""
    rollouts = np.ones(len(prompt), dtype=np.int64) if rollouts is None else np.asarray(rollouts)
    prompt, step, reward = np.asarray(prompt), np.asarray(step, dtype=float), np.asarray(reward, dtype=float)
    order = np.lexsort((reward, prompt, step))
    first = changes(prompt[order], step[order], reward[order])
    chosen = order[first]
    names = tuple(f"p{i}" for i in range(prompt.max() + 1))
    merged = np.add.reduceat(rollouts[order], first)
    return RolloutLog.of_rows(names, prompt[chosen], step[chosen], reward[chosen], merged, n_lines=prompt.size)


def simulated_log(n_prompts=60, n_epochs=4, group=8, batch=20, seed=0, levels=1):
    """Return a run's log; with more than one level rewards are fractions."""
    rng = np.random.default_rng(seed)
    rate = rng.beta(0.5, 0.5, n_prompts)
    parts = [(np.repeat(rows, group), k) for k, rows in enumerate(epoch_batches(n_prompts, batch, n_epochs, seed=rng))]
    prompt = np.concatenate([rows for rows, _ in parts])
    step = np.concatenate([np.full(rows.size, k) for rows, k in parts])
    return make_log(prompt, step, rng.binomial(levels, rate[prompt]) / levels)


logs = st.builds(
    lambda rows, levels: make_log(
        np.unique([p for p, _, _ in rows], return_inverse=True)[1],
        [t for _, t, _ in rows],
        [min(r, levels) / levels for _, _, r in rows],
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60),
    st.sampled_from([1, 1, 4]),
)


# ---------------------------------------------------------------- the outcomes


@given(logs, st.integers(0, 9), st.sampled_from([ListedOutcomes, CountedOutcomes]), st.data())
def test_each_outcome_is_drawn_once_in_order_of_time(log, seed, outcomes_of, data):
    if log.fractional:
        outcomes_of = ListedOutcomes
    outcomes = outcomes_of(log, seed)
    outcomes.draw(np.arange(log.n_prompts), np.full(log.n_prompts, 3))
    outcomes.restart()
    total = np.bincount(log.group_prompt, log.trials, log.n_prompts).astype(int)
    taken, (won, squared) = np.zeros(log.n_prompts, dtype=int), np.zeros((2, log.n_prompts))
    for _ in range(8):
        rows = np.array(data.draw(st.lists(st.integers(0, log.n_prompts - 1), unique=True, min_size=1)))
        n = np.array(data.draw(st.lists(st.integers(0, 9), min_size=rows.size, max_size=rows.size)))
        s, answered, *more = outcomes.draw(rows, n)
        assert (answered == np.minimum(n, (total - taken)[rows])).all()
        assert ((s >= 0) & (s <= answered)).all()
        mixed = outcomes.mixed(rows, s, answered)
        assert not mixed[answered < 2].any()
        if not log.fractional:
            assert (mixed == ((s > 0) & (s < answered))).all()
        assert bool(more) == log.fractional
        taken[rows] += answered
        won[rows] += s
        squared[rows] += more[0] if more else s
        for row in range(log.n_prompts):  # whatever is complete in time adds up to what was logged
            cells = np.flatnonzero(log.group_prompt == row)
            ends = np.cumsum(log.trials[cells])
            if taken[row] in ends:
                upto = cells[: np.searchsorted(ends, taken[row]) + 1]
                assert won[row] == pytest.approx(log.successes[upto].sum())
                assert squared[row] == pytest.approx(log.squares[upto].sum())
    all_rows = np.arange(log.n_prompts)
    s, answered, *more = outcomes.draw(all_rows, total)
    assert (taken + answered == total).all()
    np.testing.assert_allclose(won + s, np.bincount(log.group_prompt, log.successes, log.n_prompts))
    squared += more[0] if more else s
    np.testing.assert_allclose(squared, np.bincount(log.group_prompt, log.squares, log.n_prompts))


def test_a_group_of_equal_fractions_is_dead():
    log = make_log([0] * 4 + [1] * 4, [0] * 8, [0.5] * 4 + [0.5, 0.5, 0.5, 0.25])
    outcomes = logged_outcomes(log, 0)
    rows = np.array([0, 1])
    s, answered, squares = outcomes.draw(rows, np.array([9, 9]))
    assert (s.tolist(), answered.tolist(), squares.tolist()) == ([2.0, 1.75], [4, 4], [1.0, 0.8125])
    assert log.squares.tolist() == [1.0, 0.8125]
    assert outcomes.mixed(rows, s, answered).tolist() == [False, True]


def test_sums_of_a_long_log_are_those_of_its_rewards():
    # Differences of running sums would be wrong by more than a bank lets sums of squares be off.
    log = make_log(np.repeat([0, 1], 2), [0] * 4, [0.1, 0.3, 0.7, 0.7 + 1e-9], [10**6, 10**6, 1, 1])
    outcomes = logged_outcomes(log, 0)
    outcomes.draw(np.array([0]), np.array([2 * 10**6]))
    s, _, squares = outcomes.draw(np.array([1]), np.array([2]))
    assert (s[0], squares[0]) == pytest.approx((1.4 + 1e-9, 0.49 + (0.7 + 1e-9) ** 2), rel=1e-15)


@pytest.mark.parametrize("outcomes_of", [ListedOutcomes, CountedOutcomes])
def test_draws_are_hypergeometric(outcomes_of):
    log = make_log([0, 0], [0, 0], [1.0, 0.0], [30, 70])
    draws = [outcomes_of(log, seed).draw(np.array([0]), np.array([10]))[0][0] for seed in range(2000)]
    assert np.mean(draws) == pytest.approx(3.0, abs=0.15)
    assert np.var(draws) == pytest.approx(10 * 0.3 * 0.7 * 90 / 99, rel=0.15)


def test_very_many_outcomes_are_counted(monkeypatch):
    log = simulated_log()
    listed = replay(log, {"greedy": Greedy}, n_boot=50)
    monkeypatch.setattr(_replay_outcomes, "_MOST_LISTED", 100)
    assert isinstance(logged_outcomes(log, 0), CountedOutcomes)
    assert isinstance(logged_outcomes(simulated_log(levels=4), 0), ListedOutcomes)
    counted = replay(log, {"greedy": Greedy}, n_boot=50)
    assert counted.row("Uniform").rate == listed.row("Uniform").rate
    assert counted.row("greedy").rate == pytest.approx(listed.row("greedy").rate, rel=0.2)


# ---------------------------------------------------------------- the plays


class Favourite:
    """Deals everything to the first prompt on offer, never an exact total, and records its feedback."""

    def __init__(self, bank, *, total_budget, n_rounds, max_rollouts, seed):
        self.most, self.told, self.offers = max_rollouts, [], []

    def allocate(self, prompt_ids=None, budget=None, *, exact=False):
        if exact:
            raise ValueError("never")
        self.offers.append(np.asarray(prompt_ids).tolist())
        counts = np.zeros(len(prompt_ids), dtype=np.int64)
        counts[0] = min(self.most, budget)
        return counts

    def update(self, prompt_ids, successes, rollouts):
        self.told += list(zip(np.asarray(prompt_ids).tolist(), np.asarray(rollouts).tolist(), strict=True))


def test_what_the_log_cannot_answer_is_spent_and_counts_in_nothing_else():
    log = make_log([0, 0, 1, 1] * 3, [t for t in range(3) for _ in range(4)], [1, 0, 1, 1] * 3)
    built = []

    def favourite(bank, **run):
        assert run == {"total_budget": 12, "n_rounds": 3, "max_rollouts": 8, "seed": 0}
        built.append(Favourite(bank, **run))
        return built[-1]

    row = replay(log, {"favourite": favourite}, n_boot=20).row("favourite")
    assert (row.dealt, row.unanswerable, row.groups, row.mean_group) == (12, 0.5, 2, 3.0)
    assert built[0].told == [(0, 4), (0, 2), (0, 0)]
    assert built[0].offers == [[0, 1]] * 3
    assert row.rate == pytest.approx(1000 * 2 / 6)
    assert row.floor == pytest.approx(1000 * 2 / 12)
    assert (row.dead_share, row.top_tenth) == (0.0, 1.0)


def half_and_half(n_prompts=30, n_steps=12):
    """Half of the prompts always earn 0.5, the others 0 or 1."""
    prompt, step = np.tile(np.arange(n_prompts), 8 * n_steps), np.repeat(np.arange(n_steps), 8 * n_prompts)
    coins = np.random.default_rng(0).integers(0, 2, prompt.size)
    return make_log(prompt, step, np.where(prompt < n_prompts // 2, 0.5, coins))


def test_fractional_rewards_are_told_with_their_squares():
    log, kept = half_and_half(), {}

    class Deaf(Uniform):
        def update(self, prompt_ids, successes, rollouts):
            super().update(prompt_ids, successes, rollouts)

    def keep(name, kind):
        return lambda bank, **run: kept.setdefault(name, kind(bank, **run))

    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        result = replay(log, {"greedy": keep("greedy", Greedy), "told": keep("told", Uniform)}, n_boot=5)
    deaf = replay(log, {"deaf": keep("deaf", Deaf)}, n_boot=5)
    told, blind = (kept[name].bank.value() for name in ("told", "deaf"))
    won, n = (np.bincount(log.group_prompt, column) for column in (log.successes, log.trials))
    mean, second = (1 + won) / (2 + n), (1 + np.bincount(log.group_prompt, log.squares)) / (2 + n)
    np.testing.assert_allclose(told, (second - mean**2) * (2 + n) / (3 + n), rtol=1e-12)
    assert told[:15].max() < 0.01 < 0.2 < told[15:].min()
    np.testing.assert_allclose(blind, mean * (1 - mean) * (2 + n) / (3 + n), rtol=1e-12)
    assert deaf.row("deaf").rate == result.row("told").rate  # an update without squares is told the sums
    exposure = kept["greedy"].exposure  # deals little where all rewards are 0.5
    assert exposure[:15].sum() < 0.35 * exposure.sum()


def test_rewards_0_and_1_are_told_as_ever():
    told = []

    class Open(Uniform):
        def update(self, *args, **more):
            told.append(more)
            super().update(*args, **more)

    replay(simulated_log(), {"open": Open}, n_boot=5)
    assert told
    assert not any(told)


@settings(max_examples=30)
@given(logs, st.sampled_from(["batch", "pool"]), st.integers(0, 3))
def test_totals_are_conserved(log, offer, seed):
    result = replay(log, {"greedy": Greedy, "fixed": FixedPacing}, offer=offer, n_boot=5, seed=seed)
    for row in (*result.rows, result.logged):
        assert row.dealt == log.n_rollouts
        assert 0.0 <= row.unanswerable <= 1.0
        if row.rate == row.rate:
            assert 0.0 <= row.rate <= 500.0
            assert 0.0 <= row.dead_share <= 1.0
    assert result.logged.unanswerable == 0.0
    assert result.logged.dead_share == pytest.approx(log.trials[log.dead].sum() / log.n_rollouts)
    assert result.logged.rate == pytest.approx(1000 * (~log.dead).sum() / log.n_rollouts)


@pytest.mark.parametrize("levels", [1, 4])
def test_uniform_on_even_groups_is_the_log_itself(levels):
    log = simulated_log(levels=levels)
    result = replay(log, {}, n_boot=50)
    uniform, logged = result.row("Uniform"), result.logged
    assert (uniform.rate, uniform.dead_share, uniform.groups) == (logged.rate, logged.dead_share, logged.groups)
    assert (uniform.difference_interval, logged.difference_interval, uniform.mark) == ((0.0, 0.0), (0.0, 0.0), "")
    assert uniform.interval[0] < uniform.rate < uniform.interval[1]


def test_a_row_depends_on_its_policy_and_the_seed_alone():
    log = simulated_log()
    alone = replay(log, {"greedy": Greedy}, n_boot=50)
    among = replay(log, {"fixed": FixedPacing, "greedy": Greedy, "Uniform": Uniform}, n_boot=50)
    assert alone.row("greedy") == among.row("greedy")
    assert replay(log, {"greedy": Greedy}, n_boot=50).rows == alone.rows
    assert replay(log, {"greedy": Greedy}, n_boot=50, seed=1).row("greedy") != alone.row("greedy")


def test_default_policies_are_ranked_and_play_every_round():
    log = simulated_log()
    result = replay(log, n_boot=50)
    assert {row.name for row in result.rows} == set(default_policies(log))
    shares = [row.mixed_share for row in result.rows]
    assert shares == sorted(shares, reverse=True)
    assert result.max_rollouts == 32
    assert result.row("ResolvingAllocator").dealt == log.n_rollouts
    assert result.row("training_allocator").dealt == log.n_rollouts
    pool = replay(log, offer="pool", n_boot=50)
    assert pool.row("Uniform").mean_group == 8.0  # as logged, not one rollout for every prompt


def test_groups_are_of_like_size():
    # A cap meant for rules that choose counts must not become the group of those that deal one size.
    log = simulated_log()  # groups of 8, half of which a batch rule of one size can serve with 16
    selectors = [rule.__name__ for rule in PEERS if rule.kind == "selects"]
    one_size = ("FenchelDualAllocator", "FixedPacing", "Greedy", *selectors)
    for offer, size in (("pool", 8), ("batch", 16)):
        policies = default_policies(log, offer=offer)
        run = {"total_budget": log.n_rollouts, "n_rounds": log.n_steps, "max_rollouts": 32, "seed": 0}
        for name in one_size:
            counts = policies[name](BetaPosteriorBank(log.n_prompts), **run).allocate(range(20), 160, exact=True)
            assert set(counts[counts > 0].tolist()) == {size}, name
        least = policies["ResolvingAllocator"](BetaPosteriorBank(log.n_prompts), **run).allocate(range(20), 160)
        assert least[least > 0].min() >= (8 if offer == "pool" else 2)


def test_caps():
    log = simulated_log()
    assert replay(log, {}, max_rollouts=8, n_boot=2).max_rollouts == 8
    with pytest.raises(ValueError, match="max_rollouts must be at least 8 to spend the totals, got max_rollouts = 7"):
        replay(log, {}, max_rollouts=7)
    large = make_log([0, 0, 1, 1], [0] * 4, [0, 1, 0, 1], [100, 100, 100, 50])
    assert replay(large, {}, n_boot=2).max_rollouts == 175  # the published 128 could not spend the total
    with pytest.raises(ValueError, match="offer must be one of"):
        replay(log, {}, offer="all")
    with pytest.raises(ValueError, match="offer must be one of"):
        default_policies(log, offer="shelf")
    with pytest.raises(KeyError, match=r"name must be one of \['Uniform'\], got name = 'Nobody'"):
        replay(log, {}, n_boot=2).row("Nobody")
    with pytest.raises(ValueError, match="n_boot must be at least 2"):
        replay(log, {}, n_boot=1)


def test_policies_that_the_caps_do_not_allow_are_left_out_or_refused():
    log = make_log([0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1])
    result = replay(log, n_boot=5)
    assert {row.name for row in result.rows} | {text.split(":")[0] for text in result.left_out} == set(
        default_policies(log)
    )

    def impossible(bank, **run):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        replay(log, {"impossible": impossible})


def test_progress_is_reported_for_every_policy():
    calls = []
    replay(simulated_log(), {"greedy": Greedy}, n_boot=2, progress=lambda: calls.append(1))
    assert len(calls) == 2


# ---------------------------------------------------------------- a part of the rollouts


@settings(max_examples=30)
@given(logs, st.sampled_from(["batch", "pool"]), st.floats(0.01, 1.0))
def test_a_part_of_every_step_is_spent(log, offer, budget):
    totals = step_totals(log, budget)
    whole = step_totals(log, 1.0)
    assert totals.sum() == round(budget * log.n_rollouts)
    assert (np.abs(totals - budget * whole) <= 1.0).all()
    assert ((totals >= 0) & (totals <= whole)).all()
    if not totals.any():
        with pytest.raises(ValueError, match="budget must leave a rollout to spend"):
            replay(log, {}, offer=offer, budget=budget)
        return
    replay(log, offer=offer, budget=budget, n_boot=2)
    result = replay(log, {"greedy": Greedy}, offer=offer, budget=budget, n_boot=5)
    assert result.budget == budget
    assert result.row("greedy").dealt == totals.sum()
    assert result.logged.dealt == log.n_rollouts
    shared = result.row("greedy")
    if not np.isnan(shared.dead_share):
        assert shared.mixed_share == pytest.approx(1.0 - shared.dead_share)


@pytest.mark.parametrize("outcomes_of", [ListedOutcomes, CountedOutcomes])
def test_outcomes_of_open_groups_are_those_of_their_step(outcomes_of):
    log = make_log([0] * 8 + [1] * 4, [0] * 4 + [1] * 4 + [1] * 4, [0] * 4 + [1] * 4 + [1, 1, 1, 0])
    outcomes, rows = outcomes_of(log, 0), np.array([0, 1])
    for _ in range(2):
        first, second = log.groups_of_steps()
        outcomes.open_groups(first)
        won, answered, *_ = outcomes.draw(rows[:1], np.array([1]))
        assert (won.tolist(), answered.tolist()) == ([0], [1])
        outcomes.open_groups(second)  # passes over the other three of the first step
        won, answered, *_ = outcomes.draw(rows, np.array([3, 9]))
        assert (won.tolist(), answered.tolist()) == ([3, 3], [3, 4])
        won, answered, *_ = outcomes.draw(rows, np.array([3, 1]))  # a later wave
        assert (won.tolist(), answered.tolist()) == ([1, 0], [1, 0])
        outcomes.restart()


def test_a_part_of_the_rollouts_gets_the_groups_of_its_step():
    log, seen = simulated_log(n_epochs=5), []

    class Open(Greedy):
        def update(self, prompt_ids, successes, rollouts):
            seen.append((np.asarray(prompt_ids), np.asarray(successes), np.asarray(rollouts)))
            super().update(prompt_ids, successes, rollouts)

    result = replay(log, {"open": lambda bank, **run: Open(bank, **run)}, budget=0.5, n_boot=20)
    assert (result.max_rollouts, result.row("open").unanswerable) == (8, 0.0)
    assert len(seen) == log.n_steps
    for (rows, won, rollouts), step in zip(seen, log.groups_of_steps(), strict=True):
        assert rollouts.tolist() == [8] * 10
        logged = dict(zip(log.group_prompt[step].tolist(), log.successes[step].tolist(), strict=True))
        assert won.tolist() == [logged[row] for row in rows.tolist()]


def test_the_log_keeps_all_of_its_groups_and_random_choice_its_part():
    log = simulated_log(n_prompts=200, batch=50, n_epochs=12)
    result = replay(log, budget=0.5, n_boot=50)
    assert (result.logged.kept, result.logged.kept_interval) == (1.0, (1.0, 1.0))
    uniform, chosen = result.row("Uniform"), result.row("training_allocator")
    assert (uniform.mean_group, chosen.mean_group) == (8.0, 8.0)
    assert uniform.kept == pytest.approx(0.5, abs=0.05)
    assert chosen.kept_interval[0] > 0.55
    assert uniform.mixed_share == pytest.approx(result.logged.mixed_share, abs=0.05)
    assert chosen.mixed_share_interval[0] > uniform.mixed_share_interval[1]
    whole = replay(log, {}, n_boot=50)
    assert (whole.budget, whole.row("Uniform").kept) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("budget", "error"), [(0.0, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("half", TypeError)]
)
def test_budgets_out_of_range(budget, error):
    for call in (lambda log: replay(log, {}, budget=budget), lambda log: default_policies(log, budget=budget)):
        with pytest.raises(error, match=r"budget must be a number in \(0, 1\], got"):
            call(simulated_log())


# ---------------------------------------------------------------- the intervals


def test_the_bootstrap_resamples_prompts():
    table = np.arange(12.0).reshape(6, 2)
    sums = _results.resampled(table, 4000, np.random.default_rng(0))
    assert sums.shape == (4000, 2)
    np.testing.assert_allclose(sums.mean(axis=0), table.sum(axis=0), rtol=0.02)
    np.testing.assert_allclose(sums.std(axis=0), np.sqrt(6 * table.var(axis=0)), rtol=0.05)
    weights = _results.resampled(np.eye(6), 100, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 6).all()
    assert (weights == np.round(weights)).all()


def test_the_bootstrap_in_blocks_is_no_other(monkeypatch):
    table = np.random.default_rng(1).random((50, 3))
    whole = _results.resampled(table, 33, np.random.default_rng(0))
    monkeypatch.setattr(_results, "_WEIGHTS", 500)
    np.testing.assert_allclose(_results.resampled(table, 33, np.random.default_rng(0)), whole)


@pytest.mark.parametrize(
    ("interval", "floor", "mark"),
    [
        ((0.1, 1.0), (0.1, 1.0), "+"),
        ((0.1, 1.0), (-0.1, 1.0), "(+)"),
        ((-0.1, 1.0), (0.1, 1.0), ""),
        ((-2, -1), (-2, -1), "-"),
        ((float("nan"), float("nan")), (0.1, 1.0), ""),
        ((0.1, float("nan")), (0.1, 1.0), ""),
    ],
)
def test_marks(interval, floor, mark):
    row = replay(simulated_log(), {}, n_boot=2).row("Uniform")
    assert replace(row, difference_interval=interval, floor_interval=floor).mark == mark


class Dealing:
    """A user's policy that deals the given counts."""

    def __init__(self, deal, bank, **run):
        self.deal = deal

    def allocate(self, prompt_ids=None, budget=None, *, exact=False):
        return self.deal(len(prompt_ids), budget)

    def update(self, *feedback):
        pass


@pytest.mark.parametrize(
    ("deal", "message"),
    [
        (lambda size, budget: np.full(size, 10**6), r"counts must be multiples of 1 in \[0, 32\]"),
        (lambda size, budget: np.full(size, 32), "counts must sum to at most the 160 left, got counts = 640"),
        (lambda size, budget: np.array([9] + [-1] * (size - 1)), "counts must be multiples of 1 in"),
        (lambda size, budget: np.full(size, 1.5), "counts must be integers"),
    ],
)
def test_policies_of_ones_own_keep_to_the_caps(deal, message):
    with pytest.raises(ValueError, match=message):
        replay(simulated_log(), {"mine": partial(Dealing, deal)}, n_boot=2)


def test_an_error_of_ones_own_is_not_taken_for_an_infeasible_total():
    class Broken(Dealing):
        def update(self, *feedback):
            raise ValueError("a bug in update")

    with pytest.raises(ValueError, match="a bug in update"):
        replay(simulated_log(), {"mine": partial(Broken, lambda size, budget: np.full(size, 8))}, n_boot=2)


def test_one_broken_step_does_not_change_the_groups():
    whole = simulated_log(seed=3)
    last = whole.n_steps
    names = whole.prompt_ids
    cell = whole.entry_group
    rows = (whole.group_prompt[cell], whole.group_step[cell].astype(float), whole.entry_reward, whole.entry_rollouts)
    cut = RolloutLog.of_rows(
        names, *(np.append(part, more) for part, more in zip(rows, (0, last, 1.0, 1), strict=True)), n_lines=1
    )  # a log that ends in mid-step
    assert cut.n_rollouts == whole.n_rollouts + 1
    run = {"total_budget": 160, "n_rounds": 1, "max_rollouts": 32, "seed": 0}
    for offer in ("batch", "pool"):
        for name, build in default_policies(cut, offer=offer).items():
            if name.startswith("Resolving") or name in ("training_allocator", "FenchelDualAllocator"):
                continue  # gets the visits, which differ
            theirs = default_policies(whole, offer=offer)[name]
            mine, others = (make(BetaPosteriorBank(60), **run).allocate(range(20)) for make in (build, theirs))
            assert mine.tolist() == others.tolist(), name


# ---------------------------------------------------------------- the settings


def test_learnt_settings_recover_the_pool():
    log = simulated_log(n_prompts=400, batch=100, n_epochs=6)
    learnt = learn_settings(log)
    assert learnt.prior == pytest.approx((0.5, 0.5), rel=0.3)
    assert learnt.prior_fit.fitted
    assert learnt.forgetting.forgetting == 1.0
    assert abs(learnt.after.bias) < learnt.before.bias
    bank = log.bank()
    for entry in log.history():
        bank.update(*entry)
        bank.tick()
    assert bank.calibration().bias == learnt.before.bias
    assert bank.fit_prior() == learnt.prior_fit


def test_settings_of_fractional_rewards_are_calibrated_by_their_squares():
    log = half_and_half()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        learnt = learn_settings(log)
    bank = log.bank()
    for (ids, successes, rollouts), step in zip(log.history(), log.groups_of_steps(), strict=True):
        bank.update(ids, successes, rollouts, squares=log.squares[step])
        bank.tick()
    assert bank.calibration().bias == learnt.before.bias
    assert learnt.before.mixed_groups == (~log.dead).sum()
    observed = np.nansum(learnt.before.groups * learnt.before.observed) / learnt.before.n_groups
    spread = (log.squares - log.successes**2 / log.trials) / (log.trials - 1)
    assert observed == pytest.approx(spread.mean(), rel=1e-12)
    assert observed == pytest.approx(0.125, abs=0.005)


def test_few_prompts_keep_the_flat_prior():
    learnt = learn_settings(simulated_log(n_prompts=10, batch=5))
    assert (learnt.prior, learnt.prior_fit.status) == ((1.0, 1.0), "too few prompts")


def test_the_recommended_call_runs():
    log = simulated_log()
    scope = {"training_allocator": training_allocator, "prompt_ids": log.prompt_ids}
    exec("\n".join(python_lines(log)), scope)
    assert scope["allocator"].allocate(log.prompt_ids[:20], 160, exact=True).sum() == 160


def test_an_allocator_is_recommended_only_where_it_pays():
    rng = np.random.default_rng(0)
    prompt, step = np.tile(np.arange(60), 12), np.repeat(np.arange(12), 60)
    for rate, kind in ((np.repeat([0.0, 0.5, 1.0], 20), "waste"), (np.full(60, 0.5), "uniform")):
        wins = rng.binomial(8, rate[prompt])
        rows = [np.concatenate([x, x]) for x in (prompt, step)]
        counts = np.concatenate([wins, 8 - wins])
        some = counts > 0
        log = make_log(*(x[some] for x in rows), np.repeat([1.0, 0.0], prompt.size)[some], counts[some])
        report = replay_report("x", log, n_boot=50)
        assert report.verdict.kind == kind
        assert bool(report.code) == (kind == "waste")
        assert " ".join(report_text(report).split()).startswith(report.verdict.text)
        assert report_json(report)["verdict"] == report.verdict.text


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize("levels", [1, 4])
def test_the_report_says_the_same_in_every_form(levels):
    report = replay_report("yesterday", simulated_log(levels=levels), n_boot=20)
    text, rows, data = report_text(report), report_rows(report), report_json(report)
    assert "THE LOG: yesterday" in text
    assert ("between 0 and 1" in text) == (levels > 1)
    assert all(row["name"] in text for row in rows)
    assert list(rows[0]) == row_names()
    assert [row["name"] for row in data["policies"]] == [row["name"] for row in rows]
    assert json.loads(json.dumps(data, allow_nan=False))["python"] == report.code
    assert all(line in text for line in report.code)
    assert max(map(len, text.replace("\n".join(report.code), "").splitlines())) <= 132


def test_the_report_without_a_choice():
    report = replay_report("same", make_log([0, 0, 1], [0, 1, 1], [1, 1, 1]))
    assert report.result is None
    assert (report.code, report_rows(report)) == ([], [])
    assert "all rewards are 1: every group is dead" in " ".join(report_text(report).split())
    assert json.loads(json.dumps(report_json(report), allow_nan=False))["warnings"]


def test_the_report_warns():
    once = " ".join(report_text(replay_report("once", make_log([0, 0, 1, 1], [0] * 4, [1, 0, 1, 1]), n_boot=5)).split())
    assert "every prompt was seen in one step only" in once
    assert "2 prompts are too few" in once
    assert "no prompt was in two steps" in once


def test_a_verdict_points_to_the_warnings_that_touch_it():
    log = simulated_log()
    doubtful = replace(log, reading=replace(log.reading, doubts=("steps go backwards.",)))
    plain, pointing = (replay_report("x", log, n_boot=20) for log in (log, doubtful))
    assert plain.verdict == pointing.verdict
    assert said(plain).startswith(plain.verdict.text)
    assert said(pointing).startswith(f"See the warnings below: {plain.verdict.text}")


def test_a_rule_behind_uniform_with_more_in_mixed_groups_has_larger_ones():
    log = simulated_log()
    result = replay(log, n_boot=20)
    rule = replace(
        result.row("training_allocator"), mean_group=12.0, mixed_share=0.78, difference_interval=(-9.3, -3.5)
    )
    others = tuple(row for row in result.rows if row.name != rule.name)
    uniform = result.row("Uniform")

    def told(row):
        return [note for note in notes_of(replace(result, rows=(row, *others))) if note.startswith(rule.name)]

    (note,) = told(rule)
    assert f"12 rollouts on average against {uniform.mean_group:.3g}: 78% of its rollouts" in note
    assert note.endswith(f"against {uniform.mixed_share:.0%}.")
    for other in ({"difference_interval": (-1.0, 1.0)}, {"mean_group": 4.0}, {"mixed_share": 0.0}):
        assert told(replace(rule, **other)) == []
    assert not any(note.startswith(rule.name) for note in notes_of(replace(result, rows=others)))


def said(report):
    return " ".join(report_text(report).split())


def test_the_page_that_the_report_names_exists():
    page = re.search(r"\(page: (.*?)\)", said(replay_report("x", simulated_log(), n_boot=5)))[1]
    pages = Path(__file__).parents[2] / "docs"
    assert any(file.read_text(encoding="utf-8").startswith(f"# {page}\n") for file in pages.glob("*.md"))


def test_the_doubts_of_the_reader_are_warnings(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("prompt,step,reward\n" + "".join(f"p{i},{i % 4},{i % 3 // 2}\n" for i in range(40)))
    report = replay_report("x", read_log(file), n_boot=5)
    assert "warning: every group is a single rollout" in " ".join(report_text(report).split())
    assert report_json(report)["warnings"][: len(report.log.reading.doubts)] == list(report.log.reading.doubts)


@pytest.mark.parametrize("name", ["lcb-exec-dscoder-1.3b-to-33b", "llama-3-8b-instruct"])
def test_real_counts_replay(name):

    file = DATA / f"{name}.csv"
    if not file.exists():
        pytest.skip(f"{file} is not part of the package")
    log = read_log(file)
    result = replay(log, n_boot=20)
    assert result.row("Uniform").rate == result.logged.rate
    assert result.row("ResolvingAllocator").dealt == log.n_rollouts
