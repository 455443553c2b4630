"""Chunks cut into parts and put together again: any cut, any batches, and what must not be taken for a chunk."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import ChangelogGapError, StateError
from streamsample.kafka import changelog
from streamsample.kafka.changelog import ChangelogPosition, ChunkReader, StoredChunk, pack_chunk
from streamsample.records import RecordBatch, Spans, TopicPartition

SOURCE = TopicPartition("job.changelog", 3)


def batch(offsets: list[int], values: list[bytes | None]) -> RecordBatch:
    nulls = Spans.nulls(len(values))
    times = np.zeros(len(values), np.int64)
    return RecordBatch(
        *SOURCE, np.array(offsets, np.int64), times, nulls, Spans.of(values), nulls, (offsets or [0])[-1] + 1
    )


def parts(sequence: int, body: bytes, message_bytes_max: int = 4_000) -> list[bytes]:
    return list(pack_chunk(sequence, [body], message_bytes_max))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def read_all(reader: ChunkReader, values: list[bytes | None], first: int = 0) -> list[StoredChunk]:
    return list(reader.read(batch(list(range(first, first + len(values))), values)))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9_000), min_size=1, max_size=5),
    message_bytes_max=st.integers(100, 8_000),
    first=st.integers(0, 2**60),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_what_was_packed_is_read(sizes: list[int], message_bytes_max: int, first: int, cuts: list[int]) -> None:
    bodies = [noise(size, seed) for seed, size in enumerate(sizes)]
    values: list[bytes | None] = []
    begins = []
    for number, body in enumerate(bodies):
        begins.append(len(values))
        values += parts(first + number, body, message_bytes_max)
    room = max(message_bytes_max // 2, 1024 + 20)
    assert all(len(value or b"") <= room for value in values)
    reader = ChunkReader(SOURCE, ChangelogPosition(first + len(bodies) - 1, first, 0))
    found: list[StoredChunk] = []
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    for begin, end in itertools.pairwise(edges):
        assert not reader.done
        found += read_all(reader, values[begin:end], begin)
    assert reader.done
    assert reader.progress == 1
    assert [chunk.body for chunk in found] == bodies
    assert [chunk.sequence for chunk in found] == [first + number for number in range(len(bodies))]
    assert [chunk.offset for chunk in found] == begins


def test_chunks_before_the_first_and_after_the_last_are_passed_over() -> None:
    values: list[bytes | None] = []
    for sequence in range(6):
        values += parts(sequence, noise(3_000, sequence))
    reader = ChunkReader(SOURCE, ChangelogPosition(3, 2, 0))
    assert [chunk.sequence for chunk in read_all(reader, values)] == [2, 3]
    assert read_all(reader, [b"whatever comes then"]) == []


@pytest.mark.parametrize("missing", range(6))
def test_a_missing_part_is_a_gap(missing: int) -> None:
    values: list[bytes | None] = [*parts(7, noise(4_000)), *parts(8, noise(4_000))]
    assert len(values) == 6
    reader = ChunkReader(SOURCE, ChangelogPosition(8, 7, 0))
    del values[missing]
    if missing == 5:  # the end is missing: then the reader waits for it
        assert [chunk.sequence for chunk in read_all(reader, values)] == [7]
        assert not reader.done
        return
    with pytest.raises(
        ChangelogGapError, match=r"job.changelog/3@\d: found part \d of chunk \d, expected part \d of .*reset"
    ):
        read_all(reader, values)


def test_a_part_that_comes_twice_is_a_gap() -> None:
    values = parts(7, noise(4_000))
    with pytest.raises(ChangelogGapError, match="found part 0 of chunk 7, expected part 1 of chunk 7"):
        read_all(ChunkReader(SOURCE, ChangelogPosition(7, 7, 0)), [values[0], *values])


@pytest.mark.parametrize(
    "value", [None, b"", b"SSC1", parts(7, b"x")[0][:19], b"SSC0" + parts(7, b"x")[0][4:], noise(300)]
)
def test_what_is_no_part_is_told(value: bytes | None) -> None:
    with pytest.raises(
        StateError, match=r"job.changelog/3@5: this record is not a part of a changelog chunk - .*reset"
    ):
        read_all(ChunkReader(SOURCE, ChangelogPosition(7, 7, 0)), [value], 5)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_body_never_passes_unseen(data: st.DataObject) -> None:
    """Bits that flip behind the part's header: the chunk's checksum tells, or they were of no meaning."""
    body = noise(500) + bytes(500)
    value = bytearray(parts(7, body)[0])
    at = data.draw(st.integers(20, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    reader = ChunkReader(SOURCE, ChangelogPosition(7, 7, 0))
    with suppress(StateError):
        assert [chunk.body for chunk in read_all(reader, [bytes(value)])] == [body]


def test_a_damaged_size_takes_no_memory() -> None:
    value = bytearray(parts(7, bytes(100_000), 1_000_000)[0])
    value[24] = 0xE0 | value[24] & 0x1F  # the frame says that its size takes 8 bytes
    with pytest.raises(StateError, match="chunk 7 is damaged"):
        read_all(ChunkReader(SOURCE, ChangelogPosition(7, 7, 0)), [bytes(value)])


def test_a_body_beyond_any_chunk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "CHUNK_BYTES_MAX", 1_000)
    with pytest.raises(StateError, match="1,001 bytes of state, more than a chunk can hold - commit more often"):
        list(pack_chunk(0, [bytes(1_001)], 10_000))


def test_a_position_is_what_it_was_written_as() -> None:
    where = TopicPartition("predictions", 0)
    position = ChangelogPosition(12, 7, 2**40)
    assert ChangelogPosition.parse(str(position), where) == position
    assert ChangelogPosition.parse("", where) is None
    for text in ("streamsample/2 last=1 first=0 offset=0", f"{position} ", "x" * 500):
        with pytest.raises(
            StateError, match=r"predictions/0: the committed offset's metadata is not of this version: .*reset"
        ):
            ChangelogPosition.parse(text, where)
