"""What is asked of the cluster before a job runs: topics, partitions, settings, retention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from streamsample.config import Job
from streamsample.config.units import format_duration
from streamsample.errors import TopicError
from streamsample.kafka.topics import INTERNAL_CONFIGS, TopicAdmin, TopicDescription, TopicSpec
from streamsample.labels import PayloadSpace
from streamsample.records import TopicPartition
from streamsample.runtime.places import PARTITIONS_MAX
from streamsample.runtime.samples import TaskSettings

_REKEYED_BYTES_MAX = 8 << 20
"""max.message.bytes of the topics that carry rekeyed records: a block has many of them."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the job found. partitions: of every source topic; the sizes are the topics' max.message.bytes;
    that of dead letters is also of what is set aside. exchange_bytes_max: of the internal topic of windows, 0 without
    one. origins: the partitions of each topic that is rekeyed; rekeyed_bytes_max: of the topics that carry their
    records.
    """

    partitions: int
    output_bytes_max: int
    changelog_bytes_max: int
    dead_letter_bytes_max: int
    exchange_bytes_max: int
    warnings: tuple[str, ...]
    origins: Mapping[str, int] = field(default_factory=dict)
    rekeyed_bytes_max: int = 0

    def task_settings(self, space: PayloadSpace) -> TaskSettings:
        """What a task must know of it."""
        return TaskSettings(
            self.partitions,
            self.output_bytes_max,
            self.exchange_bytes_max,
            space,
            self.origins,
            self.rekeyed_bytes_max,
        )


def inspect(job: Job, admin: TopicAdmin, now_ms: int) -> tuple[dict[str, TopicDescription], tuple[str, ...]]:
    """Describe the source topics and check that they fit together; what is doubtful comes back as warnings.

    Raises TopicError if one is missing, or if their numbers of partitions differ.
    """
    found = admin.describe(job.sources)
    _check_partitions(job, found)
    warnings = [warning for topic, role in _roles(job).items() for warning in _topic_warnings(job, found[topic], role)]
    output = admin.find(job.output.topic)
    known = found if output is None else found | {output.name: output}
    warnings += event_time_warnings(job, known, admin.oldest_timestamps(_partitions(found)), now_ms)
    return found, tuple(warnings)


def _partitions(found: Mapping[str, TopicDescription]) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name, topic in found.items() for number in range(topic.partitions)]


def prepare(job: Job, admin: TopicAdmin, now_ms: int) -> Cluster:
    """`inspect`, and make the topics that the job writes where they are missing. Raises TopicError."""
    found, warnings = inspect(job, admin, now_ms)
    partitions = _tasks(job, found)
    origins = {topic: found[topic].partitions for topic in job.rekeyed}
    copies = job.changelog.replication or -1
    numbers = max(partitions, *origins.values(), 0)
    changelog = admin.ensure(TopicSpec.internal(job.changelog_topic, numbers, copies))
    for topic in origins:
        configs = {**INTERNAL_CONFIGS, "max.message.bytes": str(_REKEYED_BYTES_MAX)}
        admin.ensure(TopicSpec(job.rekeyed_topic(topic), partitions, configs, copies))
    exchange = None
    if job.exchanges_windows:
        exchange = admin.ensure(TopicSpec.internal(job.windows_topic, partitions, copies))
    dead = admin.find(job.dead_letters_topic) or admin.ensure(
        TopicSpec(job.dead_letters_topic, partitions, {}, job.dead_letters.replication or -1)
    )
    aside = [
        admin.find(topic) or admin.ensure(TopicSpec(topic, partitions, {}))
        for topic in (job.late_topic, job.orphans_topic)
        if topic is not None and topic != dead.name
    ]
    # The records of a backfill are as old as its range: the usual retention would take them at once.
    kept = {} if job.backfill is None else {"retention.ms": "-1"}
    output = admin.find(job.output.topic) or admin.ensure(TopicSpec(job.output.topic, partitions, kept))
    return Cluster(
        partitions=partitions,
        output_bytes_max=output.max_message_bytes,
        changelog_bytes_max=changelog.max_message_bytes,
        dead_letter_bytes_max=min(job.dead_letters.max_bytes, *(each.max_message_bytes for each in (dead, *aside))),
        exchange_bytes_max=0 if exchange is None else exchange.max_message_bytes,
        warnings=warnings,
        origins=origins,
        rekeyed_bytes_max=_REKEYED_BYTES_MAX,
    )


def _roles(job: Job) -> dict[str, str]:
    roles = {job.input.topic: "input"}
    return roles | {topic: f"feedback.{name}" for name, item in job.feedback.items() for topic in item.topics}


def _tasks(job: Job, found: Mapping[str, TopicDescription]) -> int:
    """How many tasks the job has: as many as the topics have partitions that are not rekeyed, else the input."""
    return next((found[topic].partitions for topic in _as_they_are(job)), found[job.input.topic].partitions)


def _as_they_are(job: Job) -> list[str]:
    """The topics that are not rekeyed."""
    return [topic for topic in _roles(job) if not job.sources[topic].rekey]


def _check_partitions(job: Job, found: Mapping[str, TopicDescription]) -> None:
    roles = _roles(job)
    for first, topic in pairwise(_as_they_are(job)):
        if found[topic].partitions != found[first].partitions:
            raise TopicError(
                f"{first} ({roles[first]}) has {found[first].partitions} partitions, {topic} ({roles[topic]}) has "
                f"{found[topic].partitions}: the feedback of an id would lie in another partition than its prediction",
                remedy="give both the same number of partitions and the same keys, or set `rekey: true` on "
                f"{roles[topic]}",
            )
    for topic in job.rekeyed:
        if found[topic].partitions > PARTITIONS_MAX:
            raise TopicError(
                f"{topic} ({roles[topic]}) has {found[topic].partitions:,} partitions",
                remedy=f"a topic that is rekeyed may have {PARTITIONS_MAX:,}",
            )


def _topic_warnings(job: Job, topic: TopicDescription, role: str) -> list[str]:
    warnings = []
    if "compact" in topic.cleanup_policy:
        warnings.append(
            f"{role}: {topic.name} is compacted: older records of a key vanish, and with them predictions or "
            "feedback; use cleanup.policy=delete"
        )
    retention = topic.retention_ms
    if retention is not None and retention < job.retention_ms_min:
        warnings.append(
            f"{role}: {topic.name} keeps records for {format_duration(retention)} (retention.ms), less than the "
            f"{format_duration(job.retention_ms_min)} that a window needs: after a long stop, rows would be dropped "
            f"as uncovered; set retention.ms={job.retention_ms_min} or more"
        )
    if topic.stamped_by_broker and job.sources[topic.name].time is None:
        warnings.append(
            f"{role}: {topic.name} is stamped by the broker (message.timestamp.type=LogAppendTime): its event time "
            "is when records were written; name the field that holds it (time)"
        )
    return warnings


def event_time_warnings(
    job: Job, topics: Mapping[str, TopicDescription], oldest: Mapping[str, int], now_ms: int
) -> list[str]:
    """Topics whose records are born past their retention: a broker may delete them before they are read.

    topics: the sources, and the output if it exists; oldest: by source topic, the timestamp in ms of its first record.
    """
    warnings = []
    for topic, role in _roles(job).items():
        retention, first = topics[topic].retention_ms, oldest.get(topic)
        if retention is not None and first is not None and first < now_ms - retention:
            warnings.append(
                f"{role}: {topic} holds records older than its retention ({format_duration(retention)}): brokers "
                "delete by the record's timestamp and may take them before they are read; set retention.ms=-1 for a "
                "replay"
            )
    output, first = topics.get(job.output.topic), oldest.get(job.input.topic)
    if output is not None and output.retention_ms is not None and first is not None:
        born_ms = first + job.closes_after_ms
        if born_ms < now_ms - output.retention_ms:
            warnings.append(
                f"output: {output.name} keeps records for {format_duration(output.retention_ms)} after their "
                "timestamp, which is when their window closed in event time: those of the oldest events may vanish "
                "before they are read; set retention.ms=-1 for a replay"
            )
    if output is not None and "compact" in output.cleanup_policy:
        warnings.append(f"output: {output.name} is compacted by prediction id: only the last record of an id stays")
    return warnings
