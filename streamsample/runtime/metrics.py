"""Every metric of the service, with its name, its help and its labels, in one place.

Base units, `_total` for counters, the prefix `streamsample_`; a test holds these rules. Labels have few values:
topics, targets, designs and declared strata, never ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OverWorkers: TypeAlias = Literal["livesum", "livemin", "livemax", "livemostrecent"]
"""How a gauge of several workers becomes one."""
_DELAYS = (1, 5, 15, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)
_COMMITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one process, registered in `registry`.

    Where a service has several workers, their counters and histograms add up; gauges too, unless they say otherwise.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._records()
        self._samples()
        self._labels()
        self._standing()
        self._commits()

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"streamsample_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str, over_workers: OverWorkers = "livesum") -> Gauge:
        return Gauge(f"streamsample_{name}", words, labels, registry=self.registry, multiprocess_mode=over_workers)

    def _histogram(self, name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"streamsample_{name}", words, labels, buckets=buckets, registry=self.registry)

    def _records(self) -> None:
        """What comes in and goes out."""
        self.records_in = self._counter("records_in_total", "Records read, by topic.", "topic")
        self.bytes_in = self._counter("input_bytes_total", "Bytes of keys and values read, by topic.", "topic")
        self.records_out = self._counter("records_out_total", "Records committed, by topic.", "topic")
        self.bytes_out = self._counter("output_bytes_total", "Bytes of keys and values committed, by topic.", "topic")

    def _samples(self) -> None:
        """What samples are worth, by design and stratum (declared ones by name, all others as `other`): see `audit`."""
        by = ("design", "stratum")
        self.sampled = self._counter(
            "sampled_total",
            "Sampling decisions, by outcome (kept, dropped; uncovered: their window could not be read as a whole).",
            *(*by, "outcome"),
        )
        self.sample_expected = self._counter("sample_expected_total", "Records that samples aimed to keep.", *by)
        self.sample_weight = self._counter(
            "sample_weight_total", "Weights of what was kept: the Horvitz-Thompson estimate of what was shown.", *by
        )
        self.sample_weight_squares = self._counter(
            "sample_weight_squares_total",
            "Squares of these weights: (sum of weights)^2 / (sum of squares) is the effective sample size.",
            *by,
        )
        self.sample_baseline = self._counter(
            "sample_baseline_total", "Of designs that are not random: what one unit in a hundred, at random, is.", *by
        )
        self.sample_frontier = self._gauge(
            "sample_frontier_nodes", "What snowball samples have reached, their seeds included.", "design"
        )
        self.sample_frontier_refused = self._counter(
            "sample_frontier_refused_total",
            "How often a full frontier (frontier_max) turned away what is new.",
            "design",
        )
        self.sample_ratio = self._counter(
            "sample_ratio_total", "P/Q of importance over all records shown; per record it should be 1.", "design"
        )
        self.sample_window_population = self._gauge(
            "sample_window_population",
            "Records that the last window of a stratum had (n).",
            *by,
            over_workers="livemostrecent",
        )
        self.sample_window_size = self._gauge(
            "sample_window_size", "Records that its sample has (k).", *by, over_workers="livemostrecent"
        )
        self.sample_window_threshold = self._gauge(
            "sample_window_threshold",
            "Its threshold on ranks, NaN where nothing was left out.",
            *by,
            over_workers="livemostrecent",
        )
        self.sample_hash_chi_square = self._gauge(
            "sample_hash_chi_square",
            "Chi-square of units' hashes in 16 classes: about 15, above 38 once in a thousand times.",
            "design",
            over_workers="livemax",
        )

    def _labels(self) -> None:
        """What became of predictions and their feedback."""
        self.labels = self._counter(
            "labels_total", "Labels written, by target, kind of feedback and source.", "target", "kind", "source"
        )
        self.rows = self._counter(
            "rows_dropped_total", "Predictions that got no label of a target, by target and reason.", "target", "reason"
        )
        self.feedback = self._counter(
            "feedback_total",
            "Feedback by target, feedback and what became of it (matched, duplicate, orphan, late, pre_causal, "
            "not_sampled; dropped: no_value, limit).",
            *("target", "feedback", "outcome"),
        )
        self.duplicates = self._counter(
            "duplicate_predictions_total", "Predictions whose id was already open.", "topic"
        )
        self.late = self._counter("late_predictions_total", "Predictions that came after their own deadline.", "topic")
        self.before_start = self._counter(
            "before_start_total", "Predictions dated before the job's start, which are ignored.", "topic"
        )
        self.filtered = self._counter(
            "filtered_total", "Records that `where` left out, by input or feedback.", "source"
        )
        self.elements = self._counter(
            "elements_total", "Elements of the lists that `explode` names: a prediction each.", "topic"
        )
        self.empty_lists = self._counter(
            "empty_lists_total", "Records whose list to explode is missing, null or empty.", "topic"
        )
        self.after_end = self._counter(
            "after_end_total", "Predictions dated after the range of a backfill, which are ignored.", "topic"
        )
        self.tombstones = self._counter("tombstones_total", "Records without a value, by topic.", "topic")
        self.dead = self._counter(
            "dead_letters_total",
            "Records that could not be used, by topic, stage and class.",
            "topic",
            "stage",
            "class",
        )
        self.idle = self._counter(
            "idle_advances_total", "Times that a task's watermark began to go on by a silent topic's idle_timeout."
        )
        self.label_delay = self._histogram(
            "label_delay_seconds", "Feedback loop length of explicit labels, in event time.", _DELAYS, "target"
        )

    def _standing(self) -> None:
        """How things stand: state, time, lag."""
        self.open_rows = self._gauge(
            "open_rows", "Predictions whose windows are open; of a windowed sample, its candidates."
        )
        self.open_windows = self._gauge("open_windows", "Windows of samples that are open, counted by task.")
        self.held_rows = self._gauge(
            "held_rows", "Predictions in memory, those within late_horizon after their close included."
        )
        self.waiting = self._gauge("waiting_feedback", "Feedback that waits for its prediction.")
        self.state_bytes = self._gauge("state_bytes", "Memory of the open rows, their payload and their feedback.")
        self.file_bytes = self._gauge("state_file_bytes", "Payload of open rows that lies in files, not in memory.")
        self.changelog_bytes = self._gauge("changelog_bytes", "Bytes of the changelog that a restore would read.")
        self.watermark = self._gauge(
            "watermark_timestamp_seconds",
            "The smallest watermark of this service's tasks: 0 if one of them has none yet, infinite without tasks.",
            over_workers="livemin",
        )
        self.watermark.set(math.inf)  # A worker without tasks must not count in the smallest.
        self.held_by = self._gauge("watermark_held_by", "Tasks whose watermark is held back by this topic.", "topic")
        self.lag_records = self._gauge(
            "consumer_lag_records", "Records between the position and the end of a topic.", "topic"
        )
        self.lag_seconds = self._gauge(
            "consumer_lag_seconds",
            "Wall time less the watermark of a topic's slowest partition.",
            "topic",
            over_workers="livemax",
        )
        self.tasks = self._gauge("tasks", "Partition numbers assigned to this service.")

    def _commits(self) -> None:
        """Commits, restores, and which build this is."""
        self.commit_seconds = self._histogram(
            "commit_duration_seconds", "How long a commit took, from flush to the end of the transaction.", _COMMITS
        )
        self.commits = self._counter("commits_total", "Transactions, by outcome (committed, failed).", "outcome")
        self.restore_seconds = self._gauge(
            "restore_duration_seconds", "How long the last restore of a task took.", over_workers="livemax"
        )
        self.restore_progress = self._gauge(
            "restore_progress_ratio",
            "How much was read of the state of the task that is being restored and least far; 1 if none is.",
            over_workers="livemin",
        )
        self.build_info = self._gauge(
            "build_info",
            "Always 1; the labels tell the versions.",
            "version",
            "job",
            "job_version",
            over_workers="livemax",
        )
