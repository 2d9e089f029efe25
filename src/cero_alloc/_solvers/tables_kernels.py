"""Kernels of one visit's counts, from a table of unit gains.

``gains[r, n]`` is what unit n + 1 of row r adds. Counts lie in {0} u [min_units, max_units], max_units the table's width.
"""

import numpy as np

from cero_alloc._numba import kernel
from cero_alloc._objective.kernels import draw, entry


@kernel
def majorise(gains, min_units, length, worth, slopes):
    """Write the slopes of each row's smallest concave majorant over {0} u [min_units, max_units]; scratch of max_units entries.

    Adjacent blocks are pooled while the later one is steeper (isotonic regression). Blocks keep sums of gains, not
    differences of sums, so that a slope of one unit is that unit's gain to the last bit.
    """
    first = max(min_units, 1)
    for r in range(gains.shape[0]):
        top = -1
        for n in range(gains.shape[1]):
            if 0 < n < first:  # the forced first block
                length[top] += 1
                worth[top] += gains[r, n]
                continue
            top += 1
            length[top] = 1
            worth[top] = gains[r, n]
            if n + 1 < first:
                continue
            while top > 0 and worth[top] * length[top - 1] > worth[top - 1] * length[top]:
                top -= 1
                length[top] += length[top + 1]
                worth[top] += worth[top + 1]
        at, least = 0, np.inf
        for block in range(top + 1):
            least = min(least, worth[block] / length[block])  # division may have made the next block steeper by a bit
            for _ in range(length[block]):
                slopes[r, at] = least
                at += 1


@kernel
def dearer(slopes, r, low, high, cost, price, equal):
    """First n in [low, high) whose slope per cost is below ``price`` (or not above it, unless ``equal``), else high."""
    while low < high:
        middle = (low + high) // 2
        ratio = slopes[r, middle]
        if cost != 1.0:  # a division takes longer than the rest of the step
            ratio /= cost
        if ratio > price or (equal and ratio == price):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def take_above(slopes, cost, price, units):
    """Write the units per row whose slope per cost is at least ``price``; return their cost."""
    total = 0.0
    for r in range(slopes.shape[0]):
        c = entry(cost, r)
        units[r] = dearer(slopes, r, np.int64(0), slopes.shape[1], c, price, np.bool_(True))
        total += c * units[r]
    return total


@kernel
def clear_slopes(slopes, cost, target, sure, upto, trial):
    """Find the price at which the rows' units cost ``target``: quickselect over the slopes, no tolerance.

    ``sure`` and ``upto`` hold the bounds of the rows, within which slopes fall. On return they
    hold the units with slopes above the price, and those with slopes at least the price. The first cost at most
    ``target``, unless the lower bounds cost more. Returns the price, and the cost of the first. ``trial`` (2 x rows) is scratch.
    """
    m = slopes.shape[0]
    spent, price = 0.0, np.inf
    for r in range(m):
        spent += entry(cost, r) * sure[r]
    state = np.uint64(m)
    while True:
        undecided, open_cost = np.int64(0), 0.0
        for r in range(m):
            undecided += upto[r] - sure[r]
            open_cost += entry(cost, r) * (upto[r] - sure[r])
        if undecided == 0:
            return price, spent
        state, pick = draw(state, undecided)
        r = 0
        while pick >= upto[r] - sure[r]:
            pick -= upto[r] - sure[r]
            r += 1
        # A row by chance; within it, the unit that would be last if all rows got the same share of their room.
        share = min(max((target - spent) / open_cost, 0.0), 1.0)
        width = upto[r] - sure[r]
        price = slopes[r, sure[r] + min(np.int64(share * width), width - 1)] / entry(cost, r)
        if np.isnan(price):  # only from invalid input, with which the loop would not end
            return price, spent
        above, at_least = spent, spent
        for r in range(m):
            c = entry(cost, r)
            if sure[r] == upto[r]:
                trial[0, r] = trial[1, r] = sure[r]
                continue
            strict = dearer(slopes, r, sure[r], upto[r], c, price, np.bool_(False))
            weak = strict
            if strict < upto[r] and slopes[r, strict] / c == price:
                weak = dearer(slopes, r, strict, upto[r], c, price, np.bool_(True))
            above += c * (strict - sure[r])
            at_least += c * (weak - sure[r])
            trial[0, r], trial[1, r] = strict, weak
        if above <= target < at_least:
            sure[:] = trial[0]
            upto[:] = trial[1]
            return price, above
        if at_least <= target:
            sure[:] = trial[1]
            spent = at_least
        else:
            upto[:] = trial[0]


@kernel
def level(start, units, upto, cost, order, left):
    """Spend ``left`` on evening out start + units within upto, rows in ``order`` first; return what is left."""
    low, high = np.int64(2**62), np.int64(-(2**62))
    for r in range(units.size):
        if upto[r] > units[r]:
            low, high = min(low, start[r] + units[r]), max(high, start[r] + upto[r])
    if low >= high:
        return left
    while low < high:  # bisect for the highest level that ``left`` pays for
        middle = (low + high + 1) // 2
        need = 0.0
        for r in range(units.size):
            need += entry(cost, r) * (min(max(middle - start[r], units[r]), upto[r]) - units[r])
        if need <= left:
            low = middle
        else:
            high = middle - 1
    for r in range(units.size):
        more = min(max(low - start[r], units[r]), upto[r]) - units[r]
        left -= entry(cost, r) * more
        units[r] += more
    for ahead_too in range(2):  # rows at the level come before rows that are above it already
        for j in range(order.size):
            r = order[j]
            if units[r] < upto[r] and entry(cost, r) <= left and (start[r] + units[r] > low) == (ahead_too == 1):
                units[r] += 1
                left -= entry(cost, r)
    return left


@kernel
def fall(gains, lower, out):
    """Copy gains that fall along a row from ``lower`` on, without the rises that rounding makes; infinite before."""
    for r in range(lower.size):
        least = np.inf
        for n in range(gains.shape[1]):
            if n >= lower[r]:
                least = min(least, gains[r, n])
            out[r, n] = least


@kernel
def fill_ties(gains, slopes, min_units, cost, start, order, left, units, upto):
    """Spend ``left`` on the units at the clearing price: whole blocks that fit, then the single units evenly."""
    for j in range(order.size):
        r = order[j]
        flat = units[r] >= min_units or min_units <= 1
        for n in range(units[r], upto[r]):
            flat = flat and gains[r, n] == slopes[r, n]
        if flat:
            continue
        block = entry(cost, r) * (upto[r] - units[r])
        if block <= left:
            units[r] = upto[r]
            left -= block
        upto[r] = units[r]
    return level(start, units, upto, cost, order, left)


@kernel
def complete(gains, slopes, tie, min_units, total, units):
    """Bring the sum of the units to ``total``, greedily: open rows, then raise or trim. Return whether it can be."""
    m, max_units = gains.shape
    first = max(min_units, 1)
    active, spent = 0, 0
    for r in range(m):
        active += units[r] > 0
        spent += units[r]
    while active * max_units < total:
        chosen = -1
        for r in range(m):
            if units[r] == 0 and (
                chosen < 0
                or slopes[r, 0] > slopes[chosen, 0]
                or (slopes[r, 0] == slopes[chosen, 0] and tie[r] < tie[chosen])
            ):
                chosen = r
        if chosen < 0:
            return False
        units[chosen] = first
        active += 1
        spent += first
    while spent != total:
        chosen = -1
        up = spent < total
        for r in range(m):
            if up:
                if units[r] < max_units and (units[r] > 0 or first == 1):
                    here = gains[r, units[r]]
                    best = gains[chosen, units[chosen]] if chosen >= 0 else -np.inf
                    if chosen < 0 or here > best or (here == best and tie[r] < tie[chosen]):
                        chosen = r
            elif units[r] > first or (units[r] == 1 and first == 1):
                here = gains[r, units[r] - 1]
                worst = gains[chosen, units[chosen] - 1] if chosen >= 0 else np.inf
                if chosen < 0 or here < worst or (here == worst and tie[r] < tie[chosen]):
                    chosen = r
        if chosen < 0:
            return False
        step = 1 if up else -1
        units[chosen] += step
        spent += step
    return True


@kernel
def change_loss(gains, r, price, before, after):
    """Loss of sum gains - price * units when row r goes from ``before`` to ``after``."""
    loss = 0.0
    for n in range(before, after):
        loss += price - gains[r, n]
    for n in range(after, before):
        loss += gains[r, n] - price
    return loss


@kernel
def least_losses(gains, price, min_units, units, out):
    """Write the loss of each row's second best count at ``price``, ``units`` being the best."""
    first, max_units = max(min_units, 1), gains.shape[1]
    for r in range(units.size):
        out[r] = np.inf
        up, down = 0.0, 0.0
        for n in range(units[r], max_units):
            up += price - gains[r, n]
            if n + 1 >= first:
                out[r] = min(out[r], up)
        for n in range(units[r] - 1, -1, -1):
            down += gains[r, n] - price
            if n == 0 or n >= first:
                out[r] = min(out[r], down)


@kernel
def repair(gains, core, price, slack, min_units, window, bound, units, best, choice):
    """Raise the total by ``left``, or by lowest to highest at ``slack`` per unit short of left, at the least loss.

    ``window`` holds lowest, left and highest. Exact over the rows in ``core``, each change of count losing less than
    ``bound``: dynamic program over the change of the total so far. ``best`` (2 x 2 reach + 1) and ``choice`` (rows x 2 reach
    + 1) are scratch. Returns the loss, inf if nothing was found, and writes ``units``.
    """
    lowest, left, highest = window
    reach = (best.shape[1] - 1) // 2
    first, max_units = max(min_units, 1), gains.shape[1]
    best[:, :] = np.inf
    best[0, reach] = 0.0
    for s in range(core.size):
        r, now = core[s], s % 2
        before = units[r]
        for d in range(best.shape[1]):  # no change
            best[1 - now, d] = best[now, d]
            choice[s, d] = before
        for n in range(max_units + 1):
            if n == before or 0 < n < first:
                continue
            loss = change_loss(gains, r, price, before, n)
            if loss >= bound:
                continue
            shift = n - before
            for d in range(max(0, -shift), min(best.shape[1], best.shape[1] - shift)):
                if best[now, d] + loss < best[1 - now, d + shift]:
                    best[1 - now, d + shift] = best[now, d] + loss
                    choice[s, d + shift] = n
    last = core.size % 2
    found, at = np.inf, -1
    for d in range(max(-reach, lowest), min(reach, highest) + 1):
        loss = best[last, d + reach] + slack * (left - d)
        if loss < found:
            found, at = loss, d + reach
    if at >= 0:
        for s in range(core.size - 1, -1, -1):
            r = core[s]
            before = units[r]
            units[r] = choice[s, at]
            at -= units[r] - before
    return found


@kernel
def fill_costly(gains, slopes, min_units, cost, tie, floor_price, need, left, units):
    """Spend at least ``need`` and at most ``left`` on the next blocks that fit, dearest per cost first; return the rest.

    A block is what the majorant pools, or any part of it that may stand alone.
    """
    m, max_units = gains.shape
    while need > 0.0:
        chosen, size, top = np.int64(-1), 0, floor_price  # typed, or numba compiles entry for the literal
        for r in range(m):
            if units[r] >= max_units:
                continue
            c = entry(cost, r)
            worth, n = 0.0, units[r]
            while n < max_units and slopes[r, n] == slopes[r, units[r]]:
                worth += gains[r, n]
                n += 1
                step = n - units[r]
                if step * c > left:
                    break
                if n < min_units:
                    continue
                ratio = worth / (step * c)
                better = ratio > top or (ratio == top and chosen != r and (chosen < 0 or tie[r] < tie[chosen]))
                if better:
                    chosen, size, top = r, step, ratio
        if chosen < 0:
            break
        units[chosen] += size
        need -= size * entry(cost, chosen)
        left -= size * entry(cost, chosen)
    return left
