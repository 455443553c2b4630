"""Event times in milliseconds, from numbers in the unit that the job states or from ISO 8601 text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from streamsample.formats.projection import Field, Projection
from streamsample.records import Bools, Int64s

YEAR_10000_MS: Final = 253_402_300_800_000
_YEAR_2000_S, _YEAR_2100_S = 946_684_800, 4_102_444_800
_PER_SECOND: Final[Mapping[str, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class TimeField:
    """Where the event time is: a column, and its unit (s, ms, us, ns: an integer; iso8601: text)."""

    path: str
    unit: str

    @property
    def field(self) -> Field:
        """The column that is read."""
        return Field(self.path, "text" if self.unit == "iso8601" else "integer")

    def read(self, projection: Projection) -> tuple[Int64s, Bools]:
        """Event times in ms, int64[n], -1 where they cannot be right; and where there is a value at all, bool[n].

        They cannot be right before 1970 and after 9999, nor in the weeks of 1970 in which a time of 2000 to 2100 lies
        that is read as if it were given in a unit 1000 times finer.
        """
        if self.unit == "iso8601":
            # Imported here: its kernel is compiled only for jobs that need it.
            from streamsample.runtime.iso8601 import milliseconds

            spans = projection.text(self.path)
            return _within(milliseconds(spans)), spans.size >= 0
        column = projection.integer(self.path)
        values = np.asarray(column.values, np.int64)
        if self.unit == "s":
            times = np.clip(values, -1, YEAR_10000_MS) * 1000
        else:
            times = values // (_PER_SECOND[self.unit] // 1000) if self.unit != "ms" else values
        shifted = (times >= _YEAR_2000_S) & (times < _YEAR_2100_S)
        return _within(np.where(shifted, -1, times) if shifted.any() else times), column.valid

    def advice(self, projection: Projection, row: int) -> str:
        """What is probably wrong with the value at `row`."""
        if self.unit == "iso8601":
            raw = projection.text(self.path)[row] or b""
            return f"{raw[:40]!r} is not a time with its offset, as 2013-01-01T00:00:00Z"
        value = int(projection.integer(self.path).values[row])
        fits = [unit for unit, per in _PER_SECOND.items() if _YEAR_2000_S <= value // per < _YEAR_2100_S]
        hint = f"; in {fits[0]} it would be: set unit: {fits[0]}" if fits and fits[0] != self.unit else ""
        return f"{value} in {self.unit} is not a time between the years 1970 and 9999{hint or '; is its unit right?'}"


def _within(times: Int64s) -> Int64s:
    good = (times >= 0) & (times < YEAR_10000_MS)
    return times if good.all() else np.where(good, times, -1)
