"""Times as ISO 8601 text: 2013-01-01T05:15:00.5-05:00, with a date, hours and minutes at least, and an offset or Z."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.kernels import I32, I64, I64_OUT, U8, inline, kernel
from streamsample.records import Int64s, Spans

_UNREADABLE: Final = -(1 << 62)


def milliseconds(texts: Spans) -> Int64s:
    """Milliseconds since 1970 of each of n texts, int64[n]; far below 0 where it is null or no such time."""
    times = np.empty(len(texts), np.int64)
    _read(*map(np.ascontiguousarray, (texts.buffer, texts.start, texts.size)), times)
    return times


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
