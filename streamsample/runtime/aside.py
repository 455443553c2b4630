"""Feedback that no label could use, sent to topics of its own as it was read, where the job names them.

Some of it has waited for its prediction: the join keeps its original meanwhile, which is one byte string: the timestamp
(int64), the key's and the headers' size (int32 each, -1 for null), all little-endian; then key, headers and value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamsample.config import Job
from streamsample.gather import gather
from streamsample.labels import Lost
from streamsample.labels import ledger as books
from streamsample.labels.results import Codes
from streamsample.records import Int64s, RecordBatch, Spans
from streamsample.runtime.places import offsets_at, partitions_at
from streamsample.runtime.plan import Plan
from streamsample.runtime.source import Rejected

_HEAD = np.dtype([("timestamp", "<i8"), ("key", "<i4"), ("headers", "<i4")])


_WHY = {
    books.LATE: "it came after the windows, or was corrected no more",
    books.ORPHAN: "no prediction has the id that it refers to",
    books.PRE_CAUSAL: "it is dated before its prediction, by more than the skew",
}
"""Why feedback is set aside."""


def set_aside(job: Job, batch: RecordBatch, rows: Int64s, what: Codes | Int64s) -> Iterator[tuple[str, Rejected]]:
    """What goes to which topic. what: for each of the rows LATE, ORPHAN or PRE_CAUSAL of the ledger's columns, or 0."""
    for column, words in _WHY.items():
        mine = what == column
        topic = job.late_topic if column == books.LATE else job.orphans_topic
        if topic is not None and mine.any():
            yield topic, Rejected(batch, rows[mine], "label", books.FEEDBACK_COLUMNS[column], words)


def waited_in_vain(plan: Plan, lost: Lost) -> Iterator[tuple[str, Rejected]]:
    """The same for feedback that the join hands back."""
    partitions, offsets = partitions_at(lost.offset), offsets_at(lost.offset)
    for number, partition in sorted(set(zip(lost.source.tolist(), partitions.tolist(), strict=True))):
        mine = (lost.source == number) & (partitions == partition)
        topic = plan.feedback[number].source.topic
        batch = batch_of(lost.originals.take(mine), topic, partition, offsets[mine])
        yield from set_aside(plan.job, batch, np.arange(len(batch)), lost.what[mine])


def originals_of(batch: RecordBatch, rows: Int64s) -> Spans:
    """The originals of a batch's records at `rows`."""
    keys, headers, values = (spans.take(rows) for spans in (batch.keys, batch.headers, batch.values))
    heads = np.empty(len(rows), _HEAD)
    heads["timestamp"], heads["key"], heads["headers"] = batch.timestamps[rows], keys.size, headers.size
    sizes = [np.maximum(spans.size, 0).astype(np.int64) for spans in (keys, headers, values)]
    size = sizes[0] + sizes[1] + sizes[2] + _HEAD.itemsize
    end = np.cumsum(size, dtype=np.int64)
    start = end - size
    out = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    out[start[:, None] + np.arange(_HEAD.itemsize)] = heads.view(np.uint8).reshape(len(rows), _HEAD.itemsize)
    at = start + _HEAD.itemsize
    for spans, each in zip((keys, headers, values), sizes, strict=True):
        gather(spans.buffer, spans.start, spans.size, at, out)
        at = at + each
    return Spans(out, start, size.astype(np.int32))


def batch_of(originals: Spans, topic: str, partition: int, offsets: Int64s) -> RecordBatch:
    """The records again. Those whose original was not kept have only their place."""
    kept = originals.size >= _HEAD.itemsize
    heads = np.zeros(len(originals), _HEAD)
    heads["timestamp"], heads["key"], heads["headers"] = -1, -1, -1
    places = originals.start[kept][:, None] + np.arange(_HEAD.itemsize)
    heads[kept] = np.ascontiguousarray(originals.buffer[places]).view(_HEAD).reshape(-1)
    key, headers = np.maximum(heads["key"], 0), np.maximum(heads["headers"], 0)
    at = originals.start + _HEAD.itemsize
    value = np.where(kept, originals.size - _HEAD.itemsize - key - headers, -1).astype(np.int32)
    return RecordBatch(
        topic=topic,
        partition=partition,
        offsets=offsets,
        timestamps=np.ascontiguousarray(heads["timestamp"]),
        keys=Spans(originals.buffer, at, np.ascontiguousarray(heads["key"])),
        values=Spans(originals.buffer, at + key + headers, value),
        headers=Spans(originals.buffer, at + key, np.ascontiguousarray(heads["headers"])),
        next_offset=int(offsets.max()) + 1 if len(offsets) else 0,
    )
