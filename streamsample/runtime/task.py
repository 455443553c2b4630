"""One task: one partition number of all the job's topics, from batches in to records out.

A task does no I/O and reads no clock. The worker hands it batches and times, and takes from it what is to be written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamsample.errors import StateError
from streamsample.hashing import hash64
from streamsample.kafka.changelog import StoredChunk
from streamsample.labels import FINAL, LATE, LIMIT, LabelJoin, Settled, Watermark, delta_parts
from streamsample.labels.watermark import MIN
from streamsample.records import Int64s, RecordBatch, Spans, TopicPartition
from streamsample.runtime.aside import originals_of, set_aside, waited_in_vain
from streamsample.runtime.co_partitioning import Placement, check_matches, check_placement
from streamsample.runtime.plan import FeedbackPlan, Plan, Units, WindowDraw
from streamsample.runtime.rows import pack
from streamsample.runtime.source import Events, Rejected
from streamsample.runtime.state import (
    ChunkBody,
    ChunkLog,
    Logged,
    check_body,
    decode_body,
    delta_of,
    encode_body,
    needed_until,
    schema_name,
    windows_of,
)
from streamsample.runtime.training import Encoded, Sampled, TrainingRecords, record_bytes_max
from streamsample.runtime.values import FEEDBACK_ID_SEED
from streamsample.runtime.windowing import offered, unusable_weights
from streamsample.sampling.design import unit_hash
from streamsample.sampling.window_columns import Details, Drawn
from streamsample.sampling.window_delta import encode_window_delta

if TYPE_CHECKING:
    from streamsample.sampling.windows import WindowedSample

_ESCAPED = 6
"""Bytes that one of a stratum's may become in JSON."""
_STEPS_PER_WINDOW = 64
_ROWS_AT_ONCE = 50_000
SEPARATOR = "\x1f"
"""Between the parts of a name in `Task.counts`: a stratum may hold any other character."""
FIRST_EVENT = 2**62
"""In `Task.covered_from`: covered from the first event on that will be read; until then, nothing is."""
_ID_SEED = 0


@dataclass(slots=True)
class Output:
    """What a task has to write since it was last asked. aside: feedback that no label could use, and where it goes.
    delays: by target, the feedback loop lengths of explicit labels, ms.
    """

    records: list[Encoded] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    aside: list[tuple[str, Rejected]] = field(default_factory=list)
    delays: list[tuple[str, Int64s]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What a task must know of the cluster. output_bytes_max: the output topic's max.message.bytes."""

    partitions: int
    output_bytes_max: int


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
        self.join = None if plan.join is None else LabelJoin(plan.join)
        self.windows = None if plan.windows is None else _windowed(plan.windows)
        self.log = ChunkLog()
        self.start_ms: int | None = None
        self.covered_from = {item.source.topic: MIN for item in plan.feedback}
        timeouts = {plan.input.topic: plan.job.input.idle_timeout_ms}
        timeouts |= {topic: item.idle_timeout_ms for item in plan.job.feedback.values() for topic in item.topics}
        self.watermark = Watermark([TopicPartition(topic, partition) for topic in plan.topics], timeouts)
        self._settings = settings
        self._records = TrainingRecords(plan)
        self._schemas = [schema_name(schema) for schema in plan.input.projector.schemas]
        self._output = Output()
        self._placement = {topic: Placement(topic, partition, settings.partitions) for topic in plan.topics}
        self._changed = False
        self._idle = False
        self.behind = False

    # -- events in --------------------------------------------------------------------------------

    def process(self, batch: RecordBatch, now_ms: int, elapsed_ms: int) -> None:
        """Take the next batch of one of the task's partitions."""
        source = self.plan.sources[batch.topic]
        events = source.read(batch, now_ms)
        self._output.rejected += events.rejected
        self.counts[f"tombstones{SEPARATOR}{batch.topic}"] += events.tombstones
        self._placement[batch.topic].look(events.ids)
        if batch.topic == self.plan.input.topic:
            self._on_predictions(events)
        else:
            if self.covered_from[batch.topic] == FIRST_EVENT and len(events.times):
                # What is gone may have been dated up to the grace later than the first record that is left.
                self.covered_from[batch.topic] = int(events.times[0]) + self.plan.job.grace_ms
            for number, item in enumerate(self.plan.feedback):
                if item.source.topic == batch.topic:
                    self._on_feedback(number, item, events)
        for item in self.plan.feedback:
            check_placement(self._placement[self.plan.input.topic], self._placement[item.source.topic])
        largest = int(events.times.max()) if len(events.times) else None
        self.watermark.on_read(batch.source, largest, batch.next_offset, elapsed_ms)
        self.positions[batch.topic] = batch.next_offset
        self._changed = True

    def _on_predictions(self, events: Events) -> None:
        if self.start_ms is not None:
            before = events.times < self.start_ms
            if before.any():
                self.counts["before_start"] += int(before.sum())
                events = events.take(np.flatnonzero(~before))
        if self.windows is not None:
            self._on_windowed(self.windows, events)
            return
        drawn = self._draw(events)
        if drawn is None:
            return
        events, stratum, probability = drawn
        fits = self._fitting(events, stratum)
        if len(fits) < len(events.rows):
            events, probability = events.take(fits), probability[fits]
            stratum = None if stratum is None else stratum.take(fits)
        batch, rows = events.batch, events.rows
        split = self._split_of(events)
        schema = events.projection.schema[rows]
        features = self.plan.input.projector.splice(batch.values, events.projection, rows)
        offsets = batch.offsets[rows]
        if self.join is None:
            named = Spans.nulls(len(rows)) if stratum is None else stratum
            sampled = Sampled(events.times, offsets, events.ids, features, schema, split, named, probability)
            self._emit(self._records.of_sampled(sampled, self.partition))
            return
        payload = features if self.plan.draw is None else pack(features, stratum, probability)
        hashes = hash64(events.ids, _ID_SEED)
        codes = self.join.on_predictions(offsets, events.times, events.ids, hashes, payload, schema, split)
        self._refuse(
            events, np.flatnonzero(codes == LATE), "late", "the window had closed before the prediction was read (A6)"
        )
        self._refuse(events, np.flatnonzero(codes == LIMIT), "limit", "limits.open_rows_max rows are open")

    def _draw(self, events: Events) -> tuple[Events, Spans | None, np.ndarray[tuple[int], np.dtype[np.float64]]] | None:
        """The events that the design keeps, with their strata and π; None if there are none."""
        draw = self.plan.draw
        if draw is None:
            return (events, None, np.ones(len(events.rows))) if len(events.rows) else None
        events, unit, stratum = self._with_units(draw.units, events)
        chosen = draw.design.decide(unit, stratum)
        kept = np.flatnonzero(chosen.keep)
        self._count_draw(draw.design.declared, chosen.declared, chosen.keep)
        if not len(kept):
            return None
        return events.take(kept), None if stratum is None else stratum.take(kept), chosen.probability[kept]

    def _with_units(self, units: Units, events: Events) -> tuple[Events, Spans, Spans | None]:
        """The events whose sampling unit and stratum are known, with both."""
        unit = units.unit_of(events.projection, events.rows, events.ids)
        stratum = units.stratum_of(events.projection, events.rows)
        known = unit.size >= 0 if stratum is None else (unit.size >= 0) & (stratum.size >= 0)
        if not known.all():
            words = "the sampling unit or a field of the strata is null (sample.unit, sample.by)"
            self._refuse(events, np.flatnonzero(~known), "missing_stratum_or_unit", words, stage="sample")
            kept = np.flatnonzero(known)
            events, unit = events.take(kept), unit.take(kept)
            stratum = None if stratum is None else stratum.take(kept)
        return events, unit, stratum

    def _on_windowed(self, windows: WindowedSample, events: Events) -> None:
        """Show events to the sample of their window; few of them are candidates, and only their bytes are kept."""
        draw = self.plan.windows
        assert draw is not None
        if draw.weight is not None:
            wrong = unusable_weights(events, draw.weight)
            if len(wrong):
                words = (
                    f"the field {draw.weight!r}, which is the weight, is null, negative, or not finite (sample.weight)"
                )
                self._refuse(events, wrong, "bad_weight", words, stage="sample")
                events = events.take(np.setdiff1d(np.arange(len(events.rows)), wrong))
        events, unit, stratum = self._with_units(draw.units, events)
        fits = self._fitting(events, stratum)
        if len(fits) < len(events.rows):
            events, unit = events.take(fits), unit.take(fits)
            stratum = None if stratum is None else stratum.take(fits)

        def details(at: Int64s) -> Details:
            some = events.take(at)
            payload = self.plan.input.projector.splice(some.batch.values, some.projection, some.rows)
            return Details(some.projection.schema[some.rows], self._split_of(some), payload)

        late = windows.on_records(offered(draw, events, unit, stratum), details)
        self.counts[SEPARATOR.join(("prediction", "late"))] += int(np.count_nonzero(late))
        self._refuse(events, np.flatnonzero(late), "late", "its window had closed before it was read", stage="sample")

    def _count_draw(self, declared: tuple[str, ...], code: np.ndarray, keep: np.ndarray) -> None:
        # Code -1, any stratum without a rate of its own, is counted in the last place.
        size = len(declared) + 1
        both = np.where(code < 0, size - 1, code)
        total = np.bincount(both, minlength=size)
        kept = np.bincount(both[keep], minlength=size)
        for name, all_, some in zip((*declared, "other"), total.tolist(), kept.tolist(), strict=True):
            self.counts[SEPARATOR.join(("sampled", name, "kept"))] += some
            self.counts[SEPARATOR.join(("sampled", name, "dropped"))] += all_ - some

    def _split_of(self, events: Events) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        plan = self.plan.split
        if plan is None:
            return np.full(len(events.rows), -1, np.int8)
        unit = events.ids if plan.by is None else events.projection.text(plan.by).take(events.rows)
        parts = plan.split.assign(unit)
        # A record without the unit belongs to no part: null on the record, never a guess.
        return np.where(unit.size >= 0, parts, -1).astype(np.int8)

    def _fitting(self, events: Events, stratum: Spans | None) -> Int64s:
        """Training records are larger than their predictions; what could not be written is refused while its bytes are
        here. The others, int64[k].
        """
        room = self._settings.output_bytes_max - record_bytes_max(self.plan)
        needed = events.batch.values.size[events.rows].astype(np.int64) + 2 * events.ids.size
        if stratum is not None:
            needed += _ESCAPED * stratum.size
        too_large = needed > room
        if too_large.any():
            most = self._settings.output_bytes_max
            words = f"the training record would exceed the output topic's max.message.bytes ({most})"
            self._refuse(events, np.flatnonzero(too_large), "too_large", words, stage="output")
        return np.flatnonzero(~too_large)

    def _on_feedback(self, number: int, item: FeedbackPlan, events: Events) -> None:
        assert self.join is not None
        own = None
        if item.own_id is not None:
            own = events.projection.text(item.own_id).take(events.rows)
            missing = np.flatnonzero(own.size < 0)
            if len(missing):
                self._refuse(
                    events, missing, "missing_id", f"the field {item.own_id!r} is null, and it is {item.source.role}.id"
                )
                kept = np.flatnonzero(own.size >= 0)
                events, own = events.take(kept), own.take(kept)
        for column in item.values:
            bad = column.unusable(events.projection, events.rows)
            if bad is not None and bad.any():
                words = f"the field {column.path!r}, which is a label, is not {column.needed}"
                self._refuse(events, np.flatnonzero(bad), "bad_value", words)
                kept = np.flatnonzero(~bad)
                events, own = events.take(kept), None if own is None else own.take(kept)
        if not len(events.rows):
            return
        self._check_waiting(len(events.rows))
        columns = [column.read(events.projection, events.rows) for column in item.values]
        always = np.ones(len(events.rows), np.bool_)
        batch, rows = events.batch, events.rows
        fate = self.join.on_feedback(
            number,
            events.batch.offsets[events.rows],
            events.times,
            events.ids,
            hash64(events.ids, _ID_SEED),
            [bits for bits, _ in columns],
            valid=[always if known is None else known for _, known in columns],
            feedback_ids=None if own is None else hash64(own, FEEDBACK_ID_SEED),
            not_sampled=self._not_sampled(events.ids),
            originals=lambda picks: originals_of(batch, rows[picks]),
        )
        if fate.any():
            self._output.aside += set_aside(self.plan.job, batch, rows, fate)

    def _check_waiting(self, more: int) -> None:
        """Feedback that is dropped would turn into silence: rather stop than lie."""
        assert self.join is not None
        waiting, most = self.join.counts().waiting, self.plan.job.limits.waiting_max
        if waiting + more > most:
            raise StateError(
                f"task {self.partition}: {waiting:,} feedback records wait for their predictions, and {more:,} more "
                f"came: limits.waiting_max is {most:,}",
                remedy="raise limits.waiting_max, or look for predictions that lag far behind their feedback",
            )

    def _not_sampled(self, ids: Spans) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Where the design cannot have kept the prediction of this id, whatever its stratum (A18)."""
        draw = self.plan.draw
        if draw is None or draw.units.unit is not None:
            return None
        return unit_hash(ids, draw.design.seed) >= draw.design.largest_rate

    def _refuse(self, events: Events, at: Int64s, reason: str, words: str, *, stage: str = "label") -> None:
        if len(at):
            self._output.rejected.append(Rejected(events.batch, events.rows[at], stage, reason, words))

    # -- time -------------------------------------------------------------------------------------

    def advance(self, elapsed_ms: int) -> bool:
        """Let the watermark act: settle what is due. Whether all of it is done; if not, call again before `process`.

        What is due is settled in steps of event time, so that after a long stop neither memory nor a transaction has to
        hold everything at once.
        """
        goal = self.watermark.advance(elapsed_ms)
        self._note_idleness()
        if goal == MIN:
            return True
        if self.windows is not None:
            return self._advance_windows(self.windows, goal)
        if self.join is None or self.plan.join is None:
            return True
        covered = np.array([self.covered_from[item.source.topic] for item in self.plan.feedback], np.int64)
        stride = max(self.plan.join.reach_ms // _STEPS_PER_WINDOW, 1)
        written = 0
        while self.join.watermark < goal:
            due = self.join.next_deadline()
            step = goal if due is None else min(goal, max(due, self.join.watermark) + stride)
            settled = self.join.on_watermark(step, covered)
            for lost in self.join.take_lost():
                self._changed = True
                self._output.aside += waited_in_vain(self.plan, self.partition, lost)
            if len(settled):
                self._on_settled(settled)
                written += len(settled)
                if written >= _ROWS_AT_ONCE:
                    break
            if len(settled) < _ROWS_AT_ONCE // 8:  # Sparse in event time: smaller steps would be batches of a few rows.
                stride *= 2
        self.behind = self.join.watermark < goal
        return not self.behind

    def _advance_windows(self, windows: WindowedSample, goal: int) -> bool:
        written = 0
        while windows.watermark < goal and written < _ROWS_AT_ONCE:
            due = windows.next_deadline()
            drawn = windows.on_watermark(goal if due is None or due >= goal else due + 1)
            if drawn is not None:
                self._changed = True
                self._count_windows(drawn)
                idle = drawn.settled_at >= self.watermark.value_without_idle
                self._emit(self._records.of_drawn(drawn, self.partition, idle))
                written += len(drawn)
        self.behind = windows.watermark < goal
        return not self.behind

    def _count_windows(self, drawn: Drawn) -> None:
        """Which records of closed windows were kept, by declared stratum; all others are `other`."""
        declared = self.windows.settings.strata if self.windows is not None else ()
        for number, name in enumerate((*declared, "other")):
            mine = drawn.places == number if number < len(declared) else drawn.places >= number
            kept = int(drawn.kept[mine].sum())
            self.counts[SEPARATOR.join(("sampled", name, "kept"))] += kept
            self.counts[SEPARATOR.join(("sampled", name, "dropped"))] += int(drawn.seen[mine].sum()) - kept

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
        self._emit(self._records.of_settled(settled, self.partition, idle))

    def check_matches(self) -> None:
        """Raises TopicError when nearly no feedback finds its prediction (A16)."""
        if self.join is None or self.plan.join is None:
            return
        rate = 1.0 if self.plan.draw is None else self.plan.draw.design.largest_rate
        for number, use in enumerate(self.plan.join.uses):
            counts = self.join.ledger.feedback_counts(number)
            resolved = counts["matched"] + counts["orphan"]
            name = self.plan.join.feedback[use.feedback]
            topics = " and ".join(item.source.topic for item in self.plan.feedback if item.name == name)
            check_matches(self.plan.input.topic, topics, self._settings.partitions, resolved, counts["matched"], rate)

    def _emit(self, encoded: Encoded) -> None:
        if len(encoded.keys):
            self._output.records.append(encoded)

    def take_output(self) -> Output:
        """What is to be written, handed over once."""
        output, self._output = self._output, Output()
        return output

    # -- state ------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit since the last `snapshot`."""
        return self._changed

    def snapshot(self) -> tuple[list[bytes | memoryview], Logged]:
        """The body of the next chunk, everything that changed since the last call, and what it holds."""
        step, logged = self._snapshot_step()
        body = ChunkBody(
            shape=self.plan.job.state_shape,
            partitions=self._settings.partitions,
            positions=dict(self.positions),
            watermark=self.watermark.snapshot(),
            covered_from=dict(self.covered_from),
            start_ms=self.start_ms,
            counts=dict(self.counts),
            schemas=self._schemas,
            step=b"",
        )
        self._changed = False
        return encode_body(body, step), logged

    def _snapshot_step(self) -> tuple[list[bytes | memoryview], Logged]:
        if self.windows is not None:
            if self.log.stale_rows(self.windows.elements) is not None:
                self.windows.rewrite()
            part = self.windows.snapshot_delta()
            return [encode_window_delta(part)], Logged.of_windows(part)
        if self.join is None:
            return [], Logged()
        counts = self.join.counts()
        stale = self.log.stale_rows(counts.held_rows + counts.waiting + counts.matches)
        if stale is not None:
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
            check_body(body, self.plan.job.state_shape, self._settings.partitions, changelog)
        last = bodies[-1]
        if last.positions != positions:
            raise StateError(
                f"{changelog}: the changelog stands at {last.positions}, the group's offsets at {positions}",
                remedy="the group's offsets were moved by hand: move them back, or start over with `streamsample "
                "reset JOB`",
            )
        self.positions = dict(positions)
        self.watermark.restore(last.watermark)
        self._idle = self.watermark.closed_by_idle
        self.covered_from |= last.covered_from
        self.start_ms = last.start_ms
        self.counts = Counter(last.counts)
        for chunk, logged in zip(chunks, self._restore_step(bodies, changelog), strict=True):
            self.log.add(chunk.sequence, chunk.offset, chunk.size_bytes, logged)

    def _restore_step(self, bodies: list[ChunkBody], changelog: TopicPartition) -> list[Logged]:
        """Take up the step's state; what each chunk holds of it."""
        if self.windows is not None:
            parts = [windows_of(body, self._schemas, changelog) for body in bodies]
            self.windows.restore(parts)
            return [Logged.of_windows(part) for part in parts]
        if self.join is None or self.plan.join is None:
            return [Logged() for _ in bodies]
        deltas = [delta_of(body, self._schemas, changelog) for body in bodies]
        self.join.restore(deltas)
        needed = needed_until(self.plan.join, deltas)
        return [Logged.of_join(delta, until) for delta, until in zip(deltas, needed, strict=True)]


def _windowed(draw: WindowDraw) -> WindowedSample:
    # Imported here: its kernels are compiled only for jobs that need them.
    from streamsample.sampling.windows import WindowedSample

    return WindowedSample(draw.settings)
