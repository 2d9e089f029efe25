"""Hypothesis profiles: derandomised in continuous integration, so that a red run is red for everybody."""

import os

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items):
    """Put first the test that compiles every kernel: in a fresh checkout the others find them in the cache."""
    items.sort(key=lambda item: item.name != "test_one_specialisation_per_kernel")
