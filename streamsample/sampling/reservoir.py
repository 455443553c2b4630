"""Reservoir sampling: k units of any stream, every k of them equally likely.

The k units of smallest u. With τ the (k+1)-th smallest u, π = min(1, τ), and 1 while n <= k. The law is that of
Algorithm R (Vitter, ACM TOMS 11(1), 1985), which draws anew at each record and cannot be merged or repeated; that of
ranks is Fan, Muller & Rezucha, JASA 57 (1962).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from streamsample.sampling.fixed_size import FixedSize
from streamsample.sampling.units import Ids, hashes_of


class Reservoir(FixedSize):
    """A uniform sample of k units, with all of their records, of which at most `records_max` are held (default 4 k).

    >>> reservoir = Reservoir(k=100, seed=7)
    >>> reservoir.update(range(5_000))
    >>> reservoir.update(range(5_000, 10_000))
    >>> sample = reservoir.sample()
    >>> len(sample), sample.n
    (100, 10000)
    >>> from streamsample.sampling import mean
    >>> estimate = mean(sample, sample.position)  # of a value for each sampled record: here its number
    >>> estimate.low < 4_999.5 < estimate.high
    True

    Parts of a stream may be sampled apart, and merged:

    >>> left, right = Reservoir(k=100, seed=7), Reservoir(k=100, seed=7)
    >>> left.update(range(5_000), source=1)
    >>> right.update(range(5_000, 10_000), source=2)
    >>> left.merge(right)
    >>> set(left.sample().unit) == set(sample.unit)
    True
    """

    name = "reservoir"

    def __init__(self, k: int, seed: int = 0, *, records_max: int | None = None) -> None:
        super().__init__(k, seed, "uniform", records_max=records_max)

    def update(self, ids: Ids, *, source: int = 0, position: ArrayLike | None = None) -> None:
        """Show n records of one source by the ids of their units; `position`, int64[n], if it is not their ordinal."""
        unit = hashes_of(ids, self.seed)
        self._show(unit, None, np.ones(len(unit)), source, position)
