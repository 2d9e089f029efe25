"""TRL's asynchronous GRPO with an allocator: `pip install torch -e ".[trl-async]" pytest && pytest -W default tests/trainers`."""

import asyncio
import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest

for _package in ("torch", "transformers", "trl", "aiohttp", "requests"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[trl-async]"')
pytest.importorskip("trl.experimental.async_grpo", reason="this TRL has no trl.experimental.async_grpo")

import torch  # noqa: E402

from cero_alloc import BetaPosteriorBank, checkpoint, training_allocator  # noqa: E402
from cero_alloc.integrations._rounds import Rounds  # noqa: E402
from cero_alloc.integrations.trl_async import allocator_for, step_rollouts  # noqa: E402
from trainers import trl_async_runs as runs  # noqa: E402
from trainers.allocators import Scripted  # noqa: E402

pytestmark = [pytest.mark.trainers, pytest.mark.filterwarnings("default")]
TOTAL = 16


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def single(rounds=10, **more):
    return training_allocator(runs.N, total_budget=rounds * TOTAL, n_rounds=rounds, round_capacity=TOTAL, **more)


def ragged(rounds=10):
    """Groups of 2 to 8 of the first prompts, in turn."""
    rows = [[2, 6, 8], [4, 4, 4, 4], [8, 0, 8]]
    plan = {"total_budget": rounds * TOTAL, "n_rounds": rounds, "unit_size": 2, "max_rollouts": 8}
    return Scripted(BetaPosteriorBank(runs.N), rows, **plan, round_capacity=TOTAL)


def visits(events):
    return [event for event in events if event is not runs.DEAL]


def require_account(allocator):
    total, spent, reserved, left = allocator.balance
    assert spent + reserved + left == total
    assert reserved == allocator.outstanding.sum()


# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize("make", [single, ragged])
def test_what_the_samples_carry_does_again_what_the_loops_allocator_did(make):
    allocator = make()
    before = pickle.dumps(allocator)
    _, got, events, later = runs.run_loop(allocator, TOTAL, 80, rewards=runs.sometimes_none, in_flight=8)
    rounds = Rounds(pickle.loads(before), TOTAL, in_flight=8)
    copy = runs.replay(rounds, events)
    heard = visits(events)
    assert copy.balance.spent == sum(len(rewards) for _, rewards, _ in heard)
    assert copy.round == sum(event is runs.DEAL for event in events) > 3
    require_account(copy)
    assert len(got) == 80
    runs.replay(rounds, later)
    assert copy.balance == allocator.balance
    np.testing.assert_array_equal(copy.bank.alpha, allocator.bank.alpha)
    np.testing.assert_array_equal(copy.bank.beta, allocator.bank.beta)
    assert (copy.allocate(None, TOTAL, exact=True) == allocator.allocate(None, TOTAL, exact=True)).all()


def test_every_round_deals_the_exact_total_and_visits_are_scored_whole():
    _, _, events, _ = runs.run_loop(ragged(), TOTAL, 96)
    counts = {}
    for visit, rewards, ages in visits(events):
        assert len(rewards) == len(ages) == visit.rollouts
        counts.setdefault(visit.round, Counter())[visit.prompt] += visit.rollouts
    dealt = [{0: 2, 1: 6, 2: 8}, {0: 4, 1: 4, 2: 4, 3: 4}, {0: 8, 2: 8}]
    whole = [number for number, prompts in counts.items() if prompts.total() == TOTAL]
    assert len(whole) >= 4
    for number in whole:
        assert counts[number] == dealt[(number - 1) % 3]


def test_late_and_disordered_feedback_goes_to_the_round_that_dealt_it(monkeypatch):
    slow = {"0": 0.3}
    monkeypatch.setattr(runs.Digits, "delay", staticmethod(lambda prompt: slow.get(prompt[-1]["content"], 0.001)))
    allocator = ragged()
    _, _, events, _ = runs.run_loop(allocator, TOTAL, 120, max_inflight_tasks=24)
    order = [visit.round for visit, _, _ in visits(events)]
    assert order != sorted(order)
    assert max(age for _, _, ages in visits(events) for age in ages) >= 2  # versions of the policy
    assert allocator.metrics(certificate=False)["unreserved_rollouts"] == 0


def test_rounds_in_flight_are_bounded(monkeypatch):
    monkeypatch.setattr(
        runs.Digits, "delay", staticmethod(lambda prompt: 2.0 if prompt[-1]["content"] == "0" else 0.001)
    )
    allocator, most = ragged(), []
    real = allocator.allocate

    def allocate(*args, **kwargs):
        counts = real(*args, **kwargs)
        most.append(len(allocator.reservations))
        return counts

    monkeypatch.setattr(allocator, "allocate", allocate)
    runs.run_loop(allocator, TOTAL, 150, max_inflight_tasks=64, in_flight=3)
    assert max(most) == 3
    require_account(allocator)


def test_single_rollouts_have_the_advantages_over_the_posterior_mean():
    _, got, events, _ = runs.run_loop(single(), TOTAL, 64)
    fresh, given = Rounds(single(), TOTAL), []
    for event in events:
        if event is runs.DEAL:
            fresh.deal()
        else:
            given.append((event[0].prompt, event[1][0], fresh.learn(*event).item()))
    trained = [(int(s.prompt[0]["content"]), s.metrics["reward"], s.advantage) for s in got]
    assert set(trained) <= set(given)
    assert np.count_nonzero([advantage for *_, advantage in trained]) == len(trained)  # TRL gives groups of one 0
    digits = Counter(sample.completion[0]["content"] for sample in got)
    assert digits["8"] > 0  # two rows of one rollout, with its advantage
    assert digits["9"] == 0  # no row, and learnt from all the same:
    assert len(given) > len(trained) - digits["8"] // 2


@pytest.mark.parametrize("digits", [(1, 5), (1, 5, 8, 9), (0, 0, 7, 3, 9, 8)])
@pytest.mark.parametrize("rewards", [runs.reward, runs.sometimes_none])
def test_a_visit_is_scored_as_the_stock_loop_scores_a_group(digits, rewards):
    """The same rollouts through both, groups of any size: samples equal to the last bit."""
    allocator = Scripted(
        BetaPosteriorBank(runs.N), [[0, 0, 0, 0, len(digits)]], total_budget=60, n_rounds=4, max_rollouts=6
    )
    ours = runs.loop(Rounds(allocator, len(digits)), rewards=rewards, advantages="group", num_generations=len(digits))
    stock = runs.loop(None, rewards=rewards, loop=runs.StockLoop)
    work, found = ours._repeat_iterator(), []
    for digit in digits:
        number, row = next(work)
        found += asyncio.run(ours._score_group(runs.group(row, [digit], number)))
    expected = asyncio.run(stock._score_group(runs.group(row, digits, 0)))
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        mine.metrics.pop(runs.EVENTS, None)
        for entry in dataclasses.fields(theirs):
            np.testing.assert_equal(getattr(mine, entry.name), getattr(theirs, entry.name), err_msg=entry.name)


# ---------------------------------------------------------------- the trainer


def test_a_run_trains_on_the_allocators_rollouts_and_logs_their_age(tmp_path):
    with runs.without_gpu():
        args = runs.config(tmp_path)
        allocator = allocator_for(args, runs.dataset())
        assert allocator.horizon.total_budget == 48
        trainer = runs.build(tmp_path, allocator, args)
        before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        trainer.train()
    assert trainer.state.global_step == 6
    assert (torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before).abs().max() > 1e-4
    logs = trainer.state.log_history
    last = [entry for entry in logs if "loss" in entry][-1]
    assert last["alloc/mean_age"] <= last["alloc/largest_age"]
    assert max(entry.get("alloc/largest_age", 0.0) for entry in logs) >= 1.0
    assert last["alloc/largest_group"] == 1.0
    balance = trainer.allocator.balance
    assert balance.reserved == 0  # the worker is gone: what was under way came back
    require_account(trainer.allocator)


def test_a_killed_run_resumes_with_what_it_had_trained_on(tmp_path):
    with runs.without_gpu():
        args = runs.config(tmp_path, save_strategy="steps", save_steps=3)
        first = runs.build(tmp_path, allocator_for(args, runs.dataset()), args, callbacks=[runs.StopAt(4)])
        first.train()
        saved = checkpoint.read(tmp_path / "checkpoint-3" / "allocator.npz")
        second = runs.build(tmp_path, allocator_for(args, runs.dataset()), args)
        start = runs.AtStart(second.allocator)
        second.add_callback(start)
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    reference = allocator_for(args, runs.dataset())
    reference.load_state_dict(saved)
    was = reference.balance
    assert was.reserved > 0
    assert start.balances == [was._replace(reserved=0, left=was.left + was.reserved)]
    assert second.state.global_step == 6
    assert second.allocator.balance.spent > was.spent
    require_account(second.allocator)


def test_a_stock_checkpoint_is_refused_in_words(tmp_path):
    with runs.without_gpu():
        args = runs.config(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
        runs.build(tmp_path, None, args, loop=runs.StockLoop).train()
        trainer = runs.build(tmp_path, allocator_for(args, runs.dataset()), args)
        with pytest.raises(ValueError, match=r"must hold allocator.npz.*Start a new run from its weights"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_epochs_end_after_the_stock_runs_rollouts(tmp_path):
    """TRL counts groups; here num_generations rollouts count as one, whatever visits they are of."""
    with runs.without_gpu():
        args = runs.config(tmp_path, max_steps=-1, num_train_epochs=1)
        rows = runs.dataset(12)
        allocator = allocator_for(args, rows)
        assert (allocator.horizon.total_budget, allocator.horizon.n_rounds) == (48, 6)
        trainer = runs.build(tmp_path, allocator, args, rows=rows)
        trainer.train()
    assert 4 <= trainer.state.global_step <= 8
    assert len(trainer._trained_groups) >= 12


def test_rewards_out_of_range_need_success():
    """The error ends the worker's process, as any error in TRL's loop."""
    for success, expected in ((None, None), (float.__bool__, 1)):
        loop = runs.loop(Rounds(single(), TOTAL, success=success), rewards=runs.doubled)
        number, row = next(loop._repeat_iterator())
        group = runs.group(row | {"solved": 10}, [0], number)
        if expected is None:
            with pytest.raises(
                ValueError, match=r"rewards must lie in \[0, 1\], got rewards\[0\] = 2.0. Pass success="
            ):
                asyncio.run(loop._score_group(group))
        else:
            asyncio.run(loop._score_group(group))
            assert loop._rounds.dealer.allocator.bank.alpha.sum() == runs.N + expected


# ---------------------------------------------------------------- what is refused


def test_the_settings_are_checked_at_construction(tmp_path):
    args = runs.config(tmp_path)
    allocator = allocator_for(args, runs.dataset())
    for text, change in (
        ("advantages must be one of", {"advantages": "best"}),
        ("unit_size or min_rollouts must be at least 2", {"advantages": "group"}),
        ("id_column must name a column", {"id_column": "uid"}),
        ("must name the bank's prompts", {"rows": runs.dataset(12)}),
        ("name one row each", {"rows": runs.dataset(prompt_id=[0] * runs.N)}),
        ("rollout_worker must be TRL's own", {"loop": runs.StockLoop}),
        ("rounds_in_flight must be at least 2", {"rounds_in_flight": 1}),
    ):
        with runs.without_gpu(), pytest.raises(ValueError, match=text):
            runs.build(tmp_path, allocator, args, **change)
    small = training_allocator(runs.N, total_budget=48, n_rounds=12, round_capacity=4)
    with runs.without_gpu(), pytest.raises(ValueError, match="at most the 4 that a round can deal, got"):
        runs.build(tmp_path, small, args)
    with pytest.raises(ValueError, match="mode must be 'select'"):
        allocator_for(args, runs.dataset(), mode="redeal")


def test_rounds_hold_whole_groups_with_group_advantages(tmp_path):
    args = runs.config(tmp_path, per_device_train_batch_size=6)
    assert (step_rollouts(args), step_rollouts(args, "group")) == (6, 8)
    allocator = allocator_for(args, runs.dataset(), advantages="group")
    assert set(allocator.allocate(None, 8, exact=True).tolist()) == {0, 4}


def test_the_snippet_of_the_page_builds_a_trainer(tmp_path):
    from snippets.trl_async_grpo import build

    with runs.without_gpu():
        more = {"processing_class": runs.tokenizer(), "weight_transfer": runs.NoTransfer()}
        rows, args = runs.dataset().remove_columns("prompt_id"), runs.config(tmp_path)
        trainer = build(runs.model_folder(tmp_path), rows, args, **more)
    assert trainer.rollout_worker._loop_cls.__name__ == "AllocatedRolloutLoop"  # TRL's own worker
    assert trainer.allocator.horizon.total_budget == 48
