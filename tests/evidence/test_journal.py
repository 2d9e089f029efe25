"""The journal of changes: what a reader learns since its last look, against a set of rows per reader."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._evidence.journal import Journal, distinct


def rows_of(*rows):
    return np.array(rows, dtype=np.int64)


def test_the_first_look_reads_all_rows_and_later_ones_what_changed():
    journal = Journal(10)
    journal.note(rows_of(3))
    assert journal.since(-1) is None
    seen = journal.version
    assert journal.since(seen).tolist() == []
    journal.note(rows_of(5, 2))
    journal.note(rows_of(2))
    journal.note(rows_of())
    assert journal.version == seen + 3
    assert journal.since(seen).tolist() == [2, 5]
    assert journal.since(journal.version).tolist() == []


def test_a_change_of_all_rows_and_growth_are_reported_as_such():
    for change in (lambda journal: journal.note(None), lambda journal: journal.grow(12)):
        journal = Journal(10)
        journal.since(-1)
        seen = journal.version
        journal.note(rows_of(1))
        change(journal)
        journal.note(rows_of(2))
        assert journal.since(seen) is None
        assert journal.since(journal.version).tolist() == []


def test_nothing_is_recorded_until_a_reader_asks():
    journal = Journal(10)
    for _ in range(5):
        journal.note(rows_of(1))
    assert journal._notes == []
    assert journal.version == 5
    assert journal.since(3) is None  # not recorded, although the version is known


def test_a_reader_that_keeps_up_never_starts_over_and_memory_is_bounded():
    journal = Journal(8)
    journal.since(-1)
    for turn in range(50):
        seen = journal.version
        journal.note(rows_of(turn % 8, (turn + 1) % 8))
        journal.note(rows_of(turn % 8))
        assert journal.since(seen).tolist() == sorted({turn % 8, (turn + 1) % 8})
        assert sum(rows.size for _, rows in journal._notes) <= 8


def test_more_notes_than_rows_count_as_a_change_of_all():
    journal = Journal(4)
    journal.since(-1)
    seen = journal.version
    for row in (0, 1, 2, 3):
        journal.note(rows_of(row))
    assert journal.since(seen).tolist() == [0, 1, 2, 3]
    seen = journal.version
    for row in (0, 1, 0, 1, 0):
        journal.note(rows_of(row))
    assert journal.since(seen) is None


def test_versions_of_another_journal_are_not_trusted():
    journal = Journal(4)
    journal.since(-1)
    assert journal.since(7) is None


@given(st.lists(st.integers(0, 9)))
def test_distinct_rows_are_a_sorted_set(rows):
    assert distinct(np.array(rows, dtype=np.int64)).tolist() == sorted(set(rows))


changes = st.one_of(
    st.tuples(st.just("note"), st.lists(st.integers(0, 11), max_size=5)),
    st.tuples(st.just("all"), st.none()),
    st.tuples(st.just("read"), st.integers(0, 2)),
)


@given(st.lists(changes, max_size=40))
def test_no_reader_misses_a_change(script):
    """Each reader's answer covers what changed since its last look, and names no other row."""
    journal = Journal(12)
    seen, missed = [-1, -1, -1], [None, None, None]  # missed: rows since the last look; None: all
    for kind, what in script:
        if kind == "note":
            journal.note(np.array(what, dtype=np.int64))
            missed = [None if rows is None else rows | set(what) for rows in missed]
        elif kind == "all":
            journal.note(None)
            missed = [None, None, None]
        else:
            found = journal.since(seen[what])
            seen[what] = journal.version
            assert missed[what] is not None or found is None
            if found is not None:
                assert found.tolist() == sorted(missed[what])
            missed[what] = set()


def test_a_bank_notes_every_change_but_time():
    bank = BetaPosteriorBank(["a", "b", "c"], forgetting=0.9)
    journal, seen = bank.evidence.journal, -1

    def changed():
        nonlocal seen
        rows, seen = journal.since(seen), journal.version
        return None if rows is None else rows.tolist()

    assert changed() is None
    bank.update(["c"], [1], [2])
    assert changed() == [2]
    bank.tick()
    bank.value()
    assert changed() == []
    empty = BetaPosteriorBank(["a", "b", "c"], forgetting=0.9)
    state = bank.state_dict()
    for change in (
        lambda: bank.retire(["a"]),
        lambda: bank.revive(["a"]),
        lambda: bank.merge(empty),
        lambda: bank.evidence.set_prior(np.array([2.0]), np.array([1.0])),
        lambda: bank.select_forgetting([(["a"], [1], [2])] * 2, grid=[0.5]),
        lambda: bank.load_state_dict(state),
        lambda: bank.add_prompts(["d"]),
    ):
        change()
        assert changed() is None


def test_the_version_of_the_retirements_grows_with_them_alone():
    bank = BetaPosteriorBank(["a", "b"])
    versions = [bank.evidence.retirements]
    bank.update(["a"], [1], [2])
    bank.tick()
    versions.append(bank.evidence.retirements)
    bank.retire(["a"])
    versions.append(bank.evidence.retirements)
    bank.revive(["a"])
    versions.append(bank.evidence.retirements)
    assert np.diff(versions).tolist() == [0, 1, 1]


def test_the_journal_of_a_ledger_grows_with_its_accounts():
    """A batch larger than the first pool would overflow the old journal, and cost a pass over the pool at every visit."""
    ledger = RolloutLedger.plan(3, total_budget=300, n_rounds=50, unit_size=1, max_rollouts=4)
    ledger.grow(100)
    assert ledger.journal.since(-1) is None
    seen = ledger.journal.version
    ledger.open_round(np.arange(60), 60, np.arange(60), np.ones(60, dtype=np.int64))
    assert ledger.journal.since(seen).tolist() == list(range(60))
