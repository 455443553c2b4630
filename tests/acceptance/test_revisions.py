"""A11 of semantics.md and what belongs to it, as timelines: early records, records of single targets, corrections,
retractions. Each record in a few words: state, revision, labels (`-` where there is none), and its time.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.acceptance.timelines import T0, OneTask, events, feedback, later

KINDS = ("shown", "clicked", "bought", "returned")
DAY = 86_400_000


def job(targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "feedback.clicks": feedback("clicked"),
        "feedback.orders": feedback("bought"),
        "feedback.returns": feedback("returned"),
        "targets": targets,
        **more,
    }


def worth(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "int", "window": "1h", "if_silent": 0, "rules": list(rules), **more}


def in_words(record: dict[str, Any], timestamp: int) -> str:
    labels = []
    for name, label in record["targets"].items():
        value = "-" if label["source"] is None else str(label["value"])
        labels.append(value if name in record["settled"] else f"({value})")
    supersedes = record["supersedes"]
    assert supersedes == (record["revision"] - 1 if record["revision"] else None)
    seconds = (timestamp - T0) / 1000
    return f"{record['state']} {record['revision']}: {' '.join(labels)} at {seconds:g}s"


def story(task: OneTask, identity: str = "a") -> list[str]:
    mine = [each for each in task.written if each.key == identity.encode()]
    assert len({each.tree["record_id"] for each in mine}) <= 1
    return [in_words(each.tree, each.timestamp) for each in mine]


ORDERS = {"from": "orders", "field": "amount"}
CLICKS = {"from": "clicks", "label": 1}
RETURNS = {"from": "returns", "label": -1}
UNDONE = {**ORDERS, "take": "sum", "undone_by": {"from": "returns", "refers_to": "of"}}


# -- A11: corrections ------------------------------------------------------------------------------

LATE = """
    0s     shown     a
    1m     clicked   a
    3601s  bought    a  amount=5          # after the close, within the horizon
    3602s  bought    a  amount=7          # the first counts: nothing changes
    2h     returned  a
    3h     returned  a
"""
CORRECTED = ["final 0: 1 at 3601s", "correct 1: 5 at 3601s", "correct 2: -1 at 7200s"]


def test_a11_feedback_after_the_close_corrects_what_was_written() -> None:
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d")).play(LATE)
    task.play(later("3d", KINDS))
    assert story(task) == CORRECTED
    (last,) = [each for each in task.records if each["revision"] == 2]
    assert last["targets"]["worth"]["kind"] == "returns"
    assert last["lineage"]["feedback"][0]["topic"] == "job.returned"
    assert last["features"]["id"] == "a"
    assert task.rows() == {"rows_in": 2, "explicit": 1, "open": 1}
    assert task.feedback(0) == {"feedback_in": 3, "matched": 2, "waiting": 1}


def test_a11_a12_the_changelog_holds_a_row_for_as_long_as_it_can_be_corrected_and_no_longer() -> None:
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d")).play("0s shown a")
    for hour in range(1, 21):
        task.play(later(f"{hour}h", KINDS)).restarted()
    task.play("20h bought a amount=5").restarted().play(later("21h", KINDS))
    assert story(task) == ["final 0: 0 at 3601s", "correct 1: 5 at 72000s"]
    assert task.task.log.position().first == 0
    task.restarted().play("24h returned a").play(later("28h", KINDS)).restarted()
    assert story(task)[2:] == ["correct 2: -1 at 86400s"]
    assert task.task.log.position().first > 0


@pytest.mark.parametrize("order", list(itertools.permutations(KINDS)))
def test_a11_corrections_do_not_depend_on_arrival(order: tuple[str, ...]) -> None:
    read = sorted(events(LATE) + later("3d", KINDS), key=lambda event: order.index(event.kind))
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d")).play(read)
    assert story(task) == CORRECTED


def test_a11_corrections_outlive_restarts() -> None:
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d"))
    for event in events(LATE) + later("3d", KINDS):
        task.play([event]).restarted()
    assert story(task) == CORRECTED


def test_a11_past_the_horizon_feedback_is_late() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)}, corrections="1h")).play(
        "0s shown a\n2h bought a amount=1"
    )
    assert story(task.play(later("1d", KINDS))) == ["final 0: 0 at 3601s", "correct 1: 1 at 7200s"]
    other = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)}, corrections="1h", late_horizon="2h")).play(
        "0s shown a\n7200001ms bought a amount=1"
    )
    assert story(other.play(later("1d", KINDS))) == ["final 0: 0 at 3601s"]
    assert other.feedback()["late"] == 1


def test_a11_a_rule_with_a_window_of_its_own_is_not_corrected() -> None:
    """Within 30 minutes is what the label means."""
    clicks = {**CLICKS, "window": "30m"}
    task = OneTask(job({"worth": worth(ORDERS, clicks, RETURNS)}, corrections="1d"))
    task.play("0s shown a\n31m clicked a\n62m clicked a").play(later("3d", KINDS))
    assert story(task) == ["final 0: 0 at 3601s"]
    assert task.feedback(1)["late"] == 2


def test_a11_where_nothing_is_left_to_say_the_record_is_withdrawn() -> None:
    task = OneTask(job({"worth": worth(UNDONE, if_silent="drop"), "seen": worth(CLICKS, if_silent="drop")},
                       corrections="1d"))  # fmt: skip
    task.play(
        """
        0s   shown     a
        0s   shown     b
        1m   bought    a  amount=5  event=x
        2h   returned  a  of=x
        3h   bought    a  amount=6
        2h   bought    b  amount=7             # nothing was written of b before
        """
    )
    task.play(later("3d", KINDS))
    assert story(task) == ["final 0: 5 (-) at 3601s", "retract 1: (-) (-) at 7200s", "correct 2: 6 (-) at 10800s"]
    assert story(task, "b") == ["final 0: 7 (-) at 7200s"]
    assert task.rows()["explicit"] == 2


def test_a11_an_undo_after_the_close_lets_the_weaker_rule_speak() -> None:
    task = OneTask(job({"worth": worth(UNDONE, CLICKS)}, corrections="1d"))
    task.play("0s shown a\n1m bought a amount=5 event=x\n2m clicked a\n2h returned a of=x\n2h returned a of=y")
    assert story(task.play(later("3d", KINDS))) == ["final 0: 5 at 3601s", "correct 1: 1 at 7200s"]


def test_a14_corrections_leave_nothing_behind() -> None:
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d")).play(LATE)
    task.play(later("3d", KINDS)).play(later("9d", KINDS))
    assert task.task.join is not None
    counts = task.task.join.counts()
    assert (counts.held_rows, counts.matches) == (1, 0)  # that which moved the time


def test_a9_an_id_is_one_prediction_as_long_as_it_can_be_corrected() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)}, corrections="1d"))
    task.play("0s shown a\n20h shown a\n26h shown a").play(later("9d", KINDS))
    mine = [each.tree for each in task.written if each.key == b"a"]
    assert [(each["state"], each["revision"]) for each in mine] == [("final", 0), ("final", 0)]


# -- early records ---------------------------------------------------------------------------------


def test_early_the_strongest_rule_is_final_as_soon_as_no_earlier_feedback_can_come() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS, early=True)}))
    task.play("0s shown a\n1m bought a amount=5").play(later("61s", KINDS))
    assert story(task) == []  # the grace: an earlier one may still come
    task.play(later("61001ms", KINDS))
    assert story(task) == ["final 0: 5 at 60s"]
    assert story(task.play(later("3d", KINDS))) == ["final 0: 5 at 60s"]


def test_early_what_a_stronger_rule_may_change_is_early() -> None:
    task = OneTask(job({"worth": worth(RETURNS, ORDERS, CLICKS, early=True)}))
    task.play("0s shown a\n0s shown b\n1m clicked a\n2m bought a amount=5\n3m bought a amount=9\n4m bought b amount=3")
    task.play("50m returned b").play(later("3d", KINDS))
    assert story(task) == ["early 0: (1) at 60s", "early 1: (5) at 120s", "final 2: 5 at 3601s"]
    assert story(task, "b") == ["early 0: (3) at 240s", "final 1: -1 at 3000s"]


def test_early_a_label_is_final_when_the_windows_of_all_stronger_rules_have_ended() -> None:
    orders = {**ORDERS, "window": "5m"}
    task = OneTask(job({"worth": worth(orders, CLICKS, RETURNS, early=True)}))
    task.play("0s shown a\n1m clicked a\n2m clicked a").play(later("3d", KINDS))
    assert story(task) == ["early 0: (1) at 60s", "final 1: 1 at 300s"]


def test_early_what_may_be_undone_is_certain_only_at_the_close() -> None:
    task = OneTask(job({"worth": worth(UNDONE, CLICKS, early=True)}))
    task.play(
        "0s shown a\n1m bought a amount=5 event=x\n2m returned a of=x\n3m bought a amount=2\n4m bought a amount=0"
    )
    assert story(task.play(later("3d", KINDS))) == [
        "early 0: (5) at 60s", "early 1: (-) at 120s", "early 2: (2) at 180s", "final 3: 2 at 3601s"
    ]  # fmt: skip


def test_early_silence_is_never_early_and_withdraws_what_was_undone() -> None:
    task = OneTask(job({"worth": worth(UNDONE, CLICKS, early=True, if_silent="drop")}))
    task.play("0s shown a\n0s shown b\n1m bought a amount=5 event=x\n2m returned a of=x").play(later("3d", KINDS))
    assert story(task) == ["early 0: (5) at 60s", "early 1: (-) at 120s", "retract 2: (-) at 3601s"]
    assert story(task, "b") == []


def test_early_feedback_takes_effect_with_its_prediction_at_the_earliest() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS, early=True)}, skew="5s"))
    task.play("-4s bought a amount=5\n0s shown a").play(later("3d", KINDS))
    assert story(task) == ["final 0: 5 at 0s"]


TWO = {
    "seen": worth(CLICKS, window="10m", early=True),
    "worth": worth(ORDERS, RETURNS, window="1d"),
}
MIXED = """
    0s   shown    a
    0s   shown    b
    0s   shown    c
    1m   clicked  a
    2h   bought   a  amount=5
    11m  clicked  b
    2h   bought   c  amount=3
    3d   bought   b  amount=4
"""


def test_emit_all_waits_for_the_last_target() -> None:
    task = OneTask(job({**TWO, "seen": worth(CLICKS, window="10m")})).play(MIXED).play(later("5d", KINDS))
    assert story(task) == ["final 0: 1 5 at 86401s"]
    assert story(task, "b") == ["final 0: 0 0 at 86401s"]


def test_emit_all_with_an_early_target() -> None:
    task = OneTask(job(TWO)).play(MIXED).play(later("5d", KINDS))
    assert story(task) == ["early 0: 1 (-) at 60s", "final 1: 1 5 at 86401s"]
    assert story(task, "b") == ["final 0: 0 0 at 86401s"]


def test_emit_each_gives_a_record_whenever_a_target_closes() -> None:
    each = {**TWO, "seen": worth(CLICKS, window="10m")}
    task = OneTask(job(each, emit="each", corrections="2d")).play(MIXED).play(later("5d", KINDS))
    assert story(task) == ["early 0: 1 (-) at 601s", "final 1: 1 5 at 86401s"]
    assert story(task, "b") == [
        "early 0: 0 (-) at 601s", "early 1: 1 (-) at 660s", "final 2: 1 0 at 86401s", "correct 3: 1 4 at 259200s"
    ]  # fmt: skip
    assert story(task, "c") == ["early 0: 0 (-) at 601s", "final 1: 0 3 at 86401s"]


@pytest.mark.parametrize("more", [{}, {"emit": "each"}, {"corrections": "2d"}, {"emit": "each", "corrections": "2d"}])
def test_a8_records_are_the_same_bytes_however_it_was_read(more: dict[str, Any]) -> None:
    live = OneTask(job(TWO, **more)).play(sorted(events(MIXED), key=lambda event: event.at)).play(later("5d", KINDS))
    for order in itertools.permutations(KINDS):
        read = sorted(events(MIXED) + later("5d", KINDS), key=lambda event: order.index(event.kind))
        task = OneTask(job(TWO, **more)).play(read)
        assert task.written == live.written


# -- what no label could use -----------------------------------------------------------------------

ASIDE = {"late": {"topic": "job.too-late"}, "orphans": {"topic": "job.orphans"}, "late_horizon": "10h"}
UNUSED = """
    0s      clicked  nobody  note=1
    10s     clicked  a       note=2       # before its prediction
    20s     shown    a
    30s     clicked  a
    2h      clicked  a       note=3
    2h      bought   nobody  note=5  amount=1
    2h      bought   nobody               # says nothing: dropped{no_value}
    3h      shown    b
    3h      clicked  b
"""


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("first", ["shown", "clicked"])
def test_a11_feedback_without_effect_can_be_set_aside_as_it_was(first: str, restarts: bool) -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)}, **ASIDE))
    for event in sorted(events(UNUSED), key=lambda event: event.kind != first):
        task.play([event])
        if restarts:
            task.restarted()
    task.play(later("1d", KINDS))
    letters = [(topic, letter) for topic, all_ in task.aside.items() for letter in all_]
    found = {(topic, json.loads(letter.value or b"")["note"]): letter for topic, letter in letters}
    assert len(found) == len(letters)
    assert {(topic, note, letter.why("class")) for (topic, note), letter in found.items()} == {
        ("job.too-late", 3, "late"),
        ("job.orphans", 1, "orphan"),
        ("job.orphans", 2, "pre_causal"),
        ("job.orphans", 5, "orphan"),
    }
    one = found["job.orphans", 1]
    assert (one.key, one.why("topic"), one.why("partition"), one.why("offset")) == (b"nobody", "job.clicked", "0", "0")
    assert json.loads(one.value or b"")["id"] == "nobody"
    assert task.dead == []


def test_a12_feedback_set_aside_when_its_prediction_comes_is_written_before_time_goes_on() -> None:
    """A click waits for a prediction which comes so late that only the purchases can still label it."""
    targets = {"quick": worth(CLICKS, window="1m"), "slow": worth(ORDERS, window="3h")}
    changes = {key: value for key, value in job(targets, **ASIDE).items() if key != "feedback.returns"}
    task = OneTask(changes).play("10m shown z\n10m clicked z\n10m bought z amount=1\n10m clicked a note=3")
    assert task.aside == {}
    time = task.task.watermark.value()
    task.play("0s shown a").restarted()
    assert task.task.watermark.value() == time
    (letter,) = task.aside["job.too-late"]
    assert (letter.why("class"), json.loads(letter.value or b"")["note"]) == ("late", 3)


def test_a11_past_the_horizon_of_corrections_feedback_is_dead_lettered() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)}, corrections="1h", late_horizon="1d"))
    task.play("0s shown a\n90m clicked a\n3h bought a amount=5 note=9").play(later("2d", KINDS))
    (letter,) = task.aside["job.dead-letters"]
    assert (letter.why("class"), json.loads(letter.value or b"")["note"]) == ("late", 9)
    assert story(task) == ["final 0: 0 at 3601s", "correct 1: 1 at 5400s"]


def test_without_such_topics_nothing_is_kept_of_feedback_that_waits() -> None:
    task = OneTask(job({"worth": worth(ORDERS, CLICKS, RETURNS)})).play("0s clicked nobody").play(later("1d", KINDS))
    assert (task.aside, task.feedback(1)["orphan"]) == ({}, 1)
