"""The library's objects of fixed size: replay over any workers, merging, snapshots, ids of all kinds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.records import Spans
from streamsample.sampling import (
    ImportanceResample,
    Recency,
    Reservoir,
    Sample,
    StratifiedReservoir,
    Weighted,
    WithReplacement,
    draw,
)
from streamsample.sampling.units import hashes_of
from tests.sampling.statistics import chi_square, critical

WEIGHT = np.random.default_rng(1).exponential(1, 4_000)
STRATUM = np.array(["a", "b", "c", "rare"])[np.minimum(np.arange(4_000) % 40, 3)]
IDS = np.array([f"record-{number}" for number in range(4_000)])

Feed = Callable[[Any, np.ndarray[Any, Any], int], None]
"""Show a design some records, by their numbers, of one of four sources."""


def feed_ids(design: Any, rows: Any, source: int) -> None:
    design.update(IDS[rows], source=source, position=rows)


def feed_weight(design: Any, rows: Any, source: int) -> None:
    design.update(IDS[rows], WEIGHT[rows], source=source, position=rows)


def feed_time(design: Any, rows: Any, source: int) -> None:
    design.update(IDS[rows], rows / 100, WEIGHT[rows], source=source, position=rows)


def feed_stratum(design: Any, rows: Any, source: int) -> None:
    design.update(IDS[rows], STRATUM[rows], WEIGHT[rows], source=source, position=rows)


DESIGNS: dict[str, tuple[Callable[[], Any], Feed]] = {
    "reservoir": (lambda: Reservoir(k=50, seed=3), feed_ids),
    "exponential": (lambda: Weighted(k=50, seed=3), feed_weight),
    "priority": (lambda: Weighted(k=50, seed=3, law="priority"), feed_weight),
    "recency": (lambda: Recency(k=50, half_life=3.0, seed=3), feed_time),
    "each": (lambda: StratifiedReservoir(k=20, seed=3, strata=["a"], others=3), feed_stratum),
    "neyman": (lambda: StratifiedReservoir(k=60, seed=3, strata=["a"], others=3, allocation="neyman"), feed_stratum),
    "with_replacement": (lambda: WithReplacement(k=50, seed=3), feed_weight),
    "importance": (lambda: ImportanceResample(k=50, seed=3), feed_weight),
}
EVERY = pytest.mark.parametrize("name", DESIGNS)


def columns(sample: Sample) -> list[Any]:
    names = ("source", "position", "unit", "probability", "weight", "draws", "stratum")
    return [*(getattr(sample, name).tobytes() for name in names), sample.strata]


def of_source(source: int) -> Any:
    return np.arange(source, 4_000, 4)


def fed(name: str, sources: tuple[int, ...], *, twice: bool = False) -> Any:
    make, feed = DESIGNS[name]
    design = make()
    for source in sources:
        rows = of_source(source)
        for batch in np.array_split(rows, 7):
            feed(design, batch, source)
            if twice:
                feed(design, batch[-len(batch) // 10 :], source)
    return design


@EVERY
def test_b7_workers_assignments_orders_and_repetitions_give_the_same_bytes(name: str) -> None:
    whole = fed(name, (0, 1, 2, 3))
    assignments: list[list[tuple[int, ...]]] = [
        [(3, 1, 0, 2)],
        [(0, 1), (2, 3)],
        [(2, 0, 3), (1,)],
        [(0,), (1,), (2,), (3,)],
        [(), (3, 2), (2, 1, 0)],  # source 2 was moved, and read again from its beginning
    ]
    for assignment in assignments:
        for order in itertools.permutations(assignment):
            first, *others = (fed(name, sources, twice=True) for sources in order)
            for other in others:
                first.merge(other)
            assert columns(first.sample()) == columns(whole.sample())
            assert first.snapshot() == whole.snapshot()
            assert first.n == 4_000


@EVERY
def test_merging_again_and_with_an_older_state_changes_nothing(name: str) -> None:
    make, feed = DESIGNS[name]
    old, new = make(), make()
    feed(old, of_source(0)[:500], 0)
    feed(new, of_source(0)[:500], 0)
    feed(new, of_source(0)[500:], 0)
    before = new.snapshot()
    new.merge(old)
    new.merge(new)
    assert new.snapshot() == before
    old.merge(new)
    assert old.snapshot() == before


@EVERY
def test_b8_a_restored_design_goes_on_to_the_same_sample(name: str) -> None:
    make, feed = DESIGNS[name]
    design = fed(name, (0, 1))
    restored = make()
    restored.restore(design.snapshot())
    assert restored.snapshot() == design.snapshot()
    for each in (design, restored):
        feed(each, of_source(2), 2)
    assert columns(restored.sample()) == columns(design.sample())


@EVERY
def test_b14_damaged_and_foreign_snapshots_are_refused(name: str) -> None:
    make, _ = DESIGNS[name]
    data = bytearray(fed(name, (0,)).snapshot())
    with pytest.raises(StateError, match="cannot go on as"):
        WithReplacement(k=7).restore(bytes(data))
    data[len(data) // 2] ^= 1
    with pytest.raises(StateError, match="checksum"):
        make().restore(bytes(data))
    with pytest.raises(StateError, match="cut short"):
        make().restore(b"SSMP")


@EVERY
def test_what_is_held_covers_the_sample(name: str) -> None:
    design = fed(name, (0,))
    assert set(design.sample().position.tolist()) <= set(design.held().tolist())
    assert len(design.held()) < 4_000


@EVERY
def test_merging_other_parameters_is_refused(name: str) -> None:
    make, _ = DESIGNS[name]
    other = make()
    other.seed = 4
    with pytest.raises(ValueError, match="parameters differ"):
        make().merge(other)


@EVERY
def test_two_parts_under_one_source_are_refused(name: str) -> None:
    make, feed = DESIGNS[name]
    left, right = make(), make()
    feed(left, np.arange(0, 4_000, 2), 0)
    feed(right, np.arange(1, 4_000, 2), 0)
    before = left.snapshot()
    for one, other in ((left, right), (right, left)):
        with pytest.raises(ValueError, match="a source of its own"):
            one.merge(other)
    assert left.snapshot() == before


def test_the_classic_algorithm_r_draws_by_the_same_law() -> None:
    """Both draw 3 of 7: subsets by chi-square of homogeneity, 34 degrees, α = 0.001; 8,000 samples each."""
    subsets = {subset: index for index, subset in enumerate(itertools.combinations(range(7), 3))}
    classic = random.Random(1)
    counts = np.zeros((2, len(subsets)))
    for seed in range(8_000):
        reservoir = Reservoir(k=3, seed=seed)
        reservoir.update(range(7))
        counts[0, subsets[tuple(reservoir.sample().position.tolist())]] += 1
        drawn = [0, 1, 2]
        for item in range(3, 7):
            place = classic.randrange(item + 1)
            if place < 3:
                drawn[place] = item
        counts[1, subsets[tuple(sorted(drawn))]] += 1
    expected = counts.mean(axis=0)
    assert chi_square(counts, expected) < critical(len(subsets) - 1)


def test_b3_a_sample_may_be_taken_at_any_time() -> None:
    looked, alone = Reservoir(k=30, seed=1), Reservoir(k=30, seed=1)
    for begin in range(0, 1_000, 100):
        looked.update(range(begin, begin + 100))
        whole = Reservoir(k=30, seed=1)
        whole.update(range(begin + 100))
        assert columns(looked.sample()) == columns(whole.sample())
    alone.update(range(1_000))
    assert columns(looked.sample()) == columns(alone.sample())


def test_b9_a_larger_reservoir_keeps_the_smaller_one() -> None:
    small, large = Reservoir(k=10, seed=2), Reservoir(k=50, seed=2)
    for each in (small, large):
        each.update(IDS)
    assert set(small.sample().position) < set(large.sample().position)


@given(st.lists(st.text(max_size=8), max_size=30), st.integers(0, 2**64 - 1))
def test_ids_are_the_same_in_every_container(ids: list[str], seed: int) -> None:
    expected = hashes_of(Spans.of([item.encode() for item in ids]), seed).tolist()
    assert hashes_of(ids, seed).tolist() == expected
    assert hashes_of((item.encode() for item in ids), seed).tolist() == expected
    # Arrays of fixed width cannot hold the zeros at an end.
    if not any(item.endswith("\0") for item in ids):
        assert hashes_of(np.array(ids, str), seed).tolist() == expected
        assert hashes_of(np.array(ids, str).astype(object), seed).tolist() == expected


def test_integers_are_hashed_as_eight_bytes() -> None:
    expected = hashes_of([(7).to_bytes(8, "little"), (-1).to_bytes(8, "little", signed=True)], 3).tolist()
    assert hashes_of([7, -1], 3).tolist() == expected
    assert hashes_of(np.array([7, -1], np.int16), 3).tolist() == expected
    assert hashes_of(np.array([7, -1])[::1], 3).tolist() == expected
    assert hashes_of(np.arange(10)[::-1], 3).tolist() == hashes_of(list(range(9, -1, -1)), 3).tolist()


def test_ids_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"found 1\.5"):
        Reservoir(k=2).update([1.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="null at index 1"):
        Reservoir(k=2).update(Spans.of([b"a", None]))
    with pytest.raises(ValueError, match="one weight for each of 2"):
        Weighted(k=2).update(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="one position for each of 2"):
        Reservoir(k=2).update(["a", "b"], position=[1])


@EVERY
def test_a_sample_of_nothing_is_empty(name: str) -> None:
    sample = DESIGNS[name][0]().sample()
    assert (len(sample), sample.n) == (0, 0)
    assert sample.of([]) == []
    assert len(sample.threshold) == len(sample.u) == 0


def test_an_iterable_is_sampled_as_its_columns_are() -> None:
    rows = [(str(number), float(WEIGHT[number])) for number in range(4_000)] * 6
    drawn, sample = draw(iter(rows), Weighted(k=20, seed=5), weight=lambda row: row[1])
    columnar = Weighted(k=20, seed=5)
    columnar.update(range(len(rows)), np.tile(WEIGHT, 6))
    assert columns(columnar.sample()) == columns(sample)
    assert drawn == sample.of(rows)
    with pytest.raises(ValueError, match="shown other records before"):
        draw(rows, columnar)
    assert draw([], Reservoir(k=3))[0] == []
