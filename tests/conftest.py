"""Hypothesis profiles: derandomised in continuous integration, so that a red run is red for everybody; long at night."""

import os

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=2000, stateful_step_count=50, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

if os.environ.get("NUMBA_JIT_COVERAGE", "0") != "0":  # coverage hears of what is compiled, not of what is loaded
    from numba.core import caching

    caching.Cache.load_overload = lambda *_: None


@pytest.hookimpl(tryfirst=True)  # before pytest-mpl looks
def pytest_configure(config):
    """Compare pictures in every run. Not by ``addopts``: the trainers' environments have no pytest-mpl."""
    if hasattr(config.option, "mpl"):
        config.option.mpl = True


def pytest_collection_modifyitems(items):
    """Put first the test that compiles every kernel: in a fresh checkout the others find them in the cache."""
    items.sort(key=lambda item: item.name != "test_one_specialisation_per_kernel")
