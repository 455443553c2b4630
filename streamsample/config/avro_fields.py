"""Whether the fields that a job names are in an Avro schema, with types that serve their use.

Only names and types are looked at here, so that an error can show the place in the job file; the decoder makes its own
program from the same schema. A field serves if every branch of its union does, null aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from streamsample.config.problems import KeyPath, Problem, Wrong, listed, nearest

if TYPE_CHECKING:
    from streamsample.expressions import Type

Use: TypeAlias = Literal["identity", "stratum", "time", "iso8601", "int", "double", "boolean", "string", "any", "items"]

_TEXT = frozenset({"string", "bytes", "int", "long", "fixed", "enum", "boolean"})
_SERVES: dict[Use, frozenset[str]] = {
    "identity": _TEXT,
    "stratum": _TEXT,
    "time": frozenset({"int", "long"}),
    "iso8601": frozenset({"string"}),
    "int": frozenset({"int", "long"}),
    "double": frozenset({"int", "long", "float", "double", "decimal"}),
    "boolean": frozenset({"boolean"}),
    "string": _TEXT,
}
_NEEDED: dict[Use, str] = {
    "identity": "a string, bytes, an enum, a fixed, an int, a long or a boolean",
    "stratum": "a string, bytes, an enum, a fixed, an int, a long or a boolean",
    "time": "an int or a long, or unit: iso8601 for text",
    "iso8601": "a string, as its unit says",
    "int": "an int or a long",
    "double": "an int, a long, a float, a double or a decimal",
    "boolean": "a boolean",
    "string": "a string, bytes, an enum, a fixed, an int, a long or a boolean",
}
_TYPES: dict[Type, frozenset[str]] = {
    "int": frozenset({"int", "long"}),
    "double": _SERVES["double"],
    "string": frozenset({"string", "enum"}),
    "bytes": frozenset({"bytes", "fixed"}),
    "bool": frozenset({"boolean"}),
}
_TIME_UNITS = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns"}
_NO_TIMES = ("date", "time-millis", "time-micros", "decimal", "duration")


def schema_problems(parsed: Any, path: KeyPath) -> Iterator[Problem]:
    """Whether `parsed` is an Avro schema of a record at all."""
    try:
        fastavro.parse_schema(parsed, _write_hint=False)
    except (SchemaParseException, UnknownType) as error:
        yield Problem(path, f"is not an Avro schema: {' '.join(str(error).split())}")
        return
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        yield Problem(path, f"is not an Avro schema: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    if not (isinstance(parsed, dict) and parsed.get("type") == "record"):
        yield Problem(path, "is not the schema of a record", "values must be records")


class AvroFields:
    """The fields of one parsed schema, a valid one of a record. `label` is what messages call it."""

    def __init__(self, parsed: Any, label: str) -> None:
        self.label = label
        self._root = parsed
        self._named: dict[str, Any] = {}
        self._collect(parsed, "")

    @property
    def names(self) -> list[str]:
        """The top-level fields."""
        return [field["name"] for field in self._root["fields"]]

    def check(self, field: str, path: KeyPath, use: Use, unit: str | None = None) -> Iterator[Problem]:
        """What is wrong with using `field` so."""
        try:
            branches = self._find(field)
        except Wrong as wrong:
            yield Problem(path, wrong.what, wrong.remedy)
            return
        if use == "any":
            return
        kinds = self._kinds(branches)
        if use == "items":
            items = self._kinds(
                self._branches([branch["items"] for branch in branches if self._kind(branch) == "array"])
            )
            if set(kinds) != {"array"} or not items or not _TEXT.issuperset(items):
                said = f"{listed(kinds)} of {listed(items)}" if items else listed(kinds)
                yield Problem(path, f"{self.label}: {field} is {said}, must be an array of texts or whole numbers")
        elif not kinds or not _SERVES[use].issuperset(kinds):
            yield Problem(path, f"{self.label}: {field} is {listed(kinds) or 'always null'}, must be {_NEEDED[use]}")
        elif use == "time":
            yield from self._check_unit(field, path, branches, unit)

    def kinds(self, field: str) -> list[str]:
        """The names of the types that the field can have, null aside. Raises Wrong where there is no such field."""
        return self._kinds(self._find(field))

    def type_of(self, field: str) -> Type:
        """What the field is in expressions. Raises Wrong where there is no such field, or none that they can use."""
        kinds = self._kinds(self._find(field))
        for type_, serving in _TYPES.items():
            if kinds and serving.issuperset(kinds):
                return type_
        remedy = "expressions use numbers, texts and booleans"
        raise Wrong(f"{self.label}: {field} is {listed(kinds) or 'always null'}", remedy)

    def _find(self, field: str) -> list[Any]:
        """The types that `field` can have, unions flattened. Raises Wrong."""
        at: list[Any] = [self._root]
        for depth, part in enumerate(field.split(".")):
            records = [branch for branch in self._branches(at) if self._kind(branch) == "record"]
            types: dict[str, list[Any]] = {}
            for item in (item for record in records for item in record["fields"]):
                types.setdefault(item["name"], []).append(item["type"])
            if not records:
                whole = ".".join(field.split(".")[:depth])
                raise Wrong(f"{self.label}: {whole} is no record, so it has no {part}")
            if part not in types:
                meant = nearest(part, types)
                remedy = f"did you mean {meant}?" if meant else f"there is {listed(list(types)[:20], 'and')}"
                raise Wrong(f"{self.label} has no field {field}", remedy)
            at = types[part]
        return self._branches(at)

    def _kinds(self, branches: list[Any]) -> list[str]:
        """Their names, null aside."""
        return list(dict.fromkeys(self._kind(branch) for branch in branches if self._kind(branch) != "null"))

    def _check_unit(self, field: str, path: KeyPath, branches: list[Any], unit: str | None) -> Iterator[Problem]:
        """A logical type says the unit: the job must not say another."""
        for branch in branches:
            logical = branch.get("logicalType") if isinstance(branch, dict) else None
            if logical in _NO_TIMES:
                yield Problem(path, f"{self.label}: {field} is a {logical}, not a moment", "name a field that is")
                return
            said = _TIME_UNITS.get(str(logical).removeprefix("local-"))
            if said is not None and said != unit:
                yield Problem((*path[:-1], "unit"), f"is {unit}, but {self.label} says {logical}", f"unit: {said}")
                return

    def _branches(self, types: list[Any]) -> list[Any]:
        """Unions flattened, names resolved."""
        found: list[Any] = []
        for kind in types:
            if isinstance(kind, list):
                found += self._branches(kind)
            elif isinstance(kind, str) and kind in self._named:
                found.append(self._named[kind])
            elif isinstance(kind, dict) and isinstance(kind.get("type"), dict | list):
                found += self._branches([kind["type"]])
            else:
                found.append(kind)
        return found

    @staticmethod
    def _kind(branch: Any) -> str:
        if not isinstance(branch, dict):
            return str(branch)
        decimal = branch.get("logicalType") == "decimal" and branch["type"] in ("bytes", "fixed")
        return "decimal" if decimal else {"error": "record"}.get(str(branch["type"]), str(branch["type"]))

    def _collect(self, schema: Any, namespace: str) -> None:
        """Remember named types by their full and their short name."""
        if isinstance(schema, list):
            for branch in schema:
                self._collect(branch, namespace)
        if not isinstance(schema, dict):
            return
        if isinstance(schema.get("name"), str) and schema.get("type") in ("record", "error", "enum", "fixed"):
            name = schema["name"]
            space = name.rpartition(".")[0] if "." in name else schema.get("namespace", namespace)
            short = name.rpartition(".")[2]
            self._named[f"{space}.{short}" if space else short] = schema
            self._named.setdefault(short, schema)
            namespace = space
        for field in schema.get("fields", ()):
            self._collect(field["type"], namespace)
        for key in ("type", "items", "values"):
            self._collect(schema.get(key), namespace)
