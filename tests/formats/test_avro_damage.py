"""Damaged Avro values: each costs only itself, nothing outside the value is read, and what passes is really valid."""

from __future__ import annotations

import io
import struct
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.formats.avro import AvroProjector
from streamsample.formats.projection import Field, Problem, Projection
from streamsample.records import Spans
from tests.formats.avro_cases import Schema, decode, encode

SCHEMA: Schema = {
    "type": "record",
    "name": "Impression",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "position", "type": "int"},
        {"name": "user", "type": ["null", {"type": "record", "name": "User", "fields": [
            {"name": "id", "type": "long"},
            {"name": "name", "type": ["null", "string", "long"]},
            {"name": "friend", "type": ["null", "User"]}]}]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B", "C"]}},
        {"name": "mobile", "type": "boolean"},
        {"name": "price", "type": "double"},
        {"name": "score", "type": "float"},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "scores", "type": {"type": "map", "values": {"type": "array", "items": "long"}}},
        {"name": "empty", "type": {"type": "array", "items": "null"}},
        {"name": "raw", "type": "bytes"},
    ],
}  # fmt: skip
RECORD: dict[str, Any] = {
    "id": "impression-é-1",
    "position": -300,
    "user": {"id": 1 << 50, "name": "zoë", "friend": {"id": 2, "name": 7, "friend": None}},
    "kind": "C",
    "mobile": True,
    "price": 2.5,
    "score": 0.5,
    "hash": b"\xff\x00\x01\x02",
    "tags": ["x", "yy", "日本"],
    "scores": {"a": [1, 2, 3], "b": []},
    "empty": [None, None],
    "raw": b"\xff\xfe",
}
FIELDS = [
    Field("id", "text"), Field("position", "integer"), Field("user.name", "text"), Field("user.friend.id", "text"),
    Field("kind", "text"), Field("price", "number"), Field("score", "number"), Field("hash", "text"),
    Field("raw", "text"),
]  # fmt: skip
PROJECTOR = AvroProjector({None: SCHEMA}, FIELDS, drop=["mobile", "tags"])
GOOD = encode(SCHEMA, RECORD)


def project_between(values: list[bytes]) -> Projection:
    """Project damaged values, each between two good ones; check that the good are whole and the others null."""
    batch = Spans.of([part for value in values for part in (GOOD, value)] + [GOOD])
    projection = PROJECTOR.project(batch)
    good = PROJECTOR.project(Spans.of([GOOD]))
    assert projection.ok[::2].all()
    for field, column in projection.columns.items():
        whole = good.columns[field]
        bad = np.flatnonzero(~projection.ok)
        if field.kind == "text":
            spans = projection.text(field.path)
            assert set(spans.to_list()[::2]) == {good.text(field.path)[0]}
            assert (spans.size[bad] == -1).all()
        else:
            assert (column.values[::2] == whole.values[0]).all()  # type: ignore[union-attr]
            assert not column.valid[bad].any()  # type: ignore[union-attr]
            assert not column.values[bad].any()  # type: ignore[union-attr]
    assert not projection.cuts[~projection.ok].any()
    rows = np.arange(len(batch))
    spliced = PROJECTOR.splice(batch, projection, rows)
    expected = PROJECTOR.splice(Spans.of([GOOD]), good, np.array([0]))[0]
    assert set(spliced.to_list()[::2]) == {expected}
    return projection


def problem_of(value: bytes, schema: Schema) -> Problem:
    return Problem(AvroProjector({None: schema}, []).project(Spans.of([value])).problem[0])


def one(kind: Any) -> Schema:
    return {"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]}


def varint(number: int) -> bytes:
    """A zigzag number of any size."""
    raw = number * 2 if number >= 0 else -number * 2 - 1
    out = bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def test_truncated_at_every_byte() -> None:
    projection = project_between([GOOD[:size] for size in range(len(GOOD))])
    assert not projection.ok[1::2].any()
    assert set(projection.problem[1::2]) <= {Problem.TRUNCATED, Problem.BAD_LENGTH, Problem.TOO_MANY}


def test_trailing_bytes() -> None:
    projection = project_between([GOOD + b"\0", GOOD + GOOD])
    assert projection.problem[1::2].tolist() == [Problem.TRAILING_BYTES] * 2


def test_every_single_byte_changed() -> None:
    changed = [
        GOOD[:at] + bytes([GOOD[at] ^ flip]) + GOOD[at + 1 :] for at in range(len(GOOD)) for flip in range(1, 256)
    ]
    projection = project_between(changed)
    kept = projection.ok[1::2]
    assert 0 < kept.sum() < len(changed)
    check_valid([value for value, ok in zip(changed, kept, strict=True) if ok])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=80), st.binary(max_size=20).map(lambda tail: GOOD[:60] + tail)), max_size=8)
)
def test_random_bytes(values: list[bytes]) -> None:
    projection = project_between(values)
    check_valid([value for value, ok in zip(values, projection.ok[1::2], strict=True) if ok])


def check_valid(values: list[bytes]) -> None:
    """The reference reads each whole value, and its spliced features to the last byte."""
    batch = Spans.of(values)
    projection = PROJECTOR.project(batch)
    spliced = PROJECTOR.splice(batch, projection, np.arange(len(values)))
    features = dict(PROJECTOR.schemas[0].features)
    for value, part in zip(values, spliced.to_list(), strict=True):
        decoded, size = decode(SCHEMA, value)
        assert size == len(value)
        assert part is not None
        left, left_size = decode(features, part)
        assert left_size == len(part)
        assert repr(left) == repr({name: decoded[name] for name in left})


def test_nothing_before_or_after_a_value_is_taken_for_it() -> None:
    """The same values, between bytes that would make them valid or invalid."""
    schema = one("string")
    projector = AvroProjector({None: schema}, [Field("f", "text")])
    buffer = np.frombuffer(b"\xff\xff\xff\xff" + b"\x06abc" + b"\xff\xff" + b"\x06ab" + b"c\0", np.uint8)
    values = Spans(buffer, np.array([4, 10, 4, 0, -1, 15]), np.array([4, 3, 3, 0, 2, 9], np.int32))
    projection = projector.project(values)
    assert projection.problem.tolist() == [
        Problem.NONE, Problem.BAD_LENGTH, Problem.BAD_LENGTH, Problem.TRUNCATED, Problem.TRUNCATED, Problem.TRUNCATED,
    ]  # fmt: skip
    assert projection.text("f").to_list() == [b"abc", None, None, None, None, None]


HUGE = (1 << 63) - 1
LOWEST = -(1 << 63)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("int", varint((1 << 31) - 1), Problem.NONE),
        ("int", varint(-(1 << 31)), Problem.NONE),
        ("int", varint(1 << 31), Problem.BAD_VARINT),
        ("int", varint(-(1 << 31) - 1), Problem.BAD_VARINT),
        ("int", b"\x80\x80\x80\x80\x00", Problem.NONE),
        ("int", b"\x80\x80\x80\x80\x80\x00", Problem.BAD_VARINT),
        ("long", varint(HUGE), Problem.NONE),
        ("long", varint(LOWEST), Problem.NONE),
        ("long", varint(HUGE + 1), Problem.BAD_VARINT),
        ("long", b"\xff" * 10 + b"\0", Problem.BAD_VARINT),
        ("long", b"\xff" * 9, Problem.TRUNCATED),
        ("boolean", b"\2", Problem.BAD_BOOLEAN),
        ("boolean", b"", Problem.TRUNCATED),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, varint(1), Problem.NONE),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, varint(2), Problem.BAD_ENUM),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, varint(-1), Problem.BAD_ENUM),
        (["null", "long"], varint(2), Problem.BAD_UNION_INDEX),
        (["null", "long"], varint(-1), Problem.BAD_UNION_INDEX),
        (["null", "long"], varint(LOWEST), Problem.BAD_UNION_INDEX),
        ("string", varint(HUGE) + b"x", Problem.BAD_LENGTH),
        ("string", varint(LOWEST) + b"x", Problem.BAD_LENGTH),
        ("bytes", varint(-1) + b"x", Problem.BAD_LENGTH),
        ("bytes", varint(2) + b"x", Problem.BAD_LENGTH),
        ({"type": "fixed", "name": "F", "size": 3}, b"ab", Problem.TRUNCATED),
        ("double", b"\0" * 7, Problem.TRUNCATED),
    ],
)
def test_scalars(kind: Any, value: bytes, problem: Problem) -> None:
    assert problem_of(value, one(kind)) == problem


ARRAY = {"type": "array", "items": "long"}
NULLS = {"type": "array", "items": "null"}
DOUBLES = {"type": "array", "items": "double"}
MAP = {"type": "map", "values": "null"}


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (ARRAY, varint(2) + b"\2\4" + b"\0", Problem.NONE),
        (ARRAY, varint(-2) + varint(2) + b"\2\4" + b"\0", Problem.NONE),
        (ARRAY, varint(-1) + varint(1) + b"\2" + varint(1) + b"\4" + b"\0", Problem.NONE),
        (ARRAY, varint(-2) + varint(3) + b"\2\4" + b"\0", Problem.BAD_LENGTH),
        (ARRAY, varint(-2) + varint(1) + b"\2\4" + b"\0", Problem.TOO_MANY),
        (ARRAY, varint(-1) + varint(1) + b"\x80\1" + b"\0", Problem.BAD_LENGTH),
        (ARRAY, varint(-1) + varint(-1) + b"\2" + b"\0", Problem.BAD_LENGTH),
        (ARRAY, varint(-1) + varint(HUGE) + b"\2" + b"\0", Problem.BAD_LENGTH),
        (ARRAY, varint(1 << 60) + b"\2" + b"\0", Problem.TOO_MANY),
        (ARRAY, varint(LOWEST) + varint(1) + b"\2" + b"\0", Problem.TOO_MANY),
        (ARRAY, varint(1) + b"\2", Problem.TRUNCATED),
        (DOUBLES, varint(2) + b"\0" * 15, Problem.TOO_MANY),
        (DOUBLES, varint(2) + b"\0" * 17, Problem.NONE),
        (NULLS, varint(65_536) + b"\0", Problem.NONE),
        (NULLS, varint(65_537) + b"\0", Problem.TOO_MANY),
        (NULLS, varint(65_536) + varint(1) + b"\0", Problem.TOO_MANY),
        (NULLS, varint(1 << 60) + b"\0", Problem.TOO_MANY),
        (NULLS, varint(-2) + varint(0) + b"\0", Problem.NONE),
        (NULLS, varint(-2) + varint(1) + b"\0", Problem.BAD_LENGTH),
        (NULLS, varint(LOWEST) + varint(0) + b"\0", Problem.TOO_MANY),
        (MAP, varint(1) + b"\2k" + b"\0", Problem.NONE),
        (MAP, varint(1) + b"\2\xff" + b"\0", Problem.BAD_UTF8),
        (MAP, varint(1 << 60) + b"\0" * 9, Problem.TOO_MANY),
    ],
)
def test_blocks(kind: Any, value: bytes, problem: Problem) -> None:
    assert problem_of(value, one(kind)) == problem
    if problem == Problem.NONE:
        assert decode(one(kind), value)[1] == len(value)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=24), st.text(max_size=12).map(str.encode)), st.integers(0, 20))
def test_utf8_is_what_python_takes(text: bytes, padding: int) -> None:
    text = b"a" * padding + text
    try:
        text.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    problem = problem_of(varint(len(text)) + text, one("string"))
    assert problem == (Problem.NONE if valid else Problem.BAD_UTF8)


def test_utf8_at_every_edge_of_its_ranges() -> None:
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]
    leads = [
        0x7F,
        0x80,
        0xBF,
        0xC0,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xE1,
        0xEC,
        0xED,
        0xEE,
        0xEF,
        0xF0,
        0xF1,
        0xF3,
        0xF4,
        0xF5,
        0xFF,
    ]
    texts = [bytes([lead]) for lead in leads]
    texts += [bytes([lead, a]) for lead in leads for a in edges]
    texts += [bytes([lead, a, b]) for lead in leads for a in edges for b in edges]
    texts += [bytes([lead, a, b, 0x80]) for lead in leads for a in edges for b in edges]
    projector = AvroProjector({None: one("string")}, [])
    projection = projector.project(Spans.of([varint(len(text)) + text for text in texts]))
    for text, ok in zip(texts, projection.ok, strict=True):
        assert ok == (text.decode(errors="replace").encode() == text), text


def test_deep_arrays() -> None:
    def nested(levels: int) -> Schema:
        kind: Any = "long"
        for _ in range(levels):
            kind = {"type": "array", "items": kind}
        return one(kind)

    assert problem_of(b"\2" * 65 + b"\0" * 64, nested(64)) == Problem.NONE
    assert problem_of(b"\2" * 66 + b"\0" * 65, nested(65)) == Problem.TOO_DEEP


def test_a_wrong_schema_id_costs_only_its_record() -> None:
    projector = AvroProjector({1: SCHEMA, 4_000_000_000: one("long")}, [], framing="confluent")
    ids = [1, 0, 2, 4_000_000_000, 4_294_967_295]
    body = {1: GOOD, 4_000_000_000: b"\2"}
    values = Spans.of([b"\0" + struct.pack(">I", number) + body.get(number, GOOD) for number in ids])
    unknown = Problem.UNKNOWN_SCHEMA
    projection = projector.project(values)
    assert projection.problem.tolist() == [0, unknown, unknown, 0, unknown]
    assert projection.schema.tolist() == [0, -1, -1, 1, -1]


def test_a_value_of_ten_megabytes() -> None:
    schema = {"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "string"}, {"name": "b", "type": {"type": "array", "items": "string"}},
        {"name": "c", "type": ["string", "long"]}]}  # fmt: skip
    text = "y" * 3_000_000
    row = {"a": "é" * 2_500_000, "b": ["x"] * 1_000_000, "c": text}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, row)
    projector = AvroProjector({None: schema}, [Field("c", "text")], keep=["a"])
    values = Spans.of([out.getvalue(), out.getvalue()[:-1], out.getvalue()])
    projection = projector.project(values)
    assert projection.ok.tolist() == [True, False, True]
    assert projection.text("c")[2] == text.encode()
    assert len(projector.splice(values, projection, np.array([0, 2]))[1] or b"") == 5_000_004
