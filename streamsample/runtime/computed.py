"""Columns that a job computes from the fields of each record, put beside the projected ones under names of their own.

So whatever reads a field can read an expression, bins, or several fields that make an id together. A record for which a
computation fails is a dead letter; the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.config import Source as SourceSection
from streamsample.config.columns import Bins, Columns, Each, Expression, StratumColumn, described
from streamsample.config.columns import Column as Setting
from streamsample.config.field_problems import checked_expression
from streamsample.formats.projection import Column, Field, Kind, NumberColumn, Projection, TextColumn
from streamsample.records import NULL, Bools, Spans

if TYPE_CHECKING:
    from streamsample.config.avro_fields import Use
    from streamsample.expressions import Column as Values

Codes: TypeAlias = NDArray[np.uint8]
ProjectedColumns: TypeAlias = Mapping[Field, Column]

_KINDS: Final[Mapping[str, Kind]] = {
    "int": "integer",
    "double": "number",
    "string": "text",
    "bytes": "text",
    "bool": "boolean",
    "any": "presence",
}
_USES: Final[Mapping[Kind, Use]] = {"text": "identity", "integer": "int", "number": "double"}


class Computation(Protocol):
    """What gives a column."""

    def __call__(self, columns: ProjectedColumns, count: int) -> tuple[Column, Codes | None]:
        """The column of `count` elements, and where it failed: uint8[n], 0 or an `expressions.Failure`."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A column that is computed: its name and kind, the setting of the job file that it is for, and how."""

    field: Field
    key: str
    compute: Computation

    @property
    def text(self) -> str:
        """What is computed, for messages."""
        return self.field.path.removeprefix("=")


def called(path: str) -> str:
    """How messages call a column: a field, or what is computed."""
    if path.startswith("["):
        return f"one of the fields {path}"
    return f"the expression {path[1:]!r}" if path.startswith("=") else f"the field {path!r}"


@dataclass(frozen=True, slots=True)
class Failed:
    """Records for which a computation failed, all for the same reason. rows: int64[r]."""

    computed: Computed
    rows: NDArray[np.int64]
    message: str


class SourceColumns:
    """Collects the columns that the settings of one source need: `fields` of its records, and what is `computed`."""

    def __init__(self, section: SourceSection) -> None:
        self._section = section
        self._fields: dict[Field, None] = {}
        self._computed: dict[Field, Computed] = {}

    @property
    def fields(self) -> list[Field]:
        """What must be projected."""
        return list(self._fields)

    @property
    def computed(self) -> tuple[Computed, ...]:
        """What is computed from it, each after what it needs."""
        return tuple(self._computed.values())

    def column(self, setting: Setting, kind: Kind, key: str, use: Use | None = None) -> Field:
        """The column of a field or an expression. key: the setting that it is for."""
        if isinstance(setting, Expression):
            return self._expression(setting.text, kind, key, use or _USES[kind])
        return self._need(Field(setting, kind))

    def text(self, setting: Columns | None, key: str) -> str | None:
        """The path of the text column that one or several settings make; None for None."""
        if setting is None:
            return None
        if not isinstance(setting, tuple):
            return self.column(setting, "text", key).path
        parts = [self.column(each, "text", key) for each in setting]
        name = json.dumps(described(setting))
        return self._add(Field(name, "text"), key, lambda columns, count: (_joined(columns, parts), None)).path

    def stratum(self, setting: StratumColumn, key: str) -> str:
        """The path of a text column that is one part of a stratum's name."""
        if isinstance(setting, Each):
            return self._need(Field(setting.field, "items")).path
        if not isinstance(setting, Bins):
            return self.column(setting, "text", key, "stratum").path
        of = self.column(setting.of, "number", key)
        bins = setting
        name = json.dumps(described(setting))
        return self._add(Field(name, "text"), key, lambda columns, count: (binned(columns[of], bins), None)).path

    def condition(self, text: str, key: str) -> Computed:
        """The column of a condition; it is not among `computed`, for it decides which records those matter to."""
        field = self._expression(text, "boolean", key, None)
        return self._computed.pop(field)

    def truth(self, text: str, key: str) -> str:
        """The path of a text column that says "true" or "false" of a condition."""
        return self._expression(text, "text", key, None).path

    def _expression(self, text: str, kind: Kind, key: str, use: Use | None) -> Field:
        # Imported here: its kernels are compiled only for jobs that need them.
        from streamsample.expressions.compiled import Compiled

        compiled = Compiled(checked_expression(self._section, text, use))
        inputs = {path: self._need(Field(path, _KINDS[type_])) for path, type_ in compiled.fields.items()}

        def compute(columns: ProjectedColumns, count: int) -> tuple[Column, Codes | None]:
            given = {path: _values(columns[field], compiled.fields[path]) for path, field in inputs.items()}
            values = compiled.evaluate(given, count)
            return _projected(values, kind), values.failed

        return self._add(Field(f"={text}", kind), key, compute)

    def _need(self, wanted: Field) -> Field:
        self._fields[wanted] = None
        return wanted

    def _add(self, made: Field, key: str, compute: Computation) -> Field:
        self._computed.setdefault(made, Computed(made, key, compute))
        return made


def with_computed(
    found: Projection, computed: tuple[Computed, ...], needed: Bools
) -> tuple[Projection, list[Failed], Bools]:
    """The projection with the computed columns, what failed among the records `needed`, bool[n], and the others of
    them.
    """
    if not computed:
        return found, [], needed
    columns = dict(found.columns)
    failures: list[Failed] = []
    for each in computed:
        columns[each.field], codes = each.compute(columns, len(found))
        if codes is not None:
            failures += _failures(each, codes, needed)
            needed = needed & (codes == 0)
    return replace(found, columns=columns), failures, needed


def decided(found: Projection, condition: Computed, needed: Bools) -> tuple[Bools, list[Failed], Bools]:
    """Where the condition is true, what failed among the records `needed`, and the others of them; all bool[n]."""
    column, codes = condition.compute(found.columns, len(found))
    assert isinstance(column, NumberColumn)
    null = ~column.valid
    if codes is not None or (null & needed).any():
        from streamsample.expressions import Failure

        nulls = np.where(null, np.uint8(Failure.NULL), np.uint8(0))
        codes = nulls if codes is None else np.where(codes > 0, codes, nulls)
        return column.values > 0, _failures(condition, codes, needed), needed & (codes == 0)
    return column.values > 0, [], needed


def _failures(computed: Computed, codes: Codes, needed: Bools) -> list[Failed]:
    from streamsample.expressions import WORDS, Failure

    found = []
    for code in np.unique(codes[needed]).tolist():
        if code:
            words = f"{computed.key}: {computed.text}: {WORDS[Failure(code)]}"
            found.append(Failed(computed, np.flatnonzero(needed & (codes == code)), words))
    return found


def _values(column: Column, type_: Any) -> Values:
    """A projected column as expressions take it."""
    from streamsample.expressions import Column as Values

    if isinstance(column, TextColumn):
        null = column.spans.size < 0
        return Values(type_, column.spans, null if null.any() else None)
    assert isinstance(column, NumberColumn)
    values = column.values > 0 if type_ in ("bool", "any") else column.values
    return Values(type_, values, None if column.valid.all() else ~column.valid)


def _projected(values: Values, kind: Kind) -> Column:
    """The result of an expression as a column: null where it is null or failed."""
    failed = values.needed()
    good = np.ones(len(values), np.bool_) if failed is None else failed == 0
    if kind == "text":
        spans = values.spans if isinstance(values.values, Spans) else _as_text(values.values)
        return TextColumn(Spans(spans.buffer, spans.start, np.where(good, spans.size, NULL).astype(np.int32)))
    numbers: Any = np.where(good, values.values, 0)
    return NumberColumn(numbers.astype(np.float64 if kind == "number" else np.int64), good)


def _as_text(values: NDArray[Any]) -> Spans:
    """Whole numbers and booleans in their canonical form (A15)."""
    from streamsample.expressions.texts import decimal

    return Spans.of([b"false", b"true"]).take(values.astype(np.int64)) if values.dtype == np.bool_ else decimal(values)


def binned(column: Column, bins: Bins) -> TextColumn:
    """The names of the bins that numbers are in; null where the number is null or NaN."""
    assert isinstance(column, NumberColumn)
    values = column.values.astype(np.float64)
    names = Spans.of([name.encode() for name in bins.names]).take(np.searchsorted(bins.bounds, values, side="right"))
    good = column.valid & ~np.isnan(values)
    return TextColumn(Spans(names.buffer, names.start, np.where(good, names.size, NULL).astype(np.int32)))


def _joined(columns: ProjectedColumns, parts: list[Field]) -> TextColumn:
    # Imported here: its kernel is compiled only for jobs that need it.
    from streamsample.runtime.composite import joined

    texts = [column.spans for column in map(columns.__getitem__, parts) if isinstance(column, TextColumn)]
    return TextColumn(joined(texts))
