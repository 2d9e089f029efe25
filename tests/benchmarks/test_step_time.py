"""The command that compares rollouts, tokens and time: what it prints, and that equal lengths leave no differences."""

import re

import numpy as np
import pytest

from cero_alloc.simulation import static_pool
from studies.step_time import FIRST, POOLS, SCHEMES, main


def tables(text):
    """Return the rows of each printed table by its title: the cells after the scheme."""
    found = {}
    for title, body in re.findall(r"^(\S.*; .*)\n.*\n-.*\n((?:.+\n?)*)", text, flags=re.MULTILINE):
        found[title] = {row[0]: row[1:] for row in (re.split(r"\s{2,}", line) for line in body.splitlines())}
    return found


def test_the_command_prints_every_scheme_on_every_pool(tmp_path, capsys):
    rates = tmp_path / "counts.csv"
    rng = np.random.default_rng(0)
    lines = [f"p{i},{epoch},20,{rng.binomial(20, 0.2)}" for epoch in (0, 1) for i in range(80)]
    rates.write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    assert main(["--quick", "--rollouts", "64", "--slots", "4", "--rates", str(rates)]) == 0
    found = tables(capsys.readouterr().out)
    assert len(found) == 2 * (len(POOLS) + 1)
    for title, rows in found.items():
        assert list(rows) == list(SCHEMES)
        if "a step" in title:
            assert {row[0] for row in rows.values()} == {"64"}
            assert [rows[scheme][1] for scheme in (FIRST, "loader's prompts, single")] == ["8", "64"]
            assert rows[FIRST][-2:] == ["1.000 +- 0.000"] * 2
        else:
            assert set(rows[FIRST][:3] + rows[FIRST][4:]) == {"1.000 +- 0.000"}
            assert all(float(row[3].split()[0]) < float(row[2].split()[0]) for row in rows.values())  # longest first


def test_where_all_answers_are_equally_long_time_follows_rollouts(capsys):
    equal = ["--hard-ratio", "1", "--within", "0", "--between", "0"]
    assert main(["--quick", "--rollouts", "64", "--slots", "8", *equal]) == 0
    for title, rows in tables(capsys.readouterr().out).items():
        for row in rows.values():
            assert set(row[-2:]) == {"1.000 +- 0.000"}
            if "a step" in title:
                assert row[3:6] == ["128000 +- 0", "4000 +- 0", "100"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_step_has_the_same_rollouts(scheme):
    pool = static_pool(100, seed=1)
    steps = list(SCHEMES[scheme](pool, rollouts=64, n_steps=20, rng=np.random.default_rng(2)))
    assert len(steps) == 20
    assert {int(counts.sum()) for counts in steps} == {64}


def test_rollouts_must_fill_the_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--rollouts", "40"])
    assert "--rollouts must be a multiple of 32, got 40" in capsys.readouterr().err
