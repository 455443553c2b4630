"""What a row carries besides its features, and its name.

While a prediction is open, the join keeps its payload unseen. The payload is the features' bytes and behind them what
the sampling design said when the row was drawn: the stratum's name, π, and the name's length. So π is the one that was
in force at the draw, whatever the job file says when the window closes, and no table of strata must be kept.

A sampled payload: features, stratum (s bytes), π (float64, little-endian), s + 1 or 0 for no stratum (uint32,
little-endian).
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamsample.hashing import salted, xxh64
from streamsample.kernels import I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, borrow, copy_bytes, kernel
from streamsample.records import Bytes, Float64s, Int64s, Spans

_TAIL = 12


def pack(features: Spans, stratum: Spans | None, probability: Float64s) -> Spans:
    """The payloads of m sampled rows. stratum: m spans or None; probability: float64[m]. A fresh buffer, contiguous."""
    named = Spans.nulls(len(features)) if stratum is None else stratum
    size = features.size + np.maximum(named.size, 0) + np.int32(_TAIL)
    start = np.cumsum(size, dtype=np.int64) - size
    out = np.empty(int(size.sum(dtype=np.int64)), np.uint8)
    tails = probability.view(np.uint8)
    _pack(
        *(features.buffer, features.start, features.size),
        *(named.buffer, named.start, named.size),
        *(tails, start, out),
    )
    return Spans(out, start, size)


def unpack(payload: Spans) -> tuple[Spans, Spans, Float64s]:
    """The features, strata and π of m sampled payloads, over the same buffer."""
    count = len(payload)
    features_size = np.empty(count, np.int32)
    stratum_start = np.empty(count, np.int64)
    stratum_size = np.empty(count, np.int32)
    tails = np.empty(count * 8, np.uint8)
    _unpack(payload.buffer, payload.start, payload.size, features_size, stratum_start, stratum_size, tails)
    features = Spans(payload.buffer, payload.start, features_size)
    return features, Spans(payload.buffer, stratum_start, stratum_size), tails.view(np.float64)


@kernel(types.void(U8, I64, I32, U8, I64, I32, U8, I64, U8_OUT))
def _pack(f_buffer, f_start, f_size, s_buffer, s_start, s_size, tails, start, out):  # type: ignore[no-untyped-def]
    for row in range(len(start)):
        at = start[row]
        copy_bytes(out, at, f_buffer, f_start[row], np.int64(f_size[row]))
        at += f_size[row]
        named = np.int64(max(s_size[row], 0))
        copy_bytes(out, at, s_buffer, s_start[row], named)
        at += named
        copy_bytes(out, at, tails, np.int64(row * 8), np.int64(8))
        length = np.uint32(s_size[row] + 1)
        for i in range(4):
            out[at + 8 + i] = (length >> np.uint32(8 * i)) & np.uint32(0xFF)


@kernel(types.void(U8, I64, I32, I32_OUT, I64_OUT, I32_OUT, U8_OUT))
def _unpack(buffer, start, size, features_size, stratum_start, stratum_size, tails):  # type: ignore[no-untyped-def]
    for row in range(len(start)):
        tail = start[row] + size[row] - _TAIL
        copy_bytes(tails, np.int64(row * 8), buffer, tail, np.int64(8))
        length = np.uint32(0)
        for i in range(4):
            length |= np.uint32(buffer[tail + 8 + i]) << np.uint32(8 * i)
        named = np.int64(length) - 1
        stratum_size[row] = named
        stratum_start[row] = tail - max(named, 0)
        features_size[row] = size[row] - _TAIL - max(named, 0)


class RecordIds:
    """record_id: 128 bits from the job's name, the prediction's id and its time (two XXH64 with independent keys).

    The same prediction has the same record_id in every run, every version of the job file and every backfill.
    """

    def __init__(self, job: str) -> None:
        self._high = np.uint64(salted(0, f"record_id/high/{job}"))
        self._low = np.uint64(salted(0, f"record_id/low/{job}"))

    def of(self, ids: Spans, times: Int64s) -> Bytes:
        """uint8[m, 16] of m predictions. ids: m spans, no nulls; times: int64[m] in ms."""
        out = np.empty(len(ids) * 16, np.uint8)
        _record_ids(ids.buffer, ids.start, ids.size, times, self._high, self._low, out)
        return out.reshape(-1, 16)


@kernel(types.void(U8, I64, I32, I64, types.uint64, types.uint64, U8_OUT))
def _record_ids(buffer, start, size, times, high, low, out):  # type: ignore[no-untyped-def]
    buffer = borrow(buffer)
    for row in range(len(start)):
        moment = np.uint64(times[row]) * np.uint64(0x9E3779B185EBCA87)
        first = xxh64(buffer, start[row], size[row], high ^ moment)
        second = xxh64(buffer, start[row], size[row], low + moment)
        for i in range(8):
            shift = np.uint64(56 - 8 * i)
            out[row * 16 + i] = (first >> shift) & np.uint64(0xFF)
            out[row * 16 + 8 + i] = (second >> shift) & np.uint64(0xFF)
