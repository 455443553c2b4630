"""What the Avro tests share: random schemas with random data, and fastavro as the reference."""

from __future__ import annotations

import io
import math
from decimal import Decimal
from typing import Any

import fastavro
from hypothesis import strategies as st

from streamsample.formats.avro_schema import AvroSchema

Schema = dict[str, Any]
Case = tuple[Schema, list[dict[str, Any]]]

INT = st.integers(-(1 << 31), (1 << 31) - 1)
LONG = st.one_of(st.integers(-200, 200), st.integers(-(1 << 63), (1 << 63) - 1))
TEXT = st.one_of(st.text("ab.é", max_size=12), st.text(max_size=12))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": INT,
    "long": LONG,
    "float": st.floats(width=32),
    "double": st.floats(),
    "bytes": st.binary(max_size=12),
    "string": TEXT,
}


def encode(schema: Schema, value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value, strict_allow_default=True)
    return out.getvalue()


def decode(schema: Schema, data: bytes) -> tuple[Any, int]:
    """The value, and how many bytes it took. Unions of records are told apart as tuples."""
    source = io.BytesIO(data)
    value = fastavro.schemaless_reader(source, schema, None, return_record_name=False)
    return value, source.tell()


@st.composite
def scalar_types(draw: st.DrawFn, number: list[int]) -> tuple[Any, st.SearchStrategy[Any]]:
    kind = draw(st.sampled_from([*VALUES, "enum", "fixed", "timestamp", "decimal", "decimal-fixed"]))
    if kind in VALUES:
        return kind, VALUES[kind]
    number[0] += 1
    name = f"T{number[0]}"
    if kind == "enum":
        symbols = draw(st.lists(st.sampled_from(["RED", "GREEN", "BLUE", "X"]), min_size=1, unique=True))
        return {"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols)
    if kind == "fixed":
        size = draw(st.integers(0, 9))
        return {"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size)
    if kind == "timestamp":
        logical = draw(st.sampled_from(["timestamp-nanos", "local-timestamp-nanos", "time-nanos", "of-our-own"]))
        return {"type": "long", "logicalType": logical}, LONG
    scale = draw(st.integers(0, 12))
    digits = draw(st.integers(max(scale, 1), 30))
    decimal = {"logicalType": "decimal", "precision": digits, "scale": scale}
    unscaled = st.integers(-(10**digits) + 1, 10**digits - 1)
    values = unscaled.map(lambda number: Decimal((number < 0, tuple(map(int, str(abs(number)))), -scale)))
    if kind == "decimal":
        return {"type": "bytes", **decimal}, values
    size = ((10**digits).bit_length() + 8) // 8
    return {"type": "fixed", "name": name, "size": size, **decimal}, values


@st.composite
def types(draw: st.DrawFn, number: list[int], depth: int) -> tuple[Any, st.SearchStrategy[Any]]:
    kind = draw(st.sampled_from(["scalar", "scalar", "nullable", "union", "record", "array", "map"]))
    if depth == 0 or kind == "scalar":
        return draw(scalar_types(number))
    if kind == "record":
        return draw(records(number, depth - 1))
    if kind == "array":
        inner, values = draw(types(number, depth - 1))
        return {"type": "array", "items": inner}, st.lists(values, max_size=3)
    if kind == "map":
        inner, values = draw(types(number, depth - 1))
        return {"type": "map", "values": inner}, st.dictionaries(TEXT, values, max_size=3)
    if kind == "union":
        chosen = draw(
            st.lists(st.sampled_from(["null", "boolean", "long", "string", "bytes"]), min_size=1, unique=True)
        )
        return chosen, st.one_of([VALUES[name] for name in chosen])
    inner, values = draw(
        types(number, depth - 1).filter(lambda pair: pair[0] != "null" and not isinstance(pair[0], list))
    )
    branches = [inner, "null"] if draw(st.booleans()) else ["null", inner]
    return branches, st.one_of(st.none(), values)


@st.composite
def records(draw: st.DrawFn, number: list[int], depth: int) -> tuple[Schema, st.SearchStrategy[dict[str, Any]]]:
    number[0] += 1
    schema: Schema = {"type": "record", "name": f"R{number[0]}", "fields": []}
    values: dict[str, st.SearchStrategy[Any]] = {}
    for i in range(draw(st.integers(0 if depth < 2 else 1, 5))):
        kind, values[f"f{i}"] = draw(types(number, depth))
        schema["fields"].append({"name": f"f{i}", "type": kind})
    return schema, st.fixed_dictionaries(values)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A record schema and some records of it."""
    schema, values = draw(records([0], 2))
    return schema, draw(st.lists(values, min_size=1, max_size=4))


def at(value: Any, path: str) -> Any:
    """The value at a path, None where something on the way is missing."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def canonical(value: Any) -> bytes | None:
    """The text of a value as semantics A15 has it."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode()


def same(mine: float, reference: float) -> bool:
    return mine == reference or (math.isnan(mine) and math.isnan(reference))


def definition(schema: Schema) -> AvroSchema:
    return AvroSchema(schema)
