"""The step of windowed samples: what a task holds of its own partition, and as a window's owner of all."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsample.errors import StateError
from streamsample.records import Bools, Int64s, RecordBatch, TopicPartition
from streamsample.runtime.draws import WindowDraw
from streamsample.runtime.exchange import NEVER, Mail, Message, Told
from streamsample.runtime.state import RESET, ChunkBody, Logged, SchemaName, renumbered, replace_step
from streamsample.sampling.window_columns import Details, Drawn, GroupColumns, Offered, WindowPart, WindowSettings
from streamsample.sampling.window_delta import WindowDelta, decode_window_delta, encode_window_delta
from streamsample.sampling.window_samples import samples_of
from streamsample.sampling.windows import WindowedSample

_SIZE = struct.Struct("<Q")
_SIZES = struct.Struct("<II")
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Closed:
    """Samples of windows that have closed. idle: which were closed by idleness alone, bool[m] (A5). uncovered: the
    groups of windows that could not be read as a whole, of which no sample is drawn (A19).
    """

    drawn: Drawn
    idle: Bools
    uncovered: GroupColumns


class WindowStep:
    """One windowed sample of one task.

    With the scope `partition`, what the task holds of a window when its watermark passes it is the sample. With the
    scope `global` it goes to the window's owner (see `exchange`), who closes the window when all tasks have passed it;
    `mail` is given then. Of everything since the start there is one owner, task 0.
    """

    def __init__(
        self, draw: WindowDraw, partition: int, partitions: int, mail: Mail | None = None, number: int = 0
    ) -> None:
        self.settings: WindowSettings = draw.settings
        self._number = number
        self.messages: list[Message] = []
        """What is to be sent; whoever sends it takes it away."""
        self._partition = partition
        self._mail = mail
        own = draw.settings if mail is None else replace(draw.settings, cumulative=False)
        self._own = WindowedSample(own)
        self._united = None if mail is None else WindowedSample(draw.settings)
        self._passed = np.full((partitions, 3), NEVER)
        """How far the watermark of each task has come, with idle advances and without; from when on it is covered."""

    @property
    def watermark(self) -> int:
        """Up to which all is done: what an older chunk of the changelog holds is not needed any more."""
        return min(sample.watermark for sample in self._samples)

    @property
    def held(self) -> int:
        """Candidates of all open windows."""
        return sum(sample.held for sample in self._samples)

    @property
    def open_windows(self) -> int:
        """Windows that have records and are not closed."""
        return sum(sample.open_windows for sample in self._samples)

    @property
    def elements(self) -> int:
        """What a delta of everything would hold."""
        return sum(sample.elements for sample in self._samples)

    def bytes_used(self) -> int:
        """Bytes of memory that the state takes."""
        return sum(sample.bytes_used() for sample in self._samples)

    def on_records(self, shown: Offered, details: Callable[[Int64s], Details]) -> Bools:
        """See `WindowedSample.on_records`."""
        return self._own.on_records(shown, details)

    def on_told(self, told: Told, where: TopicPartition) -> None:
        """Take what another task (or this one) says. where: it was read. Raises StateError if there is no such task."""
        assert self._united is not None
        if not 0 <= told.task < len(self._passed):
            raise StateError(
                f"{where}: a message of task {told.task}, there are {len(self._passed)}",
                remedy=f"partitions were added to the input: {RESET}",
            )
        self._united.on_part(told.part)
        come = (told.watermark, told.watermark_without_idle)
        self._passed[told.task, :2] = np.maximum(self._passed[told.task, :2], come)
        self._passed[told.task, 2] = told.covered_from

    def advance(self, goal: int, without_idle: int, covered_from: int) -> tuple[list[Closed], bool]:
        """Let the watermark come to `goal`, and those of the windows owned as far as the messages allow: the samples of
        what closed, and whether all of it is done; if not, call again before any more records. covered_from: from which
        event time on the partition was readable.
        """
        if self._united is None:
            closed = [self._sample(part, without_idle, covered_from) for part in _closing(self._own, goal)]
            return closed, self._own.watermark >= self._own.goal(goal)
        before = self._own.first_open
        parts = list(_closing(self._own, goal))
        if self._own.first_open > before:
            part = WindowPart.concat(parts) if parts else WindowPart.empty()
            self._tell(part, before, without_idle, covered_from)
        passed, passed_without_idle, _ = self._passed.min(axis=0).tolist()
        covered = int(self._passed[:, 2].max())
        closed = [self._sample(part, passed_without_idle, covered) for part in _closing(self._united, passed)]
        return closed, self._own.watermark >= goal and self._united.watermark >= passed

    def rewrite(self) -> None:
        """Put everything that is held into the next delta again, so that older ones can go."""
        for sample in self._samples:
            sample.rewrite()

    def snapshot(self) -> tuple[list[bytes | memoryview], Logged]:
        """What changed since the last call, in its binary form, and what it holds.

        The sizes of the first two (uint32, little-endian), the delta of what is held of the own partition, how far the
        tasks have come (int64[tasks, 3], little-endian), the delta of the windows owned. The last two are empty with
        the scope `partition`.
        """
        deltas = [sample.snapshot_delta() for sample in self._samples]
        own, *united = map(encode_window_delta, deltas)
        passed = self._passed.tobytes() if united else b""
        return [_SIZES.pack(len(own), len(passed)), own, passed, *united], _logged(deltas)

    def restore(self, bodies: list[ChunkBody], schemas: list[SchemaName], changelog: TopicPartition) -> list[Logged]:
        """Take up the step's state; what each chunk holds of it. Raises StateError if it is damaged."""
        chunks = [self._deltas(body, schemas, changelog) for body in bodies]
        for sample, deltas in zip(self._samples, zip(*chunks, strict=True), strict=True):
            sample.restore(deltas)
        return [_logged(deltas) for deltas in chunks]

    @property
    def _samples(self) -> list[WindowedSample]:
        return [self._own] if self._united is None else [self._own, self._united]

    def _sample(self, part: WindowPart, without_idle: int, covered_from: int) -> Closed:
        groups, settings = part.groups, self.settings
        whole = groups.window * settings.window_ms >= covered_from
        if settings.cumulative or settings.records is not None:
            whole[:] = True  # They begin where the reading does.
        if not whole.all():
            part = part.of_groups(whole)
        drawn = samples_of(settings, part)
        # Windows of so many records close when these are there, whatever the time.
        idle = (drawn.until >= 0) & (drawn.settled_at >= without_idle)
        return Closed(drawn, idle, groups.take(np.flatnonzero(~whole)))

    def _tell(self, part: WindowPart, before: int, without_idle: int, covered_from: int) -> None:
        """Tell the owners of the windows from `before` on that were passed."""
        assert self._mail is not None
        tasks = 1 if self.settings.cumulative else len(self._passed)
        passed = range(max(before, self._own.first_open - tasks), self._own.first_open)
        owner = part.groups.window % tasks
        for to in sorted({window % tasks for window in passed}):
            come = (self._own.watermark, without_idle, covered_from)
            told = Told(self._partition, self._number, *come, part.of_groups(owner == to))
            self.messages += self._mail.messages(told, to)

    def _deltas(self, body: ChunkBody, schemas: list[SchemaName], changelog: TopicPartition) -> list[WindowDelta]:
        try:
            own, passed = _SIZES.unpack_from(body.step)
        except struct.error as error:
            raise StateError(f"{changelog}: a chunk is cut short: {error}", remedy=RESET) from error
        begin = _SIZES.size + own
        parts = [body.step[_SIZES.size : begin]]
        if passed:
            self._passed = np.frombuffer(body.step[begin : begin + passed], np.int64).reshape(-1, 3).copy()
            parts.append(body.step[begin + passed :])
        return [_renumbered(decode_window_delta(part), body, schemas, changelog) for part in parts]


class WindowSteps:
    """All windowed samples of one task, by their numbers. mail: for those of all partitions."""

    def __init__(self, draws: Mapping[int, WindowDraw], partition: int, partitions: int, mail: Mail) -> None:
        self._mail = mail
        self.steps = {
            number: WindowStep(draw, partition, partitions, mail if draw.exchanged else None, number)
            for number, draw in draws.items()
        }

    @property
    def watermark(self) -> int:
        """Up to which all is done: what an older chunk of the changelog holds is not needed any more."""
        return min(step.watermark for step in self.steps.values())

    @property
    def held(self) -> int:
        """Candidates of all open windows."""
        return sum(step.held for step in self.steps.values())

    @property
    def open_windows(self) -> int:
        """Windows that have records and are not closed, of all samples."""
        return sum(step.open_windows for step in self.steps.values())

    @property
    def elements(self) -> int:
        """What a delta of everything would hold."""
        return sum(step.elements for step in self.steps.values())

    def bytes_used(self) -> int:
        """Bytes of memory that the state takes."""
        return sum(step.bytes_used() for step in self.steps.values())

    def on_messages(self, batch: RecordBatch) -> None:
        """Take what other tasks (and this one) say. Raises StateError if it cannot be read."""
        for told in self._mail.read(batch):
            self.steps[told.sample].on_told(told, batch.source)

    def advance(self, goal: int, without_idle: int, covered_from: int) -> tuple[list[tuple[int, Closed]], bool]:
        """As `WindowStep.advance`, each sample with its number."""
        closed, done = list[tuple[int, Closed]](), True
        for number, step in self.steps.items():
            some, all_done = step.advance(goal, without_idle, covered_from)
            closed += [(number, each) for each in some]
            done &= all_done
        return closed, done

    def take_messages(self) -> list[Message]:
        """What is to be sent, handed over once."""
        found = list[Message]()
        for step in self.steps.values():
            found += step.messages
            step.messages = []
        return found

    def rewrite(self) -> None:
        """Put everything that is held into the next delta again, so that older ones can go."""
        for step in self.steps.values():
            step.rewrite()

    def snapshot(self) -> tuple[list[bytes | memoryview], Logged]:
        """What changed since the last call, in its binary form, and what it holds.

        Of each sample its size (uint64, little-endian), and what `WindowStep.snapshot` says.
        """
        out, logged = list[bytes | memoryview](), list[Logged]()
        for step in self.steps.values():
            pieces, holds = step.snapshot()
            out += [_SIZE.pack(sum(map(len, pieces))), *pieces]
            logged.append(holds)
        return out, _together(logged)

    def restore(self, bodies: list[ChunkBody], schemas: list[SchemaName], changelog: TopicPartition) -> list[Logged]:
        """Take up all samples' state; what each chunk holds of it. Raises StateError if it is damaged."""
        begins, found = [0] * len(bodies), list[list[Logged]]()
        for step in self.steps.values():
            parts = []
            for number, body in enumerate(bodies):
                try:
                    begin = begins[number] + _SIZE.size
                    end = begin + _SIZE.unpack_from(body.step, begins[number])[0]
                except struct.error as error:
                    raise StateError(f"{changelog}: a chunk is cut short: {error}", remedy=RESET) from error
                parts.append(replace_step(body, body.step[begin:end]))
                begins[number] = end
            found.append(step.restore(parts, schemas, changelog))
        return [_together(each) for each in zip(*found, strict=True)]


def _together(logged: Sequence[Logged]) -> Logged:
    return Logged(max(each.needed_until for each in logged), sum(each.elements for each in logged))


def _renumbered(delta: WindowDelta, body: ChunkBody, schemas: list[SchemaName], where: TopicPartition) -> WindowDelta:
    schema = renumbered(delta.part.rows.schema, body.schemas, schemas, where)
    return replace(delta, part=replace(delta.part, rows=replace(delta.part.rows, schema=schema)))


def _logged(deltas: list[WindowDelta]) -> Logged:
    return Logged(max(delta.needed_until for delta in deltas), sum(delta.elements for delta in deltas))


def _closing(sample: WindowedSample, goal: int) -> Iterator[WindowPart]:
    """Close windows up to the watermark `goal`, one after the other, until there are many rows."""
    rows, goal = 0, sample.goal(goal)
    while sample.watermark < goal and rows < _ROWS_AT_ONCE:
        due = sample.next_deadline()
        part = sample.on_watermark(goal if due is None or due >= goal else due + 1)
        if part is not None:
            rows += len(part)
            yield part
