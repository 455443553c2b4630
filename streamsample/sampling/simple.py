"""Simple random sampling by rate: each unit is kept with the same probability, independently (Bernoulli sampling).

A record is kept iff u < rate. π = rate for every record, so the Horvitz-Thompson weight is 1/rate. Source: Särndal,
Swensson, Wretman, Model Assisted Survey Sampling (1992), section 3.2; the hash in place of a random draw makes it
repeatable and nested in the rate (B9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsample.records import Spans
from streamsample.sampling.design import Selection, unit_hash


@dataclass(frozen=True, slots=True)
class SimpleRate:
    """Keep each unit with probability `rate`, in (0, 1]."""

    rate: float
    seed: int = 0
    name: str = "simple"
    declared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be > 0 and <= 1, found {self.rate}")

    @property
    def largest_rate(self) -> float:
        return self.rate

    def decide(self, unit: Spans, stratum: Spans | None) -> Selection:
        """See `RateDesign.decide`; `stratum` is not looked at."""
        count = len(unit)
        return Selection(
            keep=unit_hash(unit, self.seed) < self.rate,
            probability=np.full(count, self.rate),
            declared=np.full(count, -1, np.int32),
        )
