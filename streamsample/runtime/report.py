"""What a worker tells of its work: metrics after each commit, and one line of progress for a person."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from streamsample.labels.ledger import FEEDBACK_COLUMNS, PREDICTION_COLUMNS, ROW_COLUMNS
from streamsample.labels.watermark import MIN
from streamsample.records import Int64s, RecordBatch
from streamsample.runtime.audit import Audit, chi_square
from streamsample.runtime.plan import Plan
from streamsample.runtime.samples import SEPARATOR
from streamsample.runtime.source import Rejected
from streamsample.runtime.task import Task
from streamsample.runtime.training import Encoded

if TYPE_CHECKING:
    from streamsample.runtime.metrics import Metrics  # With an HTTP server, which those who only count need not load.

Totals: TypeAlias = Counter[tuple[str, ...]]
"""A task's counters, by the metric that they belong to and its labels."""


@dataclass(slots=True)
class Uncommitted:
    """What has been read and written since the last commit; counted when it becomes true."""

    records_in: Counter[str] = field(default_factory=Counter)
    bytes_in: Counter[str] = field(default_factory=Counter)
    records_out: Counter[str] = field(default_factory=Counter)
    bytes_out: Counter[str] = field(default_factory=Counter)
    dead: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    delays: list[tuple[str, Int64s]] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)

    def read(self, batch: RecordBatch) -> None:
        """Note a batch that came in."""
        self.records_in[batch.topic] += len(batch)
        self.bytes_in[batch.topic] += _bytes(batch.keys.size) + _bytes(batch.values.size)

    def wrote(self, topic: str, encoded: Encoded) -> None:
        """Note records that were handed to the sink."""
        self.records_out[topic] += len(encoded.keys)
        self.bytes_out[topic] += _bytes(encoded.keys.size) + _bytes(encoded.values.size)

    def refused(self, group: Rejected) -> None:
        """Note dead letters."""
        self.dead[group.batch.topic, group.stage, group.reason] += len(group.rows)


@dataclass(slots=True)
class Progress:
    """Totals of one process since it began, and how things stand. turns: the loop's, a sign of life."""

    records_in: int = 0
    records_out: int = 0
    dead: int = 0
    explicit: int = 0
    implicit: int = 0
    late: int = 0
    orphan: int = 0
    open_rows: int = 0
    lag: int = 0
    watermark_ms: int | None = None
    restoring: int = 0
    tasks: int = 0
    turns: int = 0


class Report:
    """Keeps the metrics of one process."""

    def __init__(self, plan: Plan, metrics: Metrics) -> None:
        self.progress = Progress()
        self._plan = plan
        self._metrics = metrics
        self._exported: dict[int, Totals] = {}
        self._hashes: dict[str, Int64s] = {}

    def adopted(self, task: Task) -> None:
        """A task has come (or come back) with the counters of its state: only what it adds from now on is this
        process's.
        """
        self._exported[task.partition] = totals_of(task)

    def committed(self, totals: Mapping[int, Totals], uncommitted: Uncommitted, seconds: float) -> None:
        """Count what a commit made true. totals: of each task that it has, by partition."""
        metrics, progress = self._metrics, self.progress
        metrics.commits.labels("committed").inc()
        metrics.commit_seconds.observe(seconds)
        for source, counter in (
            (uncommitted.records_in, metrics.records_in),
            (uncommitted.bytes_in, metrics.bytes_in),
            (uncommitted.records_out, metrics.records_out),
            (uncommitted.bytes_out, metrics.bytes_out),
        ):
            for topic, count in source.items():
                counter.labels(topic).inc(count)
        for labels, count in uncommitted.dead.items():
            metrics.dead.labels(*labels).inc(count)
        for target, delays in uncommitted.delays:
            observe_many(metrics.label_delay.labels(target), delays / 1000)
        self._audited(uncommitted.audit)
        progress.records_in += uncommitted.records_in.total()
        progress.records_out += uncommitted.records_out[self._plan.job.output.topic]
        progress.dead += uncommitted.dead.total()
        for partition, now in totals.items():
            for key, count in (now - self._exported.get(partition, Counter())).items():
                self._count(key, count)
            self._exported[partition] = now

    def _audited(self, audit: Audit) -> None:
        metrics = self._metrics
        for sums, counter in (
            (audit.expected, metrics.sample_expected),
            (audit.weights, metrics.sample_weight),
            (audit.squares, metrics.sample_weight_squares),
            (audit.baseline, metrics.sample_baseline),
        ):
            for labels, value in sums.items():
                counter.labels(*labels).inc(value)
        for sample, value in audit.ratios.items():
            metrics.sample_ratio.labels(sample).inc(value)
        for labels, window in audit.windows.items():
            metrics.sample_window_population.labels(*labels).set(window.population)
            metrics.sample_window_size.labels(*labels).set(window.size)
            metrics.sample_window_threshold.labels(*labels).set(window.threshold)
        for sample, counts in audit.hashes.items():
            self._hashes[sample] = self._hashes.get(sample, 0) + counts
            metrics.sample_hash_chi_square.labels(sample).set(chi_square(self._hashes[sample]))

    def failed(self) -> None:
        """Count a transaction that did not commit."""
        self._metrics.commits.labels("failed").inc()

    def restored(self, seconds: float) -> None:
        """Note how long a restore took."""
        self._metrics.restore_seconds.set(seconds)

    def standing(
        self,
        tasks: Mapping[int, Task],
        lags: Mapping[str, int],
        now_ms: int,
        restoring: Sequence[float],
        file_bytes: int,
    ) -> None:
        """Set the gauges to how things stand. restoring: of each task being restored, the share that was read."""
        metrics, progress = self._metrics, self.progress
        joins = [task.join for task in tasks.values() if task.join is not None]
        counts = [join.counts() for join in joins]
        samples = [task.windows for task in tasks.values() if task.windows is not None]
        candidates = sum(sample.held for sample in samples)
        progress.open_rows = sum(count.open_rows for count in counts) + candidates
        progress.lag = sum(lags.values())
        progress.restoring, progress.tasks = len(restoring), len(tasks) + len(restoring)
        metrics.restore_progress.set(min(restoring, default=1.0))
        metrics.open_rows.set(progress.open_rows)
        metrics.open_windows.set(sum(sample.open_windows for sample in samples))
        metrics.held_rows.set(sum(count.held_rows for count in counts) + candidates)
        metrics.waiting.set(sum(count.waiting for count in counts))
        metrics.state_bytes.set(
            sum(join.state_bytes() for join in joins) + sum(sample.bytes_used() for sample in samples) - file_bytes
        )
        metrics.file_bytes.set(file_bytes)
        metrics.changelog_bytes.set(sum(task.log.size_bytes for task in tasks.values()))
        metrics.tasks.set(progress.tasks)
        for name in self._plan.snowballs:
            metrics.sample_frontier.labels(name).set(sum(task.reached[name] for task in tasks.values()))
        for topic, lag in lags.items():
            metrics.lag_records.labels(topic).set(lag)
        self._watermarks(tasks, now_ms)

    def _watermarks(self, tasks: Mapping[int, Task], now_ms: int) -> None:
        tasks = {number: task for number, task in tasks.items() if task.owns}
        values = [task.watermark.value() for task in tasks.values()]
        smallest = min(values, default=None)
        if smallest is None or smallest == MIN:
            self.progress.watermark_ms = None
            self._metrics.watermark.set(math.inf if smallest is None else 0)
        else:
            self.progress.watermark_ms = smallest
            self._metrics.watermark.set(smallest / 1000)
        holders = Counter(holder.topic for task in tasks.values() if (holder := task.watermark.held_by()) is not None)
        for topic in self._plan.topics:
            self._metrics.held_by.labels(topic).set(holders[topic])
            levels = [level for task in tasks.values() if (level := task.watermark.level_of_topic(topic)) is not None]
            if levels:
                self._metrics.lag_seconds.labels(topic).set(max(0.0, (now_ms - min(levels)) / 1000))

    def _count(self, key: tuple[str, ...], count: int) -> None:
        metrics, progress = self._metrics, self.progress
        kind, *labels = key
        if kind == "label":
            metrics.labels.labels(*labels).inc(count)
            if labels[2] == "explicit":
                progress.explicit += count
            else:
                progress.implicit += count
        elif kind == "row":
            metrics.rows.labels(*labels).inc(count)
        elif kind == "feedback":
            metrics.feedback.labels(*labels).inc(count)
            if labels[2] == "late":
                progress.late += count
            elif labels[2] == "orphan":
                progress.orphan += count
        elif kind == "prediction":
            counter = metrics.duplicates if labels[0] == "duplicate" else metrics.late
            counter.labels(self._plan.input.topic).inc(count)
            progress.late += count if labels[0] == "late" else 0
        elif kind == "before_start":
            metrics.before_start.labels(self._plan.input.topic).inc(count)
        elif kind == "after_end":
            metrics.after_end.labels(self._plan.input.topic).inc(count)
        elif kind == "elements":
            metrics.elements.labels(self._plan.input.topic).inc(count)
        elif kind == "empty_lists":
            metrics.empty_lists.labels(self._plan.input.topic).inc(count)
        elif kind == "idle_advances":
            metrics.idle.inc(count)
        elif kind == "filtered":
            metrics.filtered.labels(*labels).inc(count)
        elif kind == "tombstones":
            metrics.tombstones.labels(*labels).inc(count)
        elif kind == "thinned" and self._plan.job.thin is not None:
            metrics.sampled.labels(f"thinned by {self._plan.job.thin.by}", *labels).inc(count)
        elif kind in ("sampled", "frontier"):
            counter = metrics.sampled if kind == "sampled" else metrics.sample_frontier_refused
            name, *rest = labels
            for sample in self._plan.samples:
                for place in sample.places:
                    if place.key == name:
                        counter.labels(place.called, *rest).inc(count)


def totals_of(task: Task) -> Totals:
    """All of a task's counters, by the metric that they belong to and its labels."""
    totals: Totals = Counter()
    for name, count in task.counts.items():
        totals[tuple(name.split(SEPARATOR))] += count
    if task.join is None or task.plan.join is None:
        return totals
    ledger = task.join.ledger
    names, join = ledger.targets, task.plan.join
    for number, name in enumerate(names):
        # As of the close: counters only grow, and corrections take from some of these.
        rows = dict(zip(ROW_COLUMNS, (ledger.rows[number] - ledger.moved[number]).tolist(), strict=True))
        totals["label", name, "none", "implicit"] = rows["implicit"]
        for reason in ("silent", "uncovered", "limit"):
            totals["row", name, reason] = rows[reason]
    for number, use in enumerate(join.uses):
        target, kind = names[use.target], join.feedback[use.feedback]
        totals["label", target, kind, "explicit"] += int(ledger.labels[number])
        for outcome, count in zip(FEEDBACK_COLUMNS, ledger.feedback[number].tolist(), strict=True):
            if outcome not in ("feedback_in", "waiting"):
                totals["feedback", target, kind, outcome] += count
    for outcome, count in zip(PREDICTION_COLUMNS, ledger.predictions.tolist(), strict=True):
        if outcome != "predictions_in":
            totals["prediction", outcome] = count
    return totals


def observe_many(histogram: Any, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Observe many values at once: prometheus-client has only `observe`, one Python call each.

    histogram: a child of a Histogram. Its buckets hold plain counts (not cumulative) and its sum the sum of the values.
    """
    if not len(values):
        return
    bounds = np.array(histogram._upper_bounds)
    counts = np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds))
    for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(float(values.sum()))


def _bytes(sizes: np.ndarray[tuple[int], np.dtype[np.int32]]) -> int:
    return int(np.maximum(sizes, 0).sum(dtype=np.int64))
