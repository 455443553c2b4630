"""Whose silence says something: rows whose feedback was readable and looked for all through their windows (A19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from streamsample.labels.settings import JoinSettings
from streamsample.records import Bools, Int64s

_NEVER: Final = -(2**62)


class Gap(NamedTuple):
    """Rows with `since <= ts < until`: of these a use does not know all feedback, for some was read before the job's
    file had it, or gave it so long a window.
    """

    since: int
    until: int


class Known(NamedTuple):
    """What a delta says of a use beside its name: how far its window reaches, and its gap."""

    reach_ms: int
    gap: Gap


NO_GAP: Final = Gap(_NEVER, _NEVER)


@dataclass(frozen=True, slots=True)
class Coverage:
    """since: int64[targets], from which prediction time on silence labels; gaps: in which it does not, by target."""

    since: Int64s
    gaps: tuple[tuple[Gap, ...], ...]

    def of(self, target: int, ts: Int64s) -> Bools:
        """Which of n predictions at `ts` are covered for a target."""
        covered = np.asarray(ts >= self.since[target], np.bool_)
        for gap in self.gaps[target]:
            covered &= (ts < gap.since) | (ts >= gap.until)
        return covered


def coverage_of(settings: JoinSettings, covered_from: Int64s | None, gaps: Sequence[Gap]) -> Coverage:
    """covered_from: int64[sources], the event time from which each source was readable; None: always. gaps: by use."""
    since = np.full(len(settings.targets), _NEVER, np.int64)
    if covered_from is not None:
        for number, target in enumerate(settings.targets):
            feedback = {rule.feedback for rule in target.rules}
            mine = [int(covered_from[n]) for n, (_, of) in enumerate(settings.source_list) if of in feedback]
            since[number] = max(mine) + settings.skew_ms
    found: list[list[Gap]] = [[] for _ in settings.targets]
    for use, gap in zip(settings.uses, gaps, strict=True):
        if gap != NO_GAP:
            found[use.target].append(gap)
    return Coverage(since, tuple(map(tuple, found)))


def gap_after(
    reach_ms: int, skew_ms: int, known: Known | None, known_skew_ms: int, closed_before: int, read_until: int
) -> Gap:
    """The gap of a use that is restored. known: what the last delta says of it, None if the use is new; closed_before:
    rows before it were settled without it; read_until: the largest event time that was read of its feedback.

    A row is whole if nothing was read yet that only the use as it is now would have kept.
    """
    if known is None or skew_ms > known_skew_ms:
        until = read_until + 1 + skew_ms
    elif reach_ms > known.reach_ms:
        until = read_until - known.reach_ms
    else:
        return known.gap
    if until <= closed_before:
        return NO_GAP if known is None else known.gap
    since = closed_before
    if known is not None and closed_before < known.gap.until:
        since, until = min(since, known.gap.since), max(until, known.gap.until)
    return Gap(since, until)
