"""The kernels of the ledger's accounts against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest

import twins
from helpers import kernels
from helpers.kernel_cases import generators


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_accounts_match_their_twins(dtype):
    for rng in generators(10):
        accounts = rng.integers(0, 9, (6, 3)).astype(dtype)
        rows, g = rng.permutation(6)[:4], int(rng.integers(1, 5))
        units, rollouts = rng.integers(-3, 5, 4), rng.integers(0, 20, 4)
        for name, args in [("lend", (rows, units, g)), ("settle", (rows, rollouts)), ("count_offers", (rows,))]:
            expected, before = getattr(twins, name)(*args, accounts.tolist()), accounts[:, 1].sum()
            returned = getattr(kernels, name)(*args, accounts)
            assert accounts.tolist() == expected
            sums = {"lend": units.sum(), "settle": before - accounts[:, 1].sum(), "count_offers": None}
            assert returned == sums[name]


def test_first_bad_count_matches_its_twin():
    for rng in generators(200):
        group, most = int(rng.integers(1, 4)), int(rng.integers(0, 13))
        n = group * rng.integers(0, most // group + 1, int(rng.integers(0, 6)))
        if n.size and rng.random() < 0.5:
            n[rng.integers(n.size)] = rng.choice([-group, -1, most + 1, 2**62])
        assert kernels.first_bad_count(n, group, most) == twins.first_bad_count(n.tolist(), group, most)
