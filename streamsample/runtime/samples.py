"""The samples of one task: what each of them keeps of the predictions, and what it holds of open windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64
from streamsample.labels import PayloadSpace
from streamsample.records import Bools, Float64s, Int64s, Spans
from streamsample.runtime.audit import Audit
from streamsample.runtime.exchange import NEVER, Mail, Message
from streamsample.runtime.plan import Plan, SamplePlan, Units, WindowDraw
from streamsample.runtime.source import Events
from streamsample.runtime.state import SchemaName
from streamsample.runtime.training import Encoded, Sampled, TrainingRecords, record_bytes_max
from streamsample.runtime.windowing import Unusable, is_true, offered, ratios, unusable_numbers, unusable_ratios
from streamsample.sampling.design import Selection, unit_hash
from streamsample.sampling.strata import DeclaredStrata
from streamsample.sampling.window_columns import Details, Drawn, GroupColumns, Offered

if TYPE_CHECKING:
    from streamsample.runtime.window_step import WindowSteps

SEPARATOR = "\x1f"
"""Between the parts of a name in `Task.counts`: a stratum may hold any other character."""
_ESCAPED = 6
"""Bytes that one of a stratum's may become in JSON."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What a task must know of the cluster and the machine. output_bytes_max: the output topic's max.message.bytes;
    exchange_bytes_max: the internal topic's; space: where the payload of open rows lies, by default in memory.
    """

    partitions: int
    output_bytes_max: int
    exchange_bytes_max: int
    space: PayloadSpace = field(default_factory=PayloadSpace)


class Owner(Protocol):
    """The task that the samples are of: it takes what comes of them."""

    partition: int
    counts: Counter[str]
    audit: Audit

    def emit(self, encoded: Encoded, ts: Int64s) -> None:
        """Write training records of predictions at `ts`."""

    def refuse(self, events: Events, at: Int64s, reason: str, words: str, *, stage: str) -> None:
        """Dead-letter the events at some places."""

    def send(self, messages: list[Message]) -> None:
        """Tell other tasks."""


Hashed: TypeAlias = dict[tuple[str | None, int], tuple[Events, NDArray[np.uint64]]]
"""The keyed hashes of the units of some events, by unit and seed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Events that a sample keeps, or may keep. probability: π, float64[n]."""

    events: Events
    stratum: Spans | None
    probability: Float64s


class Samples:
    """All samples of one task. Not thread-safe. windows: what is held of open windows, None without any."""

    def __init__(self, plan: Plan, owner: Owner, settings: TaskSettings, schemas: Sequence[SchemaName]) -> None:
        self._plan = plan
        self._owner = owner
        self._settings = settings
        self._records = [TrainingRecords(plan, sample) for sample in plan.samples]
        draws = {number: each.windows for number, each in enumerate(plan.samples) if each.windows is not None}
        self.windows = self._windowed(draws, schemas) if draws else None
        self._rates = {
            number: sample.draw.counted()
            for number, sample in enumerate(plan.samples)
            if sample.draw is not None and sample.draw.counted is not None
        }

    def _windowed(self, draws: dict[int, WindowDraw], schemas: Sequence[SchemaName]) -> WindowSteps:
        # Imported here: its kernels are compiled only for jobs that need them.
        from streamsample.runtime.window_step import WindowSteps

        mail = Mail(self._plan.job.state_shape, schemas, self._settings.exchange_bytes_max)
        return WindowSteps(draws, self._owner.partition, self._settings.partitions, mail)

    def on_events(self, events: Events) -> None:
        """Show events to all samples of a job without targets."""
        hashed: Hashed = {}
        for number, sample in enumerate(self._plan.samples):
            if sample.windows is None:
                self._emit_kept(number, self.kept(number, events))
            else:
                self._show(number, sample, sample.windows, events, hashed)

    def kept(self, number: int, events: Events) -> Kept | None:
        """What a design by rate keeps, of what can be written; None of nothing."""
        sample, stratum = self._plan.samples[number], None
        draw = sample.draw
        if draw is not None and draw.ratio is not None:
            events = self._without(events, unusable_ratios(sample.key, draw.ratio, events))
        probability = np.ones(len(events.rows))
        if draw is not None:
            events, unit, stratum = self._with_units(sample, draw.units, events)
            chosen = draw.design.decide(unit, stratum)
            if draw.rule is not None:
                text = events.projection.text(draw.rule).take(events.rows)
                chosen = Selection(is_true(text), np.full(len(text), np.nan), chosen.declared)
            if number in self._rates:
                events, chosen = self._by_count(number, draw.design.seed, events, unit)
            rows = np.flatnonzero(chosen.keep)
            self._count_draw(sample, draw.design.declared, chosen.declared, chosen.keep)
            audit, declared = self._owner.audit, draw.design.declared
            audit.drew(sample.called, declared, chosen.declared, chosen.probability, chosen.keep)
            if draw.ratio is not None:
                audit.weighed(sample.called, ratios(draw.ratio, events))
            events, probability = events.take(rows), chosen.probability[rows]
            stratum = None if stratum is None else stratum.take(rows)
        fits = self._fitting(events, stratum)
        if len(fits) < len(events.rows):
            events, probability = events.take(fits), probability[fits]
            stratum = None if stratum is None else stratum.take(fits)
        return Kept(events, stratum, probability) if len(events.rows) else None

    def _by_count(self, number: int, seed: int, events: Events, unit: Spans) -> tuple[Events, Selection]:
        """The decision by the rates of the records' windows; and the events without those that came too late."""
        rate, late = self._rates[number].decide(events.times)
        if late.any():
            self._refuse_late(self._plan.samples[number], events, late)
            rows = np.flatnonzero(~late)
            events, unit, rate = events.take(rows), unit.take(rows), rate[rows]
        return events, Selection(unit_hash(unit, seed) < rate, rate, np.full(len(rate), -1, np.int32))

    def _refuse_late(self, sample: SamplePlan, events: Events, late: Bools) -> None:
        self._owner.counts[SEPARATOR.join(("prediction", "late"))] += int(np.count_nonzero(late))
        self._owner.refuse(events, np.flatnonzero(late), "late", late_words(sample), stage="sample")

    def snapshot(self) -> dict[int, bytes]:
        """The rates that are made of counts, by the samples' numbers."""
        return {number: rates.snapshot() for number, rates in self._rates.items()}

    def restore(self, rates: dict[int, bytes]) -> None:
        """Go on with these rates. Raises StateError if they are damaged."""
        for number, data in rates.items():
            self._rates[number].restore(data)

    def _emit_kept(self, number: int, kept: Kept | None) -> None:
        if kept is None:
            return
        events, rows = kept.events, kept.events.rows
        draw = self._plan.samples[number].draw
        ratio = None if draw is None else draw.ratio
        sampled = Sampled(
            ts=events.times,
            offset=events.batch.offsets[rows],
            ids=events.ids,
            features=self._plan.input.projector.splice(events.batch.values, events.projection, rows),
            schema=events.projection.schema[rows],
            split=self.split_of(events),
            stratum=Spans.nulls(len(rows)) if kept.stratum is None else kept.stratum,
            probability=kept.probability,
            weight=None if ratio is None else ratios(ratio, events),
        )
        self._owner.emit(self._records[number].of_sampled(sampled, self._owner.partition), sampled.ts)

    def _without(self, events: Events, wrong: Unusable | None) -> Events:
        """The events that a design can take; the others are refused."""
        if wrong is None or not len(wrong.rows):
            return events
        self._owner.refuse(events, wrong.rows, wrong.reason, wrong.words, stage="sample")
        return events.take(np.setdiff1d(np.arange(len(events.rows)), wrong.rows))

    def _with_units(self, sample: SamplePlan, units: Units, events: Events) -> tuple[Events, Spans, Spans | None]:
        """The events whose sampling unit and stratum are known, with both."""
        unit = units.unit_of(events.projection, events.rows, events.ids)
        stratum = units.stratum_of(events.projection, events.rows)
        known = unit.size >= 0 if stratum is None else (unit.size >= 0) & (stratum.size >= 0)
        if not known.all():
            words = f"the sampling unit or a field of the strata is null ({sample.key}.unit, {sample.key}.by)"
            self._owner.refuse(events, np.flatnonzero(~known), "missing_stratum_or_unit", words, stage="sample")
            kept = np.flatnonzero(known)
            events, unit = events.take(kept), unit.take(kept)
            stratum = None if stratum is None else stratum.take(kept)
        return events, unit, stratum

    def _show(self, number: int, sample: SamplePlan, draw: WindowDraw, events: Events, hashed: Hashed) -> None:
        """Show events to the sample of their window; few of them are candidates, and only their bytes are kept.

        hashed: what other samples have hashed, so that those that share units do it once.
        """
        assert self.windows is not None
        events = self._without(events, unusable_numbers(sample.key, draw, events))
        events, unit, stratum = self._with_units(sample, draw.units, events)
        fits = self._fitting(events, stratum)
        if len(fits) < len(events.rows):
            events, unit = events.take(fits), unit.take(fits)
            stratum = None if stratum is None else stratum.take(fits)

        def details(at: Int64s) -> Details:
            some = events.take(at)
            payload = self._plan.input.projector.splice(some.batch.values, some.projection, some.rows)
            return Details(some.projection.schema[some.rows], self.split_of(some), payload)

        of, hashes = hashed.get((draw.units.unit, draw.seed), (None, None))
        if of is not events or hashes is None:
            hashes = hash64(unit, draw.seed)
            hashed[draw.units.unit, draw.seed] = events, hashes
        shown = offered(draw, self._owner.partition, events, hashes, stratum)
        self._audit(sample, draw, shown, unit)
        self._refuse_late(sample, events, self.windows.steps[number].on_records(shown, details))

    def advance(self, goal: int, without_idle: int, covered_from: int = NEVER) -> tuple[bool, bool]:
        """Let the watermark come to `goal`: whether all is done, and whether anything came of it. Windows that begin
        before `covered_from` give no sample (A19).
        """
        assert self.windows is not None
        closed, done = self.windows.advance(goal, without_idle, covered_from)
        for number, each in closed:
            self._count_uncovered(number, each.uncovered)
            self._count_windows(number, each.drawn)
            self._audit_windows(number, each.drawn)
            self._owner.emit(self._records[number].of_drawn(each.drawn, each.idle), each.drawn.rows.ts)
        messages = self.windows.take_messages()
        self._owner.send(messages)
        return done, bool(closed or messages)

    def split_of(self, events: Events) -> NDArray[np.int8]:
        """The part of the split of each event, -1 for none."""
        if self._plan.split is None:
            return np.full(len(events.rows), -1, np.int8)
        return self._plan.split.parts_of(events.projection, events.rows, events.ids)

    def _fitting(self, events: Events, stratum: Spans | None) -> Int64s:
        """Training records are larger than their predictions; what could not be written is refused while its bytes are
        here. The others, int64[k].
        """
        room = self._settings.output_bytes_max - record_bytes_max(self._plan)
        sizes = [(1, events.batch.values.size[events.rows]), (2, events.ids.size)]
        sizes += [] if stratum is None else [(_ESCAPED, stratum.size)]
        if sum(times * int(size.max(initial=0)) for times, size in sizes) <= room:
            return np.arange(len(events.rows))
        needed = sum((times * size.astype(np.int64) for times, size in sizes), np.zeros(len(events.rows), np.int64))
        too_large = needed > room
        if too_large.any():
            most = self._settings.output_bytes_max
            words = f"the training record would exceed the output topic's max.message.bytes ({most})"
            self._owner.refuse(events, np.flatnonzero(too_large), "too_large", words, stage="output")
        return np.flatnonzero(~too_large)

    # -- counting ---------------------------------------------------------------------------------

    def _count_draw(self, sample: SamplePlan, declared: tuple[str, ...], code: np.ndarray, keep: np.ndarray) -> None:
        # Code -1, any stratum without a rate of its own, is counted in the last place.
        size = len(declared) + 1
        both = np.where(code < 0, size - 1, code)
        total = np.bincount(both, minlength=size)
        kept = np.bincount(both[keep], minlength=size)
        for name, all_, some in zip((*declared, "other"), total.tolist(), kept.tolist(), strict=True):
            self._count(sample, name, some, all_ - some)

    def _count_windows(self, number: int, drawn: Drawn) -> None:
        """Which records of closed windows were kept, by declared stratum; all others are `other`."""
        sample = self._plan.samples[number]
        assert sample.windows is not None
        declared, whole = sample.windows.settings.strata, sample.windows.settings.cumulative
        for place, name in enumerate((*declared, "other")):
            mine = drawn.places == place if place < len(declared) else drawn.places >= place
            kept = int(drawn.kept[mine].sum())
            self._count(sample, name, kept, int(drawn.seen[mine].sum()) - kept, instead=whole)

    def _count_uncovered(self, number: int, groups: GroupColumns) -> None:
        """The records of windows that could not be read as a whole, by declared stratum."""
        sample = self._plan.samples[number]
        assert sample.windows is not None
        declared = sample.windows.settings.strata
        for place, name in enumerate((*declared, "other") if len(groups.n) else ()):
            mine = groups.place == place if place < len(declared) else groups.place >= place
            self._owner.counts[SEPARATOR.join(("sampled", sample.name or "", name, "uncovered"))] += int(
                groups.n[mine].sum()
            )

    def _audit(self, sample: SamplePlan, draw: WindowDraw, shown: Offered, unit: Spans) -> None:
        audit, declared = self._owner.audit, draw.settings.strata
        if draw.settings.law == "first":
            code = np.full(len(unit), -1, np.int32)
            if shown.stratum is not None and declared:
                code = DeclaredStrata(declared).codes(shown.stratum, hash64(shown.stratum, 0))
            audit.shown(sample.called, declared, code, unit)
            return
        audit.hashed(sample.called, shown.unit)
        if draw.ratio is not None:
            audit.weighed(sample.called, shown.weight)

    def _audit_windows(self, number: int, drawn: Drawn) -> None:
        sample = self._plan.samples[number]
        assert sample.windows is not None
        self._owner.audit.closed(sample.called, sample.windows.settings.strata, drawn)

    def _count(self, sample: SamplePlan, stratum: str, kept: int, dropped: int, *, instead: bool = False) -> None:
        """instead: these are counts of everything since the start, and take the place of the last ones."""
        for what, count in (("kept", kept), ("dropped", dropped)):
            key = SEPARATOR.join(("sampled", sample.name or "", stratum, what))
            self._owner.counts[key] = count if instead else self._owner.counts[key] + count


def late_words(sample: SamplePlan) -> str:
    """What the dead letter of a record says that came after its window had closed."""
    return f"its window had closed before it was read ({sample.key})"
