"""What every design gives back: which records, and what each of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import unit_interval
from streamsample.records import Bools, Float64s, Int32s, Int64s

Item = TypeVar("Item")

Estimator: TypeAlias = Literal["horvitz-thompson", "hansen-hurwitz", "self-normalised", "none"]
"""How the weights of a sample are to be used.

horvitz-thompson: 1/π, for totals and means. hansen-hurwitz: mW/(kw), of draws with replacement. self-normalised: known
up to a factor, for means only. none: the sample is not random.
"""


class Stratum(NamedTuple):
    """One stratum of a sample: its name, the records it had (n), the units asked of it (k), and its threshold τ."""

    name: str
    n: int
    k: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of m records, in the order of (source, position).

    source, position: int64[m], where each record stands: its ordinal, if positions were not given. unit: uint64[m],
    the keyed hash of its unit. probability: float64[m], π; NaN (null) where the design is not random. weight:
    float64[m], how many records of the whole it stands for (see `Estimator`); NaN where π is. draws: int64[m], how
    often it was drawn (1 without replacement). stratum: int32[m], an index into `strata`.
    """

    design: str
    estimator: Estimator
    source: Int64s
    position: Int64s
    unit: NDArray[np.uint64]
    probability: Float64s
    weight: Float64s
    draws: Int64s
    stratum: Int32s
    strata: tuple[Stratum, ...]

    def __len__(self) -> int:
        return len(self.position)

    @property
    def random(self) -> bool:
        """Whether inclusion probabilities exist."""
        return self.estimator != "none"

    @property
    def n(self) -> int:
        """Records sampled from. (A record in several strata counts in each.)"""
        return sum(stratum.n for stratum in self.strata)

    @property
    def k(self) -> int:
        """Units asked for."""
        return sum(stratum.k for stratum in self.strata)

    @property
    def u(self) -> Float64s:
        """The keyed hash of each unit in (0, 1), float64[m]."""
        return unit_interval(self.unit)

    @property
    def threshold(self) -> Float64s:
        """τ of each record's stratum, float64[m]."""
        return np.array([stratum.threshold for stratum in self.strata])[self.stratum]

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The sampled ones of the items that were given, by position; for samples of one source."""
        return [items[position] for position in self.position.tolist()]

    def take(self, rows: Bools | Int64s) -> Sample:
        """The records at `rows` (a mask or indices), with what they stand for unchanged."""
        columns = ("source", "position", "unit", "probability", "weight", "draws", "stratum")
        kept = {name: getattr(self, name)[rows] for name in columns}
        return Sample(design=self.design, estimator=self.estimator, strata=self.strata, **kept)


def not_random(
    design: str, begin: int, keep: Bools, k: int, stratum: Int32s | None = None, strata: Sequence[Stratum] = ()
) -> Sample:
    """The records of one batch that a design without probabilities takes: π and weights are null.

    begin: the position of the batch's first record; keep: bool[n]; stratum: int32[n], if there are `strata`.
    """
    position = begin + np.flatnonzero(keep)
    m = len(position)
    null, zero = np.full(m, np.nan), np.zeros(m, np.int64)
    return Sample(
        design=design,
        estimator="none",
        source=zero,
        position=position,
        unit=zero.astype(np.uint64),
        probability=null,
        weight=null,
        draws=np.ones(m, np.int64),
        stratum=zero.astype(np.int32) if stratum is None else stratum[keep],
        strata=tuple(strata) or (Stratum("", begin + len(keep), k, np.nan),),
    )
