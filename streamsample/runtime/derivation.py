"""One sample derived again from what a job has read, and held against what it has written: see `verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamsample.config import Job
from streamsample.config.units import moment_text
from streamsample.config.values import LIMIT_MAX
from streamsample.errors import NotYetError
from streamsample.records import Bools, Int64s
from streamsample.runtime.audit import Audit
from streamsample.runtime.composed import Said
from streamsample.runtime.exchange import Message
from streamsample.runtime.plan import Plan, SamplePlan
from streamsample.runtime.readback import TrainingReader
from streamsample.runtime.samples import Kept, Samples, TaskSettings, late_words
from streamsample.runtime.source import Events
from streamsample.runtime.state import schema_name
from streamsample.runtime.training import Encoded
from streamsample.runtime.verdict import Span, Verdict, parse_span
from streamsample.sampling.window_columns import INDEX_BITS

_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Refused:
    """A dead letter of the input. positions: those elements of its list that it is about; 0 without a list."""

    partition: int
    offset: int
    positions: list[int]
    words: str
    stage: str
    late: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A written record that may be of one of the spans."""

    timestamp: int
    value: bytes
    tree: dict[str, Any]


@dataclass(slots=True)
class Left:
    """What retention has left of a topic. begins: the first offset of each partition that lacks some; first: the time
    in ms of the first record there is in each of those, if any: its own of the input, else its timestamp.
    """

    begins: dict[int, int]
    first: dict[int, int] = field(default_factory=dict)

    def look(self, partition: int, time_ms: int | None) -> None:
        """Note the time of a record, if it is the first."""
        if partition in self.begins and time_ms is not None:
            self.first.setdefault(partition, time_ms)

    def whole_from(self, partitions: Iterable[int], grace_ms: int) -> int:
        """From which time on these partitions have everything: what is gone may be later than the first record that is
        left by the grace (A19).
        """
        cut = [self.first.get(partition, _NEVER) + grace_ms for partition in partitions if partition in self.begins]
        return max(cut, default=-_NEVER)


class _Taking:
    """Takes what samples give, and keeps what `wanted` says of it. `partition`: of the batch that is shown; refused:
    how many events of `span` were, as the job did.
    """

    def __init__(self, wanted: Callable[[Int64s], Bools], span: Span) -> None:
        self._wanted = wanted
        self._span = span
        self.partition = 0
        self.refused = 0
        self.counts: Counter[str] = Counter()
        self.audit = Audit()
        self.records: list[Encoded] = []

    def emit(self, encoded: Encoded, ts: Int64s) -> None:
        some = encoded.take(np.flatnonzero(self._wanted(encoded.timestamps)))
        if len(some.keys):
            self.records.append(some)

    def refuse(self, events: Events, at: Int64s, reason: str, words: str, *, stage: str) -> None:
        times = events.times[at]
        self.refused += int(np.count_nonzero((times >= self._span.begin) & (times < self._span.end)))

    def send(self, messages: list[Message]) -> None:
        assert not messages


class Derivation:
    """One sample, derived again. Of a job without targets the records are, byte for byte; see `LabelledDerivation`.

    Most designs need the records of the stretch only. What depends on all before it (since the start, of so many
    records, by count, from seeds) is shown everything from the job's start on, in the order of each partition.
    """

    def __init__(self, job: Job, plan: Plan, sample: SamplePlan, window: str) -> None:
        self._job, self._plan, self._sample, self._name = job, plan, sample, sample.name
        windows = sample.windows
        self._remembers = any(draw.counted is not None or draw.relation is not None for draw in sample.draws)
        self._endless = self._remembers or (
            windows is not None and (windows.settings.cumulative or windows.settings.records is not None)
        )
        self._by_partition = self._remembers or (windows is not None and not windows.exchanged)
        self._check(sample)
        self._windows = windows
        window_ms = None if windows is None else windows.settings.window_ms or None
        self.span = parse_span(window, window_ms)
        self._late_words = {late_words(place) for place in sample.places}
        self._from_ms = _begins_at(job, None if self._endless else window_ms)
        if windows is not None:
            # Partitions are read as they come here, not side by side as in a job, so more windows may be open.
            settings = replace(windows.settings, windows_max=LIMIT_MAX)
            windows = replace(windows, exchanged=False, settings=settings)
        self._alone = replace(plan, samples=(replace(sample, windows=windows),))
        self._tasks: dict[int, tuple[_Taking, Samples]] = {}
        self._left_out: dict[int, set[int]] = {}
        self._unwritten: dict[int, set[int]] = {}
        """What was shown, and is not written all the same."""
        self._cut = set[int]()
        """The partitions of which retention has taken some of what came after the job's start."""
        self._whole_from = -_NEVER
        self._verdict = Verdict(self._name, self.span)

    def _check(self, sample: SamplePlan) -> None:
        """Raises NotYetError for what cannot be derived."""
        if not self._endless:
            return
        key = sample.places[-1].key
        if self._job.start == "latest":
            raise NotYetError(
                f"{key}: not yet: verifying what depends on all before it, of a job with start: latest",
                remedy="verify with the start as a time, the one that the job began at",
            )
        if sample.windows is not None and self._remembers:
            raise NotYetError(
                f"{key}: not yet: verifying a sample of windows after a design that remembers",
                remedy="run the job again under another name and another output, and compare",
            )

    def leave_out(self, refused: list[Refused]) -> None:
        """Records that the job did not show to this sample, or did not write.

        What a sample itself cannot take it refuses here as it did there, but for what came after its window.
        """
        for each in refused:
            if each.stage == "sample" and (self._remembers or not each.late or each.words not in self._late_words):
                continue
            after = self._remembers and each.stage in ("label", "output")
            places = {each.offset << INDEX_BITS | position for position in each.positions}
            (self._unwritten if after else self._left_out).setdefault(each.partition, set()).update(places)

    def show(self, events: Events) -> None:
        """Show the events of one batch, those of the span or, where they matter, of before."""
        shown = (events.times < self.span.end) if not self._endless else np.ones(len(events.rows), np.bool_)
        shown &= events.times >= (self._from_ms if self._endless else max(self.span.begin, self._from_ms))
        events = events.take(np.flatnonzero(shown))
        out = self._among(events, self._left_out)
        if out.any():
            self._verdict.refused += int(np.count_nonzero(out & self._inside(events)))
            events = events.take(np.flatnonzero(~out))
        self._verdict.shown += int(np.count_nonzero(self._inside(events)))
        if len(events.rows):
            self._take(self._samples_of(events.batch.partition), events)

    def come(self, watermark: int) -> None:
        """All partitions were read up to `watermark`: what has closed need not be held, where it is much."""
        most = self._job.limits.windows_max // 2
        for _, samples in self._tasks.values():
            if samples.windows is None or self._windows is None:
                continue
            if self._windows.settings.records is not None or samples.windows.open_windows > most:
                self._advance(samples, watermark)

    def stamped(self, timestamps: Int64s) -> Bools:
        """Which of n written records may be of the span, by their timestamps: bool[n]."""
        if self._windows is None or self._windows.settings.records is not None:
            return (timestamps >= self.span.begin) & (timestamps < self.span.end)
        grace = self._windows.settings.grace_ms
        return (timestamps > self.span.begin + grace) & (timestamps <= self.span.end + grace)

    def verdict(self, written: list[Record], source: Left, output: Left) -> Verdict:
        """What came of it. source, output: what is left of the input's topic and of the output's."""
        mine = [record for record in written if record.tree["sampling"].get("sample") == self._name]
        stamped = self.stamped(np.array([record.timestamp for record in mine], np.int64))
        mine = [record for record, yes in zip(mine, stamped, strict=True) if yes]
        self._verdict.versions = {record.tree["lineage"]["version"] for record in mine}
        self._cut = {p for p in source.begins if source.whole_from([p], self._job.grace_ms) >= self._from_ms}
        self._whole_from = source.whole_from(source.begins, self._job.grace_ms)
        self._compare(mine, source, output)
        for taking, _ in self._tasks.values():
            self._verdict.refused += taking.refused
            self._verdict.shown -= taking.refused
        self._say_what_is_gone(source, output)
        return self._verdict

    # -- deriving ---------------------------------------------------------------------------------

    def _take(self, samples: Samples, events: Events) -> None:
        samples.on_events(events)

    @staticmethod
    def _among(events: Events, places: Mapping[int, set[int]]) -> Bools:
        """Which of n events are at some places of their partition, bool[n]."""
        some = places.get(events.batch.partition, set())
        mine = events.batch.offsets[events.rows] << INDEX_BITS | events.index
        return np.isin(mine, np.fromiter(some, np.int64, len(some)))

    def _inside(self, events: Events) -> Bools:
        inside: Bools = (events.times >= self.span.begin) & (events.times < self.span.end)
        return inside

    def _samples_of(self, partition: int) -> Samples:
        """What a partition's records are shown to; it takes them as of that partition."""
        number = partition if self._by_partition else 0
        if number not in self._tasks:
            taking = _Taking(self.stamped, self.span)
            schemas = [schema_name(schema) for schema in self._plan.input.projector.schemas]
            settings = TaskSettings(1, 2**31 - 1, 0)
            self._tasks[number] = (taking, Samples(self._alone, taking, settings, schemas))
        taking, samples = self._tasks[number]
        taking.partition = partition
        return samples

    def _advance(self, samples: Samples, watermark: int) -> None:
        done = False
        while not done:
            done, _ = samples.advance(watermark, _NEVER)

    def _derived(self) -> Iterator[tuple[int, bytes]]:
        """Timestamps and values."""
        for taking, samples in self._tasks.values():
            if self._windows is not None:
                self._advance(samples, self.span.end + self._windows.settings.grace_ms + 1)
            for encoded in taking.records:
                values = (value or b"" for value in encoded.values.to_list())
                yield from zip(encoded.timestamps.tolist(), values, strict=True)

    # -- comparing --------------------------------------------------------------------------------

    def _compare(self, written: list[Record], source: Left, output: Left) -> None:
        verdict = self._verdict
        reader = TrainingReader(getattr(self._alone.samples[0].encoder, "schemas", ()), self._out_ids())
        found: dict[str, Record] = {}
        for record in written:
            if self._is_gone(record.tree, record.timestamp, source):
                verdict.gone += 1
                continue
            if record.tree["record_id"] in found:
                verdict.doubled += 1
                verdict.note("was written twice", record.tree)
            found[record.tree["record_id"]] = record
        written_from = output.whole_from(output.begins, 0)
        for timestamp, value in self._derived():
            tree = reader.decode(value)
            if self._is_gone(tree, timestamp, source) or self._is_unwritten(tree):
                continue
            if tree["record_id"] not in found and timestamp < written_from:
                verdict.gone += 1
                continue
            verdict.derived += 1
            if tree["record_id"] not in found:
                verdict.missing += 1
                verdict.note("was not written", tree)
                continue
            record = found.pop(tree["record_id"])
            if record.value == value or _content(record.tree) == _content(tree):
                verdict.equal += 1
            else:
                verdict.differing += 1
                verdict.note(_difference(tree, record.tree), tree)
        for record in found.values():
            verdict.unexpected += 1
            verdict.note("was written, but is not in the sample", record.tree)

    def _is_gone(self, tree: Mapping[str, Any], timestamp: int, source: Left) -> bool:
        """Whether the input lacks some of what decides on a record."""
        where = tree["lineage"]["prediction"]
        if self._endless:
            return where["partition"] in self._cut if self._by_partition else bool(self._cut)
        if self._windows is not None:
            begin = timestamp - self._windows.settings.grace_ms - self._windows.settings.window_ms
            return bool(begin < self._whole_from)
        return bool(where["offset"] < source.begins.get(where["partition"], 0))

    def _is_unwritten(self, tree: Mapping[str, Any]) -> bool:
        where = tree["lineage"]["prediction"]
        return (where["offset"] << INDEX_BITS | where["index"]) in self._unwritten.get(where["partition"], ())

    def _say_what_is_gone(self, source: Left, output: Left) -> None:
        verdict, topic = self._verdict, self._job.input.topic
        cut = bool(self._cut) if self._endless else self._whole_from > self.span.begin
        if cut and self._endless:
            places = ", ".join(map(str, sorted(self._cut)))
            verdict.notes.append(
                f"{topic}: retention has taken the beginning, on which all depends: partition {places}"
            )
        elif cut:
            until = "" if self._whole_from >= _NEVER else f" before {moment_text(self._whole_from)}"
            verdict.notes.append(f"{topic}: retention has taken records{until}")
        if output.begins:
            verdict.notes.append(f"{self._job.output.topic}: retention has taken some of what was written")
        compared = verdict.derived + verdict.unexpected + verdict.doubled
        verdict.unknown = (cut or verdict.gone > 0) and not compared

    def _out_ids(self) -> list[int]:
        schemas = self._plan.input.projector.schemas
        return [self._job.output.schema_ids[schema.id] for schema in schemas if schema.id is not None]


def named(kept: Kept) -> list[tuple[tuple[float, bytes | None], ...]]:
    """What the designs by rate said of each of m events: π (NaN without), and the stratum."""
    columns = [_column(said) for said in kept.said]
    return list(zip(*columns, strict=True)) if columns else [()] * len(kept.events.rows)


def _column(said: Said) -> list[tuple[float, bytes | None]]:
    strata = [None] * len(said.probability) if said.stratum is None else said.stratum.to_list()
    return list(zip(said.probability.tolist(), strata, strict=True))


def _begins_at(job: Job, window_ms: int | None) -> int:
    """The first event time that counts, or whose window was read as a whole; one that the start has cut gives no
    sample.
    """
    if not isinstance(job.start, int):
        return -_NEVER
    return job.start if not window_ms else -(-job.start // window_ms) * window_ms


def _content(tree: Mapping[str, Any]) -> str:
    """A record less what its input does not decide: the version of the job file, and whether silence closed it."""
    return repr({**tree, "closed_by": "", "lineage": {**tree["lineage"], "version": ""}})


def _difference(derived: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    names = ("sampling", "weights", "features", "lineage", "split")
    for name in names:
        left, right = derived.get(name), written.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            for key in left:
                if repr(left[key]) != repr(right.get(key)) and key != "version":
                    return f"{name}.{key}: derived {left[key]!r}, written {right.get(key)!r}"
        elif repr(left) != repr(right):
            return f"{name}: derived {left!r}, written {right!r}"
    return "differs"
