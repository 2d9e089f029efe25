"""Every kernel of the package, by name."""

import importlib
import pkgutil

import cero_alloc
from cero_alloc._numba import KERNELS
from cero_alloc._objective.kernels import CAPPED_LINEAR, EXPONENTIAL, HEIGHT, HYPERBOLIC, LOG, RATE  # noqa: F401

for module in pkgutil.walk_packages(cero_alloc.__path__, "cero_alloc."):
    if module.name.endswith("kernels"):
        importlib.import_module(module.name)


def __getattr__(name):
    try:
        return KERNELS[name]
    except KeyError:
        raise AttributeError(name) from None
