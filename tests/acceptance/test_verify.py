"""`streamsample verify`: the sample derived again from the topics, against what was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamsample.clock import SystemClock
from streamsample.config.units import moment_text
from streamsample.errors import ConfigurationError, NotYetError
from streamsample.kafka.topics import TopicAdmin
from streamsample.runtime.verdict import Span, Verdict, parse_span
from streamsample.runtime.verify import verify
from tests.acceptance.cluster import MakeJob, OnBroker, Raw
from tests.acceptance.timelines import T0, Event, later
from tests.acceptance.windows import GLOBAL, RESERVOIR, WEIGHTED, WINDOW, drawn, only, shown, the_end

EVENTS = shown(1_500)
ALL = f"{moment_text(T0)}..{moment_text(T0 + 3_600_000)}"
HEAVY = {**WEIGHTED, "scope": "global"}
SIMPLE = {"design": "simple", "rate": 0.2, "seed": 3}


def ran(job: OnBroker) -> OnBroker:
    job.publish(EVENTS)
    job.later(the_end())
    job.run()
    return job


def verdicts(job: OnBroker, window: str = ALL) -> list[Verdict]:
    admin = TopicAdmin(job.job.kafka.options("admin"))
    try:
        return verify(job.job, window, admin, SystemClock())
    finally:
        admin.close()


def count(events: list[Event], design: dict[str, Any]) -> int:
    return len(drawn(events, design))


def test_a_sample_of_the_whole_topic_is_derived_again_and_late_records_are_left_out(make_job: MakeJob) -> None:
    job = ran(make_job(only(GLOBAL), partitions=3))
    job.publish(shown(5, first=9))  # of windows that have closed
    job.run()
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal == verdict.derived == count(EVENTS, GLOBAL)
    assert (verdict.shown, verdict.refused) == (len(EVENTS), 5)
    one = T0 + 2 * WINDOW
    (verdict,) = verdicts(job, moment_text(one + 17))
    assert verdict.span == Span(one // WINDOW * WINDOW, (one // WINDOW + 1) * WINDOW)
    inside = [event for event in EVENTS if event.at // WINDOW == one // WINDOW]
    assert verdict.right
    assert (verdict.shown, verdict.equal) == (len(inside), count(inside, GLOBAL))


@pytest.mark.parametrize("design", [RESERVOIR, SIMPLE], ids=["partition", "rate"])
def test_samples_of_partitions_and_by_rate_are_derived_again(make_job: MakeJob, design: dict[str, Any]) -> None:
    job = ran(make_job(only(design), partitions=2))
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal > 50
    assert verdict.shown == len(EVENTS)


def test_several_samples_are_verified_each_by_itself(make_job: MakeJob) -> None:
    job = ran(make_job({"feedback": None, "targets": None, "samples": {"even": GLOBAL, "heavy": HEAVY}}))
    found = verdicts(job)
    assert [verdict.sample for verdict in found] == ["even", "heavy"]
    assert all(verdict.right for verdict in found), [verdict.lines() for verdict in found]
    assert [verdict.equal for verdict in found] == [count(EVENTS, GLOBAL), count(EVENTS, WEIGHTED)]


def test_a_draw_before_labels_is_verified_for_what_is_settled(make_job: MakeJob) -> None:
    job = make_job({"sample": SIMPLE})
    job.publish(EVENTS)
    job.later(later("1m", ["shown", "clicked"]))
    job.run()
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.pending > 100
    assert verdict.equal + verdict.pending == verdict.derived
    job.later(later("9h", ["shown", "clicked"]))
    job.run()
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.equal == verdict.derived > 200


def test_a_draw_is_verified_once_however_many_revisions_its_record_has(make_job: MakeJob) -> None:
    """Early, final and corrected ones; and a revision that is there twice is named."""
    changes = {"sample": SIMPLE, "targets.clicked.early": True, "skew": "2s", "corrections": "1h"}
    changes |= {"targets.clicked.rules": [{"from": "clicks", "field": "value", "take": "last"}]}
    job = make_job(changes)
    job.publish(EVENTS)
    for seconds in (-1, 5, 60):  # before its prediction, within the window, after the close
        job.publish([Event("clicked", each.at + 1_000 * seconds, each.id, {"value": seconds}) for each in EVENTS])
    job.later(later("9h", ["shown", "clicked"]))
    job.run()
    assert {"early", "final", "correct"} <= {record["state"] for record in job.records}
    (verdict,) = verdicts(job)
    assert verdict.right, verdict.lines()
    assert verdict.pending == 0
    assert verdict.equal == verdict.derived > 200
    assert len(job.records) > 2 * verdict.equal
    again = next(record for record in job.written if record.tree["state"] == "correct")
    job.write("training", [Raw(again.value, b"k", 0, again.timestamp)])
    (verdict,) = verdicts(job)
    assert (verdict.right, verdict.doubled, verdict.equal) == (False, 1, verdict.derived)


def test_what_was_changed_taken_away_or_added_is_named(make_job: MakeJob) -> None:
    job = ran(make_job(only(GLOBAL)))
    written = [record for record in job.written if not record.tree["features"]["id"].startswith("later")]
    job.make([f"{job.name}.other"])
    changed = written[0].tree
    changed["sampling"]["probability"] = 0.5
    added = {**written[1].tree, "record_id": "0" * 32}
    values = [json.dumps(changed).encode(), written[1].value, written[1].value, json.dumps(added).encode()]
    stamps = [written[0].timestamp, *[written[1].timestamp] * 3]
    rest = written[3:]
    values += [record.value for record in rest]
    stamps += [record.timestamp for record in rest]
    job.write("other", [Raw(value, b"k", 0, stamp) for value, stamp in zip(values, stamps, strict=True)])
    job.tree["output"]["topic"] = f"{job.name}.other"
    (verdict,) = verdicts(job)
    assert not verdict.right
    assert (verdict.differing, verdict.missing, verdict.unexpected, verdict.doubled) == (1, 1, 1, 1)
    text = "\n".join(verdict.lines())
    place = changed["lineage"]["prediction"]
    assert f"{place['topic']}/{place['partition']}@{place['offset']}: sampling.probability: derived " in text
    assert "was not written" in text
    assert "was written twice" in text
    assert "NOT the same" in text


def test_windows_are_written_as_times_or_spans() -> None:
    assert parse_span("2026-01-01..2026-01-02", None) == Span(1_767_225_600_000, 1_767_312_000_000)
    assert parse_span("2026-01-01T00:10Z", 3_600_000) == Span(1_767_225_600_000, 1_767_229_200_000)
    assert parse_span("2026-01-01T00:10Z..2026-01-01T01:10Z", 3_600_000).end == 1_767_232_800_000
    for text, words in (
        ("2026-01-01", "names none - write FROM..TO"),
        ("2026-01-02..2026-01-01", "ends before it begins"),
        ("yesterday", "is not a time"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            parse_span(text, None)


def test_what_cannot_be_verified_is_refused_by_name(make_job: MakeJob) -> None:
    job = make_job(only({"design": "reservoir", "k": 5, "every": "30s"}, start="latest"))
    with pytest.raises(NotYetError, match="sample: not yet: verifying what depends on all before it, of a job with"):
        verdicts(job)
    follow = {"design": "snowball", "from": "user", "to": "country", "seeds": ["a"], "hops": 1, "frontier_max": 9}
    with pytest.raises(NotYetError, match="a sample of windows after a design that remembers"):
        verdicts(make_job(only([follow, {"design": "reservoir", "k": 5, "window": "30s"}])))
    with pytest.raises(ConfigurationError, match="does not sample"):
        verdicts(make_job())
