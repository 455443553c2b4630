"""Stratified sampling by rate: a rate of its own for each declared stratum, one rate for all others.

A record of stratum h is kept iff u < rate_h; π = rate_h. All strata share the same u, so a unit that is kept at some
rate is kept at every larger one (B9), and nothing depends on which strata were seen before. Source: Cochran, Sampling
Techniques (3rd ed., 1977), chapter 5, with Bernoulli draws within strata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import types

from streamsample.kernels import I32, I32_OUT, I64, U8, U8_OUT, kernel
from streamsample.records import Float64s, Spans
from streamsample.sampling.design import Selection, unit_hash
from streamsample.sampling.strata import DeclaredStrata

_SLASH = ord("/")
_BACKSLASH = ord("\\")


class StratifiedRate:
    """Keep each unit with the rate of its stratum.

    `rate` in (0, 1] is for every stratum that `rates` does not name; `rates` maps a stratum to its rate in [0, 1].
    """

    name = "stratified"

    def __init__(self, rate: float, rates: Mapping[str, float], seed: int = 0) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be > 0 and <= 1, found {rate}")
        for stratum, own in rates.items():
            if not 0 <= own <= 1:
                raise ValueError(f"the rate of stratum {stratum!r} must be >= 0 and <= 1, found {own}")
        self.seed = seed
        self.declared = tuple(rates)
        self.largest_rate = max(rate, *rates.values()) if rates else rate
        # The rate of code -1, any other stratum, stands last, where numpy's index -1 finds it.
        self._rate_of = np.array([*rates.values(), rate], dtype=np.float64)
        self._strata = DeclaredStrata(self.declared)

    def rate_of(self, stratum: Spans) -> Float64s:
        """The rate of each of n strata, float64[n]."""
        return self._rate_of[self._strata.codes(stratum)]

    def decide(self, unit: Spans, stratum: Spans | None) -> Selection:
        """See `RateDesign.decide`; `stratum` is needed."""
        if stratum is None:
            raise ValueError("a stratified design needs the stratum of each record")
        declared = self._strata.codes(stratum)
        probability = self._rate_of[declared]
        return Selection(unit_hash(unit, self.seed) < probability, probability, declared)


def stratum_of(fields: Sequence[Spans]) -> Spans:
    r"""The stratum of n records by one field or several (each n spans).

    One field: its text. Several: joined by "/", with "/" and "\" inside a field escaped by "\", so that no two
    different combinations share a name. A null in any field makes the stratum null.
    """
    if len(fields) == 1:
        return fields[0]
    joined = fields[0]
    for part in fields[1:]:
        joined = _join_two(joined, part, first=joined is fields[0])
    return joined


def _join_two(left: Spans, right: Spans, *, first: bool) -> Spans:
    room = 2 * (np.maximum(left.size, 0).astype(np.int64) + np.maximum(right.size, 0)) + 1
    start = np.cumsum(room) - room
    size = np.empty(len(left), np.int32)
    out = np.empty(int(room.sum()), np.uint8)
    _join(left.buffer, left.start, left.size, right.buffer, right.start, right.size, first, start, size, out)
    return Spans(out, start, size)


@kernel(types.void(U8, I64, I32, U8, I64, I32, types.boolean, I64, I32_OUT, U8_OUT))
def _join(l_buffer, l_start, l_size, r_buffer, r_start, r_size, escape_left, start, size, out):  # type: ignore[no-untyped-def]
    for row in range(len(start)):
        if l_size[row] < 0 or r_size[row] < 0:
            size[row] = -1
            continue
        at = start[row]
        for i in range(l_size[row]):
            byte = l_buffer[l_start[row] + i]
            if escape_left and byte in (_SLASH, _BACKSLASH):
                out[at] = _BACKSLASH
                at += 1
            out[at] = byte
            at += 1
        out[at] = _SLASH
        at += 1
        for i in range(r_size[row]):
            byte = r_buffer[r_start[row] + i]
            if byte in (_SLASH, _BACKSLASH):
                out[at] = _BACKSLASH
                at += 1
            out[at] = byte
            at += 1
        size[row] = at - start[row]
