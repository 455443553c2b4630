"""From a job file to the objects that run it: who reads what, how rows are drawn, joined and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamsample.config import Feedback, Input, Job, Sample, Target, Time, UndoneBy
from streamsample.config.columns import Columns, Each, described
from streamsample.formats.projection import Field, ListColumn, Projection, Projector
from streamsample.formats.training import SamplingSpec, TargetSpec, TrainingColumns, TrainingSpec
from streamsample.labels import JoinSettings, Limits, Rule, TargetRules, Undo, Use, bits_of
from streamsample.labels.settings import IfSilent
from streamsample.records import Float64s, Int64s, Spans
from streamsample.runtime.computed import SourceColumns
from streamsample.runtime.replay import Range, range_of
from streamsample.runtime.source import Source
from streamsample.runtime.thinning import Thinning, thinned_spec, thinning_of
from streamsample.runtime.times import TimeField
from streamsample.runtime.values import ValueColumn
from streamsample.sampling import RateDesign, SimpleRate, Split, StratifiedRate
from streamsample.sampling.multilabel import pairs_of, strongest
from streamsample.sampling.ranks import Law
from streamsample.sampling.rate_by_count import RateByCount
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
    """What is sampled. unit None: by the id. by: the columns of the strata, empty without strata.

    each: which of them is a list, whose every item is a stratum, and then rate_of: the rate of each of n strata.
    """

    unit: str | None
    by: tuple[str, ...]
    each: int | None = None
    rate_of: Callable[[Spans], Float64s] | None = None

    def unit_of(self, projection: Projection, rows: Int64s, ids: Spans) -> Spans:
        """The sampling units of m rows; null where the field is null."""
        return ids if self.unit is None else projection.text(self.unit).take(rows)

    def stratum_of(self, projection: Projection, rows: Int64s) -> Spans | None:
        """The strata of m rows; null where a field is null. None without strata."""
        if self.each is not None:
            return self._strongest(projection, rows, self.each)
        return stratum_of([projection.text(path).take(rows) for path in self.by]) if self.by else None

    def _strongest(self, projection: Projection, rows: Int64s, each: int) -> Spans:
        """Of the strata of each record the one with the largest rate."""
        column = projection.columns[Field(self.by[each], "items")]
        assert isinstance(column, ListColumn)
        assert self.rate_of is not None
        record, item = pairs_of(column.first, column.items, column.valid)
        names = [item if at == each else projection.text(path).take(record) for at, path in enumerate(self.by)]
        stratum = stratum_of(names)
        return stratum.take(strongest(record, self.rate_of(stratum), stratum)[rows])


@dataclass(frozen=True, slots=True)
class Ratio:
    """The columns of importance: target (P) over proposal (Q)."""

    target: str
    proposal: str


@dataclass(frozen=True, slots=True)
class Draw:
    """A design that decides on each prediction as it comes. counted: what makes the rates of windows, in place of the
    design's own, afresh for each task; None: the design's are fixed. ratio: the weight, in place of 1/π.
    rule: the text column that is "true" for records that an expert's rule takes; then nothing is random.
    """

    design: RateDesign
    units: Units
    counted: Callable[[], RateByCount] | None = None
    ratio: Ratio | None = None
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class WindowDraw:
    """A design of fixed size per window. weight: the field that is the weight, None without; of: the field whose sums
    decide how large strata are, None without; ratio: what the weight is instead, None without. exchanged: it is of
    all partitions, not of each.
    """

    name: str
    seed: int
    settings: WindowSettings
    units: Units
    weight: str | None
    of: str | None
    ratio: Ratio | None
    exchanged: bool

    @property
    def numbers(self) -> list[str]:
        """The fields that are read as numbers."""
        ratio = () if self.ratio is None else (self.ratio.target, self.ratio.proposal)
        return [path for path in (self.weight, self.of, *ratio) if path is not None]


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """One sample of a job. name: None where it is the only one; key: where it stands in the job file. draw and windows:
    at most one of them; neither: everything is kept. spec, encoder: of its training records.
    """

    name: str | None
    key: str
    draw: Draw | None
    windows: WindowDraw | None
    spec: TrainingSpec
    encoder: Encoder

    @property
    def called(self) -> str:
        """As metrics call it: its design, with its name if the job has several; empty if it keeps everything."""
        design = "" if self.spec.sampling is None else self.spec.sampling.design
        return design if self.name is None else f"{self.name}: {design}"


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
    def draw(self) -> Draw | None:
        """The design by rate of a job that joins."""
        return self.samples[0].draw

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
    columns = SourceColumns(job.input)
    designs = []
    for name, sample in job.samples_by_name.items():
        key = "sample" if name is None else f"samples.{name}"
        designs.append((name, key, sample, _draw(job, sample, columns, key), _windows(job, sample, columns, key)))
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
    for name, key, sample, draw, windows in designs:
        sampling = SamplingSpec(sample.name, sample.seed, sample.form.estimator, name)
        spec = replace(plain, sampling=thinned_spec(job, sampling, sample))
        samples.append(SamplePlan(name, key, draw, windows, spec, _encoder(job, input_source, spec)))
    if not samples:
        plain = replace(plain, sampling=thinned_spec(job, None, None))
        samples.append(SamplePlan(None, "sample", None, None, plain, _encoder(job, input_source, plain)))
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


def _draw(job: Job, sample: Sample, columns: SourceColumns, key: str) -> Draw | None:
    if sample.windowed:
        return None
    if sample.count is not None:
        rates = partial(RateByCount, sample.count, sample.closes_after_ms, job.grace_ms, sample.first_rate)
        return Draw(SimpleRate(1.0, sample.seed), _units(sample, columns, key), rates)
    if sample.rule is not None:
        rule = columns.truth(sample.rule, f"{key}.rule")
        return Draw(SimpleRate(1.0), _units(sample, columns, key), rule=rule)
    ratio = _ratio(sample, columns, key)
    if ratio is not None:
        return Draw(SimpleRate(1.0, sample.seed), _units(sample, columns, key), ratio=ratio)
    assert sample.rate is not None
    if sample.design == "simple":
        return Draw(SimpleRate(sample.rate, sample.seed), _units(sample, columns, key))
    names = {stratum_name(values): rate for values, rate in sample.rates_by_stratum.items()}
    design = StratifiedRate(sample.rate, names, sample.seed)
    return Draw(design, _units(sample, columns, key, design.rate_of))


def _ratio(sample: Sample, columns: SourceColumns, key: str) -> Ratio | None:
    if sample.target is None or sample.proposal is None:
        return None
    target = columns.column(sample.target, "number", f"{key}.target").path
    return Ratio(target, columns.column(sample.proposal, "number", f"{key}.proposal").path)


def _units(
    sample: Sample, columns: SourceColumns, key: str, rate_of: Callable[[Spans], Float64s] | None = None
) -> Units:
    settings = sample.by or ()
    by = tuple(columns.stratum(setting, f"{key}.by") for setting in settings)
    each = next((number for number, setting in enumerate(settings) if isinstance(setting, Each)), None)
    return Units(columns.text(sample.unit, f"{key}.unit"), by, each, rate_of)


def _law(sample: Sample) -> Law:
    if not sample.form.random:
        return "first"
    if sample.design == "recency":
        return "decayed"
    return sample.method if sample.design == "weighted" else "uniform"


def _windows(job: Job, sample: Sample, columns: SourceColumns, key: str) -> WindowDraw | None:
    if not sample.windowed:
        return None
    assert sample.k is not None
    settings = WindowSettings(
        k=sample.k,
        law=_law(sample),
        half_life_ms=sample.half_life_ms,
        window_ms=sample.closes_after_ms,
        grace_ms=job.grace_ms if sample.records is None else 0,
        records=sample.records,
        cumulative=sample.every_ms is not None,
        strata=sample.strata,
        others=job.limits.strata_max if sample.by else 0,
        windows_max=job.limits.windows_max,
        allocation=sample.allocation if sample.form.takes("allocation") else "each",
        minimum=sample.minimum,
        k_max=sample.k_max,
        replacement=sample.replacement or sample.target is not None,
        equal_weights=sample.target is not None,
    )
    weight, of = (
        None if setting is None else columns.column(setting, "number", f"{key}.{name}").path
        for name, setting in (("weight", sample.weight), ("of", sample.of))
    )
    units = _units(sample, columns, key)
    return WindowDraw(
        sample.design, sample.seed, settings, units, weight, of, _ratio(sample, columns, key), sample.exchanged
    )


def stratum_name(values: tuple[str, ...]) -> str:
    """The name of the stratum with these values, as the data's strata are named."""
    name = stratum_of([Spans.of([value.encode()]) for value in values])[0]
    return (name or b"").decode()


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
        Rule(feedback.index(rule.feedback), window, rule.take, _undo(rule.undone_by, feedback), _key(rule.column))
        for rule, window in zip(target.rules, target.windows_ms, strict=True)
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
