"""The sections of a job file, as frozen models. Attributes that hold a time span end in `_ms`; their keys do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from streamsample.config import kafka_options
from streamsample.config.columns import Column, ColumnsSetting, Expression, ExpressionText
from streamsample.config.problems import KeyPath, Problem, Wrong, WrongTogether, listed, nearest, show
from streamsample.config.slates import ELEMENTS_MAX
from streamsample.config.values import (
    Count,
    Directory,
    Duration,
    FieldNames,
    FieldPath,
    Flag,
    Kind,
    Limit,
    Port,
    Ratio,
    Replication,
    Schema,
    SchemaFile,
    SchemaId,
    Seed,
    Servers,
    Size,
    Topic,
    Topics,
    beside_job,
    read_flag,
    read_int,
    read_number,
)
from streamsample.errors import ConfigurationError

Format = Literal["avro", "json"]
Framing = Literal["none", "confluent"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]

COMMIT_INTERVAL_MS_MAX = 5_000
"""A transaction must end well before its time-out of 10 s, which bounds how long a killed worker blocks its readers."""


class Section(BaseModel):
    """A mapping of the job file. `problems` says what does not fit together in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def problems(self) -> Iterator[Problem]:
        """What is wrong although each value is right by itself; paths are relative to this section."""
        yield from ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = tuple(self.problems())
        if found:
            raise WrongTogether(found)
        return self


class Kafka(Section):
    """How the brokers are reached: `bootstrap_servers`, and options of kafka-python."""

    model_config = ConfigDict(extra="allow", json_schema_extra=lambda schema: _describe_options(schema))

    bootstrap_servers: Servers = Field(description="the brokers to ask first")

    @model_validator(mode="before")
    @classmethod
    def _options_are_known(cls, given: Any) -> Any:
        """Before the rest, so that a mistyped `bootstrap_servers` is named along with its absence."""
        if not isinstance(given, dict):
            return given
        options = [_option_problem(name, value) for name, value in given.items() if name != "bootstrap_servers"]
        found = [problem for problem in options if problem is not None]
        if found and "bootstrap_servers" not in given:
            found.append(Problem(("bootstrap_servers",), "is required"))
        if found:
            raise WrongTogether(found)
        return given

    @model_validator(mode="after")
    def _resolve(self, info: ValidationInfo) -> Self:
        """Give each option its type. Runs after `problems` has found nothing, so that all of them can be read."""
        given = self.__pydantic_extra__
        if given is not None:
            given.update({name: _option_value(name, value, info) for name, value in given.items()})
        return self

    def options(self, client: kafka_options.Client) -> dict[str, Any]:
        """Keyword arguments for one of kafka-python's clients, `bootstrap_servers` included.

        Raises ConfigurationError if a file is not there: not when the job file is read, for what only looks at it
        (tests without a broker) needs no certificates.
        """
        given = self.model_extra or {}
        chosen = {name: value for name, value in given.items() if client in kafka_options.OPTIONS[name].clients}
        for name, value in chosen.items():
            if kafka_options.OPTIONS[name].kind == "path" and not Path(value).is_file():
                raise ConfigurationError(
                    f"kafka.{name}: there is no file {value}", remedy="paths are relative to the job file"
                )
        return {"bootstrap_servers": list(self.bootstrap_servers), **chosen}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "bootstrap_servers", self.bootstrap_servers
        for name, value in (self.model_extra or {}).items():
            yield name, "..." if kafka_options.OPTIONS[name].secret else value

    def problems(self) -> Iterator[Problem]:
        given = self.model_extra or {}
        mechanism, protocol = given.get("sasl_mechanism"), given.get("security_protocol", "PLAINTEXT")
        sasl = isinstance(protocol, str) and protocol.startswith("SASL")
        if mechanism is not None and not sasl:
            remedy = "set security_protocol to SASL_SSL or SASL_PLAINTEXT"
            yield Problem(("sasl_mechanism",), "has no effect without a SASL protocol", remedy)
        if sasl and mechanism is None:
            yield Problem(("security_protocol",), "needs sasl_mechanism", f"one of {listed(kafka_options.MECHANISMS)}")
        if isinstance(mechanism, str) and (mechanism == "PLAIN" or mechanism.startswith("SCRAM")):
            for name in ("sasl_plain_username", "sasl_plain_password"):
                if name not in given:
                    yield Problem(("sasl_mechanism",), f"{mechanism} needs {name}", f"set kafka.{name}")
        if ("ssl_certfile" in given) != ("ssl_keyfile" in given):
            one, other = ("ssl_certfile", "ssl_keyfile") if "ssl_certfile" in given else ("ssl_keyfile", "ssl_certfile")
            yield Problem((one,), f"needs {other} too")


def _option_problem(name: str, value: Any) -> Problem | None:
    """What is wrong with one option of kafka-python."""
    path: KeyPath = (name,)
    if name in kafka_options.OWNED:
        return Problem(path, "is not for the job to set", kafka_options.OWNED[name], at_key=True)
    option = kafka_options.OPTIONS.get(name)
    if option is None:
        meant = kafka_options.JAVA_NAMES.get(name) or nearest(
            name.replace(".", "_"), [*kafka_options.OPTIONS, "bootstrap_servers"]
        )
        remedy = f"did you mean {meant}?" if meant else "options are named as in kafka-python"
        return Problem(path, "unknown option", remedy, at_key=True)
    try:
        if option.kind == "int" and read_int(value) < 0:
            return Problem(path, f"must be >= 0, found {show(value)}")
        if option.kind == "bool":
            read_flag(value)
    except Wrong as wrong:
        return Problem(path, f"{wrong.what}, found {show(value)}", wrong.remedy)
    if option.kind in ("text", "path") and not (isinstance(value, str) and value):
        return Problem(path, "must be text, not empty", "quote it")
    if option.choices and value not in option.choices:
        return Problem(path, f"must be {listed(option.choices)}, found {show(value)}")
    return None


def _option_value(name: str, value: Any, info: ValidationInfo) -> str | int | bool:
    kind = kafka_options.OPTIONS[name].kind
    if kind == "int":
        return read_int(value)
    if kind == "bool":
        return read_flag(value)
    return str(beside_job(value, info)) if kind == "path" else str(value)


def _describe_options(schema: dict[str, Any]) -> None:
    """Add kafka-python's options to the section's JSON Schema."""
    types = {"text": ["string"], "path": ["string"], "int": ["integer", "string"], "bool": ["boolean", "string"]}
    for name, option in sorted(kafka_options.OPTIONS.items()):
        entry: dict[str, Any] = {"description": option.meaning, "type": types[option.kind]}
        if option.choices:
            entry = {"description": option.meaning, "anyOf": [{"enum": list(option.choices)}, {"pattern": r"\$\{"}]}
        schema["properties"][name] = entry
    schema["additionalProperties"] = False


class Time(Section):
    """Where a record's event time stands."""

    field: FieldPath | None = Field(None, description="the field that holds the event time")
    expression: ExpressionText | None = Field(None, description="an expression that gives it, instead of a field")
    unit: TimeUnit = Field(
        description="what it counts since 1970; `iso8601`: it is text, as 2013-01-01T00:00:00Z or with another offset"
    )

    @property
    def column(self) -> Column:
        """The field, or the expression."""
        return Expression(self.expression or "") if self.field is None else self.field

    def problems(self) -> Iterator[Problem]:
        if self.field is None and self.expression is None:
            yield Problem((), "names no field", "write {field: <field>, unit: ms}")
        if self.field is not None and self.expression is not None:
            yield Problem(("expression",), "is given beside field", "give one of the two", at_key=True)


class OneTopic(Section):
    """What is read from one topic."""

    topic: Topic = Field(description="the topic")

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics, by name."""
        return (self.topic,)


class SomeTopics(Section):
    """What is read from one topic or several."""

    topic_or_list: Topics = Field(alias="topic", description="the topic, or a list of topics with the same fields")

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics, by name."""
        return tuple(sorted(self.topic_or_list))


class Source(Section):
    """What is read: its format and its fields."""

    format: Format = Field(description="how values are encoded")
    schema_file: Schema | None = Field(None, description="the Avro schema, if all records have the same")
    schema_files: Mapping[SchemaId, Schema] = Field(
        {}, description="the Avro schemas by the id in the record: Confluent's framing"
    )
    framing: Framing | None = Field(
        None, description="what stands before the Avro value; default: `confluent` with `schema_files`, else `none`"
    )
    where: ExpressionText | None = Field(
        None, description="an expression: records of which it is false are passed over, and counted; default: all count"
    )
    id: ColumnsSetting | None = Field(
        None, description="the field that holds the record's id, or several that make it together; default: see below"
    )
    time: Time | None = Field(None, description="the event time; default: the record's timestamp")
    rekey: Flag = Field(
        False,
        description="whether the topic is keyed or partitioned otherwise than by the prediction's id: then its records "
        "go through a topic of the job's own, partitioned by that id",
    )

    @property
    def confluent(self) -> bool:
        """Whether values begin with a zero byte and a schema id of four."""
        return bool(self.schema_files) and self.framing != "none"

    @property
    def schemas(self) -> dict[int | None, SchemaFile]:
        """The writer schemas by id, under None if values carry no id; empty for JSON."""
        if self.schema_file is not None:
            return {None: self.schema_file}
        if self.framing == "none" and self.schema_files:
            only = next(iter(self.schema_files.values()))
            return {None: only}
        return {number: schema for number, schema in self.schema_files.items()}  # noqa: C416 - the key's type widens

    def problems(self) -> Iterator[Problem]:
        if self.format == "json":
            for key, given in (("schema_file", self.schema_file), ("schema_files", self.schema_files)):
                if given:
                    yield Problem((key,), "has no meaning for JSON", "remove it, or set format: avro", at_key=True)
            if self.framing == "confluent":
                yield Problem(("framing",), "not yet: JSON with a schema id", "write bare JSON", not_yet=True)
            return
        if self.schema_file is not None and self.schema_files:
            yield Problem(("schema_files",), "is given beside schema_file", "give one of the two", at_key=True)
        elif self.schema_file is None and not self.schema_files:
            yield Problem((), "Avro needs its schema", "set schema_file: my.avsc, or schema_files: {<id>: my.avsc}")
        elif self.framing == "confluent" and not self.schema_files:
            yield Problem(("framing",), "confluent needs the schemas by id", "schema_files: {<id>: my.avsc}")
        elif self.framing == "none" and len(self.schema_files) > 1:
            remedy = "give one schema, or leave framing out if the records carry ids"
            yield Problem(("framing",), "without ids in the records the schemas cannot be told apart", remedy)


class Input(Source, OneTopic):
    """The topic of predictions."""

    explode: FieldPath | None = Field(
        None, description="a list whose elements are a prediction each: see below; default: a record is a prediction"
    )
    idle_timeout_ms: Duration | None = Field(
        60_000, alias="idle_timeout", description="after what silence of the whole topic its time goes on; null: never"
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.explode is not None and "." in self.explode:
            yield Problem(("explode",), "not yet: a list below another field", "name a top-level field", not_yet=True)


class Feedback(Source, SomeTopics):
    """One kind of what became known afterwards."""

    refers_to: ColumnsSetting | None = Field(
        None, description="the field or fields that hold the id of the prediction; default: the record's key"
    )
    idle_timeout_ms: Duration | None = Field(
        None,
        alias="idle_timeout",
        description="after what silence of the whole topic its time goes on; null: never, for the pipeline may be dead",
    )


class Features(Section):
    """Which of the input's top-level fields the training record carries."""

    keep: FieldNames | None = Field(None, description="these only")
    drop: FieldNames | None = Field(None, description="all but these")

    def problems(self) -> Iterator[Problem]:
        if self.keep is not None and self.drop is not None:
            yield Problem(("drop",), "is given beside keep", "give one of the two", at_key=True)
        if self.keep is None and self.drop is None:
            yield Problem((), "says nothing", "set keep: [...] or drop: [...], or leave features out")


class Split(Section):
    """Into which parts the training records fall: `{by: user_id, train: 0.8, test: 0.2}`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=lambda schema: schema.update(
            additionalProperties={
                "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string"}]
            }
        ),
    )

    by: ColumnsSetting | None = Field(
        None, description="the field or fields whose records stay together; default: the id"
    )
    seed: Seed = Field(0, description="another seed makes another split")

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part, in the order of the file."""
        return {name: read_number(value) for name, value in (self.model_extra or {}).items()}

    def problems(self) -> Iterator[Problem]:
        total = 0.0
        for name, value in (self.model_extra or {}).items():
            if not name or len(name) > 100 or not name.isprintable():
                yield Problem((name,), "is not a name for a part", at_key=True)
            try:
                share = read_number(value)
            except Wrong as wrong:
                yield Problem((name,), f"{wrong.what}, found {show(value)}", wrong.remedy)
                total = math.nan
                continue
            if not 0 < share <= 1:
                yield Problem((name,), f"must be > 0 and <= 1, found {show(value)}", "a share: 80 % is 0.8")
                total = math.nan
            total += share
        if not self.model_extra:
            yield Problem((), "names no parts", "write {train: 0.8, validation: 0.1, test: 0.1}")
        elif abs(total - 1) > 1e-9:  # false for nan: then the share itself is reported
            yield Problem((), f"the shares sum to {round(total, 12)}", "they must sum to 1")


class Output(Section):
    """Where training records go."""

    topic: Topic = Field(description="the topic")
    schema_ids: Mapping[SchemaId, SchemaId] = Field(
        {}, description="for each schema id of the input that of its training records; needed iff the input has ids"
    )
    compression: Compression = Field("lz4", description="the codec of the record batches")


class DeadLetters(Section):
    """Where records go that cannot be used, and how many may."""

    topic: Topic | None = Field(None, description="the topic; default: `<job>.dead-letters`")
    max_ratio: Ratio = Field(0.01, description="the share of unusable records above which the job stops")
    min_count: Count = Field(1_000, description="how many records must be read before the share is judged")
    max_bytes: Size = Field(500_000, description="what is larger is cut, and a header says so")
    replication: Replication | None = Field(None, description="copies if the topic is made; default: the brokers'")


class SetAside(Section):
    """Where feedback goes that no label could use."""

    topic: Topic = Field(description="the topic")


class Limits(Section):
    """What one task, that is one partition number, may hold at most."""

    open_rows_max: Limit = Field(
        50_000_000, description="predictions whose windows are open; more are dropped, and counted"
    )
    waiting_max: Limit = Field(
        5_000_000, description="feedback that waits for its prediction; more is dropped, and counted"
    )
    windows_max: Limit = Field(10_000, description="windows of samples that are open; more stop the job")
    strata_max: Limit = Field(
        1_000, description="places that the strata of a windowed sample share which `sample.strata` does not name"
    )
    elements_max: Limit = Field(
        1_000, description="elements of a list that `input.explode` names; a record with more is a dead letter"
    )
    ahead_bytes_max: Size = Field(
        64 << 20, description="bytes that a partition may be read ahead of the slowest before it is paused"
    )

    def problems(self) -> Iterator[Problem]:
        if self.elements_max > ELEMENTS_MAX:
            what = f"must be at most {ELEMENTS_MAX:,}, found {self.elements_max}"
            yield Problem(("elements_max",), what, "publish longer lists in several records")


class Changelog(Section):
    """The topic that the state is restored from."""

    topic: Topic | None = Field(None, description="the topic; default: `<job>.changelog`")
    replication: Replication | None = Field(None, description="copies if the topic is made; default: the brokers'")


class Metrics(Section):
    """Where `/metrics`, `/livez` and `/readyz` are served."""

    host: Annotated[str, Kind("address")] = Field("0.0.0.0", description="the address to listen on", min_length=1)
    port: Port = Field(9464, description="the port; 0 takes any free one")


class State(Section):
    """Where a worker keeps what makes a restart faster."""

    directory: Directory | None = Field(
        None, description="a directory of this job's own; default: `.streamsample/<job>` where the job is started"
    )
    memory_limit_bytes: Size | None = Field(
        None,
        alias="memory_limit",
        description="how much of the open rows a worker holds in memory; of what is beyond it, the payload lies in "
        "files of the directory; default: all in memory",
    )
