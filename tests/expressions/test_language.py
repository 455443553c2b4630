"""What expressions are taken, what they are taken for, and what is said of those that are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamsample.config.avro_fields import AvroFields
from streamsample.config.problems import Wrong
from streamsample.expressions import Column, ExpressionError, Failure, FieldError, Type, check
from streamsample.expressions.compiled import Compiled
from streamsample.records import Spans

ANY: list[Type] = ["bool", "int", "double", "string"]


class Json:
    def type_of(self, path: str) -> Type | None:
        return None


class Avro:
    """Fields of an Avro record."""

    SCHEMA = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "n", "type": "int"},
            {"name": "price", "type": ["null", "float", "long"]},
            {"name": "cost", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["a", "b"]}},
            {
                "name": "device",
                "type": ["null", {"type": "record", "name": "D", "fields": [{"name": "on", "type": "boolean"}]}],
            },
        ],
    }

    def __init__(self) -> None:
        self._fields = AvroFields(self.SCHEMA, "r.avsc")

    def type_of(self, path: str) -> Type | None:
        try:
            return self._fields.type_of(path)
        except Wrong as wrong:
            raise FieldError(wrong.what, wrong.remedy) from None


def test_types_of_avro_are_those_of_the_schema() -> None:
    checked = check("n > 1 && price * cost > 2.0 && kind == 'a' && device.on && has(device.on)", Avro(), ["bool"])
    assert checked.fields == {"n": "int", "price": "double", "cost": "double", "kind": "string", "device.on": "bool"}


@pytest.mark.parametrize(
    ("text", "wanted", "types"),
    [
        ("amount > 10.0", ["bool"], {"amount": "double"}),
        ("a < b && b < 1.0", ["bool"], {"a": "double", "b": "double"}),
        ("a + b == 'x'", ["bool"], {"a": "string", "b": "string"}),
        ("double(a) / double(b)", ["double"], {"a": "double", "b": "double"}),
        ("flag ? a : 'x'", ["string"], {"flag": "bool", "a": "string"}),
        ("user.name in ['a', b]", ["bool"], {"user.name": "string", "b": "string"}),
        ("a.startsWith(b) || size(c) > 3", ["bool"], {"a": "string", "b": "string", "c": "string"}),
        ("has(a) && b == null && !c", ["bool"], {"a": "any", "b": "any", "c": "bool"}),
        ("has(a) && a > 1.0", ["bool"], {"a": "double"}),
        ("country", ["string"], {"country": "string"}),
        ("int(n) % 7", ["int"], {"n": "double"}),
    ],
)
def test_types_of_json_are_what_the_use_implies(text: str, wanted: list[Type], types: dict[str, Type]) -> None:
    assert check(text, Json(), wanted).fields == types


@pytest.mark.parametrize(
    ("text", "what", "remedy", "at"),
    [
        ("n > tags", "r.avsc: tags is array", "numbers, texts and booleans", 4),
        ("nn > 1", "r.avsc has no field nn", "", 0),
        ("1 < device.off", "r.avsc has no field device.off", "", 4),
        ("device > 1", "r.avsc: device is record", "", 0),
        ("price > 1", "> cannot be applied to (double, int)", "2.0", 6),
        ("kind + n == ''", "+ cannot be applied to (string, int)", "string(...)", 5),
        ("n", "gives int, must give bool", "", 0),
        ("n >\n  'x'", "> cannot be applied to (int, string)", "convert one", 2),
        ("true &&\n  has(price) && (kind)", "&& cannot be applied to (bool, string)", "", 21),
        ("n ? 1 : 2", "? : cannot be applied to (int, int, int)", "", 2),
        ("kind.matches('[')", "", "", 0),
        ("n == 9223372036854775808", "invalid int literal", "", 5),
        ("[n].all(x, x > 1)", "not yet: macros", "", 7),
        ("{'a': 1}.a > 1", "not yet", "", 0),
        ("timestamp(n) > timestamp(1) ? true : type(n) == int", "r.avsc has no field int", "", 48),
        ("size(kind) > 1 && (has(`n-n`) || n > kind)", "r.avsc has no field n-n", "", 23),
        ("has(n) && type > 1", "r.avsc has no field type", "", 10),
        ("uint(n) == 5u", "not yet: constant of this type", "", 11),
        ("duration(kind) < duration('1s') && [1, 2][n] == 1 && 5u > 4u", "not yet: constant of this type", "", 53),
        ("(n > 1 ? timestamp(n) : timestamp(1)).getHours() > 1", "not yet: ?_: of this type", "", 7),
        ("as > 1", "r.avsc has no field as", "", 0),
        ("x" * 10_001, "is longer than 10000 characters", "", 0),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, what: str, remedy: str, at: int) -> None:
    if not what:  # a pattern that RE2 refuses fails on each record, and only there
        Compiled(check(text, Avro(), ["bool"]))
        return
    with pytest.raises(ExpressionError) as caught:
        Compiled(check(text, Avro(), ["bool"]))
    assert what in caught.value.what
    assert remedy in (caught.value.remedy or "")
    assert caught.value.at == at


def test_json_fields_that_nothing_gives_a_type_are_asked_for_one() -> None:
    with pytest.raises(ExpressionError, match="nothing says what type a has") as caught:
        check("a == b", Json(), ["bool"])
    assert caught.value.remedy == "write double(a) or string(a)"


def test_the_caret_is_under_the_place_in_its_line() -> None:
    with pytest.raises(ExpressionError) as caught:
        check("n > 1 &&\n\tprize > 2.0", Avro(), ["bool"])
    assert caught.value.excerpt == "     prize > 2.0\n     ^"


def test_has_in_a_text_is_text() -> None:
    checked = check("kind == 'has(n)' || kind == \"has(n)\" // has(n)\n || has(n)", Avro(), ["bool"])
    column = Column("string", Spans.of([b"has(n)", b"n"]))
    given = {"kind": column, "n": Column("int", np.array([1, 2]), np.array([True, True]))}
    assert Compiled(checked).evaluate(given, 2).values.tolist() == [True, False]


def test_a_long_expression_is_taken() -> None:
    text = " || ".join(f"n == {number}" for number in range(400))
    given = {"n": Column("int", np.array([399, 400]))}
    assert Compiled(check(text, Avro(), ["bool"])).evaluate(given, 2).values.tolist() == [True, False]


def test_no_records_give_no_values() -> None:
    for text in ("n + 1", "kind.matches('a')", "n > 1 ? kind : 'x'", "7"):
        given = {"n": Column("int", np.empty(0, np.int64)), "kind": Column("string", Spans.of([]))}
        assert len(Compiled(check(text, Avro(), ANY)).evaluate(given, 0)) == 0


def test_a_function_is_asked_once_for_each_distinct_argument() -> None:
    compiled = Compiled(check("kind.matches('^a+$')", Avro(), ["bool"]))
    rows = 200_000
    given = {"kind": Column("string", Spans.of([b"aa", b"b"]).take(np.arange(rows) % 2))}
    assert compiled.evaluate(given, rows).values.sum() == rows // 2


def test_a_job_without_expressions_does_not_load_the_package() -> None:
    code = (
        "import sys, streamsample.config, streamsample.runtime.service; from streamsample.config import load_job; "
        "from streamsample.runtime.plan import plan_of; plan_of(load_job('configs/shop.yaml')); "
        "print([name for name in sys.modules if 'cel_expr' in name or name.startswith('streamsample.expressions.')])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


def test_without_the_package_expressions_are_refused_with_the_reason() -> None:
    code = (
        "import sys; sys.modules['cel_expr_python'] = None\n"
        "from streamsample.expressions import check\n"
        "try: check('a > 1.0', None, ['bool'])\n"
        "except ValueError as error: print(error, '-', error.remedy)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.startswith("expressions need the package cel-expr-python, which is not installed - it has no")


def test_fields_may_be_called_as_cels_types_and_reserved_words_and_not_be_identifiers() -> None:
    text = (
        "type == 'click' && has(package) && `user-id` in ['a', 'type'] && `a b`.int > 1.0 && int(`if`) == 2 && if < 3.0"
    )
    checked = check(text, Json(), ["bool"])
    assert checked.fields == {
        "type": "string", "package": "any", "user-id": "string", "a b.int": "double", "if": "double",
    }  # fmt: skip
    given = {
        "type": Column("string", Spans.of([b"click", b"view"])),
        "package": Column("any", np.zeros(2, np.bool_)),
        "user-id": Column("string", Spans.of([b"type", b"a"])),
        "a b.int": Column("double", np.array([2.0, 2.0])),
        "if": Column("double", np.array([2.5, 2.5])),
    }
    assert Compiled(checked).evaluate(given, 2).values.tolist() == [True, False]


def test_durations_and_lists_of_constants_are_left_to_the_package() -> None:
    checked = check("duration(kind) > duration('5s') && [n, 7][0] == 7", Avro(), ["bool"])
    given = {
        "kind": Column("string", Spans.of([b"10s", b"1s", b"x", b"10s"])),
        "n": Column("int", np.array([7, 7, 7, 1])),
    }
    result = Compiled(checked).evaluate(given, 4)
    assert result.failed is not None
    assert result.failed.tolist() == [0, 0, Failure.CONVERSION, 0]
    assert result.values.tolist()[:2] == [True, False]
    assert not result.values[3]
