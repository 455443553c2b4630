"""What gives a value of each record: a field by its path, an expression, bins of a number, or the items of a list.

weight: amount                                     a field: text is always a path
weight: {expression: "price * double(count)"}      an expression, in CEL
by: [country, {field: amount, bins: [10, 100]}]    strata by field and by bins: <10, 10..100, >=100
id: [session_id, item_id]                          several together
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, TypeAlias

from pydantic import PlainValidator, WithJsonSchema

from streamsample.config.problems import Wrong, nearest, show
from streamsample.config.values import Kind, read_field_path, read_number

BINS_MAX: Final = 1_000
COLUMNS_MAX: Final = 16
_EXAMPLE: Final = 'a field, or {expression: "..."}'


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression in CEL."""

    text: str


@dataclass(frozen=True, slots=True)
class Bins:
    """The bin that a number is in. bounds: ascending; a bin has its lower bound and not its upper one."""

    of: str | Expression
    bounds: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The bins' names, from the lowest."""
        shown = [f"{bound:.15g}" for bound in self.bounds]
        between = [f"{low}..{high}" for low, high in pairwise(shown)]
        return (f"<{shown[0]}", *between, f">={shown[-1]}")


@dataclass(frozen=True, slots=True)
class Each:
    """Every item of a list: a record has one value for each."""

    field: str


Column: TypeAlias = str | Expression
"""A field by its path, or an expression."""
Columns: TypeAlias = Column | tuple[Column, ...]
"""One, or several that make a value together."""
StratumColumn: TypeAlias = Column | Bins | Each


def columns_of(columns: Columns | None) -> tuple[Column, ...]:
    """The single columns; none for None."""
    if columns is None:
        return ()
    return columns if isinstance(columns, tuple) else (columns,)


def described(columns: Columns | tuple[StratumColumn, ...] | StratumColumn | None) -> Any:
    """Plain JSON of what is given: a field is its path."""
    if isinstance(columns, tuple):
        return [described(column) for column in columns]
    if isinstance(columns, Expression):
        return {"expression": columns.text}
    if isinstance(columns, Bins):
        return {"of": described(columns.of), "bins": list(columns.bounds)}
    return {"each": columns.field} if isinstance(columns, Each) else columns


def shown(column: StratumColumn) -> str:
    """How messages call it."""
    if isinstance(column, Expression):
        return column.text
    if isinstance(column, Bins):
        return f"bins of {shown(column.of)}"
    return f"each {column.field}" if isinstance(column, Each) else column


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Wrong("must be an expression", "in quotes: \"amount > 10.0 && country == 'IS'\"")
    return str(value)


def _column(value: Any) -> Column:
    if isinstance(value, Expression):
        return value
    if isinstance(value, Mapping):
        _only(value, ("expression",))
        return Expression(_text(value["expression"]))
    return _path(value)


def _path(value: Any) -> str:
    path = read_field_path(value)
    if any(letter in path for letter in "()<>=&|*+"):
        raise Wrong("is not the path of a field", f"an expression is written {{expression: {show(path)}}}")
    return path


def _columns(value: Any) -> Columns:
    if not isinstance(value, list | tuple):
        return _column(value)
    made = tuple(_column(item) for item in value)
    _different(made)
    return made if len(made) > 1 else made[0]


def _stratum_columns(value: Any) -> tuple[StratumColumn, ...]:
    made = tuple(_stratum(item) for item in value) if isinstance(value, list | tuple) else (_stratum(value),)
    _different(made)
    if sum(isinstance(item, Each) for item in made) > 1:
        raise Wrong("has several lists (each)", "a record has a stratum for each item of one list")
    return made


def _stratum(value: Any) -> StratumColumn:
    if isinstance(value, Bins | Each):
        return value
    if isinstance(value, Mapping) and "each" in value:
        _only(value, ("each",))
        return Each(_path(value["each"]))
    if isinstance(value, Mapping) and "bins" in value:
        of = "expression" if "expression" in value else "field"
        _only(value, (of, "bins"))
        return Bins(_column({of: value[of]} if of == "expression" else value[of]), _bounds(value["bins"]))
    if isinstance(value, Mapping) and "field" in value:
        _only(value, ("field",))
        return _path(value["field"])
    return _column(value)


def _bounds(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("has bins that are no list of numbers", "bins: [10, 100, 1000]")
    if len(value) > BINS_MAX:
        raise Wrong(f"has more than {BINS_MAX} bins")
    bounds = tuple(read_number(item) for item in value)
    if any(low >= high for low, high in pairwise(bounds)) or not all(map(math.isfinite, bounds)):
        raise Wrong("has bins that do not ascend", "bins: [10, 100, 1000]")
    return bounds


def _only(value: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in value:
        if key not in keys:
            meant = nearest(str(key), keys)
            raise Wrong(f"has an unknown key {key}", f"did you mean {meant}?" if meant else f"write {_EXAMPLE}")
    for key in keys:
        if key not in value:
            raise Wrong(f"lacks {key}", f"write {{{': ..., '.join(keys)}: ...}}")


def _different(made: tuple[StratumColumn, ...]) -> None:
    if not made:
        raise Wrong("is an empty list", "name a field")
    if len(made) > COLUMNS_MAX:
        raise Wrong(f"has more than {COLUMNS_MAX} items")
    if len(set(made)) < len(made):
        raise Wrong(
            "names a field twice" if all(isinstance(item, str) for item in made) else "has the same thing twice"
        )


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_PATH_SCHEMA: Final = {"type": "string", "minLength": 1}
_COLUMN_SCHEMA: Final = [_PATH_SCHEMA, _object(expression=_PATH_SCHEMA)]
_BIN_LIST: Final = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_STRATUM_SCHEMA: Final = [
    *_COLUMN_SCHEMA,
    _object(field=_PATH_SCHEMA, bins=_BIN_LIST),
    _object(expression=_PATH_SCHEMA, bins=_BIN_LIST),
    _object(each=_PATH_SCHEMA),
]


def _or_list(schemas: list[Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, {"type": "array", "items": {"anyOf": schemas}, "minItems": 1}]})


ExpressionText: TypeAlias = Annotated[
    str, PlainValidator(_text), WithJsonSchema({"type": "string", "minLength": 1}), Kind("expression")
]
ColumnSetting: TypeAlias = Annotated[
    str | Expression,
    PlainValidator(_column),
    WithJsonSchema({"anyOf": _COLUMN_SCHEMA}),
    Kind("field or `{expression}`"),
]
ColumnsSetting: TypeAlias = Annotated[
    str | Expression | tuple[str | Expression, ...],
    PlainValidator(_columns),
    _or_list(_COLUMN_SCHEMA),
    Kind("field or `{expression}`, or list of them"),
]
StrataSetting: TypeAlias = Annotated[
    tuple[str | Expression | Bins | Each, ...],
    PlainValidator(_stratum_columns),
    _or_list(_STRATUM_SCHEMA),
    Kind("field, `{expression}`, `{field, bins}` or `{each}`, or list of them"),
]
