"""Tests of a job, beside its job file: timelines of events at times of their own, and the records to come of them.

load_timelines("configs/shop.tests.yaml") -> Timelines, or a ConfigurationError as for a job file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema, model_validator

from streamsample.config.document import Document, Sort, read_document
from streamsample.config.load import error_of, explain
from streamsample.config.models import Section
from streamsample.config.problems import Problem, Wrong, listed, show
from streamsample.config.units import MS_OF, format_duration, parse_moment
from streamsample.config.values import Count, Kind, PositiveDuration, Text

SUFFIX = ".tests.yaml"
EPOCH_MS = 1_767_225_600_000
"""2026-01-01, midnight UTC: the default of `start`."""
PARTITIONS_MAX = 64
_SORT = Sort("a file of tests", '"tests:", a list', "it needs tests: a list of timelines")
_TOKEN = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')
_PLAIN = re.compile(r'-?\d|"|\[|\{|true$|false$|null$')
_SPAN = re.compile(r"([+-]?)(\d+)([a-z]+)")


class When(NamedTuple):
    """A time of a timeline, ms: since its start, or if `absolute` since 1970."""

    ms: int
    absolute: bool = False

    def since(self, start_ms: int) -> int:
        """Milliseconds since 1970. start_ms: the timeline's start."""
        return self.ms if self.absolute else start_ms + self.ms


def parse_when(value: Any) -> When:
    """`10s`, `-1ms`, `1h30m`, `1h+1ms`: since the start of the timeline; or a time as `start` of a job file has it."""
    hint = "write 10s, -1ms, 1h+1ms (since `start`), or 2026-01-01T00:00:10Z"
    if not isinstance(value, str):
        raise Wrong("is not a time", hint)
    spans = _SPAN.findall(value)
    if not spans or "".join("".join(span) for span in spans) != value:
        try:
            return When(parse_moment(value), True)
        except Wrong as wrong:
            raise Wrong(wrong.what, hint) from None
    if any(unit not in MS_OF for _, _, unit in spans):
        raise Wrong("has an unknown unit", "ms, s, m, h, d or w")
    total, negative = 0, False
    for sign, count, unit in spans:
        negative = sign == "-" if sign else negative
        total += (-1 if negative else 1) * int(count[:20]) * MS_OF[unit]
    return When(total)


def said(ms: int) -> str:
    """A time since the start as `parse_when` reads it."""
    return ("-" if ms < 0 else "") + format_duration(abs(ms))


WhenText: TypeAlias = Annotated[
    When, PlainValidator(parse_when), WithJsonSchema({"type": "string"}), Kind("time since `start`, or a time")
]


def _identity(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Wrong("is not an id", "text, or a whole number")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise Wrong("must be a list of topics")


Identity: TypeAlias = Annotated[str, PlainValidator(_identity), WithJsonSchema({"type": ["string", "integer"]})]
Names: TypeAlias = Annotated[
    tuple[str, ...], PlainValidator(_names), WithJsonSchema({"type": "array", "items": {"type": "string"}})
]
Anything: TypeAlias = Annotated[Any, WithJsonSchema({}), Kind("anything")]


class Step(Section):
    """What happens next: an event that is read, or something that is done. Also written as one line of text."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _or_text(schema))
    ACTIONS: ClassVar = ("advance", "wait", "caught_up", "restart")

    at: WhenText | None = Field(None, description="the event's time, since `start`, such as `10s`, `-1ms` or `1h+1ms`")
    topic: Text | None = Field(None, description="`input`, or the feedback's name, or the name of a topic")
    id: Identity | None = Field(None, description="of the prediction; in a feedback, of the one that it refers to")
    with_: Mapping[str, Anything] = Field({}, alias="with", description="the record's other fields, nested by `a.b`")
    partition: int | None = Field(None, ge=0, description="where it lies; default: where its key belongs")
    key: Text | None = Field(None, description="the record's key; default: the id")
    timestamp: WhenText | None = Field(None, description="the record's timestamp; default: `at`")
    value: Anything = Field(None, description="the value as text, in place of one that is made of fields; null: none")
    schema_id: int | None = Field(None, description="with several Avro schemas, the writer's; default: the last")
    advance: WhenText | None = Field(None, description="event time in all topics goes on to there, without a record")
    wait: PositiveDuration | None = Field(None, description="so much time passes on the clock")
    caught_up: Names | None = Field(None, description="the ends of these topics are reached: they are silent now")
    restart: bool = Field(False, description="another process takes over, from the changelog")

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, given: Any) -> Any:
        return parse_line(given) if isinstance(given, str) else given

    @property
    def is_raw(self) -> bool:
        """Whether the value was given as it is."""
        return "value" in self.model_fields_set

    def problems(self) -> Iterator[Problem]:
        done = [name for name in self.ACTIONS if getattr(self, name) not in (None, False)]
        if self.at is None:
            if len(done) != 1:
                remedy = f'"10s input a" is an event, "wait 5s" an action ({listed(self.ACTIONS)})'
                yield Problem((), "says neither when an event happens nor what is done", remedy)
            elif self.topic is not None or self.id is not None:
                yield Problem((), f"{done[0]} has no topic and no id", "make two steps of it")
            return
        if done:
            yield Problem((done[0],), "is given beside an event", "make two steps of it", at_key=True)
        if self.topic is None:
            yield Problem((), "names no topic", "topic: input, or the name of a feedback")
        if self.id is None and not self.is_raw:
            yield Problem((), "has no id", "give id, or the whole value")


def parse_line(text: str) -> dict[str, Any]:
    """A step in one line, as the mapping that says the same. Raises Wrong.

    10s input a country=DE price=2.5      an event: when, topic (`topic@1`: of that partition), id, fields
    advance 1h | wait 5s | caught_up input clicks | restart
    """
    words = _TOKEN.findall(text)
    if "".join(words) != re.sub(r"\s", "", text) and '"' not in text:
        raise Wrong("cannot be read")
    if not words:
        raise Wrong("says nothing", '"10s input a" is an event')
    first, *rest = words
    if first == "restart" and not rest:
        return {"restart": True}
    if first == "caught_up":
        return {"caught_up": rest}
    if first in ("advance", "wait"):
        if len(rest) != 1:
            raise Wrong(f"{first} needs one duration", f'"{first} 5s"')
        return {first: rest[0]}
    if len(rest) < 2:
        raise Wrong("is not an event", 'an event is "10s input a": when, topic, id, and fields such as country=DE')
    topic, _, partition = rest[0].partition("@")
    made: dict[str, Any] = {"at": first, "topic": topic, "id": _unquoted(rest[1]), "with": {}}
    if partition:
        if not partition.isdigit():
            raise Wrong(f"{partition} is not a partition", f'"{topic}@1"')
        made["partition"] = int(partition)
    for word in rest[2:]:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise Wrong(f"{word} is not a field", 'fields are "name=value", text with spaces in quotes')
        made["with"][name] = _value(value)
    return made


def _unquoted(word: str) -> str:
    return str(_value(word)) if word.startswith('"') else word


def _value(word: str) -> Any:
    """JSON where it looks so, else the text itself."""
    if _PLAIN.match(word):
        try:
            return json.loads(word)
        except ValueError:
            return word
    return word


def _or_text(schema: dict[str, Any]) -> None:
    described = dict(schema)
    schema.clear()
    schema.update({"anyOf": [{"type": "string"}, described]})


class Expected(Section):
    """A training record to come: its id, labels by the target's name, and other parts by theirs."""

    model_config = ConfigDict(extra="allow", json_schema_extra=lambda schema: schema.update(additionalProperties=True))
    PARTS: ClassVar = (
        *("record_id", "revision", "supersedes", "state", "features", "settled", "weights", "sampling", "split"),
        *("lineage", "closed_by"),
    )

    id: Identity = Field(description="of the prediction: the record's key")
    at: WhenText | None = Field(None, description="the record's timestamp")
    targets: Mapping[str, Anything] = Field({}, description="labels by target, if one is named like a part")

    @property
    def parts(self) -> dict[str, Any]:
        """What is said of parts of the record that are not labels."""
        return {name: value for name, value in (self.model_extra or {}).items() if name in self.PARTS}

    @property
    def labels(self) -> dict[str, Any]:
        """What is said of labels, by target."""
        return {**self.targets, **{n: v for n, v in (self.model_extra or {}).items() if n not in self.PARTS}}


class ExpectedDead(Section):
    """A dead letter to come."""

    topic: Text = Field(description="`input`, or the feedback's name, or the name of a topic")
    id: Identity | None = Field(None, description="of the event")
    reason: Text | None = Field(None, alias="class", description="why: `late`, `future`, `missing_id` ...")
    stage: Text | None = Field(None, description="where: `decode`, `identify`, `time`, `sample`, `label`, `output`")


class Timeline(Section):
    """One test."""

    name: Text = Field(description="what it shows")
    partitions: Count = Field(1, description="of every topic")
    now: WhenText | None = Field(
        None, description="what the clock says at the beginning; default: the last event's time"
    )
    close: bool = Field(True, description="at the end, let event time pass everything that is open")
    events: tuple[Step, ...] = Field(description="what happens, in the order in which it is read")
    expect: tuple[Expected, ...] = Field(description="the records to come, all of them; those of an id in their order")
    dead_letters: tuple[ExpectedDead, ...] = Field((), description="the dead letters to come, all of them")
    counts: Mapping[str, Anything] = Field({}, description="counters at the end, those that matter")

    def problems(self) -> Iterator[Problem]:
        if self.partitions > PARTITIONS_MAX:
            yield Problem(("partitions",), f"must be at most {PARTITIONS_MAX}, found {show(self.partitions)}")
        for number, step in enumerate(self.events):
            if step.partition is not None and step.partition >= self.partitions:
                what = f"there is no partition {step.partition}"
                yield Problem(("events", number), what, f"set partitions: {step.partition + 1} or more")


def _start(value: Any) -> int:
    return parse_moment(value)


class Timelines(Section):
    """A file of tests."""

    start: Annotated[int, PlainValidator(_start), WithJsonSchema({"type": "string"}), Kind("a time")] = Field(
        EPOCH_MS, description="what `0s` is; default: 2026-01-01"
    )
    tests: tuple[Timeline, ...] = Field(description="the timelines")

    def problems(self) -> Iterator[Problem]:
        if not self.tests:
            yield Problem(("tests",), "is an empty list", "write a timeline")


@dataclass(frozen=True, slots=True)
class TimelineFile:
    """A file of tests, and where in it everything stands."""

    timelines: Timelines
    document: Document

    def line(self, *path: str | int) -> int:
        """The line of what stands at `path`."""
        return self.document.position(Problem(path, "")).line


def beside(job_file: Path) -> Path:
    """Where the tests of a job are looked for: `shop.tests.yaml` beside `shop.yaml`."""
    return job_file.with_name(job_file.stem + SUFFIX)


def load_timelines(path: Path, environ: Mapping[str, str] | None = None) -> TimelineFile:
    """The tests in the file at `path`. Raises ConfigurationError with a line for each problem."""
    document = read_document(path, os.environ if environ is None else environ, _SORT)
    problems = list(document.problems)
    try:
        timelines = Timelines.model_validate(document.tree)
    except ValidationError as error:
        for group in explain(error, Timelines):
            problems += group
    else:
        if not problems:
            return TimelineFile(timelines, document)
    raise error_of(document, problems)
