"""Stratified samples of fixed size: bounded places, allocation, records in several strata, exact totals."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsample.sampling import Reservoir, StratifiedReservoir
from streamsample.sampling.allocation import allocate, standard_deviation
from streamsample.sampling.strata import Places
from streamsample.sampling.totals import Totals
from streamsample.sampling.units import spans_of
from tests.sampling.statistics import z_scores

NAMES = np.array(["a", "b", "c"])
OF = np.repeat([0, 1, 2], [700, 40, 3])
"""743 records: 700 of a, 40 of b, 3 of c."""


def sizes(reservoir: StratifiedReservoir) -> dict[str, int]:
    sample = reservoir.sample()
    return {stratum.name: int((sample.stratum == at).sum()) for at, stratum in enumerate(sample.strata)}


def test_b10_a_stratum_gives_the_smaller_of_n_and_k() -> None:
    reservoir = StratifiedReservoir(k=10, seed=1, strata=NAMES.tolist(), others=0)
    reservoir.update(range(743), NAMES[OF])
    assert sizes(reservoir) == {"a": 10, "b": 10, "c": 3}
    assert [stratum.n for stratum in reservoir.sample().strata] == [700, 40, 3]
    assert (reservoir.sample().probability[-3:] == 1).all()


def test_b10_each_stratum_is_a_reservoir_of_its_own() -> None:
    stratified = StratifiedReservoir(k=10, seed=1, strata=NAMES.tolist(), others=0)
    stratified.update(range(743), NAMES[OF])
    alone = Reservoir(k=10, seed=1)
    alone.update(np.arange(700))
    sample = stratified.sample()
    assert (sample.position[sample.stratum == 0] == alone.sample().position).all()
    assert (sample.probability[sample.stratum == 0] == alone.sample().probability).all()


@pytest.mark.parametrize("seed", range(5))
def test_b10_unseen_strata_share_places_whoever_comes_first(seed: int) -> None:
    names = [f"stratum {number}" for number in range(500)]
    order = np.random.default_rng(seed).permutation(500)
    reservoir = StratifiedReservoir(k=3, strata=["known"], others=8)
    reservoir.update([names[at] for at in order], [names[at] for at in order])
    usual = StratifiedReservoir(k=3, strata=["known"], others=8)
    usual.update(names, names)
    assert set(reservoir.sample().unit) == set(usual.sample().unit)
    assert len(reservoir.sample().strata) <= 8
    assert reservoir.memory_bytes() < 50_000
    assert all(stratum.name.startswith("(other ") for stratum in reservoir.sample().strata)


def test_b10_a_stratum_without_a_place_is_refused() -> None:
    reservoir = StratifiedReservoir(k=3, strata=["a"], others=0)
    with pytest.raises(ValueError, match=r"b'b' at index 1 is not declared"):
        reservoir.update([1, 2], ["a", "b"])
    with pytest.raises(ValueError, match="null"):
        reservoir.update([1], spans_of([b"a"]).take(np.array([0])).nulls(1))
    with pytest.raises(ValueError, match="say whose they are"):
        reservoir.update([1, 2], ["a"])
    with pytest.raises(ValueError, match="say whose they are"):
        reservoir.update([1, 2], ["a"], row=[2])
    assert reservoir.n == 0
    with pytest.raises(ValueError, match="declared twice"):
        Places(["a", "a"], 0)
    with pytest.raises(ValueError, match="a place for some stratum"):
        Places([], 0)


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [("proportional", {"a": 54, "b": 3, "c": 3}), ("equal", {"a": 29, "b": 28, "c": 3})],
)
def test_sizes_are_allocated_from_the_counts(allocation: str, expected: dict[str, int]) -> None:
    reservoir = StratifiedReservoir(
        k=60, seed=1, allocation=allocation, minimum=3, strata=NAMES.tolist(), others=0  # type: ignore[arg-type]
    )  # fmt: skip
    reservoir.update(range(743), NAMES[OF])
    assert sizes(reservoir) == expected


def test_neyman_allocates_by_the_variance_of_the_whole() -> None:
    value = np.where(OF == 0, np.arange(743) % 2, np.arange(743) % 2 * 40.0)
    reservoir = StratifiedReservoir(k=50, seed=1, allocation="neyman", strata=NAMES.tolist(), others=0)
    reservoir.update(range(743), NAMES[OF], value)
    spread = [statistics.stdev(value[at == OF]) * n for at, n in enumerate([700, 40, 3])]
    assert sizes(reservoir)["c"] == round(50 * spread[2] / sum(spread)) == 3
    assert abs(sizes(reservoir)["b"] - (50 - 3) * spread[1] / (spread[0] + spread[1])) <= 1
    assert sum(sizes(reservoir).values()) == 50
    with pytest.raises(ValueError, match="needs the value"):
        reservoir.update([1], ["a"])
    with pytest.raises(ValueError, match="found nan at index 1"):
        reservoir.update([1, 2], ["a", "a"], [1.0, math.nan])
    with pytest.raises(ValueError, match="its square too"):
        reservoir.update([1], ["a"], [1e200])


def test_an_allocated_stratum_has_the_threshold_of_its_own_size() -> None:
    reservoir = StratifiedReservoir(k=60, seed=1, allocation="proportional", strata=NAMES.tolist(), others=0)
    reservoir.update(range(743), NAMES[OF])
    sample = reservoir.sample()
    alone = Reservoir(k=sample.strata[0].k, seed=1)
    alone.update(np.arange(700))
    assert (sample.probability[sample.stratum == 0] == alone.sample().probability).all()


BOUNDED = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5), st.integers(0, 60)), min_size=1, max_size=8)


@given(st.integers(0, 200), BOUNDED)
def test_allocations_add_up_and_keep_their_bounds(total: int, strata: list[tuple[int, int, int]]) -> None:
    shares = [Fraction(share) for share, _, _ in strata]
    highest = [low + more for _, low, more in strata]
    lowest = [low for _, low, _ in strata]
    names = [f"{at}" for at in range(len(strata))]
    result = allocate(total, shares, lowest, highest, names)
    assert all(low <= given <= high for low, given, high in zip(lowest, result, highest, strict=True))
    assert sum(result) == min(max(total, sum(lowest)), sum(highest))
    turned = allocate(total, shares[::-1], lowest[::-1], highest[::-1], names[::-1])
    assert turned[::-1] == result


def test_rounding_is_by_largest_remainder_and_ties_by_name() -> None:
    shares = [Fraction(1)] * 3
    assert allocate(4, shares, [0] * 3, [9] * 3, ["b", "a", "c"]) == [1, 2, 1]
    assert allocate(10, [Fraction(6), Fraction(3), Fraction(2)], [0] * 3, [9] * 3, ["a", "b", "c"]) == [5, 3, 2]


def test_equal_numbers_have_no_spread() -> None:
    value = 0.1
    assert standard_deviation(3, 3 * Fraction(value), 3 * Fraction(value * value)) < 1e-8
    assert standard_deviation(1, Fraction(1), Fraction(1)) == 0


def test_b10_a_record_in_several_strata_is_included_once_with_its_largest_threshold() -> None:
    """E[I/π] = 1 for each of 40 records in one, two or no strata: |z| < 4.5 over 4,000 samples."""
    row = np.r_[np.arange(0, 30), np.arange(20, 36), [5]]
    strata = np.r_[["a"] * 30, ["b"] * 16, ["a"]]
    expanded = np.zeros((4_000, 40))
    for seed in range(4_000):
        reservoir = StratifiedReservoir(k=8, seed=seed, strata=["a", "b"], others=0)
        reservoir.update(range(40), strata, row=row)
        sample = reservoir.sample()
        assert len(set(sample.position)) == len(sample)
        expanded[seed, sample.position] = sample.weight
        tau = np.array([stratum.threshold for stratum in sample.strata])
        both = (sample.position >= 20) & (sample.position < 30)
        assert (sample.probability[both] == tau.max()).all()
    assert (expanded[:, 36:] == 0).all()
    assert (np.abs(z_scores(expanded[:, :36], 1.0)) < 4.5).all()
    assert [stratum.n for stratum in sample.strata] == [30, 16]
    # The next batch begins at position 40, after the records without strata too.
    reservoir.update(range(100, 1_100), ["a"] * 1_000)
    alone = Reservoir(k=8, seed=3_999)
    alone.update(range(100, 1_100), position=np.arange(40, 1_040))
    assert set(reservoir.sample().position[reservoir.sample().position >= 36]) <= set(alone.sample().position)
    assert reservoir.sample().position.max() >= 40


def test_b14_memory_is_bounded_over_ten_thousand_strata() -> None:
    """Half a million records over 10,000 strata, k = 10: no more than 2 k candidates of 48 bytes each, and a chunk."""
    reservoir = StratifiedReservoir(k=10, others=10_000)
    rng = np.random.default_rng(1)
    for begin in range(0, 500_000, 100_000):
        names = np.char.add("s", rng.integers(0, 50_000, 100_000).astype(str))
        reservoir.update(np.arange(begin, begin + 100_000), names)
    assert reservoir.memory_bytes() < 10_000 * (2 * 10 + 16) * 48 * 1.5
    sample = reservoir.sample()
    assert len(sample) == sum(min(stratum.n, 10) for stratum in sample.strata) > 80_000
    assert sample.n == 500_000


NUMBERS = st.lists(st.tuples(st.integers(0, 2), st.floats(allow_nan=False, allow_infinity=False)), max_size=40)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_totals_are_exact_in_any_order(numbers: list[tuple[int, float]], random: object) -> None:
    random.shuffle(numbers)  # type: ignore[attr-defined]
    totals = Totals(3, sums=1)
    group, value = (np.array(column) for column in zip(*numbers, strict=True)) if numbers else (np.zeros(0),) * 2
    rows = np.arange(len(numbers))
    for part in np.array_split(rows, 3):
        where = np.arange(len(part))
        totals.update(0, part, where, group[part].astype(np.int32), value[part].astype(np.float64))
    restored = Totals(3, sums=1)
    restored.from_arrays(totals.arrays())
    for each in range(3):
        exact = sum((Fraction(number) for of, number in numbers if of == each), Fraction(0))
        assert totals.sum_of(0, each) == restored.sum_of(0, each) == exact
        assert totals.counts()[each] == sum(of == each for of, _ in numbers)
