"""Snowball sampling against its definition in plain Python, and what is kept of it between restarts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.sampling.frontier import Frontier
from streamsample.sampling.units import hashes_of

SEEDS = ["n0", "n1"]


def defined(relations: Sequence[tuple[int, int]], hops: int, most: int) -> tuple[list[int], int]:
    """By definition: of each relation the steps from a seed, 0 if it is not taken; and how many nodes were refused."""
    steps, refused, found = {0: 0, 1: 0}, 0, []
    for begin, end in relations:
        if steps.get(begin, hops) >= hops:
            found.append(0)
            continue
        found.append(steps[begin] + 1)
        if end in steps:
            steps[end] = min(steps[end], found[-1])
        elif len(steps) < most:
            steps[end] = found[-1]
        else:
            refused += 1
    return found, refused


def follow(frontier: Frontier, relations: Sequence[tuple[int, int]]) -> list[int]:
    ids = [hashes_of([f"n{pair[side]}" for pair in relations], 0) for side in (0, 1)]
    return list(frontier.follow(*ids)) if relations else []


def fresh(hops: int = 3, most: int = 20) -> Frontier:
    return Frontier(hashes_of(SEEDS, 0), hops, most)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=200),
    st.integers(1, 5),
    st.integers(2, 25),
    st.lists(st.integers(0, 40), min_size=1),
    st.data(),
)
@settings(deadline=None, max_examples=150)
def test_b12_a8_a_snowball_is_as_defined_however_batches_lie_and_whenever_it_restarts(
    relations: list[tuple[int, int]], hops: int, most: int, sizes: list[int], data: st.DataObject
) -> None:
    wanted, refused = defined(relations, hops, most)
    frontier, found, deltas, at, turn = fresh(hops, most), list[int](), list[bytes](), 0, 0
    while at < len(relations):
        size = sizes[turn % len(sizes)] + turn % 2
        found += follow(frontier, relations[at : at + size])
        at, turn = at + size, turn + 1
        if data.draw(st.booleans(), "whether older deltas go"):
            frontier.rewrite()
            assert frontier.changed == frontier.held
            deltas = []
        if data.draw(st.booleans(), "whether it is committed"):
            deltas.append(frontier.snapshot())
            assert frontier.changed == 0
            if data.draw(st.booleans(), "whether it is taken up elsewhere"):
                frontier = fresh(hops, most)
                frontier.restore(deltas)
                assert frontier.changed == 0
        elif not deltas:
            deltas.append(frontier.snapshot())
    assert found == wanted
    assert frontier.refused == refused
    assert len(frontier) <= most


def test_b14_a_frontier_is_bounded_and_a_delta_is_of_what_changed() -> None:
    frontier = fresh(hops=1_000, most=1_000)
    chain = [(number, number + 1) for number in range(100_000)]
    assert follow(frontier, chain)[:1_000] == [1, 1, *range(2, 1_000)]  # n1 is a seed itself
    assert (len(frontier), frontier.refused) == (1_000, 1)
    assert len(frontier.snapshot()) < 13_000
    assert len(frontier.snapshot()) < 100
    follow(frontier, [(0, 5)])  # a shorter way
    assert frontier.changed == 1
    assert len(frontier.snapshot()) < 110


def test_b14_damage_other_parameters_and_what_cannot_be_are_refused() -> None:
    frontier = fresh()
    follow(frontier, [(0, number) for number in range(2, 12)])
    data = frontier.snapshot()
    again = fresh()
    again.restore([data])
    assert len(again) == 12
    assert follow(again, [(5, 6), (77, 5)]) == [2, 0]
    for other in (fresh(hops=2), fresh(most=21), Frontier(hashes_of(["n0", "n9"], 0), 3, 20)):
        with pytest.raises(StateError, match="cannot go on"):
            other.restore([data])
    for damaged in (data[:-1], data[:20], data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(StateError):
            fresh().restore([damaged])
    second = fresh()
    follow(second, [(0, number) for number in range(20, 30)])
    with pytest.raises(StateError, match="no frontier of 20 within 3 steps"):
        fresh().restore([data, second.snapshot()])


def test_parameters_out_of_range_are_refused() -> None:
    for hops, most in ((0, 9), (1, 1)):
        with pytest.raises(ValueError, match="must be"):
            fresh(hops, most)
    assert len(Frontier(np.empty(0, np.uint64), 1, 1)) == 0
