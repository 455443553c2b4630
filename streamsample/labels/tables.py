"""The layout of the join's memory: what one row, one matched feedback, one waiting feedback is, as fixed-size records.

A row is one cache line, because a feedback's look-up touches one row at a random place. The tables are passed
to kernels as named tuples of arrays; `counts` holds the scalars that kernels change.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any, Final, NamedTuple

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from streamsample.kernels import B1_OUT, I8, I8_OUT, I16, I16_OUT, I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, U64, U64_OUT
from streamsample.records import Bools, Bytes, Int32s, Int64s

NONE: Final = -1
"""No handle: the end of a chain, an empty index slot."""
_OWN_PAGES: Final = 1 << 22
_MOVED_AT_ONCE: Final = 1 << 24
BLOCK: Final = 256
"""Rows per block. A block belongs to one bucket."""
PAGE: Final = 16384
"""Bytes per page of the id arena. A page belongs to one bucket; an id lies in one page."""

ROW: Final = np.dtype(
    [
        ("ts", "<i8"),
        ("offset", "<i8"),
        ("payload", "<i8"),  # memory address in the bucket's segment
        ("id_place", "<i8"),
        ("hash", "<u4"),  # the upper half of the id's hash
        ("payload_size", "<i4"),
        ("head", "<i4"),  # newest matched feedback
        ("next", "<i4"),  # the next older row with the same id
        ("id_size", "<u2"),
        ("schema", "<i2"),
        ("index", "<i2"),
        ("split", "i1"),
        ("spare", "i1"),
        ("revision", "<i4"),  # how many records it has given, where it may give more
    ],
    align=True,
)
ENTRY: Final = np.dtype(
    [
        ("ts", "<i8"),
        ("offset", "<i8"),
        ("feedback_id", "<u8"),
        ("bits", "<i8"),
        ("at", "<i8"),  # when it takes effect: never before its prediction, never before what was decided already
        ("next", "<i4"),  # the next older matched feedback of the row, or the next free entry
        ("index", "<i2"),
        ("use", "i1"),
        ("source", "i1"),
    ],
    align=True,
)
LOGGED: Final = np.dtype(
    [
        ("row_offset", "<i8"),
        ("row_ts", "<i8"),
        ("ts", "<i8"),
        ("offset", "<i8"),
        ("feedback_id", "<u8"),
        ("bits", "<i8"),
        ("at", "<i8"),
        ("row", "<i4"),  # its handle, good until the row is forgotten
        ("row_index", "<i2"),
        ("index", "<i2"),
        ("use", "i1"),
        ("source", "i1"),
        ("spare", "<i2"),
    ],
    align=True,
)
WAIT: Final = np.dtype(
    [
        ("ts", "<i8"),
        ("offset", "<i8"),
        ("feedback_id", "<u8"),
        ("id_place", "<i8"),
        ("sequence", "<i8"),  # tells a handle's uses apart; NONE when free
        ("next", "<i4"),  # older and newer feedback of the same id
        ("previous", "<i4"),
        ("mask", "<u4"),
        ("id_size", "<u2"),
        ("index", "<i2"),
        ("source", "<i4"),
        ("hash", "<u4"),
    ],
    align=True,
)
BUCKET: Final = np.dtype(
    [
        ("rows", "<i8"),
        ("min_fresh", "<i8"),  # smallest event time of the rows added since the last sort
        ("max_ts", "<i8"),
        ("first_block", "<i4"),
        ("block", "<i4"),
        ("fill", "<i4"),  # rows in the last block
        ("page", "<i4"),
        ("page_at", "<i4"),
        ("spare", "<i4"),
    ],
    align=True,
)
WRITTEN: Final = np.dtype(
    [("row_offset", "<i8"), ("row_ts", "<i8"), ("revision", "<i4"), ("row_index", "<i2")], align=True
)
assert [kind.itemsize for kind in (ROW, ENTRY, LOGGED, WAIT, BUCKET)] == [64, 48, 72, 64, 48]

# Elements of RowTable.counts.
INDEXED: Final = 0
HELD: Final = 1
OPEN_ROWS: Final = 2
BLOCKS_FREE: Final = 3
BLOCKS_USED: Final = 4
PAGES_FREE: Final = 5
PAGES_USED: Final = 6
TOUCHED: Final = 7
# Elements of MatchTable.counts.
ENTRIES: Final = 0
ENTRIES_FREE: Final = 1
ENTRIES_USED: Final = 2
LOG: Final = 3
FREE_HEAD: Final = 4
# Elements of WaitTable.counts.
WAIT_INDEXED: Final = 0
LIVE: Final = 1
ITEMS_FREE: Final = 2
ITEMS_USED: Final = 3
SEQUENCE: Final = 4
IDS_USED: Final = 5
IDS_LIVE: Final = 6


class RowTable(NamedTuple):
    """Held predictions. `*_free` are stacks of freed numbers; numbers from `*_USED` on were never given out."""

    rows: NDArray[Any]
    slots: NDArray[np.uint64]
    ids: Bytes
    buckets: NDArray[Any]
    block_next: Int32s
    blocks_free: Int32s
    page_next: Int32s
    pages_free: Int32s
    counts: Int64s


class MatchTable(NamedTuple):
    """Matched feedback of held rows, the log of what is new in it, and how far each use reaches. Freed entries are a
    chain too, from counts[FREE_HEAD] on.

    uses: int8[sources * width], the uses of each source, padded with -1. reach: int64[uses], the longest feedback loop
    length; until: int64[uses], how long after its prediction feedback may take effect.
    """

    entries: NDArray[Any]
    log: NDArray[Any]
    counts: Int64s
    uses: NDArray[np.int8]
    reach: Int64s
    until: Int64s
    width: int
    per_row_max: int
    ledger: NDArray[np.int64]


class RuleTable(NamedTuple):
    """How targets are labelled. By use: take, undone_by (-1 for none), named, window, is_float; by target: the uses
    [first, end) that are its rules, strongest first.
    """

    take: NDArray[np.int8]
    undone_by: NDArray[np.int8]
    named: Bools
    window: Int64s
    is_float: Bools
    first: Int64s
    end: Int64s


class WaitTable(NamedTuple):
    """Feedback whose prediction has not come. bits: int64[items * width]."""

    items: NDArray[Any]
    slots: NDArray[np.uint64]
    ids: Bytes
    bits: Int64s
    free: Int32s
    counts: Int64s


class Times(NamedTuple):
    """The times that decide, in ms. Rows with ts < settled_before are settled, with ts < released_before they give no
    record any more, with ts < dead_before they are forgotten. window: how long feedback may have an effect.

    overlap: two rows of one id closer than this are the same prediction. late: `f.ts - p.ts` up to which a feedback
    of a closed row is late.
    """

    skew: int
    window: int
    overlap: int
    late: int
    settled_before: int
    released_before: int
    dead_before: int
    open_rows_max: int


class PredictionBatch(NamedTuple):
    """A batch of predictions; `bucket` is the row's bucket, or why it is refused (negative)."""

    offset: Int64s
    within: NDArray[np.int16]
    ts: Int64s
    hash: NDArray[np.uint64]
    ids: Bytes
    id_start: Int64s
    id_size: Int32s
    schema: NDArray[np.int16]
    split: NDArray[np.int8]
    bucket: Int32s


class FeedbackBatch(NamedTuple):
    """A batch of feedback. mask: bit k set for the k-th use of its feedback. bits: int64[n * width]."""

    source: Int32s
    offset: Int64s
    within: NDArray[np.int16]
    ts: Int64s
    feedback_id: NDArray[np.uint64]
    hash: NDArray[np.uint64]
    ids: Bytes
    id_start: Int64s
    id_size: Int32s
    mask: NDArray[np.uint32]
    bits: Int64s


class RowOut(NamedTuple):
    """Columns of n rows, copied out."""

    ts: Int64s
    offset: Int64s
    payload: Int64s
    id_place: Int64s
    payload_size: Int32s
    id_size: Int32s
    schema: NDArray[np.int16]
    within: NDArray[np.int16]
    split: NDArray[np.int8]
    hash: NDArray[np.uint32]

    def where(self, keep: Bools) -> RowOut:
        """The rows that are kept."""
        return RowOut(**{name: column[keep] for name, column in self._asdict().items()})


class ChosenOut(NamedTuple):
    """The feedback chosen for n rows and t targets, target by target: [t * n] each. use: -1 where there is none."""

    use: NDArray[np.int8]
    event_time: Int64s
    delay: Int64s
    bits: Int64s


class UsedOut(NamedTuple):
    """The feedback behind the labels, row by row; `first`: int64[n + 1]."""

    first: Int64s
    target: NDArray[np.int8]
    source: NDArray[np.int8]
    ts: Int64s
    offset: Int64s
    within: NDArray[np.int16]


def _records(dtype: np.dtype[Any]) -> Any:
    return types.Array(from_dtype(dtype), 1, "C")


def _tuple(kind: Any, *members: Any) -> Any:
    return types.NamedTuple(members, kind)


_U32 = types.Array(types.uint32, 1, "C", readonly=True)
_U32_OUT = types.Array(types.uint32, 1, "C")
_INT = types.int64
ROW_TABLE: Final = _tuple(
    RowTable, _records(ROW), U64_OUT, U8_OUT, _records(BUCKET), I32_OUT, I32_OUT, I32_OUT, I32_OUT, I64_OUT
)
MATCH_TABLE: Final = _tuple(
    MatchTable,
    _records(ENTRY),
    _records(LOGGED),
    I64_OUT,
    I8_OUT,
    I64_OUT,
    I64_OUT,
    _INT,
    _INT,
    types.Array(types.int64, 2, "C"),
)
RULE_TABLE: Final = _tuple(RuleTable, I8_OUT, I8_OUT, B1_OUT, I64_OUT, B1_OUT, I64_OUT, I64_OUT)
WAIT_TABLE: Final = _tuple(WaitTable, _records(WAIT), U64_OUT, U8_OUT, I64_OUT, I32_OUT, I64_OUT)
TIMES: Final = types.NamedUniTuple(_INT, len(Times._fields), Times)
PREDICTION_BATCH: Final = (I64, I16, I64, U64, U8, I64, I32, I16, I8, I32)
"""The columns of a PredictionBatch as a kernel's arguments: spread out, so that read-only arrays are accepted."""
FEEDBACK_BATCH: Final = (I32, I64, I16, I64, U64, U64, U8, I64, I32, _U32, I64)
"""The columns of a FeedbackBatch as a kernel's arguments."""
ROW_OUT: Final = _tuple(
    RowOut, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I32_OUT, I32_OUT, I16_OUT, I16_OUT, I8_OUT, _U32_OUT
)
CHOSEN_OUT: Final = _tuple(ChosenOut, I8_OUT, I64_OUT, I64_OUT, I64_OUT)
USED_OUT: Final = _tuple(UsedOut, I64_OUT, I8_OUT, I8_OUT, I64_OUT, I64_OUT, I16_OUT)


def reserved(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of `count` elements; large ones are pages of their own, resident once touched, given back when freed.

    (The heap would hand out memory that others had touched, and keep it.) Huge pages spare most translation misses.
    """
    size = count * dtype.itemsize
    if size < _OWN_PAGES:
        return np.empty(count, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, count)


def grown(array: NDArray[Any], used: int, wanted: int) -> NDArray[Any]:
    """`array`, or a longer one with its first `used` elements, in place of it (see `move`). What lies beyond is not
    touched, so not resident.
    """
    if wanted <= len(array):
        return array
    more = len(array) if array.nbytes >= _OWN_PAGES else len(array) // 2
    larger = reserved(max(wanted, len(array) + more), array.dtype)
    move(array, larger, used)
    return larger


def move(array: NDArray[Any], larger: NDArray[Any], used: int) -> None:
    """Bring the first `used` elements to a longer array. The old one is of no use afterwards: its memory is given back
    as it is read, so that there are never two of a large one.
    """
    # As bytes: numpy copies records field by field.
    old, new = array[:used].view(np.uint8), larger[:used].view(np.uint8)
    if array.nbytes < _OWN_PAGES:
        new[:] = old
        return
    for begin in range(0, len(old), _MOVED_AT_ONCE):
        end = min(begin + _MOVED_AT_ONCE, len(old))
        new[begin:end] = old[begin:end]
        first = -(-(old.ctypes.data + begin) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (old.ctypes.data + end) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            _madvise(first, last - first, mmap.MADV_DONTNEED)


_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
