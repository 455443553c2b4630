"""Decoding ahead: whatever is paused, forgotten or damaged, each partition's records come once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsample.kafka.decoder import Decoder
from streamsample.kafka.wire_decode import FetchedBatches
from streamsample.records import RecordBatch, TopicPartition
from tests.kafka.batches import Record, make_batch

PARTITIONS = 3
PER_BATCH = 4
VALUE = b"v" * 50
LZ4 = 3
STEPS = st.one_of(
    st.tuples(st.just("fetch"), st.integers(0, PARTITIONS - 1), st.integers(1, 5)),
    st.tuples(st.just("take"), st.sets(st.integers(0, PARTITIONS - 1)), st.just(0)),
    st.tuples(st.just("forget"), st.integers(0, PARTITIONS - 1), st.just(0)),
)


def source(partition: int) -> TopicPartition:
    return TopicPartition("t", partition)


def fetched(partition: int, begin: int, batches: int, damaged: int | None = None) -> FetchedBatches:
    data = bytearray()
    for number in range(batches):
        at = len(data)
        first = begin + number * PER_BATCH
        data += make_batch([Record(first + i, 1, None, VALUE) for i in range(PER_BATCH)], LZ4)
        if number == damaged:
            data[at + 70] ^= 1  # under the checksum
    return FetchedBatches("t", partition, begin, bytes(data))


@contextmanager
def decoder(limit: int) -> Iterator[Decoder]:
    made = Decoder(limit)
    yield made
    made.close()


def rest(made: Decoder) -> list[RecordBatch]:
    found: list[RecordBatch] = []
    while more := made.take(set()):
        found += more
    return found


@given(st.sampled_from([1, 300, 1_000_000]), st.lists(STEPS, max_size=25))
def test_each_record_comes_once_and_in_order(limit: int, steps: list[tuple[str, set[int] | int, int]]) -> None:
    end, seen = [0] * PARTITIONS, [0] * PARTITIONS

    def come(batches: list[RecordBatch]) -> None:
        for batch in batches:
            next_ = seen[batch.partition]
            assert batch.offsets.tolist() == list(range(next_, batch.next_offset))
            seen[batch.partition] = batch.next_offset

    with decoder(limit) as made:
        for what, which, count in steps:
            if isinstance(which, set):
                batches = made.take({source(partition) for partition in which})
                assert not which & {batch.partition for batch in batches}
                come(batches)
            elif what == "fetch":
                made.add([fetched(which, end[which], count)])
                end[which] += count * PER_BATCH
            else:
                made.forget(source(which))
                seen[which] = end[which]
        come(rest(made))
        assert seen == end
        assert not made.broken


def test_damage_is_told_after_what_came_before_it() -> None:
    with decoder(1) as made:
        made.add([fetched(0, 0, 3, damaged=1), fetched(0, 12, 1), fetched(1, 0, 2)])
        batches = rest(made)
        assert [(batch.partition, batch.next_offset) for batch in batches] == [(0, 4), (1, 4), (1, 8)]
        assert list(made.broken) == [source(0)]
        made.forget(source(0))
        made.add([fetched(0, 12, 1)])
        assert [batch.next_offset for batch in rest(made)] == [16]
        assert not made.broken


@pytest.mark.parametrize("limit", [1, 500])
def test_no_more_than_the_limit_is_decoded_ahead(limit: int) -> None:
    pieces = [fetched(0, 0, 40), fetched(1, 0, 40)]
    with decoder(limit) as made:
        made.add(pieces)
        first = made.take(set())
        made.forget(source(2))  # waits for what is being decoded
        decoded = sum(piece.next_offset for piece in pieces)
        given_out = sum(len(batch) for batch in first)
        a_batch = PER_BATCH * 64
        assert 0 < (decoded - given_out) * 64 <= limit + 2 * a_batch
