"""What the noise of a round's gradient consists of, from two independent sets of rollouts per round.

A scheme decides which prompts get how many rollouts; then the rollouts are drawn. Both choices make a round's gradient
differ from its mean. :func:`decompose` estimates each part by itself, :func:`figures` says what they cost.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def decompose(first: FloatArray, second: FloatArray, exact: FloatArray) -> dict[str, float]:
    r"""Split the variance of a round's gradient into the part of the prompts and the part of their rollouts, without bias.

    Let D be everything that the rollouts of a round are drawn from: its prompts, their counts, and the evidence that will
    score them. Given D, draw two sets of rollouts independently; their gradients g and g' have the same conditional mean
    m(D). With :math:`\mu = E[g] = E[m(D)]` the law of total variance is

    .. math:: E|g - \mu|^2 = \underbrace{E|m(D) - \mu|^2}_{between} + \underbrace{E|g - m(D)|^2}_{within}.

    Copies of a scheme that share nothing, each with its own seed and its own record of rewards, are measured over the same
    rounds. D is that of a round chosen at random from these, so that "between" includes what changes from round to round.
    With :math:`h_i` the mean of all gradients of copy i, ``n`` copies, and bars for means over copies and rounds, the
    estimates are

    .. math::

        L = \frac{1}{n (n - 1)} \sum_{i \ne j} \langle h_i, h_j \rangle, \qquad
        between = \overline{\langle g, g' \rangle} - L, \qquad
        within = \tfrac{1}{2} \overline{|g - g'|^2}.

    Each is unbiased. (1) Different copies are independent and :math:`E h_i = \mu`, so :math:`E L = |\mu|^2`. (2) Given D the
    two sets are independent: :math:`E \langle g, g' \rangle = E\,E[\langle g, g' \rangle | D] = E|m(D)|^2 = |\mu|^2 + between`.
    (3) :math:`\tfrac{1}{2} E|g - g'|^2 = E|g|^2 - E \langle g, g' \rangle = E|g|^2 - E|m(D)|^2 = within`. None of the steps needs
    the rounds of one copy to be independent, which they are not: prompts are drawn without replacement, evidence grows. It is
    the cross product of (2) that separates the parts: |g|² alone holds both.

    Parameters
    ----------
    first, second : numpy.ndarray of float64, shape (n_copies, n_rounds, n_parameters)
        Gradients of the two sets of rollouts. Copies learn from the rewards of the first set only.
    exact : numpy.ndarray of float64, shape (n_parameters,)
        Gradient of what is to be improved.

    Returns
    -------
    dict of str to float
        In units of the length of ``exact`` or its square, each unbiased: "length2", of the mean gradient, squared; "between";
        "within"; "along", the part of the mean gradient along ``exact``, and "along2", its square; "window", the variance of
        the mean of a copy's first gradients over all its rounds. An estimate of a square may be below 0.

    Examples
    --------
    Two copies whose rounds have means (2, 1) and (2, -1), and rollouts that change them by 1 in the third direction:

    >>> first, second = np.array([[[2.0, 1.0, 1.0]], [[2.0, -1.0, 1.0]]]), np.array([[[2.0, 1.0, -1.0]], [[2.0, -1.0, -1.0]]])
    >>> found = decompose(first, second, np.array([1.0, 0.0, 0.0]))
    >>> found["length2"], found["between"], found["within"], found["along"]
    (3.0, 1.0, 2.0, 2.0)
    """
    unit = float(exact @ exact)
    copies = (first + second).mean(1) / 2.0
    across = float((first * second).sum(2).mean())
    squares = float(((first**2).sum(2) + (second**2).sum(2)).mean()) / 2.0
    projections = copies @ exact / unit
    length2 = _square_of_mean(copies)
    return {
        "length2": length2 / unit,
        "between": (across - length2) / unit,
        "within": (squares - across) / unit,
        "along": float(projections.mean()),
        "along2": _square_of_mean(projections[:, None]),
        "window": (float((first.mean(1) ** 2).sum(1).mean()) - length2) / unit,
    }


def _square_of_mean(independent: FloatArray) -> float:
    """Return the mean inner product of different rows: the squared length of their expectation, without bias."""
    n, total = len(independent), independent.sum(0)
    return (float(total @ total) - float((independent**2).sum())) / (n * (n - 1))


def critical_batch(small: float, large: float, times: float, batch: float) -> float:
    r"""Return the critical batch from squared lengths of gradients alone, as a trainer logs them.

    The trace of the covariance of one rollout's gradient over the squared length of the true gradient: the simple noise scale
    of McCandlish et al. Where rollouts are independent, a gradient over b of them has the mean square
    :math:`|G|^2 + tr(\Sigma) / b`; two batch sizes give both unknowns. Neither needs the true gradient. Below the critical
    batch noise dominates, and less of it is worth as much as more rollouts; far above it nothing is gained.

    Parameters
    ----------
    small, large : float
        Mean squared length of the gradient over a batch, and over the mean of ``times`` batches.
    times : float
        Batches in a large one, above 1.
    batch : float
        Rollouts in a small one; the result has the same unit.

    Returns
    -------
    float
        In rollouts; infinite where no gradient stands out of the noise.

    References
    ----------
    McCandlish, Kaplan, Amodei et al., An empirical model of large-batch training, arXiv 1812.06162,
    equation 2.9 and appendix A.1.

    Examples
    --------
    >>> critical_batch(5.0, 2.0, 4, 128)  # 1 + 4 and 1 + 4 / 4
    512.0
    """
    noise, length2 = (small - large) / (1.0 - 1.0 / times), (times * large - small) / (times - 1.0)
    return batch * noise / length2 if length2 > 0.0 else float("inf")


def figures(own: Mapping[str, float], base: Mapping[str, float], rollouts: int, rounds: int) -> dict[str, float]:
    r"""Return what the parts of the noise cost, compared with a base scheme.

    A step of size :math:`\eta` along g changes a success with gradient e and mean curvature c by
    :math:`\eta \langle e, g \rangle - \eta^2 c |g|^2 / 2`. At its best step a scheme gains
    :math:`\langle e, \mu \rangle^2 / (2 c\,E|g|^2)` per round; with the critical batch B and b rollouts per round that is in proportion to
    :math:`aim^2 / (1 + B / b)`. "gain" is this in multiples of the base's: how many times the rollouts of the base would do
    the same. It takes c to be the same in all directions, which it is not.

    Parameters
    ----------
    own, base : mapping of str to float
        Means over seeds of what :func:`decompose` returns, with "adam" of :func:`studies.learning.gradients.quality` and
        "cosine".
    rollouts, rounds : int
        Rollouts per round; rounds of a window.

    Returns
    -------
    dict of str to float
        "length" of the mean gradient over that of the exact one; "between" and "within", each over the squared length of the
        mean gradient; "cosine" of a round's gradient with the exact one; "aim", that of the mean gradient; "window", the variance of the
        mean of successive rounds over that of as many independent ones: below 1 where their prompts complement each
        other; "critical", the critical batch in rollouts; "norms", what :func:`critical_batch` makes of a round and a window;
        "adam", the slope of success along the mean step of Adam over the base's; "gain". NaN where no gradient stands out of the noise.
    """
    noise, length2 = own["between"] + own["within"], max(own["length2"], 0.0)
    square = own["length2"] + noise
    progress, usual = (over(s["along2"], s["length2"] + s["between"] + s["within"]) for s in (own, base))
    return {
        "length": length2**0.5,
        "between": over(own["between"], length2),
        "within": over(own["within"], length2),
        "cosine": own["cosine"],
        "aim": over(own["along"], length2**0.5),
        "window": over(rounds * own["window"], noise),
        "critical": over(rollouts * noise, length2),
        "norms": critical_batch(square, own["length2"] + own["window"], rounds, rollouts),
        "adam": over(own["adam"], base["adam"]),
        "gain": over(progress, usual),
    }


def over(a: float, b: float) -> float:
    """Return a quotient, NaN where there is nothing to divide by."""
    return a / b if b else float("nan")
