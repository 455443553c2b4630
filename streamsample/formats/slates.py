"""What both formats do to explode lists: each element of a value's list gets the value's columns beside its own.

The columns of what stands once in a value are made once for each value, and repeated by number; only the elements are
looked at one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.config.slates import position_of
from streamsample.errors import ConfigurationError
from streamsample.formats.projection import (
    Column,
    Field,
    ListColumn,
    NumberColumn,
    Problem,
    Projection,
    Slates,
    TextColumn,
)
from streamsample.records import NULL, Bools, Int64s, Spans

POSITION_BYTES_MAX: Final = 6
"""Of a position's digits and a comma before them, or of its varint."""


class SlateFields:
    """The fields asked for, by where they are found: once in a value, in each element, or in its position.

    once: in the value; each: in the element; position: in no bytes at all.
    """

    def __init__(self, fields: Sequence[Field], explode: str, elements_max: int) -> None:
        position = position_of(explode)
        self._wanted = tuple(dict.fromkeys(fields))
        self.position = [wanted for wanted in self._wanted if wanted.path == position]
        self.each = [wanted for wanted in self._wanted if wanted.path.split(".")[0] == explode]
        self.once = [wanted for wanted in self._wanted if wanted not in self.position and wanted not in self.each]
        for wanted in self.position:
            if wanted.kind not in ("text", "integer", "number"):
                what = f"field {position!r} is a position, which gives no {wanted.kind}"
                raise ConfigurationError(what, remedy="it is a whole number")
        as_text = any(wanted.kind == "text" for wanted in self.position)
        self._digits = Spans.of([str(number).encode() for number in range(elements_max if as_text else 0)])

    def projection(self, slates: Slates, elements: Projection | None) -> Projection:
        """All columns of m elements. elements: those of `each`, None where there are none."""
        record, whole, there = slates.record, slates.whole, slates.position >= 0
        problem = whole.problem[record]
        columns: dict[Field, Column] = {}
        if elements is not None:
            problem = np.where(there, elements.problem, problem)
            columns |= elements.columns
        columns |= {wanted: _repeated(whole.columns[wanted], record) for wanted in self.once}
        columns |= {wanted: self._positions(wanted, slates.position, there) for wanted in self.position}
        ok: Bools = there & (problem == Problem.NONE)
        ordered: Mapping[Field, Column] = {wanted: columns[wanted] for wanted in self._wanted}
        return Projection(ok, problem, whole.schema[record], ordered, whole.cuts, slates)

    def _positions(self, wanted: Field, position: NDArray[np.int16], there: Bools) -> Column:
        place = np.maximum(position, 0).astype(np.int64)
        if wanted.kind != "text":
            return NumberColumn(place if wanted.kind == "integer" else place.astype(np.float64), there)
        texts = self._digits.take(place)
        return TextColumn(Spans(texts.buffer, texts.start, np.where(there, texts.size, NULL).astype(np.int32)))


def slates_of(first: Int64s, elements: Spans, lists: Int64s, whole: Projection, more: int) -> Slates:
    """The slates of n values. first: int64[n + 1], where the elements of each begin among `elements`: one at least, a
    null one for a value without any. All else as in `Slates`.
    """
    count = np.diff(first)
    record = np.repeat(np.arange(len(count)), count)
    position = np.arange(len(elements)) - first[record]
    position[elements.size < 0] = -1
    return Slates(record, position.astype(np.int16), elements, lists, whole, more)


def room_for(sizes: NDArray[np.int32], least: int, elements_max: int) -> int:
    """How many elements values of these sizes can have at most, the null ones included. least: bytes of an element."""
    each = np.maximum(sizes, 0).astype(np.int64) // least
    return int(np.minimum(each, elements_max).sum()) + len(sizes)


def _repeated(column: Column, record: Int64s) -> Column:
    """The column of values for each of their elements."""
    if isinstance(column, TextColumn):
        return TextColumn(column.spans.take(record))
    if isinstance(column, ListColumn):
        return column.take(record)
    return NumberColumn(column.values[record], column.valid[record])
