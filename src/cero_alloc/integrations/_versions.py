"""The versions of a trainer that its adapter was tested with."""

from __future__ import annotations

import os
from importlib.metadata import version

UNTESTED = "CERO_ALLOC_UNTESTED"  # set to 1 to use an adapter with a trainer's version that it was not tested with


def require_version(package: str, lowest: str, newest: str) -> None:
    """Refuse an installed version outside the range that the adapter's tests passed with.

    Parameters
    ----------
    package : str
        Name of the distribution on PyPI.
    lowest, newest : str
        Ends of the tested range; patch releases of ``newest`` are taken to be like it.

    Raises
    ------
    RuntimeError
        For a version outside, unless the environment variable ``CERO_ALLOC_UNTESTED`` is 1.
    """
    found = version(package)
    if os.environ.get(UNTESTED) == "1" or _release(lowest) <= _release(found) < _next_minor(newest):
        return
    raise RuntimeError(
        f"{package} must be between {lowest} and {newest}, the range that this adapter was tested with, got {found}. "
        f"Install '{package}>={lowest},<={newest}', or run the adapter's tests with yours and set {UNTESTED}=1."
    )


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: "1.16.0.dev0" gives (1, 16, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _next_minor(text: str) -> tuple[int, ...]:
    major, minor = (*_release(text), 0)[:2]
    return (major, minor + 1)
