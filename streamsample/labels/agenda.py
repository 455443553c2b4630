"""When the labels of rows must be looked at before and after their close: feedback takes effect, a rule's window ends.

Only joins have one that may give more than one record of a row, or one before its close. A look that changes nothing
writes nothing, so that an appointment too many does no harm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.labels.choice import certain_after
from streamsample.labels.matches import closes_ms
from streamsample.labels.runs import SortedRuns
from streamsample.labels.settings import JoinSettings
from streamsample.records import Bools, Int32s, Int64s


class Agenda:
    """Pairs of a time and a row's handle, taken out by time.

    Times are those at which something takes effect; the watermark must pass them by the grace.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self._runs = SortedRuns()
        uses, targets = settings.uses, settings.targets
        self._early = np.array([targets[use.target].early for use in uses], np.bool_)
        self._closes = np.array([closes_ms(settings, use) for use in uses], np.int64)
        self._certain = [
            sorted({int(after) for after, of in zip(certain_after(settings), uses, strict=True)
                    if of.target == use.target and 0 < after < targets[use.target].window_ms})
            if targets[use.target].early else []
            for use in uses
        ]  # fmt: skip
        looks = settings.emit_each or bool(self._early.any())
        self._closings = sorted({target.window_ms for target in targets} - {settings.window_ms}) if looks else []

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def touched(self) -> int:
        """What it has cost."""
        return self._runs.touched

    def on_rows(self, ts: Int64s, handles: Int32s | Int64s, now: int) -> None:
        """New rows (negative handles: none): look at them when their targets close, the last one excepted."""
        for window in self._closings:
            wanted = (handles >= 0) & (ts + window >= now)
            self._runs.add(ts[wanted] + window, handles[wanted].astype(np.int64))

    def on_matched(self, log: NDArray[Any], now: int) -> None:
        """Matched feedback, as LOGGED records: look at its rows when it takes effect, if that can be seen."""
        use = log["use"].astype(np.int64)
        early = self._early[use]
        seen: Bools = (log["at"] >= now) & (early | (log["at"] > log["row_ts"] + self._closes[use]))
        rows = log["row"].astype(np.int64)
        self._runs.add(np.ascontiguousarray(log["at"][seen]), rows[seen])
        for number in np.unique(use[early]):
            mine = use == number
            for after in self._certain[number]:
                times = log["row_ts"][mine] + after
                later = times >= np.maximum(log["at"][mine], now)
                self._runs.add(times[later], rows[mine][later])

    def take_before(self, now: int) -> tuple[Int64s, Int64s]:
        """What takes effect before `now`, in order of time."""
        return self._runs.take_before(now)

    def first(self) -> int | None:
        """The earliest."""
        return self._runs.first()

    def bytes_used(self) -> int:
        """Bytes of memory in use."""
        return 16 * len(self._runs)


def in_order(
    times: Int64s, handles: Int64s, ts: Int64s, offset: Int64s, index: NDArray[np.int16]
) -> tuple[Int64s, Int64s]:
    """Times and rows ordered by (time, ts, offset, index), each pair once."""
    order = np.lexsort((index, offset, ts, times))
    times, handles = times[order], handles[order]
    new = np.ones(len(times), np.bool_)
    new[1:] = (times[1:] != times[:-1]) | (handles[1:] != handles[:-1])
    return times[new], handles[new]
