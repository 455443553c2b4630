"""What a worker writes: its tasks' records, dead letters, state and positions, one transaction after another."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsample.clock import Clock
from streamsample.kafka.changelog import ChunkPacking
from streamsample.kafka.crash import crash_point
from streamsample.kafka.producer import TransactionalProducer
from streamsample.kafka.topics import TopicAdmin
from streamsample.kafka.transaction import CommitResult, Positions, ProducerSettings
from streamsample.records import RecordBatch, Spans, TopicPartition
from streamsample.runtime.dead_letters import DeadLetterLimit, letters_of
from streamsample.runtime.exchange import Message
from streamsample.runtime.plan import Plan
from streamsample.runtime.preflight import Cluster
from streamsample.runtime.report import Totals, Uncommitted, totals_of
from streamsample.runtime.state import Logged
from streamsample.runtime.task import Task
from streamsample.runtime.training import Encoded


@dataclass(frozen=True, slots=True)
class _Saved:
    """A task as the transaction has it: what was sent of it, while the task itself goes on."""

    task: Task
    chunk: ChunkPacking
    logged: Logged
    positions: dict[str, int]
    begins_at: dict[str, int]
    watermark: int
    totals: Totals


@dataclass(slots=True)
class Commit:
    """A commit, and what it makes true. positions: from which offsets on a restart reads, by topic and partition;
    seconds: how long it took, once it has ended.
    """

    tasks: Sequence[Task]
    positions: Mapping[TopicPartition, int]
    totals: Mapping[int, Totals]
    uncommitted: Uncommitted
    started_ms: int
    seconds: float = 0.0


class Sink:
    """The producer of one worker, and what its open transaction holds. After a failure: `discard`, then go on anew."""

    def __init__(self, plan: Plan, cluster: Cluster, admin: TopicAdmin, clock: Clock) -> None:
        self._plan = plan
        self._cluster = cluster
        self._admin = admin
        self._clock = clock
        self._dead_limit = DeadLetterLimit(plan.job.dead_letters.max_ratio, plan.job.dead_letters.min_count)
        # A random part per process: with a shared id, a zombie would break its rightful owner's transaction.
        self._transactional_id = f"{plan.job.group}-{secrets.token_hex(8)}"
        self._producer: TransactionalProducer | None = None
        self._in_transaction = False
        self._uncommitted = Uncommitted()
        self._commit: Commit | None = None

    def begin(self) -> TransactionalProducer:
        """A producer with an open transaction. A new one ends what an earlier one of this process left open."""
        if self._producer is None:
            self._producer = TransactionalProducer(
                self._plan.job.kafka.options("producer"),
                self._transactional_id,
                limits=self._admin.limits,
                clock=self._clock,
                settings=ProducerSettings(codec=self._plan.job.output.compression),
            )
        if not self._in_transaction:
            self._producer.begin()
            self._in_transaction = True
        return self._producer

    def read(self, batch: RecordBatch) -> None:
        """Note what the next commit makes read."""
        self._uncommitted.read(batch)

    def write(self, task: Task, read: int) -> None:
        """Send what the task has to say. read: how many records were read for it."""
        output = task.take_output()
        self._dead_limit.count(read, output.rejected)
        self._uncommitted.delays += output.delays
        self._uncommitted.audit.add(output.audit)
        topic = self._plan.job.output.topic
        for encoded in output.records:
            self.begin().send_partitioned(topic, encoded.timestamps, encoded.keys, encoded.values)
            self._uncommitted.wrote(topic, encoded)
        for message in output.messages:
            self._tell(message)
        for group in output.rejected:
            letters = letters_of(group, self._clock.now_ms(), self._cluster.dead_letter_bytes_max)
            self.begin().send_partitioned(
                self._plan.job.dead_letters_topic, letters.timestamps, letters.keys, letters.values, letters.headers
            )
            self._uncommitted.refused(group)
        for aside, group in output.aside:
            letters = letters_of(group, self._clock.now_ms(), self._cluster.dead_letter_bytes_max)
            self.begin().send_partitioned(aside, letters.timestamps, letters.keys, letters.values, letters.headers)
            self._uncommitted.wrote(aside, Encoded(letters.timestamps, letters.keys, letters.values))

    def _tell(self, message: Message) -> None:
        """Send a message to another task. Stamped with wall time, as the changelog is."""
        value = np.frombuffer(message.value, np.uint8)
        values = Spans(value, np.zeros(1, np.int64), np.array([len(value)], np.int32))
        topic = message.topic or self._plan.exchange
        assert topic is not None
        now = np.array([self._clock.now_ms()])
        self.begin().send(topic, message.to, now, Spans.nulls(1), values)

    @property
    def committing(self) -> bool:
        """Whether a commit is on its way: then no other can begin."""
        return self._commit is not None

    def commit(self, tasks: Sequence[Task], group_metadata: Any) -> None:
        """Begin to make everything up to here visible at once: records, dead letters, state, positions.

        tasks: those that have changed. The worker may go on; what it writes then belongs to the next transaction.
        """
        started = self._clock.elapsed_ms()
        producer = self.begin()
        saved = [self._save(producer, task) for task in tasks]
        producer.commit_beside(lambda written: self._logged(saved, written), group_metadata)
        self._in_transaction = False
        uncommitted, self._uncommitted = self._uncommitted, Uncommitted()
        positions = {
            TopicPartition(topic, each.task.partition): offset
            for each in saved
            for topic, offset in (each.positions | each.begins_at).items()
        }
        totals = {each.task.partition: each.totals for each in saved}
        self._commit = Commit(tasks, positions, totals, uncommitted, started)

    @property
    def has_more(self) -> bool:
        """Whether anything was written since the last commit began."""
        return self._in_transaction

    def committed(self, *, wait: bool) -> Commit | None:
        """The commit on its way, once, when it has ended. Raises what made it fail."""
        if self._commit is None or self._producer is None or self._producer.committed(wait=wait) is None:
            return None
        commit, self._commit = self._commit, None
        commit.seconds = (self._clock.elapsed_ms() - commit.started_ms) / 1000
        return commit

    def discard(self) -> None:
        """Throw the open transaction away, and the producer with it."""
        if self._producer is not None:
            self._producer.close()
        self._producer, self._in_transaction, self._commit = None, False, None
        self._uncommitted = Uncommitted()

    def _save(self, producer: TransactionalProducer, task: Task) -> _Saved:
        """Send the next chunk of the task's changelog."""
        crash_point("before_changelog")
        body, logged = task.snapshot()
        chunk = ChunkPacking(task.log.next_sequence, body, self._cluster.changelog_bytes_max)
        # Wall time: rows live in event time, and no retention may be counted from that.
        now = self._clock.now_ms()
        producer.send_built(self._plan.job.changelog_topic, task.partition, now, chunk, chunk.body_bytes)
        crash_point("after_changelog")
        begins_at = task.received.begins_at(task.positions)
        return _Saved(task, chunk, logged, dict(task.positions), begins_at, task.acted_watermark, totals_of(task))

    def _logged(self, saved: Sequence[_Saved], written: CommitResult) -> Positions:
        """Note where the chunks are, and say what the group's offsets are to be. Called while the worker goes on."""
        offsets: dict[TopicPartition, tuple[int, str]] = {}
        for each in saved:
            task, log = each.task, each.task.log
            changelog = TopicPartition(self._plan.job.changelog_topic, task.partition)
            log.add(each.chunk.sequence, written.base_offsets(changelog)[0], each.chunk.size_bytes, each.logged)
            log.trim(each.watermark)
            for topic, position in each.positions.items():
                offsets[TopicPartition(topic, task.partition)] = (position, str(log.position()))
        return offsets
