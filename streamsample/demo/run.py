"""The demo from its start to its end: broker, topics, publisher and job, then the comparison with the dataset."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

import streamsample
from streamsample.clock import Clock, SystemClock
from streamsample.config import Job, load_job
from streamsample.demo.expectation import Check, Expectation, expect
from streamsample.demo.flights import Flights, load_flights
from streamsample.demo.publisher import Publisher
from streamsample.demo.screen import Frame, Screen, added
from streamsample.demo.written import Written, check_written, decode, read_topic
from streamsample.errors import StreamsampleError
from streamsample.formats.training_avro import AvroTrainingEncoder
from streamsample.kafka.broker import KAFKA_VERSION, LocalBroker
from streamsample.kafka.topics import TopicAdmin, TopicSpec
from streamsample.runtime.plan import plan_of
from streamsample.runtime.report import Progress
from streamsample.runtime.service import Options, run_job

DAYS = 365
PARTITIONS = 4
METRICS_PORT = 9464
_HOST = "127.0.0.1"
_SHOWN = 5
_SEARCHED = 500


def run_demo(out: Console, *, days: int = DAYS) -> None:
    """Run the demo over the first `days` of the year and check it. Everything that it made is gone afterwards.

    Raises StreamsampleError if anything fails or a number differs from the dataset's, KeyboardInterrupt at Ctrl-C.
    """
    logging.getLogger("kafka").setLevel(logging.ERROR)
    clock = SystemClock()
    screen = Screen(out, clock)
    screen.begin()
    broker = LocalBroker(short_lived=True)
    with tempfile.TemporaryDirectory(prefix="streamsample-demo-") as folder, ThreadPoolExecutor(1) as reader:
        try:
            reading = reader.submit(load_flights, days)
            with screen.doing("starting Apache Kafka (the first time it is fetched, which takes longer) ..."):
                broker.start()
                flights = reading.result()
            screen.done(f"Apache Kafka {KAFKA_VERSION} is running at {broker.bootstrap_servers}")
            path = job_file()
            job = demo_job(path, broker.bootstrap_servers, Path(folder))
            Demo(screen, clock, path, job, flights).run()
        except KeyboardInterrupt:
            screen.note("Interrupted: Kafka is stopped, and what the demo made is deleted.")
            raise
        finally:
            with screen.doing("stopping Apache Kafka ..."):
                broker.stop()
    screen.end()


def job_file() -> Path:
    """configs/flights.yaml: the repository's, if this is one, else the copy that is installed with the package."""
    package = Path(streamsample.__file__).parent
    for folder in (package.parent, package):
        path = folder / "configs" / "flights.yaml"
        if path.is_file():
            return path
    raise StreamsampleError(f"there is no configs/flights.yaml in {package}", remedy="install streamsample again")


def demo_job(path: Path, bootstrap_servers: str, state: Path) -> Job:
    """The job in `path` on this broker, with its state in `state` and its metrics on a free port."""
    job = load_job(path, {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers})
    metrics = job.metrics.model_copy(update={"host": _HOST, "port": _free_port(METRICS_PORT)})
    return job.model_copy(update={"metrics": metrics, "state": job.state.model_copy(update={"directory": state})})


def _free_port(wanted: int) -> int:
    """`wanted` if nobody listens there, else any free one."""
    for port in (wanted, 0):
        with closing(socket.socket()) as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StreamsampleError("no port is free for the metrics", remedy="end some programs")


class Demo:
    """One demo on a running broker: publishes `flights` while `job` runs, and compares what comes out."""

    def __init__(self, screen: Screen, clock: Clock, path: Path, job: Job, flights: Flights) -> None:
        self._target = next(iter(job.targets))
        self._path = path
        self._screen = screen
        self._clock = clock
        self._job = job
        self._flights = flights

    def run(self) -> None:
        """All of it. Raises StreamsampleError when a number is wrong."""
        admin = TopicAdmin(self._job.kafka.options("admin"))
        try:
            self._make_topics(admin)
            live = self._publish_and_join(admin)
            total = self._go_on(live)
            self._compare(admin, total)
        finally:
            admin.close()

    def _make_topics(self, admin: TopicAdmin) -> None:
        job = self._job
        # The events are of 2013: a topic that forgets by age would forget them at once.
        for topic in (*job.sources, job.output.topic, job.dead_letters_topic):
            admin.ensure(TopicSpec(topic, PARTITIONS, {"retention.ms": "-1"}))
        self._screen.done(f"topics {', '.join(job.sources)} and {job.output.topic}, {PARTITIONS} partitions each")

    def _publish_and_join(self, admin: TopicAdmin) -> Progress:
        """The job runs while the flights are published, and is stopped when the last one is."""
        stop = threading.Event()
        frame = Frame(self._clock, "live: flights are published, the job joins them")
        publisher = Publisher(self._flights, self._job, admin, read=lambda: frame.records_in, when_done=stop.set)
        frame.publisher = publisher
        try:
            publisher.start()
            with self._screen.running(frame):
                progress = self._run_job(frame, Options(stop=stop))
        finally:
            publisher.stop()
        if publisher.failure is not None:
            raise StreamsampleError(f"the flights could not be published: {publisher.failure}") from publisher.failure
        if not publisher.finished:
            raise KeyboardInterrupt
        return progress

    def _go_on(self, live: Progress) -> Progress:
        """The job starts again, takes up its state, and ends when all is read."""
        self._screen.note(
            f"All flights are published. The job was stopped with {live.open_rows:,} of them open, and starts again ..."
        )
        stop = threading.Event()
        frame = Frame(self._clock, "started again: until all is read", so_far=live)
        with self._screen.running(frame):
            progress = self._run_job(frame, Options(until_caught_up=True, stop=stop))
        if stop.is_set():
            raise KeyboardInterrupt
        self._screen.done(f"the open flights were restored from the changelog in {frame.restore_seconds:.2f} s")
        return added(live, progress)

    def _run_job(self, frame: Frame, options: Options) -> Progress:
        urls: list[str] = []

        def tell(progress: Progress) -> None:
            frame.tell(progress, _restore_seconds(urls[0]) if urls else 0.0)

        def started(url: str) -> None:
            urls.append(f"{url}/metrics")
            frame.metrics_url = self._screen.metrics_url = urls[0]

        wired = replace(options, on_start=started, on_warning=self._screen.note, on_progress=tell)
        return run_job(self._job, self._path, wired)

    def _compare(self, admin: TopicAdmin, total: Progress) -> None:
        job, flights = self._job, self._flights
        expected = expect(flights, job.largest_window_ms, job.grace_ms)
        encoder = plan_of(job).encoder
        assert isinstance(encoder, AvroTrainingEncoder)
        (schema,) = encoder.schemas
        with self._screen.doing(f"reading {job.output.topic} back ..."):
            written = read_topic(job, admin, job.output.topic)
            checks = [
                *checks_of(total, flights, expected),
                *check_written(written, flights, expected, schema, self._target),
            ]
            records = first_records(written, schema, self._target)
        self._screen.checks(checks)
        require(checks)
        self._screen.silence(expected)
        self._screen.records(records, self._target)


def require(checks: Sequence[Check]) -> None:
    """Raise StreamsampleError, naming each number that is not the dataset's."""
    wrong = [f"{check.name}: expected {check.expected:,}, found {check.found:,}" for check in checks if not check.holds]
    if wrong:
        raise StreamsampleError(
            f"the demo's numbers are not the dataset's: {'; '.join(wrong)}",
            remedy="this is a bug: please report it with this output",
        )


def first_records(written: Written, schema: Mapping[str, Any], target: str) -> list[dict[str, Any]]:
    """The first few records in the order of settlement, and the first implicit one if it is not among them."""
    records = decode(written.values, np.argsort(written.timestamps, kind="stable")[:_SEARCHED], schema)
    implicit = [record for record in records[_SHOWN:] if record["targets"][target]["source"] == "implicit"]
    return records[:_SHOWN] + implicit[:1]


def checks_of(total: Progress, flights: Flights, expected: Expectation) -> list[Check]:
    """What the job has counted beside what the dataset says."""
    settled = int(np.count_nonzero(expected.settled))
    return [
        Check("events in: departures and landings", len(flights) + len(flights.landings), total.records_in),
        Check("explicit, of two targets: landed in time", 2 * int(np.count_nonzero(expected.explicit)), total.explicit),
        Check("implicit, of two targets: did not", 2 * int(np.count_nonzero(expected.implicit)), total.implicit),
        Check("late: landings after the corrections", 0, total.late),
        Check("orphan: landings of no flight", 0, total.orphan),
        Check("dead letters", 0, total.dead),
        Check("still open when the year ends", len(flights) - settled, total.open_rows),
        Check("training records written", settled + int(np.count_nonzero(expected.corrected)), total.records_out),
    ]


def _restore_seconds(url: str) -> float:
    """What the job's metrics say of its restore; 0 as long as there was none."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            if family.name == "streamsample_restore_duration_seconds":
                return max((sample.value for sample in family.samples), default=0.0)
    return 0.0
