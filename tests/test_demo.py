"""The demo: the dataset's own numbers, what must come of it by brute force, and the whole of it on a real Kafka."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from rich.console import Console

from streamsample.config import load_job
from streamsample.demo.expectation import Check, Expectation, expect
from streamsample.demo.flights import DAY_MS, Encoder, Flights, edges, load_flights
from streamsample.demo.run import job_file, require, run_demo
from streamsample.demo.written import Written, check_written
from streamsample.errors import StreamsampleError
from streamsample.formats.training import TargetSpec, training_schema
from streamsample.records import Spans

ROOT = Path(__file__).parents[1]
HOUR_MS = 3_600_000
WINDOW_MS, GRACE_MS = 6 * HOUR_MS, 5_000


@pytest.fixture(scope="module")
def year() -> Flights:
    return load_flights()


@pytest.fixture(scope="module")
def days() -> Flights:
    return load_flights(3)


def departure_schema() -> dict[str, Any]:
    return json.loads((ROOT / "configs/flights/departure.avsc").read_text())


def test_the_dataset_is_what_it_is_said_to_be(year: Flights) -> None:
    assert len(year) == 336_776
    assert int(year.cancelled.sum()) == 8_255
    assert int((~year.has_landing & ~year.cancelled).sum()) == 1_175
    assert int(np.isnan(year.arr_delay).sum()) == 8_255 + 1_175
    assert len(year.landings) == 336_776 - 8_255 - 1_175
    assert len(set(year.ids)) == len(year)


def test_events_are_in_the_order_of_their_time(year: Flights) -> None:
    assert (np.diff(year.scheduled) >= 0).all()
    assert (np.diff(year.landed[year.landings]) >= 0).all()
    assert not year.has_landing[np.setdiff1d(np.arange(len(year)), year.landings)].any()
    first = year.ids.index("2013-01-01-UA-1545-EWR-0515")
    at = np.datetime64("2013-01-01T10:15").astype("datetime64[ms]").astype(np.int64)
    assert year.scheduled[first] == at  # 05:15 in New York
    assert year.landed[first] == at + (2 + 227) * 60_000
    assert year.arr_delay[first] == 11


def test_the_first_days_are_a_part_of_the_year(year: Flights, days: Flights) -> None:
    assert len(days) == 842 + 943 + 914
    assert list(days.ids) == list(year.ids[: len(days)])


@pytest.mark.parametrize("step_ms", [DAY_MS, 3 * DAY_MS])
def test_pieces_hold_every_event_once(days: Flights, step_ms: int) -> None:
    cuts = edges(days, step_ms)
    landed = days.landed[days.landings]
    assert cuts == sorted(set(cuts))
    assert np.searchsorted(days.scheduled, cuts[-1]) == len(days)
    assert np.searchsorted(landed, cuts[-1]) == len(landed)
    assert np.searchsorted(days.scheduled, cuts[0]) > 0


def test_messages_say_what_the_flights_are(days: Flights) -> None:
    schema = fastavro.parse_schema(departure_schema())
    encoder = Encoder(days, departure_schema())
    rows = np.arange(len(days))
    for row, value in enumerate(encoder.departures(rows).to_list()):
        record = fastavro.schemaless_reader(io.BytesIO(value), schema, None)
        assert record["flight_id"] == days.ids[row]
        assert record["scheduled_departure"].timestamp() * 1000 == days.scheduled[row]
        assert all(record[name] == values[row] for name, values in days.fields.items())
    for row, value in zip(days.landings.tolist(), encoder.landings(days.landings).to_list(), strict=True):
        landing = json.loads(value)
        assert (landing["flight_id"], landing["landed_at"]) == (days.ids[row], days.landed[row])
        assert landing["arr_delay"] == days.arr_delay[row]
        assert landing["landing_id"]
    assert days.keys(rows).to_list() == [name.encode() for name in days.ids]


def test_expectation_by_brute_force(days: Flights) -> None:
    found = expect(days, WINDOW_MS, GRACE_MS)
    landings = [int(days.landed[row]) for row in range(len(days)) if days.has_landing[row]]
    watermark = min(max(days.scheduled.tolist()), max(landings))
    assert found.watermark_ms == watermark
    for row in range(len(days)):
        departure, landing = int(days.scheduled[row]), int(days.landed[row])
        settled = departure + WINDOW_MS + GRACE_MS < watermark
        answered = bool(days.has_landing[row]) and 0 <= landing - departure <= WINDOW_MS
        assert (bool(found.settled[row]), bool(found.explicit[row])) == (settled, settled and answered)
        assert bool(found.implicit[row]) == (settled and not answered)
        late = bool(days.has_landing[row]) and not answered and landing + GRACE_MS < watermark
        assert bool(found.corrected[row]) == late
    assert found.cancelled + found.never_landed + found.landed_late == int(found.implicit.sum())


def test_expectation_of_the_year(year: Flights) -> None:
    found = expect(year, WINDOW_MS, GRACE_MS)
    counts = [int(column.sum()) for column in (found.explicit, found.implicit, ~found.settled)]
    assert counts == [315_991, 20_649, 136]
    assert (int(found.corrected.sum()), found.cancelled, found.never_landed, found.landed_late) == (
        11_222,
        8_252,
        1_174,
        11_223,
    )
    assert int((found.delay_ms[found.explicit] == WINDOW_MS).sum()) == 392  # the window's end belongs to it


def test_late_landings_correct_their_records(year: Flights) -> None:
    job = load_job(job_file(), {})
    assert (job.largest_window_ms, job.grace_ms) == (WINDOW_MS, GRACE_MS)
    delay_ms = (year.landed - year.scheduled)[year.has_landing]
    assert delay_ms.max() <= WINDOW_MS + job.corrections_ms  # or it would be counted an orphan
    assert delay_ms.min() >= 0


def test_the_job_file_is_the_repositorys_and_goes_with_the_package() -> None:
    assert job_file() == ROOT / "configs/flights.yaml"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["configs/flights.yaml"] == "streamsample/configs/flights.yaml"
    job = load_job(job_file(), {})
    for schema in job.input.schemas.values():
        folder = schema.path.parent.relative_to(ROOT).as_posix()
        assert included[folder] == f"streamsample/{folder}"


class WrittenBy:
    """What a job without faults would have written, by the definitions; to be damaged."""

    def __init__(self, flights: Flights, expectation: Expectation) -> None:
        self.flights = flights
        self.expectation = expectation
        self.targets = (TargetSpec("arrival_delay", "double"), TargetSpec("cancelled", "string", ("no", "yes")))
        self.schema = training_schema(departure_schema(), self.targets)
        self.rows = np.flatnonzero(expectation.settled).tolist()
        self.records = [self.record(row) for row in self.rows]
        self.corrections = [self.record(row, correct=True) for row in np.flatnonzero(expectation.corrected).tolist()]

    def record(self, row: int, *, correct: bool = False) -> dict[str, Any]:
        flights = self.flights
        label: dict[str, Any] = {
            "value": None,
            "kind": None,
            "source": "implicit",
            "event_time": None,
            "delay_ms": None,
        }
        explicit = correct or bool(self.expectation.explicit[row])
        if explicit:
            landed = int(flights.landed[row])
            label = {"value": float(flights.arr_delay[row]), "kind": "landings", "source": "explicit"}
            label |= {"event_time": landed, "delay_ms": landed - int(flights.scheduled[row])}
        place = {"topic": "flights.departures", "partition": 0, "offset": row, "index": 0}
        features = {name: values[row] for name, values in flights.fields.items()}
        features |= {"flight_id": flights.ids[row], "scheduled_departure": int(flights.scheduled[row])}
        return {
            "record_id": "0" * 32,
            "revision": int(correct),
            "supersedes": 0 if correct else None,
            "state": "correct" if correct else "final",
            "features": features,
            "targets": {"arrival_delay": label, "cancelled": {**label, "value": "no" if explicit else "yes"}},
            "settled": ["arrival_delay", "cancelled"],
            "weights": {"sampling": 1.0, "delay": None, "log_odds_offset": None},
            "sampling": None,
            "split": "train",
            "lineage": {"job": "flights", "version": "0", "prediction": place, "feedback": []},
            "closed_by": "event",
        }

    def checks(self) -> list[Check]:
        parsed = fastavro.parse_schema(self.schema)
        values = []
        for record in (*self.records, *self.corrections):
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, record)
            values.append(out.getvalue())
        ids = Spans.of(record["features"]["flight_id"].encode() for record in (*self.records, *self.corrections))
        written = Written(ids, Spans.of(values), np.zeros(len(values), np.int64))
        return check_written(written, self.flights, self.expectation, self.schema, "arrival_delay")


@pytest.fixture
def written() -> WrittenBy:
    flights = load_flights(1)
    return WrittenBy(flights, expect(flights, WINDOW_MS, GRACE_MS))


def test_what_is_right_passes(written: WrittenBy) -> None:
    checks = written.checks()
    assert all(check.holds for check in checks)
    settled, corrected = len(written.rows), len(written.corrections)
    assert corrected > 0
    assert [check.expected for check in checks] == [
        settled + corrected,
        settled,
        corrected,
        min(1_000, settled + corrected),
    ]
    require(checks)


@pytest.mark.parametrize("damage", ["lost", "twice", "wrong label", "wrong source", "another's label"])
def test_what_is_wrong_is_named(written: WrittenBy, damage: str) -> None:
    labels = [record["targets"]["arrival_delay"] for record in written.records]
    explicit = next(label for label in labels if label["source"] == "explicit")
    wrong = "records compared one by one"
    if damage == "lost":
        del written.records[5]
        wrong = "different flights among them"
    elif damage == "twice":
        written.records[5] = written.records[6]
        wrong = "different flights among them"
    elif damage == "wrong label":
        explicit["value"] += 1
    elif damage == "wrong source":
        explicit |= {"value": None, "kind": None, "source": "implicit", "event_time": None, "delay_ms": None}
    else:
        written.records[5]["targets"] = written.records[6]["targets"]
    failed = [check for check in written.checks() if not check.holds]
    assert wrong in [check.name for check in failed]
    with pytest.raises(StreamsampleError, match=rf"{wrong}: expected [\d,]+, found [\d,]+"):
        require(failed)


def test_the_whole_demo_on_twenty_days() -> None:
    out = io.StringIO()
    run_demo(Console(file=out, width=100), days=20)
    text = out.getvalue()
    assert "✗" not in text
    flights = load_flights(20)
    expected = expect(flights, WINDOW_MS, GRACE_MS)
    for number in (
        len(flights) + len(flights.landings),
        2 * int(expected.explicit.sum()),
        2 * int(expected.implicit.sum()),
        int(expected.corrected.sum()),
        int((~expected.settled).sum()),
        int(expected.settled.sum()),
    ):
        assert f"{number:,}" in text
    assert "2013-01-01-UA-1545-EWR-0515" in text
    assert "/metrics" in text


def test_ctrl_c_ends_it_in_good_order() -> None:
    """Also the only test in which the command itself runs."""
    command = [sys.executable, "-c", "from streamsample.cli import app; app()", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            address = next(line.split()[-1] for line in process.stdout if "is running at" in line)
            next(line for line in process.stdout if "topics" in line)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    host, port = address.split(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port)))
    assert process.returncode not in (0, -signal.SIGINT)
    assert "Traceback" not in errors
    assert "Interrupted: Kafka is stopped" in rest
    assert "Done in" not in rest
