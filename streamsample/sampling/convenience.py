"""Convenience sampling: the first k records that come. Not random: π is null.

Quick to look at, and biased by whatever decides who comes first. It cannot be merged: which of two parts came first is
not in their records.
"""

from __future__ import annotations

import numpy as np

from streamsample.sampling.sample import Sample, not_random


class Convenience:
    """The first k records.

    >>> convenience = Convenience(k=2)
    >>> sample = convenience.take(3)
    >>> sample.position, sample.probability
    (array([0, 1]), array([nan, nan]))
    """

    name = "convenience"

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}")
        self.k, self.n = k, 0

    def take(self, count: int) -> Sample:
        """Those of the next `count` records that are taken."""
        begin, self.n = self.n, self.n + count
        return not_random(self.name, begin, np.arange(begin, self.n) < self.k, self.k)
