"""JSON values as columns, against Python's own parser and the plain definition of what a value must be."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import ConfigurationError
from streamsample.formats.json_kernel import DEPTH_MAX, KEYS_MAX
from streamsample.formats.json_values import JsonProjector
from streamsample.formats.projection import Field, Kind, Problem, Projection, Projector
from streamsample.records import Spans

KINDS: tuple[Kind, ...] = ("text", "integer", "number")
PATHS = ("a", "b", "a.b", "a.b.c", "é")
FIELDS = [Field(path, kind) for path in PATHS for kind in KINDS]


class Float(float):
    """A number with a point or an exponent."""


class Duplicate(Exception):
    """A key that is there twice."""


def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in items}) < len(items):
        raise Duplicate
    for key, _ in items:
        key.encode()
    return dict(items)


def no_constant(name: str) -> Any:
    raise ValueError(name)


def strings_are_utf8(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list | dict):
        for each in value if isinstance(value, list) else value.values():
            strings_are_utf8(each)


def parse(value: bytes) -> tuple[Problem, Any]:
    """What Python's own parser says."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Problem.BAD_UTF8, None
    if text.lstrip(" \t\r\n") and not text.lstrip(" \t\r\n").startswith("{"):
        return Problem.NOT_AN_OBJECT, None
    try:
        parsed = json.loads(text, object_pairs_hook=pairs, parse_constant=no_constant, parse_float=Float)
        strings_are_utf8(parsed)
    except Duplicate:
        return Problem.DUPLICATE_KEY, None
    except json.JSONDecodeError as error:
        return (Problem.TRAILING_BYTES if error.msg == "Extra data" else Problem.BAD_JSON), None
    except ValueError:
        return Problem.BAD_JSON, None
    return Problem.NONE, parsed


def look_up(parsed: Any, field: Field) -> tuple[Problem, Any]:
    """The field's value in a parsed value, written as plainly as its definition."""
    for name in field.path.split("."):
        if parsed is None:
            return Problem.NONE, None
        if not isinstance(parsed, dict):
            return Problem.WRONG_TYPE, None
        parsed = parsed.get(name)
    if parsed is None:
        return Problem.NONE, None
    whole = isinstance(parsed, int) and not isinstance(parsed, bool)
    if field.kind == "text":
        if isinstance(parsed, bool):
            return Problem.NONE, b"true" if parsed else b"false"
        if whole:
            return Problem.NONE, str(parsed).encode()
        return (Problem.NONE, parsed.encode()) if isinstance(parsed, str) else (Problem.WRONG_TYPE, None)
    if field.kind == "integer":
        if not whole:
            return Problem.WRONG_TYPE, None
        return (Problem.NONE, parsed) if -(2**63) <= parsed < 2**63 else (Problem.OUT_OF_RANGE, None)
    if not whole and not isinstance(parsed, Float):
        return Problem.WRONG_TYPE, None
    try:
        number = float(parsed)
    except OverflowError:
        return Problem.OUT_OF_RANGE, None
    # "-0" is the integer 0 to Python, but a float64 has the sign; compared by value below.
    return (Problem.NONE, number) if math.isfinite(number) else (Problem.OUT_OF_RANGE, None)


def at(projection: Projection, field: Field, row: int) -> Any:
    if field.kind == "text":
        return projection.text(field.path)[row]
    column = projection.integer(field.path) if field.kind == "integer" else projection.number(field.path)
    if not column.valid[row]:
        assert column.values[row] == 0
        return None
    return column.values[row].item()


def project(
    *values: bytes | None, fields: list[Field] | None = None, **chosen: Any
) -> tuple[JsonProjector, Spans, Projection]:
    """The projection of values that lie among other bytes."""
    packed = Spans.of([b'{"', *values, b'"}'])
    spans = packed.take(np.arange(1, len(values) + 1))
    projector = JsonProjector(fields if fields is not None else FIELDS, **chosen)
    return projector, spans, projector.project(spans)


def problems(*values: bytes | None, fields: list[Field] | None = None) -> list[str]:
    _, _, projection = project(*values, fields=fields)
    assert (projection.ok == (projection.problem == 0)).all()
    return [Problem(code).name for code in projection.problem.tolist()]


SPACE = st.sampled_from(["", "", "", " ", "\n\t", "\r "])
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "0", "-0.0", "12.0", "1e3", "1e400", "9223372036854775807", "9223372036854775808"]),
    st.sampled_from(["-9223372036854775808", "-9223372036854775809", "9007199254740993", "1e-400", "0.1e23", "1e23"]),
)
STRINGS = st.one_of(st.text(max_size=12), st.sampled_from(["a", "b", "c", "é", "\u0000", "😀", '"', "\\", "x" * 30]))


@st.composite
def spelled(draw: st.DrawFn, strings: st.SearchStrategy[str] = STRINGS) -> str:
    """A string in one of its spellings."""
    text = draw(strings)
    return draw(st.sampled_from([json.dumps(text), json.dumps(text, ensure_ascii=False), escaped(text)]))


def escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


KEYS = spelled(st.sampled_from(["a", "b", "c", "é", "a.b", "d", "", "aa"]))


def members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(SPACE, KEYS, SPACE, SPACE, values, SPACE).map(lambda p: f"{p[0]}{p[1]}{p[2]}:{p[3]}{p[4]}{p[5]}")
    return st.lists(member, max_size=5).map(lambda all_: "{" + ",".join(all_) + "}")


VALUES: st.SearchStrategy[str] = st.recursive(
    st.one_of(NUMBERS, spelled(), st.sampled_from(["null", "true", "false"])),
    lambda inner: st.one_of(members(inner), st.lists(inner, max_size=4).map(lambda all_: "[" + " ,".join(all_) + "]")),
    max_leaves=12,
)
OBJECTS = st.tuples(SPACE, members(VALUES), SPACE).map("".join).map(str.encode)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An object with a few bytes changed, taken or added."""
    value = bytearray(draw(OBJECTS))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(value)))
        piece = draw(
            st.one_of(
                st.binary(max_size=2),
                st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"0", b"-", b"."]),
            )
        )
        value[place : place + draw(st.integers(0, 2))] = piece
    return bytes(value)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(OBJECTS, damaged(), st.binary(max_size=8)), max_size=5))
def test_columns_are_what_the_definition_says(values: list[bytes]) -> None:
    _, _, projection = project(*values)
    for row, value in enumerate(values):
        problem, parsed = parse(value)
        if problem is not Problem.NONE:
            # One flaw hides another: which of several is told is not promised.
            assert projection.problem[row] != 0, value
            continue
        expected = {field: look_up(parsed, field) for field in FIELDS}
        wrong = {found for found, _ in expected.values()} - {Problem.NONE}
        assert (projection.problem[row] in wrong) if wrong else projection.ok[row], value
        for field, (_, cell) in expected.items():
            assert at(projection, field, row) == (None if wrong else cell), (value, field)


@settings(max_examples=100, deadline=None)
@given(damaged(), st.sampled_from([Field("a", "text"), Field("b", "integer"), Field("a.b", "number")]))
def test_one_field_does_not_depend_on_the_others(value: bytes, field: Field) -> None:
    _, _, projection = project(value, fields=[field])
    problem, parsed = parse(value)
    found, cell = look_up(parsed, field) if problem is Problem.NONE else (problem, None)
    assert bool(projection.ok[0]) == (found is Problem.NONE)
    assert at(projection, field, 0) == cell


@settings(max_examples=100, deadline=None)
@given(
    st.lists(damaged(), max_size=4),
    st.lists(st.sampled_from(["a", "b", "c", "é", "a.b", "d", ""]), max_size=4),
    st.booleans(),
)
def test_splicing_keeps_what_it_should_and_nothing_else(values: list[bytes], names: list[str], keep: bool) -> None:
    projector, spans, projection = project(*values, fields=[], **{"keep" if keep else "drop": names})
    rows = np.array([row for row in range(len(values)) for _ in range(2)][::-1], np.int64)
    spliced = projector.splice(spans, projection, rows)
    for place, row in enumerate(rows.tolist()):
        problem, parsed = parse(values[row])
        piece = spliced[place]
        if problem is not Problem.NONE:
            assert piece is None
            continue
        assert piece is not None
        expected = {name: value for name, value in parsed.items() if (name in names) == keep}
        assert repr(json.loads(piece, parse_float=Float)) == repr(expected)


def test_splicing_copies_values_byte_for_byte() -> None:
    value = b' { "a" : 1.50 , "b":[1E2 ],"c":"\\u00fc" , "d":-0}\n'
    projector, spans, projection = project(value, fields=[])
    assert projector.splice(spans, projection, np.array([0])).to_list() == [value]
    assert projector.splice(spans, projection, np.array([0])).buffer is spans.buffer
    cases: list[tuple[dict[str, list[str]], bytes]] = [
        ({"keep": ["d", "a"]}, b'{"a" : 1.50,"d":-0}'),
        ({"keep": ["b", "a"]}, b'{"a" : 1.50 , "b":[1E2 ]}'),
        ({"keep": []}, b"{}"),
        ({"keep": ["no"]}, b"{}"),
        ({"drop": ["a"]}, b'{"b":[1E2 ],"c":"\\u00fc" , "d":-0}'),
        ({"drop": ["b", "d"]}, b'{"a" : 1.50,"c":"\\u00fc"}'),
        ({"drop": []}, value),
    ]
    for chosen, expected in cases:
        projector, spans, projection = project(value, fields=[], **chosen)
        assert projector.splice(spans, projection, np.array([0])).to_list() == [expected]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", Problem.BAD_JSON),
        (b"  ", Problem.BAD_JSON),
        (b"[]", Problem.NOT_AN_OBJECT),
        (b'"a"', Problem.NOT_AN_OBJECT),
        (b"\xef\xbb\xbf{}", Problem.NOT_AN_OBJECT),
        (b"{", Problem.BAD_JSON),
        (b'{"a"', Problem.BAD_JSON),
        (b'{"a":', Problem.BAD_JSON),
        (b'{"a":1', Problem.BAD_JSON),
        (b'{"a":1,', Problem.BAD_JSON),
        (b'{"a":1,}', Problem.BAD_JSON),
        (b'{"a":[1,]}', Problem.BAD_JSON),
        (b'{"a":[1}', Problem.BAD_JSON),
        (b'{"a" 1}', Problem.BAD_JSON),
        (b"{a:1}", Problem.BAD_JSON),
        (b"{}{}", Problem.TRAILING_BYTES),
        (b"{}\x00", Problem.TRAILING_BYTES),
        (b'{"x":NaN}', Problem.BAD_JSON),
        (b'{"x":Infinity}', Problem.BAD_JSON),
        (b'{"x":-Infinity}', Problem.BAD_JSON),
        (b'{"x":01}', Problem.BAD_JSON),
        (b'{"x":1.}', Problem.BAD_JSON),
        (b'{"x":.5}', Problem.BAD_JSON),
        (b'{"x":+1}', Problem.BAD_JSON),
        (b'{"x":1e}', Problem.BAD_JSON),
        (b'{"x":-}', Problem.BAD_JSON),
        (b'{"x":tru}', Problem.BAD_JSON),
        (b'{"x":nul', Problem.BAD_JSON),
        (b'{"x":"\\x"}', Problem.BAD_JSON),
        (b'{"x":"\\u12"}', Problem.BAD_JSON),
        (b'{"x":"\\ud800"}', Problem.BAD_JSON),
        (b'{"x":"\\udc00\\ud800"}', Problem.BAD_JSON),
        (b'{"x":"\n"}', Problem.BAD_JSON),
        (b'{"x":"1234567\x1f9"}', Problem.BAD_JSON),
        (b'{"x":"\xff"}', Problem.BAD_UTF8),
        (b'{"x":"\xed\xa0\x80"}', Problem.BAD_UTF8),
        (b'{"x":"\xc0\x80"}', Problem.BAD_UTF8),
        (b'{"\xff":1}', Problem.BAD_UTF8),
        (b'{"a":1,"a":1}', Problem.DUPLICATE_KEY),
        (b'{"a":1,"\\u0061":1}', Problem.DUPLICATE_KEY),
        (b'{"\\u0061":1,"a":1}', Problem.DUPLICATE_KEY),
        (b'{"x":[{"y":1,"z":{},"y":2}]}', Problem.DUPLICATE_KEY),
        (b'{"a":{"b":"1"}}', Problem.WRONG_TYPE),
        (b'{"a":12.0}', Problem.WRONG_TYPE),
        (b'{"a":[1]}', Problem.WRONG_TYPE),
        (b'{"a":true}', Problem.WRONG_TYPE),
        (b'{"b":9223372036854775808}', Problem.OUT_OF_RANGE),
        (None, Problem.TOMBSTONE),
    ],
)
def test_what_is_wrong_is_told_and_costs_no_neighbour(value: bytes | None, problem: Problem) -> None:
    good = b'{"b":7}'
    fields = [Field("a", "integer"), Field("b", "integer")]
    projector, _, projection = project(good, value, good, fields=fields)
    assert projection.problem.tolist() == [0, problem, 0]
    assert projection.ok.tolist() == [True, False, True]
    assert projection.integer("b").values.tolist() == [7, 0, 7]
    assert projector.explain(problem)


def test_numbers_out_of_a_columns_reach() -> None:
    assert (
        problems(b'{"a":1e400}', b'{"a":-1e999999999999}', b'{"a":' + b"9" * 400 + b"}", fields=[Field("a", "number")])
        == ["OUT_OF_RANGE"] * 3
    )
    assert problems(b'{"x":1e400}', b'{"x":' + b"9" * 5000 + b"}") == ["NONE"] * 2
    _, _, projection = project(b'{"a":' + b"9" * 400 + b"}", b'{"a":-0}', b'{"a":-12}', fields=[Field("a", "text")])
    assert projection.text("a").to_list() == [b"9" * 400, b"0", b"-12"]
    values = [
        b"1e-400",
        b"-0.0",
        b"-0",
        b"0.1",
        b"123456789012345678901234567890",
        b"0." + b"0" * 30 + b"1",
        b"4.35",
        b"1E+2",
    ]
    _, _, projection = project(*(b'{"a":' + value + b"}" for value in values), fields=[Field("a", "number")])
    assert list(map(repr, projection.number("a").values.tolist())) == [repr(float(value)) for value in values]


def test_every_float_is_read_to_the_last_bit() -> None:
    draw = random.Random(5)
    bits = np.array([draw.getrandbits(64) for _ in range(20_000)], np.uint64).view(np.float64)
    values = [
        *bits[np.isfinite(bits)].tolist(),
        *(round(draw.uniform(0, 1e6), draw.randrange(8)) for _ in range(20_000)),
    ]
    _, _, projection = project(*(b'{"a":%s}' % repr(value).encode() for value in values), fields=[Field("a", "number")])
    assert projection.number("a").values.tolist() == values


def test_nesting_is_bounded() -> None:
    def nested(depth: int, begin: bytes, end: bytes) -> bytes:
        return b'{"x":' + begin * (depth - 1) + b"1" * (begin == b'{"x":') + end * (depth - 1) + b"}"

    for begin, end in ((b"[", b"]"), (b'{"x":', b"}")):
        at_most, beyond = nested(DEPTH_MAX, begin, end), nested(DEPTH_MAX + 1, begin, end)
        assert problems(at_most, beyond, nested(1_000_000, begin, end)) == ["NONE", "TOO_DEEP", "TOO_DEEP"]
    assert problems(b'{"x":' + b"[" * 5_000_000) == ["TOO_DEEP"]


@pytest.mark.parametrize("count", [KEYS_MAX - 1, KEYS_MAX, KEYS_MAX + 1, 3 * KEYS_MAX])
def test_duplicates_are_found_among_many_keys(count: int) -> None:
    keys = [b'"k%d":0' % number for number in range(count)]
    once, twice = b"{" + b",".join(keys) + b"}", b"{" + b",".join([*keys, keys[-1]]) + b"}"
    inner = b'{"x":[' + twice + b"]}"
    first = b"{" + b",".join([*keys, keys[0]]) + b"}"
    escaped_key = b"{" + b",".join([*keys, b'"\\u006b1":0']) + b"}"
    assert problems(once, twice, inner, first, escaped_key) == ["NONE"] + ["DUPLICATE_KEY"] * 4
    projector, spans, projection = project(twice, once, fields=[], keep=["k0", f"k{count - 1}"])
    assert projector.splice(spans, projection, np.arange(2)).to_list() == [None, b'{"k0":0,"k%d":0}' % (count - 1)]


def test_ten_megabytes_are_no_problem() -> None:
    text = b"x" * 10_000_000
    wide = b"{" + b",".join(b'"%d":0' % number for number in range(700_000)) + b"}"
    escapes = b'{"a":"' + b"\\u00e9" * 1_700_000 + b'"}'
    values = [b'{"a":"' + text + b'"}', wide, escapes, b'{"a":"' + text, b'{"a":"y"}']
    _, _, projection = project(*values, fields=[Field("a", "text")])
    assert [Problem(code).name for code in projection.problem.tolist()] == ["NONE", "NONE", "NONE", "BAD_JSON", "NONE"]
    column = projection.text("a")
    assert [column[row] for row in (0, 1, 4)] == [text, None, b"y"]
    assert column[2] == "é".encode() * 1_700_000


def test_random_bytes_never_do_harm() -> None:
    draw = random.Random(11)
    alphabet = b'{}[]:,"\\u0019ae-+. \n\xc3\xa9\xff'
    values: list[bytes | None] = [bytes(draw.choices(alphabet, k=draw.randrange(40))) for _ in range(20_000)]
    values += [b'{"a":' + draw.randbytes(draw.randrange(20)) + b"}" for _ in range(20_000)]
    _, _, projection = project(*values)
    for row, value in enumerate(values):
        assert value is not None
        problem, _ = parse(value)
        assert problem is Problem.NONE or not projection.ok[row], value


def test_a_batch_may_be_empty_and_spans_may_repeat() -> None:
    projector = JsonProjector(FIELDS, keep=["a"])
    empty = projector.project(Spans.nulls(0))
    assert len(empty) == 0
    assert len(projector.splice(Spans.nulls(0), empty, np.empty(0, np.int64))) == 0
    one = Spans.of([b'{"b":"\\n","c":1}', b'{"b":"x"}'])
    repeated = one.take(np.array([1, 0, 0, 1]))
    projection = JsonProjector([Field("b", "text")]).project(repeated)
    assert projection.text("b").to_list() == [b"x", b"\n", b"\n", b"x"]


def test_keys_with_dots_are_levels() -> None:
    _, _, projection = project(b'{"a.b":1}', b'{"a":{"b":2}}', fields=[Field("a.b", "integer")])
    assert projection.integer("a.b").valid.tolist() == [False, True]
    projector, spans, projection = project(b'{"a.b":1,"a":2}', fields=[], drop=["a.b"])
    assert projector.splice(spans, projection, np.array([0])).to_list() == [b'{"a":2}']


def test_what_no_projector_can_do_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="both keep and drop"):
        JsonProjector([], keep=["a"], drop=["b"])
    for path in ("", "a..b", ".a", "a."):
        with pytest.raises(ConfigurationError, match="empty part"):
            JsonProjector([Field(path, "text")])


def test_it_is_a_projector_with_one_schema() -> None:
    projector: Projector = JsonProjector([])
    (schema,) = projector.schemas
    assert schema.id is None
    assert projector.project(Spans.of([b"{}"])).schema.tolist() == [0]
