"""The harness itself: a run that nothing disturbs gives what the oracle says, in both formats, whole or in parts."""

from __future__ import annotations

import pytest

from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.workload import START_MS, Encoding, Workload


@pytest.mark.parametrize("revising", [False, True])
@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_a_run_equals_the_oracle(broker: Broker, make_scene: MakeScene, encoding: Encoding, revising: bool) -> None:
    """A11: with several rules, early records and corrections too."""
    scene = make_scene(Workload.make(1, encoding=encoding, revising=revising))
    scene.publish()
    scene.catch_up()
    scene.check()


@pytest.mark.parametrize("revising", [False, True])
def test_runs_one_after_another_equal_one_run(broker: Broker, make_scene: MakeScene, revising: bool) -> None:
    scene = make_scene(Workload.make(2, revising=revising))
    for end in (30_000, 60_000, 61_500, 120_000, None):
        scene.publish(None if end is None else START_MS + end)
        scene.catch_up_here()
        scene.check()
