"""What all benchmarks share: where the broker is, how much is measured, and how often."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Figure


@dataclass(frozen=True, slots=True)
class Settings:
    """servers: the broker's address. records: of a topic. rounds: how often ours and the reference are run, in turn.

    slow_records: what is given to a reference that works record by record. folder: for job files and state.
    """

    servers: str
    records: int
    slow_records: int
    rounds: int
    folder: Path
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one thing. cpu_seconds and peak_bytes are of its whole process, its start included."""

    rate: float
    cpu_seconds: float
    peak_bytes: int
    records: int


def round_of(told: dict[str, Any], finished: Any) -> Round:
    """A round from what a measured function told (see `Stopwatch.figures`) and what its process used."""
    return Round(told["records"] / told["seconds"], finished.cpu_seconds, finished.peak_bytes, int(told["records"]))


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of several rounds, and the largest memory."""

    rate: float
    cpu_per_million: float
    peak_mib: float


def summary_of(rounds: Iterable[Round]) -> Summary:
    """Sum up rounds (at least one)."""
    found = list(rounds)
    return Summary(
        rate=statistics.median(each.rate for each in found),
        cpu_per_million=statistics.median(each.cpu_seconds / each.records * 1e6 for each in found),
        peak_mib=max(each.peak_bytes for each in found) / 2**20,
    )


def in_turn(rounds: int, *things: Callable[[], Round]) -> list[Summary]:
    """Run things one after the other, several times, so that a slow spell of the machine meets all of them."""
    found: list[list[Round]] = [[] for _ in things]
    for _ in range(rounds):
        for thing, into in zip(things, found, strict=True):
            into.append(thing())
    return [summary_of(each) for each in found]


def costs(name: str, ours: Summary, reference: str, theirs: Summary) -> list[Figure]:
    """CPU and memory of both, for information."""
    return [
        Figure(f"{name}: CPU", ours.cpu_per_million, "CPU s/M records", reference, theirs.cpu_per_million),
        Figure(f"{name}: peak memory", ours.peak_mib, "MiB", reference, theirs.peak_mib),
    ]
