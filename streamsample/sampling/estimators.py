"""Estimates from a sample of what the whole would give, with their variances and normal intervals.

Horvitz & Thompson (JASA 47, 1952): a total is Σ x/π over the sample. With π conditioned on the threshold the terms of
different units are uncorrelated (Cohen & Kaplan, PODC 2007; k >= 2), so its variance is estimated by Σ x² (1-π)/π².
Records that share a unit share its u: they are in or out together, and count as one x; where their π differ (several
strata) the pair (i, j) adds x_i x_j (1 - max(π_i, π_j)) / (π_i π_j).

Hájek (1971): a mean is Σ (x/π) / Σ (1/π), with the variance of the total of (x - mean) over the estimated count,
squared. Hansen & Hurwitz (Ann. Math. Stat. 14, 1943), for k draws with replacement: a total is the mean over draws of
x W/w, its variance that of these over k.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from streamsample.records import Bools, Float64s
from streamsample.sampling.sample import Sample

_Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """An estimate, its estimated variance, and the ends of the normal interval of 95 %."""

    value: float
    variance: float

    @property
    def low(self) -> float:
        return self.value - _Z95 * math.sqrt(self.variance)

    @property
    def high(self) -> float:
        return self.value + _Z95 * math.sqrt(self.variance)


def total(sample: Sample, values: ArrayLike, where: Bools | None = None) -> Estimate:
    """The total of x over all records, or over the subset where a condition holds.

    values: x of each sampled record, float64[m]; where: bool[m]. Raises ValueError if the sample is not random, or its
    weights are known up to a factor only.

    >>> from streamsample.sampling import Reservoir
    >>> reservoir = Reservoir(k=400, seed=1)
    >>> reservoir.update(range(10_000))
    >>> sample = reservoir.sample()
    >>> even = total(sample, np.ones(len(sample)), where=sample.position % 2 == 0)
    >>> even.low < 5_000 < even.high
    True
    """
    _refuse_null(sample)
    if sample.estimator == "self-normalised":
        raise ValueError(f"a sample of design {sample.design!r} estimates means, not totals: its scale is not known")
    x = _values(sample, values, where)
    return Estimate(float((sample.weight * x).sum()), _variance_of_total(sample, x))


def mean(sample: Sample, values: ArrayLike, where: Bools | None = None) -> Estimate:
    """The mean of x over all records, or over the subset where a condition holds: a ratio of two totals.

    values: x of each sampled record, float64[m]; where: bool[m]. Slightly biased, by O(1/m). Raises ValueError if the
    sample is not random, or holds no record of the subset.
    """
    _refuse_null(sample)
    x, ones = _values(sample, values, where), _values(sample, np.ones(len(sample)), where)
    count = float((sample.weight * ones).sum())
    if count == 0:
        raise ValueError("no sampled record is in the subset: its mean cannot be estimated")
    centre = float((sample.weight * x).sum()) / count
    return Estimate(centre, _variance_of_total(sample, x - centre * ones) / count**2)


def effective_sample_size(sample: Sample) -> float:
    """How many records of equal weights would tell a mean as well: (Σ weight)² / Σ weight² (Kish, 1965).

    0 for an empty sample. Raises ValueError if the sample is not random.
    """
    _refuse_null(sample)
    weight = sample.weight
    return float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0


def _refuse_null(sample: Sample) -> None:
    if not sample.random:
        raise ValueError(
            f"a sample of design {sample.design!r} is not random: its inclusion probabilities are null, and nothing "
            "about other records can be estimated from it"
        )


def _values(sample: Sample, values: ArrayLike, where: Bools | None) -> Float64s:
    x = np.asarray(values, np.float64)
    if x.shape != (len(sample),):
        raise ValueError(f"values must have one element for each of {len(sample)} records, found shape {x.shape}")
    return x if where is None else np.where(where, x, 0.0)


def _variance_of_total(sample: Sample, x: Float64s) -> float:
    expanded = sample.weight * x
    if sample.estimator == "hansen-hurwitz":
        of_a_draw = sample.k * expanded / sample.draws
        return float((sample.draws * (of_a_draw - expanded.sum()) ** 2).sum() / (sample.k * (sample.k - 1)))
    if sample.estimator == "self-normalised":
        return float((expanded**2).sum())
    # Within a unit, in the order of π, each record meets those before it, whose π are no larger than its own.
    order = np.lexsort((sample.probability, sample.unit))
    unit, probability, expanded = sample.unit[order], sample.probability[order], expanded[order]
    begins = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]]) if len(unit) else np.empty(0, np.int64)
    before = np.cumsum(expanded) - expanded
    before -= np.repeat(before[begins], np.diff(np.r_[begins, len(unit)]))
    return float(((1 - probability) * expanded * (expanded + 2 * before)).sum())
