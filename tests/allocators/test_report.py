"""The page of a run: what it shows, what it costs in memory, when it is written, and what is refused."""

import copy
import os
import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cero_alloc import AllocationWarning, BetaPosteriorBank, FenchelDualAllocator, Horizon, training_allocator
from cero_alloc._allocators.run_facts import Shares
from cero_alloc._allocators.run_history import COLUMNS, MOST_ROWS
from cero_alloc.baselines import DAPO, Uniform
from cero_alloc.sharding import PoolShard, ShardedAllocator
from helpers.runs import FORMS, build, go_on
from helpers.trees import leaves

RUN = {"total_budget": 96, "n_rounds": 6, "max_rollouts": 8}
every_form = pytest.mark.parametrize("form", FORMS)


class Page(HTMLParser):
    """A parsed page; tags that are not closed in order raise."""

    def __init__(self, file):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.open, self.tags, self.texts = [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] != ["style"]:
            self.texts.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.html"


def uniform(ids=4, run=RUN, **bank):
    return Uniform(BetaPosteriorBank(ids, **bank), **run)


def play(allocator, rounds, rates, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, rates), counts)


# ---------------------------------------------------------------- what is shown


@every_form
def test_every_allocator_reports_and_decides_as_without(form, file):
    plain, watched = build(form), build(form)
    watched.report(file, every=1)
    assert go_on(watched, 1, 0, 12) == go_on(plain, 1, 0, 12)
    assert leaves(watched.state_dict()) == leaves(plain.state_dict())
    watched.report(file)
    page = Page(file)
    assert f"Run of {FORMS[form][0]}" in page.text
    assert "Budget left" in page.text
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a"} == set()
    assert not re.search(r"https?:|//|url\(|@import", page.source)


def test_a_page_before_anything_is_dealt(file):
    uniform().report(file)
    text = Page(file).text
    assert "Nothing dealt yet: 96 rollouts for 6 rounds." in text
    assert "Rollouts by outcome" not in text


def test_a_page_before_the_first_reward(file):
    allocator = uniform()
    allocator.allocate()
    allocator.report(file)
    text = Page(file).text
    assert "16 of 96 rollouts dealt in 1 of 6 rounds. No rewards yet." in text
    assert "0 rollouts spent · 16 dealt and not reported · 80 left" in text


def test_the_figures_of_a_small_run(file):
    allocator = uniform(["a", "b"], {"total_budget": 32, "n_rounds": 2, "max_rollouts": 8})
    for won in ([8, 0], [5, 8]):
        allocator.update(None, won, allocator.allocate())
    allocator.report(file)
    text = Page(file).text
    assert "32 of 32 rollouts dealt in 2 of 2 rounds. 25% of the rollouts were in mixed groups" in text
    assert "mean reward 0.656" in text
    shares = Shares.of(allocator._past)
    assert [row["all_wrong"] for row in shares.rows] == [0.5, 0.0]
    assert [row["all_right"] for row in shares.rows] == [0.5, 0.5]
    assert not shares.single
    assert "Prompts dealt the most" in text
    assert "Never dealt" not in text


def test_single_rollouts_show_variance_instead_of_groups(file):
    allocator, right = training_allocator(40, total_budget=80, n_rounds=8, rollouts_per_visit=1), 0
    for turn in range(8):
        counts = allocator.allocate()
        won = counts * (np.arange(40) % 3 < turn % 3)
        right += won.sum()
        allocator.update(None, won, counts)
    allocator.report(file)
    text = Page(file).text
    assert "Most rollouts were single ones, so there are no groups to be mixed." in text
    assert "Rollouts by outcome of their group" not in text
    assert Shares.of(allocator._past).total["reward"] == pytest.approx(right / 80)


def test_equal_rewards_in_between_are_not_mixed():
    allocator = uniform(2, {"total_budget": 16, "n_rounds": 1, "max_rollouts": 8})
    counts = allocator.allocate()
    allocator.update(None, [4.0, 4.0], counts, squares=[2.0, 3.0])  # eight rewards of one half; rewards that differ
    total = Shares.of(allocator._past).total
    assert (total["between"], total["mixed"]) == (0.5, 0.5)


def test_uniform_itself_has_what_uniform_is_expected_to_have():
    """Whatever the prior: the correction takes out how far the beliefs are off."""
    rates = np.random.default_rng(0).beta(0.2, 0.3, size=600)
    bank = BetaPosteriorBank(600, prior=(5.0, 5.0))
    allocator = Uniform(bank, total_budget=4 * 600 * 12, n_rounds=12, max_rollouts=4)
    play(allocator, 12, rates)
    total = Shares.of(allocator._past).total
    assert total["mixed"] < 0.5  # where the prior promises 0.8
    for kind in ("all_wrong", "mixed", "all_right"):
        assert total["uniform"][kind] == pytest.approx(total[kind], abs=0.02)


@pytest.mark.parametrize(("fitted", "low", "high"), [(True, -0.02, 0.02), (False, -0.06, 0.02)])
def test_what_is_said_of_uniform_is_nearly_what_uniform_would_have_had(fitted, low, high):
    """A flat prior promises too many mixed groups, of those not dealt as well: what it says of uniform is too low then."""
    errors = []
    for seed in range(5):
        rates = np.random.default_rng(seed).beta(0.3, 0.6, size=500)
        allocator = training_allocator(
            500, total_budget=128 * 80, n_rounds=80, rollouts_per_visit=8, **({} if fitted else {"fit_every": None})
        )
        play(allocator, 80, rates, seed)
        truth = 1.0 - (rates**8 + (1.0 - rates) ** 8).mean()
        errors.append(Shares.of(allocator._past).total["uniform"]["mixed"] - truth)
    print(f"fitted {fitted}: {np.mean(errors):+.3f} ({min(errors):+.3f} to {max(errors):+.3f})")
    assert low < np.mean(errors) < high


def test_equal_rewards_between_right_and_wrong_leave_uniform_out(file):
    allocator = uniform(60, {"total_budget": 8 * 60 * 3, "n_rounds": 3, "max_rollouts": 8}, reward_range=(-1, 1))
    for _ in range(3):
        counts = allocator.allocate()
        prompts = np.repeat(np.arange(60), counts)
        allocator.observe(
            prompts, np.where(prompts < 20, 0.0, np.random.default_rng(1).choice([-1.0, 1.0], prompts.size))
        )
    allocator.report(file)
    page = Page(file).text
    assert "Beliefs do not foresee these" in page
    assert "uniform would have" not in page
    assert "mean reward -0.0" in page or "mean reward 0.0" in page  # in the range of the rewards


def test_rewards_that_are_all_equal_are_an_alarm(file):
    allocator = uniform(200, {"total_budget": 8 * 200, "n_rounds": 1, "max_rollouts": 8})
    play(allocator, 1, np.zeros(200))
    allocator.report(file)
    assert "All rewards are equal, so that" in Page(file).text
    allocator = uniform(200, {"total_budget": 8 * 200, "n_rounds": 1, "max_rollouts": 8})
    play(allocator, 1, np.arange(200) % 2.0)
    allocator.report(file)
    assert "All rewards are equal within every group" in Page(file).text


def test_retired_prompts_are_not_promising(file):
    allocator = uniform(["gone", "b", "c"], {"total_budget": 8, "n_rounds": 2, "max_rollouts": 4})
    allocator.bank.retire(["gone"])
    counts = allocator.allocate(["b"])
    allocator.update(["b"], counts, counts)
    allocator.report(file)
    assert "Never dealt: 1 of 3" in Page(file).text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (uniform().report, uniform().save):
        with pytest.raises(OSError, match="path must be a file, or the name of a new one"):
            write(pipe)
        with pytest.raises(IsADirectoryError, match="path must be a file"):
            write(tmp_path)
    assert pipe.is_fifo()


def test_waves_count_together():
    allocator = DAPO(BetaPosteriorBank(6), total_budget=96, n_rounds=2, max_rollouts=8)
    counts = allocator.allocate()
    dealt = counts.sum()
    while counts.any():
        allocator.update(None, counts * 0, counts)
        counts = allocator.continue_round(counts, counts * 0)
        dealt += counts.sum()
    record = allocator._past.rows()
    assert record["dealt"].tolist() == record["all_wrong"].tolist() == [dealt]
    assert record["prompts"].tolist() == [np.count_nonzero(allocator.exposure)]


def test_late_reports_count_for_their_round():
    allocator = uniform()
    first, second = allocator.allocate(), allocator.allocate()
    allocator.update(None, second, second, round=2)
    allocator.update(None, first * 0, first, round=1)
    allocator.update([0], [1], [1])  # more than was dealt
    record = allocator._past.rows()
    assert record["reported"].tolist() == [16, 17]
    assert record["all_wrong"].tolist() == [16, 0]


def test_reports_before_the_first_round_are_left_out():
    allocator = uniform()
    allocator.update([0], [1], [8])
    assert allocator._past.rows()["reported"].size == 0


@pytest.mark.parametrize("name", ["<b>bold</b>", '"><script>alert(1)</script>', "a & b", "'", "\ud800", "x" * 500])
def test_ids_are_text(name, file):
    allocator = uniform([name, "b"], {"total_budget": 16, "n_rounds": 1, "max_rollouts": 8})
    allocator.update(None, [0, 3], allocator.allocate())
    allocator.report(file)
    page = Page(file)
    assert {tag for tag, _ in page.tags} & {"script", "b"} <= {"b"}
    assert "alert(1)</script>" not in page.source
    assert "<b>bold" not in page.source
    assert name.encode("utf-8", "replace").decode()[:40] in "".join(page.texts)


# ---------------------------------------------------------------- warnings


def test_a_sound_run_has_no_warnings(file):
    allocator = uniform(400, {"total_budget": 8 * 400 * 6, "n_rounds": 6, "max_rollouts": 8})
    play(allocator, 3, np.linspace(0.001, 0.999, 400))  # as the prior has it
    allocator.report(file)
    assert "Warnings" not in Page(file).text


def test_rewards_that_never_come_are_a_warning(file):
    allocator = uniform()
    for _ in range(3):
        allocator.allocate()
    allocator.report(file)
    assert "48 of 48 rollouts dealt were never heard of" in Page(file).text


def test_alarms_of_the_metrics_are_warnings(file):
    run = {"total_budget": 64 * 200 * 4, "n_rounds": 4, "max_rollouts": 64}
    allocator = uniform(200, run)
    for _ in range(2):
        counts = allocator.allocate(budget=6400)
        allocator.update(None, counts * 0, counts)
    allocator.update(None, np.zeros(200), np.full(200, 64))
    allocator.report(file)
    text = Page(file).text
    metrics = allocator.metrics()
    assert (metrics["calibration_warning"], metrics["never_right"]) == (1.0, 200.0)
    assert "The beliefs are biased" in text
    assert "are left at the end if rounds go on at their mean pace" in text
    assert "12,800 rollouts were reported beyond those dealt" in text
    assert "Prompts without a reward in 64 rollouts or more: 200." in text
    assert "Never right: 200 prompts" in text


# ---------------------------------------------------------------- bounded memory


def test_the_record_is_bounded():
    rounds = 5_000
    allocator = uniform(2, {"total_budget": 4 * rounds, "n_rounds": rounds, "max_rollouts": 2})
    won = 0
    for turn in range(rounds):
        counts = allocator.allocate()
        successes = np.minimum(counts, turn % 3)
        won += successes.sum()
        allocator.update(None, successes, counts)
        if turn % 997 == 0:
            assert len(allocator._past.table) <= MOST_ROWS
    past = allocator._past
    record = past.rows()
    assert past.span == 16
    assert past.table.shape == (-(-(rounds - 1) // 16), len(COLUMNS))
    assert record["dealt"].sum() == record["reported"].sum() == 4 * rounds
    assert record["won"].sum() == won
    assert record["left"][-1] == 0
    assert (record["first"][0], record["last"][-1]) == (1, rounds)
    assert (record["first"][1:] == record["last"][:-1] + 1).all()
    assert record["all_wrong"].sum() == 4 * sum(turn % 3 == 0 for turn in range(rounds))


@pytest.mark.parametrize("size", [1, 3, 300_000])
def test_tiny_and_huge_pools(size, file):
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(size), total_budget=24 * min(size, 64), n_rounds=3, max_rollouts=8
    )
    offer = list(range(min(size, 64)))
    for _ in range(3):
        counts = allocator.allocate(offer)
        allocator.update(offer, counts // 2, counts)
    counts = allocator.allocate()
    allocator.report(file)
    page = Page(file)
    assert f"{size:,} prompt" in page.text
    assert len(page.source) < 150_000


# ---------------------------------------------------------------- saved and resumed


@every_form
def test_a_resumed_run_has_the_page_of_the_uninterrupted_one(form, tmp_path):
    run, twin = build(form), build(form)
    go_on(run, 2, 0, 5)
    twin.load_state_dict(run.state_dict())
    pages = []
    for i, one in enumerate((run, twin)):
        go_on(one, 2, 5, 9)
        one.report(tmp_path / f"{i}.html")
        pages.append((tmp_path / f"{i}.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_state_of_an_older_version_begins_the_record(file):
    run, twin = uniform(), uniform()
    play(run, 2, 0.5)
    state = run.state_dict()
    del state["past"]
    twin.load_state_dict(state)
    play(twin, 2, 0.5)
    assert twin._past.rows()["first"].tolist() == [3, 4]
    twin.report(file)
    assert "The record begins at round 3." in Page(file).text


@pytest.mark.parametrize(
    "change",
    [
        {"table": np.zeros((3, 2))},
        {"table": np.zeros((0, len(COLUMNS)))},
        {"table": None},
        {"class": "RunLog"},
        {"table": np.full((1, len(COLUMNS)), np.nan)},
        {"table": np.full((1, len(COLUMNS)), -1.0)},
        {"table": [[0.0] * len(COLUMNS)]},
        {"span": 0},
        {"span": 1.5},
        {"rounds": -1},
        {"rounds": 7},
        {"first": -1},
        {"open": np.zeros(3)},
        {"open": np.full(len(COLUMNS), -1.0)},
        {"start": np.zeros(20)},
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_is_refused(change):
    run = uniform()
    play(run, 2, 0.5)
    state = run.state_dict()
    state["past"] |= change
    before = leaves(run.state_dict())
    with pytest.raises(ValueError, match=r"^state\['past'\]"):
        run.load_state_dict(state)
    assert leaves(run.state_dict()) == before


# ---------------------------------------------------------------- when it is written


def test_every_writes_after_every_nth_round_and_the_last(file):
    allocator, seen = uniform(), []
    allocator.report(file, every=2)
    for _ in range(6):
        counts = allocator.allocate()
        seen += re.findall(r"Nothing|in (?=\d of)\d", file.read_text())[:1]
        allocator.update(None, counts // 2, counts)
    assert seen == ["Nothing", "Nothing", "in 2", "in 2", "in 4", "in 4"]
    assert "dealt in 6 of 6 rounds" in file.read_text()
    written = file.stat().st_mtime_ns
    allocator.allocate()  # nothing is left, and nothing is new
    assert file.stat().st_mtime_ns == written


def test_once_leaves_a_watch_alone_and_none_ends_it(file, tmp_path):
    allocator = uniform()
    allocator.report(file, every=1)
    allocator.report(tmp_path / "once.html")
    play(allocator, 3, 0.5)
    assert "dealt in 2 of 6" in file.read_text()
    assert "Nothing dealt yet" in (tmp_path / "once.html").read_text()
    allocator.report(None)
    play(allocator, 3, 0.5)
    assert "dealt in 2 of 6" in file.read_text()


def test_copies_and_pickles_do_not_write(file):
    allocator = uniform()
    allocator.report(file, every=1)
    for twin in (copy.deepcopy(allocator), pickle.loads(pickle.dumps(allocator))):
        play(twin, 2, 0.5)
    assert "Nothing dealt yet" in file.read_text()


def test_the_file_is_replaced_as_a_whole(file, monkeypatch):
    allocator = uniform()
    allocator.report(file)
    before = file.read_bytes()
    play(allocator, 1, 0.5)

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        allocator.report(file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_can_no_longer_be_written_ends_the_page_and_not_the_run(file, monkeypatch):
    allocator = uniform()
    allocator.report(file, every=1)
    play(allocator, 1, 0.5)

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.warns(
        AllocationWarning, match=r"The report .*run\.html ends at round 1: .*No space left.* The run goes on"
    ):
        allocator.allocate()
    play(allocator, 4, 0.5)
    assert allocator.round == 6


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("path", "every", "error", "must"),
    [
        (7, None, TypeError, r"path must be a path or None, got path = 7\. Name a file\."),
        ("run.html", 0, ValueError, r"every must be at least 1, got every = 0\. Count rounds, or None to write once\."),
        ("run.html", 1.5, TypeError, r"every must be an integer, got every = 1\.5\."),
        ("run.html", True, TypeError, r"every must be an integer, got every = True\."),
        (
            "no/run.html",
            None,
            FileNotFoundError,
            r"path must be in a folder that exists, got .*Make the folder first\.",
        ),
        ("", None, OSError, "."),
    ],
)
def test_what_cannot_be_written_is_refused(path, every, error, must, tmp_path):
    allocator = uniform()
    allocator.report(tmp_path / "good.html", every=2)
    before = leaves(allocator.state_dict())
    with pytest.raises(error, match=must):
        allocator.report(tmp_path / path if isinstance(path, str) else path, every=every)
    assert leaves(allocator.state_dict()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["good.html"]
    play(allocator, 3, 0.5)
    assert "dealt in 2 of 6" in (tmp_path / "good.html").read_text()


def test_a_sharded_run_says_why_it_has_no_page(file):
    horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
    shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
    with pytest.raises(NotImplementedError, match="no process holds the beliefs of all shards"):
        ShardedAllocator(shards, horizon).report(file, every=2)
    assert not file.exists()


@pytest.mark.parametrize("last", ["unscored", "write_off", "refund", "expire"])
def test_the_last_page_is_written_however_the_last_rollouts_are_settled(tmp_path, last):
    file = tmp_path / "run.html"
    allocator = training_allocator(["a", "b", "c", "d"], total_budget=8, n_rounds=2)
    allocator.report(file, every=100)
    for _ in range(2):
        counts = allocator.allocate(budget=4, exact=True)
        rewards = [1.0, 0.0, 1.0, np.nan]
        if last == "unscored":
            allocator.observe(allocator.bank.prompts_of(counts), rewards)
        else:
            allocator.update(["a", "b", "c"], rewards[:3], [1, 1, 1])
    assert "Nothing dealt yet" in file.read_text() or last == "unscored"
    if last == "expire":
        allocator.expire(None)
    elif last != "unscored":
        getattr(allocator, last)(None, allocator.outstanding)
    assert "Nothing dealt yet" not in file.read_text()
