"""The range of the past that a backfill replays: which predictions it looks at, and which of its records it writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from streamsample.config import Job
from streamsample.labels import JoinSettings
from streamsample.records import Bools, Int64s
from streamsample.runtime.source import Events


@dataclass(frozen=True, slots=True)
class Range:
    """Event times in ms. first, end: predictions in [first, end) are looked at, because records of the range may depend
    on them: they make others duplicates, or belong to the same window of a sample. from_ms, to_ms: those in [from_ms,
    to_ms) give records. finished_at: the watermark at which all of them have settled, and their late feedback is known.
    """

    first: int
    end: int
    from_ms: int
    to_ms: int
    finished_at: int

    def writes(self, ts: Int64s) -> Bools:
        """Of which of n predictions records are written, bool[n]."""
        chosen: Bools = (ts >= self.from_ms) & (ts < self.to_ms)
        return chosen


def range_of(job: Job, join: JoinSettings | None) -> Range | None:
    """The range that a job replays; None for the live job."""
    backfill = job.backfill
    if backfill is None:
        return None
    end = max((-(-backfill.to_ms // window_ms) * window_ms for window_ms in job.sample_windows), default=backfill.to_ms)
    held_ms = job.grace_ms if join is None else join.reach_ms + join.hold_ms
    return Range(int(job.start), end, backfill.from_ms, backfill.to_ms, end + held_ms + 1)


def dated_within(events: Events, start_ms: int | None, replayed: Range | None, counts: Counter[str]) -> Events:
    """The predictions of after the job's start, and of before the end of what a backfill looks at."""
    if start_ms is not None:
        events = _without(events, events.times < start_ms, "before_start", counts)
    if replayed is not None:
        events = _without(events, events.times >= replayed.end, "after_end", counts)
    return events


def _without(events: Events, wrong: Bools, name: str, counts: Counter[str]) -> Events:
    if not wrong.any():
        return events
    counts[name] += int(wrong.sum())
    return events.take(np.flatnonzero(~wrong))
