"""From a job file to the objects that run it: who reads what, how rows are drawn, joined and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamsample.config import Feedback, Input, Job, Rule, Sample, Target, Time
from streamsample.config.columns import columns_of, shown
from streamsample.config.problems import KeyPath, key_name
from streamsample.config.stages import paths_of, sharing
from streamsample.formats.projection import Field, Kind, Projection, Projector
from streamsample.formats.training import SamplingSpec, StageSpec, TargetSpec, TrainingColumns, TrainingSpec
from streamsample.labels import JoinSettings, Limits, TargetRule, bits_of
from streamsample.records import Bools, Int64s, Spans
from streamsample.runtime.computed import SourceColumns
from streamsample.runtime.draws import Draw, Place, WindowDraw, draw_of, window_draw_of
from streamsample.runtime.replay import Range, range_of
from streamsample.runtime.source import Source
from streamsample.runtime.times import TimeField
from streamsample.sampling import Split


class Encoder(Protocol):
    """Makes the values of training records; see `formats`."""

    def encode(self, columns: TrainingColumns) -> Spans:
        """One value for each record."""


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """Where a target's label is in its feedback: a constant's bits, or a field. kind: "integer" or "number"."""

    constant: int
    field: Field | None

    @property
    def path(self) -> str:
        """The field's path; empty for a constant."""
        return "" if self.field is None else self.field.path

    def read(self, projection: Projection, rows: Int64s) -> tuple[Int64s, Bools | None]:
        """The 8-byte bits of m labels, int64[m], and whether there is one, bool[m] (None: always)."""
        if self.field is None:
            return np.full(len(rows), self.constant, np.int64), None
        path = self.field.path
        column = projection.integer(path) if self.field.kind == "integer" else projection.number(path)
        values = column.values[rows]
        bits = values if values.dtype == np.int64 else values.view(np.int64)
        return np.asarray(bits, np.int64), column.valid[rows]

    def unusable(self, projection: Projection, rows: Int64s) -> Bools | None:
        """Where the label is not a number or infinite, bool[m]; None if it cannot be."""
        if self.field is None or self.field.kind != "number":
            return None
        return ~np.isfinite(projection.number(self.field.path).values[rows])


@dataclass(frozen=True, slots=True)
class FeedbackPlan:
    """One feedback: its source, where its own id is (None: its place in Kafka), and the labels of the targets it
    serves.
    """

    name: str
    source: Source
    own_id: str | None
    values: tuple[ValueColumn, ...]


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """One sample of a job: the designs by rate, in order, and then the one of windows; with none of them everything is
    kept. name: None where it is the only one; sharing: see `config.stages`, of all designs. spec, encoder: of its
    training records.
    """

    name: str | None
    draws: tuple[Draw, ...]
    windows: WindowDraw | None
    sharing: tuple[int, ...]
    spec: TrainingSpec
    encoder: Encoder

    @property
    def places(self) -> tuple[Place, ...]:
        """Of all designs, in order."""
        windows = () if self.windows is None else (self.windows.place,)
        return (*(draw.place for draw in self.draws), *windows)

    @property
    def largest_rate(self) -> float:
        """The largest share that the designs by rate can keep."""
        shares = dict[int, float]()
        for draw, group in zip(self.draws, self.sharing, strict=False):
            shares[group] = min(draw.design.largest_rate, shares.get(group, 1.0))
        return math.prod(shares.values())


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How records are split. by None: by the id."""

    split: Split
    by: str | None

    def parts_of(self, projection: Projection, rows: Int64s, ids: Spans) -> NDArray[np.int8]:
        """The parts of m rows, int8[m]."""
        unit = ids if self.by is None else projection.text(self.by).take(rows)
        # A record without the unit belongs to no part: null on the record, never a guess.
        return np.where(unit.size >= 0, self.split.assign(unit), -1).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a worker needs of a job, made once and shared by its tasks. join None: the job only samples;
    samples: one at least, and with a join just one, without windows; replayed: the range of a backfill, None for the
    live job.
    """

    job: Job
    input: Source
    feedback: tuple[FeedbackPlan, ...]
    join: JoinSettings | None
    samples: tuple[SamplePlan, ...]
    split: SplitPlan | None
    replayed: Range | None

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The designs by rate of a job that joins."""
        return self.samples[0].draws

    @property
    def spec(self) -> TrainingSpec:
        """Of the training records of the first sample; others differ in what they say of the sampling."""
        return self.samples[0].spec

    @property
    def encoder(self) -> Encoder:
        """Of the training records of the first sample: all have the same schemas."""
        return self.samples[0].encoder

    @property
    def windowed(self) -> bool:
        """Whether there are samples of windows."""
        return any(sample.windows is not None for sample in self.samples)

    @property
    def closes(self) -> bool:
        """Whether there are windows, of feedback or of a sample, that the watermark closes."""
        return self.join is not None or self.windowed

    @property
    def sources(self) -> Mapping[str, tuple[Source, ...]]:
        """All source topics, the input's first, and what reads each: several feedbacks may share one."""
        found: dict[str, tuple[Source, ...]] = {self.input.topic: (self.input,)}
        for item in self.feedback:
            found[item.source.topic] = (*found.get(item.source.topic, ()), item.source)
        return found

    @property
    def topics(self) -> tuple[str, ...]:
        """The source topics, the input first."""
        return tuple(self.sources)

    @property
    def exchange(self) -> str | None:
        """The internal topic in which the tasks tell each other what they held of windows; None if they need not."""
        return self.job.windows_topic if self.job.exchanges_windows else None

    @property
    def reads(self) -> tuple[str, ...]:
        """All topics that a task reads: the source topics, and the internal one if there is one."""
        return self.topics if self.exchange is None else (*self.topics, self.exchange)


def plan_of(job: Job) -> Plan:
    """Build the plan of a job. Raises ConfigurationError where the job file does not fit the schemas."""
    feedback_names, columns = tuple(job.feedback), SourceColumns(job.input)
    designs = [(name, stages, *_designs(job, name, stages, columns)) for name, stages in job.samples_by_name.items()]
    split = _split(job, columns)
    input_source = _source(job, "input", job.input, columns.text(job.input.id, "input.id"), columns)
    join = _join(job, feedback_names) if job.targets else None
    feedback = tuple(_feedback(job, name, item) for name, item in job.feedback.items())
    plain = TrainingSpec(
        job=job.name,
        version=job.version,
        prediction_topic=job.input.topic,
        targets=tuple(TargetSpec(name, target.type) for name, target in job.targets.items()),
        feedback=feedback_names,
        feedback_topics=tuple(item.source.topic for item in feedback),
        splits=split.split.names if split else (),
    )
    samples = []
    for name, stages, draws, windows in designs:
        spec = replace(plain, sampling=_sampling_spec(name, stages))
        shares = sharing(stages, job.input.id)
        samples.append(SamplePlan(name, draws, windows, shares, spec, _encoder(job, input_source, spec)))
    if not samples:
        samples.append(SamplePlan(None, (), None, (), plain, _encoder(job, input_source, plain)))
    return Plan(
        job=job,
        input=input_source,
        feedback=feedback,
        join=join,
        samples=tuple(samples),
        split=split,
        replayed=range_of(job, join),
    )


def _designs(
    job: Job, name: str | None, stages: tuple[Sample, ...], columns: SourceColumns
) -> tuple[tuple[Draw, ...], WindowDraw | None]:
    """The designs by rate of one sample, and the one of windows."""
    draws, windows = list[Draw](), None
    path: KeyPath = ("sample",) if name is None else ("samples", name)
    for at, stage in zip(paths_of(path, stages), stages, strict=True):
        called = key_name(at).removeprefix("samples.") if name is not None or len(stages) > 1 else ""
        place = Place(key_name(at), f"{called}: {stage.name}" if called else stage.name)
        if stage.windowed:
            windows = window_draw_of(job, stage, columns, place)
        else:
            draws.append(draw_of(job, stage, columns, place))
    return tuple(draws), windows


def _sampling_spec(name: str | None, stages: tuple[Sample, ...]) -> SamplingSpec:
    last = stages[-1]
    if len(stages) == 1:
        return SamplingSpec(last.name, last.seed, last.form.estimator, name)
    # Without π in one of them the whole has none (B12).
    estimator = "none" if any(not stage.form.random for stage in stages) else last.form.estimator
    each = tuple(
        StageSpec(stage.name, ", ".join(map(shown, columns_of(stage.unit))) or None, stage.seed) for stage in stages
    )
    return SamplingSpec(" + ".join(stage.name for stage in stages), last.seed, estimator, name, each)


def _split(job: Job, columns: SourceColumns) -> SplitPlan | None:
    split = job.split
    return None if split is None else SplitPlan(Split(split.shares, split.seed), columns.text(split.by, "split.by"))


def _source(job: Job, role: str, item: Input | Feedback, id_path: str | None, columns: SourceColumns) -> Source:
    time = None if item.time is None else _time(item.time, columns, f"{role}.time")
    where = None if item.where is None else columns.condition(item.where, f"{role}.where")
    return Source(
        topic=item.topic,
        role=role,
        projector=_projector(job, item, columns.fields),
        id_path=id_path,
        time=time,
        max_future_ms=job.max_future_ms,
        where=where,
        computed=columns.computed,
    )


def _time(time: Time, columns: SourceColumns, key: str) -> TimeField:
    if time.unit == "iso8601":
        return TimeField(columns.column(time.column, "text", key, "iso8601").path, time.unit)
    return TimeField(columns.column(time.column, "integer", key, "time").path, time.unit)


def _projector(job: Job, item: Input | Feedback, fields: list[Field]) -> Projector:
    keep = drop = None
    if isinstance(item, Input) and job.features is not None:
        keep, drop = job.features.keep, job.features.drop
    # Imported here: a format's kernels are compiled only for jobs that need them.
    if item.format == "json":
        from streamsample.formats.json_values import JsonProjector

        return JsonProjector(fields, keep=keep, drop=drop)
    from streamsample.formats.avro import AvroProjector

    schemas = {number: schema.text for number, schema in item.schemas.items()}
    return AvroProjector(schemas, fields, framing="confluent" if item.confluent else "none", keep=keep, drop=drop)


def _feedback(job: Job, name: str, item: Feedback) -> FeedbackPlan:
    columns, role = SourceColumns(item), f"feedback.{name}"
    refers_to, own_id = columns.text(item.refers_to, f"{role}.refers_to"), columns.text(item.id, f"{role}.id")
    values = tuple(
        _value(target, target.rules[0], columns, f"targets.{name_}.rules[0]")
        for name_, target in job.targets.items()
        if target.rules[0].feedback == name
    )
    return FeedbackPlan(name, _source(job, role, item, refers_to, columns), own_id, values)


def _value(target: Target, rule: Rule, columns: SourceColumns, key: str) -> ValueColumn:
    if rule.column is not None:
        kind: Kind = "integer" if target.type == "int" else "number"
        return ValueColumn(0, columns.column(rule.column, kind, key))
    assert rule.label is not None
    return ValueColumn(bits_of(_typed(target, rule.label)), None)


def _typed(target: Target, value: float) -> float | int:
    return int(value) if target.type == "int" else float(value)


def _join(job: Job, feedback: tuple[str, ...]) -> JoinSettings:
    return JoinSettings(
        feedback=feedback,
        targets=tuple(_rule(name, target, feedback) for name, target in job.targets.items()),
        grace_ms=job.grace_ms,
        skew_ms=job.skew_ms,
        late_horizon_ms=job.late_horizon_ms,
        limits=Limits(open_rows=job.limits.open_rows_max, waiting=job.limits.waiting_max),
    )


def _rule(name: str, target: Target, feedback: tuple[str, ...]) -> TargetRule:
    number = feedback.index(target.rules[0].feedback)
    if target.drops_silent:
        return TargetRule(name, target.window_ms, number, "drop")
    if target.implicit_label is None:
        return TargetRule(name, target.window_ms, number, "null")
    return TargetRule(name, target.window_ms, number, "value", bits_of(target.implicit_label))


def _encoder(job: Job, source: Source, spec: TrainingSpec) -> Encoder:
    if job.input.format == "json":
        from streamsample.formats.training_json import JsonTrainingEncoder

        return JsonTrainingEncoder(spec)
    from streamsample.formats.training_avro import AvroTrainingEncoder

    schemas = source.projector.schemas
    ids = [job.output.schema_ids[schema.id] for schema in schemas if schema.id is not None]
    return AvroTrainingEncoder([dict(schema.features) for schema in schemas], ids or None, spec)
