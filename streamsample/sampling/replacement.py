"""Weighted sampling with replacement: k independent draws, each of a record with probability w/W, as `random.choices`.

Draw j keeps the record with the smallest of exponential ranks E_ij / w_i: the smallest is record i with probability
w_i / W, and the draws are independent because their E_ij are. A record's ranks come in ascending order, for draws in a
random order, all from the hash of its unit, and stop at the largest rank that any draw still holds: after the first k
records or so, a record costs one logarithm (Ertl, "ProbMinHash - a class of locality-sensitive hash algorithms for the
(probability) Jaccard similarity", IEEE TKDE 34(7), 2022). Each draw is a bottom-1, so that draws
merge as all samples do.

The record carries its number of draws m and the weight mW/(kw), for the estimator of Hansen & Hurwitz (1943), in
place of 1/π. π = 1 - (1 - w/W)^k is given for information. Records of one unit have the same ranks, and only the first
of them, by place, is drawn: here each record needs an id of its own.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numba import types
from numpy.typing import ArrayLike

from streamsample.errors import StateError
from streamsample.hashing import unit_of
from streamsample.kernels import F64, I32, I64, I64_OUT, U64, inline_always, kernel
from streamsample.records import Int64s
from streamsample.sampling import snapshots
from streamsample.sampling.bottom_k_kernels import CANDIDATES, CANDIDATES_OUT, precedes
from streamsample.sampling.candidate import CANDIDATE
from streamsample.sampling.ranks import weights
from streamsample.sampling.sample import Sample, Stratum
from streamsample.sampling.totals import OtherPartError, Totals
from streamsample.sampling.units import Ids, hashes_of

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class WithReplacement:
    """k independent draws by weight.

    >>> draws = WithReplacement(k=1_000, seed=7)
    >>> draws.update(["rare", "common"], weight=[1.0, 9.0])
    >>> sample = draws.sample()
    >>> int(sample.draws.sum()), bool(850 < sample.draws[1] < 950)
    (1000, True)
    """

    name = "with-replacement"

    def __init__(self, k: int, seed: int = 0) -> None:
        if k < 2:
            raise ValueError(f"k must be at least 2, found {k}")
        self.k, self.seed = k, seed
        self._draws = np.zeros(k, CANDIDATE)
        self._draws["rank"] = np.inf
        self._order = np.arange(k)
        self._totals = Totals(1, sums=1)

    @property
    def n(self) -> int:
        """Records seen."""
        return int(self._totals.counts()[0])

    def update(self, ids: Ids, weight: ArrayLike, *, source: int = 0, position: ArrayLike | None = None) -> None:
        """Show n records of one source with their weights, >= 0. Raises ValueError as `Weighted.update` does."""
        unit = hashes_of(ids, self.seed)
        n, w = len(unit), weights(weight, len(unit))
        place = self._totals.positions(n, source, position)
        self._totals.update(source, place, np.arange(n), np.zeros(n, np.int32), w)
        draw(unit, w, np.full(n, source), place, place, self._order, self._draws)

    def sample(self) -> Sample:
        """The records that were drawn, each once, with its number of draws."""
        drawn = self._draws[np.isfinite(self._draws["rank"])]
        _, first, draws = np.unique(drawn[["source", "position"]], return_index=True, return_counts=True)
        records = drawn[first]
        w, whole = records["weight"], float(self._totals.sum_of(0, 0))
        m = len(records)
        with np.errstate(divide="ignore"):
            probability = -np.expm1(self.k * np.log1p(-np.minimum(w / whole, 1.0))) if m else np.empty(0)
        return Sample(
            design=self.name,
            estimator="hansen-hurwitz",
            source=records["source"],
            position=records["position"],
            unit=records["unit"],
            probability=probability,
            weight=draws * whole / (self.k * w),
            draws=draws,
            stratum=np.zeros(m, np.int32),
            strata=(Stratum("", self.n, self.k, np.inf),),
        )

    def held(self) -> Int64s:
        """The positions of all records that may still be in the sample: see `FixedSize.held`."""
        drawn: Int64s = self._draws["position"][np.isfinite(self._draws["rank"])]
        return drawn

    def merge(self, other: Self) -> None:
        """Take up what `other`, of the same parameters, was shown: the smaller rank of each draw.

        Commutative, associative and idempotent. Raises ValueError as `Reservoir.merge` does.
        """
        if self._shape() != other._shape():
            raise ValueError(f"{self._shape()} and {other._shape()} cannot be merged: the parameters differ")
        for source, further in self._totals.shared(other._totals):
            fewer, more = (self._draws, other._draws) if further else (other._draws, self._draws)
            if ((fewer["source"] == source) & (fewer["rank"] < more["rank"])).any():
                raise OtherPartError(source)
        _merge(self._draws, other._draws)
        self._totals.merge(other._totals)

    def snapshot(self) -> bytes:
        """The whole state; the same state gives the same bytes."""
        return snapshots.pack(self.name, self._shape(), {}, [self._draws, *self._totals.arrays()])

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot of the same parameters. Raises StateError if it is damaged or not one."""
        dtypes = [CANDIDATE, *[np.dtype(np.int64)] * 4]
        _, (draws, *totals) = snapshots.unpack(self.name, self._shape(), data, dtypes)
        if len(draws) != self.k:
            raise StateError(f"a sampling state of {self.k} draws has {len(draws)}", remedy=snapshots.REMEDY)
        self._totals.from_arrays(totals)
        self._draws = draws

    def _shape(self) -> tuple[Any, ...]:
        return (self.name, self.k, self.seed)


@inline_always
def _mixed(state):  # type: ignore[no-untyped-def]
    """The output of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    z = (state ^ (state >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@kernel(types.void(U64, F64, I64, I64, I64, I64_OUT, CANDIDATES_OUT))
def draw(unit, weight, source, position, row, order, draws):  # type: ignore[no-untyped-def]
    """Show records to k draws. order: 0 .. k-1, and so again afterwards."""
    k, changed, largest = len(draws), 0, np.inf
    found = np.empty(1, CANDIDATE)
    record = found[0]
    swapped = np.empty(k, np.int64)
    for at in range(-1, len(unit)):
        if at < 0 or changed >= k:
            changed, largest = 0, draws["rank"].max()
        if at < 0 or weight[at] == 0:
            continue
        record.rank, record.unit, record.weight = 0.0, unit[at], weight[at]
        record.source, record.position, record.row = source[at], position[at], row[at]
        state, steps = unit[at], 0
        while steps < k:
            state += _GOLDEN
            # The gap between the i-th and the next smallest of k exponential numbers.
            record.rank -= math.log1p(-unit_of(_mixed(state))) / (weight[at] * (k - steps))
            if record.rank > largest:
                break
            state += _GOLDEN
            other = steps + np.int64(_mixed(state) % np.uint64(k - steps))
            swapped[steps] = other
            order[steps], order[other] = order[other], order[steps]
            number = order[steps]
            if precedes(record, draws[number]):
                draws[number] = record
                changed += 1
            steps += 1
        while steps:
            steps -= 1
            order[steps], order[swapped[steps]] = order[swapped[steps]], order[steps]


@kernel(types.int64(I32, U64, F64, F64, types.int64, I64_OUT))
def near(group, unit, weight, largest, k, out):  # type: ignore[no-untyped-def]
    """Write down the records, of weight > 0, whose first rank is not above their group's largest; how many."""
    found = 0
    for at in range(len(group)):
        first = -math.log1p(-unit_of(_mixed(unit[at] + _GOLDEN))) / (weight[at] * k)
        if first <= largest[group[at]]:
            out[found] = at
            found += 1
    return found


@kernel(types.void(CANDIDATES_OUT, CANDIDATES))
def _merge(draws, others):  # type: ignore[no-untyped-def]
    for draw in range(len(draws)):
        if precedes(others[draw], draws[draw]):
            draws[draw] = others[draw]
