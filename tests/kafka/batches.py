"""Record batches as a broker stores them, made with kafka-python's builders; and kafka-python's own reading of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import cramjam
import kafka.codec
import numpy as np
from crc32c import crc32c
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.records import RecordBatch

Headers = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = []


class Snappy:
    """python-snappy's two functions, which kafka-python needs and which is not installed, by cramjam."""

    @staticmethod
    def compress(data: bytes) -> bytes:
        return bytes(cramjam.snappy.compress_raw(data))

    @staticmethod
    def decompress(data: bytes) -> bytes:
        return bytes(cramjam.snappy.decompress_raw(data))


kafka.codec.snappy = Snappy


def make_batch(
    records: Sequence[Record],
    codec: int = 0,
    *,
    producer_id: int = -1,
    transactional: bool = False,
    control: bool = False,
    append_time: int | None = None,
    base: int | None = None,
    last: int | None = None,
    epoch: int = 3,
) -> bytes:
    """A batch of format v2. base, last: the first and last offset, if compaction took records from either end."""
    base = records[0].offset if base is None else base
    last = records[-1].offset if last is None else last
    sequence = -1 if producer_id < 0 else 0
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer_id, sequence, sequence, 1 << 26)
    for record in records:
        builder.append(record.offset - base, record.timestamp, record.key, record.value, record.headers)
    return amend(bytes(builder.build()), base, last, epoch, control=control, append_time=append_time)


def amend(
    batch: bytes, base: int, last: int, epoch: int = 3, *, control: bool = False, append_time: int | None = None
) -> bytes:
    """The batch with other offsets and flags, sealed again."""
    out = bytearray(batch)
    struct.pack_into(">qii", out, 0, base, len(out) - 12, epoch)
    attributes = struct.unpack_from(">h", out, 21)[0]
    if control:
        attributes |= 0x20
    if append_time is not None:
        attributes |= 0x08
        struct.pack_into(">q", out, 35, append_time)
    struct.pack_into(">hi", out, 21, attributes, last - base)
    return seal(out)


def seal(batch: bytes | bytearray) -> bytes:
    """The batch with a right checksum."""
    out = bytearray(batch)
    struct.pack_into(">I", out, 17, crc32c(bytes(out[21:])))
    return bytes(out)


def marker(offset: int, producer_id: int, *, commit: bool) -> bytes:
    """The control batch that ends a transaction."""
    key = struct.pack(">hh", 0, int(commit))
    record = Record(offset, 1_000, key, struct.pack(">hi", 0, 0))
    return make_batch([record], producer_id=producer_id, transactional=True, control=True)


def make_old(magic: int, records: Sequence[Record], codec: int = 0) -> bytes:
    """A message set of format v0 or v1. Compressed, its offsets are relative to its own, the last record's."""
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 26)
    for record in records:
        shown = record.offset - records[0].offset if codec else record.offset
        builder.append(shown, record.timestamp if magic else None, record.key, record.value)
    out = bytearray(builder.build())
    if codec:
        struct.pack_into(">q", out, 0, records[-1].offset)
    return bytes(out)


def read_by_library(
    data: bytes, fetch_offset: int, aborted: Sequence[tuple[int, int]] = ()
) -> tuple[list[Record], int]:
    """kafka-python's records and its next position. aborted: (producer id, first offset)."""
    part: Any = Fetcher.PartitionRecords(
        fetch_offset,
        KafkaTopicPartition("t", 0),
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[SimpleNamespace(producer_id=p, first_offset=o) for p, o in aborted],
    )
    records = [
        Record(r.offset, -1 if r.timestamp is None else r.timestamp, r.key, r.value, r.headers or [])
        for r in part.take()
    ]
    part._maybe_raise_next_inline_exception()
    return records, part.next_fetch_offset


def records_of(batch: RecordBatch) -> list[Record]:
    """The columns as records."""
    for column in (batch.offsets, batch.timestamps, batch.keys.start, batch.values.start, batch.headers.start):
        assert column.dtype == np.int64
        assert column.flags.c_contiguous
    for spans in (batch.keys, batch.values, batch.headers):
        assert spans.size.dtype == np.int32
        assert len(spans) == len(batch)
    columns = (batch.keys.to_list(), batch.values.to_list(), map(headers_of, batch.headers.to_list()))
    return [Record(*row) for row in zip(batch.offsets.tolist(), batch.timestamps.tolist(), *columns, strict=True)]


def headers_of(raw: bytes | None) -> Headers:
    """Headers as the v2 format writes them, without their count."""
    if raw is None:
        return []
    found: Headers = []
    at = 0

    def number() -> int:
        nonlocal at
        bits = shift = 0
        while True:
            byte = raw[at]
            at += 1
            bits |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (bits >> 1) ^ -(bits & 1)

    while at < len(raw):
        size = number()
        key = raw[at : at + size].decode()
        at += size
        size = number()
        found.append((key, None if size < 0 else raw[at : at + size]))
        at += max(size, 0)
    return found
