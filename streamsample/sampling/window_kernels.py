"""The loops over what a windowed sample is shown: which window and place each record is in.

A pair's number is (window - low) * places + place, with `low` the first window there is.
"""

from __future__ import annotations

from numba import types

from streamsample.kernels import I32, I32_OUT, I64, I64_OUT, kernel


@kernel(types.void(I64, I32, types.int64, types.int64, I64_OUT))
def count_pairs(window, place, low, places, counts):  # type: ignore[no-untyped-def]
    """Count the records of each pair."""
    for row in range(len(window)):
        counts[(window[row] - low) * places + place[row]] += 1


@kernel(types.void(I64, I32, types.int64, types.int64, I32, I32_OUT))
def look_up(window, place, low, places, table, out):  # type: ignore[no-untyped-def]
    """What `table` says of each record's pair."""
    for row in range(len(window)):
        out[row] = table[(window[row] - low) * places + place[row]]
