"""Training records as columns, and the Avro schema of what is written.

`TrainingSpec` holds what is the same for every record of a job, `TrainingColumns` what differs. The encoders
(`training_avro`, `training_json`) turn both into message values with the same fields; docs/training-record.md says what
each field means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import ConfigurationError, InvariantError
from streamsample.records import Bools, Bytes, Float64s, Int32s, Int64s, Spans

Int8s: TypeAlias = NDArray[np.int8]
Int16s: TypeAlias = NDArray[np.int16]

STATES = ("early", "final", "correct", "retract")
SOURCES = ("explicit", "implicit")
CLOSED_BY = ("event", "idle")
ESTIMATORS = ("horvitz_thompson", "hansen_hurwitz", "self_normalised", "none")
RECORD_ID_SIZE = 16

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A target: its name and the type of its value: `int` (int64), `double` (float64), `boolean`, `string`.

    codes: the texts of a boolean's or a string's values, which are numbers in the columns: their places in it.
    """

    name: str
    type: Literal["int", "double", "boolean", "string"]
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One of several designs that were drawn one after the other. unit: the field that was sampled by; None: the id."""

    design: str
    unit: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """The design that sampled the predictions, and the seed of its hash (0 <= seed < 2**63).

    estimator: one of ESTIMATORS, how the weights are to be used; sample: the sample's name where the job has several;
    stages: where several designs were drawn one after the other; log_odds_offset: what thinning by a binary label adds,
    in place of weights.
    """

    design: str
    seed: int
    estimator: str = ESTIMATORS[0]
    sample: str | None = None
    stages: tuple[StageSpec, ...] = ()
    log_odds_offset: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """What all training records of a job share.

    `feedback`: the feedback names that `TargetColumn.kind` indexes; `feedback_topics`: the topics that
    `TrainingColumns.feedback_topic` indexes; `splits`: the names that `TrainingColumns.split` indexes; `sampling`: None
    when the job does not sample. Raises ConfigurationError for a target name that no Avro name can be, or given twice.
    """

    job: str
    version: str
    prediction_topic: str
    targets: tuple[TargetSpec, ...] = ()
    feedback: tuple[str, ...] = ()
    feedback_topics: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    sampling: SamplingSpec | None = None

    def __post_init__(self) -> None:
        seen = set()
        for target in self.targets:
            if not _NAME.match(target.name):
                raise ConfigurationError(
                    f"targets.{target.name}: not a name that an Avro field can have",
                    remedy="use letters, digits and _, and no digit first",
                )
            if target.name in seen:
                raise ConfigurationError(f"targets.{target.name}: named twice", remedy="rename one of them")
            seen.add(target.name)
        stages = () if self.sampling is None else self.sampling.stages
        for seed in [] if self.sampling is None else [self.sampling.seed, *(stage.seed for stage in stages)]:
            if not 0 <= seed < 2**63:
                raise ConfigurationError(f"sample.seed: {seed} is not in [0, 2**63)", remedy="choose another")


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """What is known of one target, for m rows.

    value: float64[m] (double) or int64[m] (others), null where not `valid` bool[m]. settled bool[m]: the window is
    closed. explicit bool[m]: feedback gave the label. kind int16[m]: index of that feedback's name, -1 if none.
    event_time, delay_ms int64[m]: when that feedback happened, ms since the epoch, and how long after the prediction;
    all three are read only where `explicit`.
    """

    value: Float64s | Int64s
    valid: Bools
    settled: Bools
    explicit: Bools
    kind: Int16s
    event_time: Int64s
    delay_ms: Int64s


@dataclass(frozen=True, slots=True)
class StageColumns:
    """What one of several stages said of m rows, as in `SamplingColumns`: of what passed those before it."""

    probability: Float64s
    threshold: Float64s
    n: Int64s
    k: Int64s
    stratum: Spans


@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """How m rows came into the sample.

    probability float64[m]: the inclusion probability, in (0, 1], NaN when the design has none. threshold float64[m]:
    what the rank was below, NaN if none. stratum: m spans of text, null if none; what is not UTF-8 in it is written as
    U+FFFD. weight float64[m]: see ESTIMATORS, NaN when there is none. n, k int64[m]: population and sample size of the
    stratum's window, -1 for designs by rate. draws int64[m]: how often it was drawn, -1 without replacement. until
    int64[m]: the end of the event time that was sampled, ms, -1 for designs without one. stages: those of the spec, in
    its order.
    """

    probability: Float64s
    threshold: Float64s
    stratum: Spans
    weight: Float64s
    n: Int64s
    k: Int64s
    draws: Int64s
    until: Int64s
    stages: tuple[StageColumns, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingColumns:
    """m training records. May be empty.

    record_id uint8[m, 16]; revision int32[m]; supersedes int32[m], -1 for none; state int8[m], index into STATES;
    features: m spans, none null, in the format of the output and without framing; schema int16[m]: index of the writer
    schema of the features; ids: m spans, the predictions' ids (not encoded: the message keys are made of them).
    targets: one column for each of the spec's, in its order. sampling: None exactly when the spec's is.
    split int8[m]: index into the spec's names, -1 for none. partition int32[m], offset int64[m], index int32[m]: where
    the prediction was read. closed_by int8[m]: index into CLOSED_BY.
    feedback_start int64[m+1]: the feedback of row i is at [feedback_start[i], feedback_start[i+1]) in feedback_target
    int16[j] (index into the targets), feedback_topic int16[j], feedback_partition int32[j], feedback_offset int64[j]
    and feedback_index int32[j].
    """

    record_id: Bytes
    revision: Int32s
    supersedes: Int32s
    state: Int8s
    features: Spans
    schema: Int16s
    ids: Spans
    targets: tuple[TargetColumn, ...]
    sampling: SamplingColumns | None
    split: Int8s
    partition: Int32s
    offset: Int64s
    index: Int32s
    closed_by: Int8s
    feedback_start: Int64s
    feedback_target: Int16s
    feedback_topic: Int16s
    feedback_partition: Int32s
    feedback_offset: Int64s
    feedback_index: Int32s

    def __len__(self) -> int:
        return len(self.revision)

    def check(self, spec: TrainingSpec, schemas: int) -> None:
        """Refuse columns that do not fit the spec or its `schemas` writer schemas: InvariantError names the column.

        The kernel relies on it: it reads wherever these columns point.
        """
        rows, references = len(self), len(self.feedback_target)
        _require(self.record_id.shape == (rows, RECORD_ID_SIZE), "record_id")
        _require(self.record_id.dtype == np.uint8, "record_id")
        _typed("revision", self.revision, np.int32, rows)
        _typed("supersedes", self.supersedes, np.int32, rows)
        _indices("state", self.state, np.int8, rows, 0, len(STATES))
        _spans("features", self.features, rows, nullable=False)
        _indices("schema", self.schema, np.int16, rows, 0, schemas)
        _require(len(self.targets) == len(spec.targets), "targets")
        for target, column in zip(spec.targets, self.targets, strict=True):
            _target(target, column, rows, len(spec.feedback))
        _require((self.sampling is None) == (spec.sampling is None), "sampling")
        if self.sampling is not None:
            _sampling(self.sampling, rows, 0 if spec.sampling is None else len(spec.sampling.stages))
        _indices("split", self.split, np.int8, rows, -1, len(spec.splits))
        _typed("partition", self.partition, np.int32, rows)
        _typed("offset", self.offset, np.int64, rows)
        _typed("index", self.index, np.int32, rows)
        _indices("closed_by", self.closed_by, np.int8, rows, 0, len(CLOSED_BY))
        _typed("feedback_start", self.feedback_start, np.int64, rows + 1)
        _require(self.feedback_start[0] == 0 and self.feedback_start[-1] == references, "feedback_start")
        _require(rows == 0 or bool((self.feedback_start[1:] >= self.feedback_start[:-1]).all()), "feedback_start")
        _indices("feedback_target", self.feedback_target, np.int16, references, 0, len(spec.targets))
        _indices("feedback_topic", self.feedback_topic, np.int16, references, 0, len(spec.feedback_topics))
        _typed("feedback_partition", self.feedback_partition, np.int32, references)
        _typed("feedback_offset", self.feedback_offset, np.int64, references)
        _typed("feedback_index", self.feedback_index, np.int32, references)


def _require(holds: bool, column: str) -> None:
    if not holds:
        raise InvariantError(f"training columns: {column} has the wrong type, length or content")


def _typed(name: str, column: NDArray[Any], dtype: Any, rows: int) -> None:
    _require(column.dtype == dtype and column.shape == (rows,), name)


def _indices(name: str, column: NDArray[Any], dtype: Any, rows: int, low: int, high: int) -> None:
    """`column` indexes something: low <= each < high."""
    _typed(name, column, dtype, rows)
    _require(rows == 0 or bool(low <= column.min() and column.max() < high), name)


def _spans(name: str, spans: Spans, rows: int, *, nullable: bool) -> None:
    """`spans` lie within their buffer."""
    _typed(name, spans.start, np.int64, rows)
    _typed(name, spans.size, np.int32, rows)
    if rows == 0:
        return
    held = spans.size >= 0
    if not nullable:
        _require(bool(held.all()), name)
    inside = (spans.start >= 0) & (spans.start + spans.size <= len(spans.buffer))
    _require(bool((inside | ~held).all()), name)


def _target(target: TargetSpec, column: TargetColumn, rows: int, kinds: int) -> None:
    at = f"targets.{target.name}"
    _typed(f"{at}.value", column.value, np.float64 if target.type == "double" else np.int64, rows)
    _typed(f"{at}.valid", column.valid, np.bool_, rows)
    if target.codes:
        _indices(f"{at}.value", np.where(column.valid, column.value, 0), np.int64, rows, 0, len(target.codes))
    _typed(f"{at}.settled", column.settled, np.bool_, rows)
    _typed(f"{at}.explicit", column.explicit, np.bool_, rows)
    _indices(f"{at}.kind", column.kind, np.int16, rows, -1, kinds)
    _typed(f"{at}.event_time", column.event_time, np.int64, rows)
    _typed(f"{at}.delay_ms", column.delay_ms, np.int64, rows)


def _sampling(sampling: SamplingColumns, rows: int, stages: int) -> None:
    _typed("sampling.probability", sampling.probability, np.float64, rows)
    _typed("sampling.threshold", sampling.threshold, np.float64, rows)
    _spans("sampling.stratum", sampling.stratum, rows, nullable=True)
    _typed("sampling.weight", sampling.weight, np.float64, rows)
    _typed("sampling.n", sampling.n, np.int64, rows)
    _typed("sampling.k", sampling.k, np.int64, rows)
    _typed("sampling.draws", sampling.draws, np.int64, rows)
    _typed("sampling.until", sampling.until, np.int64, rows)
    _require(len(sampling.stages) == stages, "sampling.stages")
    for stage in sampling.stages:
        _typed("sampling.stages.probability", stage.probability, np.float64, rows)
        _typed("sampling.stages.threshold", stage.threshold, np.float64, rows)
        _typed("sampling.stages.n", stage.n, np.int64, rows)
        _typed("sampling.stages.k", stage.k, np.int64, rows)
        _spans("sampling.stages.stratum", stage.stratum, rows, nullable=True)


def with_readable_strata(columns: TrainingColumns) -> TrainingColumns:
    """The same, but what is not UTF-8 in the strata replaced by U+FFFD. Slow: for the rare batch that needs it."""
    if columns.sampling is None:
        return columns
    stages = tuple(replace(stage, stratum=_readable(stage.stratum)) for stage in columns.sampling.stages)
    sampling = replace(columns.sampling, stratum=_readable(columns.sampling.stratum), stages=stages)
    return replace(columns, sampling=sampling)


def _readable(strata: Spans) -> Spans:
    return Spans.of([None if raw is None else raw.decode(errors="replace").encode() for raw in strata.to_list()])


def training_schema(features_schema: dict[str, Any], targets: Sequence[TargetSpec]) -> dict[str, Any]:
    """The Avro schema of training records whose features have `features_schema` (a record).

    The envelope's types live in a namespace of their own ("streamsample", or another if the features use that one), the
    targets' types, named after the targets, in another below that. Adding or removing a target is compatible both ways.
    """
    space = _free_namespace(features_schema)
    source: dict[str, Any] = {
        "type": "enum",
        "name": "Source",
        "namespace": space,
        "symbols": list(SOURCES),
    }
    fields: list[dict[str, Any]] = []
    for target in targets:
        fields.append(_target_field(target, space, source if not fields else f"{space}.Source"))
    inner = _envelope(_embedded(features_schema), {"type": "record", "name": "Targets", "fields": fields})
    return {
        "type": "record",
        "name": "TrainingRecord",
        "namespace": space,
        "doc": "A prediction with the labels that natural feedback gave it. See docs/training-record.md.",
        "fields": inner,
    }


def _field(name: str, doc: str, type_: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, "doc": doc}


def _optional(name: str, doc: str, type_: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", type_], "default": None, "doc": doc}


def _envelope(features: Any, targets: Any) -> list[dict[str, Any]]:
    states = {"type": "enum", "name": "State", "symbols": list(STATES)}
    closed = {"type": "enum", "name": "ClosedBy", "symbols": list(CLOSED_BY)}
    weights = [
        _optional(
            "sampling",
            "Corrects for the sampling, as its estimator says. Null if the design is not random, or with an offset.",
            "double",
        ),
        _optional("delay", "Corrects for labels that are still under way. Null if not estimated.", "double"),
        _optional("log_odds_offset", "In place of sampling: log π(1) - log π(0) of thinning by a label.", "double"),
    ]
    return [
        _field(
            "record_id", "32 hex digits made from the job, the id and the time: the same in every replay.", "string"
        ),
        _field("revision", "0 for the first record of this record_id, then counted up.", "int"),
        _optional("supersedes", "The revision that this record replaces.", "int"),
        _field(
            "state",
            "early: not all targets are settled; final: all are; correct: replaces; retract: withdraws.",
            states,
        ),
        _field("features", "The prediction's own fields, as they were read.", features),
        _field("targets", "The labels, by target.", targets),
        _field(
            "settled", "The targets whose labels only a correction can change.", {"type": "array", "items": "string"}
        ),
        _field("weights", "Weights, apart: multiply those that you need.", _record("Weights", weights)),
        _optional("sampling", "How the prediction came into the sample. Null if the job does not sample.", _sample()),
        _optional(
            "split", "The part of the data it belongs to, such as train. Null if the job does not split.", "string"
        ),
        _field("lineage", "What this record was made of.", _lineage()),
        _field("closed_by", "event: event time closed the window; idle: a silent topic's time-out did.", closed),
    ]


def _record(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": fields}


def _sample() -> dict[str, Any]:
    stage = _record(
        "Stage",
        [
            _field("design", "The sampling design.", "string"),
            _optional("unit", "The field that was sampled by. Null: the id.", "string"),
            _field("seed", "The seed of the sampling hash. Stages of equal seed and unit share u.", "long"),
            _optional("probability", "The inclusion probability of this stage.", "double"),
            _optional("threshold", "The rank threshold of this stage.", "double"),
            _optional("n", "How many predictions the stratum's window had of what passed the stages before.", "long"),
            _optional("k", "How many of them the stage could hold. Null for designs by rate.", "long"),
            _optional("stratum", "The stratum. Null if the stage has none.", "string"),
        ],
    )
    estimator = {"type": "enum", "name": "Estimator", "symbols": list(ESTIMATORS)}
    return _record(
        "Sampling",
        [
            _optional("sample", "The sample, by its name in the job. Null if the job has only one.", "string"),
            _field("design", "The sampling design; several are joined by ' + '.", "string"),
            _field("estimator", "How weights.sampling is to be used.", estimator),
            _optional("probability", "The inclusion probability. Null for designs that are not random.", "double"),
            _optional("threshold", "The rank threshold that let the prediction in.", "double"),
            _optional("n", "How many predictions the stratum's window had. Null for designs by rate.", "long"),
            _optional("k", "How many of them the sample could hold. Null for designs by rate.", "long"),
            _optional("draws", "How often it was drawn. Null without replacement.", "long"),
            _optional("until", "The sample is of what happened before, ms since the epoch. Null for rates.", "long"),
            _optional("stratum", "The stratum. Null if there is none.", "string"),
            _field("seed", "The seed of the sampling hash.", "long"),
            _field(
                "stages",
                "The designs that were drawn one after the other, if several.",
                {"type": "array", "items": stage},
            ),
        ],
    )


def _lineage() -> dict[str, Any]:
    place = [
        _field("topic", "The topic it was read from.", "string"),
        _field("partition", "Its partition.", "int"),
        _field("offset", "Its offset in the partition.", "long"),
        _field("index", "Its place within the message, 0 for the first.", "int"),
    ]
    named = _field("target", "The target that it labelled.", "string")
    feedback = {"type": "array", "items": _record("Feedback", [named, *place])}
    return _record(
        "Lineage",
        [
            _field("job", "The job's name.", "string"),
            _field("version", "A hash of what decides a record's content.", "string"),
            _field("prediction", "The message that the prediction was.", _record("Prediction", place)),
            _field("feedback", "The messages that the labels were made of.", feedback),
        ],
    )


def _target_field(target: TargetSpec, space: str, source: Any) -> dict[str, Any]:
    value = "long" if target.type == "int" else target.type
    fields = [
        _optional("value", "The label. Null if silence has none, or it is not known yet.", value),
        _optional("kind", "The feedback that gave the label. Null unless explicit.", "string"),
        _optional("source", "explicit: given; implicit: presumed from silence. Null if not known yet.", source),
        _optional("event_time", "When that feedback happened, ms since the epoch. Null unless explicit.", "long"),
        _optional("delay_ms", "How long after the prediction that was. Null unless explicit.", "long"),
    ]
    record = {"type": "record", "name": target.name, "namespace": f"{space}.targets", "fields": fields}
    unknown = {field["name"]: None for field in fields}
    return {"name": target.name, "type": record, "default": unknown, "doc": f"The label {target.name}."}


def _embedded(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as it can stand inside another: without the parser's marks, and with a namespace, if only ""."""
    inner = {key: value for key, value in schema.items() if not key.startswith("__")}
    if "." not in inner.get("name", "."):
        inner.setdefault("namespace", "")
    return inner


def _free_namespace(schema: Any) -> str:
    taken = _namespaces(schema)
    space = "streamsample"
    while any(name == space or name.startswith(f"{space}.") for name in taken):
        space += "_outer"
    return space


def _namespaces(schema: Any) -> set[str]:
    """Every namespace that `schema` mentions."""
    if isinstance(schema, list):
        return set().union(*(_namespaces(part) for part in schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    found = set()
    if schema.get("type") in ("record", "error", "enum", "fixed"):
        name, space = schema.get("name", ""), schema.get("namespace", "")
        found.add(name.rpartition(".")[0] if "." in name else space)
    for key in ("type", "items", "values"):
        found |= _namespaces(schema.get(key))
    for field in schema.get("fields", ()):
        found |= _namespaces(field.get("type"))
    return found
