"""`streamsample verify` of what depends on all before it, of labels, and of what retention has taken some of."""

from __future__ import annotations

import random
from typing import Any

import pytest

from streamsample.clock import SystemClock
from streamsample.config.units import moment_text
from streamsample.errors import NotYetError
from streamsample.kafka.topics import TopicAdmin
from streamsample.runtime.verdict import Verdict
from streamsample.runtime.verify import verify
from tests.acceptance.cluster import MakeJob, OnBroker
from tests.acceptance.test_snowball import SNOWBALL, invited, waves
from tests.acceptance.test_verify import ALL, EVENTS, SIMPLE, ran, verdicts
from tests.acceptance.timelines import HOUR, T0, Event, job_of, later
from tests.acceptance.windows import COUNTED, GLOBAL, RESERVOIR, SINCE, WINDOW, drawn, only, shown, the_end
from tests.acceptance.windows import RESAMPLED as RESAMPLE

RESAMPLED = {**RESAMPLE, "scope": "global"}
KEPT = {"design": "importance", "target": "p", "proposal": "q", "keep": "all"}
COUNT = {"design": "simple", "count": 20, "window": "10s", "first_rate": 0.5, "seed": 3}
SMALL_FETCHES = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}
MIDDLE = f"{moment_text(T0 + 4 * WINDOW)}..{moment_text(T0 + 9 * WINDOW)}"


def with_another(job: OnBroker, path: str, value: Any, window: str = ALL) -> Verdict:
    """The verdict if the job file had said something else."""
    tree = {**job.tree}
    *above, last = path.split(".")
    place = tree
    for step in above:
        place[step] = {**place[step]}
        place = place[step]
    place[last] = value
    admin = TopicAdmin(job.job.kafka.options("admin"))
    try:
        (verdict,) = verify(job_of(tree), window, admin, SystemClock())
    finally:
        admin.close()
    return verdict


@pytest.mark.parametrize(
    ("design", "path", "value"),
    [
        ({**SINCE, "scope": "global"}, "sample.seed", 6),
        (SINCE, "sample.seed", 6),
        (COUNTED, "sample.seed", 6),
        (COUNT, "sample.count", 21),
    ],
    ids=["since", "since_partition", "records", "count"],
)
def test_what_depends_on_all_before_it_is_derived_from_the_beginning(
    make_job: MakeJob, design: dict[str, Any], path: str, value: Any
) -> None:
    job = ran(make_job(only(design), partitions=2))
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.shown == len(EVENTS)
    assert verdict.equal == verdict.derived == len([r for r in job.records if r["features"]["at"] < T0 + HOUR]) > 100
    (middle,) = verdicts(job, MIDDLE)
    assert middle.right, middle.lines()
    assert 0 < middle.equal < verdict.equal
    other = with_another(job, path, value)
    assert not other.right
    assert other.differing + other.missing + other.unexpected > 20
    job.delete_records("shown", before=1, partition=0)
    (cut,) = verdicts(job)
    if design.get("scope") == "global":
        assert (cut.unknown, cut.gone, cut.derived) == (True, verdict.equal, 0)
    else:
        assert cut.right, cut.lines()
        assert 0 < cut.gone < verdict.equal
        assert cut.equal == verdict.equal - cut.gone
    assert "retention has taken the beginning, on which all depends: partition 0" in "\n".join(cut.lines())


@pytest.mark.parametrize("design", [RESAMPLED, KEPT], ids=["resampled", "kept"])
def test_b15_importance_on_a_broker_is_of_the_whole_topic_and_derived_again(
    make_job: MakeJob, design: dict[str, Any]
) -> None:
    job = make_job(only(design), partitions=3)
    events = shown(1_500)
    bad = Event("shown", events[700].at, "bad", {"p": 0.1, "q": 0, "country": "DE"})
    job.publish(events[:600])
    job.run()
    job.publish([*events[600:], bad])
    job.later(the_end())
    job.run_workers(2)
    records = [record for record in job.records if not record["features"]["id"].startswith("later")]
    said = {record["features"]["id"]: record["sampling"] for record in records}
    assert len(said) == len(records)
    if design is RESAMPLED:
        assert said == drawn(events, design)
    else:
        assert {record["features"]["id"]: record["weights"]["sampling"] for record in records} == pytest.approx(
            {event.id: float(event.more["p"]) / float(event.more["q"]) for event in events}
        )
    assert [letter.why("class") for letter in job.dead] == ["bad_ratio"]
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert (verdict.equal, verdict.refused) == (len(records), 1)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_snowball_is_derived_again(make_job: MakeJob, labelled: bool) -> None:
    job = make_job({"sample": SNOWBALL} if labelled else only(SNOWBALL))
    events = invited(900, random.Random(3))
    job.publish(events)
    job.later(later("1h", ["shown", "clicked"] if labelled else ["shown"]))
    job.run()
    parts = [[event for event in events if job.partition_of(event.id) == number] for number in range(2)]
    (verdict,) = verdicts(job, f"{moment_text(T0)}..{moment_text(T0 + 2_000)}")
    assert verdict.right, verdict.lines()
    assert verdict.equal == verdict.derived == sum(len(waves(part)[0]) for part in parts) > 200
    (half,) = verdicts(job, f"{moment_text(T0 + 400)}..{moment_text(T0 + 700)}")
    assert half.right, half.lines()
    assert half.shown == 300
    assert half.equal == len([record for record in job.records if T0 + 400 <= record["features"]["at"] < T0 + 700])
    other = with_another(job, "sample.hops", 2)
    assert not other.right
    with pytest.raises(NotYetError, match="of a job with start: latest"):
        with_another(job, "start", "latest")


@pytest.mark.parametrize("sample", [None, {**SIMPLE, "rate": 0.5}, SNOWBALL], ids=["alone", "rate", "snowball"])
def test_b16_thinning_is_verified_for_what_is_written_with_all_its_revisions(
    make_job: MakeJob, sample: dict[str, Any] | None
) -> None:
    rules = [{"from": "clicks", "field": "value", "take": "last"}]
    thin = {"by": "clicked", "rates": {0: 0.3, 5: 0.6}, "seed": 8}
    changes: dict[str, Any] = {"thin": thin, "targets.clicked.rules": rules, "corrections": "1h"}
    changes |= {} if sample is None else {"sample": sample}
    job = make_job(changes)
    events = invited(600, random.Random(4))
    job.publish(events)
    # Labels of 5, some of which become 0 after the close, and the other way round.
    for seconds, some, value in ((5, events[::2], 5), (60, events[::4], 0), (70, events[1::4], 5)):
        job.publish([Event("clicked", each.at + 1_000 * seconds, each.id, {"value": value}) for each in some])
    job.later(later("9h", ["shown", "clicked"]))
    job.run()
    assert {"final", "correct", "retract"} <= {record["state"] for record in job.records}
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal == len({record["record_id"] for record in job.records if record["features"]["at"] < T0 + HOUR})
    assert verdict.pending == verdict.derived - verdict.equal > 50
    other = with_another(job, "thin.rates", {0: 0.2, 5: 0.6})
    assert other.unexpected > 0
    assert with_another(job, "thin.rates", {0: 0.3, 5: 0.61}).differing > 0
    assert with_another(job, "thin.seed", 9).unexpected > 20


def test_a19_windows_that_retention_has_cut_are_said_to_be_so(make_job: MakeJob) -> None:
    job = ran(make_job(only(GLOBAL), partitions=2))
    (whole,) = verdicts(job)
    assert whole.right, whole.lines()
    job.delete_records("shown", before=200, partition=1)
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert 0 < verdict.gone < whole.equal
    assert verdict.equal + verdict.gone == whole.equal
    assert "shown: retention has taken records before 2023-11-14T22:1" in "\n".join(verdict.lines())
    first = moment_text(T0 + 2 * WINDOW)
    (verdict,) = verdicts(job, first)
    assert verdict.unknown
    assert not verdict.right
    assert "cannot be told" in verdict.lines()[0]
    job.delete_records("shown")
    (verdict,) = verdicts(job)
    assert verdict.unknown
    assert (verdict.missing, verdict.unexpected, verdict.gone) == (0, 0, whole.equal)


def test_records_whose_predictions_are_gone_are_no_difference(make_job: MakeJob) -> None:
    job = ran(make_job(only(SIMPLE), partitions=2))
    (whole,) = verdicts(job)
    job.delete_records("shown", before=200, partition=1)
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.gone > 0
    assert verdict.equal == whole.equal - verdict.gone
    job.delete_records("training", before=60, partition=0)
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert "retention has taken some of what was written" in "\n".join(verdict.lines())
    assert 0 < verdict.equal < whole.equal


def test_what_one_sample_refuses_is_shown_to_the_others(make_job: MakeJob) -> None:
    heavy = {**GLOBAL, "design": "weighted", "weight": "amount"}
    job = make_job({"feedback": None, "targets": None, "samples": {"all": SIMPLE, "heavy": heavy}})
    bad = [Event(e.kind, e.at, f"bad-{e.id}", {**e.more, "amount": -1}) for e in EVENTS[:10]]
    job.publish([*EVENTS, *bad])
    job.later(the_end())
    job.run()
    some, others = verdicts(job)
    assert some.right, some.lines()
    assert others.right, others.lines()
    assert (some.shown, some.refused) == (1_510, 0)
    assert (others.shown, others.refused) == (1_500, 10)
    assert any(record["features"]["id"].startswith("bad") for record in job.records)


def test_a6_a_late_prediction_was_followed_by_the_snowball_that_was_shown_it(make_job: MakeJob) -> None:
    job = make_job({"sample": SNOWBALL}, partitions=1)
    first = [Event("shown", T0, "a", {"by": "ada", "invited": "bo"})]
    job.publish([*first, *later("2h", ["shown", "clicked"])])
    job.run()
    job.publish([Event("shown", T0 + 5, "late", {"by": "bo", "invited": "cy"})])
    job.publish([Event("shown", T0 + 2 * HOUR, "b", {"by": "cy", "invited": "di"})])
    job.later(later("9h", ["shown", "clicked"]))
    job.run()
    late = [letter for letter in job.dead if letter.why("class") == "late"]
    assert len(late) == 1
    (verdict,) = verdicts(job, f"{moment_text(T0)}..{moment_text(T0 + 3 * HOUR)}")
    assert verdict.right, verdict.lines()
    assert (verdict.equal, verdict.derived) == (2, 2)


def test_a_long_stretch_is_derived_with_few_windows_open(make_job: MakeJob) -> None:
    """20 windows, of which 6 may be open at a time."""
    events = shown(2_000)
    for design in (RESERVOIR, GLOBAL):
        job = make_job(only(design, max_ahead="15s", **{"limits.windows_max": 6}, **SMALL_FETCHES), partitions=2)
        job.publish(events)
        job.later(the_end())
        job.run()
        (verdict,) = verdicts(job)
        assert verdict.right, verdict.lines()
        assert verdict.equal == len([record for record in job.records if record["features"]["at"] < T0 + HOUR]) > 150
