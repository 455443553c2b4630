"""Lets the broker delete what no restore needs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from streamsample.clock import Clock
from streamsample.kafka.topics import TopicAdmin
from streamsample.records import TopicPartition
from streamsample.runtime.plan import Plan
from streamsample.runtime.task import Task

log = logging.getLogger(__name__)

_TRIM_MS = 30_000


class Trimmer:
    """Now and then deletes old records of the changelog, and of what tasks have told each other; beside the loop, for
    an answer may take its time.
    """

    def __init__(self, plan: Plan, admin: TopicAdmin, clock: Clock) -> None:
        self._plan = plan
        self._admin = admin
        self._clock = clock
        self._trimmed_ms = clock.elapsed_ms()
        self._trimmed: dict[TopicPartition, int] = {}

    def trim(self, tasks: Mapping[int, Task], committed: Mapping[TopicPartition, int]) -> None:
        """Delete what these tasks do not need, and what is before these positions, if it is time."""
        now = self._clock.elapsed_ms()
        if now - self._trimmed_ms < _TRIM_MS:
            return
        self._trimmed_ms = now
        needed = {
            TopicPartition(self._plan.job.changelog_topic, partition): task.log.first_offset or 0
            for partition, task in tasks.items()
        }
        own = set(self._plan.reads) - set(self._plan.topics)
        needed |= {source: offset for source, offset in committed.items() if source.topic in own}
        due = {source: offset for source, offset in needed.items() if offset > self._trimmed.get(source, 0)}
        if due:
            self._trimmed |= due
            threading.Thread(target=self._delete, args=(due,), name="changelog-trim", daemon=True).start()

    def _delete(self, due: dict[TopicPartition, int]) -> None:
        for source, offset in due.items():
            try:
                self._admin.delete_records(source, offset)
            except Exception as error:
                log.warning("%s was not trimmed, it will be tried again: %s", source, error)
