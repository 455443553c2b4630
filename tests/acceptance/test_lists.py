"""Samples by a list of designs, drawn one after the other, against the library: B13 of semantics.md."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from streamsample.records import Spans
from streamsample.sampling import SimpleCount, SimpleRate, StratifiedRate
from streamsample.sampling.composition import composed
from streamsample.sampling.design import Selection, unit_hash
from tests.acceptance.cluster import MakeJob
from tests.acceptance.test_global_windows import Tasks, the_end
from tests.acceptance.test_verify import verdicts
from tests.acceptance.timelines import T0, Event, OneTask, later
from tests.acceptance.windows import (
    CONVENIENCE,
    NEYMAN,
    QUOTA,
    RECENCY,
    RESERVOIR,
    SEED,
    STRATIFIED,
    WEIGHTED,
    drawn,
    only,
    shown,
)

RATE, OTHER = 0.4, 8
HALF = {"design": "simple", "rate": RATE, "seed": SEED}
RATES = {"IS": 0.9, "FR": 0.3}
BY_COUNTRY = {"design": "stratified", "by": "country", "rate": 0.2, "rates": RATES, "seed": SEED}
EVENTS = shown(1_200)
LASTS = pytest.mark.parametrize(
    "last",
    [RESERVOIR, WEIGHTED, {**WEIGHTED, "method": "priority"}, RECENCY, STRATIFIED, NEYMAN],
    ids=["reservoir", "exponential", "priority", "recency", "proportional", "neyman"],
)


def of_ids(events: list[Event]) -> Spans:
    return Spans.of([event.id.encode() for event in events])


def countries(events: list[Event]) -> Spans:
    return Spans.of([str(event.more["country"]).encode() for event in events])


def passed(events: list[Event], chosen: Selection) -> tuple[list[Event], dict[str, float]]:
    """Those that a design by rate keeps, and π of each, by id."""
    keep = chosen.keep.tolist()
    kept = [event for event, kept in zip(events, keep, strict=True) if kept]
    return kept, {event.id: pi for event, pi in zip(events, chosen.probability.tolist(), strict=True)}


def by_rate(first: dict[str, Any], said: float, stratum: str | None = None) -> dict[str, Any]:
    """What a record says of a stage that is a design by rate."""
    stage = {"design": first["design"], "unit": first.get("unit"), "seed": first["seed"], "stratum": stratum}
    return {**stage, "probability": said, "threshold": said, "n": None, "k": None}


def of_list(events: list[Event], first: dict[str, Any], last: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each record says: the library's sample of what the library's rates keep."""
    design: Any = SimpleRate(RATE, first["seed"])
    if first["design"] == "stratified":
        design = StratifiedRate(first["rate"], first["rates"], first["seed"])
    some, rates = passed(events, design.decide(of_ids(events), countries(events)))
    found = drawn(some, last)
    share = first["seed"] == last["seed"]
    for name, said in found.items():
        pair = [np.array([rates[name]]), np.array([said["probability"]])]
        pi = float(composed(*pair, u="shared" if share else "independent")[0])
        country = said["stratum"] if first["design"] == "stratified" else None
        stage = {key: said[key] for key in ("design", "seed", "probability", "threshold", "n", "k", "stratum")}
        said["stages"] = [by_rate(first, rates[name], country), {**stage, "unit": None}]
        said |= {"design": f"{first['design']} + {last['design']}", "probability": pi}
        said["threshold"] = pi if share else None
    return found


def said(task: OneTask) -> dict[str, dict[str, Any]]:
    records = [record for record in task.records if not record["features"]["id"].startswith("later")]
    return {record["features"]["id"]: record["sampling"] for record in records}


@LASTS
@pytest.mark.parametrize("seed", [SEED, OTHER], ids=["shared", "independent"])
def test_b13_a_rate_then_windows_multiply_or_intersect(last: dict[str, Any], seed: int) -> None:
    first = {**HALF, "seed": seed}
    wanted = of_list(EVENTS, first, last)
    task, chance = OneTask(only([first, last])), random.Random(seed)
    cuts = [0, *sorted(chance.sample(range(1, 1_200), 4)), 1_200]
    for begin, end in itertools.pairwise(cuts):
        task.play(EVENTS[begin:end], each=begin == cuts[2])
        if task.task.windows is not None and begin == cuts[1]:
            task.task.windows.rewrite()
        task.restarted()
    task.play(the_end())
    assert said(task) == wanted
    assert len(wanted) > 60
    assert task.dead == []
    pis = [one["probability"] for one in wanted.values()]
    assert min(pis) < max(pis) <= RATE
    for record in task.records:
        assert record["weights"]["sampling"] == pytest.approx(1 / record["sampling"]["probability"])
        assert record["features"]["country"] in ("DE", "FR", "IS")


@pytest.mark.parametrize("seed", [SEED, OTHER], ids=["shared", "independent"])
def test_b4_b13_what_earlier_stages_said_goes_with_a_record_to_the_windows_owner(seed: int) -> None:
    first, last = {**BY_COUNTRY, "seed": seed}, {**RESERVOIR, "scope": "global"}
    tasks = Tasks([first, last], 3, 900)
    for number in range(3):
        tasks.play(number, EVENTS[number::3][:200], restarted=True)
        tasks.play(number, EVENTS[number::3][200:])
    for number in range(3):
        tasks.play(number, the_end(f"later {number}"), restarted=number == 1)
    tasks.deliver_all(3)
    assert tasks.said == of_list(EVENTS, first, last)


def test_b13_each_unit_and_seed_is_a_draw_of_its_own_and_equal_ones_are_one() -> None:
    """Two rates on the id by one seed, between them one on the user by the same: min(0.8, 0.5) * 0.6."""
    stages = [
        {"design": "simple", "rate": 0.8, "seed": SEED},
        {"design": "simple", "rate": 0.6, "seed": SEED, "unit": "user"},
        {**BY_COUNTRY, "rate": 0.5, "rates": {"FR": 1.0}},
    ]
    some, _ = passed(EVENTS, SimpleRate(0.8, SEED).decide(of_ids(EVENTS), None))
    some, _ = passed(some, SimpleRate(0.6, SEED).decide(Spans.of([str(e.more["user"]).encode() for e in some]), None))
    some, last = passed(some, StratifiedRate(0.5, {"FR": 1.0}, SEED).decide(of_ids(some), countries(some)))
    task = OneTask(only(stages)).play(EVENTS[:500]).restarted().play(EVENTS[500:])
    assert sorted(said(task)) == sorted(event.id for event in some)
    assert 200 < len(some) < 600
    for record in task.records:
        one, country = record["sampling"], record["features"]["country"]
        assert one["probability"] == pytest.approx(0.6 * (0.8 if country == "FR" else 0.5))
        assert record["weights"]["sampling"] == pytest.approx(1 / one["probability"])
        assert (one["threshold"], one["stratum"], one["design"]) == (None, country, "simple + simple + stratified")
        rates = [by_rate(stages[0], 0.8), by_rate(stages[1], 0.6)]
        assert one["stages"] == [*rates, by_rate(stages[2], last[record["features"]["id"]], country)]


def test_b6_b13_the_weights_of_lists_estimate_the_count_without_bias() -> None:
    """Of 400 seeds: the mean of Σ 1/π is the number of events, shared or not."""
    events = shown(150, every_ms=50)
    for other in (0, 1):
        sums = []
        for seed in range(400):
            first, last = {**HALF, "seed": seed + other * 1_000}, {**RESERVOIR, "seed": seed, "k": 20}
            last = {key: value for key, value in last.items() if key not in ("by", "strata")}
            records = OneTask(only([first, last])).play(events).play(the_end()).records
            mine = [each for each in records if not each["features"]["id"].startswith("later")]
            sums.append(sum(each["weights"]["sampling"] for each in mine))
        z = (np.mean(sums) - 150) / (np.std(sums) / len(sums) ** 0.5)
        assert abs(z) < 4
        assert np.std(sums) > 5


@pytest.mark.parametrize("seed", [SEED, OTHER], ids=["shared", "independent"])
@pytest.mark.parametrize("labelled", [False, True])
def test_b13_a_target_count_after_a_rate_is_one_of_what_that_has_kept(seed: int, labelled: bool) -> None:
    """10 s windows of some 1,000 records, of which 400 are left, and 100 wanted."""
    events = [Event("shown", T0 + 10 * number, f"p{number}") for number in range(6_000)]
    count = {"design": "simple", "count": 100, "window": "10s", "first_rate": 0.5, "seed": seed}
    task = OneTask({"sample": [HALF, count]} if labelled else only([HALF, count]))
    for begin, end in itertools.pairwise((0, 1_234, 1_300, 6_000)):
        task.play(events[begin:end]).restarted()
    task.play(later("1h", ["shown", "clicked"] if labelled else ["shown"]))
    some, _ = passed(events, SimpleRate(RATE, SEED).decide(of_ids(events), None))
    library, wanted = SimpleCount(100, 10_000, 0.5), dict[str, float]()
    for begin in range(T0, T0 + 60_000, 10_000):
        library.close(begin - 1_000 - 1)
        members = [event for event in some if begin <= event.at < begin + 10_000]
        times = np.array([event.at for event in members])
        rate = float(library.decide(of_ids(members), times).probability[0])
        pi = rate * RATE  # shared: the threshold on u; else a rate of its own after RATE
        u = unit_hash(of_ids(members), seed)
        below = u < (pi if seed == SEED else rate)
        wanted |= {event.id: pi for event, yes in zip(members, below, strict=True) if yes}
    found = {name: one["probability"] for name, one in said(task).items()}
    assert found == pytest.approx(wanted)
    assert 400 < len(found) < 1_000


@pytest.mark.parametrize(
    "stages",
    [
        [{"design": "judgment", "rule": "country == 'IS'", "version": "1"}, RESERVOIR],
        [HALF, {"design": "judgment", "rule": "country == 'IS'", "version": "1"}],
        [HALF, QUOTA],
        [HALF, CONVENIENCE],
    ],
    ids=["judgment_first", "judgment_last", "quota", "convenience"],
)
def test_b12_a_list_with_a_stage_that_is_not_random_has_no_probability(stages: list[dict[str, Any]]) -> None:
    task = OneTask(only(stages)).play(EVENTS[:300]).restarted().play(EVENTS[300:]).play(the_end())
    assert len(said(task)) > 20
    for record in task.records:
        one = record["sampling"]
        assert (one["estimator"], one["probability"], one["threshold"]) == ("none", None, None)
        assert record["weights"]["sampling"] is None
        known = [stage["probability"] is not None for stage in one["stages"]]
        assert known == [stage["design"] in ("simple", "reservoir") for stage in stages]
        assert "judgment (1)" in one["design"] or one["design"].startswith("simple + ")


@pytest.mark.parametrize("seed", [SEED, OTHER], ids=["shared", "independent"])
def test_b13_labelled_records_carry_what_all_stages_said_when_they_were_drawn(seed: int) -> None:
    stages = [BY_COUNTRY, {**HALF, "seed": seed}]
    events = EVENTS[:90]
    task = OneTask({"sample": stages}).play(events).restarted()
    task.play([Event("clicked", event.at + 1_000, event.id) for event in events[::2]]).restarted()
    task.play(later("1h"))
    some, first = passed(events, StratifiedRate(0.2, RATES, SEED).decide(of_ids(events), countries(events)))
    some, _ = passed(some, SimpleRate(RATE, seed).decide(of_ids(some), None))
    found = said(task)
    assert sorted(found) == sorted(event.id for event in some)
    assert len(some) > 10
    for event in some:
        one, rate = found[event.id], first[event.id]
        assert one["probability"] == pytest.approx(min(rate, RATE) if seed == SEED else rate * RATE)
        country = str(event.more["country"])
        assert one["stages"] == [by_rate(stages[0], rate, country), by_rate(stages[1], RATE)]
    labels = {record["features"]["id"]: record["targets"]["clicked"]["source"] for record in task.records}
    assert all((labels[event.id] == "explicit") == (int(event.id[1:]) % 2 == 0) for event in some)


def test_b9_lists_stand_beside_other_samples_and_each_stage_counts_for_itself() -> None:
    samples = {"list": [HALF, RESERVOIR], "alone": RESERVOIR, "rates": [HALF, {**HALF, "seed": OTHER}]}
    task = OneTask({"feedback": None, "targets": None, "samples": samples})
    task.play(EVENTS[:500]).restarted().play(EVENTS[500:]).play(the_end())
    records = [each for each in task.records if not each["features"]["id"].startswith("later")]
    mine = {each["features"]["id"]: each["sampling"] for each in records if each["sampling"]["sample"] == "list"}
    assert mine == {name: {**one, "sample": "list"} for name, one in of_list(EVENTS, HALF, RESERVOIR).items()}
    assert len({each["record_id"] for each in task.records}) == len(task.records)
    called = [place.called for sample in task.task.plan.samples for place in sample.places]
    lists = ["list[0]: simple", "list[1]: reservoir", "alone: reservoir", "rates[0]: simple", "rates[1]: simple"]
    assert called == lists
    counts = {
        tuple(name.split("\x1f")): count for name, count in task.task.counts.items() if name.startswith("sampled")
    }
    for name in ("list", "rates"):
        shown = {what: counts["sampled", f"samples.{name}[0]", "other", what] for what in ("kept", "dropped")}
        assert sum(shown.values()) == len(EVENTS) + 1
    after = sum(counts["sampled", "samples.rates[1]", "other", what] for what in ("kept", "dropped"))
    assert after == counts["sampled", "samples.rates[0]", "other", "kept"]


def test_b11_a_record_that_a_later_stage_cannot_take_names_the_stage() -> None:
    events = [*EVENTS[:30], Event("shown", T0 + 20_000, "bad", {**EVENTS[0].more, "amount": -1})]
    stages = [{**HALF, "rate": 1.0}, {**WEIGHTED, "seed": OTHER}]
    task = OneTask(only(stages)).play(events).play(the_end())
    assert [letter.why("class") for letter in task.dead] == ["bad_weight"]
    assert "sample[1].weight" in task.dead[0].why("message")


def test_b13_on_a_broker_workers_draw_a_list_and_verify_derives_it_again(make_job: MakeJob) -> None:
    stages = [{**BY_COUNTRY, "seed": OTHER}, {**RESERVOIR, "scope": "global"}]
    job = make_job(only(stages), partitions=3)
    job.publish(EVENTS[:700])
    job.run_workers(2)
    job.publish(EVENTS[700:])
    job.later(the_end())
    job.run_workers(2)
    records = [record for record in job.records if not record["features"]["id"].startswith("later")]
    wanted = of_list(EVENTS, *stages)
    assert {record["features"]["id"]: record["sampling"] for record in records} == wanted
    assert len(records) == len(wanted)
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal == verdict.derived == len(wanted)


def test_b13_on_a_broker_verify_derives_the_draws_of_a_labelled_list(make_job: MakeJob) -> None:
    job = make_job({"sample": [BY_COUNTRY, {**HALF, "seed": OTHER}]})
    job.publish(EVENTS[:400])
    job.later([Event(event.kind, event.at, event.id, {"country": "?"}) for event in later("1h")])
    job.run()
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal == len(job.records) > 20
