"""The benchmark of beliefs: rewards between 0 and 1."""

import warnings

import numpy as np
import pytest

from studies.belief import rewards


def test_rewards_between_0_and_1_need_their_squares():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = rewards.rewards_table(quick=True)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert lines[0] == ["", "told", *rewards.KINDS]
    assert {len(line) for line in lines} == {5}
    assert [line[2:] for line in lines[2:4]] == [["0.000", "0.250", "0.083"], ["0.250"] * 3]
    means = np.array([[float(cell.split(" ±")[0]) for cell in line[2:]] for line in lines[4:]])
    assert means.sum(axis=1) == pytest.approx(100.0, abs=0.02)
    assert means[0, 0] == 0.0
    for told, coins in (means[1:3], means[3:5]):
        assert told[0] < 20.0
        assert told[0] < told[2] < told[1]
        assert coins == pytest.approx(100.0 / 3.0, abs=1.5)
    assert np.abs(means[3] - means[0]).max() < 5.0  # re-solving is near the optimum


def test_drawn_rewards_have_the_moments_of_their_kind():
    kinds, n = np.repeat(np.arange(3), 4), np.tile([0, 1, 7, 400_000], 3)
    sums, squares = rewards.drawn(np.random.default_rng(0), kinds, n)
    assert (sums[n == 0], squares[n == 0]) == (pytest.approx(0.0), pytest.approx(0.0))
    assert (squares <= sums + 1e-9).all()
    assert (squares * np.maximum(n, 1) >= sums**2 * (1 - 1e-9)).all()
    many = n > 7
    assert sums[many] / n[many] == pytest.approx(0.5, abs=0.003)
    assert squares[many] / n[many] == pytest.approx(rewards.SECOND_MOMENTS, abs=0.003)


def test_runs_of_a_seed_repeat():
    sizes = rewards.Sizes(each=5, seeds=2, per_prompt=8, rounds=4)
    first, again = rewards.run(sizes), rewards.run(sizes)
    assert first.keys() == again.keys()
    assert all((first[key] == again[key]).all() for key in first)
    assert rewards.best(sizes).sum() == pytest.approx(1.0)
