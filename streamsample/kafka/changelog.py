"""The changelog: what a task's state is rebuilt from, in a topic of the job's own.

At each commit a task writes one *chunk*: the delta of its state, compressed, cut into parts of at most half the topic's
max.message.bytes, each a record with the chunk's sequence number and its place among the parts. The committed offset's
metadata (a `ChangelogPosition`) names the last chunk and the first one still needed; so a restore seeks to the first
and is done only when it has read the last. An end offset would not do: it can lie behind another worker's open
transaction.

A part, big-endian: magic "SSC1" (4 bytes), sequence uint64, part uint32, parts uint32, then a Zstandard frame, with its
content's size and checksum. The contents joined are the chunk: one of many MiB is packed piece by piece, in memory that
stays in the processor's cache.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zstandard

from streamsample.errors import ChangelogGapError, StateError
from streamsample.records import RecordBatch, Spans, TopicPartition

_HEADER = struct.Struct(">4sQII")
_MAGIC = b"SSC1"
_POSITION = re.compile(r"streamsample/1 last=(\d+) first=(\d+) offset=(\d+)")
_RECORD_OVERHEAD_BYTES = 256
CHUNK_BYTES_MAX = 2**31 - 1
_LEVEL = -10
"""Of Zstandard. Columns of rows of 150 bytes: 1.1 GB/s to 0.67 of their size; level 1 has 0.4 GB/s and 0.42."""


@dataclass(frozen=True, slots=True)
class ChangelogPosition:
    """What a committed offset says of the changelog: the last chunk, the first one needed, and the offset that one
    begins at.
    """

    last: int
    first: int
    offset: int

    def __str__(self) -> str:
        return f"streamsample/1 last={self.last} first={self.first} offset={self.offset}"

    @staticmethod
    def parse(text: str, where: TopicPartition) -> ChangelogPosition | None:
        """Read a committed offset's metadata; None if it is empty (a task without state, or another tool's commit).

        Raises StateError if there is something else in it.
        """
        if not text:
            return None
        found = _POSITION.fullmatch(text)
        if found is None:
            raise StateError(
                f"{where}: the committed offset's metadata is not of this version: {text[:80]!r}",
                remedy="run the version that wrote it, or start over with `streamsample reset JOB`",
            )
        last, first, offset = map(int, found.groups())
        return ChangelogPosition(last, first, offset)


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it was read back. offset: of its first part; size_bytes: of all its parts in the log, before Kafka's
    own overhead.
    """

    sequence: int
    offset: int
    size_bytes: int
    body: bytes


def pack_chunk(sequence: int, body: Sequence[bytes | memoryview], message_bytes_max: int) -> Iterator[bytes]:
    """The parts of a chunk with the bytes of `body`, none larger than half of `message_bytes_max`.

    Raises StateError if the chunk is beyond 2 GiB, which a restore does not take.
    """
    size = sum(map(len, body))
    if size > CHUNK_BYTES_MAX:
        raise StateError(
            f"a commit changed {size:,} bytes of state, more than a chunk can hold",
            remedy="commit more often (commit_interval)",
        )
    room = max(message_bytes_max // 2 - _RECORD_OVERHEAD_BYTES, 1024)
    # What cannot be compressed grows by 1/256 and 90 bytes at most (ZSTD_COMPRESSBOUND, and the frame's checksum).
    step = room - room // 128 - 128
    count = max(1, -(-size // step))
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    for part, piece in enumerate(_pieces(body, size, step)):
        yield _HEADER.pack(_MAGIC, sequence, part, count) + packer.compress(piece)


def _pieces(body: Sequence[bytes | memoryview], size: int, step: int) -> Iterator[bytearray | memoryview]:
    """The `size` bytes of `body` in pieces of `step`, the last one shorter; at least one. A piece that lies in one of
    them is not copied.
    """
    joined = bytearray()
    for part in body:
        view, at = memoryview(part), 0
        while at < len(view):
            end = min(at + step - len(joined), len(view))
            if not joined and end - at == step:
                yield view[at:end]
            else:
                joined += view[at:end]
            at = end
            if len(joined) == step:
                yield joined
                joined = bytearray()
    if joined or not size:
        yield joined


class ChunkPacking:
    """`pack_chunk`, to be done later. size_bytes: of all parts, once it is done."""

    def __init__(self, sequence: int, body: Sequence[bytes | memoryview], message_bytes_max: int) -> None:
        self.sequence = sequence
        self.body_bytes = sum(map(len, body))
        self.size_bytes = 0
        self._body = body
        self._message_bytes_max = message_bytes_max

    def __call__(self) -> Iterator[Spans]:
        """The parts, some at a time. Raises StateError as `pack_chunk` does."""
        ready: list[bytes] = []
        room = self._message_bytes_max // 2
        for part in pack_chunk(self.sequence, self._body, self._message_bytes_max):
            self.size_bytes += len(part)
            ready.append(part)
            room -= len(part)
            if room < 0:
                yield Spans.of(ready)
                ready, room = [], self._message_bytes_max // 2
        if ready:
            yield Spans.of(ready)


class ChunkReader:
    """Puts chunks together again from record batches, in order, and knows when the last one has come."""

    def __init__(self, source: TopicPartition, position: ChangelogPosition) -> None:
        self._source = source
        self._position = position
        self._next = position.first
        self._parts: list[bytes] = []
        self._offset = position.offset

    @property
    def done(self) -> bool:
        """Whether the last chunk has been read whole."""
        return self._next > self._position.last

    @property
    def progress(self) -> float:
        """The share of chunks read, 0 to 1."""
        return (self._next - self._position.first) / (self._position.last - self._position.first + 1)

    def read(self, batch: RecordBatch) -> Iterator[StoredChunk]:
        """The chunks that `batch` completes. Chunks after the last (another's, uncommitted when ours was) are not read.

        Raises ChangelogGapError if a part or a chunk is missing, StateError if one is damaged.
        """
        for row in range(len(batch)):
            if self.done:
                return
            value = batch.values[row] or b""
            offset = int(batch.offsets[row])
            sequence, part, count = self._header(value, offset)
            if sequence < self._next:
                continue
            if sequence != self._next or part != len(self._parts):
                raise ChangelogGapError(
                    f"{self._source}@{offset}: found part {part} of chunk {sequence}, expected part "
                    f"{len(self._parts)} of chunk {self._next}",
                    remedy="records of the changelog are missing; rebuild the state with `streamsample reset JOB`, "
                    "which reads the inputs again",
                )
            if part == 0:
                self._offset = offset
            self._parts.append(value[_HEADER.size :])
            if part + 1 == count:
                yield self._complete(sequence)

    def _header(self, value: bytes, offset: int) -> tuple[int, int, int]:
        if len(value) >= _HEADER.size:
            magic, sequence, part, count = _HEADER.unpack_from(value)
            if magic == _MAGIC and part < count:
                return sequence, part, count
        raise StateError(
            f"{self._source}@{offset}: this record is not a part of a changelog chunk",
            remedy="nothing but streamsample may write to the changelog; rebuild it with `streamsample reset JOB`",
        )

    def _complete(self, sequence: int) -> StoredChunk:
        frames, self._parts = self._parts, []
        self._next = sequence + 1
        try:
            if sum(map(zstandard.frame_content_size, frames)) > CHUNK_BYTES_MAX:
                raise zstandard.ZstdError("a chunk cannot be so large")
            unpacker = zstandard.ZstdDecompressor()
            body = b"".join(map(unpacker.decompress, frames))
        except zstandard.ZstdError as error:
            raise StateError(
                f"{self._source}@{self._offset}: chunk {sequence} is damaged: {error}",
                remedy="rebuild the state with `streamsample reset JOB`",
            ) from error
        return StoredChunk(sequence, self._offset, sum(map(len, frames)), body)
