"""The kernels against kafka-python's own decoder, record for record; and damage, byte for byte."""

from __future__ import annotations

import gzip
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import cramjam
import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import CorruptRecordError
from streamsample.kafka import decompress as decompression
from streamsample.kafka import wire_decode
from streamsample.kafka.decompress import DecompressionError, decompress
from streamsample.kafka.wire_decode import AbortedTransaction, FetchedBatches
from tests.kafka.batches import Record, amend, make_batch, make_old, marker, read_by_library, records_of, seal

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
EVERYTHING = 1 << 40

payloads = st.none() | st.binary(max_size=40) | st.integers(1, 3000).map(lambda size: b"v" * size)
headers = st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=12)), max_size=3)
times = st.integers(0, 2**41)


def fetched(data: bytes, offset: int = 0, aborted: tuple[tuple[int, int], ...] = ()) -> FetchedBatches:
    return FetchedBatches("t", 0, offset, data, [AbortedTransaction(*each) for each in aborted])


def drain(source: FetchedBatches, budget: int = EVERYTHING) -> list[Record]:
    records = []
    while not source.exhausted:
        records += records_of(source.take(budget))
    return records


def plain(*offsets: int) -> list[Record]:
    return [Record(offset, 1000 + offset, b"k%d" % offset, b"value %d" % offset) for offset in offsets]


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """A log as compaction and transactions leave it: its bytes, what is aborted, and its end."""
    parts: list[bytes] = []
    aborted: list[tuple[int, int]] = []
    opened: dict[int, int] = {}
    offset = draw(st.integers(0, 50))
    for _ in range(draw(st.integers(1, 6))):
        offset += draw(st.integers(0, 3))
        producer = draw(st.sampled_from([-1, -1, 7, 8]))
        gaps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
        offsets = [offset + sum(gaps[: index + 1]) for index in range(len(gaps))]
        records = [Record(each, draw(times), draw(payloads), draw(payloads), draw(headers)) for each in offsets]
        transactional = producer >= 0 and draw(st.booleans())
        parts.append(
            make_batch(
                records,
                draw(st.sampled_from(list(CODECS.values()))),
                producer_id=producer,
                transactional=transactional,
                append_time=draw(st.none() | times),
                base=offset,
                last=offsets[-1] + draw(st.integers(0, 2)),
            )
        )
        if transactional:
            opened.setdefault(producer, offset)
        offset = offsets[-1] + 3
        for owner in [each for each in opened if draw(st.booleans())]:
            commit = draw(st.booleans())
            if not commit:
                aborted.append((owner, opened[owner]))
            del opened[owner]
            parts.append(marker(offset, owner, commit=commit))
            offset += 1
    return b"".join(parts), aborted, offset


@settings(max_examples=150, deadline=None)
@given(logs(), st.data())
def test_equals_the_library(log: tuple[bytes, list[tuple[int, int]], int], data: st.DataObject) -> None:
    stored, aborted, end = log
    first_end = struct.unpack_from(">q", stored)[0] + struct.unpack_from(">i", stored, 23)[0]
    offset = data.draw(st.integers(0, first_end), "fetch offset")
    cut = data.draw(st.just(0) | st.integers(0, 60), "bytes of the next batch")
    more = make_batch(plain(end, end + 1))[:cut]
    budget = data.draw(st.sampled_from([0, 100, EVERYTHING]), "budget")
    source = fetched(stored + more, offset, tuple(aborted))
    expected, next_offset = read_by_library(stored + more, offset, aborted)
    assert source.end_offset == next_offset
    assert drain(source, budget) == expected
    assert source.next_offset == next_offset


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_each_codec_with_large_batches(codec: int) -> None:
    rng = np.random.default_rng(5)
    stored = b""
    for start in range(0, 20_000, 4000):
        sizes = rng.integers(0, 300, 4000)
        stored += make_batch(
            [Record(start + i, i, b"%d" % i, rng.bytes(int(size))) for i, size in enumerate(sizes)], codec
        )
    expected, next_offset = read_by_library(stored, 3999)
    source = fetched(stored, 3999)
    assert drain(source, 100_000) == expected
    assert source.next_offset == next_offset == 20_000


def test_uncompressed_values_are_spans_of_what_was_fetched() -> None:
    stored = make_batch(plain(0, 1, 2))
    batch = fetched(stored).take(EVERYTHING)
    assert np.shares_memory(batch.values.buffer, np.frombuffer(stored, np.uint8))


def test_no_header_is_null_and_headers_keep_their_bytes() -> None:
    stored = make_batch([Record(0, 0, None, b""), Record(1, 0, b"", None, [("a", None), ("a", b"x")])])
    batch = fetched(stored).take(EVERYTHING)
    assert batch.headers.to_list() == [None, b"\x02a\x01\x02a\x02x"]
    assert batch.keys.to_list() == [None, b""]
    assert batch.values.to_list() == [b"", None]


def test_a_batch_emptied_by_compaction_moves_the_position() -> None:
    empty = amend(make_batch(plain(5)), 5, 9)
    count = bytearray(empty[:61])
    struct.pack_into(">i", count, 8, 49)
    struct.pack_into(">i", count, 57, 0)
    stored = make_batch(plain(0, 1)) + seal(count)
    assert read_by_library(stored, 0)[1] == 10
    batch = fetched(stored).take(EVERYTHING)
    assert (batch.offsets.tolist(), batch.next_offset) == ([0, 1], 10)


def test_only_control_and_aborted_records_still_move_the_position() -> None:
    stored = make_batch(plain(0, 1), producer_id=7, transactional=True) + marker(2, 7, commit=False)
    batch = fetched(stored, 0, ((7, 0),)).take(EVERYTHING)
    assert (len(batch), batch.next_offset) == (0, 3)
    assert read_by_library(stored, 0, [(7, 0)]) == ([], 3)


def test_mixed_codecs_share_one_buffer() -> None:
    stored = b"".join(make_batch(plain(3 * c, 3 * c + 1, 3 * c + 2), c) for c in CODECS.values())
    batch = fetched(stored).take(EVERYTHING)
    assert records_of(batch) == plain(*range(15))


def test_a_fetch_of_nothing() -> None:
    source = fetched(b"", 7)
    assert source.exhausted
    assert (source.size, source.end_offset) == (0, 7)


def test_old_formats_are_told() -> None:
    assert fetched(make_old(1, plain(0, 1)) + make_batch(plain(2))).has_old_format
    assert not fetched(make_batch(plain(2))).has_old_format


GOLDEN = Path(__file__).parent.parent / "golden"
STORED: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())


@pytest.mark.parametrize("name", STORED)
def test_what_a_real_broker_stored(name: str) -> None:
    """Written by the Java producer with each codec, in transactions, and with the broker's own time."""
    expected = STORED[name]
    source = fetched((GOLDEN / f"{name}.bin").read_bytes(), expected["fetch_offset"], tuple(expected["aborted"]))
    records = [
        [r.offset, r.timestamp, *(None if each is None else each.decode() for each in (r.key, r.value)), r.headers]
        for r in drain(source)
    ]
    for record in expected["records"]:
        record[4] = [(key, value.encode()) for key, value in record[4]]
    assert records == expected["records"]
    assert source.next_offset == expected["next_offset"]
    assert len(records) > 5


# Damage


def outcome(data: bytes, offset: int = 0) -> tuple[list[Record], CorruptRecordError | None, int]:
    """What comes before the damage, the damage, and the position then; the damage is the same when asked again."""
    source = fetched(data, offset)
    records: list[Record] = []
    found: list[CorruptRecordError] = []
    while not source.exhausted and len(found) < 3:
        try:
            records += records_of(source.take(EVERYTHING))
        except CorruptRecordError as error:
            found.append(error)
    assert len({str(error) for error in found}) <= 1
    return records, found[0] if found else None, source.next_offset


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_every_flipped_byte_is_found_or_harmless(codec: int) -> None:
    """Only base offset, length, leader epoch and format version are not under the checksum.

    A higher base offset is what compaction would leave, too: there the same records come at other offsets.
    """
    before, between, after = plain(0, 1, 2), plain(3, 4, 5), plain(6, 7)
    whole = make_batch(before, codec), make_batch(between, codec), make_batch(after, codec)
    start, end = len(whole[0]), len(whole[0]) + len(whole[1])
    for at in range(start, end):
        for mask in (0xFF, 0x01, 0x80):
            damaged = bytearray(b"".join(whole))
            damaged[at] ^= mask
            records, error, position = outcome(bytes(damaged))
            if 12 <= at - start < 16:
                assert (records, error) == (before + between + after, None)
            elif error is None:
                assert 8 <= at - start < 12, at - start  # seems cut off: comes again, as the first of the next fetch
                assert (records, position) == (before, 3)
                assert outcome(bytes(damaged[start:]), 3)[1] is not None
            elif at - start < 8 and len(records) > len(before):
                assert [record[1:] for record in records] == [record[1:] for record in before + between]
            else:
                assert (records, position) == (before, 3), at - start
                assert (error.topic, error.partition, error.offset) == ("t", 0, 3)


def test_every_truncation_is_the_end_of_the_fetch() -> None:
    first, second = make_batch(plain(0, 1)), make_batch(plain(2, 3), 3)
    for size in range(len(first), len(first + second)):
        assert outcome((first + second)[:size]) == (plain(0, 1), None, 2)
    for size in range(1, len(first)):
        records, error, _ = outcome(first[:size])
        assert not records
        assert "no complete batch" in str(error)


def change_body(batch: bytes, at: int, value: int) -> bytes:
    out = bytearray(batch)
    out[61 + at] = value
    return seal(out)


ONE = make_batch([Record(0, 0, b"k", b"v", [("h", b"x")])])
"""length attributes time-delta offset-delta key-length k value-length v header-count 1 h 1 x"""


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, 0x01, "length of a record"),
        (0, 0x7E, "length of a record"),
        (0, 0x16, "headers"),
        (0, 0x80, "length of a record"),
        (2, 0x80, "offset of a record"),
        (3, 0x01, "offset of a record"),
        (3, 0x02, "offset of a record"),
        (4, 0x03, "key or value"),
        (4, 0x7E, "key or value"),
        (6, 0x03, "key or value"),
        (6, 0x7E, "key or value"),
        (8, 0x01, "headers"),
        (8, 0x00, "headers"),
        (8, 0x04, "headers"),
        (8, 0x7E, "headers"),
        (9, 0x01, "headers"),
        (9, 0x7E, "headers"),
        (11, 0x03, "headers"),
        (11, 0x7E, "headers"),
        (11, 0x80, "headers"),
    ],
)
def test_malformed_records_under_a_right_checksum(at: int, value: int, why: str) -> None:
    records, error, position = outcome(change_body(ONE, at, value))
    assert (records, position) == ([], 0)
    assert why in str(error)


@pytest.mark.parametrize("count", [-1, 0, 2, 1000, 2**31 - 1])
def test_a_lie_about_the_number_of_records(count: int) -> None:
    out = bytearray(ONE)
    struct.pack_into(">i", out, 57, count)
    records, error, position = outcome(make_batch(plain(0)) + amend(seal(out), 1, 2**20))
    assert (records, position) == (plain(0), 1)
    assert error is not None


def test_numbers_of_more_than_ten_bytes_are_refused() -> None:
    body = b"\x00" + b"\x80" * 10 + b"\x01" + b"\x00\x01\x01\x00"
    out = bytearray(ONE[:61]) + bytes([len(body) * 2]) + body
    struct.pack_into(">i", out, 8, len(out) - 12)
    assert "number in a record" in str(outcome(seal(out))[1])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(-3, 2**31 - 1), st.sampled_from(list(CODECS.values())))
def test_random_records_under_a_right_checksum_never_crash(body: bytes, count: int, codec: int) -> None:
    packed = {
        0: bytes,
        1: gzip.compress,
        2: lambda raw: bytes(cramjam.snappy.compress_raw(raw)),
        3: lz4.frame.compress,
        4: zstandard.compress,
    }[codec](body)
    out = bytearray(ONE[:61]) + packed
    struct.pack_into(">i", out, 8, len(out) - 12)
    struct.pack_into(">h", out, 21, codec)
    struct.pack_into(">i", out, 57, count)
    outcome(seal(out))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(data: bytes) -> None:
    source = fetched(data)
    if not source.has_old_format:
        outcome(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([1, 2, 3, 4]))
def test_random_compressed_data_are_refused_or_unfold(data: bytes, codec: int) -> None:
    with suppress(DecompressionError):
        assert len(decompress(codec, memoryview(data), 10_000)) <= 10_000


# Decompression


def xerial(data: bytes, block: int = 1000) -> bytes:
    out = bytearray(b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1))
    for at in range(0, len(data), block):
        packed = bytes(cramjam.snappy.compress_raw(data[at : at + block]))
        out += struct.pack(">i", len(packed)) + packed
    return bytes(out)


def zstd_without_size(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(data) + packer.flush()


FORMS: dict[str, tuple[int, Any]] = {
    "gzip": (1, gzip.compress),
    "gzip of two members": (1, lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
    "snappy": (2, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy of xerial": (2, xerial),
    "lz4 with its size": (3, lambda data: lz4.frame.compress(data, store_size=True)),
    "lz4": (3, lambda data: lz4.frame.compress(data, store_size=False, block_linked=False)),
    "zstd with its size": (4, zstandard.compress),
    "zstd": (4, zstd_without_size),
    "zstd of two frames": (4, lambda data: zstandard.compress(data[:50]) + zstandard.compress(data[50:])),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_framing_unfolds_within_the_limit_only(form: str) -> None:
    codec, pack = FORMS[form]
    data = bytes(range(256)) * 40
    packed = memoryview(pack(data))
    assert bytes(decompress(codec, packed, len(data))) == data
    with pytest.raises(DecompressionError, match="more than the limit"):
        decompress(codec, packed, len(data) - 1)


@pytest.mark.parametrize("form", ["gzip", "snappy", "lz4", "lz4 with its size", "zstd", "zstd with its size"])
def test_a_bomb_is_an_error(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 20
    monkeypatch.setattr(wire_decode, "MAX_BATCH_BYTES", limit)
    codec, pack = FORMS[form]
    out = bytearray(ONE[:61]) + pack(bytes(64 << 20))
    struct.pack_into(">i", out, 8, len(out) - 12)
    struct.pack_into(">h", out, 21, codec)
    records, error, position = outcome(make_batch(plain(0)) + amend(seal(out), 1, 1))
    assert (records, position) == (plain(0), 1)
    assert f"more than the limit of {limit} bytes" in str(error)


def test_a_lie_about_the_unfolded_size_allocates_nothing() -> None:
    packed = bytearray(lz4.frame.compress(b"x" * 100, store_size=True))
    packed[6:14] = (1 << 60).to_bytes(8, "little")
    with pytest.raises(DecompressionError):
        decompress(decompression.LZ4, memoryview(packed), 1 << 40)


def test_an_unknown_codec_is_named() -> None:
    out = bytearray(ONE)
    struct.pack_into(">h", out, 21, 6)
    assert "unknown compression type 6" in str(outcome(seal(out))[1])
