"""Vectorised expressions give what CEL's own evaluator gives, record by record: values, nulls, and which fail."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.expressions import Column, Type, check
from streamsample.expressions.compiled import Compiled
from streamsample.expressions.operators import PARTS_OF_TIME
from streamsample.records import Spans

MOST = 2**63 - 1
INTEGERS = st.one_of(
    st.integers(-3, 3),
    st.integers(0, 2**32),
    st.sampled_from([MOST, -MOST - 1, -MOST, MOST // 2, 2**32, -(2**31), 253_402_300_800, -62_135_596_801]),
    st.integers(-MOST, MOST),
)
DOUBLES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.5, -2.0, math.nan, math.inf, -math.inf, 2.0**63, -(2.0**63), 1e300, 5e-324]),
    st.floats(allow_nan=False, width=32),
)
STRINGS = st.sampled_from(["", "a", "ab", "b", "aba", "é", "日本", "\U0001f600", "a b", "12", "1.5", "true", "\\'\""])
VALUES: dict[Type, st.SearchStrategy[Any]] = {
    "int": INTEGERS,
    "double": DOUBLES,
    "string": STRINGS,
    "bool": st.booleans(),
}
NAMES = {"int": ("i", "geo.j"), "double": ("d", "geo.e"), "string": ("s", "geo.t"), "bool": ("b", "geo.c")}
TYPES: dict[str, Type] = {name: kind for kind, names in NAMES.items() for name in names}  # type: ignore[misc]


class Declared:
    def type_of(self, path: str) -> Type | None:
        return TYPES[path]


def literal(kind: Type, value: Any) -> str:
    if kind == "double":
        return repr(value) if math.isfinite(value) else "(1.0 / 0.0)"
    if kind == "string":
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return {True: "true", False: "false"}[value] if kind == "bool" else str(value)


def leaf(kind: Type) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(NAMES[kind]), VALUES[kind].map(lambda value: literal(kind, value)))


@cache
def expressions(kind: Type, depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return leaf(kind)

    def inner(other: Type) -> st.SearchStrategy[str]:
        return expressions(other, depth - 1)

    def form(pattern: str, *kinds: Type) -> st.SearchStrategy[str]:
        return st.tuples(*(inner(each) for each in kinds)).map(lambda parts: pattern.format(*parts))

    forms = [leaf(kind), form("({} ? {} : {})", "bool", kind, kind)]
    if kind in ("int", "double"):
        forms += [form(f"({{}} {sign} {{}})", kind, kind) for sign in ("+-*/%" if kind == "int" else "+-*/")]
        forms += [form("(-({}))", kind), form(f"{kind}({{}})", "int"), form(f"{kind}({{}})", "double")]
    if kind == "int":
        forms += [form("size({})", "string"), form("int({})", "string")]
        forms += [form(f"timestamp({{}}).{name}()", "int") for name in sorted(PARTS_OF_TIME)]
        forms += [form("timestamp({}).getHours('America/New_York')", "int")]
    if kind == "string":
        forms += [form("({} + {})", kind, kind), form("string({})", "int"), form("string({})", "bool")]
    if kind == "bool":
        forms += [form("({} && {})", kind, kind), form("({} || {})", kind, kind), form("(!{})", kind)]
        for each in VALUES:
            forms += [form(f"({{}} {sign} {{}})", each, each) for sign in ("<", "<=", ">", ">=", "==", "!=")]
            forms += [form("({} in [{}, {}])", each, each, each)]
            forms += [st.sampled_from(NAMES[each]).flatmap(lambda name: st.just(f"has({name})"))]
        forms += [form(f"{{}}.{name}({{}})", "string", "string") for name in ("startsWith", "endsWith", "contains")]
        forms += [inner("string").map(lambda text: f"{text}.matches('^a.?b*$')")]
    return st.one_of(forms)


ANY_EXPRESSION = st.sampled_from(list(VALUES)).flatmap(lambda kind: expressions(kind, 3))
RECORD = st.fixed_dictionaries({name: st.none() | VALUES[kind] for name, kind in TYPES.items()})


def column(kind: Type, values: list[Any]) -> Column:
    null = np.array([value is None for value in values])
    mask = null if null.any() else None
    if kind == "string":
        return Column(kind, Spans.of([None if value is None else value.encode() for value in values]), mask)
    dtype = {"int": np.int64, "double": np.float64}.get(kind, np.bool_)
    return Column(kind, np.array([0 if value is None else value for value in values], dtype), mask)


def computed(text: str, records: list[dict[str, Any]]) -> list[Any]:
    """By this package: a value or None, or "failed"."""
    compiled = Compiled(check(text, Declared(), list(VALUES)))
    columns = {name: column(kind, [record[name] for record in records]) for name, kind in TYPES.items()}
    result = compiled.evaluate(columns, len(records))
    assert len(result) == len(records)
    found: list[Any] = []
    for row in range(len(records)):
        if result.failed is not None and result.failed[row]:
            found.append("failed")
        elif result.null is not None and result.null[row]:
            found.append(None)
        elif result.type == "string":
            found.append((result.spans[row] or b"").decode())
        else:
            found.append(result.values[row].item())
    return found


def expected(text: str, records: list[dict[str, Any]]) -> list[Any]:
    """By CEL's own evaluator, on variables that may be null."""
    for name in TYPES:
        text = text.replace(f"has({name})", f"({name} != null)")
    program = cel.NewEnv(variables=dict.fromkeys(TYPES, cel.Type.DYN)).compile(text)
    answers = [program.eval(data=record) for record in records]
    return ["failed" if each.type() == cel.Type.ERROR else each.plain_value() for each in answers]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or left == right
    return type(left) is type(right) and left == right


@settings(max_examples=6000, deadline=None)
@given(ANY_EXPRESSION, st.lists(RECORD, min_size=1, max_size=6))
def test_any_expression_on_any_records(text: str, records: list[dict[str, Any]]) -> None:
    for mine, reference in zip(computed(text, records), expected(text, records), strict=True):
        assert same(mine, reference), (text, mine, reference)
