"""What the use of a field implies about its type, where no schema says it: fields of JSON.

As CEL has it, a number in JSON is a double. Types flow between the operands of comparisons and arithmetic and the
branches of a choice, until nothing new is learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from streamsample.expressions.tree import Node, Type

_ALIKE: Final = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_", "_<_", "_<=_", "_>_", "_>=_", "_==_", "_!=_"})
_GIVES_ITS_TYPE: Final = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_"})
_NUMBERS: Final = frozenset({"_-_", "_*_", "_/_", "_%_", "-_", "double", "int"})
_TRUTHS: Final = frozenset({"_&&_", "_||_", "!_"})
_TEXTS: Final = frozenset({"startsWith", "endsWith", "contains", "matches", "size", "string", "timestamp", "duration"})
_RESULTS: Final[dict[str, Type]] = {"double": "double", "int": "int", "string": "string", "size": "int"}


def implied_types(tree: Node, known: Mapping[str, Type], wanted: Sequence[Type]) -> dict[str, Type]:
    """The types of the fields in `tree` (as parsed) that are not `known`, as far as something implies them.

    wanted: of which types the whole may be. A number is "double".
    """
    flow = _Flow(known)
    whole = flow.slot(tree)
    flow.learn(whole, wanted[0])
    for slot in flow.paths.values():
        flow.default(slot)
    found: dict[str, Type] = {}
    for path, slot in flow.paths.items():
        kind = flow.type_of(slot)
        if path not in known and kind is not None:
            found[path] = "double" if kind == "int" else kind
    return found


class _Flow:
    """Slots that share a type are merged."""

    def __init__(self, known: Mapping[str, Type]) -> None:
        self._known = known
        self._parent: list[int] = []
        self._type: dict[int, Type] = {}
        self._fallback: dict[int, Type] = {}
        self._compared: set[int] = set()
        self.paths: dict[str, int] = {}

    def slot(self, node: Node) -> int:
        """The slot of the node's result, after looking at all below it."""
        if node.kind in ("variable", "select"):
            path = _dotted(node)
            if path is not None:
                if path not in self.paths:
                    self.paths[path] = self._new()
                    if path in self._known:
                        self.learn(self.paths[path], self._known[path])
                return self.paths[path]
        below = [self.slot(child) for child in node.children]
        made = self._new()
        if node.name in ("_==_", "_!=_") and any(
            child.kind == "constant" and child.type == "null" for child in node.children
        ):
            self.learn(made, "bool")
            return made
        if node.kind == "constant" and node.type != "null":
            self.learn(made, node.type)
        elif node.kind == "list":
            for slot in below:
                self._merge(made, slot)
        elif node.kind == "call":
            self._call(node.name, below, made)
        return made

    def _call(self, name: str, below: list[int], made: int) -> None:
        if name in _ALIKE:
            self._merge(below[0], below[1])
        if name in _GIVES_ITS_TYPE or name == "-_":
            self._merge(made, below[0])
        elif name == "_?_:_":
            self.learn(below[0], "bool")
            self._merge(below[1], below[2])
            self._merge(made, below[1])
        elif name == "@in":
            self._merge(below[0], below[1])  # a list's slot is that of its elements
        else:
            self.learn(made, _RESULTS.get(name, "bool"))
        for slot in below:
            if name in _TRUTHS:
                self.learn(slot, "bool")
            elif name in _NUMBERS:
                self._suggest(slot, "double")
            elif name in _TEXTS:
                self._suggest(slot, "string")

    def _new(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def _root(self, slot: int) -> int:
        while self._parent[slot] != slot:
            slot = self._parent[slot]
        return slot

    def _merge(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self._compared.add(one)
        if one == other:
            return
        self._parent[other] = one
        for types in (self._type, self._fallback):
            if other in types:
                types.setdefault(one, types[other])

    def learn(self, slot: int, kind: Type) -> None:
        self._type.setdefault(self._root(slot), kind)

    def _suggest(self, slot: int, kind: Type) -> None:
        self._fallback.setdefault(self._root(slot), kind)

    def default(self, slot: int) -> None:
        """Where nothing was learned take what was suggested, or "any" if it is only asked for null."""
        root = self._root(slot)
        if root in self._fallback:
            self._type.setdefault(root, self._fallback[root])
        elif root not in self._compared:
            self._type.setdefault(root, "any")

    def type_of(self, slot: int) -> Type | None:
        return self._type.get(self._root(slot))


def _dotted(node: Node) -> str | None:
    if node.kind == "variable":
        return node.name
    above = _dotted(node.children[0]) if node.kind == "select" else None
    return None if above is None else f"{above}.{node.name}"
