"""What bottom-k keeps of a record, and what it has kept of a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Float64s
from streamsample.sampling.ranks import Law, probabilities

CANDIDATE = np.dtype(
    [
        ("rank", np.float64),
        ("unit", np.uint64),
        ("weight", np.float64),
        ("source", np.int64),
        ("position", np.int64),
        ("row", np.int64),
    ]
)
"""One candidate: its rank, the hash of its unit, its weight, its place in the stream, and a number of the caller's."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one group has kept, m records in the order of their ranks, and its threshold.

    records: structured array of `CANDIDATE`, a copy. threshold: τ. law: how ranks were made.
    """

    records: NDArray[np.void]
    threshold: float
    law: Law

    def __len__(self) -> int:
        return len(self.records)

    @property
    def probability(self) -> Float64s:
        """π of each, float64[m]."""
        return probabilities(self.law, np.full(len(self), self.threshold), self.records["weight"])

    def first(self, k: int) -> Candidates:
        """The sample of k units that would have been kept, had k been smaller from the beginning."""
        rank, unit = self.records["rank"], self.records["unit"]
        begins = np.ones(len(self), np.bool_)
        begins[1:] = (rank[1:] != rank[:-1]) | (unit[1:] != unit[:-1])
        starts = np.flatnonzero(begins)
        if len(starts) <= k:
            return self
        threshold = rank[starts[k]]
        return Candidates(self.records[rank < threshold], float(threshold), self.law)
