"""Logs as trainers and tools write them: every format gives the same figures, and doubtful logs say what is doubtful."""

import bz2
import gzip
import json
import lzma
import random
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from cero_alloc.__main__ import main
from cero_alloc.replay import read_log

LOGS = Path(__file__).resolve().parents[3] / "shared" / "cases" / "logs"
needs_logs = pytest.mark.skipif(not LOGS.is_dir(), reason=f"the folder of small logs is absent: {LOGS}")

RIGHT = {"prompts": 16, "steps": 12, "groups": 48, "rollouts": 384, "right": 14, "wrong": 7, "mean": 0.5390625}
MERGED = {"rollouts": 384, "mean": 0.5390625}  # whatever became of the groups, no rollout is lost

# File, options, figures (all that are known), and words that one warning must contain; no words: no warning at all.
TABLE = [
    ("01_verl_rollout_dir", {}, RIGHT, ()),
    ("01_verl_rollout_dir/*.jsonl", {}, RIGHT, ()),
    ("02_verl_dapo_pm1.jsonl", {}, RIGHT, ()),
    ("02_verl_dapo_pm1.jsonl", {"reward": "acc"}, RIGHT, ()),
    ("02_verl_dapo_pm1.jsonl", {"reward_range": (-1, 1)}, RIGHT, ()),
    ("03_verl_dapo_overlong.jsonl", {"reward": "score"}, {**RIGHT, "right": 0, "wrong": 0, "mean": None}, ("range",)),
    (
        "03_verl_dapo_overlong.jsonl",
        {"reward": "score", "reward_range": (-2, 1)},
        {**RIGHT, "right": 0, "wrong": 0, "mean": None},
        (),
    ),
    ("03_verl_dapo_overlong.jsonl", {"reward": "acc"}, RIGHT, ()),
    ("04_verl_uid_per_visit.jsonl", {}, RIGHT, ()),
    ("04_verl_uid_per_visit.jsonl", {"prompt_id": "uid"}, {**RIGHT, "prompts": 48}, ("uid", "--prompt-id")),
    ("05_trl_completions.csv", {"reward": "accuracy_reward"}, RIGHT, ()),
    (
        "05_trl_completions.csv",
        {"reward": "accuracy_reward+format_reward"},
        {**RIGHT, "right": 7, "wrong": 0, "mean": None},
        None,
    ),
    ("06_trl_logged_4_times.csv", {}, RIGHT, ("1,152", "steps_per_generation")),
    ("07_wandb.table.json", {"reward": "accuracy_reward"}, RIGHT, ()),
    ("08_reward_sum_0_to_2.jsonl", {}, {**RIGHT, "right": 7, "wrong": 0, "mean": 557 / 768}, None),
    ("08_reward_sum_0_to_2.jsonl", {"reward_range": (0, 2)}, {**RIGHT, "right": 7, "wrong": 0, "mean": 557 / 768}, ()),
    ("09_per_rank_arrays", {}, RIGHT, ()),
    ("11_roll_columnar.jsonl", {}, RIGHT, ()),
    ("12_nemo_rl", {"group_size": 8}, {**RIGHT, "prompts": None}, None),
    ("13_open_instruct.jsonl", {}, RIGHT, ()),
    ("13_open_instruct.jsonl", {"prompt_id": "prompt_tokens"}, RIGHT, ()),
    ("13_open_instruct.jsonl", {"prompt_id": "prompt_idx"}, {**RIGHT, "prompts": 4}, ("prompt_idx", "--prompt-id")),
    ("15_prime_rl", {}, RIGHT, ()),
    (
        "15_prime_rl",
        {"prompt_id": "task.key", "step": "run.work.step", "reward": "traces.rewards.correct.score"},
        RIGHT,
        (),
    ),
    ("17_prompt_messages.jsonl", {}, RIGHT, ()),
    ("18_list_of_rewards.jsonl", {}, RIGHT, ()),
    ("20_acc_by_epoch.json", {"trials": 8}, {**RIGHT, "steps": 3}, ()),
    ("20_acc_by_epoch.json", {"trials": "8"}, {**RIGHT, "steps": 3}, ()),
    ("20_acc_by_epoch.json", {}, {"prompts": 16, "groups": 48, "rollouts": 48}, ("--trials",)),
    ("21_correct_and_n_per_rollout.csv", {}, RIGHT, ()),
    ("23_resumed_overlap.jsonl", {}, {"prompts": 16, "steps": 12}, ("8 groups", "--last-attempt")),
    ("23_resumed_overlap.jsonl", {"last_attempt": True}, {**RIGHT, "right": 12, "wrong": 7, "mean": None}, ()),
    ("24_two_sources_same_index.jsonl", {}, RIGHT, ()),
    ("24_two_sources_same_index.jsonl", {"prompt_id": "data_source,index"}, RIGHT, ()),
    ("24_two_sources_same_index.jsonl", {"prompt_id": "index"}, {**MERGED, "prompts": 8}, ("data_source", "index")),
    ("26_prompt_twice_in_a_step.jsonl", {}, {**RIGHT, "prompts": 8}, ()),
    ("26_prompt_twice_in_a_step.jsonl", {"group": "uid"}, {**RIGHT, "prompts": 8}, ()),
    (
        "27_dynamic_sampling_filtered.jsonl",
        {},
        {"groups": 27, "rollouts": 216, "right": 0, "wrong": 0},
        ("0%", "filter"),
    ),
    ("29_null_nan_missing.jsonl", {}, {"groups": 48, "rollouts": 299, "right": 14, "wrong": 8, "unscored": 85}, None),
    ("30_header_and_summaries.jsonl", {}, {**RIGHT, "bad": 13}, ("13", "lines")),
    ("31_reward_in_a_dict.jsonl", {"reward": "reward.score"}, RIGHT, ()),
    ("31_reward_in_a_dict.jsonl", {"reward": "reward.acc"}, RIGHT, ()),
    ("32_long_completion.csv", {}, {"prompts": 3, "groups": 3, "rollouts": 24, "right": 0, "wrong": 0, "bad": 0}, ()),
    (
        "34_step_text.jsonl",
        {},
        {"prompts": 16, "steps": 7, "groups": 25, "rollouts": 200, "right": 6, "wrong": 6, "mean": 0.47},
        (),
    ),
    ("35_semicolons.csv", {}, RIGHT, ()),
    ("35_tabs.tsv", {}, RIGHT, ()),
    (
        "37_difficulty_fraction.jsonl",
        {"reward": "difficulty", "step": "none"},
        {"prompts": 16, "steps": 1, "groups": 16, "rollouts": 128, "right": 3, "wrong": 3, "mean": 0.46875},
        None,
    ),
    (
        "46_pass_rate_only.csv",
        {"reward": "pass_rate", "trials": 24, "step": "none"},
        {"prompts": 16, "steps": 1, "groups": 16, "rollouts": 384, "right": 3, "wrong": 1, "mean": 0.5390625},
        None,
    ),
    ("41_wandb_unique_prompts.csv", {}, {"groups": 48, "rollouts": 48, "prompts": 16}, ("log_unique_prompts",)),
    # Rewards are .3 and 1, which nothing says is short of right: only the dead groups are known.
    ("43_float32_just_above_1.jsonl", {}, {**RIGHT, "dead": 21, "right": 14, "wrong": None, "mean": None}, None),
    ("45_prompt_cut_at_100.jsonl", {}, {**MERGED, "prompts": 1, "groups": 12}, ("one prompt", "--prompt-id")),
    (
        "47_counts_ragged.csv",
        {},
        {"prompts": 16, "steps": 3, "groups": 44, "rollouts": 352, "right": 12, "wrong": 7, "mean": 0.5284090909090909},
        (),
    ),
    ("48_rounding_noise.csv", {}, {"prompts": 30, "steps": 2, "groups": 60, "rollouts": 240, "dead": 30}, None),
    ("40b_restarts_one_line_per_rollout.jsonl", {}, {"prompts": 16, "steps": 12}, ("16 groups", "--last-attempt")),
    ("40b_restarts_one_line_per_rollout.jsonl", {"last_attempt": True}, RIGHT, ()),
]
# File, options, and words of the sentence that refuses it.
REFUSED = [
    ("03_verl_dapo_overlong.jsonl", {}, ("score", "--reward acc", "--reward-range")),
    ("05_trl_completions.csv", {}, ("accuracy_reward", "accuracy_reward+format_reward")),
    ("12_nemo_rl", {}, ("prompt_id", "--group-size")),
    ("37_difficulty_fraction.jsonl", {"reward": "difficulty"}, ("step", "--step none")),
    ("37_difficulty_fraction.jsonl", {"step": "none"}, ("--reward",)),
    ("46_pass_rate_only.csv", {"trials": 8}, ("try --reward pass_rate",)),
    ("39_aggregated_only.jsonl", {}, ("rollouts", "log_completions", "rollout_data_dir")),
]
PARQUET = "42_trl_completions_00001.parquet"
PARQUET_FIGURES = {"prompts": 4, "steps": 1, "groups": 4, "rollouts": 32, "right": 1, "wrong": 0, "mean": 23 / 32}


def figures_of(log):
    dead = log.dead
    return {
        "prompts": log.n_prompts,
        "steps": log.n_steps,
        "groups": log.trials.size,
        "rollouts": log.n_rollouts,
        "dead": int(dead.sum()),
        "right": int((dead & (log.successes == log.trials)).sum()),
        "wrong": int((dead & (log.successes == 0)).sum()),
        "mean": float(log.successes.sum()) / log.n_rollouts,
        "unscored": log.reading.unscored,
        "bad": log.n_bad,
    }


def check(log, expected, words):
    """Compare all figures that are known, and the warnings: of some words, none at all for (), any for None."""
    found = figures_of(log)
    known = {name: value for name, value in expected.items() if value is not None}
    assert {name: found[name] for name in known} == pytest.approx(known, abs=1e-6)
    assert words != () or not log.reading.doubts, log.reading.doubts
    if words:
        assert any(all(word in doubt for word in words) for doubt in log.reading.doubts), log.reading.doubts


def refusal(*files, **options):
    with pytest.raises(ValueError, match=r"\S") as caught:
        read_log(*files, **options)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def flags_of(options):
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        else:
            flags.append(f"{flag}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return flags


def command(tmp_path, *files, **options):
    """Run the command; return its exit status and, where that is 0, its JSON."""
    file = tmp_path / "report.json"
    fixed = ["--json", str(file), "--no-plot", "--n-boot", "20"]
    status = main(["replay", *map(str, files), *fixed, *flags_of(options)])
    return status, json.loads(file.read_text()) if status == 0 else None


def said(text):
    """Undo the wrapping of long lines."""
    return re.sub(r"\s+", " ", text)


# ---------------------------------------------------------------- the folder of small logs


def title(case):
    name, options, *_ = case
    return name + "".join(f",{key}={value}" for key, value in options.items())


@needs_logs
@pytest.mark.parametrize("case", TABLE, ids=title)
def test_small_logs_give_their_figures(case):
    name, options, expected, words = case
    check(read_log(str(LOGS / name), **options), expected, words)


@needs_logs
@pytest.mark.parametrize("case", REFUSED, ids=title)
def test_small_logs_are_refused_in_words(case, tmp_path, capsys):
    name, options, words = case
    message = refusal(LOGS / name, **options)
    assert all(word in message for word in words), message
    assert command(tmp_path, LOGS / name, **options)[0] == 2
    assert said(message) in said(capsys.readouterr().err)


@needs_logs
@pytest.mark.parametrize("case", [case for case in TABLE if case[3] and "*" not in case[0]], ids=title)
def test_warnings_stand_in_the_report_and_its_json(case, tmp_path, capsys):
    name, options, _, words = case
    status, report = command(tmp_path, LOGS / name, **options)
    assert status == 0
    assert any(all(word in warning for word in words) for warning in report["warnings"])
    shown = said(capsys.readouterr().out)
    assert "warning: " in shown
    assert all(word in shown for word in words)


@needs_logs
def test_a_parquet_file_gives_its_figures():
    pytest.importorskip("pyarrow", reason="pyarrow reads Parquet")
    check(read_log(LOGS / PARQUET, reward="accuracy_reward"), PARQUET_FIGURES, None)
    assert "accuracy_reward" in refusal(LOGS / PARQUET)


def test_the_table_names_every_small_log():
    if not LOGS.is_dir():
        pytest.skip(f"the folder of small logs is absent: {LOGS}")
    named = {case[0].partition("/")[0] for case in (*TABLE, *REFUSED)} | {PARQUET, "README.md"}
    assert {file.name for file in LOGS.iterdir()} == named


# ---------------------------------------------------------------- logs of one's own: the same run in every format

N_PROMPTS, N_STEPS, PER_STEP, SIZE = 9, 6, 6, 5


def a_run():
    """Return (prompt, step, reward 0 or 1) of a run in which prompt 0 is never right and prompt 8 always."""
    chance = random.Random(11)
    rows = []
    for step in range(1, N_STEPS + 1):
        for i in range(PER_STEP):
            prompt = (step * PER_STEP + i) % N_PROMPTS
            right = 2 * prompt / N_PROMPTS - 0.4
            rows += [(prompt, step, int(chance.random() < right)) for _ in range(SIZE)]
    return rows


ROWS = a_run()


def expected_of(rows):
    groups = defaultdict(list)
    for prompt, step, reward in rows:
        groups[prompt, step].append(reward)
    return {
        "prompts": len({prompt for prompt, _ in groups}),
        "steps": len({step for _, step in groups}),
        "groups": len(groups),
        "rollouts": len(rows),
        "right": sum(min(rewards) == 1 for rewards in groups.values()),
        "wrong": sum(max(rewards) == 0 for rewards in groups.values()),
        "mean": sum(reward for *_, reward in rows) / len(rows),
        "bad": 0,
        "unscored": 0,
    }


def table(rows, columns=("won", "round", "task_id"), mark=",", end="\n"):
    lines = [mark.join(columns), *(mark.join(map(str, (r, s, f"t-{p}"))) for p, s, r in rows)]
    return end.join(lines) + end


def lines_of(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def records(**shape):
    """Return one record per rollout; each value is a function of prompt, step and reward."""
    return [{key: make(*row) for key, make in shape.items()} for row in ROWS]


def plain():
    return records(
        total_reward=lambda p, s, r: float(r), question=lambda p, s, r: f"How many, {p}?", train_step=lambda p, s, r: s
    )


def grouped():
    groups = defaultdict(list)
    for prompt, step, reward in ROWS:
        groups[step, prompt].append(reward)
    return groups


def put(tmp_path, name, content):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def step_files(tmp_path):
    for step in range(1, N_STEPS + 1):
        mine = [{"scores": r, "query": f"q{p}"} for p, s, r in ROWS if s == step]
        put(tmp_path, f"dump/rollouts_step_{step}.jsonl", lines_of(mine))
    return tmp_path / "dump"


def rank_files(tmp_path):
    for step in range(1, N_STEPS + 1):
        for rank in range(2):
            mine = [{"reward": r, "prompt": f"q{p}", "response": "x"} for p, s, r in ROWS if s == step][rank::2]
            put(tmp_path, f"dump/worker{rank}/iter_{step:04d}.json", json.dumps(mine))
    return tmp_path / "dump"


def columns_by_step(tmp_path):
    lines = []
    for step in range(1, N_STEPS + 1):
        mine = [row for row in ROWS if row[1] == step]
        lines.append(
            {
                "question_id": [f"a{p}" for p, _, _ in mine],
                "iteration": [step] * len(mine),
                "score": [r for *_, r in mine],
            }
        )
    return put(tmp_path, "dump.jsonl", lines_of(lines))


def columns_in_one(tmp_path):
    content = {
        "step": [s for _, s, _ in ROWS], "reward": [r for *_, r in ROWS], "prompt_id": [f"p{p}" for p, *_ in ROWS]
    }  # fmt: skip
    return put(tmp_path, "all.json", json.dumps(content))


def list_of_rewards(tmp_path):
    lines = [{"scores": rewards, "iteration": s, "problem": f"P{p}"} for (s, p), rewards in grouped().items()]
    return put(tmp_path, "groups.jsonl", lines_of(lines))


def counts(tmp_path):
    lines = ["n_correct,num_rollouts,task_id,global_step"]
    lines += [f"{sum(rewards)},{len(rewards)},t{p},{s}" for (s, p), rewards in grouped().items()]
    return put(tmp_path, "counts.csv", "\n".join(lines) + "\n")


def rates(tmp_path):
    lines = ["acc,task_id,global_step"]
    lines += [f"{sum(rewards) / len(rewards):.3f},t{p},{s}" for (s, p), rewards in grouped().items()]
    return put(tmp_path, "rates.csv", "\n".join(lines) + "\n")


def fractions(tmp_path):
    lines = [{"epoch": s, "solved": f"{sum(rewards)}/{SIZE}", "problem_id": p} for (s, p), rewards in grouped().items()]
    return put(tmp_path, "shares.jsonl", lines_of(lines))


def wandb_table(tmp_path):
    data = [["x", str(s), f"q{p}", r] for p, s, r in ROWS]
    return put(
        tmp_path, "t.table.json", json.dumps({"data": data, "columns": ["completion", "step", "prompt", "acc_reward"]})
    )


def messages(tmp_path):
    shape = records(
        score=lambda p, s, r: r,
        messages=lambda p, s, r: [{"role": "system", "content": "Think."}, {"role": "user", "content": f"{p} + {p}?"}],
        global_step=lambda p, s, r: s,
    )
    return put(tmp_path, "chat.jsonl", lines_of(shape))


def mixed_ids(tmp_path):
    kinds = [lambda p: p + 3, lambda p: float(p + 3), lambda p: f"{p + 3}", lambda p: f"{p + 3}.0"]
    lines = [{"reward": r, "step": s, "prompt_id": kinds[i % 4](p)} for i, (p, s, r) in enumerate(ROWS)]
    return put(tmp_path, "ids.jsonl", lines_of(lines))


def two_sources(tmp_path):
    lines = [
        {"score": r, "index": p % 5, "data_source": ("sums", "words")[p // 5], "step": s} for p, s, r in ROWS
    ]  # fmt: skip
    return put(tmp_path, "sources.jsonl", lines_of(lines))


def uids(tmp_path):
    lines = [{"prompt": f"q{p}", "score": r, "uid": f"{s * 7919 + p:x}-u", "step": s} for p, s, r in ROWS]
    return put(tmp_path, "uids.jsonl", lines_of(lines))


def header_lines(tmp_path):
    lines = lines_of(plain()).splitlines()
    return put(tmp_path, "spaced.jsonl", "\n\n" + "\n\n".join(lines) + "\n\n\n")


def quoted(tmp_path):
    lines = ["completion,reward,prompt,step"]
    text = '"a, ""b""\r\n' + 5 * "x;y\t" + '"'
    lines += [f'{text},{r},"Question\n{p}\r\n",{s}' for p, s, r in ROWS]
    return put(tmp_path, "quoted.csv", "\r\n".join(lines) + "\r\n")


def long_fields(tmp_path):
    lines = ["step,question,response,score"]
    lines += [f'{s},q{p},"{"no, " * (60_000 if i % 40 == 0 else 1)}",{r}' for i, (p, s, r) in enumerate(ROWS)]
    return put(tmp_path, "long.csv", "\n".join(lines) + "\n")


def of_rewards(name, low, high):
    """Return a writer of rewards that are ``low`` for wrong and ``high`` for right."""

    def write(tmp_path):
        lines = [{"step": s, name: high if r else low, "prompt": f"q{p}"} for p, s, r in ROWS]
        return put(tmp_path, "log.jsonl", lines_of(lines))

    return write


def nested(tmp_path):
    lines = [
        {"work": {"at": s}, "task": {"name": f"t{p}"}, "result": {"scores": {"exact": r, "style": 0.5}}}
        for p, s, r in ROWS
    ]  # fmt: skip
    return put(tmp_path, "nested.jsonl", lines_of(lines))


def with_validation(tmp_path):
    lines = [{"reward": r, "prompt": f"q{p}", "step": s, "split": "train"} for p, s, r in ROWS]
    lines += [{"reward": 1, "prompt": f"v{i % 4}", "step": s, "split": "test"} for s in (2, 4) for i in range(12)]
    return put(tmp_path, "splits.jsonl", lines_of(lines))


NAMED = {"prompt_id": "task_id", "step": "round", "reward": "won"}
SAME = {
    "commas": (lambda d: put(d, "log.csv", table(ROWS)), NAMED),
    "semicolons": (lambda d: put(d, "log.csv", table(ROWS, mark=";")), NAMED),
    "tabs": (lambda d: put(d, "log.tsv", table(ROWS, mark="\t")), NAMED),
    "bars": (lambda d: put(d, "log.csv", table(ROWS, mark="|")), NAMED),
    "CRLF": (lambda d: put(d, "log.csv", table(ROWS, end="\r\n")), NAMED),
    "usual names": (lambda d: put(d, "log.csv", table(ROWS, ("Reward", "Step", "Prompt_ID"))), {}),
    "no extension": (lambda d: put(d, "log", table(ROWS, ("score", "epoch", "problem_id"), ";")), {}),
    "UTF-8 with a mark": (lambda d: put(d, "log.csv", table(ROWS).encode("utf-8-sig")), NAMED),
    "UTF-16 CSV": (lambda d: put(d, "log.csv", table(ROWS, mark=";").encode("utf-16")), NAMED),
    "UTF-16 JSONL": (lambda d: put(d, "log.jsonl", lines_of(plain()).encode("utf-16")), {}),
    "JSONL": (lambda d: put(d, "log.jsonl", lines_of(plain())), {}),
    "gzip": (lambda d: put(d, "log.jsonl.gz", gzip.compress(lines_of(plain()).encode())), {}),
    "bzip2": (lambda d: put(d, "log.csv.bz2", bz2.compress(table(ROWS).encode())), NAMED),
    "xz": (lambda d: put(d, "log.jsonl.xz", lzma.compress(lines_of(plain()).encode())), {}),
    "gzip without its extension": (lambda d: put(d, "log.jsonl", gzip.compress(lines_of(plain()).encode())), {}),
    "JSON array": (lambda d: put(d, "log.json", json.dumps(plain())), {}),
    "JSON array on many lines": (lambda d: put(d, "log.json", json.dumps(plain(), indent=2)), {}),
    "JSON array in a file of lines": (lambda d: put(d, "log.jsonl", json.dumps(plain(), indent=1)), {}),
    "JSONL in a file of JSON": (lambda d: put(d, "log.json", lines_of(plain())), {}),
    "table": (wandb_table, {"reward": "acc_reward"}),
    "columns by step": (columns_by_step, {}),
    "columns in one": (columns_in_one, {}),
    "step files": (step_files, {}),
    "files of ranks": (rank_files, {}),
    "list of rewards": (list_of_rewards, {}),
    "counts": (counts, {}),
    "rates": (rates, {"trials": SIZE}),
    "fractions": (fractions, {"reward": "solved"}),
    "messages": (messages, {}),
    "7 and 7.0": (mixed_ids, {}),
    "two sources": (two_sources, {}),
    "two sources, told": (two_sources, {"prompt_id": "data_source,index"}),
    "uids": (uids, {}),
    "blank lines": (header_lines, {}),
    "quoted": (quoted, {}),
    "long fields": (long_fields, {}),
    "-1 and 1": (of_rewards("score", -1, 1), {}),
    "0 and 10": (of_rewards("reward", 0.0, 10.0), {}),
    "-5 and 5": (of_rewards("reward", -5, 5), {"reward_range": (-5, 5)}),
    "truths": (of_rewards("correct", False, True), {}),
    "texts of truths": (of_rewards("correct", "False", "True"), {}),
    "texts of numbers": (of_rewards("acc", "0.0", "1.0"), {}),
    "float32 just above 1": (of_rewards("reward", 0.0, 1.0000001192092896), {}),
    "reward in an object": (of_rewards("reward", {"score": 0, "note": "a"}, {"score": 1, "note": "b"}), {}),
    "dotted": (nested, {"prompt_id": "task.name", "step": "work.at", "reward": "result.scores.exact"}),
    "one split": (with_validation, {"where": "split=train"}),
}


@pytest.mark.parametrize("kind", SAME)
def test_formats_agree(kind, tmp_path):
    write, options = SAME[kind]
    check(read_log(write(tmp_path), **options), expected_of(ROWS), ())


def test_patterns_and_several_files_agree_with_their_folder(tmp_path):
    folder = step_files(tmp_path)
    for files in ([str(folder / "*.jsonl")], [str(folder)], sorted(folder.iterdir()), sorted(folder.iterdir())[::-1]):
        check(read_log(*files), expected_of(ROWS), ())


@pytest.mark.parametrize(("name", "kind"), [("-1 and 1", "-1/1"), ("0 and 10", "0/10"), ("truths", "0/1")])
def test_the_range_is_named(name, kind, tmp_path):
    write, options = SAME[name]
    assert read_log(write(tmp_path), **options).reading.scale.kind == kind


def test_the_columns_are_named(tmp_path):
    found = read_log(put(tmp_path, "log.jsonl", lines_of(plain()))).reading.columns
    assert found == {"prompt_id": "question", "step": "train_step", "reward": "total_reward"}


@pytest.mark.parametrize("form", ["step_{}", "global_step_{}", "Step {}", "epoch 0, step {}", "{}.0"])
def test_steps_of_text_are_their_last_number(form, tmp_path):
    lines = [{"id": f"a{p}", "step": form.format(s), "reward": r} for p, s, r in ROWS]
    log = read_log(put(tmp_path, "log.jsonl", lines_of(lines)))
    check(log, expected_of(ROWS), ())
    assert log.steps.tolist() == list(range(1, N_STEPS + 1))


def test_null_nan_and_missing_rewards_are_unscored(tmp_path):
    texts, kept = [], []
    for i, (p, s, r) in enumerate(ROWS):
        tail = {0: ', "reward": null', 4: ', "reward": NaN', 8: "", 11: ', "reward": ""'}.get(i % 13)
        texts.append(
            f'{{"step": {s}, "prompt": "q{p}"{tail if tail is not None else f", {chr(34)}reward{chr(34)}: {r}"}}}'
        )
        if tail is None:
            kept.append((p, s, r))
    log = read_log(put(tmp_path, "log.jsonl", "\n".join(texts)))
    check(log, {**expected_of(kept), "unscored": len(ROWS) - len(kept)}, None)


def test_empty_fields_of_csv_are_unscored(tmp_path):
    kept = [row for i, row in enumerate(ROWS) if i % 6]
    lines = ["score;step;prompt_id", *(f"{r if i % 6 else ''};{s};{p}x" for i, (p, s, r) in enumerate(ROWS))]
    log = read_log(put(tmp_path, "log.csv", "\n".join(lines)))
    check(log, {**expected_of(kept), "unscored": len(ROWS) - len(kept)}, None)


def test_rounding_makes_no_rewards_differ(tmp_path):
    lines = ["reward,step,task_id"]
    for task in range(12):
        lines += [f"{(0.1 + 0.2, 0.3, 0.29999999999999993)[i % 3]!r},1,k{task}" for i in range(6)]
        lines += [f"{(0.7, 0.1)[i % 2]},2,k{task}" for i in range(6)]
    found = figures_of(read_log(put(tmp_path, "log.csv", "\n".join(lines))))
    assert (found["groups"], found["dead"], found["rollouts"]) == (24, 12, 144)


def test_rewards_that_really_differ_stay_apart(tmp_path):
    lines = ["reward,step,task_id"]
    lines += [f"{0.5 + 0.001 * i},{step},k{task}" for task in range(5) for step in (1, 2, 3) for i in range(4)]
    assert not read_log(put(tmp_path, "log.csv", "\n".join(lines))).dead.any()


def test_rewards_of_several_columns_are_added(tmp_path):
    lines = [{"fmt_reward": 1 - r, "exact_reward": 2 * r, "step": s, "prompt": f"q{p}"} for p, s, r in ROWS]
    file = put(tmp_path, "log.jsonl", lines_of(lines))
    log = read_log(file, reward="fmt_reward+exact_reward", reward_range=(1, 2))
    check(log, expected_of(ROWS), ())
    message = refusal(file)
    assert "fmt_reward" in message
    assert "exact_reward" in message


# ---------------------------------------------------------------- logs of one's own: doubts and refusals


def repeated(tmp_path):
    """A trainer that logs each batch of completions under three steps."""
    lines = ["completion,reward,prompt,step"]
    for again in range(N_STEPS * 3):
        mine = [(i, row) for i, row in enumerate(ROWS) if row[1] == again // 3 + 1]
        lines += [f"text {i},{r},q{p},{again + 1}" for i, (p, _, r) in mine]
    return put(tmp_path, "log.csv", "\n".join(lines)), {}, expected_of(ROWS), ("dropped",)


def places(tmp_path):
    lines = [{"score": r, "prompt_idx": (i // SIZE) % PER_STEP, "step": s} for i, (_, s, r) in enumerate(ROWS)]
    expected = {**expected_of(ROWS), "prompts": PER_STEP}
    return put(tmp_path, "log.jsonl", lines_of(lines)), {"prompt_id": "prompt_idx"}, expected, ("prompt_idx", "place")


def fresh_ids(tmp_path):
    lines = [{"reward": r, "sample_uid": f"{s}:{p}", "step": s} for p, s, r in ROWS]
    expected = {**expected_of(ROWS), "prompts": N_STEPS * PER_STEP}
    return (
        put(tmp_path, "log.jsonl", lines_of(lines)),
        {"prompt_id": "sample_uid"},
        expected,
        ("sample_uid", "--prompt-id"),
    )


def one_prompt(tmp_path):
    lines = [{"reward": r, "prompt": "You are a careful", "step": s} for p, s, r in ROWS]
    expected = {"prompts": 1, "groups": N_STEPS, "rollouts": len(ROWS)}
    return put(tmp_path, "log.jsonl", lines_of(lines)), {}, expected, ("one prompt", "--prompt-id")


def filtered(tmp_path):
    kept = {key for key, rewards in grouped().items() if 0 < sum(rewards) < SIZE}
    rows = [row for row in ROWS if (row[1], row[0]) in kept]
    rows += [(p + 20, s, r) for p, s, r in rows]
    lines = [{"reward": r, "prompt": f"q{p}", "step": s} for p, s, r in rows]
    return put(tmp_path, "log.jsonl", lines_of(lines)), {}, expected_of(rows), ("0%", "filter")


def one_of_each(tmp_path):
    rows = [row for i, row in enumerate(ROWS) if i % SIZE == 0]
    lines = [{"reward": r, "prompt": f"q{p}", "step": s} for p, s, r in rows]
    return put(tmp_path, "log.jsonl", lines_of(lines)), {}, expected_of(rows), ("single rollout", "log_unique_prompts")


def mixed_sources(tmp_path):
    file = two_sources(tmp_path)
    return file, {"prompt_id": "index"}, {"prompts": 5, "rollouts": len(ROWS)}, ("data_source", "index")


def mixed_splits(tmp_path):
    return with_validation(tmp_path), {}, {"rollouts": len(ROWS) + 24}, ("test", "--where split=train")


def bad_lines(tmp_path):
    lines = ["reward,step,prompt_id", *(f"{r},{s},p{p}" for p, s, r in ROWS), *["oops,1,p1"] * 8]
    return put(tmp_path, "log.csv", "\n".join(lines)), {}, {**expected_of(ROWS), "bad": 8}, ("8 of", "not a number")


def twice_in_a_step(tmp_path):
    lines = [{"reward": r, "prompt": f"q{max(p, 1)}", "step": s} for p, s, r in ROWS]
    expected = {"prompts": N_PROMPTS - 1, "rollouts": len(ROWS)}
    return put(tmp_path, "log.jsonl", lines_of(lines)), {}, expected, ("multiples", "--group")


def consecutive(tmp_path):
    lines = [{"rewards": [r], "text": [f"q{p} and more"]} for p, _, r in ROWS]
    per_step = PER_STEP * SIZE
    for step in range(N_STEPS):
        put(tmp_path, f"d/batch_{step + 1}.jsonl", lines_of(lines[step * per_step : (step + 1) * per_step]))
    return tmp_path / "d", {"group_size": SIZE}, {**expected_of(ROWS), "prompts": None}, ("prompt ids",)


DOUBTFUL = [
    *(repeated, places, fresh_ids, one_prompt, filtered, one_of_each, mixed_sources, mixed_splits, bad_lines),
    *(twice_in_a_step, consecutive),
]


@pytest.mark.parametrize("write", DOUBTFUL, ids=lambda write: write.__name__)
def test_doubtful_logs_are_read_with_a_warning(write, tmp_path, capsys):
    file, options, expected, words = write(tmp_path)
    check(read_log(file, **options), expected, words)
    status, report = command(tmp_path, file, **options)
    assert status == 0
    assert any(all(word in warning for word in words) for warning in report["warnings"])
    shown = said(capsys.readouterr().out)
    assert all(word in shown for word in (*words, "warning: "))


def test_repeats_are_found_in_any_order(tmp_path):
    file, _, expected, words = repeated(tmp_path)
    head, *lines = file.read_text().split("\n")
    random.Random(5).shuffle(lines)
    log = read_log(put(tmp_path, "shuffled.csv", "\n".join([head, *lines])))
    check(log, expected, words)


def test_two_groups_of_a_prompt_in_a_step_are_told_apart(tmp_path):
    lines = [{"reward": r, "visit": f"{s}-{p}", "prompt": f"q{p // 2}", "step": s} for p, s, r in ROWS]
    file = put(tmp_path, "log.jsonl", lines_of(lines))
    check(read_log(file, group="visit"), {**expected_of(ROWS), "prompts": 5}, ())
    renamed = put(tmp_path, "log2.jsonl", file.read_text().replace('"visit"', '"group_id"'))
    check(read_log(renamed), {**expected_of(ROWS), "prompts": 5}, ())


def test_a_restarted_run_keeps_its_last_attempt(tmp_path):
    resumed = [(p, s, 1) for p, s, _ in ROWS if s <= 4]  # thrown away, and never dead the same way again
    again = [row for row in ROWS if row[1] > 2]
    both = [*[row for row in ROWS if row[1] <= 2], *[row for row in resumed if row[1] > 2], *again]
    lines = [{"prompt": f"q{p}", "iteration": s, "acc": r} for p, s, r in both]
    file = put(tmp_path, "log.jsonl", lines_of(lines))
    check(read_log(file), {"rollouts": len(both)}, ("backwards", f"{2 * PER_STEP} groups", "--last-attempt"))
    check(read_log(file, last_attempt=True), expected_of(ROWS), ())


def test_a_run_begun_anew_keeps_its_last_attempt(tmp_path):
    first = [(p, s, 0) for p, s, _ in ROWS if s <= 3]
    lines = ["score,step,prompt", *(f"{r},{s},q{p}" for p, s, r in [*first, *first[: 2 * PER_STEP * SIZE], *ROWS])]
    file = put(tmp_path, "log.csv", "\n".join(lines))
    check(read_log(file), {"prompts": N_PROMPTS}, ("--last-attempt",))
    check(read_log(file, last_attempt=True), expected_of(ROWS), ())


def test_a_restart_that_never_left_its_first_step_is_doubted(tmp_path):
    lines = ["score,step,prompt", *(f"{r},{s},q{p}" for p, s, r in [*ROWS[: PER_STEP * SIZE], *ROWS])]
    file = put(tmp_path, "log.csv", "\n".join(lines))
    for last in (False, True):
        check(read_log(file, last_attempt=last), {"prompts": N_PROMPTS}, (f"{PER_STEP} of", "multiples"))


def test_the_last_attempt_of_a_run_without_restarts_is_the_run(tmp_path):
    check(read_log(put(tmp_path, "log.jsonl", lines_of(plain())), last_attempt=True), expected_of(ROWS), ())


def test_lines_sorted_by_prompt_are_no_restarts(tmp_path):
    lines = [{"prompt": f"q{p}", "step": s, "reward": r} for p, s, r in sorted(ROWS)]
    check(read_log(put(tmp_path, "log.jsonl", lines_of(lines))), expected_of(ROWS), ())


def test_a_continuous_reward_beside_successes_is_a_question(tmp_path):
    lines = [
        {"is_correct": bool(r), "score": round(r - 1.5 * ((i * 37) % 101) / 101, 3), "prompt": f"q{p}", "step": s}
        for i, (p, s, r) in enumerate(ROWS)
    ]
    file = put(tmp_path, "log.jsonl", lines_of(lines))
    message = refusal(file)
    assert "score" in message
    assert "--reward is_correct" in message
    check(read_log(file, reward="is_correct"), expected_of(ROWS), ())
    found = figures_of(read_log(file, reward="score", reward_range=(-2, 1)))
    assert (found["groups"], found["dead"], found["bad"]) == (N_STEPS * PER_STEP, 0, 0)


def test_rewards_outside_the_told_range_are_refused(tmp_path):
    assert "reward_range" in refusal(of_rewards("reward", 0, 10)(tmp_path), reward_range=(0, 1))


@pytest.mark.parametrize(
    ("record", "options", "words"),
    [
        ({"step": 3, "reward/mean": 0.4, "reward/std": 0.2, "grad_norm": 1.0}, {}, ("rollouts", "per step")),
        ({"step": 3, "reward": 1, "text": "x"}, {}, ("--prompt-id", "--group-size", "'text'")),
        ({"prompt": "q", "reward": 1, "note": 2}, {}, ("--step", "'note'")),
        ({"prompt": "q", "step": 1, "quality": 2}, {}, ("--reward", "'quality'")),
        ({"prompt": "q", "length": 90, "rate": 0.25}, {"trials": 8}, ("a rate of 8 rollouts; try --reward rate",)),
        ({"prompt": "q", "step": 1, "length": 90}, {"trials": 8}, ("a rate of 8 rollouts, got",)),
        ({"prompt": "q", "step": 1, "reward": 1}, {"reward": "Score"}, ("'Score'", "'reward'")),
        ({"prompt": "q", "step": 1, "reward": 1}, {"where": "split"}, ("where", "split=train")),
        ({"prompt": "q", "step": 1, "reward": 1}, {"group_size": 0}, ("group_size",)),
        ({"prompt": "q", "step": 1, "reward": 1}, {"reward_range": (1, 1)}, ("reward_range",)),
    ],
)
def test_what_is_missing_is_said(record, options, words, tmp_path):
    message = refusal(put(tmp_path, "log.jsonl", lines_of([record] * 6)), **options)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"prompt": "q", "step": 1,'),
        ("a.json", "[" * 100_000),
        ("a.json", "7"),
        ("a.csv", "prompt,st\rep,reward\nq,1,1\n"),
        ("a.jsonl", "oops\n"),
        ("a.parquet", "oops"),
        ("a.csv", ""),
        ("a.csv", "prompt,step,reward\n"),
    ],
)
def test_a_refusal_names_the_file(name, content, tmp_path):
    file = put(tmp_path, name, content)
    assert str(file) in refusal(file)


def test_an_empty_folder_and_a_pattern_without_files_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    for name in (tmp_path / "none", tmp_path / "*.jsonl", tmp_path / "absent.csv"):
        with pytest.raises((ValueError, OSError), match=re.escape(str(name))):
            read_log(str(name))


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install" in refusal(put(tmp_path, "completions_00007.parquet", b"PAR1" + bytes(20) + b"PAR1"))


def test_parquet_and_arrow_files_agree(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet")
    from pyarrow import ipc, parquet

    content = pyarrow.Table.from_pylist(plain())
    parquet.write_table(content, tmp_path / "log.parquet")
    with ipc.new_file(tmp_path / "log.arrow", content.schema) as file:
        file.write_table(content)
    for name in ("log.parquet", "log.arrow"):
        check(read_log(tmp_path / name), expected_of(ROWS), ())
        with pytest.raises(ValueError, match="pyarrow cannot read"):
            read_log(put(tmp_path, f"broken_{name}", (tmp_path / name).read_bytes()[:20]))


@pytest.mark.parametrize("outlier", [1e3, 1e9, -1e9, 1e300])
def test_an_outlier_kills_no_groups_unsaid(outlier, tmp_path):
    lines = [{"reward": r, "prompt": f"q{p}", "step": s} for p, s, r in ROWS]
    lines.append({"reward": outlier, "prompt": "q1", "step": N_STEPS + 1})
    file = put(tmp_path, "log.jsonl", lines_of(lines))
    try:
        log = read_log(file)
    except ValueError:
        return
    usual = expected_of(ROWS)
    assert log.dead.sum() == usual["right"] + usual["wrong"] + 1 or log.reading.doubts
