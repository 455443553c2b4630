"""The thread that packs: order, bounds, failures. Events in place of time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from streamsample.kafka.packing import PackingThread
from streamsample.kafka.producer_seam import Deadline

LONG, SHORT = 10_000, 20


@pytest.fixture
def packing() -> Iterator[PackingThread]:
    thread = PackingThread("packing-test", 100)
    yield thread
    thread.close(Deadline(LONG))


class Gate:
    """Work that waits until it is opened."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.open.wait(LONG / 1000)


def test_pieces_are_done_in_order_beside_the_caller(packing: PackingThread) -> None:
    done: list[tuple[int, bool]] = []
    here = threading.get_ident()
    for number in range(50):
        assert packing.put(
            1, lambda number=number: done.append((number, threading.get_ident() == here)), Deadline(LONG)
        )
    assert packing.wait(Deadline(LONG))
    assert done == [(number, False) for number in range(50)]


def test_what_waits_is_bounded_but_one_piece_always_fits(packing: PackingThread) -> None:
    gate = Gate()
    assert packing.put(500, gate, Deadline(LONG))
    assert gate.begun.wait(LONG / 1000)
    assert not packing.put(1, lambda: None, Deadline(SHORT))
    assert not packing.wait(Deadline(SHORT))
    assert packing.failure is None
    gate.open.set()
    assert packing.put(60, lambda: None, Deadline(LONG))
    assert packing.put(40, lambda: None, Deadline(LONG))
    assert packing.wait(Deadline(LONG))


def test_after_a_failure_the_rest_is_dropped_until_it_is_cleared(packing: PackingThread) -> None:
    gate, done = Gate(), threading.Event()

    def fail() -> None:
        gate()
        raise ValueError("no")

    assert packing.put(1, fail, Deadline(LONG))
    assert packing.put(1, done.set, Deadline(LONG))
    gate.open.set()
    assert not packing.wait(Deadline(LONG))
    assert isinstance(packing.failure, ValueError)
    assert not packing.put(1, done.set, Deadline(LONG))
    assert packing.clear(Deadline(LONG))
    assert not done.is_set()
    assert packing.put(1, done.set, Deadline(LONG))
    assert packing.wait(Deadline(LONG))
    assert done.is_set()


def test_clear_drops_what_waits_and_tells_if_a_piece_is_still_in_hand(packing: PackingThread) -> None:
    gate, done = Gate(), threading.Event()
    assert packing.put(1, gate, Deadline(LONG))
    assert gate.begun.wait(LONG / 1000)
    assert packing.put(99, done.set, Deadline(LONG))
    assert not packing.clear(Deadline(SHORT))
    gate.open.set()
    assert packing.clear(Deadline(LONG))
    assert packing.wait(Deadline(LONG))
    assert not done.is_set()


def test_close_ends_the_thread() -> None:
    thread = PackingThread("packing-closed", 1)
    thread.close(Deadline(LONG))
    assert "packing-closed" not in {each.name for each in threading.enumerate()}
