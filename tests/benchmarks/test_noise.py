"""The noise of a round's gradient, split into prompts and rollouts: every possible outcome of a toy, and what is made of it."""

from itertools import permutations, product

import numpy as np
import pytest

from studies.learning import causes
from studies.learning.dealing import Run
from studies.learning.noise import critical_batch, decompose, figures
from studies.learning.policies import ALL

# Three prompts: the mean gradient of each, and the direction in which its rollouts differ.
MEANS = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, -0.5], [0.5, 0.5, 1.0]])
SPREADS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.5, 0.0, 0.0]])
EXACT = np.array([1.0, 2.0, 0.5])


def courses():
    """Every course of a copy, all equally likely, as pairs of gradients and their conditional means, each over two rounds.

    Prompts come without replacement. Evidence scores the second round: the luck of the first set in the first round.
    """
    for prompts in permutations(range(3), 2):
        for luck in product((1.0, -1.0), repeat=4):
            first, second, mean = np.zeros((3, 2, 3))
            for k, (prompt, ours, theirs) in enumerate(zip(prompts, luck[::2], luck[1::2], strict=True)):
                known = 1.0 if k == 0 else 1.5 + 0.5 * luck[0]
                mean[k] = known * MEANS[prompt]
                first[k], second[k] = (known * (MEANS[prompt] + value * SPREADS[prompt]) for value in (ours, theirs))
            yield first, second, mean


def test_both_parts_are_unbiased_over_every_outcome():
    every = list(courses())
    firsts, _, means = (np.array(arrays) for arrays in zip(*every, strict=True))
    overall, unit = means.mean((0, 1)), EXACT @ EXACT
    expected = {
        "length2": overall @ overall,
        "between": ((means - overall) ** 2).sum(2).mean(),
        "within": ((firsts - means) ** 2).sum(2).mean(),
        "along": overall @ EXACT,
        "along2": (overall @ EXACT) ** 2 / unit,
        "window": ((firsts.mean(1) - overall) ** 2).sum(1).mean(),
    }
    total = ((firsts - overall) ** 2).sum(2).mean()
    assert expected["between"] + expected["within"] == pytest.approx(total)
    found = [decompose(*np.stack([one[:2], two[:2]], axis=1), EXACT) for one in every for two in every]
    for key, value in expected.items():
        assert np.mean([one[key] for one in found]) == pytest.approx(value / unit, rel=1e-12), key
        assert np.std([one[key] for one in found]) > 0.0  # the toy has chance in it


def test_more_copies_and_more_rounds_than_two():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3, 4)) + 1.0
    found, unit = decompose(first, second, np.ones(4)), 4.0
    own = (first + second) / 2.0
    pairs = [own[i, a] @ own[j, b] for i in range(5) for j in range(5) if i != j for a in range(3) for b in range(3)]
    across = np.mean([first[i, a] @ second[i, a] for i in range(5) for a in range(3)])
    assert found["length2"] == pytest.approx(np.mean(pairs) / unit)
    assert found["between"] == pytest.approx((across - np.mean(pairs)) / unit)
    assert found["within"] == pytest.approx(((first - second) ** 2).sum(2).mean() / 2.0 / unit)


def test_critical_batch_by_norms_is_that_of_independent_rounds():
    parts = {"length2": 2.0, "between": 3.0, "within": 5.0, "window": 8.0 / 6, "along": 1.0, "along2": 1.0}
    parts |= {"cosine": 0.2, "adam": 1.0}
    found = figures(parts, parts, rollouts=128, rounds=6)
    assert found["critical"] == pytest.approx(128 * 8.0 / 2.0)
    assert found["norms"] == pytest.approx(found["critical"])
    assert found["window"] == pytest.approx(1.0)
    assert (found["gain"], found["adam"]) == pytest.approx((1.0, 1.0))
    assert found["aim"] == pytest.approx(0.5**0.5)
    complement = figures({**parts, "window": 0.5}, parts, rollouts=128, rounds=6)
    assert complement["norms"] > complement["critical"]  # what cancels looks like noise without a mean
    assert critical_batch(1.0, 0.2, 4, 128) == np.inf


def test_the_gain_is_what_critical_batches_and_aims_predict():
    base = {"length2": 4.0, "between": 6.0, "within": 30.0, "window": 1.0, "along": 1.9, "along2": 3.61, "cosine": 0.3}
    own = {**base, "between": 1.0, "within": 12.0, "along": 1.8, "along2": 3.24}
    found = [figures(one | {"adam": 1.0}, base | {"adam": 2.0}, rollouts=128, rounds=6) for one in (own, base)]
    saved = [one["aim"] ** 2 / (1.0 + one["critical"] / 128) for one in found]
    assert found[0]["gain"] == pytest.approx(saved[0] / saved[1])
    assert found[0]["adam"] == pytest.approx(0.5)
    nothing = figures(dict.fromkeys((*base, "adam"), 0.0), dict.fromkeys((*base, "adam"), 0.0), rollouts=128, rounds=6)
    assert np.isnan([nothing[key] for key in ("between", "aim", "critical", "window", "gain", "adam")]).all()


@pytest.mark.parametrize("name", causes.SCHEMES)
def test_scores_are_the_weights_of_training_and_teach_nothing(name):
    copy = causes.Copy(Run(("a", "b"), name, 0.0, 1), 64, 24, 32)
    copy.tell(np.linspace(0.0, 1.0, 64))
    rng = np.random.default_rng(0)
    for k in range(4):
        rows, n = copy.open(k)
        again = copy.open(k)
        assert all(np.array_equal(a, b) for a, b in zip((rows, n), again, strict=True))
        each = np.repeat(rows, n)
        assert each.size == 32
        others = copy.score(each, rng.random(32) < 0.5)
        right = rng.random(32) < 0.3
        scored = copy.score(each, right)
        copy.close(rows, n, right)
        np.testing.assert_array_equal(scored, copy.weights(each, right))
        if ALL[name].advantages is not None:
            assert not np.array_equal(others, scored)


def rows_of(values, base):
    parts = {"length2": 1.0, "between": 1.0, "within": 2.0, "window": 0.5, "along": 1.0, "along2": 1.0, "adam": 1.0}
    about = {"task": "a", "start": "b", "copies": 8, "rounds": 6, "learn": 64, "rollouts": 128}
    about |= dict.fromkeys(causes.ABOUT, 0.5)
    return [
        {**about, **parts, "scheme": scheme, "seed": seed, "cosine": value}
        for scheme, each in (("one", values), (causes.GRPO, base))
        for seed, value in enumerate(each)
    ]


def test_errors_are_those_of_means_where_the_figure_is_one():
    values = [0.1, 0.4, 0.3, 0.35]
    found = causes.summarise(rows_of(values, values))
    assert [row["scheme"] for row in found] == ["one", causes.SHOWN[causes.GRPO]]
    assert found[0]["cosine"] == pytest.approx(np.mean(values))
    assert found[0]["cosine_error"] == pytest.approx(np.std(values, ddof=1) / 2.0)
    assert found[0]["gain_error"] == 0.0
    (alone, _) = causes.summarise(rows_of(values[:1], values[:1]))
    assert np.isnan(alone["cosine_error"])


def test_rows_measured_in_another_way_are_kept_apart():
    rows, cells = rows_of([0.1, 0.2], [0.3, 0.4]), [("a", "b", 0), ("a", "b", 2)]
    found = causes.measured(rows, cells, causes.Measured())
    assert {cell: [row["cosine"] for row in own] for cell, own in found.items()} == {cells[0]: [0.1, 0.3], cells[1]: []}
    assert not any(causes.measured(rows, cells, causes.Measured(learn=32)).values())


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = rows_of([0.1, 1.0 / 3.0], [0.5, float("nan")])
    file = tmp_path / "causes.csv"
    assert causes.read(file) == []
    causes.write_csv(file, rows, in_order=True)
    assert str(causes.read(file)) == str(rows)  # NaN included, which differs from itself
