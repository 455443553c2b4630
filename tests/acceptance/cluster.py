"""A job on a real broker: topics of its own, timelines published to them, runs in this process, and reading back."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streamsample.clock import SystemClock
from streamsample.config import Job
from streamsample.kafka.partitioner import partitions_of
from streamsample.kafka.topics import TopicAdmin
from streamsample.records import Spans, TopicPartition
from streamsample.runtime.layout import Layout
from streamsample.runtime.metrics import Metrics
from streamsample.runtime.plan import plan_of
from streamsample.runtime.preflight import prepare
from streamsample.runtime.report import Progress, Report
from streamsample.runtime.service import Options, run_one
from streamsample.runtime.worker import Worker, WorkerSettings
from streamsample.testing.player import Written
from tests.acceptance.timelines import Dead, Event, events, job_of, job_tree, label_of
from tests.conftest import Broker, unique_name
from tests.kafka.consuming import until

SECONDS = 60


@dataclass(frozen=True)
class Raw:
    """A record to publish as it is. partition None: by the key."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Placed(Written):
    """A training record, and its partition."""

    partition: int = 0


Changes = Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None
"""Of the job's tree; a function makes them for the job's name."""
MakeJob = Callable[..., "OnBroker"]


@pytest.fixture
def make_job(broker: Broker, request: pytest.FixtureRequest, tmp_path: Path) -> MakeJob:
    """`make_job(changes=None, partitions=2)`: a job on the session's broker."""

    def make(changes: Changes = None, partitions: int = 2) -> OnBroker:
        return OnBroker(broker.bootstrap_servers, unique_name(request), tmp_path, changes, partitions=partitions)

    return make


class OnBroker:
    """One job with topics of its own, of `partitions` each, kept for ever: timelines are of long ago."""

    def __init__(
        self,
        servers: str,
        name: str,
        directory: Path,
        changes: Changes = None,
        *,
        partitions: int = 2,
    ) -> None:
        self.servers = servers
        self.name = name
        self.partitions = partitions
        self.tree = job_tree(name, changes(name) if callable(changes) else changes)
        self.tree["kafka"]["bootstrap_servers"] = servers
        self.tree["state"] = {**self.tree.get("state", {}), "directory": str(directory / name)}
        self.path = directory / f"{name}.yaml"
        self.save()
        kinds = [self.tree["input"]["topic"], *(item["topic"] for item in self.tree.get("feedback", {}).values())]
        self.make([*kinds, self.tree["output"]["topic"]])
        self.warnings: list[str] = []
        self._feedback = 0

    # -- preparing --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the job file again."""
        self.path.write_text(json.dumps(self.tree, indent=1))

    @property
    def job(self) -> Job:
        return job_of(self.tree, self.path.parent)

    def make(self, topics: Iterable[str], **configs: str) -> None:
        """Create topics."""
        settings = {"retention.ms": "-1", **{key.replace("_", "."): value for key, value in configs.items()}}
        with self.admin() as admin:
            admin.create_topics([NewTopic(topic, self.partitions, 1, topic_configs=settings) for topic in topics])

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            yield admin
        finally:
            admin.close()

    def publish(self, timeline: str | Iterable[Event]) -> None:
        """Write events, in their order, to their topics; each to the partition of its id."""
        written: dict[str, list[Raw]] = {}
        for event in events(timeline) if isinstance(timeline, str) else timeline:
            value = json.dumps(event.value(self._feedback)).encode()
            self._feedback += 1
            written.setdefault(event.kind, []).append(Raw(value, event.id.encode(), None, event.at))
        for kind, records in written.items():
            self.write(kind, records)

    def later(self, when: Sequence[Event]) -> None:
        """Write each of these events to every partition of its topic, so that event time goes on in all."""
        for event in when:
            value = json.dumps(event.value(0) | {"id": event.id + "-{}", "event": event.id + "-{}"}).encode()
            places = range(self.partitions)
            copies = [Raw(value.replace(b"{}", b"%d" % n), None, n, event.at) for n in places]
            self.write(event.kind, copies)

    def partition_of(self, identity: str) -> int:
        """Where the events of an id go."""
        return int(partitions_of(Spans.of([identity.encode()]), self.partitions)[0][0])

    def write(self, kind: str, records: Iterable[Raw]) -> None:
        """Write raw records to `<name>.<kind>`."""
        topic = f"{self.name}.{kind}"
        producer = KafkaProducer(bootstrap_servers=self.servers, max_request_size=32 << 20, linger_ms=5)
        try:
            for record in records:
                place = record.partition
                if place is None:
                    assert record.key is not None
                    place = self.partition_of(record.key.decode())
                producer.send(
                    topic,
                    record.value,
                    record.key,
                    headers=record.headers,
                    partition=place,
                    timestamp_ms=record.timestamp,
                )
            producer.flush(timeout=SECONDS)
        finally:
            producer.close(timeout=5)

    # -- running ----------------------------------------------------------------------------------

    def run(self, **options: Any) -> Progress:
        """Run until caught up."""
        chosen = Options(until_caught_up=True, on_start=lambda _: None, on_warning=self.warnings.append, **options)
        return run_one(self.job, chosen, SystemClock(), serve=False)

    def run_workers(self, count: int) -> Progress:
        """Run until caught up with several members of the group, each in a thread of its own."""
        with ThreadPoolExecutor(count) as pool:
            parts = list(pool.map(lambda _: self.run(), range(count)))
        total = replace(parts[0])
        for part in parts[1:]:
            total.records_in += part.records_in
            total.records_out += part.records_out
        return total

    def reset(self) -> None:
        """Forget the job's state and what it has written, so that it runs as for the first time."""
        admin = TopicAdmin(self.job.kafka.options("admin"))
        try:
            admin.delete_group(self.name)
            admin.delete([self.job.changelog_topic, *map(self.job.rekeyed_topic, self.job.rekeyed)])
            self.delete_records("training")
        finally:
            admin.close()

    def delete_records(self, kind: str, before: int | None = None, partition: int | None = None) -> None:
        """What retention would do: delete the records before an offset (None: all), of one or of all partitions."""
        admin = TopicAdmin(self.job.kafka.options("admin"))
        try:
            numbers = range(self.partitions) if partition is None else [partition]
            places = [TopicPartition(f"{self.name}.{kind}", number) for number in numbers]
            for place, end in admin.latest(places).items():
                admin.delete_records(place, end if before is None else before)
        finally:
            admin.close()

    @contextmanager
    def live(self) -> Iterator[Live]:
        """A worker in a thread, as long as the body lasts; what it raises is raised here."""
        worker = Live(self.job)
        try:
            yield worker
        finally:
            worker.end()

    def live_once(self) -> Live:
        """Run until caught up, with metrics to look at afterwards."""
        worker = Live(self.job, until_caught_up=True)
        worker.join()
        return worker

    # -- reading back -----------------------------------------------------------------------------

    def read(self, topic: str) -> list[Any]:
        """All committed records of a topic, in the order of partitions and offsets.

        Waits for the end of transactions that are open: those of a worker that was killed hide what comes behind them.
        """
        found = []
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers,
            isolation_level="read_committed",
            group_id=None,
            enable_auto_commit=False,
            fetch_max_bytes=64 << 20,
            max_partition_fetch_bytes=32 << 20,
        )
        try:
            places = [KafkaTopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            ends = self._ends(places)
            consumer.assign(places)
            consumer.seek_to_beginning()
            clock = SystemClock()
            deadline = clock.elapsed_ms() + 1000 * SECONDS
            while any(consumer.position(place) < ends[place] for place in places):
                assert clock.elapsed_ms() < deadline, f"{topic} was not read to its end"
                for records in consumer.poll(200).values():
                    found += records
        finally:
            consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def _ends(self, places: Sequence[KafkaTopicPartition]) -> dict[KafkaTopicPartition, int]:
        admin = TopicAdmin(self.job.kafka.options("admin"))
        try:
            found = admin.latest([TopicPartition(*place) for place in places])
        finally:
            admin.close()
        return {place: found[TopicPartition(*place)] for place in places}

    @property
    def written(self) -> list[Placed]:
        """The training records, sorted."""
        records = [
            Placed(record.key, record.timestamp, record.value, record.partition)
            for record in self.read(f"{self.name}.training")
        ]
        return sorted(records, key=lambda record: (record.timestamp, record.key, record.value))

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record.tree for record in self.written]

    def labels(self, target: str = "clicked") -> dict[str, str]:
        """The labels by id, those of `later` left out; an id with two records fails."""
        found: dict[str, str] = {}
        for record in self.records:
            identity = str(record["features"]["id"])
            if not identity.startswith("later-"):
                assert identity not in found, f"two records of {identity}"
                found[identity] = label_of(record, target)
        return found

    @property
    def dead(self) -> list[Dead]:
        """The dead letters."""
        return [
            Dead(record.key, record.value, dict(record.headers or ()))
            for record in self.read(self.job.dead_letters_topic)
        ]


class Live:
    """One worker in a thread, with metrics of its own."""

    def __init__(self, job: Job, *, until_caught_up: bool = False) -> None:
        plan, clock = plan_of(job), SystemClock()
        self.registry = CollectorRegistry()
        self.report = Report(plan, Metrics(self.registry))
        self._admin = TopicAdmin(job.kafka.options("admin"))
        self.cluster = prepare(job, self._admin, clock.now_ms())
        counts = Layout(plan, self.cluster.partitions, self.cluster.origins).partitions
        places = [TopicPartition(topic, n) for topic, count in counts.items() for n in range(count)]
        ends = self._admin.latest(places) if until_caught_up else None
        settings = WorkerSettings(name=f"{job.name}-live", until_caught_up=ends)
        self.worker = Worker(plan, self.cluster, self._admin, self.report, clock, settings)
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self._failed.append(error)

    def wait(self, condition: Any, what: str) -> Any:
        """Wait until `condition()` holds; a worker that has failed ends the wait."""

        def asked() -> Any:
            if self._failed:
                raise self._failed[0]
            return condition()

        return until(asked, what, SECONDS)

    def failure(self) -> BaseException:
        """Wait for the worker to fail, and return why."""
        self._thread.join(SECONDS)
        assert self._failed, "the worker did not fail"
        return self._failed.pop()

    def wait_for_follow(self) -> None:
        """Wait until silent partitions have been asked for once more."""
        before = self.worker._followed_ms
        self.wait(lambda: self.worker._followed_ms > before, "a round of following")

    def end(self) -> None:
        """Stop it: it commits and leaves the group."""
        self.worker.stop()
        self.join()

    def join(self) -> None:
        """Wait for its end, and raise what it raised."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._admin.close()
        if self._failed:
            raise self._failed[0]


def get(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a page of metrics, by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


__all__ = ["SECONDS", "Live", "OnBroker", "Placed", "Raw", "TopicPartition", "get", "samples"]
