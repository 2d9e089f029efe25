"""Restarts and resumes: within a file, and from one file to the next; ranks stay together."""

import json

import numpy as np
import pytest

from cero_alloc.replay import read_log

SIZE = 4


def groups(steps, prompts="abc", reward=None):
    """Return rows of groups whose reward is given, or differs within each group."""
    return [(p, t, reward if reward is not None else i % 2) for t in steps for p in prompts for i in range(SIZE)]


def write(folder, files):
    for name, rows in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"prompt": p, "step": t, "reward": r}) + "\n" for p, t, r in rows))
    return folder


def has(log, *words):
    return any(all(word in doubt for word in words) for doubt in log.reading.doubts)


LATER = {  # files of which the last are a later attempt, how many groups are logged again, and the steps that are dead at last
    "resumed": ({"run_1.jsonl": groups(range(1, 9), reward=1), "run_2.jsonl": groups(range(7, 13))}, 6, range(1, 7)),
    "resumed, and broken off again": (
        {"run_1.jsonl": groups(range(1, 9)), "run_2.jsonl": groups(range(6, 8), reward=1)},  # step 8 is of the first
        6,
        (6, 7),
    ),
    "restarted": ({"a.jsonl": groups(range(1, 4), reward=1), "b.jsonl": groups(range(1, 9))}, 9, ()),
    "a file per step": (
        {f"first/{t}.jsonl": groups([t], reward=1) for t in range(1, 6)}
        | {f"second/{t}.jsonl": groups([t]) for t in range(4, 8)},
        6,
        range(1, 4),
    ),
    "ranks": (
        {f"first/rank_{k}/log.jsonl": groups(range(1, 6), prompts, 1) for k, prompts in enumerate(("ab", "bc"))}
        | {f"second/rank_{k}/log.jsonl": groups(range(5, 9), prompts) for k, prompts in enumerate(("ab", "bc"))},
        3,
        range(1, 5),
    ),
    "broken off in a group": (
        {"a.jsonl": groups(range(1, 5), reward=1)[:-2], "b.jsonl": groups(range(4, 7))},
        3,
        range(1, 4),
    ),
}


@pytest.mark.parametrize("kind", LATER)
def test_a_later_file_that_goes_back_is_another_attempt(kind, tmp_path):
    files, again, dead = LATER[kind]
    folder = write(tmp_path, files)
    log = read_log(folder)
    assert has(log, "steps go backwards from", f"{again} groups", "--last-attempt")
    assert not has(log, "multiples")
    last = read_log(folder, last_attempt=True)
    assert not has(last, "--last-attempt")
    assert last.steps.tolist() == log.steps.tolist()
    assert (last.dead == np.isin(last.steps[last.group_step], dead)).all()
    if kind != "ranks":
        assert (last.trials == SIZE).all()


def test_three_attempts_in_three_files(tmp_path):
    files = {
        "run_1.jsonl": groups(range(1, 9), reward=1),
        "run_2.jsonl": groups(range(7, 11), reward=1),
        "run_10.jsonl": groups(range(9, 15)),
    }
    last = read_log(write(tmp_path, files), last_attempt=True)
    assert (last.trials == SIZE).all()
    assert last.dead.tolist() == [True] * 24 + [False] * 18


def test_attempts_in_a_file_and_over_files(tmp_path):
    files = {
        "a.jsonl": [*groups(range(1, 5), reward=1), *groups(range(3, 6), reward=0)],
        "b.jsonl": [*groups(range(5, 8), reward=1), *groups(range(6, 9))],
    }
    log = read_log(write(tmp_path, files))
    assert has(log, "15 groups")
    last = read_log(tmp_path, last_attempt=True)
    assert (last.trials == SIZE).all()
    wins = last.successes.reshape(8, 3)
    assert (wins == wins[:, :1]).all()
    assert wins[:, 0].tolist() == [4, 4, 0, 0, 4, 2, 2, 2]


TOGETHER = {
    "ranks in folders": {f"rank_0{k}/eps_{t:04d}.jsonl": groups([t]) for k in (0, 1) for t in range(1, 5)},
    "ranks in names": {f"log_rank{k}.jsonl": groups(range(1, 5 + 3 * k)) for k in (0, 1)},
    "workers": {f"worker-{k}.jsonl": groups(range(1, 5)) for k in (0, 1, 2)},
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_ranks_stay_together(kind, tmp_path):
    files = TOGETHER[kind]
    write(tmp_path, files)
    for last in (False, True):
        log = read_log(tmp_path, last_attempt=last)
        assert log.n_rollouts == sum(map(len, files.values()))
        assert not has(log, "backwards")
        assert not has(log, "put together")


UNCLEAR = {
    "the same steps": {"a.jsonl": groups(range(1, 5)), "b.jsonl": groups(range(1, 5))},
    "one step more": {"a.jsonl": groups(range(1, 5)), "b.jsonl": groups(range(1, 6))},
    "one step less": {"a.jsonl": groups(range(1, 5)), "b.jsonl": groups(range(1, 4))},
    "the other order": {"a.jsonl": groups(range(4, 9)), "b.jsonl": groups(range(1, 6))},
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_cannot_be_told_stays_together_with_a_warning(kind, tmp_path):
    files = UNCLEAR[kind]
    shared = len({row[:2] for row in files["a.jsonl"]} & {row[:2] for row in files["b.jsonl"]})
    for last in (False, True):
        log = read_log(write(tmp_path, files), last_attempt=last)
        assert log.n_rollouts == sum(map(len, files.values()))
        assert has(log, f"{shared} groups are in both", "a.jsonl", "b.jsonl", "put together")
        assert not has(log, "--last-attempt")


def test_files_with_nothing_in_common_are_one_run(tmp_path):
    for files in (
        {"a.jsonl": groups(range(1, 5)), "b.jsonl": groups(range(5, 9))},
        {"a.jsonl": groups(range(1, 5), "ab"), "b.jsonl": groups(range(1, 9), "cd")},
        {"a.jsonl": groups(range(1, 5))[:-2], "b.jsonl": [*groups([4])[-2:], *groups(range(5, 9))]},  # a group goes on
        {
            "a.jsonl": [*groups(range(1, 5))[:-2], *groups([4], "c")[:6]],
            "b.jsonl": [*groups([4], "c"), *groups(range(5, 9))],
        },
    ):
        for last in (False, True):
            log = read_log(write(tmp_path, files), last_attempt=last)
            assert log.n_rollouts == sum(map(len, files.values()))
            assert not has(log, "backwards")
            assert not has(log, "put together")


def test_one_rollout_of_each_prompt_per_file_makes_groups(tmp_path):
    files = {f"sample_{i}.jsonl": [(p, t, i % 2) for t in range(1, 4 + i) for p in "abc"] for i in range(4)}
    log = read_log(write(tmp_path, files), last_attempt=True)
    assert log.n_rollouts == sum(map(len, files.values()))
    assert not has(log, "files")


def test_evaluations_in_several_files_make_groups(tmp_path):
    log = read_log(write(tmp_path, {f"{i}_x.jsonl": groups([0]) for i in range(3)}), step="none")
    assert log.trials.tolist() == [3 * SIZE] * 3
    assert log.reading.doubts == ()


def test_the_advice_is_not_given_twice(tmp_path):
    rows = [*groups(range(1, 5)), *groups([4], "a")]
    log = read_log(write(tmp_path, {"a.jsonl": rows}))
    assert has(log, "multiples", "--last-attempt")
    assert not has(read_log(tmp_path / "a.jsonl", last_attempt=True), "--last-attempt")
    assert has(read_log(tmp_path / "a.jsonl", last_attempt=True), "multiples", "--group uid")
