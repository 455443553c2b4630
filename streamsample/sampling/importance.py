"""Importance sampling: records that were drawn from Q, weighted to speak of P.

A record's weight is (P/Q)/π, π being its inclusion probability where it was sampled again. It is known up to a factor
(P or Q need not be normalised), so estimates are self-normalised: Σ weight x / Σ weight, consistent, with a bias of
O(1/n) (Owen, Monte Carlo theory, methods and examples, 2013, chapter 9). Where P and Q are normalised and Q covers P,
mean(P/Q) is 1: a value far from it is the only sign of records that P has and Q can never give.

kept: `Importance` weighs all records. resampled: `ImportanceResample` draws k of them with probability proportional to
P/Q, of equal weight each (Rubin 1987, sampling importance resampling): consistent, not unbiased.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from streamsample.records import Float64s
from streamsample.sampling.ranks import numbers, weights
from streamsample.sampling.replacement import WithReplacement
from streamsample.sampling.sample import Sample, Stratum
from streamsample.sampling.totals import Totals
from streamsample.sampling.units import Ids, hashes_of


def probability_ratios(target: ArrayLike, proposal: ArrayLike) -> Float64s:
    """P/Q of n records, float64[n], from P and Q >= 0 (probabilities or densities, float64[n]).

    0 where P is. Raises ValueError, naming the first index, if P or Q is negative or not finite, or Q = 0 where P > 0.
    """
    q = np.asarray(proposal, np.float64)
    p = numbers(target, len(q), "target probability")
    for name, values in (("target", p), ("proposal", q)):
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"a {name} probability must be a finite number >= 0, found {values[row]} at index {row}")
    impossible = (q == 0) & (p > 0)
    if impossible.any():
        row = int(np.argmax(impossible))
        raise ValueError(
            f"the record at index {row} has target probability {p[row]} and proposal probability 0: it cannot "
            "have been drawn from the proposal"
        )
    return np.divide(p, q, out=np.zeros(len(p)), where=p > 0)


class Importance:
    """Keep every record, with its weight; what is held is three sums.

    >>> importance = Importance()
    >>> sample = importance.take(["a", "b"], target=[0.5, 0.5], proposal=[0.8, 0.2])
    >>> sample.weight
    array([0.625, 2.5  ])
    >>> importance.mean_ratio
    1.5625
    """

    name = "importance"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._totals = Totals(1, sums=2)

    def take(
        self,
        ids: Ids,
        target: ArrayLike,
        proposal: ArrayLike,
        probability: ArrayLike | None = None,
        *,
        source: int = 0,
        position: ArrayLike | None = None,
    ) -> Sample:
        """The n records of one batch as a sample. probability: π of each, if they were sampled before.

        Raises ValueError as `probability_ratios` does.
        """
        unit = hashes_of(ids, self.seed)
        n = len(unit)
        ratio = weights(probability_ratios(target, proposal), n)
        pi = np.ones(n) if probability is None else numbers(probability, n, "probability")
        place, group = self._totals.positions(n, source, position), np.zeros(n, np.int32)
        weight = ratio / pi
        self._totals.update(source, place, np.arange(n), group, weight, weight * weight)
        columns = (np.full(n, source), place, unit, pi, weight, np.ones(n, np.int64), group)
        return Sample(self.name, "self-normalised", *columns, (Stratum("", self.n, self.n, np.inf),))

    @property
    def n(self) -> int:
        """Records seen."""
        return int(self._totals.counts()[0])

    @property
    def mean_ratio(self) -> float:
        """Mean of (P/Q)/π over all records: of P/Q where none was sampled before. NaN of none."""
        return float(self._totals.sum_of(0, 0) / self.n) if self.n else np.nan

    @property
    def effective_sample_size(self) -> float:
        """(Σ weight)² / Σ weight² over all records. 0 of none."""
        squares = self._totals.sum_of(1, 0)
        return float(self._totals.sum_of(0, 0) ** 2 / squares) if squares else 0.0


class ImportanceResample(WithReplacement):
    """k draws with probability proportional to P/Q; give `probability_ratios` as the weights.

    The sample's weight of a record is its number of draws. Variances are those of the draws, the records being given.

    >>> resample = ImportanceResample(k=100, seed=7)
    >>> resample.update(range(2), probability_ratios([0.5, 0.5], [0.8, 0.2]))
    >>> float(resample.sample().weight.sum())
    100.0
    """

    name = "importance-resampled"

    def sample(self) -> Sample:
        drawn = super().sample()
        equal = drawn.draws.astype(np.float64)
        return replace(drawn, estimator="self-normalised", weight=equal)
