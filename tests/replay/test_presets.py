"""Layouts of trainers and tools: their folders, with all that lies in them, give exact figures."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from cero_alloc.__main__ import main
from cero_alloc.replay import read_log
from cero_alloc.replay._presets import PRESETS, Layout

LOGS = Path(__file__).resolve().parents[3] / "shared" / "cases" / "logs"
needs_logs = pytest.mark.skipif(not LOGS.is_dir(), reason=f"the folder of small logs is absent: {LOGS}")

# Rewards of each step's prompts in a training run, and of each task in an evaluation.
RUN = {
    (1, 0): [1, 1, 1, 1],
    (1, 1): [0, 0, 0, 0],
    (1, 2): [1, 0, 0, 1],
    (2, 0): [1, 1, 0, 1],
    (2, 1): [0, 0, 0, 0],
    (2, 3): [0, 1, 0, 0],
}
ROWS = [(step, prompt, reward) for (step, prompt), rewards in RUN.items() for reward in rewards]
TRAINED = {"prompts": 4, "steps": 2, "groups": 6, "dead": 3, "rollouts": 24, "mean": 10 / 24}
TASKS = {"add/0": [1, 1, 1], "add/1": [0, 0, 0], "mul/0": [1, 0, 1]}
EVALUATED = {"prompts": 3, "steps": 1, "groups": 3, "dead": 2, "rollouts": 9, "mean": 5 / 9}


def figures(log):
    return {
        "prompts": log.n_prompts,
        "steps": log.n_steps,
        "groups": log.trials.size,
        "dead": int(log.dead.sum()),
        "rollouts": log.n_rollouts,
        "mean": log.successes.sum() / log.n_rollouts,
    }


def put(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else "".join(json.dumps(line) + "\n" for line in content))
    return file


def of_step(step):
    return [(prompt, reward) for at, prompt, reward in ROWS if at == step]


def as_csv(rows):
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def verl(folder):
    for step in (1, 2):
        lines = [
            {"input": f"Q{p}", "output": f"text {i}", "gts": "7", "score": float(r), "step": step, "acc": r, "id": i}
            for i, (p, r) in enumerate(of_step(step))
        ]
        put(folder, f"{step}.jsonl", lines)
    return folder


def trl(folder):
    rows = [
        {"step": s, "prompt": f"Q{p}", "completion": f"text {i}", "exact": float(r), "source": "sums", "advantage": 0.5}
        for i, (s, p, r) in enumerate(ROWS)
    ]
    return put(folder, "completions.csv", as_csv(rows))


def openrlhf(folder):
    lines = [
        {"step": s, "prompts": [f"Q{p}"] * len(rewards), "labels": ["7"] * len(rewards), "rewards": rewards}
        for (s, p), rewards in RUN.items()
    ]
    return put(folder, "rewards.jsonl", lines)


def nemo_rl(folder):
    for step in (1, 2):
        lines = [
            {
                "content": [f"Q{p} text {i}"],
                "rewards": [float(r)],
                "input_lengths": [9],
                "advantages": [[0.1]],
                "idx": i,
            }
            for i, (p, r) in enumerate(of_step(step))
        ]
        put(folder, f"train_data_step{step}.jsonl", lines)
        put(folder, f"val_data_step{step}.jsonl", [{"content": ["Q9"], "rewards": [1.0], "idx": 0}])
    return folder


def open_instruct(folder):
    lines = [
        {
            "step": s,
            "sample_idx": i,
            "prompt_idx": p % 2,
            "prompt_tokens": [5, p],
            "response_tokens": [i],
            "reward": 10.0 * r,
            "advantage": 0.1,
            "dataset": "math",
        }
        for i, (s, p, r) in enumerate(ROWS)
    ]
    put(folder, "run_rollouts_000000.jsonl", lines[:10])  # a group goes on in the next file
    put(folder, "run_rollouts_000001.jsonl", lines[10:])
    put(folder, "run_metadata.jsonl", [{"run_name": "run", "model_name": "m"}])
    return folder


def tinker(folder):
    for step in (1, 2):
        prompts = [p for s, p in RUN if s == step]
        lines = [
            {
                "split": "train",
                "iteration": step,
                "group_idx": prompts.index(p),
                "traj_idx": i % 4,
                "tags": ["math"],
                "sampling_client_step": step,
                "total_reward": float(r),
                "final_reward": 0.0,
                "steps": [{"step_idx": 0, "reward": float(r), "ob_len": 5}],
            }
            for i, (p, r) in enumerate(of_step(step))
        ]
        place = f"iteration_{step:06d}"
        put(folder, f"{place}/train_rollout_summaries.jsonl", lines)
        put(folder, f"{place}/eval_rollout_summaries.jsonl", [line | {"split": "eval"} for line in lines[:3]])
        put(folder, f"{place}/train_logtree.json", json.dumps({"title": "RL", "children": []}))
    put(folder, "metrics.jsonl", [{"step": 1, "reward/mean": 0.4}])
    return folder


def episode(key, reward, **more):
    traces = [
        {"id": "t", "rewards": {"correct": {"score": reward, "weight": 1.0}, "format": {"score": 1.0, "weight": 0.0}}}
    ]
    return {
        "id": f"{key}",
        "env": {"id": "sums"},
        "task": {"type": "T", "key": key},
        "ok": True,
        "traces": traces,
    } | more


def prime_rl(folder):
    failed = {"id": "x", "env": {"id": "sums"}, "task": {"type": "T", "key": "q0"}, "ok": False, "traces": []}
    for step in (1, 2):
        stamp = {"group": {"id": f"g{step}"}, "run": {"type": "train", "work": {"type": "train", "step": step}}}
        lines = [episode(f"q{p}", r, **(stamp | {"group": {"id": f"g{step}-{p}"}})) for p, r in of_step(step)]
        put(folder, f"step_{step}/train/all/traces.jsonl", [failed | stamp, *lines])
        put(folder, f"step_{step}/train/effective/traces.jsonl", lines[:8])
        put(folder, f"step_{step}/eval/all/traces.jsonl", [episode("held out", 1.0, **stamp)])
    return folder


def prime_rl_before(folder):
    for step in (1, 2):
        lines = [{"example_id": p, "task": "sums", "reward": r, "advantage": 0.1} for p, r in of_step(step)]
        put(folder, f"step_{step}/train_rollouts.jsonl", lines)
    return folder


def roll(folder):
    for step in (1, 2):
        prompts, rewards = zip(*of_step(step), strict=True)
        columns = {
            "global_step": [step] * len(prompts),
            "id": [f"q{p}" for p in prompts],
            "prompt": [f"Q{p}" for p in prompts],
            "responses": [f"text {i}" for i, _ in enumerate(prompts)],
            "scores": list(map(float, rewards)),
        }
        put(folder, f"rollout_dump_data.step_{step}.jsonl", [columns])
    return folder


def wandb(folder):
    columns = ["step", "prompt", "completion", "len_penalty", "advantage"]
    data = [[str(s), f"Q{p}", f"text {i}", r, 0.1] for i, (s, p, r) in enumerate(ROWS)]
    content = {"_type": "table", "column_types": {}, "columns": columns, "data": data, "ncols": 5, "nrows": len(data)}
    put(folder, "completions.table.json", json.dumps(content))
    put(folder, "wandb-summary.json", json.dumps({"_step": 2, "reward": 0.4}))
    return folder


def verifiers(folder):
    lines = [
        {"example_id": i, "prompt": [{"role": "user", "content": key}], "reward": float(r), "metrics": {"exact": r}}
        for i, (key, rewards) in enumerate(TASKS.items()) for r in rewards
    ]  # fmt: skip
    put(folder, "results.jsonl", lines)
    put(folder, "metadata.json", json.dumps({"avg_reward": 0.5, "num_examples": 3}))
    return folder


def verifiers_now(folder):
    unscored = episode("add/0", 1.0) | {"traces": [{"id": "t", "rewards": {}}]}
    lines = [episode(key, r, run={"type": "eval", "id": "e"}) for key, rewards in TASKS.items() for r in rewards]
    put(folder, "traces.jsonl", [unscored, *lines])
    put(folder, "configs/eval.json", json.dumps({"model": "m"}))
    return folder


def samples_of(task):
    """Return samples as Inspect writes them: ids count from 1 in each task, an epoch is a repeat."""
    mine = [rewards for key, rewards in TASKS.items() if key.startswith(task)]
    return [
        {"id": i + 1, "epoch": epoch + 1, "input": "Q", "target": "7", "scores": {"match": {"value": "IC"[r], "answer": "7"}}}
        for i, rewards in enumerate(mine) for epoch, r in enumerate(rewards)
    ]  # fmt: skip


def inspect(folder):
    for task in ("add", "mul"):
        failed = {"id": 1, "epoch": 9, "input": "Q", "target": "7", "error": {"message": "no"}}
        log = {
            "version": 2,
            "status": "success",
            "eval": {"task": task, "model": "m"},
            "samples": [failed, *samples_of(task)],
        }
        put(folder, f"2025-01-05T12-00-00_{task}_x.json", json.dumps(log, indent=2 if task == "add" else None))
    return folder


def pack(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(content))


def inspect_zip(folder):
    whole = {"header.json": {"eval": {"task": "add"}}, "summaries.json": samples_of("add")}
    pack(folder / "add.eval", whole | {"samples/1_epoch_1.json": {"id": "not looked at"}})
    cut_off = {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples_of("mul")}
    pack(folder / "mul.eval", {"_journal/start.json": {"eval": {"task": "mul"}}} | cut_off)
    return folder


def lm_eval(folder):
    for seed in range(3):
        for task in ("add", "mul"):
            mine = [(key, rewards[seed]) for key, rewards in TASKS.items() if key.startswith(task)]
            lines = [
                {"doc_id": i, "target": "7", "filter": name, "metrics": ["exact_match"], "exact_match": r if i_f == 0 else 1.0}
                | {"doc_hash": f"h {key}", "resps": [["text"]]}
                for i_f, name in enumerate(("strict", "flexible") if task == "add" else ("none",))
                for i, (key, r) in enumerate(mine)
            ]  # fmt: skip
            put(folder, f"samples_{task}_2025-01-05T12-00-0{seed}.123.jsonl", lines)
        put(
            folder, f"results_2025-01-05T12-00-0{seed}.123.json", json.dumps({"results": {"add": {"exact_match": 0.5}}})
        )
    return folder


def evalplus(folder):
    statuses = {1: ("pass", "pass"), 0: ("timeout", "fail")}
    tasks = {
        key: [
            {
                "task_id": key,
                "solution": "def f(): ...",
                "base_status": base,
                "plus_status": plus,
                "base_fail_tests": [],
            }
            for base, plus in (statuses[r] for r in rewards)
        ]
        for key, rewards in TASKS.items()
    }
    tasks["mul/0"][1]["base_status"] = "pass"  # and fails the further tests
    put(folder, "samples.jsonl", [{"task_id": key, "solution": "def f(): ..."} for key in TASKS])
    put(folder, "samples_eval_results.json", json.dumps({"date": "2025-01-05", "hash": "h", "eval": tasks}))
    return folder


def counts(folder):
    rows = [
        {"epoch": s, "reward_mean": 0.25, "n": len(rewards), "id": p, "passed": sum(rewards), "reward": 0.25}
        for (s, p), rewards in RUN.items()
    ]
    return put(folder, "counts.csv", as_csv(rows))


# Layout, what writes it, other options, figures, and words of each warning.
CASES = [
    ("verl", verl, {}, TRAINED, ()),
    ("trl", trl, {}, TRAINED, ()),
    ("openrlhf", openrlhf, {}, TRAINED, ()),
    ("nemo-rl", nemo_rl, {"group_size": 4}, TRAINED | {"prompts": 6}, ()),
    ("open-instruct", open_instruct, {}, TRAINED, ()),
    ("tinker", tinker, {}, TRAINED | {"prompts": 6}, ()),
    ("prime-rl", prime_rl, {}, TRAINED, ()),
    ("prime-rl", prime_rl_before, {}, TRAINED, ()),
    ("verifiers", verifiers, {}, EVALUATED, ()),
    ("verifiers", verifiers_now, {}, EVALUATED, ()),
    ("roll", roll, {}, TRAINED, ()),
    ("wandb", wandb, {}, TRAINED, ()),
    ("inspect", inspect, {}, EVALUATED, ()),
    ("inspect", inspect_zip, {}, EVALUATED, ()),
    ("lm-eval", lm_eval, {}, EVALUATED, ("were read (none, strict)", "--where filter=flexible")),
    ("evalplus", evalplus, {}, EVALUATED, ()),
    ("evalplus", evalplus, {"reward": "base"}, EVALUATED | {"dead": 3, "mean": 6 / 9}, ()),
    ("counts", counts, {}, TRAINED, ()),
]


def test_every_layout_has_a_case():
    assert {case[0] for case in CASES} == set(get_args(Layout)) == set(PRESETS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1].__name__}, {len(case[2])}")
def test_a_layout_gives_its_figures(case, tmp_path):
    layout, write, options, expected, words = case
    log = read_log(write(tmp_path / "logs"), layout=layout, **options)
    assert figures(log) == pytest.approx(expected)
    assert log.n_bad == 0
    assert not words or any(all(word in doubt for word in words) for doubt in log.reading.doubts), log.reading.doubts
    assert words or not any("multiples" in doubt or "files" in doubt for doubt in log.reading.doubts)


def test_an_evaluation_is_known_by_its_structure(tmp_path):
    for write in (inspect, inspect_zip, evalplus):
        folder = write(tmp_path / write.__name__)
        files = [file for file in folder.iterdir() if file.suffix != ".jsonl"]
        assert figures(read_log(*files)) == pytest.approx(EVALUATED)


def test_parquet_of_trl(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet")
    from pyarrow import parquet

    for step in (1, 2):
        rows = [
            {"step": step, "prompt": f"Q{p}", "completion": "x", "exact": float(r), "advantage": 0.1}
            for p, r in of_step(step)
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"completions_{step:05d}.parquet")
    put(tmp_path, "trainer_state.json", json.dumps({"global_step": 2, "log_history": []}))
    assert figures(read_log(tmp_path, layout="trl")) == pytest.approx(TRAINED)


def test_named_columns_win(tmp_path):
    log = read_log(verl(tmp_path), layout="verl", prompt_id="gts", reward="acc", step="none")
    assert (log.n_prompts, log.n_steps, log.n_rollouts) == (1, 1, 24)
    assert log.reading.columns["reward"] == "acc"
    counted = put(tmp_path, "counted.jsonl", [{"input": "Q", "step": 1, "score": 0.5, "won": 3, "n": 8, "passed": 8}])
    assert read_log(counted, layout="verl", successes="won").successes.tolist() == [3]
    other = read_log(lm_eval(tmp_path / "e"), layout="lm-eval", where="filter=flexible")
    assert (other.n_prompts, other.n_rollouts, other.successes.sum()) == (2, 6, 6)


def test_several_reward_functions_are_a_question(tmp_path):
    rows = [{"step": s, "prompt": f"Q{p}", "exact": r, "length": 0.25, "advantage": 1.5} for s, p, r in ROWS]
    file = put(tmp_path, "log.csv", as_csv(rows))
    with pytest.raises(
        ValueError, match=r"one reward, not 2; try --reward exact, .* --reward exact\+length.*--from trl expects"
    ):
        read_log(file, layout="trl")
    assert figures(read_log(file, layout="trl", reward="exact")) == pytest.approx(TRAINED)


def test_a_reward_function_may_have_any_name(tmp_path):
    for name in ("correct", "n", "rewards/exact", "len"):
        rows = [{"step": s, "prompt": f"Q{p}", name: r, "answer": "7", "advantage": 1.5} for s, p, r in ROWS]
        file = put(tmp_path, "log.jsonl", rows)
        assert figures(read_log(file, layout="trl")) == pytest.approx(TRAINED)


def test_several_scorers_are_a_question(tmp_path):
    samples = [{"id": 1, "epoch": 1, "scores": {"match": {"value": "C"}, "judge": {"value": "P"}}}] * 2
    file = put(tmp_path, "log.json", json.dumps({"eval": {"task": "t"}, "samples": samples}))
    with pytest.raises(ValueError, match=r"try 'scores\.match'"):
        read_log(file)
    assert read_log(file, reward="scores.judge").entry_reward.tolist() == [0.5]


@pytest.mark.parametrize("layout", get_args(Layout))
def test_another_log_is_refused_with_what_was_expected(layout, tmp_path, capsys):
    file = put(tmp_path, "log.jsonl", [{"temperature": 0.5, "model": "m"}] * 3)
    means = put(tmp_path, "means.jsonl", [{"step": 1, "loss": 0.5, "grad_norm": 0.1}] * 3)
    for log, words in ((file, "must have"), (means, "means per step")):
        with pytest.raises(ValueError, match=f"{words}.* --from {layout} expects {PRESETS[layout].expects[:12]}"):
            read_log(log, layout=layout)
    assert main(["replay", str(file), "--from", layout]) == 2
    assert f"--from {layout} expects" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"layout must be one of \['verl', .*got layout = 'torch'"):
        read_log(tmp_path, layout="torch")
    with pytest.raises(SystemExit):
        main(["replay", str(tmp_path), "--from", "torch"])


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"", b"{}"])
def test_a_broken_zip_is_refused(content, tmp_path):
    (tmp_path / "log.eval").write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.eval must be a log of Inspect.*inspect log convert --to json"):
        read_log(tmp_path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    pack(tmp_path / "log.eval", {"header.json": [1], "summaries.json": {"a": 1}})
    with pytest.raises(ValueError, match="Inspect"):
        read_log(tmp_path / "log.eval")
    pack(tmp_path / "log.eval", {"header.json": {"eval": 3}, "summaries.json": [3, {"id": 1}]})
    with pytest.raises(ValueError, match="must have a column"):
        read_log(tmp_path / "log.eval")


@needs_logs
@pytest.mark.parametrize(
    ("layout", "name", "options"),
    [
        ("verl", "01_verl_rollout_dir", {}),
        ("verl", "02_verl_dapo_pm1.jsonl", {}),
        ("verl", "04_verl_uid_per_visit.jsonl", {}),
        ("trl", "05_trl_completions.csv", {"reward": "accuracy_reward"}),
        ("trl", "06_trl_logged_4_times.csv", {}),
        ("wandb", "07_wandb.table.json", {}),
        ("nemo-rl", "12_nemo_rl", {"group_size": 8}),
        ("open-instruct", "13_open_instruct.jsonl", {}),
        ("prime-rl", "15_prime_rl", {}),
        ("roll", "11_roll_columnar.jsonl", {}),
        ("counts", "47_counts_ragged.csv", {}),
    ],
)
def test_a_layout_agrees_with_what_is_recognised(layout, name, options, tmp_path):
    told, recognised = read_log(LOGS / name, layout=layout, **options), read_log(LOGS / name, **options)
    assert figures(told) == figures(recognised)
    assert told.prompt_ids == recognised.prompt_ids
    assert told.reading.doubts == recognised.reading.doubts


@needs_logs
def test_trl_with_steps_per_generation_in_parquet():
    pytest.importorskip("pyarrow", reason="pyarrow reads Parquet")
    file = LOGS / "42_trl_completions_00001.parquet"
    assert figures(read_log(file, layout="trl", reward="accuracy_reward")) == figures(
        read_log(file, reward="accuracy_reward")
    )
