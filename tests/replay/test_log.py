"""Logs of rollouts: what is read, what is refused and why, and that the fast reader agrees with an obvious one."""

import csv
import gzip
import io
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc.replay import _lines as _log_lines
from cero_alloc.replay import _reader as _log_reader
from cero_alloc.replay import _tally as _log_tally
from cero_alloc.replay._reader import read_log

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def table_of(log):
    """Return {(prompt, step): {reward: rollouts}}."""
    table = defaultdict(dict)
    for cell, reward, rollouts in zip(log.entry_group, log.entry_reward, log.entry_rollouts, strict=True):
        key = log.prompt_ids[log.group_prompt[cell]], float(log.steps[log.group_step[cell]])
        table[key][float(reward)] = int(rollouts)
    return dict(table)


def write(tmp_path, text, name="log.csv"):
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


# ---------------------------------------------------------------- against an obvious reader


def naive_number(value, booleans, words):
    if isinstance(value, bool) and not booleans:
        return None
    if isinstance(value, str) and words and value.strip().lower() in ("true", "false", ""):
        return {"true": 1.0, "false": 0.0, "": math.nan}[value.strip().lower()]
    if value is None and words:
        return math.nan
    try:
        return float(value) if isinstance(value, (str, int, float)) else None
    except (ValueError, OverflowError):
        return None


def naive_read(records, counted):
    """Return the table of good records (None: unparsable), how many are bad, and how many have no reward."""
    table, bad, unscored = defaultdict(Counter), 0, 0
    for record in records:
        numbers = [] if record is None else [naive_number(v, not counted and i, i) for i, v in enumerate(record[1:])]
        good = bool(numbers) and all(x is not None for x in numbers) and math.isfinite(numbers[0])
        good = good and type(record[0]) in (str, int, float, list, dict) and record[0] != "" and record[0] == record[0]
        good = good and not any(map(math.isinf, numbers))
        if good and counted:
            _, wins, trials = numbers
            good = not (math.isnan(wins) or math.isnan(trials))
            good = good and wins == int(wins) and trials == int(trials) and 0 <= wins <= trials and trials >= 1
        if not good:
            bad += 1
            continue
        if not counted and math.isnan(numbers[1]):
            unscored += 1
            continue
        name = json.dumps(record[0]) if isinstance(record[0], (list, dict)) else str(record[0])
        key = name.removesuffix(".0"), numbers[0]
        for reward, rollouts in ((1.0, numbers[1]), (0.0, numbers[2] - numbers[1])) if counted else ((numbers[1], 1),):
            if rollouts:
                table[key][reward] += int(rollouts)
    return {key: dict(rewards) for key, rewards in table.items()}, bad, unscored


def mapped(table, log):
    """Return the table with rewards mapped to [0, 1], as the log has them."""
    low, high = log.reading.scale.low, log.reading.scale.high
    return {key: {(r - low) / (high - low): n for r, n in rewards.items()} for key, rewards in table.items()}


ids = st.sampled_from(["a", "b", "c d", "\u00e9", "7"])
steps = st.sampled_from(["0", "1", "1.0", "10", "-2", "nan", "x", ""])
rewards = st.sampled_from(["0", "1", "1.0", "0.5", "0.25", "True", "false", "1.5", "-0.5", "nan", "", "zero"])
amounts = st.sampled_from(["0", "1", "3", "8", "8.0", "2.5", "-1", "inf", "many", ""])
junk = st.sampled_from(["", "   ", "a,1", "a,1,1,1,1,1", "#", ",,", "prompt_id,step,reward"])


@settings(max_examples=150)
@given(st.data())
def test_csv_reader_agrees_with_the_obvious_one(data):
    counted = data.draw(st.booleans())
    fields = st.tuples(ids | st.just(""), steps, amounts, amounts) if counted else st.tuples(ids, steps, rewards)
    good = (
        st.tuples(ids, st.just("3"), st.just("2"), st.just("4"))
        if counted
        else st.tuples(ids, st.just("3"), st.just("1"))
    )
    # Long good stretches with an odd line here and there, so that both paths are taken.
    lines = data.draw(st.lists(st.one_of(*[good.map(",".join)] * 6, fields.map(",".join), junk), max_size=90))
    lines.append("z,1,1,2" if counted else "z,1,1")  # one line at least is good
    header = "prompt_id,step,successes,trials" if counted else "prompt_id,step,reward"
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join([header, *lines]) + data.draw(st.sampled_from(["", end]))
    width = header.count(",") + 1
    records = [row if len(row) == width else None for row in (line.split(",") for line in lines if line.strip())]
    expected, bad, unscored = naive_read(records, counted)
    log = read_blocks(text.encode(), "csv", data.draw(st.sampled_from([7, 60, 1 << 20])))
    assert table_of(log) == mapped(expected, log)
    assert (log.n_bad, log.n_lines, log.reading.unscored) == (bad, len(records), unscored)


json_values = st.sampled_from(
    [0, 1, 1.0, 0.5, True, False, "1", "true", "x", None, [1], {}, -1, 2, 10**400, float("nan")]
)


@settings(max_examples=150)
@given(st.data())
def test_jsonl_reader_agrees_with_the_obvious_one(data):
    odd = st.fixed_dictionaries(
        {"id": ids | json_values | st.just(7), "step": json_values},
        optional={"reward": json_values.filter(lambda value: value not in ([1], {})), "text": ids},
    )
    good = st.fixed_dictionaries({"id": ids, "step": st.integers(0, 3), "reward": st.sampled_from([0, 1, True, 0.5])})
    junk_text = st.sampled_from(["", " ", "{", "}", "[]", "1", "null", '{"id":"a","step":1,"reward":1} x', '{"a":[{}'])
    entry = st.one_of(*[good.map(json.dumps)] * 6, odd.map(json.dumps), junk_text)
    lines = ['{"id": "z", "step": 1, "reward": 1}', *data.draw(st.lists(entry, max_size=90))]
    log = read_blocks("\n".join(lines).encode(), "jsonl", data.draw(st.sampled_from([7, 60, 1 << 20])))
    records = []
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
            records.append((entry["id"], entry["step"], entry.get("reward")))
        except (ValueError, TypeError, KeyError):
            records.append(None)
    expected, bad, unscored = naive_read(records, False)
    assert table_of(log) == mapped(expected, log)
    assert (log.n_bad, log.n_lines, log.reading.unscored) == (bad, len(records), unscored)


def read_blocks(data, format, block):
    """Read bytes as if from a file, in blocks of so many bytes."""
    before = _log_lines._BLOCK, _log_tally._FLUSH
    _log_lines._BLOCK, _log_tally._FLUSH = block, 32
    try:
        source = _log_lines.Source(io.BufferedReader(io.BytesIO(data)), lambda _: None)
        reader = _log_reader._Reader("log", _log_reader.Options({}, format=format))
        reader._file = "log"
        reader._read_text(source, format)
        return reader.log(("log",))
    finally:
        _log_lines._BLOCK, _log_tally._FLUSH = before


texts = st.text(st.sampled_from('ab, \n"\r\u2028'), max_size=8)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(ids, st.integers(0, 3), texts, st.integers(0, 1)), min_size=1, max_size=40), st.integers(1, 99)
)
def test_quoted_fields_with_line_breaks_are_read_in_one_piece(rows, block):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt_id", "step", "completion", "reward"])
    writer.writerows(rows)
    log = read_blocks(out.getvalue().encode(), "csv", block)
    expected, _, _ = naive_read([(name, step, reward) for name, step, _, reward in rows], False)
    assert table_of(log) == mapped(expected, log)
    assert (log.n_bad, log.n_lines) == (0, len(rows))


# ---------------------------------------------------------------- formats and columns


def test_the_same_log_in_every_format(tmp_path, monkeypatch):
    rows = [("a", 0, 1), ("a", 0, 0), ("b", 0, 1), ("a", 1, 1)]
    plain = "prompt_id,step,reward\n" + "".join(f"{p},{t},{r}\n" for p, t, r in rows)
    lines = "".join(json.dumps({"prompt": p, "global_step": t, "score": bool(r)}) + "\n" for p, t, r in rows)
    counted = "Prompt_ID, Epoch ,successes,n\na,0,1,2\nb,0,1,1\na,1,1,1\n"
    files = [
        write(tmp_path, plain),
        write(tmp_path, "\ufeff" + plain.replace("\n", "\r\n"), "bom.csv"),
        write(tmp_path, gzip.compress(plain.encode()), "log.csv.gz"),
        write(tmp_path, gzip.compress(plain[:30].encode()) + gzip.compress(plain[30:].encode()), "two_members.gz"),
        write(tmp_path, lines, "log.jsonl"),
        write(tmp_path, lines, "log.unknown"),
        write(tmp_path, gzip.compress(lines.encode()), "log.ndjson.gz"),
        write(tmp_path, counted, "counted.csv"),
    ]
    expected = {("a", 0.0): {1.0: 1, 0.0: 1}, ("b", 0.0): {1.0: 1}, ("a", 1.0): {1.0: 1}}
    for file in files:
        log = read_log(file)
        assert table_of(log) == expected, file
        assert log.n_bad == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(plain.encode())))))
    assert table_of(read_log("-")) == expected
    assert table_of(read_log(files[0], format="csv", prompt_id="prompt_id", reward="reward")) == expected


def test_what_the_fields_hold(tmp_path):
    file = write(tmp_path, "prompt_id,step,reward\nb,2,1\na,1,0.5\na,1,0.5\na,2,0\nb,2,1\nb,2,0\n")
    log = read_log(file)
    assert log.prompt_ids == ("b", "a")
    assert log.steps.tolist() == [1.0, 2.0]
    assert (log.group_prompt.tolist(), log.group_step.tolist()) == ([1, 0, 1], [0, 1, 1])
    assert (log.trials.tolist(), log.successes.tolist()) == ([2, 3, 1], [1.0, 2.0, 0.0])
    assert log.dead.tolist() == [True, False, True]
    assert (log.n_prompts, log.n_steps, log.n_rollouts, log.fractional) == (2, 2, 6, True)
    assert log.visits.tolist() == [1, 2]
    assert log.groups_of_steps() == [slice(0, 1), slice(1, 3)]
    bank = log.bank(prior=(2.0, 2.0), forgetting=0.9)
    history = log.history()
    assert [entry[0] for entry in history] == [["a"], ["b", "a"]]
    assert bank.select_forgetting(history).n_predictions == 1
    assert len(bank) == 2


def test_a_reward_column_wins_only_where_it_is_named(tmp_path):
    text = "prompt_id,step,reward,successes,trials\na,0,0,3,4\n"
    assert read_log(write(tmp_path, text)).n_rollouts == 4
    assert read_log(write(tmp_path, text), reward="reward").n_rollouts == 1


def test_sample_keeps_whole_prompts(tmp_path):
    lines = [f"p{i % 30},{i % 4},{i % 3 / 2}" for i in range(400)]
    log = read_log(write(tmp_path, "\n".join(["prompt_id,step,reward", *lines])))
    part = log.sample(7, seed=3)
    whole = table_of(log)
    assert part.n_prompts == len(set(part.prompt_ids)) == 7
    assert table_of(part) == {key: value for key, value in whole.items() if key[0] in part.prompt_ids}
    assert log.sample(30) is log
    with pytest.raises(ValueError, match=r"^n_prompts must be at least 1, got n_prompts = 0\."):
        log.sample(0)


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            "a,step,reward",
            {},
            r"must have a column for the prompt_id, got 'a', 'step', 'reward'. Name it: --prompt-id NAME",
        ),
        ("id,b,reward", {}, r"a column for the step, got .*--step NAME .* step= in Python"),
        ("id,step,x", {}, r"a column for a reward, or both successes and trials, got .*--reward NAME"),
        ("id,step,successes", {}, r"a column for trials as well, got .*--trials NAME"),
        ("id,step,trials", {"trials": "trials"}, r"a column for successes as well, got .*--successes NAME"),
        ("id,step,reward", {"reward": "r"}, r"must have the column 'r', got 'id', 'step', 'reward'"),
        ("id,step,reward", {"format": "xml"}, r"format must be one of \['csv', 'jsonl', .*\], got format = 'xml'"),
        ("id,step,reward", {"format": "jsonl"}, r"must hold one JSON object per line, got 'id,step,reward'"),
        ("", {}, r"must hold a log, got an empty file"),
        ("\n \n", {}, r"must hold a log, got an empty file"),
        ("id,step,reward", {}, r"must hold at least one good line, got 0 lines"),
        ("id,step,reward\na,1,x", {}, r"got 1 lines, 1 bad:\n  line 2: reward is not a number: 'a,1,x'"),
    ],
)
def test_what_is_refused(tmp_path, header, options, message):
    with pytest.raises(ValueError, match=message):
        read_log(write(tmp_path, header), **options)


def test_jsonl_without_the_keys_lists_those_there_are(tmp_path):
    text = '{"config": 1}\n{"uid": 1, "step": 1, "reward": 1}\n'
    with pytest.raises(ValueError, match=r"prompt_id, got 'config'"):
        read_log(write(tmp_path, text, "log.jsonl"))
    assert read_log(write(tmp_path, text, "log.jsonl"), prompt_id="uid").n_bad == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,1", "2 fields where the header has 3"),
        ("a", "1 field where the header has 3"),
        (",1,1", "no prompt id"),
        ("a,x,1", "step is not a number"),
        ("a,inf,1", "step is not finite"),
        ("a,1,zero", "reward is not a number"),
        ("a,1,inf", "reward is not finite"),
        ("a,1,-inf", "reward is not finite"),
    ],
)
def test_reasons_of_bad_reward_lines(tmp_path, line, reason):
    log = read_log(write(tmp_path, f"id,step,reward\na,1,1\n{line}\n"))
    assert [(bad.number, bad.reason, bad.text) for bad in log.bad_lines] == [(3, reason, line)]


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ("5,4", "successes exceed trials"),
        ("-1,4", "successes are negative"),
        ("0,0", "trials are not between 1 and 100000000"),
        ("1,1e12", "trials are not between 1 and 100000000"),
        ("1.5,4", "successes and trials are not whole numbers; give one reward per line instead"),
        ("1,nan", "trials is not finite"),
    ],
)
def test_reasons_of_bad_count_lines(tmp_path, counts, reason):
    log = read_log(write(tmp_path, f"id,step,successes,trials\na,1,1,2\na,1,{counts}\n"))
    assert [bad.reason for bad in log.bad_lines] == [reason]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON: Expecting property name"),
        ('{"id": 1, "reward": 1}', "no key 'step'"),
        ('{"id": NaN, "step": 1, "reward": 1}', "prompt id is neither text nor a number"),
        ('{"id": null, "step": 1, "reward": 1}', "prompt id is neither text nor a number"),
        ('{"id": 1, "step": true, "reward": 1}', "step is not a number"),
        ('{"id": 1, "step": 1, "reward": [{}]}', "reward is not a number"),
        ('{"id": 1, "step": 1, "reward": []}', "no reward in the list"),
    ],
)
def test_reasons_of_bad_json_lines(tmp_path, line, reason):
    log = read_log(write(tmp_path, f'{{"id": 1, "step": 1, "reward": 1}}\n{line}\n', "log.jsonl"))
    assert [bad.number for bad in log.bad_lines] == [2]
    assert log.bad_lines[0].reason.startswith(reason)


def test_five_bad_lines_are_shown_and_all_are_counted(tmp_path):
    lines = [f"p{i},1,{'x' * 99 if i % 4 else 1}" for i in range(400)]
    log = read_log(write(tmp_path, "\n".join(["id,step,reward", *lines])))
    assert (log.n_bad, log.n_lines, log.n_rollouts) == (300, 400, 100)
    assert [bad.number for bad in log.bad_lines] == [3, 4, 5, 7, 8]
    assert all(len(bad.text) == 60 for bad in log.bad_lines)
    assert log.n_prompts == 100  # not those of bad lines


def test_a_stray_quote_costs_its_own_line_only(tmp_path):
    lines = ['"a,1,1', *["b,1,1"] * 50, 'c,1,"0"', "d,1,1"]
    log = read_log(write(tmp_path, "\n".join(["id,step,reward", *lines])))
    assert (log.n_bad, log.n_rollouts) == (1, 52)
    assert log.bad_lines[0].number == 2


def test_an_open_quote_does_not_swallow_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(_log_lines, "_MOST_LINES", 10)
    log = read_log(write(tmp_path, "\n".join(["id,step,reward", '"a,1,1', *["b,1,1"] * 50])))
    assert (log.n_bad, log.n_rollouts) == (1, 50)


def test_fields_may_have_any_length(tmp_path):
    log = read_log(write(tmp_path, f'id,step,reward\na,1,1\n"{"x" * 140_000}",1,0\nb,1,0\n'))
    assert (log.n_bad, log.n_rollouts, log.n_prompts) == (0, 3, 3)
    assert csv.field_size_limit() == 131_072  # of the process, as before


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_a_truncated_gzip_keeps_what_was_read(tmp_path, name):
    rng = np.random.default_rng(0)
    rows = [(int(p), int(r)) for p, r in zip(rng.integers(0, 10**6, 20_000), rng.integers(0, 2, 20_000), strict=True)]
    if "csv" in name:
        text = "id,step,reward\n" + "".join(f"{p},0,{r}\n" for p, r in rows)
    else:
        text = "".join(f'{{"id": {p}, "step": 0, "reward": {r}}}\n' for p, r in rows)
    packed = gzip.compress(text.encode())
    log = read_log(write(tmp_path, packed[: len(packed) // 2], name))
    assert log.broken == "Compressed file ended before the end-of-stream marker was reached"
    assert 5_000 < log.n_lines < 15_000
    assert log.n_bad == 0
    assert log.successes.sum() == sum(r for _, r in rows[: log.n_lines])
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 255
    assert read_log(write(tmp_path, bytes(flipped), name), success_at=1).broken  # what was damaged may be any number
    with pytest.raises(ValueError, match=r"empty file \(Compressed file ended"):
        read_log(write(tmp_path, packed[:20], name))


def test_bytes_that_are_no_text_stay_apart(tmp_path):
    log = read_log(write(tmp_path, b"id,step,reward\n\xff,1,1\n\xfe,1,1\n"))
    assert log.prompt_ids == ("\\xff", "\\xfe")


@pytest.mark.parametrize("name", ["gemma-2-9b-it", "lcb-exec-dscoder-1.3b-to-33b", "qwen2.5-7b-to-72b"])
def test_real_counts(name):
    file = DATA / f"{name}.csv"
    if not file.exists():
        pytest.skip(f"{file} is not part of the package")
    with open(file, newline="") as handle:
        rows = list(csv.DictReader(handle))
    log = read_log(file)
    assert log.n_bad == 0
    assert log.n_rollouts == sum(int(row["trials"]) for row in rows)
    assert log.successes.sum() == sum(int(row["successes"]) for row in rows)
    assert log.prompt_ids == tuple(dict.fromkeys(row["prompt_id"] for row in rows))
