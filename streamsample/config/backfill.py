"""A range of the past that a job replays as a run of its own, beside the live one.

The records are those of the job: same name, version and record_ids. Everything that a run has of its own (consumer
group, changelog, dead letters, internal topics, state directory) is named after the range, the output topic and the
job's version, so that nothing of the live run is touched, and another range or version is another backfill.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from streamsample.config import identity
from streamsample.config.job import Job
from streamsample.config.models import State
from streamsample.config.problems import Wrong, key_name
from streamsample.config.units import parse_moment
from streamsample.config.values import TOPIC_LENGTH_MAX
from streamsample.errors import ConfigurationError, NotYetError

_DEAD_LETTERS = ".dead-letters"


@dataclass(frozen=True, slots=True)
class Backfill:
    """Of predictions with event time in [from_ms, to_ms), written to `output_topic`. replace: which may be the live
    one.
    """

    from_ms: int
    to_ms: int
    output_topic: str
    replace: bool = False

    def __str__(self) -> str:
        return f"{_iso(self.from_ms)} to {_iso(self.to_ms)}"


def backfill_of(first: str, end: str, output_topic: str, *, replace: bool = False) -> Backfill:
    """As the command line gives it: times with a zone, dates (midnight UTC), or ms since 1970.

    Raises ConfigurationError.
    """
    times = []
    for option, text in (("--from", first), ("--to", end)):
        try:
            times.append(parse_moment(text))
        except Wrong as wrong:
            raise ConfigurationError(f'{option}: {wrong.what}, found "{text}"', remedy=wrong.remedy) from None
    if times[0] >= times[1]:
        raise ConfigurationError(
            f"--to: {end} is not after --from {first}", remedy="the range is from --from on and before --to"
        )
    return Backfill(times[0], times[1], output_topic, replace)


def backfilling(job: Job, backfill: Backfill) -> Job:
    """The job as it replays a range. Raises ConfigurationError if it would write where it must not."""
    topic = backfill.output_topic
    if topic == job.output.topic and not backfill.replace:
        raise ConfigurationError(
            f"--output-topic: {topic} is the live job's own output: readers would see each record a second time",
            remedy="name another topic, or add --replace if its readers keep one record of each record_id",
        )
    own = (job.dead_letters_topic, job.changelog_topic, job.windows_topic, *map(job.rekeyed_topic, job.rekeyed))
    if topic in job.sources or topic in own:
        raise ConfigurationError(
            f"--output-topic: {topic} is another topic of the job already", remedy="name a topic of its own"
        )
    for path, sample in job.designs:
        keys = ("count", "every_ms", "records", "hops")
        endless = next((key for key in keys if getattr(sample, key) is not None), None)
        if endless is not None:
            raise NotYetError(
                f"{key_name((*path, endless.removesuffix('_ms')))}: not yet: a backfill of a sample that depends on "
                "all before it",
                remedy="replay it with a job of another name, from the start",
            )
    digest = identity.digest([topic, job.version])[:8]
    suffix = f"backfill-{_compact(backfill.from_ms)}-{_compact(backfill.to_ms)}-{digest}"
    added = max([len(_DEAD_LETTERS), *(len(job.rekeyed_topic(each)) - len(job.name) for each in job.rekeyed)])
    if len(job.name) + 1 + len(suffix) + added > TOPIC_LENGTH_MAX:
        raise ConfigurationError(
            f"job: {job.name} is too long for the names of a backfill's topics", remedy="give whole days"
        )
    directory = None if job.state.directory is None else job.state.directory / suffix
    changed = {
        "start": _reads_from(job, backfill),
        "output": job.output.model_copy(update={"topic": topic}),
        "dead_letters": job.dead_letters.model_copy(update={"topic": None}),
        "changelog": job.changelog.model_copy(update={"topic": None}),
        "metrics": job.metrics.model_copy(update={"port": 0}),  # the live job may listen on the one it names
        "state": State(directory=directory),
    }
    made = job.model_copy(update=changed)
    made.run_as(f"{job.name}.{suffix}", backfill)
    return made


def _reads_from(job: Job, backfill: Backfill) -> int:
    """From which event time on predictions are looked at: those before the range decide which of it are duplicates, or
    belong to a window that begins before it.
    """
    starts = [backfill.from_ms // window_ms * window_ms for window_ms in job.sample_windows]
    duplicates_ms = job.largest_window_ms + job.skew_ms if job.targets else 0
    return max(min(starts, default=backfill.from_ms - duplicates_ms), 0)


def _iso(ms: int) -> str:
    whole = ms % 1000 == 0
    return (
        datetime.fromtimestamp(ms / 1000, UTC)
        .isoformat(timespec="seconds" if whole else "milliseconds")
        .replace("+00:00", "Z")
    )


def _compact(ms: int) -> str:
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y%m%dT%H%M%S").removesuffix("T000000")
    return text if ms % 1000 == 0 else f"{text}.{ms % 1000:03}"
