"""What the label join hands out: what became of each prediction, and the rows whose windows have closed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Bools, Bytes, Int64s, Spans

EARLY, FINAL, CORRECT, RETRACT = range(4)
_PLAIN: Final = ("ts", "offset", "index", "schema", "split", "settled_at", "timestamp", "state", "revision")
STATES: Final = ("early", "final", "correct", "retract")
"""What a record is: one of a row that is not settled; its first settled one; one that replaces that; its withdrawal."""
NEW: Final = 0
"""A prediction that became an open row."""
DUPLICATE: Final = 1
"""A prediction whose id is already held with a window that overlaps its own: no effect (A9)."""
LATE: Final = 2
"""A prediction whose deadline the watermark has passed: to be dead-lettered (A6)."""
LIMIT: Final = 3
"""A prediction beyond a limit (open rows, id length, time range): counted dropped{limit}, to be dead-lettered."""


@dataclass(frozen=True, slots=True)
class TargetColumns:
    """One target's labels of n settled rows.

    bits: int64[n], the value's 8 bytes (float64 or int64 as the target is typed), 0 where not `valid`.
    valid: bool[n], there is a value. settled: bool[n], the target is labelled (explicit, or implicit by silence); False
    where it was dropped (silent with `if_silent: drop`, or uncovered).
    explicit: bool[n], the label was given by feedback. event_time, delay_ms: int64[n], `f.ts` and `f.ts - p.ts` where
    explicit, else 0; of a sum or a count those of its last feedback. kind: int16[n], index of the feedback that
    gave the label, else -1.
    """

    bits: Int64s
    valid: Bools
    settled: Bools
    explicit: Bools
    event_time: Int64s
    delay_ms: Int64s
    kind: NDArray[np.int16]

    def take(self, rows: Int64s) -> TargetColumns:
        """The labels at `rows`."""
        return TargetColumns(*(getattr(self, name)[rows] for name in TargetColumns.__slots__))


@dataclass(frozen=True, slots=True)
class FeedbackUsed:
    """The feedback behind n records as a CSR: record i used the elements `first[i]:first[i + 1]`, ordered by target,
    then in the order of event time and place.

    first: int64[n+1]. target, source: int8[m], indices into the settings' targets and sources. ts, offset: int64[m];
    index: int16[m], the feedback's place inside its Kafka record. Its partition is the task's.
    """

    first: Int64s
    target: NDArray[np.int8]
    source: NDArray[np.int8]
    ts: Int64s
    offset: Int64s
    index: NDArray[np.int16]

    def take(self, rows: Int64s) -> FeedbackUsed:
        """That of the records at `rows`."""
        counts = np.diff(self.first)[rows]
        first = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=first[1:])
        at = np.arange(first[-1]) + np.repeat(self.first[rows] - first[:-1], counts)
        return FeedbackUsed(first, self.target[at], self.source[at], self.ts[at], self.offset[at], self.index[at])


@dataclass(frozen=True, slots=True)
class Settled:
    """Rows that give a record, ordered by when it was decided, then by (ts, offset, index). May be empty.

    Over the calls of `on_watermark` the order goes on: it does not depend on how the watermark moved.
    ts, offset: int64[n]; index: int16[n]; ids, payload: n spans, each column in a buffer of its own without gaps;
    schema: int16[n]; split: int8[n]; settled_at: int64[n], what the watermark had to pass; timestamp: int64[n], the
    record's own time: `p.ts + W + G` for a close, `f.ts` of what changed the label otherwise. state: int8[n], index
    into STATES. revision: int32[n], 0 for a row's first record; each replaces the one before it. before: the labels
    just before what each record is for; empty if these are all first records.
    """

    ts: Int64s
    offset: Int64s
    index: NDArray[np.int16]
    ids: Spans
    payload: Spans
    schema: NDArray[np.int16]
    split: NDArray[np.int8]
    settled_at: Int64s
    timestamp: Int64s
    state: NDArray[np.int8]
    revision: NDArray[np.int32]
    targets: tuple[TargetColumns, ...]
    used: FeedbackUsed
    before: tuple[TargetColumns, ...] = ()

    def take(self, rows: Int64s) -> Settled:
        """The records at `rows`, over the same buffers."""
        plain = {name: getattr(self, name)[rows] for name in _PLAIN}
        return replace(
            self,
            ids=self.ids.take(rows),
            payload=self.payload.take(rows),
            targets=tuple(columns.take(rows) for columns in self.targets),
            used=self.used.take(rows),
            before=tuple(columns.take(rows) for columns in self.before),
            **plain,
        )

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class Lost:
    """n feedback that waited in vain. source, what: int64[n], index into the settings' sources, and LATE, ORPHAN or
    PRE_CAUSAL of the ledger's columns; offset: int64[n]; originals: its bytes as they were given.
    """

    source: Int64s
    what: Int64s
    offset: Int64s
    originals: Spans


@dataclass(frozen=True, slots=True)
class Counts:
    """How full the join is: numbers of things, for metrics and limits.

    open_rows: not yet settled. held_rows: open, or settled and still known (late feedback, duplicates).
    waiting: feedback without its prediction. matches: matched feedback kept for open rows.
    """

    open_rows: int
    held_rows: int
    waiting: int
    matches: int
    payload_bytes: int
    index_entries: int
    buckets: int


Codes = NDArray[np.uint8]
__all__ = [
    "CORRECT",
    "DUPLICATE",
    "EARLY",
    "FINAL",
    "LATE",
    "LIMIT",
    "NEW",
    "RETRACT",
    "STATES",
    "Bytes",
    "Codes",
    "Counts",
    "FeedbackUsed",
    "Lost",
    "Settled",
    "TargetColumns",
]
