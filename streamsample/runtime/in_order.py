"""Predictions of several origins, brought into an order that does not depend on arrival (A2, A9).

Of two predictions with one id the first counts; where they come from different partitions, the first by event time,
then partition and offset. So those of a rekeyed input are held until all origins have come past them by the grace. What
is held is not in the state: it lies in the job's own topic, and a restart reads it there again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamsample.hashing import hash64
from streamsample.labels.watermark import MIN
from streamsample.runtime.places import places_of
from streamsample.runtime.source import Events


@dataclass(frozen=True, slots=True)
class _Part:
    """Events of the message at an offset of the job's own topic. first, last: their times."""

    offset: int
    events: Events
    first: int
    last: int


class InOrder:
    """Holds predictions until their time has come. released: the level up to which they were given out."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self._parts: list[_Part] = []
        self.released = MIN

    def hold(self, offset: int, events: Events, *, again: bool) -> None:
        """Take the events of a message. again: it was read before; what was given out then is not given again."""
        if again:
            events = events.take(np.flatnonzero(events.times + self._grace_ms >= self.released))
        self._add(offset, events)

    def release(self, level: int) -> Iterator[Events]:
        """Those that are older than `level`, to which all origins have come, by more than the grace."""
        self.released = max(self.released, level)
        before = self.released - self._grace_ms
        due: list[Events] = []
        parts, self._parts = self._parts, []
        for part in parts:
            if part.first >= before:
                self._parts.append(part)
            elif part.last < before:
                due.append(part.events)
            else:
                now = part.events.times < before
                due.append(part.events.take(np.flatnonzero(now)))
                self._add(part.offset, part.events.take(np.flatnonzero(~now)))
        return _in_order(due)

    def begins_at(self, position: int) -> int:
        """Where a restart must begin to read what is held, if `position` is what comes next."""
        return min((part.offset for part in self._parts), default=position)

    def _add(self, offset: int, events: Events) -> None:
        if len(events.rows):
            self._parts.append(_Part(offset, events, int(events.times.min()), int(events.times.max())))


def _in_order(due: list[Events]) -> Iterator[Events]:
    """All of these: of each id first the first by event time and place, then the second. The order of different ids is
    of no importance.
    """
    if not due:
        return
    hashes = np.concatenate([hash64(events.ids, 0) for events in due])
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    bounds = np.cumsum([0, *(len(events.rows) for events in due)])
    turn = np.zeros(len(hashes), np.int64)
    if len(twice):
        several = np.flatnonzero(np.isin(hashes, twice))
        times = np.concatenate([events.times for events in due])[several]
        places = np.concatenate([places_of(events.batch, events.rows) for events in due])[several]
        several = several[np.lexsort((places, times, hashes[several]))]
        first = np.flatnonzero(np.append(True, hashes[several][1:] != hashes[several][:-1]))
        turn[several] = np.arange(len(several)) - np.repeat(first, np.diff(first, append=len(several)))
    for now in range(int(turn.max()) + 1):
        for events, begin, end in zip(due, bounds, bounds[1:], strict=False):
            rows = np.flatnonzero(turn[begin:end] == now)
            if len(rows):
                yield events if len(rows) == len(events.rows) else events.take(rows)
