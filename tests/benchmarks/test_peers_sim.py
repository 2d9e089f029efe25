"""The comparison's command line: its tables, files and pictures, and that it ranks by what was measured."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank
from cero_alloc._evidence.advantages import Known, leave_one_out_advantages
from cero_alloc.baselines import Uniform
from cero_alloc.simulation import TrainedPool, load_counts, simulate, static_pool
from studies.peers import main, pools, report, yardsticks

DATA = Path(__file__).parents[3] / "shared" / "data"


def read(file):
    with file.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def small_pools(monkeypatch):
    small = {
        "even": partial(static_pool, 40, 0.5, 0.6),
        "trained": lambda seed: TrainedPool(static_pool(40, 0.5, 0.6, seed=seed).rates),
    }
    monkeypatch.setattr(pools, "POOLS", small)
    monkeypatch.setattr(pools, "EPOCHS", 3)


@pytest.mark.slow
def test_quick_run_writes_everything(tmp_path, small_pools, capsys):
    rates = tmp_path / "counted.csv"
    rng = np.random.default_rng(0)
    lines = [f"p{i},{epoch},20,{rng.binomial(20, rng.beta(0.4, 0.4))}" for epoch in (0, 1) for i in range(30)]
    rates.write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert main.main(["--quick", "--jobs", "1", "--rates", str(rates), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "even, offer: pool; 2 seeds",
        "counted, offer: batch",
        "OVERVIEW, offer: pool",
        "level with the first",
    ):
        assert words in printed
    questions = ("captured", "mixed", "dead", "time")
    assert {file.name for file in out.glob("*.png")} == {
        "ranks.png",
        *(f"{q}_{offer}.png" for q in questions for offer in ("pool", "batch")),
    }
    rows, summary = read(out / "peers.csv"), read(out / "peers_summary.csv")
    assert {row["pool"] for row in rows} == {"even", "trained", "counted"}
    run = {"total_budget": 1, "n_rounds": 1, "max_rollouts": 32}
    for offer, schedules in (("pool", {"preset", "random-matched"}), ("batch", {"preset"})):
        assert {row["policy"] for row in rows if row["offer"] == offer} == {
            *main.policies(run, offer, None),
            *schedules,
        }
    for row in rows:
        assert float(row["unspent"]) >= -1e-9  # no policy spends more than the budget
        known, reached = ("success", "optimum") if row["pool"] == "trained" else ("optimum", "success")
        assert 0.0 <= float(row[known]) <= 100.0 + 1e-9
        assert row[reached] == ""
        assert 0.0 <= float(row["coverage"]) <= 100.0
        assert float(row["signal"]) > 0.0
        assert float(row["useful"]) <= 100.0
        if row["policy"] in (
            "Knapsack RL",
            "VIP, RLOO",
            "HORA",
            "Neyman",
            "DUET",
            "MoPPS",
            "uniform",
            "greedy",
            "Resolving",
        ):
            assert float(row["unspent"]) == pytest.approx(0.0, abs=1e-9)
        if row["policy"] == "uniform" and row["pool"] != "trained":
            assert float(row["vs_uniform"]) == 0.0
    for offer in ("pool", "batch"):
        for pool in ("even", "trained", "counted"):
            game = [row for row in summary if (row["offer"], row["pool"]) == (offer, pool)]
            first = "success" if pool == "trained" else "optimum"
            for column, rank in ((first, "rank"), ("useful", "rank_useful"), ("signal", "rank_signal")):
                game.sort(key=lambda row, rank=rank: int(row[rank]))
                assert [int(row[rank]) for row in game] == list(range(1, len(game) + 1))
                figures = [float(row[column]) for row in game]
                assert figures == sorted(figures, reverse=True)
        ranks = [row for row in read(out / "peers_ranks.csv") if row["offer"] == offer]
        assert {row["policy"] for row in ranks} == {row["policy"] for row in rows if row["offer"] == offer}
        for line in ranks:
            own = [row for row in summary if (row["offer"], row["policy"]) == (offer, line["policy"])]
            shared = [int(row["rank"]) for row in own if row["pool"] != "trained"]
            assert float(line["rank_optimum"]) == pytest.approx(np.mean(shared))
            assert float(line["rank_signal"]) == pytest.approx(np.mean([int(row["rank_signal"]) for row in own]))
    tables = (out / "peers_tables.md").read_text()
    assert tables.count(f"| **{report.RECOMMENDED}** (ours) |") == 4


def test_ranks_follow_the_measured_optimum(capsys):
    # The ranking does not depend on the names.
    columns = dict.fromkeys((name for name, _, _ in report.COLUMNS), 1.0)
    rows = [
        {"pool": "p", "offer": "pool", "policy": policy, "seed": seed, **columns, "optimum": share + 0.01 * seed}
        for policy, share in (("Resolving", 50.0), ("a peer", 60.0))
        for seed in range(3)
    ]
    report.print_tables(rows)
    printed = capsys.readouterr().out
    assert " 1 a peer" in printed
    assert " 2 Resolving" in printed
    assert "level with the first (paired 95% interval): no policy" in printed


def test_interval_is_students():
    mean, half = report.mean_and_half([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / np.sqrt(3.0))


@pytest.mark.parametrize(
    "arguments", [["--seeds", "1"], ["--jobs", "0"], ["--rates", "nowhere.csv"], ["--one-size", "33"]]
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        main.parse(arguments)
    assert "error" in capsys.readouterr().err


def test_squared_advantages_are_those_of_a_bank_fed_the_run():
    pool = static_pool(12, 0.5, 0.6, seed=3)
    result = simulate(Uniform(pool.bank(), total_budget=12 * 20, n_rounds=10, max_rollouts=5), pool, 10, seed=4)
    bank, sums = BetaPosteriorBank(12), []
    for row, n, s in zip(result.group_prompt, result.group_rollouts, result.group_successes, strict=True):
        a, b = (np.array([side[row]]) for side in (bank.alpha, bank.beta))
        rewards = np.repeat([1.0, 0.0], [s, n - s])
        group, known = np.zeros(n, dtype=np.int64), Known(a, b, np.zeros(1))
        found = leave_one_out_advantages(group, rewards, known, baseline="posterior", scale="none")
        sums.append((found**2).sum())
        bank.update([row], [s], [n])
    squares = yardsticks.squared_advantages(result.group_prompt, result.group_rollouts, result.group_successes)
    np.testing.assert_allclose(squares, sums, rtol=1e-12)
    expected = 1e3 * np.sum(sums) / result.group_rollouts.sum()
    assert yardsticks.measure(result, pool)["signal"] == pytest.approx(expected)


def test_coverage_counts_prompts_of_the_last_quarter():
    pool = static_pool(10, seed=1)

    class First:  # everybody, then the first three only
        def __init__(self):
            self.bank, self.round = pool.bank(), -1

        def allocate(self):
            self.round += 1
            return np.where(np.arange(10) < (10 if self.round < 6 else 3), 2, 0)

        def update(self, prompts, successes, rollouts):
            self.bank.update(prompts, successes, rollouts)

    horizon = Uniform(pool.bank(), total_budget=160, n_rounds=8, max_rollouts=2).horizon
    result = simulate(First(), pool, 8, horizon=horizon)
    assert yardsticks.measure(result, pool)["coverage"] == pytest.approx(30.0)


def test_a_log_of_a_run_is_smoothed_over_its_visits(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "VISITS", 11)
    rng = np.random.default_rng(5)
    lengths = {"a": 13, "b": 11, "c": 9}
    won = {name: rng.integers(0, 9, size) for name, size in lengths.items()}
    lines = [f"{name},{visit},8,{won[name][visit]}" for name, size in lengths.items() for visit in range(size)]
    file = tmp_path / "run.csv"
    file.write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    game = pools.counted_game(file)
    assert (game.epochs, game.order) == (pools.RUN_EPOCHS, 0)
    pool = game.make(seed=7)
    assert (pool.path, list(pool.prompt_ids), pool.rates.shape) == ("linear", ["a", "b"], (11, 2))
    for column, name in enumerate("ab"):
        own = [won[name][0]] * 2 + list(won[name][:11]) + [won[name][10]] * 2
        mean = [np.mean(own[k : k + 5]) / 8 for k in range(11)]
        np.testing.assert_allclose(pool.rates[:, column], mean)


@pytest.mark.parametrize("epochs", [[2, 1], [12, 12]])
def test_other_files_are_stages(tmp_path, epochs):
    file = tmp_path / "stages.csv"
    lines = [f"{name},{k},8,{k % 3}" for name, own in zip("ab", epochs, strict=True) for k in range(own)]
    file.write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    game = pools.counted_game(file)
    assert game.epochs == pools.EPOCHS
    assert game.make(seed=1).rates.tolist() == load_counts(file).rates.tolist()


def test_the_real_run():
    file = DATA / "grpo-run-math-1.5b.csv"
    if not file.is_file():
        pytest.skip("the folder shared/data is not here")
    game = pools.counted_game(file)
    pool = game.make(seed=0)
    assert (pool.n_prompts, len(pool.rates), pool.path, game.epochs) == (605, 44, "linear", 16)
    first, last = pool.at(0, 128).mean(), pool.at(127, 128).mean()
    assert 0.3 < first < 0.4 < last < 0.5


def test_roster_of_the_package():
    run = {"total_budget": 64 * 64, "n_rounds": 64, "max_rollouts": 32}
    for offer in ("pool", "batch"):
        built = {name: build(BetaPosteriorBank(64)) for name, build in main.policies(run, offer, None).items()}
        fitted, waves = built[report.RECOMMENDED], built["Resolving, two waves"]
        assert (fitted.min_rollouts, waves.min_rollouts) == ((8, 2) if offer == "pool" else (2, 2))
        assert [policy._fit_every for policy in (built["Resolving"], fitted, waves)] == [None, 8, 8]
        assert (built["training_allocator"].min_rollouts, built["training_allocator"].horizon.max_rollouts) == (1, 32)
