"""Lists, booleans and presence as columns, of Avro and of JSON: what a library reads from the same bytes."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsample.errors import ConfigurationError
from streamsample.formats.avro import AvroProjector
from streamsample.formats.json_values import JsonProjector
from streamsample.formats.projection import Field, ListColumn, NumberColumn, Projection
from streamsample.records import Spans

GENRE = {"type": "enum", "name": "Genre", "symbols": ["drama", "comedy", "a_rather_long_name_of_a_genre"]}
ITEMS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "string": ("string", st.text(max_size=8)),
    "nullable string": (["null", "string"], st.none() | st.text(max_size=8)),
    "long": (["long", "null"], st.none() | st.integers(-(2**63), 2**63 - 1)),
    "enum": (GENRE, st.sampled_from(GENRE["symbols"])),
    "boolean": ("boolean", st.booleans()),
    "bytes": ("bytes", st.binary(max_size=5)),
}


def canonical(items: list[Any] | None) -> list[bytes] | None:
    def of(item: Any) -> bytes:
        if isinstance(item, bytes):
            return item
        return str(item).lower().encode() if isinstance(item, bool) else str(item).encode()

    return None if items is None else [of(item) for item in items if item is not None]


def lists(projection: Projection) -> list[list[bytes | None] | None]:
    column = projection.columns[Field("tags", "items")]
    assert isinstance(column, ListColumn)
    first = column.first.tolist()
    held = column.items.to_list()
    return [held[first[row] : first[row + 1]] if ok else None for row, ok in enumerate(column.valid.tolist())]


def encoded(schema: dict[str, Any], value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def record(item: Any) -> dict[str, Any]:
    tags = ["null", {"type": "array", "items": item}]
    fields = [{"name": "before", "type": "double"}, {"name": "tags", "type": tags}, {"name": "flag", "type": "boolean"}]
    return {"type": "record", "name": "R", "fields": fields}


@pytest.mark.parametrize("name", ITEMS)
@given(data=st.data())
def test_lists_of_avro_are_what_fastavro_wrote(name: str, data: st.DataObject) -> None:
    item, values = ITEMS[name]
    schema = record(item)
    rows = data.draw(st.lists(st.none() | st.lists(values, max_size=4), max_size=4))
    made = [encoded(schema, {"before": 1.5, "tags": row, "flag": bool(row)}) for row in rows]
    projector = AvroProjector({None: schema}, [Field("tags", "items"), Field("flag", "boolean")])
    projection = projector.project(Spans.of([*made, None, b"\x00"]))
    assert projection.ok.tolist() == [True] * len(rows) + [False, False]
    assert lists(projection) == [*(canonical(row) for row in rows), None, None]
    flags = projection.columns[Field("flag", "boolean")]
    assert isinstance(flags, NumberColumn)
    assert flags.values[: len(rows)].tolist() == [bool(row) for row in rows]


def test_blocks_with_their_size_are_read() -> None:
    schema = record("string")
    # Two blocks: two items with the block's size in bytes, then one without.
    value = encoded(schema, {"before": 0.0, "tags": None, "flag": True})[:8]
    value += b"\x02" + b"\x03\x08\x02a\x02b" + b"\x02\x02c" + b"\x00" + b"\x01"
    assert lists(AvroProjector({None: schema}, [Field("tags", "items")]).project(Spans.of([value]))) == [
        [b"a", b"b", b"c"]
    ]


@pytest.mark.parametrize("item", ["double", ["string", "long"], {"type": "array", "items": "string"}, "null"])
def test_arrays_of_something_else_are_refused(item: Any) -> None:
    with pytest.raises(ConfigurationError, match="gives no items"):
        AvroProjector({None: record(item)}, [Field("tags", "items")])


JSON_ITEM = st.none() | st.text(max_size=6) | st.integers(-(10**30), 10**30) | st.booleans()


@given(
    rows=st.lists(st.none() | st.lists(JSON_ITEM, max_size=4), max_size=4), spaced=st.booleans(), ascii_=st.booleans()
)
def test_lists_of_json_are_what_the_library_wrote(rows: list[list[Any] | None], spaced: bool, ascii_: bool) -> None:
    def write(row: list[Any] | None) -> bytes:
        tree = {"a": [1, {"tags": 2}], "tags": row, "flag": bool(row)}
        return json.dumps(tree, indent=1 if spaced else None, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")

    projector = JsonProjector([Field("tags", "items"), Field("flag", "boolean"), Field("tags", "presence")])
    values = [*map(write, rows), b"{}", b'{"tags": ["a", 1.5]}', b'{"tags": [["a"]]}', b'{"tags": "a"}', b'{"flag": 1}']
    projection = projector.project(Spans.of(values))
    assert projection.ok.tolist() == [True] * (len(rows) + 1) + [False] * 4
    assert lists(projection)[: len(rows) + 1] == [*(canonical(row) for row in rows), None]
    flags = projection.columns[Field("flag", "boolean")]
    there = projection.columns[Field("tags", "presence")]
    assert isinstance(flags, NumberColumn)
    assert isinstance(there, NumberColumn)
    assert flags.values[: len(rows)].tolist() == [bool(row) for row in rows]
    assert flags.valid[: len(rows) + 1].tolist() == [True] * len(rows) + [False]
    assert there.valid[: len(rows) + 1].tolist() == [row is not None for row in rows] + [False]
