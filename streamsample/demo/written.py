"""What the demo's job has written, read back from Kafka as any consumer would read it: committed records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsample.clock import SystemClock
from streamsample.config import Job
from streamsample.demo.expectation import Check, Expectation
from streamsample.demo.flights import Flights
from streamsample.kafka.topics import TopicAdmin
from streamsample.records import Int64s, Spans
from streamsample.runtime.readback import TrainingReader, batches_of

COMPARED = 1_000
_SEED = 2013


@dataclass(frozen=True, slots=True)
class Written:
    """n training records. ids: n spans; values: n spans, the encoded records; timestamps: int64[n], ms."""

    ids: Spans
    values: Spans
    timestamps: Int64s

    def __len__(self) -> int:
        return len(self.ids)


def read_topic(job: Job, admin: TopicAdmin, topic: str) -> Written:
    """Everything in `topic`, under read_committed. Raises UnreachableError if it cannot be read."""
    held = [batch for batch in batches_of(job, admin, topic, SystemClock()) if len(batch)]
    return Written(
        Spans.concat([batch.keys for batch in held]),
        Spans.concat([batch.values for batch in held]),
        np.concatenate([batch.timestamps for batch in held]) if held else np.empty(0, np.int64),
    )


def decode(values: Spans, rows: Int64s, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The training records at `rows`, by fastavro."""
    reader = TrainingReader([schema], [])
    return [reader.decode(values[row] or b"") for row in rows.tolist()]


def check_written(
    written: Written, flights: Flights, expectation: Expectation, schema: Mapping[str, Any], target: str
) -> list[Check]:
    """Compare what is written with the dataset: how many records, whose, and the labels of a random sample of them."""
    wanted = {flights.ids[row] for row in np.flatnonzero(expectation.settled).tolist()}
    corrected = int(np.count_nonzero(expectation.corrected))
    ids = [(key or b"").decode() for key in written.ids.to_list()]
    rows = np.random.default_rng(_SEED).permutation(len(written))[:COMPARED]
    row_of = {name: row for row, name in enumerate(flights.ids)}
    records = decode(written.values, rows, schema)
    right = sum(
        _is_right(record, target, flights, expectation, row_of.get(ids[row]))
        for record, row in zip(records, rows.tolist(), strict=True)
    )
    return [
        Check("training records in the topic", len(wanted) + corrected, len(written)),
        Check("different flights among them", len(wanted), len(wanted.intersection(ids))),
        Check("corrected after the window", corrected, len(ids) - len(set(ids))),
        Check("records compared one by one", min(COMPARED, len(wanted) + corrected), right),
    ]


def _is_right(
    record: Mapping[str, Any], target: str, flights: Flights, expectation: Expectation, row: int | None
) -> bool:
    """Both labels, of the first record of a flight or of its correction."""
    if row is None or record["features"]["flight_id"] != flights.ids[row]:
        return False
    corrects = record["revision"] == 1
    if corrects != (record["state"] == "correct") or (corrects and not expectation.corrected[row]):
        return False
    nothing: Sequence[Any] = (None, "implicit", None, None)
    if corrects or expectation.explicit[row]:
        given = ("landings", "explicit", int(flights.landed[row]), int(expectation.delay_ms[row]))
        wanted = {target: (float(flights.arr_delay[row]), *given), "cancelled": ("no", *given)}
    else:
        wanted = {target: (None, *nothing), "cancelled": ("yes", *nothing)}
    names = ("value", "kind", "source", "event_time", "delay_ms")
    return all(tuple(record["targets"][name][each] for each in names) == label for name, label in wanted.items())
