"""Rekeyed topics: with several workers, and with workers that are killed, records are those of the oracle."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from streamsample.kafka.broker import LocalBroker
from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene, Worker, until
from tests.faults.workload import START_MS, SourceName, Workload

BOTH: dict[SourceName, int] = {"predictions": 5, "clicks": 2}
REKEYED: list[dict[SourceName, int]] = [{"clicks": 4}, {"predictions": 2}, BOTH]
ALL: dict[SourceName, int] = {"predictions": 3, "clicks": 5, "orders": 1}


@pytest.mark.parametrize("revising", [False, True])
@pytest.mark.parametrize("rekeyed", [*REKEYED, ALL], ids=str)
def test_a_run_equals_the_oracle(
    broker: Broker, make_scene: MakeScene, rekeyed: dict[SourceName, int], revising: bool
) -> None:
    """A2, A9, A18: each topic by itself, and together; lineage and dead letters name the original records."""
    scene = make_scene(Workload.make(3, rekeyed=rekeyed, revising=revising), fetch_bytes=20_000)
    scene.publish()
    scene.catch_up_here()
    scene.check()


def test_a_topic_read_in_parts_equals_one_run(broker: Broker, make_scene: MakeScene) -> None:
    """Runs that end and begin again: what was sent and not yet used, and how far all origins were, is known again."""
    scene = make_scene(Workload.make(4, rekeyed=ALL, predictions=400))
    for end in (20_000, 21_500, 60_000, None):
        scene.publish(None if end is None else START_MS + end)
        scene.catch_up_here()
        scene.check()


def tasks_of(*workers: Worker) -> list[int]:
    return sorted(int(worker.metric("tasks")) for worker in workers)


def shared(*workers: Worker, tasks: int) -> None:
    """Wait until the workers have all tasks, restored."""
    until(
        lambda: sum(tasks_of(*workers)) == tasks and min(tasks_of(*workers)) and all(each.ready for each in workers),
        lambda: f"{tasks} tasks, found {tasks_of(*workers)}\n" + "\n".join(worker.autopsy() for worker in workers),
    )


def test_two_workers_send_to_each_other(module_broker: LocalBroker, make_scene: MakeScene) -> None:
    """Five origins for three tasks; one worker is killed, one ends, and the last finishes the work."""
    workload = Workload.make(12, rekeyed=BOTH, endless=True)
    scene = make_scene(workload, on=module_broker, session_ms=1_500)
    with scene.flowing(pause_seconds=0.1):
        first, second = scene.start(), scene.start()
        shared(first, second, tasks=5)
        first.has("records_in_total", 30)
        second.has("records_in_total", 30)
        first.kill()
        shared(second, tasks=5)
        third = scene.start()
        shared(second, third, tasks=5)
        third.has("records_in_total", 30)
        second.signal(signal.SIGTERM)
        second.ends_well()
    third.signal(signal.SIGTERM)
    third.ends_well()
    scene.catch_up_here()
    scene.check()


def test_a12_killed_at_random(module_broker: LocalBroker, tmp_path: Path) -> None:
    """kill -9 of one worker after the other, a little after each was ready."""
    generator = random.Random(7)
    workload = Workload.make(7, rekeyed={"predictions": 2, "clicks": 4}, endless=True, revising=True)
    scene = Scene(module_broker.bootstrap_servers, tmp_path / "7", workload, commit_interval="20ms", session_ms=1_500)
    try:
        with scene.flowing(pause_seconds=0.05):
            for _ in range(4):
                worker = scene.start()
                worker.is_ready()
                time.sleep(generator.random())  # the moment is the test's input, not a state to wait for
                worker.kill()
        scene.catch_up()
        scene.check()
    finally:
        scene.close()
