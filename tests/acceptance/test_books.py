"""The cases A13-A20 of semantics.md, as timelines: restarts, state that drains, ids, costs, books, coverage, nulls."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamsample.errors import StateError
from streamsample.records import TopicPartition
from tests.acceptance.test_labels import CLICKED, END, SHOWN
from tests.acceptance.timelines import T0, Event, OneTask, later, milliseconds

# -- A13, A14: restarts, and state that drains -----------------------------------------------------


def test_a13_overdue_windows_close_after_a_restart() -> None:
    task = OneTask().play("0s shown a\n0s shown b\n5s clicked b").restarted()
    assert task.records == []
    task.play(END)  # neither a nor b is seen again
    assert task.labels() == {"a": "0 implicit", "b": "1 explicit"}


def test_a13_a_restart_at_any_time_changes_no_byte() -> None:
    timeline = sorted(SHOWN + CLICKED, key=lambda event: (event.at, event.kind)) + END
    whole = OneTask().play(timeline, each=True)
    for at in range(1, len(timeline)):
        task = OneTask().play(timeline[:at], each=True).restarted().restarted()
        task.play(timeline[at:], each=True)
        assert task.written == whole.written


def test_a14_state_drains_to_zero() -> None:
    task = OneTask()
    for second in range(0, 3600, 10):
        task.play(
            [Event("shown", T0 + 1000 * second, f"p{second}"), Event("clicked", T0 + 1000 * second, f"q{second}")]
        )
        task.commit()
    far = T0 + milliseconds("10h")
    task.give("shown", [json.dumps({"id": None, "at": far}).encode()])  # no event: it moves nothing
    before = task.task.watermark.value()
    task.task.watermark.on_read(TopicPartition("job.shown", 0), far, 10**6, 0)
    task.task.watermark.on_read(TopicPartition("job.clicked", 0), far, 10**6, 0)
    task.turn()
    assert task.task.watermark.value() == far > before
    assert task.task.join is not None
    counts = task.task.join.counts()
    assert (counts.open_rows, counts.held_rows, counts.waiting, counts.matches) == (0, 0, 0, 0)
    assert (counts.payload_bytes, counts.index_entries, counts.buckets) == (0, 0, 0)
    assert task.rows() == {"rows_in": 360, "implicit": 360}
    assert task.feedback() == {"feedback_in": 360, "orphan": 360}
    task.commit()
    assert task.task.log.first_offset == len(task.chunks) - 1  # one chunk, with the positions, is all a restore reads
    assert len(task.chunks[-1].body) < 2_000


# -- A15: ids are bytes ----------------------------------------------------------------------------

ODD_IDS = [
    "key",
    "key2",
    "",
    " key",
    "key ",
    "KEY",
    "k/ey",
    "a\x00b",
    "a\x1fb",
    "日本",
    "\u00e9",
    "e\u0301",
    "0",
    "00",
    "-0",
    "7",
]


@pytest.mark.parametrize("weak", [False, True], ids=["hashed", "all hashes equal"])
def test_a15_ids_never_mix(weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if weak:
        monkeypatch.setattr("streamsample.runtime.task.hash64", lambda ids, seed: np.zeros(len(ids), np.uint64))
    task = OneTask({"feedback.clicks.id": None})
    task.play([Event("shown", T0, identity) for identity in ODD_IDS])
    for number, identity in enumerate(ODD_IDS):
        if number % 2:
            task.play([Event("clicked", T0 + 1000, identity)])
    task.play(END)
    wanted = {identity: ("1 explicit" if number % 2 else "0 implicit") for number, identity in enumerate(ODD_IDS)}
    assert task.labels() == wanted
    assert sorted(record.key for record in task.written) == sorted(identity.encode() for identity in ODD_IDS)


def test_a15_a_json_number_meets_a_string() -> None:
    task = OneTask()
    task.give("shown", [b'{"id": 7, "at": %d}' % T0, b'{"id": "8", "at": %d}' % T0, b'{"id": 9.0, "at": %d}' % T0])
    task.give("clicked", [b'{"event": 1, "id": "7", "at": %d}' % T0, b'{"event": "2", "id": 8, "at": %d}' % T0])
    task.play(END)
    assert task.labels() == {7: "1 explicit", "8": "1 explicit"}
    assert task.reasons == ["wrong_type"]  # a float has no canonical form


# -- A17: closing costs what closes ----------------------------------------------------------------


def test_a17_closing_windows_costs_what_closes() -> None:
    task = OneTask({"max_ahead": "10h"})
    task.play([Event("shown", T0 + 1000 * second, f"p{second}") for second in range(20_000)])
    task.play([Event("clicked", T0, "x")])
    assert task.task.join is not None
    touched = task.task.join.touched
    for second in range(20, 220, 10):
        task.play([Event("clicked", T0 + 1000 * second, "x")])
    closed = len(task.written)
    assert closed == 200 - 1
    assert task.task.join.touched - touched <= 3 * 210  # settled, closed, forgotten; 19,800 stay open


# -- A18: conservation -----------------------------------------------------------------------------


def test_a18_every_row_and_every_feedback_is_accounted_for() -> None:
    task = OneTask({"late_horizon": "1m"}).play(
        """
        0s    shown    a
        0s    shown    b
        0s    shown    b
        1s    clicked  a  event=1
        1s    clicked  a  event=1     # duplicate
        -1s   clicked  b  event=2     # pre-causal
        12s   clicked  b  event=3     # late
        2s    clicked  x  event=4     # orphan
        """
    )
    task.play(later("40s")).play("0s shown c")
    assert task.task.join is not None
    task.task.join.check()
    assert task.feedback() == {
        "feedback_in": 6,
        "matched": 1,
        "waiting": 1,  # the one of `later`
        "duplicate": 1,
        "pre_causal": 1,
        "late": 1,
        "orphan": 1,
    }
    assert task.rows() == {"rows_in": 3, "explicit": 1, "implicit": 1, "open": 1}
    assert task.reasons == ["late"]


def test_a18_feedback_that_finds_no_room_stops_the_job_for_dropped_it_would_be_silence() -> None:
    task = OneTask({"limits.waiting_max": 4})
    task.play([Event("clicked", T0, f"w{number}") for number in range(4)])
    assert task.feedback() == {"feedback_in": 4, "waiting": 4}
    with pytest.raises(StateError, match=r"limits\.waiting_max is 4 - raise limits\.waiting_max"):
        task.play("0s clicked w4")


def test_a18_feedback_of_what_cannot_have_been_sampled_takes_no_memory() -> None:
    task = OneTask({"sample": {"design": "simple", "rate": 0.25, "seed": 3}})
    names = [f"p{number}" for number in range(2000)]
    task.play([Event("shown", T0, name) for name in names])
    kept = task.rows()["rows_in"]
    assert 400 < kept < 600
    task.play([Event("clicked", T0 + 1000, name) for name in names])
    assert task.feedback() == {"feedback_in": 2000, "matched": kept, "not_sampled": 2000 - kept}
    task.play(END)
    assert set(task.labels().values()) == {"1 explicit"}
    assert len(task.written) == kept


def test_a18_rows_beyond_the_limit_are_dropped_and_dead_lettered() -> None:
    task = OneTask({"limits.open_rows_max": 3}).play([Event("shown", T0, f"p{number}") for number in range(5)])
    assert task.rows() == {"rows_in": 5, "open": 3, "limit": 2}
    assert task.reasons == ["limit", "limit"]


# -- A19, A20: coverage, nulls ---------------------------------------------------------------------


def test_a19_silence_labels_nothing_that_was_not_covered() -> None:
    task = OneTask({"skew": "1s"})
    task.task.covered_from["job.clicked"] = T0 + 5000
    task.play(
        """
        0s     shown    a       # the click, if any, was not readable
        0s     shown    b
        5999ms shown    c       # [p.ts - skew, p.ts + W] begins before the cover
        6s     shown    d
        5s     clicked  b       # what was given, was given
        """
    )
    task.play(END)
    assert task.labels() == {"b": "1 explicit", "d": "0 implicit"}
    assert task.rows() == {"rows_in": 5, "explicit": 1, "implicit": 1, "uncovered": 2, "open": 1}


def test_a20_null_values_are_counted_and_ignored() -> None:
    task = OneTask().play("0s shown a\n0s clicked x")
    task.give("shown", [None, None], [b"a", b"b"])
    task.give("clicked", [None], [b"a"])
    assert task.reasons == []
    assert task.task.counts["tombstones\x1fjob.shown"] == 2
    assert task.task.counts["tombstones\x1fjob.clicked"] == 1
    assert task.task.positions == {"job.shown": 3, "job.clicked": 2}
    task.play(END)
    assert task.labels() == {"a": "0 implicit"}
