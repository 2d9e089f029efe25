"""The comparison's command line: its tables, files and pictures, and that it ranks by what was measured."""

import csv
from functools import partial

import numpy as np
import pytest

from cero_alloc.simulation import drifting_pool, static_pool
from studies.peers import main, report


def read(file):
    with file.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def small_pools(monkeypatch):
    pools = {"even": partial(static_pool, 40, 0.5, 0.6), "moving": partial(drifting_pool, 40, 0.5, 0.6, drift=2.0)}
    monkeypatch.setattr(main, "POOLS", pools)
    monkeypatch.setattr(main, "EPOCHS", 3)


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
        f"{q}_{offer}.png" for q in questions for offer in ("pool", "batch")
    }
    rows, summary = read(out / "peers.csv"), read(out / "peers_summary.csv")
    assert {row["pool"] for row in rows} == {"even", "moving", "counted"}
    run = {"total_budget": 1, "n_rounds": 1, "max_rollouts": 32}
    for offer, schedules in (("pool", {"preset", "random-matched"}), ("batch", {"preset"})):
        assert {row["policy"] for row in rows if row["offer"] == offer} == {
            *main.policies(run, offer, None),
            *schedules,
        }
    for row in rows:
        assert float(row["unspent"]) >= -1e-9  # no policy spends more than the budget
        assert 0.0 <= float(row["optimum"]) <= 100.0 + 1e-9
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
        if row["policy"] == "uniform":
            assert float(row["vs_uniform"]) == 0.0
    for offer in ("pool", "batch"):
        for pool in ("even", "moving", "counted"):
            game = [row for row in summary if (row["offer"], row["pool"]) == (offer, pool)]
            assert [int(row["rank"]) for row in game] == list(range(1, len(game) + 1))
            shares = [float(row["optimum"]) for row in game]
            assert shares == sorted(shares, reverse=True)


def test_ranks_follow_the_measured_optimum(capsys):
    # The ranking does not depend on the names.
    columns = {name: 1.0 for name, _, _ in report.COLUMNS}
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
