"""What comes in, before anything is known of it: what it may be used for, and what is beyond all limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamsample.labels import ledger as books
from streamsample.labels.ledger import Ledger
from streamsample.labels.settings import ID_BYTES_MAX, TIME_MAX
from streamsample.records import Bools, Int64s, Spans


def uses_of_each(
    ledger: Ledger,
    uses: tuple[int, ...],
    count: int,
    valid: Sequence[Bools] | None,
    not_sampled: Bools | None,
    ts: Int64s,
    ids: Spans,
) -> NDArray[np.uint32]:
    """Which uses each feedback has, bit by bit; what has none is booked here."""
    feedback = ledger.feedback
    feedback[list(uses), books.FEEDBACK_IN] += count
    mask = np.full(count, (1 << len(uses)) - 1, np.uint32)
    if not_sampled is not None:
        feedback[list(uses), books.NOT_SAMPLED] += np.count_nonzero(not_sampled)
        mask[not_sampled] = 0
    if any_beyond(ts, ids):
        beyond = beyond_limits(ts, ids) & (mask != 0)
        feedback[list(uses), books.FEEDBACK_LIMIT] += np.count_nonzero(beyond)
        mask[beyond] = 0
    for k, column in enumerate(valid or ()):
        if not column.all():
            missing = ~column & ((mask >> np.uint32(k)) & np.uint32(1) == 1)
            feedback[uses[k], books.NO_VALUE] += np.count_nonzero(missing)
            mask[missing] &= np.uint32(~(1 << k) & 0xFFFFFFFF)
    return mask


def side_by_side(values: Sequence[Int64s], width: int) -> Int64s:
    """The value columns side by side, `width` for each feedback."""
    if width == 1:
        return np.ascontiguousarray(values[0])
    bits = np.zeros((len(values[0]), width), np.int64)
    for k, column in enumerate(values):
        bits[:, k] = column
    return bits.reshape(-1)


def any_beyond(ts: Int64s, ids: Spans) -> bool:
    """Whether anything is."""
    return bool(ids.size.max() > ID_BYTES_MAX or ts.max() > TIME_MAX or ts.min() < -TIME_MAX)


def beyond_limits(ts: Int64s, ids: Spans) -> Bools:
    """What is damage, not data: ids too long, times out of range."""
    return (ids.size > ID_BYTES_MAX) | (ts > TIME_MAX) | (ts < -TIME_MAX)


def ascends(offsets: Int64s, index: NDArray[np.int16], last: tuple[int, int]) -> bool:
    """Whether the places (offset, index) ascend, beginning after `last`."""
    if (int(offsets[0]), int(index[0])) <= last:
        return False
    if (offsets[1:] > offsets[:-1]).all():
        return True
    step = np.diff(offsets)
    return not bool(((step < 0) | ((step == 0) & (np.diff(index) <= 0))).any())
