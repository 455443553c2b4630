"""Lists that are exploded, of Avro and of JSON: what a library makes of the same bytes, element by element."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamsample.config.slates import exploded
from streamsample.errors import ConfigurationError
from streamsample.formats.avro import AvroProjector
from streamsample.formats.avro_program import supports
from streamsample.formats.avro_schema import AvroSchema
from streamsample.formats.avro_slates import AvroSlates
from streamsample.formats.json_slates import JsonSlates
from streamsample.formats.json_values import JsonProjector
from streamsample.formats.projection import Field, ListColumn, NumberColumn, Problem, Projection
from streamsample.records import Spans
from tests.formats.avro_cases import Schema, at, canonical, encode, types

POSITION = "items_position"
Rows = list[tuple[int, int]]


@st.composite
def slates(draw: st.DrawFn) -> tuple[Schema, list[dict[str, Any]]]:
    """A record with a list somewhere in it, perhaps a nullable one, and values of it."""
    number, fields, values = [0], [], {}
    names = ["a", "b", "items", "c"][draw(st.integers(0, 2)) : draw(st.integers(3, 4))]
    for name in names:
        kind, each = draw(types(number, 2 if name == "items" else 1))
        if name == "items":
            kind, each = {"type": "array", "items": kind}, st.lists(each, max_size=4)
            if draw(st.booleans()):
                kind, each = draw(st.sampled_from([["null", kind], [kind, "null"]])), st.none() | each
        fields.append({"name": name, "type": kind})
        values[name] = each
    schema = {"type": "record", "name": "Request", "fields": fields}
    held = AvroSchema(schema)
    (array,) = [leaf for leaf in held.leaves("items") if leaf["type"] == "array"]
    assume(held.least(array["items"]))
    return schema, draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=4))


def elements(values: list[dict[str, Any]]) -> tuple[Rows, list[dict[str, Any]]]:
    """Of which value each element is and where it stands, and what the job sees of it."""
    rows = [(n, i) for n, value in enumerate(values) for i in range(len(value.get("items") or []))]
    return rows, [{**values[n], "items": values[n]["items"][i], POSITION: i} for n, i in rows]


def found(projection: Projection) -> Rows:
    """The same of a projection."""
    assert projection.slates is not None
    rows = np.flatnonzero(projection.slates.position >= 0)
    return list(zip(projection.slates.record[rows].tolist(), projection.slates.position[rows].tolist(), strict=True))


def spliced(projector: AvroSlates | JsonSlates, values: Spans, projection: Projection) -> list[bytes | None]:
    """The features of all elements that are one."""
    assert projection.slates is not None
    rows = np.flatnonzero(projection.slates.position >= 0)
    return projector.splice(values.take(projection.slates.record), projection, rows).to_list()


def texts_of(schema: AvroSchema) -> list[Field]:
    """All fields that can be texts."""
    paths = dict.fromkeys(schema.paths())
    return [Field(path, "text") for path in paths if all(supports(leaf, "text") for leaf in schema.leaves(path))]


@given(
    case=slates(), chosen=st.sampled_from([{}, {"drop": ["items"]}, {"keep": ["items", POSITION]}, {"keep": ["items"]}])
)
def test_elements_of_avro_are_what_fastavro_wrote(
    case: tuple[Schema, list[dict[str, Any]]], chosen: dict[str, list[str]]
) -> None:
    schema, values = case
    seen = AvroSchema(exploded(schema, "items", "the schema"))
    rows, wanted = elements(values)
    fields = texts_of(seen)
    projector = AvroSlates({None: schema}, fields, explode="items", elements_max=9, **chosen)
    batch = Spans.of([encode(schema, value) for value in values])
    projection = projector.project(batch)
    assert found(projection) == rows
    assert projection.slates is not None
    assert projection.slates.empty.sum() == sum(not value["items"] for value in values)
    there = projection.slates.position >= 0
    assert projection.ok.tolist() == there.tolist()
    for field in fields:
        texts = projection.text(field.path).take(np.flatnonzero(there)).to_list()
        assert texts == [canonical(at(value, field.path)) for value in wanted], field
    (written,) = projector.schemas
    kept = [entry["name"] for entry in written.features["fields"]]
    assert kept == [
        name for name in seen.names() if name in chosen.get("keep", kept) and name not in chosen.get("drop", [])
    ]
    some = [{name: value[name] for name in kept} for value in wanted]
    features = spliced(projector, batch, projection)
    assert features == [encode(dict(written.features), value) for value in some]
    bound = projection.bytes_max(batch.take(projection.slates.record), np.flatnonzero(there))
    assert all(len(each or b"") <= most for each, most in zip(features, bound.tolist(), strict=True))


ITEM = {"type": "record", "name": "Item", "fields": [{"name": "id", "type": "string"}, {"name": "p", "type": "double"}]}
LISTED = {"type": "array", "items": ITEM}
REQUEST: Schema = {
    "type": "record",
    "name": "Request",
    "fields": [
        {"name": "request", "type": "string"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "items", "type": LISTED, "default": []},
        {"name": "n", "type": "int"},
    ],
}
VALUE = {"request": "r1", "tags": ["x", "y"], "items": [{"id": f"i{n}", "p": n / 2} for n in range(3)], "n": 300}


@given(data=st.data())
def test_damaged_avro_is_bad_as_a_whole_exactly_where_the_plain_projector_says_so(data: st.DataObject) -> None:
    good = bytearray(encode(REQUEST, VALUE))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    values = Spans.of([encode(REQUEST, VALUE), bytes(good), bytes(good[:cut]), bytes(good) + b"\x00"])
    projection = AvroSlates({None: REQUEST}, [Field("items.id", "text")], explode="items", elements_max=99).project(
        values
    )
    plain = AvroProjector({None: REQUEST}, []).project(values)
    assert projection.slates is not None
    assert projection.slates.whole.problem.tolist() == plain.problem.tolist()
    rows = projection.slates.record
    assert projection.problem.tolist() == plain.problem[rows].tolist()
    assert found(projection)[:3] == [(0, 0), (0, 1), (0, 2)]


def test_a_length_from_nowhere_takes_no_memory_and_a_longer_list_than_allowed_costs_its_neighbours_nothing() -> None:
    huge = b"\x04r1\x00" + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x02a" + bytes(8)
    values = Spans.of([encode(REQUEST, VALUE), huge, encode(REQUEST, {**VALUE, "items": VALUE["items"][:2]}), None])
    fields = [Field("items.id", "text"), Field("request", "text")]
    projector = AvroSlates({None: REQUEST}, fields, explode="items", elements_max=2)
    projection = projector.project(values)
    assert found(projection) == [(2, 0), (2, 1)]
    problems = [Problem.LONG_LIST, Problem.TOO_MANY, Problem.NONE, Problem.NONE, Problem.TOMBSTONE]
    assert projection.problem.tolist() == problems
    assert projection.text("items.id").to_list()[2:4] == [b"i0", b"i1"]
    assert "limits.elements_max" in projector.explain(Problem.LONG_LIST)


def test_blocks_with_their_sizes_and_columns_of_the_value_beside_those_of_the_element() -> None:
    one = encode(ITEM, VALUE["items"][1])
    blocks = b"\x03" + bytes([2 * 2 * len(one)]) + one * 2 + b"\x02" + one + b"\x00"
    head, tail = encode(REQUEST, {**VALUE, "items": []}), b"\xd8\x04"
    value = head[: -len(tail) - 1] + blocks + tail
    fields = [Field("tags", "items"), Field("n", "integer"), Field("items.p", "number")]
    fields += [Field(POSITION, kind) for kind in ("text", "integer", "number")]
    projector = AvroSlates({None: REQUEST}, fields, explode="items", elements_max=9)
    batch = Spans.of([encode(REQUEST, {**VALUE, "items": []}), value])
    projection = projector.project(batch)
    assert found(projection) == [(1, 0), (1, 1), (1, 2)]
    tags = projection.columns[Field("tags", "items")]
    assert isinstance(tags, ListColumn)
    assert tags.items.to_list() == [b"x", b"y"] * 4
    assert tags.first.tolist() == [0, 2, 4, 6, 8]
    assert projection.integer("n").values.tolist() == [300] * 4
    assert projection.number("items.p").values.tolist() == [0.0, 0.5, 0.5, 0.5]
    assert projection.text(POSITION).to_list() == [None, b"0", b"1", b"2"]
    assert projection.integer(POSITION).valid.tolist() == [False, True, True, True]
    assert projection.number(POSITION).values.tolist() == [0.0, 0.0, 1.0, 2.0]
    wanted = [{**VALUE, "items": VALUE["items"][1], POSITION: place} for place in range(3)]
    features = dict(projector.schemas[0].features)
    assert spliced(projector, batch, projection) == [encode(features, each) for each in wanted]


@pytest.mark.parametrize("projector", ["avro", "json"])
def test_a_batch_without_records_has_no_elements(projector: str) -> None:
    made: AvroSlates | JsonSlates = JsonSlates([Field("items.id", "text")], explode="items", elements_max=9)
    if projector == "avro":
        made = AvroSlates({None: REQUEST}, [Field("items.id", "text")], explode="items", elements_max=9)
    projection = made.project(Spans.nulls(0))
    assert (len(projection), projection.text("items.id").to_list()) == (0, [])
    assert made.splice(Spans.nulls(0), projection, np.empty(0, np.int64)).to_list() == []


def test_each_frame_has_its_own_schema_of_elements() -> None:
    other = {
        "type": "record",
        "name": "Request",
        "fields": [
            {"name": "items", "type": ["null", {"type": "array", "items": {**ITEM, "fields": ITEM["fields"][::-1]}}]},
            {"name": "request", "type": "string"},
        ],
    }

    def framed(number: int, schema: Schema, value: dict[str, Any]) -> bytes:
        return struct.pack(">BI", 0, number) + encode(schema, value)

    values = [
        framed(9, other, {"items": [{"id": "a", "p": 1.0}], "request": "r9"}),
        framed(7, REQUEST, VALUE),
        framed(8, REQUEST, VALUE),
        framed(9, other, {"items": [{"id": "b", "p": 2.0}] * 2, "request": "r"}),
    ]
    projector = AvroSlates(
        {9: other, 7: REQUEST},
        [Field("items.id", "text"), Field("request", "text")],
        explode="items",
        elements_max=9,
        framing="confluent",
    )
    batch = Spans.of(values)
    projection = projector.project(batch)
    assert projection.text("items.id").to_list() == [b"a", b"i0", b"i1", b"i2", None, b"b", b"b"]
    assert projection.text("request").to_list() == [b"r9", b"r1", b"r1", b"r1", None, b"r", b"r"]
    assert projection.schema.tolist() == [1, 0, 0, 0, -1, 1, 1]
    assert projection.problem.tolist()[4] == Problem.UNKNOWN_SCHEMA
    assert [schema.id for schema in projector.schemas] == [7, 9]
    read = [
        fastavro.schemaless_reader(io.BytesIO(value or b""), dict(projector.schemas[number].features), None)
        for value, number in zip(spliced(projector, batch, projection), [1, 0, 0, 0, 1, 1], strict=True)
    ]
    assert [value["items"]["id"] for value in read] == ["a", "i0", "i1", "i2", "b", "b"]
    assert [value[POSITION] for value in read] == [0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({**REQUEST, "fields": REQUEST["fields"][:1]}, "has no field items"),
        ({**REQUEST, "fields": [{"name": "items", "type": "string"}]}, "items is string, must be an array"),
        ({**REQUEST, "fields": [{"name": "items", "type": [LISTED, "int"]}]}, "is array or int, must be an array"),
        ({**REQUEST, "fields": [*REQUEST["fields"], {"name": POSITION, "type": "int"}]}, f"has a field {POSITION}"),
        (
            {**REQUEST, "fields": [{"name": "items", "type": {"type": "array", "items": ["null", "Request"]}}]},
            "not yet: the schema holds records of its own type",
        ),
        (
            {**REQUEST, "fields": [{"name": "items", "type": {"type": "array", "items": "null"}}]},
            "the elements of items are always null",
        ),
        (
            {
                **REQUEST,
                "fields": [
                    {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}}
                ],
            },
            "the elements of items take no bytes",
        ),
    ],
)
def test_what_cannot_be_exploded_is_refused(schema: Schema, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AvroSlates({None: schema}, [], explode="items", elements_max=9)


# -- JSON ----------------------------------------------------------------------------------------------

SCALAR = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=6) | st.floats(-1e9, 1e9)
TREE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\[]{} é', max_size=3), inner, max_size=3),
)
ELEMENT = st.dictionaries(st.sampled_from(["id", "x", "y"]), TREE, max_size=3) | TREE


@st.composite
def json_slates(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.permutations(["a", "b", "items", "c"]))[: draw(st.integers(1, 4))]
    value = {name: draw(TREE) for name in names if name != "items"}
    if "items" in names:
        value["items"] = draw(st.none() | st.lists(ELEMENT, max_size=4))
    return {name: value[name] for name in names}


@given(
    values=st.lists(json_slates(), min_size=1, max_size=4),
    chosen=st.sampled_from([{}, {"drop": ["items", "a"]}, {"keep": ["items", "b"]}, {"drop": [POSITION, "b"]}]),
    spaced=st.booleans(),
)
def test_elements_of_json_are_what_the_library_wrote(
    values: list[dict[str, Any]], chosen: dict[str, list[str]], spaced: bool
) -> None:
    rows, wanted = elements(values)
    projector = JsonSlates([], explode="items", elements_max=9, **chosen)
    batch = Spans.of([json.dumps(value, indent=1 if spaced else None).encode() for value in values])
    projection = projector.project(batch)
    assert found(projection) == rows
    assert projection.slates is not None
    assert projection.slates.empty.sum() == sum(not value.get("items") for value in values)
    features = spliced(projector, batch, projection)
    kept = [
        {
            name: item
            for name, item in value.items()
            if name in chosen.get("keep", value) and name not in chosen.get("drop", [])
        }
        for value in wanted
    ]
    assert [json.loads(each or b"") for each in features] == kept
    assert all(JsonProjector([]).project(Spans.of(features)).ok)


@given(
    items=st.lists(
        st.none() | st.text(max_size=4) | st.integers(-9, 9) | st.fixed_dictionaries({"id": SCALAR}), max_size=5
    )
)
def test_columns_of_json_elements_and_one_bad_element_costs_the_others_nothing(items: list[Any]) -> None:
    fields = [Field("user", "text"), Field("items.id", "text"), Field(POSITION, "text")]
    projection = JsonSlates(fields, explode="items", elements_max=9).project(
        Spans.of([json.dumps({"user": "é\n", "items": items}, ensure_ascii=False).encode()])
    )
    alone = JsonProjector([Field("items.id", "text")]).project(
        Spans.of([json.dumps({"items": item}, ensure_ascii=False).encode() for item in items])
    )
    if items:
        assert projection.problem.tolist() == alone.problem.tolist()
        assert projection.text("items.id").to_list() == alone.text("items.id").to_list()
        assert projection.text("user").to_list() == ["é\n".encode()] * len(items)
        assert projection.text(POSITION).to_list() == [str(n).encode() for n in range(len(items))]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b'{"items": [1, 2', Problem.BAD_JSON),
        (b'{"items": [1, {"a": 1, "a": 2}]}', Problem.DUPLICATE_KEY),
        (b'{"items": [1], "items_position": null}', Problem.DUPLICATE_KEY),
        (b'{"items": {"0": 1}}', Problem.WRONG_TYPE),
        (b'{"items": [' + b"[" * 200 + b"]" * 200 + b"]}", Problem.TOO_DEEP),
        (b'{"items": [' + b"1," * 20 + b"1]}", Problem.LONG_LIST),
        (b'[{"items": [1]}]', Problem.NOT_AN_OBJECT),
        (b'{"items": ["\xff"]}', Problem.BAD_UTF8),
        (None, Problem.TOMBSTONE),
    ],
)
def test_bad_json_is_bad_as_a_whole(value: bytes | None, problem: Problem) -> None:
    values = Spans.of([b'{"items": ["a"]}', value, b'{"items": ["b", "c"]}'])
    projector = JsonSlates([Field("items", "text")], explode="items", elements_max=20)
    projection = projector.project(values)
    assert found(projection) == [(0, 0), (2, 0), (2, 1)]
    assert projection.problem.tolist() == [0, problem, 0, 0]
    assert projection.text("items").to_list() == [b"a", None, b"b", b"c"]
    assert spliced(projector, values, projection)[0] == b'{"items": "a","items_position":0}'


def test_numbers_of_json_elements() -> None:
    fields = [Field("items.p", "number"), Field("items.n", "integer"), Field("items.ok", "boolean")]
    values = Spans.of([b'{"items": [{"p": 1.5, "n": 7, "ok": true}, {"p": 1e400}, {"n": 2, "p": 3}]}'])
    projection = JsonSlates(fields, explode="items", elements_max=20).project(values)
    assert projection.problem.tolist() == [0, Problem.OUT_OF_RANGE, 0]
    assert projection.number("items.p").values.tolist() == [1.5, 0.0, 3.0]
    flags = projection.columns[Field("items.ok", "boolean")]
    assert isinstance(flags, NumberColumn)
    assert flags.valid.tolist() == [True, False, False]
