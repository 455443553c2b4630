"""Event times in milliseconds, from numbers in the unit that the job states or from ISO 8601 text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import types

from streamsample.formats.projection import Field, Projection
from streamsample.kernels import I32, I64, I64_OUT, U8, inline, kernel
from streamsample.records import Bools, Int64s

YEAR_10000_MS: Final = 253_402_300_800_000
_YEAR_2000_S, _YEAR_2100_S = 946_684_800, 4_102_444_800
_PER_SECOND: Final[Mapping[str, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_UNREADABLE: Final = -(1 << 62)


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
            spans = projection.text(self.path)
            times = np.empty(len(spans), np.int64)
            _read(np.ascontiguousarray(spans.buffer), np.ascontiguousarray(spans.start), spans.size.copy(), times)
            return _within(times), spans.size >= 0
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


@inline
def _number(buffer, at, digits, end):  # type: ignore[no-untyped-def]
    """The number of exactly so many digits, or -1."""
    if at + digits > end:
        return np.int64(-1)
    value = np.int64(0)
    for i in range(at, at + digits):
        if buffer[i] < 48 or buffer[i] > 57:
            return np.int64(-1)
        value = value * 10 + np.int64(buffer[i] - 48)
    return value


@inline
def _days(year, month, day):  # type: ignore[no-untyped-def]
    """Days since 1970. Source: Howard Hinnant, chrono-Compatible Low-Level Date Algorithms, days_from_civil."""
    y = year - (1 if month <= 2 else 0)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@inline
def _offset(buffer, at, end):  # type: ignore[no-untyped-def]
    """Minutes ahead of UTC: Z, +01:00, +0100 or +01; a large number if it is none of these."""
    if at + 1 == end and (buffer[at] == 90 or buffer[at] == 122):
        return np.int64(0)
    hours = _number(buffer, at + 1, 2, end)
    if at >= end or (buffer[at] != 43 and buffer[at] != 45) or hours < 0 or hours > 23:
        return np.int64(1 << 30)
    after = at + 3
    minutes = np.int64(0)
    if after < end:
        after += 1 if buffer[after] == 58 else 0
        minutes = _number(buffer, after, 2, end)
        if minutes < 0 or minutes > 59 or after + 2 != end:
            return np.int64(1 << 30)
    return (hours * 60 + minutes) * (-1 if buffer[at] == 45 else 1)


@inline
def _moment(buffer, at, end):  # type: ignore[no-untyped-def]
    """Milliseconds since 1970 of the text, or a number far below."""
    year, month, day = _number(buffer, at, 4, end), _number(buffer, at + 5, 2, end), _number(buffer, at + 8, 2, end)
    hour, minute = _number(buffer, at + 11, 2, end), _number(buffer, at + 14, 2, end)
    if min(year, month, day, hour, minute) < 0 or month < 1 or month > 12 or day < 1 or hour > 23 or minute > 59:
        return np.int64(_UNREADABLE)
    between = buffer[at + 10]
    if buffer[at + 4] != 45 or buffer[at + 7] != 45 or buffer[at + 13] != 58 or between not in (84, 116, 32):
        return np.int64(_UNREADABLE)
    following = _days(year + (1 if month == 12 else 0), month % 12 + 1, 1)
    days = _days(year, month, day)
    if days >= following:
        return np.int64(_UNREADABLE)
    at += 16
    second, fraction = np.int64(0), np.int64(0)
    if at < end and buffer[at] == 58:
        second = _number(buffer, at + 1, 2, end)
        if second < 0 or second > 59:
            return np.int64(_UNREADABLE)
        at += 3
        if at < end and (buffer[at] == 46 or buffer[at] == 44):
            at += 1
            first, weight = at, np.int64(100)
            while at < end and buffer[at] >= 48 and buffer[at] <= 57:
                fraction += weight * np.int64(buffer[at] - 48)
                weight //= 10
                at += 1
            if at == first:
                return np.int64(_UNREADABLE)
    ahead = _offset(buffer, at, end)
    if ahead >= 1 << 30:
        return np.int64(_UNREADABLE)
    return ((days * 24 + hour) * 60 + minute - ahead) * 60_000 + second * 1_000 + fraction


@kernel(types.void(U8, I64, I32, I64_OUT))
def _read(buffer, start, size, times):  # type: ignore[no-untyped-def]
    for row in range(len(times)):
        times[row] = _UNREADABLE if size[row] < 17 else _moment(buffer, start[row], start[row] + size[row])
