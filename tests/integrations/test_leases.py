"""The book of leases: every rollout reported once or refunded once, whatever crashes, repeats itself or comes late."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from cero_alloc.integrations.leases import CHECKPOINT, JOURNAL, LeaseBook
from helpers.scale import scaled

TOTAL, GROUP = 400, 2


def allocator(ids=("a", "b", "c", "d", "e"), **changes):
    run = {
        "total_budget": TOTAL,
        "n_rounds": 200,
        "unit_size": GROUP,
        "max_rollouts": 6,
        "round_capacity": 16,
    } | changes
    return FenchelDualAllocator(BetaPosteriorBank(list(ids), forgetting=0.9), **run)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def exact(state):
    """The state with arrays as their bytes: comparable to the last bit, and faster to compare than printed digits."""
    if isinstance(state, dict):
        return {key: exact(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return state.dtype.str, state.shape, state.tobytes()
    return repr(state)


class Book(RuleBasedStateMachine):
    """The book beside a plain account of the same events."""

    @initialize(every=st.sampled_from([1, 3, 1000]))
    def begin(self, every):
        self.folder, self.every, self.clock = tempfile.TemporaryDirectory(), every, Clock()
        self.book = self.open()
        self.lent, self.left, self.lost = {}, {}, {}  # per lease: rollouts lent, in hand, and refunded or abandoned
        self.deliveries, self.deadline, self.requests = {}, {}, {}
        self.evidence = dict.fromkeys("abcde", 0)
        self.unscored, self.serial = 0, 0

    def open(self):
        return LeaseBook(allocator(), self.folder.name, timeout=10, checkpoint_every=self.every, clock=self.clock)

    def teardown(self):
        if hasattr(self, "folder"):
            self.book.close()
            self.folder.cleanup()

    def settle(self):
        """Let the account's leases end that the book ends on its next call."""
        for number, deadline in list(self.deadline.items()):
            if deadline <= self.clock.now:
                self.end(number)

    def end(self, number):
        self.lost[number] = self.left.pop(number)
        del self.deadline[number]

    @rule(exact=st.booleans(), offer=st.sets(st.sampled_from("abcde"), min_size=3))
    def lend(self, exact, offer):
        self.settle()
        self.serial += 1
        request, budget = f"r{self.serial}", 8
        if exact and self.book.allocator.remaining_budget < budget:
            return
        number, counts = self.book.lend(request, sorted(offer), budget, exact=exact)
        assert number == len(self.lent)
        assert not exact or sum(counts.values()) == budget
        assert set(counts) <= offer
        self.lent[number], self.left[number], self.deliveries[number] = counts, dict(counts), {}
        self.deadline[number], self.requests[number] = self.clock.now + 10, (request, sorted(offer), budget, exact)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def ask_again(self, data):
        number = data.draw(st.sampled_from(sorted(self.left)))
        self.settle()
        if number in self.left and self.left[number] == self.lent[number]:  # nothing reported: its answer may be lost
            request, *words, exact = self.requests[number]
            assert self.book.lend(request, *words, exact=exact) == (number, self.lent[number])

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def report(self, data):
        number = data.draw(st.sampled_from(sorted(self.left)))
        parts = {key: data.draw(st.integers(0, n)) for key, n in self.left[number].items()}
        missed = {key: data.draw(st.integers(0, self.left[number][key] - n)) for key, n in parts.items()}
        wins = {key: data.draw(st.integers(0, n)) for key, n in parts.items()}
        self.serial += 1
        delivery = f"d{self.serial}"
        self.settle()
        counts = self.book.report(number, delivery, wins, parts, missed)
        assert counts == (number in self.left)
        if counts:
            self.deliveries[number][delivery] = (wins, parts, missed)
            for key, n in parts.items():
                self.left[number][key] -= n + missed[key]
                self.evidence[key] += n
                self.unscored += missed[key]
            self.deadline[number] = self.clock.now + 10
            if not any(self.left[number].values()):
                self.left.pop(number)
                self.deadline.pop(number)

    @precondition(lambda self: any(self.deliveries.values()))
    @rule(data=st.data())
    def report_again(self, data):
        number = data.draw(st.sampled_from(sorted(key for key, told in self.deliveries.items() if told)))
        delivery = data.draw(st.sampled_from(sorted(self.deliveries[number])))
        self.settle()
        assert self.book.report(number, delivery, *self.deliveries[number][delivery])

    @precondition(lambda self: len(self.lent) > len(self.left))
    @rule(data=st.data())
    def report_to_a_lease_that_ended(self, data):
        number = data.draw(st.sampled_from(sorted(set(self.lent) - set(self.left))))
        self.settle()
        assert not self.book.report(number, "late", {"a": 1}, {"a": 1})

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def give_back(self, data):
        number = data.draw(st.sampled_from(sorted(self.left)))
        self.book.give_back(number)
        self.end(number)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def renew(self, data):
        number = data.draw(st.sampled_from(sorted(self.left)))
        self.settle()
        assert self.book.renew(number) == (number in self.left)
        if number in self.left:
            self.deadline[number] = self.clock.now + 10

    @rule(seconds=st.sampled_from([1, 4, 11]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(data=st.data())
    def bad_calls(self, data):
        self.settle()
        self.book.expire()
        calls = [
            (lambda: self.book.lend("bad", ["x"], 8), KeyError), (lambda: self.book.lend("bad", ["a", "a"], 8), ValueError),
            (lambda: self.book.lend("bad", ["a"], -1), ValueError), (lambda: self.book.report(10**9, "d", {}, {}), ValueError),
        ]  # fmt: skip
        for number in self.left:
            key = next(iter(self.left[number]), "a")
            n = self.left[number].get(key, 0) + 1
            calls += [
                (lambda number=number, key=key, n=n: self.book.report(number, "bad", {key: 0}, {key: n}), ValueError),
                (lambda number=number, key=key, n=n: self.book.report(number, "bad", {}, {}, {key: n}), ValueError),
            ]
            if n > 1:
                calls.append(
                    (lambda number=number, key=key: self.book.report(number, "bad", {key: 2}, {key: 1}), ValueError)
                )
        before = exact(self.book.metrics()), exact(self.book.allocator.state_dict())
        for call, error in calls:
            with pytest.raises(error):
                call()
        assert (exact(self.book.metrics()), exact(self.book.allocator.state_dict())) == before

    @rule(torn=st.sampled_from([b"", b'{"entry": 9', b'{"entry"']))
    def crash(self, torn):
        before = exact(self.book.allocator.state_dict()), list(self.book._leases)
        self.book.close()
        with open(Path(self.folder.name) / JOURNAL, "ab") as journal:
            journal.write(torn)
        self.book = self.open()
        assert (exact(self.book.allocator.state_dict()), list(self.book._leases)) == before
        self.deadline = dict.fromkeys(self.deadline, self.clock.now + 10)

    @invariant()
    def the_account_is_exact(self):
        if not hasattr(self, "lent"):
            return
        self.settle()
        figures = self.book.metrics()
        lent = sum(sum(counts.values()) for counts in self.lent.values())
        back = sum(n // GROUP * GROUP for lost in self.lost.values() for n in lost.values())
        begun = sum(n % GROUP for lost in self.lost.values() for n in lost.values())
        in_hand = sum(sum(counts.values()) for counts in self.left.values())
        scored = sum(self.evidence.values())
        expected = {
            "lent": lent, "scored": scored, "unscored": self.unscored, "refunded": back, "abandoned": begun, "in_hand": in_hand,
            "leases": len(self.left), "remaining_budget": TOTAL - lent + back, "reserved_budget": in_hand,
            "spent_budget": scored + self.unscored + begun,
        }  # fmt: skip
        assert {key: figures[key] for key in expected} == expected
        assert lent == scored + self.unscored + back + begun + in_hand
        assert int(self.book.allocator.exposure.sum()) == lent - back


class TestBook(Book.TestCase):
    settings = settings(max_examples=20, stateful_step_count=40)


@pytest.mark.slow
class TestManyBooks(Book.TestCase):
    settings = settings(max_examples=scaled(150, 2_500), stateful_step_count=40)


@pytest.fixture
def open_book(tmp_path):
    """Opener of books in one folder, which closes them in the end."""
    books = []

    def opener(rule=None):
        books.append(LeaseBook(allocator() if rule is None else rule, tmp_path, timeout=10, durable=True))
        return books[-1]

    yield opener
    for book in books:
        book.close()


def test_evidence_is_that_of_the_reports(open_book):
    book = open_book()
    number, counts = book.lend("r", None, 12, exact=True)
    wins = {key: n // 2 for key, n in counts.items()}
    assert book.report(number, "d", wins, counts)
    assert book.report(number, "d", wins, counts)  # again
    bank = book.allocator.bank
    np.testing.assert_array_equal(bank.alpha - 1, [wins.get(key, 0) for key in bank.prompt_ids])
    np.testing.assert_array_equal(bank.alpha + bank.beta - 2, [counts.get(key, 0) for key in bank.prompt_ids])


def test_a_crash_between_checkpoint_and_journal_counts_nothing_twice(open_book, tmp_path):
    book = open_book()
    number, counts = book.lend("r", None, 12, exact=True)
    book.report(number, "d", dict.fromkeys(counts, 1), counts)
    journal = (tmp_path / JOURNAL).read_bytes()
    book.checkpoint()
    assert (tmp_path / JOURNAL).read_bytes() == b""
    (tmp_path / JOURNAL).write_bytes(journal)  # as if the crash had come before it was emptied
    again = open_book()
    assert again.metrics() == book.metrics()
    assert again.metrics()["lent"] == 12


def test_only_the_leases_that_ended_last_are_remembered(open_book, monkeypatch):
    monkeypatch.setattr("cero_alloc.integrations.leases.REMEMBERED", 2)
    book = open_book()
    reports = []
    for turn in range(3):
        number, counts = book.lend(f"r{turn}", None, 12, exact=True)
        reports.append((number, "d", dict.fromkeys(counts, 0), counts))
        assert book.report(*reports[-1])
    before = book.metrics()
    assert [book.report(*words) for words in reports] == [False, True, True]
    assert book.metrics() == before


def test_the_journal_is_readable_text(open_book, tmp_path):
    book = open_book(allocator(range(5)))
    number, counts = book.lend("r", np.arange(5), np.int64(12), exact=True)
    book.report(number, "d", {key: np.float64(0.5) for key in counts}, counts)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert [line["do"] for line in lines] == ["lend", "report"]
    assert lines[1]["successes"] == [0.5] * len(counts)


def test_a_journal_that_cannot_be_written_changes_nothing(open_book, tmp_path):
    book = open_book()
    book.lend("r", None, 12)
    before, journal = book.metrics(), (tmp_path / JOURNAL).read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, text):
            self.file.write(text[:7])
            raise OSError("no space left on device")

    book._journal = Full(book._journal)
    with pytest.raises(OSError, match="no space"):
        book.lend("s", None, 12)
    assert book.metrics() == before
    assert (tmp_path / JOURNAL).read_bytes() == journal


def test_what_the_book_refuses(open_book, tmp_path):
    with pytest.raises(TypeError, match=r"prompt ids must be strings or integers, got \('a', 1\)"):
        open_book(allocator([("a", 1)], total_budget=8))
    book = open_book()
    number, counts = book.lend("r", None, 12, exact=True)
    key = next(iter(counts))
    with pytest.raises(
        ValueError, match=rf"between 0 and the {counts[key]} that lease 0 has left of prompt '{key}', got 99 and 0"
    ):
        book.report(number, "d", {key: 0}, {key: 99})
    with pytest.raises(ValueError, match="lease must be one that lend returned, got 7"):
        book.report(7, "d", {}, {})
    with pytest.raises(ValueError, match=f"successes and rollouts must name the same prompts, got '{key}' in one"):
        book.report(number, "d", {}, {key: 1})
    book.checkpoint()
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(ValueError, match=r"state\['ledger'\]\['horizon'\] must equal"):
        open_book(allocator(total_budget=402))
