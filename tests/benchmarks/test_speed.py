"""The speed benchmark: its parts at tiny sizes, and its tables. No time is asserted."""

import importlib
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest

import cero_alloc
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from studies.regret import runs as paper
from studies.speed import against, beliefs, main, peers, process, report, rounds, solvers, timings
from studies.speed.clock import Scope, fresh, in_turn
from studies.speed.report import Row

ONCE = Scope(quick=True, repeats=1)


@pytest.mark.parametrize(
    ("row", "verdict", "aim"),
    [
        (Row("a", [1.0, 9.0, 2.0], "x", 2.0), "met", "<= 2.00"),
        (Row("a", [1.0, 9.0, 2.0], "x", 2.0, strict=True), "missed", "< 2.00"),
        (Row("a", [3.0, 9.0, 1.0], "x", 2.0), "missed", "<= 2.00"),
        (Row("a", [250.0, 300.0, 1e6], "x", 300.0, rising=True), "met", ">= 300"),
        (Row("a", [299.0], "x", 300.0, rising=True), "missed", ">= 300"),
        (Row("a", [0, 0], "kernels", 0.0), "met", "<= 0"),
        (Row("a", [], "x", 2.0), "open", "<= 2.00"),
        (Row("a", [5.0], "x"), "", ""),
    ],
)
def test_verdicts(row, verdict, aim):
    assert row.verdict == verdict
    assert row.cells()[5:7] == [aim, verdict]


def test_a_row_shows_median_least_and_largest_and_the_time_behind_a_ratio():
    row = Row("round", [3.0, 1.0, 14_000.0], "log passes", seconds=[0.25, 0.5, 0.75], beside="on one core")
    assert row.cells() == ["round", "3.00", "1.00", "14,000", "log passes", "", "", "500 ms, on one core, repeats: 3"]
    assert report.left_out("a", "quick").cells()[1:4] == ["-"] * 3


def test_a_ratio_is_taken_repeat_by_repeat():
    row = report.ratio("round", np.array([2.0, 9.0, 6.0]), np.array([1.0, 3.0, 1.0]), target=3.0)
    assert row.cells() == [
        "round",
        "3.00",
        "2.00",
        "6.00",
        "log passes",
        "<= 3.00",
        "met",
        "6.00 s, least by least 2.00, repeats: 3",
    ]


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (1.234, "1.23"), (0.01234, "0.0123"), (99.94, "99.9"), (1234.5, "1,234"), (2e-10, "2.0e-10")],
)
def test_numbers(x, text):
    assert report.number(x) == text


def test_the_summary_counts_and_names_what_was_missed(capsys):
    rows = [
        Row("good", [1.0], "x", 2.0),
        Row("bad", [3.0], "us", 2.0),
        Row("unmeasured", [], "x", 2.0),
        Row("no target", [1.0], "x"),
    ]
    report.print_verdicts({"7. Part": rows})
    assert capsys.readouterr().out.strip().splitlines() == [
        "1 of 2 targets met.",
        "missed: 7. bad: 3.00 us, target <= 2.00",
    ]


def test_page_and_json(tmp_path):
    page = tmp_path / "page.md"
    begin, end = report.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    sections = {"10. Last": [Row("b", [1.0], "x")], "2. First": [Row("a", [1.0, 2.0], "x", 1.0)]}
    curves = {"FenchelDualAllocator": {10: np.array([2e-3]), 100: np.array([1e-2])}, "slow": {10: np.array([1.0])}}
    report.write_page(page, report.markdown(sections, curves, "*machine*"))
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\n\n*machine*\n\n### 2. First")
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert "| a | 1.50 | 1.00 | 2.00 | x | <= 1.00 | missed | repeats: 2 |" in text
    assert "| slow | 1.00 s (500) | - |" in text
    assert text.index("### 2.") < text.index("### 9.") < text.index("### 10.")
    report.write_json(tmp_path / "speed.json", sections, curves, "machine")
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert [row["verdict"] for row in stored["rows"]] == ["", "missed"]
    assert stored["peers"]["slow"] == {"10": [1.0]}
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="must have one line"):
        report.write_page(page, "x")


def test_in_turn_takes_the_seconds_that_a_call_returns_and_alternates():
    order = []

    def call(name, seconds):
        order.append(name)
        return seconds

    times = in_turn({"a": lambda: call("a", 1.0), "b": lambda: call("b", 0.5)}, 3, least=1.0)
    assert {name: values.tolist() for name, values in times.items()} == {"a": [1.0] * 3, "b": [0.5] * 3}
    # After three calls each, a repeat of b takes two to last as long, and every other repeat goes backwards.
    assert order[6:] == ["a", "b", "b", "b", "b", "a", "a", "b", "b"]
    assert in_turn({"long": lambda: 5.0}, 7, most=20.0)["long"].size == 4
    assert in_turn({"longer": lambda: 50.0}, 7)["longer"].size == 3


def test_rounds_deal_and_learn():
    run = rounds.pool_run(64)
    seen = run.allocator.bank.alpha + run.allocator.bank.beta
    assert run.full() > 0.0
    grown = run.allocator.bank.alpha + run.allocator.bank.beta - seen
    np.testing.assert_allclose(grown, run.allocator.exposure)
    assert run.allocator.exposure.sum() == 16 * 8
    for kind in (FenchelDualAllocator, ResolvingAllocator):
        run = rounds.batch_run([f"p{i}" for i in range(3000)], kind)
        names, rows = next(rounds.offers(3000, lambda rows: [f"p{i}" for i in rows]))
        assert len(set(names)) == rows.size == 1024
        assert run.batch(names, rows) > 0.0
        assert set(np.flatnonzero(run.allocator.exposure)) <= set(rows.tolist())


def test_a_round_that_deals_nothing_is_no_measurement():
    allocator = FenchelDualAllocator(BetaPosteriorBank(4), total_budget=4, n_rounds=1, max_rollouts=4)
    run = rounds.Run(allocator)
    run.full()
    with pytest.raises(SystemExit, match="dealt nothing"):
        run.full()


def test_memory_of_a_round_is_traced():
    class Greedy(FenchelDualAllocator):
        def allocate(self, *args, **kwargs):
            self.extra = np.zeros(100_000)
            return super().allocate(*args, **kwargs)

    run = rounds.pool_run(100, Greedy)
    for _ in range(2):  # they load kernels, which weigh as well: the second round closes the first
        run.full()
    assert 800_000 <= rounds.allocated(run) < 900_000


def test_passes_of_the_price_solve_are_counted():
    run = rounds.pool_run(200, ResolvingAllocator)
    run.full()
    assert 1 <= rounds.solve_passes(run) <= 20


def test_arrays_are_weighed_once_each():
    bank = BetaPosteriorBank(1000)
    allocator = FenchelDualAllocator(bank, total_budget=1000, n_rounds=10, max_rollouts=2)
    counts = allocator.allocate()
    allocator.update(None, counts / 2, counts)
    found = process.arrays_of(allocator)
    assert [size for name, size in found.items() if name.endswith("bank.evidence.outcomes")] == [
        bank.evidence.outcomes.nbytes
    ]
    assert sum(found.values()) == sum(process.arrays_of([allocator, bank, allocator]).values())
    weight = process.weigh(20_000)
    assert sum(weight["arrays"].values()) == pytest.approx(weight["traced"], rel=0.05)
    assert len(weight["peaks"]) == 3
    assert min(weight["peaks"]) >= 1.0


def test_fresh_processes_report(monkeypatch):
    assert fresh("print('noise'); print([1])") == [1]
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        fresh("1 / 0")
    numba, whole, compiled, first, second = fresh(process.START.format(setup=""))
    assert 0.0 < numba < whole
    assert compiled == 0
    assert min(first, second) > 0.0


def test_a_child_plays_rounds():
    with rounds.Child("re-solving", 64, CERO_ALLOC_THREADS="1") as child:
        assert child.round() > 0.0
        assert child.round() > 0.0


def test_peers_decide_the_same_problem():
    p = peers.rates_of(12)
    budget = 8 * p.size
    heap, sort, real = (solve(p, budget) for solve in (peers.by_heap, peers.by_sort, peers.by_slsqp))
    gain = 1.0 - np.exp(-np.arange(33)[:, None] * p * (1.0 - p) / peers.TAU)
    assert sum(heap) == budget
    # No move of one rollout gains anything: the counts are the best.
    more = [gain[n + 1, i] - gain[n, i] if n < 32 else 0.0 for i, n in enumerate(heap)]
    less = [gain[n, i] - gain[n - 1, i] if n > 2 else np.inf for i, n in enumerate(heap)]
    assert max(more) <= min(less) + 1e-15
    assert sort.sum() == budget
    problem = peers.convex_problem(p, budget)
    problem.solve(solver="CLARABEL")
    a = 4.0 * p * (1.0 - p)
    assert float((a / (real - 1.0)).sum()) == pytest.approx(problem.value, rel=1e-5)


def test_the_race_leaves_out_what_takes_too_long(monkeypatch):
    monkeypatch.setattr(peers, "CONTENDERS", {
        "FenchelDualAllocator": (1, lambda n: lambda: 1e-3), "quick": (1, lambda n: lambda: 1e-6 * n),
        "slow": (2, lambda n: lambda: 1e-4 * n**2), "slower": (2, lambda n: lambda: 1e-2 * n**2),
    })  # fmt: skip
    found = peers.race(Scope(repeats=3), sizes=(10, 100, 1000), limit=2.0)
    assert {name: {n: times.size for n, times in by_size.items()} for name, by_size in found.items()} == {
        "FenchelDualAllocator": {10: 3, 100: 3, 1000: 3}, "quick": {10: 3, 100: 3, 1000: 3}, "slow": {10: 3, 100: 1}, "slower": {10: 1},
    }  # fmt: skip


def test_oracle_and_convex_peer_agree():
    q = solvers.values_of(200)
    peer = solvers.ConvexPeer(q)
    peer.solve()
    run = {"equal_share": solvers.SHARE, "upper": solvers.UPPER}
    result = solvers.OfflineOracle(solvers.HEIGHT).solve(q, 200 * solvers.SHARE, **run)
    assert 0.0 <= peer.gap(result.optimum + result.gap) < 1e-6


def test_beliefs_that_move_are_weighed_and_timed():
    bank = BetaPosteriorBank(100, drift=0.1, trend=0.1)
    assert beliefs.held(bank) == 100 * (2 * 8 + 4 + 8)  # outcomes, ticks, odds at the last touch
    assert beliefs.scoring("observe", 8)() > 0.0
    ids, rewards = next(beliefs.drawn(8))
    assert len(ids) == rewards.size == beliefs.ROLLOUTS
    assert sorted(ids.count(name) for name in set(ids)) == [beliefs.ROLLOUTS // 8] * 8
    *rows, missing = beliefs.motion(ONCE)
    assert len(missing.values) == 0
    assert {row.label: row.values for row in rows if row.unit == "bytes"} == {
        "bytes per prompt of a drift": [0.0],
        "bytes per prompt of drift and trend": [8.0],
    }
    assert len([row for row in rows if row.unit == "us"]) == 4


def test_the_papers_run_is_watched(monkeypatch):
    small = {**paper.PAPER, "total_budget": 20 * 512, "n_rounds": 20}
    monkeypatch.setattr(paper, "PAPER", small)
    simulate = paper.simulate
    rows = solvers.simulation(ONCE, 300)
    assert paper.simulate is simulate
    assert len([row for row in rows if row.target == 0.4]) == 7  # six policies, and the plan of one
    assert [row.label for row in rows if not len(row.values)] == ["regret_sim.py as a whole, target 45 s"]


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "CONTENDERS", {"FenchelDualAllocator": (1, lambda n: lambda: 1e-3)})
    monkeypatch.setitem(main.SECTIONS, next(iter(main.SECTIONS)), lambda scope: [Row("bad", [3.0], "x", 2.0)])
    assert main.main(["--quick", "--only", "1", "9", "--out", str(tmp_path)]) == 0  # a missed target is no failure
    printed = capsys.readouterr().out
    assert "0 of 1 targets met" in printed
    assert {file.name for file in tmp_path.iterdir()} == {"speed.json", "speed.png"}
    for bad in (["--repeats", "0"], ["--only", "12"], ["--docs", "docs", "--quick"]):
        with pytest.raises(SystemExit):
            main.parse(bad)


def test_kernel_benchmarks_call_what_exists():
    kernels = importlib.import_module("test_kernels_speed")
    arrays = kernels.evidence()
    for name, test in vars(kernels).items():
        if name.startswith("test_"):
            marks = getattr(test, "pytestmark", [])
            cases = [{mark.args[0]: case} for mark in marks for case in list(mark.args[1])[:1]] or [{}]
            if "pool" in inspect.signature(test).parameters:
                cases = [{**case, "pool": arrays} for case in cases]
            for case in cases:
                test(lambda call, *args, **kwargs: call(*args, **kwargs), **case)


def test_two_trees_are_timed_in_turn(capsys):
    source = str(Path(cero_alloc.__file__).parents[1])
    arguments = ["--against", source, "--repeats", "1", "--only", "round, 64 prompts"]
    assert against.main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^Algorithm 1, round, 64 prompts +[\d.]+ [mu]?s +[\d.]+ [mu]?s +\d+\.\d\d ", printed, re.M)
    assert "Slower by more than 5%" in printed


@pytest.mark.parametrize("name", ["PilotCommit, round, 256 prompts", "read_log and replay, 500 lines"])
def test_a_timing_is_positive(name):
    assert timings.TIMINGS[name]()() > 0.0


def test_a_tree_must_hold_the_package(tmp_path, capsys):
    with pytest.raises(SystemExit):
        against.main(["--against", str(tmp_path)])
    assert "must be a folder that holds cero_alloc" in capsys.readouterr().err
