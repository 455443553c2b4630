"""How many units each stratum of a window gives, when a size for the whole window is divided among its strata."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from streamsample.records import Int64s
from streamsample.sampling.allocation import allocate, standard_deviation
from streamsample.sampling.strata import Places
from streamsample.sampling.totals import WORDS, exact_sum
from streamsample.sampling.window_columns import GroupColumns, WindowSettings


def sizes(settings: WindowSettings, groups: GroupColumns) -> Int64s:
    """Units of each of the groups, int64[g], from all groups of their windows: see `allocation`.

    As `StratifiedReservoir` allocates them, window by window.
    """
    names = Places(settings.strata, settings.others).names
    result = np.zeros(len(groups.n), np.int64)
    for window in np.unique(groups.window).tolist():
        members = np.flatnonzero(groups.window == window)
        counts = groups.n[members].tolist()
        highest = [min(count, settings.candidates_max) for count in counts]
        lowest = [min(settings.minimum, most) for most in highest]
        shares = [_share(settings, n, groups.sums[at]) for n, at in zip(counts, members.tolist(), strict=True)]
        result[members] = allocate(
            settings.k, shares, lowest, highest, [names[place] for place in groups.place[members].tolist()]
        )
    return result


def _share(settings: WindowSettings, n: int, sums: Int64s) -> Fraction:
    if settings.allocation == "neyman":
        return n * standard_deviation(n, exact_sum(sums[:WORDS]), exact_sum(sums[WORDS:]))
    return Fraction(n if settings.allocation == "proportional" else 1)
