"""XXH64 over columns: the one hash behind sampling, splitting and the index of open rows.

Source: the XXH64 specification, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, so that anybody can
recompute every decision from a record and its seed.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I32, I64, U8, U64, U64_OUT, borrow, inline, inline_always, kernel, load_u64, one_by_one
from streamsample.records import Float64s, Int64s, Spans

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@inline
def _rotate(x, r):  # type: ignore[no-untyped-def]
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@inline
def _round(acc, word):  # type: ignore[no-untyped-def]
    return _rotate(acc + word * _P2, 31) * _P1


@inline
def xxh64(buffer, start, size, seed):  # type: ignore[no-untyped-def]
    """XXH64 of buffer[start : start + size] with a uint64 seed; for use inside kernels."""
    at = np.int64(start)
    end = at + np.int64(size)
    if size >= 32:
        v1 = seed + _P1 + _P2
        v2 = seed + _P2
        v3 = seed
        v4 = seed - _P1
        while at + 32 <= end:
            v1 = _round(v1, load_u64(buffer, at))
            v2 = _round(v2, load_u64(buffer, at + 8))
            v3 = _round(v3, load_u64(buffer, at + 16))
            v4 = _round(v4, load_u64(buffer, at + 24))
            at += 32
        h = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
        for v in (v1, v2, v3, v4):
            h = (h ^ _round(np.uint64(0), v)) * _P1 + _P4
    else:
        h = seed + _P5
    h += np.uint64(size)
    while at + 8 <= end:
        h = _rotate(h ^ _round(np.uint64(0), load_u64(buffer, at)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        word = np.uint64(0)
        for i in range(4):
            word |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
        h = _rotate(h ^ (word * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(buffer[at]) * _P5), 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@kernel(types.void(U8, I64, I32, types.uint64, U64_OUT))
def _hash_spans(buffer, start, size, seed, out):  # type: ignore[no-untyped-def]
    buffer = borrow(buffer)
    for row in range(len(start)):
        out[row] = xxh64(buffer, start[row], max(size[row], 0), seed)


@kernel(types.void(U64, types.uint64, U64_OUT))
def _hash_words(words, seed, out):  # type: ignore[no-untyped-def]
    """What `xxh64` does for eight bytes, without its branches."""
    for row in range(len(words)):
        h = seed + _P5 + np.uint64(8)
        h = _rotate(h ^ _round(np.uint64(0), one_by_one(words[row])), 27) * _P1 + _P4
        h = (h ^ (h >> np.uint64(33))) * _P2
        h = (h ^ (h >> np.uint64(29))) * _P3
        out[row] = h ^ (h >> np.uint64(32))


def compiled_before() -> bool:
    """Whether numba's cache has this module's kernels for this machine; if not, those of others are missing too."""
    return bool(_hash_spans.was_cached)


def hash64(spans: Spans, seed: int) -> NDArray[np.uint64]:
    """XXH64 of each element, uint64[n]. A null hashes as the empty string: tell nulls apart before.

    `seed` is taken modulo 2**64.
    """
    out = np.empty(len(spans), np.uint64)
    _hash_spans(spans.buffer, spans.start, spans.size, np.uint64(seed % 2**64), out)
    return out


def hash64_of_integers(values: Int64s, seed: int) -> NDArray[np.uint64]:
    """XXH64 of each number's eight bytes, little-endian, uint64[n]. `seed` is taken modulo 2**64."""
    out = np.empty(len(values), np.uint64)
    _hash_words(np.ascontiguousarray(values).view(np.uint64), np.uint64(seed % 2**64), out)
    return out


@inline_always
def unit_of(word):  # type: ignore[no-untyped-def]
    """`unit_interval` of one hash, for use inside kernels."""
    return (np.float64(word >> np.uint64(12)) + 0.5) * 2.0**-52


def unit_interval(hashes: NDArray[np.uint64]) -> Float64s:
    """Map hashes to float64 in the open interval (0, 1): the middle of one of 2**52 equal cells."""
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def salted(seed: int, salt: str) -> int:
    """A seed of its own for each use of a hash, so that independent decisions do not share their randomness."""
    return int(hash64(Spans.of([salt.encode()]), seed)[0])
