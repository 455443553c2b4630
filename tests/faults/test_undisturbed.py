"""The harness itself: a run that nothing disturbs gives what the oracle says, in both formats, whole or in parts."""

from __future__ import annotations

import pytest

from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.workload import START_MS, Encoding, Workload


@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_a_run_equals_the_oracle(broker: Broker, make_scene: MakeScene, encoding: Encoding) -> None:
    scene = make_scene(Workload.make(1, encoding=encoding))
    scene.publish()
    scene.catch_up()
    scene.check()


def test_runs_one_after_another_equal_one_run(broker: Broker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(2))
    for end in (30_000, 60_000, 61_500, 120_000, None):
        scene.publish(None if end is None else START_MS + end)
        scene.catch_up_here()
        scene.check()
