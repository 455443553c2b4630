"""The operators of CEL on columns, as its specification defines them on single values.

Source: https://github.com/google/cel-spec/blob/master/doc/langdef.md. Whole numbers have 64 bits and never wrap round;
division of whole numbers is towards zero; doubles follow IEEE 754, so that division by zero is infinite. `&&` and `||`
are false or true if one side says so, whatever happens to the other. Equality compares nulls; everything else fails on
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from streamsample.expressions import texts
from streamsample.expressions.columns import Codes, Column, Failure, failing, first_failure, joined
from streamsample.records import Bools, Int64s

_LEAST: Final = np.iinfo(np.int64).min
_SMALL: Final = 1 << 31
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "_<_": np.less,
    "_<=_": np.less_equal,
    "_>_": np.greater,
    "_>=_": np.greater_equal,
}
_DOUBLES: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "_+_": np.add,
    "_-_": np.subtract,
    "_*_": np.multiply,
    "_/_": np.divide,
}


def compare(operator: str, left: Column, right: Column) -> Column:
    """`<`, `<=`, `>` and `>=` of two columns of the same type."""
    failed = first_failure([left.needed(), right.needed()])
    if left.type in ("string", "bytes"):
        order = texts.order(left.spans, right.spans)
        return Column("bool", _COMPARE[operator](order, 0), None, failed)
    return Column("bool", _COMPARE[operator](left.values, right.values), None, failed)


def equal(left: Column, right: Column, *, negated: bool = False) -> Column:
    """`==`, or `!=` if `negated`: null equals null and nothing else."""
    failed = first_failure([left.failed, right.failed])
    same: Bools
    if left.type == "null" or right.type == "null":
        same = np.zeros(max(len(left), len(right)), np.bool_)
    elif left.type in ("string", "bytes"):
        same = texts.equal(left.spans, right.spans)
    else:
        same = left.values == right.values
    if left.null is not None or right.null is not None:
        one = np.False_ if left.null is None else left.null
        other = np.False_ if right.null is None else right.null
        same = (same & ~one & ~other) | (one & other)
    return Column("bool", ~same if negated else same, None, failed)


def member(element: Column, items: list[Column]) -> Column:
    """`element in [items]`."""
    found = np.zeros(len(element), np.bool_)
    for item in items:
        found = found | equal(element, item).values
    return Column("bool", found, None, first_failure([element.failed, *(item.failed for item in items)]))


def both(left: Column, right: Column) -> Column:
    """`left && right`."""
    return _decided(left, right, by=False)


def either(left: Column, right: Column) -> Column:
    """`left || right`."""
    return _decided(left, right, by=True)


def _decided(left: Column, right: Column, *, by: bool) -> Column:
    """The side that is `by` decides; a failure counts only where none does."""
    values = left.values | right.values if by else left.values & right.values
    one, other = left.needed(), right.needed()
    if one is None and other is None:
        return Column("bool", values)
    decided = np.zeros(max(len(left), len(right)), np.bool_)
    for side, codes in ((left, one), (right, other)):
        says = side.values if by else ~side.values
        decided = decided | (says if codes is None else says & (codes == 0))
    failed = first_failure([one, other])
    assert failed is not None
    return Column("bool", np.where(decided, by, values), None, np.where(decided, np.uint8(0), failed))


def negation(of: Column) -> Column:
    """`!of`."""
    return Column("bool", ~of.values, None, of.needed())


def choice(condition: Column, yes: Column, no: Column) -> Column:
    """`condition ? yes : no`."""
    count = max(len(condition), len(yes), len(no))
    asked = condition.needed()
    chosen = np.broadcast_to(condition.values, count)
    kind = no.type if yes.type == "null" else yes.type
    if kind in ("string", "bytes"):
        parts = [side.of_length(count).spans if side.type != "null" else texts.nothing(count) for side in (yes, no)]
        spans, starts = joined(parts)
        values: Any = spans.take(np.arange(count) + np.where(chosen, starts[0], starts[1]))
    else:
        values = np.where(chosen, yes.values, no.values)
    null = _chosen(chosen, yes.null, no.null, np.bool_(False))
    failed = _chosen(chosen, yes.failed, no.failed, np.uint8(0))
    return Column(kind, values, null, first_failure([asked, failed]))


def _chosen(chosen: Bools, yes: Any, no: Any, nothing: Any) -> Any:
    if yes is None and no is None:
        return None
    return np.where(chosen, nothing if yes is None else yes, nothing if no is None else no)


def arithmetic(operator: str, left: Column, right: Column) -> Column:
    """`+`, `-`, `*`, `/` and `%` of two columns of whole numbers, or of doubles."""
    failed = first_failure([left.needed(), right.needed()])
    if left.type == "double":
        return Column("double", _DOUBLES[operator](left.values, right.values), None, failed)
    values, failed = _WHOLE[operator](left.values, right.values, failed)
    return Column("int", values, None, failed)


def together(left: Column, right: Column) -> Column:
    """`left + right` of two columns of strings, or of bytes."""
    failed = first_failure([left.needed(), right.needed()])
    return Column(left.type, texts.together(left.spans, right.spans), None, failed)


def minus(of: Column) -> Column:
    """`-of`."""
    failed = of.needed()
    if of.type == "int":
        failed = failing(of.values == _LEAST, Failure.OVERFLOW, failed)
    return Column(of.type, -of.values, None, failed)


def _add(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    total = left + right
    return total, failing(((left ^ total) & (right ^ total)) < 0, Failure.OVERFLOW, failed)


def _subtract(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    difference = left - right
    return difference, failing(((left ^ right) & (left ^ difference)) < 0, Failure.OVERFLOW, failed)


def _multiply(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    product = left * right
    if not len(product) or (_is_small(left) and _is_small(right)):
        return product, failed
    # The wrapped product divided by one factor gives the other iff nothing was lost; -1 is its own inverse.
    divisor = np.where((left == 0) | (left == -1), np.int64(1), left)
    wraps = np.where(left == -1, right == _LEAST, (left != 0) & ((product // divisor != right) & (divisor != 1)))
    return product, failing(wraps, Failure.OVERFLOW, failed)


def _is_small(values: Int64s) -> bool:
    return bool(values.min() > -_SMALL and values.max() < _SMALL)


def _divide(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    safe, failed = _divisor(left, right, failed)
    quotient = left // safe
    # numpy rounds down, CEL towards zero.
    return quotient + ((quotient < 0) & (quotient * safe != left)), failed


def _modulo(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    safe, failed = _divisor(left, right, failed)
    return np.fmod(left, safe), failed


def _divisor(left: Int64s, right: Int64s, failed: Codes | None) -> tuple[Int64s, Codes | None]:
    """The divisor with 1 where it would fail."""
    zero, wraps = right == 0, (right == -1) & (left == _LEAST)
    failed = failing(wraps, Failure.OVERFLOW, failing(zero, Failure.DIVISION, failed))
    return np.where(zero | wraps, np.int64(1), right), failed


_WHOLE: Final[dict[str, Callable[[Int64s, Int64s, Codes | None], tuple[Int64s, Codes | None]]]] = {
    "_+_": _add,
    "_-_": _subtract,
    "_*_": _multiply,
    "_/_": _divide,
    "_%_": _modulo,
}


def to_double(of: Column) -> Column:
    """`double(of)` of a number."""
    return Column("double", of.values.astype(np.float64), None, of.needed())


def to_int(of: Column) -> Column:
    """`int(of)` of a number: towards zero."""
    failed = of.needed()
    if of.type == "int":
        return Column("int", of.values, None, failed)
    fits = (of.values > -(2.0**63)) & (of.values < 2.0**63)
    values = np.where(fits, of.values, 0.0).astype(np.int64)
    return Column("int", values, None, failing(~fits, Failure.RANGE, failed))


def to_string(of: Column) -> Column:
    """`string(of)` of a whole number or a string."""
    return Column("string", of.spans if of.type == "string" else texts.decimal(of.values), None, of.needed())


def part_of_time(function: str, seconds: Column) -> Column:
    """`timestamp(seconds).function()` in UTC, seconds since 1970 as whole numbers."""
    failed = seconds.needed()
    fits = (seconds.values >= _YEAR_1_S) & (seconds.values < _YEAR_10000_S)
    values = np.where(fits, seconds.values, 0)
    return Column("int", _PARTS[function](values), None, failing(~fits, Failure.RANGE, failed))


def _since(unit: str, larger: str) -> Callable[[Int64s], Int64s]:
    """How many `unit`s lie between the beginning of the `larger` one and the moment."""

    def part(seconds: Int64s) -> Int64s:
        moments = seconds.astype("datetime64[s]")
        since = moments.astype(f"datetime64[{unit}]") - moments.astype(f"datetime64[{larger}]")
        return np.asarray(since.astype(np.int64), np.int64)

    return part


_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800
_PARTS: Final[dict[str, Callable[[Int64s], Int64s]]] = {
    "getFullYear": lambda seconds: seconds.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970,
    "getMonth": _since("M", "Y"),
    "getDayOfYear": _since("D", "Y"),
    "getDayOfMonth": _since("D", "M"),
    "getDate": lambda seconds: _since("D", "M")(seconds) + 1,
    "getDayOfWeek": lambda seconds: (seconds // 86_400 + 4) % 7,
    "getHours": lambda seconds: seconds // 3_600 % 24,
    "getMinutes": lambda seconds: seconds // 60 % 60,
    "getSeconds": lambda seconds: seconds % 60,
    "getMilliseconds": lambda seconds: seconds * 0,
}
PARTS_OF_TIME: Final = frozenset(_PARTS)
"""The functions of a moment in UTC."""
