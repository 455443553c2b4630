"""kill -9 of a job that draws windowed samples (B8): what readers see is the sample of one undisturbed process."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.acceptance.cluster import MakeJob, OnBroker
from tests.acceptance.cluster import make_job as make_job  # a fixture
from tests.acceptance.timelines import Event, later
from tests.acceptance.windows import WEIGHTED, drawn, only, shown
from tests.faults.harness import Worker

SMALL_FETCHES = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}
POINTS = ["after_produce:2", "before_changelog:3", "after_changelog:4", "after_offsets:3", "before_commit:4"]


def the_end() -> list[Event]:
    return [Event(event.kind, event.at, event.id, {"country": "IS", "amount": 1}) for event in later("1h", ["shown"])]


def check(job: OnBroker, events: list[Event]) -> None:
    wanted: dict[str, object] = {}
    for place in range(job.partitions):
        wanted |= drawn([event for event in events if job.partition_of(event.id) == place], WEIGHTED)
    records = [record for record in job.records if not record["features"]["id"].startswith("later")]
    assert sorted(record["features"]["id"] for record in records) == sorted(wanted)
    assert {record["features"]["id"]: record["sampling"] for record in records} == wanted


@pytest.mark.parametrize("point", POINTS)
def test_b8_killed_at_a_named_point(make_job: MakeJob, tmp_path: Path, point: str) -> None:
    job = make_job(only(WEIGHTED, commit_interval="20ms", **SMALL_FETCHES))
    events = shown(1_500)
    job.publish(events)
    job.later(the_end())
    worker = Worker(job.path, tmp_path / "worker", ["--until-caught-up"], crash_at=point)
    assert worker.ends() == -signal.SIGKILL, worker.log
    job.run()
    check(job, events)


def test_b8_killed_at_random(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(only(WEIGHTED, commit_interval="20ms", **SMALL_FETCHES))
    events = shown(3_000)
    chance = random.Random(8)

    def publish() -> None:
        for at in range(0, len(events), 100):
            job.publish(events[at : at + 100])
        job.later(the_end())

    publishing = threading.Thread(target=publish)
    publishing.start()
    for number in range(4):
        worker = Worker(job.path, tmp_path / f"worker-{number}", [])
        worker.is_ready()
        time.sleep(chance.random())  # the moment is the test's input, not a state to wait for
        worker.kill()
    publishing.join()
    job.run()
    check(job, events)
