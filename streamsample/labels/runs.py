"""Event times in order without sorting what is sorted already: a stack of sorted runs, merged when alike in size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Int64s

_MERGE_AT = 2


def stable_order(times: Int64s) -> NDArray[np.intp]:
    """The permutation that sorts `times`, equal ones in their order; by radix when near each other, as in a bucket.

    (numpy sorts 16-bit numbers by radix: a tenth of the cost of comparing int64.)
    """
    low = times.min()
    span = int(times.max()) - int(low)
    if span >= 2**32:
        return np.argsort(times, kind="stable")
    near = times - low
    order = np.argsort(near.astype(np.uint16), kind="stable")
    if span >= 2**16:
        order = order[np.argsort((near >> 16).astype(np.uint16)[order], kind="stable")]
    return order


class SortedRuns:
    """Pairs of (time, value), taken out by time. Each pair is sorted O(log n) times in all.

    Equal times come out in the order in which they were added.
    """

    __slots__ = ("_runs", "touched")

    def __init__(self) -> None:
        self._runs: list[tuple[Int64s, NDArray[np.int64]]] = []
        self.touched = 0
        """Pairs sorted so far: what the work has cost."""

    def __len__(self) -> int:
        return sum(len(times) for times, _ in self._runs)

    def add(self, times: Int64s, values: NDArray[np.int64]) -> None:
        """Add n pairs."""
        if not len(times):
            return
        self._push(times, values)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < _MERGE_AT * len(self._runs[-1][0]):
            (left, left_values), (right, right_values) = self._runs[-2:]
            del self._runs[-2:]
            self._push(np.concatenate([left, right]), np.concatenate([left_values, right_values]))

    def take_before(self, time: int) -> tuple[Int64s, NDArray[np.int64]]:
        """Remove and return all pairs with a time < `time`, in order of time."""
        heads: list[tuple[Int64s, NDArray[np.int64]]] = []
        rest: list[tuple[Int64s, NDArray[np.int64]]] = []
        for times, values in self._runs:
            cut = int(np.searchsorted(times, time, side="left")) if times[0] < time else 0
            if cut:
                heads.append((times[:cut], values[:cut]))
            if cut < len(times):
                rest.append((times[cut:], values[cut:]))
        self._runs = rest
        if not heads:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if len(heads) == 1:
            return heads[0]
        times = np.concatenate([times for times, _ in heads])
        values = np.concatenate([values for _, values in heads])
        order = stable_order(times)
        self.touched += len(order)
        return times[order], values[order]

    def first(self) -> int | None:
        """The smallest time."""
        return min((int(times[0]) for times, _ in self._runs), default=None)

    def _push(self, times: Int64s, values: NDArray[np.int64]) -> None:
        self.touched += len(times)
        if len(times) > 1 and bool((times[1:] < times[:-1]).any()):
            order = stable_order(times)
            times, values = times[order], values[order]
        self._runs.append((times, values))
