"""Training records as Avro messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import ConfigurationError
from streamsample.formats import training_kernel as kernels
from streamsample.formats.training import (
    ESTIMATORS,
    TargetColumn,
    TargetSpec,
    TrainingColumns,
    TrainingSpec,
    training_schema,
    with_readable_strata,
)
from streamsample.records import Bools, Bytes, Int64s, Spans


class AvroTrainingEncoder:
    """Encodes training records whose features were written with one of several schemas.

    features_schemas: the schema of the features for each writer schema, in the order that `TrainingColumns.schema`
    counts. out_ids: the registry id of the output schema of each (in [0, 2**32)), or None for messages without a frame.
    `schemas` holds the output schemas in the same order. Holds no state between calls. Raises ConfigurationError.
    """

    def __init__(
        self, features_schemas: Sequence[dict[str, Any]], out_ids: Sequence[int] | None, spec: TrainingSpec
    ) -> None:
        self.schemas = [training_schema(schema, spec.targets) for schema in features_schemas]
        self._spec = spec
        frames = [b""] * len(features_schemas) if out_ids is None else [_frame(number) for number in out_ids]
        if len(frames) != len(features_schemas):
            raise ConfigurationError(
                f"{len(frames)} output schema ids for {len(features_schemas)} input schemas", remedy="give one for each"
            )
        self._program = _Program(spec, frames)

    def encode(self, columns: TrainingColumns) -> Spans:
        """The message values of m training records: m spans over a fresh buffer, contiguous and in order.

        Raises InvariantError if the columns do not fit the spec.
        """
        columns.check(self._spec, len(self.schemas))
        rows = len(columns)
        start, size = np.empty(rows, np.int64), np.empty(rows, np.int32)
        out = np.empty(self._bound(columns), np.uint8)
        program = self._program
        strata = _strata(columns)
        table = _table(columns, strata, program.names, self._spec.targets)
        words, pieces, bounds = program.folded(table)
        end = kernels.encode(
            out,
            start,
            size,
            words,
            table.reshape(-1),
            len(columns.targets),
            pieces,
            bounds,
            np.ascontiguousarray(columns.record_id).reshape(-1),
            np.ascontiguousarray(columns.features.buffer),
            np.ascontiguousarray(strata.buffer),
            _references(columns, program),
        )
        if end == kernels.NOT_UTF8:
            return self.encode(with_readable_strata(columns))
        return Spans(out[:end], start, size)

    def _bound(self, columns: TrainingColumns) -> int:
        """At least as many bytes as the records take. What is not written to is never mapped by the system."""
        texts = int(columns.features.size.sum(dtype=np.int64))
        if columns.sampling is not None:
            for strata in (columns.sampling.stratum, *(stage.stratum for stage in columns.sampling.stages)):
                texts += int(np.maximum(strata.size, 0).sum(dtype=np.int64))
        references = len(columns.feedback_target) * self._program.reference_size_max
        return texts + len(columns) * self._program.row_size_max + references + kernels.PADDING


_Code: TypeAlias = tuple[Int64s, Bytes, Int64s]
"""Instructions, the pieces that they copy, and the pieces' bounds."""
_FOLDED_MAX = 256


class _Program:
    """What the kernel does for one record of a spec: instructions, the columns they read, the pieces they copy.

    row_size_max: the most bytes of a record beside features, stratum and feedback; reference_size_max: of one feedback.
    """

    def __init__(self, spec: TrainingSpec, frames: list[bytes]) -> None:
        self.names: list[str] = []
        self._words: list[int] = []
        self._pieces: list[bytes] = []
        self._targets_count = len(spec.targets)
        self._folded: dict[bytes, _Code] = {}
        self.row_size_max = 0
        self._head(frames)
        self._targets(spec)
        self._sampling(spec)
        self._choice("split", _optional(spec.splits))
        self._piece(_string(spec.job) + _string(spec.version) + _string(spec.prediction_topic))
        for name in ("partition", "offset", "index"):
            self._number(kernels.LONG, name)
        self._add(kernels.FEEDBACK, self._column("feedback_start"), 0, kernels.VARINT_MAX + 1)
        self._column("feedback_end")
        self._number(kernels.LONG, "closed_by")
        self.first_topic = self._keep([_string(topic) for topic in spec.feedback_topics])
        names = max((len(_string(target.name)) for target in spec.targets), default=0)
        topics = max((len(_string(topic)) for topic in spec.feedback_topics), default=0)
        self.reference_size_max = names + topics + 3 * kernels.VARINT_MAX

    def folded(self, table: NDArray[np.int64]) -> _Code:
        """The program for the records of a table int64[columns, m]: what is the same for all of them is one piece."""
        if not table.shape[1]:
            return _code(self._words, self._pieces)
        first = table[:, 0]
        same = (first == table[:, -1]) & (first == table[:, table.shape[1] // 2])
        for column in np.flatnonzero(same):
            same[column] = (table[column] == first[column]).all()
        key = same.tobytes() + first[same].tobytes()
        found = self._folded.get(key)
        if found is None:
            if len(self._folded) == _FOLDED_MAX:
                self._folded.clear()
            found = self._folded[key] = self._fold(same, np.ascontiguousarray(first))
        return found

    def _fold(self, same: Bools, first: Int64s) -> _Code:
        """same: which columns have one value, the one in `first`."""
        words: list[int] = []
        pieces = list(self._pieces)
        run: list[int] = []
        for at in [*range(0, len(self._words), kernels.WIDTH), None]:
            instruction = [] if at is None else self._words[at : at + kernels.WIDTH]
            if instruction and self._is_same(instruction, same, first):
                run += instruction
                continue
            if run:
                pieces.append(self._written(run, first))
                words += [kernels.PIECE, len(pieces) - 1, 0]
                run = []
            words += instruction
        return _code(words, pieces)

    def _is_same(self, instruction: list[int], same: Bools, first: Int64s) -> bool:
        """Whether an instruction writes the same for all records."""
        operation, operand, second = instruction
        if operation == kernels.PIECE:
            return True
        if operation in (kernels.GIVEN_LONG, kernels.GIVEN_DOUBLE):
            return bool(same[second] and (same[operand] or not first[second]))
        if operation == kernels.SETTLED:
            return all(self._holds(same, f"{number}.settled") for number in range(self._targets_count))
        return operation in (kernels.LONG, kernels.COUNT, kernels.WEIGHT, kernels.CHOICE) and bool(same[operand])

    def _holds(self, same: Bools, name: str) -> bool:
        return bool(same[self.names.index(name)])

    def _written(self, words: list[int], first: Int64s) -> bytes:
        """What these instructions write for a record with the values of `first`."""
        code = _code(words, self._pieces)
        out = np.empty(self.row_size_max + kernels.PADDING, np.uint8)
        start, size = np.empty(1, np.int64), np.empty(1, np.int32)
        nothing, none = np.empty(0, np.uint8), np.empty(0, np.int64)
        end = kernels.encode(
            out, start, size, code[0], first, self._targets_count, code[1], code[2], nothing, nothing, nothing, none
        )
        return out[:end].tobytes()

    def _head(self, frames: list[bytes]) -> None:
        self._choice("schema", frames)
        self._add(kernels.RECORD_ID, 0, 0, 1 + 2 * kernels.ID_SIZE)
        self._number(kernels.LONG, "revision")
        self._number(kernels.COUNT, "supersedes")
        self._number(kernels.LONG, "state")
        self._add(kernels.FEATURES, self._column("features.start"), 0, 0)
        self._column("features.size")

    def _targets(self, spec: TrainingSpec) -> None:
        settled = [self._column(f"{number}.settled") for number in range(len(spec.targets))]
        feedback = _optional(spec.feedback)
        kinds, largest_kind = self._keep(feedback), max(map(len, feedback))
        sources = self._keep([b"\x00", b"\x02\x00", b"\x02\x02"])
        for number, target in enumerate(spec.targets):
            explicit = self._column(f"{number}.explicit")
            if target.codes:
                self._choice(f"{number}.value", _coded(target))
            else:
                given = kernels.GIVEN_LONG if target.type == "int" else kernels.GIVEN_DOUBLE
                self._number(given, f"{number}.value", self._column(f"{number}.valid"))
            self._number(kernels.CHOICE, f"{number}.kind", kinds)
            self.row_size_max += largest_kind
            self._number(kernels.CHOICE, f"{number}.source", sources)
            self._number(kernels.GIVEN_LONG, f"{number}.event_time", explicit)
            self._number(kernels.GIVEN_LONG, f"{number}.delay_ms", explicit)
        names = [_string(target.name) for target in spec.targets]
        self.first_target = self._keep(names)
        if settled:
            most = kernels.VARINT_MAX + sum(len(name) for name in names) + 1
            self._add(kernels.SETTLED, settled[0], self.first_target, most)
        else:
            self._piece(b"\x00")

    def _sampling(self, spec: TrainingSpec) -> None:
        if spec.sampling is None:
            self._piece(b"\x02" + np.float64(1.0).tobytes() + b"\x00" + b"\x00" + b"\x00")
            return
        drawn = spec.sampling
        self._number(kernels.WEIGHT, "sampling.weight")
        estimator = _long(ESTIMATORS.index(drawn.estimator))
        offset = drawn.log_odds_offset
        self._piece(b"\x00" + (b"\x00" if offset is None else b"\x02" + np.float64(offset).tobytes()))
        self._piece(b"\x02" + _nullable(drawn.sample) + _string(drawn.design) + estimator)
        self._number(kernels.WEIGHT, "sampling.probability")
        self._number(kernels.WEIGHT, "sampling.threshold")
        self._number(kernels.COUNT, "sampling.n")
        for name in ("sampling.k", "sampling.draws", "sampling.until"):
            self._number(kernels.COUNT, name)
        self._stratum("sampling.stratum")
        self._piece(_long(drawn.seed) + (_long(len(drawn.stages)) if drawn.stages else b""))
        for number, stage in enumerate(drawn.stages):
            self._piece(_string(stage.design) + _nullable(stage.unit) + _long(stage.seed))
            self._number(kernels.WEIGHT, f"sampling.{number}.probability")
            self._number(kernels.WEIGHT, f"sampling.{number}.threshold")
            self._number(kernels.COUNT, f"sampling.{number}.n")
            self._number(kernels.COUNT, f"sampling.{number}.k")
            self._stratum(f"sampling.{number}.stratum")
        self._piece(b"\x00")

    def _stratum(self, name: str) -> None:
        start, size = self._column(f"{name}.start"), self._column(f"{name}.size")
        self._add(kernels.COUNT, size, 0, kernels.VARINT_MAX + 1)
        self._add(kernels.STRATUM, start, 0, 0)

    def _column(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def _keep(self, pieces: list[bytes]) -> int:
        """Hold `pieces`; the number of the first."""
        first = len(self._pieces)
        self._pieces += pieces
        return first

    def _add(self, operation: int, operand: int, second: int, size_max: int) -> None:
        self._words += [operation, operand, second]
        self.row_size_max += size_max

    def _number(self, operation: int, name: str, second: int = 0) -> None:
        self._add(operation, self._column(name), second, kernels.VARINT_MAX + 1)

    def _piece(self, piece: bytes) -> None:
        self._add(kernels.PIECE, self._keep([piece]), 0, len(piece))

    def _choice(self, name: str, pieces: list[bytes]) -> None:
        first = self._keep(pieces)
        self._add(kernels.CHOICE, self._column(name), first, max((len(piece) for piece in pieces), default=0))


def _frame(number: int) -> bytes:
    """The frame of a schema registry: a zero byte and the id, big-endian."""
    if not 0 <= number < 2**32:
        raise ConfigurationError(f"output schema id {number} does not fit 4 bytes", remedy="give the registry's id")
    return b"\x00" + number.to_bytes(4, "big")


def _long(value: int) -> bytes:
    """A zigzag varint of a number >= 0."""
    left = value << 1
    out = bytearray()
    while left >= 0x80:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _string(text: str) -> bytes:
    raw = text.encode()
    return _long(len(raw)) + raw


def _nullable(text: str | None) -> bytes:
    """["null", string]."""
    return b"\x00" if text is None else b"\x02" + _string(text)


def _optional(texts: Sequence[str]) -> list[bytes]:
    """["null", string]: null first, so that number 0 means it."""
    return [b"\x00", *(b"\x02" + _string(text) for text in texts)]


def _coded(target: TargetSpec) -> list[bytes]:
    """["null", string] or ["null", boolean], null first."""
    if target.type == "boolean":
        return [b"\x00", b"\x02\x00", b"\x02\x01"]
    return _optional(target.codes)


def _code(words: list[int], pieces: list[bytes]) -> _Code:
    joined = np.frombuffer(b"".join(pieces) + bytes(kernels.PADDING), np.uint8)
    bounds = np.cumsum([0] + [len(piece) for piece in pieces], dtype=np.int64)
    return np.array(words, np.int64), joined, bounds


def _table(
    columns: TrainingColumns, strata: Spans, names: list[str], targets: Sequence[TargetSpec]
) -> NDArray[np.int64]:
    """The columns `names` as one table, int64[columns, m]."""
    rows = len(columns)
    held = _named(columns, strata, targets)
    table = np.empty((len(names), rows), np.int64)
    for number, name in enumerate(names):
        table[number] = held[name]
    return table


def _strata(columns: TrainingColumns) -> Spans:
    """The strata of the rows, then those of each stage, over one buffer."""
    if columns.sampling is None:
        return Spans.nulls(0)
    return Spans.concat([columns.sampling.stratum, *(stage.stratum for stage in columns.sampling.stages)])


def _named(columns: TrainingColumns, strata: Spans, targets: Sequence[TargetSpec]) -> dict[str, Any]:
    """Every column that a program may read, by its name there. strata: see `_strata`."""
    rows = len(columns)
    held: dict[str, Any] = {
        "schema": columns.schema,
        "revision": columns.revision,
        "supersedes": columns.supersedes,
        "state": columns.state,
        "features.start": columns.features.start,
        "features.size": columns.features.size,
        "split": columns.split + np.int16(1),
        "partition": columns.partition,
        "offset": columns.offset,
        "index": columns.index,
        "feedback_start": columns.feedback_start[:-1],
        "feedback_end": columns.feedback_start[1:],
        "closed_by": columns.closed_by,
    }
    for number, (spec, target) in enumerate(zip(targets, columns.targets, strict=True)):
        held |= {
            f"{number}.value": _value(spec, target),
            f"{number}.valid": target.valid,
            f"{number}.settled": target.settled,
            f"{number}.explicit": target.explicit,
            f"{number}.kind": np.where(target.explicit, target.kind + np.int32(1), 0),
            f"{number}.source": np.where(target.explicit, 1, target.settled * np.int8(2)),
            f"{number}.event_time": target.event_time,
            f"{number}.delay_ms": target.delay_ms,
        }
    sampling = columns.sampling
    if sampling is not None:
        held |= {
            "sampling.probability": sampling.probability.view(np.int64),
            "sampling.threshold": sampling.threshold.view(np.int64),
            "sampling.weight": sampling.weight.view(np.int64),
            "sampling.n": sampling.n,
            "sampling.k": sampling.k,
            "sampling.draws": sampling.draws,
            "sampling.until": sampling.until,
            "sampling.stratum.start": strata.start[:rows],
            "sampling.stratum.size": strata.size[:rows],
        }
        for number, stage in enumerate(sampling.stages):
            mine = slice((number + 1) * rows, (number + 2) * rows)
            held |= {
                f"sampling.{number}.probability": stage.probability.view(np.int64),
                f"sampling.{number}.threshold": stage.threshold.view(np.int64),
                f"sampling.{number}.n": stage.n,
                f"sampling.{number}.k": stage.k,
                f"sampling.{number}.stratum.start": strata.start[mine],
                f"sampling.{number}.stratum.size": strata.size[mine],
            }
    return held


def _value(spec: TargetSpec, column: TargetColumn) -> Int64s:
    """The value's bits, or the number of its piece."""
    if not spec.codes:
        return column.value.view(np.int64)
    return np.where(column.valid, column.value + 1, 0).astype(np.int64)


def _references(columns: TrainingColumns, program: _Program) -> Int64s:
    """The feedback, as the kernel reads it."""
    table = np.empty((kernels.REFERENCE, len(columns.feedback_target)), np.int64)
    table[0] = columns.feedback_target
    table[0] += program.first_target
    table[1] = columns.feedback_topic
    table[1] += program.first_topic
    table[2] = columns.feedback_partition
    table[3] = columns.feedback_offset
    table[4] = columns.feedback_index
    return table.reshape(-1)
