"""Functions that CEL's own evaluator computes, once for each distinct combination of arguments in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from streamsample.expressions import texts
from streamsample.expressions.columns import Column, Failure, first_failure
from streamsample.expressions.language import evaluator
from streamsample.expressions.tree import Type
from streamsample.hashing import hash64
from streamsample.records import Int64s, Spans

_WHY: Final[tuple[tuple[str, Failure], ...]] = (
    ("divide by zero", Failure.DIVISION),
    ("modulus by zero", Failure.DIVISION),
    ("overflow", Failure.OVERFLOW),
    ("range", Failure.RANGE),
)


class ByDistinct:
    """`text` with variables x0, x1 ... of the types `arguments`, giving a `result` that is no list or time."""

    def __init__(self, text: str, arguments: Sequence[Type], result: Type) -> None:
        self._result = result
        self._compute = evaluator(text, {f"x{number}": kind for number, kind in enumerate(arguments)})

    def __call__(self, arguments: Sequence[Column]) -> Column:
        """The values; an argument that is null or failed makes the result fail."""
        count = max((len(column) for column in arguments), default=1)
        full = [column.of_length(count) for column in arguments]
        failed = first_failure([column.needed() for column in full])
        good = np.arange(count) if failed is None else np.flatnonzero(failed == 0)
        first, which = _distinct(full, good)
        given = [[_plain(column, row) for column in full] for row in good[first].tolist()]
        answers = [self._compute({f"x{number}": value for number, value in enumerate(values)}) for values in given]
        return self._scattered(answers, which, good, count, failed)

    def _scattered(self, answers: list[Any], which: Int64s, good: Int64s, count: int, failed: Any) -> Column:
        """The answers brought to the records that they are for."""
        why = np.array([_failure(answer) for answer in answers], np.uint8)
        place = np.full(count, len(answers))
        place[good] = which
        codes = np.append(why, np.uint8(0))[place]
        kind = self._result
        if kind in ("string", "bytes"):
            held = [answer if isinstance(answer, str | bytes) else "" for answer in answers]
            encoded = [text.encode() if isinstance(text, str) else text for text in held]
            values: Any = Spans.of([*encoded, b""]).take(place)
        else:
            dtype = {"bool": np.bool_, "int": np.int64, "double": np.float64}[kind]
            plain = [0 if isinstance(answer, Exception) else answer for answer in answers]
            values = np.array([*plain, 0], dtype)[place]
        return Column(kind, values, None, first_failure([failed, codes if codes.any() else None]))


def _failure(answer: Any) -> Failure:
    if not isinstance(answer, Exception):
        return Failure.NONE
    return next((why for words, why in _WHY if words in str(answer)), Failure.CONVERSION)


def _plain(column: Column, row: int) -> Any:
    if isinstance(column.values, Spans):
        raw = column.values[row] or b""
        return raw.decode() if column.type == "string" else raw
    return column.values[row].item()


def _distinct(columns: Sequence[Column], rows: Int64s) -> tuple[Int64s, Int64s]:
    """Of `rows` one for each distinct combination, int64[d], and for every row which of them it is, int64[m]."""
    if not columns or not len(rows):
        return np.zeros(min(len(rows), 1), np.int64), np.zeros(len(rows), np.int64)
    key = np.zeros(len(rows), np.uint64)
    for column in columns:
        if isinstance(column.values, Spans):
            own = hash64(column.values.take(rows), 0)
        else:
            own = column.values[rows].astype(np.uint8 if column.type == "bool" else column.values.dtype)
            own = own.view(np.uint64) if own.dtype.itemsize == 8 else own.astype(np.uint64)
        # Only to group by: that a group is one combination is checked below.
        key = (key ^ own) * np.uint64(0x9E3779B185EBCA87) + np.uint64(1)
        key ^= key >> np.uint64(29)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    same = np.ones(len(rows), np.bool_)
    for column in columns:
        mine, representative = rows, rows[first[which]]
        if isinstance(column.values, Spans):
            same &= texts.equal(column.values.take(mine), column.values.take(representative))
        else:
            same &= column.values[mine].view(np.uint8 if column.type == "bool" else np.uint64) == column.values[
                representative
            ].view(np.uint8 if column.type == "bool" else np.uint64)
    others = np.flatnonzero(~same)
    which[others] = len(first) + np.arange(len(others))
    return np.concatenate((first, others)), which
