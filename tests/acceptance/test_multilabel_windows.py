"""Windowed samples of records that are in several strata at once, against the library: B10 of semantics.md."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from streamsample.sampling import StratifiedReservoir
from tests.acceptance.cluster import MakeJob
from tests.acceptance.test_global_windows import Tasks
from tests.acceptance.test_verify import verdicts
from tests.acceptance.timelines import T0, Event, OneTask
from tests.acceptance.windows import SEED, WINDOW, K, only, shown, the_end

GENRES = ("crime", "drama", "noir", "war")
EACH = {
    "design": "reservoir",
    "k": K,
    "window": "10s",
    "scope": "partition",
    "seed": SEED,
    "by": {"each": "genres"},
    "strata": list(GENRES),
}
DIVIDED = {**EACH, "design": "stratified", "k": 24, "minimum": 3}
NEYMAN = {**DIVIDED, "allocation": "neyman", "of": "amount"}
QUOTA = {key: value for key, value in EACH.items() if key != "seed"} | {"design": "quota"}
COUNTED = {key: value for key, value in EACH.items() if key not in ("window", "scope")} | {"records": 100}
DESIGNS = pytest.mark.parametrize("design", [EACH, DIVIDED, NEYMAN], ids=["each", "proportional", "neyman"])


def films(count: int) -> list[Event]:
    """Events of none to three genres, of which some come twice in the list."""
    chance = random.Random(7)
    lists = [chance.sample(GENRES, chance.choice((0, 1, 1, 2, 3))) for _ in range(count)]
    return [
        Event(e.kind, e.at, e.id, {**e.more, "genres": [*genres, *genres[: n % 2]]})
        for n, (e, genres) in enumerate(zip(shown(count), lists, strict=True))
    ]


def wanted(events: list[Event], design: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the library says of each sampled record: π, stratum, its threshold, n and k."""
    windows: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        windows[event.at // WINDOW].append(event)
    found: dict[str, dict[str, Any]] = {}
    for members in windows.values():
        pairs = [(n, name) for n, event in enumerate(members) for name in event.more["genres"] or [""]]
        reservoir = StratifiedReservoir(
            design["k"],
            SEED,
            allocation=design.get("allocation", "each" if design["design"] == "reservoir" else "proportional"),
            minimum=design.get("minimum", 2),
            strata=GENRES,
            others=1_000,
        )
        amounts = [float(event.more["amount"]) for event in members] if "of" in design else None
        names, rows = [name for _, name in pairs], np.array([n for n, _ in pairs])
        reservoir.update([event.id for event in members], names, amounts, row=rows)
        sample = reservoir.sample()
        for row, position in enumerate(sample.position.tolist()):
            stratum = sample.strata[int(sample.stratum[row])]
            found[members[position].id] = {
                "probability": float(sample.probability[row]),
                "threshold": stratum.threshold if np.isfinite(stratum.threshold) else None,
                "n": stratum.n,
                "k": stratum.k,
                "stratum": stratum.name if stratum.name in GENRES else "",
            }
    return found


def said(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    keys = ("probability", "threshold", "n", "k", "stratum")
    mine = [record for record in records if not record["features"]["id"].startswith("later")]
    found = {record["features"]["id"]: {key: record["sampling"][key] for key in keys} for record in mine}
    assert len(found) == len(mine)
    return found


@DESIGNS
def test_b10_a_record_of_several_strata_is_sampled_once_with_the_largest_threshold(design: dict[str, Any]) -> None:
    events, chance = films(900), random.Random(1)
    found = wanted(events, design)
    for _ in range(3):
        task, cuts = OneTask(only(design)), [0, *sorted(chance.sample(range(1, 900), 4)), 900]
        for begin, end in itertools.pairwise(cuts):
            task.play(events[begin:end], each=begin == cuts[1])
            if task.task.windows is not None and begin == cuts[2]:
                task.task.windows.rewrite()
            task.restarted()
        task.play(the_end(genres=["war"]))
        assert said(task.records) == found
        assert task.dead == []
    assert len(found) > 100
    genres = {event.id: event.more["genres"] for event in events}
    assert all(one["stratum"] in (genres[name] or [""]) for name, one in found.items())
    assert len({one["stratum"] for one in found.values()}) == 5


def test_b10_a_record_of_several_strata_keeps_its_split_and_features_in_batches_of_any_size() -> None:
    """A batch of which as many rows are kept as it has, one of them for two strata and another not at all."""
    events = films(300)
    changes = only(EACH) | {"split": {"by": "user", "train": 0.4, "validation": 0.3, "test": 0.3}}
    one_by_one = OneTask(changes).play(events, each=True).play(the_end(genres=["war"])).records
    several = OneTask(changes)
    for begin in range(0, len(events), 3):
        several.play(events[begin : begin + 3])
    records = several.play(the_end(genres=["war"])).records
    assert [(each["features"], each["split"]) for each in records] == [
        (each["features"], each["split"]) for each in one_by_one
    ]
    assert len({each["split"] for each in records}) == 3


def test_b10_every_stratum_has_its_k_among_the_records() -> None:
    events = films(600)
    task = OneTask(only(EACH)).play(events).play(the_end(genres=["war"]))
    kept = set(said(task.records))
    windows: dict[tuple[int, str], list[str]] = defaultdict(list)
    for event in events:
        for name in set(event.more["genres"] or [""]):
            windows[event.at // WINDOW, name].append(event.id)
    assert all(len(kept.intersection(members)) >= min(K, len(members)) for members in windows.values())
    counts = {tuple(name.split("\x1f"))[2:]: count for name, count in task.task.counts.items() if "sampled" in name}
    for name in GENRES:
        mine = sum(len(members) for (_, of), members in windows.items() if of == name)
        assert counts[name, "kept"] + counts[name, "dropped"] == mine
    assert sum(count for (_, what), count in counts.items() if what == "kept") == len(task.records)


@DESIGNS
def test_b4_b10_the_sample_of_all_partitions_is_that_of_one(design: dict[str, Any]) -> None:
    events = films(900)
    tasks = Tasks({**design, "scope": "global"}, 3, 900)
    for number in range(3):
        tasks.play(number, events[number::3][:150], restarted=True)
        tasks.play(
            number, [*events[number::3][150:], *the_end(f"later {number}", genres=["war"])], restarted=number == 1
        )
    tasks.deliver_all(3)
    assert said([record for task in tasks.tasks for record in task.records]) == wanted(events, design)


def test_b10_b12_a_quota_of_several_slices_takes_the_first_of_each_and_each_record_once() -> None:
    events = films(900)
    task = OneTask(only(QUOTA))
    for begin, end in itertools.pairwise((0, 77, 500, 900)):
        task.play(events[begin:end], each=begin == 0).restarted()
    task.play(the_end(genres=["war"]))
    slices: dict[tuple[int, str], list[tuple[int, int, str]]] = defaultdict(list)
    for number, event in enumerate(events):
        for name in set(event.more["genres"] or [""]):
            slices[event.at // WINDOW, name].append((event.at, number, event.id))
    wanted = {name for members in slices.values() for _, _, name in sorted(members)[:K]}
    records = [record for record in task.records if not record["features"]["id"].startswith("later")]
    found = {record["features"]["id"]: record["sampling"] for record in records}
    assert found.keys() == wanted
    assert len(records) == len(found)
    genres = {event.id: event.more["genres"] for event in events}
    for name, one in found.items():
        assert (one["probability"], one["estimator"]) == (None, "none")
        assert one["stratum"] in (genres[name] or [""])


def test_b7_b10_of_each_so_many_records_a_record_of_several_strata_counts_once() -> None:
    events = films(900)
    # The library's windows are of time: so let each hundred have a time of its own.
    dated = [Event(e.kind, WINDOW * (1 + n // 100), e.id, e.more) for n, e in enumerate(events)]
    found = wanted(dated, COUNTED)
    for cuts in ((0, 900), (0, 1, 99, 101, 250, 800, 900)):
        task = OneTask(only(COUNTED))
        for begin, end in itertools.pairwise(cuts):
            task.play(events[begin:end]).restarted()
        assert said(task.records) == found
    assert len(found) > 100


@pytest.mark.parametrize("design", [EACH, NEYMAN, QUOTA, COUNTED], ids=["each", "neyman", "quota", "records"])
def test_b7_b10_on_a_broker_workers_draw_records_of_several_strata_and_verify_agrees(
    make_job: MakeJob, design: dict[str, Any]
) -> None:
    events = films(900)
    scope = {} if "records" in design else {"scope": "global"}
    job = make_job(only({**design, **scope}), partitions=3)
    job.publish(events[:400])
    job.run()
    job.publish(events[400:])
    job.later(the_end(genres=["war"]))
    job.run_workers(2)
    if design in (EACH, NEYMAN):
        assert said(job.records) == wanted(events, design)
    ids = [record["record_id"] for record in job.records]
    assert len(set(ids)) == len(ids) > 60
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal > 60


def test_b14_the_strata_of_a_record_share_their_places_whatever_their_number() -> None:
    """A list of 3,000 unknown strata: one candidate in each of the places, and one record."""
    crowd = Event("shown", T0 + WINDOW, "crowd", {"genres": [f"g{n}" for n in range(3_000)], "amount": 1})
    task = OneTask(only(EACH, **{"limits.strata_max": 10})).play([crowd, *films(200)])
    assert task.task.windows is not None
    assert task.task.windows.held <= 4 * (10 + len(GENRES)) * (K + 1) * task.task.windows.open_windows
    task.restarted().play(the_end(genres=["war"]))
    assert sum(record["features"]["id"] == "crowd" for record in task.records) <= 1


def test_b11_a_record_without_strata_and_a_late_one_are_one_dead_letter_each() -> None:
    bad = Event("shown", T0 + WINDOW, "bad", {"genres": None})
    task = OneTask(only(EACH)).play([*films(60), bad])
    assert task.reasons == ["missing_stratum_or_unit"]
    assert task.dead[0].why("offset") == "60"
    assert "(sample.by)" in task.dead[0].why("message")
    task.play(the_end(genres=["war"])).play([Event("shown", T0 + WINDOW, "late", {"genres": ["war", "noir", "war"]})])
    assert task.reasons[1:] == ["late"]
