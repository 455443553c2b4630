"""What a feedback does to the row that it belongs to: the decisions of A1, A9 and A10 in one place.

All matched feedback of a row is kept as a chain, so that what is chosen does not depend on what came first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I64, borrow, inline, kernel
from streamsample.labels import ledger as books
from streamsample.labels.ledger import Ledger
from streamsample.labels.settings import JoinSettings
from streamsample.labels.tables import (
    CHOSEN_OUT,
    ENTRIES,
    ENTRIES_FREE,
    ENTRIES_USED,
    ENTRY,
    FEEDBACK_BATCH,
    LOG,
    LOGGED,
    MATCH_TABLE,
    NONE,
    ROW_TABLE,
    USED_OUT,
    MatchTable,
    grown,
)
from streamsample.records import Int64s

_MATCHED: Final = books.MATCHED
_DUPLICATE: Final = books.DUPLICATE
_LATE: Final = books.LATE
_LIMIT: Final = books.FEEDBACK_LIMIT


@inline
def new_entry(free, counts):  # type: ignore[no-untyped-def]
    """A freed entry, else the next one never used."""
    counts[ENTRIES] += 1
    if counts[ENTRIES_FREE] > 0:
        counts[ENTRIES_FREE] -= 1
        return np.int64(free[counts[ENTRIES_FREE]])
    counts[ENTRIES_USED] += 1
    return counts[ENTRIES_USED] - 1


@inline
def outcome(entries, head, window, per_row_max, rule, length, feedback_id):  # type: ignore[no-untyped-def]
    """What a feedback of an open row is for one target: a column of the ledger."""
    if length > window:
        return _LATE
    kept = 0
    entry = head
    while entry >= 0:
        if entries[entry].rule == rule:
            if entries[entry].feedback_id == feedback_id:
                return _DUPLICATE
            kept += 1
        entry = entries[entry].next
    return _LIMIT if kept >= per_row_max else _MATCHED


@kernel(types.void(ROW_TABLE, MATCH_TABLE, types.int64, *FEEDBACK_BATCH, I64, I64))
def apply_feedback(  # type: ignore[no-untyped-def]
    table, match, settled_before,
    source, offset, within, event_time, feedback_id, hashes, ids, id_start, id_size, mask, bits,
    picks, handles,
):  # fmt: skip
    """Let the feedback at `picks` have its effect on the rows that it belongs to, for each target of its mask."""
    rows, entries, log, counts = borrow(table.rows), borrow(match.entries), borrow(match.log), borrow(match.counts)
    free, windows, width = borrow(match.free), match.windows, match.width
    for i in range(len(picks)):
        at, row = picks[i], handles[i]
        ts, identity = event_time[at], feedback_id[at]
        for k in range(width):
            if (mask[at] >> np.uint32(k)) & np.uint32(1) == np.uint32(0):
                continue
            rule = match.rules[source[at] * width + k]
            what = _LATE
            if rows[row].ts >= settled_before:
                head, length = rows[row].head, ts - rows[row].ts
                what = outcome(entries, head, windows[rule], match.per_row_max, rule, length, identity)
            match.ledger[rule, what] += 1
            if what != _MATCHED:
                continue
            entry, new = new_entry(free, counts), counts[LOG]
            counts[LOG] += 1
            entries[entry].ts = log[new].ts = ts
            entries[entry].offset = log[new].offset = offset[at]
            entries[entry].index = log[new].index = within[at]
            entries[entry].feedback_id = log[new].feedback_id = identity
            entries[entry].bits = log[new].bits = bits[at * width + k]
            entries[entry].rule = log[new].rule = rule
            entries[entry].next = rows[row].head
            rows[row].head = np.int32(entry)
            log[new].row_offset = rows[row].offset
            log[new].row_index = rows[row].index
            log[new].row_ts = rows[row].ts


@inline
def comes_before(entries, left, right):  # type: ignore[no-untyped-def]
    """Whether an entry is smaller than another by (event time, offset, index)."""
    if entries[left].ts != entries[right].ts:
        return entries[left].ts < entries[right].ts
    if entries[left].offset != entries[right].offset:
        return entries[left].offset < entries[right].offset
    return entries[left].index < entries[right].index


@inline
def first_of(entries, head, rule):  # type: ignore[no-untyped-def]
    """take: first. The rule's matched feedback smallest by (event time, offset, index), or -1.

    A target has one rule and so one source; with several, their order would come between time and offset (A2).
    """
    best, entry = NONE, head
    while entry >= 0:
        if entries[entry].rule == rule and (best < 0 or comes_before(entries, entry, best)):
            best = entry
        entry = entries[entry].next
    return best


@kernel(types.int64(ROW_TABLE, MATCH_TABLE, I64, CHOSEN_OUT, USED_OUT))
def choose_and_free(table, match, handles, chosen, used):  # type: ignore[no-untyped-def]
    """Choose each row's feedback for each target, then free its chain; returns how many were chosen."""
    rows, entries, free, counts = borrow(table.rows), borrow(match.entries), match.free, match.counts
    count, total = len(handles), 0
    used.first[0] = 0
    for i in range(count):
        row = handles[i]
        for target in range(len(match.windows)):
            at = target * count + i
            best = first_of(entries, rows[row].head, target) if rows[row].head >= 0 else NONE
            chosen.has[at] = best >= 0
            chosen.event_time[at] = chosen.delay[at] = chosen.bits[at] = 0
            chosen.place[at] = NONE
            if best >= 0:
                chosen.event_time[at] = used.ts[total] = entries[best].ts
                chosen.delay[at] = entries[best].ts - rows[row].ts
                chosen.bits[at] = entries[best].bits
                chosen.place[at] = total
                used.target[total] = target
                used.offset[total] = entries[best].offset
                used.within[total] = entries[best].index
                total += 1
        used.first[i + 1] = total
        entry = rows[row].head
        while entry >= 0:
            free[counts[ENTRIES_FREE]] = entry
            counts[ENTRIES_FREE] += 1
            counts[ENTRIES] -= 1
            entry = entries[entry].next
        rows[row].head = NONE
    return total


class Matches:
    """Owns the table of matched feedback; grows it before kernels fill it."""

    _MIN = 256

    def __init__(self, settings: JoinSettings, ledger: Ledger) -> None:
        sources = [settings.rules_of(source) for source in range(len(settings.feedback))]
        self.width = max(1, max(len(rules) for rules in sources))
        padded = np.full((len(sources), self.width), NONE, np.int8)
        for source, rules in enumerate(sources):
            padded[source, : len(rules)] = rules
        self.table = MatchTable(
            entries=np.empty(self._MIN, ENTRY),
            free=np.empty(self._MIN, np.int32),
            log=np.empty(self._MIN, LOGGED),
            counts=np.zeros(LOG + 1, np.int64),
            rules=padded.reshape(-1),
            windows=np.array([target.window_ms for target in settings.targets], np.int64),
            width=self.width,
            per_row_max=settings.limits.matches_per_row,
            ledger=ledger.feedback,
        )

    @property
    def held(self) -> int:
        """Matched feedback of open rows."""
        return int(self.table.counts[ENTRIES])

    def reserve(self, more: int) -> None:
        """Make room for `more` matches and as many in the log."""
        table, counts = self.table, self.table.counts
        used, logged, freed = int(counts[ENTRIES_USED]), int(counts[LOG]), int(counts[ENTRIES_FREE])
        entries = grown(table.entries, used, used + max(0, more - freed))
        free = grown(table.free, freed, len(entries))
        self.table = table._replace(entries=entries, free=free, log=grown(table.log, logged, logged + more))

    def of_rows(self, rows: NDArray[Any], handles: Int64s) -> NDArray[Any]:
        """All matched feedback of these rows, as LOGGED records, per row oldest first."""
        parts: list[NDArray[Any]] = []
        entry = rows["head"][handles].astype(np.int64)
        while len(handles := handles[entry >= 0]):
            entry = entry[entry >= 0]
            parts.append(_logged(rows, handles, self.table.entries[entry]))
            entry = self.table.entries["next"][entry].astype(np.int64)
        return np.concatenate([np.empty(0, LOGGED), *reversed(parts)])

    def load(self, rows: NDArray[Any], handles: Int64s, logged: NDArray[Any]) -> None:
        """Put restored matched feedback on the rows `handles`, in the order given."""
        self.reserve(len(handles))
        counts, entries = self.table.counts, self.table.entries
        order = np.argsort(handles, kind="stable")
        handles, held = handles[order], logged[order]
        first = int(counts[ENTRIES_USED])
        places = np.arange(first, first + len(handles))
        for name in ("ts", "offset", "index", "feedback_id", "bits", "rule"):
            entries[name][places] = held[name]
        follows = np.zeros(len(handles), np.bool_)
        follows[1:] = handles[1:] == handles[:-1]
        entries["next"][places] = np.where(follows, places - 1, rows["head"][handles])
        rows["head"][handles] = places
        counts[ENTRIES_USED] += len(handles)
        counts[ENTRIES] += len(handles)

    def take_log(self) -> NDArray[Any]:
        """What was matched since the last call, as LOGGED records; the log is empty afterwards."""
        logged = self.table.log[: self.table.counts[LOG]].copy()
        self.table.counts[LOG] = 0
        if len(self.table.log) > self._MIN:
            self.table = self.table._replace(log=np.empty(self._MIN, LOGGED))
        return logged

    def shrink(self) -> None:
        """Give the memory back when nothing is held."""
        if self.held == 0 and len(self.table.entries) > self._MIN:
            self.table.counts[ENTRIES_FREE] = self.table.counts[ENTRIES_USED] = 0
            self.table = self.table._replace(entries=np.empty(self._MIN, ENTRY), free=np.empty(self._MIN, np.int32))

    def bytes_used(self) -> int:
        """Bytes of memory in use."""
        counts = self.table.counts
        return int(counts[ENTRIES_USED] * (ENTRY.itemsize + 4) + counts[LOG] * LOGGED.itemsize)


def _logged(rows: NDArray[Any], handles: Int64s, entries: NDArray[Any]) -> NDArray[Any]:
    logged = np.empty(len(handles), LOGGED)
    for name in ("ts", "offset", "index", "feedback_id", "bits", "rule"):
        logged[name] = entries[name]
    for name in ("offset", "index", "ts"):
        logged["row_" + name] = rows[name][handles]
    return logged
