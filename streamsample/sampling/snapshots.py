"""The binary form of a sampling state: what it is, numbers by name, arrays, a checksum.

    magic "SSMP", version (uint8), size of the head (uint32); the head as MessagePack; the arrays as they lie in memory,
    little-endian; CRC-32C of all of it (uint32)

The same state gives the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from streamsample.errors import StateError

_MAGIC, _VERSION = b"SSMP", 1
_BEGIN = struct.Struct("<4sBI")
_CHECKSUM = struct.Struct("<I")
REMEDY = "take an older snapshot, or sample the input again from its beginning: the sample will be the same"


class _Head(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    shape: list[Any]
    fields: dict[str, Any]
    arrays: list[int]


def pack(kind: str, shape: Sequence[Any], fields: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    """One state. kind: whose; shape: the parameters that whoever restores it must have too, plain values."""
    contents = [np.ascontiguousarray(array).tobytes() for array in arrays]
    head = msgspec.msgpack.encode(_Head(kind, list(shape), fields, [len(content) for content in contents]))
    data = b"".join([_BEGIN.pack(_MAGIC, _VERSION, len(head)), head, *contents])
    return data + _CHECKSUM.pack(crc32c(data))


def unpack(
    kind: str, shape: Sequence[Any], data: bytes, dtypes: Sequence[np.dtype[Any]]
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The fields and arrays (copies, of one dimension) of `pack`.

    Raises StateError if the data is damaged, or of another kind, shape or version.
    """
    if len(data) < _BEGIN.size + _CHECKSUM.size:
        raise StateError(f"a sampling state of {len(data)} bytes is cut short", remedy=REMEDY)
    magic, version, head_size = _BEGIN.unpack_from(data)
    if magic != _MAGIC:
        raise StateError(f"a sampling state begins with {magic!r}", remedy=REMEDY)
    if version != _VERSION:
        raise StateError(
            f"a sampling state of version {version}, this program reads {_VERSION}",
            remedy="use the program that wrote it, or sample the input again",
        )
    end = len(data) - _CHECKSUM.size
    if crc32c(memoryview(data)[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise StateError(f"a sampling state of {len(data)} bytes fails its checksum", remedy=REMEDY)
    try:
        head = msgspec.msgpack.decode(data[_BEGIN.size : _BEGIN.size + head_size], type=_Head)
    except msgspec.MsgspecError as error:
        raise StateError(f"a sampling state cannot be read: {error}", remedy=REMEDY) from error
    if (head.kind, head.shape) != (kind, list(shape)):
        raise StateError(
            f"a sampling state of {head.kind} {head.shape} cannot go on as {kind} {list(shape)}",
            remedy="keep the design and its parameters, or sample the input again",
        )
    at = _BEGIN.size + head_size
    if len(head.arrays) != len(dtypes) or at + sum(head.arrays) != end:
        raise StateError("a sampling state does not have the arrays it names", remedy=REMEDY)
    arrays = []
    for size, dtype in zip(head.arrays, dtypes, strict=True):
        arrays.append(np.frombuffer(data[at : at + size], dtype).copy())
        at += size
    return head.fields, arrays
