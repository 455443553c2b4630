from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.config.problems import Wrong
from streamsample.config.units import (
    DURATION_MS_MAX,
    format_duration,
    format_size,
    parse_duration,
    parse_moment,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("5s", 5_000),
        ("30m", 1_800_000),
        ("6h", 21_600_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("1h30m", 5_400_000),
        ("1m5ms", 60_005),
        ("0s", 0),
        (" 5s ", 5_000),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "value", [5, 1.5, True, None, "", "5", "5 s", "s", "-5s", "1.5h", "5x", "30m1h", "5s5s", "٣s", ["5s"], "200w" * 30]
)
def test_what_is_no_duration(value: Any) -> None:
    with pytest.raises(Wrong):
        parse_duration(value)


def test_a_bare_number_is_told_its_units() -> None:
    with pytest.raises(Wrong, match='a duration needs a unit - write "30s"'):
        parse_duration(30)


@pytest.mark.parametrize("text", ["101w" + "9" * 30 + "d", "9999999w", "9" * 5000 + "s"])
def test_too_long_a_duration(text: str) -> None:
    with pytest.raises(Wrong):
        parse_duration(text)


@given(st.integers(0, DURATION_MS_MAX))
@settings(max_examples=200)
def test_durations_come_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@given(st.integers(0, (1 << 50) - 1))
@settings(max_examples=200)
def test_sizes_come_back(count: int) -> None:
    assert parse_size(format_size(count)) == count


def test_sizes_of_both_kinds() -> None:
    assert [parse_size(text) for text in ("1KB", "1KiB", "2 MB", "1GiB", "7B")] == [1000, 1024, 2_000_000, 1 << 30, 7]


@pytest.mark.parametrize("value", [5, "5", "5kb", "1.5GB", "-1B", "", None, "9999999999GB"])
def test_what_is_no_size(value: Any) -> None:
    with pytest.raises(Wrong):
        parse_size(value)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("2013-01-01T00:00:00Z", 1_356_998_400_000),
        ("2013-01-01", 1_356_998_400_000),
        (1_356_998_400_000, 1_356_998_400_000),
        ("1356998400000", 1_356_998_400_000),
        ("2013-01-01T02:00:00.5+02:00", 1_356_998_400_500),
        (0, 0),
    ],
)
def test_moments(value: Any, ms: int) -> None:
    assert parse_moment(value) == ms


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2013-01-01T00:00:00", "without a zone"),
        (1_356_998_400, "looks like seconds - .*: 1356998400000"),
        (1_356_998_400_000_000, "looks like micro"),
        (-5, "before 1970"),
        ("soon", "not a time"),
        (True, "not a time"),
        ("2013-13-01", "not a time"),
        (None, "not a time"),
    ],
)
def test_what_is_no_moment(value: Any, words: str) -> None:
    with pytest.raises(Wrong, match=words):
        parse_moment(value)
