"""What rows that may give several records cost, and what they leave behind (A14, A17)."""

from __future__ import annotations

from streamsample.labels import LabelJoin
from tests.labels.harness import give_feedback, give_predictions, records_of, settings_of
from tests.labels.oracle import Feedback, Prediction, Rule, Target


def test_a17_corrections_cost_what_is_corrected_and_nothing_stays() -> None:
    window, count = 640_000, 50_000
    targets = [Target((Rule(window, 0, "sum"),), "value", 0)]
    join = LabelJoin(settings_of(targets, corrections=window, late_horizon=0))
    give_predictions(join, [Prediction(k, k * 12, b"%d" % k) for k in range(count)])
    join.on_watermark(count * 12 + window + 1)
    assert join.counts().open_rows == 0
    settled = join.touched
    for step in range(100):
        ts = count * 12 + window + 2 + step
        give_feedback(join, [Feedback(0, step, ts, b"%d" % (count - 1 - step), step, (step + 1,))])
        (record,) = records_of(join.on_watermark(ts + 1))
        assert (record[4][0].value, record[5], record[6]) == (step + 1, "correct", 1)
        join.check()
    assert join.touched - settled < 300, "no row is looked at that nothing changes"
    join.on_watermark(10**9)
    counts = join.counts()
    assert (counts.held_rows, counts.matches, counts.payload_bytes, counts.index_entries, counts.buckets) == (0,) * 5
