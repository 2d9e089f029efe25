"""Mangled logs: whatever a file holds, it is read, read in part with a warning, or refused in words."""

import json
import random

import numpy as np
import pytest

from cero_alloc.__main__ import main
from cero_alloc.replay import read_log
from cero_alloc.replay._presets import PRESETS

NAMES = {
    "prompt_id": ("prompt_id", "prompt", "index", "input", "task_id", "messages"),
    "step": ("step", "global_step", "epoch", "iteration"),
    "reward": ("reward", "score", "rewards", "acc", "accuracy_reward", "correct"),
}
OTHERS = ("completion", "uid", "data_source", "split", "n", "advantage", "loss", "", "a.b", "Prompt")
ODD_NUMBERS = (
    *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, 1e18, 10**30, 10**400, -1, -0.0, 0.3, 2**63, 8),
    *(2**53, 0.1 + 0.2, 1.0000001192092896, -1e9),
)
ODD_VALUES = (
    *(
        None,
        True,
        False,
        "",
        " ",
        "nan",
        "Infinity",
        "1e999",
        "1_000",
        "step_3",
        "3/8",
        "8/0",
        "0/0",
        "a/b",
        "-1/2",
        "/",
    ),
    *([], {}, [[]], [None], [1, "x"], {"score": 1}, {"a": {"score": 1, "weight": None}}, [{"role": "user"}], "\ud800"),
    *("\x00", '"', ";", ",", "\t", "\r", "{", "[1", "true", "N/A", "日本", "1,5", "0x10", "٣"),
)
OPTIONS = (
    *[{}] * 16,
    *({"last_attempt": True}, {"step": "none"}, {"group_size": 4}, {"reward_range": (-2.0, 2.0)}),
    *(
        {"trials": 8},
        {"trials": "n"},
        {"where": "split=train"},
        {"group": "uid"},
        {"reward": "score+acc"},
        {"success_at": 0.5},
    ),
    *({"prompt_id": "data_source,index"}, {"reward": "reward.score"}, {"reward": "a.b.c"}, {"prompt_id": "prompt"}),
    *({"layout": layout} for layout in PRESETS),
)


def odd(chance):
    return chance.choice(ODD_NUMBERS) if chance.random() < 0.5 else chance.choice(ODD_VALUES)


def records(chance):
    """Return records of a run, of which some have odd values, other types, or lack keys."""
    names = [chance.choice(NAMES[role]) for role in ("prompt_id", "step", "reward")]
    more = chance.sample(OTHERS, chance.randrange(4))
    rate = chance.choice((0.0, 0.0, 0.01, 0.1, 0.6))
    kind = chance.choice(
        (float, int, bool, str, lambda x: 2 * x - 1, lambda x: 10 * x, lambda x: [x, 1 - x], lambda x: {"score": x})
    )
    ids = chance.choice(
        (int, str, float, lambda i: f"q{i}", lambda i: [{"role": "user", "content": str(i)}], lambda i: [i, 1])
    )
    found = []
    for step in range(chance.randrange(1, 5)):
        for prompt in range(chance.randrange(1, 5)):
            for _ in range(chance.randrange(1, 6)):
                record = dict(zip(names, (ids(prompt), step, kind(chance.randrange(2))), strict=True))
                record |= {name: chance.choice((prompt, "x", "train", 8)) for name in more}
                for key in [key for key in record if chance.random() < rate]:
                    if chance.random() < 0.3:
                        del record[key]
                    else:
                        record[key] = odd(chance)
                if chance.random() < rate:
                    record = dict(chance.sample(list(record.items()), len(record)))
                found.append(record)
    return found


def as_csv(found, chance):
    mark = chance.choice(",,;\t|")
    columns = list(dict.fromkeys(key for record in found for key in record))
    chance.shuffle(columns)

    def cell(value):
        text = value if isinstance(value, str) else "" if value is None else str(value)
        return f'"{text}"' if chance.random() < 0.05 else text

    return "\n".join([mark.join(columns), *(mark.join(cell(r.get(c)) for c in columns) for r in found)])


def as_jsonl(found, chance):
    return "\n".join(json.dumps(r, ensure_ascii=chance.random() < 0.5) for r in found)


def as_array(found, chance):
    return json.dumps(found, indent=chance.choice((None, 1)))


def as_table(found, chance):
    columns = list(found[0]) if found else []
    return json.dumps({"columns": columns, "data": [list(r.values()) for r in found]})


def as_columns(found, chance):
    return json.dumps({key: [r.get(key) for r in found] for key in (found[0] if found else {})})


def as_nest(found, chance):
    content = found
    for _ in range(chance.choice((1, 2, 5, 900, 100_000))):
        if len(str(content)) > 100_000:
            break
        content = [content] if chance.random() < 0.5 else {"rows": content}
        if chance.random() < 0.3:
            break
    return json.dumps(content)


def as_depth(found, chance):
    return chance.choice(("[", '{"a":', '[{"step":', "}", "]")) * chance.choice((1, 3, 5000, 100_000))


def as_inspect(found, chance):
    samples = [
        {
            "id": i % 3,
            "epoch": i,
            "scores": {"a": {"value": chance.choice((1, "C", "P", None, [1])) if i % 9 else odd(chance)}},
        }
        for i, _ in enumerate(found)
    ]
    return json.dumps({"eval": chance.choice(({"task": "t"}, {}, {"task": []})), "samples": samples})


def as_evalplus(found, chance):
    tasks = {
        str(i % 3): [{"base_status": "pass", "plus_status": chance.choice(("fail", "pass", None))}]
        for i, _ in enumerate(found)
    }
    return json.dumps({"eval": tasks | {"x": [odd(chance)]}})


FORMATS = (
    *(as_csv, as_csv, as_csv, as_jsonl, as_jsonl, as_jsonl, as_array, as_table, as_columns, as_nest, as_depth),
    *(as_inspect, as_evalplus),
)


def cut(data, chance):
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return chance.choice((data[:a], data[b:], data[:a] + data[b:], data[a:b]))


def spoil(data, chance):
    raw = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        if raw:
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def swap(data, chance):
    """Exchange brackets, quotes and marks for others, in all of the file or in one place."""
    old, new = (chance.choice((b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b";")) for _ in range(2))
    return data.replace(old, new, chance.choice((-1, 1, 3)))


def shuffle(data, chance):
    lines = data.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines)


def repeat(data, chance):
    return data + chance.choice((b"", b"\n", b"\r\n", b"\x00")) + data


def noise(data, chance):
    return chance.randbytes(chance.randrange(400))


def mark(data, chance):
    return (
        chance.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"PAR1", b" \n\n"))
        + data
    )


def empty(data, chance):
    return chance.choice(
        (b"", b"\n", b" ", b"\r\n\r\n", b"{}", b"[]", b"[{}]", b"null", b"0", b'""', b"a", b",,,", b"{}\n{}")
    )


MANGLES = (cut, cut, spoil, spoil, swap, swap, shuffle, repeat, noise, mark, empty)
ENDINGS = (".csv", ".jsonl", ".json", "", ".tsv", ".parquet", "_step_3.jsonl", ".csv.gz", ".txt", ".eval")
OWN_ENDINGS = {as_csv: ".csv", as_jsonl: ".jsonl"}


def mangled(seed):
    """Return the name of a file, its bytes, and options."""
    chance = random.Random(seed)
    write = chance.choice(FORMATS)
    ending = OWN_ENDINGS.get(write, ".json") if chance.random() < 0.8 else chance.choice(ENDINGS)
    data = write(records(chance), chance).encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        data = data.decode("utf-8", "replace").encode("utf-16")
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        data = chance.choice(MANGLES)(data, chance)
    return f"log{ending}", data, chance.choice(OPTIONS)


def check(log):
    """What is read must make sense, and much that is left out must be said."""
    assert 0 <= log.n_bad <= log.n_lines
    assert log.n_bad <= 0.01 * log.n_lines or log.reading.doubts
    assert log.trials.size == log.successes.size >= 1
    assert log.trials.min() >= 1
    assert ((log.entry_reward >= 0.0) & (log.entry_reward <= 1.0)).all()
    assert ((log.successes >= 0.0) & (log.successes <= log.trials * (1 + 1e-12))).all()
    assert np.isfinite(log.steps).all()


def read_one(file, options):
    """Read a log, or be told in words why not."""
    try:
        log = read_log(file, **options)
    except (ValueError, OSError) as error:
        refusal = str(error)
    else:
        refusal = ""
        check(log)
    assert not refusal or len(refusal.split()) > 2


def run_one(file, options, chance):
    report = file.parent / "report.json"
    flags = []
    for name, value in options.items():
        flag = "--from" if name == "layout" else "--" + name.replace("_", "-")
        flags.append(
            flag if value is True else f"{flag}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        )
    if chance.random() < 0.5:
        flags.append("--keep-going")
    try:
        status = main(["replay", str(file), "--json", str(report), "--no-plot", "--n-boot", "20", *flags])
    except SystemExit as stop:
        status = stop.code
    assert status in (0, 2)
    if status == 0:
        found = json.loads(report.read_text())
        assert found["log"]["bad_lines"] <= 0.01 * found["log"]["lines"] or found["warnings"]


def try_all(seeds, folder, every):
    """Read the logs of all seeds, and hand each ``every``-th to the command as well."""
    for seed in seeds:
        name, data, options = mangled(seed)
        file = folder / name
        file.write_bytes(data)
        try:
            read_one(file, options)
            if seed % every == 0:
                run_one(file, options, random.Random(seed))
        except Exception as error:
            error.add_note(f"seed {seed}, {name}, {options}, {data[:300]!r}")
            raise
        file.unlink()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("prompt,step,reward\nq,1,1e308\nq,1,-1e308\nq,1,1\n", {}),
        ("prompt,step,reward\nq,1,1e308\nq,1,-1e308\nq,1,1\n", {"trials": 8}),
        ("prompt,step,reward\nq,-1e308,1\nq,1e308,1\nq,-1e308,0\n", {}),
        ("prompt,step,reward\nq,1,1e308\nq,1,0\n", {"reward_range": (-1e308, 1e308)}),
        ("prompt,step,passed,n\nq,1,1e308,1e308\nq,1,3,8\n", {}),
    ],
)
def test_huge_numbers(text, options, tmp_path, capsys):
    file = tmp_path / "log.csv"
    file.write_text(text)
    read_one(file, options)
    run_one(file, options, random.Random(0))


@pytest.mark.parametrize("part", range(3))
def test_mangled_logs_never_crash(part, tmp_path, capsys):
    try_all(range(100 * part, 100 * part + 100), tmp_path, every=10)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_mangled_logs_never_crash(part, tmp_path, capsys):
    try_all(range(1000 * (part + 1), 1000 * (part + 2)), tmp_path, every=50)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("bad", ["value", "syntax"])
def test_a_bad_line_keeps_its_place_in_a_group_of_consecutive_lines(tmp_path, kind, bad):
    lines = [f"{i // 8},{i % 2}" if kind == "csv" else f'{{"step": {i // 8}, "reward": {i % 2}}}' for i in range(32)]
    if kind == "csv":
        lines[5] = "0,x" if bad == "value" else "0"
        lines.insert(0, "step,reward")
    else:
        lines[5] = '{"step": 0, "reward": "x"}' if bad == "value" else '{"step": 0, "rew'
    file = tmp_path / f"log.{kind}"
    file.write_text("\n".join(lines) + "\n")
    log = read_log(file, group_size=4)
    assert log.trials.tolist() == [4, 3] + [4] * 6
    assert log.prompt_ids == tuple(f"group {i}" for i in range(8))


def test_a_step_file_that_ends_within_a_group_does_not_shift_the_groups_of_the_next(tmp_path):
    files = [tmp_path / f"train_data_step{step}.jsonl" for step in (1, 2, 3)]
    for file, n in zip(files, (8, 7, 8), strict=True):
        file.write_text("".join(f'{{"reward": {i % 2}}}\n' for i in range(n)))
    assert read_log(*files, group_size=4).trials.tolist() == [4, 4, 4, 3, 4, 4]
