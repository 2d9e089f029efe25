"""Gaussian-process regression of success rates on the prompts' features, as in VIP."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, error_text, reals
from cero_alloc._saving.state import Field, Stateful

from ._base import RoundTally

_JITTER = 1e-4  # added to the kernel's diagonal, which equal features would make singular
_SAMPLE = 1000  # rows used for the median distance


class GaussianProcess(Stateful):
    r"""Logits of success rates as a Gaussian process over features, with its mean carried over between rounds.

    .. math:: m \leftarrow m + K_{\cdot B} K_{BB}^{-1} (\text{logit} \, \hat p_B - m_B), \qquad
        K_{ij} = e^{-|x_i - x_j|^2 / (2 h^2)}

    for the prompts B of a round; h is the median distance between prompts.

    Parameters
    ----------
    embeddings : array_like of float, shape (n_prompts, n_features)
        Features.
    n_prompts : int
        Expected number of rows.

    Examples
    --------
    >>> process = GaussianProcess([[0.0], [0.1], [9.0]], 3)
    >>> process.tally.add(np.array([0]), np.array([8.0]), np.array([8]))
    >>> process.learn()
    >>> process.rates().round(2).tolist()
    [0.94, 0.94, 0.84]
    """

    FIELDS: ClassVar[dict[str, Field]] = {"mean": Field(), "tally": Field()}

    def __init__(self, embeddings: npt.ArrayLike, n_prompts: int) -> None:
        remedy = "Give one row of features per prompt, in row order."
        features = reals("embeddings", embeddings, low=-np.inf, high=np.inf, remedy=remedy)
        if features.ndim != 2 or features.shape[0] != n_prompts or features.shape[1] == 0:
            raise ValueError(error_text("embeddings", f"have shape ({n_prompts}, n_features)", features.shape, remedy))
        self._features = _centred(features)
        some = self._features[np.linspace(0, n_prompts - 1, min(n_prompts, _SAMPLE)).astype(np.int64)]
        apart = np.sqrt(_squared_distances(some, some))[np.triu_indices(len(some), 1)]
        apart = apart[apart > 0.0]
        self._width = float(np.median(apart)) if apart.size else 1.0  # h, in units of the centred features
        self.mean = np.zeros(n_prompts)  # logits
        self.tally = RoundTally(n_prompts)

    def learn(self) -> None:
        """Update the mean with the rewards since the last call."""
        rows, successes, rollouts = self.tally.take()
        if rows.size == 0:
            return
        from scipy.linalg import cho_factor, cho_solve  # loaded on first use: keeps the import of the package short

        half = 0.5 / rollouts
        p = np.clip(successes / rollouts, half, 1.0 - half)
        kernel = np.exp(-_squared_distances(self._features, self._features[rows]) / (2.0 * self._width**2))
        among = kernel[rows] + _JITTER * np.eye(rows.size)
        self.mean += kernel @ cho_solve(cho_factor(among), np.log(p) - np.log1p(-p) - self.mean[rows])

    def rates(self) -> FloatArray:
        """Return the predicted success rates; shape (n_prompts,)."""
        rates: FloatArray = 1.0 / (1.0 + np.exp(-self.mean))
        return rates


def _centred(features: FloatArray) -> FloatArray:
    """Return features centred at 0 and scaled to at most 1; the process uses distances relative to their median only."""
    for _ in range(2):  # scaled before centring too, so that the mean cannot overflow
        largest = float(np.abs(features).max())
        features = features / largest if largest > 0.0 else features
        features = features - features.mean(axis=0)
    return features


def _squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    from scipy.spatial.distance import cdist  # loaded on first use; exactly 0 for equal rows

    distances: FloatArray = cdist(x, y, "sqeuclidean")
    return distances
