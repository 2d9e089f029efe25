"""SaturatingUtility: what a prompt's cumulative exposure is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, error_text, real, reals
from cero_alloc._numba import when_it_pays
from cero_alloc._saving.shown import Shown

from . import kernels

Shape = Literal["exponential", "hyperbolic", "log", "capped-linear"]
Scaling = Literal["rate", "height"]

SHAPES: dict[str, int] = {
    "exponential": kernels.EXPONENTIAL,
    "hyperbolic": kernels.HYPERBOLIC,
    "log": kernels.LOG,
    "capped-linear": kernels.CAPPED_LINEAR,
}
SCALINGS: dict[str, int] = {"rate": kernels.RATE, "height": kernels.HEIGHT}

_VALUE_REMEDY = "A value is a Bernoulli variance p (1 - p), or that of another reward in [0, 1]."
_EXPOSURE_REMEDY = "Exposure is counted in equal shares, z / R."
_SLOPE_REMEDY = "A slope is utility per equal share of exposure."


@dataclass(frozen=True, slots=True, repr=False)
class SaturatingUtility(Shown):
    r"""Concave utility of exposure whose slope never exceeds the saturation.

    .. math::

        U(q, x) = \varphi(4 \lambda q x) \quad \text{("rate")}, \qquad
        U(q, x) = 4 q\, \varphi(\lambda x) \quad \text{("height")}

    with :math:`\varphi(s)` equal to :math:`1 - e^{-s}` (exponential), :math:`s / (1 + s)` (hyperbolic),
    :math:`\ln(1 + s)` (log) or :math:`\min(s, 1)` (capped-linear). ``x`` is the exposure in equal shares,
    :math:`z / R`, without unit; ``q`` in [0, 1/4] is the prompt's value. In both scalings the slope starts at
    :math:`4 \lambda q` and stays in :math:`[0, \lambda]`.

    Parameters
    ----------
    shape : {"exponential", "hyperbolic", "log", "capped-linear"}
        The function :math:`\varphi`.
    saturation : float
        :math:`\lambda > 0`, per equal share of exposure. Larger values saturate sooner.
    scaling : {"rate", "height"}
        Whether the value sets how fast the utility saturates or how high it rises.

    Raises
    ------
    ValueError
        For an unknown shape or scaling, or a saturation that is not finite and positive.
    TypeError
        For a saturation that is not a number.

    Notes
    -----
    The attribute ``codes`` is what kernels take: the numbers of shape and scaling, and the saturation.

    References
    ----------
    arXiv 2606.05606 and arXiv 2610.09679 for the exponential utility with "rate" scaling; the other members share its
    slope bound.

    Examples
    --------
    >>> utility = SaturatingUtility(saturation=1.0)
    >>> utility.value(0.25, [0.0, 1.0, 2.0]).round(4).tolist()
    [0.0, 0.6321, 0.8647]
    >>> round(float(utility.marginal(0.25, 1.0)), 4)
    0.3679
    """

    shape: Shape = "exponential"
    _: KW_ONLY
    saturation: float = 1.0
    scaling: Scaling = "rate"
    codes: tuple[int, int, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, known in (("shape", SHAPES), ("scaling", SCALINGS)):
            choice = getattr(self, name)
            if not isinstance(choice, str) or choice not in known:
                raise ValueError(error_text(name, f"be one of {sorted(known)}", choice, "Correct the spelling."))
        remedy = "Take 1.0 unless measured otherwise."
        saturation = real("saturation", self.saturation, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        if not 1e-300 <= saturation <= 1e100:  # beyond, products with it leave the floats
            raise ValueError(error_text("saturation", "be between 1e-300 and 1e+100", saturation, remedy))
        object.__setattr__(self, "saturation", saturation)
        object.__setattr__(self, "codes", (SHAPES[self.shape], SCALINGS[self.scaling], saturation))

    @property
    def ceiling(self) -> float:
        """Largest mean utility per prompt that the budget can buy, the slope bound or 1 for bounded shapes."""
        return self.saturation if self.shape == "log" else min(1.0, self.saturation)

    def value(self, q: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """Return the utility U(q, x).

        Parameters
        ----------
        q : array_like of float, any shape, in [0, 1/4]
            Values of the prompts.
        x : array_like of float, any shape, at least 0
            Exposure in equal shares; broadcast against ``q``.

        Returns
        -------
        numpy.ndarray of float64, in the broadcast shape
            Utility per prompt.

        Raises
        ------
        ValueError
            For a value outside [0, 1/4], a negative or non-finite exposure, or shapes that do not broadcast.
        TypeError
            For arguments that are not numbers.

        Examples
        --------
        >>> SaturatingUtility("capped-linear").value(0.25, [0.5, 3.0]).tolist()
        [0.5, 1.0]
        """
        return self._map(kernels.utility_loop, _values(q), _exposures("x", x))

    def marginal(self, q: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """Return the slope U'(q, x), utility per equal share; at the kink of the capped line the slope to the right.

        Parameters
        ----------
        q : array_like of float, any shape, in [0, 1/4]
            Values of the prompts.
        x : array_like of float, any shape, at least 0
            Exposure in equal shares; broadcast against ``q``.

        Returns
        -------
        numpy.ndarray of float64, in the broadcast shape
            Utility per equal share, in [0, saturation].

        Raises
        ------
        ValueError, TypeError
            As for :meth:`value`.

        Examples
        --------
        >>> SaturatingUtility("hyperbolic").marginal(0.25, [0.0, 1.0]).tolist()
        [1.0, 0.25]
        """
        return self._map(kernels.marginal_loop, _values(q), _exposures("x", x))

    def demand(self, q: npt.ArrayLike, slope: npt.ArrayLike, upper: npt.ArrayLike) -> FloatArray:
        r"""Return the exposure that a prompt takes at a price, the smallest minimiser of the conjugate.

        .. math:: x^*(\theta) = \arg\min_{0 \le x \le u} \theta x - U(q, x)

        Parameters
        ----------
        q : array_like of float, any shape, in [0, 1/4]
            Values of the prompts.
        slope : array_like of float, any shape, at least 0
            The price :math:`\theta`, utility per equal share.
        upper : array_like of float, any shape, at least 0
            Largest exposure, in equal shares. All three broadcast.

        Returns
        -------
        numpy.ndarray of float64, in the broadcast shape
            Exposure in equal shares.

        Raises
        ------
        ValueError
            For an argument outside its range, or shapes that do not broadcast.
        TypeError
            For arguments that are not numbers.

        References
        ----------
        Claim 1 of the theory page.

        Examples
        --------
        >>> SaturatingUtility().demand(0.25, [1.0, 0.5, 0.0], 4.0).round(4).tolist()
        [0.0, 0.6931, 4.0]
        """
        return self._map(kernels.demand_loop, _values(q), _slopes(slope), _exposures("upper", upper))

    def conjugate(self, q: npt.ArrayLike, slope: npt.ArrayLike, upper: npt.ArrayLike) -> FloatArray:
        r"""Return the restricted concave conjugate.

        .. math:: U^*(\theta) = \min_{0 \le x \le u} \theta x - U(q, x)

        Parameters
        ----------
        q : array_like of float, any shape, in [0, 1/4]
            Values of the prompts.
        slope : array_like of float, any shape, at least 0
            The price :math:`\theta`, utility per equal share.
        upper : array_like of float, any shape, at least 0
            Largest exposure, in equal shares. All three broadcast.

        Returns
        -------
        numpy.ndarray of float64, in the broadcast shape
            Utility per prompt, at most 0.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`demand`.

        References
        ----------
        Claim 1 of the theory page.

        Examples
        --------
        >>> SaturatingUtility().conjugate(0.25, [1.0, 0.5], 4.0).round(4).tolist()
        [0.0, -0.1534]
        """
        return self._map(kernels.conjugate_loop, _values(q), _slopes(slope), _exposures("upper", upper))

    def _map(self, loop: Callable[..., None], *arrays: FloatArray) -> FloatArray:
        """Run an elementwise kernel over broadcast arrays."""
        try:
            shape = np.broadcast_shapes(*(a.shape for a in arrays))
        except ValueError:
            shapes = ", ".join(str(a.shape) for a in arrays)
            raise ValueError(
                f"arguments must broadcast, got shapes {shapes}. Give one number, or equal shapes."
            ) from None
        out = np.empty(shape, dtype=np.float64)
        when_it_pays(loop, out.size)(
            self.codes, *(np.array(np.broadcast_to(a, shape)).reshape(-1) for a in arrays), out.reshape(-1)
        )
        return out


def _values(q: npt.ArrayLike) -> FloatArray:
    return reals("q", q, low=0.0, high=0.25, remedy=_VALUE_REMEDY)


def _exposures(name: str, x: npt.ArrayLike) -> FloatArray:
    return reals(name, x, low=0.0, high=np.inf, remedy=_EXPOSURE_REMEDY)


def _slopes(slope: npt.ArrayLike) -> FloatArray:
    return reals("slope", slope, low=0.0, high=np.inf, remedy=_SLOPE_REMEDY)
