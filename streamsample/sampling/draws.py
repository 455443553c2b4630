"""Groups of k independent draws with replacement, for windows: what `bottom_k` is without replacement.

What a group holds is a function of the records that hold one of its draws, for their ranks follow from their units'
hashes and weights alone (see `replacement`). So a group is read as those records, each once, and united by showing them
again.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Float64s, Int32s, Int64s
from streamsample.sampling import replacement
from streamsample.sampling.candidate import CANDIDATE


class Draws:
    """Groups of k >= 2 draws; memory is O(groups × k)."""

    def __init__(self, k: int) -> None:
        if k < 2:
            raise ValueError(f"k must be at least 2, found {k}")
        self.k = k
        self._draws = np.empty((0, k), CANDIDATE)
        self._largest = np.empty(0, np.float64)
        self._order = np.arange(k)
        self._closed: list[int] = []

    def __len__(self) -> int:
        """Draws of all groups that hold a record."""
        return int(np.count_nonzero(np.isfinite(self._largest))) * self.k

    def open(self, count: int = 1) -> Int32s:
        """Numbers of `count` new, empty groups, int32[count]; the lowest of closed groups are used again."""
        reused = [heappop(self._closed) for _ in range(min(count, len(self._closed)))]
        begin, more = len(self._draws), count - len(reused)
        self._draws = np.concatenate([self._draws, np.zeros((more, self.k), CANDIDATE)])
        self._largest = np.append(self._largest, np.full(more, np.inf))
        groups = np.array([*reused, *range(begin, begin + more)], np.int32)
        self._draws["rank"][groups] = np.inf
        return groups

    def close(self, groups: Int32s) -> None:
        """Forget groups, int32[g], each open and named once."""
        self._draws["rank"][groups] = self._largest[groups] = np.inf
        for group in groups.tolist():
            heappush(self._closed, group)

    def near(self, group: Int32s, unit: NDArray[np.uint64], weight: Float64s) -> Int64s:
        """Which of n records of weight > 0 hold a draw, or did not before others of the batch. int64[m], ascending."""
        out = np.empty(len(group), np.int64)
        return out[: replacement.near(group, unit, weight, self._largest, self.k, out)]

    def update(
        self,
        group: Int32s,
        unit: NDArray[np.uint64],
        weight: Float64s,
        source: Int64s,
        position: Int64s,
        row: Int64s,
    ) -> None:
        """Show n records to their groups: see `BottomK.update`."""
        for number in np.unique(group).tolist():
            mine = np.flatnonzero(group == number)
            columns = (unit[mine], weight[mine], source[mine], position[mine], row[mine])
            replacement.draw(*columns, self._order, self._draws[number])
            self._largest[number] = self._draws[number]["rank"].max()

    def absorb(self, groups: Int32s, count: Int64s, threshold: Float64s, records: NDArray[np.void]) -> None:
        """Unite each of `groups` with records of its own, as `gather` returns them."""
        names = ("unit", "weight", "source", "position", "row")
        self.update(np.repeat(groups, count), *(np.ascontiguousarray(records[name]) for name in names))

    def gather(self, groups: Int32s) -> tuple[Int64s, Float64s, NDArray[np.void]]:
        """The records that hold draws of the groups: of each how many, int64[g], no threshold (infinite), and the
        records by group, source and position. Ranks are those of some draw.
        """
        parts = [np.empty(0, CANDIDATE)]
        for group in groups.tolist():
            held = self._draws[group][np.isfinite(self._draws[group]["rank"])]
            _, first = np.unique(held[["source", "position"]], return_index=True)
            parts.append(held[first])
        count = np.array([len(part) for part in parts[1:]], np.int64)
        return count, np.full(len(count), np.inf), np.concatenate(parts)

    def rows(self) -> Int64s:
        """The `row` of each draw: see `BottomK.rows`."""
        rows: Int64s = self._draws["row"][np.isfinite(self._draws["rank"])]
        return rows

    def renumber(self, rows: Int64s) -> None:
        """Replace what `rows` returned by other numbers, element by element."""
        self._draws["row"][np.isfinite(self._draws["rank"])] = rows

    def memory_bytes(self) -> int:
        """The size of the arrays."""
        return self._draws.nbytes + self._largest.nbytes


def times_drawn(records: NDArray[np.void], k: int) -> Int64s:
    """How many of k draws each record of a group holds, int64[m]. records: as `Draws.gather` gives them."""
    draws = np.zeros(k, CANDIDATE)
    draws["rank"] = np.inf
    columns = (np.ascontiguousarray(records[name]) for name in ("unit", "weight", "source", "position"))
    replacement.draw(*columns, np.arange(len(records)), np.arange(k), draws)
    return np.bincount(draws["row"][np.isfinite(draws["rank"])], minlength=len(records))
