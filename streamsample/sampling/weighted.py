"""Weighted sampling without replacement: heavier records are likelier, and their weights say how much.

exponential: the k smallest of -log1p(-u)/w. The order of the sample is that of successive draws without replacement,
each with probability proportional to w (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 97(5),
2006). π = 1 - exp(-wτ). For learning from a sample that follows the weights.

priority: the k smallest of u/w, with π = min(1, wτ): nearly the smallest variance of subset sums of w that any sample
of k + 1 records has (Duffield, Lund & Thorup, J. ACM 54(6), 2007; Szegedy, STOC 2006). For estimating totals.
"""

from __future__ import annotations

from typing import Literal

from numpy.typing import ArrayLike

from streamsample.sampling.fixed_size import FixedSize
from streamsample.sampling.ranks import weights
from streamsample.sampling.units import Ids, hashes_of


class Weighted(FixedSize):
    """A sample of k units, by weight.

    >>> weighted = Weighted(k=50, seed=7, law="priority")
    >>> import numpy as np
    >>> sizes = np.arange(1.0, 1_001.0)
    >>> weighted.update(range(1_000), sizes)
    >>> sample = weighted.sample()
    >>> from streamsample.sampling import total
    >>> estimate = total(sample, sizes[sample.position])  # the sum of all sizes is 500,500
    >>> estimate.low < 500_500 < estimate.high
    True
    """

    name = "weighted"

    def __init__(
        self,
        k: int,
        seed: int = 0,
        *,
        law: Literal["exponential", "priority"] = "exponential",
        records_max: int | None = None,
    ) -> None:
        super().__init__(k, seed, law, records_max=records_max)

    def update(self, ids: Ids, weight: ArrayLike, *, source: int = 0, position: ArrayLike | None = None) -> None:
        """Show n records of one source with their weights, >= 0; one of weight 0 is counted, and never sampled.

        Raises ValueError, naming the first index, if a weight is NaN, negative or infinite; then nothing was shown.
        """
        unit = hashes_of(ids, self.seed)
        size = weights(weight, len(unit))
        self._show(unit, size > 0, size, source, position)
