"""How many records there were, and exact sums over them: what allocations and weights need beside the sample.

Counts are not part of bottom-k: adding what two workers counted would count a redelivered record twice. So they are
kept per source with the position up to which it was read, and replaced, never added. Sums are exact, whatever the
order: each is a fixed-point number over the whole range of float64, in words of 32 bits that carry rarely (the small
superaccumulator of Neal, "Fast exact summation using small and large superaccumulators", 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from streamsample.errors import StateError
from streamsample.kernels import F64, I32, I64, I64_OUT, kernel
from streamsample.records import Float64s, Int32s, Int64s
from streamsample.sampling import snapshots

WORDS = 68
"""Of an exact sum."""
_LOWEST_BIT = 1126
_MASK = 2**32 - 1
_CARRY_EVERY = 2**29
_SUMS = types.Array(types.int64, 2, "C")


@kernel(types.void(I64, I64, I32, types.int64, I64_OUT))
def _count(position, row, group, begin, count):  # type: ignore[no-untyped-def]
    for i in range(len(row)):
        if position[row[i]] >= begin:
            count[group[i]] += 1


@kernel(types.void(I64, I64, I32, types.int64, F64, _SUMS))
def _add(position, row, group, begin, value, words):  # type: ignore[no-untyped-def]
    for i in range(len(row)):
        x = value[row[i]]
        if x == 0 or position[row[i]] < begin:
            continue
        fraction, exponent = math.frexp(abs(x))
        mantissa = np.int64(fraction * 2.0**53)
        bit = exponent - 53 + _LOWEST_BIT
        word, shift = bit >> 5, bit & 31
        low, high = (mantissa & _MASK) << shift, (mantissa >> 32) << shift
        sign = 1 if x > 0 else -1
        into = words[group[i]]
        into[word] += sign * (low & _MASK)
        into[word + 1] += sign * ((low >> 32) + (high & _MASK))
        into[word + 2] += sign * (high >> 32)


@kernel(types.void(_SUMS))
def _carry(words):  # type: ignore[no-untyped-def]
    for g in range(words.shape[0]):
        for word in range(WORDS - 1):
            words[g, word + 1] += words[g, word] >> 32
            words[g, word] &= _MASK


class OtherPartError(ValueError):
    """Two states name the same source, but have read different parts of it, so that neither can replace the other."""

    def __init__(self, source: int) -> None:
        super().__init__(
            f"both have read source {source}, but not the same records of it: give each part of a stream that is "
            "sampled apart a source of its own"
        )


def add_exactly(value: Float64s, group: Int32s, words: NDArray[np.int64]) -> None:
    """Add n finite numbers to the sums of their groups. words: int64[groups, 68], C-contiguous."""
    _add(np.zeros(len(value), np.int64), np.arange(len(value)), group, 0, value, words)


def carry(words: NDArray[np.int64]) -> None:
    """Give sums, int64[groups, 68], the one form that the same sum always has: to be done every 2^29 additions."""
    _carry(words)


def exact_sum(words: NDArray[np.int64]) -> Fraction:
    """The number that words (int64[68], or several such rows to be added up) stand for."""
    columns = words.reshape(-1, WORDS).astype(object).sum(axis=0)
    return Fraction(sum(int(word) << (32 * at) for at, word in enumerate(columns)), 2**_LOWEST_BIT)


@dataclass(slots=True)
class _Source:
    """What one source has shown: the position after its last record; count: int64[g]; words: int64[sums, g, 68]."""

    position: int
    count: Int64s
    words: NDArray[np.int64]
    since_carry: int = 0


class Totals:
    """Counts and `sums` exact sums for each of `groups` groups."""

    def __init__(self, groups: int, sums: int = 0) -> None:
        self._groups, self._sums = groups, sums
        self._sources: dict[int, _Source] = {}

    def next_position(self, source: int) -> int:
        """The position after the last record of a source; 0 if there was none."""
        found = self._sources.get(source)
        return found.position if found else 0

    def positions(self, count: int, source: int, given: ArrayLike | None) -> Int64s:
        """Where the next `count` records of a source stand, int64[count]: as given, or the next ordinals."""
        if given is None:
            begin = self.next_position(source)
            return np.arange(begin, begin + count)
        position = np.ascontiguousarray(given, np.int64)
        if position.shape != (count,):
            raise ValueError(f"there must be one position for each of {count} ids, found shape {position.shape}")
        return position

    def shared(self, other: Totals) -> list[tuple[int, bool]]:
        """The sources that both have read, and of each whether `other` has read further."""
        both = sorted(self._sources.keys() & other._sources.keys())
        return [(source, self.next_position(source) < other.next_position(source)) for source in both]

    def update(self, source: int, position: Int64s, row: Int64s, group: Int32s, *values: Float64s) -> None:
        """Count records of one source; those that lie before what was read already are not counted again.

        position: int64[n]; row: int64[m], the record that each entry of `group`, int32[m], counts; values: float64[n],
        finite, for each of the sums.
        """
        if not len(position):
            return
        into = self._sources.setdefault(source, self._empty())
        _count(position, row, group, into.position, into.count)
        for value, words in zip(values, into.words, strict=True):
            _add(position, row, group, into.position, value, words)
        into.since_carry += len(group)
        if into.since_carry >= _CARRY_EVERY:
            self._carry(into)
        into.position = max(into.position, int(position.max()) + 1)

    def merge(self, other: Totals) -> None:
        """Of each source, what the one says that has read further."""
        for source, theirs in other._sources.items():
            if theirs.position > self.next_position(source):
                self._sources[source] = _Source(theirs.position, theirs.count.copy(), theirs.words.copy())

    def counts(self) -> Int64s:
        """Records of each group, over all sources. int64[groups]."""
        result = np.zeros(self._groups, np.int64)
        for each in self._sources.values():
            result += each.count
        return result

    def sum_of(self, which: int, group: int) -> Fraction:
        """One of the sums, of one group, over all sources."""
        rows = [each.words[which, group] for each in self._sources.values()]
        return exact_sum(np.array([np.zeros(WORDS, np.int64), *rows]))

    def arrays(self) -> list[NDArray[np.int64]]:
        """All of it, for `from_arrays`: sources, positions, counts and words. The same state gives the same arrays."""
        ordered = sorted(self._sources.items())
        for _, each in ordered:
            self._carry(each)
        return [
            np.array([source for source, _ in ordered], np.int64),
            np.array([each.position for _, each in ordered], np.int64),
            np.concatenate([np.empty(0, np.int64), *(each.count for _, each in ordered)]),
            np.concatenate([np.empty(0, np.int64), *(each.words.ravel() for _, each in ordered)]),
        ]

    def from_arrays(self, arrays: list[NDArray[Any]]) -> None:
        """Replace everything. Raises StateError if the lengths do not fit."""
        sources, positions, counts, words = arrays
        n, per_source = len(sources), self._sums * self._groups * WORDS
        if (len(positions), len(counts), len(words)) != (n, n * self._groups, n * per_source):
            raise StateError("the counts of a sampling state do not fit its sources", remedy=snapshots.REMEDY)
        by_source = counts.reshape(n, self._groups), words.reshape(n, self._sums, self._groups, WORDS)
        self._sources = {
            int(source): _Source(int(position), count, word)
            for source, position, count, word in zip(sources, positions, *by_source, strict=True)
        }

    def _empty(self) -> _Source:
        return _Source(0, np.zeros(self._groups, np.int64), np.zeros((self._sums, self._groups, WORDS), np.int64))

    def _carry(self, source: _Source) -> None:
        for words in source.words:
            _carry(words)
        source.since_carry = 0
