"""Draws with replacement and importance samples (B15)."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from streamsample.sampling import Importance, ImportanceResample, WithReplacement, mean, probability_ratios, total
from tests.sampling.statistics import chi_square, critical, z_scores

WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0, 8.0, 0.5])


def drawn(k: int, seed: int, *, merged: bool = False) -> WithReplacement:
    draws = WithReplacement(k=k, seed=seed)
    if not merged:
        draws.update(range(6), WEIGHTS)
        return draws
    other = WithReplacement(k=k, seed=seed)
    draws.update([0, 3, 5], WEIGHTS[[0, 3, 5]], source=1)
    other.update([4, 1, 2], WEIGHTS[[4, 1, 2]], source=2)
    draws.merge(other)
    return draws


@pytest.mark.parametrize("merged", [False, True])
def test_b15_draws_follow_the_law_of_random_choices(merged: bool) -> None:
    """50,000 draws against those of random.choices, by chi-square of homogeneity: 5 degrees, α = 0.001."""
    sample = drawn(50_000, 1, merged=merged).sample()
    ours = np.zeros(6)
    ours[sample.position if not merged else [[0, 3, 5], [4, 1, 2]][0] + [4, 1, 2]] = sample.draws
    classic = random.Random(1).choices(range(6), WEIGHTS.tolist(), k=50_000)
    counts = np.array([ours, np.bincount(classic, minlength=6)])
    assert chi_square(counts, counts.mean(axis=0)) < critical(5)
    assert chi_square(ours, 50_000 * WEIGHTS / WEIGHTS.sum()) < critical(5)


def test_b15_draws_are_independent() -> None:
    """Numbers of draws of each record over 10,000 samples of 2: the 21 outcomes, 20 degrees."""
    outcomes = np.zeros((6, 6))
    for seed in range(10_000):
        positions = np.repeat((sample := drawn(2, seed).sample()).position, sample.draws)
        outcomes[positions[0], positions[1]] += 1
    p = WEIGHTS / WEIGHTS.sum()
    upper = np.triu_indices(6)
    expected = (10_000 * np.outer(p, p) * (2 - np.eye(6)))[upper]
    assert chi_square(outcomes[upper], expected) < critical(20)


def test_b15_hansen_hurwitz_is_unbiased_and_its_intervals_cover() -> None:
    """3,000 samples of 100 draws from 300 records: |z| < 4; coverage within 4 standard errors of 95 %."""
    rng = np.random.default_rng(3)
    x = rng.gamma(4, 1, 300)
    weight = x * rng.uniform(0.5, 1.5, 300)
    subset = np.arange(300) % 4 > 0
    values, covered = np.empty((3_000, 2)), np.empty((3_000, 2))
    truth = np.array([x.sum(), x[subset].sum()])
    for seed in range(3_000):
        draws = WithReplacement(k=100, seed=seed)
        draws.update(range(300), weight)
        sample = draws.sample()
        assert sample.draws.sum() == 100
        y = x[sample.position]
        for at, found in enumerate((total(sample, y), total(sample, y, subset[sample.position]))):
            values[seed, at], covered[seed, at] = found.value, found.low <= truth[at] <= found.high
    assert (np.abs(z_scores(values, truth)) < 4).all()
    assert (np.abs(covered.mean(axis=0) - 0.95) < 0.016).all()


def test_b15_the_weight_is_mw_over_kw() -> None:
    sample = drawn(40, 5).sample()
    w = WEIGHTS[sample.position]
    np.testing.assert_allclose(sample.weight, sample.draws * WEIGHTS.sum() / (40 * w), rtol=1e-15)
    np.testing.assert_allclose(sample.probability, 1 - (1 - w / WEIGHTS.sum()) ** 40, rtol=1e-12)
    assert mean(sample, np.ones(len(sample))).value == 1


def test_b11_zero_is_never_drawn_and_nothing_is_drawn_of_nothing() -> None:
    draws = WithReplacement(k=5)
    draws.update(range(3), [0.0, 0.0, 0.0])
    assert len(draws.sample()) == 0
    draws.update(range(2), [0.0, 1.0])
    assert draws.sample().position.tolist() == [4]
    assert draws.sample().probability.tolist() == [1.0]
    assert draws.n == 5
    with pytest.raises(ValueError, match="found nan at index 0"):
        draws.update([1], [math.nan])


def test_b15_importance_weights_and_their_audit() -> None:
    rng = np.random.default_rng(1)
    actions = rng.choice(3, 60_000, p=[0.7, 0.2, 0.1])
    q, p = np.array([0.7, 0.2, 0.1])[actions], np.array([0.1, 0.3, 0.6])[actions]
    importance = Importance()
    sample = importance.take(range(60_000), p, q)
    np.testing.assert_allclose(sample.weight, p / q)
    assert abs(importance.mean_ratio - 1) < 0.05
    assert abs(mean(sample, actions).value - 1.5) < 0.03
    expected = (p / q).sum() ** 2 / ((p / q) ** 2).sum()
    assert math.isclose(importance.effective_sample_size, expected, rel_tol=1e-9)
    # What was sampled before, with π = 1/2, weighs twice.
    again = Importance().take(range(3), [0.1] * 3, [0.2] * 3, probability=[0.5] * 3)
    assert again.weight.tolist() == [1.0] * 3


def test_b15_missing_support_shows_in_the_mean_ratio() -> None:
    """The proposal never gives a third of the target."""
    importance = Importance()
    importance.take(range(1_000), [1 / 3] * 1_000, [1 / 2] * 1_000)
    assert math.isclose(importance.mean_ratio, 2 / 3)


def test_b15_a_resample_has_equal_weights_and_is_marked() -> None:
    """k = 20,000 draws: the mean of the target within 4.5 standard errors."""
    values = np.arange(50)
    target, proposal = np.full(50, 0.02), (values + 1) / 1275
    resample = ImportanceResample(k=20_000, seed=2)
    resample.update(values, probability_ratios(target, proposal))
    sample = resample.sample()
    assert sample.estimator == "self-normalised"
    assert (sample.weight == sample.draws).all()
    ratio = target / proposal
    centre = (ratio * values).sum() / ratio.sum()
    spread = math.sqrt((ratio * (values - centre) ** 2).sum() / ratio.sum() / 20_000)
    assert abs(mean(sample, values[sample.position]).value - centre) < 4.5 * spread
    with pytest.raises(ValueError, match="means, not totals"):
        total(sample, np.ones(len(sample)))


def test_b15_what_the_proposal_cannot_give_is_refused_by_index() -> None:
    with pytest.raises(ValueError, match=r"index 1 has target probability .* proposal probability 0"):
        probability_ratios([0.5, 0.5, 0.0], [0.5, 0.0, 0.0])
    assert probability_ratios([0.5, 0.0], [0.25, 0.0]).tolist() == [2.0, 0.0]
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"a target probability .* at index 1"):
            probability_ratios([0.5, wrong], [0.5, 0.5])
        with pytest.raises(ValueError, match=r"a proposal probability .* at index 0"):
            probability_ratios([0.5, 0.5], [wrong, 0.5])


def test_one_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        WithReplacement(k=1)
