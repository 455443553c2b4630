"""Avro values, bare or framed with a schema id, as columns.

    fields + writer schemas --avro_program--> program --avro_kernel--> columns, problems, cuts --> spliced features

See `projection` for the interface, `avro_schema.features_schema` for the schema of what is spliced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import ConfigurationError
from streamsample.formats import avro_kernel, projection
from streamsample.formats.avro_kernel import FRAME_SIZE
from streamsample.formats.avro_program import Layout, compile_program
from streamsample.formats.avro_schema import AvroSchema, check_names, features_schema, kept_names, without_fields
from streamsample.formats.projection import Column, Field, NumberColumn, Projection, TextColumn, WriterSchema
from streamsample.records import NULL, Bools, Float64s, Int32s, Int64s, Spans

__all__ = ["FRAME_SIZE", "AvroProjector", "Framing", "features_schema"]

Framing: TypeAlias = Literal["confluent", "none", "beside"]
"""How a value says which schema it was written with.

"confluent": a zero byte and the schema's id, 4 bytes, big-endian. "none": not at all; there is one schema. "beside":
whoever projects it says so.
"""

if TYPE_CHECKING:
    from streamsample.formats.avro_lists import AvroLists

_ID_MAX: Final = (1 << 32) - 1
_DIGITS_MAX: Final = 20


class AvroProjector:
    """The projector of a topic of Avro records.

    schemas: the writer schemas, mappings or JSON text, by the id in the frame; {None: schema} if values are bare.
    fields: what becomes columns. keep, drop: which top-level fields splicing keeps; give one, or neither to keep all.
    apart: a top-level field that is a run of its own in the cuts, kept or not; then `splice` must not be asked.

    Raises ConfigurationError, naming path and schema id, if a schema is not valid or no record, a field is in one of
    the schemas missing or of a type that does not suit its kind, or a kept or dropped name is in none of them.
    """

    def __init__(
        self,
        schemas: Mapping[int | None, Mapping[str, Any] | str],
        fields: Sequence[Field],
        *,
        framing: Framing = "none",
        keep: Sequence[str] | None = None,
        drop: Sequence[str] | None = None,
        apart: str | None = None,
    ) -> None:
        ids = _checked_ids(list(schemas), framing)
        self._schemas = [AvroSchema(schemas[key], "the schema" if key is None else f"schema id {key}") for key in ids]
        everywhere = dict.fromkeys(name for schema in self._schemas for name in schema.names())
        check_names(keep, drop, everywhere, " and ".join(schema.label for schema in self._schemas))
        kept = [kept_names(schema, keep, drop) for schema in self._schemas]
        self._layout = Layout.of(fields, self._schemas)
        self._program = compile_program(self._schemas, self._layout, kept, apart)
        self.apart = np.array(self._program.apart, np.int16)
        self._lists = {wanted: _lists(wanted, self._schemas) for wanted in fields if wanted.kind == "items"}
        self._ids = np.array([key for key in ids if key is not None and framing == "confluent"], dtype=np.int64)
        self._frame_size = FRAME_SIZE if framing == "confluent" else 0
        self.schemas: tuple[WriterSchema, ...] = tuple(
            WriterSchema(key, schema.root, without_fields(schema, names))
            for key, schema, names in zip(ids, self._schemas, kept, strict=True)
        )

    @property
    def frame_size(self) -> int:
        """Bytes of a value before its body."""
        return self._frame_size

    def project(self, values: Spans, beside: NDArray[np.int16] | None = None) -> Projection:
        """Decode the fields of every value. See `projection.Projector`. beside: int16[n], of each value the number of
        its schema, where nothing in it says so.
        """
        n, layout, program = len(values), self._layout, self._program
        buffer = np.ascontiguousarray(values.buffer)
        starts = np.ascontiguousarray(values.start)
        sizes = np.ascontiguousarray(values.size)
        text_start = np.zeros(layout.text_slots * n, np.int64)
        text_size = np.full(layout.text_slots * n, NULL, np.int32)
        out = np.empty(self._room(sizes), np.uint8)
        integers = np.zeros(len(layout.integers) * n, np.int64)
        reals = np.zeros(len(layout.reals) * n, np.float64)
        valid = np.zeros((len(layout.integers) + len(layout.reals)) * n, np.bool_)
        cuts = np.zeros(program.cuts * n, np.int32)
        problem = np.empty(n, np.int16)
        schema = np.zeros(n, np.int16) if beside is None else beside.copy()
        used = avro_kernel.project(
            buffer, starts, sizes, program.code, program.entries, self._ids, program.constants, program.ends,
            text_start, text_size, out, integers, reals, valid, cuts, problem, schema,
        )  # fmt: skip
        starts_of = text_start.reshape(layout.text_slots, n)
        sizes_of = text_size.reshape(layout.text_slots, n)
        columns: dict[Field, Column] = {}
        for wanted, slot in layout.text.items():
            source = buffer
            if wanted.kind == "items":
                arrays = np.where(problem == 0, sizes_of[slot], NULL).astype(np.int32)
                room = int(np.maximum(sizes, 0).sum(dtype=np.int64))
                columns[wanted] = self._lists[wanted].read(buffer, starts_of[slot], arrays, schema, room)
                continue
            if wanted in layout.copied:
                source = out[:used]
            elif wanted in layout.constant:
                source = program.constants
            columns[wanted] = TextColumn(Spans(source, starts_of[slot], sizes_of[slot]))
        for wanted, slot in layout.integers.items():
            columns[wanted] = NumberColumn(integers[slot * n : (slot + 1) * n], valid[slot * n : (slot + 1) * n])
        for wanted, slot in layout.reals.items():
            real = reals[slot * n : (slot + 1) * n]
            at = len(layout.integers) + slot
            valid_real = valid[at * n : (at + 1) * n]
            if layout.has_decimals:
                hidden = len(layout.text) + slot
                _large_decimals(Spans(buffer, starts_of[hidden], sizes_of[hidden]), real, valid_real)
            columns[wanted] = NumberColumn(real, valid_real)
        return Projection(problem == 0, problem, schema, columns, cuts.reshape(n, program.cuts))

    def splice(self, values: Spans, projection: Projection, rows: Int64s) -> Spans:
        """The features of the values at `rows`. See `projection.Projector`."""
        sizes = values.size[rows]
        if self._program.whole:
            size = np.where(projection.ok[rows], sizes - self._frame_size, NULL).astype(np.int32)
            return Spans(values.buffer, values.start[rows] + self._frame_size, size)
        out = np.empty(int(np.maximum(sizes, 0).sum(dtype=np.int64)), np.uint8)
        start = np.empty(len(rows), np.int64)
        size = np.empty(len(rows), np.int32)
        used = avro_kernel.splice(
            np.ascontiguousarray(values.buffer), values.start + self._frame_size, np.ascontiguousarray(rows),
            projection.ok, projection.cuts.reshape(-1), start, size, out,
        )  # fmt: skip
        return Spans(out[:used], start, size)

    def explain(self, problem: int) -> str:
        """What a code in `Projection.problem` means, in plain words."""
        return projection.explain(problem)

    def logical_type(self, path: str) -> str | None:
        """The logical type of the field at `path`, null branches aside; None if it has none.

        Raises ConfigurationError if a schema lacks the field, or if schemas or branches disagree: no unit of time would
        be right then.
        """
        found = {schema.label: schema.logical_types(path) for schema in self._schemas}
        names = set().union(*found.values())
        if len(names) > 1:
            said = "; ".join(f"{label}: {', '.join(sorted(map(str, kinds)))}" for label, kinds in found.items())
            raise ConfigurationError(
                f"field {path!r} has several logical types ({said})",
                remedy="read such schemas from topics of their own, or correct the schema",
            )
        return next(iter(names), None)

    def _room(self, sizes: Int32s) -> int:
        """An upper bound on the bytes of all copied texts."""
        layout = self._layout
        each = len(layout.copied) * max(_DIGITS_MAX, self._program.constant_max)
        total = int(np.maximum(sizes, 0).sum(dtype=np.int64)) if layout.copies_input else 0
        return each * len(sizes) + layout.copies_input * total


def _checked_ids(keys: list[int | None], framing: Framing) -> list[int | None]:
    """The ids in ascending order. Raises ConfigurationError if they do not suit the framing."""
    if framing == "beside":
        return keys
    if framing == "none":
        if keys != [None]:
            raise ConfigurationError(
                f"values without a frame need exactly one schema without an id, not {len(keys)} with {keys}",
                remedy="give schema_file, or framing: confluent with schema_files: {id: path}",
            )
        return keys
    ids = [key for key in keys if key is not None]
    bad = [key for key in ids if isinstance(key, bool) or not 0 <= key <= _ID_MAX]
    if len(ids) < len(keys) or not ids or bad:
        raise ConfigurationError(
            f"framed values need schemas with ids from 0 to {_ID_MAX}, not {keys}",
            remedy="give schema_files: {id: path}",
        )
    return [*sorted(ids)]


def _large_decimals(spans: Spans, values: Float64s, valid: Bools) -> None:
    """Fill in the decimals that the kernel has left: their bytes in `spans`, their scale in `values`."""
    for row in np.flatnonzero(spans.size >= 0):
        unscaled = int.from_bytes(spans[int(row)] or b"", "big", signed=True)
        exact = Fraction(unscaled, 10 ** int(values[row]))
        try:
            values[row] = float(exact)
        except OverflowError:
            values[row] = np.inf if unscaled > 0 else -np.inf
        valid[row] = True


def _lists(wanted: Field, schemas: Sequence[AvroSchema]) -> AvroLists:
    # Imported here: its kernel is compiled only for jobs that need it.
    from streamsample.formats.avro_lists import AvroLists

    return AvroLists(wanted.path, schemas)
