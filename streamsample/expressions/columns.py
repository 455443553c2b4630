"""The values of an expression on n records, and which of them failed and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.expressions.tree import Type
from streamsample.records import Bools, Bytes, Int64s, Spans

Codes: TypeAlias = NDArray[np.uint8]


class Failure(IntEnum):
    """Why an expression has no value for a record. 0 means that it has one."""

    NONE = 0
    NULL = 1
    OVERFLOW = 2
    DIVISION = 3
    RANGE = 4
    CONVERSION = 5


WORDS: Final[dict[Failure, str]] = {
    Failure.NULL: "a field is null (or missing) where a value is needed",
    Failure.OVERFLOW: "a whole number does not fit 64 bits",
    Failure.DIVISION: "a whole number is divided by zero",
    Failure.RANGE: "a number is out of the range of what it is converted to",
    Failure.CONVERSION: "a value cannot be converted, or is no argument for its function",
}


@dataclass(frozen=True, slots=True)
class Column:
    """n values, or one that stands for all (length 1).

    values: bool[n], int64[n], float64[n] by `type`, or n spans of strings or bytes; of no meaning where null or failed.
    null: bool[n], None if nothing is. failed: uint8[n], 0 or a `Failure`, None if nothing did.
    """

    type: Type
    values: Any
    null: Bools | None = None
    failed: Codes | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def spans(self) -> Spans:
        """The values of a column of strings or bytes."""
        assert isinstance(self.values, Spans)
        return self.values

    def needed(self) -> Codes | None:
        """`failed`, where a null has failed too: for operations that need a value."""
        if self.null is None:
            return self.failed
        failed = np.where(self.null, np.uint8(Failure.NULL), np.uint8(0))
        return failed if self.failed is None else np.where(self.failed > 0, self.failed, failed)

    def of_length(self, count: int) -> Column:
        """The same with n = `count`, if it is one value that stands for all, or its masks are."""
        values = self.values
        if len(self) != count:
            values = self.spans.take(np.zeros(count, np.int64)) if isinstance(values, Spans) else values.repeat(count)
        null = None if self.null is None else np.broadcast_to(self.null, count)
        failed = None if self.failed is None else np.broadcast_to(self.failed, count)
        return Column(self.type, values, null, failed)


def constant(kind: Type, value: Any) -> Column:
    """A literal."""
    if kind == "null":
        return Column("null", np.zeros(1, np.bool_), np.ones(1, np.bool_))
    if kind in ("string", "bytes"):
        return Column(kind, Spans.of([value.encode() if kind == "string" else value]))
    return Column(kind, np.array([value], {"bool": np.bool_, "int": np.int64, "double": np.float64}[kind]))


def first_failure(parts: Sequence[Codes | None]) -> Codes | None:
    """For each record the first failure of several operands; None if none has any."""
    found: Codes | None = None
    for part in parts:
        if part is not None:
            found = part if found is None else np.where(found > 0, found, part)
    return found


def failing(where: Bools, why: Failure, others: Codes | None) -> Codes | None:
    """`others`, and `why` where nothing else has failed."""
    if not where.any():
        return others
    codes = np.where(where, np.uint8(why), np.uint8(0))
    return codes if others is None else first_failure([others, codes])


def joined(parts: Sequence[Spans]) -> tuple[Spans, Int64s]:
    """Spans one after the other over one buffer, and where each part begins."""
    same: Bytes = parts[0].buffer
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
    if all(part.buffer is same for part in parts):
        start = np.concatenate([part.start for part in parts])
        return Spans(same, start, np.concatenate([part.size for part in parts])), starts
    return Spans.concat(list(parts)), starts
