"""States compared: nested dicts, lists and tuples by their leaves."""

import numpy as np


def leaves(state, path=""):
    """Return a state as a flat dict of comparable leaves; arrays as their type, shape and bytes."""
    if isinstance(state, dict):
        return {leaf: value for key in state for leaf, value in leaves(state[key], f"{path}/{key}").items()}
    if isinstance(state, (list, tuple)):
        return {leaf: value for i, part in enumerate(state) for leaf, value in leaves(part, f"{path}/{i}").items()}
    return {path: (state.dtype.str, state.shape, state.tobytes()) if isinstance(state, np.ndarray) else state}
