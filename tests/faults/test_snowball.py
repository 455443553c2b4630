"""kill -9 of a job that draws a snowball sample: what it had reached is what it had committed, no more and no less."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.acceptance.cluster import MakeJob
from tests.acceptance.cluster import make_job as make_job  # a fixture
from tests.acceptance.test_snowball import SNOWBALL, invited, taken, waves
from tests.acceptance.windows import only
from tests.faults.harness import Worker

SMALL_FETCHES = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}


@pytest.mark.parametrize("point", ["after_changelog:3", "before_commit:2"])
def test_a12_b8_killed_at_a_named_point(make_job: MakeJob, tmp_path: Path, point: str) -> None:
    job = make_job(only(SNOWBALL, commit_interval="20ms", **SMALL_FETCHES))
    events = invited(1_500, random.Random(12))
    job.publish(events)
    worker = Worker(job.path, tmp_path / "worker", ["--until-caught-up"], crash_at=point)
    assert worker.ends() == -signal.SIGKILL, worker.log
    job.run()
    wanted: dict[str, int] = {}
    for place in range(job.partitions):
        wanted |= waves([event for event in events if job.partition_of(event.id) == place])[0]
    assert taken(job.records) == wanted
    assert len(job.records) == len(wanted)
