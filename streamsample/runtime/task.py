"""One task: one partition number of all the job's topics, from batches in to records out.

A task does no I/O and reads no clock. The worker hands it batches and times, and takes from it what is to be written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamsample.errors import StateError
from streamsample.hashing import hash64
from streamsample.kafka.changelog import StoredChunk
from streamsample.labels import FINAL, LATE, LIMIT, LabelJoin, PayloadSpace, Settled, Watermark, delta_parts
from streamsample.labels.watermark import MIN
from streamsample.records import Int64s, RecordBatch, TopicPartition
from streamsample.runtime.aside import originals_of, set_aside, waited_in_vain
from streamsample.runtime.audit import Audit
from streamsample.runtime.co_partitioning import Placement, check_all_matches, check_placement
from streamsample.runtime.composed import packed
from streamsample.runtime.exchange import Message
from streamsample.runtime.feedback import check_waiting, not_sampled, usable
from streamsample.runtime.layout import Layout
from streamsample.runtime.output import Output
from streamsample.runtime.places import places_of
from streamsample.runtime.plan import FeedbackPlan, Plan
from streamsample.runtime.rekey import Received, Sender, place_ids
from streamsample.runtime.replay import dated_within
from streamsample.runtime.samples import SEPARATOR, Samples, TaskSettings
from streamsample.runtime.source import Events, in_pieces, read_once, refused
from streamsample.runtime.state import (
    ChunkBody,
    ChunkLog,
    Logged,
    SchemaName,
    check_body,
    decode_body,
    delta_of,
    encode_body,
    needed_until,
    schema_name,
)
from streamsample.runtime.training import Encoded, TrainingRecords
from streamsample.runtime.values import FEEDBACK_ID_SEED

if TYPE_CHECKING:
    from streamsample.runtime.window_step import WindowSteps

_STEPS_PER_WINDOW = 64
_ROWS_AT_ONCE = 50_000
FIRST_EVENT = 2**62
"""In `Task.covered_from`: covered from the first event on that will be read; until then, nothing is."""
_ID_SEED = 0


class Task:
    """The steps of one partition number. Not thread-safe.

    `positions`: by source topic, the offset after the last record processed. `counts`: the task's own counters, exact
    at every commit (see `metrics`); the join keeps its own ledger.
    """

    def __init__(self, plan: Plan, partition: int, settings: TaskSettings) -> None:
        self.plan = plan
        self.partition = partition
        self.positions: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.audit = Audit()
        layout = Layout(plan, settings.partitions, settings.origins)
        self.owns = partition < layout.tasks
        self.join = None
        if plan.join is not None and self.owns:
            any_order = plan.input.topic in layout.origins
            self.join = LabelJoin(replace(plan.join, any_order=any_order), settings.space)
        self.log = ChunkLog()
        self.start_ms: int | None = None
        self.covered_from = {source.topic: MIN for source in (*layout.direct(partition), *layout.sent_on(partition))}
        timeouts = {topic: source.idle_timeout_ms for topic, source in plan.job.sources.items()}
        self.watermark = Watermark(layout.sources(partition), timeouts)
        self.sender = Sender(layout, partition, settings.rekeyed_bytes_max, timeouts) if layout.origins else None
        self.received = Received(layout, partition)
        self.layout = layout
        self._settings = settings
        self._schemas = [schema_name(schema) for schema in plan.input.projector.schemas]
        self._samples = Samples(plan, self, settings, self._schemas)
        self._records = TrainingRecords(plan, plan.samples[0])
        self._output = Output()
        self._placement = {
            topic: Placement(topic, partition, layout.tasks, rekeyed=topic in layout.origins) for topic in plan.topics
        }
        self._changed = False
        self._idle = False
        self.behind = False

    @property
    def windows(self) -> WindowSteps | None:
        """What is held of the open windows of samples; None without any."""
        return self._samples.windows

    @property
    def reached(self) -> dict[str, int]:
        """How much snowball samples have reached, by what metrics call them."""
        return self._samples.reached

    @property
    def acted_watermark(self) -> int:
        """The watermark as far as it has acted: see `advance`."""
        if self.windows is not None:
            return self.windows.watermark
        return self.watermark.value() if self.join is None else self.join.watermark

    @property
    def space(self) -> PayloadSpace:
        """Where the payload of its rows lies; shared with the worker's other tasks."""
        return self._settings.space

    def close(self) -> None:
        """Give memory and files back. Nothing can be asked of the task any more."""
        if self.join is not None:
            self.join.close()

    # -- events in --------------------------------------------------------------------------------

    def process(self, batch: RecordBatch, now_ms: int, elapsed_ms: int) -> int:
        """Take the next batch of one of the task's partitions. Of how many records it was decided what they are: those
        that are sent on to other tasks are theirs to decide on.
        """
        self._changed = True
        rekeyed = self.layout.internal.get(batch.topic)
        if rekeyed is not None:
            return self._receive(batch, rekeyed, now_ms, elapsed_ms)
        self.positions[batch.topic] = batch.next_offset
        if batch.topic == self.plan.exchange:
            assert self.windows is not None
            self.windows.on_messages(batch)
            return 0
        if batch.topic == self.plan.input.topic and self.plan.job.input.explode is not None:
            return sum(self._process(piece, now_ms, elapsed_ms) for piece in in_pieces(batch))
        return self._process(batch, now_ms, elapsed_ms)

    def _process(self, batch: RecordBatch, now_ms: int, elapsed_ms: int) -> int:
        """Take records of a source topic."""
        read = read_once(self.plan.sources[batch.topic], batch, now_ms)
        self._note(batch.topic, read)
        sent = 0
        for number, events in enumerate(read):
            if batch.topic not in self.layout.origins:
                self._on_events(batch.topic, number, events)
                continue
            assert self.sender is not None
            large = self.sender.take(number, events)
            self._output.rejected += [] if large is None else [large]
            sent += len(events.rows)
        largest = max((events.span[1] for events in read if events.span is not None), default=None)
        self.clock_of(batch.topic).on_read(batch.source, largest, batch.next_offset, elapsed_ms)
        return max(len(batch) - sent, 0)

    def clock_of(self, topic: str) -> Watermark:
        """The watermark that the task's own partition of a source topic moves."""
        return self.sender.watermark if self.sender is not None and topic in self.layout.origins else self.watermark

    def _note(self, topic: str, read: list[Events]) -> None:
        """What was read of a source topic: what cannot be used, and from when on it is whole."""
        for events in read:
            self._output.rejected += events.rejected
            if events.filtered:
                self.counts[SEPARATOR.join(("filtered", events.source))] += events.filtered
        self.counts[f"tombstones{SEPARATOR}{topic}"] += read[0].tombstones
        if self.plan.job.input.explode is not None and topic == self.plan.input.topic:
            self.counts["elements"] += read[0].elements
            self.counts["empty_lists"] += read[0].empty
        spans = [events.span for events in read if events.span is not None]
        if self.covered_from[topic] == FIRST_EVENT and spans:
            # What is gone may have been dated up to the grace later than the first record that is left.
            self.covered_from[topic] = spans[0][0] + self.plan.job.grace_ms

    def _receive(self, batch: RecordBatch, topic: str, now_ms: int, elapsed_ms: int) -> int:
        """Take what other tasks have sent of a rekeyed topic. What was read before counts where it is held."""
        since, count = self.positions.get(batch.topic, 0), 0
        self.positions[batch.topic] = max(since, batch.next_offset)
        for arrived in self.received.read(batch, topic, since, self.watermark, elapsed_ms):
            held = self.received.predictions if topic == self.plan.input.topic else None
            if arrived.again and held is None:
                continue
            events = self.plan.sources[topic][arrived.source].read(arrived.records, now_ms)
            if held is not None:
                held.hold(arrived.offset, events, again=arrived.again)
            else:
                self._on_events(topic, arrived.source, events)
            if not arrived.again:
                self._output.rejected += events.rejected
                count += len(arrived.records)
        return count

    def tell(self) -> None:
        """Before a commit: send what was collected for other tasks, and how far it goes."""
        if self.sender is not None:
            self._changed |= self.sender.tell(self.positions, self.covered_from)
            self.send(self.sender.take_messages())

    def _on_events(self, topic: str, number: int, events: Events) -> None:
        """Take events of a topic's source of that number."""
        self._placement[topic].look(events.ids)
        if topic == self.plan.input.topic:
            self._on_predictions(events)
        else:
            sharing = [pair for pair in enumerate(self.plan.feedback) if pair[1].source.topic == topic]
            self._on_feedback(*sharing[number], events)
        for item in self.plan.feedback:
            check_placement(self._placement[self.plan.input.topic], self._placement[item.source.topic])

    def _on_predictions(self, events: Events) -> None:
        events = dated_within(events, self.start_ms, self.plan.replayed, self.counts)
        if self.join is None:
            self._samples.on_events(events)
            return
        kept = self._samples.kept(0, events)
        if kept is None:
            return
        events, rows = kept.events, kept.events.rows
        payload = self.plan.input.projector.splice(events.batch.values, events.projection, rows)
        payload = packed(payload, kept.said)
        split, schema, places = (
            self._samples.split_of(events),
            events.projection.schema[rows],
            places_of(events.batch, rows),
        )
        hashes = hash64(events.ids, _ID_SEED)
        codes = self.join.on_predictions(places, events.times, events.ids, hashes, payload, schema, split, events.index)
        self.refuse(
            events, np.flatnonzero(codes == LATE), "late", "the window had closed before the prediction was read (A6)"
        )
        self.refuse(events, np.flatnonzero(codes == LIMIT), "limit", "limits.open_rows_max rows are open")

    def _on_feedback(self, number: int, item: FeedbackPlan, events: Events) -> None:
        assert self.join is not None
        events, own = usable(item, events, self.refuse)
        if not len(events.rows):
            return
        check_waiting(self.plan, self.partition, self.join.counts().waiting, len(events.rows))
        columns = [column.read(events.projection, events.rows) for column in item.values]
        always = np.ones(len(events.rows), np.bool_)
        batch, rows = events.batch, events.rows
        places = places_of(batch, rows)
        feedback_ids = None if own is None else hash64(own, FEEDBACK_ID_SEED)
        if own is None and batch.topic in self.layout.origins:  # those of one partition the join tells apart itself
            feedback_ids = place_ids(places, number)
        fate = self.join.on_feedback(
            number,
            places,
            events.times,
            events.ids,
            hash64(events.ids, _ID_SEED),
            [bits for bits, _ in columns],
            valid=[always if known is None else known for _, known in columns],
            feedback_ids=feedback_ids,
            not_sampled=not_sampled(self.plan, events.ids),
            originals=lambda picks: originals_of(batch, rows[picks]),
        )
        if fate.any():
            self._output.aside += set_aside(self.plan.job, batch, rows, fate)

    def refuse(self, events: Events, at: Int64s, reason: str, words: str, *, stage: str = "label") -> None:
        """Dead-letter the events at some places."""
        if len(at):
            self._output.rejected.append(
                refused(events.batch, events.projection, events.rows[at], stage, reason, words)
            )

    # -- time -------------------------------------------------------------------------------------

    def advance(self, elapsed_ms: int) -> bool:
        """Let the watermark act: settle what is due. Whether all of it is done; if not, call again before `process`.

        What is due is settled in steps of event time, so that after a long stop neither memory nor a transaction has to
        hold everything at once.
        """
        goal = self.watermark.advance(elapsed_ms)
        self._note_idleness()
        for events in self.received.due(self.watermark):
            self._on_events(self.plan.input.topic, 0, events)
            self._changed = True
        if self.windows is not None:
            done, changed = self._samples.advance(goal, self.watermark.value_without_idle, self._whole_from())
            self._changed |= changed
            self.behind = not done
            return done
        if goal == MIN:
            return True
        if self.join is None or self.plan.join is None:
            return True
        covered = np.array(
            [self.received.covered_from(item.source.topic, self.covered_from) for item in self.plan.feedback], np.int64
        )
        stride = max(self.plan.join.reach_ms // _STEPS_PER_WINDOW, 1)
        written = 0
        while self.join.watermark < goal:
            due = self.join.next_deadline()
            step = goal if due is None else min(goal, max(due, self.join.watermark) + stride)
            settled = self.join.on_watermark(step, covered)
            self._set_aside_lost()
            if len(settled):
                self._on_settled(settled)
                written += len(settled)
                if written >= _ROWS_AT_ONCE:
                    break
            if len(settled) < _ROWS_AT_ONCE // 3:  # Each step costs some hundred calls, however few rows it has.
                stride *= 2
        self.behind = self.join.watermark < goal
        return not self.behind

    def _read_until(self) -> Int64s:
        """How far the event time of each of the join's sources has come."""
        levels: dict[str, int] = {}
        for source in self.layout.sources(self.partition):
            level = self.watermark.level_of(source)
            levels[source.topic] = max(levels.get(source.topic, MIN), MIN if level is None else level)
        return np.array([levels.get(each.source.topic, MIN) for each in self.plan.feedback], np.int64)

    def _whole_from(self) -> int:
        """From which event time on all of the input was readable here (A19)."""
        topic = self.plan.input.topic
        covered_from = self.covered_from[topic]
        if covered_from == FIRST_EVENT:
            # Nothing is left of the partition. Its topic has come so far, and so had what is gone.
            level = self.watermark.level_of(TopicPartition(topic, self.partition))
            if level is not None:
                covered_from = self.covered_from[topic] = level + self.plan.job.grace_ms
        return covered_from if self.start_ms is None else max(covered_from, self.start_ms)

    def _note_idleness(self) -> None:
        idle = self.watermark.closed_by_idle
        if idle and not self._idle:
            self.counts["idle_advances"] += 1
            self._changed = True
        self._idle = idle

    def _on_settled(self, settled: Settled) -> None:
        self._changed = True
        for spec, labels in zip(self.plan.spec.targets, settled.targets, strict=True):
            self._output.delays.append((spec.name, labels.delay_ms[labels.explicit & (settled.state == FINAL)]))
        idle = settled.settled_at >= self.watermark.value_without_idle
        thinned = None if self.plan.thinning is None else self.plan.thinning.thin(settled)
        times = settled.ts
        if thinned is not None:
            times = thinned.settled.ts
            for label, (kept, dropped) in thinned.decided.items():
                self.counts[SEPARATOR.join(("thinned", label, "kept"))] += kept
                self.counts[SEPARATOR.join(("thinned", label, "dropped"))] += dropped
        self.emit(self._records.of_settled(settled, idle, thinned), times)

    def check_matches(self) -> None:
        """Raises TopicError when nearly no feedback finds its prediction (A16)."""
        if self.join is not None:
            check_all_matches(self.plan, self.layout, self.join.ledger)

    def emit(self, encoded: Encoded, ts: Int64s) -> None:
        """Write training records of predictions at `ts`; in a backfill, those of its range."""
        if self.plan.replayed is not None:
            encoded = encoded.take(np.flatnonzero(self.plan.replayed.writes(ts)))
        if len(encoded.keys):
            self._output.records.append(encoded)

    def send(self, messages: list[Message]) -> None:
        """Tell other tasks."""
        self._output.messages += messages

    def _set_aside_lost(self) -> None:
        if self.join is not None:
            for lost in self.join.take_lost():
                self._changed = True
                self._output.aside += waited_in_vain(self.plan, lost)

    def take_output(self) -> Output:
        """What is to be written, handed over once."""
        self._set_aside_lost()  # of predictions that have come since time went on
        output, self._output = self._output, Output()
        output.audit, self.audit = self.audit, Audit()
        return output

    # -- state ------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit since the last `snapshot`."""
        return self._changed

    @property
    def shape(self) -> tuple[str, int, list[SchemaName]]:
        """What the state depends on: of the job, how many tasks there are, and the rows' schemas by their numbers."""
        return self.plan.job.state_shape, self._settings.partitions, self._schemas

    def snapshot(self) -> tuple[list[bytes | memoryview], Logged]:
        """The body of the next chunk, everything that changed since the last call, and what it holds."""
        step, logged = self._snapshot_step()
        body = self._body()
        self._changed = False
        return encode_body(body, step), logged.beside(body.draws)

    def whole_body(self) -> ChunkBody:
        """Everything but the state of the join or of windows, as it is now. The task is of no use afterwards."""
        self._samples.rewrite()
        return self._body()

    def _body(self) -> ChunkBody:
        shape, partitions, schemas = self.shape
        return ChunkBody(
            shape=shape,
            parts=self.plan.job.state_parts,
            partitions=partitions,
            positions=dict(self.positions),
            watermark=self.watermark.snapshot(),
            covered_from=dict(self.covered_from),
            start_ms=self.start_ms,
            counts=dict(self.counts),
            schemas=schemas,
            draws=self._samples.snapshot(),
            sent=None if self.sender is None else self.sender.watermark.snapshot(),
            received=self.received.snapshot(self.positions),
            step=b"",
        )

    def _snapshot_step(self) -> tuple[list[bytes | memoryview], Logged]:
        held = self._samples.held
        if self.windows is not None:
            if self.log.stale_rows(held + self.windows.elements) is not None:
                self._samples.rewrite()
                self.windows.rewrite()
            return self.windows.snapshot()
        if self.join is None:
            if self.log.stale_rows(held) is not None:
                self._samples.rewrite()
            return [], Logged()
        counts = self.join.counts()
        whole = self.plan.input.topic in self.layout.origins  # whose rows do not come in the order of their places
        stale = self.log.stale_rows(held + counts.held_rows + counts.waiting + counts.matches, whole=whole)
        if stale is not None:
            self._samples.rewrite()
            self.join.rewrite(stale)
        delta = self.join.snapshot_delta()
        self.join.check()
        return delta_parts(delta), Logged.of_join(delta)

    def restore(self, chunks: list[StoredChunk], positions: dict[str, int], changelog: TopicPartition) -> None:
        """Take up the state of `chunks`, oldest first, as committed with `positions`.

        Raises StateError if they are damaged, of another shape, or do not belong to these positions.
        """
        bodies = [decode_body(chunk, changelog) for chunk in chunks]
        for body in bodies:
            check_body(body, self.plan.job.state_shape, self.plan.job.state_parts, self._settings.partitions, changelog)
        last = bodies[-1]
        # Feedback may have come and gone; what comes (again) is read from where the job starts.
        stands = self._standing(last)
        positions = {topic: offset for topic, offset in positions.items() if topic in stands}
        if stands != positions:
            raise StateError(
                f"{changelog}: the changelog stands at {stands}, the group's offsets at {positions}",
                remedy="the group's offsets were moved by hand: move them back, or start over with `streamsample "
                "reset JOB`",
            )
        self.take_bodies(bodies)
        for chunk, body, logged in zip(chunks, bodies, self._restore_step(bodies, changelog), strict=True):
            self.log.add(chunk.sequence, chunk.offset, chunk.size_bytes, logged.beside(body.draws))

    def _standing(self, body: ChunkBody) -> dict[str, int]:
        """The positions of a chunk in topics that the task still reads."""
        reads = {source.topic for source in self.layout.reads(self.partition)}
        return {topic: offset for topic, offset in body.positions.items() if topic in reads}

    def take_bodies(self, bodies: Sequence[ChunkBody]) -> None:
        """Take up all of these, oldest first, but the state of the join or of windows. Raises StateError."""
        last = bodies[-1]
        self.positions = self._standing(last)
        self.watermark.restore(last.watermark)
        self._idle = self.watermark.closed_by_idle
        if self.sender is not None and last.sent is not None:
            self.sender.watermark.restore(last.sent)
        self.received.restore(last.received)
        known = {topic: time for topic, time in last.covered_from.items() if topic in self.covered_from}
        self.covered_from |= known
        self.start_ms = last.start_ms
        self._samples.restore([body.draws for body in bodies])
        self.counts.clear()
        self.counts.update(last.counts)

    def _restore_step(self, bodies: list[ChunkBody], changelog: TopicPartition) -> list[Logged]:
        """Take up the step's state; what each chunk holds of it."""
        if self.windows is not None:
            return self.windows.restore(bodies, self._schemas, changelog)
        if self.join is None or self.plan.join is None:
            return [Logged() for _ in bodies]
        deltas = [delta_of(body, self._schemas, changelog) for body in bodies]
        self.join.restore(deltas, self._read_until())
        needed = needed_until(self.plan.join, deltas)
        return [Logged.of_join(delta, until) for delta, until in zip(deltas, needed, strict=True)]
