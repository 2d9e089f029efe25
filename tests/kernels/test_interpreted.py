"""The package with the compiler off: the arithmetic of compiled code, and the same decisions."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from cero_alloc._numba import interpreted, total
from helpers import kernels
from helpers.jit import JIT

FUNCTIONS = [math.exp, math.expm1, math.log, math.log1p, math.sqrt]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_are_those_of_math_wherever_math_has_a_value(function):
    for x in (0.25, 1.0, 7.5, 5e-324, 700.0):
        assert total(function)(x) == function(x)
        assert isinstance(total(function)(x), np.float64)


@pytest.mark.parametrize(
    ("function", "x", "limit"),
    [
        (math.exp, 1e3, math.inf), (math.expm1, 1e3, math.inf), (math.log, 0.0, -math.inf), (math.log1p, -1.0, -math.inf),
        (math.log, -1.0, math.nan), (math.log1p, -2.0, math.nan), (math.sqrt, -1.0, math.nan), (math.exp, math.nan, math.nan),
    ],
)  # fmt: skip
def test_functions_have_limits_where_math_raises(function, x, limit):
    outer = interpreted(total(function))
    assert outer(x) == pytest.approx(limit, nan_ok=True)


@interpreted
def quotient(a, b):
    return a / b


@interpreted
def quotients(a, b):
    return quotient(a, b), a > b, b


@interpreted
def scramble(k):
    return np.uint64(k) * np.uint64(0x9E3779B97F4A7C15)


@interpreted
def fails(array):
    return array[5]


def test_floats_are_divided_by_zero_and_integers_wrap_without_a_word():
    assert [quotient(1.0, 0.0), quotient(-1.0, 0.0)] == [math.inf, -math.inf]
    assert math.isnan(quotient(0.0, 0.0))
    assert quotient(1e300, 1e-300) == math.inf
    assert scramble(7) == 7 * 0x9E3779B97F4A7C15 % 2**64


def test_numbers_come_out_as_pythons():
    result = quotients(1.0, 0.0)
    assert result == (math.inf, True, 0.0)
    assert [type(x) for x in result] == [float, bool, float]
    assert type(scramble(1)) is int
    assert interpreted(lambda: None)() is None


def test_a_kernel_that_fails_leaves_the_next_one_alone():
    with pytest.raises(IndexError):
        fails(np.zeros(3))
    assert quotient(1.0, 0.0) == math.inf
    with pytest.raises(FloatingPointError), np.errstate(all="raise"):
        np.float64(1.0) / np.float64(0.0)


def test_kernels_report_whether_they_are_compiled():
    assert hasattr(kernels.u, "signatures") == JIT


RUN = """
import json
import numpy as np
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, SaturatingUtility

played = []
for shape in ("exponential", "hyperbolic", "log", "capped-linear"):
    policies = [(FenchelDualAllocator, {}), *((ResolvingAllocator, {"signal": signal}) for signal in ("variance", "group"))]
    for policy, rest in policies:
        rng, bank = np.random.default_rng(3), BetaPosteriorBank(60, forgetting=0.95)
        allocator = policy(bank, total_budget=600, n_rounds=8, max_rollouts=8, utility=SaturatingUtility(shape), seed=1, **rest)
        for turn in range(8):
            offer = None if turn % 2 else rng.permutation(60)[:30]
            counts = allocator.allocate(offer, 40 if turn == 3 else None, exact=turn == 3)
            allocator.update(offer, rng.binomial(counts, 0.4), counts)
            played.append([counts.tolist(), float(allocator.price)])
print(json.dumps(played))
"""


def test_decisions_are_the_same_with_the_compiler_and_without(capsys):
    exec(RUN, {})
    here = capsys.readouterr().out
    there = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", RUN],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1" if JIT else "0"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert len(json.loads(here)) == 96
    assert there == here
