"""Windowed samples of a job against the library's samples of the same windows; section B of semantics.md."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from streamsample.records import TopicPartition
from streamsample.runtime.state import ChunkLog
from streamsample.runtime.task import Task
from tests.acceptance.cluster import MakeJob
from tests.acceptance.timelines import T0, Event, OneTask, later
from tests.acceptance.windows import (
    CONVENIENCE,
    COUNTED,
    COUNTRIES,
    GRACE,
    NEYMAN,
    QUOTA,
    RECENCY,
    REPLACED,
    RESAMPLED,
    RESERVOIR,
    SINCE,
    STRATIFIED,
    WEIGHTED,
    WINDOW,
    K,
    counted,
    drawn,
    only,
    shown,
    snapshots,
)

DESIGNS = pytest.mark.parametrize(
    "design",
    [
        *(RESERVOIR, WEIGHTED, {**WEIGHTED, "method": "priority"}, RECENCY, {**RECENCY, "weight": "amount"}),
        *(STRATIFIED, {**STRATIFIED, "allocation": "equal", "k_max": 12, "strata": ["DE"]}, NEYMAN),
        *(REPLACED, RESAMPLED),
    ],
    ids=[
        *("reservoir", "exponential", "priority", "recency", "recency_by_weight", "proportional", "equal", "neyman"),
        *("replacement", "importance"),
    ],
)
SCOPES = pytest.mark.parametrize("scope", ["partition", "global"])
END = later("1h", ["shown"])
WHERE = TopicPartition("job.changelog", 0)


def said(task: OneTask) -> dict[str, dict[str, Any]]:
    """The records' `sampling`, by id."""
    found = {record["features"]["id"]: record["sampling"] for record in task.records}
    assert len(found) == len(task.records)
    return found


def with_country(events: list[Event]) -> list[Event]:
    return [Event(e.kind, e.at, e.id, {"country": "IS", "amount": 1, "p": 1, "q": 1, **e.more}) for e in events]


@SCOPES
@DESIGNS
def test_b3_each_window_has_the_sample_of_its_records(design: dict[str, Any], scope: str) -> None:
    events, design = shown(1_500), {**design, "scope": scope}
    task = OneTask(only(design)).play(events).play(with_country(END))
    assert task.dead == []
    wanted = drawn(events, design)
    assert said(task) == wanted
    assert len(task.written) == len(wanted) > 150
    for record in task.records:
        if record["sampling"]["estimator"] == "horvitz_thompson":
            assert record["weights"]["sampling"] == pytest.approx(1 / record["sampling"]["probability"])
        assert record["closed_by"] == "event"
        assert record["targets"] == {}
    times = {record.tree["features"]["at"]: record.timestamp for record in task.written}
    assert all(when == (at // WINDOW + 1) * WINDOW + GRACE for at, when in times.items())


@SCOPES
@DESIGNS
def test_b7_b8_batches_restarts_and_order_change_nothing(design: dict[str, Any], scope: str) -> None:
    events, design = shown(600), {**design, "scope": scope}
    whole = OneTask(only(design)).play(events).play(with_country(END))
    chance = random.Random(3)
    for _ in range(4):
        task = OneTask(only(design))
        cuts = [0, *sorted(chance.sample(range(1, 600), 4)), 600]
        for start, end in itertools.pairwise(cuts):
            part = events[start:end]
            for at in range(0, len(part), 5):  # disorder within the grace
                part[at : at + 5] = chance.sample(part[at : at + 5], len(part[at : at + 5]))
            task.play(part, each=chance.random() < 0.2).restarted()
        task.play(with_country(END))
        assert said(task) == said(whole)


def test_b15_draws_with_replacement_carry_their_number_and_the_weight_of_hansen_and_hurwitz() -> None:
    events = shown(500)
    whole: Counter[tuple[int, str]] = Counter()
    for event in events:
        whole[event.at // WINDOW, event.more["country"]] += event.more["amount"]
    task = OneTask(only(REPLACED)).play(events[:200]).restarted().play(events[200:]).play(with_country(END))
    drawn_in: Counter[tuple[int, str]] = Counter()
    for record in task.records:
        features, said = record["features"], record["sampling"]
        place = (features["at"] // WINDOW, features["country"])
        drawn_in[place] += said["draws"]
        weight = said["draws"] * whole[place] / (K * features["amount"])
        assert record["weights"]["sampling"] == pytest.approx(weight)
        assert said["estimator"] == "hansen_hurwitz"
    assert set(drawn_in.values()) == {K}


def test_b15_importance_keeps_all_with_ratios_or_resamples_with_equal_weights() -> None:
    events, bad = shown(300), {3: {"q": 0, "p": 0.1}, 5: {"p": -1}, 8: {"q": None}}
    for number, more in bad.items():
        where = events[number]
        events[number] = Event(where.kind, where.at, where.id, {**where.more, **more})
    kept = OneTask(only({"design": "importance", "target": "p", "proposal": "q", "keep": "all"})).play(events)
    assert len(kept.records) == 297
    for record in kept.records:
        assert record["weights"]["sampling"] == pytest.approx(record["features"]["p"] / record["features"]["q"])
        assert (record["sampling"]["estimator"], record["sampling"]["probability"]) == ("self_normalised", 1.0)
    drawn_again = OneTask(only(RESAMPLED)).play(events).play(with_country(END))
    assert said(drawn_again) == drawn([e for n, e in enumerate(events) if n not in bad], RESAMPLED)
    for record in drawn_again.records:
        assert record["weights"]["sampling"] == record["sampling"]["draws"]
        assert record["features"]["p"] > 0
    for task in (kept, drawn_again):
        assert sorted(letter.why("offset") for letter in task.dead) == ["3", "5", "8"]
        assert {(letter.why("stage"), letter.why("class")) for letter in task.dead} == {("sample", "bad_ratio")}


@pytest.mark.parametrize("design", [CONVENIENCE, QUOTA], ids=["convenience", "quota"])
def test_b12_the_first_that_come_are_marked_as_not_random(design: dict[str, Any]) -> None:
    """First by event time, then by offset: not by arrival, which restarts and disorder would change."""
    events = [Event(each.kind, each.at // 1_000 * 1_000, each.id, each.more) for each in shown(600)]
    places = defaultdict(list)
    for event in events:
        places[event.at // WINDOW, design["design"] == "quota" and event.more["country"]].append(event)
    wanted = {e.id: len(some) for some in places.values() for e in sorted(some, key=lambda e: e.at)[:K]}
    task = OneTask(only(design))
    for begin in range(0, 600, 120):
        task.play(events[begin : begin + 120], each=begin == 240).restarted()
    task.play(with_country(END))
    found = said(task)
    assert {name: one["n"] for name, one in found.items()} == wanted
    for record in task.records:
        assert record["weights"]["sampling"] is None
        one = record["sampling"]
        assert (one["design"], one["estimator"], one["k"]) == (design["design"], "none", K)
        assert (one["probability"], one["threshold"], one["seed"]) == (None, None, 0)
        assert one["stratum"] == (record["features"]["country"] if design["design"] == "quota" else None)


@pytest.mark.parametrize("design", [SINCE, {**SINCE, "design": "weighted", "weight": "amount"}], ids=["all", "heavy"])
def test_b3_every_snapshot_is_the_sample_of_everything_so_far(design: dict[str, Any]) -> None:
    """Restarts, rewritten changelogs and disorder change nothing; a record is another record in each snapshot."""
    events = [event for event in shown(1_500) if event.at // WINDOW % 4]  # in some windows nothing comes
    for cuts in ([1_000], [100, 333, 600, 601, 900]):
        task, begin = OneTask(only(design)), 0
        for number, end in enumerate([*cuts, len(events)]):
            task.play(events[begin:end], each=number == 1)
            if task.task.windows is not None and number == 2:
                task.task.windows.rewrite()
            task.restarted()
            begin = end
        task.play(with_country(END))
        said = {(one["sampling"]["until"], one["features"]["id"]): one["sampling"] for one in task.records}
        assert said == snapshots(events, design)
        assert len({one["record_id"] for one in task.records}) == len(task.records) == len(said) > 100
        assert all(each.timestamp == each.tree["sampling"]["until"] + GRACE for each in task.written)
        assert task.dead == []


def test_b14_what_is_held_since_the_start_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkLog, "_SLACK", 10)
    task, events = OneTask(only(SINCE)), shown(3_000)
    for at in range(0, 3_000, 20):
        task.play(events[at : at + 20])
        task.commit()
        assert task.task.log.elements < 250
    assert task.task.windows is not None
    assert task.task.windows.held < 3 * 4 * K


@pytest.mark.parametrize(
    "design", [COUNTED, {**COUNTED, "design": "weighted", "weight": "amount"}, {**COUNTED, "design": "stratified"}]
)
def test_b7_b8_samples_of_each_so_many_records(design: dict[str, Any]) -> None:
    events, chance = shown(750), random.Random(4)
    bad = Event("shown", T0, "none", {"country": None, "amount": 1})  # not usable, so not counted
    wanted = counted(events, design) if design["design"] != "stratified" else None
    for _ in range(3):
        task, cuts = OneTask(only(design)), sorted(chance.sample(range(1, 750), 5))
        for begin, end in itertools.pairwise([0, *cuts, 750]):
            task.play(events[begin:end], each=chance.random() < 0.3)
            if begin:
                task.restarted().play([bad])
        wanted = said(task) if wanted is None else wanted
        assert said(task) == wanted
        assert task.reasons == ["missing_stratum_or_unit"] * 5
        assert max(one["lineage"]["prediction"]["offset"] for one in task.records) < 705
        times = defaultdict(list)
        for each in task.written:
            times[each.timestamp].append(each.tree["features"]["at"])
            assert each.tree["closed_by"] == "event"
        assert len(times) == 7
        assert all(max(members) == timestamp for timestamp, members in times.items())


def test_b9_samples_side_by_side_are_what_each_would_be_alone() -> None:
    """In one pass, by rate and of windows, with records and dead letters of their own; restarts change nothing."""
    simple = {"design": "simple", "rate": 0.1, "seed": 3}
    samples = {"all": RESERVOIR, "heavy": WEIGHTED, "some": simple, "so_far": SINCE, "counted": COUNTED}
    events = shown(600)
    events[7] = Event("shown", events[7].at, "p7", {**events[7].more, "amount": -1})
    changes = {"feedback": None, "targets": None, "samples": samples}
    task = OneTask(changes)
    for begin in range(0, 600, 150):
        task.play(events[begin : begin + 150]).restarted()
    task.play(with_country(END))
    assert len({record["record_id"] for record in task.records}) == len(task.records)
    for name, sample in samples.items():
        alone = OneTask(only(sample)).play(events).play(with_country(END))
        mine = [each for each in task.written if each.tree["sampling"]["sample"] == name]
        wanted = [each.tree for each in alone.written]
        for tree in wanted:
            tree["sampling"]["sample"] = name
        found = [each.tree for each in mine]
        for tree in (*wanted, *found):
            del tree["record_id"], tree["lineage"]["version"]
        key = lambda tree: (tree["sampling"]["until"] or 0, tree["features"]["id"])  # noqa: E731
        assert sorted(found, key=key) == sorted(wanted, key=key)
        assert [each.timestamp for each in mine] == [each.timestamp for each in alone.written]
        counts = {tuple(where.split("\x1f")): count for where, count in task.task.counts.items() if name in where}
        expected = {tuple(where.split("\x1f")): count for where, count in alone.task.counts.items()}
        assert counts == {
            ("sampled", f"samples.{name}", *key[2:]): n for key, n in expected.items() if key[0] == "sampled"
        }
    assert [(letter.why("class"), letter.why("offset")) for letter in task.dead] == [("bad_weight", "7")]
    assert "samples.heavy.weight" in task.dead[0].why("message")


def test_b9_a_unit_is_kept_with_all_its_records() -> None:
    by_user = {**RESERVOIR, "unit": "user"}
    events = shown(900)
    task = OneTask(only(by_user)).play(events).play(with_country([Event("shown", END[0].at, "last", {"user": "u"})]))
    assert said(task) == drawn(events, by_user, unit="user")


def test_b11_weights_that_are_none_are_dead_letters_and_zero_is_never_sampled() -> None:
    events = shown(200)
    bad: list[Any] = [None, -1, "NaN", "heavy"]
    for number, amount in enumerate(bad):
        where = events[10 * number]
        events[10 * number] = Event(where.kind, where.at, where.id, {**where.more, "amount": amount})
    task = OneTask(only(WEIGHTED)).play(events).play(with_country(END))
    good = [event for number, event in enumerate(events) if number not in (0, 10, 20, 30)]
    assert said(task) == drawn(good, WEIGHTED)
    assert {letter.why("offset") for letter in task.dead} == {"0", "10", "20", "30"}
    assert [
        (letter.why("stage"), letter.why("class"))
        for letter in sorted(task.dead, key=lambda one: int(one.why("offset")))
    ] == [*[("sample", "bad_weight")] * 2, *[("decode", "wrong_type")] * 2]
    amounts = {record["features"]["amount"] for record in task.records}
    assert 0 not in amounts


def test_b10_an_allocation_is_by_all_records_of_a_window_and_keeps_the_minimum() -> None:
    """The rare country gives its minimum, the country whose amounts differ most gives most (Neyman)."""
    random = np.random.default_rng(1)
    spread = {"DE": 1.0, "FR": 100.0, "IS": 0.0}
    events = [
        Event("shown", T0 + WINDOW, f"p{number}", {"country": name, "amount": 500 + spread[name] * random.normal()})
        for number, name in enumerate(["DE"] * 400 + ["FR"] * 400 + ["IS"] * 5)
    ]
    sizes = {}
    for allocation in ("proportional", "equal", "neyman"):
        design = {**STRATIFIED, "allocation": allocation, "minimum": 3, "k_max": 25}
        if allocation == "neyman":
            design["of"] = "amount"
        task = OneTask(only(design)).play(events).play(with_country(END))
        assert said(task) == drawn(events, design)
        sizes[allocation] = Counter(record["sampling"]["stratum"] for record in task.records)
    assert sizes == {
        "proportional": {"DE": 14, "FR": 13, "IS": 3},
        "equal": {"DE": 13, "FR": 12, "IS": 5},
        "neyman": {"DE": 3, "FR": 24, "IS": 3},
    }


def test_b11_a_value_that_is_none_cannot_allocate() -> None:
    events = shown(60)
    for number, amount in enumerate([None, 1e200, "NaN"]):
        where = events[10 * number]
        events[10 * number] = Event(where.kind, where.at, where.id, {**where.more, "amount": amount})
    task = OneTask(only(NEYMAN)).play(events).play(with_country(END))
    assert said(task) == drawn([event for number, event in enumerate(events) if number not in (0, 10, 20)], NEYMAN)
    assert sorted((letter.why("stage"), letter.why("class")) for letter in task.dead) == [
        ("decode", "wrong_type"), *[("sample", "bad_value")] * 2
    ]  # fmt: skip


def test_a6_a_record_after_its_windows_close_is_late() -> None:
    task = OneTask(only(RESERVOIR)).play(shown(5)).play(with_country(END))
    before = len(task.records)
    task.play(shown(1, first=900))
    assert len(task.records) == before
    assert [(letter.why("stage"), letter.why("class")) for letter in task.dead] == [("sample", "late")]


def test_b10_strata_that_are_not_declared_share_bounded_places() -> None:
    design = {**RESERVOIR, "strata": ["DE"]}
    events = [
        Event("shown", T0 + WINDOW + number, f"p{number}", {"country": f"X{number % 500}"}) for number in range(2_000)
    ]
    events += [Event("shown", T0 + WINDOW, f"d{number}", {"country": "DE"}) for number in range(3)]
    task = OneTask(only(design, limits={"strata_max": 10})).play(events).play(with_country(END))
    records = [record for record in task.records if not record["features"]["id"].startswith("later")]
    places = {(record["sampling"]["n"], record["sampling"]["threshold"]) for record in records}
    assert len(places) == 11
    assert sum(n for n, _ in places) == 2_003
    assert len(records) == 4 * 10 + 3  # min(n, k) of the declared one
    assert {record["sampling"]["stratum"] for record in records if record["features"]["id"][0] == "d"} == {"DE"}


def test_b14_the_changelog_stays_within_twice_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long window: what was displaced is in old chunks, which go when what is left of them is written again."""
    monkeypatch.setattr(ChunkLog, "_SLACK", 10)
    events = [Event("shown", T0 + WINDOW + number, f"p{number}", {"country": "IS"}) for number in range(1_000)]
    task = OneTask(only(RESERVOIR))
    for at in range(0, 1_000, 4):
        task.play(events[at : at + 4])
        task.commit()
        first = task.task.log.position().first
        assert task.task.log.elements <= 2 * (K + 1) + 10 + (4 + 1) + (
            K + 1
        )  # the last commit's, and what was written again
    assert first > 200
    assert task.task.windows is not None
    assert task.task.windows.held == K
    chunks = [chunk for chunk in task.chunks if chunk.sequence >= first]
    fresh = Task(task.plan, 0, task.settings)
    fresh.restore(chunks, dict(task.task.positions), WHERE)
    task.task = fresh
    task.play(with_country(END))
    assert said(task) == drawn(events, RESERVOIR)


def test_a_task_counts_what_it_kept_by_declared_stratum() -> None:
    events = shown(300)
    task = OneTask(only({**RESERVOIR, "strata": ["IS"]})).play(events).play(with_country(END))
    kept = drawn(events, RESERVOIR)
    counts = {tuple(name.split("\x1f"))[2:]: count for name, count in task.task.counts.items() if "sampled" in name}
    assert counts["IS", "kept"] == sum(one["stratum"] == "IS" for one in kept.values())
    assert counts["IS", "kept"] + counts["IS", "dropped"] == 100
    assert counts["other", "kept"] + counts["other", "dropped"] == 200


# -- on a real broker ------------------------------------------------------------------------------------


def everything(job: Any, events: list[Event], design: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The oracle of each partition, put together."""
    by_partition: dict[int, list[Event]] = {}
    for event in events:
        place = job.partition_of(event.id)
        by_partition.setdefault(place, []).append(event)
    found: dict[str, dict[str, Any]] = {}
    for members in by_partition.values():
        found |= drawn(members, design)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_b7_on_a_broker_one_and_two_workers_draw_the_sample_of_each_partition(make_job: MakeJob, workers: int) -> None:
    job = make_job(only(RESERVOIR), partitions=3)
    events = shown(2_000)
    job.publish(events[:1_200])
    job.run_workers(workers)
    job.publish(events[1_200:])
    job.later(with_country(END))
    job.run_workers(workers)
    found = {
        record["features"]["id"]: record["sampling"]
        for record in job.records
        if not record["features"]["id"].startswith("later")
    }
    assert found == everything(job, events, RESERVOIR)
    assert {one["stratum"] for one in found.values()} == set(COUNTRIES)
    assert job.dead == []
