"""The samples of windows that have closed, from what was held of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamsample.records import Bools, Float64s, Int64s
from streamsample.sampling.candidate import Candidates
from streamsample.sampling.ranks import probabilities
from streamsample.sampling.window_columns import Drawn, GroupColumns, WindowPart, WindowSettings


def samples_of(settings: WindowSettings, part: WindowPart) -> Drawn:
    """The samples of all groups of `part`, which holds whatever any partition has of their windows."""
    if settings.allocation == "each":
        k = np.full(len(part.groups.n), settings.k)
        return _drawn(settings, _once_each(settings, part) if settings.several else part, k, part.groups.threshold)
    # Imported here: its kernels are compiled only for jobs that need them.
    from streamsample.sampling.window_allocation import sizes

    k = sizes(settings, part.groups)
    keep, threshold, kept = _cut(settings, part, k)
    rows = np.flatnonzero(keep)
    groups = GroupColumns(part.groups.window, part.groups.place, part.groups.n, threshold, kept, part.groups.sums)
    part = WindowPart(groups, part.candidates[rows], part.rows.take(rows))
    return _drawn(settings, _once_each(settings, part) if settings.several else part, k, threshold)


def _once_each(settings: WindowSettings, part: WindowPart) -> WindowPart:
    """Each record of a window once, in the stratum of its largest π, the first of those (B10).

    That is the largest of the thresholds on `u` of all its strata, also of those that do not hold it: whatever is below
    one of them is below the largest.
    """
    number = np.repeat(np.arange(len(part.groups.kept)), part.groups.kept)
    window, records = part.groups.window[number], part.candidates
    probability = probabilities(settings.law, part.groups.threshold[number], records["weight"])
    order = np.lexsort((number, -probability, records["position"], records["source"], window))
    same = np.stack([window[order], records["source"][order], records["position"][order]])
    rows = np.sort(order[np.flatnonzero(np.append(True, (same[:, 1:] != same[:, :-1]).any(axis=0)))[: len(order)]])
    groups = replace(part.groups, kept=np.bincount(number[rows], minlength=len(part.groups.kept)))
    return WindowPart(groups, records[rows], part.rows.take(rows))


def _cut(settings: WindowSettings, part: WindowPart, k: Int64s) -> tuple[Bools, Float64s, Int64s]:
    """Which candidates stay, bool[m], when each group gives k units; and of each group the threshold, and how many."""
    keep, threshold, kept = np.zeros(len(part), np.bool_), part.groups.threshold.copy(), part.groups.kept.copy()
    end = 0
    for group, count in enumerate(part.groups.kept.tolist()):
        begin, end = end, end + count
        first = Candidates(part.candidates[begin:end], float(threshold[group]), settings.law).first(int(k[group]))
        keep[begin : begin + len(first)] = True
        threshold[group], kept[group] = first.threshold, len(first)
    return keep, threshold, kept


def _drawn(settings: WindowSettings, part: WindowPart, k: Int64s, thresholds: Float64s) -> Drawn:
    groups, records, rows = part.groups, part.candidates, part.rows
    threshold = np.repeat(thresholds, groups.kept)
    until, settled_at = _times(settings, part)
    probability = probabilities(settings.law, threshold, records["weight"])
    weight, draws = 1.0 / probability, np.full(len(part), -1)
    if settings.replacement:
        # Imported here: its kernels are compiled only for jobs that need them.
        from streamsample.sampling.window_draws import drawn_again

        probability, weight, draws = drawn_again(settings, part)
    return Drawn(
        rows=rows,
        source=records["source"],
        probability=probability,
        threshold=np.where(np.isfinite(threshold) & (settings.law != "first"), threshold, np.nan),
        n=np.repeat(groups.n, groups.kept),
        k=np.repeat(k, groups.kept),
        weight=weight,
        draws=draws,
        until=until,
        settled_at=settled_at,
        places=groups.place,
        seen=groups.n,
        kept=groups.kept,
    )


def _times(settings: WindowSettings, part: WindowPart) -> tuple[Int64s, Int64s]:
    """`Drawn.until` and `Drawn.settled_at`."""
    window = np.repeat(part.groups.window, part.groups.kept)
    if settings.records is None:
        until = (window + 1) * settings.window_ms
        return until, until + settings.grace_ms
    _, first, number = np.unique(window, return_index=True, return_inverse=True)
    latest = np.maximum.reduceat(part.rows.ts, first) if len(first) else np.empty(0, np.int64)
    return np.full(len(part), -1), latest[number]
