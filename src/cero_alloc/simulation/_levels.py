"""Rewards of a few levels: the chances of each level per prompt, and the mean and variance that follow from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, error_text, reals

_ROUNDING = 1e-9  # what the chances of a prompt may differ from 1 by


def checked_levels(levels: npt.ArrayLike | None, chances: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Return reward levels, shape (n_levels,), and their chances, shape (n_prompts, n_levels); each row sums to 1."""
    for name, value, other in (("levels", levels, "chances"), ("chances", chances, "levels")):
        if value is None:
            raise ValueError(error_text(name, f"be given with {other}", value, "Call Pool.of_levels(levels, chances)."))
    assert levels is not None
    assert chances is not None
    level = reals("levels", levels, low=0.0, high=1.0, remedy="Levels are rewards.")
    if level.ndim != 1 or level.size == 0 or (np.diff(level) <= 0.0).any():
        raise ValueError(error_text("levels", "ascend, with shape (n_levels,)", level.tolist(), "Sort the levels."))
    chance = reals("chances", chances, low=0.0, high=1.0, remedy="Chances are probabilities.")
    if chance.ndim != 2 or chance.size == 0 or chance.shape[1] != level.size:
        condition = f"have shape (n_prompts, {level.size})"
        raise ValueError(error_text("chances", condition, chance.shape, "Give one row per prompt."))
    totals = chance.sum(axis=1)
    for i in np.flatnonzero(np.abs(totals - 1.0) > _ROUNDING)[:1].tolist():
        raise ValueError(error_text("chances", "sum to 1 for each prompt", chance[i].tolist(), "Normalise them.", i))
    return level, chance / totals[:, None]


def mean_rewards(levels: FloatArray, chances: FloatArray) -> FloatArray:
    """Return the mean of one reward; shape (n_prompts,)."""
    means: FloatArray = np.clip(chances @ levels, 0.0, 1.0)
    return means


def reward_variances(levels: FloatArray, chances: FloatArray) -> FloatArray:
    """Return the variance of one reward, in [0, 1/4]; shape (n_prompts,)."""
    distances = levels - mean_rewards(levels, chances)[:, None]
    variances: FloatArray = np.minimum((chances * distances**2).sum(axis=1), 0.25)
    return variances
