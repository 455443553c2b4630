"""Workers come, go, die and come back from the dead while data flow."""

from __future__ import annotations

import signal

import pytest

from streamsample.kafka.broker import LocalBroker
from streamsample.kafka.consumer import ColumnarConsumer
from tests.conftest import Broker, MakeTopic
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene, Worker, until
from tests.faults.workload import Workload

PARTITIONS = 4


def tasks_of(*workers: Worker) -> list[int]:
    return [int(worker.metric("tasks")) for worker in workers]


def share(*workers: Worker) -> None:
    """Wait until the workers share all tasks evenly, restored."""
    each = [PARTITIONS // len(workers)] * len(workers)
    until(
        lambda: tasks_of(*workers) == each and all(worker.ready for worker in workers),
        lambda: f"tasks {each}, found {tasks_of(*workers)}\n" + "\n".join(worker.autopsy() for worker in workers),
    )


def goes_on(worker: Worker, records: int = 30) -> None:
    """Wait until it has read some more."""
    worker.has("records_in_total", worker.metric("records_in_total") + records)


def end_and_check(scene: Scene, *workers: Worker) -> None:
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        worker.ends_well()
    scene.catch_up_here()
    scene.check()


def test_one_worker_two_then_one(module_broker: LocalBroker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(11, partitions=PARTITIONS, endless=True), on=module_broker, session_ms=1_500)
    with scene.flowing(pause_seconds=0.1):
        first = scene.start()
        share(first)
        goes_on(first)
        second = scene.start()
        share(first, second)
        goes_on(second)
        second.signal(signal.SIGTERM)
        second.ends_well()
        share(first)
        goes_on(first)
        third = scene.start()
        share(first, third)
        goes_on(third)
        third.kill()
        share(first)
        goes_on(first)
    end_and_check(scene, first)


def test_two_workers_four_then_two(module_broker: LocalBroker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(16, partitions=PARTITIONS, endless=True), on=module_broker, session_ms=1_500)
    with scene.flowing(pause_seconds=0.1):
        workers = [scene.start(), scene.start()]
        share(*workers)
        workers += [scene.start(), scene.start()]
        share(*workers)
        goes_on(workers[-1])
        leaving, dying, *staying = workers
        leaving.signal(signal.SIGTERM)
        dying.kill()
        leaving.ends_well()
        share(*staying)
        goes_on(staying[0])
    end_and_check(scene, *staying)


def test_a_join_that_takes_longer_than_a_poll_is_ended(broker: Broker, make_topic: MakeTopic) -> None:
    """Joining again because topics have changed, with polls too short for it: kafka-python forgets such a join."""
    topic = make_topic(3)
    with ColumnarConsumer({"bootstrap_servers": broker.bootstrap_servers}, group=topic) as consumer:
        consumer.subscribe([topic])
        until(lambda: consumer.poll(50) or consumer.assignment(), "an assignment")
        consumer.take_rebalance()
        coordinator = consumer._library.coordinator
        for _ in range(5):
            generation = consumer.group_metadata().generation_id
            coordinator._assignment_snapshot = {}  # as if the leader had not known the topic's partitions
            assert not consumer.settled
            until(lambda: consumer.poll(0) or consumer.settled, "the end of the join")
            assert consumer.group_metadata().generation_id > generation
            assert len(consumer.assignment()) == 3


def test_two_workers_of_one_service(broker: Broker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(12, partitions=PARTITIONS))
    scene.publish()
    scene.catch_up("--workers", "2")
    scene.check()


def test_a_service_of_two_workers_stops_on_a_signal(broker: Broker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(13, partitions=PARTITIONS, endless=True))
    with scene.flowing():
        service = scene.start("--workers", "2")
        service.is_ready()
        assert service.metric("tasks") == PARTITIONS
        goes_on(service)
    end_and_check(scene, service)


def test_a_paused_worker_that_comes_back_harms_nobody(module_broker: LocalBroker, make_scene: MakeScene) -> None:
    """SIGSTOP for longer than its session: another takes over; then it goes on where it was, a zombie."""
    scene = make_scene(Workload.make(14, partitions=PARTITIONS, endless=True), on=module_broker, session_ms=1_500)
    with scene.flowing(pause_seconds=0.05):
        zombie = scene.start()
        share(zombie)
        goes_on(zombie)
        zombie.signal(signal.SIGSTOP)
        heir = scene.start()
        share(heir)
        goes_on(heir)
        zombie.signal(signal.SIGCONT)
        share(zombie, heir)  # it has noticed, and joined again
        goes_on(zombie)
    assert "rolling back" in zombie.log
    end_and_check(scene, zombie, heir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_and_leaves_the_group(broker: Broker, make_scene: MakeScene, number: signal.Signals) -> None:
    scene = make_scene(Workload.make(15, predictions=300), commit_interval="5s")
    scene.publish()
    worker = scene.start()
    until(lambda: worker.ready, lambda: worker.log)
    worker.has("records_in_total", 1)
    worker.signal(number)
    assert worker.ends() == 0, worker.log
    assert "committing and leaving the group" in worker.log
    assert scene.members() == 0  # at once, not when its session ends
    assert scene.committed()
    scene.catch_up_here()
    scene.check()
