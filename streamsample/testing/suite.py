"""A file of tests, run: each timeline is played to new tasks of the job, and what came is held against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from streamsample.config import Job
from streamsample.config.load import error_of
from streamsample.config.problems import KeyPath, Problem, Wrong, nearest
from streamsample.config.timeline import Expected, Timeline, TimelineFile, load_timelines
from streamsample.errors import InvariantError
from streamsample.runtime.plan import Plan
from streamsample.runtime.report import totals_of
from streamsample.testing import compare
from streamsample.testing.player import Player, Written
from streamsample.testing.values import Raw, Values, record_reader


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one test. line: of the file; differences: with the lines of what was expected and of the event."""

    name: str
    line: int
    differences: list[tuple[compare.Difference, int | None, int | None]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.differences


class Suite:
    """The tests in the file at `path`, for the job of `plan`. Raises ConfigurationError if the file is wrong, by itself
    or for this job.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        self._plan = plan
        self._read = record_reader(plan)
        self._values = Values(plan.job)
        self.file: TimelineFile = load_timelines(path)
        problems: list[Problem] = []
        tests = self.file.timelines.tests
        self._events = [list(self._raws(number, test, problems)) for number, test in enumerate(tests)]
        for number, test in enumerate(tests):
            problems += _problems(plan.job, number, test)
        if problems:
            raise error_of(self.file.document, problems)

    def __len__(self) -> int:
        return len(self.file.timelines.tests)

    def run(self, *, only: str = "", restarts: bool = False) -> Iterator[Result]:
        """Play the timelines with `only` in their names. restarts: with a restart after each event, which must change
        nothing.
        """
        for number, test in enumerate(self.file.timelines.tests):
            if only in test.name:
                yield self._run(number, restarts)

    def _raws(self, number: int, test: Timeline, problems: list[Problem]) -> Iterator[Raw | None]:
        """The records of a test's events; None for what is no event, or cannot be made."""
        start = self.file.timelines.start
        for at, step in enumerate(test.events):
            raw = None
            try:
                for name in step.caught_up or ():
                    self._values.topic_of(name)
                raw = None if step.at is None else self._values.raw(step, start, at)
            except Wrong as wrong:
                problems.append(Problem(("tests", number, "events", at), wrong.what, wrong.remedy))
            yield raw

    def _run(self, number: int, restarts: bool) -> Result:
        test, start = self.file.timelines.tests[number], self.file.timelines.start
        play = _Played(self._plan, test, self._events[number], start)
        where: KeyPath = ("tests", number)
        try:
            play.to_the_end(self._values, restarts=restarts)
        except InvariantError as error:
            broken = compare.Difference("books that balance", str(error))
            return Result(test.name, self.file.line(*where), [(broken, None, None)])
        records = [play.came(written, self._read) for task in play.player.tasks for written in task.written]
        topics = [self._values.topic_of(each.topic) for each in test.dead_letters]
        line = partial(self.file.line, *where)
        found = [
            *((each, "expect") for each in compare.of_records(test.expect, records, start)),
            *((each, "dead_letters") for each in compare.of_dead_letters(test.dead_letters, play.dead, topics)),
            *((each, "counts") for each in compare.of_counts(test.counts, play.counts)),
        ]
        differences = [
            (
                each,
                line(kind, *([] if each.number is None else [each.number])) if each.expected else None,
                None if each.event is None else line("events", each.event),
            )
            for each, kind in found
        ]
        return Result(test.name, line("name"), differences)


def _problems(job: Job, number: int, test: Timeline) -> Iterator[Problem]:
    """What a test says that this job does not have."""
    where: KeyPath = ("tests", number)
    for at, wanted in enumerate(test.expect):
        for target, value in wanted.labels.items():
            path: KeyPath = (*where, "expect", at, *(["targets"] if target in wanted.targets else []), target)
            if target not in job.targets:
                meant = nearest(target, [*job.targets, *Expected.PARTS, "id", "at"])
                remedy = f"did you mean {meant}?" if meant else None
                yield Problem(path, "is no target of the job and no part of a training record", remedy, at_key=True)
                continue
            try:
                compare.check_label(value)
            except Wrong as wrong:
                yield Problem(path, wrong.what, wrong.remedy)
    values = Values(job)
    for at, letter in enumerate(test.dead_letters):
        try:
            values.topic_of(letter.topic)
        except Wrong as wrong:
            yield Problem((*where, "dead_letters", at, "topic"), wrong.what, wrong.remedy)


class _Played:
    """One timeline, being played."""

    def __init__(self, plan: Plan, test: Timeline, events: list[Raw | None], start_ms: int) -> None:
        self._test = test
        self._events = events
        self._start_ms = start_ms
        self._times = [step.at.since(start_ms) for step in test.events if step.at is not None]
        now = max(self._times, default=start_ms) if test.now is None else test.now.since(start_ms)
        self.player = Player(plan, test.partitions, now)
        self._places: dict[tuple[str, int, int], int] = {}

    def to_the_end(self, values: Values, *, restarts: bool) -> None:
        """Play it. Raises InvariantError if the books do not balance (A18)."""
        player = self.player
        for at, (step, raw) in enumerate(zip(self._test.events, self._events, strict=True)):
            if raw is not None:
                partition = player.partition_of(raw.key) if step.partition is None else step.partition
                offset = player.give(raw.topic, partition, raw.key, raw.value, raw.timestamp)
                self._places[raw.topic, partition, offset] = at
            elif step.advance is not None:
                self._times.append(step.advance.since(self._start_ms))
                player.advance(self._times[-1])
            elif step.wait is not None:
                player.wait(step.wait)
            elif step.caught_up is not None:
                names = step.caught_up or player.plan.topics
                player.caught_up([values.topic_of(name) for name in names])
            if step.restart or (restarts and raw is not None):
                player.restart()
        if self._test.close:
            player.close(max(self._times, default=self._start_ms))
        player.commit()

    def came(self, written: Written, read: Callable[[bytes], dict[str, Any]]) -> compare.Came:
        """A record, and the event that it is of: its id is that which the timeline gave it."""
        tree = read(written.value)
        place = tree["lineage"]["prediction"]
        at = self._places.get((place["topic"], place["partition"], place["offset"]))
        identity = None if at is None else self._test.events[at].id
        if identity is None or self.player.plan.job.input.explode is not None:
            identity = self._id_of(written.key)
        return compare.Came(identity, written.timestamp - self._start_ms, tree, at)

    def _id_of(self, key: bytes) -> str:
        """An id as a timeline writes it: of several fields, with slashes between them."""
        if not isinstance(self.player.plan.job.input.id, tuple):
            return key.decode(errors="replace")
        parts = list[str]()
        while key:
            size, _, rest = key.partition(b":")
            parts.append(rest[: int(size)].decode(errors="replace"))
            key = rest[int(size) :]
        return "/".join(parts)

    @property
    def dead(self) -> list[compare.Dead]:
        """The dead letters."""
        found = []
        for task in self.player.tasks:
            for group in task.rejected:
                for offset in group.batch.offsets[group.rows].tolist():
                    at = self._places.get((group.batch.topic, group.batch.partition, offset))
                    identity = None if at is None else self._test.events[at].id
                    found.append(
                        compare.Dead(group.batch.topic, identity, group.reason, group.stage, group.message, at)
                    )
        return found

    @property
    def counts(self) -> dict[str, Any]:
        """The counters of all tasks: by target its labels, what was dropped and what is open, and by feedback what
        became of it; and the predictions that were none.
        """
        job, totals = self.player.plan.job, Counter[tuple[str, ...]]()
        found: dict[str, Any] = {"predictions": {}}
        found |= {name: {"explicit": 0, "implicit": 0, "open": 0} for name in job.targets}
        for task in self.player.tasks:
            totals.update(totals_of(task.task))
            if task.task.join is not None:
                for target, name in enumerate(job.targets):
                    found[name]["open"] += task.task.join.ledger.row_counts(target)["open"]
        for (kind, *labels), count in totals.items():
            if kind == "label":
                found[labels[0]][labels[2]] += count
            elif kind in ("row", "feedback"):
                _put(found, labels, count)
            elif kind == "prediction":
                found["predictions"][labels[0]] = count
            else:
                _put(found, [kind, *labels], count)
        return found


def _put(tree: dict[str, Any], path: list[str], count: int) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = count
