"""The report as a web page: valid, safe, complete, and with the numbers of the JSON."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cero_alloc import __main__ as cli
from cero_alloc import training_allocator
from cero_alloc._pages.markup import number, percent
from cero_alloc.replay import against_uniform
from cero_alloc.replay._html import report_html
from cero_alloc.replay._reader import read_log
from cero_alloc.replay._report import replay_report, report_json

STEPS, POLICIES, SIZES = (
    "Rollouts by outcome of their group",
    "Rollouts in mixed groups by policy",
    "Dead groups at other group sizes",
)
VOID = {"meta"}
PARTS = {  # keys, and the headings that they fill
    ("over_steps",): [STEPS],
    ("at_sizes",): [SIZES],
    ("less", "policies"): [POLICIES, "All policies with the same rollouts"],
    ("warnings",): ["Warnings"],
    ("python",): ["The recommended call"],
    ("single_rollouts",): ["Single rollouts beside groups"],
    ("prompts_split",): ["Prompts"],
    ("calibration", "prior", "forgetting"): ["Calibration and settings"],
    ("group_sizes",): ["Group sizes"],
}
MORE = {
    "over_steps": [
        {"first_step": 0.0, "last_step": 0.0, "rollouts": 320, "all_wrong": 0.4, "mixed": 0.45, "all_right": 0.1, "between": 0.05},
        {"first_step": 1.0, "last_step": 2.0, "rollouts": 640, "all_wrong": 0.2, "mixed": 0.55, "all_right": 0.25, "between": 0.0},
    ],
    "at_sizes": [
        {"size": 4, "all_wrong": 0.4, "mixed": 0.35, "all_right": 0.25, "logged": False},
        {"size": 8, "all_wrong": 0.3, "mixed": 0.5, "all_right": 0.2, "logged": True},
        {"size": 16, "all_wrong": 0.25, "mixed": 0.6, "all_right": 0.15, "logged": False},
    ],
    "single_rollouts": {
        "size": 8.0,
        "rows": [
            {"scheme": "groups of 8", "rollouts": 960, "with_signal": 0.5, "prompts_per_1000": 125.0, "square": 0.0912},
            {"scheme": "single rollouts", "rollouts": 960, "with_signal": 1.0, "prompts_per_1000": 1000.0, "square": 0.1},
        ],
    },
    "prompts_split": {
        "always_right": 5, "always_wrong": 12, "never_mixed": 3, "solved": 4, "mixed": 16,
        "share": {"never_mixed": 0.075, "solved": 0.1},
    },
}  # fmt: skip


class Page(HTMLParser):
    """A parsed page; tags that are not closed in order raise."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.tables, self.headings = [], [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.caption, self.rows = "", []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, text):
        if self.open[-1:] == ["style"]:
            return
        self.texts.append(text)
        if self.open and self.open[-1] in ("h2", "h3", "summary"):
            self.headings.append(text)
        if "caption" in self.open:
            self.caption += text
        elif "table" in self.open and text.strip():
            self.rows[-1][-1] += text

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def of(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    def table(self, beginning):
        (rows,) = (rows for caption, rows in self.tables.items() if caption.startswith(beginning))
        return rows[1:]


def numbers(cell):
    """Return the numbers of a cell in their order."""
    return [float(part.replace(",", "")) for part in re.findall(r"[-+]?\d[\d,]*\.?\d*", cell.replace(", ", " "))]


def log_text(rate, visits=3):
    rng = np.random.default_rng(0)
    rows = (f"p{p},{t},8,{rng.binomial(8, r)}\n" for t in range(visits) for p, r in enumerate(rate))
    return "prompt_id,step,trials,successes\n" + "".join(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text(log_text(np.random.default_rng(1).beta(0.5, 0.5, 40)))
    return MORE | report_json(replay_report("log.csv", read_log(path), n_boot=20))


@pytest.fixture
def data(made):
    return dict(made)


def test_the_page_is_valid_and_loads_nothing(data):
    text = report_html(data)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    assert not any({"src", "href", "onload", "style"} & set(attributes) for _, attributes in page.tags)
    assert not re.search(r"http|url\(|@import", text)
    assert page.of("h1")
    assert page.text.startswith("Replay of log.csv Replay of log.csv " + data["verdict"])


def test_every_picture_is_named_and_every_table_has_heads(data):
    page = Page(report_html(data))
    for svg in page.of("svg"):
        assert ("aria-hidden" in svg) != bool(svg.get("aria-label") and svg["role"] == "img")
    assert all(cell["scope"] in ("col", "row") for cell in page.of("th"))
    assert all(page.tables)
    assert len(page.of("table")) == len(page.of("caption")) == len(page.tables)


def test_the_table_over_steps_has_the_numbers_of_the_json(data):
    rows = Page(report_html(data)).table("Rollouts, and their shares by outcome")
    kinds = ["all_wrong", "mixed", "between", "all_right"]
    kinds = [kind for kind in kinds if kind != "between" or any(row["between"] for row in data["over_steps"])]
    assert len(rows) == len(data["over_steps"])
    for cells, row in zip(rows, data["over_steps"], strict=True):
        assert numbers(cells[0]) == sorted({row["first_step"], row["last_step"]})
        assert numbers(cells[1]) == [row["rollouts"]]
        assert [numbers(cell)[0] for cell in cells[2:]] == pytest.approx([100 * row[kind] for kind in kinds], abs=0.051)


@pytest.mark.parametrize("less", [True, False])
def test_the_table_of_policies_has_the_numbers_of_the_json(data, less):
    given = data["less"]["policies"]
    if not less:
        given, data["less"] = data["policies"], None
    rows = Page(report_html(data)).table("Policies with 50%" if less else "Policies with the logged number of rollouts")
    of = {row["name"]: row for row in given}
    assert {cells[0] for cells in rows} == set(of)
    for name, *cells in rows:
        row = of[name]
        assert numbers(cells[0]) == [row["dealt"]]
        assert numbers(cells[1]) == pytest.approx([row["mean_group"]], abs=0.051)
        for cell, key in zip(cells[2:], ("mixed_share", "kept"), strict=True):
            wanted = [100 * row[key + end] for end in ("", "_interval_low", "_interval_high")]
            assert numbers(cell) == pytest.approx(wanted, abs=0.051)
    shares = [of[cells[0]]["mixed_share"] for cells in rows]
    assert shares == sorted(shares, reverse=True)


def test_the_table_of_sizes_has_the_numbers_of_the_json(data):
    rows = Page(report_html(data)).table("Expected shares of groups")
    for cells, row in zip(rows, data["at_sizes"], strict=True):
        assert numbers(cells[0]) == [row["size"]]
        assert ("logged" in cells[0]) == row["logged"]
        wanted = [100 * share for share in (row["all_wrong"], row["mixed"], row["all_right"], 1 - row["mixed"])]
        assert [numbers(cell)[0] for cell in (*cells[1:3], *cells[-2:])] == pytest.approx(wanted, abs=0.051)


def test_the_bars_fill_their_height_and_every_policy_has_a_dot(data):
    data["over_steps"] = MORE["over_steps"]
    page = Page(report_html(data))
    heights = [float(rect["height"].rstrip("%")) for rect in page.of("rect") if "y" in rect]
    assert heights == pytest.approx([40, 45, 5, 10, 20, 55, 25])
    assert len(page.of("circle", cy="50%")) == len(data["less"]["policies"])
    assert len(page.of("div", class_="row marked")) == 2  # Uniform and the logged size
    assert len(page.of("div", class_="row marked hollow")) == 1
    for line in page.of("line", class_="interval"):
        assert 0 <= float(line["x1"].rstrip("%")) <= float(line["x2"].rstrip("%")) <= 100


def test_captions_say_what_the_numbers_are(data):
    data |= MORE
    text = Page(report_html(data)).text
    assert "took 48% of the rollouts: 55% in step 0 and 45% in steps 1 to 2." in text
    assert "65% of groups of 4, 50% of the logged groups of 8 and 40% of groups of 16 are expected to be dead." in text
    rows = {row["name"]: row["mixed_share"] for row in data["less"]["policies"]}
    best = max((name for name in rows if name != "as logged"), key=rows.__getitem__)
    assert (
        f"With 50% of the rollouts, at most {rows[best]:.0%} of them would have been in mixed groups ({best})" in text
    )
    assert f"{rows['Uniform']:.0%} with Uniform." in text
    data["over_steps"] = [MORE["over_steps"][0]]
    text = Page(report_html(data)).text
    assert "took 55% of the rollouts: 40% were in groups that were all wrong, 10% all right." in text


def test_the_verdict_s_figure_stands_in_a_caption_and_its_rule_is_bold(data):
    page = Page(report_html(data))
    (row,) = (row for row in data["less"]["policies"] if row["name"] == "training_allocator")
    share, kept, low, high = (
        f"{100 * row[key]:.0f}" for key in ("mixed_share", "kept", "kept_interval_low", "kept_interval_high")
    )
    assert (
        f"The {share}% of training_allocator's rollouts hold {kept}% [{low}, {high}] of all mixed groups of the log"
        in page.text
    )
    assert f"kept {kept}% of the mixed groups [{low}, {high}]" in data["verdict"]
    assert len(page.of("tr", class_="bold")) == 2  # with fewer rollouts, and with the same
    assert len(page.of("div", class_="row bold")) == 1
    data["less"] = None
    assert "of all mixed groups of the log" not in Page(report_html(data)).text


def test_notes_stand_with_their_table_and_are_no_warnings(data):
    (note,) = (note for note in data["notes"] if "not in the log" in note)
    page = Page(report_html(data))
    assert not any("policies more than 5%" in warning for warning in data["warnings"])
    assert page.texts.index(note) > page.texts.index("All policies with the same rollouts")


def test_text_from_the_log_is_escaped(data):
    bad = '"><script>alert(1)</script>&amp;'
    line = {"number": 7, "reason": bad, "text": bad}
    data["log"] = data["log"] | {"file": bad, "bad_lines": 1, "first_bad_lines": [line], "broken": bad}
    data |= {
        "verdict": bad,
        "warnings": [bad],
        "format": bad,
        "columns": {bad: bad},
        "python": [bad],
        "left_out": [bad],
    }
    data["less"] = {"budget": 0.5, "policies": [row | {"name": bad} for row in data["less"]["policies"]]}
    data["single_rollouts"] = {"rows": [MORE["single_rollouts"]["rows"][0] | {"scheme": bad}]}
    page = Page(report_html(data))
    assert not page.of("script")
    assert page.text.count("<script>alert(1)</script>&amp;") > 10


@pytest.mark.parametrize(("keys", "headings"), PARTS.items())
@pytest.mark.parametrize("absent", ["missing", None, []])
def test_a_part_that_is_missing_leaves_no_heading(data, keys, headings, absent):
    data |= {"python": ["allocator = ..."], "warnings": ["few prompts"]}
    whole = headings_of(data)
    for key in keys:
        data[key] = absent
        if absent == "missing":
            del data[key]
    gone = [found for found in whole if found.startswith(tuple(headings))]
    assert len(gone) == len(headings)
    assert headings_of(data) == [found for found in whole if found not in gone]


def headings_of(data):
    return [found for found in Page(report_html(data)).headings if found != "The numbers"]


def test_figures_that_are_missing_are_dashes(data):
    row = {key: value if isinstance(value, (str, int)) else None for key, value in data["policies"][0].items()}
    data["less"] = {"budget": 0.25, "policies": [row]}
    data["policies"] = [row]
    page = Page(report_html(data))
    assert page.table("Policies with 25%")[0][2:] == ["\N{EN DASH}"] * 3
    assert "With 25% of the rollouts, no policy had a figure." in page.text
    assert not re.search(r"\b(nan|None)\b", page.text)
    assert (number(float("nan")), percent(None), number(1234567.0), number(12345.678, 1)) == (
        "\N{EN DASH}",
        "\N{EN DASH}",
        "1,234,567",
        "12,345.7",
    )


def test_many_group_sizes_are_cut(data):
    data["group_sizes"] = {str(size): 1000 - size for size in range(1, 41)}
    text = Page(report_html(data)).text
    assert "groups of 12 988 groups" in text
    assert "groups of 13 " not in text
    assert f"other sizes {sum(1000 - size for size in range(13, 41)):,} groups" in text


def test_settings_that_were_not_learnt_say_why(data):
    data["prior"] = data["prior"] | {"status": "no spread", "alpha": 1.0, "beta": 1.0}
    data["forgetting"] = data["forgetting"] | {"status": "one step", "forgetting": 1.0}
    text = Page(report_html(data)).text
    assert "Beta(1, 1), not fitted: no spread" in text
    assert "1, not chosen: no prompt was in two steps" in text


def test_the_flag_writes_the_file_and_prints_its_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(log_text(np.linspace(0.05, 0.95, 20)))
    assert cli.main(["replay", "log.csv", "--html", "page.html", "--n-boot", "20", "--no-plot"]) == 0
    assert capsys.readouterr().out.endswith("written: page.html\n")
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert page.text.startswith("Replay of log.csv")
    assert any(heading.startswith(POLICIES) for heading in page.headings)


def test_a_log_of_equal_rewards_gives_a_page_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("prompt_id,step,reward\na,1,1\nb,1,1\na,2,1\n")
    assert cli.main(["replay", "log.csv", "--html", "page.html"]) == 0
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert "All rewards are 1: nothing to choose." in page.text
    assert "What was taken from the log" in page.headings
    assert not [heading for heading in page.headings if "olicies" in heading or "settings" in heading]


@pytest.mark.parametrize("size", [1, 8])
def test_an_allocator_s_own_log_stands_beside_uniform(capsys, tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    allocator, rng = (
        training_allocator(60, total_budget=480 if size == 8 else 240, n_rounds=5, rollouts_per_visit=size),
        np.random.default_rng(0),
    )
    allocator.log_to("run.jsonl")
    rates = rng.beta(0.5, 0.5, size=60)
    for _ in range(5):
        counts = allocator.allocate(budget=96 if size == 8 else 48, exact=True)
        visited = np.flatnonzero(counts)
        allocator.update(visited, rng.binomial(counts[visited], rates[visited]), counts[visited])
    assert cli.main(["replay", "run.jsonl", "--html", "run.html"]) == 0
    told, page = capsys.readouterr().out, Page(Path("run.html").read_text(encoding="utf-8"))
    assert "AGAINST UNIFORM" in told
    assert "Against uniform" in page.headings
    own = against_uniform(read_log("run.jsonl"))
    rows = {row[0]: row[1:] for row in page.table("With the same rollouts")}
    assert rows["Variance of a reward"][0].startswith(number(own.variance, 3))
    assert rows["Variance of a reward"][1].startswith(number(own.uniform_variance, 3))
    assert rows["Ratio of the variances"][0].startswith(number(own.ratio, 2))
    assert ("Rollouts in mixed groups" in rows) == (size == 8)
    assert "under other policies" not in page.text
    outcomes = [
        row[0] for row in page.table("Prompts by what became of their " + ("groups" if size == 8 else "rollouts"))
    ]
    assert ("solved: the last 8 rollouts right" in outcomes) == (size == 1)
    assert any(outcome.startswith("never a mixed group") for outcome in outcomes) == (size == 8)
