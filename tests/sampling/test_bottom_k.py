"""Bottom-k against a plain model of it, its laws, and uniform samples against what semantics.md section B says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.hashing import hash64_of_integers, unit_interval
from streamsample.sampling.bottom_k import BottomK
from tests.sampling.statistics import chi_square, critical, opened, samples, show, units, z_scores

ONE = np.array([0], np.int32)
Record = tuple[int, int, int]
"""Unit, source, position."""

RECORDS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 40)), max_size=150)


def state_of(records: list[Record], k: int, records_max: int | None = None) -> BottomK:
    state = BottomK(k, records_max=records_max)
    state.open()
    feed(state, records)
    return state


def feed(state: BottomK, records: list[Record]) -> None:
    unit, source, position = np.array(records, np.int64).reshape(-1, 3).T.copy()
    group = np.zeros(len(unit), np.int32)
    state.update(group, hash64_of_integers(unit, 0), np.ones(len(unit)), source, position, position)


def model(records: list[Record], k: int, records_max: int) -> tuple[list[Record], float]:
    """The sample by rank, and τ, as the definition has them."""
    distinct = sorted({(float(unit_interval(hash64_of_integers(np.array([r[0]]), 0))[0]), *r) for r in records})
    kept: list[tuple[float, int, int, int]] = []
    for index, (rank, unit) in enumerate(dict.fromkeys((r[0], r[1]) for r in distinct)):
        members = [r for r in distinct if r[1] == unit]
        if index == k or len(kept) + len(members) > records_max:
            return [r[1:] for r in kept], rank
        kept += members
    return [r[1:] for r in kept], math.inf


def content(state: BottomK, group: int = 0) -> tuple[NDArray[np.void], float]:
    candidates = state.candidates(group)
    return candidates.records, candidates.threshold


def same(left: BottomK, right: BottomK) -> bool:
    return left.snapshot() == right.snapshot()


@given(RECORDS, st.integers(2, 12), st.integers(0, 30))
def test_a_group_holds_what_the_definition_says(records: list[Record], k: int, more: int) -> None:
    held, threshold = content(state_of(records, k, k + more))
    expected, expected_threshold = model(records, k, k + more)
    hashes = hash64_of_integers(np.array([unit for unit, _, _ in expected], np.int64), 0)
    assert held["unit"].tolist() == hashes.tolist()
    assert held[["source", "position"]].tolist() == [(source, position) for _, source, position in expected]
    assert threshold == expected_threshold


@given(RECORDS, st.randoms(use_true_random=False))
def test_b7_order_and_repetition_do_not_matter(records: list[Record], random: object) -> None:
    again = [*records, *records[: len(records) // 10 + 1]]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert same(state_of(records, 5), state_of(again, 5))


@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_commutative_associative_idempotent(a: list[Record], b: list[Record], c: list[Record]) -> None:
    def merged(*parts: list[Record]) -> BottomK:
        first, *others = (state_of(part, 4) for part in parts)
        for other in others:
            first.merge(ONE, other, ONE)
        return first

    whole = state_of(a + b + c, 4)
    assert all(same(whole, merged(*order)) for order in itertools.permutations([a, b, c]))
    right = merged(b, c)
    left = state_of(a, 4)
    left.merge(ONE, right, ONE)
    assert same(whole, left)
    left.merge(ONE, right, ONE)
    again = BottomK(4)
    again.restore(left.snapshot())
    left.merge(ONE, again, ONE)
    assert same(whole, left)


@given(RECORDS, RECORDS)
def test_a_restored_state_goes_on_as_if_nothing_had_been(before: list[Record], after: list[Record]) -> None:
    state = state_of(before, 4)
    restored = BottomK(4)
    restored.restore(state.snapshot())
    assert same(state, restored)
    feed(state, after)
    feed(restored, after)
    assert same(state, restored)


@given(RECORDS, st.integers(2, 8))
def test_b9_a_smaller_k_keeps_a_part_of_the_larger(records: list[Record], k: int) -> None:
    cut = state_of(records, 8, 1000).candidates(0).first(k)
    small = state_of(records, k, 1000).candidates(0)
    assert (cut.records == small.records).all()
    assert cut.threshold == small.threshold


def test_b9_streams_sampled_by_the_same_unit_keep_the_same_units() -> None:
    """Every user has 1 to 5 clicks in one stream and one profile in the other; k counts users in both."""
    users = np.arange(2_000)
    clicks = np.repeat(users, users % 5 + 1)
    profiles = state_of([(int(user), 0, int(user)) for user in users], 100).candidates(0)
    kept = state_of([(int(user), 1, at) for at, user in enumerate(clicks)], 100, 1000).candidates(0)
    assert set(kept.records["unit"]) == set(profiles.records["unit"])
    assert kept.threshold == profiles.threshold
    assert len(kept) == sum((clicks == user).sum() for user in profiles.records["position"])


@pytest.mark.parametrize("k", [2, 3, 6])
def test_b1_all_subsets_are_equally_likely(k: int) -> None:
    """400 draws for each of C(8, k) subsets; α = 0.001. One subset 40 % too likely is seen, power 0.9."""
    subsets = list(itertools.combinations(range(8), k))
    replicates = 400 * len(subsets)
    state = opened("uniform", k, replicates)
    show(state, units(replicates, 8, seed=k).reshape(-1, 8), np.arange(8), np.ones(8))
    drawn = np.sort(samples(state, replicates, k), axis=1)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == len(subsets)
    assert chi_square(counts, 400.0) < critical(len(subsets) - 1)


def test_b2_position_does_not_matter() -> None:
    """|z| < 4.5 at 20 positions fails a right build once in 7,000 seeds; 30 or 20 % in place of 25 % is seen."""
    state = opened("uniform", 5, 4_000)
    show(state, units(4_000, 20, seed=2).reshape(-1, 20), np.arange(20), np.ones(20))
    counts = np.bincount(samples(state, 4_000, 5).ravel(), minlength=20)
    assert (np.abs(counts - 1_000) / math.sqrt(4_000 * 0.25 * 0.75) < 4.5).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_b3_at_any_time_it_is_a_sample_of_what_was_shown(n: int) -> None:
    """k = 3 of the first n, the others being shown afterwards; subsets by chi-square, α = 0.001."""
    subsets = list(itertools.combinations(range(n), min(n, 3)))
    replicates = 400 * len(subsets)
    unit = units(replicates, 8, seed=n).reshape(-1, 8)
    state, alone = opened("uniform", 3, replicates), opened("uniform", 3, replicates)
    show(state, unit, np.arange(n), np.ones(8))
    show(alone, unit, np.arange(n), np.ones(8))
    drawn = np.sort(samples(state, replicates, min(n, 3)), axis=1)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == len(subsets)
    if n > 3:
        assert chi_square(counts, 400.0) < critical(len(subsets) - 1)
    # Looking changes nothing.
    show(state, unit, np.arange(n, 8), np.ones(8))
    show(alone, unit, np.arange(n, 8), np.ones(8))
    assert same(state, alone)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "a_tenth_twice"])
@pytest.mark.parametrize("sizes", [(2, 8), (6, 8)], ids=str)
def test_b4_merging_is_exact_to_second_order(sizes: tuple[int, int], twice: bool) -> None:
    """Ordered pairs by rank, k = 2, 500 for each of 90 (182) pairs; α = 0.001.

    A merge that is right to first order only does not pass: see the next test.
    """
    n = sum(sizes)
    replicates = 500 * n * (n - 1)
    unit = units(replicates, n, seed=n).reshape(-1, n)
    parts = np.arange(sizes[0]), np.arange(sizes[0], n)
    states = [opened("uniform", 2, replicates) for _ in parts]
    for state, part in zip(states, parts, strict=True):
        show(state, unit, part, np.ones(n))
        if twice:
            show(state, unit, np.arange(0, n, 10), np.ones(n))
    every = np.arange(replicates, dtype=np.int32)
    states[0].merge(every, states[1], every)
    pairs = samples(states[0], replicates, 2)
    counts = np.bincount(pairs[:, 0] * n + pairs[:, 1], minlength=n * n).reshape(n, n)
    assert (np.diag(counts) == 0).all()
    assert chi_square(counts[~np.eye(n, dtype=bool)], 500.0) < critical(n * (n - 1) - 1)


@pytest.mark.parametrize("sizes", [(2, 8), (6, 8)], ids=str)
def test_b4_sees_a_merge_that_is_right_to_first_order_only(sizes: tuple[int, int]) -> None:
    """Each of two records comes from a part by its share, independently: every record is as likely as it should be."""
    n = sum(sizes)
    replicates = 500 * n * (n - 1)
    rng = np.random.default_rng(4)
    first = rng.integers(0, n, replicates)
    of = np.repeat([0, 1], sizes)
    share = np.where(rng.random(replicates) < sizes[0] / n, 0, 1)
    begin, size = np.array([0, sizes[0]])[share], np.array(sizes)[share]
    # The second is another record of its part.
    inside = (rng.integers(1, size) + first - begin) % size
    second = begin + np.where(of[first] == share, inside, rng.integers(0, size))
    counts = np.bincount(first * n + second, minlength=n * n).reshape(n, n)
    assert chi_square(counts[~np.eye(n, dtype=bool)], 500.0) > 2 * critical(n * (n - 1) - 1)


def test_b6_clusters_are_estimated_without_bias() -> None:
    """Units of 1 to 4 records, k = 5 of 12 units and at most 13 records: E[I/π] = 1 for each unit, |z| < 4."""
    sizes = np.array([1, 2, 3, 4] * 3)
    owner = np.repeat(np.arange(12), sizes)
    unit = units(20_000, 12, seed=6).reshape(-1, 12)
    state = BottomK(5, records_max=13)
    state.open(20_000)
    show(state, np.ascontiguousarray(unit[:, owner]), np.arange(len(owner)), np.ones(len(owner)))
    count, threshold, records = state.gather(np.arange(20_000, dtype=np.int32))
    inside = np.zeros((20_000, len(owner)))
    inside[np.repeat(np.arange(20_000), count), records["position"]] = 1
    expanded = inside / np.minimum(1, threshold)[:, None]
    assert (np.abs(z_scores(expanded, 1.0)) < 4).all()
    assert count.max() <= 13
    for member in range(12):
        assert (np.ptp(inside[:, owner == member], axis=1) == 0).all()


def test_b14_memory_is_what_open_groups_hold() -> None:
    state = BottomK(100)
    groups = state.open(10_000)
    rng = np.random.default_rng(1)
    assert state.memory_bytes() < 1_000_000
    few = rng.integers(0, 10_000, 30_000).astype(np.int32)
    place = np.arange(30_000)
    unit = hash64_of_integers(place, 0)
    state.update(few, unit, np.ones(30_000), place, place, place)
    assert state.memory_bytes() < 10_000 * 16 * 48 * 2
    for begin in range(0, 300_000, 30_000):
        unit = hash64_of_integers(place + begin, 0)
        state.update(few, unit, np.ones(30_000), place, place + begin, place)
    before = state.memory_bytes()
    for window in range(5):
        state.close(groups)
        groups = state.open(10_000)
        for begin in range(0, 300_000, 30_000):
            unit = hash64_of_integers(place + begin, window)
            state.update(groups[few], unit, np.ones(30_000), place, place + begin, place)
    assert state.memory_bytes() == before


def test_a_closed_group_begins_anew_under_its_old_number() -> None:
    state = state_of([(unit, 0, unit) for unit in range(50)], 3)
    other = state.open()
    state.close(ONE)
    assert state.open().tolist() == [0]
    assert content(state)[1] == math.inf
    assert len(content(state)[0]) == 0
    assert other.tolist() == [1]
    state.close(other)
    state.close(ONE)
    restored = BottomK(3)
    restored.restore(state.snapshot())
    assert restored.open(3).tolist() == state.open(3).tolist() == [0, 1, 2]


def test_rows_tell_what_the_caller_may_let_go() -> None:
    state = state_of([(unit, 0, unit) for unit in range(5_000)], 20)
    rows = state.rows()
    assert len(rows) < 100
    assert set(content(state)[0]["row"]) <= set(rows)
    state.renumber(np.arange(len(state.rows())) + 7)
    assert set(content(state)[0]["row"]) == set(range(7, 27))


@pytest.mark.parametrize("cut", [0, 1, 10, 40])
def test_b14_a_snapshot_that_is_cut_short_is_refused(cut: int) -> None:
    data = state_of([(unit, 0, unit) for unit in range(50)], 3).snapshot()
    with pytest.raises(StateError):
        BottomK(3).restore(data[:cut] if cut < 20 else data[:-cut])


@given(st.data())
def test_b14_a_damaged_snapshot_is_refused_and_changes_nothing(data: st.DataObject) -> None:
    state = state_of([(unit, 0, unit) for unit in range(20)], 3)
    snapshot = bytearray(state.snapshot())
    at = data.draw(st.integers(0, len(snapshot) - 1))
    snapshot[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StateError, match=r"sampling state"):
        state.restore(bytes(snapshot))
    assert same(state, state_of([(unit, 0, unit) for unit in range(20)], 3))


def test_b14_a_snapshot_of_another_k_is_refused() -> None:
    with pytest.raises(StateError, match="cannot go on as"):
        BottomK(4).restore(state_of([], 3).snapshot())


def test_k_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        BottomK(1)
    with pytest.raises(ValueError, match="records_max"):
        BottomK(5, records_max=4)
    with pytest.raises(ValueError, match="same k"):
        state_of([], 3).merge(ONE, state_of([], 4), ONE)
