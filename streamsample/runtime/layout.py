"""Which partitions each of a job's tasks reads.

Task n reads partition n of every topic that is partitioned by the prediction's id. A topic that is not (`rekey: true`)
goes through a topic of the job's own: task n sends partition n of it, its origin, to the tasks that own its ids, and
reads partition n of the job's own topic. A rekeyed topic may have more partitions than there are tasks: then there are
further numbers, which only send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamsample.records import TopicPartition
from streamsample.runtime.plan import Plan


@dataclass(frozen=True, slots=True)
class Layout:
    """tasks: how many own ids. origins: the partitions of each rekeyed topic; a plan's topics that are not in it are
    read as they are.
    """

    plan: Plan
    tasks: int
    origins: Mapping[str, int]

    @property
    def numbers(self) -> int:
        """How many numbers there are, those that only send included."""
        return max(self.tasks, *self.origins.values(), 0)

    @property
    def partitions(self) -> dict[str, int]:
        """Of each source topic."""
        return {topic: self.origins.get(topic, self.tasks) for topic in self.plan.topics}

    @property
    def internal(self) -> dict[str, str]:
        """For each topic of the job's own the rekeyed topic whose records it carries."""
        return {self.plan.job.rekeyed_topic(topic): topic for topic in self.origins}

    def direct(self, number: int) -> tuple[TopicPartition, ...]:
        """What a task reads of the source topics as they are."""
        topics = self.plan.topics if number < self.tasks else ()
        return tuple(TopicPartition(topic, number) for topic in topics if topic not in self.origins)

    def sent_on(self, number: int) -> tuple[TopicPartition, ...]:
        """What it reads of the rekeyed topics, to send it to the tasks that own the ids."""
        return tuple(TopicPartition(topic, number) for topic, count in self.origins.items() if number < count)

    def received(self, number: int) -> tuple[TopicPartition, ...]:
        """What it reads of what has been sent to it."""
        return tuple(TopicPartition(topic, number) for topic in self.internal if number < self.tasks)

    def told(self, number: int) -> tuple[TopicPartition, ...]:
        """What it reads of the job's own topics: records that were sent to it, and of windows."""
        topics = () if self.plan.exchange is None or number >= self.tasks else (self.plan.exchange,)
        return (*self.received(number), *(TopicPartition(topic, number) for topic in topics))

    def reads(self, number: int) -> tuple[TopicPartition, ...]:
        """All that it reads."""
        return (*self.direct(number), *self.sent_on(number), *self.told(number))

    def sources(self, number: int) -> tuple[TopicPartition, ...]:
        """What holds its watermark back: what it reads directly, and all origins of what it receives (A4)."""
        origins = [TopicPartition(topic, origin) for topic, count in self.origins.items() for origin in range(count)]
        return (*self.direct(number), *origins) if number < self.tasks else ()
