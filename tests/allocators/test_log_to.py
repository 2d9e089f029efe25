"""The log that an allocator writes: what is in it, what is not, and what happens to files that cannot take it."""

import copy
import json
import pickle

import numpy as np
import pytest

from cero_alloc import AllocationWarning, BetaPosteriorBank, __version__, repeat, training_allocator
from cero_alloc.baselines import Uniform
from cero_alloc.replay import read_log
from helpers.runs import FORMS, IDS, build, go_on

RUN = {"total_budget": 96, "n_rounds": 8, "max_rollouts": 4}
every_form = pytest.mark.parametrize("form", FORMS)


def uniform(ids=4, **bank):
    return Uniform(BetaPosteriorBank(ids, **bank), **RUN)


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.jsonl"


# ---------------------------------------------------------------- what is written


def test_a_header_and_a_line_per_prompt(file):
    allocator = uniform()
    allocator.log_to(file)
    assert lines(file) == [
        {
            "cero_alloc": __version__, "allocator": "Uniform", "prompts": 4, "max_rollouts": 4, "unit_size": 1,
            "reward_range": [0.0, 1.0], "round": 0,
        }
    ]  # fmt: skip
    allocator.allocate()
    allocator.update([2, 0], successes=[3, 0], rollouts=[4, 4])
    allocator.allocate()
    allocator.update([2, 1, 3], successes=[1, 2, 0], rollouts=[4, 2, 0])  # nothing came of prompt 3
    assert lines(file)[1:] == [
        {"prompt_id": 2, "step": 1, "trials": 4, "successes": 3, "mean": 0.5, "evidence": 2},
        {"prompt_id": 0, "step": 1, "trials": 4, "successes": 0, "mean": 0.5, "evidence": 2},
        {"prompt_id": 2, "step": 2, "trials": 4, "successes": 1, "mean": 0.6667, "evidence": 6},
        {"prompt_id": 1, "step": 2, "trials": 2, "successes": 2, "mean": 0.5, "evidence": 2},
    ]


@every_form
def test_a_log_changes_no_decision_and_holds_all_feedback(form, file):
    plain, logged = build(form), build(form)
    logged.log_to(file)
    assert go_on(logged, 1, 0, 9) == go_on(plain, 1, 0, 9)
    log = read_log(file)
    assert log.reading.dealt_by == type(plain).__name__
    assert log.reading.pool == len(IDS)
    assert log.n_bad == 0
    if plain.bank.forgetting == 1.0 and not plain.bank.drift and not plain.bank.trend:
        row = [IDS.index(name) for name in log.prompt_ids]
        won = np.bincount(log.group_prompt, log.successes, log.n_prompts)
        assert won == pytest.approx(plain.bank.alpha[row] - 1.0)


def test_rewards_between_the_ends_keep_sums_and_squares(file):
    allocator = uniform(["a", "b", "c", "d"], reward_range=(-1.0, 3.0))
    allocator.log_to(file)
    counts = allocator.allocate()
    ids = repeat(["a", "b", "c", "d"], np.full(4, 4))
    rewards = np.array([[-1, -1, 3, 3], [1, 1, 1, 1], [-1, 0, 1, 2.5], [3, 3, 3, 2]])
    allocator.observe(ids, rewards.ravel())
    log, unit = read_log(file), (rewards + 1.0) / 4.0
    assert counts.sum() == 12
    assert log.successes == pytest.approx(unit.sum(axis=1))
    assert log.squares == pytest.approx((unit**2).sum(axis=1))
    assert log.dead.tolist() == [False, True, False, False]
    assert log.entry_reward.min() >= 0.0
    assert log.entry_reward.max() <= 1.0
    assert log.fractional


def test_sums_without_squares_are_those_of_coins(file):
    allocator = uniform()
    allocator.log_to(file)
    allocator.allocate()
    with pytest.warns(AllocationWarning, match="coins of the same mean"):
        allocator.update(None, successes=[0.5, 2, 2.5, 4], rollouts=[1, 4, 4, 4])
    log = read_log(file)
    assert log.successes.tolist() == [0.5, 2.0, 2.5, 4.0]
    assert log.dead.tolist() == [True, False, False, True]


def test_ids_of_any_type(file):
    ids = [7, "7b", ("math", 3), 2.5, None, 'quote"\n\ud800é', np.int64(9)]
    allocator = Uniform(BetaPosteriorBank(ids), total_budget=28, n_rounds=1, max_rollouts=4)
    allocator.log_to(file)
    allocator.update(ids, successes=np.ones(7), rollouts=allocator.allocate(ids))
    assert [line["prompt_id"] for line in lines(file)[1:]] == [
        7, "7b", "('math', 3)", "2.5", "None", 'quote"\n\ud800é', 9,
    ]  # fmt: skip
    assert read_log(file).n_prompts == 7


def test_waves_and_late_reports_are_of_the_round_that_they_name(file):
    allocator = uniform()
    allocator.log_to(file)
    first, second = allocator.allocate(), allocator.allocate()
    allocator.update(None, first // 2, first, round=1, delivery_id="late")
    allocator.update(None, second, second)
    allocator.update(None, 0 * second, second)  # another wave
    log = read_log(file)
    assert log.steps.tolist() == [1.0, 2.0]
    assert log.trials.sum() == first.sum() + 2 * second.sum()
    two = log.group_step == 1
    assert (log.successes[two] * 2 == log.trials[two]).all()
    assert log.reading.doubts == ()


# ---------------------------------------------------------------- what is not written


def test_refused_repeated_and_early_feedback_is_left_out(file):
    allocator = uniform()
    allocator.log_to(file)
    allocator.update([0], [1], [2])  # of an older log: no round dealt it
    assert len(lines(file)) == 1
    counts = allocator.allocate()
    before = file.read_bytes()
    for wrong in ({"successes": counts + 1}, {"successes": counts, "round": 9}, {"successes": [0.5]}):
        with pytest.raises(ValueError, match="must"):
            allocator.update(None, **({"rollouts": counts} | wrong))
    with pytest.raises(KeyError):
        allocator.update(["?"], [1], [1])
    assert file.read_bytes() == before
    for _ in range(2):
        allocator.update(None, counts, counts, delivery_id="once")
    assert len(lines(file)) == 1 + 4
    allocator.log_to(None)
    allocator.allocate()
    allocator.update(None, counts, counts)
    assert len(lines(file)) == 1 + 4


def test_copies_and_pickles_do_not_log(file):
    allocator = uniform()
    allocator.log_to(file)
    counts = allocator.allocate()
    size = file.stat().st_size
    for other in (copy.deepcopy(allocator), pickle.loads(pickle.dumps(allocator))):
        other.update(None, counts, counts)
    assert file.stat().st_size == size
    allocator.update(None, counts, counts)
    assert file.stat().st_size > size


# ---------------------------------------------------------------- resumed runs


def played(allocator, rounds):
    for _ in range(rounds):
        counts = allocator.allocate()
        allocator.update(None, counts // 2, counts)


def test_a_resumed_run_goes_on_in_the_same_file(file):
    allocator, twin = uniform(), uniform()
    allocator.log_to(file)
    played(allocator, 3)
    state = allocator.state_dict()
    played(allocator, 2)  # lost in a crash
    resumed = uniform()
    resumed.load_state_dict(state)
    with open(file, "ab") as handle:
        handle.write(b'{"prompt_id": 0, "st')  # the crash came in the middle of a line
    resumed.log_to(str(file))
    played(resumed, 5)
    twin.log_to(file.with_name("twin.jsonl"))
    played(twin, 8)
    log, whole = read_log(file), read_log(file.with_name("twin.jsonl"))
    assert (log.steps.tolist(), log.trials.tolist()) == (whole.steps.tolist(), whole.trials.tolist())
    assert log.successes.tolist() == whole.successes.tolist()
    assert log.n_bad == 1
    assert any("24 rollouts were left out" in doubt for doubt in log.reading.doubts)


def test_a_session_that_wrote_no_line_takes_nothing_away(file):
    allocator = uniform()
    allocator.log_to(file)
    played(allocator, 2)
    uniform().log_to(file)
    log = read_log(file)
    assert log.n_steps == 2
    assert log.reading.doubts == ()


def test_reports_split_by_a_resume_in_their_round_count_once(file):
    allocator = uniform()
    allocator.log_to(file)
    counts = allocator.allocate()
    state = allocator.state_dict()
    allocator.update(None, counts, counts)
    resumed = uniform()
    resumed.load_state_dict(state)
    resumed.log_to(file)
    resumed.update(None, 0 * counts, counts)  # the same round, generated again
    log = read_log(file)
    assert log.trials.sum() == counts.sum()
    assert log.successes.sum() == 0.0


# ---------------------------------------------------------------- files that cannot take it


def test_paths_are_checked_before_anything_changes(file, tmp_path):
    allocator = uniform()
    allocator.log_to(file)
    foreign = tmp_path / "other.jsonl"
    foreign.write_text('{"prompt_id": 1}\n')
    with pytest.raises(FileNotFoundError, match=r"path must be in a folder that exists, got path = .*Make the folder"):
        allocator.log_to(tmp_path / "absent" / "run.jsonl")
    with pytest.raises(
        ValueError, match=r"path must be a new file, or a log of an allocator, got path = .*other\.jsonl"
    ):
        allocator.log_to(foreign)
    with pytest.raises(OSError):  # noqa: PT011 (the system's own words)
        allocator.log_to(tmp_path)
    with pytest.raises(TypeError, match=r"path must be a path or None, got path = 3\. Name the log\."):
        allocator.log_to(3)
    assert foreign.read_text() == '{"prompt_id": 1}\n'
    played(allocator, 1)
    assert len(lines(file)) == 5


def test_a_file_that_is_lost_ends_the_log_and_not_the_run(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    allocator = training_allocator(4, total_budget=32, n_rounds=8)
    allocator.log_to(folder / "run.jsonl")
    (folder / "run.jsonl").unlink()
    folder.rmdir()
    counts = allocator.allocate()
    with pytest.warns(AllocationWarning, match=r"ends at round 1: .*The run goes on; call log_to for another file\."):
        allocator.update(None, counts, counts)
    assert allocator.bank.alpha.sum() == 8.0
    played(allocator, 1)  # without another warning


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    allocator = uniform()
    allocator.log_to("run.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    played(allocator, 1)
    assert len(lines(tmp_path / "run.jsonl")) == 5
