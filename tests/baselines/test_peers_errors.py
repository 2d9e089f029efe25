"""Baselines refuse bad arguments and bad rounds with nothing changed."""

import math

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import DUET, GVM, HORA, VIP, CoBARL, KnapsackRL, Neyman
from helpers.one_round import (
    RUN,
)

BAD = [
    (KnapsackRL, {"min_samples": 0}, ValueError, r"min_samples must be at least 1, got min_samples = 0\. The publi"),
    (KnapsackRL, {"min_samples": 2.5}, TypeError, r"min_samples must be an integer, got min_samples = 2\.5\."),
    (VIP, {"estimator": "grpo"}, ValueError, r"estimator must be 'rloo' or 'dr-grpo', got estimator = 'grpo'\. Correct"),
    (VIP, {"min_rollouts": 1}, ValueError, r"min_rollouts must be at least 2, got min_rollouts = 1\. The variance of rl"),
    (VIP, {"min_rollouts": 2, "estimator": "dr-grpo"}, ValueError, "at least 3, .* dr-grpo is convex from 3 rollouts on"),
    (VIP, {"min_rollouts": "2"}, TypeError, "min_rollouts must be an integer, got min_rollouts = '2'"),
    (VIP, {"min_rollouts": 9}, ValueError, "max_rollouts must hold the 9 rollouts that VIP gives at least, got max_roll"),
    (VIP, {"embeddings": [1.0, 2.0, 3.0]}, ValueError, r"must have shape \(3, n_features\), got embeddings = \(3,\)\. Give"),
    (VIP, {"embeddings": [[1.0], [2.0]]}, ValueError, r"got embeddings = \(2, 1\)\. Give one row of features per prompt"),
    (VIP, {"embeddings": np.ones((3, 0))}, ValueError, r"shape \(3, n_features\), got embeddings = \(3, 0\)"),
    (VIP, {"embeddings": [[1.0], [math.nan], [2.0]]}, ValueError, r"embeddings must be finite, .*embeddings\[1\] = nan"),
    (VIP, {"embeddings": [[1.0], [2.0], [math.inf]]}, ValueError, r"embeddings\[2\] = inf\. Give one row of features"),
    (VIP, {"embeddings": [["a"], ["b"], ["c"]]}, TypeError, "embeddings must be numbers, got list"),
    (VIP, {"embeddings": [[1.0], [2.0, 3.0], [4.0]]}, TypeError, "embeddings must be numbers, got list"),
    (CoBARL, {"tau": 0.0}, ValueError, r"tau must be finite and greater than 0, got tau = 0\.0\. Give rollouts"),
    (CoBARL, {"tau": -1}, ValueError, r"got tau = -1\.0"),
    (CoBARL, {"tau": math.inf}, ValueError, "got tau = inf"),
    (CoBARL, {"tau": "3"}, TypeError, "tau must be finite and greater than 0, got tau = '3'"),
    (CoBARL, {"window": 0}, ValueError, r"window must be at least 1, got window = 0\. Count rounds"),
    (CoBARL, {"window": 1.5}, TypeError, r"window must be an integer, got window = 1\.5"),
    (HORA, {"min_rollouts": -1}, ValueError, r"min_rollouts must be at least 0, got min_rollouts = -1\. A group that"),
    (HORA, {"min_rollouts": True}, TypeError, "min_rollouts must be an integer, got min_rollouts = True"),
    (HORA, {"min_rollouts": 9}, ValueError, "max_rollouts must hold the 9 rollouts that HORA gives at least"),
    (DUET, {"costs": [1.0, 0.0, 2.0]}, ValueError, r"costs must be finite, greater than 0, got costs\[1\] = 0\.0\. Give the"),
    (DUET, {"costs": -1.0}, ValueError, r"costs must be finite, greater than 0, got costs = -1\.0"),
    (DUET, {"costs": [1.0, math.inf, 1.0]}, ValueError, r"got costs\[1\] = inf"),
    (DUET, {"costs": [1.0, 2.0]}, ValueError, r"costs must be a number or have shape \(3,\), got costs = \(2,\)"),
    (DUET, {"costs": "cheap"}, TypeError, "costs must be numbers, got str"),
    (DUET, {"costs": [1, 2, 3], "total_budget": 49}, ValueError, "at most the 48 tokens of all visits at max_rollouts"),
    (DUET, {"costs": [1, 2, 3], "total_budget": 0}, ValueError, "total_budget must be finite and greater than 0"),
    (DUET, {"costs": [1, 2, 3], "total_budget": "x"}, TypeError, "total_budget must be finite and greater than 0"),
    (DUET, {"costs": [1, 2, 3], "round_capacity": 9}, ValueError, "at most the 9 tokens of all rounds at round_capacity"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "kwargs", "error", "match"), BAD)
def test_bad_arguments(rule, kwargs, error, match):
    with pytest.raises(error, match=match):
        rule(BetaPosteriorBank(3), **{**RUN, **kwargs})


@pytest.mark.parametrize("rule", [KnapsackRL, VIP, CoBARL, HORA, Neyman])
def test_rules_that_need_two_rollouts(rule):
    text = f"max_rollouts must hold the 2 rollouts that {rule.__name__} gives at least, got max_rollouts = 1. Raise it"
    with pytest.raises(ValueError, match=text):
        rule(BetaPosteriorBank(3), **{**RUN, "total_budget": 3, "max_rollouts": 1})


def test_dr_grpo_needs_three_rollouts():
    with pytest.raises(ValueError, match="max_rollouts must hold the 3 rollouts that VIP gives at least"):
        VIP(BetaPosteriorBank(3), estimator="dr-grpo", **{**RUN, "total_budget": 6, "max_rollouts": 2})


@pytest.mark.parametrize("rule", [KnapsackRL, VIP, CoBARL, HORA, Neyman, GVM, DUET])
@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"rollouts_per_visit": 9}, ValueError, "rollouts_per_visit must be at most max_rollouts = 8, got rollouts_per_vi"),
        ({"rollouts_per_visit": 0}, ValueError, "rollouts_per_visit must be at least"),
        ({"rollouts_per_visit": 3, "unit_size": 2}, ValueError, "rollouts_per_visit must be a multiple of unit_size = 2"),
        ({"rollouts_per_visit": 4.0}, TypeError, r"rollouts_per_visit must be an integer, got rollouts_per_visit = 4\.0"),
        ({"total_budget": 25}, ValueError, "total_budget must be spendable in 1 rounds of at most 24 rollouts"),
        ({"total_budget": 0}, ValueError, "total_budget must be at least 1"),
        ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1"),
        ({"unit_size": 0}, ValueError, "unit_size must be at least 1"),
        ({"unit_size": 3}, ValueError, "max_rollouts must be a multiple of unit_size = 3"),
        ({"round_capacity": 0}, ValueError, "round_capacity must be at least 1"),
    ],
)  # fmt: skip
def test_bad_runs(rule, kwargs, error, match):
    with pytest.raises(error, match=match):
        rule(BetaPosteriorBank(3), **{**RUN, **kwargs})


@pytest.mark.parametrize("rule", [KnapsackRL, VIP, CoBARL, HORA, Neyman, GVM, DUET])
def test_bad_rounds_change_nothing(rule):
    bank = BetaPosteriorBank(3)
    policy = rule(bank, **RUN)
    cases = [
        ({"budget": 25, "exact": True}, ValueError, "budget must be at most 24 with exact=True, got budget = 25"),
        ({"exact": True}, ValueError, "budget must be given with exact=True, got budget = None"),
        ({"budget": -1}, ValueError, "budget must be at least 0, got budget = -1"),
        ({"budget": 1.5}, TypeError, "budget must be an integer, got budget = 1.5"),
        ({"prompt_ids": [0, 0]}, ValueError, "0"),
        ({"prompt_ids": [7]}, KeyError, "7"),
    ]
    if rule.least_rollouts == 2:
        text = r"sum of counts from 2 to 8 rollouts with exact=True, got budget = 1\. Nearest such totals: 0, 2\."
        cases.append(({"budget": 1, "exact": True}, ValueError, text))
    for kwargs, error, match in cases:
        with pytest.raises(error, match=match):
            policy.allocate(**kwargs)
    assert policy.remaining_budget == 24
    assert policy.ledger.round == 0
    bank.add_prompts([3])
    with pytest.raises(ValueError, match="bank must keep its 3 prompts under a baseline, got bank = 4"):
        policy.allocate()


def test_bad_token_rounds_change_nothing():
    policy = DUET(BetaPosteriorBank(3), costs=[1, 2, 3], **RUN)
    cases = [
        (
            {"exact": True},
            ValueError,
            "budget must be given with exact=True, got budget = None. Pass it as a cap, without",
        ),
        (
            {"budget": 6, "exact": True},
            ValueError,
            "budget must be a cap where the costs differ, not a total with exact=T",
        ),
        (
            {"budget": -1},
            ValueError,
            r"budget must be finite and at least 0, got budget = -1\.0\. Give this round's cap",
        ),
        ({"budget": "x"}, TypeError, "budget must be finite and at least 0, got budget = 'x'"),
    ]
    for kwargs, error, match in cases:
        with pytest.raises(error, match=match):
            policy.allocate(**kwargs)
    assert policy.remaining_budget == 24
    assert policy.ledger.round == 0
