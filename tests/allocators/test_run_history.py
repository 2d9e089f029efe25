"""The record of the rounds, and the chances of groups without a difference."""

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from cero_alloc import BetaPosteriorBank
from cero_alloc._allocators.run_history import RunHistory, alike_chances, uniform_shares

A, B = np.array([0.2, 1.0, 3.5, 400.0]), np.array([0.9, 1.0, 0.01, 500.0])


@pytest.mark.parametrize("size", [1, 2, 8, 64, 65, 1000])
def test_chances_are_both_ends_of_the_beta_binomial(size):
    wrong, right = alike_chances(A, B, size)
    assert wrong == pytest.approx(betabinom.pmf(0, size, A, B), rel=1e-6)
    assert right == pytest.approx(betabinom.pmf(size, size, A, B), rel=1e-6)


@pytest.mark.parametrize("sizes", [[1, 2, 8, 64], [3, 100, 1, 7]])
def test_sizes_may_differ(sizes):
    found = alike_chances(A, B, np.array(sizes))
    one_by_one = [alike_chances(A[i : i + 1], B[i : i + 1], size) for i, size in enumerate(sizes)]
    assert np.array(found) == pytest.approx(np.array(one_by_one)[:, :, 0].T, rel=1e-9)


def test_uniform_deals_groups_as_even_as_whole_numbers_allow():
    a = b = np.ones(5)
    for rollouts, groups in ((24, 3), (7, 3), (2, 3), (1, 1)):
        sizes = [rollouts // groups + (i < rollouts % groups) for i in range(groups)]
        wrong = (
            math.fsum(n / (n + 1) for n in sizes) / rollouts
        )  # under a flat prior every number of successes is as likely
        assert uniform_shares(a, b, rollouts, groups) == pytest.approx((wrong, wrong))


def test_feedback_finds_its_row_after_merges():
    history, evidence = RunHistory(), BetaPosteriorBank(2).evidence
    bank = BetaPosteriorBank(2)
    feedback = bank.rewards.feedback(bank.index, [0], [1], [2])
    for number in range(11, 11 + 1_100):
        history.begin(number, evidence)
    for number in (10, 11, 14, 15, 1_109, 1_110, 1_111):
        history.report(number, feedback)
    record = history.rows()
    assert history.span == 4
    found = np.flatnonzero(record["reported"])
    assert record["first"][found].tolist() == [11, 15, 1_107]
    assert record["reported"][found].tolist() == [4, 2, 4]
