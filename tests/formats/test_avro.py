"""Avro values as columns, against fastavro's values."""

from __future__ import annotations

import io
import json
import struct
from decimal import Decimal
from typing import Any, Literal

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import ConfigurationError
from streamsample.formats.avro import AvroProjector, features_schema
from streamsample.formats.avro_program import supports
from streamsample.formats.avro_schema import AvroSchema
from streamsample.formats.projection import Field, Kind, NumberColumn, Problem, Projector, TextColumn
from streamsample.records import Spans
from tests.formats.avro_cases import Case, Schema, at, canonical, cases, decode, encode, same

KINDS: tuple[Kind, ...] = ("text", "integer", "number")


def record(*fields: tuple[str, Any], name: str = "R") -> Schema:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]}


def framed(schema_id: int, data: bytes) -> bytes:
    return b"\0" + struct.pack(">I", schema_id) + data


def every_field(schema: Schema) -> list[Field]:
    """All fields of a schema, as all the kinds that suit them."""
    parsed = AvroSchema(schema)
    return [
        Field(path, kind)
        for path in parsed.paths()
        for kind in KINDS
        if all(supports(leaf, kind) for leaf in parsed.leaves(path))
    ]


def check_columns(projection: Any, fields: list[Field], expected: list[dict[str, Any]]) -> None:
    for field in fields:
        column = projection.columns[field]
        assert len(column) == len(expected)
        for row, value in enumerate(expected):
            wanted = at(value, field.path)
            if isinstance(column, TextColumn):
                assert column.spans[row] == canonical(wanted), field
                continue
            assert isinstance(column, NumberColumn)
            assert column.valid[row] == (wanted is not None), field
            mine = column.values[row]
            assert same(mine, wanted if field.kind == "integer" else float(wanted)) if wanted is not None else mine == 0


@settings(max_examples=150, deadline=None)
@given(case=cases(), data=st.data())
def test_every_field_equals_the_reference(case: Case, data: st.DataObject) -> None:
    schema, records = case
    fields = data.draw(st.permutations(every_field(schema)))
    values = [encode(schema, value) for value in records]
    expected = [decode(schema, value)[0] for value in values]
    projection = AvroProjector({None: schema}, fields).project(Spans.of(values))
    assert projection.ok.all()
    assert not projection.problem.any()
    assert not projection.schema.any()
    check_columns(projection, fields, expected)


@settings(max_examples=100, deadline=None)
@given(case=cases(), data=st.data())
def test_spliced_features_are_read_with_their_schema(case: Case, data: st.DataObject) -> None:
    schema, records = case
    names = [field["name"] for field in schema["fields"]]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    verb = data.draw(st.sampled_from(["keep", "drop"]))
    choice: dict[str, Any] = {verb: chosen}
    left = [name for name in names if (name in chosen) == (verb == "keep")]
    projector = AvroProjector({7: schema}, [], framing="confluent", **choice)
    values = Spans.of([framed(7, encode(schema, value)) for value in records])
    rows = np.array(data.draw(st.lists(st.integers(0, len(records) - 1), max_size=6)), dtype=np.int64)
    spliced = projector.splice(values, projector.project(values), rows)
    features = features_schema(schema, **choice)
    assert features == projector.schemas[0].features
    assert len(spliced) == len(rows)
    for row, part in zip(rows, spliced.to_list(), strict=True):
        assert part is not None
        value, size = decode(features, part)
        whole = decode(schema, encode(schema, records[row]))[0]
        assert size == len(part)
        assert repr(value) == repr({name: whole[name] for name in left})


def test_splicing_copies_into_one_contiguous_buffer_in_the_order_of_the_rows() -> None:
    schema = record(("a", "string"), ("ip", "string"), ("b", "long"), ("c", "string"))
    rows = [{"a": f"a{i}", "ip": "10.0.0.1", "b": i, "c": "c"} for i in range(5)]
    values = Spans.of([encode(schema, row) for row in rows])
    projector = AvroProjector({None: schema}, [], drop=["ip"])
    spliced = projector.splice(values, projector.project(values), np.array([3, 1, 3]))
    assert spliced.to_list() == [b"\x04a3\x06\x02c", b"\x04a1\x02\x02c", b"\x04a3\x06\x02c"]
    assert spliced.start.tolist() == [0, 6, 12]
    assert len(spliced.buffer) == 18


def test_splicing_everything_copies_nothing_and_takes_the_frame_off() -> None:
    schema = record(("a", "string"))
    values = Spans.of([framed(3, encode(schema, {"a": "x"})), b"junk", None])
    projector = AvroProjector({3: schema}, [], framing="confluent", keep=["a"])
    spliced = projector.splice(values, projector.project(values), np.array([0, 1, 2]))
    assert spliced.buffer is values.buffer
    assert spliced.to_list() == [b"\x02x", None, None]


def test_rows_that_are_not_ok_are_spliced_to_null() -> None:
    schema = record(("a", "string"), ("b", "long"))
    values = Spans.of([encode(schema, {"a": "x", "b": 1}), b"\x7f", None])
    projector = AvroProjector({None: schema}, [], drop=["b"])
    assert projector.splice(values, projector.project(values), np.array([2, 1, 0])).to_list() == [None, None, b"\x02x"]


def test_a_batch_of_several_schema_ids_and_what_is_wrong_with_it() -> None:
    one = record(("id", "long"), ("price", "double"), ("old", "string"))
    two = record(("extra", {"type": "array", "items": "string"}), ("id", ["null", "string"]), ("price", "float"))
    values = Spans.of([
        framed(9, encode(two, {"extra": ["a", "b"], "id": "42", "price": 0.5})),
        framed(2, encode(one, {"id": 42, "price": 0.25, "old": "x"})),
        framed(3, encode(one, {"id": 42, "price": 0.25, "old": "x"})),
        None,
        b"\0\0\0",
        b"\1" + framed(2, encode(one, {"id": 1, "price": 0.25, "old": "x"}))[1:],
        framed(9, encode(two, {"extra": [], "id": None, "price": 2.0})),
        framed(2, encode(one, {"id": -7, "price": 1.0, "old": ""})),
    ])  # fmt: skip
    fields = [Field("id", "text"), Field("price", "number")]
    projector: Projector = AvroProjector({9: two, 2: one}, fields, framing="confluent", drop=["old", "extra"])
    projection = projector.project(values)
    assert [schema.id for schema in projector.schemas] == [2, 9]
    assert projection.schema.tolist() == [1, 0, -1, -1, -1, -1, 1, 0]
    assert [Problem(problem) for problem in projection.problem] == [
        Problem.NONE, Problem.NONE, Problem.UNKNOWN_SCHEMA, Problem.TOMBSTONE,
        Problem.NOT_FRAMED, Problem.NOT_FRAMED, Problem.NONE, Problem.NONE,
    ]  # fmt: skip
    assert projection.text("id").to_list() == [b"42", b"42", None, None, None, None, None, b"-7"]
    assert projection.number("price").values.tolist() == [0.5, 0.25, 0, 0, 0, 0, 2.0, 1.0]
    spliced = projector.splice(values, projection, np.array([0, 1, 7]))
    features = [dict(projector.schemas[index].features) for index in (1, 0, 0)]
    decoded = [decode(schema, part or b"")[0] for schema, part in zip(features, spliced.to_list(), strict=True)]
    assert decoded == [{"id": "42", "price": 0.5}, {"id": 42, "price": 0.25}, {"id": -7, "price": 1.0}]


def test_dropping_a_field_that_only_one_schema_has() -> None:
    with_ip, without = record(("id", "long"), ("ip", "string")), record(("id", "long"))
    projector = AvroProjector({1: with_ip, 2: without}, [], framing="confluent", drop=["ip"])
    values = Spans.of([framed(1, encode(with_ip, {"id": 3, "ip": "x"})), framed(2, b"\x06")])
    assert projector.splice(values, projector.project(values), np.array([0, 1])).to_list() == [b"\x06", b"\x06"]


def test_a15_text_is_canonical() -> None:
    schema = record(
        ("mixed", ["null", "string", "long", "boolean", {"type": "enum", "name": "E", "symbols": ["RED", "GREEN"]}]),
        ("flag", "boolean"), ("colour", "E"), ("raw", {"type": "fixed", "name": "F", "size": 2}),
    )  # fmt: skip
    mixed: list[Any] = [None, "x" * 300, "", -(1 << 63), (1 << 63) - 1, 0, True, ("E", "GREEN"), "42", 42]
    rows = [{"mixed": value, "flag": bool(i % 2), "colour": "RED", "raw": b"\xff\0"} for i, value in enumerate(mixed)]
    fields = [Field(path, "text") for path in ("mixed", "flag", "colour", "raw")]
    projection = AvroProjector({None: schema}, fields).project(Spans.of([encode(schema, row) for row in rows]))
    assert projection.text("mixed").to_list() == [
        None, b"x" * 300, b"", b"-9223372036854775808", b"9223372036854775807", b"0", b"true", b"GREEN", b"42", b"42",
    ]  # fmt: skip
    assert projection.text("flag").to_list() == [b"false", b"true"] * 5
    assert projection.text("colour").to_list() == [b"RED"] * 10
    assert projection.text("raw").to_list() == [b"\xff\0"] * 10


def test_recursive_schemas_are_walked_and_projected_to_a_finite_path() -> None:
    schema = record(("value", "long"), ("next", ["null", "R"]), ("children", {"type": "array", "items": "R"}))
    leaf: dict[str, Any] = {"value": 9, "next": None, "children": []}
    rows: list[dict[str, Any]] = [
        {"value": 1, "next": {"value": 2, "next": {**leaf, "value": 3}, "children": [leaf, leaf]}, "children": [leaf]},
        {"value": 4, "next": None, "children": [{**leaf, "next": leaf}]},
    ]
    fields = [Field(path, "integer") for path in ("value", "next.value", "next.next.value", "next.next.next.value")]
    projection = AvroProjector({None: schema}, fields).project(Spans.of([encode(schema, row) for row in rows]))
    assert projection.ok.all()
    check_columns(projection, fields, rows)


@pytest.mark.parametrize(("levels", "problem"), [(64, Problem.NONE), (65, Problem.TOO_DEEP), (5000, Problem.TOO_DEEP)])
def test_nesting_is_limited(levels: int, problem: Problem) -> None:
    schema = record(("next", ["null", "R"]))
    projection = AvroProjector({None: schema}, []).project(Spans.of([b"\x02" * levels + b"\0", b"\0"]))
    assert projection.problem.tolist() == [problem, 0]


def test_a_path_through_a_union_of_records_takes_the_branch_that_has_it() -> None:
    web = record(("agent", "string"), ("user", "long"), name="Web")
    app = record(("version", "int"), ("user", ["null", "string"]), name="App")
    schema = record(("client", ["null", web, "string", app]), ("z", "long"))
    clients: list[Any] = [("Web", {"agent": "a", "user": 5}), ("App", {"version": 2, "user": "u"}), "bot", None]
    rows = [{"client": client, "z": i} for i, client in enumerate(clients)]
    fields = [Field("client.user", "text"), Field("client.version", "number"), Field("z", "integer")]
    projection = AvroProjector({None: schema}, fields).project(Spans.of([encode(schema, row) for row in rows]))
    assert projection.text("client.user").to_list() == [b"5", b"u", None, None]
    assert projection.number("client.version").valid.tolist() == [False, True, False, False]
    assert projection.integer("z").values.tolist() == [0, 1, 2, 3]


def test_a_shared_record_is_a_routine_for_all_its_uses() -> None:
    point = record(("x", "double"), ("tag", ["null", "string"]), name="P")
    schema = record(
        ("a", point), ("b", "P"), ("c", {"type": "map", "values": "P"}), ("d", ["null", "P"]), ("z", "long")
    )
    p = {"x": 1.5, "tag": "t"}
    row = {"a": p, "b": {"x": 2.5, "tag": None}, "c": {"k": p, "l": p}, "d": p, "z": 77}
    fields = [Field("b.x", "number"), Field("d.tag", "text"), Field("z", "integer")]
    projection = AvroProjector({None: schema}, fields).project(Spans.of([encode(schema, row)]))
    check_columns(projection, fields, [row])


def test_decimals_of_any_size_are_the_nearest_float() -> None:
    schema = record(("d", {"type": "bytes", "logicalType": "decimal", "precision": 900, "scale": 3}))
    numbers = [Decimal(text) for text in ("0", "-0.001", "1234567.891", "-9007199254740.993", "9007199254740993.001")]
    numbers += [Decimal(10) ** 400, -(Decimal(10) ** 400), Decimal(2) ** 200]
    data = []
    for number in numbers:
        unscaled = int(number.scaleb(3, None).to_integral_value()) if abs(number) < 10**20 else int(number) * 1000
        raw = unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True)
        out = io.BytesIO()
        fastavro.schemaless_writer(out, record(("d", "bytes")), {"d": raw})
        data.append(out.getvalue())
    column = AvroProjector({None: schema}, [Field("d", "number")]).project(Spans.of(data)).number("d")
    assert column.valid.all()
    assert column.values.tolist() == [
        0.0, -0.001, 1234567.891, -9007199254740.993, 9007199254740993.001, float("inf"), float("-inf"), 2.0**200,
    ]  # fmt: skip


def test_an_empty_batch() -> None:
    schema = record(("a", "string"), ("b", "double"), ("c", "long"))
    fields = [Field("a", "text"), Field("b", "number"), Field("c", "integer"), Field("c", "text")]
    projector = AvroProjector({None: schema}, fields, drop=["b"])
    projection = projector.project(Spans.of([]))
    assert len(projection) == 0
    assert all(len(column) == 0 for column in projection.columns.values())
    assert len(projector.splice(Spans.of([]), projection, np.empty(0, np.int64))) == 0


def test_a_batch_of_tombstones_only() -> None:
    schema = record(("a", "string"), ("b", "long"))
    projector = AvroProjector({None: schema}, [Field("a", "text"), Field("b", "text")], drop=["b"])
    projection = projector.project(Spans.nulls(3))
    assert projection.problem.tolist() == [Problem.TOMBSTONE] * 3
    assert projection.text("a").to_list() == projection.text("b").to_list() == [None] * 3
    assert projector.splice(Spans.nulls(3), projection, np.array([0, 2])).to_list() == [None, None]


def test_every_problem_has_words() -> None:
    projector = AvroProjector({None: record(("a", "string"))}, [])
    words = [projector.explain(problem) for problem in Problem]
    assert len(set(words)) == len(words)
    assert all(words)


def test_logical_types_are_told_so_that_units_can_be_checked() -> None:
    millis, micros = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros"))
    one = record(("at", millis), ("maybe", ["null", micros]), ("plain", "long"))
    two = record(("at", micros), ("maybe", ["null", micros]), ("plain", "long"))
    projector = AvroProjector({1: one, 2: two}, [], framing="confluent")
    assert projector.logical_type("maybe") == "timestamp-micros"
    assert projector.logical_type("plain") is None
    with pytest.raises(ConfigurationError, match=r"'at'.*schema id 1: timestamp-millis; schema id 2: timestamp-micros"):
        projector.logical_type("at")


NESTED = record(
    ("impression_id", "string"), ("user", ["null", record(("id", "long"), ("score", "double"), name="User")]),
    ("tags", {"type": "array", "items": "string"}),
    ("cost", {"type": "bytes", "logicalType": "decimal", "precision": 4}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (
            Field("impresion_id", "text"),
            ["schema id 5", "'impresion_id'", "did you mean 'impression_id'", "user.score"],
        ),
        (Field("user.idd", "text"), ["schema id 5", "'user.idd'", "did you mean 'user.id'"]),
        (Field("tags.x", "text"), ["schema id 5", "'tags' is of type array", "records only"]),
        (Field("impression_id.x", "text"), ["'impression_id' is of type string"]),
        (Field("", "text"), ["no field ''"]),
        (Field("user.score", "text"), ["schema id 5", "'user.score' is of type double", "gives no text"]),
        (Field("user.score", "integer"), ["gives no integer"]),
        (Field("impression_id", "number"), ["'impression_id' is of type string", "gives no number"]),
        (Field("user", "text"), ["'user' is of type record"]),
        (Field("cost", "text"), ["'cost' is of type bytes (decimal)", "gives no text"]),
    ],
)
def test_a_field_that_cannot_be_is_refused(field: Field, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        AvroProjector({5: NESTED}, [field], framing="confluent")
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("schemas", "framing", "choice", "words"),
    [
        ({None: NESTED}, "none", {"drop": ["tag"]}, "features.drop names 'tag'.*did you mean 'tags'"),
        ({None: NESTED}, "none", {"keep": ["user.id"]}, "features.keep names 'user.id'"),
        ({None: NESTED}, "none", {"keep": ["tags"], "drop": ["user"]}, "both keep and drop"),
        ({1: NESTED}, "none", {}, "exactly one schema without an id"),
        ({None: NESTED}, "confluent", {}, "need schemas with ids"),
        ({}, "confluent", {}, "need schemas with ids"),
        ({-1: NESTED}, "confluent", {}, "need schemas with ids"),
        ({1: "{"}, "confluent", {}, "schema id 1: is not a valid Avro schema"),
        ({1: record(("a", "Nope"))}, "confluent", {}, "schema id 1: is not a valid Avro schema: UnknownType: Nope"),
        ({1: record(("a", "int"), ("a", "int"))}, "confluent", {}, "'a' twice"),
        ({1: record(("a", {"type": "fixed", "name": "F", "size": -4}))}, "confluent", {}, "the size -4"),
        ({1: record(("a", ["int", ["null", "long"]]))}, "confluent", {}, "union directly inside a union"),
        ({1: record(("a", []))}, "confluent", {}, "union without branches"),
        ({1: '"string"'}, "confluent", {}, "is of type string - values must be Avro records"),
        ({1: {"type": "array", "items": "int"}}, "confluent", {}, "is of type array"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    schemas: dict[int | None, Any], framing: Literal["confluent", "none"], choice: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AvroProjector(schemas, [], framing=framing, keep=choice.get("keep"), drop=choice.get("drop"))


def test_schemas_can_be_json_text() -> None:
    projection = AvroProjector({None: json.dumps(NESTED)}, [Field("user.id", "text")]).project(
        Spans.of(
            [encode(NESTED, {"impression_id": "i", "user": {"id": 5, "score": 1}, "tags": [], "cost": Decimal(5)})]
        )
    )
    assert projection.text("user.id").to_list() == [b"5"]
