"""What all designs by rate share: the decision and what it says of each record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamsample.hashing import hash64, unit_interval
from streamsample.records import Bools, Float64s, Int32s, Spans


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision on n records.

    keep: bool[n]. probability: float64[n], the inclusion probability of each record, kept or not. declared: int32[n],
    the index of the record's stratum among the design's `declared` strata, -1 for any other (and where there are no
    strata).
    """

    keep: Bools
    probability: Float64s
    declared: Int32s


class RateDesign(Protocol):
    """A design that keeps each unit by a known rate: no state, and π is known when the record is drawn."""

    @property
    def name(self) -> str:
        """What the job file calls the design."""

    @property
    def seed(self) -> int:
        """The key of the hash."""

    @property
    def declared(self) -> tuple[str, ...]:
        """The strata with a rate of their own, in the order of the job file; empty where the design has no strata."""

    @property
    def largest_rate(self) -> float:
        """No unit whose `u` is at or above this is ever kept."""

    def decide(self, unit: Spans, stratum: Spans | None) -> Selection:
        """Decide on n records by their units (n spans, no nulls) and strata (n spans, no nulls, or None)."""


def unit_hash(unit: Spans, seed: int) -> Float64s:
    """`u` in (0, 1) of each unit: XXH64 keyed by the job's seed (semantics B). float64[n]."""
    return unit_interval(hash64(unit, seed))
