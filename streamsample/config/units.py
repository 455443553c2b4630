"""Durations, sizes and moments as a job file writes them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

from streamsample.config.problems import Wrong

MS_OF = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
BYTES_OF = {
    "B": 1,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}

DURATION_PATTERN = r"^([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
SIZE_PATTERN = r"^[0-9]+ ?(B|KB|MB|GB|KiB|MiB|GiB)$"

DURATION_MS_MAX = 100 * 366 * MS_OF["d"]
"""No duration of a job is longer than a century: what is longer is a slip."""

_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_SIZE = re.compile(SIZE_PATTERN, re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(value: Any) -> int:
    """Milliseconds of `500ms`, `5s`, `30m`, `6h`, `7d`, `1w`, or of several, the largest unit first: `1h30m`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Wrong("a duration needs a unit", f'write "{value}s", "{value}ms", "{value}m" ... (ms, s, m, h, d, w)')
    if not isinstance(value, str):
        raise Wrong("must be a duration", 'such as "500ms", "5s", "30m", "6h", "7d"')
    text = value.strip()
    if not text or not _DURATION.match(text):
        hint = "whole numbers with ms, s, m, h, d or w, the largest unit first: 500ms, 5s, 1h30m"
        raise Wrong("is not a duration", hint)
    if len(text) > 60:
        raise Wrong("is too long a duration", "at most 100 years")
    # "ms" is matched before "m" and "s" because the unit is a whole run of letters.
    total = sum(int(count) * MS_OF[unit] for count, unit in re.findall(r"([0-9]+)([a-z]+)", text))
    if total > DURATION_MS_MAX:
        raise Wrong("is too long a duration", "at most 100 years")
    return total


def format_duration(ms: int) -> str:
    """The shortest way to write `ms` (>= 0) that `parse_duration` reads."""
    if ms == 0:
        return "0s"
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, ms = divmod(ms, MS_OF[unit])
        if count:
            text += f"{count}{unit}"
    return text


def parse_size(value: Any) -> int:
    """Bytes of `500KB`, `64MiB`, `1GB`: KB is 1000 bytes and KiB 1024."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Wrong("a size needs a unit", f'write "{value}B", "{value}KB" ... (B, KB, MB, GB, KiB, MiB, GiB)')
    if not isinstance(value, str) or not _SIZE.match(value.strip()) or len(value) > 30:
        raise Wrong("is not a size", "a whole number with B, KB, MB, GB, KiB, MiB or GiB: 500KB, 64MiB")
    found = re.findall(r"([0-9]+) ?([A-Za-z]+)", value)[0]
    total = int(found[0]) * BYTES_OF[found[1]]
    if total >= 1 << 50:
        raise Wrong("is too large a size", "at most 1024 TiB")
    return total


def format_size(count: int) -> str:
    """The shortest way to write `count` bytes that `parse_size` reads."""
    for unit in ("GiB", "GB", "MiB", "MB", "KiB", "KB"):
        if count and count % BYTES_OF[unit] == 0:
            return f"{count // BYTES_OF[unit]}{unit}"
    return f"{count}B"


def parse_moment(value: Any) -> int:
    """Milliseconds since the epoch: of an ISO 8601 time with a zone, of a date (midnight UTC), or as they are."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Wrong("is not a time", "write 2013-01-01T00:00:00Z, 2013-01-01 or milliseconds since 1970")
    text = str(value).strip()
    if re.fullmatch(r"-?[0-9]{1,30}", text, re.ASCII) and not re.fullmatch(r"[0-9]{8}", text):
        return _plausible_epoch_ms(int(text))
    try:
        # A date has no zone to forget, so it may stand alone; a time without one would mean two things.
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            day = date.fromisoformat(text)
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "write 2013-01-01T00:00:00Z, 2013-01-01 or milliseconds since 1970"
        raise Wrong("is not a time", hint) from None
    if moment.tzinfo is None:
        raise Wrong("is a time without a zone", "add Z for UTC, or an offset such as +02:00")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_text(moment_ms: int) -> str:
    """ISO 8601 in UTC, as short as it is exact."""
    text = (_EPOCH + timedelta(milliseconds=moment_ms)).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return text.removesuffix(".000") + "Z"


def _plausible_epoch_ms(ms: int) -> int:
    if ms < 0:
        raise Wrong("is before 1970", "a time is given in milliseconds since 1970, or as 2013-01-01T00:00:00Z")
    if 0 < ms < 100_000_000_000:
        raise Wrong("looks like seconds", f"milliseconds are wanted: {ms * 1000}")
    if ms >= 100_000_000_000_000:
        raise Wrong("looks like microseconds or nanoseconds", "milliseconds are wanted: 13 digits")
    return ms
