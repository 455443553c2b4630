"""Strata by name: the declared ones have a place of their own, the others share a bounded number of places.

A place is a group of the sampler. Another stratum's place is hash(name) mod M from the beginning, so that which
names share one depends on neither who came first nor how many there are (B10).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types

from streamsample.hashing import hash64, xxh64
from streamsample.kernels import I32, I32_OUT, I64, U8, U64, borrow, kernel
from streamsample.records import Int32s, Spans

_REMEMBERED = 64
"""Places of strata, a power of two."""


class DeclaredStrata:
    """Find the declared strata by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"strata are declared twice: {', '.join(self.names)}")
        self._spans = Spans.of([name.encode() for name in self.names])
        self._table = np.full(2 << len(self.names).bit_length(), -1, np.int32)
        _fill(hash64(self._spans, 0), self._table)

    def codes(self, stratum: Spans, others: int = 0) -> Int32s:
        """The index of each of n strata (no nulls) among `names`, int32[n]. Any other has -1, or with `others` > 0 a
        number behind the names, by its hash.
        """
        names, code = self._spans, np.empty(len(stratum), np.int32)
        _find(
            *(stratum.buffer, stratum.start, stratum.size),
            *(names.buffer, names.start, names.size, self._table),
            *(others, code),
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
        place = self._declared.codes(stratum, self.others)
        if not self.others and len(place) and place.min() < 0:
            unknown = int(np.argmin(place))
            raise ValueError(
                f"stratum {stratum[unknown]!r} at index {unknown} is not declared, and there are no others"
            )
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


@kernel(types.void(U8, I64, I32, U8, I64, I32, I32, types.int64, I32_OUT))
def _find(buffer, start, size, t_buffer, t_start, t_size, table, others, code):  # type: ignore[no-untyped-def]
    """The code of each element; equal means equal bytes, not equal hashes.

    The symbols of an enum lie in few places, so what was found of a place is remembered.
    """
    mask = np.uint64(len(table) - 1)
    known = np.full(_REMEMBERED, -1, np.int64)
    known_size, known_code = np.empty(_REMEMBERED, np.int32), np.empty(_REMEMBERED, np.int32)
    held = borrow(buffer)
    for row in range(len(start)):
        slot = start[row] & (_REMEMBERED - 1)
        if known[slot] == start[row] and known_size[slot] == size[row]:
            code[row] = known_code[slot]
            continue
        hashed = xxh64(held, start[row], max(size[row], 0), np.uint64(0))
        found = -1 if others == 0 else np.int32(len(t_start)) + np.int32(hashed % np.uint64(others))
        at = hashed & mask
        while table[at] >= 0:
            name = table[at]
            if t_size[name] == size[row]:
                i = 0
                while i < size[row] and buffer[start[row] + i] == t_buffer[t_start[name] + i]:
                    i += 1
                if i == size[row]:
                    found = name
                    break
            at = (at + np.uint64(1)) & mask
        code[row] = found
        known[slot], known_size[slot], known_code[slot] = start[row], size[row], found
