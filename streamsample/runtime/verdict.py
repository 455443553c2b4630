"""What comes of verifying a sample over a stretch of event time, for a person to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamsample.config.problems import Wrong
from streamsample.config.units import moment_text, parse_moment
from streamsample.errors import ConfigurationError

_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of event time, [begin, end) in ms since the epoch."""

    begin: int
    end: int


@dataclass(slots=True)
class Verdict:
    """One sample over a stretch of event time. shown: records of the input; refused: those that were dead-lettered;
    derived: records that must have been written; equal, missing, differing: of those, and pending: whose labels are
    not settled, or were dropped; unexpected: written, but not derived; doubled: written more than once. gone: written,
    or derived, but retention has taken what they would be held against; unknown: nothing else is there. versions: of
    the job, as the records say. notes: what else there is to say; examples: of what is wrong.
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
    gone: int = 0
    unknown: bool = False
    versions: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether what was written is what must have been, as far as that can be told."""
        return not (self.missing or self.differing or self.unexpected or self.doubled or self.unknown)

    def lines(self) -> list[str]:
        """The verdict in words."""
        name = "" if self.sample is None else f"{self.sample}: "
        begin, end = (moment_text(moment) for moment in (self.span.begin, self.span.end))
        compared = f"{self.equal:,} were written so, {self.differing:,} otherwise"
        said = "cannot be told" if self.unknown else "the same" if self.right else "NOT the same"
        found = [
            f"{name}{begin} .. {end}: {said}",
            f"  input: {self.shown:,} records shown, {self.refused:,} dead-lettered",
            f"  derived {self.derived:,}: {compared}, {self.pending:,} not yet, {self.missing:,} not at all",
            f"  written besides: {self.unexpected:,} that are not in the sample, {self.doubled:,} twice",
        ]
        if self.gone:
            found.append(f"  not compared: {self.gone:,}, of which the topics do not hold the other side any more")
        if len(self.versions) > 1:
            found.append(f"  written by several versions of the job: {', '.join(sorted(self.versions))}")
        return [*found, *(f"  {note}" for note in (*self.notes, *self.examples))]

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
