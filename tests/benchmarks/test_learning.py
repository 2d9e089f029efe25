"""The learning benchmark without torch: protocol, roster, account of the rollouts, statistics and tasks."""

import csv
import json
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from studies.learning import contrast, main, worlds
from studies.learning.dealing import Dealing, Run
from studies.learning.pauses import PausedError
from studies.learning.policies import ALL, CONTENDERS, MAIN, SCHEMES, SETTINGS, Plan
from studies.learning.report import print_ratios
from studies.learning.statistics import area, at_rate, pooled, rollouts_ratio, summarise, trained
from studies.learning.study import WORKERS, Store, Study, play, run_study, runs_of, tune
from studies.learning.tasks import STOP, SYMBOLS, TASKS, encode
from studies.learning.worlds import TUNING_SEED, loglinear

SIZES = {"N_PROMPTS": 96, "N_ROUNDS": 15, "ROLLOUTS": 64}
TOTAL = SIZES["N_ROUNDS"] * SIZES["ROLLOUTS"]


def read(file):
    with file.open() as handle:
        return list(csv.DictReader(handle))


def records_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def by_run(records):
    return {(tuple(r["cell"]), r["policy"], r["learning_rate"], r["seed"]): r for r in records}


@pytest.fixture(scope="module", autouse=True)
def small():
    """The same code on a tenth of the prompts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(worlds, name, value)
        for name, value in WORKERS.items():
            patch.setenv(name, value)  # a pool of processes sets them: not for the other tests of this process
        yield


ARGUMENTS = ["--policy-model", "loglinear", "--quick", "--jobs", "1", "--out"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One whole study: its folder."""
    out = tmp_path_factory.mktemp("learning")
    assert main.main([*ARGUMENTS, str(out)]) == 0
    return out / "loglinear"


@pytest.mark.slow
def test_writes_everything(done):
    assert {file.name for file in done.iterdir()} == {
        "runs.jsonl", "runs.csv", "summary.csv", "schedules",
        "curves_common_sgd_plain.png", "curves_own_sgd_plain.png", "gains_common.png", "gains_own.png",
    }  # fmt: skip
    rows, summary = read(done / "runs.csv"), read(done / "summary.csv")
    assert {row["policy"] for row in rows} == {row["policy"] for row in summary} == set(CONTENDERS)
    assert {row["seed"] for row in rows} == {"0", "1"}  # no tuning seed is reported
    for row in summary:
        if row["policy"] == "uniform":
            assert (float(row["gain"]), float(row["gain_half"]), float(row["area"])) == (0.0, 0.0, 0.0)
            assert [float(row[c]) for c in ("ratio", "ratio_low", "ratio_high")] == [1.0, 1.0, 1.0]
    final = {(r["cell"], r["policy"], float(r["learning_rate"]), r["seed"]): float(r["final"]) for r in rows}
    row = next(r for r in summary if r["policy"] == "VIP" and r["rate"] == "own")
    ours, base = (
        [final[row["cell"], name, rate, seed] for seed in "01"]
        for name, rate in (
            ("VIP", float(row["learning_rate"])),
            ("uniform", next(float(r["learning_rate"]) for r in summary
                             if (r["cell"], r["policy"], r["rate"]) == (row["cell"], "uniform", "own"))),
        )
    )  # fmt: skip
    assert float(row["final"]) == pytest.approx(np.mean(ours))
    assert float(row["gain"]) == pytest.approx(np.mean(ours) - np.mean(base))


@pytest.mark.slow
def test_a_finished_study_is_only_reported(done, monkeypatch, capsys):
    before = (done / "runs.jsonl").read_bytes()
    tables = (done / "summary.csv").read_bytes()
    monkeypatch.setattr(worlds, "simulate_learning", None)  # training would fail
    assert main.main([*ARGUMENTS, str(done.parent)]) == 0
    assert (done / "runs.jsonl").read_bytes() == before
    assert (done / "summary.csv").read_bytes() == tables
    printed = capsys.readouterr().out
    for words in (
        "unsolved / 50 / sgd / plain; common learning rate; 2 pairs",
        "hard / 50 / sgd / plain; own learning rate; 2 pairs",
        "POOLED hard / sgd / plain; own learning rate; 1 cells",
        "learning rates chosen on the tuning seeds",
        "clairvoyant",
    ):
        assert words in printed


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 200])
def test_a_stopped_study_resumes(done, tmp_path, kept):
    whole = (done / "runs.jsonl").read_text().splitlines(keepends=True)
    if kept:
        shutil.copytree(done / "schedules", tmp_path / "schedules")
    (tmp_path / "runs.jsonl").write_text("".join(whole[:kept]) + whole[kept][: len(whole[kept]) // 2])
    if not kept:  # the file is repaired even if nothing in it is whole
        store = Store(tmp_path / "runs.jsonl")
        assert store.records == {}
        assert (tmp_path / "runs.jsonl").read_text() == ""
        return
    records, chosen = run_study(loglinear(2, tmp_path, quick=True), tmp_path, 1)
    expected, chosen_at_once = run_study(loglinear(2, done, quick=True), done, 1)
    assert chosen == chosen_at_once
    assert by_run(json.loads(json.dumps(records))) == by_run(expected)
    assert (tmp_path / "runs.jsonl").read_text().splitlines(keepends=True)[:kept] == whole[:kept]
    assert by_run(records_of(tmp_path / "runs.jsonl")) == by_run(map(json.loads, whole))


@pytest.mark.slow
def test_a_complete_store_is_not_rewritten(done, monkeypatch):
    before = (done / "runs.jsonl").read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", None)  # opened for writing, it would be empty for a moment
    assert len(Store(done / "runs.jsonl").records) == before.count(b"\n")
    assert (done / "runs.jsonl").read_bytes() == before


@pytest.mark.slow
def test_equal_rollouts(done):
    records = records_of(done / "runs.jsonl")
    assert {record["policy"] for record in records} == set(CONTENDERS)
    for record in records:
        assert record["spent"] == record["rollouts"][-1] <= TOTAL
        if CONTENDERS[record["policy"]].exact:
            assert record["spent"] == TOTAL, record["policy"]
            assert np.array_equal(record["rollouts"], np.arange(0, TOTAL + 1, worlds.KEPT * SIZES["ROLLOUTS"]))
        assert len(record["held_out"]) == len(record["rollouts"])
    spent = {r["policy"]: r["spent"] for r in records if not CONTENDERS[r["policy"]].exact}
    assert min(spent.values()) > 0.8 * TOTAL


@pytest.mark.slow
def test_random_matched_plays_the_same_counts_elsewhere(done):
    found = by_run(records_of(done / "runs.jsonl"))
    matched = [(key, record) for key, record in found.items() if key[1] == "random-matched"]
    assert len(matched) == 4
    differ = 0
    for (cell, _, rate, seed), record in matched:
        original = found[cell, "FenchelDual", rate, seed]
        assert record["rollouts"] == original["rollouts"]
        assert (record["top"], record["unseen"]) == (original["top"], original["unseen"])
        differ += record["held_out"] != original["held_out"]
    assert differ


def test_random_matched_permutes_the_prompts_once():
    shape, schedules = (24, 12, 64), []
    run = Run(("a", "b"), "FenchelDual", 1.0, 3)
    for name in ("FenchelDual", "random-matched"):
        dealing = Dealing(replace(run, policy=name), *shape, np.array(schedules[0]) if schedules else None)
        play_rounds(dealing, 12)
        schedules.append(dealing.counts)
    ours, theirs = np.array(schedules)
    assert not np.array_equal(ours, theirs)
    assert sorted(map(tuple, ours.T)) == sorted(map(tuple, theirs.T))


def play_rounds(dealing, rounds, rate=0.4):
    """Play rounds with rewards drawn at one rate; return the rows and rewards of the last."""
    rng = np.random.default_rng(0)
    for k in range(rounds):
        wave = dealing.open(k)
        rows, right = [wave[0][:0]], [np.zeros(0, dtype=bool)]
        while wave[0].size:
            each = np.repeat(*wave)
            rows.append(each)
            right.append(rng.random(each.size) < rate)
            wave = dealing.close(*wave, right[-1])
        last = np.concatenate(rows), np.concatenate(right)
        dealing.weights(*last)
    return last


@pytest.mark.parametrize("name", [*CONTENDERS, *(f"setting {name}" for name in SETTINGS)])
def test_every_policy_deals(name, monkeypatch):
    contender = SETTINGS[name.removeprefix("setting ")] if name not in CONTENDERS else CONTENDERS[name]
    monkeypatch.setitem(ALL, name, contender)
    schedule = np.tile(np.repeat([4, 0], [16, 8]), (24, 1)) if contender.matches else None
    dealing = Dealing(Run(("a", "b"), name, 1.0, 1), 24, 24, 64, schedule)
    dealing.tell(np.linspace(0.0, 1.0, 24))
    play_rounds(dealing, 3)
    totals = [int(counts.sum()) for counts in dealing.counts]
    if contender.exact:
        assert totals == [64] * 3
    else:
        assert sum(totals) <= 24 * 64
        assert max(totals) > 0
    assert dealing.spent == sum(totals) == dealing.exposure.sum()
    assert dealing.figures()["spent"] == dealing.spent
    if contender.mode == "re-deal":
        for counts, batch in zip(dealing.counts, Plan(24, 24, 64, 1).batches, strict=False):
            assert set(np.flatnonzero(counts)) <= set(batch.tolist())


def test_the_clairvoyant_prefers_uncertain_prompts():
    dealing = Dealing(Run(("a", "b"), "clairvoyant", 1.0, 1), 24, 24, 64)
    dealing.tell(np.repeat([0.0, 0.5, 1.0], 8))
    play_rounds(dealing, 3)
    assert np.array_equal(dealing.exposure, np.repeat([0, 24, 0], 8))


def slow_objective(rows, right, exposure, weighting, mixed_only):
    """Weigh one rollout after the other."""
    shares, advantages, mixed = [], [], []
    for row, won in zip(rows, right, strict=True):
        group = [float(r) for other, r in zip(rows, right, strict=True) if other == row]
        mean = sum(group) / len(group)
        mixed.append(0.0 < mean < 1.0)
        deviation = (sum((r - mean) ** 2 for r in group) / (len(group) - 1)) ** 0.5 if mixed[-1] else 0.0
        advantages.append((won - mean) / (deviation + 1e-4))
        share = {"rollout": 1.0, "prompt": 1.0 / len(group)}.get(weighting, 1.0 / len(group) / max(1, exposure[row]))
        shares.append(share)
    total = sum(mixed) if mixed_only else len(rows)
    even = len(rows) / sum(shares)
    return [a * s * even / total if any(mixed) else 0.0 for a, s in zip(advantages, shares, strict=True)]


DEALINGS = {name: Dealing(Run(("a", "b"), name, 1.0, 0), 8, 8, 64) for name in ("uniform", "DAPO")}


@given(
    rollouts=st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=40),
    exposure=st.lists(st.integers(0, 500), min_size=8, max_size=8),
    weighting=st.sampled_from(["rollout", "prompt", "importance"]),
    name=st.sampled_from(["uniform", "DAPO"]),
)
def test_objective_is_the_loop_over_rollouts(rollouts, exposure, weighting, name):
    dealing = DEALINGS[name]
    dealing.exposure = np.array(exposure)
    rows, right = (np.array(column) for column in zip(*rollouts, strict=True))
    expected = slow_objective(rows, right, exposure, weighting, CONTENDERS[name].mixed_only)
    np.testing.assert_allclose(dealing.objective(rows, right, weighting), expected, rtol=1e-12, atol=1e-15)


def test_importance_divides_by_all_that_a_prompt_has_been_dealt():
    dealing = Dealing(Run(("a", "b"), "uniform", 1.0, 0), 24, 8, 64)
    dealing.contender = replace(dealing.contender, weighting="importance")
    right = np.tile([True, False], 5)
    dealing.weights(np.repeat([0, 1], [6, 2]), right[:8])
    last = dealing.weights(np.repeat([0, 1, 2], [2, 6, 2]), right)
    assert dealing.exposure[:4].tolist() == [8, 8, 2, 0]
    per_prompt = np.add.reduceat(np.abs(last), [0, 2, 8])
    advantage = 0.5 / np.sqrt([0.5, 0.3, 0.5])  # 1/2 over the deviation of each group
    np.testing.assert_allclose(per_prompt / advantage / (per_prompt[0] / advantage[0]), [1.0, 1.0, 4.0], rtol=1e-3)


def test_a_round_without_rollouts_has_no_weights():
    dealing = Dealing(Run(("a", "b"), "FenchelDual", 1.0, 0), 24, 8, 64)
    nothing = np.zeros(0, dtype=np.int64)
    assert [part.size for part in dealing.close(nothing, nothing, nothing.astype(bool))] == [0, 0]
    assert dealing.weights(nothing, nothing.astype(bool)).shape == (0,)
    assert (dealing.spent, dealing.mixed) == (0, [0.0])


def study_of(cells=(("a", "x"), ("b", "x")), **changes):
    """A study without anything to train."""

    def execute(runs):
        raise AssertionError(runs)

    return Study(**{
        "cells": cells, "policies": ("uniform", "greedy"), "rates": {("all",): (0.1, 0.2, 0.4)}, "common": {},
        "tuning_cells": cells, "group": lambda cell: ("all",), "seeds": (0, 1), "tuning_seeds": (10, 11), "chunk": 3,
        "execute": execute, **changes,
    })  # fmt: skip


def record(final, **changes):
    curve = {"rollouts": [0, 10], "held_out": [0.0, final], "cell": ["a", "x"], "policy": "uniform", "seed": 0}
    rest = {"learning_rate": 0.1, "trained": 0.5, "mixed": 0.1, "top": 0.2, "unseen": 0.0, "spent": 10}
    return {**curve, **rest, **changes}


def test_rates_are_chosen_on_tuning_seeds_alone():
    study = study_of()
    best = {"uniform": 0.2, "greedy": 0.4}
    records = {}
    for cell in study.cells:
        for name, favourite in best.items():
            for rate in study.rates["all",]:
                for seed in (0, 1, 10, 11):
                    lucky = rate == 0.1 and seed in (0, 1)  # fresh seeds favour another
                    final = 0.9 if lucky else 0.5 + 0.1 * (rate == favourite) + 0.3 * (seed == 10 and rate != favourite)
                    final -= 0.35 * (seed == 11 and rate != favourite)  # one tuning seed alone misleads
                    records[Run(cell, name, rate, seed)] = record(final)
    chosen = tune(study, SimpleNamespace(records=records), 1, list(best))
    assert chosen == {(name, ("all",)): rate for name, rate in best.items()}
    runs = list(runs_of(study, chosen, study.policies))
    assert {(run.policy, run.learning_rate) for run in runs} == {("uniform", 0.2), ("greedy", 0.2), ("greedy", 0.4)}
    assert {run.seed for run in runs} == {0, 1}
    assert len(runs) == len(set(runs)) == 2 * 3 * 2


def test_rates_are_widened_until_the_best_lies_at_no_end(tmp_path):
    peaks = {"uniform": 0.2, "greedy": 1.6}

    def execute(runs):
        return [
            record(-abs(np.log(run.learning_rate / peaks[run.policy])), cell=run.cell, policy=run.policy, seed=run.seed,
                   learning_rate=run.learning_rate)
            for run in runs
        ]  # fmt: skip

    store = Store(tmp_path / "runs.jsonl")
    chosen = tune(study_of(execute=execute, widen=2.0), store, 1, list(peaks))
    assert chosen == {(name, ("all",)): rate for name, rate in peaks.items()}
    tried = {name: {run.learning_rate for run in store.records if run.policy == name} for name in peaks}
    assert tried == {"uniform": {0.1, 0.2, 0.4}, "greedy": {0.1, 0.2, 0.4, 0.8, 1.6, 3.2}}


def test_policies_may_have_cells_of_their_own_and_borrow_a_rate(tmp_path):
    def execute(runs):
        return [
            record(-abs(run.learning_rate - 0.2), cell=run.cell, policy=run.policy, seed=run.seed,
                   learning_rate=run.learning_rate)
            for run in runs
        ]  # fmt: skip

    study = study_of(
        policies=("uniform", "greedy", "MoPPS"), execute=execute, kinds=("own",), only={"MoPPS": (("b", "x"),)},
        borrowed={"MoPPS": "greedy"},
    )  # fmt: skip
    records, chosen = run_study(study, tmp_path, 1)
    assert chosen["MoPPS", ("all",)] == chosen["greedy", ("all",)] == 0.2
    assert {tuple(r["cell"]) for r in records if r["policy"] == "MoPPS"} == {("b", "x")}
    assert len(records) == 2 * 2 * 2 + 2
    store = Store(tmp_path / "runs.jsonl")
    assert not any(run.policy == "MoPPS" and run.seed >= 10 for run in store.records)  # it was not tuned


def test_every_scheme_of_the_grid_takes_a_rate_of_its_size_and_choice():
    study = worlds.single(8, print, 5, grid=True, quick=False)
    assert set(study.policies) == {"uniform", *SCHEMES}
    assert set(study.borrowed) == set(SCHEMES) - set(MAIN)
    for name, owner in study.borrowed.items():
        assert owner in ("uniform", *MAIN)
        assert name.endswith(", uniform") == (owner in ("uniform", MAIN[0]))
    assert study.group(("addition, large pool", "quarter")) == ("addition", "quarter")
    assert worlds.single(8, print, 5, grid=False, quick=False).policies == ("uniform", *MAIN)


def games_of(**ends):
    """Curves from 0.2 to these ends, a run per seed, per scheme."""
    names = dict(zip(("grpo", "groups", "unchosen", "chosen"), contrast.LABELS, strict=True))
    return {
        names[key]: [record(0.0, rollouts=[0, 10], held_out=[0.2, end], trained=end) for end in found]
        for key, found in ends.items()
    }


def test_the_two_by_two_gives_neither_factor_the_credit_of_the_other():
    games = games_of(grpo=(0.30, 0.32), groups=(0.31, 0.35), unchosen=(0.34, 0.36), chosen=(0.40, 0.40))
    found = contrast.two_by_two(games)
    assert found["choice, groups"] == pytest.approx([0.01, 0.03])
    assert found["choice, single"] == pytest.approx([0.06, 0.04])
    assert found["single, uniform"] == pytest.approx([0.04, 0.04])
    assert found["single, chosen"] == pytest.approx([0.09, 0.05])
    assert found["interaction"] == pytest.approx([0.05, 0.01])


def test_gains_are_compared_from_the_start():
    games = list(games_of(grpo=(0.30, 0.40), chosen=(0.50, 0.50)).values())
    ratio, low, high = contrast.gains_ratio(games[1], games[0])
    assert ratio == pytest.approx(2.0)
    assert (low, high) == pytest.approx((1.5, 3.0))  # both draws of the second pair, both of the first
    flat = list(games_of(grpo=(0.2, 0.2), chosen=(0.5, 0.5)).values())
    assert np.isnan(contrast.gains_ratio(flat[1], flat[0])).all()


def test_the_contrast_pairs_by_seed():
    games = games_of(grpo=(0.30, 0.40), chosen=(0.50, 0.39))
    for runs in games.values():
        runs[1]["seed"] = 1
    (row,) = contrast.contrast(("a", "hard"), games)
    assert (row["seeds"], row["above"]) == (2, 1)
    assert row["more"] == pytest.approx(0.095)
    games[contrast.GRPO][1]["seed"] = 2
    with pytest.raises(ValueError, match="a / hard: 1, posterior, re-solving and GRPO must have the same seeds"):
        contrast.contrast(("a", "hard"), games)


def test_goals_count_tasks(capsys):
    row = {"ratio": 0.4, "ratio_high": 0.9, "gain": 1.6, "more": -0.02, "more_half": 0.01}
    cells = [
        "a / hard",
        "b / hard",
        "a / quarter",
        "addition, large pool / quarter",
        "a / nearly solved",
        "b / nearly solved",
    ]
    changes = [{}, {"ratio_high": 1.0}, {"gain": 1.4}, {}, {}, {"more_half": 0.03}]
    contrast.print_goals([{**row, "cell": cell, **change} for cell, change in zip(cells, changes, strict=True)])
    reached = [line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines() if "tasks" in line]
    assert reached == ["1 of 2 tasks", "2 of 2 tasks", "1 of 1 tasks", "0 of 1 tasks", "1 of 2 tasks"]


def test_schemes_of_single_rollouts_differ_in_their_prompts_alone():
    banks = [ALL[name].build(Plan(64, 40, 16, 0)).bank for name in SCHEMES if name.startswith("1, posterior")]
    assert len(banks) == 7
    assert len({(bank.forgetting, bank.drift, bank.trend, bank.evidence.history) for bank in banks}) == 1


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_scores_every_rollout(name):
    """A round of each: exact totals where they are promised, groups of one size, advantages that follow the rewards."""
    run = Run(("a", "b"), name, 1.0, 0)
    dealing, rng = Dealing(run, 48, 24, 16), np.random.default_rng(0)
    dealing.tell(np.linspace(0.0, 1.0, 48))
    size = int(name.partition(",")[0])
    for k in range(24):
        rows, n = dealing.open(k)
        assert set(n.tolist()) <= {size}
        right = rng.random(int(n.sum())) < np.repeat(rows, n) / 48
        assert [part.size for part in dealing.close(rows, n, right)] == [0, 0]
        weights = dealing.weights(np.repeat(rows, n), right)
        assert weights.shape == right.shape
        if ", group" not in name and ", batch" not in name:
            assert (weights[right] > 0.0).all()
            assert (weights[~right] < 0.0).all()
    if "Algorithm 1" not in name:
        assert dealing.spent == 24 * 16


@pytest.mark.parametrize("name", ALL)
def test_a_dealing_goes_on_from_its_state(name):
    """Half of the rounds, a copy by way of a file, and the rest by both: they deal and weigh alike."""
    schedule = np.tile(np.repeat([4, 0], [4, 44]), (12, 1))
    shape = 48, 12, 32, *([schedule] if ALL[name].matches else [])
    run, rng = Run(("a", "b"), name, 1.0, 0), np.random.default_rng(0)
    first, second = Dealing(run, *shape), Dealing(run, *shape)

    def play_round(dealing, k, uniforms):
        asked, won = [], []
        rows, n = dealing.open(k)
        dealing.tell(np.linspace(0.0, 1.0, 48))
        while rows.size:
            each = np.repeat(rows, n)
            right = uniforms[sum(map(len, asked)) :][: each.size] < each / 48
            asked.append(each)
            won.append(right)
            rows, n = dealing.close(rows, n, right)
        each = np.concatenate([*asked, np.zeros(0, dtype=np.int64)])
        return each.tolist(), dealing.weights(each, np.concatenate([*won, np.zeros(0, dtype=bool)])).tolist()

    for k in range(12):
        uniforms = rng.random(1000)
        found = play_round(first, k, uniforms)
        if k >= 6:
            assert play_round(second, k, uniforms) == found
        if k == 5:
            second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert second.figures() == first.figures()
    assert all(np.array_equal(a, b) for a, b in zip(first.counts, second.counts, strict=True))


def test_runs_that_were_stopped_are_told(tmp_path):
    """What is done is kept, and the rest is run by the next call."""
    fewer = [1, 0, 9, 9]  # runs that each call finishes

    def execute(runs):
        return [record(0.5, cell=one.cell, policy=one.policy, seed=one.seed) for one in runs[: fewer.pop(0)]]

    study = study_of((("a", "x"),), rates={}, common={("all",): 0.1}, policies=("uniform",), chunk=1, execute=execute)
    with pytest.raises(PausedError, match="comparing: 1 of 2 runs are left"):
        run_study(study, tmp_path, 1)
    assert len(run_study(study, tmp_path, 1)[0]) == 2


def test_tuning_seeds_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="seeds must not be among tuning_seeds"):
        run_study(study_of(tuning_seeds=(1, 2)), tmp_path, 1)
    assert not list(tmp_path.iterdir())
    for seeds in (2, 20):
        study = loglinear(seeds, tmp_path, quick=False)
        assert (len(study.seeds), min(study.tuning_seeds)) == (seeds, TUNING_SEED)


def test_chunks_share_what_is_trained(tmp_path):
    played = []

    def execute(runs):
        played.append(runs)
        return [record(0.5, cell=run.cell, policy=run.policy, seed=run.seed) for run in runs]

    runs = [Run((cell, "x"), name, 0.1, seed) for cell in "ab" for name in ("uniform", "DAPO") for seed in range(5)]
    store = Store(tmp_path / "sub" / "runs.jsonl")
    for _ in range(2):  # the second time nothing is missing
        play(study_of(execute=execute), store, 1, "", [*runs, *runs])
        assert [len(chunk) for chunk in played] == [3, 2] * 4
        assert [run for chunk in played for run in chunk] == runs
    assert all(len({(run.cell, run.policy == "DAPO") for run in chunk}) == 1 for chunk in played)
    assert set(Store(tmp_path / "sub" / "runs.jsonl").records) == set(runs)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--grid"],
        ["--settings", "--quick"],
        ["--seeds", "1"],
        ["--seeds", "0"],
        ["--jobs", "0"],
        ["--side-by-side", "0"],
        ["--policy-model", "cubic"],
    ],
)
def test_command_line_refuses(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["--policy-model", "loglinear", "--out", str(tmp_path), *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def curves_of(*heights, x=(0, 100, 200)):
    return [{"rollouts": list(x), "held_out": list(y)} for y in heights]


def test_rollouts_ratio_on_known_curves():
    base = curves_of((0.0, 0.2, 0.4), (0.1, 0.3, 0.5))
    assert rollouts_ratio(base, base) == (1.0, 1.0, 1.0)
    twice = curves_of((0.0, 0.4, 0.6), (0.1, 0.5, 0.7))
    assert rollouts_ratio(twice, base) == pytest.approx((0.5, 0.5, 0.5))
    between = curves_of((0.0, 0.3, 0.5), (0.1, 0.4, 0.6))  # 0.05, 0.35, 0.55 on average: 0.45 half-way
    assert rollouts_ratio(between, base) == pytest.approx((0.75, 0.75, 0.75))
    never = curves_of((0.0, 0.1, 0.2), (0.1, 0.2, 0.3))
    assert rollouts_ratio(never, base) == (np.inf, np.inf, np.inf)
    level = curves_of((0.3, 0.5, 0.3), (0.1, 0.0, 0.1))
    assert np.isnan(rollouts_ratio(base, level)).all()
    fell = curves_of((0.0, 0.45, 0.1), (0.1, 0.55, 0.1))  # the first time counts: 0.45 of (0.05, 0.5) by 8/9 of 100
    assert rollouts_ratio(fell, base)[0] == pytest.approx(4 / 9)


def test_rollouts_ratio_counts_rollouts_rather_than_points():
    base = curves_of((0.0, 0.2, 0.4), (0.0, 0.2, 0.4))
    early = curves_of((0.0, 0.4, 0.4), (0.0, 0.4, 0.4), x=(0, 50, 120))
    assert rollouts_ratio(early, base)[0] == pytest.approx(0.5)  # its curve is read on uniform's points: 0, 100, 200
    fine = curves_of(*[np.linspace(0.0, 0.4, 9)] * 2, x=np.linspace(0, 200, 9))
    assert rollouts_ratio(early, fine)[0] == pytest.approx(0.25)


def test_the_interval_of_a_ratio_holds_the_resampled_pairs():
    base = curves_of((0.0, 0.2, 0.4), (0.0, 0.2, 0.4))
    mixed = curves_of((0.0, 0.4, 0.4), (0.0, 0.2, 0.4))  # both first, both second, or one of each
    point, low, high = rollouts_ratio(mixed, base)
    assert (low, high) == pytest.approx((0.5, 1.0))
    assert low <= point <= high


def test_area_is_the_mean_height_over_rollouts():
    assert area({"rollouts": [0, 100, 400], "held_out": [0.2, 0.4, 0.4]}) == pytest.approx((0.3 + 3 * 0.4) / 4)
    assert area({"rollouts": [0, 7], "held_out": [0.3, 0.3]}) == pytest.approx(0.3)


def test_summaries_and_pools_meet_scipy():
    rng = np.random.default_rng(0)
    cells = [("a", "x"), ("b", "x")]
    study = study_of(seeds=tuple(range(5)))
    records = [
        record(float(rng.random()), cell=list(cell), policy=name, seed=seed, learning_rate=rate)
        for cell in cells for name in study.policies for rate in (0.1, 0.2) for seed in reversed(range(5))
    ]  # fmt: skip
    chosen = {("uniform", ("all",)): 0.1, ("greedy", ("all",)): 0.2}
    common, own = (at_rate(study, records, chosen, kind) for kind in ("common", "own"))
    assert {r["learning_rate"] for r in common["a", "x"]["greedy"]} == {0.1}
    assert {r["learning_rate"] for r in own["a", "x"]["greedy"]} == {0.2}
    final = {}
    for cell in cells:
        for name, runs in own[cell].items():
            assert [r["seed"] for r in runs] == list(range(5))
            final[cell, name] = np.array([r["held_out"][-1] for r in runs])
    rows = summarise(own["a", "x"])
    assert [row["final"] for row in rows] == sorted((row["final"] for row in rows), reverse=True)
    row = next(row for row in rows if row["policy"] == "greedy")
    ours, base = final[cells[0], "greedy"], final[cells[0], "uniform"]
    for column, values in (("final", ours), ("gain", ours - base), ("area", (ours - base) / 2.0)):
        interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        low, high = row[column] - row[f"{column}_half"], row[column] + row[f"{column}_half"]
        assert (low, high) == pytest.approx(tuple(interval))
    differences = np.concatenate([final[cell, "greedy"] - final[cell, "uniform"] for cell in cells])
    mean, half, wins, pairs = pooled(own, cells)["greedy"]
    assert (mean - half, mean + half) == pytest.approx(
        tuple(stats.ttest_1samp(differences, 0.0).confidence_interval(0.95))
    )
    assert (wins, pairs) == (int((differences > 0).sum()), 10)
    assert pooled(own, cells)["uniform"][:3] == (0.0, 0.0, 0)
    trained_on = {
        name: [r | {"trained": 0.1 * r["seed"] * (name == "greedy")} for r in runs]
        for name, runs in own[cells[0]].items()
    }
    assert pooled({cells[0]: trained_on}, cells[:1], trained)["greedy"][0] == pytest.approx(0.2)


def test_ratios_are_summed_up_by_geometric_mean_and_worst(capsys):
    found = {"even": (0.5, 2.0), "never": (1.0, np.inf), "nothing to reach": (np.nan, np.nan), "half": (0.5, np.nan)}
    rows = [
        {"rate": "common", "cell": cell, "policy": name, "ratio": ratios[i]}
        for i, cell in enumerate(("a / x", "b / y"))
        for name, ratios in found.items()
    ]
    print_ratios([*rows, {**rows[0], "rate": "own", "ratio": 9.0}], "common")
    lines = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()[4:]}
    assert lines["even"] == ["0.50", "2.00", "1.00", "2.00"]
    assert lines["never"] == ["1.00", "never", "never", "never"]
    assert lines["nothing to reach"] == ["none"] * 4
    assert lines["half"] == ["0.50", "none", "0.50", "0.50"]


def text_of(tokens):
    return "".join(SYMBOLS[token] for token in tokens)


def solve(question):
    if question.endswith("+>="):
        digits = list(map(int, question.removesuffix("+>=")))
        return "".join(str(sum(digits[: i + 1]) % 10) for i in range(len(digits)))
    if "+" in question:
        return str(sum(map(int, question.removesuffix("=").split("+"))))
    if "%" in question:
        number, modulus = map(int, question.removesuffix("=").split("%"))
        return str(number - modulus * (number // modulus))
    digits = question.removesuffix(">=")
    return "".join(digit * digits.count(digit) for digit in "0123456789")


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_right_and_prompts_distinct(name):
    task = TASKS[name]
    prompts, answers = task.draw(3000, np.random.default_rng(1))
    assert (prompts.shape, answers.shape) == ((3000, task.width), (3000, task.length))
    questions = [text_of(row) for row in prompts]
    assert len(set(questions)) == 3000
    for question, row in zip(questions, answers, strict=True):
        answer, _, blanks = text_of(row).partition(".")
        assert answer == solve(question.lstrip(" "))
        assert not blanks.strip(" ")
        assert " " not in question.lstrip(" ")
        assert np.count_nonzero(row == STOP) == 1
    assert max(len(question.lstrip(" ")) for question in questions) == task.width  # no wider than need be
    again, _ = task.draw(3000, np.random.default_rng(1))
    assert np.array_equal(prompts, again)


@given(st.text(SYMBOLS, max_size=30))
def test_tokens_read_back(text):
    assert text_of(encode(text)) == text


def test_symbols_are_distinct():
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    with pytest.raises(ValueError, match="not found"):
        encode("1-2")
