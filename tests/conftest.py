"""Hypothesis profiles: derandomised in continuous integration, so that a red run is red for everybody; long at night."""

import os

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=2000, stateful_step_count=50, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
