"""Quota sampling: the first k records of each slice. Not random: π is null.

Each slice is as large as one wants it, but within a slice whoever comes first is taken (Cochran, Sampling Techniques,
3rd ed. 1977, section 5A.10). Slices have places as strata have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types

from streamsample.kernels import B1_OUT, I32, I64_OUT, kernel
from streamsample.sampling.sample import Sample, Stratum, not_random
from streamsample.sampling.strata import Places
from streamsample.sampling.units import Ids, spans_of


class Quota:
    """The first k records of each slice; the declared slices have places of their own, all others share `others`.

    >>> quota = Quota(k=1, slices=["IS", "DE"])
    >>> quota.take(["DE", "DE", "IS"]).position
    array([0, 2])
    """

    name = "quota"

    def __init__(self, k: int, slices: Sequence[str], others: int = 0) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}")
        self.k = k
        self.places = Places(slices, others)
        self._count = np.zeros(len(self.places), np.int64)

    @property
    def n(self) -> int:
        """Records seen."""
        return int(self._count.sum())

    def take(self, slices: Ids) -> Sample:
        """Those of the next n records that are taken, by the names of their slices.

        Raises ValueError for a slice that has no place.
        """
        place, begin = self.places.of(spans_of(slices)), self.n
        keep = np.empty(len(place), np.bool_)
        _fill(place, self.k, self._count, keep)
        named = zip(self.places.names, self._count.tolist(), strict=True)
        strata = [Stratum(name, n, self.k, np.nan) for name, n in named]
        return not_random(self.name, begin, keep, self.k, place, strata)


@kernel(types.void(I32, types.int64, I64_OUT, B1_OUT))
def _fill(place, k, count, keep):  # type: ignore[no-untyped-def]
    for row in range(len(place)):
        keep[row] = count[place[row]] < k
        count[place[row]] += 1
