"""The tree of an expression, read from the form in which CEL's own implementations exchange it.

`ParsedExpr` and `CheckedExpr` are protocol buffers of the CEL specification (cel/expr/syntax.proto and checked.proto,
https://github.com/google/cel-spec). Only what this room needs of them is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Type: TypeAlias = Literal["bool", "int", "double", "string", "bytes", "null", "any", "other"]
"""The type of a value, which may be null besides.

"any": of a field of which only is asked whether it is null. "other": lists, times and the like, which stay inside
expressions.
"""
Kind: TypeAlias = Literal["variable", "constant", "call", "select", "list", "unsupported"]

_KINDS: Final[dict[int, Kind]] = {3: "constant", 4: "variable", 5: "select", 6: "call", 7: "list"}
_PRIMITIVES: Final[dict[int, Type]] = {1: "bool", 2: "int", 4: "double", 5: "string", 6: "bytes"}
_CONSTANTS: Final[dict[int, Type]] = {1: "null", 2: "bool", 3: "int", 5: "double", 6: "string", 7: "bytes"}


@dataclass(frozen=True, slots=True)
class Node:
    """One place of the tree.

    kind: "unsupported" is what macros and maps become. name: of the variable, the function, or the selected field.
    value: a constant's. type: of the result, "other" if it was not checked. at: where it stands in the text, in
    characters; of an operator: the operator. children: the operands; of a member function (`member`) its target first.
    """

    kind: Kind
    name: str
    value: Any
    type: Type
    at: int
    children: tuple[Node, ...]
    member: bool = False

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_tree(serialized: bytes, place: Callable[[int], int], real_name: Callable[[str], str]) -> Node:
    """The tree of what the package's `Expression.serialize()` returns, checked or only parsed.

    place: what becomes of the places in the text. real_name: what becomes of the names of fields.
    """
    envelope = dict(_fields(serialized))
    checked = envelope[1].endswith(b"CheckedExpr")
    whole = _fields(envelope[2])
    root, info = (4, 5) if checked else (2, 3)
    types = {number: _type(kind) for number, kind in _entries(whole, 3)} if checked else {}
    places = {number: place(at) for number, at in _entries(_fields(dict(whole)[info]), 4)}
    return _Reader(types, places, real_name).node(dict(whole)[root])


@dataclass(frozen=True, slots=True)
class _Reader:
    types: dict[int, Type]
    places: dict[int, int]
    real_name: Callable[[str], str]

    def node(self, raw: bytes) -> Node:
        fields = dict(_fields(raw))
        number = fields.get(2, 0)
        content = next((key for key in fields if key != 2), 0)
        kind = _KINDS.get(content, "unsupported")
        inner = _fields(fields[content]) if kind != "unsupported" else []
        name, value, below = "", None, []
        type_ = self.types.get(number, "other")
        if kind == "constant":
            type_, value = _constant(inner)
        elif kind == "variable":
            name = self.real_name(dict(inner)[1].decode())
        elif kind == "list":
            below = [item for key, item in inner if key == 1]
        elif kind in ("select", "call"):
            # A has() that was not rewritten is a select with a third field; calls have their target in the first.
            kind = "unsupported" if kind == "select" and 3 in dict(inner) else kind
            name = self.real_name(dict(inner)[2].decode())
            below = [item for key, item in inner if key in (1, 3) and isinstance(item, bytes)]
        children = tuple(self.node(item) for item in below)
        member = kind == "call" and any(key == 1 for key, _ in inner)
        return Node(kind, name, value, type_, self.places.get(number, 0), children, member)


def _type(raw: bytes) -> Type:
    fields = dict(_fields(raw))
    if 2 in fields:
        return "null"
    return _PRIMITIVES.get(fields.get(3, fields.get(4, 0)), "other")  # a primitive, or its nullable wrapper


def _constant(fields: list[tuple[int, Any]]) -> tuple[Type, Any]:
    number, raw = fields[0]
    kind = _CONSTANTS.get(number, "other")
    if kind == "null":
        return kind, None
    if kind == "bool":
        return kind, bool(raw)
    if kind == "int":
        return kind, raw - (1 << 64) if raw >= 1 << 63 else raw
    if kind == "double":
        return kind, struct.unpack("<d", raw)[0]
    return kind, raw.decode() if kind == "string" else raw


def _entries(fields: list[tuple[int, Any]], number: int) -> Iterator[tuple[int, Any]]:
    """The entries of a map: keys and values that are zero are left out on the wire."""
    for key, raw in fields:
        if key == number:
            entry = dict(_fields(raw))
            yield entry.get(1, 0), entry.get(2, 0)


def _fields(raw: bytes) -> list[tuple[int, Any]]:
    """Numbers and values of a message: numbers as unsigned, all else as bytes (protocol buffers, "Encoding")."""
    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            found.append((number, value))
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, at = _varint(raw, at)
        found.append((number, raw[at : at + size]))
        at += size
    return found


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
