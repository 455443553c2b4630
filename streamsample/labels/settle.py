"""From closing rows to columns: the labels, what silence means, and the bytes, gathered once."""

from __future__ import annotations

import numpy as np

from streamsample.gather import packed
from streamsample.labels import ledger as books
from streamsample.labels.ledger import Ledger
from streamsample.labels.matches import Matches, choose_and_free
from streamsample.labels.results import FeedbackUsed, Settled, TargetColumns
from streamsample.labels.rows import Rows
from streamsample.labels.segments import packed_addresses
from streamsample.labels.settings import JoinSettings
from streamsample.labels.tables import OPEN_ROWS, ChosenOut, UsedOut
from streamsample.records import Bools, Int64s


def build_settled(
    settings: JoinSettings,
    rows: Rows,
    matches: Matches,
    ledger: Ledger,
    handles: Int64s,
    covered_from: Int64s | None,
) -> Settled:
    """Label the rows that close, book them, free their matched feedback."""
    count, targets = len(handles), len(settings.targets)
    held = rows.columns(handles)
    chosen = ChosenOut(np.empty(count * targets, np.bool_), *(np.empty(count * targets, np.int64) for _ in range(4)))
    kept = min(count * targets, matches.held)
    used = UsedOut(
        np.empty(count + 1, np.int64),
        np.empty(kept, np.int8),
        np.empty(kept, np.int64),
        np.empty(kept, np.int64),
        np.empty(kept, np.int16),
    )
    total = choose_and_free(rows.table, matches.table, handles, chosen, used)
    rows.table.counts[OPEN_ROWS] -= count
    columns = [_label(settings, ledger, number, held.ts, chosen, covered_from) for number in range(targets)]
    keep: Bools = np.logical_or.reduce([column.settled for column in columns])
    first, payload_place, payload_size = used.first, held.payload, held.payload_size
    if not keep.all():
        columns = [_kept(column, keep) for column in columns]
        held = held.where(keep)
        first = np.append(first[:-1][keep], total)
        payload_size = np.where(keep, payload_size, -1).astype(np.int32)
    payload = packed_addresses(payload_place, payload_size)
    target = used.target[:total]
    sources = np.array([rule.feedback for rule in settings.targets], np.int8)
    return Settled(
        ts=held.ts,
        offset=held.offset,
        index=held.within,
        ids=packed(rows.table.ids, held.id_place, held.id_size),
        payload=payload if len(held.ts) == count else payload.take(keep),
        schema=held.schema,
        split=held.split,
        settled_at=held.ts + settings.reach_ms,
        targets=tuple(columns),
        used=FeedbackUsed(first, target, sources[target], used.ts[:total], used.offset[:total], used.within[:total]),
    )


def _label(
    settings: JoinSettings, ledger: Ledger, number: int, ts: Int64s, chosen: ChosenOut, covered_from: Int64s | None
) -> TargetColumns:
    """One target's labels of all closing rows."""
    target, count = settings.targets[number], len(ts)
    mine = slice(number * count, (number + 1) * count)
    explicit, bits = chosen.has[mine], chosen.bits[mine]
    since = -(2**62) if covered_from is None else int(covered_from[target.feedback]) + settings.skew_ms
    covered: Bools = np.ones(count, np.bool_) if not count or ts.min() >= since else explicit | (ts >= since)
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
    return TargetColumns(
        bits, valid, settled, explicit, chosen.event_time[mine], chosen.delay[mine], chosen.place[mine]
    )


def _kept(column: TargetColumns, keep: Bools) -> TargetColumns:
    return TargetColumns(*(getattr(column, name)[keep] for name in TargetColumns.__slots__))
