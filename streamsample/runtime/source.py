"""One input topic of the job: which of a batch's records can be used, who they are and when they happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.formats.projection import Problem, Projection, Projector
from streamsample.labels.settings import ID_BYTES_MAX
from streamsample.records import Bools, Int64s, RecordBatch, Spans
from streamsample.runtime.computed import Computed, Failed, called, decided, with_computed
from streamsample.runtime.times import YEAR_10000_MS, TimeField

_PIECE_BYTES: Final = 2 << 20
_STAGES: Final = {"where": "filter", "id": "identify", "refers_to": "identify", "time": "time"}


@dataclass(frozen=True, slots=True)
class Rejected:
    """Records of a batch that cannot be used, all for the same reason.

    rows: int64[r] into the batch. stage: decode, filter, identify, time, sample, label or output. reason: a class with
    few values, for metrics. message: what is wrong and what to do. elements: of records whose list is exploded, which
    of it cannot be used; the others can.
    """

    batch: RecordBatch
    rows: Int64s
    stage: str
    reason: str
    message: str
    elements: Positions | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """Of r records places in their lists: those of record i are position[first[i]:first[i + 1]], ascending.

    first: int64[r + 1]; position: int16[j], -1 where it is not of an element.
    """

    first: Int64s
    position: NDArray[np.int16]

    def of(self, row: int) -> list[int]:
        """Those of one record; empty where it is the record as a whole."""
        found = self.position[self.first[row] : self.first[row + 1]]
        return [place for place in found.tolist() if place >= 0]


def refused(
    batch: RecordBatch, projection: Projection, rows: Int64s, stage: str, reason: str, message: str
) -> Rejected:
    """The records at `rows`, ascending; of a record whose list is exploded, however many of its elements are there."""
    if projection.slates is None:
        return Rejected(batch, rows, stage, reason, message)
    begins = np.flatnonzero(np.diff(projection.slates.record[rows], prepend=-1))
    positions = Positions(np.append(begins, len(rows)), projection.slates.position[rows])
    return Rejected(batch, rows[begins], stage, reason, message, positions)


@dataclass(frozen=True, slots=True)
class Events:
    """The usable records of a batch: m of its n. With a list that is exploded `batch` has a record for each element.

    rows: int64[m] into `batch` and `projection`, ascending; ids: m spans, no nulls; times: int64[m], event time in ms.
    filtered: how many others the source's condition left out. span: the event time of the first and the largest of all
    these, None without any: what was left out was read, so time goes on with it (A4). source: "input", or the
    feedback's name. elements, empty: of lists that are exploded, and how many lists have none.
    """

    batch: RecordBatch
    projection: Projection
    rows: Int64s
    ids: Spans
    times: Int64s
    rejected: list[Rejected]
    tombstones: int
    filtered: int = 0
    span: tuple[int, int] | None = None
    source: str = ""
    elements: int = 0
    empty: int = 0

    @property
    def index(self) -> NDArray[np.int16]:
        """Where each stands in its record, int16[m]: 0 unless a list is exploded."""
        slates = self.projection.slates
        return np.zeros(len(self.rows), np.int16) if slates is None else slates.position[self.rows]

    def take(self, at: Int64s) -> Events:
        """The events at `at`, int64[k] (ascending, into the m usable ones); `rejected` stays with this object."""
        return Events(self.batch, self.projection, self.rows[at], self.ids.take(at), self.times[at], [], 0)


@dataclass(frozen=True, slots=True)
class Source:
    """Reads the batches of one topic. `id_path` None: the record's key; `time` None: the record's timestamp.

    role: how the job file calls it: "input" or "feedback.<name>". max_future_ms: an event further ahead of the clock is
    refused (A7). where: which records count, None for all. computed: columns made of the projected ones.
    """

    topic: str
    role: str
    projector: Projector
    id_path: str | None
    time: TimeField | None
    max_future_ms: int
    where: Computed | None = None
    computed: tuple[Computed, ...] = ()

    def read(self, batch: RecordBatch, now_ms: int) -> Events:
        """Sort the records of a batch into usable, filtered, rejected and tombstones. None of them is lost."""
        projection = self.projector.project(batch.values)
        slates = projection.slates
        if slates is not None:
            batch = batch.take(slates.record)
        rejected: list[Rejected] = []
        usable = projection.ok
        tombstones = 0
        if not usable.all():
            tombstones = int((projection.problem == Problem.TOMBSTONE).sum())
            rejected += self._undecodable(batch, projection)
        filtered = None
        if self.where is not None:
            chosen, failures, usable = decided(projection, self.where, usable)
            rejected += [_failed(batch, projection, each) for each in failures]
            filtered = usable & ~chosen
            usable = usable & chosen
        projection, failures, usable = with_computed(projection, self.computed, usable)
        rejected += [_failed(batch, projection, each) for each in failures]
        ids = batch.keys if self.id_path is None else projection.text(self.id_path)
        usable = self._identified(batch, projection, ids, usable, rejected)
        times, dated = self._timed(batch, projection, now_ms, usable, rejected)
        left_out = 0 if filtered is None else int(np.count_nonzero(filtered))
        read = usable if filtered is None else usable | filtered
        if slates is not None:
            read = read | slates.empty
        if dated is not None:
            usable, read = usable & dated, read & dated
        span = _span(times, read)
        rows = np.flatnonzero(usable)
        if len(rows) < len(batch):
            ids, times = ids.take(rows), times[rows]
        return Events(
            batch,
            projection,
            rows,
            ids,
            times,
            rejected,
            tombstones,
            left_out,
            span,
            self.role.removeprefix("feedback."),
            0 if slates is None else int(np.count_nonzero(slates.position >= 0)),
            0 if slates is None else int(np.count_nonzero(slates.empty)),
        )

    def _undecodable(self, batch: RecordBatch, projection: Projection) -> list[Rejected]:
        found = []
        for problem in np.unique(projection.problem):
            if problem in (Problem.NONE, Problem.TOMBSTONE):
                continue
            words = self.projector.explain(int(problem))
            rows = np.flatnonzero(projection.problem == problem)
            found.append(refused(batch, projection, rows, "decode", Problem(problem).name.lower(), words))
        return found

    def _identified(
        self, batch: RecordBatch, projection: Projection, ids: Spans, usable: Bools, rejected: list[Rejected]
    ) -> Bools:
        fits = (ids.size >= 0) & (ids.size <= ID_BYTES_MAX)
        if fits.all():
            return usable
        what = "the record's key" if self.id_path is None else called(self.id_path)
        missing = np.flatnonzero(usable & (ids.size < 0))
        if len(missing):
            words = f"{what} is null, and it is the id ({self.role}.id)"
            rejected.append(refused(batch, projection, missing, "identify", "missing_id", words))
        long = np.flatnonzero(usable & (ids.size > ID_BYTES_MAX))
        if len(long):
            words = f"{what} is longer than {ID_BYTES_MAX:,} bytes, the limit of an id"
            rejected.append(refused(batch, projection, long, "identify", "long_id", words))
        return usable & fits

    def _timed(
        self, batch: RecordBatch, projection: Projection, now_ms: int, usable: Bools, rejected: list[Rejected]
    ) -> tuple[Int64s, Bools | None]:
        """Event times, int64[n], and where they can be used, bool[n] (None: everywhere)."""
        if self.time is None:
            times, known, what = batch.timestamps, np.ones(len(batch), np.bool_), "the record's timestamp"
        else:
            times, known = self.time.read(projection)
            what = f"{called(self.time.path)} ({self.role}.time)"
        plausible = known & (times >= 0) & (times < YEAR_10000_MS)
        present = times <= now_ms + self.max_future_ms
        if (plausible & present).all():
            return times, None
        missing = np.flatnonzero(usable & ~known)
        if len(missing):
            rejected.append(refused(batch, projection, missing, "time", "missing_time", f"{what} is null"))
        odd = np.flatnonzero(usable & known & ~plausible)
        if len(odd):
            words = f"{what} is not a time between the years 1970 and 9999; is its unit right?"
            if self.time is not None:
                words = f"{what}: {self.time.advice(projection, int(odd[0]))}"
            rejected.append(refused(batch, projection, odd, "time", "implausible_time", words))
        ahead = np.flatnonzero(usable & plausible & ~present)
        if len(ahead):
            words = f"{what} lies more than max_future ({self.max_future_ms} ms) ahead of the clock; is its unit right?"
            rejected.append(refused(batch, projection, ahead, "time", "future", words))
        return times, plausible & present


def _span(times: Int64s, read: Bools) -> tuple[int, int] | None:
    if read.all():
        return (int(times[0]), int(times.max())) if len(times) else None
    seen = times[read]
    return (int(seen[0]), int(seen.max())) if len(seen) else None


def _failed(batch: RecordBatch, projection: Projection, failed: Failed) -> Rejected:
    """`input.where` fails in the stage "filter", `sample.weight` in "sample", a target's rule in "label"."""
    top, *_, last = failed.computed.key.split(".")
    stage = "sample" if top in ("sample", "samples", "split") else _STAGES.get(last, "label")
    return refused(batch, projection, failed.rows, stage, "expression", failed.message)


def read_once(sources: Sequence[Source], batch: RecordBatch, now_ms: int) -> list[Events]:
    """The events of all sources that read the batch's topic. What one of them refuses is no dead letter of the next."""
    read: list[Events] = []
    refused = np.empty(0, np.int64)
    for source in sources:
        events = source.read(batch, now_ms)
        if len(sources) > 1:
            left = [replace(each, rows=np.setdiff1d(each.rows, refused)) for each in events.rejected]
            refused = np.concatenate((refused, *(each.rows for each in left)))
            events = replace(events, rejected=[each for each in left if len(each.rows)])
        read.append(events)
    return read


def in_pieces(batch: RecordBatch) -> Iterator[RecordBatch]:
    """A batch whose lists are exploded, cut so that what its elements take is bounded; once at least."""
    ends = np.cumsum(np.maximum(batch.values.size, 0), dtype=np.int64)
    piece = ends // _PIECE_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(batch)]
    for begin, end in pairwise(cuts):
        some = batch.take(np.arange(begin, end))
        yield some if end == len(batch) else replace(some, next_offset=int(batch.offsets[end - 1]) + 1)
