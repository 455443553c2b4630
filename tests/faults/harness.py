"""Runs jobs as real processes on a real broker, lets them be hurt, and compares what they brought out with the oracle.

A `Scene` is one job with topics of its own: it publishes a workload, starts workers, and checks the end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import fastavro
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition as KafkaTopicPartition
from prometheus_client.parser import text_string_to_metric_families

from streamsample.clock import SystemClock
from streamsample.config import Job, load_job
from streamsample.errors import KafkaSideError
from streamsample.kafka.changelog import ChangelogPosition, ChunkReader, StoredChunk
from streamsample.kafka.consumer import ColumnarConsumer
from streamsample.kafka.topics import TopicAdmin
from streamsample.labels import decode_delta
from streamsample.records import TopicPartition
from streamsample.runtime.plan import plan_of
from streamsample.runtime.service import Options, run_one
from streamsample.runtime.state import ChunkBody, decode_body
from tests.faults.workload import SCHEMA, SOURCES, Dead, Event, Placed, SourceName, Workload, decode, text_of

REPOSITORY = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("streamsample"))
SESSION_MS = 6_000  # the least that a broker with Kafka's own defaults takes
SECONDS = 150
"""To wait for anything: a machine may be slow, a condition that never comes true is the failure."""


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = SECONDS) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}")


class Worker:
    """One `streamsample run`: a process with a state directory, a metrics port and a log of its own."""

    def __init__(self, job_file: Path, folder: Path, arguments: Sequence[str], crash_at: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "log"
        environment = {**os.environ, "STATE_DIRECTORY": str(folder / "state"), "NO_COLOR": "1"}
        environment["PYTHONFAULTHANDLER"] = "1"  # for `autopsy`
        environment.pop("STREAMSAMPLE_CRASH_AT", None)
        if crash_at:
            environment["STREAMSAMPLE_CRASH_AT"] = crash_at
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "run", str(job_file), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its own workers can be ended with it
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def autopsy(self) -> str:
        """Its log, and if it still runs, where: SIGABRT makes it print the stacks of all its threads."""
        if self.running:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(10)
        return self.log

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def url(self) -> str | None:
        """Where the metrics are, once it has said so."""
        found = re.search(r"metrics at (http://\S+?)/metrics", self.log)
        return found.group(1) if found else None

    def ends(self, seconds: float = SECONDS) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {seconds} s:\n{self.autopsy()}") from None

    def ends_well(self, seconds: float = SECONDS) -> None:
        assert (code := self.ends(seconds)) == 0, f"exit code {code}:\n{self.log}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, of all its processes, and wait."""
        if self.running:  # once it was waited for, its number may be another's
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def ready(self) -> bool:
        """Whether it has its tasks, restored."""
        return self._get("/readyz") is not None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 before it is served."""
        text = self._get("/metrics") or ""
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"streamsample_{name}" and labels.items() <= sample.labels.items()
        )

    def is_ready(self) -> None:
        until(lambda: self.ready or self._fail_if_ended(), lambda: f"ready\n{self.autopsy()}")

    def has(self, name: str, at_least: float, **labels: str) -> None:
        """Wait until a metric has come to a value."""
        until(
            lambda: self.metric(name, **labels) >= at_least or self._fail_if_ended(),
            lambda: f"{name}{labels} at {self.metric(name, **labels)} of {at_least}\n{self.autopsy()}",
        )

    def _fail_if_ended(self) -> bool:
        if not self.running:
            raise AssertionError(f"ended with exit code {self.process.returncode}:\n{self.log}")
        return False

    def _get(self, path: str) -> str | None:
        if (url := self.url) is None:
            return None
        try:
            with urllib.request.urlopen(url + path, timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, ValueError):
            return None


class Scene:
    """A job, its topics, its workload and its workers. `close` ends all of them."""

    def __init__(
        self,
        servers: str,
        folder: Path,
        workload: Workload,
        *,
        commit_interval: str = "50ms",
        fetch_bytes: int = 0,
        session_ms: int = SESSION_MS,
        job_extra: str = "",
        changelog: dict[str, str] | None = None,
        inputs: dict[str, str] | None = None,
    ) -> None:
        """fetch_bytes: small fetches, for many turns of a small workload. changelog, inputs: topic settings."""
        self.servers = servers
        self.folder = folder
        self.workload = workload
        self.name = f"job-{uuid.uuid4().hex[:10]}"
        self.topics: dict[SourceName, str] = {source: f"{self.name}.{source}" for source in SOURCES}
        self.internal = [f"{self.name}.rekeyed.{self.topics[source]}" for source in workload.rekeyed]
        self.output = f"{self.name}.training"
        self.changelog = f"{self.name}.changelog"
        self.dead_letters = f"{self.name}.dead-letters"
        self.workers: list[Worker] = []
        self._commit_interval = commit_interval
        self._fetch_bytes = fetch_bytes
        self._session_ms = session_ms
        self.windows = {"clicked": "20s", "revenue": "45s"}
        self.job_extra = job_extra
        self.job_file = folder / "job.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prediction.avsc").write_text(json.dumps(SCHEMA))
        self._producer: KafkaProducer | None = None
        self._make_topics(changelog or {}, inputs or {})
        self.write_job()

    # -- set-up -----------------------------------------------------------------------------------

    def write_job(self) -> None:
        """The job file, from what the scene now says."""
        fetch = f", max_partition_fetch_bytes: {self._fetch_bytes}" if self._fetch_bytes else ""
        input_ = "format: json" if self.workload.encoding == "json" else "format: avro, schema_file: prediction.avsc"
        time_ = "time: {field: ts, unit: ms}"
        rekey = {source: ", rekey: true" if source in self.workload.rekeyed else "" for source in SOURCES}
        self.job_file.write_text(f"""
job: {self.name}
kafka: {{bootstrap_servers: "{self.servers}", session_timeout_ms: {self._session_ms}{fetch}}}
input: {{topic: {self.topics["predictions"]}, {input_}, id: id, {time_}, idle_timeout: null{rekey["predictions"]}}}
feedback:
  clicks: {{topic: {self.topics["clicks"]}, format: json, id: click_id, refers_to: id, {time_}{rekey["clicks"]}}}
  orders: {{topic: {self.topics["orders"]}, format: json, id: order_id, refers_to: id, {time_}{rekey["orders"]}}}
{self.workload.targets(self.windows, self.name)}
grace: 3s
late_horizon: 10s
commit_interval: {self._commit_interval}
output: {{topic: {self.output}}}
dead_letters: {{max_ratio: 1.0}}
metrics: {{host: 127.0.0.1, port: 0}}
state: {{directory: "${{STATE_DIRECTORY:-{self.folder / "state"}}}"}}
{self.job_extra}
""")

    def _make_topics(self, changelog: dict[str, str], inputs: dict[str, str]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        keep = {"retention.ms": "-1"}
        counts = {self.topics[source]: (self.workload.partitions_of(source), keep | inputs) for source in SOURCES}
        counts |= dict.fromkeys((self.output, self.dead_letters), (self.workload.partitions, keep))
        topics = [NewTopic(name, count, 1, topic_configs=each) for name, (count, each) in counts.items()]
        if changelog:
            log = {**keep, "retention.bytes": "-1", "cleanup.policy": "delete", "compression.type": "producer"}
            log |= {"message.timestamp.type": "CreateTime", **changelog}
            topics.append(NewTopic(self.changelog, self.workload.partitions, 1, topic_configs=log))
        try:
            admin.create_topics(topics)
        finally:
            admin.close()

    @property
    def job(self) -> Job:
        return load_job(self.job_file, os.environ)

    # -- publishing -------------------------------------------------------------------------------

    def publish(self, until_ms: int | None = None) -> None:
        """Publish what is left of the workload, or what is stamped before `until_ms`, and wait until it is there."""
        self.publish_each(until_ms=until_ms)

    def publish_each(self, between: Callable[[], object] = lambda: None, until_ms: int | None = None) -> None:
        """Publish slice by slice, calling `between` after each."""
        for slice_ in self.workload.slices():
            if until_ms is not None and slice_[0].stamp >= until_ms:
                return
            self.send(slice_)
            between()

    @contextmanager
    def flowing(self, pause_seconds: float = 0.02) -> Iterator[None]:
        """Publish in the background, slice by slice; when the body ends, all that is left."""
        hurry = threading.Event()
        failure: list[BaseException] = []

        def flow() -> None:
            try:
                self.publish_each(lambda: hurry.wait(pause_seconds))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=flow, name="publisher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            hurry.set()
            self.workload.finish()
            thread.join(SECONDS)
        assert not failure, failure[0]
        assert not thread.is_alive(), "the publisher hangs"

    def send(self, events: Sequence[Event]) -> None:
        """Publish these, and note where they lie."""
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self.servers, linger_ms=0, acks="all", delivery_timeout_ms=60_000
            )
        sent = [(event, self._send(self._producer, event)) for event in events]
        self._producer.flush(timeout=SECONDS)
        self.note(sent)

    def _send(self, producer: Any, event: Event) -> Any:
        return producer.send(
            self.topics[event.source],
            event.value,
            event.id.encode(),
            partition=self.workload.partition_of(event),
            timestamp_ms=event.stamp,
        )

    def note(self, sent: Sequence[tuple[Event, Any]]) -> None:
        """Note where events lie, from the futures of sending them."""
        for event, future in sent:
            metadata = future.get(timeout=SECONDS)
            self.workload.placed.append(Placed(event, metadata.partition, metadata.offset))

    @contextmanager
    def transaction(self, events: Sequence[Event]) -> Iterator[KafkaProducer]:
        """An upstream producer that has sent these in a transaction, still open; the caller ends it."""
        producer = KafkaProducer(
            bootstrap_servers=self.servers, transactional_id=f"{self.name}.upstream", transaction_timeout_ms=60_000
        )
        try:
            producer.init_transactions()
            producer.begin_transaction()
            sent = [(event, self._send(producer, event)) for event in events]
            producer.flush(timeout=SECONDS)
            yield producer
            self.note(sent)
        finally:
            producer.close()

    # -- running ----------------------------------------------------------------------------------

    def start(self, *arguments: str, crash_at: str = "") -> Worker:
        """A worker that goes on until it is told to stop."""
        worker = Worker(self.job_file, self.folder / f"worker-{len(self.workers)}", arguments, crash_at)
        self.workers.append(worker)
        return worker

    def catch_up(self, *arguments: str, seconds: float = SECONDS) -> Worker:
        """Run one to the ends of the inputs."""
        worker = self.start("--until-caught-up", *arguments)
        worker.ends_well(seconds)
        return worker

    def catch_up_here(self) -> list[str]:
        """The same inside this process, from the changelog alone; the warnings."""
        warnings: list[str] = []
        shutil.rmtree(self.job.tasks_directory, ignore_errors=True)
        run_one(self.job, Options(until_caught_up=True, on_warning=warnings.append), SystemClock(), serve=False)
        return warnings

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        with suppress(KafkaTimeoutError):  # its broker may be gone
            if self._producer is not None:
                self._producer.close(timeout=5)
        admin = TopicAdmin({"bootstrap_servers": self.servers}, timeout_ms=5_000)
        with suppress(KafkaSideError):  # a broker with all topics of all tests would need more memory
            admin.delete([*self.topics.values(), *self.internal, self.output, self.changelog, self.dead_letters])
        admin.close()

    # -- reading ----------------------------------------------------------------------------------

    def read(self, topic: str) -> list[Any]:
        """All committed records of a topic; first waits for transactions that dead workers left open."""
        admin = TopicAdmin({"bootstrap_servers": self.servers})
        sources = [TopicPartition(topic, number) for number in range(self.workload.partitions)]
        try:
            ends = admin.latest(sources)

            def ended() -> bool:  # The markers that end transactions lie behind what was the end.
                stable = admin.latest(sources, committed=True)
                return all(stable[source] >= end for source, end in ends.items())

            until(ended, f"the end of all transactions on {topic}")
        finally:
            admin.close()
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers, isolation_level="read_committed", enable_auto_commit=False
        )
        try:
            consumer.assign([KafkaTopicPartition(*source) for source in sources])
            consumer.seek_to_beginning()
            found: list[Any] = []

            def complete() -> bool:
                for records in consumer.poll(100).values():
                    found.extend(records)
                return all(consumer.position(KafkaTopicPartition(*source)) >= ends[source] for source in sources)

            until(complete, f"the end of {topic}")
        finally:
            consumer.close()
        return found

    def records(self) -> Counter[tuple[int, bytes, int, str]]:
        """The training records as `Expected` has them."""
        found = self.read(self.output)
        if self.workload.encoding == "json":
            return Counter((r.partition, r.key, r.timestamp, r.value.decode()) for r in found)
        schema = fastavro.parse_schema(next(iter(plan_of(self.job).encoder.schemas)))  # type: ignore[union-attr]
        return Counter((r.partition, r.key, r.timestamp, text_of(decode(r.value, schema))) for r in found)

    def dead(self) -> Counter[Dead]:
        """The dead letters, by their headers."""
        sources = {topic: source for source, topic in self.topics.items()}
        letters: Counter[Dead] = Counter()
        for record in self.read(self.dead_letters):
            headers = {name.removeprefix("streamsample.errors."): value.decode() for name, value in record.headers}
            place = int(headers["partition"]), int(headers["offset"])
            letters[Dead(sources[headers["topic"]], *place, headers["stage"])] += 1
        return letters

    def committed(self) -> dict[TopicPartition, tuple[int, str]]:
        """The group's positions and their metadata."""
        consumer = ColumnarConsumer({"bootstrap_servers": self.servers}, group=self.name)
        try:
            return consumer.committed(self.inputs())
        finally:
            consumer.close()

    def inputs(self) -> list[TopicPartition]:
        """All that the group reads."""
        counts = dict.fromkeys(self.internal, self.workload.partitions)
        counts |= {self.topics[source]: self.workload.partitions_of(source) for source in SOURCES}
        return [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]

    def members(self) -> int:
        """How many members the group has, as the broker sees it."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            return len(admin.describe_groups([self.name])[self.name]["members"])
        finally:
            admin.close()

    def chunks(self, partition: int) -> list[StoredChunk]:
        """What a restore of this task would read."""
        committed = self.committed()
        metadata = next(metadata for source, (_, metadata) in committed.items() if source.partition == partition)
        source = TopicPartition(self.changelog, partition)
        position = ChangelogPosition.parse(metadata, source)
        assert position is not None
        found: list[StoredChunk] = []
        with ColumnarConsumer({"bootstrap_servers": self.servers}) as reader:
            reader.assign([source])
            reader.seek(source, position.offset)
            reader.resume([source])
            parts = ChunkReader(source, position)

            def complete() -> bool:
                for batch in reader.poll(100):
                    found.extend(parts.read(batch))
                return parts.done

            until(complete, f"the chunks of {source}")
        return found

    def last_chunk(self, partition: int) -> ChunkBody:
        return decode_body(self.chunks(partition)[-1], TopicPartition(self.changelog, partition))

    # -- checking ---------------------------------------------------------------------------------

    def check(self) -> None:
        """All inputs are processed, each record once; every record, dead letter, position and count is the oracle's."""
        expected, found = self.workload.expected(self.topics, self.name, self.job.version), self.records()
        assert_same("training records", found, expected.records)
        trees = [json.loads(value) for _, _, _, value in found.elements()]
        ids = Counter((tree["record_id"], tree["revision"]) for tree in trees)
        assert set(ids.values()) <= {1}, f"revisions written twice: {[each for each in ids if ids[each] > 1][:5]}"
        assert_same("dead letters", self.dead(), expected.dead)
        self._check_positions()
        for partition in range(self.workload.partitions):
            self._check_books(partition)

    def _check_positions(self) -> None:
        with closing(TopicAdmin({"bootstrap_servers": self.servers})) as admin:
            ends = admin.latest(self.inputs())
        positions = {source: offset for source, (offset, _) in self.committed().items()}
        assert positions == ends

    def _check_books(self, partition: int) -> None:
        """The committed ledger, at the committed watermark, is what the oracle counts there (A18)."""
        body = self.last_chunk(partition)
        delta = decode_delta(body.step)
        outcome = self.workload.outcome(partition, delta.watermark)
        for number in range(len(outcome.rows)):
            rows, feedback = delta.ledger.row_counts(number), delta.ledger.feedback_counts(number)
            assert {name: rows[name] for name in ("explicit", "implicit", "open")} == {
                name: outcome.rows[number][name] for name in ("explicit", "implicit", "open")
            }
            known = {name: feedback[name] for name in ("matched", "duplicate", "late", "waiting")}
            known["unknown"] = feedback["orphan"] + feedback["pre_causal"]
            assert known == {name: outcome.feedback[number][name] for name in known}
        entered, duplicate, late = (int(count) for count in delta.ledger.predictions)
        assert (entered, duplicate, late) == (self.workload.entered(partition), outcome.duplicates, 0)


def assert_same(what: str, found: Counter[Any], expected: Counter[Any]) -> None:
    """Equal as multisets; shows the first few that are not."""
    missing, excess = expected - found, found - expected
    words = f"{what}: {missing.total()} missing, {excess.total()} too many, of {expected.total()}"
    assert not missing + excess, f"{words}; missing {list(missing)[:2]}; too many {list(excess)[:2]}"
