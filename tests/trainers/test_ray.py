"""The allocator as a service of a real local Ray: `pip install -e ".[ray]" pytest && pytest -W default tests/trainers/test_ray.py`."""

import itertools
import json
import os
import random
import signal
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason='ray is not installed: pip install -e ".[ray]"')

import ray_service  # noqa: E402
import ray_sharded  # noqa: E402
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon  # noqa: E402
from cero_alloc.integrations import ray as ray_integration  # noqa: E402
from cero_alloc.integrations.ray import AllocatorService, Answer, Borrowed, Client, start  # noqa: E402

pytestmark = pytest.mark.trainers
N_PROMPTS, GROUP, N_ALLOCATIONS, N_WORKERS, N_LIVES = 500, 2, 10_000, 8, 400
BUDGET, TOTAL = 16, 300_000
ANSWERS = {answer.value for answer in Answer}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray_service.join(None)
    yield
    ray.shutdown()


def build():
    return FenchelDualAllocator(
        BetaPosteriorBank(N_PROMPTS), total_budget=TOTAL, n_rounds=20_000, unit_size=GROUP, max_rollouts=4,
        round_capacity=BUDGET,
    )  # fmt: skip


@ray.remote(num_cpus=0, max_retries=0)
def live(name, folder, n_leases, seed, doomed):
    """Allocate, wait, report in pieces, some twice and some late; note every delivery and what became of it.

    A doomed life goes on until it is killed, at any moment. Nothing depends on the time that a step takes: a lease may end
    before its rewards come.
    """
    rng, client = random.Random(seed), Client(name)
    if doomed:
        threading.Timer(rng.uniform(0.0, 0.5), os.kill, (os.getpid(), signal.SIGKILL)).start()
    held = []
    with open(Path(folder) / f"{seed}.jsonl", "a") as notes:

        def note(*words):
            notes.write(json.dumps(words) + "\n")
            notes.flush()

        def deliver():
            lease, delivery, columns = held.pop(rng.randrange(len(held)))
            note("try", lease.number, delivery, [list(column.items()) for column in columns])
            answers = {
                client.report(lease, *columns, delivery=delivery) for _ in range(1 + (rng.random() < 0.1))
            }  # one in ten twice
            assert len(answers) == 1
            note(answers.pop().value, delivery)

        for turn in itertools.count() if doomed else range(n_leases):
            request = f"{seed}-{turn}"
            note("ask", request)
            lease = client.allocate(budget=BUDGET, exact=True, request=request)
            note("lease", lease.number, sum(lease.counts.values()))
            time.sleep(rng.expovariate(500))
            pieces = [{}, {}]
            for key, count in lease.counts.items():
                cut = rng.randint(0, count)
                for piece, n in zip(pieces, (cut, count - cut), strict=True):
                    piece[key] = n
            for place, piece in enumerate(pieces):
                if not any(piece.values()):
                    continue
                missed = {key: rng.randint(0, n) if rng.random() < 0.05 else 0 for key, n in piece.items()}
                scored = {key: n - missed[key] for key, n in piece.items()}
                wins = {key: rng.randint(0, n) for key, n in scored.items()}
                held.append((lease, f"{request}-{place}", (wins, scored, missed)))
            if rng.random() < 0.02:
                client.give_back(lease)  # its rewards will be too late
            while len(held) > 4 or (held and rng.random() < 0.6):
                deliver()
        while held:
            deliver()
    return seed


def words_of(path):
    """What a worker noted, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_ten_thousand_allocations_and_killed_workers_leave_an_exact_ledger(tmp_path):
    """8 workers at a time, one life in twenty ends by SIGKILL, and so does the actor, twice."""
    notes, folder = tmp_path / "notes", tmp_path / "service"
    notes.mkdir()
    service = start(build, folder, name="many", timeout=10.0, checkpoint_every=5000)
    client = Client("many")
    per_life = 1 + N_ALLOCATIONS // (N_LIVES * 19 // 20)  # those that live ask for all of them
    lives, running, killed, unsure = iter(range(N_LIVES)), {}, 0, {}
    while True:
        while len(running) < N_WORKERS and (seed := next(lives, None)) is not None:
            running[live.remote("many", str(notes), per_life, seed, seed % 20 == 7)] = seed
            if seed in (N_LIVES // 3, 2 * N_LIVES // 3):
                os.kill(ray.get(service.process_id.remote()), signal.SIGKILL)
        if not running:
            break
        (done,), _ = ray.wait(list(running))
        seed = running.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            assert seed % 20 == 7
            killed += 1
            # It was killed before it noted the answer to its last delivery: ask again under the same name.
            entries = words_of(notes / f"{seed}.jsonl")
            answered = {entry[1] for entry in entries if entry[0] in ANSWERS}
            for number, delivery, columns in (entry[1:] for entry in entries if entry[0] == "try"):
                if delivery not in answered:
                    columns = [{int(k): v for k, v in column} for column in columns]
                    unsure[delivery] = client.report(Borrowed(number, {}), *columns, delivery=delivery)
    assert killed == N_LIVES // 20
    deadline = time.monotonic() + 120
    while client.metrics()["in_hand"]:
        assert time.monotonic() < deadline, "leases of killed workers must time out"
        time.sleep(0.5)

    words = [entry for path in notes.glob("*.jsonl") for entry in words_of(path)]
    answers = {entry[1]: Answer(entry[0]) for entry in words if entry[0] in ANSWERS} | unsure
    assert set(answers.values()) == {Answer.COUNTED, Answer.TOO_LATE}
    counted = {delivery for delivery, answer in answers.items() if answer}
    wins, tries, unscored = np.zeros(N_PROMPTS), np.zeros(N_PROMPTS), 0
    for kind, *rest in words:
        if kind != "try" or rest[1] not in counted:
            continue
        columns = rest[2]
        for total, column in zip((wins, tries), columns, strict=False):
            for key, n in column:
                total[key] += n
        unscored += sum(n for _, n in columns[2])
    assert len(unsure) <= killed
    leases = [entry for entry in words if entry[0] == "lease"]
    asked = sum(entry[0] == "ask" for entry in words)
    account = client.metrics()
    # A request whose lease ended while the service was down, before its reply, is lent again: at most one per worker.
    assert N_ALLOCATIONS <= len(leases) <= account["round"] <= asked + 2 * N_WORKERS
    assert len({number for _, number, _ in leases}) == len(leases)
    assert account["lent"] == account["round"] * BUDGET
    assert account["scored"] == tries.sum()
    assert account["unscored"] == unscored > 0
    assert account["refunded"] > 0
    parts = [account[key] for key in ("scored", "unscored", "refunded", "abandoned", "in_hand")]
    assert account["lent"] == sum(parts)
    assert account["spent_budget"] == account["scored"] + account["unscored"] + account["abandoned"]
    assert account["reserved_budget"] == account["in_hand"]
    dealt = account["lent"] - account["refunded"]
    assert account["spent_budget"] + account["reserved_budget"] == dealt == TOTAL - account["remaining_budget"]

    ray.kill(service)
    book = AllocatorService(build, str(folder), timeout=40.0)  # a new life, in this process
    np.testing.assert_array_equal(book.allocator.bank.alpha - 1, wins)
    np.testing.assert_array_equal(book.allocator.bank.beta - 1, tries - wins)
    assert int(book.allocator.exposure.sum()) == dealt
    assert {key: n for key, n in book.metrics().items() if n == n} == {key: n for key, n in account.items() if n == n}
    book.close()
    late = len(answers) - len(counted)
    print(
        f"{len(leases)} allocations, {killed} of {N_LIVES} workers killed, {len(unsure)} deliveries cut short, {late} too late, "
        f"account {parts}"
    )


def test_several_trainers_share_one_service_by_its_name(tmp_path):
    first = start(build, tmp_path, name="shared", timeout=60.0)
    second = start(build, tmp_path / "unused", name="shared", timeout=60.0)
    assert first._actor_id == second._actor_id
    one, two = Client("shared"), Client("shared")
    lease = one.allocate(budget=BUDGET, exact=True)
    assert two.renew(lease)
    for _ in range(2):
        assert two.report(lease, dict.fromkeys(lease.counts, 1), lease.counts, delivery="d") is Answer.COUNTED
    kept = two.allocate([1, 2, 3], 8, exact=True)
    one.give_back(kept)
    assert not one.renew(kept)
    assert two.report(kept, {1: 0}, {1: 1}) is Answer.TOO_LATE
    assert one.report(lease, dict.fromkeys(lease.counts, 1), lease.counts, delivery="d") is Answer.COUNTED
    account = one.metrics()
    assert (account["lent"], account["scored"], account["refunded"]) == (BUDGET + 8, BUDGET, 8)
    with pytest.raises(ValueError, match="Feasible totals"):
        one.allocate([1], 100, exact=True)
    with pytest.raises(ValueError, match=r"unscored\[1\] must be a whole number"):
        one.report(lease, {}, {}, {1: 0.5})
    assert one.metrics() == pytest.approx(account, nan_ok=True)
    ray.kill(first)


def test_the_example_of_the_module_runs(tmp_path):
    text = textwrap.dedent(ray_integration.__doc__.partition("::\n")[2])
    scope = {"__name__": "__main__"}  # pickled with its functions, as a script is
    exec(text.replace("/shared/allocator", str(tmp_path)), scope)
    account = scope["client"].metrics()
    assert (account["lent"], account["scored"], account["in_hand"]) == (8, 8, 0)
    ray.kill(ray.get_actor("math"))


def test_unknown_versions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cero_alloc.integrations._versions.version", lambda _: "9.0.0")
    with pytest.raises(RuntimeError, match=r"ray must be between .*, got 9\.0\.0\. Install 'ray>="):
        start(build, tmp_path, name="never", timeout=1.0)


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_shards_on_actors_deal_as_one_process_does(n_shards):
    m, rng = 1003, np.random.default_rng(n_shards)
    horizon = Horizon(n_prompts=m, n_rounds=60, total_budget=60 * 96, unit_size=2, max_rollouts=4, round_capacity=128)
    whole = FenchelDualAllocator(
        BetaPosteriorBank(m, forgetting=0.95), total_budget=horizon.total_budget, n_rounds=60, unit_size=2, max_rollouts=4,
        round_capacity=128, catch_up=True, seed=3,
    )  # fmt: skip
    split = ray_sharded.start(horizon, n_shards, forgetting=0.95, catch_up=True, seed=3)
    rates = rng.beta(0.5, 0.5, m)
    for turn in range(60):
        budget = 64 if turn % 7 == 3 else None
        expected = whole.allocate(budget=budget, exact=budget is not None)
        rows, rollouts = split.allocate(budget, exact=budget is not None)
        np.testing.assert_array_equal(rows, np.flatnonzero(expected))
        np.testing.assert_array_equal(rollouts, expected[rows])
        assert split.price == whole.price
        if turn % 5 == 4:
            whole.refund(rows[:3], rollouts[:3])
            split.refund(rows[:3], rollouts[:3])
            rows, rollouts = rows[3:], rollouts[3:]
        wins = rng.binomial(rollouts, rates[rows])
        whole.update(rows, wins, rollouts)
        split.update(rows, wins, rollouts)
    assert split.remaining_budget == whole.remaining_budget
    ray_sharded.stop(split)
