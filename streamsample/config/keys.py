"""All keys that a job file may have, walked from the models: for suggestions, the documentation and tests."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from streamsample.config.job import Job
from streamsample.config.models import Section
from streamsample.config.problems import KeyPath, listed, nearest
from streamsample.config.units import format_duration, format_size
from streamsample.config.values import Kind


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    path: with `<name>` for what the user names and `[]` for a list's items. section: what the key opens, if one.
    owner: the section that it is a key of.
    """

    path: str
    field: FieldInfo
    section: type[Section] | None
    owner: type[Section]

    @property
    def kind(self) -> str:
        """What its value is, in words."""
        return _kind(self.field.annotation, self.field.metadata)

    @property
    def default(self) -> str:
        """As it would be written; empty if the key is required or its default is in its description."""
        value = self.field.default
        if self.field.is_required() or isinstance(value, Section) or value == {}:
            return ""
        if value is None:
            return "null" if "null" in (self.field.description or "") else ""
        if "duration" in self.kind:
            return format_duration(value)
        if isinstance(value, bool):
            return str(value).lower()
        return format_size(value) if "size" in self.kind else str(value)


def yaml_key(name: str, field: FieldInfo) -> str:
    """What a field is called in the file."""
    return field.alias or name


def section_of(annotation: Any) -> tuple[type[Section] | None, str]:
    """The section that values of this type are or contain, and what stands between: "", "<name>" or "[]"."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return section_of(arguments[0])
    if origin in (Union, types.UnionType):
        found = [section_of(argument) for argument in arguments]
        return next((pair for pair in found if pair[0] is not None), (None, ""))
    if origin is Mapping:
        return section_of(arguments[1])[0], "<name>"
    if origin is tuple:
        return section_of(arguments[0])[0], "[]"
    return None, ""


def walk(section: type[Section] = Job, above: str = "") -> Iterator[Key]:
    """Every key below `section`, in the order of the models; those of `samples` are those of `sample`."""
    for name, field in section.model_fields.items():
        inner, between = section_of(field.annotation)
        path = f"{above}{yaml_key(name, field)}"
        yield Key(path, field, inner, section)
        if inner is not None and path != "samples":
            step = {"": ".", "<name>": ".<name>.", "[]": "[]."}[between]
            yield from walk(inner, path + step)


def known_keys(path: KeyPath, root: type[Section] = Job) -> list[str]:
    """What the mapping at `path` below `root` may contain; empty if it is no section."""
    section: type[Section] | None = root
    between = ""
    for step in path:
        if between or isinstance(step, int):  # a name or an index, which the user chooses
            between = ""
            continue
        if section is None:
            return []
        field = next((item for name, item in section.model_fields.items() if yaml_key(name, item) == step), None)
        if field is None:
            return []
        section, between = section_of(field.annotation)
    if section is None or between:
        return []
    return [yaml_key(name, field) for name, field in section.model_fields.items()]


def elsewhere(key: str) -> str | None:
    """Where a key, or the one that it is a slip for, belongs, if one to three places have it."""
    places: dict[str, list[str]] = {}
    for known in walk():
        places.setdefault(known.path.rpartition(".")[2], []).append(known.path)
    found = places.get(key) or places.get(nearest(key, places) or "", [])
    return listed(found, "or") if 0 < len(found) <= 3 else None


def _kind(annotation: Any, metadata: list[Any]) -> str:
    for item in metadata:
        if isinstance(item, Kind):
            return item.name
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(argument, []) for argument in arguments if argument is not type(None))
    if origin is Mapping:
        section = section_of(annotation)[0]
        return "mapping by name" if section else f"{_kind(arguments[0], [])}: {_kind(arguments[1], [])}"
    if origin is tuple:
        return "list"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping"
    return str(getattr(annotation, "__name__", annotation))
