"""A range of the past, replayed beside the live job: the same bytes (A8), and nothing of the live job is touched."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition

from streamsample.clock import ManualClock, SystemClock
from streamsample.config.backfill import Backfill, backfill_of, backfilling
from streamsample.errors import ConfigurationError, NotYetError
from streamsample.records import TopicPartition
from streamsample.runtime.plan import plan_of
from streamsample.runtime.report import Progress
from streamsample.runtime.samples import TaskSettings
from streamsample.runtime.service import Options, run_one
from streamsample.testing.player import TaskPlayer
from tests.acceptance.cluster import MakeJob, OnBroker, Placed, Raw
from tests.acceptance.timelines import IMPRESSION, NOW, T0, Event, avro, job_of, job_tree, later, orders
from tests.acceptance.windows import GLOBAL, RESERVOIR, only, shown
from tests.faults.harness import Worker
from tests.test_cli import call

FROM, TO = T0 + 60_000, T0 + 120_000
SMALL = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}
"""Small fetches, for many turns of a small workload."""


def traffic(seed: int = 1) -> list[Event]:
    """Four minutes of impressions and clicks, out of order by less than the grace, some twice, some clicks too
    late; and the edges of the range.
    """
    chance = random.Random(seed)
    found = edges()
    for number in range(800):
        at = T0 + 300 * number + chance.randrange(-400, 400)
        found.append(Event("shown", at, f"p{number}", {"user": f"u{number % 50}", "country": "DE"}))
        if number % 7 == 0:
            found.append(Event("shown", at + chance.randrange(0, 9_000), f"p{number}", {"user": "again"}))
        if number % 3:
            clicked = at + chance.choice([0, 1, 2_000, 9_999, 10_000, 10_001, 15_000])
            found += [Event("clicked", clicked, f"p{number}", {"event": f"c{number}"})] * chance.choice([1, 1, 2])
    return sorted(found, key=lambda event: event.at // 800)


def edges() -> list[Event]:
    """What lies on the edges of the range: the same prediction on both sides of its begin, feedback from outside."""
    return [
        *(Event("shown", FROM - 1, "before"), Event("shown", FROM, "first"), Event("shown", TO - 1, "last")),
        *(Event("shown", TO, "after"), Event("shown", FROM - 5_000, "early"), Event("shown", FROM + 1_000, "early")),
        *(Event("clicked", FROM + 2, "before"), Event("clicked", FROM + 2_000, "early")),
        *(Event("clicked", TO + 9_999, "last"), Event("clicked", TO + 1, "after")),
    ]


def publish(job: OnBroker, events: list[Event], encoding: str = "json") -> None:
    """In small record batches, so that what is not needed need not be read."""
    for begin in range(0, len(events), 150):
        some = events[begin : begin + 150]
        if encoding == "json":
            job.publish(some)
            continue
        shown = [event for event in some if event.kind == "shown"]
        job.write(
            "shown", [Raw(avro(IMPRESSION, event.value(0)), event.id.encode(), None, event.at) for event in shown]
        )
        job.publish([event for event in some if event.kind == "clicked"])


def the_end(job: OnBroker, encoding: str = "json") -> None:
    """Let event time go on in all partitions."""
    if encoding == "json":
        job.later(later("1h"))
        return
    for number in range(job.partitions):
        end = avro(IMPRESSION, {"id": f"later-{number}", "at": T0 + 3_600_000})
        job.write("shown", [Raw(end, None, number, T0 + 3_600_000)])
    job.later(later("1h", ["clicked"]))


def backfill(job: OnBroker, topic: str, first: int = FROM, end: int = TO, **options: Any) -> Progress:
    chosen = Options(on_warning=job.warnings.append, **options)
    made = backfilling(job.job, Backfill(first, end, f"{job.name}.{topic}"))
    return run_one(made, chosen, SystemClock(), serve=False)


def written(job: OnBroker, topic: str) -> list[Placed]:
    records = [Placed(each.key, each.timestamp, each.value, each.partition) for each in job.read(f"{job.name}.{topic}")]
    return sorted(records, key=lambda record: (record.timestamp, record.key, record.value))


def in_range(job: OnBroker, window_ms: int = 11_000) -> list[Placed]:
    """What the live job has written of the range: its records are stamped with their time, the window and the grace."""
    return [each for each in written(job, "training") if FROM <= each.timestamp - window_ms < TO]


def standing(job: OnBroker) -> Any:
    """The live group's positions, and the ends of all that it writes."""
    topics = [f"{job.name}.{kind}" for kind in ("shown", "clicked", "training", "changelog", "dead-letters")]
    consumer = KafkaConsumer(bootstrap_servers=job.servers, group_id=job.name, enable_auto_commit=False)
    try:
        places = [KafkaTopicPartition(topic, number) for topic in topics for number in range(job.partitions)]
        return {place: consumer.committed(place) for place in places}, consumer.end_offsets(places)
    finally:
        consumer.close()


# -- the same bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_a8_a_backfill_writes_the_bytes_of_the_live_job_and_touches_nothing_of_it(
    make_job: MakeJob, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "impression.avsc").write_text(json.dumps(IMPRESSION))
    changes = {"input.format": "avro", "input.schema_file": "impression.avsc"} if encoding == "avro" else {}
    job = make_job({**changes, **SMALL, "split": {"by": "user", "train": 0.8, "test": 0.2}})
    events = traffic()
    publish(job, events, encoding)
    the_end(job, encoding)
    job.run()
    before = standing(job)
    progress = backfill(job, "again")
    again = written(job, "again")
    assert again == in_range(job)
    assert len(again) > 150
    keys = {record.key for record in again}
    assert {b"first", b"last"} <= keys
    assert not {b"before", b"after", b"early"} & keys  # early: the one in the range is the same prediction again
    assert standing(job) == before
    assert progress.open_rows == 0
    assert progress.records_in < 0.6 * len(events)  # neither what is long before nor what is long after it
    assert job.run().records_in == 0
    assert written(job, "again") == again
    assert backfill(job, "again").records_in == 0
    assert written(job, "again") == again


def test_a8_a_backfill_thins_as_the_live_job_does(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "impression.avsc").write_text(json.dumps(IMPRESSION))
    avro_input = {"input.format": "avro", "input.schema_file": "impression.avsc"}
    job = make_job({**avro_input, **SMALL, "thin": {"by": "clicked", "rates": {0: 0.3}, "offset": "log_odds"}})
    publish(job, traffic(), "avro")
    the_end(job, "avro")
    job.run()
    backfill(job, "again")
    again = written(job, "again")
    assert again == in_range(job)
    assert 30 < len(again) < 150


def test_a8_ranges_side_by_side_are_the_whole(make_job: MakeJob) -> None:
    job = make_job(orders, partitions=1)
    publish(job, traffic(2))
    job.later(later("1h", ("shown", "clicked", "bought")))
    job.run()
    cuts = [T0 - 1_000, FROM, FROM + 1, TO, T0 + 600_000]
    for first, end in itertools.pairwise(cuts):
        backfill(job, "parts", first, end)
    assert written(job, "parts") == written(job, "training")


def test_b7_a_sample_by_rate_and_without_targets(make_job: MakeJob) -> None:
    sample = {"design": "simple", "rate": 0.5, "seed": 3}
    job = make_job({"feedback": None, "targets": None, "sample": sample})
    job.publish([event for event in traffic(3) if event.kind == "shown"])
    job.later(later("1h", ["shown"]))
    job.run()
    backfill(job, "again")
    assert written(job, "again") == in_range(job, 0)
    assert len(written(job, "again")) > 50


@pytest.mark.parametrize("design", [GLOBAL, RESERVOIR], ids=["global", "partition"])
@pytest.mark.parametrize("first", [0, 3_456], ids=["whole windows", "cut windows"])
def test_b7_a_windowed_sample_is_that_of_the_whole_windows(
    make_job: MakeJob, design: dict[str, Any], first: int
) -> None:
    job = make_job(only(design), partitions=4)
    job.publish(shown(2_000))
    job.later([Event("shown", event.at, "later", {"country": "IS", "amount": 1}) for event in later("1h", [""])])
    job.run()
    backfill(job, "again", FROM + first, TO + first)

    def served_in_range(record: Placed) -> bool:
        return FROM + first <= record.tree["features"]["at"] < TO + first

    wanted = [record for record in written(job, "training") if served_in_range(record)]
    assert written(job, "again") == wanted
    assert len(wanted) > 50


def test_b7_several_samples_with_windows_of_several_lengths(make_job: MakeJob) -> None:
    samples = {
        "short": {**RESERVOIR, "scope": "global"},
        "long": {**RESERVOIR, "window": "25s"},
        "share": {"design": "simple", "rate": 0.2},
    }
    job = make_job({"feedback": None, "targets": None, "samples": samples})
    job.publish(shown(1_500))
    job.later([Event("shown", event.at, "later", {"country": "IS", "amount": 1}) for event in later("1h", [""])])
    job.run()
    backfill(job, "again", FROM + 1_234, TO + 777)
    trees = [(record, record.tree) for record in written(job, "training")]
    wanted = [record for record, tree in trees if FROM + 1_234 <= tree["features"]["at"] < TO + 777]
    assert written(job, "again") == wanted
    assert {record.tree["sampling"]["sample"] for record in wanted} == set(samples)


# -- ends ------------------------------------------------------------------------------------------------


def arguments(job: OnBroker, *more: str) -> list[str]:
    times = ["--from", "2023-11-14T22:14:20Z", "--to", "2023-11-14T22:15:20Z"]
    return [*times, "--output-topic", f"{job.name}.again", *more]


def test_what_is_open_at_the_ends_of_the_inputs_is_said_and_not_written(make_job: MakeJob) -> None:
    job = make_job()
    events = traffic(4)
    cut = T0 + 90_000
    job.publish([event for event in events if event.at < cut])
    result = call("run", job.path, *arguments(job), "--log-level", "warning")
    assert result.exit_code == 0, result.stderr
    said = re.search(
        r"the inputs end before the windows of ([\d,]+) predictions close: nothing was written", result.stderr
    )
    assert said
    assert f"as group {job.name}.backfill-20231114T221420-20231114T221520-" in result.stderr
    some = written(job, "again")
    assert some
    job.publish([event for event in events if event.at >= cut])
    job.later(later("1h"))
    result = call("run", job.path, *arguments(job), "--workers", "2", "--log-level", "warning")
    assert result.exit_code == 0, result.stderr
    assert "the inputs end" not in result.stderr
    job.run()
    wanted = in_range(job)
    assert written(job, "again") == wanted
    assert all(record in wanted for record in some)

    result = call("run", job.path, *arguments(job), "--log-level", "warning")
    assert re.search(
        r"nothing was left to do; to start over: streamsample reset .*\.yaml --from \d+ --to", result.stderr
    )
    before = standing(job)
    assert call("reset", job.path, *arguments(job), "--yes").exit_code == 0
    assert standing(job) == before
    call("run", job.path, *arguments(job), "--log-level", "warning")
    assert written(job, "again") == sorted(wanted * 2, key=lambda record: (record.timestamp, record.key, record.value))


@pytest.mark.parametrize("point", ["after_produce:3", "before_commit:2"])
def test_a12_killed_in_the_middle_and_begun_again_it_writes_the_same(
    make_job: MakeJob, tmp_path: Path, point: str
) -> None:
    job = make_job({"commit_interval": "20ms", **SMALL})
    publish(job, traffic(5))
    job.later(later("1h"))
    worker = Worker(job.path, tmp_path / "worker", arguments(job), crash_at=point)
    assert worker.ends() == -signal.SIGKILL, worker.log
    backfill(job, "again")
    job.run()
    assert written(job, "again") == in_range(job)


def test_a19_what_retention_took_is_not_made_up(make_job: MakeJob) -> None:
    job = make_job(partitions=1)
    publish(job, traffic(6))
    job.later(later("1h"))
    job.run()
    live = in_range(job)
    job.delete_records("clicked", before=300)
    backfill(job, "again")
    again = written(job, "again")
    assert 0 < len(again) < len(live)
    assert all(record in live for record in again)


def test_a18_predictions_outside_of_what_it_looks_at_are_counted() -> None:
    changed = backfilling(job_of(job_tree("job", {"skew": "2s"})), Backfill(FROM, TO, "out"))
    task = TaskPlayer(plan_of(changed), 0, TaskSettings(1, 1_000_000, 0), ManualClock(NOW))
    task.task.start_ms = FROM - 12_000  # as `start_fresh` does
    assert changed.start == FROM - 12_000
    times = [FROM - 12_001, FROM - 12_000, FROM - 1, FROM, TO - 1, TO, TO + 1]
    values = [Event("shown", at, f"p{number}").value(0) for number, at in enumerate(times)]
    task.read(task.batch_of("job.shown", [json.dumps(value).encode() for value in values]))
    assert (task.task.counts["before_start"], task.task.counts["after_end"]) == (1, 2)
    for topic in ("job.shown", "job.clicked"):
        task.task.watermark.on_read(TopicPartition(topic, 0), TO + 13_001, 9, 0)
    task.turn()
    assert [record.key for record in task.written] == [b"p3", b"p4"]
    assert task.task.join is not None
    assert task.task.join.ledger.row_counts(0)["rows_in"] == 4
    replayed = task.plan.replayed
    assert replayed is not None
    assert replayed.finished_at == TO + 10_000 + 1_000 + 2_000 + 1


# -- what is refused -------------------------------------------------------------------------------------


def test_names_of_its_own_and_the_same_version() -> None:
    live = job_of(job_tree("job", {"state.directory": "state", "changelog.topic": "log", "metrics.port": 9464}))
    made = backfilling(live, backfill_of("2026-01-01", "2026-02-01T06:30:00.250Z", "out"))
    assert re.fullmatch(r"job\.backfill-20260101-20260201T063000\.250-[0-9a-f]{8}", made.group)
    assert (made.name, made.version, made.state_shape) == (live.name, live.version, live.state_shape)
    assert made.changelog_topic == f"{made.group}.changelog"
    assert made.dead_letters_topic == f"{made.group}.dead-letters"
    assert made.windows_topic == f"{made.group}.windows"
    assert made.state_directory.parent == live.state_directory
    assert (made.output.topic, made.metrics.port) == ("out", 0)
    assert live.group == "job"
    assert live.backfill is None
    assert str(made.backfill) == "2026-01-01T00:00:00Z to 2026-02-01T06:30:00.250Z"
    assert backfilling(live, Backfill(**asdict(made.backfill or Backfill(0, 1, "")))).group == made.group
    others = [
        backfilling(live, backfill_of("2026-01-01", "2026-02-02", "out")),
        backfilling(live, backfill_of("2026-01-01", "2026-02-01T06:30:00.250Z", "out2")),
        backfilling(
            job_of(job_tree("job", {"grace": "2s"})), backfill_of("2026-01-01", "2026-02-01T06:30:00.250Z", "out")
        ),
    ]
    assert len({made.group, *(other.group for other in others)}) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("2026-01-02", "2026-01-02", "out"), "--to: 2026-01-02 is not after --from 2026-01-02"),
        (("yesterday", "2026-01-02", "out"), '--from: is not a time, found "yesterday" - write 2013-01-01T00:00:00Z'),
        (("2026-01-01T05:00:00", "2026-01-02", "out"), "--from: is a time without a zone, found"),
        (("2026-01-01", "2026-01-02", "job.training"), "is the live job's own output: readers would see each record a"),
        (("2026-01-01", "2026-01-02", "job.shown"), "--output-topic: job.shown is another topic of the job already"),
        (("2026-01-01", "2026-01-02", "job.changelog"), "job.changelog is another topic of the job already"),
    ],
)  # fmt: skip
def test_what_a_backfill_refuses(given: tuple[str, str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        backfilling(job_of(job_tree("job")), backfill_of(*given))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("sample", "key"),
    [
        ({"design": "simple", "count": 10, "window": "10s"}, "sample.count"),
        ({"design": "reservoir", "k": 10, "every": "10s"}, "sample.every"),
        ({"design": "reservoir", "k": 10, "records": 1000}, "sample.records"),
    ],
)
def test_samples_that_depend_on_all_before_them_are_refused_by_name(sample: dict[str, Any], key: str) -> None:
    with pytest.raises(NotYetError, match=rf"{key}: not yet: a backfill of a sample that depends on all before it"):
        backfilling(job_of(job_tree("job", only(sample))), backfill_of("2026-01-01", "2026-01-02", "out"))


def test_into_the_live_topic_only_when_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(job_tree("job")))
    some = ["--from", "2026-01-01", "--to", "2026-01-02", "--output-topic", "job.training"]
    result = call("run", path, *some)
    assert result.exit_code == 78
    assert "add --replace" in result.stderr
    replacing = backfill_of("2026-01-01", "2026-01-02", "job.training", replace=True)
    assert backfilling(job_of(job_tree("job")), replacing).output.topic == "job.training"
    for lacking in (some[:2], some[2:], ["--replace"]):
        result = call("run", path, *lacking)
        assert result.exit_code == 2
        assert "a replay needs all three" in re.sub(r"[│\s]+", " ", result.stderr)
