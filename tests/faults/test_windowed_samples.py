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
from tests.acceptance.timelines import Event
from tests.acceptance.windows import (
    NEYMAN,
    REPLACED,
    RESERVOIR,
    SINCE,
    WEIGHTED,
    drawn,
    only,
    shown,
    snapshots,
    the_end,
)
from tests.faults.harness import Worker

SMALL_FETCHES = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}
POINTS = ["after_produce:2", "before_changelog:2", "after_changelog:3", "after_offsets:2", "before_commit:2"]


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


SIDE_BY_SIDE = {"strata": NEYMAN, "draws": REPLACED, "so_far": SINCE, "all": {**RESERVOIR, "scope": "global"}}


def test_b8_samples_side_by_side_killed_at_random(make_job: MakeJob, tmp_path: Path) -> None:
    """Exact sums, draws, what came since the start and windows of all partitions survive, each as it would alone."""
    changes = {"feedback": None, "targets": None, "samples": SIDE_BY_SIDE, "commit_interval": "20ms"}
    job, events, chance = make_job({**changes, **SMALL_FETCHES}), shown(1_200), random.Random(15)
    job.publish(events)
    job.later(the_end())
    for number, point in enumerate(("after_changelog:3", "before_commit:2")):
        worker = Worker(job.path, tmp_path / f"crash-{number}", ["--until-caught-up"], crash_at=point)
        assert worker.ends() == -signal.SIGKILL, worker.log
    worker = Worker(job.path, tmp_path / "killed", [])
    worker.is_ready()
    time.sleep(chance.random())  # the moment is the test's input, not a state to wait for
    worker.kill()
    job.run()
    found: dict[str, dict[object, object]] = {name: {} for name in SIDE_BY_SIDE}
    for record in job.records:
        said, name = record["sampling"], record["features"]["id"]
        if not name.startswith("later"):
            key = (said["until"], name) if said["sample"] == "so_far" else name
            assert key not in found[said["sample"]]
            found[said["sample"]][key] = {**said, "sample": None}
    wanted: dict[str, dict[object, object]] = {name: {} for name in SIDE_BY_SIDE}
    wanted["all"] |= drawn(events, RESERVOIR)
    for place in range(job.partitions):
        mine = [event for event in events if job.partition_of(event.id) == place]
        wanted["strata"] |= drawn(mine, NEYMAN)
        wanted["draws"] |= drawn(mine, REPLACED)
        wanted["so_far"] |= snapshots(mine, SINCE)
    for name in SIDE_BY_SIDE:
        assert found[name] == wanted[name], name
