"""Weighted and recency sampling: exact enumeration, unbiasedness, weights that are refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from streamsample.sampling import Recency, Weighted
from streamsample.sampling.ranks import Law, unusable
from tests.sampling.statistics import chi_square, critical, expansions, opened, samples, show, units, z_scores

WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0, 8.0, 0.5])
REPLICATES = 40_000


def draws(law: Law, k: int, merged: bool, seed: int) -> Any:
    """40,000 samples of six records, in one pass or merged from two parts that share one record."""
    weight = np.log(WEIGHTS) if law == "decayed" else WEIGHTS
    unit = units(REPLICATES, 6, seed).reshape(-1, 6)
    state = opened(law, k, REPLICATES)
    if not merged:
        show(state, unit, np.arange(6), weight)
        return state
    other = opened(law, k, REPLICATES)
    show(state, unit, np.array([0, 3, 5]), weight)
    show(other, unit, np.array([4, 1, 2, 3]), weight)
    every = np.arange(REPLICATES, dtype=np.int32)
    state.merge(every, other, every)
    return state


def chance_of_successive_draws(order: tuple[int, ...]) -> float:
    chance, left = 1.0, WEIGHTS.sum()
    for item in order:
        chance *= WEIGHTS[item] / left
        left -= WEIGHTS[item]
    return chance


def chance_under_priority(chosen: tuple[int, ...]) -> float:
    """P(the chosen have the smallest u/w): the density of their largest rank, integrated exactly piece by piece."""
    points, gauss = np.polynomial.legendre.leggauss(8)
    inside = np.isin(np.arange(6), chosen)
    ends = np.sort(np.r_[0.0, 1 / WEIGHTS])
    chance = 0.0
    for low, high in itertools.pairwise(ends):
        for t, part in zip((high - low) / 2 * points + (high + low) / 2, gauss * (high - low) / 2, strict=True):
            below = np.minimum(1, WEIGHTS * t)
            rest = np.prod(1 - below[~inside])
            for last in chosen:
                others = [item for item in chosen if item != last]
                chance += part * rest * np.prod(below[others]) * WEIGHTS[last] * (WEIGHTS[last] * t < 1)
    return float(chance)


@pytest.mark.parametrize("merged", [False, True], ids=["one_pass", "merged"])
@pytest.mark.parametrize("law", ["exponential", "decayed"])
def test_b5_exponential_ranks_are_successive_draws(law: Law, merged: bool) -> None:
    """The 30 ordered pairs by rank against enumeration: 29 degrees, α = 0.001, at least 160 expected of each."""
    pairs = samples(draws(law, 2, merged, seed=5), REPLICATES, 2)
    orders = list(itertools.permutations(range(6), 2))
    counts = np.bincount(pairs[:, 0] * 6 + pairs[:, 1], minlength=36)
    observed = np.array([counts[a * 6 + b] for a, b in orders])
    expected = REPLICATES * np.array([chance_of_successive_draws(order) for order in orders])
    assert chi_square(observed, expected) < critical(29)


@pytest.mark.parametrize("merged", [False, True], ids=["one_pass", "merged"])
def test_b5_priority_ranks_have_their_exact_chances(merged: bool) -> None:
    """The 20 subsets of three against integration: 19 degrees, α = 0.001."""
    drawn = np.sort(samples(draws("priority", 3, merged, seed=6), REPLICATES, 3), axis=1)
    subsets = list(itertools.combinations(range(6), 3))
    expected = np.array([chance_under_priority(subset) for subset in subsets])
    assert math.isclose(expected.sum(), 1, abs_tol=1e-9)
    codes = drawn @ [36, 6, 1]
    observed = np.array([(codes == np.dot(subset, [36, 6, 1])).sum() for subset in subsets])
    assert chi_square(observed, REPLICATES * expected) < critical(19)


@pytest.mark.parametrize("merged", [False, True], ids=["one_pass", "merged"])
@pytest.mark.parametrize("law", ["uniform", "exponential", "priority", "decayed"])
def test_b5_each_record_is_expected_once(law: Law, merged: bool) -> None:
    """E[I/π] = 1 for each of six records: |z| < 4.5 fails a right build once in 25,000 seeds."""
    weight = np.log(WEIGHTS) if law == "decayed" else WEIGHTS
    expanded, _ = expansions(draws(law, 4, merged, seed=7), REPLICATES, weight)
    assert (np.abs(z_scores(expanded, 1.0)) < 4.5).all()


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf, -math.inf])
def test_b11_weights_that_are_none_are_refused_by_index(value: float) -> None:
    weighted = Weighted(k=2)
    with pytest.raises(ValueError, match=r"found .* at index 1"):
        weighted.update(["a", "b", "c"], [1.0, value, 1.0])
    assert weighted.n == 0
    with pytest.raises(ValueError, match="at index 1"):
        Recency(k=2, half_life=1.0).update(["a", "b"], [0.0, 0.0], [1.0, value])
    assert unusable(np.array([0.0, 1.0, value])).tolist() == [False, False, True]


def test_b11_a_time_that_is_none_is_refused_by_index() -> None:
    with pytest.raises(ValueError, match="a time must be finite, found nan at index 1"):
        Recency(k=2, half_life=1.0).update(["a", "b"], [0.0, math.nan])


def test_b11_zero_is_never_sampled() -> None:
    for design in (Weighted(k=5), Weighted(k=5, law="priority")):
        design.update(range(10), np.arange(10) % 2)
        sample = design.sample()
        assert sample.position.tolist() == [1, 3, 5, 7, 9]
        assert sample.n == 10
        assert (sample.probability == 1).all()
    recency = Recency(k=3, half_life=1.0)
    recency.update(range(4), np.zeros(4), [0, 1, 0, 1])
    assert recency.sample().position.tolist() == [1, 3]


def test_recency_is_weighting_by_the_decayed_weight() -> None:
    time = np.linspace(0, 10, 500)
    weight = np.random.default_rng(1).exponential(1, 500)
    recency = Recency(k=40, half_life=2.0, seed=3, landmark=5.0)
    recency.update(range(500), time, weight)
    weighted = Weighted(k=40, seed=3)
    weighted.update(range(500), weight * 2.0 ** ((time - 5) / 2))
    left, right = recency.sample(), weighted.sample()
    assert (left.position == right.position).all()
    np.testing.assert_allclose(left.probability, right.probability, rtol=1e-12)


def test_recency_does_not_overflow_over_a_million_half_lives() -> None:
    recency = Recency(k=50, half_life=1.0, seed=3)
    recency.update(range(10_000), np.arange(10_000) * 100.0)
    sample = recency.sample()
    assert sample.position.min() > 9_940
    assert np.isfinite(sample.weight).all()
    assert ((sample.probability > 0) & (sample.probability <= 1)).all()


def test_recency_halves_the_chance_at_each_half_life() -> None:
    """Small chances follow the weights: of 20,000 young and as many one half-life older, 2/3 of 1,000; 4.5 σ."""
    recency = Recency(k=1_000, half_life=60.0, seed=3)
    recency.update(range(40_000), np.repeat([60.0, 0.0], 20_000))
    young = int((recency.sample().position < 20_000).sum())
    assert abs(young - 1_000 * 2 / 3) < 4.5 * math.sqrt(1_000 * 2 / 9)
