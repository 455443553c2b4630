"""Avro values of which a list is exploded: for each of its elements the columns of a record of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numba import types

from streamsample.config.problems import Wrong
from streamsample.config.slates import exploded, position_of
from streamsample.errors import ConfigurationError
from streamsample.formats import projection
from streamsample.formats.avro import AvroProjector, Framing
from streamsample.formats.avro_kernel import DEPTH_MAX, varint, walk
from streamsample.formats.avro_program import Layout, compile_program
from streamsample.formats.avro_schema import AvroSchema, check_names, kept_names, without_fields
from streamsample.formats.pointers import address, copy, load_i32, store_u8
from streamsample.formats.projection import Field, Problem, Projection, TextColumn, WriterSchema
from streamsample.formats.slates import POSITION_BYTES_MAX, SlateFields, room_for, slates_of
from streamsample.kernels import B1, I16, I16_OUT, I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, kernel
from streamsample.records import NULL, Int64s, Spans

_LONG_LIST: Final = int(Problem.LONG_LIST)


class AvroSlates:
    """The projector of a topic of Avro records whose list `explode`, an array, is exploded: see `config.slates`.

    schemas, framing: as for `AvroProjector`. fields, keep, drop: of what the job sees, so that `items.price` is of an
    element. elements_max: a value with more has the problem LONG_LIST. Raises ConfigurationError as `AvroProjector`,
    and if the array cannot be exploded.
    """

    def __init__(
        self,
        schemas: Mapping[int | None, Mapping[str, Any] | str],
        fields: Sequence[Field],
        *,
        explode: str,
        elements_max: int,
        framing: Framing = "none",
        keep: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
    ) -> None:
        views = {key: _seen(schema, key, explode) for key, schema in schemas.items()}
        position = position_of(explode)
        self._max = elements_max
        self._list = Field(explode, "elements")
        self._fields = SlateFields(fields, explode, elements_max)
        own_keep, own_drop = (None if names is None else [n for n in names if n != position] for names in (keep, drop))
        once = [*self._fields.once, self._list]
        self._values = AvroProjector(schemas, once, framing=framing, keep=own_keep, drop=own_drop, apart=explode)
        seen = [views[schema.id] for schema in self._values.schemas]
        everywhere = dict.fromkeys(name for schema in seen for name in schema.names())
        check_names(keep, drop, everywhere, " and ".join(schema.label for schema in seen))
        kept = [kept_names(schema, keep, drop) for schema in seen]
        self._keeps = explode in kept[0], position in kept[0]
        ids = [schema.id for schema in self._values.schemas]
        self.schemas: tuple[WriterSchema, ...] = tuple(
            WriterSchema(key, schema.root, without_fields(schema, names))
            for key, schema, names in zip(ids, seen, kept, strict=True)
        )
        alone = {key: without_fields(schema, {explode}) for key, schema in zip(ids, seen, strict=True)}
        each = self._fields.each
        self._elements = AvroProjector(alone, each, framing="beside") if each else None
        holders = [AvroSchema(schema) for schema in alone.values()]
        self._ends = compile_program(holders, Layout(), [set[str]() for _ in holders], explode)
        self._least = min(schema.least(schema.root) for schema in holders)
        if not self._least:
            what = f"the elements of {explode} take no bytes: a few bytes of a record would be any number of rows"
            raise ConfigurationError(what, remedy="name a list whose elements say something")

    def project(self, values: Spans) -> Projection:
        """Decode the fields of every element. See `projection.Projector` and `projection.Slates`."""
        whole = self._values.project(values)
        begins = whole.columns[self._list]
        assert isinstance(begins, TextColumn)
        problem, sizes = whole.problem.copy(), np.where(begins.spans.size < 0, 0, values.size).astype(np.int32)
        room = room_for(sizes, self._least, self._max)
        first, start, size = np.empty(len(values) + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.int32)
        count = _split(
            np.ascontiguousarray(values.buffer), begins.spans.start, begins.spans.size, whole.schema,
            self._ends.code, self._ends.entries, self._max, first, start, size, problem,
        )  # fmt: skip
        whole = Projection(problem == 0, problem, whole.schema, whole.columns, whole.cuts)
        elements = Spans(np.ascontiguousarray(values.buffer), start[:count], size[:count])
        slates = slates_of(first, elements, self._lists(values, whole), whole, POSITION_BYTES_MAX)
        if self._elements is None:
            return self._fields.projection(slates, None)
        beside = whole.schema[slates.record]
        return self._fields.projection(slates, self._elements.project(elements, beside))

    def _lists(self, values: Spans, whole: Projection) -> Int64s:
        """Where the field of each value's list begins and ends in the buffer; 0 and 0 where the value is not ok."""
        run = 2 * self._values.apart[whole.schema].astype(np.int64)
        rows = np.arange(len(values))
        ends = np.stack([whole.cuts[rows, run], whole.cuts[rows, run + 1]], axis=1)
        body = values.start + self._values.frame_size
        return np.asarray(np.where(whole.ok[:, None], body[:, None] + ends, 0))

    def splice(self, values: Spans, projection: Projection, rows: Int64s) -> Spans:
        """The features of the elements at `rows`. See `projection.Projector`."""
        slates = projection.slates
        assert slates is not None
        room = np.maximum(projection.bytes_max(values, rows), 0)  # null values are negative
        out = np.empty(int(room.sum(dtype=np.int64)), np.uint8)
        start, size = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
        used = _splice(
            np.ascontiguousarray(values.buffer), values.start, self._values.frame_size, np.ascontiguousarray(rows),
            projection.ok, slates.record, projection.cuts.reshape(-1), projection.cuts.shape[1], self._values.apart,
            projection.schema, slates.elements.start, slates.elements.size, slates.position, *self._keeps,
            start, size, out,
        )  # fmt: skip
        return Spans(out[:used], start, size)

    def explain(self, problem: int) -> str:
        """What a code in `Projection.problem` means, in plain words."""
        return projection.explain(problem)


def _seen(schema: Mapping[str, Any] | str, key: int | None, explode: str) -> AvroSchema:
    """What the job sees of a schema."""
    label = "the schema" if key is None else f"schema id {key}"
    try:
        return AvroSchema(exploded(AvroSchema(schema, label).root, explode, label), label)
    except Wrong as wrong:
        raise ConfigurationError(wrong.what, remedy=wrong.remedy or "name an array") from None


@kernel(types.int64(U8, I64, I32, I16, I32, I32, types.int64, I64_OUT, I64_OUT, I32_OUT, I16_OUT))
def _split(buffer, lists, there, schema, program, entries, most, first, start, size, problem):  # type: ignore[no-untyped-def]
    """Find the elements of n values' lists, which are known to be right; how many there are, null ones included.

    lists: where each list begins; there: negative where there is none. program: of each schema, at `entries`, one that
    cuts behind an element. first, start, size: see `slates_of`; problem gets LONG_LIST where there are more than
    `most`, and a null element is all that is left of them.
    """
    base = address(buffer)
    end = base + len(buffer)
    stack, cuts = np.empty(2 * DEPTH_MAX, np.int64), np.zeros(2, np.int32)
    none = np.int64(0)
    count = np.int64(0)
    for row in range(len(lists)):
        first[row] = begin = count
        at = base + lists[row]
        left = none
        if problem[row] == 0 and there[row] >= 0:
            at, left = varint(at, end)
        while left != 0:
            if left < 0:
                at, _ = varint(at, end)
                left = -left
            if left > most - (count - begin):
                problem[row] = _LONG_LIST
                count = begin
                break
            for _ in range(left):
                pc = address(program) + 4 * np.int64(entries[np.int64(schema[row])])
                # It finds bytes behind the element, of course.
                walk(
                    address(program), pc, base, at, end, none, np.int64(1), address(stack), none, none, none, none,
                    none, none, none, none, none, address(cuts), none
                )  # fmt: skip
                start[count] = at - base
                size[count] = load_i32(address(cuts) + 4)
                at += np.int64(load_i32(address(cuts) + 4))
                count += 1
            at, left = varint(at, end)
        if count == begin:
            start[count], size[count] = 0, NULL
            count += 1
    first[len(lists)] = count
    return count


@kernel(
    types.int64(
        U8, I64, types.int64, I64, B1, I64, I32, types.int64, I16, I16, I64, I32, I16, types.boolean, types.boolean,
        I64_OUT, I32_OUT, U8_OUT,
    )
)  # fmt: skip
def _splice(  # type: ignore[no-untyped-def]
    buffer, starts, frame, rows, ok, record, cuts, width, apart, schema, elements, sizes, positions,
    keeps_list, keeps_position, out_start, out_size, out
):  # fmt: skip
    """Copy the kept runs of the values of the elements at `rows`, the element in the place of its list, and write its
    position behind them.

    Of each element: starts, where its value begins, with a frame of so many bytes; record, the value's row in `cuts`,
    int32[n * width]; its place and position. apart: int16[s], of each schema the list's run. All else as
    `avro_kernel.splice`.
    """
    source, into = address(buffer), address(out)
    used = np.int64(0)
    for i in range(len(rows)):
        row = rows[i]
        out_start[i] = used
        if not ok[row]:
            out_size[i] = NULL
            continue
        body = starts[row] + frame
        place = record[row] * width
        end = place + width
        own = place + 2 * np.int64(apart[np.int64(schema[row])])
        while place < end:
            if place != own:
                length = np.int64(cuts[place + 1] - cuts[place])
                copy(into + used, source + body + cuts[place], length)
                used += length
            elif keeps_list:
                copy(into + used, source + elements[row], np.int64(sizes[row]))
                used += sizes[row]
            place += 2
        if keeps_position:
            zigzag = np.int64(positions[row]) << 1
            while zigzag >= 0x80:
                store_u8(into + used, np.uint8(zigzag & 0x7F | 0x80))
                zigzag >>= 7
                used += 1
            store_u8(into + used, np.uint8(zigzag))
            used += 1
        out_size[i] = used - out_start[i]
    return used
