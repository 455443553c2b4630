"""Avro schemas as the compiler and the output need them: names resolved, paths followed, fields taken away."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from streamsample.errors import ConfigurationError
from streamsample.formats.projection import did_you_mean

Type: TypeAlias = str | list[Any] | dict[str, Any]
"""A type as a parsed schema writes it: a primitive's or a definition's full name, a union, or a definition."""

NAMED: Final = frozenset({"record", "error", "enum", "fixed"})
RECORDS: Final = frozenset({"record", "error"})
_TEXTS: Final = frozenset({"string", "bytes", "int", "long", "enum", "boolean"})
_FIXED_SIZE_MAX: Final = (1 << 31) - 1
_LEAST_MAX: Final = (1 << 31) - 1


class AvroSchema:
    """A writer schema: a record, all names in full, every definition at its first use.

    Raises ConfigurationError if the definition (a mapping, or JSON text) is not a valid schema, or not of a record.
    `label` is how errors name it.
    """

    def __init__(self, definition: Mapping[str, Any] | str, label: str = "the schema") -> None:
        self.label = label
        self.root = _parse(definition, label)
        self.named: dict[str, dict[str, Any]] = {}
        self.uses: Counter[str] = Counter()
        self._collect(self.root)
        self._least: dict[str, int] = {}
        if self.root["type"] not in RECORDS:
            raise ConfigurationError(f"{label}: is of type {self.root['type']}", remedy="values must be Avro records")

    def resolve(self, kind: Type) -> dict[str, Any] | list[Any]:
        """The definition behind a type, primitives as {"type": name}; a union as its list."""
        if isinstance(kind, list):
            return kind
        if isinstance(kind, str):
            return self.named.get(kind, {"type": kind})
        return kind

    def names(self) -> list[str]:
        """The names of the top-level fields, in order."""
        return [field["name"] for field in self.root["fields"]]

    def paths(self) -> list[str]:
        """The paths of all fields that can be projected, a recursive record entered once."""
        return list(self._paths(self.root, "", ()))

    def leaves(self, path: str) -> list[dict[str, Any]]:
        """The definitions that the field at `path` can have: more than one for a union. Raises ConfigurationError."""
        found: list[dict[str, Any]] = [self.root]
        for depth, name in enumerate(path.split(".")):
            inner = [
                leaf
                for record in found
                if record["type"] in RECORDS
                for field in record["fields"]
                if field["name"] == name
                for leaf in self._branches(field["type"])
            ]
            if not inner:
                raise self._no_such(path, ".".join(path.split(".")[:depth]), found)
            found = inner
        return found

    def logical_types(self, path: str) -> set[str | None]:
        """The logical types of the field at `path`, one for each branch that is not null. Raises ConfigurationError."""
        return {leaf.get("logicalType") for leaf in self.leaves(path) if leaf["type"] != "null"}

    def least(self, kind: Type) -> int:
        """The fewest bytes that a value of this type takes. 0 only for types that never take any."""
        definition = self.resolve(kind)
        if isinstance(definition, list):
            return 1 + min(self.least(branch) for branch in definition)
        match definition["type"]:
            case "null":
                return 0
            case "float":
                return 4
            case "double":
                return 8
            case "fixed":
                return int(definition["size"])
            case "record" | "error":
                return self._least_of_record(definition)
        return 1

    def _least_of_record(self, record: dict[str, Any]) -> int:
        name = record["name"]
        if name not in self._least:
            self._least[name] = 1  # met again inside itself: at least its own union's or block's byte
            self._least[name] = min(sum(self.least(field["type"]) for field in record["fields"]), _LEAST_MAX)
        return self._least[name]

    def _branches(self, kind: Type) -> Iterator[dict[str, Any]]:
        definition = self.resolve(kind)
        for branch in definition if isinstance(definition, list) else [definition]:
            resolved = self.resolve(branch)
            assert isinstance(resolved, dict)
            yield resolved

    def _paths(self, record: dict[str, Any], prefix: str, inside: tuple[str, ...]) -> Iterator[str]:
        for field in record["fields"]:
            path = prefix + field["name"]
            kinds = {branch["type"] for branch in self._branches(field["type"])}
            if kinds - RECORDS - {"array", "map", "null"}:
                yield path
            for branch in self._branches(field["type"]):
                if branch["type"] in RECORDS and branch["name"] not in inside:
                    yield from self._paths(branch, path + ".", (*inside, branch["name"]))

    def _no_such(self, path: str, reached: str, found: list[dict[str, Any]]) -> ConfigurationError:
        kinds = sorted({leaf["type"] for leaf in found if leaf["type"] != "null"})
        if found and not RECORDS.intersection(kinds):
            what = f"{reached!r} is of type {' or '.join(kinds)}: paths lead through records only"
            return ConfigurationError(
                f"{self.label}: no field {path!r}: {what}", remedy=did_you_mean(path, self.paths())
            )
        return ConfigurationError(f"{self.label}: no field {path!r}", remedy=did_you_mean(path, self.paths()))

    def _collect(self, kind: Type) -> None:
        """Learn the definitions and count their uses; refuse what the parser lets pass."""
        if isinstance(kind, list):
            for branch in kind:
                if isinstance(self.resolve(branch), list):
                    raise _invalid(self.label, "a union directly inside a union")
                self._collect(branch)
            if not kind:
                raise _invalid(self.label, "a union without branches")
        elif isinstance(kind, str):
            self.uses[kind] += 1
        else:
            self._collect_definition(kind)

    def _collect_definition(self, definition: dict[str, Any]) -> None:
        if definition["type"] in NAMED:
            self.named[definition["name"]] = definition
            self.uses[definition["name"]] += 1
        match definition["type"]:
            case "record" | "error":
                names = Counter(field["name"] for field in definition["fields"])
                if twice := [name for name, count in names.items() if count > 1]:
                    raise _invalid(self.label, f"record {definition['name']} has the field {twice[0]!r} twice")
                for field in definition["fields"]:
                    self._collect(field["type"])
            case "array":
                self._collect(definition["items"])
            case "map":
                self._collect(definition["values"])
            case "fixed":
                size = definition["size"]
                if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _FIXED_SIZE_MAX:
                    raise _invalid(self.label, f"fixed {definition['name']} has the size {size!r}")


def features_schema(
    definition: Mapping[str, Any] | str, keep: Sequence[str] | None = None, drop: Sequence[str] | None = None
) -> dict[str, Any]:
    """The schema of a record of which only the top-level fields `keep`, or all but `drop`, are left, in their order.

    Names are in full. A type that was defined in a field taken away is defined where it is first used now. Raises
    ConfigurationError if both are given, or a name is none of the schema's top-level fields.
    """
    schema = AvroSchema(definition)
    check_names(keep, drop, schema.names(), schema.label)
    return without_fields(schema, kept_names(schema, keep, drop))


def check_names(keep: Sequence[str] | None, drop: Sequence[str] | None, available: Collection[str], label: str) -> None:
    """Raise ConfigurationError if both are given, or a name is not among the top-level fields `available`."""
    if keep is not None and drop is not None:
        raise ConfigurationError(f"{label}: features has both keep and drop", remedy="give one of them")
    for verb, names in (("keep", keep), ("drop", drop)):
        for name in names or ():
            if name not in available:
                raise ConfigurationError(
                    f"{label}: features.{verb} names {name!r}, which is no top-level field",
                    remedy=did_you_mean(name, available),
                )


def kept_names(schema: AvroSchema, keep: Sequence[str] | None, drop: Sequence[str] | None) -> set[str]:
    """The top-level fields that stay; names that the schema does not have are of no effect."""
    return {name for name in schema.names() if (keep is None or name in keep) and (drop is None or name not in drop)}


def without_fields(schema: AvroSchema, kept: Collection[str]) -> dict[str, Any]:
    """The schema's definition with only the top-level fields `kept`."""
    root = {key: value for key, value in schema.root.items() if key != "fields"}
    defined = {root["name"]}
    root["fields"] = [
        {**field, "type": _redefined(field["type"], schema, defined)}
        for field in schema.root["fields"]
        if field["name"] in kept
    ]
    return copy.deepcopy(root)


def _redefined(kind: Type, schema: AvroSchema, defined: set[str]) -> Type:
    """The type, with each named type defined at its first use and named from then on."""
    if isinstance(kind, list):
        return [_redefined(branch, schema, defined) for branch in kind]
    if isinstance(kind, str):
        if kind not in schema.named or kind in defined:
            return kind
        kind = schema.named[kind]
    result = dict(kind)
    if kind["type"] in NAMED:
        if kind["name"] in defined:
            return str(kind["name"])
        defined.add(kind["name"])
    if kind["type"] == "array":
        result["items"] = _redefined(kind["items"], schema, defined)
    elif kind["type"] == "map":
        result["values"] = _redefined(kind["values"], schema, defined)
    elif kind["type"] in RECORDS:
        result["fields"] = [{**field, "type": _redefined(field["type"], schema, defined)} for field in kind["fields"]]
    return result


def _parse(definition: Mapping[str, Any] | str, label: str) -> dict[str, Any]:
    try:
        loaded = json.loads(definition) if isinstance(definition, str) else json.loads(json.dumps(dict(definition)))
        parsed = parse_schema(loaded, _write_hint=False)
    except (
        SchemaParseException,
        UnknownType,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise _invalid(label, f"{type(error).__name__}: {error}") from error
    if isinstance(parsed, dict):
        return parsed
    kind = "a union" if isinstance(parsed, list) else parsed
    raise ConfigurationError(f"{label}: is of type {kind}", remedy="values must be Avro records")


def _invalid(label: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{label}: is not a valid Avro schema: {why}", remedy="correct the schema file")


def item_type(schema: AvroSchema, array: dict[str, Any]) -> tuple[dict[str, Any] | None, int, bool]:
    """The one type of an array's items that is not null (None if there is no such, or none that gives a text), the
    branch that null is (-1 for none), and whether they are a union.
    """
    resolved = schema.resolve(array["items"])
    branches = [schema.resolve(branch) for branch in resolved] if isinstance(resolved, list) else [resolved]
    kinds = [branch["type"] for branch in branches if isinstance(branch, dict)]
    others = [branch for branch in branches if isinstance(branch, dict) and branch["type"] != "null"]
    null = kinds.index("null") if "null" in kinds else -1
    if len(others) != 1 or others[0]["type"] not in _TEXTS:
        return None, null, False
    return others[0], null, isinstance(resolved, list)
