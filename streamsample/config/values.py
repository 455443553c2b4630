"""The types of a job file's values: how each is read, checked, described to editors, and named in the documentation.

`${VAR}` is text, whatever it holds; where a number or a flag is wanted it is read as one here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, PlainValidator, ValidationInfo, WithJsonSchema

from streamsample.config.problems import Expanded, Problem, Wrong, WrongTogether, show
from streamsample.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    parse_duration,
    parse_moment,
    parse_size,
)

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
TOPIC_LENGTH_MAX = 249
SCHEMA_BYTES_MAX = 1_000_000
LIMIT_MAX = 2_000_000_000
SEEDS_MAX = 10_000
"""Rows are numbered by 32 bits."""
_VARIABLE_TEXT = {"type": "string", "pattern": r"\$\{"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What the documentation calls a type."""

    name: str


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """An Avro schema that was read with the job. `parsed` is its JSON."""

    path: Path
    text: str = field(repr=False)

    @property
    def parsed(self) -> Any:
        return json.loads(self.text)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        raise Wrong("must be text", f'quote it: "{show(value)}"')
    raise Wrong("must be text")


def read_int(value: Any) -> int:
    """A whole number that fits 64 bits."""
    if isinstance(value, Expanded) and re.fullmatch(r"[+-]?[0-9]{1,30}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong("must be a whole number")
    if not INT64_MIN <= value <= INT64_MAX:
        raise Wrong("does not fit 64 bits")
    return value


def read_number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, Expanded):
        try:
            value = float(value)
        except ValueError:
            raise Wrong("must be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong("must be a number", _share_hint(value))
    if (isinstance(value, int) and abs(value) > 1 << 1000) or not math.isfinite(value):
        raise Wrong("must be a finite number")
    return float(value)


def _share_hint(value: Any) -> str | None:
    percent = re.fullmatch(r"([0-9.]{1,9}) ?%", value, re.ASCII) if isinstance(value, str) else None
    return "a rate is a share: 1 % is 0.01" if percent else None


def read_flag(value: Any) -> bool:
    """True or false."""
    if isinstance(value, Expanded) and value.strip() in ("true", "false"):
        return value.strip() == "true"
    if not isinstance(value, bool):
        raise Wrong("must be true or false")
    return value


def _rate(value: Any) -> float:
    number = read_number(value)
    if not 0 < number <= 1:
        raise Wrong("must be > 0 and <= 1", "a rate is a share: 1 % is 0.01")
    return number


def _ratio(value: Any) -> float:
    number = read_number(value)
    if not 0 <= number <= 1:
        raise Wrong("must be >= 0 and <= 1", "a share: 1 % is 0.01")
    return number


def _rates(value: Any) -> dict[str, Any]:
    """Shares by stratum, in as many levels as there are."""
    if not isinstance(value, Mapping):
        raise Wrong("must be a mapping of strata to shares")
    made: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, item in value.items():
        try:
            made[str(key)] = _rates(item) if isinstance(item, Mapping) else _ratio(item)
        except WrongTogether as inner:
            problems += [problem.under((str(key),)) for problem in inner.problems]
        except Wrong as wrong:
            problems.append(Problem((str(key),), f"{wrong.what}, found {show(item)}", wrong.remedy))
    if problems:
        raise WrongTogether(problems)
    return made


def _seed(value: Any) -> int:
    number = read_int(value)
    if number < 0:
        raise Wrong("must be >= 0")
    return number


def _count(value: Any) -> int:
    number = read_int(value)
    if number < 1:
        raise Wrong("must be >= 1")
    return number


def _limit(value: Any) -> int:
    number = _count(value)
    if number > LIMIT_MAX:
        raise Wrong(f"must be at most {LIMIT_MAX}")
    return number


def _port(value: Any) -> int:
    number = read_int(value)
    if not 0 <= number <= 65_535:
        raise Wrong("must be a port, 0 to 65535", "0 takes any free one")
    return number


def _replication(value: Any) -> int:
    number = read_int(value)
    if not 1 <= number <= 100:
        raise Wrong("must be a number of brokers, 1 to 100", "leave it out for the brokers' default")
    return number


def _positive_duration(value: Any) -> int:
    ms = parse_duration(value)
    if ms == 0:
        raise Wrong("must be longer than nothing")
    return ms


def _schema_id(value: Any) -> int:
    # Keys of a mapping are text.
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) > (1 << 31) - 1:
        raise Wrong("must be a schema id", "a whole number, 0 to 2147483647")
    return int(text)


def _topic(value: Any) -> str:
    text = _text(value)
    if not text:
        raise Wrong("must name a topic")
    if len(text) > TOPIC_LENGTH_MAX:
        raise Wrong(f"is longer than {TOPIC_LENGTH_MAX} characters")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text, re.ASCII) or text in (".", ".."):
        raise Wrong("is not a name for a topic", "letters, digits, dot, underscore and dash")
    return str(text)


def _job_name(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", text, re.ASCII):
        raise Wrong(
            "is not a name for a job",
            "1 to 200 letters, digits, dots, underscores and dashes, the first a letter or digit: topics are named so",
        )
    return str(text)


def _name(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", text, re.ASCII):
        raise Wrong("is not a name", "up to 100 letters, digits and underscores, not beginning with a digit")
    return str(text)


def read_field_path(value: Any) -> str:
    """The path of a field: names joined by dots."""
    text = _text(value)
    if not text:
        raise Wrong("must name a field")
    if len(text) > 1000:
        raise Wrong("is longer than 1000 characters")
    if "[" in text or "]" in text:
        raise Wrong("reaches into a list", "name a field of a record, nested ones by path: device.country")
    if any(not part or part != part.strip() or not part.isprintable() for part in text.split(".")):
        raise Wrong("is not the path of a field", "names joined by dots: device.country")
    return str(text)


def _strata(value: Any) -> tuple[str, ...]:
    """A list of strata by name."""
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("must be a list of strata, not empty")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise Wrong(f"has something that is not the name of a stratum: {show(item)}")
    names = tuple(str(item) for item in value)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Wrong("must name each stratum once", f"{show(twice)} is there twice")
    return names


def _seeds(value: Any) -> tuple[str, ...]:
    """A list of ids, as the data has them: an integer is its decimal text."""
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("must be a list of ids, not empty")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise Wrong(f"has something that is no id: {show(item)}")
    if len(value) > SEEDS_MAX:
        raise Wrong(f"has more than {SEEDS_MAX} ids")
    return tuple(dict.fromkeys(str(item) for item in value))


def _field_names(value: Any) -> tuple[str, ...]:
    """A list of top-level fields."""
    if isinstance(value, str):
        raise Wrong("must be a list", f"write [{value}]")
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("must be a list of fields, not empty")
    for item in value:
        if not isinstance(item, str) or not item:
            raise Wrong(f"has something that is not the name of a field: {show(item)}")
        if "." in item:
            raise Wrong(
                f"names a nested field: {show(item)}", "features are kept and dropped as whole top-level fields"
            )
    if len(set(value)) < len(value):
        raise Wrong("names a field twice")
    return tuple(str(item) for item in value)


def beside_job(text: str, info: ValidationInfo) -> Path:
    """A path of the file system; relative ones start at the job file."""
    directory = (info.context or {}).get("directory", Path())
    try:
        return Path(directory, Path(text).expanduser()).absolute()
    except (RuntimeError, ValueError):
        raise Wrong("is not a path") from None


def _directory(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    text = _text(value)
    if not text or "\0" in text:
        raise Wrong("must be the path of a directory")
    return beside_job(text, info)


def _schema_file(value: Any, info: ValidationInfo) -> SchemaFile:
    if isinstance(value, SchemaFile):
        return value
    text = _text(value)
    if not text or "\0" in text:
        raise Wrong("must be the path of an Avro schema")
    path = beside_job(text, info)
    try:
        raw = path.read_bytes() if path.stat().st_size <= SCHEMA_BYTES_MAX else None
    except FileNotFoundError:
        raise Wrong(f"there is no file {path}", "paths are relative to the job file") from None
    except OSError as error:
        raise Wrong(f"cannot be read: {path}: {error.strerror}") from None
    if raw is None:
        raise Wrong(f"is larger than {SCHEMA_BYTES_MAX} bytes: {path}")
    try:
        schema = raw.decode("utf-8-sig")
        json.loads(schema)
    except UnicodeDecodeError:
        raise Wrong(f"is not UTF-8: {path}") from None
    except json.JSONDecodeError as error:
        raise Wrong(f"is not JSON: {path}:{error.lineno}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise Wrong(f"is nested too deeply: {path}") from None
    return SchemaFile(path, schema)


def _start(value: Any) -> str | int:
    if isinstance(value, str) and value in ("earliest", "latest"):
        return str(value)
    if isinstance(value, str) and not value[:1].isdigit():
        raise Wrong("must be earliest, latest or a time", "a time is 2013-01-01T00:00:00Z, or milliseconds since 1970")
    return parse_moment(value)


def _servers(value: Any) -> tuple[str, ...]:
    hint = 'host:port, several as a list or separated by commas: "a:9092,b:9092"'
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",")]
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("must name a broker", hint)
    for item in value:
        if not isinstance(item, str) or not item:
            raise Wrong("must name a broker", hint)
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", item.strip(), re.ASCII)
        if not found or not 0 < int(found.group(2) or 9092) <= 65_535:
            raise Wrong(f"is not the address of a broker: {show(item)}", hint)
    return tuple(str(item).strip() for item in value)


def _label(value: Any) -> Any:
    """A constant label: its type is checked against the target's."""
    if isinstance(value, Expanded):
        return _label_of_variable(value)
    if isinstance(value, bool | str):
        return value
    return read_int(value) if isinstance(value, int) else read_number(value)


def _label_of_variable(value: Expanded) -> Any:
    text = value.strip()
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        return read_int(value)
    try:
        return read_number(value)
    except Wrong:
        return str(value)


def _classes(value: Any) -> tuple[str, ...]:
    """A list of class names."""
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("must be a list of classes, not empty")
    for item in value:
        if not isinstance(item, str) or not item:
            raise Wrong(f"has something that is not text: {show(item)}", "quote it")
    if len(set(value)) < len(value):
        raise Wrong("names a class twice")
    if "drop" in value:
        raise Wrong('has a class "drop", which in if_silent means that none is written', "name it otherwise")
    return tuple(str(item) for item in value)


def _topics(value: Any) -> tuple[str, ...]:
    """A topic, or a list of them."""
    if not isinstance(value, list | tuple):
        return (_topic(value),)
    if not value:
        raise Wrong("is an empty list", "name a topic")
    found = tuple(_topic(item) for item in value)
    if len(set(found)) < len(found):
        raise Wrong("names a topic twice")
    return found


_DURATION_TEXT = {"type": "string", "pattern": DURATION_PATTERN}
_SIZE_TEXT = {"type": "string", "pattern": SIZE_PATTERN}


def _or_variable(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, _VARIABLE_TEXT]})


Text: TypeAlias = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"}), Kind("text")]
Duration: TypeAlias = Annotated[int, PlainValidator(parse_duration), _or_variable(_DURATION_TEXT), Kind("duration")]
PositiveDuration: TypeAlias = Annotated[
    int, PlainValidator(_positive_duration), _or_variable(_DURATION_TEXT), Kind("duration")
]
Size: TypeAlias = Annotated[int, PlainValidator(parse_size), _or_variable(_SIZE_TEXT), Kind("size")]
Rate: TypeAlias = Annotated[
    float,
    PlainValidator(_rate),
    _or_variable({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    Kind("share, > 0 and <= 1"),
]
Ratio: TypeAlias = Annotated[
    float, PlainValidator(_ratio), _or_variable({"type": "number", "minimum": 0, "maximum": 1}), Kind("share, 0 to 1")
]
Rates: TypeAlias = Annotated[
    Mapping[str, Any],
    PlainValidator(_rates),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["number", "string", "object"]}}),
    Kind("stratum: share"),
]
Seed: TypeAlias = Annotated[
    int, PlainValidator(_seed), _or_variable({"type": "integer", "minimum": 0}), Kind("whole number >= 0")
]
Whole: TypeAlias = Seed
Flag: TypeAlias = Annotated[
    bool, PlainValidator(read_flag), _or_variable({"type": "boolean"}), Kind("`true` or `false`")
]
Count: TypeAlias = Annotated[
    int, PlainValidator(_count), _or_variable({"type": "integer", "minimum": 1}), Kind("whole number >= 1")
]
Limit: TypeAlias = Annotated[
    int,
    PlainValidator(_limit),
    _or_variable({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX}),
    Kind("whole number >= 1"),
]
Port: TypeAlias = Annotated[
    int, PlainValidator(_port), _or_variable({"type": "integer", "minimum": 0, "maximum": 65_535}), Kind("port")
]
Replication: TypeAlias = Annotated[
    int, PlainValidator(_replication), _or_variable({"type": "integer", "minimum": 1}), Kind("number of brokers")
]
SchemaId: TypeAlias = Annotated[
    int, BeforeValidator(_schema_id), WithJsonSchema({"type": "integer", "minimum": 0}), Kind("schema id")
]
Topic: TypeAlias = Annotated[
    str, PlainValidator(_topic), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 249}), Kind("topic")
]
JobName: TypeAlias = Annotated[
    str, PlainValidator(_job_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200}), Kind("name")
]
Name: TypeAlias = Annotated[str, PlainValidator(_name), WithJsonSchema({"type": "string"}), Kind("name")]
FieldPath: TypeAlias = Annotated[
    str, PlainValidator(read_field_path), WithJsonSchema({"type": "string", "minLength": 1}), Kind("field")
]
_FIELD_LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1}
FieldNames: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(_field_names), WithJsonSchema(_FIELD_LIST), Kind("list of top-level fields")
]
Strata: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(_strata), WithJsonSchema(_FIELD_LIST), Kind("list of strata")
]
Seeds: TypeAlias = Annotated[tuple[str, ...], PlainValidator(_seeds), WithJsonSchema(_FIELD_LIST), Kind("list of ids")]
Directory: TypeAlias = Annotated[Path, PlainValidator(_directory), WithJsonSchema({"type": "string"}), Kind("path")]
Schema: TypeAlias = Annotated[
    SchemaFile, PlainValidator(_schema_file), WithJsonSchema({"type": "string"}), Kind("path")
]
Start: TypeAlias = Annotated[
    str | int,
    PlainValidator(_start),
    WithJsonSchema({"type": ["string", "integer"]}),
    Kind("`earliest`, `latest`, a time, or epoch milliseconds"),
]
Servers: TypeAlias = Annotated[
    tuple[str, ...],
    PlainValidator(_servers),
    WithJsonSchema({"anyOf": [{"type": "string"}, _FIELD_LIST]}),
    Kind("host:port, or list of them"),
]
_VALUE = {"type": ["number", "boolean", "string"]}
LabelValue: TypeAlias = int | float | bool | str
Label: TypeAlias = Annotated[
    LabelValue, PlainValidator(_label), WithJsonSchema(_VALUE), Kind("value of the target's type")
]
IfSilent: TypeAlias = Annotated[
    LabelValue | None,
    PlainValidator(lambda value: None if value is None else _label(value)),
    WithJsonSchema({"type": ["number", "boolean", "string", "null"]}),
    Kind("value of the target's type, null, or `drop`"),
]
Classes: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(_classes), WithJsonSchema(_FIELD_LIST), Kind("list of texts")
]
Topics: TypeAlias = Annotated[
    tuple[str, ...],
    PlainValidator(_topics),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 249}, _FIELD_LIST]}),
    Kind("topic, or list of topics"),
]
