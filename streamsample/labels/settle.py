"""From closing rows to columns: the labels, what silence means, and the bytes, gathered once."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamsample.labels import ledger as books
from streamsample.labels.ledger import Ledger
from streamsample.labels.matches import Matches, choose_and_free
from streamsample.labels.results import FeedbackUsed, Settled, TargetColumns
from streamsample.labels.rows import Bucket, Rows
from streamsample.labels.segments import gather
from streamsample.labels.settings import JoinSettings
from streamsample.labels.tables import OPEN_ROWS, Chosen
from streamsample.records import Bools, Bytes, Int32s, Int64s, Spans


def build_settled(
    settings: JoinSettings,
    rows: Rows,
    matches: Matches,
    ledger: Ledger,
    closing: list[tuple[Bucket, Int64s]],
    covered_from: Int64s | None,
) -> Settled:
    """Label the rows that close, book them, free their matched feedback."""
    handles = np.concatenate([np.empty(0, np.int64), *(handles for _, handles in closing)])
    count, targets = len(handles), len(settings.targets)
    held = rows.table.rows[handles]
    ts = np.ascontiguousarray(held["ts"])
    chosen = Chosen(
        has=np.zeros(count * targets, np.bool_),
        **{name: np.zeros(count * targets, np.int64) for name in Chosen._fields[1:]},
    )
    choose_and_free(rows.table, matches.table, handles, chosen)
    rows.table.counts[OPEN_ROWS] -= count
    columns = [_label(settings, ledger, number, ts, chosen, covered_from) for number in range(targets)]
    keep = np.logical_or.reduce([column.settled for column in columns])
    payload_size = np.where(keep, held["payload_size"], -1).astype(np.int32)
    payload = gather_payload(closing, held["payload"], payload_size)
    if not keep.all():
        columns = [_kept(column, keep) for column in columns]
        held, ts, payload = held[keep], ts[keep], payload.take(keep)
        chosen = Chosen(**{n: f.reshape(count, targets)[keep].reshape(-1) for n, f in chosen._asdict().items()})
    used, columns = _used(settings, columns, chosen)
    return Settled(
        ts=ts,
        offset=np.ascontiguousarray(held["offset"]),
        index=np.ascontiguousarray(held["index"]),
        ids=gather_ids(rows, held),
        payload=payload,
        schema=np.ascontiguousarray(held["schema"]),
        stratum=np.ascontiguousarray(held["stratum"]),
        split=np.ascontiguousarray(held["split"]),
        settled_at=ts + settings.reach_ms,
        targets=tuple(columns),
        used=used,
    )


def gather_ids(rows: Rows, held: Any) -> Spans:
    """The ids of ROW records, in their order, in a buffer of their own."""
    size = held["id_size"].astype(np.int32)
    start, out = room_for(size)
    gather(rows.table.ids, np.ascontiguousarray(held["id_place"]), size, -1, start, out)
    return Spans(out, start, size)


def gather_payload(
    groups: list[tuple[Bucket, Int64s]], place: Int64s, size: Int32s, order: Int64s | None = None
) -> Spans:
    """The payloads of rows that lie group by group, in a buffer of their own; `order` (default as they lie) is the
    permutation in which they come out.
    """
    place = np.ascontiguousarray(place)
    sizes = size if order is None else size[order]
    start, out = room_for(sizes)
    into = start
    if order is not None:
        into = np.empty_like(start)
        into[order] = start
    first = 0
    for bucket, handles in groups:
        last = first + len(handles)
        bucket.segment.copy_out(place[first:last], size[first:last], into[first:last], out)
        first = last
    return Spans(out, start, sizes)


def room_for(size: Int32s) -> tuple[Int64s, Bytes]:
    """Where byte strings of these sizes start when packed, and the buffer for them."""
    end = np.cumsum(np.maximum(size, 0), dtype=np.int64)
    return end - np.maximum(size, 0), np.empty(int(end[-1]) if len(end) else 0, np.uint8)


def _label(
    settings: JoinSettings, ledger: Ledger, number: int, ts: Int64s, chosen: Chosen, covered_from: Int64s | None
) -> TargetColumns:
    """One target's labels of all closing rows; `feedback` is set later."""
    target, targets = settings.targets[number], len(settings.targets)
    explicit: Bools = chosen.has[number::targets].copy()
    covered = np.ones(len(ts), np.bool_)
    if covered_from is not None:
        covered = explicit | (ts - settings.skew_ms >= covered_from[target.feedback])
    silent = ~explicit & covered
    settled = explicit.copy() if target.if_silent == "drop" else covered
    valid = settled.copy() if target.if_silent == "value" else explicit.copy()
    event_time = chosen.ts[number::targets].copy()
    bits = chosen.bits[number::targets].copy()
    if target.if_silent == "value":
        bits[silent] = target.silent_bits
    closed, given, quiet = len(ts), int(explicit.sum()), int(silent.sum())
    book = ledger.rows[number]
    book[books.OPEN] -= closed
    book[books.EXPLICIT] += given
    book[books.ROW_SILENT if target.if_silent == "drop" else books.IMPLICIT] += quiet
    book[books.ROW_UNCOVERED] += closed - given - quiet
    delay = np.where(explicit, event_time - ts, 0)
    return TargetColumns(bits, valid, settled, explicit, event_time, delay, np.full(closed, -1, np.int64))


def _kept(column: TargetColumns, keep: Bools) -> TargetColumns:
    return TargetColumns(*(getattr(column, name)[keep] for name in TargetColumns.__slots__))


def _used(
    settings: JoinSettings, columns: list[TargetColumns], chosen: Chosen
) -> tuple[FeedbackUsed, list[TargetColumns]]:
    """The feedback behind each record as a CSR, and each target's place in it."""
    targets = len(columns)
    places = np.flatnonzero(chosen.has)
    number = np.where(chosen.has, np.cumsum(chosen.has) - 1, -1).astype(np.int64)
    first = np.zeros(len(columns[0].bits) + 1, np.int64)
    np.cumsum(chosen.has.reshape(-1, targets).sum(axis=1), out=first[1:])
    target = (places % targets).astype(np.int8)
    sources = np.array([rule.feedback for rule in settings.targets], np.int8)
    used = FeedbackUsed(
        first,
        target,
        sources[target],
        chosen.ts[places],
        chosen.offset[places],
        chosen.within[places].astype(np.int16),
    )
    for k, column in enumerate(columns):
        column.feedback[:] = number[k::targets]
    return used, columns
