"""The samples of one task: what each of them keeps of the predictions, and what it holds of open windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64
from streamsample.kernels import load_imported
from streamsample.labels import PayloadSpace
from streamsample.records import Bools, Int32s, Int64s, Spans
from streamsample.runtime.audit import Audit
from streamsample.runtime.composed import Said, given, packed, passed_before, unpacked
from streamsample.runtime.draws import Draw, Place, Units, WindowDraw
from streamsample.runtime.exchange import NEVER, Mail, Message
from streamsample.runtime.plan import Plan, SamplePlan
from streamsample.runtime.source import Events
from streamsample.runtime.state import DrawDelta, SchemaName
from streamsample.runtime.taken import taken, unrelated
from streamsample.runtime.training import STAGE_BYTES_MAX, Encoded, Sampled, TrainingRecords, record_bytes_max
from streamsample.runtime.windowing import Unusable, offered, ratios, unusable_numbers, unusable_ratios
from streamsample.sampling.design import Selection, unit_hash
from streamsample.sampling.memory import Memory
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
    exchange_bytes_max: that of windows; space: where the payload of open rows lies, by default in memory.
    origins: the partitions of each topic that is rekeyed, one that is not in it is read as it is; rekeyed_bytes_max:
    of the topics that carry their records.
    """

    partitions: int
    output_bytes_max: int
    exchange_bytes_max: int
    space: PayloadSpace = field(default_factory=PayloadSpace)
    origins: Mapping[str, int] = field(default_factory=dict)
    rekeyed_bytes_max: int = 0


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
    """Events that a sample keeps, or may keep. said: by its designs by rate, so far, in their order."""

    events: Events
    said: tuple[Said, ...] = ()

    def take(self, rows: Int64s) -> Kept:
        """The same of the events at `rows`."""
        return Kept(self.events.take(rows), tuple(each.take(rows) for each in self.said))


class Samples:
    """All samples of one task. Not thread-safe. windows: what is held of open windows, None without any."""

    def __init__(self, plan: Plan, owner: Owner, settings: TaskSettings, schemas: Sequence[SchemaName]) -> None:
        self._plan = plan
        self._owner = owner
        self._settings = settings
        self._records = [TrainingRecords(plan, sample) for sample in plan.samples]
        draws = {number: each.windows for number, each in enumerate(plan.samples) if each.windows is not None}
        self.windows = self._windowed(draws, schemas) if draws else None
        draws_by_rate = [draw for sample in plan.samples for draw in sample.draws]
        self._rates = {draw.place.key: draw.counted() for draw in draws_by_rate if draw.counted is not None}
        self._frontiers = {
            draw.place.key: draw.relation.frontier() for draw in draws_by_rate if draw.relation is not None
        }
        self._memories: dict[str, Memory] = {**self._rates, **self._frontiers}
        self._called = {draw.place.key: draw.place.called for draw in draws_by_rate}

    def _windowed(self, draws: dict[int, WindowDraw], schemas: Sequence[SchemaName]) -> WindowSteps:
        # Imported here: its kernels are compiled only for jobs that need them.
        from streamsample.runtime.window_step import WindowSteps

        load_imported()
        mail = Mail(self._plan.job.state_shape, schemas, self._settings.exchange_bytes_max)
        return WindowSteps(draws, self._owner.partition, self._settings.partitions, mail)

    def on_events(self, events: Events) -> None:
        """Show events to all samples of a job without targets."""
        hashed: Hashed = {}
        for number, sample in enumerate(self._plan.samples):
            if sample.windows is None:
                self._emit_kept(number, self.kept(number, events))
            else:
                self._show(number, sample, sample.windows, self._by_rate(number, events), hashed)

    def kept(self, number: int, events: Events) -> Kept | None:
        """What the designs by rate of a sample keep, of what can be written; None of nothing."""
        kept = self._by_rate(number, events)
        kept = self._fitting(self._plan.samples[number], kept)
        return kept if len(kept.events.rows) else None

    def _by_rate(self, number: int, events: Events) -> Kept:
        """What all designs by rate of a sample keep, one after the other."""
        kept = Kept(events)
        for draw in self._plan.samples[number].draws:
            kept = self._draw(number, draw, kept)
        return kept

    def _draw(self, number: int, draw: Draw, kept: Kept) -> Kept:
        """What one design by rate keeps of what those before it have kept."""
        if draw.ratio is not None:
            kept = self._without(kept, unusable_ratios(draw.place.key, draw.ratio, kept.events))
        if draw.relation is not None:
            kept = self._without(kept, unrelated(draw.place.key, draw.relation, kept.events))
        kept, unit, stratum = self._with_units(draw.place, draw.units, kept)
        if not draw.random:
            chosen, stratum = self._taken(draw, kept.events, stratum)
        elif draw.counted is not None:
            kept, chosen = self._by_count(number, draw, kept, unit)
        else:
            chosen = draw.design.decide(unit, stratum)
        rows = np.flatnonzero(chosen.keep)
        declared, audit = draw.strata, self._owner.audit
        self._count_draw(draw.place, declared, chosen.declared, chosen.keep)
        if draw.random:
            probability = given(self._plan.samples[number], kept.said, chosen.probability)
            audit.drew(draw.place.called, declared, chosen.declared, probability, chosen.keep)
        else:
            audit.shown(draw.place.called, declared, chosen.declared, unit)
        if draw.ratio is not None:
            audit.weighed(draw.place.called, ratios(draw.ratio, kept.events))
        kept = kept.take(rows)
        said = Said(chosen.probability[rows], None if stratum is None else stratum.take(rows))
        return Kept(kept.events, (*kept.said, said))

    def _taken(self, draw: Draw, events: Events, stratum: Spans | None) -> tuple[Selection, Spans | None]:
        """What a design that is not random takes, and the strata."""
        frontier = self._frontiers.get(draw.place.key)
        found = taken(draw, frontier, events, stratum)
        if frontier is not None and frontier.refused:
            self._owner.counts[SEPARATOR.join(("frontier", draw.place.key))] = frontier.refused
        return found

    def _by_count(self, number: int, draw: Draw, kept: Kept, unit: Spans) -> tuple[Kept, Selection]:
        """The decision by the rates of the records' windows; and the events without those that came too late. A rate is
        one of what those before have kept.
        """
        rate, late = self._rates[draw.place.key].decide(kept.events.times)
        if late.any():
            self._refuse_late(draw.place, kept.events, late)
            rows = np.flatnonzero(~late)
            kept, unit, rate = kept.take(rows), unit.take(rows), rate[rows]
        before = passed_before(self._plan.samples[number], kept.said)
        rate = rate if before is None else rate * before
        keep = unit_hash(unit, draw.design.seed) < rate
        return kept, Selection(keep, rate, np.full(len(rate), -1, np.int32))

    def _refuse_late(self, place: Place, events: Events, late: Bools) -> None:
        self._owner.counts[SEPARATOR.join(("prediction", "late"))] += int(np.count_nonzero(late))
        self._owner.refuse(events, np.flatnonzero(late), "late", late_words(place), stage="sample")

    @property
    def held(self) -> int:
        """Elements that a delta of what designs by rate remember would hold, of everything."""
        return sum(memory.held for memory in self._memories.values())

    @property
    def reached(self) -> dict[str, int]:
        """How much snowball samples have reached, by what metrics call them."""
        return {self._called[key]: len(frontier) for key, frontier in self._frontiers.items()}

    def rewrite(self) -> None:
        """Put all of that into the next delta, so that older ones can go."""
        for memory in self._memories.values():
            memory.rewrite()

    def snapshot(self) -> dict[str, DrawDelta]:
        """What designs by rate remember, as it changed since the last call, by their keys in the job file."""
        # How much changed is asked before it is taken.
        return {key: DrawDelta(memory.changed, memory.snapshot()) for key, memory in self._memories.items()}

    def restore(self, deltas: Sequence[dict[str, DrawDelta]]) -> None:
        """Go on from these, oldest first. Raises StateError if they are damaged."""
        for key, memory in self._memories.items():
            if mine := [each[key].data for each in deltas if key in each]:
                memory.restore(mine)

    def _emit_kept(self, number: int, kept: Kept | None) -> None:
        if kept is None:
            return
        events, rows, draws = kept.events, kept.events.rows, self._plan.samples[number].draws
        ratio = draws[0].ratio if draws else None  # of a sample that has no other design
        sampled = Sampled(
            ts=events.times,
            offset=events.batch.offsets[rows],
            ids=events.ids,
            features=self._plan.input.projector.splice(events.batch.values, events.projection, rows),
            schema=events.projection.schema[rows],
            split=self.split_of(events),
            index=events.index,
        )
        weight = None if ratio is None else ratios(ratio, events)
        encoded = self._records[number].of_sampled(sampled, kept.said, self._owner.partition, weight)
        self._owner.emit(encoded, sampled.ts)

    def _without(self, kept: Kept, wrong: Unusable | None) -> Kept:
        """The events that a design can take; the others are refused."""
        if wrong is None or not len(wrong.rows):
            return kept
        self._owner.refuse(kept.events, wrong.rows, wrong.reason, wrong.words, stage="sample")
        return kept.take(np.setdiff1d(np.arange(len(kept.events.rows)), wrong.rows))

    def _with_units(self, place: Place, units: Units, kept: Kept) -> tuple[Kept, Spans, Spans | None]:
        """The events whose sampling unit and stratum are known, with both."""
        events = kept.events
        unit = units.unit_of(events.projection, events.rows, events.ids)
        stratum = units.stratum_of(events.projection, events.rows)
        known = unit.size >= 0 if stratum is None else (unit.size >= 0) & (stratum.size >= 0)
        if not known.all():
            words = f"the sampling unit or a field of the strata is null ({place.key}.unit, {place.key}.by)"
            self._owner.refuse(events, np.flatnonzero(~known), "missing_stratum_or_unit", words, stage="sample")
            rows = np.flatnonzero(known)
            kept, unit = kept.take(rows), unit.take(rows)
            stratum = None if stratum is None else stratum.take(rows)
        return kept, unit, stratum

    def _show(self, number: int, sample: SamplePlan, draw: WindowDraw, kept: Kept, hashed: Hashed) -> None:
        """Show events to the sample of their window; few of them are candidates, and only their bytes are kept.

        hashed: what other samples have hashed, so that those that share units do it once.
        """
        assert self.windows is not None
        kept = self._without(kept, unusable_numbers(draw, kept.events))
        kept, unit, stratum = self._with_units(draw.place, draw.units, kept)
        if draw.units.several:
            kept, unit = self._with_all_strata(draw, kept, unit)
        fits = self._fits(sample, kept, _longest(draw, kept.events) if stratum is None else stratum.size)
        if len(fits) < len(kept.events.rows):
            kept, unit = kept.take(fits), unit.take(fits)
            stratum = None if stratum is None else stratum.take(fits)
        events = kept.events
        record = None

        def details(at: Int64s) -> Details:
            some = kept.take(at if record is None else record[at])
            of = some.events
            payload = self._plan.input.projector.splice(of.batch.values, of.projection, of.rows)
            return Details(of.projection.schema[of.rows], self.split_of(of), packed(payload, some.said))

        of, hashes = hashed.get((draw.units.unit, draw.seed), (None, None))
        if of is not events or hashes is None:
            hashes = hash64(unit, draw.seed)
            hashed[draw.units.unit, draw.seed] = events, hashes
        shown = offered(draw, self._owner.partition, events, hashes, stratum)
        audited = shown, unit
        if draw.units.several:
            record, strata = draw.units.strata_of(events.projection, events.rows)
            shown = replace(shown.take(record), stratum=strata)
            if draw.settings.law == "first":  # whose slices are counted; of others each unit's hash is
                audited = shown, unit.take(record)
        self._audit(sample, draw, *audited)
        late = self.windows.steps[number].on_records(shown, details)
        if record is not None:  # all strata of a record are in the same window
            late = late[np.searchsorted(record, np.arange(len(unit)))]
        self._refuse_late(draw.place, events, late)

    def _with_all_strata(self, draw: WindowDraw, kept: Kept, unit: Spans) -> tuple[Kept, Spans]:
        """The events of whose strata none is null, and their units."""
        events = kept.events
        record, strata = draw.units.strata_of(events.projection, events.rows)
        null = np.bincount(record[strata.size < 0], minlength=len(events.rows)) > 0
        if not null.any():
            return kept, unit
        words = f"the list or a field of the strata is null ({draw.place.key}.by)"
        self._owner.refuse(events, np.flatnonzero(null), "missing_stratum_or_unit", words, stage="sample")
        rows = np.flatnonzero(~null)
        return kept.take(rows), unit.take(rows)

    def advance(self, goal: int, without_idle: int, covered_from: int = NEVER) -> tuple[bool, bool]:
        """Let the watermark come to `goal`: whether all is done, and whether anything came of it. Windows that begin
        before `covered_from` give no sample (A19).
        """
        assert self.windows is not None
        closed, done = self.windows.advance(goal, without_idle, covered_from)
        for number, each in closed:
            sample, drawn = self._plan.samples[number], each.drawn
            self._count_uncovered(sample, each.uncovered)
            self._count_windows(sample, drawn)
            features, said = unpacked(drawn.rows.payload, len(sample.draws))
            drawn = replace(drawn, rows=replace(drawn.rows, payload=features))
            self._audit_windows(sample, drawn, said)
            self._owner.emit(self._records[number].of_drawn(drawn, said, each.idle), drawn.rows.ts)
        messages = self.windows.take_messages()
        self._owner.send(messages)
        return done, bool(closed or messages)

    def split_of(self, events: Events) -> NDArray[np.int8]:
        """The part of the split of each event, -1 for none."""
        if self._plan.split is None:
            return np.full(len(events.rows), -1, np.int8)
        return self._plan.split.parts_of(events.projection, events.rows, events.ids)

    def _fitting(self, sample: SamplePlan, kept: Kept) -> Kept:
        fits = self._fits(sample, kept, None)
        return kept if len(fits) == len(kept.events.rows) else kept.take(fits)

    def _fits(self, sample: SamplePlan, kept: Kept, stratum: Int32s | None) -> Int64s:
        """Training records are larger than their predictions; what could not be written is refused while its bytes are
        here. The others, int64[k]. stratum: the bytes of those in the design of windows, int32[n].
        """
        events, stages = kept.events, 0 if sample.spec.sampling is None else len(sample.spec.sampling.stages)
        room = self._settings.output_bytes_max - record_bytes_max(self._plan) - STAGE_BYTES_MAX * stages
        sizes = [(1, events.projection.bytes_max(events.batch.values, events.rows)), (2, events.ids.size)]
        strata = [*(each.stratum.size for each in kept.said if each.stratum is not None), stratum]
        # With stages it stands in the record twice: the last one's is the whole's, too.
        sizes += [(_ESCAPED * (2 if stages else 1), size) for size in strata if size is not None]
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

    def _count_draw(self, place: Place, declared: tuple[str, ...], code: np.ndarray, keep: np.ndarray) -> None:
        # Code -1, any stratum without a rate of its own, is counted in the last place.
        size = len(declared) + 1
        both = np.where(code < 0, size - 1, code)
        total = np.bincount(both, minlength=size)
        kept = np.bincount(both[keep], minlength=size)
        for name, all_, some in zip((*declared, "other"), total.tolist(), kept.tolist(), strict=True):
            self._count(place, name, some, all_ - some)

    def _count_windows(self, sample: SamplePlan, drawn: Drawn) -> None:
        """Which records of closed windows were kept, by declared stratum; all others are `other`."""
        assert sample.windows is not None
        declared, whole = sample.windows.settings.strata, sample.windows.settings.cumulative
        for place, name in enumerate((*declared, "other")):
            mine = drawn.places == place if place < len(declared) else drawn.places >= place
            kept = int(drawn.kept[mine].sum())
            self._count(sample.windows.place, name, kept, int(drawn.seen[mine].sum()) - kept, instead=whole)

    def _count_uncovered(self, sample: SamplePlan, groups: GroupColumns) -> None:
        """The records of windows that could not be read as a whole, by declared stratum."""
        assert sample.windows is not None
        declared = sample.windows.settings.strata
        for place, name in enumerate((*declared, "other") if len(groups.n) else ()):
            mine = groups.place == place if place < len(declared) else groups.place >= place
            self._owner.counts[SEPARATOR.join(("sampled", sample.windows.place.key, name, "uncovered"))] += int(
                groups.n[mine].sum()
            )

    def _audit(self, sample: SamplePlan, draw: WindowDraw, shown: Offered, unit: Spans) -> None:
        audit, declared, called = self._owner.audit, draw.settings.strata, draw.place.called
        if draw.settings.law == "first":
            code = np.full(len(unit), -1, np.int32)
            if shown.stratum is not None and declared:
                code = DeclaredStrata(declared).codes(shown.stratum)
            audit.shown(called, declared, code, unit)
            return
        if sample.sharing[-1] not in sample.sharing[:-1]:  # else those before have cut it
            audit.hashed(called, shown.unit)
        if draw.ratio is not None:
            audit.weighed(called, shown.weight)

    def _audit_windows(self, sample: SamplePlan, drawn: Drawn, said: tuple[Said, ...]) -> None:
        assert sample.windows is not None
        if said:
            drawn = replace(drawn, weight=1.0 / given(sample, said, drawn.probability))
        self._owner.audit.closed(sample.windows.place.called, sample.windows.settings.strata, drawn)

    def _count(self, place: Place, stratum: str, kept: int, dropped: int, *, instead: bool = False) -> None:
        """instead: these are counts of everything since the start, and take the place of the last ones."""
        for what, count in (("kept", kept), ("dropped", dropped)):
            key = SEPARATOR.join(("sampled", place.key, stratum, what))
            self._owner.counts[key] = count if instead else self._owner.counts[key] + count


def _longest(draw: WindowDraw, events: Events) -> Int32s | None:
    """Of the strata of each event the bytes of the longest, int32[n]. None without strata."""
    if not draw.units.several or not len(events.rows):
        return None
    record, strata = draw.units.strata_of(events.projection, events.rows)
    longest: Int32s = np.maximum.reduceat(strata.size, np.searchsorted(record, np.arange(len(events.rows))))
    return longest


def late_words(place: Place) -> str:
    """What the dead letter of a record says that came after its window had closed."""
    return f"its window had closed before it was read ({place.key})"
