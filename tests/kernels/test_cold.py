"""Kernels that run in Python before compiling pays, and the warm-up."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cero_alloc import (
    BetaPosteriorBank,
    OfflineOracle,
    ResolvingAllocator,
    SaturatingUtility,
    _numba,
    training_allocator,
)
from cero_alloc.__main__ import main
from helpers.jit import compiled

pytestmark = compiled


def cold_kernel(name, folder=None):
    """Return what ``when_it_pays`` sees of a kernel that is not compiled yet."""
    return SimpleNamespace(
        __name__=name, overloads={}, stats=SimpleNamespace(cache_path=folder), py_func=lambda x: (x, "in Python")
    )


@pytest.fixture(autouse=True)
def nothing_read(monkeypatch):
    monkeypatch.setattr(_numba, "_read", {})


def test_python_reads_until_its_patience_ends(monkeypatch):
    monkeypatch.setattr(_numba, "PATIENCE", 10)
    monkeypatch.setattr(_numba, "_in_python", lambda cold: cold.py_func)
    one, other = cold_kernel("one"), cold_kernel("other")
    assert [_numba.when_it_pays(one, size) is one for size in (4, 6, 1, 0)] == [False, False, True, True]
    assert _numba.when_it_pays(other, 11) is other
    assert _numba.when_it_pays(cold_kernel("third"), 10)(3) == (3, "in Python")


def test_what_is_compiled_or_cached_never_runs_in_python(monkeypatch, tmp_path):
    monkeypatch.setattr(_numba, "_in_python", lambda cold: cold.py_func)
    hot = cold_kernel("hot")
    hot.overloads["signature"] = "code"
    assert _numba.when_it_pays(hot, 1) is hot
    (tmp_path / "kernels.settle-27.py311.nbi").touch()
    for name, cached in (("settle", True), ("settled", False), ("set", False)):
        cold = cold_kernel(name, tmp_path)
        assert _numba.is_cached(cold) == (_numba.when_it_pays(cold, 1) is cold) == cached


def in_python(monkeypatch):
    """Let every call that may run in Python do so."""
    monkeypatch.setattr(
        _numba.when_it_pays,
        "__code__",
        (lambda compiled, size: _in_python(compiled)).__code__,  # noqa: F821
    )


def solve(rng, shape, scaling, integer):
    size = int(rng.integers(1, 60))
    q = rng.choice([0.0, 0.25, *rng.uniform(0.0, 0.25, 8)], size)
    lower = rng.integers(0, 3, size)
    budget = int(lower.sum() + rng.integers(0, 8 * size))
    utility = SaturatingUtility(shape, saturation=float(rng.uniform(0.1, 3.0)), scaling=scaling)
    upper, share = lower + rng.integers(0, 9, size), float(rng.uniform(0.5, 4.0))
    found = OfflineOracle(utility).solve(q, budget, equal_share=share, lower=lower, upper=upper, integer=integer)
    maps = (
        utility.value(q, upper),
        utility.marginal(q, upper),
        utility.demand(q, 0.1, upper),
        utility.conjugate(q, 0.1, upper),
    )
    return (
        found.allocation.tobytes(),
        found.price,
        found.optimum,
        found.gap,
        found.status,
        *(part.tobytes() for part in maps),
    )


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("scaling", ["rate", "height"])
@pytest.mark.parametrize("shape", ["exponential", "hyperbolic", "log", "capped-linear"])
def test_the_oracle_is_the_same_to_the_last_bit_in_python(shape, scaling, integer, monkeypatch):
    before = [solve(np.random.default_rng(seed), shape, scaling, integer) for seed in range(12)]
    in_python(monkeypatch)
    assert before == [solve(np.random.default_rng(seed), shape, scaling, integer) for seed in range(12)]


def play(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, 60))
    if seed % 2:
        allocator = training_allocator(size, total_budget=20 * size, n_rounds=20)
    else:
        forgetting, drift = ((0.9, 0.0), (1.0, 0.0), (1.0, 0.05))[seed // 2 % 3]
        dtype = (np.float64, np.float32)[seed % 4 // 2]
        prior = rng.uniform(0.5, 2.0, size), np.ones(size)
        bank = BetaPosteriorBank(size, prior=prior, forgetting=forgetting, drift=drift, dtype=dtype)
        allocator = ResolvingAllocator(bank, total_budget=20 * size, n_rounds=20, max_rollouts=8)
    rate, played = rng.beta(0.5, 0.5, size), []
    for _ in range(20):
        offer = rng.permutation(size)[: int(rng.integers(1, size + 1))]
        counts = allocator.allocate(offer)
        prompts = np.repeat(offer, counts)
        rewards = rng.random(prompts.size) < rate[prompts]
        graded = rewards * rng.choice([0.5, 1.0], prompts.size) if seed % 3 == 0 else rewards
        played.append((counts.tolist(), np.asarray(allocator.observe(prompts, graded)).tolist(), allocator.price))
    return played, allocator.metrics()


@pytest.mark.parametrize("seed", range(12))
def test_runs_are_the_same_to_the_last_bit_in_python(seed, monkeypatch):
    before = play(seed)
    in_python(monkeypatch)
    assert repr(before) == repr(play(seed))


@pytest.mark.slow
def test_warm_up_leaves_nothing_to_compile(tmp_path):
    command = [sys.executable, "-m", "cero_alloc", "warm-up"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert not first.startswith("0 kernels compiled")
    assert ", 0 found" in first
    assert second.startswith("0 kernels compiled")
    assert str(tmp_path) in second


def test_warm_up_without_a_place_for_the_cache_says_so(monkeypatch, capsys):
    monkeypatch.setattr("cero_alloc.__main__.warm_up", lambda: (3, 0, []))
    assert main(["warm-up"]) == 2
    assert "Set NUMBA_CACHE_DIR" in capsys.readouterr().err
