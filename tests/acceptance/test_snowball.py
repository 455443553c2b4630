"""Snowball samples of jobs, by their definition in plain Python: in each partition, in its order (B12)."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.records import TopicPartition
from streamsample.runtime.audit import Audit
from streamsample.runtime.output import Output
from streamsample.runtime.state import ChunkLog
from tests.acceptance.cluster import MakeJob
from tests.acceptance.timelines import T0, Event, OneTask, later
from tests.acceptance.windows import only

SNOWBALL = {"design": "snowball", "from": "by", "to": "invited", "seeds": ["ada", 7], "hops": 3, "frontier_max": 60}
SLICED = {**SNOWBALL, "by": "country", "strata": ["IS"]}
SEEDS = ("ada", "7")


def invited(count: int, chance: random.Random, people: int = 120) -> list[Event]:
    """Invitations among people; those who came later are invited by those who were there, mostly."""
    found = []
    for number in range(count):
        begin = chance.choice([*SEEDS, *(f"u{chance.randrange(people)}" for _ in range(4))])
        end: Any = f"u{chance.randrange(people)}"
        if chance.random() < 0.05:
            end = 7  # an id is bytes in one form
        more = {"by": begin, "invited": end, "country": chance.choice(["IS", "DE", "FR"])}
        found.append(Event("shown", T0 + number, f"p{number}", more))
    return found


def waves(events: Iterable[Event], design: dict[str, Any] = SNOWBALL) -> tuple[dict[str, int], int, int]:
    """By definition: of each record that is taken the steps from a seed; how many nodes were turned away, and how many
    were reached.
    """
    steps, found, refused = dict.fromkeys(SEEDS, 0), {}, 0
    for event in events:
        begin, end = str(event.more["by"]), str(event.more["invited"])
        if steps.get(begin, design["hops"]) < design["hops"]:
            found[event.id] = step = steps[begin] + 1
            if end in steps or len(steps) < design["frontier_max"]:
                steps[end] = min(step, steps.get(end, step))
            else:
                refused += 1
    return found, refused, len(steps)


def taken(records: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The steps that records say, by id."""
    return {record["features"]["id"]: int(record["sampling"]["stratum"]) for record in records}


@given(st.integers(0, 10**6).map(random.Random), st.lists(st.integers(1, 399), max_size=4), st.booleans())
@settings(deadline=None, max_examples=25)
def test_b12_a8_a_snowball_does_not_depend_on_batches_or_restarts(
    chance: random.Random, cuts: list[int], each: bool
) -> None:
    events = invited(400, chance)
    task = OneTask(only(SNOWBALL))
    for number, (begin, end) in enumerate(itertools.pairwise(sorted({0, 400, *cuts}))):
        task.play(events[begin:end], each=each and end - begin < 50)
        if number % 2:
            task.commit()
        task.restarted()
    wanted, refused, reached = waves(events)
    assert taken(task.records) == wanted
    assert task.task.counts.get("frontier\x1fsample", 0) == refused
    assert task.task.reached == {"snowball": reached}
    assert task.dead == []


def test_b12_records_say_that_there_is_no_probability_and_the_step() -> None:
    task = OneTask(only({**SNOWBALL, "frontier_max": 4}))
    lines = [("ada", "bo"), ("x", "y"), ("bo", "cy"), ("cy", "di"), ("bo", "ed"), ("ed", "fi"), ("ada", "cy")]
    task.play([Event("shown", T0, f"p{at}", {"by": a, "invited": b}) for at, (a, b) in enumerate(lines)])
    assert taken(task.records) == {"p0": 1, "p2": 2, "p3": 3, "p4": 2, "p6": 1}
    for record in task.records:
        said = record["sampling"]
        assert (said["design"], said["estimator"], said["probability"]) == ("snowball", "none", None)
        assert record["weights"]["sampling"] is None
    counts = task.task.counts
    assert (counts["sampled\x1fsample\x1fother\x1fkept"], counts["sampled\x1fsample\x1fother\x1fdropped"]) == (5, 2)
    assert counts["frontier\x1fsample"] == 2  # di and ed found it full


def test_b11_a_relation_without_an_end_is_a_dead_letter_and_the_rest_goes_on() -> None:
    task = OneTask(only(SNOWBALL))
    ends: list[dict[str, Any]] = [{"by": "ada"}, {"invited": "bo"}, {"by": "ada", "invited": None}]
    ends.append({"by": "ada", "invited": "bo"})
    task.play([Event("shown", T0, f"p{at}", more) for at, more in enumerate(ends)])
    assert task.reasons == ["missing_relation"] * 3
    assert "the field 'by' or the field 'invited' is null" in task.dead[0].why("message")
    assert "(sample.from, sample.to)" in task.dead[0].why("message")
    assert taken(task.records) == {"p3": 1}


@pytest.mark.parametrize("early", [False, True])
def test_a3_with_targets_what_was_taken_is_labelled(early: bool) -> None:
    events = invited(300, random.Random(4))
    wanted = waves(events)[0]
    clicks = [Event("clicked", event.at + 5, event.id) for event in events[::3]]
    task = OneTask({"sample": SNOWBALL, "targets.clicked.early": early})
    task.play(events[:150]).restarted()
    task.play(clicks[:40]).play(events[150:]).restarted()
    task.play(clicks[40:]).play(later("1h"))
    records = [record for record in task.records if record["state"] == "final"]
    assert taken(records) == wanted
    third = {event.id for event in events[::3]}
    assert {record["features"]["id"]: record["targets"]["clicked"]["value"] for record in records} == {
        name: int(name in third) for name in wanted
    }


def test_b13_in_a_list_it_follows_what_was_kept_before_it() -> None:
    events = invited(600, random.Random(5))
    half = {"design": "simple", "rate": 0.5, "seed": 1}
    kept = OneTask(only(half)).play(events).records
    names = {record["features"]["id"] for record in kept}
    wanted = waves(event for event in events if event.id in names)[0]
    task = OneTask(only([half, SNOWBALL])).play(events[:77]).restarted().play(events[77:])
    assert taken(task.records) == wanted
    assert {record["sampling"]["design"] for record in task.records} == {"simple + snowball"}
    for record in task.records:
        assert record["sampling"]["probability"] is None
        assert [stage["probability"] for stage in record["sampling"]["stages"]] == [0.5, None]
    turned = OneTask(only([SNOWBALL, half])).play(events).records
    assert {record["features"]["id"] for record in turned} == names & set(waves(events)[0])
    assert all(record["sampling"]["probability"] is None for record in turned)


def test_b14_the_changelog_stays_within_twice_the_frontier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkLog, "_SLACK", 10)
    design = {**SNOWBALL, "hops": 1_000, "frontier_max": 300}
    events = invited(3_000, random.Random(6), people=2_000)
    for labelled in (False, True):
        task = OneTask({"sample": design} if labelled else only(design))
        for at in range(0, 3_000, 30):
            task.play(events[at : at + 30])
            task.play(later(f"{at + 30}ms", ["clicked"] if labelled else []))
            task.commit()
            open_rows = 0 if task.task.join is None else 30 + task.task.join.counts().open_rows
            assert task.task.log.elements <= 2 * (300 + open_rows) + 10 + 60
        task.restarted()
        task.play(later("1h", ["shown", "clicked"] if labelled else ["shown"]))
        assert taken(task.records) == waves(events, design)[0]


def test_b14_a_damaged_or_another_state_is_refused() -> None:
    task = OneTask(only(SNOWBALL)).play(invited(50, random.Random(7)))
    task.commit()
    chunk, where = task.chunks[-1], TopicPartition(task.job.changelog_topic, 0)
    at = chunk.body.index(b"SSMP") + 40
    body = chunk.body[:at] + bytes([chunk.body[at] ^ 1]) + chunk.body[at + 1 :]
    fresh = OneTask(only(SNOWBALL))
    with pytest.raises(StateError, match="checksum"):
        fresh.task.restore([type(chunk)(0, 0, len(body), body)], dict(task.task.positions), where)
    other = OneTask(only({**SNOWBALL, "hops": 2}))
    with pytest.raises(StateError, match="another shape"):
        other.task.restore(task.chunks, dict(task.task.positions), where)


def test_the_shares_of_slices_stand_beside_a_random_baseline() -> None:
    """Who is invited from here comes from Iceland more often than others do."""
    chance = random.Random(9)
    events = []
    for event in invited(20_000, chance, people=5_000):
        country = "IS" if event.more["by"] in SEEDS and chance.random() < 0.8 else "DE"
        events.append(Event(event.kind, event.at, event.id, {**event.more, "country": country}))
    task, audit = OneTask(only(SLICED)), Audit()
    take = task.task.take_output

    def noted() -> Output:
        output = take()
        audit.add(output.audit)
        return output

    task.task.take_output = noted  # type: ignore[method-assign]
    task.play(events)
    counts = defaultdict(int, task.task.counts)
    mine, other = (counts[f"sampled\x1fsample\x1f{name}\x1fkept"] for name in ("IS", "other"))
    assert mine + other == len(task.records) == len(waves(events)[0])
    assert mine / (mine + other) > 0.6
    beside = audit.baseline["snowball", "IS"], audit.baseline["snowball", "other"]
    assert 140 < sum(beside) < 260
    assert beside[0] / sum(beside) < 0.45
    assert not audit.expected
    assert not audit.weights
    assert {record["sampling"]["stratum"] for record in task.records} == {"IS", "DE"}


def test_b12_on_a_broker_each_partition_is_followed_by_itself_and_restarts_change_nothing(
    make_job: MakeJob,
) -> None:
    job = make_job(only(SNOWBALL, commit_interval="50ms"), partitions=3)
    events = invited(900, random.Random(10))
    job.publish(events[:300])
    job.run()
    job.publish(events[300:600])
    job.run_workers(2)
    job.publish(events[600:])
    registry = job.live_once().registry
    before, found = (
        [waves(event for event in some if job.partition_of(event.id) == number) for number in range(3)]
        for some in (events[:600], events)
    )
    assert taken(job.records) == {name: step for each, _, _ in found for name, step in each.items()}
    assert len(job.records) == sum(len(each) for each, _, _ in found)
    labels = {"design": "snowball"}
    reached, refused = (sum(each[at] for each in found) for at in (2, 1))
    refused -= sum(each[1] for each in before)
    assert refused > 0
    assert registry.get_sample_value("streamsample_sample_frontier_nodes", labels) == reached
    assert registry.get_sample_value("streamsample_sample_frontier_refused_total", labels) == refused
