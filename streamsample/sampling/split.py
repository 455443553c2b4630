"""Train, validation, test: a split by hash, so that a unit is on the same side for ever and in every job that shares
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamsample.hashing import hash64, salted, unit_interval
from streamsample.records import Spans


class Split:
    """Assign units to named parts by shares that add up to 1.

    The split has a salt of its own, so it is independent of a sample drawn with the same seed (B13).
    """

    def __init__(self, shares: Mapping[str, float], seed: int = 0) -> None:
        values = np.array(list(shares.values()), dtype=np.float64)
        if len(values) == 0 or (values < 0).any() or abs(float(values.sum()) - 1) > 1e-9:
            raise ValueError(f"the shares of a split must be >= 0 and add up to 1, found {dict(shares)}")
        self.names = tuple(shares)
        self._seed = salted(seed, "split")
        # Rounding may leave the last bound a hair below 1; every unit must fall somewhere.
        self._bounds = np.cumsum(values)[:-1]

    def assign(self, unit: Spans) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        """The part of each unit (n spans, no nulls), int8[n], as an index into `names`."""
        u = unit_interval(hash64(unit, self._seed))
        return np.searchsorted(self._bounds, u, side="right").astype(np.int8)
