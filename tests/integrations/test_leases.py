"""The book of leases: every rollout reported once or refunded once, whatever crashes, repeats itself or comes late."""

import json
import math
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cero_alloc import AllocationWarning, BetaPosteriorBank, FenchelDualAllocator
from cero_alloc.integrations import leases
from cero_alloc.integrations.leases import CHECKPOINT, JOURNAL, Answer, LeaseBook
from helpers.scale import scaled

TOTAL, GROUP = 400, 2
PROMPTS = "abcde"
# What may stand for 0, 1 or 2 rollouts in a report, and what may not stand for any number.
SPELLINGS = st.sampled_from([int, float, np.int64, np.float32])
NO_COUNTS = [0.5, 1.0000001, -1, -2.0, math.nan, math.inf, True, np.True_, "1", None, 1j, 10**30]
NO_SUMS = [-1, 7, 1e300, math.nan, math.inf, True, "1", None, 1j]  # no lease has more than 6 rollouts of a prompt


def allocator(ids=tuple(PROMPTS), bank=None, **changes):
    run = {
        "total_budget": TOTAL,
        "n_rounds": 200,
        "unit_size": GROUP,
        "max_rollouts": 6,
        "round_capacity": 16,
    } | changes
    return FenchelDualAllocator(BetaPosteriorBank(list(ids), forgetting=0.9) if bank is None else bank, **run)


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


def state_of(book):
    """All that a call may change."""
    return exact(book.metrics()), exact(book.allocator.state_dict()), {n: repr(x) for n, x in book._leases.items()}


class Book(RuleBasedStateMachine):
    """The book beside a plain account of the same events."""

    @initialize(every=st.sampled_from([1, 3, 1000]), remembered=st.sampled_from([1, 3, 1000]))
    def begin(self, every, remembered):
        self.folder, self.every, self.clock = tempfile.TemporaryDirectory(), every, Clock()
        self.remembered, self.before = remembered, leases.REMEMBERED
        leases.REMEMBERED = remembered
        self.book = self.open()
        self.lent, self.left, self.lost = {}, {}, {}  # per lease: rollouts lent, in hand, and refunded or abandoned
        self.deliveries, self.deadline, self.requests = {}, {}, {}
        self.ended = []  # leases, in this order
        self.evidence = dict.fromkeys(PROMPTS, 0)
        self.unscored, self.serial = 0, 0

    def open(self):
        return LeaseBook(allocator(), self.folder.name, timeout=10, checkpoint_every=self.every, clock=self.clock)

    def journal(self):
        return (Path(self.folder.name) / JOURNAL).read_bytes()

    def teardown(self):
        if hasattr(self, "folder"):
            leases.REMEMBERED = self.before
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
        self.ended.append(number)

    def answer_of(self, number, delivery):
        """The answer to a delivery of a lease that ended."""
        if number not in self.ended[-self.remembered :]:
            return Answer.UNKNOWN
        return Answer.COUNTED if delivery in self.deliveries[number] else Answer.TOO_LATE

    @rule(exact=st.booleans(), offer=st.sets(st.sampled_from(PROMPTS), min_size=3))
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
    @rule(data=st.data(), spelling=SPELLINGS)
    def report(self, data, spelling):
        number = data.draw(st.sampled_from(sorted(self.left)))
        parts = {key: data.draw(st.integers(0, n)) for key, n in self.left[number].items()}
        missed = {key: data.draw(st.integers(0, self.left[number][key] - n)) for key, n in parts.items()}
        wins = {key: data.draw(st.integers(0, n)) for key, n in parts.items()}
        # Zeros say nothing, whatever they are of: a worker may report its whole batch, or prompts that it was not lent.
        zeros = data.draw(st.lists(st.sampled_from([*PROMPTS, "zz", 7]), max_size=2))
        nothing = {key: spelling(0) for key in zeros if key not in parts}
        told = [{key: spelling(n) for key, n in part.items()} | nothing for part in (wins, parts, missed)]
        self.serial += 1
        delivery = f"d{self.serial}"
        self.settle()
        answer = self.book.report(number, delivery, *told)
        empty = not any([*parts.values(), *missed.values()])
        if number not in self.left:
            assert answer is (Answer.COUNTED if empty else self.answer_of(number, delivery))
            return
        assert answer is Answer.COUNTED
        self.deadline[number] = self.clock.now + 10
        if empty:
            return
        self.deliveries[number][delivery] = told
        for key, n in parts.items():
            self.left[number][key] -= n + missed[key]
            self.evidence[key] += n
            self.unscored += missed[key]
        if not any(self.left[number].values()):
            self.end(number)

    @precondition(lambda self: any(self.deliveries.values()))
    @rule(data=st.data())
    def report_again(self, data):
        number = data.draw(st.sampled_from(sorted(key for key, told in self.deliveries.items() if told)))
        delivery = data.draw(st.sampled_from(sorted(self.deliveries[number])))
        self.settle()
        answer = self.book.report(number, delivery, *self.deliveries[number][delivery])
        assert answer is (Answer.COUNTED if number in self.left else self.answer_of(number, delivery))

    @precondition(lambda self: len(self.lent) > len(self.left))
    @rule(data=st.data())
    def report_to_a_lease_that_ended(self, data):
        number = data.draw(st.sampled_from(sorted(set(self.lent) - set(self.left))))
        self.settle()
        assert self.book.report(number, "late", {"a": 1}, {"a": 1}) is self.answer_of(number, "late")

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def report_nonsense(self, data):
        """One bad entry refuses the whole report, the good ones before and after it included."""
        number = data.draw(st.sampled_from(sorted(self.left)))
        self.settle()
        self.book.expire()
        left = self.left.get(number, {})
        wins, parts, missed = dict.fromkeys(left, 0), dict(left), {}
        column, key = (
            data.draw(st.sampled_from(["wins", "parts", "missed"])),
            data.draw(st.sampled_from([*PROMPTS, "zz"])),
        )
        bad = data.draw(st.sampled_from(NO_SUMS if column == "wins" else NO_COUNTS))
        wins.setdefault(key, 0)
        parts.setdefault(key, 0)
        {"wins": wins, "parts": parts, "missed": missed}[column][key] = bad
        before, journal = state_of(self.book), self.journal()
        for _ in range(2):
            with pytest.raises((ValueError, TypeError)):
                self.book.report(number, "nonsense", wins, parts, missed)
        assert state_of(self.book) == before
        assert self.journal() == journal

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def report_what_was_not_lent(self, data):
        number = data.draw(st.sampled_from(sorted(self.left)))
        self.settle()
        if number not in self.left:
            return
        key = data.draw(st.sampled_from([*PROMPTS, "zz"]))
        n = self.left[number].get(key, 0) + 1
        told = {k: m for k, m in self.left[number].items() if k != key}
        before, journal = state_of(self.book), self.journal()
        for parts, missed in (({key: n}, {}), ({}, {key: n}), ({key: n - 1}, {key: 1})):
            with pytest.raises(ValueError, match=f"lease {number} has left of prompt '{key}'"):
                self.book.report(number, "more", dict.fromkeys(told | parts, 0), told | parts, missed)
        assert state_of(self.book) == before
        assert self.journal() == journal

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

    @rule()
    def bad_calls(self):
        self.settle()
        self.book.expire()
        calls = [
            (lambda: self.book.lend("bad", ["x"], 8), KeyError), (lambda: self.book.lend("bad", ["a", "a"], 8), ValueError),
            (lambda: self.book.lend("bad", ["a"], -1), ValueError), (lambda: self.book.report(10**9, "d", {}, {}), ValueError),
            (lambda: self.book.lend("bad", [("a", 1)], 8), (KeyError, TypeError)), (lambda: self.book.lend(7), TypeError),
            (lambda: self.book.lend("bad", [Path("a")], 8), TypeError), (lambda: self.book.lend("bad", None, 0.5), TypeError),
        ]  # fmt: skip
        before = state_of(self.book)
        for call, error in calls:
            with pytest.raises(error):
                call()
        assert state_of(self.book) == before

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
    settings = settings(max_examples=scaled(500, 2_500), stateful_step_count=40)


@pytest.fixture
def open_book(tmp_path):
    """Opener of books in one folder, which closes them in the end."""
    books = []

    def opener(rule=None, **settings):
        settings = {"timeout": 10, "durable": True} | settings
        books.append(LeaseBook(allocator() if rule is None else rule, tmp_path, **settings))
        return books[-1]

    yield opener
    for book in books:
        book.close()


def test_evidence_is_that_of_the_reports(open_book):
    book = open_book()
    number, counts = book.lend("r", None, 12, exact=True)
    wins = {key: n // 2 for key, n in counts.items()}
    for _ in range(2):
        assert book.report(number, "d", wins, counts) is Answer.COUNTED
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


def require_exact_account(book):
    """Every rollout is in one place, and the evidence is that of the scored ones."""
    figures = book.metrics()
    parts = [figures[name] for name in ("scored", "unscored", "refunded", "abandoned", "in_hand")]
    assert figures["lent"] == sum(parts)
    assert figures["reserved_budget"] == figures["in_hand"]
    assert figures["spent_budget"] == figures["scored"] + figures["unscored"] + figures["abandoned"]
    bank = book.allocator.bank  # without forgetting
    assert (bank.alpha + bank.beta - 2).sum() == figures["scored"]
    return figures["scored"], figures["unscored"], figures["refunded"], figures["in_hand"]


@pytest.mark.parametrize(
    ("told", "scored", "unscored"),
    [
        (lambda c: ({**dict.fromkeys(c, 1), "e": 0}, {**c, "e": 0}), 8, 0),
        (lambda c: (dict.fromkeys(c, 1), c, {"zz": 0}), 8, 0),
        (lambda c: (dict.fromkeys(c, 1), {key: n - 1 for key, n in c.items()}, {next(iter(c)): 0.5}), 0, 0),
        (lambda c: (dict.fromkeys(c, 1), {key: n - 1 for key, n in c.items()}, {next(iter(c)): 1.0}), 6, 1),
        (lambda c: (dict.fromkeys(c, 1), {key: float(n) for key, n in c.items()}), 8, 0),
        (lambda c: (dict.fromkeys(c, 1), c, {"zz": 1}), 0, 0),
        (lambda c: ({**dict.fromkeys(c, 1), "e": 1}, {**c, "e": 0}), 0, 0),
    ],
    ids=["zero_outside", "zero_unknown", "half", "unscored", "floats", "unknown", "rewards_of_nothing"],
)
def test_a_report_counts_as_a_whole_or_not_at_all(open_book, told, scored, unscored):
    """Twice in a row, after the time-out, for the next worker, and after a restart."""

    def forgetful():
        return allocator(bank=BetaPosteriorBank(list(PROMPTS)))

    clock = Clock()
    book = open_book(forgetful(), clock=clock)
    number, counts = book.lend("r", ["a", "b", "c"], 8, exact=True)
    for _ in range(2):
        if scored:
            assert book.report(number, "d", *told(counts)) is Answer.COUNTED
        else:
            with pytest.raises(ValueError, match="must"):
                book.report(number, "d", *told(counts))
        left = 8 - scored - unscored
        assert require_exact_account(book) == (scored, unscored, 0, left)
    restarted = open_book(forgetful(), clock=clock)
    assert require_exact_account(restarted) == (scored, unscored, 0, left)
    restarted.close()
    clock.now = 11.0
    other, lent = book.lend("another worker's", None, 8, exact=True)
    refunded = left // GROUP * GROUP
    assert require_exact_account(book) == (scored, unscored, refunded, 8)
    assert book.report(other, "d", dict.fromkeys(lent, 1), lent)
    assert require_exact_account(book) == (scored + 8, unscored, refunded, 0)
    restarted = open_book(forgetful(), clock=clock)
    assert require_exact_account(restarted) == (scored + 8, unscored, refunded, 0)
    assert restarted.report(other, "d", dict.fromkeys(lent, 1), lent) is Answer.COUNTED


def test_only_the_leases_that_ended_last_are_remembered(open_book, monkeypatch):
    """What is forgotten is called unknown, whether it was counted or too late."""
    monkeypatch.setattr("cero_alloc.integrations.leases.REMEMBERED", 2)
    book = open_book()
    reports = []
    for turn in range(4):
        number, counts = book.lend(f"r{turn}", None, 12, exact=True)
        reports.append((number, "d", dict.fromkeys(counts, 0), counts))
        if turn % 2:
            book.give_back(number)
        else:
            assert book.report(*reports[-1])
    for _ in range(2):
        before = state_of(book)
        answers = [book.report(*words) for words in reports]
        assert answers == [Answer.UNKNOWN, Answer.UNKNOWN, Answer.COUNTED, Answer.TOO_LATE]
        assert [bool(answer) for answer in answers] == [False, False, True, False]
        assert state_of(book) == before
        book.checkpoint()
        book = open_book()


def test_a_warning_comes_before_the_journal_and_once(open_book, tmp_path):
    """Under ``-W error`` the report is refused, and nothing of it is left to stop a restart."""
    book = open_book()
    number, counts = book.lend("r", None, 12, exact=True)
    before, journal = state_of(book), (tmp_path / JOURNAL).read_bytes()
    fractions = (number, "d", dict.fromkeys(counts, 0.5), counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AllocationWarning):
            book.report(*fractions)
        assert state_of(book) == before
        assert (tmp_path / JOURNAL).read_bytes() == journal
    with pytest.warns(AllocationWarning) as caught:
        assert book.report(*fractions)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert state_of(open_book())[1] == state_of(book)[1]


def test_sums_of_rewards_may_be_off_by_rounding(open_book):
    book = open_book(allocator(bank=BetaPosteriorBank(list(PROMPTS), reward_range=(-0.1, 0.7))))
    number, counts = book.lend("r", ["a", "b", "c"], 12, exact=True)
    sums = {key: sum([reward] * n) for (key, n), reward in zip(counts.items(), (0.7, -0.1, 0.7), strict=False)}
    assert book.report(number, "d", sums, counts)
    assert set(book.allocator.bank.alpha + book.allocator.bank.beta) == {2.0, *(n + 2.0 for n in counts.values())}


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
    n = counts[key]
    refused = [
        (ValueError, rf"at most the {n} that lease 0 has left of prompt '{key}', got 99 and 0", (number, "d", {key: 0}, {key: 99})),
        (ValueError, "lease must be one that lend returned, got 7", (7, "d", {}, {})),
        (ValueError, "lease must be at least 0", (-1, "d", {}, {})),
        (TypeError, "lease must be an integer", ("0", "d", {}, {})),
        (TypeError, "delivery must be a str, got delivery = 5. Name the delivery", (number, 5, {}, {})),
        (ValueError, f"successes and rollouts must name the same prompts, got '{key}' in one", (number, "d", {}, {key: 1})),
        (TypeError, r"rollouts must be a mapping, got rollouts = \[1\]", (number, "d", {key: 1}, [1])),
        (ValueError, rf"rollouts\['{key}'\] must be a whole number, got .* = 0\.5", (number, "d", {key: 0}, {key: 0.5})),
        (ValueError, rf"rollouts\['{key}'\] must be at least 0", (number, "d", {key: 0}, {key: -1})),
        (TypeError, rf"unscored\['{key}'\] must be an integer, got .* = True", (number, "d", {}, {}, {key: True})),
        (ValueError, rf"successes\['{key}'\] must be a number in \[0, 1\]", (number, "d", {key: 2}, {key: 1})),
        (TypeError, rf"successes\['{key}'\] must be a number in \[0, 1\], got .* = True", (number, "d", {key: True}, {key: 1})),
    ]  # fmt: skip
    for error, text, words in refused:
        with pytest.raises(error, match=text):
            book.report(*words)
    with pytest.raises(TypeError, match="request must be a str"):
        book.lend(("r", 1))
    with pytest.raises(TypeError, match="the journal takes strings and numbers, got PosixPath"):
        book.lend("s", [tmp_path])
    for error, text, odd in (
        (ValueError, "timeout must be finite and greater than 0", {"timeout": 0}),
        (ValueError, "checkpoint_every must be at least 1", {"checkpoint_every": 0}),
        (TypeError, "durable must be True or False", {"durable": "no"}),
    ):
        with pytest.raises(error, match=text):
            open_book(**odd)
    book.checkpoint()
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(ValueError, match=r"state\['ledger'\]\['horizon'\] must equal"):
        open_book(allocator(total_budget=402))
