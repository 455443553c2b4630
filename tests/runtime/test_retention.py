"""Brokers delete by the record's timestamp: what is doubtful is warned of, and what is lost is an error."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from streamsample.cli import app
from streamsample.errors import RetentionError
from streamsample.kafka.topics import TopicDescription
from streamsample.runtime.preflight import event_time_warnings
from tests.acceptance.cluster import MakeJob
from tests.acceptance.timelines import NOW, T0, job_of, job_tree, later

DAY = 86_400_000


def test_a_retention_shorter_than_the_windows_is_warned_of(make_job: MakeJob) -> None:
    job = make_job({"skew": "4s"})
    job.tree["input"]["topic"] = f"{job.name}.short"
    job.make([f"{job.name}.short"], retention_ms="14000")
    job.tree["feedback"]["clicks"]["topic"] = f"{job.name}.enough"
    job.make([f"{job.name}.enough"], retention_ms="15000")
    job.save()
    wanted = (
        f"input: {job.name}.short keeps records for 14s (retention.ms), less than the 15s that a window needs: after a "
        "long stop, rows would be dropped as uncovered; set retention.ms=15000 or more"
    )
    told = CliRunner().invoke(app, ["validate", str(job.path)], env={"COLUMNS": "400"})
    assert told.exit_code == 0
    assert f"warning: {wanted}" in told.stderr.splitlines()
    assert told.stderr.count("warning") == 1
    job.run()
    assert job.warnings == [wanted]


def test_a_compacted_input_is_warned_of_and_its_retention_is_none(make_job: MakeJob) -> None:
    job = make_job()
    job.tree["input"]["topic"] = f"{job.name}.compacted"
    job.make([f"{job.name}.compacted"], cleanup_policy="compact", retention_ms="1000")
    job.run()
    (warning,) = job.warnings
    assert warning.startswith(f"input: {job.name}.compacted is compacted: older records of a key vanish")


def test_times_that_the_broker_stamps_are_warned_of_unless_a_field_holds_them(make_job: MakeJob) -> None:
    job = make_job()
    for kind in ("shown", "clicked"):
        job.make([f"{job.name}.{kind}2"], message_timestamp_type="LogAppendTime")
    job.tree["input"]["topic"] = f"{job.name}.shown2"
    job.tree["feedback"]["clicks"]["topic"] = f"{job.name}.clicked2"
    del job.tree["feedback"]["clicks"]["time"]
    job.run()
    (warning,) = job.warnings
    assert warning.startswith(f"feedback.clicks: {job.name}.clicked2 is stamped by the broker")
    assert "(time)" in warning


def described(name: str, **configs: Any) -> TopicDescription:
    settings = {"retention.ms": "-1", "cleanup.policy": "delete", "max.message.bytes": "1000000"}
    return TopicDescription(
        name, 1, 1, settings | {key.replace("_", "."): str(value) for key, value in configs.items()}
    )


OLD = "holds records older than its retention (7d)"


@pytest.mark.parametrize(
    ("retention", "oldest", "warned"),
    [
        (7 * DAY, NOW - 7 * DAY - 1, True),
        (7 * DAY, NOW - 7 * DAY, False),
        (-1, T0 - 10_000 * DAY, False),
        (7 * DAY, None, False),
    ],
)
def test_records_older_than_their_retention_are_warned_of(retention: int, oldest: int | None, warned: bool) -> None:
    topics = {"job.shown": described("job.shown"), "job.clicked": described("job.clicked", retention_ms=retention)}
    first = {} if oldest is None else {"job.clicked": oldest}
    warnings = event_time_warnings(job_of(job_tree()), topics, first, NOW)
    assert len(warnings) == warned
    for warning in warnings:
        assert warning.startswith(f"feedback.clicks: job.clicked {OLD}")
        assert warning.endswith("set retention.ms=-1 for a replay")


def test_an_output_whose_records_are_born_past_their_retention_is_warned_of() -> None:
    job = job_of(job_tree())
    topics = {name: described(name) for name in ("job.shown", "job.clicked")}
    for born, warned in ((NOW - 7 * DAY - 1, True), (NOW - 7 * DAY, False)):
        output = {"job.training": described("job.training", retention_ms=7 * DAY)}
        warnings = event_time_warnings(job, topics | output, {"job.shown": born - job.closes_after_ms}, NOW)
        assert len(warnings) == warned
        assert all("output: job.training keeps records for 7d after their timestamp" in warning for warning in warnings)
    compacted = {"job.training": described("job.training", cleanup_policy="compact")}
    (warning,) = event_time_warnings(job, topics | compacted, {}, NOW)
    assert warning == "output: job.training is compacted by prediction id: only the last record of an id stays"


# -- what is gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shown", "clicked"])
def test_a_committed_position_that_retention_has_deleted_is_an_error(make_job: MakeJob, kind: str) -> None:
    job = make_job(partitions=1)
    job.publish("0s shown a\n0s clicked x")
    job.run()
    job.publish("1s shown b\n1s clicked a\n2s shown c\n2s clicked c")
    job.later(later("1h"))
    job.delete_records(kind, before=1)
    assert job.run().records_in == 6  # up to the committed position, deleting is harmless
    labels = job.labels()
    assert labels == {"a": "1 explicit", "b": "0 implicit", "c": "1 explicit"}

    job.publish("2h shown d\n2h clicked d")
    job.delete_records(kind)
    for _ in range(2):  # it is no less an error the second time
        with pytest.raises(RetentionError) as stopped:
            job.run()
        assert f"{job.name}.{kind}/0@4: retention has deleted the log up to offset 5" in str(stopped.value)
        assert "retention.ms" in str(stopped.value)
        assert "reset the job" in str(stopped.value)
    told = CliRunner().invoke(app, ["run", str(job.path), "--until-caught-up", "--log-level", "error"])
    assert told.exit_code == 1
    assert f"error: {job.name}.{kind}/0@4: retention has deleted" in told.stderr.replace("\n", " ")
    assert job.labels() == labels
