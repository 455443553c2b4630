"""What all random designs of fixed size share: bottom-k candidates per group, and exact totals beside them.

Records come in batches, each from one source. A record is itself by its place, (source, position): positions are
ordinals unless they are given, and a place that was shown before changes nothing. Parts of a stream that are sampled
apart, to be merged, are sources of their own: give each a number.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamsample.records import Bools, Float64s, Int64s
from streamsample.sampling import snapshots
from streamsample.sampling.bottom_k import BottomK
from streamsample.sampling.candidate import CANDIDATE, Candidates
from streamsample.sampling.ranks import Law
from streamsample.sampling.sample import Sample, Stratum
from streamsample.sampling.totals import OtherPartError, Totals


class FixedSize:
    """The base of `Reservoir`, `Weighted`, `Recency` and the stratified reservoirs; not for use by itself."""

    name: ClassVar[str]

    def __init__(
        self, k: int, seed: int, law: Law, *, groups: int = 1, sums: int = 0, records_max: int | None = None
    ) -> None:
        self.k, self.seed = k, seed
        self._candidates = BottomK(k, law, records_max)
        self._candidates.open(groups)
        self._groups = np.arange(groups, dtype=np.int32)
        self._totals = Totals(groups, sums)

    @property
    def n(self) -> int:
        """Records seen. (A record in several strata counts in each.)"""
        return int(self._totals.counts().sum())

    def sample(self) -> Sample:
        """The sample of everything shown so far. Valid at any time; more may be shown afterwards."""
        n = int(self._totals.counts()[0])
        candidates = self._candidates.candidates(0)
        return self._sample([candidates], (Stratum("", n, self.k, candidates.threshold),))

    def merge(self, other: Self) -> None:
        """Take up what `other`, of the same parameters, was shown. `other` stays as it is.

        Commutative, associative and idempotent. Raises ValueError if the parameters differ, or if both have read
        different parts of a source.
        """
        if self._shape() != other._shape():
            raise ValueError(f"{self._shape()} and {other._shape()} cannot be merged: the parameters differ")
        for source, further in self._totals.shared(other._totals):
            fewer, more = (self, other) if further else (other, self)
            fewer._check_part(more, source)
        self._candidates.merge(self._groups, other._candidates, other._groups)
        self._totals.merge(other._totals)

    def snapshot(self) -> bytes:
        """The whole state; the same state gives the same bytes."""
        candidates = np.frombuffer(self._candidates.snapshot(), np.uint8)
        return snapshots.pack(self.name, self._shape(), {}, [candidates, *self._totals.arrays()])

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot of a design of the same parameters. Raises StateError if it is damaged or not one."""
        dtypes: list[np.dtype[Any]] = [np.dtype(np.uint8), *[np.dtype(np.int64)] * 4]
        _, (candidates, *totals) = snapshots.unpack(self.name, self._shape(), data, dtypes)
        self._candidates.restore(candidates.tobytes())
        self._totals.from_arrays(totals)

    def held(self) -> Int64s:
        """The positions of all records that may still be in the sample, int64[m], in no particular order.

        What a caller keeps for other records can be let go.
        """
        return self._candidates.rows()

    def memory_bytes(self) -> int:
        """The size of the candidates' arrays."""
        return self._candidates.memory_bytes()

    def _shape(self) -> tuple[Any, ...]:
        """The parameters that states must share to be merged or restored."""
        return (self.name, self.k, self.seed, self._candidates.law, self._candidates.records_max, len(self._groups))

    def _show(
        self,
        unit: NDArray[np.uint64],
        eligible: Bools | None,
        weight: Float64s,
        source: int,
        position: ArrayLike | None,
    ) -> None:
        """Show one batch to the only group; records that are not eligible (default: all are) are only counted."""
        n = len(unit)
        place = self._totals.positions(n, source, position)
        self._totals.update(source, place, np.arange(n), np.zeros(n, np.int32))
        if eligible is not None and not eligible.all():
            unit, weight, place = unit[eligible], weight[eligible], place[eligible]
        n = len(unit)
        self._candidates.update(np.zeros(n, np.int32), unit, weight, np.full(n, source), place, place)

    def _sample(self, parts: list[Candidates], strata: tuple[Stratum, ...]) -> Sample:
        records = np.concatenate([np.empty(0, CANDIDATE), *(part.records for part in parts)])
        probability = np.concatenate([np.empty(0), *(part.probability for part in parts)])
        stratum = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        order = np.lexsort((records["position"], records["source"]))
        records, probability = records[order], probability[order]
        return Sample(
            design=self.name,
            estimator="horvitz-thompson",
            source=records["source"],
            position=records["position"],
            unit=records["unit"],
            probability=probability,
            weight=1 / probability,
            draws=np.ones(len(records), np.int64),
            stratum=stratum[order],
            strata=strata,
        )

    def _check_part(self, more: Self, source: int) -> None:
        """Refuse another part of a source: who has read further holds whatever this one has and could still keep."""
        for group in self._groups.tolist():
            left, right = self._candidates.candidates(group), more._candidates.candidates(group)
            mine = left.records[(left.records["source"] == source) & (left.records["rank"] < right.threshold)]
            theirs = right.records[right.records["source"] == source]
            known = set(theirs[["unit", "position"]].tolist())
            if any(place not in known for place in mine[["unit", "position"]].tolist()):
                raise OtherPartError(source)
