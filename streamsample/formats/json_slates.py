"""JSON values of which a list is exploded: for each of its elements the columns of a value of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import types

from streamsample.config.slates import position_of
from streamsample.formats import projection
from streamsample.formats.digits import write_digits
from streamsample.formats.json_scan import scalar, skip, string_end
from streamsample.formats.json_values import JsonProjector
from streamsample.formats.pointers import address, copy, load_u8, store_u8
from streamsample.formats.projection import Field, Problem, Projection, TextColumn, WriterSchema
from streamsample.formats.slates import POSITION_BYTES_MAX, SlateFields, room_for, slates_of
from streamsample.kernels import B1, I16, I16_OUT, I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, inline, kernel
from streamsample.records import NULL, Spans

_LONG_LIST: Final = int(Problem.LONG_LIST)
_QUOTE, _COMMA = 0x22, 0x2C
_OPENS, _OPENED, _CLOSES, _CLOSED = 0x5B, 0x7B, 0x5D, 0x7D


class JsonSlates:
    """The projector of a topic of JSON objects whose list `explode` is exploded: see `config.slates`.

    fields, keep, drop: of what the job sees, so that `items.price` is of an element. elements_max: a value with more
    has the problem LONG_LIST. A value with a key named as the position is cannot be used: it would be there twice.
    Raises ConfigurationError as `JsonProjector`.
    """

    schemas: tuple[WriterSchema, ...] = JsonProjector.schemas

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        explode: str,
        elements_max: int,
        keep: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
    ) -> None:
        position = position_of(explode)
        self._max = elements_max
        self._list = Field(explode, "elements")
        self._fields = SlateFields(fields, explode, elements_max)
        once = [*self._fields.once, self._list, Field(position, "absent")]
        self._values = JsonProjector(once, keep=keep, drop=drop)
        each = self._fields.each
        self._elements = JsonProjector(each, within=explode) if each else None
        keeps = position not in (drop or ()) if keep is None else position in keep
        member = json.dumps(position, ensure_ascii=False) + ":"
        self._position = np.frombuffer(member.encode() if keeps else b"", np.uint8)

    def project(self, values: Spans) -> Projection:
        """Decode the fields of every element. See `projection.Projector` and `projection.Slates`."""
        whole = self._values.project(values)
        begins = whole.columns[self._list]
        assert isinstance(begins, TextColumn)
        buffer, problem = np.ascontiguousarray(values.buffer), whole.problem.copy()
        room = room_for(np.where(begins.spans.size < 0, 0, values.size).astype(np.int32), 1, self._max)
        first, start, size = np.empty(len(values) + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.int32)
        lists = np.zeros((len(values), 2), np.int64)
        columns = (begins.spans.start, begins.spans.size, self._max, lists.reshape(-1))
        count = _split(buffer, *columns, first, start, size, problem)
        whole = Projection(problem == 0, problem, whole.schema, whole.columns, whole.cuts)
        elements = Spans(buffer, start[:count], size[:count])
        slates = slates_of(first, elements, lists, whole, len(self._position) + POSITION_BYTES_MAX)
        found = None if self._elements is None else self._elements.project(elements)
        return self._fields.projection(slates, found)

    def splice(self, values: Spans, projection: Projection, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Spans:
        """The features of the elements at `rows`. See `projection.Projector`."""
        slates = projection.slates
        assert slates is not None
        room = np.maximum(projection.bytes_max(values, rows), 0)  # null values are negative
        out = np.empty(int(room.sum(dtype=np.int64)), np.uint8)
        start, size = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
        used = _splice(
            np.ascontiguousarray(values.buffer), values.start, values.size, np.ascontiguousarray(rows),
            projection.ok, slates.record,
            projection.cuts.reshape(-1), projection.cuts.shape[1] // 2, slates.lists.reshape(-1),
            slates.elements.start, slates.elements.size, slates.position, self._position,
            start, size, out,
        )  # fmt: skip
        return Spans(out[:used], start, size)

    def explain(self, problem: int) -> str:
        """What a code in `Projection.problem` means, in plain words."""
        return projection.explain(problem)


@inline
def _after(i, end):  # type: ignore[no-untyped-def]
    """Past the value at i, which is known to be right."""
    depth = 0
    while True:
        c = load_u8(i)
        if c in (_OPENS, _OPENED):
            depth += 1
            i += 1
        elif c in (_CLOSES, _CLOSED):
            depth -= 1
            i += 1
        elif c == _QUOTE:
            close, _ = string_end(i + 1, end)
            i = close + 1
        elif depth == 0:
            return scalar(i, end)[0]
        else:
            i += 1
        if depth == 0:
            return i


@kernel(types.int64(U8, I64, I32, types.int64, I64_OUT, I64_OUT, I64_OUT, I32_OUT, I16_OUT))
def _split(buffer, begins, there, most, lists, first, start, size, problem):  # type: ignore[no-untyped-def]
    """Find the elements of n values' lists, which are known to be right; how many there are, null ones included.

    begins: where each list begins; there: negative where there is none. lists: int64[2 * n], gets where they begin and
    end. first, start, size: see `slates_of`; problem gets LONG_LIST where there are more than `most`, and a null
    element is all that is left of them.
    """
    base = address(buffer)
    end = base + len(buffer)
    count = np.int64(0)
    for row in range(len(begins)):
        first[row] = begin = count
        if problem[row] == 0 and there[row] >= 0:
            at = skip(base + begins[row] + 1, end)
            while load_u8(at) != _CLOSES:
                if count - begin == most:
                    problem[row] = _LONG_LIST
                    count = begin
                    break
                after = _after(at, end)
                start[count], size[count] = at - base, np.int32(after - at)
                count += 1
                at = skip(after, end)
                if load_u8(at) == _COMMA:
                    at = skip(at + 1, end)
            if problem[row] == 0:
                lists[2 * row], lists[2 * row + 1] = begins[row], at + 1 - base
        if count == begin:
            start[count], size[count] = 0, NULL
            count += 1
    first[len(begins)] = count
    return count


@inline
def _put(into, source, begin, end):  # type: ignore[no-untyped-def]
    """Copy source[begin:end] to `into`; where the next goes."""
    copy(into, source + begin, end - begin)
    return into + (end - begin)


@kernel(
    types.int64(
        U8, I64, I32, I64, B1, I64, I32, types.int64, I64, I64, I32, I16, U8, I64_OUT, I32_OUT, U8_OUT
    )
)  # fmt: skip
def _splice(  # type: ignore[no-untyped-def]
    buffer, starts, value_sizes, rows, ok, record, cuts, room, lists, elements, sizes, positions, position,
    out_start, out_size, out
):  # fmt: skip
    """Write an object for each of the elements at `rows`: the runs that stay of its value, the element in the place of
    its list, and its position behind them.

    record: int64[m], of each element its value's row in cuts, int32[n, room, 2] as `json_kernel.tokenize` leaves them
    (room 0: all stays), and in lists, int64[n, 2]. position: the position's name and colon, empty where it does not
    stay.
    """
    source, out_at = address(buffer), address(out)
    into = out_at
    for i in range(len(rows)):
        row = rows[i]
        out_start[i] = into - out_at
        if not ok[row]:
            out_size[i] = NULL
            continue
        store_u8(into, np.uint8(_OPENED))
        into += 1
        for run in range(max(room, 1)):
            if room == 0:
                begin, end = starts[row], starts[row] + value_sizes[row] - 1
                while load_u8(source + begin) != _OPENED:
                    begin += 1
                while load_u8(source + end) != _CLOSED:
                    end -= 1
                begin += 1
            else:
                place = 2 * (record[row] * room + run)
                if cuts[place] < 0:
                    break
                begin, end = starts[row] + cuts[place], starts[row] + cuts[place + 1]
            if run > 0:
                store_u8(into, np.uint8(_COMMA))
                into += 1
            first, after = lists[2 * record[row]], lists[2 * record[row] + 1]
            if begin <= first and after <= end:
                into = _put(into, source, begin, first)
                into = _put(into, source, elements[row], elements[row] + sizes[row])
                begin = after
            into = _put(into, source, begin, end)
        if len(position) > 0:
            if into > out_at + out_start[i] + 1:
                store_u8(into, np.uint8(_COMMA))
                into += 1
            into = _put(into, address(position), np.int64(0), np.int64(len(position)))
            into += write_digits(into, np.int64(positions[row]))
        store_u8(into, np.uint8(_CLOSED))
        into += 1
        out_size[i] = into - out_at - out_start[i]
    return into - out_at
