"""How many units each stratum gives, of a sample of a given size: exact, so that everybody finds the same numbers.

Stratum h of n_h records gets a share of the total in proportion to s_h, but no less than a minimum and no more than it
has:

    proportional  s_h = n_h            equal  s_h = 1            Neyman  s_h = n_h S_h

S_h² is the variance of a field over the whole stratum, never over the sample; Neyman's allocation gives the total of
that field the least variance (Neyman, JRSS 97(4), 1934; Cochran, Sampling Techniques, 3rd ed. 1977, chapter 5). What a
full stratum cannot give goes to the others in proportion. Shares are fractions; rounding is by largest remainder
(Hamilton), ties go to the first name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

Allocation: TypeAlias = Literal["each", "equal", "proportional", "neyman"]
"""each: every stratum gives k. The others divide k among the strata."""


def allocate(
    total: int, shares: Sequence[Fraction], lowest: Sequence[int], highest: Sequence[int], names: Sequence[str]
) -> list[int]:
    """Divide `total` in proportion to `shares` (>= 0) between 0 <= lowest <= highest; the number of each stratum.

    The sum is `total`, unless the bounds forbid it: the minimum of every stratum is kept even beyond the total.

    >>> from fractions import Fraction as F
    >>> allocate(10, [F(700), F(200), F(100)], [2, 2, 2], [700, 200, 100], ["a", "b", "c"])
    [6, 2, 2]
    """
    quotas = _clamped(Fraction(total), shares, lowest, highest)
    left = Fraction(total) - sum(quotas, Fraction(0))
    if left > 0:
        # Only strata without a share have room: what is left goes to them in proportion to their room.
        room = [math.floor(most - quota) for most, quota in zip(highest, quotas, strict=True)]
        extra = _clamped(left, [Fraction(each) for each in room], [0] * len(room), room)
        quotas = [quota + more for quota, more in zip(quotas, extra, strict=True)]
    result = [math.floor(quota) for quota in quotas]
    missing = round(sum(quotas, Fraction(0))) - sum(result)
    order = sorted(range(len(quotas)), key=lambda at: (result[at] - quotas[at], names[at]))
    for at in order[:missing]:
        result[at] += 1
    return result


def _clamped(
    total: Fraction, shares: Sequence[Fraction], lowest: Sequence[int], highest: Sequence[int]
) -> list[Fraction]:
    """clamp(λ share, lowest, highest) of each, with the λ at which they add up to `total`, or as near as they can.

    The bounds of the side on which the total is missed by more hold for that λ as well: these strata are settled, and
    the rest is divided again (as flexible lengths are resolved: CSS Flexible Box Layout, section 9.7).
    """
    result = [Fraction(0)] * len(shares)
    open_ones = list(range(len(shares)))
    while open_ones:
        share = sum((shares[at] for at in open_ones), Fraction(0))
        scale = total / share if share else Fraction(0)
        for at in open_ones:
            result[at] = min(max(scale * shares[at], Fraction(lowest[at])), Fraction(highest[at]))
        missed = sum((result[at] - scale * shares[at] for at in open_ones), Fraction(0))
        if missed == 0:
            break
        settled = {at for at in open_ones if (result[at] - scale * shares[at]) * missed > 0}
        total -= sum((result[at] for at in settled), Fraction(0))
        open_ones = [at for at in open_ones if at not in settled]
    return result


def standard_deviation(count: int, total: Fraction, of_squares: Fraction) -> Fraction:
    """S of `count` numbers from their exact sum and the exact sum of their squares; 0 of fewer than two."""
    if count < 2:
        return Fraction(0)
    # Squares were rounded before they were added, so that the variance of equal numbers may be a hair below zero.
    variance = max(of_squares - total * total / count, Fraction(0)) / (count - 1)
    return Fraction(math.sqrt(variance))
