"""kill -9 (A12), and windows that fell due meanwhile (A13)."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from streamsample.kafka.broker import LocalBroker
from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import REPOSITORY, Scene, until
from tests.faults.workload import START_MS, Encoding, Event, Workload

KILLS = int(os.environ.get("STREAMSAMPLE_KILLS", "9"))
"""Of the random kills; `make soak` has more."""
PREDICTIONS = int(os.environ.get("STREAMSAMPLE_PREDICTIONS", "0"))
"""That they happen over, at least."""
KILLS_EACH = 3

POINTS = (
    "before_produce",
    "after_produce",
    "before_changelog",
    "after_changelog",
    "after_flush",
    "after_offsets",
    "before_commit",
    "after_commit",
)
PASSAGES = (1, 4)
AT_A_TIME = 5
"""A scenario mostly waits: for the dead worker's session to end, and for its transaction."""


def test_these_are_all_crash_points() -> None:
    files = [path.read_text() for path in (REPOSITORY / "streamsample").rglob("*.py")]
    found = [name for text in files for name in re.findall(r"crash_point\(\"(\w+)\"\)", text)]
    assert sorted(found) == sorted([*POINTS, "name"])  # the last in the docstring


def crash_and_go_on(servers: str, folder: Path, point: str, passage: int) -> None:
    scene = Scene(servers, folder, Workload.make(passage), commit_interval="20ms", fetch_bytes=2_000)
    try:
        scene.publish()
        first = scene.start("--until-caught-up", crash_at=f"{point}:{passage}")
        assert first.ends() == -signal.SIGKILL, first.log
        scene.catch_up()
        scene.check()
    finally:
        scene.close()


@pytest.fixture(scope="module")
def crashes(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, int], Future[None]]]:
    """The scenarios of all selected tests, several at a time."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected = [item.callspec.params for item in items if "passage" in item.fixturenames]
    pool = ThreadPoolExecutor(AT_A_TIME)
    folder = tmp_path_factory.mktemp("crashes")
    yield {
        (at["point"], at["passage"]): pool.submit(
            crash_and_go_on,
            broker.bootstrap_servers,
            folder / f"{at['point']}-{at['passage']}",
            at["point"],
            at["passage"],
        )
        for at in selected
    }
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("passage", PASSAGES)
@pytest.mark.parametrize("point", POINTS)
def test_a12_killed_at_a_named_point(crashes: dict[tuple[str, int], Future[None]], point: str, passage: int) -> None:
    crashes[point, passage].result()


def kill_at_random(scene: Scene, seed: int, kills: int, predictions: int) -> None:
    """Kill one worker after the other while data flow, a little after each was ready, and check the end."""
    generator = random.Random(seed)
    with scene.flowing(pause_seconds=0.05):
        for _ in range(kills):
            worker = scene.start()
            worker.is_ready()
            time.sleep(generator.random())  # the moment is the test's input, not a state to wait for
            worker.kill()
        until(lambda: scene.workload.told >= predictions, f"{predictions} predictions")
    scene.catch_up()
    scene.check()


def test_a12_killed_at_random(own_broker: LocalBroker, tmp_path: Path) -> None:
    """Three jobs at a time, each killed three times, each with its seed: as many jobs as it takes."""

    jobs = -(-KILLS // KILLS_EACH)

    def run(seed: int) -> None:
        encoding: Encoding = "avro" if seed % 2 else "json"
        step_ms = 20 if PREDICTIONS else 200
        workload = Workload.make(seed, encoding=encoding, endless=True, revising=seed % 4 > 1, step_ms=step_ms)
        servers, folder = own_broker.bootstrap_servers, tmp_path / str(seed)
        scene = Scene(servers, folder, workload, commit_interval="20ms", session_ms=1_500)
        try:
            kill_at_random(scene, seed, KILLS_EACH, -(-PREDICTIONS // jobs))
        finally:
            scene.close()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(run, seed) for seed in range(jobs)]:
            done.result()


def test_a13_overdue_windows_close_after_a_restart(broker: Broker, make_scene: MakeScene) -> None:
    """No id is seen again, and most partitions not at all: what pushes time on is one id of another partition."""
    scene = make_scene(Workload.make(5, predictions=200, bad=False))
    scene.publish()
    worker = scene.start()
    worker.has("open_rows", 150)
    worker.kill()
    assert scene.records().total() < 100
    later = START_MS + 10_000_000
    other = next(id_ for id_ in map(str, range(100)) if scene.workload.partition_of(_event("clicks", id_, 0)) == 2)
    scene.workload.events += [_event(source, other, later) for source in ("predictions", "clicks", "orders")]
    scene.publish()
    scene.catch_up()
    scene.check()
    assert scene.records().total() > 190


def _event(source: str, id_: str, ts: int) -> Event:
    fields = {
        "predictions": '"score":1.0,"note":""',
        "clicks": f'"click_id":"c{ts}"',
        "orders": f'"order_id":"o{ts}","amount":1.0',
    }
    value = f'{{"id":"{id_}","ts":{ts},{fields[source]}}}'.encode()
    own = "" if source == "predictions" else f"{source[0]}{ts}"
    return Event(source, ts, id_, value, ts, own, 4 if source == "orders" else 0)  # type: ignore[arg-type]
