"""One input topic of the job: which of a batch's records can be used, who they are and when they happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamsample.formats.projection import Problem, Projection, Projector
from streamsample.labels.settings import ID_BYTES_MAX
from streamsample.records import Int64s, RecordBatch, Spans

_YEAR_10000_MS = 253_402_300_800_000

_MILLISECONDS: dict[str, Callable[[Int64s], Int64s]] = {
    "s": lambda values: np.clip(values, -1, _YEAR_10000_MS) * 1000,
    "ms": lambda values: values,
    "us": lambda values: values // 1_000,
    "ns": lambda values: values // 1_000_000,
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """Records of a batch that cannot be used, all for the same reason.

    rows: int64[r] into the batch. stage: decode, identify, time, sample, label or output. reason: a class with few
    values, for metrics. message: what is wrong and what to do.
    """

    batch: RecordBatch
    rows: Int64s
    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Events:
    """The usable records of a batch: m of its n.

    rows: int64[m] into `batch` and `projection`, ascending; ids: m spans, no nulls; times: int64[m], event time in ms.
    """

    batch: RecordBatch
    projection: Projection
    rows: Int64s
    ids: Spans
    times: Int64s
    rejected: list[Rejected]
    tombstones: int

    def take(self, at: Int64s) -> Events:
        """The events at `at`, int64[k] (ascending, into the m usable ones); `rejected` stays with this object."""
        return Events(self.batch, self.projection, self.rows[at], self.ids.take(at), self.times[at], [], 0)


@dataclass(frozen=True, slots=True)
class TimeField:
    """Where the event time is: an integer field and its unit (s, ms, us, ns)."""

    path: str
    unit: str


@dataclass(frozen=True, slots=True)
class Source:
    """Reads the batches of one topic. `id_path` None: the record's key; `time` None: the record's timestamp.

    role: how the job file calls it: "input" or "feedback.<name>". max_future_ms: an event further ahead of the clock is
    refused (A7).
    """

    topic: str
    role: str
    projector: Projector
    id_path: str | None
    time: TimeField | None
    max_future_ms: int

    def read(self, batch: RecordBatch, now_ms: int) -> Events:
        """Sort the records of a batch into usable, rejected and tombstones. None of them is lost."""
        projection = self.projector.project(batch.values)
        rejected: list[Rejected] = []
        usable = projection.ok
        tombstones = 0
        if not usable.all():
            tombstones = int((projection.problem == Problem.TOMBSTONE).sum())
            rejected += self._undecodable(batch, projection)
        ids = batch.keys if self.id_path is None else projection.text(self.id_path)
        usable = self._identified(batch, ids, usable, rejected)
        times, usable = self._timed(batch, projection, now_ms, usable, rejected)
        rows = np.flatnonzero(usable)
        if len(rows) == len(batch):
            return Events(batch, projection, rows, ids, times, rejected, tombstones)
        return Events(batch, projection, rows, ids.take(rows), times[rows], rejected, tombstones)

    def _undecodable(self, batch: RecordBatch, projection: Projection) -> list[Rejected]:
        found = []
        for problem in np.unique(projection.problem):
            if problem in (Problem.NONE, Problem.TOMBSTONE):
                continue
            words = self.projector.explain(int(problem))
            rows = np.flatnonzero(projection.problem == problem)
            found.append(Rejected(batch, rows, "decode", Problem(problem).name.lower(), words))
        return found

    def _identified(self, batch: RecordBatch, ids: Spans, usable: np.ndarray, rejected: list[Rejected]) -> np.ndarray:
        fits = (ids.size >= 0) & (ids.size <= ID_BYTES_MAX)
        if fits.all():
            return usable
        what = "the record's key" if self.id_path is None else f"the field {self.id_path!r}"
        missing = np.flatnonzero(usable & (ids.size < 0))
        if len(missing):
            words = f"{what} is null, and it is the id ({self.role}.id)"
            rejected.append(Rejected(batch, missing, "identify", "missing_id", words))
        long = np.flatnonzero(usable & (ids.size > ID_BYTES_MAX))
        if len(long):
            words = f"{what} is longer than {ID_BYTES_MAX:,} bytes, the limit of an id"
            rejected.append(Rejected(batch, long, "identify", "long_id", words))
        return usable & fits

    def _timed(
        self, batch: RecordBatch, projection: Projection, now_ms: int, usable: np.ndarray, rejected: list[Rejected]
    ) -> tuple[Int64s, np.ndarray]:
        if self.time is None:
            times, known, what = batch.timestamps, np.ones(len(batch), np.bool_), "the record's timestamp"
        else:
            column = projection.integer(self.time.path)
            values = np.asarray(column.values, np.int64)
            times, known = _MILLISECONDS[self.time.unit](values), column.valid
            what = f"the field {self.time.path!r} ({self.role}.time)"
        plausible = known & (times >= 0) & (times < _YEAR_10000_MS)
        present = times <= now_ms + self.max_future_ms
        if (plausible & present).all():
            return times, usable
        missing = np.flatnonzero(usable & ~known)
        if len(missing):
            rejected.append(Rejected(batch, missing, "time", "missing_time", f"{what} is null"))
        odd = np.flatnonzero(usable & known & ~plausible)
        if len(odd):
            words = f"{what} is not a time between the years 1970 and 9999; is its unit right?"
            rejected.append(Rejected(batch, odd, "time", "implausible_time", words))
        ahead = np.flatnonzero(usable & plausible & ~present)
        if len(ahead):
            words = f"{what} lies more than max_future ({self.max_future_ms} ms) ahead of the clock; is its unit right?"
            rejected.append(Rejected(batch, ahead, "time", "future", words))
        return times, usable & plausible & present
