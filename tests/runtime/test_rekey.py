"""Blocks of rekeyed records, and predictions of several origins brought into one order."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from streamsample.errors import StateError
from streamsample.formats.json_values import JsonProjector
from streamsample.records import RecordBatch, Spans
from streamsample.runtime.blocks import Progress, blocks_of, encode_progress, encode_records
from streamsample.runtime.in_order import InOrder
from streamsample.runtime.layout import Layout
from streamsample.runtime.plan import plan_of
from streamsample.runtime.rekey import Sender
from streamsample.runtime.source import Events, Source
from tests.acceptance.timelines import job_of, job_tree

SHAPE = "shape"
SOURCE = Source("p", "input", JsonProjector([]), None, None, max_future_ms=0)
TEXTS = st.one_of(st.none(), st.binary(max_size=5))


def batch_of(keys: list[bytes | None], times: list[int], partition: int = 0, first: int = 0) -> RecordBatch:
    """Records with values, one after the other."""
    count = len(keys)
    values = Spans.of([b"{}"] * count)
    offsets = np.arange(first, first + count)
    return RecordBatch(
        "p", partition, offsets, np.array(times), Spans.of(keys), values, Spans.nulls(count), first + count
    )


def message(value: bytes, offset: int = 0) -> RecordBatch:
    """A batch with one message, that does not begin where its buffer does."""
    values = Spans.of([b"before", value]).take(np.array([1]))
    nothing = Spans.nulls(1)
    return RecordBatch("t", 1, np.array([offset]), np.zeros(1, np.int64), nothing, values, nothing, offset + 1)


@given(
    st.lists(st.tuples(st.integers(0, 2**47), st.integers(-1, 2**45), TEXTS, TEXTS, TEXTS), min_size=1, max_size=9),
    st.data(),
)
def test_a_block_brings_back_what_it_was_made_of(records: list, data: st.DataObject) -> None:  # type: ignore[type-arg]
    records.sort(key=lambda record: record[0])
    offsets, times, keys, values, headers = zip(*records, strict=True)
    spans = [Spans.of(each) for each in (keys, values, headers)]
    batch = RecordBatch("p", 7, np.array(offsets), np.array(times), *spans, int(offsets[-1]) + 1)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(records) - 1), min_size=1)))
    value = encode_records(SHAPE, 3, batch, np.array(chosen)).tobytes()
    [block] = blocks_of(message(value, 5), "p", SHAPE)
    found = block.records
    assert found is not None
    assert (block.offset, block.head.source, found.topic, found.partition) == (5, 3, "p", 7)
    rows = zip(
        found.offsets.tolist(),
        found.timestamps.tolist(),
        *(s.to_list() for s in (found.keys, found.values, found.headers)),
        strict=True,
    )
    assert list(rows) == [records[each] for each in chosen]


def test_progress_is_what_was_said() -> None:
    said = Progress(level=None, silent_ms=4, covered_from=2**62)
    [block] = blocks_of(message(encode_progress(SHAPE, 3, 9, said).tobytes()), "p", SHAPE)
    assert (block.head.partition, block.head.next_offset, block.head.progress, block.records) == (3, 9, said, None)


@pytest.mark.parametrize("cut", [0, 3, 10, 60, -1])
def test_a_damaged_block_is_refused_with_its_place(cut: int) -> None:
    value = encode_records(SHAPE, 0, batch_of([b"a", None], [1, 2]), np.arange(2)).tobytes()
    with pytest.raises(StateError, match="t/1@5: these records of another task cannot be read"):
        list(blocks_of(message(value[:cut], 5), "p", SHAPE))


def test_a_block_of_another_job_is_refused() -> None:
    value = encode_records("other", 0, batch_of([b"a"], [1]), np.arange(1)).tobytes()
    with pytest.raises(StateError, match="t/1@5: these records were sent by a job of another shape"):
        list(blocks_of(message(value, 5), "p", SHAPE))


def events_of(keys: list[bytes], times: list[int], partition: int = 0, first: int = 0) -> Events:
    return SOURCE.read(batch_of(list(keys), times, partition, first), 2**50)


def order_of(several: list[Events]) -> dict[bytes, list[tuple[int, int, int]]]:
    """Of each id its records, as (time, partition, offset), in the order in which they come."""
    found: dict[bytes, list[tuple[int, int, int]]] = {}
    for events in several:
        for row, identity, time in zip(events.rows.tolist(), events.ids.to_list(), events.times.tolist(), strict=True):
            found.setdefault(identity or b"", []).append((time, events.batch.partition, int(events.batch.offsets[row])))
    return found


ORIGINS = st.lists(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9)), max_size=6), min_size=1, max_size=3
)


@given(ORIGINS, st.randoms(use_true_random=False))
def test_a2_a9_predictions_of_an_id_come_by_time_and_place_however_they_arrive(
    origins: list[list[tuple[bytes, int]]], random: object
) -> None:
    """Origins with times that ascend within the grace of 3, read in any interleaving, each record a message."""
    grace = 3
    logs = [[(identity, 2 * at + late % 3) for at, (identity, late) in enumerate(log)] for log in origins]
    turns = [partition for partition, log in enumerate(logs) for _ in log]
    random.shuffle(turns)  # type: ignore[attr-defined]
    held, levels, next_offset = InOrder(grace), dict.fromkeys(range(len(logs)), -10), dict.fromkeys(range(len(logs)), 0)
    came: list[Events] = []
    for number, partition in enumerate(turns):
        offset = next_offset[partition]
        identity, time = logs[partition][offset]
        held.hold(number, events_of([identity], [time], partition, offset), again=False)
        next_offset[partition] += 1
        levels[partition] = max(levels[partition], time)
        came += held.release(min(levels.values()))
    came += held.release(1_000)
    expected: dict[bytes, list[tuple[int, int, int]]] = {}
    for partition, log in enumerate(logs):
        for offset, (identity, time) in enumerate(log):
            expected.setdefault(identity, []).append((time, partition, offset))
    assert order_of(came) == {identity: sorted(places) for identity, places in expected.items()}
    assert held.begins_at(7) == 7


def test_what_is_held_is_read_again_and_what_was_given_out_is_not() -> None:
    held = InOrder(10)
    messages = [events_of([b"a", b"b"], [100, 120]), events_of([b"c"], [105], 1), events_of([b"d"], [130], 1, 1)]
    for offset, events in enumerate(messages):
        held.hold(offset, events, again=False)
    assert order_of(list(held.release(116))).keys() == {b"a", b"c"}
    assert held.begins_at(3) == 0
    again = InOrder(10)
    again.released = held.released
    for offset, events in enumerate(messages):
        again.hold(offset, events, again=True)
    assert list(again.release(116)) == []
    assert again.begins_at(3) == 0
    assert order_of(list(again.release(135))).keys() == {b"b"}
    assert again.begins_at(3) == 2
    assert order_of(list(itertools.chain(again.release(999)))).keys() == {b"d"}


def test_what_is_collected_until_a_commit_is_one_block_for_each_task() -> None:
    """Though it came little by little; and progress is told once, to all tasks."""
    tree = job_tree("job", {"feedback.clicks.rekey": True})
    plan = plan_of(job_of(tree))
    layout = Layout(plan, 3, {"job.clicked": 2})
    sender, ids = Sender(layout, 1, 1 << 20, {}), [f"p{number}" for number in range(40)]
    source = plan.sources["job.clicked"][0]
    for number, identity in enumerate(ids):
        value = json.dumps({"id": identity, "event": str(number), "at": 1000 + number}).encode()
        batch = RecordBatch(
            *("job.clicked", 1, np.array([number]), np.array([5]), Spans.of([b"k"]), Spans.of([value])),
            *(Spans.nulls(1), number + 1),
        )
        events = source.read(batch, 2**50)
        assert sender.take(0, events) is None
        sender.watermark.on_read(batch.source, int(events.times[0]), batch.next_offset, 0)
    assert sender.take_messages() == []
    assert sender.tell({"job.clicked": 40}, {"job.clicked": -5})
    assert not sender.tell({"job.clicked": 40}, {"job.clicked": -5})
    messages = sender.take_messages()
    assert [each.to for each in messages] == [0, 1, 2, 0, 1, 2]
    assert {each.topic for each in messages} == {"job.rekeyed.job.clicked"}
    found = [next(blocks_of(message(each.value), "job.clicked", plan.job.state_shape)) for each in messages]
    assert [block.head.progress for block in found[3:]] == [Progress(1039, 0, -5)] * 3
    for to, block in enumerate(found[:3]):
        assert block.records is not None
        mine = [number for number, each in enumerate(ids) if (murmur2(each.encode()) & 0x7FFFFFFF) % 3 == to]
        assert block.records.offsets.tolist() == mine
        assert [json.loads(value or b"")["id"] for value in block.records.values.to_list()] == [ids[at] for at in mine]
        assert set(block.records.keys.to_list()) == {b"k"}


def test_a_record_too_large_for_a_message_is_refused() -> None:
    plan = plan_of(job_of(job_tree("job", {"feedback.clicks.rekey": True})))
    sender = Sender(Layout(plan, 2, {"job.clicked": 1}), 0, 4_000, {})
    values = [json.dumps({"id": "a", "event": "x" * size, "at": 1}).encode() for size in (10, 2_000)]
    batch = batch_of([None, None], [1, 1])
    events = plan.sources["job.clicked"][0].read(replace(batch, topic="job.clicked", values=Spans.of(values)), 2**50)
    refused = sender.take(0, events)
    assert refused is not None
    assert (refused.rows.tolist(), refused.stage, refused.reason) == ([1], "identify", "too_large")
    sender.tell({"job.clicked": 2}, {"job.clicked": 0})
    [block] = blocks_of(message(sender.take_messages()[0].value), "job.clicked", plan.job.state_shape)
    assert block.records is not None
    assert block.records.values.to_list() == values[:1]
