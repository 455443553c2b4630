"""Slates, and the job that explodes them beside one that reads each of their elements as a record of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamsample.config.slates import exploded
from streamsample.testing.values import record_reader
from tests.acceptance.timelines import T0, OneTask, avro

ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": "id", "type": ["null", "string"]},
        {"name": "price", "type": "double"},
        {"name": "kind", "type": "string"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
SLATE: dict[str, Any] = {
    "type": "record",
    "name": "Slate",
    "fields": [
        {"name": "request", "type": "string"},
        {"name": "items", "type": ["null", {"type": "array", "items": ITEM}]},
        {"name": "at", "type": "long"},
        {"name": "user", "type": "string"},
    ],
}
CHANGES: dict[str, Any] = {
    "input.explode": "items",
    "input.id": ["request", "items.id"],
    "feedback.clicks.refers_to": ["request", "item"],
}
Value = dict[str, Any]


def slates(count: int, seed: int, *, every_ms: int = 200) -> list[Value]:
    """Slates with up to five items, some of them without, with an item twice, or one without its id. Out of order by
    less than the grace.
    """
    chance = random.Random(seed)
    found = []
    for number in range(count):
        items: list[Value] | None = [
            {
                "id": chance.choice(["a", "b", "c", "d", "e", None]) if chance.random() < 0.3 else f"i{place}",
                "price": chance.randint(0, 9) / 2,
                "kind": chance.choice(["tent", "boot", "rope"]),
                "tags": chance.sample(["x", "y", "z"], chance.randint(1, 2)),
            }
            for place in range(chance.choice([0, 1, 2, 3, 5]))
        ]
        items = None if chance.random() < 0.05 else items
        at = T0 + number * every_ms + chance.randint(-400, 400)
        found.append({"request": f"r{number}", "items": items, "at": at, "user": f"u{chance.randint(0, 9)}"})
    return found


def one_each(value: Value) -> list[Value]:
    """What the job sees of a slate."""
    return [{**value, "items": item, "items_position": place} for place, item in enumerate(value["items"] or [])]


def clicks(values: list[Value], seed: int) -> list[Value]:
    """Clicks on some items, some of them twice."""
    chance = random.Random(seed)
    found = []
    for value in values:
        for item in value["items"] or []:
            if item["id"] is not None and chance.random() < 0.4:
                at = value["at"] + chance.randint(0, 12_000)
                event = f"{value['request']}-{item['id']}-{chance.randint(0, 2)}"
                found.append({"request": value["request"], "item": item["id"], "at": at, "event": event})
    return sorted(found, key=lambda click: click["at"])


class Two:
    """A job that explodes its slates, and one that is shown each element by itself, with the same settings."""

    def __init__(self, changes: Mapping[str, Any], directory: Path, format_: str = "json") -> None:
        plain: dict[str, Any] = {"input.format": format_}
        slate = {"input.format": format_}
        self._write: Callable[[Mapping[str, Any], Value], bytes] = lambda _, value: json.dumps(value).encode()
        self._seen = exploded(SLATE, "items", "the schema")
        if format_ == "avro":
            for each, schema, name in ((slate, SLATE, "slate"), (plain, self._seen, "plain")):
                (directory / f"{name}.avsc").write_text(json.dumps(schema))
                each["input.schema_file"] = str(directory / f"{name}.avsc")
            self._write = avro
        self.slates = OneTask({**CHANGES, **changes, **slate})
        self.plain = OneTask({**CHANGES, **changes, **plain, "input.explode": None})
        self.values: list[Value] = []
        self.shown: list[Value] = []

    def show(self, values: list[Value]) -> None:
        """Let both read slates."""
        self.slates.give("shown", [self._write(SLATE, value) for value in values])
        elements = [each for value in values for each in one_each(value)]
        if elements:
            self.plain.give("shown", [self._write(self._seen, each) for each in elements])
        self.values += values
        self.shown += elements

    def click(self, values: list[Value]) -> None:
        """Let both read feedback."""
        for task in (self.slates, self.plain):
            if values:
                task.give("clicked", [json.dumps(value).encode() for value in values])

    def restart(self) -> None:
        for task in (self.slates, self.plain):
            task.restarted()

    def play(self, count: int, seed: int) -> Two:
        """Random slates and clicks in random pieces, with restarts, to the end of event time."""
        chance = random.Random(seed)
        values = slates(count, seed)
        left = clicks(values, seed) if self.slates.task.join is not None else []
        while values:
            size = chance.randint(1, 40)
            self.show(values[:size])
            values = values[size:]
            size = chance.randint(0, 60) if values else len(left)
            self.click(left[:size])
            left = left[size:]
            if chance.random() < 0.2:
                self.restart()
        return self.close(T0 + 3_600_000)

    def close(self, at: int) -> Two:
        """Let event time come to the end."""
        self.show(
            [
                {
                    "request": "end",
                    "items": [{"id": "end", "price": 1.0, "kind": "rope", "tags": ["x"]}],
                    "at": at,
                    "user": "u",
                }
            ]
        )
        if self.slates.task.join is not None:
            self.click([{"request": "end", "item": "none", "at": at, "event": "end"}])
        return self

    def records(self, task: OneTask) -> list[Value]:
        """What a job has written, in its order, without what must be different."""
        read = record_reader(task.plan)
        found = []
        for written in task.written:
            tree = read(written.value)
            tree["lineage"] = {**tree["lineage"], "version": "", "prediction": None}
            found.append({**tree, "key": written.key, "timestamp": written.timestamp})
        return found

    @property
    def places(self) -> list[tuple[str, int]]:
        """Of each record that came of slates its request and its position, by its lineage."""
        read = record_reader(self.slates.plan)
        places = [read(written.value)["lineage"]["prediction"] for written in self.slates.written]
        return [(self.values[place["offset"]]["request"], place["index"]) for place in places]

    def bad(self) -> tuple[list[tuple[str, int, str]], list[tuple[str, int, str]]]:
        """The elements that were refused, with the reason: of both."""
        one = [
            (self.values[int(letter.why("offset"))]["request"], position, letter.why("class"))
            for group in self.slates.rejected
            for row, letter in enumerate(self.slates._letters(group))
            for position in (group.elements.of(row) if group.elements is not None else [])
        ]
        other = [(self.shown[int(letter.why("offset"))], letter.why("class")) for letter in self.plain.dead]
        return sorted(one), sorted((value["request"], value["items_position"], reason) for value, reason in other)
