"""Between a join and its deltas: what a delta takes, and what a list of deltas adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.gather import packed
from streamsample.labels.coverage import NO_GAP, Gap, Known, gap_after
from streamsample.labels.delta import Delta, MatchColumns, RowColumns, WaitingColumns, WrittenColumns
from streamsample.labels.ledger import FEEDBACK_IN, OPEN, ROW_UNCOVERED, ROWS_IN, WAITING, Ledger
from streamsample.labels.matches import Matches
from streamsample.labels.rows import Rows
from streamsample.labels.segments import packed_addresses
from streamsample.labels.settings import JoinSettings
from streamsample.labels.tables import LOGGED, WRITTEN, FeedbackBatch, Times
from streamsample.labels.waiting import Waiting
from streamsample.labels.watermark import MIN
from streamsample.records import Bools, Int64s, Spans

_INDEX_BITS = 15


class _Places:
    """(offset, index) as one int64, in the same order. offset: all that there are. They may need all of 64 bits, as
    where they tell partitions apart: then they are numbered.
    """

    def __init__(self, offset: Int64s) -> None:
        self._first = offset.min(initial=2**62)
        wide = len(offset) > 0 and int(offset.max()) - int(self._first) >= 1 << (62 - _INDEX_BITS)
        self._numbered = np.unique(offset) if wide else None

    def of(self, offset: Int64s, index: NDArray[np.int16]) -> Int64s:
        """Negative where there is no such offset, or one that nothing else has."""
        if self._numbered is None:
            place: Int64s = ((offset - self._first) << _INDEX_BITS) | index
            return place
        at = np.minimum(np.searchsorted(self._numbered, offset), len(self._numbered) - 1)
        return np.where(self._numbered[at] == offset, (at << _INDEX_BITS) | index, -1)


def take(
    settings: JoinSettings,
    ledger: Ledger,
    watermark: int,
    times: Times,
    rows: Rows,
    matches: Matches,
    waiting: Waiting,
    written: NDArray[Any],
    rewrites: list[tuple[int, int]],
    gaps: Sequence[Gap],
) -> Delta:
    """The delta since the last one. written: WRITTEN records, the newest last. rewrites: ranges of offsets (inclusive)
    whose rows go into it again. gaps: by use.
    """
    handles, again = _chosen_rows(rows, times, rewrites)
    rows.check_payload(rows.table.rows["ts"][again], stays=True)
    row_columns = _row_columns(rows, handles, times, settings.revises)
    log = matches.take_log()
    if len(again):
        log = np.concatenate([matches.of_rows(rows.table.rows, again), log])
    needs = log["row_ts"] >= times.released_before
    log = log if needs.all() else log[needs]
    written = written[written["row_ts"] >= times.released_before]
    written = written[_last_of_equal((written["row_index"], written["row_offset"]))]
    fresh = waiting.take_fresh()
    waits = waiting.all() if rewrites else fresh
    batch, originals = waiting.batch_of(waits), waiting.originals_of(waits)
    needed = [MIN]
    hold = settings.reach_ms + settings.hold_ms
    needed += [int(ts.max()) + hold for ts in (row_columns.ts, log["row_ts"], written["row_ts"]) if len(ts)]
    needed += [int(batch.ts.max()) + settings.wait_ms] if len(batch.ts) else []
    return Delta(
        watermark,
        times.settled_before,
        times.released_before,
        max(needed),
        tuple(target.name for target in settings.targets),
        tuple((use.key, use.target, use.feedback) for use in settings.uses),
        tuple(map(Known, matches.table.reach.tolist(), gaps)),
        settings.skew_ms,
        settings.source_list,
        ledger.copy(),
        row_columns,
        _columns(MatchColumns, log),
        _columns(WrittenColumns, written),
        WaitingColumns(
            batch.source.astype(np.int8),
            batch.ts,
            batch.offset,
            batch.within,
            batch.feedback_id,
            (batch.hash >> np.uint64(32)).astype(np.uint32),
            batch.mask,
            packed(batch.ids, batch.id_start, batch.id_size),
            packed(originals.buffer, originals.start, originals.size),
            batch.bits,
        ),
    )


def _chosen_rows(rows: Rows, times: Times, rewrites: list[tuple[int, int]]) -> tuple[Int64s, Int64s]:
    """The rows that the delta takes, and those of them that an older delta has too."""
    chosen: list[Int64s] = [np.empty(0, np.int64)]
    again: list[Int64s] = [np.empty(0, np.int64)]
    for number in rows.take_added() if not rewrites else list(rows.buckets):
        bucket = rows.buckets.get(number)
        if bucket is None:
            continue
        handles = rows.handles(bucket, 0 if rewrites else bucket.saved)
        if rewrites:
            offset = rows.table.rows["offset"][handles[: bucket.saved]]
            wanted: Bools = np.zeros(len(offset), np.bool_)
            for low, high in rewrites:
                wanted |= (offset >= low) & (offset <= high)
            again.append(handles[: bucket.saved][wanted])
            handles = np.concatenate([again[-1], handles[bucket.saved :]])
        bucket.saved = int(rows.table.buckets["rows"][bucket.slot])
        chosen.append(handles)
    if rewrites:
        rows.take_added()
    return np.concatenate(chosen), np.concatenate(again)


def _row_columns(rows: Rows, handles: Int64s, times: Times, revises: bool) -> RowColumns:
    """In the order of the tables: memory is read from one end to the other, for there is much of it."""
    held = rows.columns(handles)
    revision = rows.table.rows["revision"][handles] if revises else np.zeros(len(handles), np.int32)
    alive = held.ts >= times.dead_before
    if not alive.all():
        held, revision = held.where(alive), revision[alive]
    size = np.where(held.ts >= times.released_before, held.payload_size, -1).astype(np.int32)
    return RowColumns(
        offset=held.offset,
        index=held.within,
        ts=held.ts,
        hash=held.hash,
        schema=held.schema,
        split=held.split,
        revision=revision,
        ids=packed(rows.table.ids, held.id_place, held.id_size),
        payload=packed_addresses(held.payload, size),
    )


def _columns(kind: Any, log: NDArray[Any]) -> Any:
    return kind(**{name: np.ascontiguousarray(log[name]) for name in kind.__slots__})


@dataclass(frozen=True, slots=True)
class MergedRows:
    """The rows of several deltas. columns: without payload. payload: of each delta that has some, over its own bytes,
    for it is large: the rows that it is of, and as many spans.
    """

    columns: RowColumns
    payload: Sequence[tuple[Int64s, Spans]]


def merged_rows(deltas: Sequence[Delta], dead_before: int) -> MergedRows:
    """All rows of the deltas that are not dead yet, the newest copy of each, ascending by (offset, index)."""
    parts = [delta.rows for delta in deltas]
    names = ("offset", "index", "ts", "hash", "schema", "split", "revision")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    ids = Spans.concat([part.ids for part in parts])
    pick = _last_of_each(_Places(columns["offset"]).of(columns["offset"], columns["index"]))
    pick = pick[columns["ts"][pick] >= dead_before]
    taken = {name: np.ascontiguousarray(column[pick]) for name, column in columns.items()}
    payload, end = [], 0
    by_delta = np.argsort(pick, kind="stable")
    for part in parts:
        begin, end = end, end + len(part.ts)
        mine = by_delta[slice(*np.searchsorted(pick, (begin, end), sorter=by_delta))]
        payload.append((mine, part.payload.take(pick[mine] - begin)))
    return MergedRows(RowColumns(**taken, ids=ids.take(pick), payload=Spans.nulls(0)), payload)


def merged_matches(deltas: Sequence[Delta], settings: JoinSettings) -> NDArray[Any]:
    """All matched feedback of the deltas as LOGGED records, numbered as `settings` does, the newest copy of each id."""
    parts = []
    for delta in deltas:
        uses, sources = _uses_now(settings, delta), _sources_now(settings, delta)
        log = np.zeros(len(delta.matches.ts), LOGGED)
        for name in MatchColumns.__slots__:
            log[name] = getattr(delta.matches, name)
        log["use"] = uses[delta.matches.use]
        log["source"] = sources[delta.matches.source]
        parts.append(log[(log["use"] >= 0) & (log["source"] >= 0)])
    log = np.concatenate(parts)
    keys = (log["feedback_id"], log["use"], log["row_index"], log["row_offset"])
    return log[_last_of_equal(keys)]


def restore_revisions(deltas: Sequence[Delta], rows: Rows, released_before: int) -> None:
    """Let restored rows know how many records they have given."""
    for delta in deltas:
        log = np.zeros(len(delta.written.row_offset), WRITTEN)
        for name in WrittenColumns.__slots__:
            log[name] = getattr(delta.written, name)
        handles = rows_of(log, rows, released_before)
        found = handles >= 0
        np.maximum.at(rows.table.rows["revision"], handles[found], log["revision"][found])


def rows_of(log: NDArray[Any], rows: Rows, released_before: int) -> Int64s:
    """The restored row of each LOGGED or WRITTEN record; -1 where it gives no record any more, or is gone."""
    handles = np.concatenate([np.empty(0, np.int64), *(rows.handles(bucket) for bucket in rows.buckets.values())])
    handles = handles[rows.table.rows["ts"][handles] >= released_before]
    if not len(handles):
        return np.full(len(log), -1, np.int64)
    places = _Places(rows.table.rows["offset"][handles])
    place = places.of(rows.table.rows["offset"][handles], rows.table.rows["index"][handles])
    order = np.argsort(place, kind="stable")
    wanted = places.of(log["row_offset"], log["row_index"])
    at = np.minimum(np.searchsorted(place[order], wanted), len(order) - 1)
    found = order[at]
    return np.where(place[found] == wanted, handles[found], -1)


def merged_waiting(deltas: Sequence[Delta], settings: JoinSettings, width: int) -> tuple[FeedbackBatch, Spans]:
    """All waiting feedback of the deltas, once each, in the order of arrival, and its bytes.

    Sources and targets are numbered as `settings` does.
    """
    parts = [_renumbered(delta, settings, width) for delta in deltas]
    names = ("source", "offset", "within", "ts", "feedback_id", "hash", "mask")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    bits = np.concatenate([part.bits for part in parts]).reshape(-1, width)
    ids = Spans.concat([Spans(part.ids, part.id_start, part.id_size) for part in parts])
    pick = _last_of_equal((columns["within"], columns["offset"], columns["source"]))
    ids = ids.take(pick)
    taken = {name: np.ascontiguousarray(column[pick]) for name, column in columns.items()}
    originals = Spans.concat([delta.waiting.originals for delta in deltas]).take(pick)
    flat = bits[pick].reshape(-1)
    return FeedbackBatch(**taken, ids=ids.buffer, id_start=ids.start, id_size=ids.size, bits=flat), originals


def gaps_after(settings: JoinSettings, last: Delta, matches: Matches, read_until: Int64s | None) -> list[Gap]:
    """Of each use, the rows that it does not know all feedback of. read_until: see `LabelJoin.restore`."""
    keys = [key for key, _, _ in last.uses]
    gaps = []
    for number, use in enumerate(settings.uses):
        known = last.known[keys.index(use.key)] if use.key in keys else None
        closed_before = last.settled_before if settings.targets[use.target].name in last.targets else -(2**62)
        mine = [n for n, (_, feedback) in enumerate(settings.source_list) if feedback == use.feedback]
        until = MIN if read_until is None else max(int(read_until[n]) for n in mine)
        if until == MIN:  # nothing that it could have missed
            gaps.append(NO_GAP if known is None else known.gap)
            continue
        reach = int(matches.table.reach[number])
        gaps.append(gap_after(reach, settings.skew_ms, known, last.skew_ms, closed_before, until))
    return gaps


def restore_ledger(
    ledger: Ledger, last: Delta, settings: JoinSettings, open_rows: int, closed_rows: int, waiting: Int64s
) -> None:
    """Take up the last delta's counts by target and use; what is new finds the open rows and the waiting feedback as
    what came in, and the closed rows that can still be corrected as such that it knew nothing of.
    """
    ledger.predictions[:] = last.ledger.predictions
    for number, name in enumerate(ledger.targets):
        if name in last.targets:
            ledger.rows[number] = last.ledger.rows[last.targets.index(name)]
            ledger.moved[number] = last.ledger.moved[last.targets.index(name)]
        else:
            ledger.rows[number, [ROWS_IN, OPEN, ROW_UNCOVERED]] = open_rows + closed_rows, open_rows, closed_rows
    uses = [key for key, _, _ in last.uses]
    for number, use in enumerate(settings.uses):
        if use.key in uses:
            ledger.feedback[number] = last.ledger.feedback[uses.index(use.key)]
            ledger.labels[number] = last.ledger.labels[uses.index(use.key)]
        else:
            ledger.feedback[number, [FEEDBACK_IN, WAITING]] = waiting[number]
    for number, use in enumerate(settings.uses):
        expected = int(ledger.rows[use.target, OPEN]), int(ledger.feedback[number, WAITING])
        if expected != (open_rows, waiting[number]):
            raise StateError(
                f"target {ledger.targets[use.target]}: {open_rows} open rows and {int(waiting[number])} waiting "
                f"feedback were restored, but the ledger says {expected[0]} and {expected[1]}",
                remedy="a part of the changelog is missing: restore from another copy, or start anew with `reset`",
            )


def _last_of_each(place: Int64s) -> Int64s:
    """The index of the last element of each distinct place, ascending by place."""
    if len(place) < 2 or bool((place[1:] > place[:-1]).all()):
        return np.arange(len(place))
    order = np.argsort(place, kind="stable")
    last = np.ones(len(place), np.bool_)
    last[:-1] = place[order][1:] != place[order][:-1]
    return order[last]


def _last_of_equal(keys: tuple[NDArray[Any], ...]) -> NDArray[np.intp]:
    """The index of the last element of each distinct combination of keys, ascending."""
    order = np.lexsort(keys)
    last = np.ones(len(order), np.bool_)
    if len(order):
        last[:-1] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    return np.sort(order[last])


def _uses_now(settings: JoinSettings, delta: Delta) -> Int64s:
    """The number that each of a delta's uses has now; -1 when it is gone."""
    now = {use.key: number for number, use in enumerate(settings.uses)}
    return np.array([now.get(key, -1) for key, _, _ in delta.uses], np.int64)


def _sources_now(settings: JoinSettings, delta: Delta) -> Int64s:
    """The number that each of a delta's sources has now; -1 when it is gone."""
    now = {name: number for number, (name, _) in enumerate(settings.source_list)}
    return np.array([now.get(name, -1) for name, _ in delta.sources], np.int64)


def _renumbered(delta: Delta, settings: JoinSettings, width: int) -> FeedbackBatch:
    waiting = delta.waiting
    count = len(waiting.ts)
    source = _sources_now(settings, delta)[waiting.source].astype(np.int32)
    mask = np.zeros(count, np.uint32)
    bits = np.zeros((count, width), np.int64)
    old_bits = waiting.bits.reshape(count, -1) if count else bits
    uses = _uses_now(settings, delta)
    for number, (_, feedback) in enumerate(delta.sources):
        mine = waiting.source == number
        of_feedback = [int(uses[use]) for use, (_, _, of) in enumerate(delta.uses) if of == feedback]
        for k, use in enumerate(of_feedback):
            if use >= 0:
                to = settings.uses_of(settings.uses[use].feedback).index(use)
                mask[mine] |= ((waiting.mask[mine] >> np.uint32(k)) & np.uint32(1)) << np.uint32(to)
                bits[mine, to] = old_bits[mine, k]
    mask[source < 0] = 0
    return FeedbackBatch(
        source, waiting.offset, waiting.index, waiting.ts, waiting.feedback_id,
        waiting.hash.astype(np.uint64) << np.uint64(32),
        waiting.ids.buffer, waiting.ids.start, waiting.ids.size, mask, bits.reshape(-1),
    )  # fmt: skip
