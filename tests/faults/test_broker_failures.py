"""The broker is killed and comes back, or stands still for longer than every time-out: the same output, and the process
lives through it.
"""

from __future__ import annotations

import signal
import time

import pytest

from streamsample.kafka.broker import LocalBroker
from streamsample.kafka.transaction import ProducerSettings
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene, Worker
from tests.faults.workload import Workload

SESSION_MS = 3_000
NOW_STAMPED = {"message.timestamp.type": "LogAppendTime"}
"""A broker that crashed forgets producers whose last records are dated more than a day ago: the publisher, which sends
again what was not acknowledged, would write events twice."""
AWAY_MS = max(ProducerSettings().delivery_timeout_ms, SESSION_MS) + 2_000


def begun(scene: Scene) -> Worker:
    worker = scene.start()
    worker.is_ready()
    worker.has("records_in_total", 100)
    return worker


def end_and_check(scene: Scene, worker: Worker) -> None:
    worker.has("records_in_total", worker.metric("records_in_total") + 30)
    scene.workload.finish()
    worker.signal(signal.SIGTERM)
    worker.ends_well()


def test_the_broker_is_killed_and_comes_back(own_broker: LocalBroker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(31, endless=True), on=own_broker, session_ms=SESSION_MS, inputs=NOW_STAMPED)
    with scene.flowing(pause_seconds=0.05):
        worker = begun(scene)
        own_broker.kill()
        own_broker.start()
        end_and_check(scene, worker)
    scene.catch_up_here()
    scene.check()


@pytest.mark.parametrize(("leave", "come_back"), [("kill", "start"), ("pause", "resume")])
def test_the_broker_is_away_for_longer_than_all_time_outs(
    own_broker: LocalBroker, make_scene: MakeScene, leave: str, come_back: str
) -> None:
    """Longer than session and delivery time-out: transactions fail, and the group puts the worker out."""
    scene = make_scene(Workload.make(34, endless=True), on=own_broker, session_ms=SESSION_MS, inputs=NOW_STAMPED)
    with scene.flowing(pause_seconds=0.05):
        worker = begun(scene)
        getattr(own_broker, leave)()
        time.sleep(AWAY_MS / 1000)  # what is tested is that so much time passes
        getattr(own_broker, come_back)()
        end_and_check(scene, worker)
    scene.catch_up_here()
    scene.check()


def test_a_stop_while_the_broker_is_away_ends_in_time(own_broker: LocalBroker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(33, endless=True), on=own_broker, session_ms=SESSION_MS)
    with scene.flowing(pause_seconds=0.05):
        worker = begun(scene)
        own_broker.pause()
        worker.signal(signal.SIGTERM)
        try:
            worker.ends_well(40)
        finally:
            own_broker.resume()
    scene.catch_up_here()
    scene.check()
