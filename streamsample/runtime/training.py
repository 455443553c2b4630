"""Settled rows and sampled events become the columns of training records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamsample.formats.training import CLOSED_BY, STATES, SamplingColumns, TargetColumn, TrainingColumns
from streamsample.hashing import hash64_of_integers
from streamsample.labels import STATES as LABEL_STATES
from streamsample.labels import Settled
from streamsample.records import Bools, Bytes, Float64s, Int64s, Spans
from streamsample.runtime.composed import Said, sampling_of, unpacked
from streamsample.runtime.places import offsets_at, partitions_at
from streamsample.runtime.plan import Plan, SamplePlan
from streamsample.runtime.rows import RecordIds
from streamsample.runtime.thinning import Thinned
from streamsample.sampling.window_columns import Drawn

_FINAL = STATES.index("final")
_STATE = np.array([STATES.index(name) for name in LABEL_STATES], np.int8)
_EVENT, _IDLE = CLOSED_BY.index("event"), CLOSED_BY.index("idle")
_ENVELOPE_BYTES_MAX = 4_096
"""What a training record may need beside its features, id, stratum and targets."""
_TARGET_BYTES_MAX = 1_024
"""What a target may need: its label, its feedback's place, and the names of both and of the topic."""
STAGE_BYTES_MAX = 1_024
"""What one of several designs may need beside its stratum."""
_PLACE_BYTES_MAX = 110
"""What the place of one more feedback may need, beside the names of the target and the topic."""


def record_bytes_max(plan: Plan) -> int:
    """The most bytes of a training record of this job, beside its features, id and stratum."""
    needed = _ENVELOPE_BYTES_MAX + _TARGET_BYTES_MAX * len(plan.spec.targets)
    if plan.join is None:
        return needed
    topics = max(len(topic) for topic in plan.spec.feedback_topics)
    for target in plan.join.targets:
        if any(rule.take in ("sum", "count") for rule in target.rules):
            needed += plan.join.limits.matches_per_row * (_PLACE_BYTES_MAX + len(target.name) + topics)
    return needed


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
    index: NDArray[np.int16]


class TrainingRecords:
    """Makes the training records of one sample of a job."""

    def __init__(self, plan: Plan, sample: SamplePlan) -> None:
        self._plan = plan
        self._sample = sample
        # No job's name has a slash.
        self._ids = RecordIds(plan.job.name if sample.name is None else f"{plan.job.name}/{sample.name}")

    def of_settled(self, settled: Settled, idle: Bools, thinned: Thinned | None = None) -> Encoded:
        """The records of rows that closed, or whose label became known or changed. idle: bool[m], where only a silent
        topic's time-out let them; thinned: what is left of them.
        """
        if thinned is not None:
            settled, idle = thinned.settled, idle[thinned.rows]
        features, said = unpacked(settled.payload, len(self._sample.draws))
        targets: list[TargetColumn] = []
        for spec, labels in zip(self._sample.spec.targets, settled.targets, strict=True):
            targets.append(
                TargetColumn(
                    value=labels.bits.view(np.float64) if spec.type == "double" else labels.bits,
                    valid=labels.valid,
                    settled=labels.settled,
                    explicit=labels.explicit,
                    kind=labels.kind,
                    event_time=labels.event_time,
                    delay_ms=labels.delay_ms,
                )
            )
        used = settled.used
        columns = TrainingColumns(
            record_id=self._ids.of(settled.ids, settled.ts),
            revision=settled.revision,
            supersedes=_superseded(settled, thinned),
            state=_STATE[settled.state],
            features=features,
            schema=settled.schema,
            ids=settled.ids,
            targets=tuple(targets),
            sampling=self._sampling(thinned, said),
            split=settled.split,
            partition=partitions_at(settled.offset),
            offset=offsets_at(settled.offset),
            index=settled.index.astype(np.int32),
            closed_by=np.where(idle, _IDLE, _EVENT).astype(np.int8),
            feedback_start=used.first,
            feedback_target=used.target.astype(np.int16),
            feedback_topic=used.source.astype(np.int16),
            feedback_partition=partitions_at(used.offset),
            feedback_offset=offsets_at(used.offset),
            feedback_index=used.index.astype(np.int32),
        )
        return Encoded(settled.timestamp, settled.ids, self._sample.encoder.encode(columns))

    def _sampling(self, thinned: Thinned | None, said: Sequence[Said]) -> SamplingColumns | None:
        """What labelled records say of sampling before the labels and after them."""
        if thinned is None or self._plan.thinning is None:
            return sampling_of(self._sample, said)
        sampling = sampling_of(self._sample, [*said, Said(thinned.probability, thinned.label)])
        if sampling is None or self._plan.thinning.offset is None:
            return sampling
        return replace(sampling, weight=np.full(len(thinned.rows), np.nan))

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
        sampled = Sampled(rows.ts, rows.offset, rows.ids, rows.payload, rows.schema, rows.split, rows.index)
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
            index=sampled.index.astype(np.int32),
            closed_by=closed_by,
            feedback_start=np.zeros(count + 1, np.int64),
            feedback_target=np.empty(0, np.int16),
            feedback_topic=np.empty(0, np.int16),
            feedback_partition=np.empty(0, np.int32),
            feedback_offset=np.empty(0, np.int64),
            feedback_index=np.empty(0, np.int32),
        )
        return self._sample.encoder.encode(columns)


def _superseded(settled: Settled, thinned: Thinned | None) -> NDArray[np.int32]:
    """The revision that each record takes the place of, -1 for none."""
    before = settled.revision - np.int32(1)
    return before if thinned is None else np.where(thinned.fresh, np.int32(-1), before)
