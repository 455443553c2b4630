"""The cases B of semantics.md as far as designs by rate go: what is drawn, and what a record says of it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.acceptance.timelines import T0, Event, OneTask, later

USERS = 40
COUNTRIES = ["DE", "FR", "IS"]


def shown(count: int, first: int = 0) -> list[Event]:
    """Predictions of several users and countries."""
    return [
        Event(
            "shown",
            T0 + number,
            f"p{number}",
            {"user": f"u{number % USERS}", "country": COUNTRIES[number % 3]},
        )
        for number in range(first, first + count)
    ]


def sampled(design: dict[str, Any], events: list[Event], **changes: Any) -> dict[str, dict[str, Any]]:
    """What a job that only samples writes, by id."""
    only_sampling = {"feedback": None, "targets": None, "sample": design, **changes}
    task = OneTask(only_sampling).play(events)
    assert task.dead == []
    return {record["features"]["id"]: record for record in task.records}


SIMPLE = {"design": "simple", "rate": 0.2, "seed": 5}
STRATIFIED = {"design": "stratified", "by": "country", "rate": 0.1, "rates": {"IS": 1.0, "FR": 0.0}, "seed": 5}


@pytest.mark.parametrize("design", [SIMPLE, STRATIFIED], ids=["simple", "stratified"])
def test_b7_a_sample_depends_on_no_order_batch_or_repetition(design: dict[str, Any]) -> None:
    events = shown(1_500)
    wanted = {name: record["sampling"] for name, record in sampled(design, events).items()}
    assert 250 < len(wanted) < 700
    shuffled = events + random.Random(2).sample(events, 150)
    random.Random(1).shuffle(shuffled)
    for at in (1, 700, len(shuffled)):
        parts = [shuffled[:at], shuffled[at:]]
        merged: dict[str, Any] = {}
        for part in parts:  # each as another worker would see it
            merged |= {name: record["sampling"] for name, record in sampled(design, part).items()}
        assert merged == wanted


def test_b8_restarts_at_random_points_draw_the_same_sample() -> None:
    events = shown(400)
    whole = OneTask({"sample": SIMPLE}).play(events).play(later("1h"))
    chance = random.Random(8)
    for _ in range(5):
        task = OneTask({"sample": SIMPLE})
        cuts = [0, *sorted(chance.sample(range(1, 400), 3)), 400]
        for start, end in itertools.pairwise(cuts):
            task.play(events[start:end]).restarted()
        task.play(later("1h"))
        assert task.written == whole.written


@pytest.mark.parametrize("labelled", [False, True])
def test_a8_b7_a_target_count_has_a_rate_that_replays(labelled: bool) -> None:
    """1 s windows of some 50 predictions, of which 10 are wanted; grace 0.2 s."""
    chance, design = random.Random(3), {"design": "simple", "count": 10, "window": "1s", "first_rate": 0.5, "seed": 5}
    events = [Event("shown", T0 + 20 * number + chance.randrange(90), f"p{number}", {}) for number in range(600)]
    changes: dict[str, Any] = {"sample": design, "grace": "200ms"}
    if not labelled:
        changes |= {"feedback": None, "targets": None}
    outcomes = []
    for cuts in ([0, 600], [0, 7, 8, 200, 450, 600]):
        task = OneTask(changes)
        for start, end in itertools.pairwise(cuts):
            task.play(events[start:end], each=start == 200).restarted()
        task.play(later("1h", ("shown", "clicked") if labelled else ("shown",)))
        records = [record for record in task.records if not record["features"]["id"].startswith("later")]
        assert task.dead == []
        outcomes.append({record["features"]["id"]: record["sampling"]["probability"] for record in records})
    assert outcomes[0] == outcomes[1]
    windows: dict[int, set[float]] = {}
    for number, event in enumerate(events):
        if f"p{number}" in outcomes[0]:
            windows.setdefault((event.at - T0) // 1_000, set()).add(outcomes[0][f"p{number}"])
    assert all(len(found) == 1 for found in windows.values())
    rates = [found.pop() for _, found in sorted(windows.items())][:12]  # the rest is a few latecomers
    assert rates == pytest.approx([0.5, 0.5, *[0.2] * 10], rel=0.15)
    assert 80 < len(outcomes[0]) < 220


@pytest.mark.parametrize("labelled", [False, True])
def test_b12_what_an_experts_rule_takes_is_marked_as_not_random(labelled: bool) -> None:
    design = {"design": "judgment", "rule": "country == 'IS' && size(user) == 2", "version": "short users, 2"}
    changes: dict[str, Any] = {"sample": design}
    if not labelled:
        changes |= {"feedback": None, "targets": None}
    task = OneTask(changes).play(shown(200)[:90]).restarted().play(shown(200)[90:])
    task.play(later("1h", ("shown", "clicked") if labelled else ("shown",)))
    wanted = [each.id for each in shown(200) if each.more["country"] == "IS" and len(str(each.more["user"])) == 2]
    assert sorted(record["features"]["id"] for record in task.records) == sorted(wanted)
    assert 10 < len(wanted) < 40
    for record in task.records:
        said = record["sampling"]
        assert (said["design"], said["estimator"]) == ("judgment (short users, 2)", "none")
        assert (said["probability"], said["threshold"], record["weights"]["sampling"]) == (None, None, None)


def test_b9_a_larger_rate_keeps_what_a_smaller_one_kept() -> None:
    events = shown(6_000)
    one, five = (set(sampled({"design": "simple", "rate": rate, "seed": 3}, events)) for rate in (0.01, 0.05))
    assert 30 < len(one) < 90 < 220 < len(five) < 380
    assert one < five


def test_b9_streams_sampled_by_the_same_unit_keep_the_same_units() -> None:
    by_user = {"design": "simple", "rate": 0.3, "unit": "user", "seed": 9}
    first = {record["features"]["user"] for record in sampled(by_user, shown(1_000)).values()}
    second = {record["features"]["user"] for record in sampled(by_user, shown(1_000, first=50_000)).values()}
    assert first == second
    assert 4 < len(first) < 22
    kept = sampled(by_user, shown(1_000))
    assert len(kept) == 1_000 // USERS * len(first)  # a user's records are kept or dropped together
    other = {record["features"]["user"] for record in sampled({**by_user, "seed": 10}, shown(1_000)).values()}
    assert other != first


def test_b11_a_record_without_its_stratum_or_unit_is_a_dead_letter_with_its_offset() -> None:
    design = {**STRATIFIED, "unit": "user"}
    task = OneTask({"feedback": None, "targets": None, "sample": design})
    whole = {"user": "u", "country": "IS"}
    task.play([Event("shown", T0, "a", whole), Event("shown", T0, "b", {"user": "u"}), Event("shown", T0, "c", whole)])
    task.play([Event("shown", T0, "d", {"country": "IS"}), Event("shown", T0, "e", whole)])
    assert [record["features"]["id"] for record in task.records] == ["a", "c", "e"]
    assert [(letter.why("stage"), letter.why("class"), letter.why("offset")) for letter in task.dead] == [
        ("sample", "missing_stratum_or_unit", "1"),
        ("sample", "missing_stratum_or_unit", "3"),
    ]


def test_b11_a_rate_of_zero_is_never_sampled_and_a_rate_of_one_always() -> None:
    kept = sampled(STRATIFIED, shown(3_000))
    by_country = {
        country: [r for r in kept.values() if r["features"]["country"] == country] for country in ("DE", "FR", "IS")
    }
    assert len(by_country["FR"]) == 0
    assert len(by_country["IS"]) == 1_000
    assert 70 < len(by_country["DE"]) < 130


def test_a_record_says_how_it_was_drawn() -> None:
    kept = sampled(STRATIFIED, shown(60))
    for record in kept.values():
        country = record["features"]["country"]
        rate = {"IS": 1.0, "DE": 0.1}[country]
        assert record["sampling"] == {
            "sample": None,
            "design": "stratified",
            "estimator": "horvitz_thompson",
            "probability": rate,
            "threshold": rate,
            "n": None,
            "k": None,
            "draws": None,
            "until": None,
            "stratum": country,
            "seed": 5,
            "stages": [],
        }
        assert record["weights"] == {"sampling": 1 / rate, "delay": None, "log_odds_offset": None}


def test_b13_the_split_has_a_salt_of_its_own() -> None:
    """The sample and the split hash the same unit: with one salt, a sample of 20 % would all be for training."""
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    events = shown(12_000)
    kept = sampled({"design": "simple", "rate": 0.2, "seed": 0}, events, split=split)
    shares = {name: sum(record["split"] == name for record in kept.values()) / len(kept) for name in split}
    for name, share in split.items():
        assert abs(shares[name] - share) < 4 * (share * (1 - share) / len(kept)) ** 0.5
    everything = sampled({"design": "simple", "rate": 1.0, "seed": 0}, events, split=split)
    assert {name: record["split"] for name, record in kept.items()} == {
        name: everything[name]["split"] for name in kept
    }


def test_b13_the_label_join_thins_nothing_and_keeps_what_the_draw_said() -> None:
    task = (
        OneTask({"sample": STRATIFIED})
        .play(shown(300))
        .play([Event("clicked", event.at + 1_000, event.id) for event in shown(300)[::2]])
    )
    task.play(later("1h"))
    drawn = sampled(STRATIFIED, shown(300))
    joined = {record["features"]["id"]: record["sampling"] for record in task.records}
    assert joined == {name: record["sampling"] for name, record in drawn.items()}
