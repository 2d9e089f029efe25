"""Whole units of many prompts, largest gains first: a sample estimates the threshold, and one pass verifies it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import exp, inf, log, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._objective.utility import SaturatingUtility

from . import tables_kernels, units_kernels

_FEW = 1 << 14  # up to this many units are listed without sampling
SAMPLE = 1 << 13  # prompts
_SEEN = 1021  # entries of the cache of gains, a prime
_BLOCK = 256  # prompts at a time: scratch that stays in the cache
_MANY = 1 << 17  # units whose list costs as much as a pass over the pool
_PART = 1 / 16  # of a bracket, to either side of where its ends place the price
_SIGMAS = 3.0  # of the sample, to either side of the price
LEAST = 1e-250  # from this price on, logarithms distinguish prices
NO_UNITS = np.zeros(1, dtype=np.int64)
TINY = 5e-324  # at price 0 a unit must still gain something
_ONE = np.ones(1)


class Bracket(NamedTuple):
    """Units at two prices: those below ``high`` gain more than ``hi``, and those beyond ``low`` gain less than ``lo``."""

    lo: float
    hi: float
    high: IntArray  # per prompt
    near: IntArray  # prompts with units between the prices
    low: IntArray  # of these prompts, ``high`` and the units between
    over: int  # sum of all units but those that gain less than ``lo``
    under: int  # sum of high


class Taken(NamedTuple):
    """The k units that come first."""

    units: IntArray  # per prompt
    price: float  # gain of the k-th, shifted
    last: int  # its prompt
    before: float  # gain of the one before, shifted; infinite where it was not computed


@dataclass(frozen=True, slots=True)
class Units:
    """Units of the scores U(z + w n) / w of many prompts.

    Attributes
    ----------
    q, z : numpy.ndarray of float64, shape (n,)
        Values, and exposure so far in units.
    tie : numpy.ndarray of int32, shape (n,)
        Rank of the prompts where gain and ``ahead`` are equal.
    upper : numpy.ndarray of int64, shape (1,) or (n,)
        Most units of each prompt.
    share : float
        Equal share R in units.
    utility : SaturatingUtility
        What exposure is worth.
    lower : numpy.ndarray of int64, shape (1,) or (n,)
        Units that are taken already.
    visits : numpy.ndarray of float64, shape (1,) or (n,)
        Visits w that a unit stands for.
    ahead : numpy.ndarray of float64, shape (1,) or (n,)
        Whole numbers; of equal gains the one with the least ``ahead`` + n comes first.
    shift : float
        Added to every gain; equal gains are those that are equal after it.
    """

    q: FloatArray
    z: FloatArray
    tie: TieArray
    upper: IntArray
    share: float
    utility: SaturatingUtility
    lower: IntArray = field(default_factory=lambda: NO_UNITS)
    visits: FloatArray = field(default_factory=lambda: _ONE)
    ahead: FloatArray = field(default_factory=lambda: _ONE)
    shift: float = 0.0

    def __getitem__(self, rows: IntArray) -> Units:
        per_prompt = ("q", "z", "tie", "upper", "lower", "visits", "ahead")
        parts = {name: getattr(self, name) for name in per_prompt}
        return replace(self, **{name: part[rows] for name, part in parts.items() if part.size > 1})

    @property
    def total(self) -> int:
        """Units beyond the lower bounds."""
        return self.sum_of(self.upper) - self.sum_of(self.lower)

    def take(self, k: int, guess: float, spare: int = 0) -> Taken:
        """Return the ``k`` units with the largest gains, 1 to ``total``, counted from the lower bounds on.

        The result depends on the units alone; ``guess`` is a price to start from. ``spare`` 1 also returns the gain before
        the last one. Where logarithms do not distinguish the gains, or too many gains are equal, bisection finds the price.
        """
        size = self.q.size
        if self.total <= _FEW:
            lower, upper = (np.array(np.broadcast_to(bound, size)) for bound in (self.lower, self.upper))
            return self._listed(k, np.arange(size), lower, upper)
        spare = min(spare, k - 1)
        steepest = self.utility.saturation / self.share * float(self.visits.max())
        taken = self._bracketed(k, guess, spare) if 1e-50 < steepest < 1e50 else None
        return self._bisected(k, guess) if taken is None else taken

    def _bracketed(self, k: int, guess: float, spare: int) -> Taken | None:
        """Return the same by brackets around the price, wider until one holds; None where none does."""
        sigmas, k = _SIGMAS, k + self.sum_of(self.lower)
        while True:
            lo, hi = self._window(k - self.sum_of(self.lower), spare, guess, sigmas)
            if self.shift == 0.0:
                lo = max(lo, LEAST)
            bracket = self.between(lo, hi)
            if lo == LEAST and bracket.over < k:
                return None
            if bracket.under < k - spare and k <= bracket.over:
                bracket = self._narrowed(bracket, k, spare)
                taken = self._among(bracket, k, guess, spare)
                if taken is None or self._holds(bracket, taken, spare):
                    return taken
                if lo <= LEAST and hi == np.inf:  # nothing wider is left
                    return None
            sigmas *= 8.0

    def _narrowed(self, bracket: Bracket, k: int, spare: int) -> Bracket:
        """Return the part of a bracket that holds the k-th unit, for less than listing all units of the bracket takes."""
        while True:
            between, (lo, hi) = bracket.over - bracket.under, bracket[:2]
            if between < min(_MANY, self._most_listed) or lo <= LEAST or hi == inf:
                return bracket
            width = log(hi / lo)
            centre = lo * exp((bracket.over - k) / between * width)
            part = self.between(centre * exp(-_PART * width), centre * exp(_PART * width))
            held = part.under < k - spare and k <= part.over
            if not held or 2 * (part.over - part.under) > between:
                return bracket
            bracket = part

    def _among(self, bracket: Bracket, k: int, guess: float, spare: int) -> Taken | None:
        """Return the k units with the largest gains; units above the bracket are already included."""
        low, high, near = bracket.low, bracket.high, bracket.near
        if near.size <= SAMPLE or 2 * near.size > self.q.size:  # few, or many alike
            if int((low - high[near]).sum()) > self._most_listed:
                return None
            return self._listed(k - bracket.under, near, high, low)
        taken = replace(self[near], lower=high[near], upper=low).take(k - bracket.under, guess, spare)
        high[near] = taken.units
        return taken._replace(units=high, last=int(near[taken.last]))

    def _bisected(self, k: int, guess: float) -> Taken:
        """Return the same by bisection over the bit patterns of prices, which distinguishes any two gains."""
        size = self.q.size
        high, low = (np.array(np.broadcast_to(bound, size)) for bound in (self.lower, self.upper))
        under, over = self.sum_of(self.lower), self.sum_of(self.upper)
        k += under
        top = _place_of(inf)
        floor, place, step = -top, _place_of(guess + self.shift), 1 << 32
        while top - floor > 1 and over - under > self._most_listed:
            if not floor < place < top:
                place = floor + (top - floor) // 2
            trial = np.empty(size, dtype=np.int64)
            total = self.count(_price_at(place), trial)
            if total >= k:
                floor, low, over, place = place, trial, total, place + step
            else:
                top, high, under, place = place, trial, total, place - step
            if -_place_of(inf) < floor and top < _place_of(inf):
                place = floor  # the price is bracketed: halve from here on
            step *= 16
        before = inf
        if k - under == 1:  # the gain before the last one is not among those between
            rows = np.flatnonzero(high > self.lower)
            before = self.shift + float(self.gains(rows, high[rows] - 1).min(initial=inf))
        if over - under <= self._most_listed:
            near = np.flatnonzero(low > high)
            taken = self._listed(k - under, near, high, low[near])
            return taken._replace(before=min(before, taken.before))
        price, order = _price_at(floor), np.argsort(self.tie)  # all units between have this gain
        start = np.array(np.broadcast_to(self.ahead if self.ahead.size > 1 else 0.0, size)).astype(np.int64)
        tables_kernels.level(start, high, low, _ONE, order, float(k - under - 1))
        units = high.copy()
        tables_kernels.level(start, units, low, _ONE, order, 1.0)
        return Taken(units, price, int(np.flatnonzero(units > high)[0]), min(before, inf if k - under == 1 else price))

    def between(self, lo: float, hi: float) -> Bracket:
        """Return the units around two prices."""
        size = self.q.size
        high, near, low = (np.empty(size, dtype=np.int64) for _ in range(3))
        over, under, found = units_kernels.bracket_units(
            lo, hi, self._arrays, self.share, self.utility.codes, high, near, low, np.empty((5, _BLOCK))
        )
        return Bracket(lo, hi, high, near[:found], low[:found], int(over), int(under))

    def count(self, price: float, out: IntArray) -> int:
        """Write the units that gain at least ``price``, shifted, one utility at a time; return their sum."""
        codes = self.utility.codes
        return int(units_kernels.count_worth(price, self.shift, self._arrays, self.share, codes, out))

    def worth(self, price: float) -> IntArray:
        """Return the units that gain at least ``price``, counted from 0."""
        bracket = self.between(price if price >= LEAST else 0.0, max(price, LEAST))
        units = bracket.high
        rows, n = entries(bracket.near, units[bracket.near], bracket.low)
        np.add.at(units, rows[self.gains(rows, n) >= price], 1)
        return units

    def sum_of(self, bound: IntArray) -> int:
        """Return the sum of a bound over all prompts."""
        return int(bound[0]) * self.q.size if bound.size == 1 else int(bound.sum())

    def gains(self, rows: IntArray, n: IntArray) -> FloatArray:
        """Return the gain of unit n + 1 of each row."""
        gains, codes = np.empty(rows.size), self.utility.codes
        units_kernels.entry_gains(rows, n, self._arrays, self.share, codes, np.empty((4, _SEEN)), gains)
        return gains

    @property
    def _arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, IntArray, IntArray]:
        return self.q, self.z, self.visits, self.lower, self.upper

    @property
    def _most_listed(self) -> int:
        return 4 * self.q.size + _FEW

    def _listed(self, k: int, near: IntArray, units: IntArray, upper: IntArray) -> Taken:
        """Add to the units the first ``k`` of those up to the upper bounds of ``near``, by listing them all."""
        rows, n = entries(near, units[near], upper)
        gains = self.gains(rows, n)
        gains += self.shift

        def ahead(at: IntArray) -> npt.NDArray[Any]:
            return n[at] + (self.ahead[rows[at]] if self.ahead.size > 1 else 0.0)

        chosen, last = first(k, -gains, ahead, lambda at: self.tie[rows[at]])
        before = np.inf if k == 1 else min((float(gains[part].min()) for part in chosen if part.size), default=np.inf)
        for part in (*chosen, np.array([last])):
            np.add.at(units, rows[part], 1)
        return Taken(units, float(gains[last]), int(rows[last]), before)

    def _holds(self, bracket: Bracket, taken: Taken, spare: int) -> bool:
        """Tell whether the result is far enough inside the bracket that no unit outside it can rank before it."""
        lo, hi = bracket.lo + self.shift, bracket.hi + self.shift
        top = taken.before if spare else taken.price
        return (lo < taken.price or bracket.lo == 0.0) and top < hi

    def _window(self, k: int, spare: int, guess: float, sigmas: float) -> tuple[float, float]:
        """Return prices between which the k-th unit most likely gains."""
        size = self.q.size
        some, rank, margin = self, float(k), sigmas - _SIGMAS  # exact in the first search, wider in later ones
        few = max(16.0, self.total / 512)
        if size > 2 * SAMPLE:
            some = self[sample_rows(size)]
            rank *= SAMPLE / size
            lo, _ = some._around(rank, guess, some.total / 32)
            counts = some.between(max(lo, LEAST), max(lo, LEAST)).high
            margin = sigmas * (0.5 + sqrt(SAMPLE) * float(np.std(counts)))
            guess, few = lo, 0.5 * margin
        lo, hi = some._around(rank + margin, guess, few)
        if margin or spare:
            hi = some._around(rank - margin - spare, guess, few)[1]
        room = 1e-15 * abs(self.shift)
        return max(0.0, lo * (1.0 - 1e-6) - room), hi * (1.0 + 1e-6) + room

    def _around(self, rank: float, guess: float, few: float) -> tuple[float, float]:
        """Return two prices around the gain of the rank-th unit: near each other, or with at most ``few`` units between."""
        base, total = self.sum_of(self.lower), self.total
        if rank > total:
            return 0.0, LEAST
        if rank < 1.0:
            return 1.0 / LEAST, np.inf
        lo, hi, over, under = 0.0, np.inf, float(total), 0.0
        price = min(max(guess, 2.0 * LEAST), 0.5 / LEAST) if guess > 0.0 else 1.0
        step, trial = 1e-2, 0
        while True:
            bracket = self.between(price, price)
            most, least = bracket.over - base, bracket.under - base
            if least < rank <= most:  # many units have exactly this gain
                return price, price
            if least >= rank:
                lo, over = price, least
            else:
                hi, under = price, most
            if lo > 0.0 and hi < np.inf:
                if over - under <= few or hi <= lo * (1.0 + 1e-4):
                    return lo, hi
                trial += 1
                part = (over - rank) / (over - under) if trial % 4 else 0.5
                price = lo * exp(min(max(part, 0.02), 0.98) * log(hi / lo))
                continue
            price = price * exp(step) if lo > 0.0 else price * exp(-step)
            step = min(4.0 * step, 100.0)
            if not LEAST < price < 1.0 / LEAST:
                return (0.0, LEAST) if lo == 0.0 else (1.0 / LEAST, np.inf)


def first(k: int, key: FloatArray, *ties: Callable[[IntArray], npt.NDArray[Any]]) -> tuple[list[IntArray], int]:
    """Return the positions that come before the k-th in ascending order, in parts, and the k-th.

    Order is by ``key``, then by what each of ``ties`` returns for positions; the last of them must distinguish all.
    """
    chosen: list[IntArray] = []
    part: npt.NDArray[Any] = key
    at = np.arange(key.size)
    for tie in (*ties, None):
        if part.min() == part.max():
            part = part if tie is None else tie(at)
            continue
        bound = np.partition(part, k - 1)[k - 1]
        before, equal = np.flatnonzero(part < bound), np.flatnonzero(part == bound)
        k -= before.size
        chosen.append(at[before])
        at = at[equal]
        if tie is not None:
            part = tie(at)
    return chosen, int(at[0])


def entries(rows: IntArray, lower: IntArray, upper: IntArray) -> tuple[IntArray, IntArray]:
    """Return prompt and n of every unit of these rows between their bounds."""
    more = upper - lower
    if rows.size and more.min() == more.max() == 1:
        return rows, lower
    n = np.repeat(lower - (np.cumsum(more) - more), more)
    n += np.arange(n.size)
    return np.repeat(rows, more), n


@lru_cache(maxsize=8)
def sample_rows(size: int) -> IntArray:
    """Return rows spread evenly over a pool by multiples of the golden ratio, which avoids aliasing with its periods."""
    return np.sort((np.arange(SAMPLE) * 0.6180339887498949 % 1.0 * size).astype(np.int64))


def _place_of(price: float) -> int:
    """Return the place of a float among all floats, counted from 0 in both directions."""
    bits = int(np.float64(abs(price)).view(np.int64))
    return bits if price >= 0.0 else -bits


def _price_at(place: int) -> float:
    """Return the float at a place."""
    price = float(np.int64(abs(place)).view(np.float64))
    return price if place >= 0 else -price


class Visit(NamedTuple):
    """Units of the prompts on offer, and the price that cleared the visit."""

    units: IntArray
    price: float  # utility per unit, or per token


def solve_visit(
    score: Units, least: IntArray, most: IntArray, *, low: float, high: float, floor: float, much: float
) -> Visit:
    """Maximise concave scores net of a floor price over counts whose total lies in a window.

    Solves what :func:`solve_batch` solves, for single units of equal cost, with the units below ``least`` before all others
    and those beyond ``most`` after them.

    Parameters
    ----------
    score : Units
        Scores of the rows, from 0 to the most units of a visit.
    least, most : numpy.ndarray of int64, shape (1,) or (n_rows,)
        Counts that leave the optimal plan within reach.
    low, high : float
        Window of the total.
    floor : float
        Price below which nothing is taken, unless ``low`` requires it.
    much : float
        More than any gain: added below ``least`` and subtracted beyond ``most``.
    """
    free = replace(score, lower=least, upper=most)
    sure, wanted = score.sum_of(least), score.sum_of(most)
    first, last = (min(int(total), score.total) for total in (low, high))
    floor = max(floor, TINY)
    if sure > last:
        target: int | None = last
    elif wanted < first:
        target = first
    else:  # a sample predicts which end binds
        target = _binding(free, floor, first, last)
    if target is not None:
        units, next_gain, last_gain = _spend(score, free, sure, wanted, much, target, floor)
        if (target == last and next_gain >= floor) or (target == first and last_gain < floor):
            return Visit(units, next_gain)
    units = free.worth(floor)
    total = int(units.sum())
    if low <= total <= high:
        return Visit(units, floor if floor > TINY else 0.0)
    return Visit(*_spend(score, free, sure, wanted, much, last if total > high else first, floor)[:2])


def _binding(free: Units, floor: float, low: int, high: int) -> int | None:
    """Return the end of the window that most likely binds, None for neither."""
    size = free.q.size
    if size <= 2 * SAMPLE:
        return None
    units = free[sample_rows(size)].worth(floor)
    scale = size / SAMPLE
    expected, doubt = scale * float(units.sum()), scale * sqrt(SAMPLE) * float(units.std())
    if expected - doubt > high:
        return high
    return low if expected + doubt < low else None


def _spend(
    score: Units, free: Units, sure: int, wanted: int, much: float, total: int, guess: float
) -> tuple[IntArray, float, float]:
    """Return the counts of a total, the gain of the next unit, and that of the last one where it was computed."""
    if total < sure:
        part, k = replace(free, lower=NO_UNITS, upper=free.lower, shift=much), total
    elif total < wanted:
        part, k = free, total - sure
    else:
        part, k = replace(score, lower=free.upper, shift=-much), total - wanted
    if k < part.total:
        taken = part.take(k + 1, guess, spare=1)
        taken.units[taken.last] -= 1
    else:  # all units are dealt: there is no next one, and the price is the least gain
        parts = (part, free, replace(free, lower=NO_UNITS, upper=free.lower, shift=much))
        part = next(part for part in parts if part.total)
        taken = part.take(part.total, guess)
    return taken.units, taken.price, taken.before
