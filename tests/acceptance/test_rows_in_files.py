"""Payload beyond state.memory_limit in a real job: the same records, and a damaged file costs a restore, no record."""

from __future__ import annotations

from tests.acceptance.cluster import Live, MakeJob, OnBroker
from tests.acceptance.timelines import T0, Event, later

COUNT = 2_000
SMALL = {"state.memory_limit": "1KB", "commit_interval": "50ms"}


def shown(job: OnBroker) -> None:
    job.publish([Event("shown", T0 + number, f"p{number}", {"note": "x" * 200}) for number in range(COUNT)])


def in_files(worker: Live) -> float | None:
    return worker.registry.get_sample_value("streamsample_state_file_bytes")


def test_rows_in_files_are_written_once_each_and_files_are_gone(make_job: MakeJob) -> None:
    job = make_job(SMALL)
    shown(job)
    with job.live() as worker:
        worker.wait(lambda: in_files(worker), "rows in files")
        job.later(later("9h", ["shown", "clicked"]))
        worker.wait(lambda: len(job.labels()) == COUNT, "all records")
        worker.wait(lambda: in_files(worker) == 0, "no rows in files")
    assert not list(job.job.rows_directory.iterdir())


def test_a_damaged_file_is_restored_from_the_changelog(make_job: MakeJob) -> None:
    job = make_job(SMALL)
    shown(job)
    with job.live() as worker:
        worker.wait(lambda: in_files(worker), "rows in files")
        worker.wait(lambda: worker.report.progress.records_in == COUNT, "all predictions")
        for path in job.job.rows_directory.rglob("payload-*"):
            with open(path, "r+b") as file:
                file.write(b"damage")
        job.later(later("9h", ["shown", "clicked"]))
        worker.wait(lambda: len(job.labels()) == COUNT, "all records")
        failed = worker.registry.get_sample_value("streamsample_commits_total", {"outcome": "failed"})
    assert failed
    assert {record["features"]["note"] for record in job.records if "note" in record["features"]} == {"x" * 200}
