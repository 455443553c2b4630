"""What a task's changelog chunks hold, and which of them are still needed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeVar

import msgspec
import numpy as np

from streamsample.errors import StateError
from streamsample.formats.projection import WriterSchema
from streamsample.kafka.changelog import ChangelogPosition, StoredChunk
from streamsample.labels import Delta, JoinSettings, decode_delta
from streamsample.labels.delta import Int16s
from streamsample.labels.watermark import WatermarkState
from streamsample.records import TopicPartition

_HEAD_SIZE = struct.Struct(">I")
_NEVER = -(2**62)
_FOREVER = 2**62
"""Needed until it is written again."""
ALL_ROWS = 2**63 - 1
"""As the largest offset of a row: of all that there are."""
RESET = "start over with `streamsample reset JOB`, which forgets the open rows and reads the inputs again"


Head = TypeVar("Head", bound=msgspec.Struct)


class SchemaName(msgspec.Struct, frozen=True, array_like=True):
    """A writer schema of the input: its id (None: values are bare) and a digest of the features that are spliced."""

    id: int | None
    digest: str


class DrawDelta(msgspec.Struct, frozen=True, array_like=True):
    """What changed in what a design by rate remembers. elements: how many of them a restore needs until they are
    written again; data: see `sampling.memory`.
    """

    elements: int
    data: bytes


class ReceivedState(msgspec.Struct, frozen=True, array_like=True):
    """What a task knows of what others have sent to it. heard: of each origin the next offset, and from which event
    time on it was readable; released: see `in_order`; begins_at: where a restart must read on, by topic, if that is
    before its position.
    """

    heard: dict[str, tuple[int, int]]
    released: int
    begins_at: dict[str, int]


class ChunkBody(msgspec.Struct, frozen=True, array_like=True):
    """One chunk: everything small as it is now, and the join's delta.

    Binary form: the size of what follows (uint32, big-endian), all but `step` as MessagePack, then `step`.

    shape: `Job.state_shape`; parts: `Job.state_parts`; partitions: how many partition numbers the job had;
    positions: the next offset by topic; covered_from: from which event time each feedback was readable; counts: the
    task's own counters; schemas: what the rows' schema numbers mean in this chunk, by id and by what their features
    look like; draws: what changed in designs by rate that remember, by their keys in the job file; sent: how far the
    origins have come that the task reads for others; received: what it knows of those that others read for it (see
    `rekey`); step: what changed in the join (see `labels.delta`) or in a windowed sample (see
    `sampling.window_delta`).
    """

    shape: str
    parts: dict[str, str]
    partitions: int
    positions: dict[str, int]
    watermark: WatermarkState
    covered_from: dict[str, int]
    start_ms: int | None
    counts: dict[str, int]
    schemas: list[SchemaName]
    draws: dict[str, DrawDelta]
    sent: WatermarkState | None
    received: ReceivedState
    step: bytes


def schema_name(schema: WriterSchema) -> SchemaName:
    """What a writer schema is called in the state."""
    features = json.dumps(schema.features, sort_keys=True, default=str)
    return SchemaName(schema.id, hashlib.sha256(features.encode()).hexdigest()[:16])


def encode_body(body: ChunkBody, step: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The body in its binary form, with `step` in place of its own; in pieces, for they are large."""
    return [framed(replace_step(body, b"")), *step]


def framed(head: msgspec.Struct) -> bytes:
    """The size of `head` (uint32, big-endian) and `head` as MessagePack, for something to follow."""
    data = msgspec.msgpack.encode(head)
    return _HEAD_SIZE.pack(len(data)) + data


def unframed(data: bytes, head: type[Head]) -> tuple[Head, bytes]:
    """The head, and what follows. Raises msgspec.DecodeError or struct.error if there is none."""
    end = _HEAD_SIZE.size + _HEAD_SIZE.unpack_from(data)[0]
    return msgspec.msgpack.decode(data[_HEAD_SIZE.size : end], type=head), data[end:]


def decode_body(chunk: StoredChunk, changelog: TopicPartition) -> ChunkBody:
    """Raises StateError if the chunk is not one of this version."""
    try:
        body, step = unframed(chunk.body, ChunkBody)
    except (msgspec.DecodeError, struct.error) as error:
        raise StateError(
            f"{changelog}@{chunk.offset}: chunk {chunk.sequence} cannot be read: {error}", remedy=RESET
        ) from error
    return replace_step(body, step)


def replace_step(body: ChunkBody, step: bytes) -> ChunkBody:
    """The same body with another delta."""
    return msgspec.structs.replace(body, step=step)


def check_body(body: ChunkBody, shape: str, parts: Mapping[str, str], partitions: int, where: TopicPartition) -> None:
    """Raises StateError if the state was made by a job of another shape, or with another number of partitions."""
    changed = [name for name, digest in parts.items() if body.parts.get(name, digest) != digest]
    if body.shape != shape:
        changed.insert(0, "the input's topic, id, time or format, the features, the sample or the split")
    if changed:
        raise StateError(
            f"{where}: the state was made by a job of another shape; changed since: {', '.join(changed)}",
            remedy=f"take the change back, give what has changed (or the job) another name, or {RESET}",
        )
    if body.partitions != partitions:
        raise StateError(
            f"{where}: the state was made with {body.partitions} partitions, the input has {partitions} now: ids lie "
            "elsewhere",
            remedy=f"go back to {body.partitions} partitions, or {RESET}",
        )


@dataclass(frozen=True, slots=True)
class Logged:
    """What a chunk holds for a restore. needed_until: up to which watermark; elements: how many rows, matches and
    feedback, or candidates and groups; last_row: the largest offset of a row of the join, -1 without any.
    """

    needed_until: int = _NEVER
    elements: int = 0
    last_row: int = -1

    def beside(self, draws: Mapping[str, DrawDelta]) -> Logged:
        """The same with what the chunk holds of designs by rate."""
        elements = sum(delta.elements for delta in draws.values())
        return replace(self, needed_until=_FOREVER, elements=self.elements + elements) if elements else self

    @staticmethod
    def of_join(delta: Delta, needed_until: int = _NEVER) -> Logged:
        """Of a join's delta. needed_until: if that is later than the delta says."""
        rows = delta.rows.offset
        elements = len(rows) + len(delta.matches.offset) + len(delta.waiting.offset)
        needed = max(delta.needed_until, needed_until) if elements or len(delta.written.row_offset) else _NEVER
        return Logged(needed, elements, int(rows.max()) if len(rows) else -1)


@dataclass(frozen=True, slots=True)
class _Chunk:
    sequence: int
    offset: int
    size_bytes: int
    holds: Logged


class ChunkLog:
    """The chunks of one task that a restore would read, oldest first.

    A chunk is needed until the watermark has passed everything in it; so a log of rows that close in about the order
    in which they came cleans itself. Where a few long-lived elements keep old chunks alive, so that the log holds more
    than twice what is open, the rows of the older half are written again (`stale_rows`) and the old chunks go.
    """

    _SLACK = 50_000
    """Elements that a log may hold beside twice the open ones: below that a rewrite is not worth its work."""

    def __init__(self) -> None:
        self._chunks: deque[_Chunk] = deque()
        self.next_sequence = 0
        self._rewritten_to: int | None = None

    @property
    def size_bytes(self) -> int:
        """What a restore would read."""
        return sum(chunk.size_bytes for chunk in self._chunks)

    @property
    def elements(self) -> int:
        """What a restore would take up."""
        return sum(chunk.holds.elements for chunk in self._chunks)

    @property
    def first_offset(self) -> int | None:
        """Records of the changelog before this offset are not needed. None before the first chunk."""
        return self._chunks[0].offset if self._chunks else None

    def add(self, sequence: int, offset: int, size_bytes: int, logged: Logged) -> None:
        """Note a chunk that is (about to be) stored at `offset`."""
        self._chunks.append(_Chunk(sequence, offset, size_bytes, logged))
        self.next_sequence = sequence + 1
        if self._rewritten_to is not None:
            while self._chunks and self._chunks[0].sequence <= self._rewritten_to:
                self._chunks.popleft()
            self._rewritten_to = None

    def trim(self, watermark: int) -> None:
        """Forget the oldest chunks that nothing needs any more. The newest always stays: it holds the positions."""
        while len(self._chunks) > 1 and self._chunks[0].holds.needed_until < watermark:
            self._chunks.popleft()

    def stale_rows(self, live_elements: int, *, whole: bool = False) -> int | None:
        """If the log holds more than twice the live elements: the largest offset of a row in its older half, to be
        written again with the next chunk. The chunks of that half go when it is added. whole: of all of them.
        """
        held = self.elements
        if held <= 2 * live_elements + self._SLACK:
            return None
        if whole:
            self._rewritten_to = self._chunks[-1].sequence
            return ALL_ROWS
        older, last_row = 0, -1
        for chunk in self._chunks:
            older += chunk.holds.elements
            last_row = max(last_row, chunk.holds.last_row)
            self._rewritten_to = chunk.sequence
            if older * 2 >= held:
                break
        return last_row

    def chunks(self) -> list[tuple[int, ...]]:
        """What is known of each chunk, for `take_up`."""
        return [(each.sequence, each.offset, each.size_bytes, *astuple(each.holds)) for each in self._chunks]

    def take_up(self, chunks: Sequence[Sequence[int]]) -> None:
        """Know these chunks, in an empty log."""
        for sequence, offset, size_bytes, *holds in chunks:
            self.add(sequence, offset, size_bytes, Logged(*holds))

    def position(self) -> ChangelogPosition:
        """What the committed offset must say. At least one chunk must have been added."""
        first, last = self._chunks[0], self._chunks[-1]
        return ChangelogPosition(last.sequence, first.sequence, first.offset)


def needed_until(settings: JoinSettings, deltas: Sequence[Delta]) -> list[int]:
    """Until which watermark a join with these settings needs each of the deltas of a restore.

    The windows may be longer than those that the deltas were made with. Matches are needed as long as their rows; those
    of rows that are in none of the deltas not at all.
    """
    offsets = np.concatenate([np.empty(0, np.int64), *(delta.rows.offset for delta in deltas)])
    times = np.concatenate([np.empty(0, np.int64), *(delta.rows.ts for delta in deltas)])
    order = np.lexsort((times, offsets))
    offsets, times = offsets[order], times[order]
    needed = []
    for delta in deltas:
        rows = [delta.rows.ts]
        for named in (delta.matches.row_offset, delta.written.row_offset) if len(offsets) else ():
            at = np.searchsorted(offsets, named, side="right") - 1
            rows.append(times[at[offsets[at] == named]])
        latest = [int(part.max()) + settings.reach_ms + settings.hold_ms for part in rows if len(part)]
        if len(delta.waiting.ts):
            latest.append(int(delta.waiting.ts.max()) + settings.wait_ms)
        needed.append(max(latest, default=_NEVER))
    return needed


def delta_of(body: ChunkBody, schemas: Sequence[SchemaName], where: TopicPartition) -> Delta:
    """The join's part of a chunk, its rows' schemas numbered as in `schemas`.

    Raises StateError if it is damaged, or has rows of a schema that is gone or has changed.
    """
    delta = decode_delta(body.step)
    schema = renumbered(delta.rows.schema, body.schemas, schemas, where)
    return replace(delta, rows=replace(delta.rows, schema=schema))


def renumbered(
    rows: Int16s, named: Sequence[SchemaName], schemas: Sequence[SchemaName], where: TopicPartition
) -> Int16s:
    """The schema numbers of rows, int16[n], that count in `named`, as they count in `schemas`.

    Raises StateError if there are rows of a schema that is gone or has changed.
    """
    if list(named) == list(schemas):
        return rows
    number = np.array([schemas.index(name) if name in schemas else -1 for name in named], np.int16)
    found: Int16s = number[rows]
    if (found < 0).any():
        lost = named[int(rows[np.argmax(found < 0)])]
        raise StateError(
            f"{where}: rows are open whose schema (id {lost.id}) input.schema_files no longer has as it was",
            remedy=f"list that schema again until they are settled, or {RESET}",
        )
    return found
