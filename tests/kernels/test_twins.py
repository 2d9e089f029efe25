"""Every kernel has a twin, and is compared with it."""

import inspect
import re
from pathlib import Path

import twins
from cero_alloc._numba import KERNELS
from helpers import kernels  # noqa: F401 (imports every kernel)


def test_every_kernel_has_a_twin():
    assert len(KERNELS) > 25
    missing = [name for name in KERNELS if not inspect.isfunction(getattr(twins, name, None))]
    assert missing == []
    text = "".join(file.read_text() for file in Path(__file__).parents[1].glob("*/test_*_kernels.py"))
    assert [name for name in KERNELS if not re.search(rf"kernels\.{name}\(|\"{name}\"", text)] == []
