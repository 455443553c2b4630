"""What a join writes down and is rebuilt from, and what shapes it."""

from __future__ import annotations

import numpy as np
import pytest

from streamsample.errors import ConfigurationError, InvariantError, StateError
from streamsample.labels import (
    JoinSettings,
    LabelJoin,
    Limits,
    Rule,
    TargetRules,
    bits_of,
    decode_delta,
    encode_delta,
)
from streamsample.labels.settings import IfSilent
from tests.labels.harness import (
    give_feedback,
    give_predictions,
    records_of,
    restarted,
    settings_of,
    snapshot,
)
from tests.labels.oracle import Feedback, Label, Prediction, Target

W, G = 100, 10
SILENT = Label(True, False, None, None)


def one(**more: int) -> LabelJoin:
    return LabelJoin(settings_of([Target.one(W, 0)], grace=G, **more))  # type: ignore[arg-type]


def of_one(name: str, window: int, feedback: int, if_silent: IfSilent = "null", bits: int = 0) -> TargetRules:
    return TargetRules(name, (Rule(feedback, window),), if_silent, bits)


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


class TestDeltas:
    def test_rewritten_rows_let_old_deltas_go(self) -> None:
        join = one(late_horizon=10)
        give_predictions(join, [prediction(1000), prediction(1001, b"q", 1)])
        give_feedback(join, [feedback(1003), feedback(1004, b"none", 1)])
        first = snapshot(join)
        give_predictions(join, [prediction(1005, b"r", 2)])
        give_feedback(join, [feedback(1006, b"q", 2)])
        second = snapshot(join)
        join.rewrite(1)
        third = snapshot(join)
        whole = restarted(join.settings, [first, second, third])
        part = restarted(join.settings, [second, third])
        wanted = [given(1, 1003), given(1, 1006, 2), SILENT]
        assert labels_at(whole, 10**6) == wanted
        assert labels_at(part, 10**6) == wanted
        assert labels_at(join, 10**6) == wanted
        assert part.ledger.feedback_counts(0)["orphan"] == 1

    def test_a_range_of_rows_is_rewritten(self) -> None:
        join = one()
        give_predictions(join, [prediction(1000, b"%d" % k, k) for k in range(10)])
        snapshot(join)
        join.rewrite(6, 3)
        assert join.snapshot_delta().rows.offset.tolist() == [3, 4, 5, 6]
        assert join.snapshot_delta().rows.offset.tolist() == []

    def test_needed_until_is_the_last_watermark_that_needs_the_delta(self) -> None:
        join = one(late_horizon=50, skew=3)
        assert join.snapshot_delta().needed_until == -(2**63)
        give_predictions(join, [prediction(1000)])
        assert join.snapshot_delta().needed_until == 1000 + W + G + 50 + 3
        give_feedback(join, [feedback(1001)])
        assert join.snapshot_delta().needed_until == 1000 + W + G + 50 + 3
        give_feedback(join, [feedback(1001, b"none", 1)])
        assert join.snapshot_delta().needed_until == 1001 + 3 + G

    def test_settled_rows_have_no_payload_and_dead_ones_are_left_out(self) -> None:
        join = one(late_horizon=50)
        give_predictions(join, [prediction(1000), prediction(1060, b"q", 1), prediction(1200, b"r", 2)])
        join.on_watermark(1000 + W + G + 50 + 1)
        delta = join.snapshot_delta()
        assert delta.rows.offset.tolist() == [1, 2]
        join.on_watermark(1060 + W + G + 1)
        join.rewrite(9)
        delta = join.snapshot_delta()
        assert delta.rows.offset.tolist() == [1, 2]
        assert delta.rows.payload.to_list() == [None, b"features"]

    def test_damage_anywhere_is_a_state_error(self) -> None:
        join = one()
        give_predictions(join, [prediction(1000)])
        give_feedback(join, [feedback(1001), feedback(1002, b"none", 1)])
        data = snapshot(join)
        assert encode_delta(decode_delta(data)) == data
        for at in range(len(data)):
            with pytest.raises(StateError):
                decode_delta(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        for size in (0, 3, 11, 40, len(data) - 1):
            with pytest.raises(StateError):
                decode_delta(data[:size])
        with pytest.raises(StateError):
            decode_delta(data + b"\x00")

    def test_a_missing_delta_is_noticed(self) -> None:
        join = one()
        give_predictions(join, [prediction(1000)])
        snapshot(join)
        give_predictions(join, [prediction(1001, b"q", 1)])
        with pytest.raises(StateError, match="1 open rows"):
            restarted(join.settings, [snapshot(join)])

    def test_windows_may_grow_and_targets_may_come_and_go(self) -> None:
        """What was settled under the old windows is not settled again."""
        old = LabelJoin(settings_of([Target.one(W, 0), Target.one(W, 1)], grace=G))
        give_predictions(old, [prediction(1000), prediction(1500, b"q", 1)])
        give_feedback(old, [feedback(1501, b"q")])
        give_feedback(old, [Feedback(1, 0, 1502, b"q", 0, (8,)), Feedback(1, 1, 1500, b"r", 1, (9,))])
        assert len(old.on_watermark(1400)) == 1
        new = JoinSettings(
            ("feedback1", "fresh"),
            (of_one("more", 50, 1), of_one("target1", 9 * W, 0, "value", bits_of(0.5))),
            grace_ms=G,
        )
        join = restarted(new, [snapshot(old)])
        join.check()
        assert join.counts().waiting == 1
        assert len(join.on_watermark(1500 + 9 * W + G)) == 0
        (record,) = records_of(join.on_watermark(1500 + 9 * W + G + 1))
        assert record[4] == (SILENT, given(8, 1502))
        join.check()

    def test_a_join_in_use_is_not_restored_into(self) -> None:
        join = one()
        give_predictions(join, [prediction(1000)])
        with pytest.raises(InvariantError, match="in use"):
            join.restore([join.snapshot_delta()])


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"targets": ()}, "targets"),
            ({"targets": (of_one("a", 1, 1),)}, "targets.a"),
            ({"targets": (of_one("a", 1, 0), of_one("a", 2, 0))}, "targets"),
            ({"targets": (of_one("a", -1, 0),)}, "targets.a.window"),
            ({"grace_ms": -1}, "grace"),
            ({"limits": Limits(open_rows=0)}, "limits.open_rows"),
            ({"limits": Limits(matches_per_row=0)}, "limits.matches_per_row"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_its_key(self, changes: dict[str, object], key: str) -> None:
        whole: dict[str, object] = {"feedback": ("clicks",), "targets": (of_one("a", 1, 0),)} | changes
        with pytest.raises(ConfigurationError, match=key):
            JoinSettings(**whole)  # type: ignore[arg-type]

    def test_bits_carry_floats_and_integers(self) -> None:
        assert np.array([bits_of(1.5)]).view(np.float64)[0] == 1.5
        assert bits_of(-3) == -3
