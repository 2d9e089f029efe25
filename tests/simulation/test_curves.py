"""Regret over horizons: the curve that runs make, what it refuses, its slope."""

from dataclasses import replace

import numpy as np
import pytest

from cero_alloc import FenchelDualAllocator
from cero_alloc.simulation import RegretCurve, known_bank, simulate, static_pool
from cero_alloc.simulation._result import top_tenth


def run(n_rounds, seed):
    pool = static_pool(8, seed=seed)
    policy = FenchelDualAllocator(known_bank(pool), total_budget=8 * n_rounds, n_rounds=n_rounds, max_rollouts=2)
    return simulate(policy, pool, n_rounds, feedback=False)


def test_of_runs_in_any_order_of_the_horizons():
    runs = {(k, seed): run(k, seed) for k in (16, 4, 8) for seed in range(2)}
    curve = RegretCurve.of(iter(runs.values()))
    assert curve.rounds.tolist() == [4, 8, 16]
    for name in ("regret", "bound"):
        assert getattr(curve, name).tolist() == [[getattr(runs[k, s], name) for k in (4, 8, 16)] for s in range(2)]


def test_of_refuses_what_is_no_table():
    result = run(4, 0)
    with pytest.raises(
        ValueError, match=r"results must be equally many of every horizon, got \{4: 2, 8: 1\} .* Run every"
    ):
        RegretCurve.of([result, result, run(8, 0)])
    with pytest.raises(ValueError, match=r"results must be equally many of every horizon, got \{\}"):
        RegretCurve.of([])
    with pytest.raises(TypeError, match=r"results\[1\] must be a SimulationResult, got results\[1\] = 0\.3"):
        RegretCurve.of([result, 0.3])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([], [[]]), ValueError, r"rounds must be increasing and at least 1, got rounds = \[\]"),
        (([0, 2], [[1, 1]]), ValueError, r"rounds must be increasing and at least 1, got rounds = \[0, 2\]"),
        (([4, 4], [[1, 1]]), ValueError, r"rounds must be increasing"),
        (([[4]], [[1]]), ValueError, r"rounds must be increasing"),
        (([4.5], [[1]]), ValueError, r"rounds must be integers, got rounds\[0\] = 4\.5"),
        (
            ([4, 8], [1, 1]),
            ValueError,
            r"regret must have shape \(n_seeds, 2\), got regret\.shape = \(2,\)\. Give one column",
        ),
        (([4, 8], [[1]]), ValueError, r"regret must have shape \(n_seeds, 2\), got regret\.shape = \(1, 1\)"),
        (([4], np.zeros((0, 1))), ValueError, r"regret must have shape"),
        (([4], [["a"]]), TypeError, r"regret must be numbers, got an array of <U1"),
        (([4, 8], [[1, 1]], [1, 2, 3]), ValueError, r"bound must broadcast to \(1, 2\), got bound\.shape = \(3,\)"),
        (([4], [[1]], None), TypeError, r"bound must be numbers, got an array of object"),
    ],
    ids=str,
)
def test_refuses_other_shapes(arguments, kind, message):
    with pytest.raises(kind, match=message):
        RegretCurve(*arguments)


def test_bound_is_broadcast_and_unknown_by_default():
    assert np.isnan(RegretCurve([4, 8], [[1, 1], [2, 2]]).bound).tolist() == [[True, True]] * 2
    assert RegretCurve([4, 8], [[1, 1], [2, 2]], [3, 4]).bound.tolist() == [[3, 4]] * 2


def test_slope_is_that_of_the_mean_where_there_is_regret():
    rounds = 2 ** np.arange(4, 9)
    falls = rounds**-0.7
    assert RegretCurve(rounds, [0.5 * falls, 1.5 * falls]).slope == pytest.approx(-0.7)
    gone = np.append(falls[:3], [1e-13, -1e-15])
    assert RegretCurve(rounds, [gone]).slope == pytest.approx(-0.7)
    assert np.isnan(RegretCurve(rounds[:2], [[0.1, 0.0]]).slope)


def test_top_tenth_is_rounded_up():
    assert top_tenth([4, 1, 1, 1, 1, 1, 1]) == 0.4
    assert top_tenth(np.array([5, 1, 4] + 8 * [0])) == 0.9  # two of eleven
    assert np.isnan(top_tenth([0, 0]))
    result = run(4, 0)
    assert result.top_tenth == top_tenth(result.exposure)
    assert replace(result, exposure=np.arange(20)).top_tenth == pytest.approx(37 / 190)
