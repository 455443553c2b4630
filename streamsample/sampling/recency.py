"""Recency: the younger a record, the likelier, by forward decay; alone, or multiplied with a weight.

A record of weight w at time t counts w exp(λ (t - L)) for a landmark L, λ = ln 2 / half-life: relative to each other,
records fade by half in every half-life, whenever one looks, though no stored number ever changes (Cormode, Shkapenyuk,
Srivastava & Xu, "Forward decay: a practical time decay model for streaming systems", ICDE 2009). The ranks
are exponential, in logarithms, so that nothing overflows: log(-log1p(-u)) - log w - λ (t - L). With τ on that scale,
π = 1 - exp(-w exp(λ (t - L) + τ)).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from streamsample.sampling.fixed_size import FixedSize
from streamsample.sampling.ranks import decayed, numbers, weights
from streamsample.sampling.units import Ids, hashes_of


class Recency(FixedSize):
    """A sample of k units that favours the young.

    half_life: > 0, and landmark, in the unit of the times. The landmark is a number that all who merge must share; a
    float64 keeps λ (t - L) exactly enough while |t - L| is below some 10^9 half-lives, so let it be near the times (the
    begin of the window). It does not depend on the records, or the sample would depend on which came first.

    >>> recency = Recency(k=10, half_life=60.0, seed=7)
    >>> recency.update(range(10_000), time=np.arange(10_000.0))
    >>> bool(recency.sample().position.min() > 9_000)
    True
    """

    name = "recency"

    def __init__(
        self, k: int, half_life: float, seed: int = 0, *, landmark: float = 0.0, records_max: int | None = None
    ) -> None:
        if not (half_life > 0 and math.isfinite(half_life) and math.isfinite(landmark)):
            raise ValueError(f"half_life must be > 0 and finite, found {half_life} (landmark {landmark})")
        super().__init__(k, seed, "decayed", records_max=records_max)
        self.half_life, self.landmark = half_life, landmark

    def update(
        self,
        ids: Ids,
        time: ArrayLike,
        weight: ArrayLike | None = None,
        *,
        source: int = 0,
        position: ArrayLike | None = None,
    ) -> None:
        """Show n records of one source with their times, and their weights if they are not all the same.

        Raises ValueError, naming the first index, if a time is not finite or a weight is NaN, negative or infinite;
        then nothing was shown.
        """
        unit = hashes_of(ids, self.seed)
        when = numbers(time, len(unit), "time")
        if not np.isfinite(when).all():
            row = int(np.argmin(np.isfinite(when)))
            raise ValueError(f"a time must be finite, found {when[row]} at index {row}")
        size = None if weight is None else weights(weight, len(unit))
        eligible = None if size is None else size > 0
        self._show(unit, eligible, decayed(size, when - self.landmark, self.half_life), source, position)

    def _shape(self) -> tuple[object, ...]:
        return (*super()._shape(), self.half_life, self.landmark)
