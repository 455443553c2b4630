"""Stratified sampling of fixed size: a reservoir for each stratum, of a size that is given or allocated.

Each stratum keeps the smallest u of its units and is a `Reservoir` of its own: π = min(1, τ_h), and 1 while n_h <= k_h.
Where the sizes k_h are allocated (see `allocation`) they depend on counts and variances of the whole, which are known
only at the end; until then each stratum keeps `k_max`, and its sample is then cut to k_h, with the τ_h that it would
have had from the beginning. Source: Cochran, Sampling Techniques (3rd ed., 1977), chapter 5.

With several labels for each record, a record is in the sample iff one of its strata keeps it: once, with
π = the largest of its strata's thresholds on u. A stratum that does not keep it has a threshold no larger than its u,
so the strata that keep it tell π.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from streamsample.records import Float64s, Int64s
from streamsample.sampling.allocation import Allocation, allocate, standard_deviation
from streamsample.sampling.candidate import Candidates
from streamsample.sampling.fixed_size import FixedSize
from streamsample.sampling.ranks import numbers
from streamsample.sampling.sample import Sample, Stratum
from streamsample.sampling.strata import Places
from streamsample.sampling.units import Ids, hashes_of, spans_of

PLACES_FOR_OTHERS = 64


class StratifiedReservoir(FixedSize):
    """A uniform sample of fixed size from each stratum.

    k: units of each stratum (allocation "each"), or of all together. minimum: what each stratum gives at least, if it
    has as much. strata: the declared ones; all others share `others` places. k_max: what a stratum can give at most, by
    default k: memory is O(strata × k_max).

    >>> reservoir = StratifiedReservoir(k=50, seed=7, allocation="proportional", strata=["IS", "DE"])
    >>> country = np.where(np.arange(10_000) % 10 == 0, "IS", "DE")
    >>> reservoir.update(range(10_000), country)
    >>> [(stratum.name, stratum.n, stratum.k) for stratum in reservoir.sample().strata]
    [('IS', 1000, 5), ('DE', 9000, 45)]

    Records in several strata: the strata one after the other, and the record of each.

    >>> reservoir = StratifiedReservoir(k=50, seed=7)
    >>> reservoir.update(["a", "b", "c"], ["drama", "comedy", "comedy"], row=[0, 0, 2])
    >>> reservoir.sample().of(["a", "b", "c"])
    ['a', 'c']
    """

    name = "stratified"

    def __init__(
        self,
        k: int,
        seed: int = 0,
        *,
        allocation: Allocation = "each",
        minimum: int = 2,
        strata: Sequence[str] = (),
        others: int = PLACES_FOR_OTHERS,
        k_max: int | None = None,
        records_max: int | None = None,
    ) -> None:
        self.allocation: Allocation = allocation
        self.minimum = minimum
        self.places = Places(strata, others)
        if minimum < 0 or minimum > (k_max or k):
            raise ValueError(f"minimum must be >= 0 and at most {k_max or k}, found {minimum}")
        kept, sums = k if allocation == "each" else k_max or k, 2 if allocation == "neyman" else 0
        super().__init__(kept, seed, "uniform", groups=len(self.places), sums=sums, records_max=records_max)
        self.k_max, self.k = kept, k

    def update(
        self,
        ids: Ids,
        stratum: Ids,
        value: ArrayLike | None = None,
        *,
        row: ArrayLike | None = None,
        source: int = 0,
        position: ArrayLike | None = None,
    ) -> None:
        """Show n records of one source with their strata, by name, and for Neyman's allocation the field's value.

        row: int64[m], where a record may be in several strata, or in none: the index of the record that each of m
        strata is of. Raises ValueError, naming the first index, if a stratum is null or has no place, or a value is
        not finite; then nothing was shown.
        """
        unit, names = hashes_of(ids, self.seed), spans_of(stratum)
        n = len(unit)
        one_each, row = row is None, np.arange(n) if row is None else np.asarray(row, np.int64)
        if len(names) != len(row) or (len(row) and not 0 <= row.min() <= row.max() < n):
            raise ValueError(f"{len(names)} strata do not belong to {n} ids one by one: say whose they are by `row`")
        if (names.size < 0).any():
            raise ValueError(f"the stratum at index {int(np.argmax(names.size < 0))} is null")
        place, values = self.places.of(names), self._values(value, n)
        if not one_each:
            # Two labels of one record may share a place, in which the record stands once.
            row, wide = np.divmod(np.unique(row * len(self.places) + place), len(self.places))
            place = wide.astype(np.int32)
        positions = self._totals.positions(n, source, position)
        self._totals.update(source, positions, row, place, *values)
        m, where = len(row), positions[row]
        self._candidates.update(place, unit[row], np.ones(m), np.full(m, source), where, where)

    def sample(self) -> Sample:
        """See `FixedSize.sample`; strata without records are left out."""
        counts = self._totals.counts()
        places = np.flatnonzero(counts).tolist()
        parts, strata = [], []
        for place, k in zip(places, self._allocated(places, counts), strict=True):
            parts.append(self._candidates.candidates(place).first(k))
            strata.append(Stratum(self.places.names[place], int(counts[place]), k, parts[-1].threshold))
        return self._once_each(parts, tuple(strata))

    def _once_each(self, parts: list[Candidates], strata: tuple[Stratum, ...]) -> Sample:
        """Each record once, by the stratum of its largest π, the first of those."""
        sample = self._sample(parts, strata)
        order = np.lexsort((sample.stratum, -sample.probability, sample.position, sample.source))
        source, position = sample.source[order], sample.position[order]
        first = np.r_[True, (source[1:] != source[:-1]) | (position[1:] != position[:-1])][: len(sample)]
        return sample.take(order[first])

    def _values(self, value: ArrayLike | None, count: int) -> tuple[Float64s, ...]:
        if self.allocation != "neyman":
            return ()
        if value is None:
            raise ValueError("Neyman's allocation needs the value of its field for each record")
        x = numbers(value, count, "value")
        with np.errstate(over="ignore"):
            square = x * x
        if not np.isfinite(square).all():
            row = int(np.argmin(np.isfinite(square)))
            raise ValueError(f"a value must be finite, and its square too, found {x[row]} at index {row}")
        return x, square

    def _allocated(self, places: list[int], counts: Int64s) -> list[int]:
        if self.allocation == "each":
            return [self.k] * len(places)
        highest = [min(int(counts[place]), self.k_max) for place in places]
        lowest = [min(self.minimum, most) for most in highest]
        names = [self.places.names[place] for place in places]
        return allocate(self.k, [self._share(place, int(counts[place])) for place in places], lowest, highest, names)

    def _share(self, place: int, n: int) -> Fraction:
        if self.allocation == "neyman":
            return n * standard_deviation(n, self._totals.sum_of(0, place), self._totals.sum_of(1, place))
        return Fraction(n if self.allocation == "proportional" else 1)

    def _shape(self) -> tuple[object, ...]:
        declared = list(self.places.names)
        return (*super()._shape(), self.allocation, self.minimum, self.k_max, declared)
