"""From a job file to the objects that run it: who reads what, how rows are drawn, joined and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from streamsample.config import Feedback, Input, Job, Sample, Target, UndoneBy
from streamsample.formats.projection import Field, Projection, Projector
from streamsample.formats.training import SamplingSpec, TargetSpec, TrainingColumns, TrainingSpec
from streamsample.labels import JoinSettings, Limits, Rule, TargetRules, Undo, Use, bits_of
from streamsample.labels.settings import IfSilent
from streamsample.records import Int64s, Spans
from streamsample.runtime.source import Source, TimeField
from streamsample.runtime.values import ValueColumn
from streamsample.sampling import RateDesign, SimpleRate, Split, StratifiedRate
from streamsample.sampling.ranks import Law
from streamsample.sampling.stratified import stratum_of
from streamsample.sampling.window_columns import WindowSettings


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
class Units:
    """What is sampled. unit None: by the id. by: the fields of the strata, empty without strata."""

    unit: str | None
    by: tuple[str, ...]

    def unit_of(self, projection: Projection, rows: Int64s, ids: Spans) -> Spans:
        """The sampling units of m rows; null where the field is null."""
        return ids if self.unit is None else projection.text(self.unit).take(rows)

    def stratum_of(self, projection: Projection, rows: Int64s) -> Spans | None:
        """The strata of m rows; null where a field is null. None without strata."""
        return stratum_of([projection.text(path).take(rows) for path in self.by]) if self.by else None


@dataclass(frozen=True, slots=True)
class Draw:
    """A design that decides on each prediction as it comes."""

    design: RateDesign
    units: Units


@dataclass(frozen=True, slots=True)
class WindowDraw:
    """A design of fixed size per window. weight: the field that is the weight, None without."""

    name: str
    seed: int
    settings: WindowSettings
    units: Units
    weight: str | None


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How records are split. by None: by the id."""

    split: Split
    by: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a worker needs of a job, made once and shared by its tasks. join None: the job only samples;
    draw and windows: at most one of them.
    """

    job: Job
    input: Source
    feedback: tuple[FeedbackPlan, ...]
    join: JoinSettings | None
    draw: Draw | None
    windows: WindowDraw | None
    split: SplitPlan | None
    spec: TrainingSpec
    encoder: Encoder

    @property
    def closes(self) -> bool:
        """Whether there are windows, of feedback or of a sample, that the watermark closes."""
        return self.join is not None or self.windows is not None

    @property
    def sources(self) -> Mapping[str, Source]:
        """All source topics, the input first."""
        return {source.topic: source for source in (self.input, *(item.source for item in self.feedback))}

    @property
    def topics(self) -> tuple[str, ...]:
        """The source topics, the input first."""
        return tuple(self.sources)


def plan_of(job: Job) -> Plan:
    """Build the plan of a job. Raises ConfigurationError where the job file does not fit the schemas."""
    draw, windows, split = _draw(job), _windows(job), _split(job)
    drawn = draw or windows
    input_source = _source(job, "input", job.input, job.input.topic, _input_fields(job, drawn, split))
    join = _join(job) if job.targets else None
    feedback = () if join is None else tuple(_feedback(job, join, topic, number) for topic, number in _topics(job))
    spec = TrainingSpec(
        job=job.name,
        version=job.version,
        prediction_topic=job.input.topic,
        targets=tuple(TargetSpec(name, target.type, target.codes) for name, target in job.targets.items()),
        feedback=tuple(job.feedback),
        feedback_topics=tuple(item.source.topic for item in feedback),
        splits=split.split.names if split else (),
        sampling=SamplingSpec(job.sample.design, job.sample.seed) if job.sample else None,
    )
    return Plan(
        job=job,
        input=input_source,
        feedback=feedback,
        join=join,
        draw=draw,
        windows=windows,
        split=split,
        spec=spec,
        encoder=_encoder(job, input_source, spec),
    )


def _draw(job: Job) -> Draw | None:
    sample = job.sample
    if sample is None or sample.rate is None:
        return None
    units = Units(sample.unit, sample.by or ())
    if sample.design == "simple":
        return Draw(SimpleRate(sample.rate, sample.seed), units)
    names = {stratum_name(values): rate for values, rate in sample.rates_by_stratum.items()}
    return Draw(StratifiedRate(sample.rate, names, sample.seed), units)


def _law(sample: Sample) -> Law:
    if sample.design == "recency":
        return "decayed"
    return "uniform" if sample.design == "reservoir" else sample.method


def _windows(job: Job) -> WindowDraw | None:
    sample = job.sample
    if sample is None or sample.k is None or sample.window_ms is None:
        return None
    settings = WindowSettings(
        k=sample.k,
        law=_law(sample),
        half_life_ms=sample.half_life_ms,
        window_ms=sample.window_ms,
        grace_ms=job.grace_ms,
        strata=sample.strata,
        others=job.limits.strata_max if sample.by else 0,
        windows_max=job.limits.windows_max,
    )
    return WindowDraw(sample.design, sample.seed, settings, Units(sample.unit, sample.by or ()), sample.weight)


def stratum_name(values: tuple[str, ...]) -> str:
    """The name of the stratum with these values, as the data's strata are named."""
    name = stratum_of([Spans.of([value.encode()]) for value in values])[0]
    return (name or b"").decode()


def _split(job: Job) -> SplitPlan | None:
    return None if job.split is None else SplitPlan(Split(job.split.shares, job.split.seed), job.split.by)


def _input_fields(job: Job, drawn: Draw | WindowDraw | None, split: SplitPlan | None) -> list[Field]:
    paths = [job.input.id]
    if drawn is not None:
        paths += [drawn.units.unit, *drawn.units.by]
    if split is not None:
        paths.append(split.by)
    weight = drawn.weight if isinstance(drawn, WindowDraw) else None
    numbers = [] if weight is None else [Field(weight, "number")]
    return [Field(path, "text") for path in paths if path is not None] + numbers


def _source(job: Job, role: str, item: Input | Feedback, topic: str, fields: list[Field]) -> Source:
    id_path = item.refers_to if isinstance(item, Feedback) else item.id
    time = None if item.time is None else TimeField(item.time.field, item.time.unit)
    wanted = list(dict.fromkeys(fields + ([] if time is None else [Field(time.path, "integer")])))
    return Source(
        topic=topic,
        role=role,
        projector=_projector(job, item, wanted),
        id_path=id_path,
        time=time,
        max_future_ms=job.max_future_ms,
    )


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


def _topics(job: Job) -> list[tuple[str, int]]:
    """Each topic of each feedback, with the feedback's number: the sources of the join."""
    return [(topic, number) for number, item in enumerate(job.feedback.values()) for topic in item.topics]


def _feedback(job: Job, join: JoinSettings, topic: str, number: int) -> FeedbackPlan:
    name = join.feedback[number]
    item = job.feedback[name]
    values = tuple(_value(job, join.uses[use]) for use in join.uses_of(number))
    fields = [Field(path, "text") for path in (item.refers_to, item.id) if path is not None]
    fields += [column.field for column in values if column.field is not None]
    return FeedbackPlan(name, _source(job, f"feedback.{name}", item, topic, fields), item.id, values)


def _value(job: Job, use: Use) -> ValueColumn:
    """Where a use of a feedback finds what it says."""
    target = list(job.targets.values())[use.target]
    rule = target.rules[use.rule]
    if use.undoes >= 0:
        path = rule.undone_by.refers_to if rule.undone_by is not None else None
        return ValueColumn(0, None if path is None else Field(path, "text"))
    if rule.field is None:
        return ValueColumn(_bits(target, target.constants[use.rule]), None)
    if target.codes:
        return ValueColumn(0, Field(rule.field, "text"), target.codes)
    return ValueColumn(0, Field(rule.field, "integer" if target.type == "int" else "number"))


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
        Rule(feedback.index(rule.feedback), window, rule.take, _undo(rule.undone_by, feedback), rule.field or "")
        for rule, window in zip(target.rules, target.windows_ms, strict=True)
    )
    silent: IfSilent = "drop" if target.drops_silent else "null" if target.implicit_label is None else "value"
    silent_bits = _bits(target, target.implicit_label)
    return TargetRules(name, rules, silent, silent_bits, target.type == "double", target.early)


def _undo(undo: UndoneBy | None, feedback: tuple[str, ...]) -> Undo | None:
    if undo is None:
        return None
    return Undo(feedback.index(undo.feedback), undo.refers_to is not None, undo.refers_to or "")


def _encoder(job: Job, source: Source, spec: TrainingSpec) -> Encoder:
    if job.input.format == "json":
        from streamsample.formats.training_json import JsonTrainingEncoder

        return JsonTrainingEncoder(spec)
    from streamsample.formats.training_avro import AvroTrainingEncoder

    schemas = source.projector.schemas
    ids = [job.output.schema_ids[schema.id] for schema in schemas if schema.id is not None]
    return AvroTrainingEncoder([dict(schema.features) for schema in schemas], ids or None, spec)
