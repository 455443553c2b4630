"""A job whose file was changed takes up its state: targets, rules, feedback and windows come and go (A18, A19)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from streamsample.errors import StateError
from streamsample.records import TopicPartition
from tests.acceptance.cluster import MakeJob, make_job
from tests.acceptance.timelines import T0, Event, OneTask, feedback, job_tree, later, orders

__all__ = ["make_job"]

BUYS = {
    "feedback.clicks": feedback("clicked"),
    "feedback.orders": feedback("bought"),
    "targets.clicked": {
        "type": "int",
        "window": "10s",
        "rules": [{"from": "orders", "label": 2}, {"from": "clicks", "label": 1}],
        "if_silent": 0,
    },
}


def changed(task: OneTask, changes: Mapping[str, Any]) -> OneTask:
    """Another process takes the task up from its changelog, with another job file."""
    task.commit()
    after = OneTask(changes)
    after.clock.advance(task.clock.now_ms() - after.clock.now_ms())
    after.task.restore(task.chunks, dict(task.task.positions), TopicPartition(task.job.changelog_topic, 0))
    after.task.positions |= {topic: 0 for topic in after.plan.topics if topic not in after.task.positions}
    after.written, after.rejected = task.written, task.rejected
    after.offsets, after.chunks = task.offsets, task.chunks
    after._feedback = task._feedback
    after.turn()
    return after


def end(task: OneTask) -> OneTask:
    """Event time goes on past everything, and the state holds one more restart."""
    kinds = [topic.removeprefix("job.") for topic in task.plan.topics]
    return task.play(later("1h", kinds)).restarted().play(later("2h", kinds))


def test_a19_a_new_target_labels_what_comes_after_it() -> None:
    task = OneTask().play("0s shown a\n1s clicked a\n2s shown b\n3s clicked x")
    again = {"type": "int", "window": "10s", "rules": [{"from": "clicks", "label": 5}], "if_silent": 0}
    task = changed(task, {"targets.again": again})
    task.play("3s shown c\n4s shown d\n4s clicked b\n4s clicked d\n4s shown e")
    task = end(task)
    assert task.labels() == {
        "a": "1 explicit", "b": "1 explicit", "c": "0 implicit", "d": "1 explicit", "e": "0 implicit"
    }  # fmt: skip
    # A click before 3s was read without looking for it: silence says nothing of what could have had one.
    assert task.labels("again") == {
        "a": "none", "b": "5 explicit", "c": "none", "d": "5 explicit", "e": "0 implicit"
    }  # fmt: skip
    assert task.rows(1) == {"rows_in": 7, "explicit": 2, "implicit": 2, "uncovered": 2, "open": 1}


def test_a19_a_new_rule_of_old_feedback_makes_silence_unknown_until_it_is_looked_for() -> None:
    before = {**BUYS, "targets.bought": {**orders()["targets.revenue"], "window": "10s"}}
    without = {**before, "targets.clicked": {**before["targets.clicked"], "rules": [{"from": "clicks", "label": 1}]}}
    task = OneTask(without).play("0s shown a\n0s shown b\n1s bought a amount=3\n1s clicked b\n5s bought x amount=1")
    task = end(changed(task, before).play("6s shown c\n7s shown d\n8s bought d amount=2"))
    assert task.labels() == {"b": "1 explicit", "c": "0 implicit", "d": "2 explicit"} | {"a": "none"}
    assert task.labels("bought")["a"] == "3.0 explicit"


def test_a19_a_new_feedback_is_read_from_where_the_job_starts() -> None:
    task = OneTask().play("0s shown a\n0s shown b\n1s clicked b\n1s shown c\n30s clicked x\n5s shown d")
    task = changed(task, BUYS)
    assert task.task.positions["job.bought"] == 0
    task.play("6s shown e\n2s bought a\n3s bought c\n40s shown later\n40s clicked later")
    assert task.labels() == {}, "the new feedback holds the watermark back"
    task = end(task)
    assert task.labels() == {
        "a": "2 explicit", "b": "1 explicit", "c": "2 explicit", "d": "0 implicit", "e": "0 implicit",
        "later": "1 explicit",
    }  # fmt: skip


@pytest.mark.parametrize(("read", "label"), [("9s", "0 implicit"), ("10s", "0 implicit"), ("11s", "none")])
def test_a19_a_longer_window_labels_what_lost_nothing(read: str, label: str) -> None:
    """What was read beyond the old window, before the watermark came, was not kept."""
    other = {"targets.other": {"type": "int", "window": "1h", "rules": [{"from": "clicks", "label": 1}]}}
    task = OneTask(other).play(f"0s shown a\n{read} clicked x")
    longer = {"type": "int", "window": "20s", "rules": [{"from": "clicks", "label": 1}], "if_silent": 0}
    task = changed(task, {**other, "targets.clicked": longer})
    task.play("12s shown b\n15s clicked b\n45m shown c\n46m clicked x")
    labels = end(task).labels()
    assert labels["a"] == label
    assert (labels["b"], labels["c"]) == ("1 explicit", "0 implicit")


def test_a1_a_shorter_window_forgets_what_is_outside() -> None:
    task = OneTask().play("0s shown a\n5s clicked a\n1s shown b\n4s clicked b")
    shorter = {"type": "int", "window": "4s", "rules": [{"from": "clicks", "label": 1}], "if_silent": 0}
    task = end(changed(task, {"targets.clicked": shorter}))
    assert task.labels() == {"a": "0 implicit", "b": "1 explicit"}


def test_what_goes_takes_its_feedback_along_and_comes_back_as_new() -> None:
    task = OneTask(BUYS).play("0s shown a\n1s clicked a\n1s bought a\n0s shown b\n2s bought b\n2s clicked y")
    task = changed(task, {}).play("3s clicked x")
    assert "job.bought" not in task.task.positions
    task = changed(task, BUYS).play("3s shown c\n4s bought c\n4s clicked x")
    assert task.labels() == {}
    task = end(task)
    assert task.labels() == {"a": "2 explicit", "b": "2 explicit", "c": "2 explicit"}


def test_a11_what_was_closed_is_corrected_by_a_new_target_and_not_labelled_by_its_silence() -> None:
    """The books of the new target balance (A18): it finds the closed rows as such that it knew nothing of."""
    corrected = {"corrections": "1h"}
    task = OneTask(corrected).play("0s shown a\n0s shown b\n1s clicked a")
    task.play(later("1m"))
    assert task.rows() == {"rows_in": 3, "explicit": 1, "implicit": 1, "open": 1}
    again = {"type": "int", "window": "10s", "rules": [{"from": "clicks", "label": 5}], "if_silent": 0}
    task = changed(task, {**corrected, "targets.again": again})
    assert task.rows(1) == {"rows_in": 3, "uncovered": 2, "open": 1}
    task.play("2m clicked b\n2m shown later").play(later("3h"))
    found = [(record["features"]["id"], record["state"], record["settled"]) for record in task.records]
    assert [each for each in found if each[0] == "b"] == [
        ("b", "final", ["clicked"]),
        ("b", "correct", ["clicked", "again"]),
    ]
    assert [each for each in found if each[0] == "a"] == [("a", "final", ["clicked"])]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feedback.clicks.refers_to": "other"}, "feedback.clicks"),
        ({"feedback.clicks.time": None}, "feedback.clicks"),
        ({"targets.clicked.type": "double"}, "targets.clicked"),
        ({"input.time": None}, "the input's topic, id, time or format, the features, the sample or the split"),
        ({"features": {"drop": ["user"]}}, "the input's topic, id, time .*"),
    ],
)
def test_what_would_mean_something_else_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    task = OneTask().play("0s shown a")
    with pytest.raises(StateError, match=f"another shape; changed since: {named} - .*streamsample reset JOB"):
        changed(task, changes)


@pytest.mark.parametrize("more", [{"corrections": "1h"}, {"targets.clicked.early": True}])
@pytest.mark.parametrize("thin", [None, {"by": "clicked", "rates": {"0": 0.2}}])
def test_b16_other_rates_of_labels_are_refused_where_records_are_revised(
    more: dict[str, Any], thin: dict[str, Any] | None
) -> None:
    half = {"by": "clicked", "rates": {"0": 0.5}}
    task = OneTask({"thin": half, **more}).play("0s shown a")
    with pytest.raises(StateError, match=r"changed since: thin - .*streamsample reset JOB"):
        changed(task, {"thin": thin, **more})
    changed(task, {"thin": half, **more})


def test_b16_other_rates_of_labels_are_taken_up_where_each_prediction_gives_one_record() -> None:
    names = [f"p{number}" for number in range(200)]
    task = OneTask({"thin": {"by": "clicked", "rates": {"0": 0.5}}}).play([Event("shown", T0, name) for name in names])
    task = end(changed(task, {"thin": {"by": "clicked", "rates": {"0": 0.25}}}))
    assert {record["sampling"]["probability"] for record in task.records} == {0.25}
    assert 25 < len(task.labels()) < 75


def test_a19_a_feedback_comes_and_goes_on_a_broker(make_job: MakeJob) -> None:
    job = make_job(lambda name: orders(name))
    both, one = job.tree, job_tree(job.name)
    plain = {key: one[key] for key in ("feedback", "targets")}
    job.tree = {**both, **plain}
    ids = [f"p{number}" for number in range(8)]
    job.publish([Event("shown", T0, name) for name in ids] + [Event("clicked", T0 + 1000, name) for name in ids[:4]])
    job.publish([Event("bought", T0 + 2000, name, {"amount": 3.0}) for name in ids[2:6]])
    assert job.run().open_rows == 8
    job.tree = both
    assert job.run().open_rows == 8
    job.later(later("1h", ["shown", "clicked"]))
    assert job.run().records_out == 0, "the orders have not come so far"
    job.later(later("1h", ["bought"]))
    assert job.run().records_out == 8
    assert job.labels() == {name: "1 explicit" if name in ids[:4] else "0 implicit" for name in ids}
    bought = {name: "3.0 explicit" if name in ids[2:6] else "0.0 implicit" for name in ids}
    assert job.labels("revenue") == bought
    job.tree = {**both, **plain}
    job.publish([Event("shown", T0 + 7_200_000, "last")])
    job.later(later("3h", ["shown", "clicked"]))
    job.run()
    assert [record["targets"] for record in job.records if record["features"]["id"] == "last"] == [
        {"clicked": {"value": 0, "kind": None, "source": "implicit", "event_time": None, "delay_ms": None}}
    ]
