"""The writing thread: order, bounds, failures. Events in place of time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from streamsample.kafka.producer_seam import Deadline
from streamsample.kafka.writer_thread import WriterThread

LONG, SHORT = 10_000, 20


@pytest.fixture
def writer() -> Iterator[WriterThread]:
    thread = WriterThread("writer-test", 100)
    yield thread
    thread.close(Deadline(LONG))


class Gate:
    """Work that waits until it is opened."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.open.wait(LONG / 1000)


def test_pieces_are_done_in_order_beside_the_caller(writer: WriterThread) -> None:
    done: list[tuple[int, bool]] = []
    here = threading.get_ident()
    for number in range(50):
        assert writer.put(1, lambda number=number: done.append((number, threading.get_ident() == here)), Deadline(LONG))
    assert writer.wait(Deadline(LONG))
    assert done == [(number, False) for number in range(50)]


def test_what_waits_is_bounded_but_one_piece_always_fits(writer: WriterThread) -> None:
    gate = Gate()
    assert writer.put(500, gate, Deadline(LONG))
    assert gate.begun.wait(LONG / 1000)
    assert not writer.put(1, lambda: None, Deadline(SHORT))
    assert not writer.wait(Deadline(SHORT))
    assert writer.failure is None
    gate.open.set()
    assert writer.put(60, lambda: None, Deadline(LONG))
    assert writer.put(40, lambda: None, Deadline(LONG))
    assert writer.wait(Deadline(LONG))


def test_after_a_failure_the_rest_is_dropped_until_it_is_cleared(writer: WriterThread) -> None:
    gate, done = Gate(), threading.Event()

    def fail() -> None:
        gate()
        raise ValueError("no")

    assert writer.put(1, fail, Deadline(LONG))
    assert writer.put(1, done.set, Deadline(LONG))
    gate.open.set()
    assert not writer.wait(Deadline(LONG))
    assert isinstance(writer.failure, ValueError)
    assert not writer.put(1, done.set, Deadline(LONG))
    assert writer.clear(Deadline(LONG))
    assert not done.is_set()
    assert writer.put(1, done.set, Deadline(LONG))
    assert writer.wait(Deadline(LONG))
    assert done.is_set()


def test_clear_drops_what_waits_and_tells_if_a_piece_is_still_in_hand(writer: WriterThread) -> None:
    gate, done = Gate(), threading.Event()
    assert writer.put(1, gate, Deadline(LONG))
    assert gate.begun.wait(LONG / 1000)
    assert writer.put(99, done.set, Deadline(LONG))
    assert not writer.clear(Deadline(SHORT))
    gate.open.set()
    assert writer.clear(Deadline(LONG))
    assert writer.wait(Deadline(LONG))
    assert not done.is_set()


def test_close_ends_the_thread() -> None:
    thread = WriterThread("writer-closed", 1)
    thread.close(Deadline(LONG))
    assert "writer-closed" not in {each.name for each in threading.enumerate()}
