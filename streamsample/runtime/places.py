"""Where a record lies in its topic, as one number: the partition in the upper 16 bits, the offset in the lower 48.

So records of several partitions can be told apart, and their order is by partition, then offset (A2).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamsample.records import Int32s, Int64s, RecordBatch

PARTITIONS_MAX: Final = 1 << 15
_SHIFT: Final = np.int64(48)
_OFFSET: Final = np.int64((1 << 48) - 1)


def places_of(batch: RecordBatch, rows: Int64s) -> Int64s:
    """The places of a batch's records at `rows`, int64[m]."""
    places: Int64s = batch.offsets[rows] + (np.int64(batch.partition) << _SHIFT)
    return places


def partitions_at(places: Int64s) -> Int32s:
    """The partition of each place, int32[m]."""
    return (places >> _SHIFT).astype(np.int32)


def offsets_at(places: Int64s) -> Int64s:
    """The offset of each place, int64[m]."""
    offsets: Int64s = places & _OFFSET
    return offsets
