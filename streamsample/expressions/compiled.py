"""A checked expression as a function of columns: every operator is applied once to all records of a batch.

What has no vectorised form here (`matches`, times, conversions from and to strings ...) is given to CEL's own evaluator
once for each distinct combination of its arguments in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from streamsample.expressions import operators, texts
from streamsample.expressions.columns import Column, constant, first_failure
from streamsample.expressions.distinct import ByDistinct
from streamsample.expressions.language import Checked, ExpressionError
from streamsample.expressions.tree import Node, Type

Columns: TypeAlias = Mapping[str, Column]
_Step: TypeAlias = Callable[[Columns], Column]

_COMPARISONS: Final = frozenset({"_<_", "_<=_", "_>_", "_>=_"})
_ARITHMETIC: Final = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_"})
_NUMBERS: Final[frozenset[Type]] = frozenset({"int", "double"})
_ORDERED: Final[frozenset[Type]] = frozenset({"bool", "int", "double", "string", "bytes"})
_SEARCHES: Final = {"startsWith": texts.starts_with, "endsWith": texts.ends_with, "contains": texts.contains}
_ANY_VALUE: Final[dict[Type, Any]] = {"bool": False, "int": 0, "double": 0.0, "string": "", "bytes": b""}
_LOGIC: Final = frozenset({"_&&_", "_||_", "!_", "_?_:_"})


class Compiled:
    """Evaluates one expression. Holds no state between batches; safe to share by threads.

    text, type, fields: as in `Checked`. Raises ExpressionError for what neither this room nor the package evaluates.
    """

    def __init__(self, checked: Checked) -> None:
        self.text = checked.text
        self.type = checked.type
        self.fields = checked.fields
        self._step = _Compiler(checked).step(checked.tree)

    def evaluate(self, columns: Columns, count: int) -> Column:
        """The values for `count` records, of whose fields `columns` has those in `fields`, each of that length."""
        if not count:
            return constant(self.type, _ANY_VALUE.get(self.type)).of_length(0)
        with np.errstate(all="ignore"):  # what fails is noted, not warned of
            return self._step(columns).of_length(count)


class _Compiler:
    def __init__(self, checked: Checked) -> None:
        self._checked = checked

    def step(self, node: Node) -> _Step:
        """What gives the node's values."""
        if node.kind == "constant":
            value = constant(node.type, node.value) if node.type != "other" else None
            if value is not None:
                return lambda columns: value
        if node.kind == "variable":
            name = node.name
            if name in self._checked.fields:
                return lambda columns: columns[name]
        if node.kind == "call":
            return self._call(node)
        raise self._unsupported(node)

    def _call(self, node: Node) -> _Step:
        kinds = [child.type for child in node.children]
        name = node.name
        if name == "@in" and node.children[1].kind == "list":
            element, *items = (self.step(child) for child in (node.children[0], *node.children[1].children))
            return lambda columns: operators.member(element(columns), [item(columns) for item in items])
        if name in _LOGIC:
            return self._logic(node)
        if name in operators.PARTS_OF_TIME and len(node.children) == 1 and _is_of_seconds(node.children[0]):
            seconds = self.step(node.children[0].children[0])
            return lambda columns: operators.part_of_time(name, seconds(columns))
        simple = self._simple(name, kinds)
        if simple is None:
            return self._by_distinct(node)
        steps = [self.step(child) for child in node.children]
        return lambda columns: simple(*(step(columns) for step in steps))

    def _logic(self, node: Node) -> _Step:
        if node.type == "other":
            raise self._unsupported(node)
        function: Any = {
            "_&&_": operators.both,
            "_||_": operators.either,
            "!_": operators.negation,
            "_?_:_": operators.choice,
        }[node.name]
        steps = [self.step(child) for child in node.children]
        return lambda columns: function(*(step(columns) for step in steps))

    @staticmethod
    def _simple(name: str, kinds: list[Type]) -> Callable[..., Column] | None:
        """The vectorised form of a function with operands of these types, if it has one."""
        kind = kinds[0]
        if name in _COMPARISONS and kind in _ORDERED:
            return lambda left, right: operators.compare(name, left, right)
        if name in ("_==_", "_!=_") and "other" not in kinds:
            return lambda left, right: operators.equal(left, right, negated=name == "_!=_")
        if name in _ARITHMETIC and kind in _NUMBERS:
            return lambda left, right: operators.arithmetic(name, left, right)
        if name == "_+_" and kind in ("string", "bytes"):
            return operators.together
        if name == "-_" and kind in _NUMBERS:
            return operators.minus
        if name in _SEARCHES:
            search = _SEARCHES[name]
            return lambda text, part: Column(
                "bool", search(text.spans, part.spans), None, first_failure([text.needed(), part.needed()])
            )
        if name == "size" and kind == "string":
            return lambda text: Column("int", texts.characters(text.spans), None, text.needed())
        if name == "double" and kind in _NUMBERS:
            return operators.to_double
        if name == "int" and kind in _NUMBERS:
            return operators.to_int
        if name == "string" and kind in ("int", "string"):
            return operators.to_string
        return None

    def _by_distinct(self, node: Node) -> _Step:
        if node.type not in _ORDERED:
            raise self._unsupported(node)
        arguments: list[Node] = []
        text = self._text(node, arguments, whole=True)
        steps = [self.step(argument) for argument in arguments]
        try:
            function = ByDistinct(text, [argument.type for argument in arguments], node.type)
        except RuntimeError:  # The package takes it as a part of the whole, but not by itself.
            raise self._unsupported(node) from None
        return lambda columns: function([step(columns) for step in steps])

    def _text(self, node: Node, arguments: list[Node], *, whole: bool = False) -> str:
        """The node in CEL, with what this room can evaluate below it as variables x0, x1 ...: the `arguments`."""
        if node.kind == "constant" and node.type != "other":
            return _literal(node.value)
        if node.type not in ("other", "any", "null") and not whole:
            arguments.append(node)
            return f"x{len(arguments) - 1}"
        if node.kind not in ("call", "list") or node.name in _LOGIC:
            raise self._unsupported(node)
        parts = [self._text(child, arguments) for child in node.children]
        if node.kind == "list":
            return f"[{', '.join(parts)}]"
        if node.name == "@in":
            return f"({parts[0]} in {parts[1]})"
        if node.name == "_[_]":
            return f"{parts[0]}[{parts[1]}]"
        if node.name.startswith("_"):
            return f"({parts[0]} {node.name.strip('_')} {parts[1]})"
        if node.name == "-_":
            return f"(-({parts[0]}))"
        if node.member:
            return f"{parts[0]}.{node.name}({', '.join(parts[1:])})"
        return f"{node.name}({', '.join(parts)})"

    def _unsupported(self, node: Node) -> ExpressionError:
        what = f"not yet: {node.name.strip('_') or node.kind} of this type in expressions"
        return ExpressionError(self._checked.text, node.at, what, "compute it before the topic")


def _is_of_seconds(node: Node) -> bool:
    """Whether it is `timestamp(...)` of a whole number."""
    return node.name == "timestamp" and not node.member and [child.type for child in node.children] == ["int"]


def _literal(value: Any) -> str:
    """A constant as CEL writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return 'b"' + "".join(f"\\x{byte:02x}" for byte in value) + '"'
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return repr(value)
