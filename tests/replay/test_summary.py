"""What a log tells without a replay, against loops over its groups and against known rates."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc.replay import RolloutLog, replay
from cero_alloc.replay._report import ReplayReport, kinds_of
from cero_alloc.replay._results import UNIFORM
from cero_alloc.replay._settings import learn_settings
from cero_alloc.replay._summary import (
    OUTCOMES,
    _all_alike,
    _near,
    at_sizes,
    over_steps,
    prompt_table,
    single_rollouts,
    summary_json,
    summary_of,
)
from cero_alloc.replay._text import report_text


def counts_log(prompt, step, wins, sizes):
    """A log of 0/1 rewards with one group per row, sorted by step and prompt."""
    order = np.lexsort((prompt, step))
    prompt, step, wins, sizes = (np.asarray(column)[order] for column in (prompt, step, wins, sizes))
    rollouts = np.stack([sizes - wins, wins], axis=1).ravel()
    kept = rollouts > 0
    columns = (np.repeat(prompt, 2)[kept], np.repeat(step, 2).astype(float)[kept], np.tile([0.0, 1.0], wins.size)[kept])
    names = tuple(map(str, range(int(prompt.max()) + 1)))
    return RolloutLog.of_rows(names, *columns, rollouts[kept], n_lines=int(sizes.sum()))


def random_log(seed, prompts=30, steps=12, size=8):
    rng = np.random.default_rng(seed)
    visited = rng.random((prompts, steps)) < 0.5
    visited[np.arange(prompts), rng.integers(0, steps, prompts)] = True
    prompt, step = np.nonzero(visited)
    rates = rng.choice([0.0, 0.05, 0.5, 0.9, 1.0], prompts)
    return counts_log(prompt, 10 * step, rng.binomial(size, rates[prompt]), np.full(prompt.size, size))


def kind(wins, size):
    return "all_wrong" if wins == 0 else "all_right" if wins == size else "mixed"


@given(st.integers(0, 1000), st.integers(1, 30))
def test_shares_over_steps_are_those_of_a_loop(seed, bins):
    log = random_log(seed)
    rows = over_steps(log, bins)
    assert len(rows) == min(bins, log.n_steps)
    assert sum(row.rollouts for row in rows) == log.n_rollouts
    assert (rows[0].first_step, rows[-1].last_step) == (log.steps[0], log.steps[-1])
    for row in rows:
        inside = [
            (kind(wins, size), size)
            for at, wins, size in zip(log.group_step, log.successes, log.trials, strict=True)
            if row.first_step <= log.steps[at] <= row.last_step
        ]
        for name in ("all_wrong", "mixed", "all_right"):
            share = sum(size for found, size in inside if found == name) / row.rollouts
            assert getattr(row.shares, name) == pytest.approx(share)


def test_rewards_that_are_equal_in_between_have_a_share_of_their_own():
    log = RolloutLog.of_rows(
        ("a", "b"), np.array([0, 1]), np.ones(2), np.array([0.5, 1.0]), np.array([4, 12]), n_lines=16
    )
    assert over_steps(log)[0].shares.between == 0.25


@given(st.integers(0, 1000))
def test_the_outcome_of_a_prompt_is_that_of_its_groups(seed):
    log = random_log(seed)
    table = prompt_table(log)
    for prompt in range(log.n_prompts):
        mine = np.flatnonzero(log.group_prompt == prompt)
        kinds = [kind(log.successes[i], log.trials[i]) for i in mine]
        if set(kinds) == {"all_wrong"}:
            name = "always wrong"
        elif set(kinds) == {"all_right"}:
            name = "always right"
        elif kinds[-2:] == ["all_right"] * 2:
            name = "solved"
        else:
            name = "mixed" if "mixed" in kinds else "never mixed"
        assert OUTCOMES[table.outcome[prompt]] == name
        assert table.mixed_groups[prompt] == kinds.count("mixed")
        mixed = [log.steps[log.group_step[i]] for i, found in zip(mine, kinds, strict=True) if found == "mixed"]
        assert np.array_equal(table.last_mixed[prompt], mixed[-1] if mixed else np.nan, equal_nan=True)
    assert sum(prompts for prompts, _ in table.counts().values()) == log.n_prompts
    assert sum(rollouts for _, rollouts in table.counts().values()) == log.n_rollouts
    rows = table.rows(log)
    assert sorted(row["prompt_id"] for row in rows) == sorted(log.prompt_ids)
    places = [OUTCOMES.index(row["outcome"]) for row in rows]
    assert places == sorted(places)


@pytest.mark.parametrize("own", [True, False])
def test_single_rollouts_of_a_prompt_are_judged_together(own):
    runs = ["0" + 8 * "1", "0" + 7 * "1", 9 * "1", 9 * "0", 8 * "1" + "0", "01", "11", "1"]
    visits = [(p, step, int(won)) for p, run in enumerate(runs) for step, won in enumerate(run)]
    prompt, step, wins = map(np.array, zip(*visits, strict=True))
    log = counts_log(prompt, step, wins, np.ones(wins.size, dtype=int))
    log = replace(log, reading=replace(log.reading, dealt_by="Some" if own else "", pool=8))
    found, right = [OUTCOMES[i] for i in prompt_table(log).outcome], "always right"
    assert found == ["solved", "mixed", right, "always wrong", "mixed", "mixed", right, right]
    assert over_steps(log) == []  # no group is dead
    split = summary_json(summary_of(log))["prompts_split"]
    assert (split["single"], split["never_mixed"], split["solved"]) == (True, None, 1)
    text = report_text(ReplayReport("x", log, summary_of(log)))
    assert re.search(r"single rollouts +49 +100\.0%", text)
    assert re.search(r"dead: all rewards equal +0 +0\.0%", text)
    assert re.search(r"solved: the last 8 rollouts right +1 +9\n", text)
    assert "never mixed" not in text


def test_a_single_rollout_among_groups_is_a_dead_group():
    log = counts_log([0, 1], [0, 0], [4, 1], [8, 1])
    assert not prompt_table(log).single
    assert over_steps(log)[0].rollouts == 9
    assert kinds_of(log)["dead: all rewards equal"].tolist() == [False, True]


@given(st.integers(0, 1000), st.floats(0.1, 1.0))
def test_other_groups_of_a_prompt_fade_in_both_directions(seed, forgetting):
    log = random_log(seed)
    own = np.stack([log.trials - log.successes, log.successes], axis=1)
    near = _near(log, own, forgetting)
    for i, (prompt, step) in enumerate(zip(log.group_prompt, log.group_step, strict=True)):
        weight = (log.group_prompt == prompt) * forgetting ** np.abs(log.group_step - step)
        weight[i] = 0.0
        assert near[i] == pytest.approx(weight @ own, abs=1e-9)


@given(st.lists(st.floats(0.01, 20.0), min_size=2, max_size=5), st.integers(2, 64))
def test_equal_rewards_have_the_probability_of_draw_after_draw(alpha, size):
    alpha = np.array([alpha])
    one_by_one = np.prod([(alpha + k) / (alpha.sum() + k) for k in range(size)], axis=0)
    assert _all_alike(alpha, size) == pytest.approx(one_by_one, rel=1e-9)


def drifting(rng, a, b, *, prompts=300, visits=8, size=8):
    """A log of rates that begin with a Beta distribution and move, and the rates of its groups."""
    logits = np.log(rng.beta(a, b, prompts))
    logits -= np.log1p(-np.exp(logits))
    rates = [1.0 / (1.0 + np.exp(-(logits := logits + rng.normal(0.1, 0.2, prompts)))) for _ in range(visits)]
    prompt, step = np.tile(np.arange(prompts), visits), np.repeat(np.arange(visits), prompts)
    rate = np.concatenate(rates)
    return counts_log(prompt, step, rng.binomial(size, rate), np.full(rate.size, size)), rate


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.4, 1.2), (2.0, 2.0)])
def test_dead_shares_at_other_sizes_are_those_of_the_rates(a, b):
    """Over 10 logs; the error grows away from the logged size, since tails of the rates' distribution decide there."""
    error = {size: [] for size in (4, 8, 16, 32, 64)}
    for seed in range(10):
        log, rate = drifting(np.random.default_rng(seed), a, b)
        for row in at_sizes(log, learn_settings(log).forgetting.forgetting):
            true = np.mean(rate**row.size + (1.0 - rate) ** row.size)
            error[row.size].append(1.0 - row.shares.mixed - true)
            assert row.logged == (row.size == 8)
    found = {size: (np.mean(errors), np.std(errors)) for size, errors in error.items()}
    print(a, b, {size: f"{mean:+.3f} +- {spread:.3f}" for size, (mean, spread) in found.items()})
    for size, (mean, _) in found.items():
        assert abs(mean) < (0.02 if size <= 16 else 0.05)


def test_sizes_without_a_model_are_left_out():
    rng = np.random.default_rng(0)
    reward = np.sort(rng.random(40))
    log = RolloutLog.of_rows(("a",), np.zeros(40, dtype=int), np.zeros(40), reward, np.ones(40, dtype=int), n_lines=40)
    assert at_sizes(log, 1.0) == []
    singles = counts_log([0, 1], [0, 0], [1, 0], [1, 1])
    assert at_sizes(singles, 1.0) == []


def test_the_error_of_the_posterior_mean_is_that_of_known_rates():
    ratios = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        log, rate = drifting(rng, 1.0, 1.0)
        group, single = single_rollouts(log, (1.0, 1.0), 0.8)
        evidence = np.zeros((300, 2))
        errors = []
        for step, groups in enumerate(log.groups_of_steps()):
            mean = (1.0 + evidence[:, 1]) / (2.0 + evidence.sum(axis=1))
            if step:
                errors.append((mean - rate[groups]) ** 2)
            evidence += np.stack([log.trials[groups] - log.successes[groups], log.successes[groups]], axis=1)
            evidence *= 0.8
        later = log.group_step > 0
        variance = np.mean(rate[later] * (1.0 - rate[later]))
        ratios.append([single.baseline_error / np.mean(errors), single.square / (np.mean(errors) + variance)])
        ratios[-1] += [group.baseline_error / (variance / 8), group.square / (7 / 8 * variance)]
        assert group.with_signal == pytest.approx(1.0 - log.dead[later].mean())
        assert (group.prompts_per_1000, single.prompts_per_1000) == (125.0, 1000.0)
    assert np.mean(ratios, axis=0) == pytest.approx(1.0, abs=0.05)


def test_no_prompt_that_comes_back_no_comparison():
    log = counts_log([0, 1], [0, 1], [1, 3], [4, 4])
    assert single_rollouts(log, (1.0, 1.0), 1.0) == []
    assert summary_json(summary_of(log))["single_rollouts"] is None


def test_groups_of_another_size_under_the_default_policies():
    log = random_log(3)
    halves = replay(log, budget=0.5, group_size=4, n_boot=5)
    assert halves.row(UNIFORM).mean_group == pytest.approx(4.0, rel=0.05)
    assert replay(log, budget=0.5, n_boot=5).row(UNIFORM).mean_group > 6.0
    with pytest.raises(ValueError, match="group_size must be at least 1"):
        replay(log, group_size=0)
