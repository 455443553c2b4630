"""One member of the job's consumer group: reads, steps, and commits, until it is told to stop.

Each turn of the loop polls, hands what came to the tasks, and sends what they give; about once a commit interval all
of it becomes visible in one transaction, with the state and the positions. Whatever goes wrong in between, the
transaction is thrown away and all tasks begin again from the last commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamsample.clock import Clock
from streamsample.errors import (
    FencedError,
    LocalStateError,
    StreamsampleError,
    TopicError,
    TransactionFailedError,
    UnreachableError,
)
from streamsample.kafka.consumer import ColumnarConsumer, FetchLimits, Rebalance
from streamsample.kafka.topics import TopicAdmin
from streamsample.labels import PayloadSpace
from streamsample.records import RecordBatch, TopicPartition
from streamsample.runtime.follow import Follower, TopicClock
from streamsample.runtime.layout import Layout
from streamsample.runtime.local import keep_all
from streamsample.runtime.pace import Pace
from streamsample.runtime.plan import Plan
from streamsample.runtime.preflight import Cluster
from streamsample.runtime.report import Report
from streamsample.runtime.restore import FirstStart, Restoration, begin
from streamsample.runtime.sink import Sink
from streamsample.runtime.source import Source
from streamsample.runtime.task import Task
from streamsample.runtime.trimming import Trimmer

log = logging.getLogger(__name__)

_FETCH = FetchLimits(decoded=12 << 20)
"""Little enough that a turn is short against a transaction's time limit, also on a slow machine. As much lies ahead."""
_POLL_MS = 50
_REST_POLL_MS = 500
_RESTORE_POLL_MS = 20
_RESTORE_BYTES_MAX = 128 << 20
_FOLLOW_MS = 3_000
_ASK_MS = 500
_EXCHANGE_MS = 100
_FAILURES_MAX = 20
_BACKOFF_MS_MAX = 5_000
_RETRIABLE = (TransactionFailedError, UnreachableError, LocalStateError)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How this worker runs. until_caught_up: the positions to end at, by partition, or None to go on for ever."""

    name: str
    until_caught_up: Mapping[TopicPartition, int] | None = None
    session_timeout_ms: int = 10_000


class Worker:
    """Runs the tasks that the group assigns to it. `run` blocks; `stop` may be called from a signal handler or a
    thread.
    """

    def __init__(
        self,
        plan: Plan,
        cluster: Cluster,
        admin: TopicAdmin,
        report: Report,
        clock: Clock,
        settings: WorkerSettings,
        stop: threading.Event | None = None,
    ) -> None:
        self._plan = plan
        self._reading = plan.job.kafka.options("consumer")
        self._cluster = cluster
        self._layout = Layout(plan, cluster.partitions, cluster.origins)
        self._admin = admin
        self._report = report
        self._clock = clock
        self._settings = settings
        self._tasks: dict[int, Task] = {}
        self._restoring: dict[int, Restoration | FirstStart] = {}
        self._sink = Sink(plan, cluster, admin, clock)
        state = plan.job.state
        self._space = PayloadSpace(plan.job.rows_directory / settings.name, state.memory_limit_bytes)
        self._follower = Follower(TopicClock(self._reading, clock, settings.name))
        self._watermarks: dict[int, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._trimmer = Trimmer(plan, admin, clock)
        self._stop = threading.Event() if stop is None else stop
        self._failures = 0
        now = clock.elapsed_ms()
        self.last_turn_ms = now
        self._committed_ms = self._followed_ms = now
        self._asked_ms = now
        self._exchanged_ms = now - _EXCHANGE_MS
        self._consumer = ColumnarConsumer(
            self._reading,
            group=plan.job.group,
            client_id=settings.name,
            limits=_FETCH,
            session_timeout_ms=settings.session_timeout_ms,
        )
        self._pace = Pace(self._layout, self._consumer, settings.until_caught_up)

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped, or caught up. Commits what is processed before it leaves the group."""
        self._consumer.subscribe(self._plan.reads)
        try:
            while not self._stop.is_set():
                self._turn()
                if self._done() and self._settle_the_end() and self._exchange_is_over():
                    keep_all(self._tasks.values())
                    return
            self._commit_quietly()
        finally:
            self._close()

    def _settle_the_end(self) -> bool:
        """Let the watermarks come as far as the inputs' ends allow, and act in full. Whether all of it is committed."""
        try:
            for _ in self._plan.topics if self._plan.closes else ():  # each may have been hidden behind the one before
                self._follow_topics(wait=True)  # what was asked before
                self._ask_how_far(silent_ms=0)
                self._follow_topics(wait=True)
            while any(task.behind for task in self._tasks.values()):
                self._advance()
                if self._is_commit_due():
                    self._commit()
            self._commit()
        except _RETRIABLE as error:
            self._roll_back(error)
            return False
        return True

    def stop(self) -> None:
        """Ask the loop to end after this turn."""
        self._stop.set()

    @property
    def ready(self) -> bool:
        """Whether tasks are assigned and all of them restored."""
        return bool(self._tasks) and not self._restoring

    def _turn(self) -> None:
        try:
            batches = self._consumer.poll(self._patience_ms())
            self._on_rebalance(self._consumer.take_rebalance())
            for batch in batches:
                self._process(batch)
            self._restore_on()
            self._advance()
            now = self._clock.elapsed_ms()
            self._end_commit()
            if self._is_commit_due() and self._consumer.settled and not self._sink.committing:
                self._begin_commit()
            self._try_to_follow_topics(now)
            self._pace.pause_those_ahead(self._tasks, now)
            self.last_turn_ms = now
            self._report.progress.turns += 1
        except _RETRIABLE as error:
            self._roll_back(error)

    def _patience_ms(self) -> int:
        """How long to wait for records that are not there: long, if nothing else is to be done."""
        if any(task.behind for task in self._tasks.values()):
            return 0
        if self._restoring:
            return _RESTORE_POLL_MS
        busy = self._sink.committing or self._sink.has_more or any(task.changed for task in self._tasks.values())
        busy = busy or self._settings.until_caught_up is not None or not self._consumer.settled
        return _POLL_MS if busy else _REST_POLL_MS

    def _is_commit_due(self) -> bool:
        return self._clock.elapsed_ms() - self._committed_ms >= self._plan.job.commit_interval_ms

    def _process(self, batch: RecordBatch) -> None:
        task = self._tasks.get(batch.partition)
        if task is None:
            return  # Revoked in the same poll: its new owner reads this again.
        decided = task.process(batch, self._clock.now_ms(), self._clock.elapsed_ms())
        if batch.topic == self._plan.exchange:
            return
        if batch.topic in self._plan.topics:
            self._sink.read(batch)
        self._pace.read(batch)
        self._sink.write(task, decided)

    def _advance(self) -> None:
        elapsed = self._clock.elapsed_ms()
        for partition, task in self._tasks.items():
            for source in (*self._layout.direct(partition), *self._layout.sent_on(partition)):
                task.clock_of(source.topic).set_caught_up(source, self._consumer.caught_up(source), elapsed)
            task.advance(elapsed)
            self._sink.write(task, 0)
            value = task.watermark.value()
            if self._watermarks.get(partition) != value:
                self._watermarks[partition] = value
                self._pace.time_went_on(partition)

    def _done(self) -> bool:
        ends = self._settings.until_caught_up
        if ends is None or self._restoring or not self._consumer.settled:
            return False
        if self._clock.elapsed_ms() - self._exchanged_ms < _EXCHANGE_MS:
            return False
        mine = self._consumer.assignment()
        if not mine:
            return self._others_are_done(ends)
        return all(
            self._pace.is_finished(source, self._tasks)
            or ((self._consumer.position(source) or 0) >= ends.get(source, 0) and self._end_is_known(source))
            for source in mine
        )

    def _end_is_known(self, source: TopicPartition) -> bool:
        """Whether a fetch has confirmed that nothing more is there (it can follow its topic then), or that there is.

        A job without windows has nothing to settle, so it need not know.
        """
        if not self._plan.closes:
            return True
        end, position = self._consumer.high_watermark(source), self._consumer.position(source)
        more = end is not None and position is not None and end > position
        return more or self._consumer.caught_up(source)

    def _others_are_done(self, ends: Mapping[TopicPartition, int]) -> bool:
        """A worker without tasks may yet be given some (a join can end before the topics are known, and a task moves in
        two rounds): it ends when the group has committed all ends. What others leave undone comes to it.
        """
        now = self._clock.elapsed_ms()
        if now - self._asked_ms < _ASK_MS:
            return False
        self._asked_ms = now
        try:
            self._consumer.group_metadata()
        except FencedError:
            return False
        return self._all_committed(ends) and self._exchange_is_over()

    def _all_committed(self, ends: Mapping[TopicPartition, int]) -> bool:
        committed = self._consumer.committed(ends)
        return all(committed.get(source, (0, ""))[0] >= end for source, end in ends.items())

    def _exchange_is_over(self) -> bool:
        """Whether everything that tasks have told each other has been acted on. What another worker's tasks have still
        to say comes to that worker, with the tasks of those that have left.
        """
        told = [source for number in range(self._cluster.partitions) for source in self._layout.told(number)]
        if not told:
            return True
        self._exchanged_ms = self._clock.elapsed_ms()
        return self._all_committed(self._consumer.end_offsets(told))

    # -- committing -------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Make everything up to here visible at once, and wait until it is."""
        self._end_commit(wait=True)
        self._begin_commit()
        self._end_commit(wait=True)

    def _begin_commit(self) -> None:
        """Begin to make everything up to here visible. The commit before it must have ended."""
        self._committed_ms = self._clock.elapsed_ms()
        for task in self._tasks.values():
            task.tell()
            self._sink.write(task, 0)
        changed = [task for task in self._tasks.values() if task.changed]
        if changed or self._sink.has_more:
            self._sink.commit(changed, self._consumer.group_metadata())
        else:
            self._stand()

    def _end_commit(self, *, wait: bool = False) -> None:
        """Take note of a commit that has ended; one that failed is raised."""
        commit = self._sink.committed(wait=wait)
        if commit is None:
            return
        self._failures = 0
        self._report.committed(commit.totals, commit.uncommitted, commit.seconds)
        if self._plan.replayed is None:  # Much of what a backfill reads is of predictions outside of its range.
            for task in commit.tasks:
                task.check_matches()
        self._stand()
        self._trimmer.trim(self._tasks, commit.positions)

    def _commit_quietly(self) -> None:
        """The last commit before leaving; if it fails, nothing is lost: the next owner begins at the one before."""
        try:
            self._commit()
            keep_all(self._tasks.values())
        except _RETRIABLE as error:
            log.warning("the last commit failed, the work since the one before will be done again: %s", error)

    # -- assignment and failure -------------------------------------------------------------------

    def _on_rebalance(self, rebalance: Rebalance) -> None:
        if not rebalance:
            return
        if rebalance.lost:
            self._drop({source.partition for source in rebalance.lost})
            raise FencedError(
                "the group has put this worker out", remedy="it joins again; slow turns or a paused process cause this"
            )
        if rebalance.revoked:
            try:
                self._commit()
            finally:
                self._drop({source.partition for source in rebalance.revoked})
                self._consumer.acknowledge_rebalance()
        if rebalance.assigned:
            self._check_known(rebalance.assigned)
            self._adopt({source.partition for source in rebalance.assigned} - set(self._tasks) - set(self._restoring))

    def _check_known(self, assigned: Iterable[TopicPartition]) -> None:
        """Raises TopicError for a partition that was not there when the worker began: nothing would wait for it."""
        for source in assigned:
            if source not in self._layout.reads(source.partition):
                raise TopicError(
                    f"{source} is new since this worker began: {source.topic} has more partitions now",
                    remedy="ids lie elsewhere now: start over with `streamsample reset JOB`, or with another job name",
                )

    def _drop(self, partitions: set[int]) -> None:
        for partition in partitions:
            task = self._tasks.pop(partition, None)
            if task is not None:
                task.close()
            restoration = self._restoring.pop(partition, None)
            if restoration is not None:
                restoration.close()
                restoration.task.close()

    def _adopt(self, partitions: set[int]) -> None:
        """Begin tasks: restore those that the group has committed for, start the others."""
        sources = [source for partition in sorted(partitions) for source in self._layout.reads(partition)]
        committed = self._consumer.committed(sources)
        for partition in sorted(partitions):
            settings = self._cluster.task_settings(self._space)
            task = Task(self._plan, partition, settings)
            restoration = begin(task, self._reading, self._settings.name, self._consumer, committed, self._clock)
            if restoration is None:
                self._start(task)
            else:
                self._restoring[partition] = restoration

    def _restore_on(self) -> None:
        held = 0
        for partition, restoration in list(self._restoring.items()):
            if held > _RESTORE_BYTES_MAX:
                return  # What these hold is put together before others read on.
            if not restoration.step(self._clock, _RESTORE_POLL_MS):
                held += restoration.held_bytes
            else:
                del self._restoring[partition]
                restoration.close()
                if isinstance(restoration, Restoration):
                    seconds = (self._clock.elapsed_ms() - restoration.started_ms) / 1000
                    self._report.restored(seconds)
                    log.info("task %d restored from %s in %.1f s", partition, restoration.source, seconds)
                self._start(restoration.task)

    def _start(self, task: Task) -> None:
        self._report.adopted(task)
        self._tasks[task.partition] = task
        for topic, offset in (task.positions | task.received.begins_at(task.positions)).items():
            self._consumer.seek(TopicPartition(topic, task.partition), offset)
        self._consumer.resume(self._layout.reads(task.partition))

    def _roll_back(self, error: StreamsampleError) -> None:
        """Throw the transaction away, and all tasks with it: one transaction spans them. Then go on from the last
        commit, as soon as the brokers answer.
        """
        failure: StreamsampleError | None = error
        while failure is not None:
            self._failures += 1
            self._report.failed()
            if self._failures > _FAILURES_MAX:
                raise failure
            log.warning("rolling back to the last commit (%d in a row): %s", self._failures, failure)
            self._sink.discard()
            self._drop(set(self._tasks) | set(self._restoring))
            self._consumer.pause(self._consumer.assignment())
            self._stop.wait(min(50 * 2 ** min(self._failures, 10), _BACKOFF_MS_MAX) / 1000)
            failure = None if self._stop.is_set() else self._try_to_begin_again()

    def _try_to_begin_again(self) -> StreamsampleError | None:
        try:
            # A producer of the same id ends the transaction that was left open, or its offsets would stay undecided.
            self._sink.begin()
            self._adopt({source.partition for source in self._consumer.assignment()})
        except _RETRIABLE as error:
            return error
        return None

    # -- time and order ---------------------------------------------------------------------------

    def _try_to_follow_topics(self, now: int) -> None:
        try:
            self._follow_topics()
            if now - self._followed_ms < _FOLLOW_MS or self._follower.asking:
                return
            self._followed_ms = now
            self._ask_how_far()
            paused = self._consumer.paused()  # no fetch tells how far their logs have grown
            self._ends = self._consumer.end_offsets(paused) if paused else {}
        except UnreachableError as error:
            log.warning("how far the topics are could not be asked, it will be tried again: %s", error)

    def _ask_how_far(self, silent_ms: int = _FOLLOW_MS) -> None:
        """Ask for the topics whose caught-up partitions hold their watermark back; and for those whose partitions are
        sent on, and silent for so long: who is held back by them is not known here.
        """
        waiting: dict[Source, dict[TopicPartition, int]] = {}
        for partition, task in self._tasks.items():
            asked = [
                source
                for source in self._layout.sent_on(partition)
                if task.clock_of(source.topic).silent_ms(source) >= silent_ms
            ]
            holder = task.watermark.held_by()
            if holder is not None and holder.topic not in self._layout.origins:
                asked.append(holder)
            for source in asked:
                position = self._consumer.position(source)
                if position is not None and self._consumer.caught_up(source):
                    waiting.setdefault(self._plan.sources[source.topic][0], {})[source] = position
        if waiting:
            self._follower.ask(waiting, self._layout.partitions)

    def _follow_topics(self, *, wait: bool = False) -> None:
        """Let caught-up partitions that hold their watermark back follow the other partitions of their topic (A5)."""
        answers = self._follower.take(wait=wait)
        elapsed = self._clock.elapsed_ms()
        for answer in answers:
            for source, position in answer.ended.items():
                task = self._tasks.get(source.partition)
                if task is not None and self._consumer.position(source) == position:
                    clock = task.clock_of(source.topic)
                    clock.set_caught_up(source, True, elapsed)
                    clock.follow(answer.topic, answer.largest, elapsed)
        if answers:
            self._advance()

    def _stand(self) -> None:
        lags: dict[str, int] = dict.fromkeys(self._plan.reads, 0)
        for partition in self._tasks:
            for source in self._layout.reads(partition):
                end = max(self._consumer.high_watermark(source) or 0, self._ends.get(source, 0))
                lags[source.topic] += max(0, end - (self._consumer.position(source) or 0))
        restoring = [each.progress for each in self._restoring.values()]
        self._report.standing(self._tasks, lags, self._clock.now_ms(), restoring, self._space.file_bytes)

    def _close(self) -> None:
        self._drop(set(self._tasks) | set(self._restoring))
        self._space.close()
        self._follower.close()
        self._sink.discard()
        self._consumer.close()
