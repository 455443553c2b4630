"""Upstream producers with transactions of their own: what is not committed is not there, nor is it silence (A5)."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene
from tests.faults.workload import START_MS, Event, Workload

LATER_MS = START_MS + 600_000


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "aborted"])
def test_a5_an_open_transaction_on_a_feedback_topic(broker: Broker, make_scene: MakeScene, committed: bool) -> None:
    """The clicks' largest time moves on in one partition, while those of another lie in an open transaction: that
    partition is not caught up, and must not follow its topic, or its predictions were closed as silent.
    """
    scene = make_scene(Workload.make(41, predictions=200, bad=False))
    scene.publish()
    served, clicked = _rows_of(scene, partition=1)
    scene.send(served)
    with scene.transaction(clicked) as upstream:
        _time_goes_on(scene, partition=0)
        worker = scene.start()
        worker.is_ready()
        worker.has("records_in_total", len(scene.workload.placed))
        worker.has("records_out_total", 1, topic=scene.output)  # the other partitions' windows close
        assert not threading.Event().wait(4)  # long enough to follow the topic, were that allowed
        assert not {key for _, key, _, _ in scene.records()} & {event.id.encode() for event in served}
        if committed:
            upstream.commit_transaction()
        else:
            upstream.abort_transaction()
    if not committed:
        del scene.workload.placed[-len(clicked) :]
    worker.has("records_out_total", worker.metric("records_out_total", topic=scene.output) + 1, topic=scene.output)
    worker.signal(signal.SIGTERM)
    worker.ends_well()
    scene.catch_up_here()
    scene.check()
    labels = [value for _, key, _, value in scene.records() if key in {event.id.encode() for event in served}]
    assert len(labels) == len(served)
    assert all(('"source":"explicit"' in value.split('"revenue"')[0]) == committed for value in labels)


def test_a_run_until_caught_up_waits_for_an_open_transaction(broker: Broker, make_scene: MakeScene) -> None:
    """The inputs' ends as of the start lie behind it: a run that ended before them would not have caught up."""
    scene = make_scene(Workload.make(42, predictions=100, bad=False))
    scene.publish()
    served, clicked = _rows_of(scene, partition=0)
    scene.send(served)
    with scene.transaction(clicked) as upstream:
        run = threading.Thread(target=scene.catch_up_here, daemon=True)
        run.start()
        run.join(3)
        assert run.is_alive()
        upstream.commit_transaction()
        run.join(60)
        assert not run.is_alive()
    scene.catch_up_here()  # the transaction's marker came after the ends as of the start
    scene.check()


def _rows_of(scene: Scene, partition: int) -> tuple[list[Event], list[Event]]:
    """Five predictions and their clicks, all in one partition, later than all others."""
    ids = [f"open{k}" for k in range(100)]
    chosen = [id_ for id_ in ids if scene.workload.partition_of(_event("clicks", id_, 0)) == partition][:5]
    when = START_MS + 200_000
    return [_event("predictions", id_, when) for id_ in chosen], [_event("clicks", id_, when + 5_000) for id_ in chosen]


def _time_goes_on(scene: Scene, partition: int) -> None:
    id_ = next(f"t{k}" for k in range(100) if scene.workload.partition_of(_event("clicks", f"t{k}", 0)) == partition)
    scene.send([_event(source, id_, LATER_MS) for source in ("predictions", "clicks", "orders")])


def _event(source: str, id_: str, ts: int) -> Event:
    fields = {
        "predictions": '"score":1.0,"note":""',
        "clicks": f'"click_id":"{id_}"',
        "orders": f'"order_id":"{id_}","amount":1.0',
    }
    value = f'{{"id":"{id_}","ts":{ts},{fields[source]}}}'.encode()
    own = "" if source == "predictions" else id_
    return Event(source, ts, id_, value, ts, own, 4 if source == "orders" else 0)  # type: ignore[arg-type]
