"""Strata by name: the declared ones have a place of their own, the others share a bounded number of places.

A place is a group of the sampler. Another stratum's place is hash(name) mod M from the beginning, so that which
names share one depends on neither who came first nor how many there are (B10).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.hashing import hash64
from streamsample.kernels import I32, I32_OUT, I64, U8, U64, kernel
from streamsample.records import Int32s, Spans


class DeclaredStrata:
    """Find the declared strata by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"strata are declared twice: {', '.join(self.names)}")
        self._spans = Spans.of([name.encode() for name in self.names])
        self._table = np.full(2 << len(self.names).bit_length(), -1, np.int32)
        _fill(hash64(self._spans, 0), self._table)

    def codes(self, stratum: Spans, hashes: NDArray[np.uint64] | None = None) -> Int32s:
        """The index of each of n strata among `names`, -1 for any other. int32[n]. hashes: XXH64 of each, seed 0."""
        code = np.full(len(stratum), -1, np.int32)
        if self.names and len(stratum):
            names = self._spans
            _find(
                *(stratum.buffer, stratum.start, stratum.size, hash64(stratum, 0) if hashes is None else hashes),
                *(names.buffer, names.start, names.size, self._table),
                code,
            )
        return code


class Places:
    """The places of strata: first the declared, then `others` >= 0 that all other strata share."""

    def __init__(self, declared: Sequence[str], others: int) -> None:
        if others < 0 or (others == 0 and not declared):
            raise ValueError(f"there must be a place for some stratum, found {others} and none declared")
        self._declared = DeclaredStrata(declared)
        self.others = others
        self.names = (*self._declared.names, *(f"(other {number})" for number in range(others)))

    def __len__(self) -> int:
        return len(self.names)

    def of(self, stratum: Spans) -> Int32s:
        """The place of each of n strata (no nulls), int32[n]. Raises ValueError for one that has none."""
        hashes = hash64(stratum, 0)
        place = self._declared.codes(stratum, hashes)
        unknown = np.flatnonzero(place < 0)
        if len(unknown):
            if not self.others:
                name = stratum[int(unknown[0])]
                raise ValueError(f"stratum {name!r} at index {unknown[0]} is not declared, and there are no others")
            shared = hashes[unknown] % np.uint64(self.others)
            place[unknown] = len(self._declared.names) + shared.astype(np.int32)
        return place


@kernel(types.void(U64, I32_OUT))
def _fill(hashes, table):  # type: ignore[no-untyped-def]
    """Put each index into the first free place from its hash on; -1 is free, and at least half of the table is."""
    mask = np.uint64(len(table) - 1)
    for code in range(len(hashes)):
        at = hashes[code] & mask
        while table[at] >= 0:
            at = (at + np.uint64(1)) & mask
        table[at] = code


@kernel(types.void(U8, I64, I32, U64, U8, I64, I32, I32, I32_OUT))
def _find(buffer, start, size, hashes, t_buffer, t_start, t_size, table, code):  # type: ignore[no-untyped-def]
    """The code of each element, or -1; equal means equal bytes, not equal hashes."""
    mask = np.uint64(len(table) - 1)
    for row in range(len(start)):
        at = hashes[row] & mask
        while table[at] >= 0:
            found = table[at]
            if t_size[found] == size[row]:
                i = 0
                while i < size[row] and buffer[start[row] + i] == t_buffer[t_start[found] + i]:
                    i += 1
                if i == size[row]:
                    code[row] = found
                    break
            at = (at + np.uint64(1)) & mask
