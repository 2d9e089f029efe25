"""How much a test does: a little in every run, much in a nightly one (``pytest --hypothesis-profile=nightly``)."""

from hypothesis import settings


def scaled(default: int, nightly: int) -> int:
    """Return ``nightly`` where the profile in force has at least 1,000 examples, ``default`` otherwise.

    Ask at the top of a module or in a plain test: within a ``@given`` test its own settings are in force.
    """
    return nightly if settings().max_examples >= 1000 else default
