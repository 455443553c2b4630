"""What changed in a label join between two commits, and its binary form in the changelog.

Binary form, version 1, little-endian:

    magic      4 bytes   "SSLJ"
    version    uint16    1
    reserved   uint16    0
    meta size  uint32    bytes of the meta block
    meta       JSON      {"watermark", "settled_before", "released_before", "needed_until", "targets": [name...],
                          "uses": [[key, target, feedback]...], "known": [[reach, since, until]...], "skew",
                          "sources": [[name, feedback]...],
                          "columns": [[name, dtype, elements]...]}
    columns    raw       each column's elements, in the order of "columns", without padding
    checksum   uint32    CRC-32C of everything before it

A column of byte strings is two columns: `<name>.size` (int32, -1 for null) and `<name>.bytes` (uint8, joined).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.labels.coverage import Gap, Known
from streamsample.labels.ledger import Ledger
from streamsample.records import Int64s, Spans

MAGIC: Final = b"SSLJ"
VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHHI")
_CHECKSUM: Final = struct.Struct("<I")
_REMEDY: Final = "restore from another copy of the changelog, or start anew with `reset`"

Uint64s = NDArray[np.uint64]
Int16s = NDArray[np.int16]
Int8s = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class RowColumns:
    """n predictions, in any order. hash is the upper half of the id's hash. payload is null where the row gives
    no record any more; revision: how many it has given, where it may give more than one.
    """

    offset: Int64s
    index: Int16s
    ts: Int64s
    hash: NDArray[np.uint32]
    schema: Int16s
    split: Int8s
    revision: NDArray[np.int32]
    ids: Spans
    payload: Spans


@dataclass(frozen=True, slots=True)
class WrittenColumns:
    """n rows of older deltas that have given a record since: which, and how many they have given."""

    row_offset: Int64s
    row_index: Int16s
    revision: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class MatchColumns:
    """n matched feedback, each naming its prediction by (row_offset, row_index).

    `use` is an index into `Delta.uses`, `source` into `Delta.sources`. at: when it takes effect.
    """

    row_offset: Int64s
    row_index: Int16s
    use: Int8s
    source: Int8s
    ts: Int64s
    offset: Int64s
    index: Int16s
    feedback_id: Uint64s
    bits: Int64s
    at: Int64s


@dataclass(frozen=True, slots=True)
class WaitingColumns:
    """n feedback whose prediction has not come. mask: bit k set for the k-th use of its feedback.
    originals: the bytes as they were read, null where they are not kept. bits: int64[n * width], `width` values for
    each.
    """

    source: Int8s
    ts: Int64s
    offset: Int64s
    index: Int16s
    feedback_id: Uint64s
    hash: NDArray[np.uint32]
    mask: NDArray[np.uint32]
    ids: Spans
    originals: Spans
    bits: Int64s


@dataclass(frozen=True, slots=True)
class Delta:
    """One commit's change.

    watermark, settled_before: every row with `ts < settled_before` has been settled; with `ts < released_before` it can
    give no record any more. needed_until: a restore whose
    watermark is larger needs none of these rows, matches and waiting feedback. targets: their names. uses: of
    each its key, and the indices of its target and its feedback; known: of each what it can know of rows. sources:
    name and index of its feedback. The ledger is absolute: the newest delta's counts.
    """

    watermark: int
    settled_before: int
    released_before: int
    needed_until: int
    targets: tuple[str, ...]
    uses: tuple[tuple[str, int, int], ...]
    known: tuple[Known, ...]
    skew_ms: int
    sources: tuple[tuple[str, int], ...]
    ledger: Ledger
    rows: RowColumns
    matches: MatchColumns
    written: WrittenColumns
    waiting: WaitingColumns


def encode_delta(delta: Delta) -> bytes:
    """The delta in its binary form."""
    return b"".join(delta_parts(delta))


def delta_parts(delta: Delta) -> list[bytes | memoryview]:
    """The delta in its binary form, in pieces that need not be copied to be written one after another."""
    arrays: dict[str, NDArray[Any]] = {
        "ledger.rows": delta.ledger.rows.reshape(-1),
        "ledger.feedback": delta.ledger.feedback.reshape(-1),
        "ledger.predictions": delta.ledger.predictions,
        "ledger.labels": delta.ledger.labels,
        "ledger.moved": delta.ledger.moved.reshape(-1),
    }
    for name in ("rows", "matches", "written", "waiting"):
        group = getattr(delta, name)
        for column in fields(group):
            value = getattr(group, column.name)
            if isinstance(value, Spans):
                arrays[f"{name}.{column.name}.size"] = value.size
                arrays[f"{name}.{column.name}.bytes"] = _joined(value)
            else:
                arrays[f"{name}.{column.name}"] = value
    meta = {
        "watermark": delta.watermark,
        "settled_before": delta.settled_before,
        "released_before": delta.released_before,
        "needed_until": delta.needed_until,
        "targets": list(delta.targets),
        "uses": [list(use) for use in delta.uses],
        "known": [[known.reach_ms, *known.gap] for known in delta.known],
        "skew": delta.skew_ms,
        "sources": [list(source) for source in delta.sources],
        "columns": [[name, array.dtype.str.lstrip("<|="), len(array)] for name, array in arrays.items()],
    }
    block = json.dumps(meta, separators=(",", ":"), ensure_ascii=False).encode()
    parts: list[bytes | memoryview] = [_HEAD.pack(MAGIC, VERSION, 0, len(block)), block]
    little = (np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for array in arrays.values())
    # A view without elements cannot be cast.
    parts += [memoryview(array).cast("B") for array in little if len(array)]  # type: ignore[arg-type]
    checksum = 0
    for part in parts:
        checksum = crc32c(part, checksum)
    return [*parts, _CHECKSUM.pack(checksum)]


def decode_delta(data: bytes) -> Delta:
    """The delta of a binary form. The columns are read-only views of `data`. Raises StateError when it is damaged."""
    if len(data) < _HEAD.size + _CHECKSUM.size:
        raise StateError(f"a state delta of {len(data)} bytes is cut short", remedy=_REMEDY)
    magic, version, _, meta_size = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise StateError(f"a state delta begins with {magic!r}", remedy=_REMEDY)
    if version != VERSION:
        raise StateError(
            f"a state delta is of version {version}, this program reads version {VERSION}",
            remedy="run the version of streamsample that wrote it, or start anew with `reset`",
        )
    end = len(data) - _CHECKSUM.size
    if crc32c(memoryview(data)[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise StateError("a state delta fails its checksum", remedy=_REMEDY)
    try:
        return _decode_body(data, _HEAD.size, meta_size, end)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise StateError(
            f"a state delta has another structure than its version says: {error!r}", remedy=_REMEDY
        ) from error


def _decode_body(data: bytes, start: int, meta_size: int, end: int) -> Delta:
    """Read meta and columns; ValueError and its like when they do not fit together."""
    meta = json.loads(data[start : start + meta_size])
    at = start + meta_size
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, count in meta["columns"]:
        kind = np.dtype(dtype).newbyteorder("<")
        if kind.hasobject or at + count * kind.itemsize > end:
            raise ValueError(f"column {name} does not fit")
        arrays[name] = np.frombuffer(data, kind, count, at)
        at += count * kind.itemsize
    if at != end:
        raise ValueError(f"{end - at} bytes are left over")
    targets = tuple(str(name) for name in meta["targets"])
    uses = tuple((str(key), int(target), int(feedback)) for key, target, feedback in meta["uses"])
    ledger = Ledger(targets, tuple(target for _, target, _ in uses))
    ledger.rows[:] = arrays["ledger.rows"].reshape(ledger.rows.shape)
    ledger.feedback[:] = arrays["ledger.feedback"].reshape(ledger.feedback.shape)
    ledger.predictions[:] = arrays["ledger.predictions"]
    ledger.labels[:] = arrays["ledger.labels"]
    ledger.moved[:] = arrays["ledger.moved"].reshape(ledger.moved.shape)
    return Delta(
        int(meta["watermark"]),
        int(meta["settled_before"]),
        int(meta["released_before"]),
        int(meta["needed_until"]),
        targets,
        uses,
        tuple(Known(int(reach), Gap(int(since), int(until))) for reach, since, until in meta["known"]),
        int(meta["skew"]),
        tuple((str(name), int(feedback)) for name, feedback in meta["sources"]),
        ledger,
        _group(RowColumns, "rows", arrays),
        _group(MatchColumns, "matches", arrays),
        _group(WrittenColumns, "written", arrays),
        _group(WaitingColumns, "waiting", arrays),
    )


def _group(kind: Any, name: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Build a column group from its arrays; all columns but `bits` of waiting feedback have one length."""
    values: dict[str, Any] = {}
    for column in fields(kind):
        path = f"{name}.{column.name}"
        values[column.name] = _spans(arrays, path) if f"{path}.size" in arrays else arrays[path]
    lengths = {len(value) for key, value in values.items() if key != "bits"}
    if len(lengths) != 1 or (len(values.get("bits", ())) % max(1, *lengths)):
        raise ValueError(f"the columns of {name} differ in length")
    return kind(**values)


def _spans(arrays: dict[str, NDArray[Any]], path: str) -> Spans:
    size, joined = arrays[f"{path}.size"], arrays[f"{path}.bytes"]
    room = np.maximum(size, 0).astype(np.int64)
    end = np.cumsum(room)
    if (end[-1] if len(end) else 0) != len(joined):
        raise ValueError(f"the sizes of {path} do not add up to its bytes")
    return Spans(joined, end - room, size)


def _joined(spans: Spans) -> NDArray[np.uint8]:
    """The bytes of contiguous spans (a delta's are); others are packed first."""
    room = np.maximum(spans.size, 0).astype(np.int64)
    total = int(room.sum())
    if total == len(spans.buffer) and (not len(room) or bool((spans.start == np.cumsum(room) - room)[room > 0].all())):
        return spans.buffer
    return Spans.of(spans.to_list()).buffer
