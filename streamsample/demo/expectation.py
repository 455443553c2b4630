"""What must come out of the demo's job, computed from the dataset by the definitions alone, without the join.

The watermark is the smallest, over a task's partitions, of the largest event time read. At the end every partition has
been read to its end and follows its topic's other partitions, so in every task it is the smaller of the two topics'
largest event times. A flight at p is settled iff p + window + grace < watermark. A landing at f labels it iff
0 <= f - p <= window; one that comes later corrects the record once f + grace < watermark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsample.demo.flights import Flights
from streamsample.records import Bools, Int64s


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of n flights: settled, explicit: bool[n], explicit only where settled. delay_ms: int64[n], how long after its
    scheduled departure each landed. corrected: bool[n], landed after the window, as is known by now. cancelled,
    never_landed, landed_late: why the settled flights that are not explicit are not.
    """

    watermark_ms: int
    settled: Bools
    explicit: Bools
    delay_ms: Int64s
    corrected: Bools
    cancelled: int
    never_landed: int
    landed_late: int

    @property
    def implicit(self) -> Bools:
        return self.settled & ~self.explicit


def expect(flights: Flights, window_ms: int, grace_ms: int) -> Expectation:
    """What becomes of `flights`."""
    watermark_ms = int(min(flights.scheduled.max(), flights.landed[flights.has_landing].max()))
    settled = flights.scheduled + window_ms + grace_ms < watermark_ms
    delay_ms = flights.landed - flights.scheduled
    decided = flights.landed + grace_ms < watermark_ms
    in_time = flights.has_landing & (delay_ms >= 0) & (delay_ms <= window_ms)
    implicit = settled & ~in_time
    return Expectation(
        watermark_ms=watermark_ms,
        settled=settled,
        explicit=settled & in_time,
        delay_ms=delay_ms,
        corrected=flights.has_landing & (delay_ms > window_ms) & decided,
        cancelled=int(np.count_nonzero(implicit & flights.cancelled)),
        never_landed=int(np.count_nonzero(implicit & ~flights.has_landing & ~flights.cancelled)),
        landed_late=int(np.count_nonzero(implicit & flights.has_landing)),
    )


@dataclass(frozen=True, slots=True)
class Check:
    """One number, as the dataset has it and as the demo found it."""

    name: str
    expected: int
    found: int

    @property
    def holds(self) -> bool:
        return self.expected == self.found
