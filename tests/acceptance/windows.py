"""What a windowed sample must be, drawn by the library from all records of a window at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streamsample.sampling import Recency, Reservoir, Weighted
from tests.acceptance.timelines import T0, Event

WINDOW, GRACE, K, SEED = 10_000, 1_000, 4, 5
COUNTRIES = ("DE", "FR", "IS")
RESERVOIR = {
    "design": "reservoir",
    "k": K,
    "window": "10s",
    "scope": "partition",
    "seed": SEED,
    "by": "country",
    "strata": list(COUNTRIES),
}
GLOBAL = {**RESERVOIR, "scope": "global"}
WEIGHTED = {**RESERVOIR, "design": "weighted", "weight": "amount"}
RECENCY = {**RESERVOIR, "design": "recency", "half_life": "2s"}


def only(sample: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The changes that make a job of timelines one that only samples so."""
    return {"feedback": None, "targets": None, "sample": dict(sample), **more}


def shown(count: int, every_ms: int = 97, first: int = 0) -> list[Event]:
    """Predictions of several users and countries with amounts, out of order by less than the grace."""
    random = np.random.default_rng(first)
    jitter = random.integers(-400, 400, count)
    return [
        Event(
            "shown",
            T0 + WINDOW + number * every_ms + int(jitter[number - first]),
            f"p{number}",
            {"user": f"u{number % 40}", "country": COUNTRIES[number % 3], "amount": number % 7},
        )
        for number in range(first, first + count)
    ]


def drawn(
    events: Iterable[Event], sample: Mapping[str, Any], closed_before: int = 2**62, unit: str | None = None
) -> dict[str, dict[str, Any]]:
    """What each sampled record says of its draw, by id, from windows that have closed. events: all that are drawn from
    together.
    """
    groups: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        groups[event.at // WINDOW, str(event.more["country"])].append(event)
    found: dict[str, dict[str, Any]] = {}
    for (window, country), members in groups.items():
        closes = (window + 1) * WINDOW + GRACE
        if closes >= closed_before:
            continue
        units = [str(event.more[unit]) if unit else event.id for event in members]
        if sample["design"] == "reservoir":
            design: Reservoir | Weighted | Recency = Reservoir(K, SEED)
            design.update(units)
        elif sample["design"] == "recency":
            design = Recency(K, 2_000, SEED, landmark=window * WINDOW)
            weight = [float(event.more["amount"]) for event in members] if "weight" in sample else None
            design.update(units, [event.at for event in members], weight)
        else:
            design = Weighted(K, SEED, law=sample.get("method", "exponential"))
            design.update(units, [float(event.more["amount"]) for event in members])
        taken = design.sample()
        for position, pi, threshold in zip(
            taken.position.tolist(), taken.probability.tolist(), taken.threshold.tolist(), strict=True
        ):
            found[members[position].id] = {
                "design": sample["design"],
                "probability": pi,
                "threshold": threshold if np.isfinite(threshold) else None,
                "n": len(members),
                "k": K,
                "stratum": country,
                "seed": SEED,
            }
    return found
