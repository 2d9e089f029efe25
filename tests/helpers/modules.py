"""The modules of the package whose requirements are installed here."""

import importlib
import pkgutil

import cero_alloc


def importable(name):
    """Whether a module can be imported; those of the trainers need their trainer."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        if not name.startswith("cero_alloc.integrations."):
            raise
        return False
    return True


MODULES = [
    module.name for module in pkgutil.walk_packages(cero_alloc.__path__, "cero_alloc.") if importable(module.name)
]
