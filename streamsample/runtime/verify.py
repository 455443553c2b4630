"""Derives a job's samples again from its input, and holds them against what the job has written.

A sample is a function of the records that its design was shown. These are the input's, less those that the job has
dead-lettered, which the topic of dead letters names; so late records, too, are as they were for the job. All partitions
are shown to one sample, without the exchange between tasks by which the job puts it together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from streamsample.clock import Clock
from streamsample.config import Job
from streamsample.config.problems import Wrong
from streamsample.config.units import moment_text, parse_moment
from streamsample.errors import ConfigurationError, NotYetError
from streamsample.kafka.topics import TopicAdmin
from streamsample.kafka.wire_decode import decode_headers
from streamsample.records import Int64s
from streamsample.runtime.audit import Audit
from streamsample.runtime.composed import sampling_of
from streamsample.runtime.dead_letters import PREFIX, positions_in
from streamsample.runtime.draws import WindowDraw
from streamsample.runtime.exchange import Message
from streamsample.runtime.plan import Plan, SamplePlan, plan_of
from streamsample.runtime.readback import TrainingReader, batches_of
from streamsample.runtime.samples import Samples, TaskSettings, late_words
from streamsample.runtime.source import Events
from streamsample.runtime.state import schema_name
from streamsample.runtime.training import Encoded
from streamsample.sampling.window_columns import INDEX_BITS

_EXAMPLES = 10
_Where: TypeAlias = tuple[int, int, int]
"""Where a prediction was read: partition, offset, index in the record."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of event time, [begin, end) in ms since the epoch."""

    begin: int
    end: int


@dataclass(slots=True)
class Verdict:
    """One sample over a stretch of event time. shown: records of the input; refused: those that were dead-lettered;
    derived: records that must have been written; equal, missing, differing: of those, and pending: whose labels are
    not settled, or were dropped; unexpected: written, but not derived; doubled: written more than once. versions: of
    the job, as the records say. examples: of what is wrong.
    """

    sample: str | None
    span: Span
    shown: int = 0
    refused: int = 0
    derived: int = 0
    equal: int = 0
    missing: int = 0
    pending: int = 0
    differing: int = 0
    unexpected: int = 0
    doubled: int = 0
    versions: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether what was written is what must have been."""
        return not (self.missing or self.differing or self.unexpected or self.doubled)

    def lines(self) -> list[str]:
        """The verdict in words."""
        name = "" if self.sample is None else f"{self.sample}: "
        begin, end = (moment_text(moment) for moment in (self.span.begin, self.span.end))
        compared = f"{self.equal:,} were written so, {self.differing:,} otherwise"
        found = [
            f"{name}{begin} .. {end}: {'the same' if self.right else 'NOT the same'}",
            f"  input: {self.shown:,} records shown, {self.refused:,} dead-lettered",
            f"  derived {self.derived:,}: {compared}, {self.pending:,} not yet, {self.missing:,} not at all",
            f"  written besides: {self.unexpected:,} that are not in the sample, {self.doubled:,} twice",
        ]
        if len(self.versions) > 1:
            found.append(f"  written by several versions of the job: {', '.join(sorted(self.versions))}")
        return [*found, *(f"  {example}" for example in self.examples)]

    def note(self, what: str, record: Mapping[str, Any]) -> None:
        """Keep an example, if there are few."""
        if len(self.examples) < _EXAMPLES:
            where = record["lineage"]["prediction"]
            self.examples.append(f"{where['topic']}/{where['partition']}@{where['offset']}: {what}")


def parse_span(text: str, window_ms: int | None) -> Span:
    """FROM..TO, or a time in a window of `window_ms` (None: there are no windows). Raises ConfigurationError."""
    begin, between, end = text.partition("..")
    try:
        moments = [parse_moment(part.strip()) for part in ([begin, end] if between else [begin])]
    except Wrong as error:
        raise ConfigurationError(f"--window {text}: {error}", remedy="write 2026-01-01T00:00:00Z or FROM..TO") from None
    if len(moments) == 2 and moments[0] < moments[1]:
        if window_ms is None:
            return Span(*moments)
        return Span(moments[0] // window_ms * window_ms, -(-moments[1] // window_ms) * window_ms)
    if len(moments) == 2:
        raise ConfigurationError(f"--window {text}: ends before it begins", remedy="write FROM..TO")
    if window_ms is None:
        raise ConfigurationError(
            f"--window {text}: the design has no windows, so a single time names none", remedy="write FROM..TO"
        )
    begin_ms = moments[0] // window_ms * window_ms
    return Span(begin_ms, begin_ms + window_ms)


def verify(job: Job, window: str, admin: TopicAdmin, clock: Clock) -> list[Verdict]:
    """Verify all samples of a job over `window` (see `parse_span`).

    Raises NotYetError for designs that need more than a stretch of the input, ConfigurationError, KafkaSideError.
    """
    plan = plan_of(job)
    if job.sample is None and not job.samples:
        raise ConfigurationError(f"job {job.name} does not sample: there is nothing to verify", remedy="give a sample")
    derivations = [_Derivation(job, plan, sample, window) for sample in plan.samples]
    refused = list(_refused(job, admin, clock))
    for derivation in derivations:
        derivation.leave_out(refused)
    for batch in batches_of(job, admin, job.input.topic, clock):
        events = plan.input.read(batch, clock.now_ms())
        for derivation in derivations:
            derivation.show(events)
    written = list(_written(job, plan, admin, clock, [derivation.stamped for derivation in derivations]))
    return [derivation.verdict(written) for derivation in derivations]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A dead letter of the input. positions: those elements of its list that it is about; 0 without a list."""

    partition: int
    offset: int
    positions: list[int]
    words: str
    late: bool


@dataclass(frozen=True, slots=True)
class _Record:
    """A written record that may be of one of the spans."""

    timestamp: int
    value: bytes
    tree: dict[str, Any]


def _refused(job: Job, admin: TopicAdmin, clock: Clock) -> Iterator[_Refused]:
    if admin.find(job.dead_letters_topic) is None:
        return
    for batch in batches_of(job, admin, job.dead_letters_topic, clock):
        for row in range(len(batch)):
            said = {name: value or b"" for name, value in decode_headers(batch.headers[row])}
            if said.get(f"{PREFIX}topic") == job.input.topic.encode():
                late = said.get(f"{PREFIX}class") == b"late" and said.get(f"{PREFIX}stage") == b"sample"
                partition, offset = (int(said[f"{PREFIX}{name}"]) for name in ("partition", "offset"))
                positions = positions_in(said.get(f"{PREFIX}positions", b"0").decode())
                yield _Refused(partition, offset, positions, said[f"{PREFIX}message"].decode(), late)


def _written(
    job: Job, plan: Plan, admin: TopicAdmin, clock: Clock, wanted: list[Callable[[Int64s], Any]]
) -> Iterator[_Record]:
    schemas = getattr(plan.samples[0].encoder, "schemas", ())
    ids = [job.output.schema_ids[schema.id] for schema in plan.input.projector.schemas if schema.id is not None]
    reader = TrainingReader(schemas, ids)
    for batch in batches_of(job, admin, job.output.topic, clock):
        chosen = np.any([stamped(batch.timestamps) for stamped in wanted], axis=0)
        for row in np.flatnonzero(chosen).tolist():
            value = batch.values[row] or b""
            try:
                tree = reader.decode(value)
            except ValueError as error:
                raise ConfigurationError(
                    f"{batch.topic}/{batch.partition}@{int(batch.offsets[row])}: this is no training record of this "
                    f"job: {error}",
                    remedy="verify with the job file that wrote it",
                ) from error
            if tree["lineage"]["job"] == job.name:
                yield _Record(int(batch.timestamps[row]), value, tree)


class _Taking:
    """Takes what samples give. `partition`: of the batch that is shown."""

    def __init__(self) -> None:
        self.partition = 0
        self.counts: Counter[str] = Counter()
        self.audit = Audit()
        self.records: list[Encoded] = []

    def emit(self, encoded: Encoded, ts: Int64s) -> None:
        self.records.append(encoded)

    def refuse(self, events: Events, at: Int64s, reason: str, words: str, *, stage: str) -> None:
        """The job has dead-lettered them; they are left out already, or were never its own."""

    def send(self, messages: list[Message]) -> None:
        assert not messages


class _Derivation:
    """One sample, derived again."""

    def __init__(self, job: Job, plan: Plan, sample: SamplePlan, window: str) -> None:
        windows = sample.windows
        if plan.thinning is not None:
            raise NotYetError(
                "thin: not yet: verifying what depends on labels", remedy="leave thin out of the job file"
            )
        if (windows is not None and (windows.settings.cumulative or not windows.settings.window_ms)) or (
            any(draw.counted is not None for draw in sample.draws)
        ):
            raise NotYetError(
                f"{sample.places[-1].key}: not yet: verifying what needs more than a stretch of time (every, records, "
                "count)",
                remedy="run the job again under another name and another output, and compare",
            )
        self._job = job
        self._plan = plan
        self._name = sample.name
        self._late_words = late_words(sample.places[-1])
        self._labelled = plan.join is not None
        self._windows = windows
        self._span = parse_span(window, None if windows is None else windows.settings.window_ms)
        self._covered_from = _covered_from(job, windows)
        self._by_partition = windows is not None and not windows.exchanged
        local = replace(sample, windows=None if windows is None else replace(windows, exchanged=False))
        self._alone = replace(plan, samples=(local,))
        self._tasks: dict[int, tuple[_Taking, Samples]] = {}
        self._left_out: dict[int, set[int]] = {}
        self._places: set[_Where] = set()
        self._kept: dict[_Where, tuple[float | None, bytes | None]] = {}
        self._verdict = Verdict(sample.name, self._span)

    def leave_out(self, refused: list[_Refused]) -> None:
        """Records that the job did not show to this sample."""
        for each in refused:
            if not each.late or each.words == self._late_words:
                places = {each.offset << INDEX_BITS | position for position in each.positions}
                self._left_out.setdefault(each.partition, set()).update(places)

    def show(self, events: Events) -> None:
        """Show the events of one batch, those of the span."""
        inside = (events.times >= self._span.begin) & (events.times < self._span.end)
        inside &= events.times >= self._covered_from
        events = events.take(np.flatnonzero(inside))
        gone = self._left_out.get(events.batch.partition)
        if gone:
            mine = events.batch.offsets[events.rows] << INDEX_BITS | events.index
            stays = ~np.isin(mine, np.fromiter(gone, np.int64, len(gone)))
            self._verdict.refused += int(np.count_nonzero(~stays))
            events = events.take(np.flatnonzero(stays))
        self._verdict.shown += len(events.rows)
        if not len(events.rows):
            return
        samples = self._samples_of(events.batch.partition)
        if self._labelled:
            self._note_kept(samples, events)
        else:
            samples.on_events(events)

    def _samples_of(self, partition: int) -> Samples:
        """What a partition's records are shown to; it takes them as of that partition."""
        number = partition if self._by_partition else 0
        if number not in self._tasks:
            taking = _Taking()
            schemas = [schema_name(schema) for schema in self._plan.input.projector.schemas]
            settings = TaskSettings(1, 2**31 - 1, 0)
            self._tasks[number] = (taking, Samples(self._alone, taking, settings, schemas))
        taking, samples = self._tasks[number]
        taking.partition = partition
        return samples

    def _note_kept(self, samples: Samples, events: Events) -> None:
        """With labels, when and whether a record is written is the join's to say; its draw is not."""
        partition = events.batch.partition
        self._places |= set(_where(partition, events))
        kept = samples.kept(0, events)
        if kept is None:
            return
        said = sampling_of(self._alone.samples[0], kept.said)
        assert said is not None
        columns = (_where(partition, kept.events), said.probability, said.stratum.to_list())
        for where, pi, name in zip(*columns, strict=True):
            self._kept[where] = (None if np.isnan(pi) else float(pi), name)

    def stamped(self, timestamps: Int64s) -> Any:
        """Which of n written records may be of the span, by their timestamps: bool[n]."""
        if self._labelled:
            # A record that feedback caused has that feedback's time, which may be before its prediction's.
            return timestamps >= self._span.begin - self._job.skew_ms
        if self._windows is None:
            return (timestamps >= self._span.begin) & (timestamps < self._span.end)
        grace = self._windows.settings.grace_ms
        return (timestamps > self._span.begin + grace) & (timestamps <= self._span.end + grace)

    def verdict(self, written: list[_Record]) -> Verdict:
        """What came of it."""
        mine = [record for record in written if record.tree["sampling"].get("sample") == self._name]
        stamped = self.stamped(np.array([record.timestamp for record in mine], np.int64))
        mine = [record for record, yes in zip(mine, stamped, strict=True) if yes]
        self._verdict.versions = {record.tree["lineage"]["version"] for record in mine}
        if self._labelled:
            self._compare_draws(mine)
        else:
            self._compare(mine)
        return self._verdict

    def _compare(self, written: list[_Record]) -> None:
        verdict = self._verdict
        reader = TrainingReader(getattr(self._alone.samples[0].encoder, "schemas", ()), self._out_ids())
        found: dict[str, _Record] = {}
        for record in written:
            if record.tree["record_id"] in found:
                verdict.doubled += 1
                verdict.note("was written twice", record.tree)
            found[record.tree["record_id"]] = record
        for value in self._derived():
            verdict.derived += 1
            tree = reader.decode(value)
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

    def _derived(self) -> Iterator[bytes]:
        for taking, samples in self._tasks.values():
            while self._windows is not None:
                done, _ = samples.advance(self._span.end + self._windows.settings.grace_ms + 1, 2**62)
                if done:
                    break
            for encoded in taking.records:
                yield from (value or b"" for value in encoded.values.to_list())

    def _compare_draws(self, written: list[_Record]) -> None:
        """Of all revisions of a record; each record counts once."""
        verdict = self._verdict
        verdict.derived = len(self._kept)
        seen: set[_Where] = set()
        wrong: set[_Where] = set()
        revisions: set[tuple[str, int]] = set()
        for record in written:
            where, sampling = record.tree["lineage"]["prediction"], record.tree["sampling"]
            place = (where["partition"], where["offset"], where["index"])
            if place not in self._places or where["topic"] != self._job.input.topic:
                continue
            revision = (record.tree["record_id"], record.tree["revision"])
            if revision in revisions:
                verdict.doubled += 1
                verdict.note("was written twice", record.tree)
            revisions.add(revision)
            seen.add(place)
            derived = self._kept.get(place)
            said = (sampling["probability"], (sampling["stratum"] or "").encode() or None)
            if said == derived or place in wrong:
                continue
            wrong.add(place)
            if derived is None:
                verdict.unexpected += 1
                verdict.note("was written, but is not in the sample", record.tree)
            else:
                verdict.differing += 1
                verdict.note(f"π and stratum: derived {derived}, written {said}", record.tree)
        verdict.equal = len(seen - wrong)
        verdict.pending = len(self._kept.keys() - seen)

    def _out_ids(self) -> list[int]:
        schemas = self._plan.input.projector.schemas
        return [self._job.output.schema_ids[schema.id] for schema in schemas if schema.id is not None]


def _where(partition: int, events: Events) -> Iterator[_Where]:
    """The places of events."""
    columns = (events.batch.offsets[events.rows].tolist(), events.index.tolist())
    return ((partition, offset, index) for offset, index in zip(*columns, strict=True))


def _covered_from(job: Job, windows: WindowDraw | None) -> int:
    """The first event time whose window was read as a whole; a window that the start has cut gives no sample."""
    if not isinstance(job.start, int):
        return 0
    return job.start if windows is None else -(-job.start // windows.settings.window_ms) * windows.settings.window_ms


def _content(tree: Mapping[str, Any]) -> str:
    """A record less the version of the job file that it was written with."""
    return repr({**tree, "lineage": {**tree["lineage"], "version": ""}})


def _difference(derived: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    names = ("sampling", "weights", "features", "lineage", "split", "closed_by")
    for name in names:
        left, right = derived.get(name), written.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            for key in left:
                if repr(left[key]) != repr(right.get(key)) and key != "version":
                    return f"{name}.{key}: derived {left[key]!r}, written {right.get(key)!r}"
        elif repr(left) != repr(right):
            return f"{name}: derived {left!r}, written {right!r}"
    return "differs"
