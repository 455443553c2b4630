"""Tasks in memory, played to by hand: batches, times and restarts as a worker would give them, without a broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsample.clock import ManualClock
from streamsample.kafka.changelog import StoredChunk
from streamsample.records import RecordBatch, Spans, TopicPartition
from streamsample.runtime.exchange import Message
from streamsample.runtime.plan import Plan
from streamsample.runtime.samples import TaskSettings
from streamsample.runtime.source import Rejected
from streamsample.runtime.task import Task
from streamsample.runtime.training import Encoded

MESSAGE_BYTES_MAX = 1_000_000
"""What the topics of a player take."""


@dataclass(frozen=True)
class Written:
    """A training record as it was written: everything that a reader of the topic sees."""

    key: bytes
    timestamp: int
    value: bytes

    @property
    def tree(self) -> dict[str, Any]:
        """The value, where it is JSON."""
        found: dict[str, Any] = json.loads(self.value)
        return found


def written_of(encoded: Encoded) -> list[Written]:
    """The messages of some encoded records."""
    rows = zip(encoded.keys.to_list(), encoded.timestamps.tolist(), encoded.values.to_list(), strict=True)
    return [Written(key or b"", timestamp, value or b"") for key, timestamp, value in rows]


class TaskPlayer:
    """One task. `clock` moves only when told to. After everything that it is given its books are checked (A18).

    written, rejected: what it has said, in order; set_aside: feedback that no label could use, with the topic that it
    goes to; sent: to other tasks, until someone takes it away.
    """

    def __init__(self, plan: Plan, number: int, settings: TaskSettings, clock: ManualClock) -> None:
        self.plan = plan
        self.number = number
        self.settings = settings
        self.clock = clock
        self.task = Task(plan, number, settings)
        self.written: list[Written] = []
        self.rejected: list[Rejected] = []
        self.set_aside: list[tuple[str, Rejected]] = []
        self.sent: list[Message] = []
        self.offsets: dict[str, int] = {}
        self.chunks: list[StoredChunk] = []

    def batch_of(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        times: Sequence[int] | None = None,
    ) -> RecordBatch:
        """The next records of a topic; times: their timestamps in ms, default 0."""
        count = len(values)
        first = self.offsets.get(topic, 0)
        self.offsets[topic] = first + count
        return RecordBatch(
            topic=topic,
            partition=self.number,
            offsets=np.arange(first, first + count),
            timestamps=np.array(times if times is not None else [0] * count, np.int64),
            keys=Spans.of(keys or [None] * count),
            values=Spans.of(values),
            headers=Spans.nulls(count),
            next_offset=first + count,
        )

    def read(self, batch: RecordBatch) -> None:
        """Let the task read a batch; its partition is not caught up then."""
        if batch.topic in self.plan.topics:
            self.set_caught_up(batch.topic, False)
        self.task.process(batch, self.clock.now_ms(), self.clock.elapsed_ms())
        self.turn()

    def turn(self) -> None:
        """What the worker does after each poll."""
        self.task.advance(self.clock.elapsed_ms())
        output = self.task.take_output()
        self.sent += output.messages
        self.rejected += output.rejected
        self.set_aside += output.aside
        for encoded in output.records:
            self.written += written_of(encoded)
        if self.task.join is not None:
            self.task.join.check()
        if self.settings.partitions == 1 and self.sent:
            self.told([message.value for message in self.sent])  # what a task that is alone tells itself

    def told(self, messages: Sequence[bytes]) -> None:
        """What tasks have to say comes."""
        self.sent = []
        assert self.plan.exchange is not None
        self.read(self.batch_of(self.plan.exchange, list(messages)))

    def set_caught_up(self, topic: str, yes: bool) -> None:
        """Whether the end of a topic is reached."""
        self.task.watermark.set_caught_up(TopicPartition(topic, self.number), yes, self.clock.elapsed_ms())

    def commit(self) -> None:
        """Note what the task would write to its changelog."""
        pieces, delta = self.task.snapshot()
        body = b"".join(pieces)
        sequence = self.task.log.next_sequence
        self.chunks.append(StoredChunk(sequence, sequence, len(body), body))
        self.task.log.add(sequence, sequence, len(body), delta)
        self.task.log.trim(self.task.acted_watermark)

    def restart(self) -> None:
        """Another process takes the task up from its changelog."""
        self.commit()
        changelog = TopicPartition(self.plan.job.changelog_topic, self.number)
        fresh = Task(self.plan, self.number, self.settings)
        first = self.task.log.position().first  # the topic has no older ones any more
        self.chunks = [chunk for chunk in self.chunks if chunk.sequence >= first]
        fresh.restore(self.chunks, dict(self.task.positions), changelog)
        self.task.close()
        self.task = fresh
        self.turn()


class Player:
    """All tasks of a job. What they tell each other comes at once."""

    def __init__(self, plan: Plan, partitions: int, now_ms: int) -> None:
        self.plan = plan
        self.clock = ManualClock(now_ms)
        settings = TaskSettings(partitions, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX)
        self.tasks = [TaskPlayer(plan, number, settings, self.clock) for number in range(partitions)]
        self._caught_up: set[str] = set()

    def partition_of(self, key: bytes | None) -> int:
        """Where a record with this key lies."""
        if key is None or len(self.tasks) == 1:
            return 0
        from streamsample.kafka.partitioner import partitions_of  # Imported here: most timelines have one partition.

        return int(partitions_of(Spans.of([key]), len(self.tasks))[0][0])

    def give(self, topic: str, partition: int, key: bytes | None, value: bytes | None, timestamp: int) -> int:
        """Let a record be read; its offset."""
        task = self.tasks[partition]
        batch = task.batch_of(topic, [value], [key], [timestamp])
        self._caught_up.discard(topic)
        task.read(batch)
        self._settle()
        return int(batch.offsets[0])

    def advance(self, time_ms: int) -> None:
        """Event time in all partitions comes to `time_ms`, as by records that concern nothing."""
        for task in self.tasks:
            for topic in self.plan.topics:
                source = TopicPartition(topic, task.number)
                position = task.offsets.get(topic, 0)
                task.task.watermark.on_read(source, time_ms, position, self.clock.elapsed_ms())
        self._settle()

    def wait(self, duration_ms: int) -> None:
        """Let the clock go on."""
        self.clock.advance(duration_ms)
        self._settle()

    def caught_up(self, topics: Sequence[str]) -> None:
        """The ends of these topics are reached, in all partitions."""
        self._caught_up |= set(topics)
        for task in self.tasks:
            for topic in topics:
                task.set_caught_up(topic, True)
        self._settle()

    def restart(self) -> None:
        """Other processes take the tasks up."""
        for task in self.tasks:
            task.restart()
            for topic in self._caught_up:
                task.set_caught_up(topic, True)
        self._settle()

    def close(self, time_ms: int) -> None:
        """Let event time come to `time_ms` and past everything that is open then."""
        join = self.plan.join
        reach = self.plan.job.closes_after_ms if join is None else join.reach_ms + join.hold_ms
        self.advance(time_ms + reach + 1)

    def commit(self) -> None:
        """What workers do now and then; raises InvariantError if the books do not balance (A18)."""
        for task in self.tasks:
            task.commit()

    def _settle(self) -> None:
        """Let everything act on everything: the tasks on the time, silent partitions on their topics', owners of
        windows on what they are told.
        """
        for topic in self._caught_up:
            levels = [task.task.watermark.level_of(TopicPartition(topic, task.number)) for task in self.tasks]
            largest = max((level for level in levels if level is not None), default=None)
            if largest is not None:
                for task in self.tasks:
                    task.task.watermark.follow(topic, largest, self.clock.elapsed_ms())
        for task in self.tasks:
            task.turn()
            while task.task.behind:
                task.turn()
        while any(task.sent for task in self.tasks):
            messages = [message for task in self.tasks for message in task.sent]
            for task in self.tasks:
                task.sent = []
            for task in self.tasks:
                mine = [message.value for message in messages if message.to == task.number]
                if mine:
                    task.told(mine)
