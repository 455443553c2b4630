"""The loops of bottom-k: one pool of candidates in chunks, and for each group a chain of chunks that grows as it fills.

A chain holds `ordered` sorted candidates, then those that came since, unsorted. When there are twice as many as can
stay, the new ones are sorted, united with the old, and cut at the threshold.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from streamsample.hashing import unit_of
from streamsample.kernels import F64, F64_OUT, I32, I64, I64_OUT, U64, inline, inline_always, kernel
from streamsample.sampling.candidate import CANDIDATE
from streamsample.sampling.ranks import FIRST, rank_at_least, rank_of

CHUNK = 16
"""Candidates in a chunk: what a group with a single member costs."""

NONE = -1
FIRST_FREE, FREE, USED = 0, 1, 2
"""Where `free` holds the first chunk that was given back, how many were, and how many of the pool were ever used."""

_RECORD = numba.from_dtype(CANDIDATE)
CANDIDATES = types.Array(_RECORD, 1, "C", readonly=True)
CANDIDATES_OUT = types.Array(_RECORD, 1, "C")


@inline_always
def precedes(a, b):  # type: ignore[no-untyped-def]
    """The total order of candidates: by rank, then by what makes a record itself, so that arrival decides nothing."""
    if a.rank != b.rank:
        return a.rank < b.rank
    if a.unit != b.unit:
        return a.unit < b.unit
    if a.source != b.source:
        return a.source < b.source
    return a.position < b.position


@inline
def _sort(block):  # type: ignore[no-untyped-def]
    """A sorted copy: bottom-up merge sort of the indices, since a candidate is six times as large as its index."""
    n = len(block)
    order, other = np.arange(n), np.empty(n, np.int64)
    width = 1
    while width < n:
        for begin in range(0, n, 2 * width):
            left, right = begin, min(begin + width, n)
            middle, end = right, min(begin + 2 * width, n)
            for at in range(begin, end):
                if left < middle and (right >= end or not precedes(block[order[right]], block[order[left]])):
                    other[at] = order[left]
                    left += 1
                else:
                    other[at] = order[right]
                    right += 1
        order, other = other, order
        width *= 2
    result = np.empty(n, CANDIDATE)
    for at in range(n):
        result[at] = block[order[at]]
    return result


@inline
def _union(law, a, b, k, records_max, threshold, out):  # type: ignore[no-untyped-def]
    """Merge two sorted runs into `out` without repetition, and cut; the number kept, and the threshold.

    Cut at the first unit that is the (k+1)-th, that does not fit into `records_max` with all of its records, or whose
    rank is not below `threshold`; that rank is the threshold from now on, and nothing of that rank stays. Of the law
    first, whose ranks are whole numbers, the threshold is just above it: those that come before by their place stay.
    """
    i, j, held, units = 0, 0, 0, 0
    while i < len(a) or j < len(b):
        if j >= len(b) or (i < len(a) and not precedes(b[j], a[i])):
            candidate = a[i]
            i += 1
        else:
            candidate = b[j]
            j += 1
        if candidate.rank >= threshold:
            break
        if held and not precedes(out[held - 1], candidate):
            continue
        if held == 0 or out[held - 1].rank != candidate.rank or out[held - 1].unit != candidate.unit:
            units += 1
        if units > k or held == records_max:
            threshold = candidate.rank if law != FIRST else candidate.rank + 0.5
            break
        out[held] = candidate
        held += 1
    while held and out[held - 1].rank >= threshold:
        held -= 1
    return held, threshold


@inline_always
def _available(pool, free):  # type: ignore[no-untyped-def]
    return free[FREE] + len(pool) // CHUNK - free[USED]


@inline
def _extend(g, head, tail, chain, free):  # type: ignore[no-untyped-def]
    """One more chunk for a group; there must be one available."""
    chunk = free[FIRST_FREE]
    if chunk != NONE:
        free[FIRST_FREE] = chain[chunk]
        free[FREE] -= 1
    else:
        chunk = free[USED]
        free[USED] += 1
    chain[chunk] = NONE
    if head[g] == NONE:
        head[g] = chunk
    else:
        chain[tail[g]] = chunk
    tail[g] = chunk


@inline
def _release(g, head, tail, count, chain, free):  # type: ignore[no-untyped-def]
    if head[g] != NONE:
        chain[tail[g]] = free[FIRST_FREE]
        free[FIRST_FREE] = head[g]
        free[FREE] += (count[g] + CHUNK - 1) // CHUNK
        head[g] = tail[g] = NONE


@inline
def _read(g, head, count, pool, chain, out, at):  # type: ignore[no-untyped-def]
    """Copy what a group holds to `out`, from `at` on."""
    chunk = head[g]
    for i in range(count[g]):
        if i and i % CHUNK == 0:
            chunk = chain[chunk]
        out[at + i] = pool[chunk * CHUNK + i % CHUNK]


@inline
def _write(g, records, held, head, tail, count, pool, chain, free):  # type: ignore[no-untyped-def]
    """Let a group hold the first `held` of `records` instead."""
    _release(g, head, tail, count, chain, free)
    for i in range(held):
        if i % CHUNK == 0:
            _extend(g, head, tail, chain, free)
        pool[tail[g] * CHUNK + i % CHUNK] = records[i]
    count[g] = held


@inline
def _compact(law, g, k, records_max, threshold, head, tail, count, ordered, pool, chain, free):  # type: ignore[no-untyped-def]
    if ordered[g] < count[g]:
        held, out = np.empty(count[g], CANDIDATE), np.empty(count[g], CANDIDATE)
        _read(g, head, count, pool, chain, held, 0)
        ordered[g], threshold[g] = _union(
            law, held[: ordered[g]], _sort(held[ordered[g] :]), k, records_max, threshold[g], out
        )
        _write(g, out, ordered[g], head, tail, count, pool, chain, free)


_STATE = (F64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, CANDIDATES_OUT, I64_OUT, I64_OUT)


@kernel(types.int64(types.int64, I32, U64, F64, I64, I64, I64, types.int64, types.int64, types.int64, *_STATE))
def update(  # type: ignore[no-untyped-def]
    law, group, unit, weight, source, position, row, at, k, records_max,
    threshold, head, tail, count, ordered, pool, chain, free,
):  # fmt: skip
    """Take the records from `at` on; the first that was not taken because the pool is full, or their number."""
    while at < len(group):
        g, u = group[at], unit_of(unit[at])
        if rank_at_least(law, u, weight[at]) >= threshold[g]:
            at += 1
            continue
        rank = rank_of(law, u, weight[at])
        if rank < threshold[g] and count[g] >= 2 * max(k, ordered[g]):
            _compact(law, g, k, records_max, threshold, head, tail, count, ordered, pool, chain, free)
        if rank < threshold[g]:
            slot = count[g] % CHUNK
            if slot == 0:
                if not _available(pool, free):
                    return at
                _extend(g, head, tail, chain, free)
            candidate = pool[tail[g] * CHUNK + slot]
            candidate.rank = rank
            candidate.unit = unit[at]
            candidate.weight = weight[at]
            candidate.source = source[at]
            candidate.position = position[at]
            candidate.row = row[at]
            count[g] += 1
        at += 1
    return at


@kernel(types.int64(types.int64, I32, U64, F64, F64, I64_OUT))
def near(law, group, unit, weight, threshold, out):  # type: ignore[no-untyped-def]
    """Write down the records whose rank may be below their group's threshold; how many there are."""
    found = 0
    for at in range(len(group)):
        if rank_at_least(law, unit_of(unit[at]), weight[at]) < threshold[group[at]]:
            out[found] = at
            found += 1
    return found


@kernel(types.void(types.int64, I32, types.int64, types.int64, *_STATE))
def compact(  # type: ignore[no-untyped-def]
    law, group, k, records_max, threshold, head, tail, count, ordered, pool, chain, free
):
    """Sort and cut what the groups hold."""
    for g in group:
        _compact(law, g, k, records_max, threshold, head, tail, count, ordered, pool, chain, free)


@kernel(types.void(I32, I64, I64, CANDIDATES, I64, CANDIDATES_OUT))
def read(group, head, count, pool, chain, out):  # type: ignore[no-untyped-def]
    """What the groups hold, one after the other."""
    done = 0
    for g in group:
        _read(g, head, count, pool, chain, out, done)
        done += count[g]


@kernel(types.int64(types.int64, I32, F64, I64, CANDIDATES, types.int64, types.int64, types.int64, *_STATE))
def absorb(  # type: ignore[no-untyped-def]
    law, group, other_threshold, other_count, other, at, k, records_max,
    threshold, head, tail, count, ordered, pool, chain, free,
):  # fmt: skip
    """Unite groups, from `at` on, with sorted candidates that lie one group after the other.

    The first group that was not united because the pool is full, or their number.
    """
    begin = 0
    for i in range(at):
        begin += other_count[i]
    while at < len(group):
        g, end = group[at], begin + other_count[at]
        if _available(pool, free) * CHUNK < other_count[at]:
            return at
        _compact(law, g, k, records_max, threshold, head, tail, count, ordered, pool, chain, free)
        held, out = np.empty(count[g], CANDIDATE), np.empty(count[g] + other_count[at], CANDIDATE)
        _read(g, head, count, pool, chain, held, 0)
        lower = min(threshold[g], other_threshold[at])
        ordered[g], threshold[g] = _union(law, held, other[begin:end], k, records_max, lower, out)
        _write(g, out, ordered[g], head, tail, count, pool, chain, free)
        begin = end
        at += 1
    return at


@kernel(types.void(I32, *_STATE))
def release(group, threshold, head, tail, count, ordered, pool, chain, free):  # type: ignore[no-untyped-def]
    """Give the groups' chunks back, and leave the groups empty."""
    for g in group:
        _release(g, head, tail, count, chain, free)
        threshold[g] = np.inf
        count[g] = ordered[g] = 0


@kernel(types.void(I64, I64, I64, I64_OUT))
def places(head, count, chain, out):  # type: ignore[no-untyped-def]
    """Where in the pool the candidates of all groups lie."""
    done = 0
    for g in range(len(head)):
        chunk = head[g]
        for i in range(count[g]):
            if i and i % CHUNK == 0:
                chunk = chain[chunk]
            out[done] = chunk * CHUNK + i % CHUNK
            done += 1
