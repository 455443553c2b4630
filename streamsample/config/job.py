"""The whole job: its sections, what must fit between them, and what the rest of the program asks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from streamsample.config import identity
from streamsample.config.field_problems import field_problems
from streamsample.config.models import (
    COMMIT_INTERVAL_MS_MAX,
    Changelog,
    DeadLetters,
    Features,
    Feedback,
    Input,
    Kafka,
    Limits,
    Metrics,
    Output,
    Section,
    SetAside,
    Split,
    State,
)
from streamsample.config.problems import KeyPath, Problem, listed, nearest
from streamsample.config.sample import Sample
from streamsample.config.stages import SampleSetting, paths_of, stages_of
from streamsample.config.targets import Target
from streamsample.config.thin import Thin
from streamsample.config.units import format_duration
from streamsample.config.values import TOPIC_LENGTH_MAX, Duration, JobName, Name, PositiveDuration, Start

if TYPE_CHECKING:
    from streamsample.config.backfill import Backfill

HOUR_MS = 3_600_000
TARGETS_MAX = 32


class Job(Section):
    """One job file."""

    name: JobName = Field(
        alias="job", description="the job's name: of its consumer group, and the root of its topics' names"
    )
    kafka: Kafka = Field(description="how the brokers are reached")
    start: Start = Field(
        "earliest", description="where a job without committed positions begins: one event time for all inputs"
    )
    input: Input = Field(description="the topic of predictions")
    sample: SampleSetting | None = Field(
        None, description="which predictions are kept, by one design or a list of them; default: all"
    )
    samples: Mapping[Name, SampleSetting] = Field(
        {},
        description="several samples of the same predictions, by name, in place of `sample`; for jobs without targets",
    )
    feedback: Mapping[Name, Feedback] = Field({}, description="the topics of what became known afterwards, by name")
    targets: Mapping[Name, Target] = Field(
        {}, description="the labels, by name, at most 32; without any the job only samples"
    )
    thin: Thin | None = Field(None, description="which labelled records are kept, by what became known; default: all")
    grace_ms: Duration = Field(5_000, alias="grace", description="how far out of order a partition may be")
    skew_ms: Duration = Field(
        0, alias="skew", description="how much earlier than its prediction feedback may be dated and still count"
    )
    corrections_ms: Duration = Field(
        0, alias="corrections", description="how long after its target's close feedback still corrects a label"
    )
    emit: Literal["all", "each"] = Field(
        "all", description="`all`: one record when all targets are closed; `each`: one whenever a target closes"
    )
    late_horizon_ms: Duration = Field(
        0,
        alias="late_horizon",
        description="how long a prediction is remembered after its windows: its feedback is then late, not orphan",
    )
    features: Features | None = Field(
        None, description="which fields of the input training records carry; default: all"
    )
    split: Split | None = Field(None, description="into which parts training records fall, by hash; default: no parts")
    output: Output = Field(description="where training records go")
    dead_letters: DeadLetters = Field(DeadLetters(), description="where records go that cannot be used")
    late: SetAside | None = Field(
        None,
        description="where feedback goes that comes after its window; default: with `corrections` to the dead letters, "
        "else it is only counted",
    )
    orphans: SetAside | None = Field(
        None, description="where feedback goes that has no prediction, or is older than it; default: it is only counted"
    )
    commit_interval_ms: PositiveDuration = Field(
        1_000, alias="commit_interval", description="how often output becomes visible, at most 5s"
    )
    max_future_ms: PositiveDuration = Field(
        HOUR_MS, alias="max_future", description="how far ahead of the clock an event may be dated, at most 1h"
    )
    max_ahead_setting: PositiveDuration | None = Field(
        None,
        alias="max_ahead",
        description="how far in event time a partition is read ahead of the slowest; default: 1h or the largest window",
    )
    limits: Limits = Field(Limits(), description="what one task may hold")
    changelog: Changelog = Field(Changelog(), description="the topic that the state is restored from")
    metrics: Metrics = Field(Metrics(), description="where metrics and health are served")
    state: State = Field(State(), description="what a worker keeps on disk")

    _group: str | None = PrivateAttr(None)
    _backfill: Backfill | None = PrivateAttr(None)

    def run_as(self, group: str, backfill: Backfill) -> None:
        """Let this job be the replay of a range: see `backfill.backfilling`."""
        self._group, self._backfill = group, backfill

    @property
    def group(self) -> str:
        """The consumer group, and the root of the names of all that a run has of its own: the job's name, unless it
        replays a range.
        """
        return self._group or self.name

    @property
    def backfill(self) -> Backfill | None:
        """The range that is replayed; None for the live job."""
        return self._backfill

    @property
    def largest_window_ms(self) -> int:
        """The longest window, of feedback or of a sample; 0 without any."""
        sampled = max((sample.closes_after_ms for _, sample in self.designs), default=0)
        return max((target.window_ms for target in self.targets.values()), default=sampled)

    @property
    def samples_by_name(self) -> dict[str | None, tuple[Sample, ...]]:
        """The designs of all samples, in order, by the samples' names; the only one of a job has none."""
        if self.sample is not None:
            return {None: stages_of(self.sample)}
        return {name: stages_of(sample) for name, sample in self.samples.items()}

    @property
    def designs(self) -> list[tuple[KeyPath, Sample]]:
        """All designs of all samples, and where each stands in the file."""
        found = list[tuple[KeyPath, Sample]]()
        for name, stages in self.samples_by_name.items():
            path: KeyPath = ("sample",) if name is None else ("samples", name)
            found += zip(paths_of(path, stages), stages, strict=True)
        return found

    @property
    def sample_windows(self) -> set[int]:
        """The lengths of the windows of samples, ms."""
        return {sample.window_ms for _, sample in self.designs if sample.window_ms is not None}

    @property
    def max_ahead_ms(self) -> int:
        """How much event time a partition may be read ahead of the slowest."""
        if self.max_ahead_setting is not None:
            return self.max_ahead_setting
        return max(HOUR_MS, self.largest_window_ms)

    @property
    def closes_after_ms(self) -> int:
        """How far the watermark must pass a prediction's time until all its windows are closed."""
        return self.largest_window_ms + self.grace_ms if self.largest_window_ms else 0

    @property
    def retention_ms_min(self) -> int:
        """The least retention of an input topic: feedback must still be there as long as it counts."""
        return self.closes_after_ms + self.corrections_ms + self.skew_ms

    @property
    def dead_letters_topic(self) -> str:
        return self.dead_letters.topic or f"{self.group}.dead-letters"

    @property
    def late_topic(self) -> str | None:
        """Where late feedback goes; None: nowhere. A backfill leaves the live job's topic alone."""
        if self.late is not None and self.backfill is None:
            return self.late.topic
        return self.dead_letters_topic if self.corrections_ms else None

    @property
    def orphans_topic(self) -> str | None:
        """Where orphans go; None: nowhere, as in a backfill."""
        return None if self.orphans is None or self.backfill is not None else self.orphans.topic

    @property
    def changelog_topic(self) -> str:
        return self.changelog.topic or f"{self.group}.changelog"

    @property
    def exchanges_windows(self) -> bool:
        """Whether a window's sample is one of all partitions, so that tasks tell each other what they held."""
        return any(sample.exchanged for _, sample in self.designs)

    @property
    def windows_topic(self) -> str:
        """Where tasks tell each other what they held of a window, for a sample of all partitions."""
        return f"{self.group}.windows"

    @property
    def rekeyed(self) -> tuple[str, ...]:
        """The topics whose records go through topics of the job's own, partitioned by the id of the prediction."""
        return tuple(topic for topic, source in self.sources.items() if source.rekey)

    def rekeyed_topic(self, topic: str) -> str:
        """Where the records of a source topic go."""
        return f"{self.group}.rekeyed.{topic}"

    @property
    def state_directory(self) -> Path:
        return self.state.directory or Path(".streamsample", self.group).absolute()

    @property
    def rows_directory(self) -> Path:
        """Where workers keep payload of open rows that is beyond their memory."""
        return self.state_directory / "rows"

    @property
    def tasks_directory(self) -> Path:
        """Where the state of tasks lies that no worker runs."""
        return self.state_directory / "tasks"

    @property
    def sources(self) -> dict[str, Input | Feedback]:
        """Every topic that is read: the input under its topic's name, then each feedback."""
        read: tuple[Input | Feedback, ...] = (self.input, *self.feedback.values())
        return {topic: source for source in read for topic in source.topics}

    @property
    def rule_users(self) -> dict[str, list[tuple[str, int]]]:
        """For each feedback the targets, and the places in their rules, that it labels or undoes."""
        users: dict[str, list[tuple[str, int]]] = {name: [] for name in self.feedback}
        for name, target in self.targets.items():
            for index, rule in enumerate(target.rules):
                users.setdefault(rule.feedback, []).append((name, index))
                if rule.undone_by is not None:
                    users.setdefault(rule.undone_by.feedback, []).append((name, index))
        return users

    @cached_property
    def version(self) -> str:
        """16 hex digits that change with whatever decides a record's content."""
        return identity.digest(identity.content(self))

    @cached_property
    def state_shape(self) -> str:
        """16 hex digits that change with whatever shapes the state; windows, rules and grace do not."""
        return identity.digest(identity.shape(self))

    @cached_property
    def state_parts(self) -> dict[str, str]:
        """By key of the job file, 16 hex digits of what may come or go, but not change while there is state of it."""
        return identity.parts(self)

    def problems(self) -> Iterator[Problem]:
        yield from name_problems(self)
        yield from sample_problems(self)
        yield from thin_problems(self)
        yield from topic_problems(self)
        yield from rekey_problems(self)
        yield from schema_id_problems(self)
        yield from time_problems(self)
        yield from field_problems(self)


# Each of these looks at the sections in `NEEDS` only, so that it can be asked although another section is wrong.


def name_problems(job: Job) -> Iterator[Problem]:
    """Feedback that rules name must exist, and what exists must be named."""
    if len(job.targets) > TARGETS_MAX:
        remedy = "make a second job on the same topics"
        yield Problem(("targets",), f"has {len(job.targets)} targets, must have at most {TARGETS_MAX}", remedy)
    used: set[str] = set()
    for name, target in job.targets.items():
        for index, rule in enumerate(target.rules):
            path: KeyPath = ("targets", name, "rules", index)
            used.add(rule.feedback)
            yield from _feedback_problems(job, rule.feedback, (*path, "from"))
            if rule.undone_by is None:
                continue
            used.add(rule.undone_by.feedback)
            yield from _feedback_problems(job, rule.undone_by.feedback, (*path, "undone_by", "from"))
            undone = job.feedback.get(rule.feedback)
            if rule.undone_by.refers_to is not None and undone is not None and undone.id is None:
                remedy = (
                    f"set feedback.{rule.feedback}.id, or leave refers_to out: then it undoes all that is not later"
                )
                yield Problem((*path, "undone_by", "refers_to"), f"{rule.feedback} has no id to refer to", remedy)
    for name in job.feedback:
        if name not in used:
            remedy = f"remove it, or name it in a target's rules: {{from: {name}, ...}}"
            yield Problem(("feedback", name), "no target uses it", remedy, at_key=True)


def _feedback_problems(job: Job, name: str, path: KeyPath) -> Iterator[Problem]:
    if name in job.feedback:
        return
    meant = nearest(name, job.feedback)
    if meant:
        remedy = f"did you mean {meant}?"
    elif job.feedback:
        remedy = f"there is {listed(list(job.feedback), 'and')}"
    else:
        remedy = "describe its topic under feedback"
    yield Problem(path, f'there is no feedback "{name}"', remedy)


def sample_problems(job: Job) -> Iterator[Problem]:
    """What a design can be combined with."""
    apart = "leave the targets out and sample the training records in a job of their own"
    for path, sample in job.designs if job.sample is not None and job.targets else ():
        if sample.windowed:
            what = f"not yet: a {sample.design} sample of labelled records"
            yield Problem((*path, "design"), what, f"give a rate, or {apart}", not_yet=True)
        if sample.keep is not None:
            yield Problem((*path, "keep"), "not yet: weights of importance of labelled records", apart, not_yet=True)
    if job.samples and job.targets:
        what = "not yet: several samples of labelled records"
        yield Problem(("samples",), what, f"give one under sample, or {apart}", at_key=True, not_yet=True)
    if job.samples and job.sample is not None:
        yield Problem(("samples",), "is given beside sample", "put that under samples too", at_key=True)


def thin_problems(job: Job) -> Iterator[Problem]:
    """Thinning is by the label of a target."""
    if job.thin is not None:
        yield from job.thin.problems_with(job.targets)


def topic_problems(job: Job) -> Iterator[Problem]:
    """No topic plays two parts."""
    parts: list[tuple[KeyPath, str]] = [(("input", "topic"), job.input.topic)]
    parts += [(("feedback", name, "topic"), topic) for name, item in job.feedback.items() for topic in item.topics]
    reading = len(parts)
    parts += [
        (("output", "topic"), job.output.topic),
        (("dead_letters", "topic"), job.dead_letters_topic),
        (("changelog", "topic"), job.changelog_topic),
        (("job",), job.windows_topic),
        *((("job",), job.rekeyed_topic(topic)) for topic in job.rekeyed),
        *((("late", "topic"), item.topic) for item in [job.late] if item is not None),
        *((("orphans", "topic"), item.topic) for item in [job.orphans] if item is not None),
    ]
    taken: dict[str, KeyPath] = {}
    shared: set[tuple[str, str]] = set()
    for index, (path, topic) in enumerate(parts):
        if topic not in taken:
            taken[topic] = path
            continue
        other_path = taken[topic]
        if index < reading and other_path[0] == "feedback":
            pair = (str(path[1]), str(other_path[1]))
            if pair not in shared:
                yield from _sharing_problems(job, topic, *pair)
            shared.add(pair)
        elif index < reading:
            what = f'not yet: feedback in the topic of the predictions ("{topic}")'
            yield Problem(path, what, "give each a topic of its own", not_yet=True)
        else:
            same = ".".join(str(step) for step in other_path)
            yield Problem(path, f'is "{topic}", which is {same} too', "give each a topic of its own")


def _sharing_problems(job: Job, topic: str, name: str, first: str) -> Iterator[Problem]:
    """Feedbacks in one topic are told apart by `where`, and what is said of the topic itself is the same for all."""
    mine, other = job.feedback[name], job.feedback[first]
    for each, feedback in ((first, other), (name, mine)):
        if feedback.where is None:
            what = f'shares the topic "{topic}" with {name if each == first else first}, and nothing tells them apart'
            yield Problem(("feedback", each), what, "set where: \"<field> == '...'\" on both", at_key=True)
    for key in ("format", "schema_file", "schema_files", "framing", "time", "idle_timeout", "rekey"):
        attribute = "idle_timeout_ms" if key == "idle_timeout" else key
        if getattr(mine, attribute) != getattr(other, attribute):
            what = f"differs from that of {first}, which reads the same topic"
            yield Problem(("feedback", name, key), what, f"write it as under feedback.{first}")


def rekey_problems(job: Job) -> Iterator[Problem]:
    """Records are rekeyed to meet others of the same id."""
    if job.input.rekey and not job.targets:
        yield Problem(("input", "rekey"), "has no meaning without targets: nothing is joined", "remove it", at_key=True)
    if job.input.rekey and job.input.explode is not None:
        what = "not yet: slates of a rekeyed input, whose items belong to several tasks"
        yield Problem(("input", "explode"), what, "publish one record per item shown", not_yet=True)
    for name, feedback in job.feedback.items() if job.input.explode is not None else ():
        if feedback.rekey:
            what = "not yet: rekeyed feedback of slates, whose items lie where their record's key has put them"
            remedy = "key it as the slates are"
            yield Problem(("feedback", name, "rekey"), what, remedy, at_key=True, not_yet=True)
    for path, sample in job.designs if job.input.rekey and job.targets else ():
        if sample.has_state:
            what = f"not yet: a {sample.design} sample of a rekeyed input that depends on the order of its records"
            yield Problem((*path, "design"), what, "key the input by its id, or sample before", not_yet=True)
    for topic in map(job.rekeyed_topic, job.rekeyed):
        if len(topic) > TOPIC_LENGTH_MAX:
            what = f"is too long: {topic} is no name for a topic"
            yield Problem(("job",), what, f"a topic's name has at most {TOPIC_LENGTH_MAX} characters")


def schema_id_problems(job: Job) -> Iterator[Problem]:
    """Every schema id of the input has one of the output, and only then."""
    path: KeyPath = ("output", "schema_ids")
    given = job.output.schema_ids
    if not job.input.confluent:
        if given:
            remedy = "remove it: output records carry ids iff the input's do"
            yield Problem(path, "the input's records carry no schema ids", remedy, at_key=True)
        return
    wanted = job.input.schema_files
    example = ", ".join(f"{number}: <id of its training records>" for number in wanted)
    missing = [str(number) for number in wanted if number not in given]
    if missing:
        yield Problem(path, f"lacks input.schema_files' {listed(missing, 'and')}", f"schema_ids: {{{example}}}")
    for number in given:
        if number not in wanted:
            yield Problem((*path, str(number)), "is no id of input.schema_files", "remove it", at_key=True)
    outputs = list(given.values())
    for number, output in given.items():
        if outputs.count(output) > 1:
            remedy = "each writer schema of the input has an output schema of its own"
            yield Problem((*path, str(number)), f"output id {output} is given twice", remedy)


def time_problems(job: Job) -> Iterator[Problem]:
    """Bounds of single times."""
    if job.max_future_ms > HOUR_MS:
        found = format_duration(job.max_future_ms)
        yield Problem(
            ("max_future",), f"must be at most 1h, found {found}", "brokers refuse records dated further ahead"
        )
    if job.commit_interval_ms > COMMIT_INTERVAL_MS_MAX:
        limit = format_duration(COMMIT_INTERVAL_MS_MAX)
        remedy = "a transaction must end before its time-out"
        yield Problem(
            ("commit_interval",), f"must be at most {limit}, found {format_duration(job.commit_interval_ms)}", remedy
        )


NEEDS = {
    name_problems: ("feedback", "targets"),
    thin_problems: ("thin", "targets"),
    sample_problems: ("sample", "samples", "targets"),
    topic_problems: ("job", "input", "feedback", "output", "dead_letters", "changelog", "late", "orphans"),
    rekey_problems: ("job", "input", "feedback", "targets", "sample", "samples"),
    schema_id_problems: ("input", "output"),
    time_problems: ("max_future", "commit_interval"),
    field_problems: ("input", "feedback", "targets", "sample", "samples", "split", "features"),
}
