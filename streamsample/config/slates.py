"""Records with a list that is exploded: as if each element had come in a record of its own.

With `explode: items` the job sees, in place of a request with 50 items, 50 records: each has the request's fields, one
element under the name of the list, and under the name of the list and `_position` where it stood, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import fastavro

from streamsample.config.avro_fields import AvroFields
from streamsample.config.problems import Wrong, listed

ELEMENTS_MAX: Final = 32_767
"""Elements of a list: a row's place in its record has 16 bits."""


def position_of(field: str) -> str:
    """What the position of an element is called beside it."""
    return f"{field}_position"


def exploded(schema: Mapping[str, Any], field: str, label: str) -> dict[str, Any]:
    """The Avro schema of what the job sees, names in full: `schema`, a valid one of a record, with an element of the
    list `field` in its place and its position behind all other fields. Raises Wrong where that cannot be; label: what
    the schema is called then.
    """
    fields = AvroFields(schema, label)
    kinds = fields.kinds(field)
    if kinds != ["array"]:
        raise Wrong(f"{label}: {field} is {listed(kinds) or 'always null'}, must be an array")
    position = position_of(field)
    if position in fields.names:
        what = f"{label} has a field {position}, which is what the position of an element is called"
        raise Wrong(what, "rename it before the topic")
    root: dict[str, Any] = dict(fastavro.parse_schema(dict(schema), _write_hint=False))
    if any(root["name"] in _names(entry["type"]) for entry in root["fields"]):
        remedy = "publish one record per element"
        raise Wrong(f"not yet: {label} holds records of its own type, so that {field} cannot be exploded", remedy)
    if _items(_type_of(root, field)) == "null":
        raise Wrong(f"{label}: the elements of {field} are always null", "name a list whose elements say something")
    root["fields"] = [
        {**_without(entry, ("default",)), "type": _items(entry["type"])} if entry["name"] == field else entry
        for entry in root["fields"]
    ]
    root["fields"].append({"name": position, "type": "int", "doc": f"Where {field} stood in its list, from 0."})
    return root


def _items(kind: Any) -> Any:
    """The type of the elements of the only array in a type."""
    if isinstance(kind, list):
        return next(_items(branch) for branch in kind if branch != "null")
    return kind["items"] if kind["type"] == "array" else _items(kind["type"])


def _type_of(root: Mapping[str, Any], field: str) -> Any:
    return next(entry["type"] for entry in root["fields"] if entry["name"] == field)


def _names(kind: Any) -> Iterator[str]:
    """The names of all types in a type."""
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, list):
        for branch in kind:
            yield from _names(branch)
    elif kind is not None:
        inner = [kind.get(key) for key in ("type", "items", "values")]
        for each in [*inner, *(entry["type"] for entry in kind.get("fields", ()))]:
            yield from _names(each)


def _without(entry: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}
