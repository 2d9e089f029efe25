"""Verdicts: simulated logs whose truth is known get the right one, and the texts hold the figures."""

from dataclasses import replace

import numpy as np
import pytest

from cero_alloc.replay import RolloutLog, default_policies, replay, verdict
from cero_alloc.replay._verdict import counted
from cero_alloc.simulation import epoch_batches

KINDS = ("waste", "uniform", "small", "filtered", "one sided")
GROUP = 8


def log_of(rng, rates, n_epochs=8, batch=None, keep_dead=True):
    """Return the log of a run with these success rates, with or without its dead groups."""
    size = rates.size
    batches = epoch_batches(size, batch or size, n_epochs, seed=rng)
    prompt = np.concatenate([np.sort(rows) for rows in batches])
    step = np.repeat(np.arange(float(len(batches))), [rows.size for rows in batches])
    won = rng.binomial(GROUP, rates[prompt])
    if not keep_dead:
        mixed = (won > 0) & (won < GROUP)
        prompt, step, won = prompt[mixed], step[mixed], won[mixed]
    rollouts = np.stack([GROUP - won, won], axis=1).ravel()
    some = rollouts > 0
    known, place = np.unique(prompt, return_inverse=True)
    columns = [np.repeat(place, 2), np.repeat(step, 2), np.tile([0.0, 1.0], won.size), rollouts]
    return RolloutLog.of_rows(tuple(map(str, known)), *(column[some] for column in columns), n_lines=won.size)


def with_waste(rng):
    """About a third of the prompts or more teach nothing: half the rollouts can keep well above 55%."""
    size, dead = int(rng.integers(100, 200)), rng.uniform(0.3, 0.6)
    teaches, right = rng.random(size) >= dead, rng.random(size) < rng.uniform(0.2, 0.8)
    return log_of(rng, np.where(teaches, rng.uniform(0.25, 0.75, size), np.where(right, 1.0, 0.0)), batch=size // 2)


def uniform_enough(rng):
    """All prompts teach about as much: some groups are dead, but no prompt is."""
    size = int(rng.integers(100, 200))
    middle, width = rng.uniform(0.25, 0.75), rng.uniform(0.0, 0.08)
    return log_of(rng, rng.uniform(middle - width, middle + width, size), batch=size // 2)


def too_small(rng):
    """A few prompts of all kinds, a few times."""
    return log_of(rng, rng.beta(0.5, 0.5, int(rng.integers(6, 40))), n_epochs=int(rng.integers(2, 4)))


def filtered(rng):
    """Prompts of all kinds, whose dead groups never reached the log."""
    return log_of(rng, rng.beta(0.5, 0.5, int(rng.integers(60, 150))), n_epochs=4, keep_dead=False)


TRUTHS = {"waste": with_waste, "uniform": uniform_enough, "small": too_small, "filtered": filtered}


def confusion(n_logs=50, n_boot=100):
    """Return how often each truth (a row) gets each verdict (a column), and print it."""
    table = np.zeros((len(TRUTHS), len(KINDS)), dtype=int)
    for i, make in enumerate(TRUTHS.values()):
        for seed in range(n_logs):
            log = make(np.random.default_rng([i, seed]))
            table[i, KINDS.index(verdict(log, half_of(log, n_boot)).kind)] += 1
    print("\n" + f"{'truth':<12}" + "".join(f"{kind:>12}" for kind in KINDS))
    for truth, counts in zip(TRUTHS, table, strict=True):
        print(f"{truth:<12}" + "".join(f"{count:>12}" for count in counts))
    return table


def half_of(log, n_boot=100, budget=0.5):
    """Return the replay that a verdict needs, with its one rule only."""
    rule = default_policies(log, budget=budget)["training_allocator"]
    return replay(log, {"training_allocator": rule}, budget=budget, n_boot=n_boot)


@pytest.mark.parametrize("n_logs", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_known_truths_get_the_right_verdict(n_logs):
    table = confusion(n_logs)
    right = table[np.arange(len(TRUTHS)), np.arange(len(TRUTHS))]
    assert right.sum() >= 0.9 * table.sum()
    assert (right >= 0.8 * table.sum(axis=1)).all()
    assert table[0, 1] == table[1, 0] == 0  # neither is taken for the other


def test_the_texts_hold_the_figures():
    rng = np.random.default_rng(0)
    log = log_of(rng, np.repeat([0.0, 1.0, 0.5, 0.4], 40))
    less = half_of(log)
    row, found = less.row("training_allocator"), verdict(log, less)
    right, wrong = (log.trials[log.successes == whole].sum() / log.n_rollouts for whole in (log.trials, 0.0))
    assert found.kind == "waste"
    dead = log.trials[log.dead].sum() / log.n_rollouts
    low, high = row.kept_interval
    assert found.text == (
        f"{dead:.0%} of your rollouts were in groups that taught nothing ({right:.0%} all right, {wrong:.0%} all wrong). "
        f"Half the rollouts on the more uncertain prompts would have kept {row.kept:.0%} of the mixed groups "
        f"[{100 * low:.0f}, {100 * high:.0f}]."
    )
    even = log_of(rng, np.full(80, 0.4))
    assert verdict(even, half_of(even)).text.startswith("Stay uniform: half the rollouts on the more uncertain prompts")
    once = log_of(rng, np.tile([0.0, 0.5], 200), n_epochs=1, batch=50)
    assert verdict(once, half_of(once)).text.startswith("Too small to say: each prompt was seen in one step only")
    pairs = log_of(rng, np.tile([0.0, 0.5], 20), batch=1)
    assert verdict(pairs, half_of(pairs)).text.startswith("Too small to say: the steps have too few prompts")
    part = verdict(log, half_of(log, budget=0.75))
    assert "75% of the rollouts on the more uncertain prompts" in part.text


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        (np.zeros(50), "One sided: 100% of your rollouts were in groups that were all wrong. Add easier prompts."),
        (np.append(np.ones(99), 0.5), "One sided: 99% of your rollouts were in groups that were all right. Add harder"),
        (np.full(10, 0.4), "Too small to say: 10 prompts, and 20 are needed."),
        (np.full(1, 0.4), "Too small to say: 1 prompt, and 20 are needed."),
        (np.repeat([0.0, 1.0], 30), "Too small to say: 0 groups are mixed."),
    ],
)
def test_logs_without_a_comparison(rates, text):
    log = log_of(np.random.default_rng(1), rates, n_epochs=3)
    assert verdict(log, half_of(log, 20)).text.startswith(text)


def test_single_rollouts_are_no_groups():
    step = np.repeat(np.arange(3.0), 30)
    prompt, reward = np.tile(np.arange(30), 3), np.arange(90.0) % 2
    log = RolloutLog.of_rows(tuple(map(str, range(30))), prompt, step, reward, np.ones(90, int), n_lines=90)
    assert verdict(log, half_of(log, 20)).text.startswith("Too small to say: every group is a single rollout")


@pytest.mark.parametrize(("number", "text"), [(0, "0 groups are"), (1, "1 group is"), (1200, "1,200 groups are")])
def test_numbers_agree_with_their_nouns(number, text):
    assert counted(number, "group", "is", "are") == text
    assert counted(number, "group") == text.rsplit(" ", 1)[0]


def test_gains_that_straddle_what_is_worth_acting_on_are_not_decided():
    log = uniform_enough(np.random.default_rng(2))
    less = half_of(log, 20)
    row = replace(less.row("training_allocator"), dealt=log.n_rollouts // 2, kept=0.56, kept_interval=(0.5, 0.62))
    found = verdict(log, replace(less, rows=(row,)))
    assert found.kind == "small"
    assert "more than 55% is worth it" in found.text


def test_replays_that_cannot_answer_are_refused():
    log = uniform_enough(np.random.default_rng(3))
    with pytest.raises(ValueError, match="less must have a budget below 1"):
        verdict(log, replay(log, {}, n_boot=2))
    with pytest.raises(ValueError, match="less must be a replay in batches"):
        verdict(log, replay(log, {}, offer="pool", budget=0.5, n_boot=2))
    with pytest.raises(KeyError, match="training_allocator"):
        verdict(log, replay(log, {}, budget=0.5, n_boot=2))
    with pytest.raises(TypeError, match="less must be a ReplayResult"):
        verdict(log, None)
