"""Simple random sampling: each unit is kept with the same probability, independently (Bernoulli sampling).

A record is kept iff u < rate. π = rate for every record, so the Horvitz-Thompson weight is 1/rate. Source: Särndal,
Swensson, Wretman, Model Assisted Survey Sampling (1992), section 3.2; the hash in place of a random draw makes it
repeatable and nested in the rate (B9).

By target count, each window has a rate of its own: the target over the mean count of the windows closed before, so that
π is known when the record is drawn. The sample's size is near the target while traffic is steady, and random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsample.records import Int64s, Spans
from streamsample.sampling import snapshots
from streamsample.sampling.design import Selection, unit_hash


@dataclass(frozen=True, slots=True)
class SimpleRate:
    """Keep each unit with probability `rate`, in (0, 1]."""

    rate: float
    seed: int = 0
    name: str = "simple"
    declared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be > 0 and <= 1, found {self.rate}")

    @property
    def largest_rate(self) -> float:
        return self.rate

    def decide(self, unit: Spans, stratum: Spans | None) -> Selection:
        """See `RateDesign.decide`; `stratum` is not looked at."""
        count = len(unit)
        return Selection(
            keep=unit_hash(unit, self.seed) < self.rate,
            probability=np.full(count, self.rate),
            declared=np.full(count, -1, np.int32),
        )


class SimpleCount:
    """Keep about `count` units of each tumbling window of event time.

    count: >= 1, the target; window_ms: > 0; first_rate: in (0, 1], of windows before any has closed. A window's rate is
    fixed when its first record comes, from the `windows` last ones closed by then; it is part of the state, since
    it depends on how far event time had come.

    >>> design = SimpleCount(count=100, window_ms=60_000, first_rate=1.0)
    >>> first = design.decide(Spans.of([b"%d" % n for n in range(1_000)]), np.zeros(1_000, np.int64))
    >>> design.close(60_000)
    >>> design.decide(Spans.of([b"a"]), np.array([60_000])).probability
    array([0.1])
    """

    name = "simple"

    def __init__(self, count: int, window_ms: int, first_rate: float, seed: int = 0, *, windows: int = 3) -> None:
        if count < 1 or window_ms < 1 or windows < 1 or not 0 < first_rate <= 1:
            raise ValueError(
                f"count, window_ms and windows must be >= 1 and first_rate in (0, 1], found {count}, {window_ms}, "
                f"{windows} and {first_rate}"
            )
        self.count, self.window_ms, self.first_rate, self.seed, self.windows = (
            count,
            window_ms,
            first_rate,
            seed,
            windows,
        )
        self._closed_until = -(2**62)
        self._closed: list[int] = []
        self._open: dict[int, _Window] = {}

    def decide(self, unit: Spans, time_ms: Int64s) -> Selection:
        """Decide on n records by their units (n spans, no nulls) and event times, int64[n].

        A record of a closed window is late: it is neither kept nor counted, and its probability is 0.
        """
        windows, which, counts = np.unique(time_ms // self.window_ms, return_inverse=True, return_counts=True)
        rates = np.array([self._count(int(number), int(n)) for number, n in zip(windows, counts, strict=True)])
        probability = rates[which] if len(rates) else np.empty(0)
        return Selection(unit_hash(unit, self.seed) < probability, probability, np.full(len(unit), -1, np.int32))

    def close(self, until_ms: int) -> None:
        """Close all windows that end at `until_ms` or before: the watermark, less the grace, has passed them."""
        self._closed_until = max(self._closed_until, until_ms)
        for number in sorted(self._open):
            if (number + 1) * self.window_ms <= self._closed_until:
                self._closed = [*self._closed, self._open.pop(number).count][-self.windows :]

    def snapshot(self) -> bytes:
        """The rates and counts of open windows, and the counts of those closed."""
        columns = [[number, window.count] for number, window in sorted(self._open.items())]
        rates = np.array([window.rate for _, window in sorted(self._open.items())])
        arrays = [np.array(columns, np.int64), rates, np.array(self._closed, np.int64)]
        return snapshots.pack(self.name, self._shape(), {"closed_until": self._closed_until}, arrays)

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot of the same parameters. Raises StateError if it is damaged or not one."""
        dtypes: list[np.dtype[Any]] = [np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.int64)]
        fields, (columns, rates, closed) = snapshots.unpack(self.name, self._shape(), data, dtypes)
        windows = zip(columns.reshape(-1, 2).tolist(), rates.tolist(), strict=True)
        self._closed_until, self._closed = fields["closed_until"], closed.tolist()
        self._open = {number: _Window(rate, count) for (number, count), rate in windows}

    def _count(self, number: int, records: int) -> float:
        """Count records of a window; its rate."""
        if (number + 1) * self.window_ms <= self._closed_until:
            return 0.0
        window = self._open.setdefault(number, _Window(self._next_rate(), 0))
        window.count += records
        return window.rate

    def _next_rate(self) -> float:
        if not self._closed:
            return self.first_rate
        return min(1.0, self.count * len(self._closed) / max(sum(self._closed), 1))

    def _shape(self) -> tuple[Any, ...]:
        return (self.count, self.window_ms, self.first_rate, self.seed, self.windows)


@dataclass(slots=True)
class _Window:
    """An open window: its rate, and the records it has had."""

    rate: float
    count: int
