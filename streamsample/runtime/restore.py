"""How a task begins: from its local state or its changelog if the group has committed for it, else from where the job
starts.

A task whose group has no position though its changelog holds committed state has lost the position (a deleted group,
or offsets.retention.minutes of a job that stood still): to begin again would write its records a second time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamsample.clock import Clock
from streamsample.errors import ChangelogGapError, LocalStateError, RetentionError, StateError
from streamsample.kafka.changelog import ChangelogPosition, ChunkReader, StoredChunk
from streamsample.kafka.consumer import ColumnarConsumer, FetchLimits
from streamsample.records import TopicPartition
from streamsample.runtime.local import LocalCopy, find, forget
from streamsample.runtime.task import FIRST_EVENT, Task

log = logging.getLogger(__name__)

_NO_PROGRESS_MS = 60_000
_TELL_MS = 3_000
_AWAY_MS = 1_000
_LIMITS = FetchLimits(partition=16 << 20, request=64 << 20, decoded=64 << 20)


@dataclass(slots=True)
class Restoration:
    """A task that is reading its local copy, or else its changelog. Goes on a little at each `step`, so that the worker
    keeps polling its group. held_bytes: of chunks, which are held until all of them have been read.
    """

    task: Task
    changelog: TopicPartition
    position: ChangelogPosition
    positions: dict[str, int]
    connect: Callable[[], ColumnarConsumer]
    consumer: ColumnarConsumer
    started_ms: int
    local: LocalCopy | None
    chunks: list[StoredChunk] = field(default_factory=list)
    held_bytes: int = 0
    _parts: ChunkReader = field(init=False)
    _heard_ms: int = field(init=False)
    _told_ms: int = field(init=False)
    _asked_ms: int = field(init=False)
    _reader: ColumnarConsumer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._parts = ChunkReader(self.changelog, self.position)
        self._heard_ms = self._told_ms = self._asked_ms = self.started_ms

    @property
    def source(self) -> str:
        """What the state is read from."""
        return "its changelog" if self.local is None else "its local state"

    @property
    def progress(self) -> float:
        """The share that was read, 0 to 1."""
        return self._parts.progress if self.local is None else self.local.progress

    def step(self, clock: Clock, timeout_ms: float) -> bool:
        """Read on; whether the task is restored. Raises StateError when the changelog cannot give what was
        committed.
        """
        now = clock.elapsed_ms()
        if now - self._asked_ms > _AWAY_MS:  # while others were restored
            self._heard_ms += now - self._asked_ms
        self._asked_ms = now
        if now - self._told_ms > _TELL_MS:
            self._told_ms = now
            log.info("task %d: %.0f%% of %s read", self.task.partition, 100 * self.progress, self.source)
        if self.local is None:
            return self._read_changelog(clock, timeout_ms)
        try:
            return self.local.step()
        except LocalStateError as error:
            log.warning("task %d: its local state is not used: %s", self.task.partition, error)
            self.local, self._heard_ms = None, now
            return False

    def _read_changelog(self, clock: Clock, timeout_ms: float) -> bool:
        if self._reader is None:
            self._reader = self.connect()
            self._reader.assign([self.changelog])
            self._reader.seek(self.changelog, self.position.offset)
            self._reader.resume([self.changelog])
        try:
            batches = self._reader.poll(timeout_ms)
        except RetentionError as error:
            raise ChangelogGapError(
                f"{self.changelog}@{self.position.offset}: the changelog no longer begins there: {error.what}",
                remedy="something else deleted its records; rebuild the state with `streamsample reset JOB`",
            ) from error
        for batch in batches:
            for chunk in self._parts.read(batch):
                self.chunks.append(chunk)
                self.held_bytes += len(chunk.body)
        if batches:
            self._heard_ms = clock.elapsed_ms()
        if self._parts.done:
            self.task.restore(self.chunks, self.positions, self.changelog)
            start_added(self.task, self.consumer)
            return True
        # An open transaction of a dead worker hides the end until it times out; so silence alone is no error for a
        # while.
        if clock.elapsed_ms() - self._heard_ms > _NO_PROGRESS_MS:
            raise ChangelogGapError(
                f"{self.changelog}: chunk {self.position.last} was committed but does not come: read "
                f"{self.progress:.0%} of {self.position.last - self.position.first + 1} chunks, then nothing for "
                f"{_NO_PROGRESS_MS // 1000} s",
                remedy="look for a transaction that is open on the changelog (kafka-transactions.sh list), or "
                "rebuild the state with `streamsample reset JOB`",
            )
        return False

    def close(self) -> None:
        """End the reader's connection."""
        if self._reader is not None:
            self._reader.close()
        if self.local is not None:
            self.local.close()


@dataclass(slots=True)
class FirstStart:
    """A task without committed positions, whose changelog must hold no committed chunk. Goes on like a Restoration.

    What it may hold are chunks of transactions that were aborted, by workers that died before their first commit.
    """

    task: Task
    changelog: TopicPartition
    end: int
    reader: ColumnarConsumer
    consumer: ColumnarConsumer
    started_ms: int
    held_bytes: int = 0
    _heard_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self._heard_ms = self.started_ms

    @property
    def progress(self) -> float:
        """The share of the changelog that was read, 0 to 1."""
        return min(1.0, (self.reader.position(self.changelog) or 0) / self.end)

    def step(self, clock: Clock, timeout_ms: float) -> bool:
        """Read on; whether the task has its first positions. Raises StateError if there is committed state."""
        batches = self.reader.poll(timeout_ms)
        if any(len(batch) for batch in batches):
            raise StateError(
                f"{self.changelog}: the changelog holds the state of an earlier run, but group "
                f"{self.task.plan.job.group} has no position: it was deleted, or has expired "
                "(offsets.retention.minutes)",
                remedy="to begin again with `streamsample reset JOB` writes records of predictions that are read "
                "again a second time; so write them to a new topic, or give the job another name",
            )
        if batches:
            self._heard_ms = clock.elapsed_ms()
        if (self.reader.position(self.changelog) or 0) >= self.end:
            start_fresh(self.task, self.consumer, clock.now_ms())
            return True
        if clock.elapsed_ms() - self._heard_ms > _NO_PROGRESS_MS:
            raise StateError(
                f"{self.changelog}: whether it holds committed state cannot be seen: nothing came for "
                f"{_NO_PROGRESS_MS // 1000} s",
                remedy="look for a transaction that is open on the changelog (kafka-transactions.sh list)",
            )
        return False

    def close(self) -> None:
        """End the reader's connection."""
        self.reader.close()


def begin(
    task: Task,
    connection: Mapping[str, Any],
    client_id: str,
    consumer: ColumnarConsumer,
    committed: Mapping[TopicPartition, tuple[int, str]],
    clock: Clock,
) -> Restoration | FirstStart | None:
    """Begin a task: from its changelog if the group has `committed` something for its partitions, else for the first
    time. None if it can run at once. consumer: the worker's, which is asked where logs begin and end.

    Raises StateError if only some of the task's partitions have a position.
    """
    changelog = TopicPartition(task.plan.job.changelog_topic, task.partition)
    first = consumer.beginning_offsets([changelog])[changelog]

    def connect() -> ColumnarConsumer:
        return ColumnarConsumer(connection, group=None, client_id=f"{client_id}-restore", limits=_LIMITS)

    restoration = begin_restoration(task, connect, consumer, committed, first, clock)
    if restoration is not None:
        return restoration
    forget(task)
    end = consumer.end_offsets([changelog])[changelog]
    if first == end:
        start_fresh(task, consumer, clock.now_ms())
        return None
    reader = connect()
    reader.assign([changelog])
    reader.seek(changelog, first)
    reader.resume([changelog])
    return FirstStart(task, changelog, end, reader, consumer, clock.elapsed_ms())


def begin_restoration(
    task: Task,
    connect: Callable[[], ColumnarConsumer],
    consumer: ColumnarConsumer,
    committed: Mapping[TopicPartition, tuple[int, str]],
    first_offset: int,
    clock: Clock,
) -> Restoration | None:
    """Begin to restore a task from what the group committed for its partitions; None if there is nothing to restore.

    connect: gives a reader for the changelog, whose first record is at `first_offset`.

    Topics that the job's file has more now have no position yet, or an old one.

    Raises StateError if a position does not name the changelog.
    """
    known = [source for source in task.layout.reads(task.partition) if source in committed]
    if not known:
        return None
    named = [ChangelogPosition.parse(committed[source][1], source) for source in known]
    position = max((each for each in named if each is not None), key=lambda each: each.last, default=None)
    if position is None or None in named:
        raise StateError(
            f"{known[0]}: group {task.plan.job.group} has a position here, but none that names a changelog",
            remedy="the group was used by something else, or its offsets were set by hand: give the job another "
            "name, or delete the group with `streamsample reset JOB`",
        )
    positions = {source.topic: committed[source][0] for source in known}
    return Restoration(
        task=task,
        changelog=TopicPartition(task.plan.job.changelog_topic, task.partition),
        position=position,
        positions=positions,
        connect=connect,
        consumer=consumer,
        started_ms=clock.elapsed_ms(),
        local=find(task, positions, position, first_offset),
    )


def start_fresh(task: Task, consumer: ColumnarConsumer, now_ms: int) -> None:
    """Give a task without committed positions its first ones, by `start` of the job file: one event time for all
    inputs.

    Notes on the task from when on its feedback is covered (A19). For a time, the logs are entered a little earlier
    (grace and skew), because records lie there in the order of their arrival.
    """
    start = task.plan.job.start
    if start != "earliest":
        task.start_ms = now_ms if start == "latest" else int(start)
    task.positions = {}
    start_added(task, consumer)


def start_added(task: Task, consumer: ColumnarConsumer) -> None:
    """Give a task positions in the topics that it has none in: all at first, those that the job's file has more now."""
    reads = [source for source in task.layout.reads(task.partition) if source.topic not in task.positions]
    if not reads:
        return
    job = task.plan.job
    begin = consumer.beginning_offsets(reads)
    # What tasks tell each other is read from its beginning, whenever the inputs are entered.
    task.positions |= {source.topic: offset for source, offset in begin.items()}
    inputs = (*task.layout.direct(task.partition), *task.layout.sent_on(task.partition))
    sources = [source for source in reads if source in inputs]
    if task.start_ms is None:
        # What retention took could not be read; from when on the rest is whole, the first record will tell.
        gaps = [source.topic for source in sources if begin[source] > 0]
        task.covered_from |= {topic: FIRST_EVENT for topic in gaps if topic in task.covered_from}
        return
    start_ms = task.start_ms
    early = start_ms - job.grace_ms - job.skew_ms
    found = consumer.offsets_for_times(dict.fromkeys(sources, early))
    ends = consumer.end_offsets(sources)
    for source in sources:
        at = found[source]
        position = task.positions[source.topic] = ends[source] if at is None else at
        if source.topic not in task.covered_from:
            continue
        if job.start != "latest" and position == begin[source] > 0:
            task.covered_from[source.topic] = FIRST_EVENT  # Some of what retention took may be of after the start.
        elif position > begin[source]:
            task.covered_from[source.topic] = start_ms - job.skew_ms
