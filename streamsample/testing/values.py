"""Events of a timeline as the bytes that the job's topics hold, and training records as plain values again."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from streamsample.config import Feedback, Input, Job
from streamsample.config.columns import Column, Columns, columns_of
from streamsample.config.problems import Wrong, listed, nearest, show
from streamsample.config.slates import position_of
from streamsample.config.timeline import Step
from streamsample.runtime.plan import Plan

_UNITS = {"s": (1, 1_000), "ms": (1, 1), "us": (1_000, 1), "ns": (1_000_000, 1)}
_FRAME = struct.Struct(">BI")
_NUMBERS = ("int", "long", "float", "double")
_EMPTY: Mapping[str, Any] = {"null": None, "boolean": False, "string": "", "bytes": b"", "array": [], "map": {}} | (
    dict.fromkeys(_NUMBERS, 0)
)


@dataclass(frozen=True, slots=True)
class Raw:
    """A record to read. timestamp: ms since 1970."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp: int


class Values:
    """Makes the records of a job's topics. Fields that an Avro schema has and a timeline does not name get the schema's
    default, else null, 0 or "".
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def topic_of(self, name: str) -> str:
        """The topic that a timeline calls so: `input`, a feedback's name, or its own. Raises Wrong."""
        sources = self._job.sources
        named: dict[str, Any] = {"input": self._job.input, **self._job.feedback}
        if name in named:
            topics = named[name].topics
            if len(topics) == 1:
                return str(topics[0])
            raise Wrong(f"{show(name)} is read from {len(topics)} topics", f"name one of {', '.join(topics)}")
        if name in sources:
            return name
        meant = nearest(name, [*named, *sources])
        raise Wrong(
            f"there is no topic {show(name)}",
            f"did you mean {meant}?" if meant else f"there is {listed(list(named), 'and')}",
        )

    def raw(self, step: Step, start_ms: int, number: int) -> Raw:
        """The record of an event. Raises Wrong. number: feedback whose own id the step does not give gets one of it."""
        assert step.at is not None
        assert step.topic is not None
        topic = self.topic_of(step.topic)
        at = step.at.since(start_ms)
        key = step.key if step.key is not None else step.id
        timestamp = at if step.timestamp is None else step.timestamp.since(start_ms)
        if step.is_raw:
            if not isinstance(step.value, str | None):
                raise Wrong(f"value must be text or null, found {show(step.value)}", "quote it, or use id and with")
            value = None if step.value is None else step.value.encode()
        else:
            value = self._value(topic, step, at, number)
        return Raw(topic, None if key is None else key.encode(), value, timestamp)

    def _value(self, topic: str, step: Step, at: int, number: int) -> bytes:
        source = self._job.sources[topic]
        source = self._job.feedback.get(str(step.topic), source)
        tree: dict[str, Any] = {}
        explode = source.explode if isinstance(source, Input) else None
        if source.time is not None and source.time.field is not None and not _is_below(source.time.field, explode):
            _put(tree, source.time.field, _time(at, source.time.unit))
        own = source.id if isinstance(source, Feedback) and isinstance(source.id, str) else None
        if own is not None:
            _put(tree, own, number if source.format == "avro" else f"{step.topic}-{number}")
        columns = source.refers_to if isinstance(source, Feedback) else source.id
        if explode is None:
            _place(tree, columns, step.id or "")
        else:
            _place_slate(tree, explode, columns_of(columns), step.id or "")
        for path, value in step.with_.items():
            _put(tree, path, value)
        if source.format == "json":
            return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()
        number_of_schema = step.schema_id if step.schema_id is not None else list(source.schemas)[-1]
        if number_of_schema not in source.schemas:
            known = listed([str(each) for each in source.schemas], "and")
            raise Wrong(f"there is no schema {number_of_schema}", f"there is {known}")
        body = _avro(source.schemas[number_of_schema].text, tree)
        return _FRAME.pack(0, number_of_schema or 0) + body if source.confluent else body


def _time(at: int, unit: str) -> Any:
    if unit == "iso8601":
        return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
    times, divided = _UNITS[unit]
    return at * times // divided


def _place(tree: dict[str, Any], columns: Columns | None, identity: str) -> None:
    """Put an id where the job looks for it: that of several fields is written with slashes between them. What is given
    by an expression has fields that only the timeline knows.
    """
    if columns is None:
        return
    if not isinstance(columns, tuple):
        columns, parts = (columns,), [identity]
    else:
        parts = identity.split("/")
    if len(parts) != len(columns):
        raise Wrong(f"the id {identity} has {len(parts)} parts, and the job's has {len(columns)}", "write a/b")
    for column, part in zip(columns, parts, strict=True):
        if isinstance(column, str):
            _put(tree, column, part)


def _is_below(column: Column, explode: str | None) -> bool:
    """Whether a field is one of the elements of the list that is exploded, or their position."""
    if explode is None or not isinstance(column, str):
        return False
    return column.split(".")[0] in (explode, position_of(explode))


def _place_slate(tree: dict[str, Any], explode: str, columns: tuple[Column, ...], identity: str) -> None:
    """The same where a list is exploded: with the id of an element the list has just that one; with what the ids of all
    elements begin with, the timeline gives the list.
    """
    parts = identity.split("/") if len(columns) > 1 else [identity]
    once = tuple(column for column in columns if not _is_below(column, explode))
    if len(parts) != len(columns):
        _place(tree, once if len(once) > 1 else next(iter(once), None), identity)
        return
    element: dict[str, Any] = {}
    for column, part in zip(columns, parts, strict=True):
        if isinstance(column, str) and column != position_of(explode):
            _put(element if _is_below(column, explode) else tree, column, part)
    tree[explode] = list(element.values())


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    place = tree
    for name in above:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise Wrong(f"{path} reaches into a field that is no record")
    place[last] = value


# -- Avro ----------------------------------------------------------------------------------------------


def _avro(schema_text: str, tree: dict[str, Any]) -> bytes:
    import fastavro  # Imported here: a job in JSON does not need it.

    schema = json.loads(schema_text)
    value = _Filling(schema).fit(schema, tree, "")
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, _parsed(schema_text), value)
    except (ValueError, TypeError, OverflowError, struct.error, AttributeError) as error:
        raise Wrong(f"does not fit the Avro schema: {error}") from None
    return out.getvalue()


@cache
def _parsed(schema_text: str) -> Any:
    import fastavro

    return fastavro.parse_schema(json.loads(schema_text))


class _Filling:
    """Makes a plain value fit an Avro schema: fields that are missing, numbers for text, names of types."""

    def __init__(self, schema: Any) -> None:
        self._named: dict[str, Any] = {}
        _name_types(schema, "", self._named)

    def fit(self, schema: Any, value: Any, where: str) -> Any:
        """The value that the schema takes. Raises Wrong."""
        if isinstance(schema, list):
            return self._fit_union(schema, value, where)
        if isinstance(schema, str):
            schema = self._named.get(schema, {"type": schema})
        kind = schema["type"]
        if isinstance(kind, dict | list):
            return self.fit(kind, value, where)
        if kind == "record":
            return self._fit_record(schema, value, where)
        if kind == "array" and isinstance(value, list):
            return [self.fit(schema["items"], item, where) for item in value]
        if kind == "map" and isinstance(value, dict):
            return {name: self.fit(schema["values"], item, f"{where}.{name}") for name, item in value.items()}
        if kind in ("string", "enum") and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if kind in ("int", "long") and isinstance(value, str) and value.lstrip("-").isdigit():
            return int(value)
        if kind in ("bytes", "fixed") and isinstance(value, str):
            return value.encode()
        if value is None and kind != "null":
            raise Wrong(f"{where} is null, and the Avro schema has no null there")
        return value

    def _fit_record(self, schema: Mapping[str, Any], value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong(f"{where} must be a mapping, found {show(value)}")
        fields = {field["name"]: field for field in schema["fields"]}
        for name in value:
            if name not in fields:
                meant = nearest(name, fields)
                path = f"{where}.{name}".lstrip(".")
                raise Wrong(f"the Avro schema has no field {path}", f"did you mean {meant}?" if meant else None)
        made = {}
        for name, field in fields.items():
            path = f"{where}.{name}".lstrip(".")
            if name in value:
                made[name] = self.fit(field["type"], value[name], path)
            else:
                made[name] = self.fit(field["type"], field.get("default", self._empty(field["type"])), path)
        return made

    def _fit_union(self, branches: list[Any], value: Any, where: str) -> Any:
        if value is None and "null" in branches:
            return None
        failed: Wrong | None = None
        for branch in branches:
            if branch == "null" or not self._takes(branch, value):
                continue
            try:
                return self.fit(branch, value, where)
            except Wrong as wrong:
                failed = failed or wrong
        raise failed or Wrong(f"{where}: no type of the Avro union takes {show(value)}")

    def _takes(self, branch: Any, value: Any) -> bool:
        kind = self._kind(branch)
        if isinstance(value, bool):
            return kind == "boolean"
        if isinstance(value, int | float):
            return kind in _NUMBERS or kind in ("string", "enum")
        if isinstance(value, str):
            return kind in ("string", "enum", "bytes", "fixed") or (kind in ("int", "long") and value.isdigit())
        return kind in (("array",) if isinstance(value, list) else ("record", "map"))

    def _kind(self, schema: Any) -> str:
        if isinstance(schema, str):
            schema = self._named.get(schema, {"type": schema})
        kind = schema["type"]
        return self._kind(kind) if isinstance(kind, dict) else str(kind)

    def _empty(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return None if "null" in schema else self._empty(schema[0])
        kind = self._kind(schema)
        named = self._named.get(schema, schema) if isinstance(schema, str) else schema
        if kind == "enum":
            return named["symbols"][0]
        if kind == "fixed":
            return bytes(named["size"])
        return {} if kind == "record" else _EMPTY[kind]


def _name_types(schema: Any, namespace: str, named: dict[str, Any]) -> None:
    """Note every named type below `schema`, by its full and its simple name."""
    if isinstance(schema, list):
        for branch in schema:
            _name_types(branch, namespace, named)
    elif isinstance(schema, dict):
        if "name" in schema and schema.get("type") in ("record", "enum", "fixed"):
            namespace = schema.get("namespace", schema["name"].rpartition(".")[0] or namespace)
            simple = schema["name"].rpartition(".")[2]
            named[simple] = named[f"{namespace}.{simple}"] = schema
        for inner in ("type", "items", "values"):
            if isinstance(schema.get(inner), dict | list):
                _name_types(schema[inner], namespace, named)
        for field in schema.get("fields", ()):
            _name_types(field["type"], namespace, named)


# -- training records ----------------------------------------------------------------------------------


def record_reader(plan: Plan) -> Callable[[bytes], dict[str, Any]]:
    """What reads the values of a plan's training records: their fields, times as numbers."""
    if plan.job.input.format == "json":
        return json.loads
    import fastavro

    schemas = [fastavro.parse_schema(_without_logical_types(schema)) for schema in getattr(plan.encoder, "schemas", ())]
    ids = [plan.job.output.schema_ids[each.id] for each in plan.input.projector.schemas if each.id is not None]

    def read(value: bytes) -> dict[str, Any]:
        body, schema = io.BytesIO(value), schemas[0]
        if ids:
            schema = schemas[ids.index(_FRAME.unpack(body.read(_FRAME.size))[1])]
        found: Any = fastavro.schemaless_reader(body, schema, None)
        return dict(found)

    return read


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _without_logical_types(value) for name, value in schema.items() if name != "logicalType"}
    return [_without_logical_types(item) for item in schema] if isinstance(schema, list) else schema
