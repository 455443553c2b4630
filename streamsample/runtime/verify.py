"""Derives a job's samples again from its input, and holds them against what the job has written.

A sample is a function of the records that its design was shown. These are the input's, less those that the job has
dead-lettered, which the topic of dead letters names; so late records, too, are as they were for the job. All partitions
are shown to one sample, without the exchange between tasks by which the job puts it together.

What retention has taken is no difference: windows that lack records, and records whose predictions are gone, are told
apart from those that can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streamsample.clock import Clock
from streamsample.config import Job
from streamsample.errors import ConfigurationError
from streamsample.kafka.topics import TopicAdmin
from streamsample.kafka.wire_decode import decode_headers
from streamsample.records import Int64s, RecordBatch, TopicPartition
from streamsample.runtime.dead_letters import PREFIX, positions_in
from streamsample.runtime.derivation import Derivation, Left, Record, Refused
from streamsample.runtime.labelled_derivation import LabelledDerivation
from streamsample.runtime.plan import Plan, plan_of
from streamsample.runtime.readback import TrainingReader, batches_of
from streamsample.runtime.source import Events
from streamsample.runtime.verdict import Verdict


def verify(job: Job, window: str, admin: TopicAdmin, clock: Clock) -> list[Verdict]:
    """Verify all samples of a job, and what thins it, over `window` (see `verdict.parse_span`).

    Raises NotYetError for what cannot be derived, ConfigurationError, KafkaSideError.
    """
    plan = plan_of(job)
    if job.sample is None and not job.samples and job.thin is None:
        raise ConfigurationError(f"job {job.name} does not sample: there is nothing to verify", remedy="give a sample")
    kind = Derivation if plan.join is None else LabelledDerivation
    derivations = [kind(job, plan, sample, window) for sample in plan.samples]
    refused = list(_refused(job, admin, clock))
    for derivation in derivations:
        derivation.leave_out(refused)
    source, output = (_left(admin, topic) for topic in (job.input.topic, job.output.topic))
    come = _Come(admin, job.input.topic)
    for batch in batches_of(job, admin, job.input.topic, clock):
        events = plan.input.read(batch, clock.now_ms())
        if events.span is not None:
            source.look(batch.partition, events.span[0])
        watermark = come.to(batch, events)
        for derivation in derivations:
            derivation.show(events)
            derivation.come(watermark)
    written = list(_written(job, plan, admin, clock, [derivation.stamped for derivation in derivations], output))
    return [derivation.verdict(written, source, output) for derivation in derivations]


class _Come:
    """How far all partitions of a topic were read, in event time."""

    def __init__(self, admin: TopicAdmin, topic: str) -> None:
        places = _partitions(admin, topic)
        begins, ends = admin.earliest(places), admin.latest(places)
        self._ends = {place.partition: ends[place] for place in places if begins[place] < ends[place]}
        self._levels = dict.fromkeys(self._ends, -(2**62))

    def to(self, batch: RecordBatch, events: Events) -> int:
        """Note a batch: the least of the largest times of all partitions that are not at their end."""
        if batch.partition in self._levels:
            if events.span is not None:
                self._levels[batch.partition] = max(self._levels[batch.partition], events.span[1])
            if batch.next_offset >= self._ends[batch.partition]:
                del self._levels[batch.partition]
        return min(self._levels.values(), default=-(2**62))


def _partitions(admin: TopicAdmin, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(admin.describe([topic])[topic].partitions)]


def _left(admin: TopicAdmin, topic: str) -> Left:
    begins = admin.earliest(_partitions(admin, topic))
    return Left({place.partition: offset for place, offset in begins.items() if offset > 0})


def _refused(job: Job, admin: TopicAdmin, clock: Clock) -> Iterator[Refused]:
    if admin.find(job.dead_letters_topic) is None:
        return
    for batch in batches_of(job, admin, job.dead_letters_topic, clock):
        for row in range(len(batch)):
            said = {name: value or b"" for name, value in decode_headers(batch.headers[row])}
            if said.get(f"{PREFIX}topic") == job.input.topic.encode():
                stage, late = (said.get(f"{PREFIX}stage") or b"").decode(), said.get(f"{PREFIX}class") == b"late"
                partition, offset = (int(said[f"{PREFIX}{name}"]) for name in ("partition", "offset"))
                positions = positions_in(said.get(f"{PREFIX}positions", b"0").decode())
                yield Refused(partition, offset, positions, said[f"{PREFIX}message"].decode(), stage, late)


def _written(
    job: Job, plan: Plan, admin: TopicAdmin, clock: Clock, wanted: list[Callable[[Int64s], Any]], output: Left
) -> Iterator[Record]:
    schemas = getattr(plan.samples[0].encoder, "schemas", ())
    ids = [job.output.schema_ids[schema.id] for schema in plan.input.projector.schemas if schema.id is not None]
    reader = TrainingReader(schemas, ids)
    for batch in batches_of(job, admin, job.output.topic, clock):
        if len(batch):
            output.look(batch.partition, int(batch.timestamps[0]))
        chosen = np.any([stamped(batch.timestamps) for stamped in wanted], axis=0)
        for row in np.flatnonzero(chosen).tolist():
            value = batch.values[row] or b""
            try:
                tree = reader.decode(value)
            except ValueError as error:
                raise ConfigurationError(
                    f"{batch.topic}/{batch.partition}@{int(batch.offsets[row])}: this is no training record of this "
                    f"job: {error}",
                    remedy="verify with the job file that wrote it",
                ) from error
            if tree["lineage"]["job"] == job.name:
                yield Record(int(batch.timestamps[row]), value, tree)
