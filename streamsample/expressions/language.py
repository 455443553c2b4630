"""Expressions in CEL (https://cel.dev): parsed and type-checked by CEL's own implementation, against a topic's fields.

    text --parse--> names of fields --their types, declared or implied--> type check --> `Checked`

The package is loaded when the first expression is checked, not before.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from streamsample.expressions.inference import implied_types
from streamsample.expressions.names import Rewritten, cel_name, real_name
from streamsample.expressions.tree import Node, Type, read_tree

TEXT_MAX: Final = 10_000
_SAID: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_DECLARED: Final[dict[Type, str]] = {
    "bool": "google.protobuf.BoolValue",
    "int": "google.protobuf.Int64Value",
    "double": "google.protobuf.DoubleValue",
    "string": "google.protobuf.StringValue",
    "bytes": "google.protobuf.BytesValue",
    "any": "google.protobuf.BoolValue",
}
_OPERATORS: Final = {"_?_:_": "? :", "@in": "in"}


class ExpressionError(ValueError):
    """What is wrong with an expression: `at` is where, in characters from its beginning."""

    def __init__(self, text: str, at: int, what: str, remedy: str | None = None) -> None:
        self.text = text
        self.at = min(max(at, 0), len(text))
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}\n{self.excerpt}".rstrip())

    @property
    def excerpt(self) -> str:
        """The line of the expression, and a caret under the place; empty if it is not the expression that is wrong."""
        if not self.text:
            return ""
        start = self.text.rfind("\n", 0, self.at) + 1
        line = self.text[start:].split("\n", 1)[0].replace("\t", " ")
        return f"    {line}\n    {' ' * (self.at - start)}^"


class FieldError(ValueError):
    """A name that is no field, or a field that expressions cannot use."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what)


class Fields(Protocol):
    """What is known of the fields of a topic's records."""

    def type_of(self, path: str) -> Type | None:
        """The type of the field at `path`; None where no schema says it. Raises FieldError."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An expression that is right: its text, its tree, its result's type, and the type of each field that it names."""

    text: str
    tree: Node
    type: Type
    fields: Mapping[str, Type]


def check(text: str, fields: Fields, wanted: Iterable[Type]) -> Checked:
    """Parse `text` and check its types; its result must be of one of the types `wanted`.

    Raises ExpressionError with the place of the first thing that is wrong.
    """
    wanted = tuple(wanted)
    source = _Source(text)
    names = source.names()
    types: dict[str, Type] = {}
    unknown: dict[str, int] = {}
    for path, at in names.items():
        try:
            declared = fields.type_of(path)
        except FieldError as error:
            raise ExpressionError(text, at, error.what, error.remedy) from None
        if declared is None:
            unknown[path] = at
        else:
            types[path] = declared
    if unknown:
        implied = implied_types(source.parsed, types, wanted)
        for path, at in unknown.items():
            if path not in implied:
                what = f"nothing says what type {path} has"
                raise ExpressionError(text, at, what, f"write double({path}) or string({path})")
            types[path] = implied[path]
    return source.check(types, wanted)


class _Source:
    """One text as CEL can read it, and what its parser makes of it."""

    def __init__(self, text: str) -> None:
        if len(text) > TEXT_MAX:
            raise ExpressionError(text[:60], 0, f"is longer than {TEXT_MAX} characters")
        self.text = text
        self._rewritten = Rewritten(text)
        self._cel = _package()
        self.parsed = self._tree(self._compile({}, check=False))

    def _tree(self, compiled: Any) -> Node:
        return read_tree(compiled.serialize(), self._rewritten.place, real_name)

    def names(self) -> dict[str, int]:
        """The paths of the fields that are named, and where each is first."""
        found: dict[str, int] = {}
        self._collect(self.parsed, found)
        return found

    def _collect(self, node: Node, found: dict[str, int]) -> None:
        if node.kind in ("variable", "select"):
            path, root = _path(node)
            if path is not None:
                found.setdefault(path, root.at)
                return
        if node.kind == "unsupported":
            what = "not yet: macros (all, exists, map, filter), maps and messages in expressions"
            raise ExpressionError(self.text, node.at, what, "compute it before the topic")
        for child in node.children:
            self._collect(child, found)

    def check(self, types: Mapping[str, Type], wanted: tuple[Type, ...]) -> Checked:
        variables = {cel_name(path): self._cel.Type(_DECLARED[kind]) for path, kind in types.items()}
        compiled = self._compile(variables)
        tree = self._tree(compiled)
        if tree.type not in wanted and not (tree.type == "int" and "double" in wanted):
            said = "null" if tree.type == "null" else _type_name(str(compiled.return_type().name()))
            what = f"gives {said}, must give {' or '.join(wanted)}"
            raise ExpressionError(self.text, _first(tree), what)
        return Checked(self.text, tree, tree.type, dict(types))

    def _compile(self, variables: dict[str, Any], *, check: bool = True) -> Any:
        try:
            return self._cel.NewEnv(variables=variables).compile(self._rewritten.text, disable_check=not check)
        except RuntimeError as error:
            raise self._explained(str(error)) from None

    def _explained(self, said: str) -> ExpressionError:
        """The package's first error in our words."""
        found = _SAID.search(said)
        if found is None:
            return ExpressionError(self.text, 0, " ".join(said.split())[:200])
        line, column, what = int(found[1]), int(found[2]), real_name(found[3])
        before = self._rewritten.text.split("\n")[: line - 1]
        at = self._rewritten.place(sum(len(part) + 1 for part in before) + column - 1)
        what, remedy = _in_our_words(what)
        return ExpressionError(self.text, at, what, remedy)


def _path(node: Node) -> tuple[str | None, Node]:
    """The dotted name that a chain of selections is, and its first part; None if it does not begin with a name."""
    names: list[str] = []
    while node.kind == "select":
        names.append(node.name)
        node = node.children[0]
    if node.kind != "variable":
        return None, node
    return ".".join([node.name, *reversed(names)]), node


def _first(node: Node) -> int:
    return min(inner.at for inner in node.walk())


def _in_our_words(what: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"found no matching overload for '(\S+)' applied to '(.*)'", what):
        operator, types = found[1], _type_name(found[2])
        shown = _OPERATORS.get(operator, operator.strip("_"))
        remedy = None
        if "double" in types and "int" in types:
            remedy = "whole numbers and doubles do not mix in CEL: write 2.0 for 2, or double(...) of a field"
        elif "string" in types and re.search("int|double", types):
            remedy = "convert one: string(...), int(...) or double(...)"
        return f"{shown} cannot be applied to {types}", remedy
    if found := re.fullmatch(r"undeclared reference to '(.*)' \(in container ''\)", what):
        return f"there is no function {found[1]}", "functions are those of CEL: size, startsWith, matches, int, ..."
    if what.startswith("Syntax error: "):
        what = what.removeprefix("Syntax error: ")
        what = (
            re.sub(r" expecting \{.*\}?$", "", what).replace("'<EOF>'", "end").replace("mismatched input", "unexpected")
        )
        return what, "expressions are CEL: https://cel.dev"
    return what[:1].lower() + what[1:], None


def _type_name(said: str) -> str:
    return re.sub(r"wrapper\((\w+)\)", r"\1", said).lower()


def _package() -> Any:
    """The package that parses and checks. Raises ExpressionError where it is not installed."""
    try:
        return importlib.import_module("cel_expr_python.cel")
    except ImportError:
        what = "expressions need the package cel-expr-python, which is not installed"
        remedy = "it has no wheels for this Python or machine: use CPython 3.11 to 3.14 on Linux or macOS"
        raise ExpressionError("", 0, what, remedy) from None


def evaluator(text: str, variables: Mapping[str, Type]) -> Callable[[Mapping[str, Any]], Any]:
    """`text` as the package evaluates it: from plain values, never null, to a plain value, or the exception it is."""
    cel = _package()
    kinds = {"bool": cel.Type.BOOL, "int": cel.Type.INT, "double": cel.Type.DOUBLE, "string": cel.Type.STRING}
    kinds["bytes"] = cel.Type.BYTES
    compiled = cel.NewEnv(variables={name: kinds[kind] for name, kind in variables.items()}).compile(text)

    def compute(data: Mapping[str, Any]) -> Any:
        value = compiled.eval(data=data)
        plain = value.plain_value()
        return ValueError(str(plain)) if value.type() == cel.Type.ERROR else plain

    return compute
