"""The watermark of one task: how far event time has surely come, over all its source partitions (A4, A5, A7).

Pure: event times and elapsed time are passed in. The grace is not in it; it is added once, at the deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypedDict

from streamsample.errors import StateError
from streamsample.records import TopicPartition

MIN: Final = -(2**63)
"""The watermark while one source partition has not been read: before all event times."""


_MAX: Final = 2**63 - 1


class WatermarkState(TypedDict):
    """What `Watermark.snapshot` returns: plain values, fit for JSON."""

    value: int
    value_without_idle: int
    largest: list[tuple[str, int, int]]


@dataclass(slots=True)
class _Source:
    """What is known of one source partition. Times in ms; `since` is elapsed time."""

    largest: int | None = None
    first: int | None = None
    followed: int | None = None
    position: int | None = None
    caught_up: bool = False
    paused: bool = False
    since: int = 0
    told_silent_ms: int = 0

    @property
    def level(self) -> int | None:
        if self.largest is None or (self.followed is not None and self.followed > self.largest):
            return self.followed
        return self.largest

    @property
    def silent(self) -> bool:
        return self.caught_up and not self.paused


class Watermark:
    """The minimum over the source partitions of the largest event time read from each.

    sources: all source partitions of the task, feedback included, internal topics never. idle_timeout_ms: per topic,
    how long it must be silent as a whole before its time advances by itself; None or missing: it holds the watermark
    back for ever.
    """

    def __init__(self, sources: Iterable[TopicPartition], idle_timeout_ms: Mapping[str, int | None]) -> None:
        self._sources = {source: _Source() for source in sorted(sources)}
        self._topics: dict[str, list[_Source]] = {}
        for name, source in self._sources.items():
            self._topics.setdefault(name.topic, []).append(source)
        self._idle_timeout_ms = dict(idle_timeout_ms)
        self._elapsed_ms = 0
        self._value = MIN
        self._value_without_idle = MIN

    def on_read(self, source: TopicPartition, largest_event_time: int | None, position: int, elapsed_ms: int) -> None:
        """A batch of `source` has been processed up to `position`.

        largest_event_time: over the batch's usable records (an event dated too far ahead is not one, A7); None if it
        had none.
        """
        held = self._sources[source]
        self._elapsed_ms = max(self._elapsed_ms, elapsed_ms)
        held.since = self._elapsed_ms
        held.position = position
        held.told_silent_ms = 0
        if largest_event_time is not None:
            if held.largest is None or largest_event_time > held.largest:
                held.largest = largest_event_time
            if held.first is None:
                held.first = largest_event_time

    def set_caught_up(self, source: TopicPartition, caught_up: bool, elapsed_ms: int) -> None:
        """Whether `source` is at its high watermark, confirmed by a fetch answered since, without error."""
        held = self._sources[source]
        self._elapsed_ms = max(self._elapsed_ms, elapsed_ms)
        if caught_up and not held.caught_up:
            held.since = self._elapsed_ms
        held.caught_up = caught_up

    def set_paused(self, source: TopicPartition, paused: bool, elapsed_ms: int) -> None:
        """Whether `source` is paused: then its silence says nothing."""
        held = self._sources[source]
        self._elapsed_ms = max(self._elapsed_ms, elapsed_ms)
        if held.paused and not paused:
            held.since = self._elapsed_ms
        held.paused = paused

    def hear(self, source: TopicPartition, level: int | None, position: int, silent_ms: int, elapsed_ms: int) -> None:
        """Whoever reads `source` for this task says how far it has come: like `on_read`, and how long it is silent."""
        self.on_read(source, level, position, elapsed_ms)
        self._sources[source].told_silent_ms = silent_ms

    def silent_ms(self, source: TopicPartition) -> int:
        """How long `source` has been caught up and nothing came of it; 0 if it is not."""
        held = self._sources[source]
        return max(self._elapsed_ms - held.since, 0) if held.silent else 0

    def follow(self, topic: str, largest_event_time_of_topic: int, elapsed_ms: int) -> None:
        """Let the caught-up silent partitions of `topic` follow its other partitions.

        Call it only when the caught-up flags were confirmed by fetches answered after the broker was asked for the
        largest event time: else a record already written to a partition, not yet read, would come too late.
        """
        self._elapsed_ms = max(self._elapsed_ms, elapsed_ms)
        for held in self._topics[topic]:
            level = held.level
            if held.silent and (level is None or largest_event_time_of_topic > level):
                held.followed = largest_event_time_of_topic
                held.since = self._elapsed_ms

    def advance(self, elapsed_ms: int) -> int:
        """Let elapsed time come to `elapsed_ms`; returns the new value."""
        self._elapsed_ms = max(self._elapsed_ms, elapsed_ms)
        return self.value()

    def value(self) -> int:
        """The watermark: never goes back; MIN while a source partition is unknown or there is none."""
        if not self._sources:
            return self._value
        pure = with_idle = _MAX
        for topic, sources in self._topics.items():
            levels = [held.level for held in sources]
            known = [level for level in levels if level is not None]
            if len(known) < len(levels):
                return self._value
            pure = min(pure, *known)
            with_idle = min(with_idle, min(known) + self._idle_advance(topic))
        self._value_without_idle = max(self._value_without_idle, pure)
        self._value = max(self._value, with_idle)
        return self._value

    @property
    def value_without_idle(self) -> int:
        """What the watermark would be had no topic advanced by its silence."""
        self.value()
        return self._value_without_idle

    @property
    def closed_by_idle(self) -> bool:
        """Whether the current value was reached only through an idle advance. Of the rows that it settles, those with
        `settled_at >= value_without_idle` were closed by idleness.
        """
        return self.value() > self._value_without_idle

    def level_of(self, source: TopicPartition) -> int | None:
        """How far the event time of one source partition has come; None before its first event."""
        return self._sources[source].level

    def level_of_topic(self, topic: str) -> int | None:
        """The least of its source partitions' levels that are known."""
        levels = [held.level for held in self._topics.get(topic, ())]
        return min((level for level in levels if level is not None), default=None)

    def held_by(self) -> TopicPartition | None:
        """What holds the watermark back: a source partition not read yet, else the slowest (the first by name)."""
        slowest: TopicPartition | None = None
        smallest = 0
        idle = {topic: self._idle_advance(topic) for topic in self._topics}
        for name, held in self._sources.items():
            level = held.level
            if level is None:
                return name
            level += idle[name.topic]
            if slowest is None or level < smallest:
                slowest, smallest = name, level
        return slowest

    def ahead(self, max_ahead_ms: int) -> set[TopicPartition]:
        """The source partitions to pause: further than `max_ahead_ms` beyond the slowest, which itself is never one.

        While a partition has not been read, the first event time read from any stands for it: so an empty topic bounds
        how much is read of the others.
        """
        levels, unread, slowest = self._levels()
        if slowest is None:
            return set()
        return {
            name
            for name, level in levels.items()
            if level > slowest + max_ahead_ms and (unread or level > min(levels.values()))
        }

    def slowest(self) -> int | None:
        """The event time beyond which `ahead` counts; None while nothing was read."""
        return self._levels()[2]

    def _levels(self) -> tuple[dict[TopicPartition, int], bool, int | None]:
        """The levels that are known, whether some are not, and the least that any of them can be."""
        firsts = [held.first for held in self._sources.values() if held.first is not None]
        levels: dict[TopicPartition, int] = {}
        unread = False
        idle = {topic: self._idle_advance(topic) for topic in self._topics}
        for name, held in self._sources.items():
            level = held.level
            if level is None:
                unread = True
            else:
                levels[name] = level + idle[name.topic]
        slowest = min(levels.values(), default=None)
        if slowest is not None and unread and firsts:
            slowest = min(slowest, min(firsts))
        return levels, unread, slowest

    def snapshot(self) -> WatermarkState:
        """Everything that a restore needs; elapsed time and the flags begin anew."""
        value = self.value()
        return {
            "value": value,
            "value_without_idle": self._value_without_idle,
            "largest": [
                (name.topic, name.partition, level)
                for name, held in self._sources.items()
                if (level := held.level) is not None
            ],
        }

    def restore(self, state: WatermarkState) -> None:
        """Take up what `snapshot` returned. Sources it does not name stay unknown. Raises StateError."""
        try:
            self._value = int(state["value"])
            self._value_without_idle = int(state["value_without_idle"])
            largest = [(TopicPartition(str(t), int(p)), int(level)) for t, p, level in state["largest"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the watermark's state cannot be read: {error!r}", remedy="reset the job") from error
        for name, level in largest:
            held = self._sources.get(name)
            if held is not None:
                held.largest = held.first = level

    def _idle_advance(self, topic: str) -> int:
        """How far a topic's time has advanced by its silence: the silent time beyond its timeout."""
        timeout = self._idle_timeout_ms.get(topic)
        if timeout is None:
            return 0
        silent = [
            max(held.told_silent_ms, self._elapsed_ms - held.since if held.silent else 0)
            for held in self._topics[topic]
        ]
        return max(0, min(silent) - timeout)
