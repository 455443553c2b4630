from __future__ import annotations

import struct
from typing import Any

import cramjam
import lz4.frame
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.codec import gzip_decode
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from streamsample.kafka import wire_encode as wire
from streamsample.kafka.wire_encode import CODECS, BatchEncoder, Codec, Columns, RowTooLargeError, oversized, plan, seal
from streamsample.records import Spans

Record = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

PAYLOADS = st.none() | st.binary(max_size=40) | st.integers(0, 300).map(lambda size: b"x" * size)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=3)
TIMES = st.integers(0, 2**42) | st.sampled_from([0, 1_700_000_000_000, 2**53])
RECORDS = st.lists(st.tuples(TIMES, PAYLOADS, PAYLOADS, HEADERS), min_size=1, max_size=60)
LIMIT = 1 << 20


def columns_of(records: list[Record]) -> Columns:
    times = np.array([record[0] for record in records], np.int64)
    headers = Spans.of([wire.encode_headers(record[3]) or None for record in records])
    return Columns.of(times, Spans.of(r[1] for r in records), Spans.of(r[2] for r in records), headers)


def built(records: list[Record], *, limit: int = LIMIT, state: tuple[int, int, int, bool] | None = None) -> list[bytes]:
    """The batches that kafka-python's builder makes of the records."""
    out = []
    rest = list(records)
    while rest:
        producer_id, epoch, sequence, transactional = state or (-1, -1, -1, False)
        builder = DefaultRecordBatchBuilder(2, 0, transactional, producer_id, epoch, sequence, limit)
        offset = 0
        while rest and builder.append(offset, *rest[0]) is not None:
            rest.pop(0)
            offset += 1
        out.append(bytes(builder.build()))
    return out


def encoded(columns: Columns, *, limit: int = LIMIT, codec: Codec = "none") -> list[bytearray]:
    encoder = BatchEncoder(codec)
    cut = plan(columns, limit, LIMIT)
    begins = [0, *cut.ends.tolist()]
    return [
        encoder.encode(columns, begin, end, size)
        for begin, end, size in zip(begins, cut.ends.tolist(), cut.sizes.tolist(), strict=False)
    ]


def unpack_snappy(data: bytes) -> bytes:
    assert data[:16] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    at, out = 16, bytearray()
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        out += bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return bytes(out)


UNPACK: dict[Codec, Any] = {
    "gzip": gzip_decode,
    "snappy": unpack_snappy,
    "lz4": lz4.frame.decompress,
    "zstd": lambda data: bytes(cramjam.zstd.decompress(data)),
}


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.sampled_from([62, 200, 1000, LIMIT]))
def test_batches_are_byte_for_byte_those_of_kafka_python(records: list[Record], limit: int) -> None:
    batches = encoded(columns_of(records), limit=limit)
    for batch in batches:
        seal(batch)
    assert [bytes(batch) for batch in batches] == built(records, limit=limit)


@settings(max_examples=30, deadline=None)
@given(RECORDS, st.integers(0, 2**40), st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1), st.booleans())
def test_seal_puts_in_the_producers_state(
    records: list[Record], producer_id: int, epoch: int, sequence: int, transactional: bool
) -> None:
    (batch,) = encoded(columns_of(records))
    seal(batch, 7, 7, 7, not transactional)
    seal(batch, producer_id, epoch, sequence, transactional)
    assert [bytes(batch)] == built(records, state=(producer_id, epoch, sequence, transactional))
    read = DefaultRecordBatch(bytes(batch))
    assert read.validate_crc()
    assert read.is_transactional is transactional


@pytest.mark.parametrize("codec", sorted(UNPACK))
@settings(max_examples=30, deadline=None)
@given(records=RECORDS)
def test_compressed_batches_hold_the_same(codec: Codec, records: list[Record]) -> None:
    records = [*records, (1, b"k", b"compressible " * 3000, [])]
    (batch,) = encoded(columns_of(records), codec=codec)
    seal(batch, 5, 6, 7, True)
    (plain,) = built(records, state=(5, 6, 7, True))
    read = DefaultRecordBatch(bytes(batch))
    assert read.compression_type == CODECS[codec]
    assert read.validate_crc()
    assert UNPACK[codec](bytes(batch[wire.HEADER_BYTES :])) == plain[wire.HEADER_BYTES :]
    assert struct.unpack_from(">i", batch, 8)[0] == len(batch) - 12
    assert batch[23:61] == plain[23:61]  # last offset delta, timestamps, producer's state, count


@pytest.mark.parametrize("codec", sorted(UNPACK))
def test_a_batch_that_does_not_get_smaller_stays_uncompressed(codec: Codec) -> None:
    records: list[Record] = [(5, None, bytes(np.random.default_rng(1).integers(0, 256, 50, np.uint8)), [])]
    (batch,) = encoded(columns_of(records), codec=codec)
    seal(batch)
    assert [bytes(batch)] == built(records)


def test_spans_may_overlap_repeat_and_come_in_any_order() -> None:
    buffer = np.frombuffer(b"abcdefghij", np.uint8)
    values = Spans(buffer, np.array([5, 0, 2, 0, 9]), np.array([3, 10, 4, 10, 0], np.int32))
    columns = Columns.of(np.array([9, 5, 7, 5, 5]), Spans.nulls(5), values)
    (batch,) = encoded(columns)
    seal(batch)
    assert [(r.timestamp, r.key, r.value) for r in DefaultRecordBatch(bytes(batch))] == [
        (9, None, b"fgh"),
        (5, None, b"abcdefghij"),
        (7, None, b"cdef"),
        (5, None, b"abcdefghij"),
        (5, None, b""),
    ]


def test_largest_timestamp_is_of_the_batch_not_of_all_rows() -> None:
    records: list[Record] = [(time, None, b"v" * 100, []) for time in (50, 90, 70, 20, 60, 10)]
    batches = encoded(columns_of(records), limit=300)
    assert len(batches) == 3
    for batch, plain in zip(batches, built(records, limit=300), strict=True):
        assert batch[27:43] == plain[27:43]


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.integers(100, 400))
def test_a_record_too_large_is_found_before_anything_is_encoded(records: list[Record], limit: int) -> None:
    columns = columns_of(records)
    alone = [len(built([record])[0]) for record in records]
    assert [wire.single_record_bytes(columns, row) for row in range(len(columns))] == alone
    large = [row for row, size in enumerate(alone) if size > limit]
    assert oversized(columns, limit).tolist() == large
    if large:
        with pytest.raises(RowTooLargeError) as caught:
            plan(columns, limit, limit)
        assert (caught.value.row, caught.value.size) == (large[0], alone[large[0]])
    else:
        cut = plan(columns, limit, limit)
        assert int(cut.sizes.max()) <= limit
        assert cut.ends[-1] == len(columns)


def test_a_record_larger_than_a_batch_goes_alone() -> None:
    records: list[Record] = [(1, None, b"a", []), (1, None, b"b" * 5000, []), (1, None, b"c", [])]
    cut = plan(columns_of(records), 1000, 10_000)
    assert cut.ends.tolist() == [1, 2, 3]


def test_no_rows_make_no_batch() -> None:
    columns = Columns.of(np.empty(0, np.int64), Spans.nulls(0), Spans.nulls(0))
    assert len(plan(columns, LIMIT, LIMIT).ends) == 0
    assert len(oversized(columns, 100)) == 0


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 timestamps, 2 keys, 1 values"):
        Columns.of(np.zeros(2, np.int64), Spans.nulls(2), Spans.nulls(1))


@settings(max_examples=60, deadline=None)
@given(st.lists(HEADERS, max_size=10), HEADERS)
def test_headers_are_counted_and_joined(rows: list[Any], added: Any) -> None:
    spans = Spans.of([wire.encode_headers(headers) or None for headers in rows])
    assert wire.count_headers(spans).tolist() == [len(headers) for headers in rows]
    joined = wire.join_headers(spans, Spans.of([wire.encode_headers(added) or None] * len(rows)))
    records: list[Record] = [(1, None, None, headers + added) for headers in rows]
    if records:
        columns = Columns.of(np.ones(len(rows), np.int64), Spans.nulls(len(rows)), Spans.nulls(len(rows)), joined)
        (batch,) = encoded(columns)
        seal(batch)
        assert [bytes(batch)] == built(records)


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x02",
        b"\x06ab",
        b"\x02a",
        b"\x02a\x80",
        b"\x02a\x04b",
        b"\x02a\x03",
        b"\x80\x80\x80\x80\x80\x01",
        b"\xff" * 11,
    ],
)
def test_what_is_no_headers_is_refused(damaged: bytes) -> None:
    good = wire.encode_headers([("k", b"v"), ("n", None)])
    with pytest.raises(ValueError, match="row 1: the header bytes"):
        wire.count_headers(Spans.of([good, damaged, good]))
