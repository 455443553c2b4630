"""What a worker must not read yet, so that no partition runs far ahead of the others (A8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from streamsample.kafka.consumer import ColumnarConsumer
from streamsample.labels import Watermark
from streamsample.records import RecordBatch, TopicPartition
from streamsample.runtime.layout import Layout
from streamsample.runtime.task import Task


class Pace:
    """Pauses what is ahead and resumes what is not. ends: the positions at which the run ends, None to go on for ever:
    what has nothing more to be read must not hold the others up.
    """

    def __init__(self, layout: Layout, consumer: ColumnarConsumer, ends: Mapping[TopicPartition, int] | None) -> None:
        self._layout = layout
        self._job = layout.plan.job
        self._consumer = consumer
        self._ends = ends
        self._bytes: dict[TopicPartition, int] = {}
        self._slowest: int | None = None

    def read(self, batch: RecordBatch) -> None:
        """Note what was read since time went on."""
        self._bytes[batch.source] = self._bytes.get(batch.source, 0) + len(batch.values.buffer)

    def time_went_on(self, number: int) -> None:
        """The watermark of a task has moved."""
        for source in (*self._layout.direct(number), *self._layout.received(number)):
            self._bytes[source] = 0

    def pause_those_ahead(self, tasks: Mapping[int, Task], elapsed_ms: int) -> None:
        """Pause what the tasks must not read now, and resume what they may."""
        ahead: set[TopicPartition] = set()
        running: dict[TopicPartition, Watermark | None] = {}
        slowest: list[int] = []
        for number, task in tasks.items():
            direct, received = self._layout.direct(number), self._layout.received(number)
            running |= dict.fromkeys(direct, task.watermark) | dict.fromkeys(received)
            # Nothing new until the watermark has acted in full, or lateness would depend on our speed; and nothing that
            # a backfill does not need.
            if task.behind or self._has_finished(task):
                ahead |= {*direct, *(received if task.behind else ())}
                continue
            holder = task.watermark.held_by()
            if holder is None or self._reached_end(holder, tasks):
                continue
            ahead |= self._ahead_of(holder, task)
            level = task.watermark.slowest()
            slowest += [] if level is None else [level]
        self._slowest_is(min(slowest, default=None), tasks)
        for number, task in tasks.items():
            for source in self._layout.sent_on(number):
                running[source] = task.clock_of(source.topic)
                if task.behind or self._is_far(source, task) or self.is_finished(source, tasks):
                    ahead.add(source)
        paused = self._consumer.paused() & running.keys()
        for source in ahead ^ paused:
            changed = running[source]
            if changed is not None:
                changed.set_paused(source, source in ahead, elapsed_ms)
        self._consumer.pause(ahead - paused)
        self._consumer.resume(paused - ahead)

    def _slowest_is(self, level: int | None, tasks: Mapping[int, Task]) -> None:
        """Note how far the slowest is that a task here waits for."""
        if level != self._slowest:
            self._slowest = level
            for source in (source for number in tasks for source in self._layout.sent_on(number)):
                self._bytes[source] = 0

    def _is_far(self, source: TopicPartition, task: Task) -> bool:
        """Whether what is sent on is too far ahead of the slowest: its receivers would have to hold it."""
        level = task.clock_of(source.topic).level_of(source)
        if level is None or self._slowest is None or level <= self._slowest:
            return False
        many = self._bytes.get(source, 0) > self._job.limits.ahead_bytes_max
        return many or level > self._slowest + self._job.max_ahead_ms

    def is_finished(self, source: TopicPartition, tasks: Mapping[int, Task]) -> bool:
        """Whether a backfill has settled all of its range there, or sent it on. What tasks have told each other is read
        to its end.
        """
        task, replayed = tasks.get(source.partition), self._layout.plan.replayed
        if task is None or replayed is None or source.topic not in self._layout.plan.topics:
            return False
        if source.topic in self._layout.origins:
            return (task.clock_of(source.topic).level_of(source) or 0) >= replayed.finished_at
        return task.acted_watermark >= replayed.finished_at

    def _has_finished(self, task: Task) -> bool:
        """Whether the time of a backfill is over for a task."""
        replayed = self._layout.plan.replayed
        return replayed is not None and task.watermark.value() >= replayed.finished_at

    def _ahead_of(self, holder: TopicPartition, task: Task) -> set[TopicPartition]:
        """What a task reads too far ahead of `holder`, in event time or in bytes. What was sent to it of the holder's
        topic must be read on: the holder's own records lie in it.
        """
        found, limit = task.watermark.ahead(self._job.max_ahead_ms), self._job.limits.ahead_bytes_max
        direct, received = self._layout.direct(task.partition), self._layout.received(task.partition)
        ahead = {source for source in direct if source in found}
        ahead |= {source for source in direct if source != holder and self._bytes.get(source, 0) > limit}
        origins = Counter(source.topic for source in found)
        for source in received:
            topic = self._layout.internal[source.topic]
            all_ahead = origins[topic] == self._layout.origins[topic]
            if topic != holder.topic and (all_ahead or self._bytes.get(source, 0) > limit):
                ahead.add(source)
        return ahead

    def _reached_end(self, source: TopicPartition, tasks: Mapping[int, Task]) -> bool:
        """Whether a run that ends when caught up has nothing more to read there."""
        if self._ends is None:
            return False
        position = self._consumer.position(source) or 0
        if source.topic in self._layout.origins:  # which another worker may read
            position = max(position, *(task.received.position(source) for task in tasks.values()))
        return position >= self._ends.get(source, 0)
