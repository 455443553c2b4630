"""Training records as JSON messages: the fields of the Avro schema, in its order, with null where that has null."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from streamsample.formats.training import (
    CLOSED_BY,
    RECORD_ID_SIZE,
    STATES,
    SamplingSpec,
    StageColumns,
    TargetColumn,
    TargetSpec,
    TrainingColumns,
    TrainingSpec,
)
from streamsample.records import Bools, Float64s, Int64s, Spans


class JsonTrainingEncoder:
    """Encodes training records whose features are JSON objects. Holds no state between calls.

    The same columns give the same bytes. Floats are written in the fewest digits that give the same float64 back; JSON
    has no infinity, so that it is null.
    """

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec
        self._kinds = ["null", *map(_text, spec.feedback)]
        self._splits = ["null", *map(_text, spec.splits)]
        names = [_text(target.name) for target in spec.targets]
        self._names = names
        self._references = [
            [f'{{"target":{name},"topic":{_text(topic)},"partition":' for topic in spec.feedback_topics]
            for name in names
        ]
        self._lineage = (
            f',"lineage":{{"job":{_text(spec.job)},"version":{_text(spec.version)},'
            f'"prediction":{{"topic":{_text(spec.prediction_topic)},"partition":'
        )

    def encode(self, columns: TrainingColumns) -> Spans:
        """The message values of m training records: m spans over a fresh buffer, contiguous and in order.

        Raises InvariantError if the columns do not fit the spec.
        """
        columns.check(self._spec, 1)
        view = memoryview(columns.features.buffer.data)
        starts = columns.features.start.tolist()
        ends = (columns.features.start + columns.features.size).tolist()
        parts: list[Any] = []
        for head, start, end, tail in zip(self._heads(columns), starts, ends, self._tails(columns), strict=True):
            parts += (head, view[start:end], tail)
        ends_of = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))[2::3]
        start_of = np.concatenate((np.zeros(1, np.int64), ends_of))[:-1]
        return Spans(np.frombuffer(b"".join(parts), np.uint8), start_of, (ends_of - start_of).astype(np.int32))

    def _heads(self, columns: TrainingColumns) -> list[bytes]:
        """What comes before the features."""
        digits = columns.record_id.tobytes().hex()
        width = 2 * RECORD_ID_SIZE
        return [
            (
                f'{{"record_id":"{digits[place : place + width]}","revision":{revision},'
                f'"supersedes":{supersedes if supersedes >= 0 else "null"},"state":"{STATES[state]}","features":'
            ).encode()
            for place, revision, supersedes, state in zip(
                range(0, len(digits), width),
                columns.revision.tolist(),
                columns.supersedes.tolist(),
                columns.state.tolist(),
                strict=True,
            )
        ]

    def _tails(self, columns: TrainingColumns) -> list[bytes]:
        """What comes after the features."""
        return [
            (
                f',"targets":{{{targets}}},"settled":[{settled}]{sampling},"split":{self._splits[split + 1]}'
                f'{self._lineage}{partition},"offset":{offset},"index":{index}}},"feedback":[{feedback}]}},'
                f'"closed_by":"{CLOSED_BY[closed_by]}"}}'
            ).encode()
            for targets, settled, sampling, split, partition, offset, index, feedback, closed_by in zip(
                self._targets(columns),
                self._settled(columns),
                _sampling(self._spec.sampling, columns),
                columns.split.tolist(),
                columns.partition.tolist(),
                columns.offset.tolist(),
                columns.index.tolist(),
                self._feedback(columns),
                columns.closed_by.tolist(),
                strict=True,
            )
        ]

    def _targets(self, columns: TrainingColumns) -> Sequence[str]:
        """The members of `targets`."""
        if not columns.targets:
            return [""] * len(columns)
        each = [
            _target(spec, name, column, self._kinds)
            for spec, name, column in zip(self._spec.targets, self._names, columns.targets, strict=True)
        ]
        return each[0] if len(each) == 1 else [",".join(members) for members in zip(*each, strict=True)]

    def _settled(self, columns: TrainingColumns) -> list[str]:
        """The items of `settled`."""
        if not columns.targets:
            return [""] * len(columns)
        known: dict[tuple[bool, ...], str] = {}

        def items(flags: tuple[bool, ...]) -> str:
            if flags not in known:
                known[flags] = ",".join(name for name, settled in zip(self._names, flags, strict=True) if settled)
            return known[flags]

        return [items(flags) for flags in zip(*(target.settled.tolist() for target in columns.targets), strict=True)]

    def _feedback(self, columns: TrainingColumns) -> list[str]:
        """The items of `lineage.feedback`."""
        each = [
            f'{self._references[target][topic]}{partition},"offset":{offset},"index":{index}}}'
            for target, topic, partition, offset, index in zip(
                columns.feedback_target.tolist(),
                columns.feedback_topic.tolist(),
                columns.feedback_partition.tolist(),
                columns.feedback_offset.tolist(),
                columns.feedback_index.tolist(),
                strict=True,
            )
        ]
        bounds = columns.feedback_start.tolist()
        return [",".join(each[begin:end]) if end > begin else "" for begin, end in pairwise(bounds)]


def _text(text: str) -> str:
    """A JSON string."""
    return msgspec.json.encode(text).decode()


def _target(spec: TargetSpec, name: str, column: TargetColumn, kinds: list[str]) -> list[str]:
    """`name: {…}` for every row. What is written often is looked up."""
    values = _values(spec, column)
    implicit = ',"kind":null,"source":"implicit","event_time":null,"delay_ms":null}'
    unknown = ',"kind":null,"source":null,"event_time":null,"delay_ms":null}'
    return [
        f'{name}:{{"value":{value},"kind":{kinds[kind + 1]},"source":"explicit","event_time":{event_time},'
        f'"delay_ms":{delay}}}'
        if explicit
        else f'{name}:{{"value":{value}{implicit if settled else unknown}'
        for value, settled, explicit, kind, event_time, delay in zip(
            values,
            column.settled.tolist(),
            column.explicit.tolist(),
            column.kind.tolist(),
            column.event_time.tolist(),
            column.delay_ms.tolist(),
            strict=True,
        )
    ]


def _sampling(spec: SamplingSpec | None, columns: TrainingColumns) -> list[str]:
    """`weights` and `sampling`"""
    held = columns.sampling
    if spec is None or held is None:
        return [',"weights":{"sampling":1.0,"delay":null,"log_odds_offset":null},"sampling":null'] * len(columns)
    estimator = _text(spec.estimator)
    offset = "null" if spec.log_odds_offset is None else repr(spec.log_odds_offset)
    head = f'"sampling":{{"sample":{_nullable(spec.sample)},"design":{_text(spec.design)},"estimator":{estimator}'
    heads = [
        f'{{"design":{_text(stage.design)},"unit":{_nullable(stage.unit)},"seed":{stage.seed}' for stage in spec.stages
    ]

    def write(row: tuple[Any, ...]) -> str:
        stratum, (n, k, draws, until), (weight, probability, threshold) = row[0], row[1:5], map(_float, row[5:8])
        stages = ",".join(
            f'{begin},"probability":{_float(row[at])},"threshold":{_float(row[at + 1])},"n":{_counted(row[at + 2])},'
            f'"k":{_counted(row[at + 3])},"stratum":{_stratum(row[at + 4])}}}'
            for at, begin in zip(range(8, len(row), 5), heads, strict=True)
        )
        return (
            f',"weights":{{"sampling":{weight},"delay":null,"log_odds_offset":{offset}}},{head},'
            f'"probability":{probability},"threshold":{threshold},'
            f'"n":{_counted(n)},"k":{_counted(k)},"draws":{_counted(draws)},"until":{_counted(until)},'
            f'"stratum":{_stratum(stratum)},"seed":{spec.seed},'
            f'"stages":[{stages}]}}'
        )

    counts = (column.tolist() for column in (held.n, held.k, held.draws, held.until))
    bits = (_bits(column) for column in (held.weight, held.probability, held.threshold))
    stages = (column for stage in held.stages for column in _stage(stage))
    return _mapped(list(zip(held.stratum.to_list(), *counts, *bits, *stages, strict=True)), write)


def _stage(stage: StageColumns) -> tuple[list[Any], ...]:
    floats, counts = (stage.probability, stage.threshold), (stage.n, stage.k)
    return (*map(_bits, floats), *(column.tolist() for column in counts), stage.stratum.to_list())


def _stratum(name: bytes | None) -> str:
    return "null" if name is None else _text(name.decode(errors="replace"))


def _nullable(text: str | None) -> str:
    return "null" if text is None else _text(text)


def _counted(count: int) -> str:
    return str(count) if count >= 0 else "null"


def _mapped(keys: list[Any], write: Callable[[Any], str]) -> list[str]:
    """`write` of each key, called once for equal ones."""
    known = {key: write(key) for key in set(keys)}
    return [known[key] for key in keys]


def _values(spec: TargetSpec, column: TargetColumn) -> list[str]:
    if spec.codes:
        texts = ["null", *(code if spec.type == "boolean" else _text(code) for code in spec.codes)]
        return [texts[place] for place in np.where(column.valid, column.value + 1, 0).astype(np.int64).tolist()]
    return _floats(column.value, column.valid) if spec.type == "double" else _integers(column.value, column.valid)


def _integers(values: Any, valid: Bools) -> list[str]:
    if not valid.any():
        return ["null"] * len(valid)
    return [str(value) if given else "null" for value, given in zip(values.tolist(), valid.tolist(), strict=True)]


def _floats(values: Any, valid: Bools | None = None) -> list[str]:
    """Each as the shortest decimal that reads back as the same float64; null where not finite or not valid."""
    given: Float64s = values if valid is None else np.where(valid, values, np.nan)
    return _mapped(_bits(given), _float)


def _bits(values: Float64s) -> list[int]:
    """Each float's bits: among keys -0.0 is then not 0.0, and NaN equals itself."""
    bits: Int64s = np.ascontiguousarray(values).view(np.int64)
    listed: list[int] = bits.tolist()
    return listed


def _float(bits: int) -> str:
    value = float(np.int64(bits).view(np.float64))
    return repr(value) if np.isfinite(value) else "null"
