"""What a windowed sample is given, and what it gives: columns, without the kernels that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Bools, Float64s, Int32s, Int64s, Spans
from streamsample.sampling.allocation import Allocation
from streamsample.sampling.candidate import CANDIDATE
from streamsample.sampling.kept_rows import RowColumns
from streamsample.sampling.ranks import Law

INDEX_BITS = 15
"""Of a record's place in one of Kafka's."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """k units per window and stratum, or as `allocation` divides k among a window's strata: then each stratum gives at
    least `minimum`, if it has as much, and at most `k_max`. half_life_ms: of the law decayed, whose landmark is the
    window's begin. records: windows are of so many records of the partition, one after the other, not of event time;
    window_ms and grace_ms are 0. cumulative: a window that closes gives the sample of everything since the start.
    strata: those with a place of their own; others: how many places all other strata share (0: there are no strata).
    windows_max: how many may be open. replacement: k independent draws, with weights for the estimator of Hansen and
    Hurwitz, or equal_weights, where the weights were ratios of importance. several: a record may be in several strata:
    it is shown once for each, one after the other, and sampled once.
    """

    k: int
    law: Law
    window_ms: int
    grace_ms: int
    half_life_ms: int | None = None
    strata: tuple[str, ...] = ()
    others: int = 0
    windows_max: int = 10_000
    allocation: Allocation = "each"
    minimum: int = 0
    k_max: int | None = None
    records: int | None = None
    cumulative: bool = False
    replacement: bool = False
    equal_weights: bool = False
    several: bool = False

    @property
    def candidates_max(self) -> int:
        """Units of which candidates are kept, per window and stratum."""
        return self.k_max if self.allocation != "each" and self.k_max is not None else self.k

    @property
    def sums(self) -> int:
        """How many exact sums each group has: for Neyman's allocation of a field and of its squares, for draws with
        replacement of the weights.
        """
        return 2 if self.allocation == "neyman" else int(self.replacement)


@dataclass(frozen=True, slots=True)
class Offered:
    """n records of one partition, ascending by offset and index.

    source: the partition's number; index: where in a record of Kafka each stands, 0 where it is one; ts: event times,
    ms; unit: the keyed hash of each unit, uint64[n]; weight: float64[n] > 0, or 0 for never; stratum: n spans without
    nulls, or None. values: for each of the settings' sums what is summed up, float64[n], finite.
    """

    source: int
    offset: Int64s
    index: NDArray[np.int16]
    ts: Int64s
    unit: NDArray[np.uint64]
    weight: Float64s
    stratum: Spans | None
    ids: Spans
    values: tuple[Float64s, ...] = ()

    def positions(self, rows: Int64s) -> Int64s:
        """Where the records at `rows` stand in the partition: what makes each itself."""
        return (self.offset[rows] << INDEX_BITS) | self.index[rows]

    def take(self, rows: Int64s) -> Offered:
        """The records at `rows`."""
        return Offered(
            source=self.source,
            offset=self.offset[rows],
            index=self.index[rows],
            ts=self.ts[rows],
            unit=self.unit[rows],
            weight=self.weight[rows],
            stratum=None if self.stratum is None else self.stratum.take(rows),
            ids=self.ids.take(rows),
            values=tuple(value[rows] for value in self.values),
        )


@dataclass(frozen=True, slots=True)
class Details:
    """What else is kept of m records that may be sampled: see `RowColumns`."""

    schema: NDArray[np.int16]
    split: NDArray[np.int8]
    payload: Spans


@dataclass(frozen=True, slots=True)
class GroupColumns:
    """g groups, the strata of windows. n: all the records each has had; threshold: τ, infinite where none was left out;
    kept: how many candidates of it stand beside this; sums: int64[g, s], the words of its exact sums one after the
    other (see `totals`), none in most designs.
    """

    window: Int64s
    place: Int32s
    n: Int64s
    threshold: Float64s
    kept: Int64s
    sums: NDArray[np.int64]

    def take(self, rows: Int64s) -> GroupColumns:
        """The groups at `rows`."""
        return GroupColumns(*(getattr(self, column.name)[rows] for column in fields(self)))

    @staticmethod
    def concat(parts: Sequence[GroupColumns]) -> GroupColumns:
        """All groups of `parts`, at least one, in order."""
        columns = ([getattr(part, column.name) for part in parts] for column in fields(GroupColumns))
        return GroupColumns(*map(np.concatenate, columns))


@dataclass(frozen=True, slots=True)
class WindowPart:
    """What is held of some windows. candidates: structured array of `CANDIDATE`, by group and within a group by rank;
    rows: what is kept of each, in the same order.
    """

    groups: GroupColumns
    candidates: NDArray[np.void]
    rows: RowColumns

    def __len__(self) -> int:
        """Candidates, of all groups."""
        return len(self.candidates)

    @staticmethod
    def empty() -> WindowPart:
        """No groups."""
        long, place = np.empty(0, np.int64), np.empty(0, np.int32)
        groups = GroupColumns(long, place, long, np.empty(0, np.float64), long, np.empty((0, 0), np.int64))
        return WindowPart(groups, np.empty(0, CANDIDATE), RowColumns.empty())

    @staticmethod
    def concat(parts: Sequence[WindowPart]) -> WindowPart:
        """All groups of `parts`, at least one, in order."""
        return WindowPart(
            GroupColumns.concat([part.groups for part in parts]),
            np.concatenate([part.candidates for part in parts]),
            RowColumns.concat([part.rows for part in parts]),
        )

    def of_groups(self, chosen: Bools) -> WindowPart:
        """The part that the chosen groups are, bool[g]."""
        rows = np.flatnonzero(np.repeat(chosen, self.groups.kept))
        return WindowPart(self.groups.take(np.flatnonzero(chosen)), self.candidates[rows], self.rows.take(rows))

    def pieces(self, bytes_max: int) -> list[WindowPart]:
        """The part in pieces that unite to it, at least one, each of at most so many bytes or of a single row."""
        sizes = self.rows.row_bytes() + self.candidates.itemsize
        ends = np.cumsum(sizes)
        cuts = [0]
        while cuts[-1] < len(self):
            begin = cuts[-1]
            end = int(np.searchsorted(ends, ends[begin] - sizes[begin] + bytes_max, "right"))
            cuts.append(max(end, begin + 1))
        return [self._between(begin, end) for begin, end in pairwise(cuts)] or [self]

    def _between(self, begin: int, end: int) -> WindowPart:
        """Some of the rows with their groups. What is counted of a group, and groups without rows, come once."""
        ends = np.cumsum(self.groups.kept)
        starts = ends - self.groups.kept
        kept = np.maximum(np.minimum(ends, end) - np.maximum(starts, begin), 0)
        chosen = (kept > 0) | ((self.groups.kept == 0) & (begin == 0))
        first = starts >= begin
        sums = np.where(first[:, None], self.groups.sums, 0)
        groups = replace(self.groups, n=np.where(first, self.groups.n, 0), kept=kept, sums=sums)
        rows = np.arange(begin, end)
        return WindowPart(groups.take(np.flatnonzero(chosen)), self.candidates[rows], self.rows.take(rows))


@dataclass(frozen=True, slots=True)
class Drawn:
    """The samples of windows that have closed: m records by window, place and rank.

    source: the input's partition; probability: π; threshold: τ, on the scale of ranks, NaN where nothing was left out;
    n: records that the window had of the place, k: units that were asked of it. weight: see `formats.training`; draws:
    how often each was drawn, -1 without replacement. until: the window's end; settled_at: that and the grace; of
    windows of so many records until is -1, and settled_at the latest time in the sample. For each of the g groups that
    closed: places, of its stratum; seen: its records; kept: those of them in the sample.
    """

    rows: RowColumns
    source: Int64s
    probability: Float64s
    threshold: Float64s
    n: Int64s
    k: Int64s
    weight: Float64s
    draws: Int64s
    until: Int64s
    settled_at: Int64s
    places: Int32s
    seen: Int64s
    kept: Int64s

    def __len__(self) -> int:
        return len(self.rows)
