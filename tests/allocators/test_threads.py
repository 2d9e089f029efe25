"""Many threads on one allocator: nothing raised, nothing lost; every rollout is in one place."""

import sys
import threading
from collections import Counter

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, checkpoint
from cero_alloc.baselines import Uniform
from helpers.scale import scaled

N_THREADS, N_OPERATIONS = 16, scaled(300, 10_000)
IDS = [f"p{i}" for i in range(64)]


class Worker(threading.Thread):
    """Does what workers do, and keeps its own books of it."""

    def __init__(self, number, run, barrier):
        super().__init__(daemon=True)
        self.number, self.run_, self.barrier = number, run, barrier
        self.rng = np.random.default_rng(number)
        self.error = None
        self.dealt, self.scored, self.won, self.refunded, self.off = (
            Counter(),
            Counter(),
            Counter(),
            Counter(),
            Counter(),
        )
        self.hands = []  # round, ids and counts of what this thread was dealt and has not answered

    def run(self):
        self.barrier.wait()
        try:
            for turn in range(N_OPERATIONS):
                self.step(turn)
        except BaseException as error:
            self.error = error

    def step(self, turn):
        run, rng, what = self.run_, self.rng, self.rng.random()
        if what < 0.45 or not self.hands:
            names = [IDS[i] for i in rng.permutation(64)[:8]]
            with run.lock:  # the counts, and the round that they are of
                counts, number = run.allocate(names, budget=8), run.round
            for name, n in zip(names, counts.tolist(), strict=True):
                self.dealt[name] += n
            if counts.any():
                self.hands.append((number, names, counts))
            return
        if what > 0.98:
            state = run.state_dict()  # one moment of it, whole
            total, left = state["ledger"]["total"], state["ledger"]["funds"]
            assert int(state["ledger"]["accounts"][:, 0].sum()) == total - left
            return
        if what > 0.96:
            total, spent, reserved, left = run.balance
            assert spent + reserved + left == total
            assert spent >= 0 <= reserved
            return
        number, names, counts = self.hands.pop(int(rng.integers(len(self.hands))))
        if what < 0.8:
            won = rng.binomial(counts, 0.5)
            for _ in range(1 + (what < 0.5)):  # reported twice now and then
                run.update(names, won, counts, round=number, delivery_id=f"{self.number}/{turn}")
            for name, n, s in zip(names, counts.tolist(), won.tolist(), strict=True):
                self.scored[name] += n
                self.won[name] += s
        elif what < 0.9:
            run.refund(names, counts, round=number)
            for name, n in zip(names, counts.tolist(), strict=True):
                self.refunded[name] += n
        else:
            run.write_off(names, counts, round=number)
            for name, n in zip(names, counts.tolist(), strict=True):
                self.off[name] += n


@pytest.mark.parametrize("rule", [FenchelDualAllocator, ResolvingAllocator, Uniform])
def test_threads_share_an_allocator(rule):
    n_rounds = N_THREADS * N_OPERATIONS + 1
    total = 4 * n_rounds
    run = rule(BetaPosteriorBank(IDS), total_budget=total, n_rounds=n_rounds, max_rollouts=4)
    barrier, interval = threading.Barrier(N_THREADS), sys.getswitchinterval()
    threads = [Worker(i, run, barrier) for i in range(N_THREADS)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(900)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert [thread.error for thread in threads] == [None] * N_THREADS
    dealt, scored, won, refunded, off = (
        sum((getattr(thread, name) for thread in threads), Counter())
        for name in ("dealt", "scored", "won", "refunded", "off")
    )
    hands = Counter()
    for thread in threads:
        for _, names, counts in thread.hands:
            hands.update(dict(zip(names, counts.tolist(), strict=True)))
    for row, name in enumerate(IDS):
        assert run.exposure[row] == dealt[name] - refunded[name]
        assert run.outstanding[row] == dealt[name] - scored[name] - refunded[name] - off[name] == hands[name]
        assert run.bank.alpha[row] - 1 == won[name]
        assert run.bank.beta[row] - 1 == scored[name] - won[name]
    n = {
        what: sum(which.values())
        for what, which in [("dealt", dealt), ("scored", scored), ("back", refunded), ("off", off)]
    }
    assert run.balance == (total, n["scored"] + n["off"], sum(hands.values()), total - n["dealt"] + n["back"])
    assert n["scored"] > 0 < n["back"]
    assert run.metrics(certificate=False)["unreserved_rollouts"] == 0


def test_a_checkpoint_is_one_moment_while_threads_go_on(tmp_path):
    run = FenchelDualAllocator(BetaPosteriorBank(IDS), total_budget=100_000, n_rounds=20_000, max_rollouts=4)
    stop, errors = threading.Event(), []

    def work():
        try:
            while not stop.is_set():
                counts = run.allocate(IDS, budget=8)
                run.update(IDS, counts // 2, counts)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(scaled(20, 300)):
        run.save(tmp_path / "run", durable=False)
        twin = FenchelDualAllocator.load(tmp_path / "run")  # whose checks would not pass halves of two states
        total, spent, reserved, left = twin.balance
        assert spent + reserved + left == total
        assert checkpoint.read(tmp_path / "run")["ledger"]["round"] == twin.round
    stop.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
