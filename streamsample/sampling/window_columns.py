"""What a windowed sample is given, and what it gives: columns, without the kernels that fill them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Float64s, Int32s, Int64s, Spans
from streamsample.sampling.kept_rows import RowColumns
from streamsample.sampling.ranks import Law


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """k units per window and stratum. half_life_ms: of the law decayed, whose landmark is the window's begin. strata:
    those with a place of their own; others: how many places all other strata share (0: there are no strata).
    windows_max: how many may be open.
    """

    k: int
    law: Law
    window_ms: int
    grace_ms: int
    half_life_ms: int | None = None
    strata: tuple[str, ...] = ()
    others: int = 0
    windows_max: int = 10_000


@dataclass(frozen=True, slots=True)
class Offered:
    """n records of one partition, ascending by offset.

    ts: event times, ms; unit: the keyed hash of each unit, uint64[n]; weight: float64[n] > 0, or 0 for never; stratum:
    n spans without nulls, or None.
    """

    offset: Int64s
    ts: Int64s
    unit: NDArray[np.uint64]
    weight: Float64s
    stratum: Spans | None
    ids: Spans


@dataclass(frozen=True, slots=True)
class Details:
    """What else is kept of m records that may be sampled: see `RowColumns`."""

    schema: NDArray[np.int16]
    split: NDArray[np.int8]
    payload: Spans


@dataclass(frozen=True, slots=True)
class Drawn:
    """The samples of windows that have closed: m records by window, place and rank.

    probability: π; threshold: τ, on the scale of ranks, NaN where nothing was left out; n: records that the window had
    of the place, k: units that were asked for. settled_at: the window's end and the grace. For each of the g groups
    that closed: places, of its stratum; seen: its records; kept: those of them in the sample.
    """

    rows: RowColumns
    probability: Float64s
    threshold: Float64s
    n: Int64s
    k: Int64s
    settled_at: Int64s
    places: Int32s
    seen: Int64s
    kept: Int64s

    def __len__(self) -> int:
        return len(self.rows)
