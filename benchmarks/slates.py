"""Slates without a broker: a task that explodes records of 50 items, beside one that reads each item as a record."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import call
from benchmarks.results import Figure
from benchmarks.settings import Settings

ITEMS = 50
RECORDS = 200_000
"""Items of all slates."""
_SLATES_AT_ONCE = 1_000
_AT = 1_700_000_000_000
_END = _AT + 10**8
_PLAIN = "a record per item"


def measure(settings: Settings) -> list[Figure]:
    """Labels for every item, and for those of one slate in ten. Kafka's part is not in it: a slate has a third of the
    bytes of its items as records.
    """
    items = RECORDS * min(settings.records, 3_000_000) // 3_000_000
    settings.say(f"slates: {items:,} items in slates of {ITEMS}, and each in a record of its own")
    told, _ = call("slates:rates", items=items, rounds=settings.rounds)
    return [
        Figure(f"slates: {name}", told[name]["slates"], "M items/s", _PLAIN, told[name]["plain"])
        for name in ("every item labelled", "one slate in ten sampled")
    ]


def rates(items: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median items per second of both, from values in memory to the bytes of training records, run in turn."""
    samples: dict[str, Mapping[str, Any] | None] = {
        "every item labelled": None,
        "one slate in ten sampled": {"design": "simple", "rate": 0.1, "unit": "request_id"},
    }
    slates = [_slate(number) for number in range(items // ITEMS)]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = {explode: _values(slates, Path(folder), explode=explode) for explode in (True, False)}
        for name, sample in samples.items():
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for number in range(rounds + 1):  # the first loads the kernels
                written = set[int]()
                for explode, (schema, values) in jobs.items():
                    spent, count = _run(schema, values, sample, explode=explode)
                    written.add(count)
                    seconds[explode] += [spent] if number else []
                assert len(written) == 1, written
            medians = {explode: items / statistics.median(each) / 1e6 for explode, each in seconds.items()}
            found[name] = {"slates": medians[True], "plain": medians[False]}
    return found


def _slate(number: int) -> dict[str, Any]:
    items = [
        {"item_id": f"item-{(number * ITEMS + place) % 100_003:08d}", "price": 1.5 * place, "score": 0.25}
        for place in range(ITEMS)
    ]
    user = {"user_id": f"user-{number % 997:08d}", "country": "DE", "query": "tent for two persons"}
    return {"request_id": f"request-{number:012d}", "served_at": _AT + number, **user, "items": items}


def _fields(**kinds: Any) -> list[dict[str, Any]]:
    return [{"name": name, "type": kind} for name, kind in kinds.items()]


def _values(slates: list[dict[str, Any]], folder: Path, *, explode: bool) -> tuple[Path, list[list[bytes]]]:
    """The schema's file, and what is read at a time; the last value lets event time come to an end."""
    import fastavro

    from streamsample.config.slates import exploded

    item = {"type": "record", "name": "Item", "fields": _fields(item_id="string", price="double", score="float")}
    texts = dict.fromkeys(("user_id", "country", "query"), "string")
    kinds = {"request_id": "string", "served_at": "long", **texts, "items": {"type": "array", "items": item}}
    schema: dict[str, Any] = {"type": "record", "name": "Slate", "fields": _fields(**kinds)}
    schema = schema if explode else exploded(schema, "items", "slate.avsc")
    path = folder / f"{explode}.avsc"
    path.write_text(json.dumps(schema))
    parsed = fastavro.parse_schema(schema)

    def written(slate: dict[str, Any]) -> Iterator[bytes]:
        elements = [{**slate, "items": one, "items_position": place} for place, one in enumerate(slate["items"])]
        for value in [slate] if explode else elements:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, value)
            yield out.getvalue()

    parts = [slates[at : at + _SLATES_AT_ONCE] for at in range(0, len(slates), _SLATES_AT_ONCE)]
    parts.append([{**slates[0], "request_id": "end", "served_at": _END, "items": slates[0]["items"][:1]}])
    return path, [[value for slate in part for value in written(slate)] for part in parts]


def _run(
    schema: Path, parts: list[list[bytes]], sample: Mapping[str, Any] | None, *, explode: bool
) -> tuple[float, int]:
    """Seconds of CPU from the values to the training records, and how many of these there are."""
    from streamsample.config import parse_job
    from streamsample.runtime.memory import keep_freed_memory
    from streamsample.runtime.plan import plan_of
    from streamsample.runtime.samples import TaskSettings
    from streamsample.runtime.task import Task

    tree: dict[str, Any] = {
        "job": "slates",
        "kafka": {"bootstrap_servers": "localhost:1"},
        "input": {
            "topic": "slates",
            "format": "avro",
            "schema_file": str(schema),
            "id": ["request_id", "items.item_id"],
        },
        "feedback": {"clicks": {"topic": "clicks", "format": "json", "refers_to": ["request_id", "item_id"]}},
        "targets": {
            "clicked": {"type": "int", "window": "30m", "rules": [{"from": "clicks", "label": 1}], "if_silent": 0}
        },
        "output": {"topic": "training"},
    }
    tree["input"] |= {"time": {"field": "served_at", "unit": "ms"}, **({"explode": "items"} if explode else {})}
    tree |= {"sample": dict(sample)} if sample else {}
    keep_freed_memory()  # as the service does
    task = Task(plan_of(parse_job(json.dumps(tree))), 0, TaskSettings(1, 1_000_000, 1_000_000))
    end = json.dumps({"request_id": "end", "item_id": "none"}).encode()
    batches = [_batch("clicks", [end], 0), *_batches(parts)]
    begin = time.process_time()
    for batch in batches:
        task.process(batch, _END, 0)
    while not task.advance(0):
        pass
    count = sum(len(encoded.keys) for encoded in task.take_output().records)
    return time.process_time() - begin, count


def _batches(parts: list[list[bytes]]) -> Iterator[Any]:
    offset = 0
    for part in parts:
        yield _batch("slates", part, offset)
        offset += len(part)


def _batch(topic: str, values: list[bytes], offset: int) -> Any:
    import numpy as np

    from streamsample.records import RecordBatch, Spans

    count, nothing = len(values), Spans.nulls(len(values))
    offsets, stamps = np.arange(offset, offset + count), np.full(count, _END)
    return RecordBatch(topic, 0, offsets, stamps, nothing, Spans.of(values), nothing, offset + count)
