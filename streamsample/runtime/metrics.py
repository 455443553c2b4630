"""Every metric of the service, with its name, its help and its labels, in one place.

Base units, `_total` for counters, the prefix `streamsample_`; a test holds these rules. Labels have few values:
topics, targets, designs and declared strata, never ids.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DELAYS = (1, 5, 15, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)
_COMMITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one process, registered in `registry`. `multiprocess` gauges add up over the workers of a
    service.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"streamsample_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str, over_workers: str = "livesum") -> Gauge:
            mode = over_workers
            return Gauge(f"streamsample_{name}", words, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self.records_in = counter("records_in_total", "Records read, by topic.", "topic")
        self.bytes_in = counter("bytes_in_total", "Bytes of keys and values read, by topic.", "topic")
        self.records_out = counter("records_out_total", "Records committed, by topic.", "topic")
        self.bytes_out = counter("bytes_out_total", "Bytes of keys and values committed, by topic.", "topic")
        self.sampled = counter(
            "sampled_total",
            "Sampling decisions, by design, stratum (declared ones by name, all others as `other`) and outcome "
            "(kept, dropped).",
            *("design", "stratum", "outcome"),
        )
        self.labels = counter(
            "labels_total", "Labels written, by target, kind of feedback and source.", "target", "kind", "source"
        )
        self.rows = counter(
            "rows_dropped_total", "Predictions that got no label of a target, by target and reason.", "target", "reason"
        )
        self.feedback = counter(
            "feedback_total",
            "Feedback by target, feedback and what became of it (matched, duplicate, orphan, late, pre_causal, "
            "not_sampled, dropped).",
            *("target", "feedback", "outcome"),
        )
        self.duplicates = counter("duplicate_predictions_total", "Predictions whose id was already open.", "topic")
        self.late = counter("late_predictions_total", "Predictions that came after their own deadline.", "topic")
        self.tombstones = counter("tombstones_total", "Records without a value, by topic.", "topic")
        self.dead = counter(
            "dead_letters_total",
            "Records that could not be used, by topic, stage and class.",
            "topic",
            "stage",
            "class",
        )
        self.idle = counter(
            "idle_advances_total", "Times that a silent topic's watermark went on by its idle_timeout.", "topic"
        )
        self.label_delay = Histogram(
            "streamsample_label_delay_seconds",
            "Feedback loop length of explicit labels, in event time.",
            ["target"],
            buckets=_DELAYS,
            registry=registry,
        )
        self.open_rows = gauge("open_rows", "Predictions whose windows are open.")
        self.held_rows = gauge(
            "held_rows", "Predictions in memory, those within late_horizon after their close included."
        )
        self.waiting = gauge("waiting_feedback", "Feedback that waits for its prediction.")
        self.state_bytes = gauge("state_bytes", "Memory of the open rows, their payload and their feedback.")
        self.changelog_bytes = gauge("changelog_bytes", "Bytes of the changelog that a restore would read.")
        self.watermark = gauge(
            "watermark_timestamp_seconds", "The smallest watermark of this service's tasks.", over_workers="livemin"
        )
        self.held_by = gauge("watermark_held_by", "Tasks whose watermark is held back by this topic.", "topic")
        self.lag_records = gauge(
            "consumer_lag_records", "Records between the position and the end of a topic.", "topic"
        )
        self.lag_seconds = gauge(
            "consumer_lag_seconds",
            "Wall time less the watermark of a topic's slowest partition.",
            "topic",
            over_workers="livemax",
        )
        self.tasks = gauge("tasks", "Partition numbers assigned to this service.")
        self.commit_seconds = Histogram(
            "streamsample_commit_duration_seconds",
            "How long a commit took, from flush to the end of the transaction.",
            buckets=_COMMITS,
            registry=registry,
        )
        self.commits = counter("commits_total", "Transactions, by outcome (committed, failed).", "outcome")
        self.restore_seconds = gauge(
            "restore_duration_seconds", "How long the last restore of a task took.", over_workers="livemax"
        )
        self.build_info = gauge(
            "build_info",
            "Always 1; the labels tell the versions.",
            "version",
            "job",
            "job_version",
            over_workers="livemax",
        )
