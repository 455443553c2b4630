"""From a job file to the objects that run it: who reads what, how rows are drawn, joined and written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from streamsample.config import Feedback, Input, Job, Sample, Target, Time, UndoneBy
from streamsample.config.columns import Columns, columns_of, described, shown
from streamsample.config.problems import KeyPath, key_name
from streamsample.config.stages import paths_of, sharing
from streamsample.formats.projection import Field, Projection, Projector
from streamsample.formats.training import SamplingSpec, StageSpec, TargetSpec, TrainingColumns, TrainingSpec
from streamsample.labels import JoinSettings, Limits, Rule, TargetRules, Undo, Use, bits_of
from streamsample.labels.settings import IfSilent
from streamsample.records import Int64s, Spans
from streamsample.runtime.computed import SourceColumns
from streamsample.runtime.draws import Draw, Place, WindowDraw, draw_of, window_draw_of
from streamsample.runtime.replay import Range, range_of
from streamsample.runtime.source import Source
from streamsample.runtime.thinning import Thinning, thinned_sharing, thinned_spec, thinning_of
from streamsample.runtime.times import TimeField
from streamsample.runtime.values import ValueColumn
from streamsample.sampling import Split

if TYPE_CHECKING:
    from streamsample.formats.avro import Framing


class Encoder(Protocol):
    """Makes the values of training records; see `formats`."""

    def encode(self, columns: TrainingColumns) -> Spans:
        """One value for each record."""


@dataclass(frozen=True, slots=True)
class FeedbackPlan:
    """One topic of a feedback: its source, where its own id is (None: its place in Kafka), and what it says for each
    of the join's uses of that feedback.
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
    samples: one at least, and with a join just one, without windows; thinning: of labelled records; replayed: the range
    of a backfill, None for the live job.
    """

    job: Job
    input: Source
    feedback: tuple[FeedbackPlan, ...]
    join: JoinSettings | None
    samples: tuple[SamplePlan, ...]
    thinning: Thinning | None
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
    def snowballs(self) -> list[str]:
        """What metrics call the snowball samples."""
        return [draw.place.called for each in self.samples for draw in each.draws if draw.relation is not None]

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
        exchanged = any(each.windows is not None and each.windows.exchanged for each in self.samples)
        return self.job.windows_topic if exchanged else None

    @property
    def reads(self) -> tuple[str, ...]:
        """All topics that tasks read: the source topics, and the job's own."""
        rekeyed = tuple(map(self.job.rekeyed_topic, self.job.rekeyed))
        return (*self.topics, *rekeyed, *([] if self.exchange is None else [self.exchange]))


def plan_of(job: Job) -> Plan:
    """Build the plan of a job. Raises ConfigurationError where the job file does not fit the schemas."""
    columns = SourceColumns(job.input)
    designs = [(name, stages, *_designs(job, name, stages, columns)) for name, stages in job.samples_by_name.items()]
    split = _split(job, columns)
    input_source = _source(job, "input", job.input, job.input.topic, columns.text(job.input.id, "input.id"), columns)
    join = _join(job) if job.targets else None
    feedback = () if join is None else tuple(_feedback(job, join, topic, number) for topic, number in _topics(job))
    plain = TrainingSpec(
        job=job.name,
        version=job.version,
        prediction_topic=job.input.topic,
        targets=tuple(TargetSpec(name, target.type, target.codes) for name, target in job.targets.items()),
        feedback=tuple(job.feedback),
        feedback_topics=tuple(item.source.topic for item in feedback),
        splits=split.split.names if split else (),
    )
    samples = []
    for name, stages, draws, windows in designs:
        spec = replace(plain, sampling=thinned_spec(job, _sampling_spec(name, stages, thinned=job.thin is not None)))
        shares = thinned_sharing(job, stages, sharing(stages, job.input.id))
        samples.append(SamplePlan(name, draws, windows, shares, spec, _encoder(job, input_source, spec)))
    if not samples:
        plain = replace(plain, sampling=thinned_spec(job, None))
        shares = thinned_sharing(job, (), ())
        samples.append(SamplePlan(None, (), None, shares, plain, _encoder(job, input_source, plain)))
    return Plan(
        job=job,
        input=input_source,
        feedback=feedback,
        join=join,
        samples=tuple(samples),
        split=split,
        thinning=thinning_of(job),
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


def _sampling_spec(name: str | None, stages: tuple[Sample, ...], *, thinned: bool) -> SamplingSpec:
    last = stages[-1]
    if len(stages) == 1 and not thinned:
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


def _source(
    job: Job, role: str, item: Input | Feedback, topic: str, id_path: str | None, columns: SourceColumns
) -> Source:
    time = None if item.time is None else _time(item.time, columns, f"{role}.time")
    where = None if item.where is None else columns.condition(item.where, f"{role}.where")
    return Source(
        topic=topic,
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
    if isinstance(item, Input) and item.explode is not None:
        return _slates(job, item, item.explode, fields, keep, drop)
    if item.format == "json":
        from streamsample.formats.json_values import JsonProjector

        return JsonProjector(fields, keep=keep, drop=drop)
    from streamsample.formats.avro import AvroProjector

    schemas = {number: schema.text for number, schema in item.schemas.items()}
    return AvroProjector(schemas, fields, framing="confluent" if item.confluent else "none", keep=keep, drop=drop)


def _slates(
    job: Job, item: Input, explode: str, fields: list[Field], keep: Sequence[str] | None, drop: Sequence[str] | None
) -> Projector:
    """What projects the elements of a list."""
    most = job.limits.elements_max
    if item.format == "json":
        from streamsample.formats.json_slates import JsonSlates

        return JsonSlates(fields, explode=explode, elements_max=most, keep=keep, drop=drop)
    from streamsample.formats.avro_slates import AvroSlates

    schemas = {number: schema.text for number, schema in item.schemas.items()}
    framing: Framing = "confluent" if item.confluent else "none"
    return AvroSlates(schemas, fields, explode=explode, elements_max=most, framing=framing, keep=keep, drop=drop)


def _topics(job: Job) -> list[tuple[str, int]]:
    """Each topic of each feedback, with the feedback's number: the sources of the join."""
    return [(topic, number) for number, item in enumerate(job.feedback.values()) for topic in item.topics]


def _feedback(job: Job, join: JoinSettings, topic: str, number: int) -> FeedbackPlan:
    name = join.feedback[number]
    item, role = job.feedback[name], f"feedback.{name}"
    columns = SourceColumns(item)
    refers_to, own_id = columns.text(item.refers_to, f"{role}.refers_to"), columns.text(item.id, f"{role}.id")
    values = tuple(_value(job, join.uses[use], columns) for use in join.uses_of(number))
    return FeedbackPlan(name, _source(job, role, item, topic, refers_to, columns), own_id, values)


def _value(job: Job, use: Use, columns: SourceColumns) -> ValueColumn:
    """Where a use of a feedback finds what it says."""
    name, target = list(job.targets.items())[use.target]
    rule, key = target.rules[use.rule], f"targets.{name}.rules[{use.rule}]"
    if use.undoes >= 0:
        assert rule.undone_by is not None
        path = columns.text(rule.undone_by.refers_to, f"{key}.undone_by.refers_to")
        return ValueColumn(0, None if path is None else Field(path, "text"))
    if rule.column is None:
        return ValueColumn(_bits(target, target.constants[use.rule]), None)
    if target.codes:
        field = columns.column(rule.column, "text", key, "boolean" if target.type == "boolean" else "string")
        return ValueColumn(0, field, target.codes)
    return ValueColumn(0, columns.column(rule.column, "integer" if target.type == "int" else "number", key))


def _bits(target: Target, value: float | int | bool | str | None) -> int:
    """A constant as the join keeps it."""
    if value is None:
        return 0
    return target.classes.index(value) if isinstance(value, str) else bits_of(value)


def _join(job: Job) -> JoinSettings:
    feedback = tuple(job.feedback)
    return JoinSettings(
        feedback=feedback,
        targets=tuple(_target(name, target, feedback) for name, target in job.targets.items()),
        grace_ms=job.grace_ms,
        skew_ms=job.skew_ms,
        late_horizon_ms=job.late_horizon_ms,
        corrections_ms=job.corrections_ms,
        emit_each=job.emit == "each",
        keeps_lost=job.late_topic is not None or job.orphans_topic is not None,
        limits=Limits(open_rows=job.limits.open_rows_max, waiting=job.limits.waiting_max),
        sources=tuple((f"{feedback[number]}/{topic}", number) for topic, number in _topics(job)),
    )


def _target(name: str, target: Target, feedback: tuple[str, ...]) -> TargetRules:
    rules = tuple(
        Rule(
            feedback.index(rule.feedback),
            window,
            rule.take,
            _undo(rule.undone_by, feedback),
            f"={constant!r}" if rule.column is None else _key(rule.column),
        )
        for rule, constant, window in zip(target.rules, target.constants, target.windows_ms, strict=True)
    )
    silent: IfSilent = "drop" if target.drops_silent else "null" if target.implicit_label is None else "value"
    silent_bits = _bits(target, target.implicit_label)
    return TargetRules(name, rules, silent, silent_bits, target.type == "double", target.early)


def _undo(undo: UndoneBy | None, feedback: tuple[str, ...]) -> Undo | None:
    if undo is None:
        return None
    return Undo(feedback.index(undo.feedback), undo.refers_to is not None, _key(undo.refers_to))


def _key(columns: Columns | None) -> str:
    """What is read, as a restored state finds it again."""
    return "" if columns is None else str(described(columns))


def _encoder(job: Job, source: Source, spec: TrainingSpec) -> Encoder:
    if job.input.format == "json":
        from streamsample.formats.training_json import JsonTrainingEncoder

        return JsonTrainingEncoder(spec)
    from streamsample.formats.training_avro import AvroTrainingEncoder

    schemas = source.projector.schemas
    ids = [job.output.schema_ids[schema.id] for schema in schemas if schema.id is not None]
    return AvroTrainingEncoder([dict(schema.features) for schema in schemas], ids or None, spec)
