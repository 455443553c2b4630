"""From closing rows to columns: the labels, what silence means, and the bytes, gathered once."""

from __future__ import annotations

import numpy as np

from streamsample.gather import packed
from streamsample.labels import ledger as books
from streamsample.labels.choice import choose
from streamsample.labels.coverage import Coverage
from streamsample.labels.ledger import Ledger
from streamsample.labels.matches import Matches
from streamsample.labels.results import FINAL, FeedbackUsed, Settled, TargetColumns
from streamsample.labels.rows import Rows
from streamsample.labels.segments import packed_addresses
from streamsample.labels.settings import JoinSettings
from streamsample.labels.tables import OPEN_ROWS, ChosenOut, RuleTable, UsedOut
from streamsample.records import Bools, Int64s

_ALWAYS = 2**62


def build_settled(
    settings: JoinSettings,
    rows: Rows,
    matches: Matches,
    rules: RuleTable,
    ledger: Ledger,
    handles: Int64s,
    coverage: Coverage,
) -> Settled:
    """Label the rows that close, book them, free their matched feedback."""
    count, targets = len(handles), len(settings.targets)
    held = rows.columns(handles)
    chosen = room_for_choice(count * targets)
    used = room_for_use(count, matches.held)
    total = choose(rows.table, matches.table, rules, handles, np.full(count, _ALWAYS), True, chosen, used)
    rows.table.counts[OPEN_ROWS] -= count
    columns = [_label(settings, ledger, number, held.ts, chosen, coverage) for number in range(targets)]
    keep: Bools = np.logical_or.reduce([column.settled for column in columns])
    first, payload_place, payload_size = used.first, held.payload, held.payload_size
    if not keep.all():
        columns = [_kept(column, keep) for column in columns]
        held = held.where(keep)
        first = np.append(first[:-1][keep], total)
        payload_size = np.where(keep, payload_size, -1).astype(np.int32)
    rows.check_payload(held.ts, stays=False)
    payload = packed_addresses(payload_place, payload_size)
    return Settled(
        ts=held.ts,
        offset=held.offset,
        index=held.within,
        ids=packed(rows.table.ids, held.id_place, held.id_size),
        payload=payload if len(held.ts) == count else payload.take(keep),
        schema=held.schema,
        split=held.split,
        settled_at=held.ts + settings.reach_ms,
        timestamp=held.ts + settings.reach_ms,
        state=np.full(len(held.ts), FINAL, np.int8),
        revision=np.zeros(len(held.ts), np.int32),
        targets=tuple(columns),
        used=FeedbackUsed(
            first,
            used.target[:total],
            used.source[:total],
            used.ts[:total],
            used.offset[:total],
            used.within[:total],
        ),
    )


def room_for_choice(count: int) -> ChosenOut:
    """For `count` labels."""
    return ChosenOut(np.empty(count, np.int8), *(np.empty(count, np.int64) for _ in range(3)))


def room_for_use(rows: int, most: int) -> UsedOut:
    """For `rows` rows that use at most `most` feedback."""
    return UsedOut(
        np.empty(rows + 1, np.int64),
        np.empty(most, np.int8),
        np.empty(most, np.int8),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int16),
    )


def _label(
    settings: JoinSettings, ledger: Ledger, number: int, ts: Int64s, chosen: ChosenOut, coverage: Coverage
) -> TargetColumns:
    """One target's labels of all closing rows."""
    target, count = settings.targets[number], len(ts)
    mine = slice(number * count, (number + 1) * count)
    use, bits = chosen.use[mine], chosen.bits[mine]
    explicit: Bools = use >= 0
    covered = explicit | coverage.of(number, ts)
    given, labelled = int(np.count_nonzero(explicit)), int(np.count_nonzero(covered))
    settled = explicit if target.if_silent == "drop" else covered
    valid = covered if target.if_silent == "value" else explicit
    if target.if_silent == "value" and target.silent_bits:
        bits[covered & ~explicit] = target.silent_bits
    book = ledger.rows[number]
    book[books.OPEN] -= count
    book[books.EXPLICIT] += given
    book[books.ROW_SILENT if target.if_silent == "drop" else books.IMPLICIT] += labelled - given
    book[books.ROW_UNCOVERED] += count - labelled
    given_at = np.flatnonzero(explicit)
    by = use[given_at]
    ledger.labels += np.bincount(by, minlength=len(ledger.labels))
    kind = np.full(count, -1, np.int16)
    kind[given_at] = np.array([use.feedback for use in settings.uses], np.int16)[by]
    return TargetColumns(bits, valid, settled, explicit, chosen.event_time[mine], chosen.delay[mine], kind)


def _kept(column: TargetColumns, keep: Bools) -> TargetColumns:
    return TargetColumns(*(getattr(column, name)[keep] for name in TargetColumns.__slots__))
