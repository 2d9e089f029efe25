"""Utilities and horizons over which the theorems are tested."""

from itertools import product

import numpy as np
from hypothesis import strategies as st

from cero_alloc import SaturatingUtility

SHAPES = ["exponential", "hyperbolic", "log", "capped-linear"]
SCALINGS = ["rate", "height"]
ALL_UTILITIES = list(product(SHAPES, SCALINGS))

utilities = st.builds(
    lambda shape, scaling, log_lam: SaturatingUtility(shape, scaling=scaling, saturation=10.0**log_lam),
    st.sampled_from(SHAPES), st.sampled_from(SCALINGS), st.floats(-2, 2),
)  # fmt: skip


def theorem_instance(seed):
    """A random pool, horizon and utility, and a posterior that may start anywhere."""
    rng = np.random.default_rng([seed, 77])
    m, k, max_units = int(rng.integers(1, 13)), int(rng.integers(1, 65)), int(rng.integers(1, 5))
    cap = int(rng.integers(1, m * max_units + 1))
    budget = int(rng.integers(1, k * cap + 1))
    shape, scaling = ALL_UTILITIES[seed % len(ALL_UTILITIES)]
    utility = SaturatingUtility(shape, scaling=scaling, saturation=float(10 ** rng.uniform(-1.5, 1)))
    kwargs = {
        "total_budget": budget, "n_rounds": k, "max_rollouts": max_units, "round_capacity": cap, "utility": utility,
        "initial_price": float(rng.random()), "seed": seed,
    }  # fmt: skip
    return rng, m, k, kwargs
