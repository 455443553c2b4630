"""JSON values: the fields that a job names as columns, and features cut out of the bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import ConfigurationError
from streamsample.formats import json_kernel as kernels
from streamsample.formats import json_scan as tokens
from streamsample.formats import projection
from streamsample.formats.projection import (
    Column,
    Field,
    ListColumn,
    NumberColumn,
    Problem,
    Projection,
    TextColumn,
    WriterSchema,
)
from streamsample.records import NULL, Bytes, Int32s, Int64s, Spans


class JsonProjector:
    """The projector of a topic of JSON objects (RFC 8259, in UTF-8, without a byte order mark).

    fields: what becomes columns; a dot in a path goes down a level, so that a key which contains one is out of reach.
    keep, drop: which top-level keys splicing keeps; give one, or neither to keep all. A key that a value lacks is of no
    effect. What stays is copied byte for byte, numbers as they were spelled; only the space between a member that stays
    and one that goes is lost.

    An integer is a number without point and exponent: 12.0 is none. Missing and null are the same. A value with the
    same key twice in one object, at any depth, cannot be used; nor one nested deeper than 128.
    within: values are what stands at this key of objects, anything, and the paths begin with it.
    Raises ConfigurationError if a path has an empty part, or keep and drop are both given.
    """

    schemas: tuple[WriterSchema, ...] = (WriterSchema(None, {}, {}),)

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        keep: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
        within: str | None = None,
    ) -> None:
        if keep is not None and drop is not None:
            raise ConfigurationError("features has both keep and drop", remedy="give one of them")
        self._fields = tuple(dict.fromkeys(fields))
        self._paths = tuple(dict.fromkeys(field.path for field in self._fields))
        listed = tuple(dict.fromkeys(keep if keep is not None else drop or ()))
        self._objects = within is None
        self._tree, self._names = _tree([_names(path, within) for path in self._paths], listed)
        self._mode, self._runs = kernels.ALL, 0
        if keep is not None:
            self._mode, self._runs = kernels.KEEP, len(listed)
        elif listed:
            self._mode, self._runs = kernels.DROP, len(listed) + 1

    def project(self, values: Spans) -> Projection:
        """Decode the fields of every value. See `projection.Projector`."""
        rows, leaves = len(values), len(self._paths)
        buffer = np.ascontiguousarray(values.buffer)
        starts, sizes = np.ascontiguousarray(values.start), np.ascontiguousarray(values.size)
        found = np.zeros((rows, leaves, 3), np.int64)
        cuts = np.full((rows, 2 * self._runs), -1, np.int32)
        side = np.empty(int(np.maximum(sizes, 0).sum(dtype=np.int64)), np.uint8)
        problem, unsure = np.zeros(rows, np.int16), np.zeros(rows, np.bool_)
        used = kernels.tokenize(
            buffer, starts, sizes, self._tree, self._names, leaves, self._mode, self._objects, self._runs,
            cuts.reshape(-1), found.reshape(-1), side, np.empty(kernels.SCRATCH, np.int64), problem, unsure,
        )  # fmt: skip
        for row in np.flatnonzero(unsure & (problem == 0)).tolist():
            if _has_duplicates(values[row] or b""):
                problem[row] = Problem.DUPLICATE_KEY
        texts = _Texts(buffer, side[:used], len(side))
        columns = {field: self._column(field, buffer, found, texts, problem) for field in self._fields}
        ok = problem == 0
        if not ok.all():
            columns = {field: _without(column, ok) for field, column in columns.items()}
        return Projection(ok, problem, np.zeros(rows, np.int16), columns, cuts)

    def splice(self, values: Spans, projection: Projection, rows: Int64s) -> Spans:
        """The features of the values at `rows`. See `projection.Projector`."""
        ok = projection.ok[rows]
        if self._mode == kernels.ALL:
            return Spans(values.buffer, values.start[rows], np.where(ok, values.size[rows], NULL).astype(np.int32))
        cuts = projection.cuts[rows].reshape(len(rows), self._runs, 2).astype(np.int64)
        runs = (cuts[:, :, 0] >= 0).sum(axis=1)
        room = 2 + (cuts[:, :, 1] - cuts[:, :, 0]).sum(axis=1) + np.maximum(runs - 1, 0)
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.where(ok, room, 0), out=bounds[1:])
        out = np.empty(int(bounds[-1]), np.uint8)
        kernels.splice(
            np.ascontiguousarray(values.buffer), np.ascontiguousarray(values.start),
            np.ascontiguousarray(rows, dtype=np.int64), projection.cuts.reshape(-1), self._runs, bounds, out,
        )  # fmt: skip
        return Spans(out, bounds[:-1], np.where(ok, room, NULL).astype(np.int32))

    def explain(self, problem: int) -> str:
        """What a problem code means, in plain words."""
        return projection.explain(problem)

    def _column(self, field: Field, buffer: Bytes, found: Int64s, texts: _Texts, problem: NDArray[np.int16]) -> Column:
        leaf = self._paths.index(field.path)
        if field.kind == "text":
            return texts.column(found[:, leaf], problem)
        if field.kind == "items":
            return _lists(buffer, found, leaf, texts.room, problem)
        if field.kind == "elements":
            return _begins(found[:, leaf], problem)
        if field.kind in ("boolean", "presence", "absent"):
            if field.kind == "absent":
                problem[(found[:, leaf, 0] != tokens.MISSING) & (problem == 0)] = Problem.DUPLICATE_KEY
            return _flags(found[:, leaf, 0], problem, boolean=field.kind == "boolean")
        rows, real = len(problem), field.kind == "number"
        integers = np.zeros(0 if real else rows, np.int64)
        reals = np.zeros(rows if real else 0, np.float64)
        valid, hard = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        kernels.numbers(buffer, found.reshape(-1), len(self._paths), leaf, real, integers, reals, valid, hard, problem)
        for row in np.flatnonzero(hard).tolist():
            start, size = found[row, leaf, 1:].tolist()
            reals[row] = float(buffer[start : start + size].tobytes())
            if np.isinf(reals[row]):
                problem[row] = Problem.OUT_OF_RANGE
        return NumberColumn(reals, valid) if real else NumberColumn(integers, valid)


class _Texts:
    """Text columns over the buffer of the values, or, if one has escapes, over that and the resolved ones behind it.

    room: bytes of all values.
    """

    def __init__(self, buffer: Bytes, side: Bytes, room: int) -> None:
        self._buffer, self._side = buffer, side
        self.room = room
        self._both: Bytes | None = None

    def column(self, found: Int64s, problem: NDArray[np.int16]) -> TextColumn:
        """The texts of int64[n, 3] tokens; `problem` gets WRONG_TYPE where a token has no canonical form."""
        token, start, size = found[:, 0], found[:, 1].copy(), found[:, 2].astype(np.int32)
        absent = (token == tokens.MISSING) | (token == tokens.NULL)
        wrong = (token == tokens.FLOAT) | (token >= tokens.OBJECT)
        problem[wrong & (problem == 0)] = Problem.WRONG_TYPE
        size[absent | wrong] = NULL
        two = np.flatnonzero((token == tokens.INTEGER) & (size == 2))
        minus_zero = two[(self._buffer[start[two]] == ord("-")) & (self._buffer[start[two] + 1] == ord("0"))]
        start[minus_zero] += 1
        size[minus_zero] = 1
        escaped = token == tokens.ESCAPED
        if not escaped.any():
            return TextColumn(Spans(self._buffer, start, size))
        if self._both is None:
            self._both = np.concatenate((self._buffer, self._side))
        start[escaped] += len(self._buffer)
        return TextColumn(Spans(self._both, start, size))


def _flags(token: Int64s, problem: NDArray[np.int16], *, boolean: bool) -> NumberColumn:
    """Whether there is anything, and if `boolean` that it is true; `problem` gets WRONG_TYPE where it is no boolean."""
    there = (token != tokens.MISSING) & (token != tokens.NULL) & (problem == 0)
    if not boolean:
        return NumberColumn(np.zeros(len(token), np.int64), there)
    right = (token == tokens.TRUE) | (token == tokens.FALSE)
    problem[there & ~right] = Problem.WRONG_TYPE
    return NumberColumn((token == tokens.TRUE).astype(np.int64), there & right)


def _begins(found: Int64s, problem: NDArray[np.int16]) -> TextColumn:
    """Where lists begin; `problem` gets WRONG_TYPE where there is something else."""
    token, start = found[:, 0], found[:, 1].copy()
    there = token == tokens.ARRAY
    problem[(token != tokens.MISSING) & (token != tokens.NULL) & ~there & (problem == 0)] = Problem.WRONG_TYPE
    return TextColumn(Spans(np.empty(0, np.uint8), start, np.where(there, 0, NULL).astype(np.int32)))


def _lists(buffer: Bytes, found: Int64s, leaf: int, room: int, problem: NDArray[np.int16]) -> ListColumn:
    """Lists of texts; `problem` gets WRONG_TYPE where there is something else."""
    # Imported here: its kernel is compiled only for jobs that need it.
    from streamsample.formats.json_lists import items

    token = found[:, leaf, 0]
    there = (token != tokens.MISSING) & (token != tokens.NULL)
    problem[there & (token != tokens.ARRAY) & (problem == 0)] = Problem.WRONG_TYPE
    first = np.empty(len(token) + 1, np.int64)
    start, size, out = np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room, np.uint8)
    used = items(buffer, found.reshape(-1), found.shape[1], leaf, first, start, size, out, problem)
    count = int(first[-1])
    return ListColumn(first, Spans(out[:used], start[:count], size[:count]), there)


def _without(column: Column, ok: NDArray[np.bool_]) -> Column:
    """The column, null where not ok."""
    if isinstance(column, TextColumn):
        spans = column.spans
        return TextColumn(Spans(spans.buffer, spans.start, np.where(ok, spans.size, NULL).astype(np.int32)))
    if isinstance(column, ListColumn):
        return ListColumn(column.first, column.items, column.valid & ok)
    values = column.values.copy()
    values[~ok] = 0
    return NumberColumn(values, column.valid & ok)


def _has_duplicates(value: bytes) -> bool:
    """Whether an object of `value`, which is known to be valid, has a key twice."""
    found = False

    def note(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({key for key, _ in pairs}) < len(pairs)

    json.loads(value, object_pairs_hook=note, parse_int=len, parse_float=len)
    return found


def _names(path: str, within: str | None) -> list[str]:
    """The names of a path from the value down. Raises ConfigurationError."""
    names = path.split(".")
    if not all(names):
        raise ConfigurationError(f"field {path!r} has an empty part", remedy="separate names by single dots")
    return names if within is None else names[1:]


def _tree(paths: Sequence[Sequence[str]], listed: Sequence[str]) -> tuple[Int32s, Bytes]:
    """The names asked for as the kernel reads them: nodes int32[n * NODE], and the names' bytes."""
    nodes = [[-1] * kernels.NODE]
    names = bytearray()
    children: dict[tuple[int, str], int] = {}

    def below(node: int, name: str) -> int:
        if (node, name) not in children:
            raw = name.encode()
            children[node, name] = len(nodes)
            nodes.append([-1, nodes[node][kernels.CHILD], len(names), len(raw), -1, 0])
            nodes[node][kernels.CHILD] = children[node, name]
            names.extend(raw)
        return children[node, name]

    nodes[0][kernels.LISTED] = 0
    for name in listed:
        nodes[below(0, name)][kernels.LISTED] = 1
    for leaf, path in enumerate(paths):
        node = 0
        for name in path:
            node = below(node, name)
        nodes[node][kernels.LEAF] = leaf
    return np.array(nodes, np.int32).reshape(-1), np.frombuffer(bytes(names), np.uint8)
