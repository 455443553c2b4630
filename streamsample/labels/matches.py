"""What a feedback does to the row that it belongs to: A1 and A9 in one place. `choice` decides among what is matched.

All matched feedback of a row is kept as a chain, so that what is chosen does not depend on what came first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import B1_OUT, I64, borrow, inline, kernel
from streamsample.labels import ledger as books
from streamsample.labels.choice import free_chain
from streamsample.labels.ledger import Ledger
from streamsample.labels.settings import JoinSettings, Use
from streamsample.labels.tables import (
    ENTRIES,
    ENTRIES_FREE,
    ENTRIES_USED,
    ENTRY,
    FEEDBACK_BATCH,
    FREE_HEAD,
    LOG,
    LOGGED,
    MATCH_TABLE,
    NONE,
    ROW_TABLE,
    MatchTable,
    grown,
)
from streamsample.records import Int64s

_MATCHED: Final = books.MATCHED
_DUPLICATE: Final = books.DUPLICATE
_LATE: Final = books.LATE
_LIMIT: Final = books.FEEDBACK_LIMIT
_KEPT: Final = ("ts", "offset", "index", "feedback_id", "bits", "at", "use", "source")


@inline
def new_entry(entries, counts):  # type: ignore[no-untyped-def]
    """A freed entry, else the next one never used."""
    counts[ENTRIES] += 1
    if counts[ENTRIES_FREE] > 0:
        counts[ENTRIES_FREE] -= 1
        entry = counts[FREE_HEAD]
        counts[FREE_HEAD] = entries[entry].next
        return entry
    counts[ENTRIES_USED] += 1
    return counts[ENTRIES_USED] - 1


@inline
def held_copy(entries, head, use, feedback_id):  # type: ignore[no-untyped-def]
    """The row's feedback of that id for this use, or -1; and how many the use has."""
    kept, copy, entry = 0, NONE, head
    while entry >= 0:
        if entries[entry].use == use:
            if entries[entry].feedback_id == feedback_id:
                copy = entry
            kept += 1
        entry = entries[entry].next
    return copy, kept


@inline
def is_earlier(entries, entry, ts, source, offset, within):  # type: ignore[no-untyped-def]
    """Whether feedback comes before an entry by (event time, topic, offset, index)."""
    if ts != entries[entry].ts:
        return ts < entries[entry].ts
    if source != entries[entry].source:
        return source < entries[entry].source
    if offset != entries[entry].offset:
        return offset < entries[entry].offset
    return within < entries[entry].index


@kernel(types.void(ROW_TABLE, MATCH_TABLE, types.int64, types.int64, *FEEDBACK_BATCH, I64, I64, B1_OUT))
def apply_feedback(  # type: ignore[no-untyped-def]
    table, match, released_before, now,
    source, offset, within, event_time, feedback_id, hashes, ids, id_start, id_size, mask, bits,
    picks, handles, late,
):  # fmt: skip
    """Let the feedback at `picks` have its effect on the rows that it belongs to, for each use of its mask.

    now: what takes effect before it has been decided on. Of copies with one id the first by event time and place
    stays, whichever was read first (A9). late: which of the picks came too late for all of their uses.
    """
    rows, entries, log, counts = borrow(table.rows), borrow(match.entries), borrow(match.log), borrow(match.counts)
    reach, until, width = borrow(match.reach), borrow(match.until), match.width
    for i in range(len(picks)):
        at, row = picks[i], handles[i]
        ts, identity = event_time[at], feedback_id[at]
        served = rows[row].ts
        effect = max(ts, served, now)
        late[i] = mask[at] != np.uint32(0)
        for k in range(width):
            if (mask[at] >> np.uint32(k)) & np.uint32(1) == np.uint32(0):
                continue
            use = np.int64(match.uses[source[at] * width + k])
            if served < released_before or ts - served > reach[use] or effect - served > until[use]:
                match.ledger[use, _LATE] += 1
                continue
            late[i] = False
            copy, kept = held_copy(entries, rows[row].head, use, identity)
            if copy >= 0:
                match.ledger[use, _DUPLICATE] += 1
                earlier = is_earlier(entries, copy, ts, source[at], offset[at], within[at])
                if entries[copy].at < now or not earlier:
                    continue
                entry = np.int64(copy)
            elif kept >= match.per_row_max:
                match.ledger[use, _LIMIT] += 1
                continue
            else:
                match.ledger[use, _MATCHED] += 1
                entry = new_entry(entries, counts)
                entries[entry].next = rows[row].head
                rows[row].head = np.int32(entry)
            new = counts[LOG]
            counts[LOG] += 1
            entries[entry].ts = log[new].ts = ts
            entries[entry].offset = log[new].offset = offset[at]
            entries[entry].index = log[new].index = within[at]
            entries[entry].feedback_id = log[new].feedback_id = identity
            entries[entry].bits = log[new].bits = bits[at * width + k]
            entries[entry].at = log[new].at = effect
            entries[entry].use = log[new].use = use
            entries[entry].source = log[new].source = source[at]
            log[new].row = np.int32(row)
            log[new].row_offset = rows[row].offset
            log[new].row_index = rows[row].index
            log[new].row_ts = served


@kernel(types.void(ROW_TABLE, MATCH_TABLE, I64))
def free_chains(table, match, handles):  # type: ignore[no-untyped-def]
    """Give the rows' matched feedback back."""
    rows, entries, counts = borrow(table.rows), borrow(match.entries), borrow(match.counts)
    for i in range(len(handles)):
        free_chain(rows, handles[i], entries, counts)


@kernel(types.int64(ROW_TABLE, MATCH_TABLE, I64))
def count_matches(table, match, handles):  # type: ignore[no-untyped-def]
    """How much matched feedback these rows have, a row counted as often as it is named."""
    total = 0
    for i in range(len(handles)):
        entry = table.rows[handles[i]].head
        while entry >= 0:
            total += 1
            entry = match.entries[entry].next
    return total


def closes_ms(settings: JoinSettings, use: Use) -> int:
    """When the use's target closes."""
    return settings.targets[use.target].window_ms


def _reach(settings: JoinSettings, use: Use) -> int:
    """The longest feedback loop length. A rule whose own window ends before its target's close is not corrected later:
    its window is a part of what it means.
    """
    closes = closes_ms(settings, use)
    return closes + settings.corrections_ms if use.window_ms == closes else use.window_ms


class Matches:
    """Owns the table of matched feedback; grows it before kernels fill it."""

    _MIN = 256

    def __init__(self, settings: JoinSettings, ledger: Ledger) -> None:
        sources = [settings.uses_of(feedback) for _, feedback in settings.source_list]
        self.width = max(1, max(len(uses) for uses in sources))
        padded = np.full((len(sources), self.width), NONE, np.int8)
        for source, uses in enumerate(sources):
            padded[source, : len(uses)] = uses
        self.table = MatchTable(
            entries=np.empty(self._MIN, ENTRY),
            log=np.empty(self._MIN, LOGGED),
            counts=np.zeros(FREE_HEAD + 1, np.int64),
            uses=padded.reshape(-1),
            reach=np.array([_reach(settings, use) for use in settings.uses], np.int64),
            until=np.array([closes_ms(settings, use) + settings.corrections_ms for use in settings.uses], np.int64),
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
        self.table = table._replace(entries=entries, log=grown(table.log, logged, logged + more))

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
        for name in _KEPT:
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
            self.table = self.table._replace(entries=np.empty(self._MIN, ENTRY))

    def bytes_used(self) -> int:
        """Bytes of memory in use."""
        counts = self.table.counts
        return int(counts[ENTRIES_USED] * ENTRY.itemsize + counts[LOG] * LOGGED.itemsize)


def _logged(rows: NDArray[Any], handles: Int64s, entries: NDArray[Any]) -> NDArray[Any]:
    logged = np.empty(len(handles), LOGGED)
    for name in _KEPT:
        logged[name] = entries[name]
    for name in ("offset", "index", "ts"):
        logged["row_" + name] = rows[name][handles]
    return logged
