"""Decompression of record batches, bounded: a batch that unfolds beyond a limit is an error, not an allocation."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cramjam
import lz4.frame
import zstandard

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_LZ4_MAX_RATIO = 255  # one length byte of a match stands for at most 255 bytes
_ZSTD_UNKNOWN_SIZE = -1


class DecompressionError(Exception):
    """The compressed data are damaged, or unfold beyond the limit."""


def decompress(codec: int, data: memoryview, limit: int) -> bytes | bytearray:
    """The uncompressed form of `data`.

    codec: 1 gzip, 2 snappy (raw, or in xerial's framing), 3 lz4 frame, 4 zstd, as in a batch's attributes.
    limit: the most bytes that may come out. Raises DecompressionError for damage and for more than `limit`.
    """
    unfold = _CODECS.get(codec)
    if unfold is None:
        raise DecompressionError(f"unknown compression type {codec}")
    try:
        return unfold(data, limit)
    except (
        cramjam.DecompressionError,
        zlib.error,
        zstandard.ZstdError,
        RuntimeError,  # lz4
        EOFError,
        ValueError,
        struct.error,
    ) as error:
        raise DecompressionError(f"cannot be decompressed: {error}") from error


def _too_large(limit: int) -> DecompressionError:
    return DecompressionError(f"unfolds to more than the limit of {limit} bytes")


def _gzip(data: memoryview, limit: int) -> bytes:
    parts = []
    room = limit
    rest: bytes | memoryview = data
    while rest:  # members may follow one another
        unfolder = zlib.decompressobj(wbits=31)
        part = unfolder.decompress(rest, room + 1)
        if len(part) > room:
            raise _too_large(limit)
        if not unfolder.eof:
            raise DecompressionError("ends inside a gzip member")
        room -= len(part)
        parts.append(part)
        rest = unfolder.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _snappy(data: memoryview, limit: int) -> bytearray:
    if len(data) > _XERIAL_HEADER and data[:8] == _XERIAL_MAGIC:
        blocks = _xerial_blocks(data)
    else:
        blocks = [data]
    sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
    total = sum(sizes)
    if total > limit:
        raise _too_large(limit)
    out = bytearray(total)
    view = memoryview(out)
    at = 0
    for block, size in zip(blocks, sizes, strict=True):
        if size and cramjam.snappy.decompress_raw_into(block, view[at : at + size]) != size:
            raise DecompressionError("a snappy block is shorter than it says")
        at += size
    return out


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    blocks = []
    at = _XERIAL_HEADER
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if size < 0 or at + size > len(data):
            raise DecompressionError("a snappy block reaches beyond the batch")
        blocks.append(data[at : at + size])
        at += size
    return blocks


def _lz4(data: memoryview, limit: int) -> bytes:
    if len(data) < 7 or data[:4] != _LZ4_MAGIC:
        raise DecompressionError("is not an lz4 frame")
    most = min(limit, _LZ4_MAX_RATIO * len(data))
    if data[4] & 8:  # the frame states its size, and the library would allocate what it states
        stated = int.from_bytes(data[6:14], "little")
        if stated > most:
            raise _too_large(most)
    elif most == limit:
        unfolder = lz4.frame.LZ4FrameDecompressor()
        part: bytes = unfolder.decompress(data, max_length=limit)
        if not unfolder.eof:
            raise _too_large(limit)
        return part
    whole: bytes = lz4.frame.decompress(data)
    return whole


def _zstd(data: memoryview, limit: int) -> bytes:
    stated = zstandard.frame_content_size(data)
    if stated > limit:
        raise _too_large(limit)
    parts = []
    total = 0
    step = stated + 1 if stated != _ZSTD_UNKNOWN_SIZE else max(1 << 16, 8 * len(data))
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        while part := reader.read(step):
            total += len(part)
            if total > limit:
                raise _too_large(limit)
            parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_CODECS: dict[int, Callable[[memoryview, int], bytes | bytearray]] = {
    GZIP: _gzip,
    SNAPPY: _snappy,
    LZ4: _lz4,
    ZSTD: _zstd,
}
