"""Settings of every run: hypothesis profiles, worker processes, pictures, and the test that comes first."""

import os

import pytest
from hypothesis import settings

# The default profile draws the same examples everywhere; chance is for the nightly one, whose finds become @example.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile(
    "nightly", deadline=None, derandomize=False, max_examples=2000, stateful_step_count=50, print_blob=True
)
settings.load_profile("default")

if os.environ.get("NUMBA_JIT_COVERAGE", "0") != "0":  # coverage hears of what is compiled, not of what is loaded
    from numba.core import caching

    caching.Cache.load_overload = lambda *_: None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks
def pytest_cmdline_main(config):
    """Run whole folders on two processes unless ``-n`` says otherwise; single files stay in this process.

    Not by ``addopts``: the trainers' environments have no pytest-xdist.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker comes here too, and must not start workers of its own
        return
    options = config.option
    single = any(".py" in name for name in config.args)
    if getattr(options, "numprocesses", 0) is None and not (single or options.usepdb or options.collectonly):
        options.numprocesses, options.dist = 2, "worksteal"
    if hasattr(options, "benchmark_disable"):
        options.benchmark_disable = not options.benchmark_enable


@pytest.hookimpl(tryfirst=True)  # before pytest-mpl looks
def pytest_configure(config):
    """Compare pictures in every run. Not by ``addopts``: the trainers' environments have no pytest-mpl."""
    if hasattr(config.option, "mpl"):
        config.option.mpl = True


def pytest_collection_modifyitems(items):
    """Put first the test that compiles every kernel: in a fresh checkout the others find them in numba's cache."""
    items.sort(key=lambda item: item.name != "test_one_specialisation_per_kernel")
