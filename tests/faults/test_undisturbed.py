"""The harness itself: a run that nothing disturbs gives what the oracle says, in both formats, whole or in parts."""

from __future__ import annotations

import pytest

from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene
from tests.faults.workload import START_MS, Encoding, Workload


@pytest.mark.parametrize("revising", [False, True])
@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_a_run_equals_the_oracle(broker: Broker, make_scene: MakeScene, encoding: Encoding, revising: bool) -> None:
    """A11: with several rules, early records and corrections too."""
    scene = make_scene(Workload.make(1, encoding=encoding, revising=revising))
    scene.publish()
    scene.catch_up()
    scene.check()
    if revising:
        _check_aside(scene)


def _check_aside(scene: Scene) -> None:
    """Each feedback that no label could use lies in its topic, once, as it was sent."""
    outcomes = [scene.workload.outcome(number, scene.workload.watermark()) for number in range(3)]
    counts = [outcome.feedback[use] for outcome in outcomes for use in (1, 2)]  # the last use of clicks, and of orders
    sent = {(p.event.source, p.partition, p.offset): p.event.value for p in scene.workload.placed}
    names = {name: source for source, name in scene.topics.items()}
    for topic, outcome in (("late", "late"), ("orphans", "unknown")):
        found = {}
        for record in scene.read(f"{scene.name}.{topic}"):
            headers = {name.rpartition(".")[2]: value.decode() for name, value in record.headers}
            place = (names[headers["topic"]], int(headers["partition"]), int(headers["offset"]))
            assert place not in found
            found[place] = record.value
        assert len(found) == sum(count[outcome] for count in counts) > 0
        assert found == {place: sent[place] for place in found}


@pytest.mark.parametrize("revising", [False, True])
def test_runs_one_after_another_equal_one_run(broker: Broker, make_scene: MakeScene, revising: bool) -> None:
    scene = make_scene(Workload.make(2, revising=revising))
    for end in (30_000, 60_000, 61_500, 120_000, None):
        scene.publish(None if end is None else START_MS + end)
        scene.catch_up_here()
        scene.check()
