"""A join's memory as it lies: what a local copy holds of it, and how a new join takes it up.

Unlike a delta, nothing is gathered, and nothing looked up anew: tables are written as they are, and read back to where
they are used. What changes are the addresses of the payload, which is not copied but stays in its files.

This module knows the insides of all that a join consists of; a test holds that it knows all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.errors import InvariantError
from streamsample.kernels import I64, kernel
from streamsample.labels.coverage import Gap
from streamsample.labels.join import LabelJoin
from streamsample.labels.matches import Matches
from streamsample.labels.originals import Originals
from streamsample.labels.rows import Bucket, Rows
from streamsample.labels.runs import SortedRuns
from streamsample.labels.segments import Segment
from streamsample.labels.space import Chunk
from streamsample.labels.tables import (
    BLOCK,
    BLOCKS_FREE,
    BLOCKS_USED,
    BUCKET,
    ENTRIES_USED,
    ENTRY,
    IDS_USED,
    ITEMS_FREE,
    ITEMS_USED,
    LOG,
    PAGE,
    PAGES_FREE,
    PAGES_USED,
    ROW,
    ROW_TABLE,
    WAIT,
    RowTable,
    WaitTable,
)
from streamsample.labels.waiting import Waiting
from streamsample.labels.watermark import MIN
from streamsample.records import Int64s

_RECORDS: Final = {"rows.rows": ROW, "rows.buckets": BUCKET, "matches.entries": ENTRY, "waiting.items": WAIT}
LAYOUT: Final = repr([(name, kind.descr) for name, kind in _RECORDS.items()])
"""What the tables look like: an image of another layout cannot be taken up."""


class Column(NamedTuple):
    """Elements of one dtype, in pieces that follow each other, and how many of them memory must have room for."""

    pieces: Sequence[NDArray[Any]]
    room: int = 0


class Filled(NamedTuple):
    """An array with room, of which the first `size` elements are filled."""

    array: NDArray[Any]
    size: int

    @property
    def elements(self) -> NDArray[Any]:
        """Those that are filled."""
        return self.array[: self.size]


Image = dict[str, Column]
Loaded = Mapping[str, Filled]


@kernel(types.void(ROW_TABLE, I64, I64, I64, types.int64))
def move_payload(table, begins, ends, shifts, rows):  # type: ignore[no-untyped-def]
    """Let the first `rows` rows find their payload, which has moved by `shifts[k]` if it lay in [begins[k], ends[k]),
    ascending. Rows of one bucket follow each other, so most lie in the range of the row before.
    """
    k = 0
    for row in range(rows):
        address = table.rows[row].payload
        if address < begins[k] or address >= ends[k]:
            found = np.searchsorted(begins, address, side="right") - 1
            if found < 0 or address >= ends[found]:
                continue  # it was freed, or never was
            k = found
        table.rows[row].payload = address + shifts[k]


def dtype_of(column: str, called: str) -> np.dtype[Any]:
    """The dtype of a column that is `called` so (`dtype.str`, which does not tell what records consist of)."""
    return _RECORDS.get(column) or np.dtype(called)


# -- what a join gives ----------------------------------------------------------------------------


def image_of(join: LabelJoin) -> Image:
    """The memory of a join right after `snapshot_delta`, not copied: to be written before anything else happens.

    The addresses in it are those of `chunks_of`. Raises InvariantError if something is not yet in a delta.
    """
    if join._written or join._rewrites or join._lost or join._rows.take_added() or join._matches.table.counts[LOG]:
        raise InvariantError("an image of a join in the middle of its work", remedy="commit before")
    scalars = [join.watermark, join.settled_before, join.released_before, *join._last_place]
    gaps = np.array(join._gaps, np.int64).reshape(-1)
    image = {"scalars": Column([np.array(scalars, np.int64)]), "gaps": Column([gaps])}
    for name in ("rows", "feedback", "predictions", "labels", "moved"):
        image[f"ledger.{name}"] = Column([getattr(join.ledger, name).reshape(-1)])
    return image | _of_rows(join._rows) | _of_matches(join._matches) | _of_waiting(join._waiting) | _of_agenda(join)


def chunks_of(join: LabelJoin) -> list[Chunk]:
    """All payload, by bucket."""
    return [chunk for bucket in join._rows.buckets.values() for chunk in bucket.segment.chunks]


def _of_rows(rows: Rows) -> Image:
    table, counts, buckets = rows.table, rows.table.counts, list(rows.buckets.values())
    used, pages = int(counts[BLOCKS_USED]), int(counts[PAGES_USED])
    closed, kept = set(rows.closed), set(rows.kept)
    figures = [
        (each.number, each.slot, each.number in closed, each.number in kept, each.sorted, each.saved,
         len(each.segment.chunks), len(each.runs._runs))
        for each in buckets
    ]  # fmt: skip
    chunks = [(chunk.address, chunk.used) for bucket in buckets for chunk in bucket.segment.chunks]
    return {
        "rows.rows": Column([table.rows[: used * BLOCK]], len(table.rows)),
        "rows.slots": Column([table.slots]),
        "rows.ids": Column([table.ids[: pages * PAGE]], len(table.ids)),
        "rows.buckets": Column([table.buckets[: len(buckets) + len(rows._free_slots)]], len(table.buckets)),
        "rows.block_next": Column([table.block_next[:used]], len(table.block_next)),
        "rows.blocks_free": Column([table.blocks_free[: counts[BLOCKS_FREE]]], len(table.blocks_free)),
        "rows.page_next": Column([table.page_next[:pages]], len(table.page_next)),
        "rows.pages_free": Column([table.pages_free[: counts[PAGES_FREE]]], len(table.pages_free)),
        "rows.counts": Column([counts]),
        "bucket.figures": Column([np.array(figures, np.int64).reshape(-1)]),
        "bucket.free": Column([np.array(rows._free_slots, np.int64)]),
        "bucket.chunks": Column([np.array(chunks, np.int64).reshape(-1)]),
        **_of_runs("bucket", [run for bucket in buckets for run in bucket.runs._runs]),
    }


def _of_matches(matches: Matches) -> Image:
    table = matches.table
    return {
        "matches.entries": Column([table.entries[: table.counts[ENTRIES_USED]]], len(table.entries)),
        "matches.counts": Column([table.counts]),
    }


def _of_waiting(waiting: Waiting) -> Image:
    table, counts = waiting.table, waiting.table.counts
    used, width = int(counts[ITEMS_USED]), waiting._width
    originals = waiting._originals
    return {
        "waiting.items": Column([table.items[:used]], len(table.items)),
        "waiting.slots": Column([table.slots]),
        "waiting.ids": Column([table.ids[: counts[IDS_USED]]], len(table.ids)),
        "waiting.bits": Column([table.bits[: used * width]], len(table.bits)),
        "waiting.free": Column([table.free[: counts[ITEMS_FREE]]], len(table.free)),
        "waiting.counts": Column([counts]),
        **_of_runs("waiting", waiting._runs._runs),
        **({} if originals is None else _of_originals(originals)),
    }


def _of_originals(originals: Originals) -> Image:
    return {
        "originals.place": Column([originals._place]),
        "originals.size": Column([originals._size]),
        "originals.buffer": Column([originals._buffer[: originals._used]], len(originals._buffer)),
    }


def _of_agenda(join: LabelJoin) -> Image:
    return {} if join._agenda is None else _of_runs("agenda", join._agenda._runs._runs)


def _of_runs(name: str, runs: Sequence[tuple[Int64s, Int64s]]) -> Image:
    return {
        f"{name}.runs": Column([np.array([len(times) for times, _ in runs], np.int64)]),
        f"{name}.times": Column([times for times, _ in runs]),
        f"{name}.values": Column([values for _, values in runs]),
    }


# -- what a join takes up -------------------------------------------------------------------------


def take_up(join: LabelJoin, loaded: Loaded, chunks: Sequence[Chunk]) -> None:
    """Let a fresh join, of equal settings, go on where the image's left off. chunks: those of `chunks_of`, where they
    are now.
    """
    if join.watermark != MIN or join._rows.buckets or len(join._waiting):
        raise InvariantError("an image into a join that is in use", remedy="take it up into a fresh LabelJoin")
    join.watermark, join.settled_before, join.released_before, *place = loaded["scalars"].elements.tolist()
    join._last_place = (place[0], place[1])
    join._gaps = [Gap(*gap) for gap in loaded["gaps"].elements.reshape(-1, 2).tolist()]
    join._times = join._times_at()
    for name in ("rows", "feedback", "predictions", "labels", "moved"):
        counts = getattr(join.ledger, name)
        counts[:] = loaded[f"ledger.{name}"].elements.reshape(counts.shape)
    _take_rows(join._rows, loaded, chunks)
    join._matches.table = join._matches.table._replace(
        entries=loaded["matches.entries"].array, counts=loaded["matches.counts"].elements
    )
    _take_waiting(join._waiting, loaded)
    if join._agenda is not None:
        join._agenda._runs = _runs_in("agenda", loaded)
    join.check()


def _take_rows(rows: Rows, loaded: Loaded, chunks: Sequence[Chunk]) -> None:
    names = ("rows", "slots", "ids", "buckets", "block_next", "blocks_free", "page_next", "pages_free")
    rows.table = RowTable(
        **{name: loaded[f"rows.{name}"].array for name in names}, counts=loaded["rows.counts"].elements
    )
    figures = loaded["bucket.figures"].elements.reshape(-1, 8).tolist()
    runs, rest = _runs_in("bucket", loaded)._runs, list(chunks)
    for number, slot, closed, kept, sorted_, saved, held, runs_held in figures:
        segment = Segment(rows._space)
        segment.take_over(rest[:held])
        bucket = rows.buckets[number] = Bucket(number, slot, segment)
        bucket.closed, bucket.sorted, bucket.saved = bool(closed), sorted_, saved
        bucket.runs._runs = runs[:runs_held]
        del rest[:held], runs[:runs_held]
        (rows.closed if closed else rows.open).append(number)
        if kept:
            rows.kept.append(number)
    for numbers in (rows.open, rows.closed, rows.kept):
        numbers.sort()
    rows._free_slots = loaded["bucket.free"].elements.tolist()
    _move(rows.table, loaded["bucket.chunks"].elements.reshape(-1, 2), chunks, loaded["rows.rows"].size)
    rows._count_tables()


def _move(table: RowTable, before: Int64s, chunks: Sequence[Chunk], rows: int) -> None:
    if not len(before):
        return
    order = np.argsort(before[:, 0])
    begins, ends = before[order, 0].copy(), before[order].sum(axis=1)
    now = np.array([chunk.address for chunk in chunks], np.int64)[order]
    move_payload(table, begins, ends, now - begins, rows)


def _take_waiting(waiting: Waiting, loaded: Loaded) -> None:
    names = ("items", "slots", "ids", "bits", "free")
    waiting.table = WaitTable(
        **{name: loaded[f"waiting.{name}"].array for name in names}, counts=loaded["waiting.counts"].elements
    )
    waiting._runs = _runs_in("waiting", loaded)
    if waiting._originals is not None:
        originals = waiting._originals
        originals._place, originals._size = (loaded[f"originals.{name}"].elements for name in ("place", "size"))
        originals._buffer, originals._used = loaded["originals.buffer"]


def _runs_in(name: str, loaded: Loaded) -> SortedRuns:
    ends = np.cumsum(loaded[f"{name}.runs"].elements).tolist()
    times, values = loaded[f"{name}.times"].elements, loaded[f"{name}.values"].elements
    runs = SortedRuns()
    runs._runs = [(times[begin:end], values[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    return runs
