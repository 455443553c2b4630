"""A deterministic stream of predictions and feedback, and the training records that it must give, by definition.

Everything that happens to real streams is in it: disorder within the grace, duplicates (redelivered predictions and
feedback), several feedback for one prediction, orphans, feedback before its prediction or after its window, ids that
are prefixes of others, predictions again under an id whose windows have passed, and records that cannot be used.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import fastavro

from streamsample.kafka.partitioner import partitions_of
from streamsample.records import Spans
from streamsample.runtime.rows import RecordIds
from tests.labels.oracle import Feedback, Label, Outcome, Prediction, Rule, Target, join

Encoding = Literal["json", "avro"]
SourceName = Literal["predictions", "clicks", "orders"]
SOURCES: tuple[SourceName, ...] = ("predictions", "clicks", "orders")

START_MS = 1_700_000_000_000
WINDOW_MS = {"clicked": 20_000, "revenue": 45_000}
GRACE_MS = 3_000
LATE_HORIZON_MS = 10_000
ORDERED_MS = 10_000
"""Of a job that revises: within what an order makes more of a click."""
CORRECTIONS_MS = 15_000
SLICE_MS = GRACE_MS // 2
"""Of event time. Records are out of order by less than that, and so are the partitions when slices are published one
after the other."""
EARLY_MS = 2_000
"""How much earlier than its prediction anything is stamped, at most."""

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Prediction",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": ["null", "string"]},
        {"name": "ts", "type": "long"},
        {"name": "score", "type": "double"},
        {"name": "note", "type": "string"},
    ],
}


@dataclass(frozen=True)
class Event:
    """One message. ts: its event time in ms, None if the job cannot use it; `stage` then says where it is refused.

    id: of the prediction; own: the feedback's id; quarters: an order's amount in quarters, so that it is exact.
    """

    source: SourceName
    ts: int | None
    id: str
    value: bytes | None
    stamp: int
    own: str = ""
    quarters: int = 0
    stage: str | None = None


@dataclass(frozen=True)
class Placed:
    """An event where it lies in Kafka."""

    event: Event
    partition: int
    offset: int

    @property
    def place(self) -> int:
        """Ascending by partition, then offset."""
        return (self.partition << 48) + self.offset


def where(place: int) -> dict[str, int]:
    """A place as records name it."""
    return {"partition": place >> 48, "offset": place % (1 << 48)}


@dataclass(frozen=True)
class Dead:
    """A dead letter by where it came from and where it was refused."""

    source: SourceName
    partition: int
    offset: int
    stage: str


@dataclass(frozen=True)
class Expected:
    """What one job must have brought out. records: by (partition, key, timestamp, value), how often: once each.

    A value is the JSON text; for Avro that of the decoded record, keys in order.
    """

    records: Counter[tuple[int, bytes, int, str]]
    dead: Counter[Dead]
    outcomes: list[Outcome]
    watermarks: list[int]


class Workload:
    """The events in the order in which they are published, and where the published ones lie.

    It comes to an end after `predictions`, or goes on, `endless`, until `finish`.
    """

    def __init__(
        self, encoding: Encoding, partitions: int, seed: int = 0, step_ms: int = 200, bad: bool = True
    ) -> None:
        self.encoding = encoding
        self.partitions = partitions
        self.events: list[Event] = []
        self.placed: list[Placed] = []
        self.finished = True
        self.rekeyed: dict[SourceName, int] = {}
        """Topics in which copies of a record and records of one id lie anywhere, and their partitions."""
        self._turn = count()
        self.revising = False
        """Whether the job has several rules for a target, early records, corrections, and a record for each target."""
        self._generator = random.Random(seed)
        self._step_ms = step_ms
        self._bad = bad
        self._told = 0
        self._pending: list[tuple[int, int, Event]] = []

    @staticmethod
    def make(
        seed: int,
        *,
        encoding: Encoding = "json",
        partitions: int = 3,
        predictions: int = 900,
        step_ms: int = 200,
        bad: bool = True,
        endless: bool = False,
        revising: bool = False,
        rekeyed: dict[SourceName, int] | None = None,
    ) -> Workload:
        """predictions: how many (to begin with), about `step_ms` apart in event time."""
        workload = Workload(encoding, partitions, seed, step_ms, bad)
        workload.revising = revising
        workload.rekeyed = rekeyed or {}
        workload.finished = False
        workload._extend(predictions)
        if not endless:
            workload.finish()
        return workload

    @property
    def told(self) -> int:
        """How many predictions there are by now, published or about to be."""
        return self._told

    def finish(self) -> None:
        """Let what has happened have its feedback, and nothing more happen."""
        self.events += [event for _, _, event in sorted(self._pending, key=lambda pending: pending[:2])]
        self._pending = []
        self.finished = True

    def _extend(self, predictions: int) -> None:
        """Let more happen. What may come after something that happens later still waits."""
        happened = _tell(
            self._generator, self.encoding, range(self._told, self._told + predictions), self._step_ms, self._bad
        )
        for event in happened:
            self._pending.append((event.stamp + self._generator.randrange(SLICE_MS), len(self._pending), event))
        self._told += predictions
        known_ms = START_MS + self._told * self._step_ms - EARLY_MS
        self._pending.sort(key=lambda pending: pending[:2])
        ready = sum(moment < known_ms for moment, _, _ in self._pending)
        self.events += [event for _, _, event in self._pending[:ready]]
        self._pending = self._pending[ready:]

    def slices(self) -> Iterator[list[Event]]:
        """The events not yet published, in slices of `SLICE_MS` of event time; each must be visible before the next."""
        slice_: list[Event] = []
        number = None
        at = len(self.placed)
        while True:
            if at == len(self.events):
                if self.finished:
                    break
                self._extend(200)
                continue
            event = self.events[at]
            at += 1
            mine = (event.stamp - START_MS) // SLICE_MS
            if slice_ and mine > (number or 0):
                yield slice_
                slice_ = []
            number = max(mine, number or 0)
            slice_.append(event)
        if slice_:
            yield slice_

    def partition_of(self, event: Event) -> int:
        """Where its producer puts it: by the prediction's id, but in topics that are rekeyed."""
        partitions = self.rekeyed.get(event.source)
        return self.task_of(event) if partitions is None else next(self._turn) % partitions

    def partitions_of(self, source: SourceName) -> int:
        """How many its topic has."""
        return self.rekeyed.get(source, self.partitions)

    def task_of(self, event: Event) -> int:
        """Where the default partitioner puts the prediction's id."""
        return int(partitions_of(Spans.of([event.id.encode()]), self.partitions)[0][0])

    def watermark(self) -> int:
        """Of every task whose partitions are all caught up: the least of the topics' largest event times."""
        largest = dict.fromkeys(SOURCES, -(10**15))
        for placed in self.placed:
            if placed.event.ts is not None:
                largest[placed.event.source] = max(largest[placed.event.source], placed.event.ts)
        return min(largest.values())

    def entered_before(self) -> int:
        """Of a rekeyed input, predictions are held until all its partitions have come past them by the grace."""
        if "predictions" not in self.rekeyed:
            return 2**62
        times = [p.event.ts for p in self.placed if p.event.source == "predictions" and p.event.ts is not None]
        return max(times) - GRACE_MS

    def entered(self, task: int) -> int:
        """How many predictions have come into a task's join."""
        before = self.entered_before()
        usable = [p.event for p in self.placed if p.event.source == "predictions" and p.event.ts is not None]
        return sum(self.task_of(event) == task and (event.ts or 0) < before for event in usable)

    def expected(self, names: dict[SourceName, str], job: str, version: str) -> Expected:
        """By the definitions of the join, from what has been published. names: the topics' names."""
        dead = Counter(
            Dead(placed.event.source, placed.partition, placed.offset, placed.event.stage)
            for placed in self.placed
            if placed.event.stage is not None
        )
        records: Counter[tuple[int, bytes, int, str]] = Counter()
        outcomes = []
        for partition in range(self.partitions):
            outcome = self.outcome(partition, self.watermark())
            outcomes.append(outcome)
            for each in outcome.records:
                record = self._record(names, job, version, *each[:7])
                records[partition, each[2], each[7], record] += 1
        return Expected(records, dead, outcomes, [self.watermark()] * self.partitions)

    def targets(self, windows: dict[str, str], name: str) -> str:
        """The job file's targets and what belongs to them."""
        clicked, revenue = windows["clicked"], windows["revenue"]
        if not self.revising:
            return f"""targets:
  clicked: {{type: int, window: {clicked}, rules: [{{from: clicks, label: 1}}], if_silent: 0}}
  revenue: {{type: double, window: {revenue}, rules: [{{from: orders, field: amount}}]}}"""
        return f"""targets:
  clicked:
    type: int
    window: {clicked}
    rules: [{{from: orders, label: 2, window: {ORDERED_MS}ms}}, {{from: clicks, label: 1}}]
    if_silent: 0
    early: true
  revenue: {{type: double, window: {revenue}, rules: [{{from: orders, field: amount, take: sum}}]}}
late: {{topic: {name}.late}}
orphans: {{topic: {name}.orphans}}
emit: each
corrections: {CORRECTIONS_MS}ms"""

    def outcome(self, partition: int, watermark: int) -> Outcome:
        """What the oracle says of one partition number when its watermark has come to `watermark`."""
        mine = [p for p in self.placed if p.event.ts is not None and self.task_of(p.event) == partition]
        before = self.entered_before()
        predictions = [
            Prediction(p.place, p.event.ts or 0, p.event.id.encode(), p.event.value or b"")
            for p in mine
            if p.event.source == "predictions" and (p.event.ts or 0) < before
        ]
        feedback = [
            Feedback(
                number, p.place, p.event.ts or 0, p.event.id.encode(), _number(p.event.own), self._labels_of(p.event)
            )
            for number, source in enumerate(SOURCES[1:])
            for p in mine
            if p.event.source == source
        ]
        targets = [Target.one(WINDOW_MS["clicked"], 0, "value", 0), Target.one(WINDOW_MS["revenue"], 1, "null")]
        if self.revising:
            clicked = (Rule(ORDERED_MS, 1), Rule(WINDOW_MS["clicked"], 0))
            targets = [Target(clicked, "value", 0, early=True), Target((Rule(WINDOW_MS["revenue"], 1, "sum"),))]
        return join(
            predictions,
            feedback,
            targets,
            skew=0,
            grace=GRACE_MS,
            late_horizon=LATE_HORIZON_MS,
            watermark=watermark,
            corrections=CORRECTIONS_MS if self.revising else 0,
            each=self.revising,
            by_time="predictions" in self.rekeyed,
        )

    def _labels_of(self, event: Event) -> tuple[int, ...]:
        """What a feedback says: an order that there was one, where that counts, and its amount in quarters."""
        if event.source == "clicks":
            return (1,)
        return (2, event.quarters) if self.revising else (event.quarters,)

    def _record(
        self,
        names: dict[SourceName, str],
        job: str,
        version: str,
        ts: int,
        place: int,
        id_: bytes,
        payload: bytes,
        labels: Sequence[Label],
        state: str,
        revision: int,
    ) -> str:
        """The record's text. Features are spliced: in JSON they are the prediction's own bytes."""
        import numpy as np

        record_id = bytes(RecordIds(job).of(Spans.of([id_]), np.array([ts], np.int64))[0]).hex()
        places = []
        targets = {}
        for target, label in zip(("clicked", "revenue"), labels, strict=True):
            value = None if label.value is None else label.value / 4 if target == "revenue" else label.value
            given = label.given_by
            targets[target] = {
                "value": value,
                "kind": SOURCES[1 + label.used[-1][0]] if label.explicit else None,
                "source": "explicit" if label.explicit else "implicit" if label.settled else None,
                "event_time": given[0] if given else None,
                "delay_ms": given[0] - ts if given else None,
            }
            for source, _, at in label.used:
                topic = names[SOURCES[1 + source]]
                places.append({"target": target, "topic": topic, **where(at), "index": 0})
        mark = "\x00features\x00"
        record = {
            "record_id": record_id,
            "revision": revision,
            "supersedes": revision - 1 if revision else None,
            "state": state,
            "features": mark if self.encoding == "json" else decode(payload),
            "targets": targets,
            "settled": [target for target, label in zip(WINDOW_MS, labels, strict=True) if label.settled],
            "weights": {"sampling": 1.0, "delay": None, "log_odds_offset": None},
            "sampling": None,
            "split": None,
            "lineage": {
                "job": job,
                "version": version,
                "prediction": {"topic": names["predictions"], **where(place), "index": 0},
                "feedback": places,
            },
            "closed_by": "event",
        }
        return text_of(record).replace(json.dumps(mark), payload.decode() if self.encoding == "json" else "")


def text_of(record: Any) -> str:
    """JSON as the job writes it: no spaces."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def decode(value: bytes, schema: Any = SCHEMA) -> Any:
    """A bare Avro value."""
    return fastavro.schemaless_reader(io.BytesIO(value), schema)


def _number(own: str) -> int:
    """Feedback ids only have to differ where the names do."""
    return int.from_bytes(own.encode(), "big")


def _tell(generator: random.Random, encoding: Encoding, numbers: range, step_ms: int, bad: bool) -> list[Event]:
    """What happens, in order of the predictions."""
    events: list[Event] = []
    again = 100_000 // step_ms
    for number in numbers:
        ts = START_MS + number * step_ms + generator.randrange(step_ms)
        id_ = f"p{number}"
        if number > again + 100 and generator.random() < 0.05:
            id_ = f"p{number - again}"  # 100 s later: its windows have passed
        served = _prediction(encoding, id_, ts, generator)
        events.append(served)
        if generator.random() < 0.05:
            events.append(served)
        if generator.random() < 0.02:
            events.append(_prediction(encoding, id_, ts + generator.randrange(30_000), generator))
        events += _feedback(generator, id_, ts, number)
        if bad and number % 60 == 17:
            events.append(_unusable(generator, encoding, ts, number))
    return events


def _feedback(generator: random.Random, id_: str, ts: int, number: int) -> Iterator[Event]:
    for _ in range(generator.choice((0, 0, 1, 1, 2))):
        when = ts + int(generator.expovariate(1 / 9_000))
        click = _click(id_, when, f"c{number}-{generator.randrange(10**9)}")
        yield click
        if generator.random() < 0.1:
            yield click
    if generator.random() < 0.25:
        when = ts + int(generator.expovariate(1 / 20_000))
        yield _order(id_, when, f"o{number}", generator.randrange(1, 4_000))
    if generator.random() < 0.03:
        yield _click(f"nobody{number}", ts, f"n{number}")
    if generator.random() < 0.03:
        yield _click(id_, ts - generator.randrange(1, EARLY_MS), f"early{number}")
    if generator.random() < 0.02:
        yield _click(id_, ts + WINDOW_MS["revenue"] + generator.randrange(30_000), f"late{number}")


def _prediction(encoding: Encoding, id_: str, ts: int, generator: random.Random) -> Event:
    fields = {"id": id_, "ts": ts, "score": generator.randrange(1000) / 8, "note": "é" * generator.randrange(30)}
    return Event("predictions", ts, id_, _encode(encoding, fields), ts)


def _encode(encoding: Encoding, fields: dict[str, Any]) -> bytes:
    if encoding == "json":
        return text_of(fields).encode()
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, fields)
    return out.getvalue()


def _click(id_: str, ts: int, own: str) -> Event:
    value = text_of({"id": id_, "ts": ts, "click_id": own}).encode()
    return Event("clicks", ts, id_, value, ts, own)


def _order(id_: str, ts: int, own: str, quarters: int) -> Event:
    value = text_of({"id": id_, "ts": ts, "order_id": own, "amount": quarters / 4}).encode()
    return Event("orders", ts, id_, value, ts, own, quarters)


def _unusable(generator: random.Random, encoding: Encoding, ts: int, number: int) -> Event:
    """A record of a kind that the job refuses, or passes over: never the newest of its topic."""
    stamp, id_ = ts - 1_000, f"bad{number}"
    ahead = ts + 100 * 365 * 86_400_000
    fields = {"id": id_, "ts": ts, "score": 1.0, "note": "bad"}
    kinds = [
        Event("predictions", None, id_, _encode(encoding, fields)[:-2], stamp, stage="decode"),
        Event("predictions", None, id_, _encode(encoding, {**fields, "id": None}), stamp, stage="identify"),
        Event("predictions", None, id_, _encode(encoding, {**fields, "ts": ahead}), stamp, stage="time"),
        Event("predictions", None, id_, None, stamp),
        Event("clicks", None, id_, b'{"id":', stamp, stage="decode"),
        Event("orders", None, id_, None, stamp),
    ]
    return generator.choice(kinds)
