"""Compiles writer schemas into the small programs that `avro_kernel` runs, one after the other in one array.

A program walks the whole record in the schema's order. Where the job names a field, storing operations follow the
reading one. Runs of fixed size that nobody wants become one skip. A definition used several times (recursion included)
becomes a routine; on the way to a named field it is laid out in line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from streamsample.errors import ConfigurationError
from streamsample.formats import avro_kernel as ops
from streamsample.formats.avro_schema import RECORDS, AvroSchema, Type, item_type
from streamsample.formats.projection import Field, Kind
from streamsample.records import Bytes, Int32s, Int64s

_INTEGERS: Final = frozenset({"int", "long"})
_VERBATIM: Final = frozenset({"string", "bytes", "fixed"})
_CONSTANT: Final = frozenset({"boolean", "enum"})
_ADVICE: Final[dict[Kind, str]] = {
    "text": "an id, unit or stratum must be a string, bytes, enum, fixed, int, long or boolean",
    "integer": "it must be an int or a long (dates, times and timestamps included)",
    "number": "it must be an int, long, float, double or decimal",
    "boolean": "it must be a boolean",
    "presence": "name a field of a simple type",
    "items": "it must be an array of strings, bytes, enums, ints, longs or booleans",
    "elements": "it must be an array",
    "absent": "name a field that is none of the schema's",
}
_OPS: Final = {
    "boolean": (ops.BOOLEAN, 1),
    "int": (ops.INT, 0),
    "long": (ops.LONG, 0),
    "float": (ops.FIXED, 4),
    "double": (ops.FIXED, 8),
    "bytes": (ops.BYTES, 0),
    "string": (ops.STRING, 0),
}
_REALS: Final = {"int": ops.PUT_REAL, "long": ops.PUT_REAL, "float": ops.PUT_FLOAT, "double": ops.PUT_DOUBLE}
_SCALE_MAX: Final = 10_000
_SKIP_MAX: Final = (1 << 31) - 1


def decimal_scale(definition: dict[str, Any]) -> int | None:
    """The scale of a valid decimal, else None: readers ignore a logical type that is not valid."""
    if definition.get("logicalType") != "decimal" or definition["type"] not in ("bytes", "fixed"):
        return None
    precision, scale = definition.get("precision"), definition.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int):
        return None
    return scale if precision > 0 and 0 <= scale <= min(precision, _SCALE_MAX) else None


def supports(definition: dict[str, Any], kind: Kind) -> bool:
    """Whether a field of this type can become a column of `kind`. null can always."""
    name = definition["type"]
    if name == "null":
        return True
    if kind == "integer":
        return name in _INTEGERS
    if kind == "boolean":
        return bool(name == "boolean")
    if kind in ("presence", "items", "elements", "absent"):
        return bool(kind == "elements" and name == "array")
    if kind == "number":
        return name in _REALS or decimal_scale(definition) is not None
    return name in _INTEGERS | _CONSTANT or (name in _VERBATIM and decimal_scale(definition) is None)


def check_field(wanted: Field, schema: AvroSchema) -> list[dict[str, Any]]:
    """The types that a field can have. Raises ConfigurationError if there is none, or not all can become its column."""
    leaves = schema.leaves(wanted.path)
    for leaf in leaves:
        listed = wanted.kind == "items" and leaf["type"] == "array" and item_type(schema, leaf)[0] is not None
        if not (listed or supports(leaf, wanted.kind)):
            logical = f" ({leaf['logicalType']})" if "logicalType" in leaf else ""
            what = f"is of type {leaf['type']}{logical}, which gives no {wanted.kind}"
            raise ConfigurationError(
                f"{schema.label}: field {wanted.path!r} {what}",
                remedy=_ADVICE[wanted.kind],
            )
    return leaves


@dataclass
class Layout:
    """Where each field's column lies, the same for all schemas of a projector.

    text, integers, reals: the slot of each field. copied: text fields that need a buffer of their own, because some of
    their values are not in the input as they are; constant: those that are constants only. has_decimals: whether
    every real has a second, hidden text slot after all others, for decimals that the kernel leaves to the caller.
    """

    text: dict[Field, int] = field(default_factory=dict)
    integers: dict[Field, int] = field(default_factory=dict)
    reals: dict[Field, int] = field(default_factory=dict)
    copied: set[Field] = field(default_factory=set)
    constant: set[Field] = field(default_factory=set)
    copies_input: int = 0
    has_decimals: bool = False

    @property
    def text_slots(self) -> int:
        return len(self.text) + (len(self.reals) if self.has_decimals else 0)

    @staticmethod
    def of(fields: Sequence[Field], schemas: Sequence[AvroSchema]) -> Layout:
        """Lay out the columns. Raises ConfigurationError for a field that a schema lacks or that does not suit."""
        layout = Layout()
        for wanted in dict.fromkeys(fields):
            leaves = [leaf for schema in schemas for leaf in check_field(wanted, schema)]
            if wanted.kind in ("items", "elements"):
                layout.text[wanted] = len(layout.text)  # the slot of where the list begins
            elif wanted.kind == "text":
                layout._add_text(wanted, {leaf["type"] for leaf in leaves} - {"null"})
            elif wanted.kind in ("integer", "boolean"):
                layout.integers[wanted] = len(layout.integers)
            else:
                layout.reals[wanted] = len(layout.reals)
                layout.has_decimals |= any(leaf["type"] in _VERBATIM for leaf in leaves)
        return layout

    def _add_text(self, wanted: Field, kinds: set[str]) -> None:
        self.text[wanted] = len(self.text)
        if kinds and kinds <= _CONSTANT:
            self.constant.add(wanted)
        elif not kinds <= _VERBATIM:
            self.copied.add(wanted)
            self.copies_input += bool(kinds & _VERBATIM)


@dataclass(frozen=True)
class Program:
    """What the kernel runs. code: int32[4 * i]; entries: int32[s], where each schema's program begins.

    constants: uint8[c], ends: int64[e]: the i-th constant is constants[ends[i]:ends[i + 1]]; constant_max: bytes of the
    longest.
    cuts: how many cuts a value has, two for each run of kept top-level fields. whole: nothing is cut, as every field of
    every schema is kept. apart: of each schema, the number of the run that is of its own.
    """

    code: Int32s
    entries: Int32s
    constants: Bytes
    ends: Int64s
    constant_max: int
    cuts: int
    whole: bool
    apart: tuple[int, ...]


def compile_program(
    schemas: Sequence[AvroSchema], layout: Layout, kept: Sequence[set[str]], apart: str | None = None
) -> Program:
    """Compile the programs of all schemas. kept: of each schema, the top-level fields that splicing keeps; apart: a
    top-level field that is a run of its own, kept or not.
    """
    everything = all(len(names) == len(schema.names()) for schema, names in zip(schemas, kept, strict=True))
    whole = everything and apart is None
    code: list[int] = []
    constants: list[bytes] = []
    entries: list[int] = []
    runs: list[int] = []
    cuts = 0
    for schema, names in zip(schemas, kept, strict=True):
        entries.append(len(code))
        compiler = _Compiler(schema, layout, code, constants)
        cuts = max(cuts, compiler.compile(None if whole else names, apart))
        runs.append(compiler.apart)
    sizes = [len(constant) for constant in constants]
    return Program(
        np.array(code, dtype=np.int32),
        np.array(entries, dtype=np.int32),
        np.frombuffer(b"".join(constants), dtype=np.uint8),
        np.cumsum([0, *sizes], dtype=np.int64),
        max(sizes, default=0),
        cuts,
        whole,
        tuple(runs),
    )


@dataclass
class _Node:
    """What is wanted at a place of the schema: columns of the value itself, and of the fields below it."""

    columns: list[Field] = field(default_factory=list)
    below: dict[str, _Node] = field(default_factory=dict)


def _tree(fields: Iterator[Field]) -> _Node:
    root = _Node()
    for wanted in fields:
        node = root
        for name in wanted.path.split("."):
            node = node.below.setdefault(name, _Node())
        node.columns.append(wanted)
    return root


_NO_RUN, _KEPT, _APART = range(3)


def _run_of(name: str, kept: set[str], apart: str | None) -> int:
    """What sort of run a top-level field is in."""
    if name == apart:
        return _APART
    return _KEPT if name in kept else _NO_RUN


class _Compiler:
    """Appends one schema's program to `code`."""

    def __init__(self, schema: AvroSchema, layout: Layout, code: list[int], constants: list[bytes]) -> None:
        self.schema = schema
        self.layout = layout
        self.code = code
        self.constants = constants
        self.bases: dict[tuple[bytes, ...], int] = {}
        self.routines: dict[str, list[int]] = {}  # the calls of each, to be patched
        self.target = len(code)  # the last address that something jumps to: no skip may grow across it
        self.apart = -1

    def compile(self, kept: set[str] | None, apart: str | None) -> int:
        """Compile the whole schema; how many cuts it makes. `kept` is None if nothing is to be cut."""
        layout = self.layout
        tree = _tree(wanted for part in (layout.text, layout.integers, layout.reals) for wanted in part)
        cuts = 0
        run = _NO_RUN
        for entry in self.schema.root["fields"]:
            mine = _NO_RUN if kept is None else _run_of(entry["name"], kept, apart)
            if mine != run:
                for _ in range((run != _NO_RUN) + (mine != _NO_RUN)):
                    self._emit(ops.CUT, cuts)
                    cuts += 1
                if mine == _APART:
                    self.apart = (cuts - 1) // 2
                run = mine
            self._value(entry["type"], tree.below.get(entry["name"]))
        if run != _NO_RUN:
            self._emit(ops.CUT, cuts)
            cuts += 1
        self._emit(ops.END)
        self._routines()
        return cuts

    def _emit(self, op: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        """Append an instruction; its address."""
        self.code += (op, a, b, c)
        return len(self.code) - ops.WIDTH

    def _here(self) -> int:
        """The next instruction's address, as something to jump to."""
        self.target = len(self.code)
        return self.target

    def _skip(self, size: int) -> None:
        """Skip bytes, by the skip before this one if nothing jumps between the two."""
        last = len(self.code) - ops.WIDTH
        if last >= self.target and self.code[last] == ops.FIXED and self.code[last + 1] + size <= _SKIP_MAX:
            self.code[last + 1] += size
        else:
            self._emit(ops.FIXED, size)

    def _value(self, kind: Type, node: _Node | None) -> None:
        definition = self.schema.resolve(kind)
        if node is None and self.schema.least(kind) == 0:
            return  # takes no bytes, and nobody wants it
        if isinstance(definition, list):
            self._union(definition, node)
            return
        match definition["type"]:
            case "null":
                pass
            case "record" | "error":
                self._record(definition, node)
            case "array":
                for wanted in node.columns if node else ():
                    self._emit(ops.FIXED, 0)  # reads nothing, so that what is stored is this place
                    self._emit(ops.TEXT_SPAN, self.layout.text[wanted])
                self._blocks(definition["items"], is_map=False)
            case "map":
                self._blocks(definition["values"], is_map=True)
            case _:
                self._scalar(definition, node)

    def _scalar(self, definition: dict[str, Any], node: _Node | None) -> None:
        name = definition["type"]
        if node is None and name in ("float", "double", "fixed"):
            self._skip(self.schema.least(definition))
        elif name == "enum":
            self._emit(ops.ENUM, len(definition["symbols"]))
        elif name == "fixed":
            self._emit(ops.FIXED, definition["size"])
        else:
            self._emit(*_OPS[name])
        for wanted in node.columns if node else ():
            self._store(wanted, definition)

    def _store(self, wanted: Field, definition: dict[str, Any]) -> None:
        layout = self.layout
        name = definition["type"]
        if wanted.kind == "text":
            copied = wanted in layout.copied
            slot = layout.text[wanted]
            if name in _INTEGERS:
                self._emit(ops.TEXT_DIGITS, slot)
            elif name in _VERBATIM:
                self._emit(ops.TEXT_COPY if copied else ops.TEXT_SPAN, slot)
            else:
                symbols = ["false", "true"] if name == "boolean" else definition["symbols"]
                self._emit(ops.TEXT_CONSTANT_COPY if copied else ops.TEXT_CONSTANT, slot, self._base(symbols))
        elif wanted.kind in ("integer", "boolean"):
            slot = layout.integers[wanted]
            self._emit(ops.PUT_INTEGER, slot, slot)
        else:
            slot = layout.reals[wanted]
            valid = len(layout.integers) + slot
            scale = decimal_scale(definition)
            if scale is None:
                self._emit(_REALS[name], slot, valid)
            else:
                self._emit(ops.PUT_DECIMAL, slot, valid, scale)

    def _base(self, symbols: Sequence[str]) -> int:
        """The number of the first of these constants."""
        texts = tuple(symbol.encode() for symbol in symbols)
        if texts not in self.bases:
            self.bases[texts] = len(self.constants)
            self.constants += texts
        return self.bases[texts]

    def _record(self, definition: dict[str, Any], node: _Node | None) -> None:
        name = definition["name"]
        if node is None and self.schema.uses[name] > 1:
            self.routines.setdefault(name, []).append(self._emit(ops.CALL))
            return
        for entry in definition["fields"]:
            self._value(entry["type"], node.below.get(entry["name"]) if node else None)

    def _union(self, branches: list[Any], node: _Node | None) -> None:
        self._emit(ops.UNION, len(branches))
        table = len(self.code)
        self.code += [0] * (-(-len(branches) // ops.WIDTH) * ops.WIDTH)
        leaves: list[int] = []
        last_jump = -1
        for number, branch in enumerate(branches):
            if node is None and self.schema.least(branch) == 0:
                leaves.append(table + number)  # nothing to do: straight to the end
                continue
            definition = self.schema.resolve(branch)
            assert isinstance(definition, dict)
            self.code[table + number] = self._here()
            self._value(branch, node if self._leads_on(definition, node) else None)
            last_jump = self._emit(ops.JUMP)
            leaves.append(last_jump + 1)
        if last_jump == len(self.code) - ops.WIDTH:
            del self.code[-ops.WIDTH :]  # the last branch that does anything ends at the end
            leaves.remove(last_jump + 1)
        end = self._here()
        for word in leaves:
            self.code[word] = end

    @staticmethod
    def _leads_on(definition: dict[str, Any], node: _Node | None) -> bool:
        """Whether what is wanted below a union can be in this branch: other branches are walked only."""
        if node is None or definition["type"] == "null":
            return False
        return bool(node.columns) or definition["type"] in RECORDS

    def _blocks(self, item: Type, *, is_map: bool) -> None:
        least = self.schema.least(item) + (1 if is_map else 0)
        self._emit(ops.BLOCKS)
        following = self._here()
        head = self._emit(ops.NEXT, min(least, _SKIP_MAX))
        if is_map:
            self._emit(ops.STRING)
        if least:
            self._value(item, None)
            self._emit(ops.JUMP, following)
        self.code[head + 2] = self._here()

    def _routines(self) -> None:
        """Append the routines that are called, and those that they call in turn."""
        addresses: dict[str, int] = {}
        while waiting := [name for name in self.routines if name not in addresses]:
            for name in waiting:
                addresses[name] = self._here()
                for entry in self.schema.named[name]["fields"]:
                    self._value(entry["type"], None)
                self._emit(ops.RETURN)
        for name, calls in self.routines.items():
            for call in calls:
                self.code[call + 1] = addresses[name]
