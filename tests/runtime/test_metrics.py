"""Metrics: their names, what a real run sets them to, and the pages that serve them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from streamsample import __version__
from streamsample.errors import ConfigurationError
from streamsample.runtime.http import StatusServer
from streamsample.runtime.metrics import Metrics
from streamsample.runtime.report import observe_many
from tests.acceptance.cluster import MakeJob, OnBroker, Raw, get, samples
from tests.acceptance.timelines import T0, Event, later
from tests.kafka.consuming import until

STREAMSAMPLE = Path(sys.executable).with_name("streamsample")
UNITS = {"seconds", "bytes"}
"""Base units; what counts things has none."""
OTHER_UNITS = r"_(ms|milliseconds|us|minutes|hours|days|kb|kib|mb|mib|gb|percent|ratio_percent)(_|$)"


def families() -> list[Metric]:
    registry = CollectorRegistry()
    Metrics(registry)
    return list(registry.collect())


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_names_follow_the_rules(family: Metric) -> None:
    assert re.fullmatch(r"streamsample_[a-z][a-z0-9]*(_[a-z0-9]+)*", family.name)
    assert not re.search(OTHER_UNITS, family.name)
    named = [word for word in family.name.split("_") if word in UNITS]
    assert named == [] or family.name.split("_")[-1] == named[-1], "the unit comes last"
    assert family.type in ("counter", "gauge", "histogram")
    if family.type == "histogram":
        assert family.name.endswith("_seconds")
    help_text = family.documentation
    assert 15 < len(help_text) < 180
    assert help_text[0].isupper()
    assert help_text.endswith(".")
    assert "\n" not in help_text


def test_counters_end_in_total_and_nothing_else_does() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    names = {name for name in registry._names_to_collectors if not name.endswith("_created")}
    counters = {family.name for family in registry.collect() if family.type == "counter"}
    assert {f"{name}_total" for name in counters} <= names
    assert not [f.name for f in registry.collect() if f.type != "counter" and f.name.endswith("_total")]
    held = [value for name, value in vars(metrics).items() if name != "registry"]
    assert len(held) == len(list(registry.collect()))


def test_observing_many_values_at_once_is_observing_each() -> None:
    import numpy as np

    registry = CollectorRegistry()
    metrics = Metrics(registry)
    values = [0.0, 1.0, 1.0000001, 5.0, 7.5, 1e9]
    for value in values:
        metrics.label_delay.labels("one").observe(value)
    observe_many(metrics.label_delay.labels("many"), np.array(values))
    observe_many(metrics.label_delay.labels("many"), np.empty(0))
    (family,) = [each for each in registry.collect() if each.name == "streamsample_label_delay_seconds"]
    found: dict[str, dict[Any, float]] = {"one": {}, "many": {}}
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            found[sample.labels["target"]][sample.name, sample.labels.get("le")] = sample.value
    assert found["one"] == found["many"]


# -- a real run ---------------------------------------------------------------------------------------------


@contextmanager
def running(job: OnBroker, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`streamsample run` as a process of its own; its address of metrics."""
    job.save()
    command = [str(STREAMSAMPLE), "run", str(job.path), "--log-level", "warning", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"metrics at (http://\S+)/metrics", line):
                yield process, found[1]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.kill()
        process.wait()


def publish_everything(job: OnBroker) -> None:
    """Something for every metric."""
    countries = {"a": "IS", "b": "IS", "c": "IS", "late": "IS"}
    shown = [Event("shown", T0, identity, {"country": countries[identity]}) for identity in "abc"]
    others = [Event("shown", T0, f"x{number}", {"country": "FR"}) for number in range(20)]
    job.publish([*shown, shown[0], *others])
    job.publish(
        """
        3s    clicked  a  event=1
        3s    clicked  a  event=1
        8s    clicked  b  event=2
        -5s   clicked  c  event=3
        2s    clicked  nobody  event=4
        """
    )
    places = range(job.partitions)
    job.write(
        "shown", [Raw(b'{"id": "later-s%d", "at": %d, "country": "IS"}' % (n, T0 + 3_600_000), None, n) for n in places]
    )
    job.later(later("1h", ["clicked"]))


def expected(job: OnBroker) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What `publish_everything` makes true."""
    topic = {kind: f"{job.name}.{kind}" for kind in ("shown", "clicked", "training")}

    def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return f"streamsample_{name}", tuple(sorted(labels.items()))

    feedback = {"target": "clicked", "feedback": "clicks"}
    return {
        of("records_in_total", topic=topic["shown"]): 24 + 2 + 2,
        of("records_in_total", topic=topic["clicked"]): 5 + 2 + 1,
        of("records_out_total", topic=topic["training"]): 3,
        of("sampled_total", design="stratified", stratum="IS", outcome="kept"): 4 + 2 + 1,
        of("sampled_total", design="stratified", stratum="FR", outcome="dropped"): 20,
        of("labels_total", target="clicked", kind="clicks", source="explicit"): 2,
        of("labels_total", target="clicked", kind="none", source="implicit"): 1,
        of("feedback_total", outcome="matched", **feedback): 2,
        of("feedback_total", outcome="duplicate", **feedback): 1,
        of("feedback_total", outcome="pre_causal", **feedback): 1,
        of("feedback_total", outcome="orphan", **feedback): 1,
        of("duplicate_predictions_total", topic=topic["shown"]): 1,
        of("late_predictions_total", topic=topic["shown"]): 1,
        of("tombstones_total", topic=topic["clicked"]): 1,
        of("dead_letters_total", topic=topic["shown"], stage="decode", **{"class": "bad_json"}): 1,
        of("dead_letters_total", topic=topic["shown"], stage="label", **{"class": "late"}): 1,
        of("label_delay_seconds_sum", target="clicked"): 3 + 8,
        of("label_delay_seconds_count", target="clicked"): 2,
        of("label_delay_seconds_bucket", target="clicked", le="5.0"): 1,
        of("label_delay_seconds_bucket", target="clicked", le="15.0"): 2,
        of("open_rows"): 2,
        of("held_rows"): 2,
        of("waiting_feedback"): 2,
        of("watermark_timestamp_seconds"): (T0 + 3_600_000) / 1000,
        of("consumer_lag_records", topic=topic["shown"]): 0,
        of("consumer_lag_records", topic=topic["clicked"]): 0,
        of("tasks"): 2,
        of("build_info", version=__version__, job=job.name, job_version=job.job.version): 1,
    }


POSITIVE = (
    *(
        "input_bytes_total",
        "output_bytes_total",
        "state_bytes",
        "changelog_bytes",
        "commits_total",
        "consumer_lag_seconds",
    ),
    *("commit_duration_seconds_count", "commit_duration_seconds_sum"),
)
ELSEWHERE = {
    f"streamsample_{name}"
    for name in (
        "rows_dropped_total",
        "before_start_total",
        "after_end_total",
        "idle_advances_total",
        "restore_duration_seconds",
        "filtered_total",
        *("elements_total", "empty_lists_total"),
        *("sample_baseline_total", "sample_ratio_total", "sample_hash_chi_square"),
        *("sample_frontier_nodes", "sample_frontier_refused_total"),
        *("sample_window_population", "sample_window_size", "sample_window_threshold"),
    )
}
"""Set in other runs: see tests/acceptance (coverage, start, idleness, expressions, slates), tests/faults (restores)."""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_sets_every_metric_to_the_truth(make_job: MakeJob, workers: int) -> None:
    sample = {"design": "stratified", "by": "country", "rate": 0.5, "rates": {"IS": 1.0, "FR": 0.0}}
    job = make_job({"sample": sample})
    publish_everything(job)
    wanted = expected(job)
    with running(job, "--workers", str(workers)) as (process, address):
        until(lambda: get(f"{address}/readyz") == (200, "ok\n"), "ready")
        out = "streamsample_records_out_total", (("topic", f"{job.name}.training"),)
        until(lambda: samples(get(f"{address}/metrics")[1]).get(out) == 3, "three records")
        # Now that all is settled: what comes too late, what is no JSON, what is null.
        job.write("shown", [Raw(b'{"id": "late", "at": %d, "country": "IS"}' % T0, b"a"), Raw(b"{", b"a")])
        job.write("clicked", [Raw(None, b"a")])
        dead = next(key for key in wanted if ("stage", "label") in key[1])
        tombstones = next(key for key in wanted if "tombstones" in key[0])

        def told() -> dict[Any, float] | None:
            found = samples(get(f"{address}/metrics")[1])
            return found if found.get(dead) == 1 and found.get(tombstones) == 1 else None

        found = until(told, "the late one and the tombstone")
        assert get(f"{address}/livez") == (200, "ok\n")
        assert get(f"{address}/elsewhere")[0] == 404
        if workers == 1:
            process.send_signal(signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 0, said
    assert said.splitlines()[-1] == f"job {job.name}: read 36, wrote 3, open 2, dead letters 2"
    assert {key: found.get(key) for key in wanted} == wanted
    held_back = {topic for (name, ((_, topic),)), value in pairs(found) if name.endswith("held_by") and value}
    assert held_back <= {f"{job.name}.shown", f"{job.name}.clicked"}
    for name in POSITIVE:
        values = [value for (each, _), value in found.items() if each == f"streamsample_{name}"]
        assert values, name
        assert min(value for value in values) > 0, name
    told_of = {name for name, _ in found}
    for family in families():
        names = {family.name, f"{family.name}_total", f"{family.name}_count"}
        assert names & (told_of | ELSEWHERE), f"{family.name} is never set"


def pairs(found: dict[Any, float]) -> Iterator[tuple[Any, float]]:
    yield from ((key, value) for key, value in found.items() if len(key[1]) == 1)


# -- the pages --------------------------------------------------------------------------------------------------


def test_probes_say_what_is_wrong() -> None:
    wrong: list[str | None] = ["no progress for 61 s", None]
    server = StatusServer("127.0.0.1", 0, CollectorRegistry(), lambda: wrong[0], lambda: wrong[1])
    try:
        assert get(f"{server.url}/livez") == (503, "no progress for 61 s\n")
        assert get(f"{server.url}/readyz?verbose=1") == (200, "ok\n")
        assert get(server.url) == (404, "try /metrics, /livez or /readyz\n")
        with pytest.raises(ConfigurationError, match=r"metrics: cannot listen on 127\.0\.0\.1:\d+: Address already"):
            StatusServer("127.0.0.1", server.port, CollectorRegistry(), lambda: None, lambda: None)
    finally:
        server.close()
