"""One list names the published rules: names, pages and numbers that repeat it agree with the classes."""

import re
from pathlib import Path

import pytest

from cero_alloc import baselines
from cero_alloc.baselines import CONTROLS, PEERS, Baseline, FixedPacing, Preset, RandomMatched, Waves
from studies.peers.main import policies
from studies.peers.report import RECOMMENDED

DOCS = Path(__file__).parents[2] / "docs"
RULES = (*PEERS, *CONTROLS, Preset, RandomMatched)
RUN = {"total_budget": 1, "n_rounds": 1, "max_rollouts": 32}


def test_all_rules_are_public_names():
    own = {rule.__name__ for rule in RULES}
    assert set(baselines.__all__) == own | {"PEERS", "CONTROLS", "Baseline", "Waves"}
    assert all(issubclass(rule, (Baseline, FixedPacing)) for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_kind(rule):
    assert rule.kind in ("counts", "selects", "waves", "paces")
    assert (rule.kind == "waves") == issubclass(rule, Waves)


@pytest.mark.parametrize("rule", PEERS, ids=lambda rule: rule.__name__)
def test_compared_in_all_settings(rule):
    title = rule.title or rule.__name__
    names = {f"{title}, {setting}" if setting else title for setting in rule.variants}
    for offer in ("pool", "batch"):
        assert names <= set(policies(RUN, offer, None))


def test_table_of_the_page():
    table = (DOCS / "peers.md").read_text().split("## Who does what")[1].split("\n## ")[0]
    kinds = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        kinds |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[2] if len(cells) > 2 else "")
    assert {rule.__name__: kinds.get(rule.__name__) for rule in RULES} == {rule.__name__: rule.kind for rule in RULES}


def test_pages_name_every_rule():
    api = (DOCS / "api" / "baselines.md").read_text()
    assert [rule.__name__ for rule in RULES if f".. autoclass:: {rule.__name__}\n" not in api] == []
    played = len(policies(RUN, "pool", None)) + 2  # the two schedules
    assert re.findall(r"plays (\d+) policies", (DOCS / "peers.md").read_text()) == [str(played)]


@pytest.mark.parametrize(
    ("offer", "heading", "schedules"),
    [
        ("pool", "### All prompts on offer", ["preset", "random-matched"]),
        ("batch", "### A data loader's batches", ["preset"]),
    ],
)
def test_tables_of_the_page_have_every_policy(offer, heading, schedules):
    section = (DOCS / "peers.md").read_text().split(heading)[1].split("\n##")[0]
    tables = re.findall(r"(?m)^\| policy .*\n\|[-|]+\n((?:\|.*\n)+)", section)
    named = [sorted(line.split("|")[1].strip() for line in table.splitlines()) for table in tables]
    played = [*policies(RUN, offer, None), *schedules]
    marked = sorted(f"**{name}** (ours)" if name == RECOMMENDED else name for name in played)
    assert named == [marked, marked]
