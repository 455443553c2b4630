"""From the bytes of a fetch to columns: record batches of format v2, decoded by kernels.

`FetchedBatches` holds what one fetch brought of one partition and gives it out as `RecordBatch`es. It knows the format
only, not the client library. No Python object is made per record; per batch there is a checksum and, if compressed,
a decompression.

Source of the format: https://kafka.apache.org/documentation/#messageformat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from numba import types
from numpy.typing import NDArray

from streamsample.errors import CorruptRecordError
from streamsample.kafka.decompress import DecompressionError, decompress
from streamsample.kernels import I32_OUT, I64, I64_OUT, U8, borrow, inline, kernel
from streamsample.records import Bytes, RecordBatch, Spans

MAX_BATCH_BYTES = 512 * 1024 * 1024
"""The most bytes that one batch may decompress to."""

HEADER_BYTES = 61
_CHECKED_FROM = 21
_LEAST_BATCH = 26  # of the oldest format
_LEAST_RECORD = 7

_START, _END, _BASE, _LAST, _ATTRIBUTES, _FIRST_TIME, _MAX_TIME, _PRODUCER, _COUNT, _MAGIC, _CRC, _EPOCH = range(12)
_FIELDS = 12

_CODEC = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20

_GOOD, _BAD_LENGTH, _CUT_OFF, _BAD_MAGIC, _BAD_OFFSETS = range(5)
_BAD_COUNT, _BAD_RECORD_LENGTH, _BAD_VARINT, _BAD_DELTA, _BAD_FIELD, _BAD_HEADERS, _BAD_END = range(5, 12)
_WHY = {
    _BAD_LENGTH: "the length of the batch is impossible",
    _CUT_OFF: "no complete batch came, so its length must be damaged",
    _BAD_MAGIC: "the format version of the batch is unknown",
    _BAD_OFFSETS: "the offsets of the batch do not follow those before it",
    _BAD_COUNT: "the batch cannot hold as many records as it says",
    _BAD_RECORD_LENGTH: "the length of a record is impossible",
    _BAD_VARINT: "a number in a record is truncated or too long",
    _BAD_DELTA: "the offset of a record lies outside its batch or does not ascend",
    _BAD_FIELD: "a key or value reaches beyond its record",
    _BAD_HEADERS: "the headers of a record are malformed",
    _BAD_END: "bytes are left after the records of the batch",
}


class AbortedTransaction(NamedTuple):
    """What the broker says of one aborted transaction of the fetched range."""

    producer_id: int
    first_offset: int


@inline
def _big_endian(buffer, at, width):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for i in range(width):
        value = (value << np.uint64(8)) | np.uint64(buffer[at + i])
    return np.int64(value)


@kernel(types.UniTuple(types.int64, 2)(U8, types.int64, I64_OUT))
def _scan(buffer, fetch_offset, out):  # type: ignore[no-untyped-def]
    """Read the header of each complete batch into `out`, 12 int64 per batch. Returns how many, and what is wrong."""
    at = 0
    count = 0
    next_offset = fetch_offset
    while at + 12 <= len(buffer):
        length = _big_endian(buffer, at + 8, 4)
        if length >= 2147483648 or length < 14:
            return count, _BAD_LENGTH
        end = at + 12 + length
        if end > len(buffer):
            break
        magic = np.int64(buffer[at + 16])
        row = count * 12
        out[row + _START] = at
        out[row + _END] = end
        out[row + _MAGIC] = magic
        base = _big_endian(buffer, at, 8)
        out[row + _BASE] = base
        out[row + _LAST] = base
        if magic > 2:
            return count, _BAD_MAGIC
        if magic == 2:
            if length < 49:
                return count, _BAD_LENGTH
            out[row + _EPOCH] = np.int64(np.int32(_big_endian(buffer, at + 12, 4)))
            out[row + _CRC] = _big_endian(buffer, at + 17, 4)
            out[row + _ATTRIBUTES] = _big_endian(buffer, at + 21, 2)
            delta = np.int64(np.int32(_big_endian(buffer, at + 23, 4)))
            out[row + _FIRST_TIME] = _big_endian(buffer, at + 27, 8)
            out[row + _MAX_TIME] = _big_endian(buffer, at + 35, 8)
            out[row + _PRODUCER] = _big_endian(buffer, at + 43, 8)
            out[row + _COUNT] = np.int64(np.int32(_big_endian(buffer, at + 57, 4)))
            last = base + delta
            # The base offset is not under the checksum: what can be known of it is checked here.
            if delta < 0 or last < next_offset or (count > 0 and base < next_offset) or base < 0:
                return count, _BAD_OFFSETS
            out[row + _LAST] = last
            next_offset = last + 1
        count += 1
        at = end
    if count == 0 and len(buffer) > 0:
        return count, _CUT_OFF  # brokers give out at least one whole batch
    return count, _GOOD


@inline
def _varint(buffer, at, end):  # type: ignore[no-untyped-def]
    """A zigzag varint of at most 10 bytes before `end`: its value and where the next begins, or -1 if malformed."""
    if at >= end:
        return np.int64(0), np.int64(-1)
    byte = np.uint64(buffer[at])
    at += 1
    bits = byte & np.uint64(0x7F)
    shift = np.uint64(7)
    while byte & np.uint64(0x80):
        if at >= end or shift > np.uint64(63):
            return np.int64(0), np.int64(-1)
        byte = np.uint64(buffer[at])
        at += 1
        if shift == np.uint64(63) and byte > np.uint64(1):
            return np.int64(0), np.int64(-1)
        bits |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
    return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at


@inline
def _skip_headers(buffer, at, end, count):  # type: ignore[no-untyped-def]
    """Walk `count` headers, which must end exactly at `end`."""
    for _ in range(count):
        size, at = _varint(buffer, at, end)
        if at < 0 or size < 0 or size > end - at:
            return False
        size, at = _varint(buffer, at + size, end)
        if at < 0 or size < -1 or size > end - at:
            return False
        at += max(size, 0)
    return at == end


@inline
def _decode_batch(buffer, at, batch, from_offset, row, room, longs, sizes):  # type: ignore[no-untyped-def]
    """The records of one batch from `at` on. See `_decode` for the columns. Returns the next row and what is wrong."""
    base = batch[_BASE]
    end = batch[_END]
    previous = base - 1
    for _ in range(batch[_COUNT]):
        length, at = _varint(buffer, at, end)
        if at < 0:
            return row, _BAD_VARINT
        if length < 6 or length > end - at:
            return row, _BAD_RECORD_LENGTH
        stop = at + length
        delta, at = _varint(buffer, at + 1, stop)  # the first byte, the record's attributes, is unused
        if at < 0:
            return row, _BAD_VARINT
        step, at = _varint(buffer, at, stop)
        if at < 0:
            return row, _BAD_VARINT
        offset = base + step
        if step < 0 or offset > batch[_LAST] or offset <= previous:
            return row, _BAD_DELTA
        previous = offset
        longs[row] = offset
        longs[room + row] = batch[_MAX_TIME] if batch[_ATTRIBUTES] & _LOG_APPEND_TIME else batch[_FIRST_TIME] + delta
        for field in range(2):
            size, at = _varint(buffer, at, stop)
            if at < 0:
                return row, _BAD_VARINT
            if size < -1 or size > stop - at:
                return row, _BAD_FIELD
            longs[(2 + field) * room + row] = at
            sizes[field * room + row] = size
            at += max(size, 0)
        headers, at = _varint(buffer, at, stop)
        if at < 0:
            return row, _BAD_VARINT
        if headers < 0 or headers > stop - at or not _skip_headers(buffer, at, stop, headers):
            return row, _BAD_HEADERS
        longs[4 * room + row] = at
        sizes[2 * room + row] = stop - at if headers > 0 else -1
        at = stop
        if offset >= from_offset:
            row += 1
    return row, _GOOD if at == end else _BAD_END


@kernel(types.UniTuple(types.int64, 3)(U8, I64, types.int64, types.int64, I64_OUT, I32_OUT))
def _decode(buffer, batches, from_offset, room, longs, sizes):  # type: ignore[no-untyped-def]
    """Decode batches whose records lie uncompressed in `buffer`, leaving out records before `from_offset`.

    batches: 12 int64 per batch as `_scan` writes them, but start and end are those of the records in `buffer`.
    longs: int64[5 * room]: offsets, timestamps, and where key, value and headers start; sizes: int32[3 * room]: key,
    value, headers. Returns the rows written, and the batch that is malformed (or -1) and why; its records are left out.
    """
    row = 0
    buffer, batches, longs, sizes = borrow(buffer), borrow(batches), borrow(longs), borrow(sizes)
    for index in range(len(batches) // 12):
        batch = batches[12 * index : 12 * index + 12]
        first_row = row
        if batch[_COUNT] < 0 or batch[_COUNT] * 7 > batch[_END] - batch[_START]:
            return first_row, index, _BAD_COUNT
        row, why = _decode_batch(buffer, batch[_START], batch, from_offset, row, room, longs, sizes)
        if why != _GOOD:
            return first_row, index, why
    return row, -1, _GOOD


class FetchedBatches:
    """What one fetch brought of one partition, given out piece by piece in offset order.

    data: the record set as it came; its buffer is what uncompressed values are spans of. fetch_offset: the position
    that was fetched; the first batch may start before it. aborted: what the broker says of aborted transactions in the
    range; their records are left out, as are control batches.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        fetch_offset: int,
        data: bytes | bytearray | memoryview,
        aborted: Iterable[AbortedTransaction] = (),
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.next_offset = fetch_offset
        self._view = memoryview(data)
        self._buffer: Bytes = np.frombuffer(data, np.uint8)
        self._aborted = deque(sorted(aborted, key=lambda transaction: transaction.first_offset))
        self._aborting: set[int] = set()
        self._at = 0
        table = np.empty((len(self._view) // _LEAST_BATCH + 1) * _FIELDS, np.int64)
        count, self._tail = _scan(self._buffer, fetch_offset, table)
        self._table: NDArray[np.int64] = table.reshape(-1, _FIELDS)[:count]
        self._rows: list[list[int]] = self._table.tolist()

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._view)

    @property
    def has_old_format(self) -> bool:
        """Whether a batch of format v0 or v1 is among them, which this class does not decode."""
        return any(row[_MAGIC] < 2 for row in self._rows)

    @property
    def end_offset(self) -> int:
        """The position after the last batch whose header is sound."""
        return self._rows[-1][_LAST] + 1 if self._rows else self.next_offset

    @property
    def leader_epoch(self) -> int:
        """The leader epoch of the last batch whose header is sound, or -1."""
        return self._rows[-1][_EPOCH] if self._rows else -1

    @property
    def exhausted(self) -> bool:
        """Whether everything has been given out and nothing was damaged."""
        return self._at >= len(self._rows) and self._tail == _GOOD

    def take(self, budget: int) -> RecordBatch:
        """The records of all batches left, or of as many (at least one) as decompress to about `budget` bytes.

        The result may be empty and still move `next_offset`. Raises CorruptRecordError, again at each further call,
        when a batch is damaged and everything before it has been given out.
        """
        first = self._at
        wanted: list[int] = []
        unfolded: dict[int, bytes | bytearray] = {}
        memory = 0
        try:
            while self._at < len(self._rows) and memory <= budget:
                row = self._rows[self._at]
                self._check(row)
                if self._is_wanted(row):
                    if row[_ATTRIBUTES] & _CODEC:
                        unfolded[self._at] = self._unfold(row)
                        memory += len(unfolded[self._at])
                    wanted.append(self._at)
                self._at += 1
            if self._at == first and self._tail != _GOOD:
                raise self._damage(_WHY[self._tail])
        except CorruptRecordError:
            if self._at == first:
                raise
        return self._columns(first, wanted, unfolded)

    def _damage(self, why: str) -> CorruptRecordError:
        return CorruptRecordError(self.topic, self.partition, self.next_offset, why)

    def _check(self, row: list[int]) -> None:
        if crc32c(self._view[row[_START] + _CHECKED_FROM : row[_END]]) != row[_CRC]:
            raise self._damage("the batch fails its checksum")

    def _unfold(self, row: list[int]) -> bytes | bytearray:
        records = self._view[row[_START] + HEADER_BYTES : row[_END]]
        try:
            return decompress(row[_ATTRIBUTES] & _CODEC, records, MAX_BATCH_BYTES)
        except DecompressionError as error:
            raise self._damage(f"the batch {error}") from error

    def _is_wanted(self, row: list[int]) -> bool:
        """False for control batches and for those of aborted transactions (KIP-98)."""
        attributes, producer = row[_ATTRIBUTES], row[_PRODUCER]
        if producer >= 0 and (self._aborted or self._aborting):
            while self._aborted and self._aborted[0].first_offset <= row[_LAST]:
                self._aborting.add(self._aborted.popleft().producer_id)
            if producer in self._aborting:
                if not attributes & _CONTROL:
                    return not attributes & _TRANSACTIONAL
                if self._is_abort_marker(row):
                    self._aborting.discard(producer)
        return not attributes & _CONTROL

    def _is_abort_marker(self, row: list[int]) -> bool:
        if row[_COUNT] <= 0:
            return False
        table = np.array([row], np.int64)
        table[:, _START] += HEADER_BYTES
        longs, sizes = np.empty(5, np.int64), np.empty(3, np.int32)
        if row[_COUNT] != 1 or _decode(self._buffer, table.reshape(-1), 0, 1, longs, sizes)[0] != 1 or sizes[0] < 4:
            raise self._damage("the control record is malformed")
        return bytes(self._view[int(longs[2]) + 2 : int(longs[2]) + 4]) == b"\0\0"

    def _columns(self, first: int, wanted: list[int], unfolded: dict[int, bytes | bytearray]) -> RecordBatch:
        table: NDArray[np.int64] = self._table[wanted]
        if unfolded:
            buffer = self._arena(table, wanted, unfolded)
        else:
            buffer = self._buffer
            table[:, _START] += HEADER_BYTES
        most = (table[:, _END] - table[:, _START]) // _LEAST_RECORD
        room = int(np.clip(table[:, _COUNT], 0, most).sum())
        longs, sizes = np.empty(5 * room, np.int64), np.empty(3 * room, np.int32)
        rows, bad, why = _decode(buffer, table.reshape(-1), self.next_offset, room, longs, sizes)
        if bad >= 0:
            self._at = wanted[bad]
            if self._at == first:
                raise self._damage(_WHY[why])
        if self._at > first:
            self.next_offset = self._rows[self._at - 1][_LAST] + 1
        column = [longs[field * room : field * room + rows] for field in range(5)]
        key, value, headers = (
            Spans(buffer, column[2 + field], sizes[field * room : field * room + rows]) for field in range(3)
        )
        return RecordBatch(self.topic, self.partition, column[0], column[1], key, value, headers, self.next_offset)

    def _arena(self, table: NDArray[np.int64], wanted: list[int], unfolded: dict[int, bytes | bytearray]) -> Bytes:
        """One buffer for the records of a piece of which some batches were compressed; `table` then speaks of it."""
        parts = []
        for index in wanted:
            row = self._rows[index]
            parts.append(unfolded.get(index, self._view[row[_START] + HEADER_BYTES : row[_END]]))
        ends = np.cumsum([len(part) for part in parts])
        table[:, _END] = ends
        table[1:, _START] = ends[:-1]
        table[0, _START] = 0
        if len(parts) == 1:
            return np.frombuffer(parts[0], np.uint8)
        arena = np.empty(int(ends[-1]), np.uint8)
        for part, start, end in zip(parts, table[:, _START].tolist(), ends.tolist(), strict=True):
            arena[start:end] = np.frombuffer(part, np.uint8)
        return arena


def decode_headers(raw: bytes | None) -> list[tuple[str, bytes | None]]:
    """The headers of one record, as a batch's column has them: in the v2 format, without their count."""
    found: list[tuple[str, bytes | None]] = []
    at, end = 0, len(raw or b"")
    while raw is not None and at < end:
        size, at = _header_varint(raw, at)
        name, at = raw[at : at + size].decode(errors="replace"), at + size
        size, at = _header_varint(raw, at)
        found.append((name, None if size < 0 else raw[at : at + size]))
        at += max(size, 0)
    return found


def _header_varint(raw: bytes, at: int) -> tuple[int, int]:
    bits = shift = 0
    while True:
        byte = raw[at]
        bits |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (bits >> 1) ^ -(bits & 1), at
