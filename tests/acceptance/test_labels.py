"""The cases A1-A9 of semantics.md, as timelines: one task in memory, a clock that moves only when told to.

What needs brokers, groups and several workers is in test_on_broker.py; crashes are in tests/faults.
"""

from __future__ import annotations

import itertools
import json

import pytest

from streamsample.errors import ConfigurationError
from streamsample.labels.watermark import MIN
from streamsample.records import TopicPartition
from tests.acceptance.timelines import HOUR, NOW, T0, Event, OneTask, events, job_of, job_tree, later, orders

END = later("1h")


# -- A1: boundaries --------------------------------------------------------------------------------

BOUNDARIES = """
    0s      shown    before
    0s      shown    at
    0s      shown    last
    0s      shown    edge
    0s      shown    after
    -1ms    clicked  before
    0s      clicked  at
    9999ms  clicked  last
    10s     clicked  edge
    10001ms clicked  after
"""


def test_a1_boundaries() -> None:
    task = OneTask().play(BOUNDARIES).play(END)
    assert task.labels() == {
        "before": "0 implicit",
        "at": "1 explicit",
        "last": "1 explicit",
        "edge": "1 explicit",
        "after": "0 implicit",
    }
    assert task.feedback() == {"feedback_in": 6, "matched": 3, "pre_causal": 1, "orphan": 1, "waiting": 1}


def test_a1_boundaries_are_moved_by_skew_and_window() -> None:
    task = OneTask({"skew": "1ms", "targets.clicked.window": "9999ms"}).play(BOUNDARIES).play(END)
    assert task.labels() == {
        "before": "1 explicit",
        "at": "1 explicit",
        "last": "1 explicit",
        "edge": "0 implicit",
        "after": "0 implicit",
    }


def test_a1_feedback_after_the_window_is_late_within_late_horizon() -> None:
    task = OneTask({"late_horizon": "5s"}).play(
        """
        0s       shown    a
        10001ms  clicked  a
        15s      clicked  a
        15001ms  clicked  a     # beyond the horizon: of no prediction that is known
        """
    )
    task.play(END)
    assert task.labels() == {"a": "0 implicit"}
    assert task.feedback() == {"feedback_in": 4, "late": 2, "orphan": 1, "waiting": 1}


# -- A2: order does not matter ---------------------------------------------------------------------

SHOWN = events(
    """
    0s     shown  a
    3s     shown  b
    2s     shown  c     # out of order within the grace
    4s     shown  a2
    """
)
CLICKED = events(
    """
    1s     clicked  a   event=1
    5s     clicked  b   event=2
    4500ms clicked  b   event=3    # the earlier of two, though it is read second
    20s    clicked  c   event=4
    4s     clicked  no  event=5
    """
)


def interleavings(count: int) -> list[list[Event]]:
    """All orders of the two topics' events that keep each topic's own order; every `count`th of them."""
    found = []
    places = itertools.combinations(range(len(SHOWN) + len(CLICKED)), len(SHOWN))
    for chosen in itertools.islice(places, 0, None, count):
        shown, clicked = iter(SHOWN), iter(CLICKED)
        found.append([next(shown if at in chosen else clicked) for at in range(len(SHOWN) + len(CLICKED))])
    return found


@pytest.mark.parametrize("each", [False, True], ids=["batches", "one by one"])
def test_a2_any_interleaving_gives_the_same_bytes(each: bool) -> None:
    CLICKED[3:] = sorted(CLICKED[3:], key=lambda event: event.at)  # disorder within the grace
    wanted = None
    for order in interleavings(3):
        task = OneTask().play(order, each=each).play(END)
        written = sorted(task.written, key=lambda record: record.key)
        wanted = wanted or written
        assert written == wanted
    assert wanted is not None
    assert len(wanted) == 4
    b = wanted[2].tree
    assert b["targets"]["clicked"]["delay_ms"] == 1500
    assert b["lineage"]["feedback"][0]["offset"] == 2


def test_a2_feedback_read_first_waits_until_its_prediction_cannot_come() -> None:
    task = OneTask().play("5s clicked a\n5s shown other")
    assert task.feedback() == {"feedback_in": 1, "waiting": 1}
    task.play("6s clicked other\n6s shown other2")  # WM = f.ts + grace: it has not passed
    assert task.feedback() == {"feedback_in": 2, "waiting": 1, "matched": 1}
    task.play("4s shown a")
    assert task.feedback() == {"feedback_in": 2, "matched": 2}

    task = OneTask().play("5s clicked a\n6001ms shown other\n6001ms clicked other")
    assert task.feedback() == {"feedback_in": 2, "orphan": 1, "matched": 1}


def test_a2_ties_are_broken_by_place() -> None:
    lines = ["0s shown a", "1s clicked a event=x", "1s clicked a event=y"]
    record, *_ = OneTask().play("\n".join(lines)).play(END).records
    assert record["lineage"]["feedback"] == [
        {"target": "clicked", "topic": "job.clicked", "partition": 0, "offset": 0, "index": 0}
    ]


# -- A3: one final record per row ------------------------------------------------------------------


def test_a3_silence_is_written_once_and_only_when_the_watermark_has_passed() -> None:
    task = OneTask().play("0s shown a\n0s clicked other")
    for when in ("9s", "10s", "11s"):  # W = 10 s, G = 1 s: at 11 s the deadline is not passed
        task.play(later(when))
        assert task.records == [], when
    task.play(later("11001ms"))
    assert task.labels() == {"a": "0 implicit"}
    record = task.written[0]
    assert (record.key, record.timestamp) == (b"a", T0 + 11_000)
    assert record.tree["closed_by"] == "event"
    for when in ("12s", "1h", "2h"):
        task.play(later(when))
    assert "a" in task.labels()  # which fails if there are two


def test_a3_targets_are_settled_together_when_the_largest_window_closes() -> None:
    task = OneTask(orders()).play(
        """
        0s   shown    a
        2s   clicked  a
        50s  bought   a   amount=12.5
        """
    )
    everything = ("shown", "clicked", "bought")
    task.play(later("30s", everything))
    assert task.records == []
    task.play(later("1h", everything))
    assert task.labels("clicked")["a"] == "1 explicit"
    assert task.labels("revenue")["a"] == "12.5 explicit"
    assert task.records[0]["settled"] == ["clicked", "revenue"]


@pytest.mark.parametrize(
    ("silent", "said"), [(0, "0 implicit"), (7, "7 implicit"), (None, "null implicit"), ("drop", None)]
)
def test_a3_what_silence_means(silent: int | str | None, said: str | None) -> None:
    tree = job_tree()
    tree["targets"]["clicked"]["if_silent"] = silent
    task = OneTask({"targets.clicked": tree["targets"]["clicked"]}).play("0s shown a\n1s clicked other").play(END)
    assert task.labels().get("a") == said
    assert task.rows() == ({"implicit": 1, "rows_in": 2, "open": 1} if said else {"silent": 1, "rows_in": 2, "open": 1})


# -- A4: the watermark is the minimum --------------------------------------------------------------


def test_a4_nothing_is_final_while_one_topic_lags() -> None:
    task = OneTask(orders()).play("0s shown a\n0s clicked other").play(later("5h"))
    assert task.task.watermark.value() == MIN
    assert task.task.watermark.held_by() == TopicPartition("job.bought", 0)
    task.play("1s bought other amount=1")
    assert task.task.watermark.value() == T0 + 1000
    assert task.records == []
    task.play("2s bought a amount=9").play(later("4h", ["bought"]))
    assert task.labels("revenue")["a"] == "9.0 explicit"


def test_a4_a_slow_feedback_stream_makes_no_false_negative() -> None:
    task = OneTask().play([Event("shown", T0 + second * 1000, f"p{second}") for second in range(0, 7200, 60)])
    task.caught_up("shown").wait("1d")
    assert task.records == []
    task.play([Event("clicked", T0 + second * 1000 + 500, f"p{second}") for second in range(0, 7200, 60)])
    assert set(task.labels().values()) == {"1 explicit"}


# -- A5: idleness ----------------------------------------------------------------------------------


def test_a5_a_silent_feedback_topic_holds_the_watermark_back_for_ever() -> None:
    task = OneTask().play("0s shown a\n0s clicked other").play(later("1h", ["shown"]))
    task.caught_up("shown", "clicked").wait("30d")
    assert task.records == []
    assert task.task.watermark.value() == T0


IDLE = {"feedback.clicks.idle_timeout": "5s"}


def test_a5_with_a_timeout_time_goes_on_by_the_silence_beyond_it() -> None:
    task = OneTask(IDLE).play("0s shown a\n0s clicked other\n1h shown b")
    task.caught_up("shown", "clicked")
    task.wait("5s")
    assert task.task.watermark.value() == T0
    task.wait("11s")  # by 11 s, not to the wall clock, which is a month ahead
    assert task.task.watermark.value() == T0 + 11_000
    assert task.records == []
    task.wait("1ms")
    assert task.labels() == {"a": "0 implicit"}
    assert task.records[0]["closed_by"] == "idle"
    assert task.task.counts["idle_advances"] == 1
    assert task.restarted().wait("1s").task.counts["idle_advances"] == 1


def test_a5_a_topic_that_is_not_caught_up_is_not_silent() -> None:
    task = OneTask(IDLE).play("0s shown a\n0s clicked other\n1h shown b")
    task.caught_up("shown").wait("1h")
    assert task.task.watermark.value() == T0


def test_a5_a_paused_topic_is_not_silent() -> None:
    task = OneTask(IDLE).play("0s shown a\n0s clicked other\n1h shown b")
    task.task.watermark.set_paused(TopicPartition("job.clicked", 0), True, task.clock.elapsed_ms())
    task.caught_up("shown", "clicked").wait("1h")
    assert task.task.watermark.value() == T0


def test_a5_what_comes_ends_the_silence() -> None:
    task = OneTask(IDLE).play("0s shown a\n0s clicked other\n1h shown b").caught_up("shown", "clicked").wait("8s")
    assert task.task.watermark.value() == T0 + 3000
    task.play("4s clicked a").caught_up("clicked").wait("5s")
    assert task.task.watermark.value() == T0 + 4000
    task.wait("8s")
    assert task.labels() == {"a": "1 explicit"}
    assert task.records[0]["closed_by"] == "idle"


def test_a5_a_silent_partition_follows_its_topic() -> None:
    task = OneTask().play("0s shown a\n0s clicked other").play(later("1h", ["shown"])).caught_up("shown", "clicked")
    task.task.watermark.follow("job.clicked", T0 + 11_000, task.clock.elapsed_ms())
    task.turn()
    assert task.records == []
    task.task.watermark.follow("job.clicked", T0 + 11_001, task.clock.elapsed_ms())
    task.turn()
    assert task.labels() == {"a": "0 implicit"}
    assert task.records[0]["closed_by"] == "event"  # event time it was, though of another partition


# -- A6, A7: late predictions, bad clocks ----------------------------------------------------------


def test_a6_a_late_prediction_is_counted_and_dead_lettered() -> None:
    task = OneTask().play("0s clicked a").play(later("11001ms")).play("0s shown a\n1ms shown b")
    assert task.reasons == ["late"]
    assert json.loads(task.dead[0].value or b"")["id"] == "a"
    assert task.dead[0].why("offset") == "1"
    task.play(END)
    assert "a" not in task.labels()
    assert task.labels()["b"] == "0 implicit"
    assert task.task.join is not None
    assert list(task.task.join.ledger.predictions) == [4, 0, 1]


@pytest.mark.parametrize("kind", ["shown", "clicked"])
def test_a7_one_bad_clock_does_no_harm(kind: str) -> None:
    ahead = NOW - T0
    task = OneTask({"max_future": "10m"}).play("0s shown a\n0s clicked other").play(later("1s"))
    before = task.task.watermark.value()
    task.play([Event(kind, T0 + ahead + 600_001, "mad"), Event(kind, T0 + 2000, "sane")])
    assert task.reasons == ["future"]
    assert task.task.watermark.value() == before
    task.play([Event(kind, T0 + ahead + 600_000, "edge")])  # just within
    assert task.reasons == ["future"]


def test_a7_max_future_is_at_most_the_brokers_own_limit() -> None:
    with pytest.raises(ConfigurationError, match="max_future: must be at most 1h"):
        job_of(job_tree("job", {"max_future": "61m"}))


# -- A8: replay equals live ------------------------------------------------------------------------


def test_a8_reading_one_topic_far_ahead_gives_the_same_bytes() -> None:
    shown = [Event("shown", T0 + 700 * number, f"p{number % 90}-{number}") for number in range(300)]
    clicked = [Event("clicked", event.at + 2_900, event.id) for event in shown[::3]]
    live = OneTask().play(sorted(shown + clicked, key=lambda event: event.at)).play(END)
    ahead = OneTask().play(shown).play(clicked).play(END)
    behind = OneTask().play(clicked).play(shown).play(END)
    assert len(live.written) == 300
    assert ahead.written == live.written == behind.written


# -- A9: duplicates --------------------------------------------------------------------------------


def test_a9_the_same_twice_has_one_effect() -> None:
    once = OneTask().play("0s shown a\n2s clicked a event=x").play(END)
    twice = OneTask().play(
        """
        0s  shown    a
        0s  shown    a            # the same again
        1s  shown    a            # sent again by a client that did not hear the answer
        2s  clicked  a  event=x
        2s  clicked  a  event=x
        3s  clicked  a  event=x
        """
    )
    twice.play(END)
    assert twice.written == once.written
    assert twice.feedback() == {"feedback_in": 4, "matched": 1, "duplicate": 2, "waiting": 1}
    assert twice.task.join is not None
    assert list(twice.task.join.ledger.predictions) == [4, 2, 0]


def test_a9_without_an_id_of_its_own_feedback_is_its_place() -> None:
    task = OneTask({"feedback.clicks.id": None}).play("0s shown a\n2s clicked a event=x\n2s clicked a event=x")
    assert task.feedback() == {"feedback_in": 2, "matched": 2}


def test_a9_an_id_may_come_again_after_its_row_is_closed() -> None:
    task = OneTask().play("0s shown a\n1s clicked a").play(later("1m")).play("2m shown a\n2m clicked x").play(END)
    values = [record["targets"]["clicked"]["value"] for record in task.records if record["features"]["id"] == "a"]
    assert values == [1, 0]
    assert len({record["record_id"] for record in task.records}) == len(task.records)


def test_a12_a_commit_while_the_watermark_still_acts_keeps_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watermark that jumps settles in steps, with commits between them; a restart between two steps loses nothing."""
    monkeypatch.setattr("streamsample.runtime.task._ROWS_AT_ONCE", 5)
    day = 24 * HOUR
    task = OneTask()
    for number in range(20):
        task.play([Event("shown", T0 + number * day // 20, f"p{number}")])
        task.commit()
    task.play([Event("clicked", T0 + 9 * day, "c"), Event("shown", T0 + 9 * day, "end")])
    assert task.task.behind
    restarts = 0
    while task.task.behind:
        task.restarted()
        restarts += 1
    assert restarts > 2
    assert set(task.labels()) == {f"p{number}" for number in range(20)}
