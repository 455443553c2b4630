"""What a windowed sample must be, drawn by the library from all records of a window at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streamsample.sampling import (
    ImportanceResample,
    Recency,
    Reservoir,
    Sample,
    StratifiedReservoir,
    Weighted,
    WithReplacement,
    probability_ratios,
)
from tests.acceptance.timelines import T0, Event, later

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
SINCE = {key: value for key, value in RESERVOIR.items() if key != "window"} | {"every": "10s"}
COUNTED = {key: value for key, value in RESERVOIR.items() if key not in ("window", "scope")} | {"records": 100}
QUOTA = {key: value for key, value in RESERVOIR.items() if key != "seed"} | {"design": "quota"}
CONVENIENCE = {key: value for key, value in QUOTA.items() if key not in ("by", "strata")} | {"design": "convenience"}
REPLACED = {**WEIGHTED, "replacement": True}
RESAMPLED = {**RESERVOIR, "design": "importance", "target": "p", "proposal": "q"}
STRATIFIED = {**RESERVOIR, "design": "stratified", "k": 30}
NEYMAN = {**STRATIFIED, "allocation": "neyman", "of": "amount", "minimum": 3}


def only(sample: Mapping[str, Any] | list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The changes that make a job of timelines one that only samples so."""
    given = sample if isinstance(sample, list) else dict(sample)
    return {"feedback": None, "targets": None, "sample": given, **more}


def shown(count: int, every_ms: int = 97, first: int = 0) -> list[Event]:
    """Predictions of several users and countries with amounts, out of order by less than the grace."""
    random = np.random.default_rng(first)
    jitter = random.integers(-400, 400, count)
    return [
        Event(
            "shown",
            T0 + WINDOW + number * every_ms + int(jitter[number - first]),
            f"p{number}",
            {
                "user": f"u{number % 40}",
                "country": COUNTRIES[number % 3],
                "amount": number % 7,
                "p": number % 5 / 10,
                "q": (1 + number % 3) / 10,
            },
        )
        for number in range(first, first + count)
    ]


def the_end(name: str = "later", **more: Any) -> list[Event]:
    """A prediction an hour later, with every field that a design may want: all windows close."""
    fields = {"country": "IS", "amount": 1, "p": 1, "q": 1, **more}
    return [Event("shown", event.at, name, fields) for event in later("1h", ["shown"])]


def drawn(
    events: Iterable[Event], sample: Mapping[str, Any], closed_before: int = 2**62, unit: str | None = None
) -> dict[str, dict[str, Any]]:
    """What each sampled record says of its draw, by id, from windows that have closed. events: all that are drawn from
    together.
    """
    groups: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        apart = "" if sample["design"] == "stratified" else str(event.more["country"])
        groups[event.at // WINDOW, apart].append(event)
    found: dict[str, dict[str, Any]] = {}
    for (window, _), members in groups.items():
        if (window + 1) * WINDOW + GRACE < closed_before:
            units = [str(event.more[unit]) if unit else event.id for event in members]
            taken = shown_to(sample, members, units, window * WINDOW)
            found |= _said(sample, members, taken, (window + 1) * WINDOW)
    return found


def snapshots(events: Iterable[Event], sample: Mapping[str, Any]) -> dict[tuple[int, str], dict[str, Any]]:
    """What each record says, by the end of what the sample is of, and by id: of everything since the start (B3)."""
    shown = list(events)
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for window in sorted({event.at // WINDOW for event in shown}):
        until = (window + 1) * WINDOW
        # A country that did not come again is in the snapshot as well.
        for country in COUNTRIES:
            members = [event for event in shown if event.at < until and event.more["country"] == country]
            if members:
                taken = shown_to(sample, members, [event.id for event in members], 0)
                found |= {(until, name): said for name, said in _said(sample, members, taken, until).items()}
    return found


def counted(events: Iterable[Event], sample: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each record says, by id, of each so many records of one partition that are there, in their order."""
    shown, size = list(events), int(sample["records"])
    found: dict[str, dict[str, Any]] = {}
    for begin in range(0, len(shown) - size + 1, size):
        some = shown[begin : begin + size]
        for country in COUNTRIES:
            members = [event for event in some if event.more["country"] == country]
            if members:
                taken = shown_to(sample, members, [event.id for event in members], 0)
                found |= _said(sample, members, taken, None)
    return found


def shown_to(sample: Mapping[str, Any], members: list[Event], units: list[str], begin: int) -> Sample:
    """The library's sample of all records of a window, and of a stratum where each is drawn by itself."""
    amounts = [float(event.more.get("amount", 0)) for event in members]
    if sample["design"] == "reservoir":
        reservoir = Reservoir(K, SEED)
        reservoir.update(units)
        return reservoir.sample()
    if sample["design"] == "recency":
        recency = Recency(K, 2_000, SEED, landmark=begin)
        recency.update(units, [event.at for event in members], amounts if "weight" in sample else None)
        return recency.sample()
    if sample["design"] == "stratified":
        stratified = StratifiedReservoir(
            sample["k"],
            SEED,
            allocation=sample.get("allocation", "proportional"),
            minimum=sample.get("minimum", 2),
            strata=sample.get("strata", ()),
            others=1_000,
            k_max=sample.get("k_max"),
        )
        countries = [str(event.more["country"]) for event in members]
        stratified.update(units, countries, amounts if "of" in sample else None)
        return stratified.sample()
    if sample.get("replacement"):
        draws = WithReplacement(K, SEED)
        draws.update(units, amounts)
        return draws.sample()
    if sample["design"] == "importance":
        resample = ImportanceResample(K, SEED)
        p, q = ([float(event.more[name]) for event in members] for name in ("p", "q"))
        resample.update(units, probability_ratios(p, q))
        return resample.sample()
    weighted = Weighted(K, SEED, law=sample.get("method", "exponential"))
    weighted.update(units, amounts)
    return weighted.sample()


def _said(
    sample: Mapping[str, Any], members: list[Event], taken: Sample, until: int | None
) -> dict[str, dict[str, Any]]:
    found = {}
    for row, position in enumerate(taken.position.tolist()):
        stratum = taken.strata[int(taken.stratum[row])]
        found[members[position].id] = {
            "sample": None,
            "design": sample["design"],
            "estimator": taken.estimator.replace("-", "_"),
            "probability": float(taken.probability[row]),
            "threshold": stratum.threshold if np.isfinite(stratum.threshold) else None,
            "n": stratum.n,
            "k": stratum.k,
            "draws": int(taken.draws[row]) if "replacement" in sample or sample["design"] == "importance" else None,
            "until": until,
            "stratum": members[position].more["country"],
            "seed": SEED,
            "stages": [],
        }
    return found
