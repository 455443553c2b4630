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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro

from streamsample.clock import ManualClock
from streamsample.config import Job, parse_job
from streamsample.config.timeline import parse_line, parse_when
from streamsample.records import RecordBatch
from streamsample.runtime.dead_letters import letters_of
from streamsample.runtime.plan import plan_of
from streamsample.runtime.samples import TaskSettings
from streamsample.runtime.source import Rejected
from streamsample.testing.player import TaskPlayer
from tests.kafka.batches import headers_of

T0 = 1_700_000_000_000
"""What the timelines' 0 is, in ms since the epoch."""
NOW = T0 + 30 * 86_400_000
"""What the clock says when a timeline begins."""
HOUR = 3_600_000
KINDS = {"shown", "clicked", "bought", "returned", "rated"}
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
    return parse_when(text).ms


def events(text: str) -> list[Event]:
    """The events of a timeline, as the lines of a file of tests have them."""
    found = []
    for line in filter(None, (line.split("#")[0].strip() for line in text.splitlines())):
        step = parse_line(line)
        assert step["topic"] in KINDS, line
        found.append(Event(step["topic"], T0 + milliseconds(step["at"]), step["id"], step["with"]))
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


class OneTask(TaskPlayer):
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
        settings = TaskSettings(partitions, 1_000_000, exchange_bytes_max)
        super().__init__(plan_of(self.job), number, settings, ManualClock(NOW))
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
        self.read(self.batch(kind, values, keys, times))

    def batch(
        self,
        kind: str,
        values: list[bytes | None],
        keys: list[bytes | None] | None = None,
        times: list[int] | None = None,
    ) -> RecordBatch:
        """The next records of a topic."""
        return self.batch_of(f"job.{kind}", values, keys, times or [T0] * len(values))

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
            self.set_caught_up(f"job.{kind}", True)
        self.turn()
        return self

    def restarted(self) -> OneTask:
        """Another process takes the task up from its changelog."""
        self.restart()
        return self

    # -- what came of it --------------------------------------------------------------------------

    @property
    def dead(self) -> list[Dead]:
        """The dead letters."""
        return [letter for group in self.rejected for letter in self._letters(group)]

    @property
    def aside(self) -> dict[str, list[Dead]]:
        """What was set aside, by topic."""
        found: dict[str, list[Dead]] = {}
        for topic, group in self.set_aside:
            found.setdefault(topic, []).extend(self._letters(group))
        return found

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
