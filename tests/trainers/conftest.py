"""What the tests of the trainers and of the learning studies share."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """One thread of PyTorch, and the environment of worker processes, for the tests of a module."""
    import torch

    from studies.learning.study import WORKERS

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same seed gives other sums with another number of threads
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WORKERS.items():
            patch.setenv(name, value)  # a pool of processes sets them: not for the other tests of this process
        yield
    torch.set_num_threads(before)


@pytest.fixture
def single_thread():
    """One thread of PyTorch for a test: the same seed gives other sums with another number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
