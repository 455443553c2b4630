"""Topics as the job needs to know them: what they take, where they end; and the job's own, made and deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import kafka.errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import SystemClock
from streamsample.errors import KafkaSideError, StreamsampleError, TopicError, UnreachableError
from streamsample.kafka.knock import refusals
from streamsample.records import TopicPartition

T = TypeVar("T")

_FOREVER = 2**63 - 1
_PROPAGATION_MS = 2_000
INTERNAL_CONFIGS: Mapping[str, str] = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
}
"""Of topics that hold state: nothing is lost but what the job deletes itself, and nothing is rewritten by the
broker."""


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What a topic takes. Sizes in bytes of a record batch, times in ms."""

    max_message_bytes: int = 1_048_588
    timestamp_after_max_ms: int = 3_600_000
    timestamp_before_max_ms: int = _FOREVER

    def timestamps_at(self, now_ms: int) -> tuple[int, int]:
        """The smallest and the largest timestamp taken at wall time `now_ms`."""
        return max(now_ms - self.timestamp_before_max_ms, -1), min(now_ms + self.timestamp_after_max_ms, _FOREVER)


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it is. `configs`: all its settings, defaults included, as Kafka writes them."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str] = field(repr=False)

    @property
    def max_message_bytes(self) -> int:
        return int(self.configs["max.message.bytes"])

    @property
    def retention_ms(self) -> int | None:
        """How long records are kept after their timestamp; None if for ever, or if the topic is only compacted."""
        kept = int(self.configs["retention.ms"])
        return None if kept < 0 or "delete" not in self.cleanup_policy else kept

    @property
    def cleanup_policy(self) -> frozenset[str]:
        """`delete`, `compact`, or both."""
        return frozenset(part.strip() for part in self.configs["cleanup.policy"].split(",") if part.strip())

    @property
    def stamped_by_broker(self) -> bool:
        """Whether the broker overwrites timestamps with its own time."""
        return self.configs["message.timestamp.type"] == "LogAppendTime"

    @property
    def limits(self) -> TopicLimits:
        after = int(self.configs.get("message.timestamp.after.max.ms", _FOREVER))
        before = int(self.configs.get("message.timestamp.before.max.ms", _FOREVER))
        if self.stamped_by_broker:
            after = before = _FOREVER
        return TopicLimits(self.max_message_bytes, after, before)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it shall be. The broker decides what is not named, and the replication factor if it is -1."""

    name: str
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int = -1

    @staticmethod
    def internal(name: str, partitions: int, replication_factor: int = -1) -> TopicSpec:
        """A topic for the job's own state."""
        return TopicSpec(name, partitions, INTERNAL_CONFIGS, replication_factor)


class TopicAdmin:
    """Questions and orders about topics. Every call ends within `timeout_ms`. Safe from several threads.

    Raises TopicError when a topic is missing or refused, KafkaSideError when the cluster cannot be asked.
    """

    def __init__(self, client: Mapping[str, Any], timeout_ms: int = 15_000) -> None:
        """client: kafka-python's connection and security options. Connects at the first call."""
        self._options = {"reconnect_backoff_max_ms": 1_000, **client}
        self._timeout_ms = timeout_ms
        self._admin: Any = None
        self._lock = threading.Lock()
        self._limits: dict[str, TopicLimits] = {}

    def find(self, topic: str) -> TopicDescription | None:
        """The topic, or None if there is none of this name."""
        return self._bounded(lambda admin: _describe(admin, [topic]), f"topic {topic}").get(topic)

    def describe(self, topics: Iterable[str]) -> dict[str, TopicDescription]:
        """All of them by name. Raises TopicError for the first that does not exist."""
        names = list(dict.fromkeys(topics))
        if not names:
            return {}
        found = self._bounded(lambda admin: _describe_all(admin, names), f"topics {', '.join(names)}")
        for name in names:
            if name not in found:
                raise TopicError(f"topic {name} does not exist", remedy=self._create_command(TopicSpec(name, 4)))
        return found

    def limits(self, topic: str) -> TopicLimits:
        """What the topic takes; asked for once, then remembered (`forget` when the broker says otherwise)."""
        known = self._limits.get(topic)
        if known is None:
            known = self._limits[topic] = self.describe([topic])[topic].limits
        return known

    def forget(self) -> None:
        """Ask again for limits."""
        self._limits.clear()

    def ensure(self, spec: TopicSpec) -> TopicDescription:
        """Create the topic unless it exists; wait until it can be written. May be called by several workers at once.

        Raises TopicError if it exists with another number of partitions or another value of a setting that `spec`
        names.
        """
        found = self.find(spec.name)
        if found is None:
            self._bounded(
                lambda admin: _create(admin, spec, self._timeout_ms), f"topic {spec.name} was not created", spec
            )
            found = self.describe([spec.name])[spec.name]
        if found.partitions != spec.partitions:
            raise TopicError(
                f"topic {spec.name} has {found.partitions} partitions, {spec.partitions} are needed",
                remedy="the number of partitions must not change; use another job name, or reset the job",
            )
        wrong = {key: value for key, value in spec.configs.items() if found.configs.get(key) != value}
        if wrong:
            changes = ",".join(f"{key}={value}" for key, value in wrong.items())
            there = ", ".join(f"{key}={found.configs.get(key)}" for key in wrong)
            raise TopicError(
                f"topic {spec.name} has {there}",
                remedy=f"{self._command('kafka-configs.sh')} --alter --topic {spec.name} --add-config {changes}",
            )
        return found

    def delete(self, topics: Iterable[str]) -> None:
        """Delete topics and wait until they are gone. Those that do not exist are passed over."""
        names = list(topics)
        if names:
            self._bounded(
                lambda admin: _delete(admin, names, self._timeout_ms), f"topics {', '.join(names)} were not deleted"
            )
        for name in names:
            self._limits.pop(name, None)

    def delete_records(self, source: TopicPartition, before: int) -> int:
        """Let the broker delete what lies before offset `before`; the first offset that is left."""

        def order(admin: Any) -> int:
            answer = admin.delete_records({KafkaTopicPartition(*source): before}, timeout_ms=self._timeout_ms)
            return int(next(iter(answer.values()))["low_watermark"])

        return self._bounded(order, f"{source}: records before {before} were not deleted")

    def earliest(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset that is still there, by partition."""
        return self._offsets(sources, OffsetSpec.EARLIEST, "read_uncommitted")

    def latest(self, sources: Iterable[TopicPartition], *, committed: bool = False) -> dict[TopicPartition, int]:
        """The offset after the last record, by partition.

        With `committed`, the last stable offset: an open transaction holds it back.
        """
        return self._offsets(sources, OffsetSpec.LATEST, "read_committed" if committed else "read_uncommitted")

    def oldest_timestamps(self, sources: Iterable[TopicPartition]) -> dict[str, int]:
        """By topic, the smallest timestamp in ms with which one of its partitions begins; empty topics are left out."""
        asked = {KafkaTopicPartition(*source): 0 for source in sources}
        if not asked:
            return {}

        def question(admin: Any) -> dict[str, int]:
            oldest: dict[str, int] = {}
            for source, at in admin.list_partition_offsets(asked, timeout_ms=self._timeout_ms).items():
                if at.timestamp >= 0:
                    oldest[source.topic] = min(at.timestamp, oldest.get(source.topic, at.timestamp))
            return oldest

        return self._bounded(question, f"first records of {', '.join(sorted({source.topic for source in asked}))}")

    def delete_group(self, group: str) -> None:
        """Delete a consumer group and its positions, if there is one. Raises TopicError while it has members."""

        def order(admin: Any) -> None:
            answer = admin.delete_groups([group])[group]
            if answer not in ("OK", "GroupIdNotFoundError"):
                raise TopicError(f"group {group} was not deleted: {answer}", remedy="stop all its workers first")

        self._bounded(order, f"group {group} was not deleted")

    def close(self) -> None:
        """End the connection, if there is one."""
        with self._lock:
            admin, self._admin = self._admin, None
        if admin is not None:
            _in_background(admin.close)

    def _offsets(self, sources: Iterable[TopicPartition], spec: Any, isolation: str) -> dict[TopicPartition, int]:
        asked = {KafkaTopicPartition(*source): spec for source in sources}
        if not asked:
            return {}

        def question(admin: Any) -> dict[TopicPartition, int]:
            found = admin.list_partition_offsets(asked, isolation_level=isolation, timeout_ms=self._timeout_ms)
            return {TopicPartition(*source): int(at.offset) for source, at in found.items()}

        return self._bounded(question, f"offsets of {', '.join(sorted({source.topic for source in asked}))}")

    def _bounded(self, ask: Callable[[Any], T], what: str, spec: TopicSpec | None = None) -> T:
        """Run `ask` in a thread of its own: the library's calls have no common limit. A hung client is dropped."""
        answer: list[T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                answer.append(ask(self._connected()))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True, name="streamsample-topics")
        thread.start()
        thread.join(self._timeout_ms / 1000 + 1)
        if answer:
            return answer[0]
        if failure and isinstance(failure[0], StreamsampleError):
            raise failure[0]
        if not failure or isinstance(failure[0], kafka_errors.RetriableError):
            self.close()  # The next call begins with a new connection.
        cause = failure[0] if failure else TimeoutError(f"no answer within {self._timeout_ms} ms")
        raise self._translated(cause, what, spec) from cause

    def _connected(self) -> Any:
        with self._lock:
            if self._admin is None:
                limits = {"request_timeout_ms": self._timeout_ms, "bootstrap_timeout_ms": self._timeout_ms}
                self._admin = KafkaAdminClient(**{**self._options, **limits})
            return self._admin

    def _translated(self, cause: BaseException, what: str, spec: TopicSpec | None) -> KafkaSideError:
        message = f"{what}: {cause!r}"
        if isinstance(cause, kafka_errors.UnknownTopicOrPartitionError):
            return TopicError(message, remedy=f"{self._command('kafka-topics.sh')} --describe")
        if isinstance(cause, kafka_errors.AuthorizationError):
            return TopicError(
                message, remedy="grant this user Describe, DescribeConfigs, Create and Delete on the topic"
            )
        if spec is not None:
            return TopicError(message, remedy=self._create_command(spec))
        if isinstance(cause, kafka_errors.BrokerResponseError) and not isinstance(cause, kafka_errors.RetriableError):
            return TopicError(message, remedy="the broker's log says more")
        kind = UnreachableError if isinstance(cause, kafka_errors.RetriableError | TimeoutError) else KafkaSideError
        if isinstance(cause, kafka_errors.KafkaTimeoutError) and self._admin is None:
            message = f"{what}: no broker answers ({refusals(self._options['bootstrap_servers'])})"
        return kind(message, remedy=f"check that {self._options.get('bootstrap_servers')} can be reached")

    def _command(self, tool: str) -> str:
        servers = self._options.get("bootstrap_servers")
        return f"{tool} --bootstrap-server {servers if isinstance(servers, str) else ','.join(servers or ())}"

    def _create_command(self, spec: TopicSpec) -> str:
        configs = "".join(f" --config {key}={value}" for key, value in spec.configs.items())
        return (
            f"{self._command('kafka-topics.sh')} --create --topic {spec.name} --partitions {spec.partitions}{configs}"
        )


def _describe(admin: Any, names: list[str]) -> dict[str, TopicDescription]:
    found = {}
    for topic in admin.describe_topics(names):
        error = kafka_errors.for_code(topic["error_code"])
        if error in (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError):
            continue
        if error is not kafka_errors.NoError:
            raise error(f"topic {topic['name']}")
        found[topic["name"]] = topic["partitions"]
    if not found:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
    settings = admin.describe_configs(resources, config_filter="all").get("topic", {})
    out = {}
    for name, partitions in found.items():
        configs = {key: entry["value"] for key, entry in settings.get(name, {}).items() if entry["value"] is not None}
        if "max.message.bytes" not in configs:
            raise TopicError(
                f"topic {name}: its settings cannot be read", remedy="grant this user DescribeConfigs on the topic"
            )
        out[name] = TopicDescription(name, len(partitions), len(partitions[0]["replica_nodes"]), configs)
    return out


def _describe_all(admin: Any, names: list[str]) -> dict[str, TopicDescription]:
    """All of `names` that exist; a topic made a moment ago may not be known yet to the broker that is asked."""
    clock = SystemClock()
    end_ms = clock.elapsed_ms() + _PROPAGATION_MS
    found = _describe(admin, names)
    while len(found) < len(names) and clock.elapsed_ms() < end_ms:
        _pause()
        found = _describe(admin, names)
    return found


def _create(admin: Any, spec: TopicSpec, timeout_ms: int) -> None:
    wanted = {
        "num_partitions": spec.partitions,
        "replication_factor": spec.replication_factor,
        "configs": dict(spec.configs),
    }
    with suppress(kafka_errors.TopicAlreadyExistsError):  # Another worker was faster.
        admin.create_topics({spec.name: wanted}, timeout_ms=timeout_ms)
    admin.wait_for_topics([spec.name], timeout_ms=timeout_ms)


def _delete(admin: Any, names: list[str], timeout_ms: int) -> None:
    answer = admin.delete_topics(names, timeout_ms=timeout_ms, raise_errors=False)
    for topic in answer["topics"]:
        error = kafka_errors.for_code(topic["error_code"])
        if error not in (kafka_errors.NoError, kafka_errors.UnknownTopicOrPartitionError):
            raise error(f"topic {topic['name']}")
    clock = SystemClock()
    end_ms = clock.elapsed_ms() + timeout_ms
    while _still_there(admin, names) and clock.elapsed_ms() < end_ms:
        _pause()


def _still_there(admin: Any, names: list[str]) -> list[str]:
    """Those of `names` that are still there."""
    return [topic["name"] for topic in admin.describe_topics(names) if topic["error_code"] == 0]


def _pause() -> None:
    threading.Event().wait(0.05)


def _in_background(action: Callable[[], None]) -> None:
    threading.Thread(target=action, daemon=True, name="streamsample-topics-close").start()
