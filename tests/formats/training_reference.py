"""Training records as plain Python: what the encoders must give, and random columns for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from streamsample.formats.training import (
    CLOSED_BY,
    ESTIMATORS,
    STATES,
    SamplingColumns,
    SamplingSpec,
    StageColumns,
    StageSpec,
    TargetColumn,
    TargetSpec,
    TrainingColumns,
    TrainingSpec,
)
from streamsample.records import Spans

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NULLABLE = st.one_of(st.just(math.nan), FINITE)
NAMES = st.text(min_size=1, max_size=12)
SEEDS = st.integers(0, 2**63 - 1)
AVRO_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)


@dataclass(frozen=True)
class Case:
    """Columns, and how many writer schemas they count."""

    spec: TrainingSpec
    columns: TrainingColumns
    schemas: int


def null_if(value: Any, missing: bool) -> Any:
    return None if missing else value


def plain(spec: TrainingSpec, columns: TrainingColumns, row: int, features: Any) -> dict[str, Any]:
    """The record of one row, written as plainly as its definition."""
    sampling = columns.sampling
    refs = range(int(columns.feedback_start[row]), int(columns.feedback_start[row + 1]))
    supersedes, split = int(columns.supersedes[row]), int(columns.split[row])
    return {
        "record_id": columns.record_id[row].tobytes().hex(),
        "revision": int(columns.revision[row]),
        "supersedes": null_if(supersedes, supersedes < 0),
        "state": STATES[columns.state[row]],
        "features": features,
        "targets": {
            target.name: plain_target(spec, target, column, row)
            for target, column in zip(spec.targets, columns.targets, strict=True)
        },
        "settled": [
            target.name for target, column in zip(spec.targets, columns.targets, strict=True) if column.settled[row]
        ],
        "weights": {
            "sampling": 1.0 if sampling is None else number(sampling.weight[row]),
            "delay": None,
            "log_odds_offset": None if spec.sampling is None else spec.sampling.log_odds_offset,
        },
        "sampling": None if sampling is None else plain_sampling(spec, sampling, row),
        "split": null_if(spec.splits[split] if split >= 0 else "", split < 0),
        "lineage": {
            "job": spec.job,
            "version": spec.version,
            "prediction": {
                "topic": spec.prediction_topic,
                "partition": int(columns.partition[row]),
                "offset": int(columns.offset[row]),
                "index": int(columns.index[row]),
            },
            "feedback": [
                {
                    "target": spec.targets[columns.feedback_target[j]].name,
                    "topic": spec.feedback_topics[columns.feedback_topic[j]],
                    "partition": int(columns.feedback_partition[j]),
                    "offset": int(columns.feedback_offset[j]),
                    "index": int(columns.feedback_index[j]),
                }
                for j in refs
            ],
        },
        "closed_by": CLOSED_BY[columns.closed_by[row]],
    }


def plain_target(spec: TrainingSpec, target: TargetSpec, column: TargetColumn, row: int) -> dict[str, Any]:
    explicit, kind = bool(column.explicit[row]), int(column.kind[row])
    value: Any = float(column.value[row]) if target.type == "double" else int(column.value[row])
    if target.codes and column.valid[row]:
        value = bool(value) if target.type == "boolean" else target.codes[value]
    source = "explicit" if explicit else ("implicit" if column.settled[row] else None)
    return {
        "value": null_if(value, not column.valid[row]),
        "kind": null_if(spec.feedback[kind] if explicit and kind >= 0 else "", not explicit or kind < 0),
        "source": source,
        "event_time": null_if(int(column.event_time[row]), not explicit),
        "delay_ms": null_if(int(column.delay_ms[row]), not explicit),
    }


def plain_sampling(spec: TrainingSpec, sampling: SamplingColumns, row: int) -> dict[str, Any]:
    assert spec.sampling is not None
    n, k = int(sampling.n[row]), int(sampling.k[row])
    draws, until = int(sampling.draws[row]), int(sampling.until[row])
    return {
        "sample": spec.sampling.sample,
        "design": spec.sampling.design,
        "estimator": spec.sampling.estimator,
        "probability": number(sampling.probability[row]),
        "threshold": number(sampling.threshold[row]),
        "n": null_if(n, n < 0),
        "k": null_if(k, k < 0),
        "draws": null_if(draws, draws < 0),
        "until": null_if(until, until < 0),
        "stratum": text(sampling.stratum[row]),
        "seed": spec.sampling.seed,
        "stages": [
            {
                "design": stage.design,
                "unit": stage.unit,
                "seed": stage.seed,
                "probability": number(column.probability[row]),
                "threshold": number(column.threshold[row]),
                "n": null_if(int(column.n[row]), int(column.n[row]) < 0),
                "k": null_if(int(column.k[row]), int(column.k[row]) < 0),
                "stratum": text(column.stratum[row]),
            }
            for stage, column in zip(spec.sampling.stages, sampling.stages, strict=True)
        ],
    }


def text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="replace")


def number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


@st.composite
def specs(draw: st.DrawFn) -> TrainingSpec:
    names = draw(st.lists(AVRO_NAMES, max_size=3, unique=True))
    kinds: list[Any] = [draw(st.sampled_from(["int", "double", "boolean", "string"])) for _ in names]
    classes = {"boolean": st.just(["false", "true"]), "string": st.lists(NAMES, min_size=1, max_size=3, unique=True)}
    codes = [tuple(draw(classes.get(kind, st.just([])))) for kind in kinds]
    return TrainingSpec(
        job=draw(NAMES),
        version=draw(NAMES),
        prediction_topic=draw(NAMES),
        targets=tuple(TargetSpec(*each) for each in zip(names, kinds, codes, strict=True)),
        feedback=tuple(draw(st.lists(NAMES, max_size=3))),
        feedback_topics=tuple(draw(st.lists(NAMES, max_size=3))),
        splits=tuple(draw(st.lists(NAMES, max_size=3))),
        sampling=draw(
            st.none()
            | st.builds(
                SamplingSpec,
                *(NAMES, SEEDS, st.sampled_from(ESTIMATORS), st.none() | NAMES),
                st.lists(st.builds(StageSpec, NAMES, st.none() | NAMES, SEEDS), max_size=3).map(tuple),
                st.none() | st.floats(-9, 9),
            )
        ),
    )


@st.composite
def cases(draw: st.DrawFn, features: st.SearchStrategy[bytes]) -> Case:
    """Columns of any spec. `features` draws the features of a row."""
    spec, rows, schemas = draw(specs()), draw(st.integers(0, 6)), draw(st.integers(1, 3))

    def column(each: st.SearchStrategy[Any], dtype: Any, count: int = rows) -> Any:
        return np.array(draw(st.lists(each, min_size=count, max_size=count)), dtype=dtype)

    def spans(each: st.SearchStrategy[Any]) -> Spans:
        packed = Spans.of([b"x", *draw(st.lists(each, min_size=rows, max_size=rows))])
        return packed.take(np.arange(1, rows + 1))

    def target(each: TargetSpec) -> TargetColumn:
        numbers = st.integers(0, len(each.codes) - 1) if each.codes else INT64
        value = column(FINITE, np.float64) if each.type == "double" else column(numbers, np.int64)
        valid, settled, explicit = (column(st.booleans(), np.bool_) for _ in range(3))
        kinds = column(st.integers(-1, len(spec.feedback) - 1), np.int16)
        return TargetColumn(value, valid, settled, explicit, kinds, column(INT64, np.int64), column(INT64, np.int64))

    sampling = None
    if spec.sampling is not None:
        strata = st.none() | st.binary(max_size=5) | NAMES.map(str.encode)
        probability, threshold, weight = (column(NULLABLE, np.float64) for _ in range(3))
        counts = st.integers(-1, 2**63 - 1)
        n, k, draws, until = (column(counts, np.int64) for _ in range(4))
        stages = tuple(
            StageColumns(
                *(column(NULLABLE, np.float64), column(NULLABLE, np.float64)),
                *(column(counts, np.int64), column(counts, np.int64)),
                spans(strata),
            )
            for _ in spec.sampling.stages
        )
        sampling = SamplingColumns(probability, threshold, spans(strata), weight, n, k, draws, until, stages)
    most = 3 if spec.targets and spec.feedback_topics else 0
    start = np.cumsum([0, *draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows))], dtype=np.int64)
    refs = int(start[-1])
    columns = TrainingColumns(
        record_id=np.frombuffer(draw(st.binary(min_size=16 * rows, max_size=16 * rows)), np.uint8).reshape(rows, 16),
        revision=column(INT32, np.int32),
        supersedes=column(st.integers(-1, 2**31 - 1), np.int32),
        state=column(st.integers(0, len(STATES) - 1), np.int8),
        features=spans(features),
        schema=column(st.integers(0, schemas - 1), np.int16),
        ids=Spans.of([b"id"] * rows),
        targets=tuple(target(each) for each in spec.targets),
        sampling=sampling,
        split=column(st.integers(-1, len(spec.splits) - 1), np.int8),
        partition=column(INT32, np.int32),
        offset=column(INT64, np.int64),
        index=column(INT32, np.int32),
        closed_by=column(st.integers(0, 1), np.int8),
        feedback_start=start,
        feedback_target=column(st.integers(0, max(len(spec.targets) - 1, 0)), np.int16, refs),
        feedback_topic=column(st.integers(0, max(len(spec.feedback_topics) - 1, 0)), np.int16, refs),
        feedback_partition=column(INT32, np.int32, refs),
        feedback_offset=column(INT64, np.int64, refs),
        feedback_index=column(INT32, np.int32, refs),
    )
    return Case(spec, columns, schemas)


def example() -> tuple[TrainingSpec, TrainingColumns]:
    """Two rows as a shop would have them; the documentation shows the first. The features are yet to be set."""
    spec = TrainingSpec(
        job="shop",
        version="5f0c9a1be7d24c83",
        prediction_topic="shop.impressions",
        targets=(TargetSpec("clicked", "int"), TargetSpec("revenue", "double")),
        feedback=("clicks", "orders"),
        feedback_topics=("shop.clicks", "shop.orders"),
        splits=("train", "validation", "test"),
        sampling=SamplingSpec("stratified", 7),
    )
    yes, no = np.array([True, True]), np.array([False, False])
    first = np.array([True, False])
    times, delays = np.array([1_767_225_642_500, 0]), np.array([42_500, 0])
    clicked = TargetColumn(np.array([1, 0]), yes, yes, first, np.array([0, -1], np.int16), times, delays)
    revenue = TargetColumn(np.array([0.0, 0.0]), yes, yes, no, np.array([-1, -1], np.int16), times, delays)
    rate = np.array([0.1, 1.0])
    strata = Spans.of([b"DE", b"IS"])
    columns = TrainingColumns(
        record_id=np.arange(32, dtype=np.uint8).reshape(2, 16),
        revision=np.zeros(2, np.int32),
        supersedes=np.full(2, -1, np.int32),
        state=np.full(2, 1, np.int8),
        features=Spans.nulls(2),
        schema=np.zeros(2, np.int16),
        ids=Spans.of([b"a1", b"a2"]),
        targets=(clicked, revenue),
        sampling=SamplingColumns(rate, rate, strata, 1 / rate, *[np.full(2, -1)] * 4),
        split=np.array([0, 2], np.int8),
        partition=np.array([3, 3], np.int32),
        offset=np.array([81_220, 81_221]),
        index=np.zeros(2, np.int32),
        closed_by=np.zeros(2, np.int8),
        feedback_start=np.array([0, 1, 1]),
        feedback_target=np.zeros(1, np.int16),
        feedback_topic=np.zeros(1, np.int16),
        feedback_partition=np.full(1, 3, np.int32),
        feedback_offset=np.array([9_004]),
        feedback_index=np.zeros(1, np.int32),
    )
    return spec, columns
