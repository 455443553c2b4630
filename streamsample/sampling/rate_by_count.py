"""Simple random sampling by a target count per window, of a stream that is read in parts and again.

A window's rate is the target over the mean count of the last windows that were closed when it began: those whose end
and grace lie before its begin. A record is late, and is neither kept nor counted, if one that was read before it has
passed its window's end and grace. So whatever a rate is made of is settled before the window's first record is read,
and depends on the records before it in the partition alone: not on batches, watermarks or restarts (A8, B7). Within
the grace it does not depend on their order either. See `SimpleCount`, which is told when windows close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamsample.records import Bools, Float64s, Int64s
from streamsample.sampling import snapshots

_NEVER = -(2**62)
WINDOWS = 3
"""How many closed windows a rate is made of."""


class RateByCount:
    """The rates of one partition's windows. count: >= 1, the target; first_rate: where no window has closed yet."""

    def __init__(self, count: int, window_ms: int, grace_ms: int, first_rate: float) -> None:
        self._count, self._window_ms, self._grace_ms, self._first_rate = count, window_ms, grace_ms, first_rate
        self._latest = _NEVER
        self._counts: dict[int, int] = {}
        self._rates: dict[int, float] = {}

    held = changed = 0
    """A delta of it is all of it: no older one is needed."""

    def decide(self, ts: Int64s) -> tuple[Float64s, Bools]:
        """The rates of n records, float64[n], 0 of those that are late, and which are, bool[n]. ts: in their order."""
        if not len(ts):
            return np.empty(0), np.empty(0, np.bool_)
        latest = np.maximum.accumulate(np.concatenate([np.array([self._latest]), ts]))
        window = ts // self._window_ms
        late: Bools = self._closes(window) < latest[:-1]
        self._latest = int(latest[-1])
        windows, which, counts = np.unique(window[~late], return_inverse=True, return_counts=True)
        for number, more in zip(windows.tolist(), counts.tolist(), strict=True):
            self._counts[number] = self._counts.get(number, 0) + more
        rate = np.zeros(len(ts))
        rate[~late] = np.array([self._rate(number) for number in windows.tolist()])[which]
        self._forget()
        return rate, late

    def snapshot(self) -> bytes:
        """The whole state: rates and counts of windows that are open, or that rates are still made of."""
        numbers = sorted(self._counts)
        rates = [self._rates.get(number, 0.0) for number in numbers]
        arrays = [np.array(numbers, np.int64), np.array([self._counts[number] for number in numbers], np.int64)]
        return snapshots.pack("rate by count", self._shape(), {"latest": self._latest}, [*arrays, np.array(rates)])

    def rewrite(self) -> None:
        """The next delta is of everything, as each is."""

    def restore(self, deltas: Sequence[bytes]) -> None:
        """Go on from the last of some snapshots. Raises StateError if it is damaged or not of the same parameters."""
        dtypes: list[np.dtype[Any]] = [np.dtype(np.int64), np.dtype(np.int64), np.dtype(np.float64)]
        fields, (numbers, counts, rates) = snapshots.unpack("rate by count", self._shape(), deltas[-1], dtypes)
        self._latest = fields["latest"]
        self._counts = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        self._rates = {number: rate for number, rate in zip(numbers.tolist(), rates.tolist(), strict=True) if rate}

    def _closes(self, window: Any) -> Any:
        """What the largest time must exceed for a window, or an array of them, to be closed."""
        return (window + 1) * self._window_ms + self._grace_ms

    def _closed_before(self, window: int) -> list[int]:
        """The last windows that were closed when this one began, in order."""
        begin = window * self._window_ms
        return sorted(number for number in self._counts if self._closes(number) < begin)[-WINDOWS:]

    def _rate(self, window: int) -> float:
        if window not in self._rates:
            closed = self._closed_before(window)
            records = sum(self._counts[number] for number in closed)
            self._rates[window] = min(1.0, self._count * len(closed) / records) if closed else self._first_rate
        return self._rates[window]

    def _forget(self) -> None:
        """Let windows go that are closed, and that no later window's rate is made of."""
        first_open = -(-(self._latest - self._grace_ms) // self._window_ms) - 1
        needed = min(self._closed_before(first_open), default=_NEVER)
        for number in [number for number in self._counts if number < needed]:
            del self._counts[number]
            self._rates.pop(number, None)

    def _shape(self) -> tuple[Any, ...]:
        return (self._count, self._window_ms, self._grace_ms, self._first_rate)
