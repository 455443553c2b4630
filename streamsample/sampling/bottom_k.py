"""Bottom-k with threshold: the one primitive under all random designs of fixed size.

Each group (a window, a stratum, a pair of them) keeps the k units of smallest rank with all of their records, and the
threshold τ: the smallest rank that was not kept, infinite while nothing was left out. A record is in the sample iff its
rank is below τ; its inclusion probability follows from τ alone (see `ranks`). What a group holds is a function of the
set of records it was shown: their order, repetitions, and the way they were divided over states that were merged
cannot change it. Source: Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC 2007.

**A unit is what is drawn.** It is known by its keyed hash; usually it is the record itself. Where several records
share a unit (the events of a user: cluster sampling), k counts units, so that two streams that are sampled by the same
unit keep the same units, and a kept unit is kept whole. `records_max` bounds the memory: the first unit, by rank, that
does not fit with all of its records lowers τ to its rank as the (k+1)-th would. π stays exact for every unit of at most
`records_max` records, since a kept unit would have met the same τ at any smaller rank; a larger unit is never
kept, unless all is. A weight belongs to the unit: where records of one unit have different weights, they count
as different units that are not independent, and variances are too small.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.records import Float64s, Int32s, Int64s
from streamsample.sampling import bottom_k_kernels as kernels
from streamsample.sampling import snapshots
from streamsample.sampling.candidate import CANDIDATE, Candidates
from streamsample.sampling.ranks import CODES, NOT_FULL, Law

RECORDS_PER_UNIT = 4
"""`records_max` is this many times k where nothing else is said."""


class BottomK:
    """Groups of bottom-k candidates in one pool of memory, which is O(what the open groups hold).

    k >= 2 units per group (variances need two; 1 of the law first); at most `records_max` records per group (default
    4 k).
    """

    def __init__(self, k: int, law: Law = "uniform", records_max: int | None = None) -> None:
        least = 1 if law == "first" else 2
        if k < least:
            raise ValueError(f"k must be at least {least}, found {k}")
        self.k = k
        self.law: Law = law
        self.records_max = RECORDS_PER_UNIT * k if records_max is None else records_max
        if self.records_max < k:
            raise ValueError(f"records_max must be at least k = {k}, found {records_max}")
        self._threshold = np.empty(0, np.float64)
        self._head, self._tail, self._count, self._ordered = (np.empty(0, np.int64) for _ in range(4))
        self._pool, self._chain = np.empty(0, CANDIDATE), np.empty(0, np.int64)
        self._free = np.array([kernels.NONE, 0, 0], np.int64)
        self._closed: list[int] = []

    def __len__(self) -> int:
        """Candidates of all groups; some may be on their way out."""
        return int(self._count.sum())

    def open(self, count: int = 1) -> Int32s:
        """Numbers of `count` new, empty groups, int32[count]; the lowest of closed groups are used again."""
        reused = [heappop(self._closed) for _ in range(min(count, len(self._closed)))]
        begin, more = len(self._threshold), count - len(reused)
        self._threshold = np.concatenate([self._threshold, np.full(more, NOT_FULL)])
        self._head, self._tail = (np.append(at, np.full(more, kernels.NONE)) for at in (self._head, self._tail))
        self._count, self._ordered = (np.append(n, np.zeros(more, np.int64)) for n in (self._count, self._ordered))
        return np.array([*reused, *range(begin, begin + more)], np.int32)

    def close(self, groups: Int32s) -> None:
        """Forget groups, int32[g], each open and named once, and give their memory to others."""
        kernels.release(groups, *self._state())
        for group in groups.tolist():
            heappush(self._closed, group)

    def update(
        self,
        group: Int32s,
        unit: NDArray[np.uint64],
        weight: Float64s,
        source: Int64s,
        position: Int64s,
        row: Int64s,
    ) -> None:
        """Show n records to their groups.

        group: int32[n], open groups; unit: the keyed hash of each record's unit; weight: as the law wants it; source,
        position: where each record stands in the stream, which is what makes it itself; row: a number of the caller's,
        given back with the candidate. Lengths must agree: they are not checked.
        """
        columns = (CODES[self.law], group, unit, weight, source, position, row)
        done = 0
        while (done := kernels.update(*columns, done, self.k, self.records_max, *self._state())) < len(group):
            self._enlarge()

    def near(self, group: Int32s, unit: NDArray[np.uint64], weight: Float64s) -> Int64s:
        """Which of n records `update` may take, int64[m], ascending: all others would change nothing."""
        out = np.empty(len(group), np.int64)
        return out[: kernels.near(CODES[self.law], group, unit, weight, self._threshold, out)]

    def merge(self, groups: Int32s, other: BottomK, other_groups: Int32s) -> None:
        """Unite each of `groups` with the group of `other` (of the same k and law) that stands beside it.

        A record that both hold stays once. `other` is not changed but for the order of what it holds.
        """
        if (self.k, self.law, self.records_max) != (other.k, other.law, other.records_max):
            raise ValueError("only states of the same k, law and records_max can be merged")
        self.absorb(groups, *other.gather(other_groups))

    def absorb(self, groups: Int32s, count: Int64s, threshold: Float64s, records: NDArray[np.void]) -> None:
        """Unite each of `groups` with candidates of its own, as `gather` returns them."""
        done = 0
        columns = (CODES[self.law], groups, threshold, count, records)
        while (done := kernels.absorb(*columns, done, self.k, self.records_max, *self._state())) < len(groups):
            self._enlarge(len(records))

    def candidates(self, group: int) -> Candidates:
        """What a group holds now: at any time a valid sample of all that it was shown."""
        _, threshold, records = self.gather(np.array([group], np.int32))
        return Candidates(records, float(threshold[0]), self.law)

    def gather(self, groups: Int32s) -> tuple[Int64s, Float64s, NDArray[np.void]]:
        """What several groups hold, at once: the number of candidates of each, int64[g], its threshold, float64[g], and
        all candidates, structured, by group and within a group by rank.
        """
        kernels.compact(CODES[self.law], groups, self.k, self.records_max, *self._state())
        count = self._count[groups]
        records = np.empty(int(count.sum()), CANDIDATE)
        kernels.read(groups, self._head, self._count, self._pool, self._chain, records)
        return count, self._threshold[groups], records

    def rows(self) -> Int64s:
        """The `row` of everything held, in no particular order but the same until the next change. int64[m].

        What the caller keeps under other numbers can be let go.
        """
        return self._pool["row"][self._places()]

    def renumber(self, rows: Int64s) -> None:
        """Replace what `rows` returned by other numbers, element by element."""
        self._pool["row"][self._places()] = rows

    def memory_bytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self._state())

    def snapshot(self) -> bytes:
        """The whole state; see `snapshots`."""
        groups = np.arange(len(self._threshold), dtype=np.int32)
        count, threshold, records = self.gather(groups)
        closed = np.array(sorted(self._closed), np.int64)
        return snapshots.pack("bottom-k", self._shape(), {}, [closed, count, threshold, records])

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot. Raises StateError if it is damaged or of another k or law; then nothing changes."""
        dtypes = [np.dtype(np.int64), np.dtype(np.int64), np.dtype(np.float64), CANDIDATE]
        _, (closed, count, threshold, records) = snapshots.unpack("bottom-k", self._shape(), data, dtypes)
        if len(count) != len(threshold) or (count < 0).any() or count.sum() != len(records):
            raise StateError("the groups of a sampling state do not fit its candidates", remedy=snapshots.REMEDY)
        fresh = BottomK(self.k, self.law, self.records_max)
        groups = fresh.open(len(threshold))
        fresh.absorb(groups, count, threshold, records)
        fresh._closed = closed.tolist()
        self.__dict__.update(fresh.__dict__)

    def _shape(self) -> tuple[Any, ...]:
        return (self.k, self.law, self.records_max)

    def _state(self) -> tuple[NDArray[Any], ...]:
        places = (self._threshold, self._head, self._tail, self._count, self._ordered)
        return (*places, self._pool, self._chain, self._free)

    def _enlarge(self, records: int = 0) -> None:
        """Half as large again, and room for `records` more."""
        more = len(self._chain) // 2 + records // kernels.CHUNK + 1
        self._pool = np.concatenate([self._pool, np.empty(more * kernels.CHUNK, CANDIDATE)])
        self._chain = np.concatenate([self._chain, np.empty(more, np.int64)])

    def _places(self) -> Int64s:
        """Where in the pool candidates lie, int64[m]."""
        places = np.empty(int(self._count.sum()), np.int64)
        kernels.places(self._head, self._count, self._chain, places)
        return places
