"""The join as timelines: one test per case of semantics.md, with one prediction `p` where one is enough."""

from __future__ import annotations

import numpy as np
import pytest

from streamsample.errors import InvariantError
from streamsample.labels import (
    DUPLICATE,
    LATE,
    LIMIT,
    NEW,
    LabelJoin,
    Limits,
    encode_delta,
)
from streamsample.records import Spans
from tests.labels.harness import (
    constant_hash,
    give_feedback,
    give_predictions,
    real_hash,
    records_of,
    restarted,
    settings_of,
    snapshot,
    weak_hash,
)
from tests.labels.oracle import Feedback, Label, Prediction, Target

W, G = 100, 10
SILENT = Label(True, False, None, None)


def one(**more: int) -> LabelJoin:
    return LabelJoin(settings_of([Target.one(W, 0)], grace=G, **more))  # type: ignore[arg-type]


def prediction(ts: int, identity: bytes = b"p", offset: int = 0, payload: bytes = b"features") -> Prediction:
    return Prediction(offset, ts, identity, payload)


def feedback(
    ts: int, identity: bytes = b"p", offset: int = 0, value: int | None = 1, feedback_id: int | None = None
) -> Feedback:
    return Feedback(0, offset, ts, identity, offset if feedback_id is None else feedback_id, (value,))


def given(value: int, ts: int, offset: int = 0, source: int = 0) -> Label:
    return Label(True, True, value, (ts, offset), ((source, ts, offset),))


def labels_at(join: LabelJoin, watermark: int) -> list[Label]:
    records = records_of(join.on_watermark(watermark))
    join.check()
    return [record[4][0] for record in records]


@pytest.mark.parametrize(
    ("skew", "ts", "inside", "counted"),
    [
        (0, 999, False, "pre_causal"),
        (0, 1000, True, "matched"),
        (0, 1000 + W - 1, True, "matched"),
        (0, 1000 + W, True, "matched"),
        (0, 1000 + W + 1, False, "late"),
        (5, 994, False, "pre_causal"),
        (5, 995, True, "matched"),
        (5, 1000 + W + 1, False, "late"),
    ],
)
@pytest.mark.parametrize("feedback_first", [False, True])
def test_a1_boundaries(skew: int, ts: int, inside: bool, counted: str, feedback_first: bool) -> None:
    join = one(skew=skew, late_horizon=50)
    if feedback_first:
        give_feedback(join, [feedback(ts)])
    give_predictions(join, [prediction(1000)])
    if not feedback_first:
        give_feedback(join, [feedback(ts)])
    assert labels_at(join, 10**6) == [given(1, ts) if inside else SILENT]
    assert join.ledger.feedback_counts(0)[counted] == 1


def test_a2_ties_are_broken_by_time_then_offset() -> None:
    join = one()
    give_predictions(join, [prediction(1000)])
    give_feedback(join, [feedback(1050, offset=3, value=30), feedback(1040, offset=4, value=40)])
    give_feedback(join, [feedback(1040, offset=5, value=50)])
    assert labels_at(join, 10**6) == [given(40, 1040, 4)]


def test_a2_feedback_waits_until_the_watermark_passes_its_time_and_grace() -> None:
    join = one(skew=5)
    give_feedback(join, [feedback(1000)])
    join.on_watermark(1000 + 5 + G)
    assert join.counts().waiting == 1
    join.on_watermark(1000 + 5 + G + 1)
    assert join.counts().waiting == 0
    assert join.ledger.feedback_counts(0)["orphan"] == 1
    give_predictions(join, [prediction(1000)])
    assert labels_at(join, 10**6) == [SILENT]


def test_a3_silence_is_written_once_when_the_watermark_passes_the_deadline() -> None:
    join = one()
    give_predictions(join, [prediction(1000)])
    assert join.next_deadline() == 1000 + W + G
    assert labels_at(join, 1000 + W + G) == []
    assert labels_at(join, 1000 + W + G + 1) == [SILENT]
    assert labels_at(join, 10**6) == []
    assert join.ledger.row_counts(0)["implicit"] == 1


def test_a3_nothing_is_said_before_the_watermark_is_known() -> None:
    join = one()
    give_predictions(join, [prediction(1000)])
    give_feedback(join, [feedback(1001, identity=b"other")])
    assert join.ledger.row_counts(0)["open"] == 1
    assert join.ledger.feedback_counts(0)["waiting"] == 1
    assert labels_at(join, -(2**63)) == []


def test_a4_a_watermark_that_does_not_move_settles_nothing() -> None:
    join = one()
    join.on_watermark(500)
    give_predictions(join, [prediction(1000)])
    for _ in range(3):
        assert labels_at(join, 500) == []
    assert labels_at(join, 400) == []
    assert join.watermark == 500


def test_a6_a_late_prediction_writes_nothing() -> None:
    join = one()
    join.on_watermark(2000)
    codes = give_predictions(
        join,
        [prediction(2000 - W - G - 1, b"late", 0), prediction(2000 - W - G, b"just", 1), prediction(2000, b"new", 2)],
    )
    assert codes == [LATE, NEW, NEW]
    assert [record[2] for record in records_of(join.on_watermark(10**6))] == [b"just", b"new"]
    join.check()
    assert join.ledger.predictions.tolist() == [3, 0, 1]


def test_a9_the_same_feedback_twice_has_one_effect() -> None:
    join = one()
    give_feedback(join, [feedback(1020, offset=0, value=1, feedback_id=7)])
    give_predictions(join, [prediction(1000)])
    give_feedback(join, [feedback(1020, offset=1, value=2, feedback_id=7), feedback(1030, offset=2, value=3)])
    assert labels_at(join, 10**6) == [given(1, 1020, 0)]
    counts = join.ledger.feedback_counts(0)
    assert (counts["matched"], counts["duplicate"]) == (2, 1)


def test_a9_the_same_prediction_twice_is_one_row() -> None:
    join = one()
    codes = give_predictions(join, [prediction(1000, payload=b"one"), prediction(1000, offset=1, payload=b"two")])
    codes += give_predictions(join, [prediction(1000 + W, offset=2), prediction(1001 + W, offset=3, payload=b"next")])
    assert codes == [NEW, DUPLICATE, DUPLICATE, NEW]
    assert [record[3] for record in records_of(join.on_watermark(10**6))] == [b"one", b"next"]
    join.check()


def test_a9_with_skew_the_windows_of_one_id_never_overlap() -> None:
    """A feedback between two rows of one id would else belong to both."""
    join = one(skew=20)
    codes = give_predictions(
        join, [prediction(1000), prediction(1000 + W + 20, offset=1), prediction(1121 + W, offset=2)]
    )
    assert codes == [NEW, DUPLICATE, NEW]


def test_a10_each_target_has_its_own_window() -> None:
    join = LabelJoin(settings_of([Target.one(10, 0), Target.one(100, 0), Target.one(100, 1, "value", 9)], grace=G))
    give_predictions(join, [prediction(1000)])
    give_feedback(join, [Feedback(0, 0, 1050, b"p", 1, (5, 6))])
    (record,) = records_of(join.on_watermark(10**6))
    assert record[4] == (SILENT, given(6, 1050), Label(True, False, 9, None))
    assert join.ledger.feedback_counts(0)["late"] == 1
    join.check()


def test_a13_overdue_windows_close_after_a_restart_without_that_key_being_seen() -> None:
    join = one()
    give_predictions(join, [prediction(1000, b"quiet"), prediction(1001, b"clicked", 1)])
    give_feedback(join, [feedback(1002, b"clicked"), feedback(1003, b"unknown", 1)])
    join = restarted(join.settings, [snapshot(join)])
    join.check()
    assert join.counts().waiting == 1
    assert [record[4][0] for record in records_of(join.on_watermark(10**6))] == [SILENT, given(1, 1002)]


def test_a13_late_feedback_is_still_late_after_a_restart() -> None:
    join = one(late_horizon=1000)
    give_predictions(join, [prediction(1000)])
    join.on_watermark(1000 + W + G + 1)
    join = restarted(join.settings, [snapshot(join)])
    give_feedback(join, [feedback(1500), feedback(1000 + W + 1001, offset=1)])
    join.on_watermark(10**6)
    counts = join.ledger.feedback_counts(0)
    assert (counts["late"], counts["orphan"]) == (1, 1)
    join.check()


def test_a2_late_does_not_depend_on_how_the_watermark_moved() -> None:
    """A row is held as long as a feedback within its horizon may still wait for its classification."""
    for steps in ([10**6], [1000 + W + G + 50 + 3, 10**6], [*range(1000, 1400), 10**6]):
        join = one(late_horizon=50, skew=7)
        give_predictions(join, [prediction(1000)])
        give_feedback(join, [feedback(1000 + W + 50)])
        for step in steps:
            join.on_watermark(step)
        assert join.ledger.feedback_counts(0)["late"] == 1, steps


def test_a14_state_drains_to_zero() -> None:
    join = one(late_horizon=500)
    empty = join.state_bytes()
    at = 0
    for start in range(0, 60_000, 2000):
        events = [prediction(start * 10 + k, b"id%d" % (start + k), at + k) for k in range(2000)]
        give_predictions(join, events)
        give_feedback(join, [feedback(event.ts + 1, event.id, event.offset) for event in events[::3]])
        give_feedback(join, [feedback(event.ts + 1, b"none" + event.id, event.offset) for event in events[::5]])
        at += 2000
    assert join.state_bytes() > 50 * empty
    join.snapshot_delta()
    settled = join.on_watermark(10**6)
    assert len(settled) == 60_000
    counts = join.counts()
    assert (counts.open_rows, counts.held_rows, counts.waiting, counts.matches) == (0, 0, 0, 0)
    assert (counts.payload_bytes, counts.index_entries, counts.buckets) == (0, 0, 0)
    assert join.state_bytes() == empty
    assert join.next_deadline() is None
    delta = join.snapshot_delta()
    assert len(encode_delta(delta)) < 2000
    assert (len(delta.rows.ts), len(delta.matches.ts), len(delta.waiting.ts)) == (0, 0, 0)


@pytest.mark.parametrize("hash_ids", [real_hash, constant_hash, weak_hash])
def test_a15_ids_never_mix(hash_ids: object) -> None:
    ids = [b"", b"key", b"key2", b"key\x00", b"a" * 4096, b"a" * 4095 + b"b", b"12345678", b"123456789"]
    join = one()
    give_predictions(join, [prediction(1000 + k, identity, k) for k, identity in enumerate(ids)], hash_ids)  # type: ignore[arg-type]
    asked = [feedback(1050, identity, k, value=k) for k, identity in enumerate(ids)]
    give_feedback(join, [*asked[::-2], feedback(1050, b"ke"), feedback(1050, b"key3", 99)], hash_ids)  # type: ignore[arg-type]
    wanted = [given(k, 1050, k) if k % 2 else SILENT for k in range(len(ids))]
    assert labels_at(join, 10**6) == wanted
    assert join.ledger.feedback_counts(0)["orphan"] == 2


@pytest.mark.parametrize("hash_ids", [real_hash, constant_hash, weak_hash])
def test_a15_what_is_forgotten_leaves_the_others_findable(hash_ids: object) -> None:
    """Rows of many ids and few hashes die bucket by bucket; after each step every held row is found, no dead one is."""
    count = 400
    order = np.random.default_rng(5).permutation(count)
    join = one()
    events = [prediction(int(k) * 97, b"id%d" % k, at) for at, k in enumerate(order)]
    give_predictions(join, events, hash_ids)  # type: ignore[arg-type]
    asked = 0
    for watermark in range(0, count * 97, 2503):
        join.on_watermark(watermark)
        live = [event for event in events if event.ts + W + G >= watermark]
        give_feedback(join, [feedback(event.ts, event.id, asked + k) for k, event in enumerate(live)], hash_ids)  # type: ignore[arg-type]
        asked += len(live)
        assert join.ledger.feedback_counts(0)["matched"] == asked
        join.check()


def test_a17_closing_windows_costs_what_closes() -> None:
    window = 640_000
    join = LabelJoin(settings_of([Target.one(window, 0)], grace=0))
    count = 100_000
    give_predictions(join, [prediction(k * 6, b"%d" % k, k) for k in range(count)])
    join.on_watermark(window)
    assert join.touched == 0, "nothing closes, nothing is looked at"
    closed = 0
    for step in range(1, 1001):
        before = join.touched
        now = len(join.on_watermark(window + step * 600))
        closed += now
        assert join.touched - before < 3 * now + 3 * count // 15, "at most a bucket, once"
    assert closed == count - 1 + 1
    assert join.touched <= 3 * count, "sorted once, settled once, forgotten once"


def test_a17_predictions_that_come_while_their_bucket_closes_are_not_sorted_again_and_again() -> None:
    join = LabelJoin(settings_of([Target.one(5, 0)], grace=0, late_horizon=10**6))
    for k in range(3000):
        give_predictions(join, [prediction(k, b"%d" % k, k)])
        join.on_watermark(k)
    assert join.touched <= 3000 * 14


def test_a18_not_sampled_takes_no_memory() -> None:
    join = one()
    ids = Spans.of([b"a", b"b", b"c"])
    ones = np.ones(3, np.int64)
    mask, valid = np.array([True, False, True]), [np.array([False, True, True])]
    join.on_feedback(0, np.arange(3), ones, ids, real_hash(ids), [ones], valid, not_sampled=mask)
    counts = join.ledger.feedback_counts(0)
    assert (counts["feedback_in"], counts["not_sampled"], counts["waiting"]) == (3, 2, 1)
    join.check()


def test_a18_a_broken_law_names_the_target() -> None:
    join = one()
    give_predictions(join, [prediction(1000)])
    join.ledger.rows[0, 1] += 1
    with pytest.raises(InvariantError, match="target target0: rows in"):
        join.check()


@pytest.mark.parametrize(("since", "covered"), [(995, True), (996, False)])
def test_a19_silence_without_coverage_is_no_label(since: int, covered: bool) -> None:
    join = one(skew=5)
    give_predictions(join, [prediction(1000), prediction(1001, b"clicked", 1)])
    give_feedback(join, [feedback(1002, b"clicked")])
    records = records_of(join.on_watermark(10**6, np.array([since], np.int64)))
    join.check()
    assert [record[4][0] for record in records] == [SILENT, given(1, 1002)][0 if covered else 1 :]
    assert join.ledger.row_counts(0)["uncovered"] == (0 if covered else 1)


def test_a19_a_target_that_is_not_covered_does_not_cost_the_others_their_record() -> None:
    join = LabelJoin(settings_of([Target.one(W, 0), Target.one(W, 1, "value", 3)]))
    give_predictions(join, [prediction(1000)])
    (record,) = records_of(join.on_watermark(10**6, np.array([2000, -(2**63)])))
    assert record[4] == (Label(False, False, None, None), Label(True, False, 3, None))
    join.check()


def test_a20_a_feedback_without_a_value_labels_nothing() -> None:
    join = one()
    give_predictions(join, [prediction(1000)])
    give_feedback(join, [feedback(1001, value=None)])
    assert labels_at(join, 10**6) == [SILENT]
    assert join.ledger.feedback_counts(0)["no_value"] == 1


def test_silence_may_be_no_record_at_all() -> None:
    join = LabelJoin(settings_of([Target.one(W, 0, "drop")]))
    give_predictions(join, [prediction(1000, b"quiet"), prediction(1000, b"clicked", 1)])
    give_feedback(join, [feedback(1001, b"clicked")])
    settled = join.on_watermark(10**6)
    assert settled.ids.to_list() == [b"clicked"]
    assert settled.payload.to_list() == [b"features"]
    assert settled.used.first.tolist() == [0, 1]
    assert join.ledger.row_counts(0)["silent"] == 1
    join.check()


def test_limits_are_counted_and_refused() -> None:
    limits = Limits(open_rows=2, waiting=1, matches_per_row=2)
    join = LabelJoin(settings_of([Target.one(W, 0)], limits=limits))
    codes = give_predictions(join, [prediction(1000, b"%d" % k, k) for k in range(3)])
    codes += give_predictions(join, [prediction(1000, b"x" * 5000, 3), prediction(2**61, b"far", 4)])
    assert codes == [NEW, NEW, LIMIT, LIMIT, LIMIT]
    give_feedback(join, [feedback(1001 - k, b"0", k, value=k) for k in range(2)])
    give_feedback(join, [feedback(1000, b"0", 2, value=2)])
    give_feedback(join, [feedback(1000, b"none", 3), feedback(1000, b"none", 4), feedback(1000, b"x" * 5000, 5)])
    join.check()
    counts = join.ledger.feedback_counts(0)
    assert (counts["matched"], counts["waiting"], counts["limit"]) == (2, 1, 3)
    assert labels_at(join, 10**6) == [given(1, 1000, 1), SILENT]
    assert join.ledger.row_counts(0)["limit"] == 3


def test_null_ids_and_offsets_that_go_back_are_refused() -> None:
    join = one()
    give_predictions(join, [prediction(1000, offset=5)])
    with pytest.raises(InvariantError, match="do not follow offset 5"):
        give_predictions(join, [prediction(1000, b"q", offset=5)])
    null = Spans.nulls(1)
    with pytest.raises(ValueError, match="null id"):
        join.on_feedback(0, np.arange(1), np.arange(1), null, np.zeros(1, np.uint64), [np.arange(1)])
    with pytest.raises(ValueError, match="value columns"):
        join.on_feedback(0, np.arange(1), np.arange(1), Spans.of([b"a"]), np.zeros(1, np.uint64), [])


def test_read_only_inputs_and_null_payload_are_accepted() -> None:
    join = one()
    ids = Spans.of([b"a"])
    columns = [np.array([5], np.int64), np.array([7], np.int64)]
    small = [np.zeros(1, dtype) for dtype in (np.int16, np.int8)]
    hashes = real_hash(ids)
    for column in (*columns, *small, hashes, ids.start, ids.size):
        column.flags.writeable = False
    join.on_predictions(*columns, ids, hashes, Spans.nulls(1), *small)
    assert join.on_watermark(10**6).payload.to_list() == [None]


def test_large_payloads_and_many_buckets_come_back_in_order() -> None:
    join = LabelJoin(settings_of([Target.one(200_000, 0)]))
    events = [
        Prediction(k, int(ts), b"%d" % k, bytes([k % 251]) * int(size))
        for k, (ts, size) in enumerate(np.random.default_rng(2).integers(0, 100_000, (500, 2)))
    ]
    for start in range(0, 500, 50):
        give_predictions(join, events[start : start + 50])
    join = restarted(join.settings, [snapshot(join)])
    records = records_of(join.on_watermark(260_000)) + records_of(join.on_watermark(10**6))
    assert [(ts, offset, payload) for ts, offset, _, payload, *_ in records] == sorted(
        (event.ts, event.offset, event.payload) for event in events
    )
