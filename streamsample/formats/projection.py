"""What a format does for the pipeline: turn named fields of a batch of values into columns, and splice their features.

A projector looks at a batch of values once. It decodes the fields that the job names into columns and checks everything
else, because the bytes will be copied into the output; then it cuts the features out of the rows that stay.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Bools, Float64s, Int32s, Int64s, Spans

Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "presence", "items", "elements", "absent"]


class Problem(IntEnum):
    """Why a value cannot be used. 0 means that nothing is wrong with it."""

    NONE = 0
    TOMBSTONE = 1
    TRUNCATED = 2
    TRAILING_BYTES = 3
    BAD_VARINT = 4
    BAD_LENGTH = 5
    BAD_UNION_INDEX = 6
    BAD_BOOLEAN = 7
    BAD_UTF8 = 8
    BAD_ENUM = 9
    TOO_MANY = 10
    TOO_DEEP = 11
    NOT_FRAMED = 12
    UNKNOWN_SCHEMA = 13
    BAD_JSON = 14
    DUPLICATE_KEY = 15
    WRONG_TYPE = 16
    OUT_OF_RANGE = 17
    NOT_AN_OBJECT = 18
    LONG_LIST = 19


_WORDS: Mapping[Problem, str] = {
    Problem.NONE: "nothing is wrong",
    Problem.TOMBSTONE: "the value is null (a tombstone)",
    Problem.TRUNCATED: "the value ends in the middle of a field",
    Problem.TRAILING_BYTES: "bytes are left after the end of the value",
    Problem.BAD_VARINT: "a number is longer than its type allows (int: 32 bits in 5 bytes, long: 64 bits in 10)",
    Problem.BAD_LENGTH: "a length is negative, beyond the end of the value, or not that of the block it describes",
    Problem.BAD_UNION_INDEX: "a union's branch number is not one of the schema's",
    Problem.BAD_BOOLEAN: "a boolean is neither 0 nor 1",
    Problem.BAD_UTF8: "a string is not valid UTF-8",
    Problem.BAD_ENUM: "an enum's symbol number is not one of the schema's",
    Problem.TOO_MANY: "an array or map claims more items than the bytes left can hold",
    Problem.TOO_DEEP: "the value is nested too deeply",
    Problem.NOT_FRAMED: "the value does not begin with the frame of a schema registry (a zero byte and a 4-byte id)",
    Problem.UNKNOWN_SCHEMA: "the frame names a schema id that the job does not list",
    Problem.BAD_JSON: "the value is not valid JSON",
    Problem.DUPLICATE_KEY: "an object has the same key twice",
    Problem.WRONG_TYPE: "a field is not of the type that the job needs",
    Problem.OUT_OF_RANGE: "a number does not fit the column's 64 bits",
    Problem.NOT_AN_OBJECT: "the value is not a JSON object",
    Problem.LONG_LIST: "the list to explode has more elements than limits.elements_max",
}


def explain(problem: int) -> str:
    """What a problem code means, in plain words. Raises ValueError for a number that is no code."""
    return _WORDS[Problem(problem)]


@dataclass(frozen=True, slots=True)
class Field:
    """A field that the job names, and as what it wants it.

    path: the field's name, or the names from the top down separated by dots ("user.address.country"), through records
    (objects) and nullable ones.
    kind: "text": bytes in canonical form (semantics A15): strings, bytes, enum symbols and fixed verbatim, integers as
    decimal UTF-8, booleans as "true" or "false"; floating point numbers are refused. "integer": int64. "number":
    float64. "boolean": 0 or 1 as int64. "presence": 0, whatever is there (JSON only).
    "items": a list of texts. "elements": where a list of anything begins, a text of no bytes there. "absent": there
    must be no such key (JSON only).
    """

    path: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.path} ({self.kind})"


@dataclass(frozen=True, slots=True)
class TextColumn:
    """n byte strings in canonical form; a null span where the field is null or missing."""

    spans: Spans

    def __len__(self) -> int:
        return len(self.spans)


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """n numbers.

    values: float64[n] ("number") or int64[n] (all others), 0 where `valid`: bool[n] is false (null or missing).
    """

    values: Int64s | Float64s
    valid: Bools

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class ListColumn:
    """n lists of byte strings in canonical form, nulls among them left out.

    first: int64[n + 1], where each list begins in `items`: those of all lists, one after the other. valid: bool[n],
    false where the field is null or missing; its list is empty then.
    """

    first: Int64s
    items: Spans
    valid: Bools

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, rows: Int64s) -> ListColumn:
        """The lists at `rows`, any number of times each."""
        count = self.first[rows + 1] - self.first[rows]
        first = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(count, out=first[1:])
        at = np.arange(first[-1]) + np.repeat(self.first[rows] - first[:-1], count)
        return ListColumn(first, self.items.take(at), self.valid[rows])


Column: TypeAlias = TextColumn | NumberColumn | ListColumn


@dataclass(frozen=True, slots=True)
class Slates:
    """Which values m elements of lists are of, for a projector that explodes them.

    record: int64[m], ascending, the value; each is there at least once. position: int16[m], the element's place in the
    list, from 0; -1 where the element stands for a value that has none. elements: m spans over the values' buffer,
    null where there is none. lists: int64[n, 2], where each value's list begins and ends there, 0 and 0 for none.
    whole: of the n values, without their elements. more: bytes of a position at most, in JSON with its name.
    """

    record: Int64s
    position: NDArray[np.int16]
    elements: Spans
    lists: Int64s
    whole: Projection
    more: int

    @property
    def empty(self) -> Bools:
        """bool[m], where an element stands for a value whose list is missing, null or empty."""
        return (self.position < 0) & self.whole.ok[self.record]


@dataclass(frozen=True, slots=True)
class Projection:
    """What a batch of values holds: n elements, aligned with the input, or with `slates` if there are any.

    ok: bool[n], false where the value cannot be decoded or is null; its columns are null there.
    problem: int16[n], 0 or a `Problem`. schema: int16[n], an index into `Projector.schemas`, -1 if unknown.
    columns: one per field asked for.
    cuts: int32[n, c], where the projector's own `splice` will cut, in its own terms; of no meaning to others.
    """

    ok: Bools
    problem: NDArray[np.int16]
    schema: NDArray[np.int16]
    columns: Mapping[Field, Column]
    cuts: Int32s
    slates: Slates | None = None

    def __len__(self) -> int:
        return len(self.ok)

    def text(self, path: str) -> Spans:
        """The spans of the text column `path`. Raises KeyError if it was not asked for."""
        column = self.columns[Field(path, "text")]
        assert isinstance(column, TextColumn)
        return column.spans

    def bytes_max(self, values: Spans, rows: Int64s) -> Int32s:
        """How many bytes the features of the elements at `rows`, in any order, take at most, int32[m]. values: of all
        elements.
        """
        size = values.size[rows]
        if self.slates is None:
            return size
        lists = self.slates.lists
        others = (lists[:, 0] - lists[:, 1] + self.slates.more).astype(np.int32)
        return size + others[self.slates.record[rows]] + np.maximum(self.slates.elements.size[rows], 0)

    def integer(self, path: str) -> NumberColumn:
        """The int64 column `path`. Raises KeyError if it was not asked for."""
        column = self.columns[Field(path, "integer")]
        assert isinstance(column, NumberColumn)
        return column

    def number(self, path: str) -> NumberColumn:
        """The float64 column `path`. Raises KeyError if it was not asked for."""
        column = self.columns[Field(path, "number")]
        assert isinstance(column, NumberColumn)
        return column


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """One of the schemas that a projector's values were written with.

    id: its number in the frame, None where values are bare. definition: the schema itself, names in full; empty for
    JSON. features: the schema of what `splice` returns for its values; empty for JSON.
    """

    id: int | None
    definition: Mapping[str, Any]
    features: Mapping[str, Any]


class Projector(Protocol):
    """Decodes, checks and splices the values of one topic. Holds no state between batches; safe to share by threads."""

    @property
    def schemas(self) -> Sequence[WriterSchema]:
        """The writer schemas, in the order that `Projection.schema` counts them. JSON has one, without an id."""

    def project(self, values: Spans) -> Projection:
        """Decode the fields of every value. May be empty. One bad value never costs its neighbours; none raises.

        A null value is not ok, with the problem TOMBSTONE. A projector that explodes lists gives one element or more
        for each value (see `Slates`); whatever else it is handed with the projection is aligned with these.
        """

    def splice(self, values: Spans, projection: Projection, rows: Int64s) -> Spans:
        """The features of the values at `rows`: int64[m], in their order, without any frame.

        `projection` is what `project(values)` returned. The spans are over a fresh buffer, contiguous and in order,
        unless every field is kept: then they are over the buffer of `values`. Null where the row is not ok.
        """

    def explain(self, problem: int) -> str:
        """What a code in `Projection.problem` means, in plain words."""


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """The remedy for an unknown name: the closest ones if any is close, and what there is (at most 20 names)."""
    names = list(available)
    close = difflib.get_close_matches(name, names, n=2)
    listed = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}available: {listed or 'none'}"
