"""Named in ``VERL_USE_EXTERNAL_MODULES``: verl trains with the recommended allocator, set by ``cero_alloc`` in its configuration."""

from ._trainer import activate

activate()
