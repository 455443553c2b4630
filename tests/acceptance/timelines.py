"""Timelines as text, the job that they are played to, and one task in memory to play them.

    0s      shown    a
    2s      clicked  a  event=c1
    1h      shown    end

Each line is an event: when it happened (event time), what it was, of which id, and what else it says. The lines
stand in the order in which they are read. `shown` is a prediction; all else is feedback.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

from streamsample.clock import ManualClock
from streamsample.config import Job, parse_job
from streamsample.kafka.changelog import StoredChunk
from streamsample.records import RecordBatch, Spans, TopicPartition
from streamsample.runtime.dead_letters import letters_of
from streamsample.runtime.exchange import Message
from streamsample.runtime.plan import plan_of
from streamsample.runtime.samples import TaskSettings
from streamsample.runtime.source import Rejected
from streamsample.runtime.task import Task
from streamsample.runtime.training import Encoded
from tests.kafka.batches import headers_of

T0 = 1_700_000_000_000
"""What the timelines' 0 is, in ms since the epoch."""
NOW = T0 + 30 * 86_400_000
"""What the clock says when a timeline begins."""
HOUR = 3_600_000
KINDS = {"shown", "clicked", "bought", "returned", "rated"}
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": HOUR, "d": 24 * HOUR}
_DELETE = object()
IMPRESSION = {
    "type": "record",
    "name": "Impression",
    "fields": [
        {"name": "id", "type": ["null", "string"]},
        {"name": "at", "type": ["null", "long"]},
        {"name": "user", "type": ["null", "string"], "default": None},
        {"name": "country", "type": ["null", "string"], "default": None},
    ],
}


@dataclass(frozen=True)
class Event:
    """One line of a timeline. `at` in ms since the epoch."""

    kind: str
    at: int
    id: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def value(self, number: int) -> dict[str, Any]:
        """Its JSON. number: of which feedback makes its own id, unless the line gives one."""
        own = {} if self.kind == "shown" else {"event": f"{self.kind}-{number}"}
        return {"id": self.id, "at": self.at, **own, **self.more}


def milliseconds(text: str) -> int:
    """`10s` -> 10000, `-1ms` -> -1, `1h+1ms` -> 3600001."""
    parts = re.findall(r"([+-]?\d+)(ms|[smhd])", text)
    assert "".join(number + unit for number, unit in parts) == text, text
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def events(text: str) -> list[Event]:
    """The events of a timeline."""
    found = []
    for line in filter(None, (line.split("#")[0].split() for line in text.splitlines())):
        when, kind, identity, *more = line
        pairs = dict(item.split("=", 1) for item in more)
        values = {key: json.loads(value) if re.match(r"[-\d{\[\"]|null|true|false", value) else value
                  for key, value in pairs.items()}  # fmt: skip
        assert kind in KINDS, line
        found.append(Event(kind, T0 + milliseconds(when), identity, values))
    return found


def later(when: str, kinds: Iterable[str] = ("shown", "clicked")) -> list[Event]:
    """One event of an id of its own on each topic, so that event time comes to `when`. `labels` leaves them out."""
    return [Event(kind, T0 + milliseconds(when), f"later-{kind}-{when}") for kind in kinds]


def job_tree(name: str = "job", changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A job with one target: was the impression clicked within 10 s? changes: by dotted path; None takes a key away."""
    tree: dict[str, Any] = {
        "job": name,
        "kafka": {"bootstrap_servers": "localhost:1"},
        "input": {"topic": f"{name}.shown", "format": "json", "id": "id", "time": {"field": "at", "unit": "ms"}},
        "feedback": {
            "clicks": {
                "topic": f"{name}.clicked",
                "format": "json",
                "id": "event",
                "refers_to": "id",
                "time": {"field": "at", "unit": "ms"},
            }
        },
        "targets": {
            "clicked": {"type": "int", "window": "10s", "rules": [{"from": "clicks", "label": 1}], "if_silent": 0}
        },
        "grace": "1s",
        "output": {"topic": f"{name}.training"},
        "commit_interval": "100ms",
        "metrics": {"host": "127.0.0.1", "port": 0},
    }
    for path, value in (changes or {}).items():
        *above, last = path.split(".")
        place: Any = tree
        for step in above:
            place = place.setdefault(step, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return tree


def orders(name: str = "job") -> dict[str, Any]:
    """Changes to the job: a second feedback, and what it brought within a minute as a second target."""
    feedback = {
        "topic": f"{name}.bought",
        "format": "json",
        "id": "event",
        "refers_to": "id",
        "time": {"field": "at", "unit": "ms"},
    }
    revenue = {"type": "double", "window": "1m", "rules": [{"from": "orders", "field": "amount"}], "if_silent": 0}
    return {"feedback.orders": feedback, "targets.revenue": revenue}


def feedback(kind: str, *more: str) -> dict[str, Any]:
    """A feedback of the topics of these kinds."""
    topics = [f"job.{each}" for each in (kind, *more)]
    return {
        "topic": topics if more else topics[0],
        "format": "json",
        "id": "event",
        "refers_to": "id",
        "time": {"field": "at", "unit": "ms"},
    }


def job_of(tree: Mapping[str, Any], directory: Path | None = None) -> Job:
    return parse_job(json.dumps(tree), "job.yaml", directory)


def avro(schema: Mapping[str, Any], value: Mapping[str, Any]) -> bytes:
    """A bare Avro value."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(dict(schema)), value)
    return out.getvalue()


@dataclass(frozen=True)
class Written:
    """A training record as it was written: everything that a reader of the topic sees."""

    key: bytes
    timestamp: int
    value: bytes

    @property
    def tree(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.value)
        return found


@dataclass(frozen=True)
class Dead:
    """A dead letter."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]

    def why(self, name: str) -> str:
        """One of the headers `streamsample.errors.*`."""
        return (self.headers[f"streamsample.errors.{name}"] or b"").decode()


def label_of(record: Mapping[str, Any], target: str = "clicked") -> str:
    """A label in a few words: `1 explicit`, `0 implicit`, `null implicit`, or `none`."""
    label = record["targets"][target]
    if target not in record["settled"]:
        return "none"
    return f"{json.dumps(label['value'])} {label['source']}"


class OneTask:
    """The task of partition 0, played to by hand. `clock` moves only when told to."""

    def __init__(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        partitions: int = 1,
        number: int = 0,
        exchange_bytes_max: int = 1_000_000,
    ) -> None:
        self.job = job_of(job_tree("job", changes))
        self.plan = plan_of(self.job)
        self.settings = TaskSettings(partitions, 1_000_000, exchange_bytes_max)
        self.clock = ManualClock(NOW)
        self.number = number
        self.task = Task(self.plan, number, self.settings)
        self.written: list[Written] = []
        self.dead: list[Dead] = []
        self.sent: list[Message] = []
        """To other tasks. What a task that is alone tells itself reaches it at once."""
        self.aside: dict[str, list[Dead]] = {}
        self.offsets: dict[str, int] = {}
        self.chunks: list[StoredChunk] = []
        self._feedback = itertools.count()

    # -- playing ----------------------------------------------------------------------------------

    def play(self, timeline: str | Iterable[Event], *, each: bool = False) -> OneTask:
        """Give the events in their order: runs of one kind as one batch, or with `each` every event as its own."""
        read = events(timeline) if isinstance(timeline, str) else list(timeline)
        groups = (
            ([event] for event in read) if each else (list(g) for _, g in itertools.groupby(read, lambda e: e.kind))
        )
        for group in groups:
            values = [json.dumps(event.value(next(self._feedback))).encode() for event in group]
            self.give(group[0].kind, values, [event.id.encode() for event in group], [event.at for event in group])
        return self

    def give(
        self,
        kind: str,
        values: list[bytes | None],
        keys: list[bytes | None] | None = None,
        times: list[int] | None = None,
    ) -> None:
        """Process one batch of raw values."""
        self._caught_up(kind, False)
        self.task.process(self.batch(kind, values, keys, times), self.clock.now_ms(), self.clock.elapsed_ms())
        self.turn()

    def batch(
        self,
        kind: str,
        values: list[bytes | None],
        keys: list[bytes | None] | None = None,
        times: list[int] | None = None,
    ) -> RecordBatch:
        """The next records of a topic."""
        topic, count = f"job.{kind}", len(values)
        first = self.offsets.get(topic, 0)
        self.offsets[topic] = first + count
        return RecordBatch(
            topic=topic,
            partition=self.number,
            offsets=np.arange(first, first + count),
            timestamps=np.array(times if times is not None else [T0] * count, np.int64),
            keys=Spans.of(keys or [None] * count),
            values=Spans.of(values),
            headers=Spans.nulls(count),
            next_offset=first + count,
        )

    def turn(self) -> None:
        """What the worker does after each poll."""
        self.task.advance(self.clock.elapsed_ms())
        output = self.task.take_output()
        self.sent += output.messages
        for encoded in output.records:
            self.written += written_of(encoded)
        for group in output.rejected:
            self.dead += self._letters(group)
        for topic, group in output.aside:
            self.aside.setdefault(topic, []).extend(self._letters(group))
        if self.settings.partitions == 1 and self.sent:
            self.told([message.value for message in self.sent])

    def told(self, messages: Sequence[bytes]) -> None:
        """What tasks have to say comes."""
        self.sent = []
        self.task.process(self.batch("windows", list(messages)), self.clock.now_ms(), self.clock.elapsed_ms())
        self.turn()

    def _letters(self, group: Rejected) -> list[Dead]:
        letters = letters_of(group, self.clock.now_ms(), 1_000_000)
        return [
            Dead(letters.keys[row], letters.values[row], dict(headers_of(letters.headers[row])))
            for row in range(len(letters.keys))
        ]

    def wait(self, duration: str) -> OneTask:
        """Let the clock go on."""
        self.clock.advance(milliseconds(duration))
        self.turn()
        return self

    def caught_up(self, *kinds: str) -> OneTask:
        """The ends of these topics are reached."""
        for kind in kinds:
            self._caught_up(kind, True)
        self.turn()
        return self

    def restarted(self) -> OneTask:
        """Another process takes the task up from its changelog."""
        self.commit()
        changelog = TopicPartition("job.changelog", self.number)
        fresh = Task(self.plan, self.number, self.settings)
        first = self.task.log.position().first  # the topic has no older ones any more
        self.chunks = [chunk for chunk in self.chunks if chunk.sequence >= first]
        fresh.restore(self.chunks, dict(self.task.positions), changelog)
        self.task = fresh
        self.turn()
        return self

    def commit(self) -> None:
        """Note what the task would write to its changelog."""
        pieces, delta = self.task.snapshot()
        body = b"".join(pieces)
        sequence = self.task.log.next_sequence
        self.chunks.append(StoredChunk(sequence, sequence, len(body), body))
        self.task.log.add(sequence, sequence, len(body), delta)
        self.task.log.trim(self.task.acted_watermark)

    def _caught_up(self, kind: str, yes: bool) -> None:
        source = TopicPartition(f"job.{kind}", self.number)
        self.task.watermark.set_caught_up(source, yes, self.clock.elapsed_ms())

    # -- what came of it --------------------------------------------------------------------------

    @property
    def records(self) -> list[dict[str, Any]]:
        return [each.tree for each in self.written]

    def labels(self, target: str = "clicked") -> dict[str, str]:
        """The labels by the prediction's id; an id with two records fails."""
        found: dict[str, str] = {}
        for record in self.records:
            identity = record["features"]["id"]
            if str(identity).startswith("later-"):
                continue
            assert identity not in found, f"two records of {identity}"
            found[identity] = label_of(record, target)
        return found

    def rows(self, target: int = 0) -> dict[str, int]:
        """The ledger's rows of a target that are not 0."""
        assert self.task.join is not None
        return {name: count for name, count in self.task.join.ledger.row_counts(target).items() if count}

    def feedback(self, target: int = 0) -> dict[str, int]:
        """The ledger's feedback of a target that is not 0."""
        assert self.task.join is not None
        return {name: count for name, count in self.task.join.ledger.feedback_counts(target).items() if count}

    @property
    def reasons(self) -> list[str]:
        return [letter.why("class") for letter in self.dead]


def written_of(encoded: Encoded) -> list[Written]:
    """The messages of some encoded records."""
    rows = zip(encoded.keys.to_list(), encoded.timestamps.tolist(), encoded.values.to_list(), strict=True)
    return [Written(key or b"", timestamp, value or b"") for key, timestamp, value in rows]
