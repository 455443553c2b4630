"""The watermark of a task, as timelines of reads, silence and elapsed time."""

from __future__ import annotations

import pytest

from streamsample.errors import StateError
from streamsample.labels import Watermark
from streamsample.labels.watermark import MIN
from streamsample.records import TopicPartition

VIEWS, CLICKS = TopicPartition("views", 3), TopicPartition("clicks", 3)


def watermark(**idle_timeout_ms: int | None) -> Watermark:
    return Watermark([VIEWS, CLICKS], idle_timeout_ms)


def test_a4_it_is_the_minimum_over_all_sources_and_unknown_until_all_are_read() -> None:
    mark = watermark()
    assert (mark.value(), mark.held_by()) == (MIN, CLICKS)
    mark.on_read(VIEWS, 500, 1, 0)
    assert (mark.value(), mark.held_by()) == (MIN, CLICKS)
    mark.on_read(CLICKS, 300, 1, 0)
    assert (mark.value(), mark.held_by()) == (300, CLICKS)
    mark.on_read(CLICKS, 900, 2, 0)
    assert (mark.value(), mark.held_by()) == (500, VIEWS)


def test_a4_it_never_goes_back() -> None:
    mark = watermark()
    mark.on_read(VIEWS, 500, 1, 0)
    mark.on_read(CLICKS, 300, 1, 0)
    mark.on_read(CLICKS, 200, 2, 0)
    assert mark.value() == 300


def test_a7_a_batch_without_usable_records_moves_nothing() -> None:
    mark = watermark()
    mark.on_read(VIEWS, 500, 1, 0)
    mark.on_read(CLICKS, None, 9, 0)
    assert mark.value() == MIN


def test_a5_a_caught_up_silent_partition_follows_its_topic() -> None:
    mark = watermark()
    mark.on_read(VIEWS, 500, 1, 0)
    mark.on_read(CLICKS, 100, 1, 0)
    mark.follow("clicks", 400, 10)
    assert mark.value() == 100, "not caught up: something may lie unread"
    mark.set_caught_up(CLICKS, True, 10)
    mark.set_paused(CLICKS, True, 10)
    mark.follow("clicks", 400, 20)
    assert mark.value() == 100, "paused: its silence says nothing"
    mark.set_paused(CLICKS, False, 20)
    mark.follow("clicks", 400, 30)
    assert mark.value() == 400
    mark.follow("clicks", 350, 40)
    assert mark.value() == 400
    assert not mark.closed_by_idle


def test_a5_an_empty_partition_follows_too() -> None:
    mark = watermark()
    mark.on_read(VIEWS, 500, 1, 0)
    mark.set_caught_up(CLICKS, True, 0)
    mark.follow("clicks", 450, 0)
    assert mark.value() == 450
    assert mark.level_of(CLICKS) == 450


def test_a5_a_topic_silent_as_a_whole_holds_for_ever_without_a_timeout() -> None:
    mark = watermark(views=1000)
    mark.on_read(VIEWS, 5000, 1, 0)
    mark.on_read(CLICKS, 100, 1, 0)
    mark.set_caught_up(VIEWS, True, 0)
    mark.set_caught_up(CLICKS, True, 0)
    assert mark.advance(10**9) == 100
    assert mark.held_by() == CLICKS


def test_a5_with_a_timeout_it_advances_by_the_silent_time_beyond() -> None:
    mark = watermark(clicks=1000)
    mark.on_read(VIEWS, 5000, 1, 0)
    mark.on_read(CLICKS, 100, 1, 0)
    assert mark.advance(10_000) == 100, "not caught up"
    mark.set_caught_up(CLICKS, True, 10_000)
    assert mark.advance(11_000) == 100
    assert not mark.closed_by_idle
    assert mark.advance(11_250) == 350
    assert mark.closed_by_idle
    assert mark.value_without_idle == 100
    mark.set_caught_up(CLICKS, False, 11_250)
    mark.on_read(CLICKS, 120, 2, 11_260)
    assert mark.advance(12_000) == 350, "never back"
    mark.on_read(CLICKS, 400, 3, 12_000)
    assert mark.value() == 400
    assert not mark.closed_by_idle
    mark.set_caught_up(CLICKS, True, 12_000)
    assert mark.advance(10**6) == 5000, "bounded by the other source"


def test_a5_every_partition_of_the_topic_must_be_silent() -> None:
    other = TopicPartition("clicks", 4)
    mark = Watermark([CLICKS, other], {"clicks": 100})
    mark.on_read(CLICKS, 50, 1, 0)
    mark.on_read(other, 60, 1, 0)
    mark.set_caught_up(CLICKS, True, 0)
    assert mark.advance(1000) == 50
    mark.set_caught_up(other, True, 1000)
    assert mark.advance(1150) == 100


def test_a5_a_topic_never_read_has_no_time_to_advance() -> None:
    mark = watermark(clicks=10)
    mark.on_read(VIEWS, 500, 1, 0)
    mark.set_caught_up(CLICKS, True, 0)
    assert mark.advance(10**6) == MIN


def test_a8_what_is_too_far_ahead_is_paused_the_slowest_never() -> None:
    mark = watermark()
    assert mark.ahead(100) == set()
    mark.on_read(VIEWS, 1000, 1, 0)
    assert mark.ahead(100) == set(), "the first time read stands for what is unread"
    mark.on_read(VIEWS, 1101, 2, 0)
    assert mark.ahead(100) == {VIEWS}
    mark.on_read(CLICKS, 1001, 1, 0)
    assert mark.ahead(100) == set()
    mark.on_read(CLICKS, 2000, 1, 0)
    assert mark.ahead(100) == {CLICKS}
    assert mark.ahead(0) == {CLICKS}


def test_a13_it_is_restored_where_it_was() -> None:
    mark = watermark(clicks=0)
    mark.on_read(VIEWS, 5000, 1, 0)
    mark.on_read(CLICKS, 100, 1, 0)
    mark.set_caught_up(CLICKS, True, 0)
    assert mark.advance(70) == 170
    restored = watermark(clicks=0)
    restored.restore(mark.snapshot())
    assert (restored.value(), restored.value_without_idle) == (170, 100)
    assert restored.level_of(CLICKS) == 100
    restored.on_read(CLICKS, 300, 2, 0)
    assert restored.value() == 300
    with pytest.raises(StateError):
        restored.restore({"value": "x"})  # type: ignore[typeddict-item]


def test_a_restored_source_that_is_new_holds_it_back() -> None:
    mark = watermark()
    mark.on_read(VIEWS, 500, 1, 0)
    mark.on_read(CLICKS, 400, 1, 0)
    restored = Watermark([VIEWS, CLICKS, TopicPartition("orders", 3)], {})
    restored.restore(mark.snapshot())
    assert restored.value() == 400
    assert restored.held_by() == TopicPartition("orders", 3)
    restored.on_read(VIEWS, 900, 1, 0)
    restored.on_read(CLICKS, 900, 1, 0)
    assert restored.value() == 400
