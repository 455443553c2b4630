"""Settled rows and sampled events become the columns of training records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsample.formats.training import CLOSED_BY, STATES, SamplingColumns, TargetColumn, TrainingColumns
from streamsample.hashing import hash64_of_integers
from streamsample.labels import Settled
from streamsample.records import Bools, Bytes, Float64s, Int64s, Spans
from streamsample.runtime.composed import Said, sampling_of, unpacked
from streamsample.runtime.plan import Plan, SamplePlan
from streamsample.runtime.rows import RecordIds
from streamsample.sampling.window_columns import Drawn

_FINAL = STATES.index("final")
_EVENT, _IDLE = CLOSED_BY.index("event"), CLOSED_BY.index("idle")
ENVELOPE_BYTES_MAX = 4_096
"""What a training record may need beside its features, id, stratum and targets."""
TARGET_BYTES_MAX = 1_024
"""What a target may need: its label, its feedback's place, and the names of both and of the topic."""
STAGE_BYTES_MAX = 1_024
"""What one of several designs may need beside its stratum."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """n messages for the output topic. timestamps: int64[n]."""

    timestamps: Int64s
    keys: Spans
    values: Spans

    def take(self, rows: Int64s) -> Encoded:
        """The messages at `rows`."""
        return Encoded(self.timestamps[rows], self.keys.take(rows), self.values.take(rows))


@dataclass(frozen=True, slots=True)
class Sampled:
    """n predictions that only sampling decided on: a job without targets. Shapes as in `Settled`."""

    ts: Int64s
    offset: Int64s
    ids: Spans
    features: Spans
    schema: np.ndarray[tuple[int], np.dtype[np.int16]]
    split: np.ndarray[tuple[int], np.dtype[np.int8]]


class TrainingRecords:
    """Makes the training records of one sample of a job."""

    def __init__(self, plan: Plan, sample: SamplePlan) -> None:
        self._plan = plan
        self._sample = sample
        # No job's name has a slash.
        self._ids = RecordIds(plan.job.name if sample.name is None else f"{plan.job.name}/{sample.name}")

    def of_settled(self, settled: Settled, partition: int, idle: Bools) -> Encoded:
        """The final records of rows whose windows closed. idle: bool[m], where only a silent topic's time-out closed
        them.
        """
        features, said = unpacked(settled.payload, len(self._sample.draws))
        count = len(settled)
        targets: list[TargetColumn] = []
        assert self._plan.join is not None
        for rule, labels in zip(self._plan.join.targets, settled.targets, strict=True):
            is_float = self._sample.spec.targets[len(targets)].type == "double"
            targets.append(
                TargetColumn(
                    value=labels.bits.view(np.float64) if is_float else labels.bits,
                    valid=labels.valid,
                    settled=labels.settled,
                    explicit=labels.explicit,
                    kind=np.where(labels.explicit, rule.feedback, -1).astype(np.int16),
                    event_time=labels.event_time,
                    delay_ms=labels.delay_ms,
                )
            )
        used = settled.used
        columns = TrainingColumns(
            record_id=self._ids.of(settled.ids, settled.ts),
            revision=np.zeros(count, np.int32),
            supersedes=np.full(count, -1, np.int32),
            state=np.full(count, _FINAL, np.int8),
            features=features,
            schema=settled.schema,
            ids=settled.ids,
            targets=tuple(targets),
            sampling=sampling_of(self._sample, said),
            split=settled.split,
            partition=np.full(count, partition, np.int32),
            offset=settled.offset,
            index=settled.index.astype(np.int32),
            closed_by=np.where(idle, _IDLE, _EVENT).astype(np.int8),
            feedback_start=used.first,
            feedback_target=used.target.astype(np.int16),
            feedback_topic=used.source.astype(np.int16),
            feedback_partition=np.full(len(used.offset), partition, np.int32),
            feedback_offset=used.offset,
            feedback_index=used.index.astype(np.int32),
        )
        return Encoded(settled.settled_at, settled.ids, self._sample.encoder.encode(columns))

    def of_sampled(
        self, sampled: Sampled, said: Sequence[Said], partition: int, weight: Float64s | None = None
    ) -> Encoded:
        """The records of a job without targets: final as soon as they are drawn. said: by the sample's designs; weight:
        if it is not 1/π, float64[n].
        """
        sampling = sampling_of(self._sample, said)
        if sampling is not None and weight is not None:
            sampling = replace(sampling, weight=weight)
        closed_by = np.full(len(sampled.ts), _EVENT, np.int8)
        partitions = np.full(len(sampled.ts), partition)
        record_id = self._ids.of(sampled.ids, sampled.ts)
        return Encoded(sampled.ts, sampled.ids, self._unlabelled(record_id, sampled, sampling, partitions, closed_by))

    def of_drawn(self, drawn: Drawn, said: Sequence[Said], idle: Bools) -> Encoded:
        """The records of windows that have closed. said: by the designs before; idle: bool[m], as `of_settled`."""
        window = SamplingColumns(
            probability=drawn.probability,
            threshold=drawn.threshold,
            stratum=drawn.rows.stratum,
            weight=drawn.weight,
            n=drawn.n,
            k=drawn.k,
            draws=drawn.draws,
            until=drawn.until,
        )
        rows = drawn.rows
        sampled = Sampled(rows.ts, rows.offset, rows.ids, rows.payload, rows.schema, rows.split)
        sampling = sampling_of(self._sample, said, window)
        closed_by = np.where(idle, _IDLE, _EVENT).astype(np.int8)
        named_by = rows.ts
        if self._sample.windows is not None and self._sample.windows.settings.cumulative:
            # A record of each snapshot that it is in: the snapshot's time makes it another.
            named_by = rows.ts ^ hash64_of_integers(drawn.until, 0).view(np.int64)
        record_id = self._ids.of(rows.ids, named_by)
        values = self._unlabelled(record_id, sampled, sampling, drawn.source, closed_by)
        return Encoded(drawn.settled_at, rows.ids, values)

    def _unlabelled(
        self,
        record_id: Bytes,
        sampled: Sampled,
        sampling: SamplingColumns | None,
        partition: Int64s,
        closed_by: np.ndarray[tuple[int], np.dtype[np.int8]],
    ) -> Spans:
        count = len(sampled.ts)
        columns = TrainingColumns(
            record_id=record_id,
            revision=np.zeros(count, np.int32),
            supersedes=np.full(count, -1, np.int32),
            state=np.full(count, _FINAL, np.int8),
            features=sampled.features,
            schema=sampled.schema,
            ids=sampled.ids,
            targets=(),
            sampling=sampling,
            split=sampled.split,
            partition=partition.astype(np.int32),
            offset=sampled.offset,
            index=np.zeros(count, np.int32),
            closed_by=closed_by,
            feedback_start=np.zeros(count + 1, np.int64),
            feedback_target=np.empty(0, np.int16),
            feedback_topic=np.empty(0, np.int16),
            feedback_partition=np.empty(0, np.int32),
            feedback_offset=np.empty(0, np.int64),
            feedback_index=np.empty(0, np.int32),
        )
        return self._sample.encoder.encode(columns)
