"""The live audit of samples: what the metrics say of a sample, against the sample itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamsample.runtime.audit import Audit, chi_square
from streamsample.runtime.output import Output
from tests.acceptance.cluster import MakeJob
from tests.acceptance.timelines import Event, OneTask
from tests.acceptance.windows import COUNTRIES, RESERVOIR, WEIGHTED, WINDOW, only, shown, the_end

END = the_end()
STRATIFIED = {"design": "stratified", "by": "country", "rate": 0.1, "rates": {"IS": 0.5}, "seed": 3}


class Audited(OneTask):
    """A task, and what its audit says of all that it was shown."""

    def __init__(self, design: dict[str, Any] | list[dict[str, Any]]) -> None:
        super().__init__(only(design))
        self.audit = Audit()
        take = self.task.take_output

        def taken() -> Output:
            output = take()
            self.audit.add(output.audit)
            return output

        self.task.take_output = taken  # type: ignore[method-assign]


def weights(task: OneTask, country: str) -> np.ndarray:
    found = [
        record["weights"]["sampling"]
        for record in task.records
        if record["features"]["country"] == country and not record["features"]["id"].startswith("later")
    ]
    return np.array(found, np.float64)


def test_by_rate_what_was_aimed_at_and_the_weights_of_what_was_kept() -> None:
    task = Audited(STRATIFIED)
    task.play(shown(3_000))
    audit, kept = task.audit, weights(task, "IS")
    assert audit.expected["stratified", "IS"] == pytest.approx(500)
    assert audit.expected["stratified", "other"] == pytest.approx(200)
    assert audit.weights["stratified", "IS"] == pytest.approx(kept.sum()) == pytest.approx(1_000, rel=0.15)
    assert audit.squares["stratified", "IS"] == pytest.approx((kept**2).sum())


def test_of_windows_n_k_the_threshold_and_horvitz_thompsons_count() -> None:
    task = Audited(RESERVOIR)
    events = shown(1_500)
    task.play(events).play(END)
    audit = task.audit
    total = sum(audit.weights["reservoir", country] for country in COUNTRIES)
    assert total == pytest.approx(1_500, rel=0.2)
    for country in COUNTRIES:
        mine = weights(task, country)
        assert audit.weights["reservoir", country] == pytest.approx(mine.sum())
        assert audit.squares["reservoir", country] == pytest.approx((mine**2).sum())
        assert audit.expected["reservoir", country] == len(mine)
    last = max(event.at // WINDOW for event in events)
    members = [event for event in events if event.at // WINDOW == last and event.more["country"] == "DE"]
    said = [
        record["sampling"]
        for record in task.records
        if record["features"]["at"] // WINDOW == last and record["features"]["country"] == "DE"
    ]
    window = audit.windows["reservoir", "DE"]
    assert (window.population, window.size) == (len(members), len(said))
    assert window.threshold == said[0]["threshold"]


def test_the_hashes_of_units_are_spread_evenly_and_a_bad_one_would_show() -> None:
    task = Audited(RESERVOIR)
    task.play(shown(20_000))
    counts = task.audit.hashes["reservoir"]
    assert counts.sum() >= 2_048
    assert chi_square(counts) < 37.7  # once in a thousand, 15 degrees of freedom
    counts[3] += 200
    assert chi_square(counts) > 100
    assert np.isnan(chi_square(np.zeros(16, np.int64)))


def test_importance_tells_the_mean_of_the_ratios() -> None:
    task = Audited({"design": "importance", "target": "amount", "proposal": "base", "keep": "all"})
    events = [Event(e.kind, e.at, e.id, {**e.more, "base": 3.0}) for e in shown(700)]
    task.play(events)
    wanted = sum(float(event.more["amount"]) / 3.0 for event in events)
    assert task.audit.ratios["importance"] == pytest.approx(wanted)


def test_what_is_not_random_stands_beside_a_random_baseline() -> None:
    task = Audited({"design": "quota", "by": "country", "strata": ["IS"], "k": 4, "window": "10s"})
    task.play([Event(e.kind, e.at, e.id, {**e.more, "country": "IS" if n % 4 == 0 else "DE"})
               for n, e in enumerate(shown(20_000))]).play(END)  # fmt: skip
    mine, others = task.audit.baseline["quota", "IS"], task.audit.baseline["quota", "other"]
    assert 140 < mine + others < 260
    assert 0.15 < mine / (mine + others) < 0.35
    assert task.audit.weights["quota", "IS"] == 0


def test_what_an_experts_rule_takes_has_slices_beside_a_baseline_and_no_other_sums() -> None:
    design = {"design": "judgment", "rule": "amount > 4.0", "version": "1", "by": "country", "strata": ["IS"]}
    task = Audited(design)
    task.play(shown(20_000))
    mine, others = task.audit.baseline["judgment (1)", "IS"], task.audit.baseline["judgment (1)", "other"]
    assert 140 < mine + others < 260
    assert 0.2 < mine / (mine + others) < 0.46
    assert not task.audit.expected
    assert not task.audit.weights
    kept = [record for record in task.records if record["sampling"]["stratum"] == "IS"]
    assert task.task.counts["sampled\x1fsample\x1fIS\x1fkept"] == len(kept) > 1_500
    after = Audited([design, {"design": "simple", "rate": 0.5}])
    after.play(shown(2_000))
    expected = after.audit.expected["sample[1]: simple", "other"]
    assert expected == pytest.approx(len(OneTask(only(design)).play(shown(2_000)).records) / 2)


def test_metrics_say_so_on_a_broker(make_job: MakeJob) -> None:
    job = make_job(only({**WEIGHTED, "scope": "global"}), partitions=2)
    job.publish(shown(1_500))
    job.later(END)
    registry = job.live_once().registry
    for country in COUNTRIES:
        labels = {"design": "weighted", "stratum": country}
        kept = [record for record in job.records if record["sampling"]["stratum"] == country]
        total = sum(record["weights"]["sampling"] for record in kept)
        assert registry.get_sample_value("streamsample_sample_weight_total", labels) == pytest.approx(total)
        assert registry.get_sample_value("streamsample_sample_expected_total", labels) == len(kept)
        assert registry.get_sample_value("streamsample_sample_window_size", labels) == 4
        assert registry.get_sample_value("streamsample_sample_window_population", labels)
        assert registry.get_sample_value("streamsample_sample_window_threshold", labels)
    assert registry.get_sample_value("streamsample_sample_hash_chi_square", {"design": "weighted"})
