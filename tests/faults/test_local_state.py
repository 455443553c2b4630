"""Restarts from local state on a real broker: what stops comes back from its copy, and a copy that is stale, damaged or
of another job is never believed.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamsample.cli import app
from streamsample.clock import SystemClock
from streamsample.kafka.changelog import ChangelogPosition
from streamsample.labels import PayloadSpace
from streamsample.records import TopicPartition
from streamsample.runtime.local import find
from streamsample.runtime.plan import plan_of
from streamsample.runtime.samples import TaskSettings
from streamsample.runtime.service import Options, run_one
from streamsample.runtime.task import Task
from tests.conftest import Broker
from tests.faults.conftest import MakeScene
from tests.faults.harness import Scene, Worker
from tests.faults.workload import START_MS, Workload

PARTITIONS = 3
FROM_LOCAL, FROM_CHANGELOG = "restored from its local state", "restored from its changelog"


@pytest.fixture
def scene(broker: Broker, make_scene: MakeScene) -> Scene:
    """A job that has stopped in the middle, with rows open, some of their payload in files, and feedback waiting."""
    made = make_scene(Workload.make(41, predictions=400))
    made.job_file.write_text(made.job_file.read_text().replace("state: {", "state: {memory_limit: 1KB, "))
    made.publish(START_MS + 60_000)
    go_on(made)
    assert copies(made) == ["0", "1", "2"]
    return made


def go_on(scene: Scene) -> None:
    """Run to the ends of the inputs in this process, with what lies in the state directory."""
    run_one(scene.job, Options(until_caught_up=True), SystemClock(), serve=False)


def copies(scene: Scene) -> list[str]:
    return sorted(path.name for path in scene.job.tasks_directory.iterdir())


def started(scene: Scene, place: Path, *arguments: str) -> Worker:
    """A worker whose state directory is `place`."""
    place.mkdir(exist_ok=True)
    folder = scene.folder / f"worker-{len(scene.workers)}"
    folder.mkdir()
    (folder / "state").symlink_to(place)
    return scene.start(*arguments)


# -- restarts ---------------------------------------------------------------------------------------


def test_what_was_stopped_comes_back_from_its_copy(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene.publish()
    go_on(scene)
    assert len(re.findall(FROM_LOCAL, caplog.text)) == PARTITIONS
    assert FROM_CHANGELOG not in caplog.text
    assert copies(scene) == ["0", "1", "2"]
    scene.check()


def test_sigterm_and_kill_9_of_a_process(broker: Broker, make_scene: MakeScene) -> None:
    """Stopped: from its copies. Killed: from the changelog, for the copies were taken."""
    scene = make_scene(Workload.make(42, predictions=400))
    place = scene.folder / "shared"
    scene.publish(START_MS + 40_000)
    first = started(scene, place)
    first.has("records_in_total", len(scene.workload.placed))
    first.signal(signal.SIGTERM)
    first.ends_well()
    assert sorted(path.name for path in (place / "tasks").iterdir()) == ["0", "1", "2"]
    scene.publish(START_MS + 60_000)
    second = started(scene, place)
    second.is_ready()
    assert second.log.count(FROM_LOCAL) == PARTITIONS
    second.has("records_in_total", 100)
    second.kill()
    assert not list((place / "tasks").iterdir())
    scene.publish()
    third = started(scene, place, "--until-caught-up")
    third.ends_well()
    assert third.log.count(FROM_CHANGELOG) == PARTITIONS
    assert not list((place / "rows").iterdir())  # what the dead one had there is gone
    scene.check()


def test_workers_of_one_machine_take_up_each_other_s_tasks(broker: Broker, make_scene: MakeScene) -> None:
    scene = make_scene(Workload.make(43, predictions=400))
    place = scene.folder / "shared"
    for end in (START_MS + 30_000, START_MS + 60_000, None):
        scene.publish(end)
        worker = started(scene, place, "--until-caught-up", "--workers", "2" if end else "1")
        worker.ends_well()
    assert scene.workers[-1].log.count(FROM_LOCAL) == PARTITIONS
    scene.check()


# -- copies that must not be believed ------------------------------------------------------------------


def test_a_copy_that_others_have_left_behind_is_stale(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The tasks moved to another machine and went on there; then they come back."""
    scene.publish(START_MS + 80_000)
    elsewhere = started(scene, scene.folder / "elsewhere", "--until-caught-up")
    elsewhere.ends_well()
    assert elsewhere.log.count(FROM_CHANGELOG) == PARTITIONS
    scene.publish()
    caplog.set_level("INFO")
    go_on(scene)
    stale = re.findall(r"task \d: its local state is not used: it stands at .*, the group at", caplog.text)
    assert len(stale) == len(re.findall(FROM_CHANGELOG, caplog.text)) == PARTITIONS
    scene.check()


def test_a_copy_that_comes_back_from_the_past_is_stale(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody restores a backup of the directory."""
    shutil.copytree(scene.job.tasks_directory, scene.folder / "backup")
    scene.publish(START_MS + 80_000)
    go_on(scene)
    shutil.rmtree(scene.job.tasks_directory)
    shutil.copytree(scene.folder / "backup", scene.job.tasks_directory)
    scene.publish()
    caplog.set_level("INFO")
    go_on(scene)
    assert len(re.findall(r"its local state is not used: it stands at", caplog.text)) == PARTITIONS
    scene.check()


def test_a_copy_of_other_windows_is_not_used(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it lost that the state as such fits: the changelog has it."""
    scene.windows["revenue"] = "46s"
    scene.write_job()
    caplog.set_level("INFO")
    go_on(scene)
    assert len(re.findall(r"written by another version of the job, or of streamsample", caplog.text)) == PARTITIONS
    assert len(re.findall(FROM_CHANGELOG, caplog.text)) == PARTITIONS


def flip(at: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    return damage


def cut(to: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(to * path.stat().st_size))


DAMAGES = {
    "flipped early": (flip(0.0), flip(0.1), flip(0.3)),
    "flipped late": (flip(0.5), flip(0.9), flip(1.0)),
    "short": (cut(0.0), cut(0.6), Path.unlink),
}


@pytest.mark.parametrize("part", ["head", "tables"])
@pytest.mark.parametrize("damages", DAMAGES)
def test_a_damaged_copy_is_named_and_rebuilt(
    scene: Scene, caplog: pytest.LogCaptureFixture, part: str, damages: str
) -> None:
    """Each of the tasks has a damage of its own."""
    for number, damage in enumerate(DAMAGES[damages]):
        damage(scene.job.tasks_directory / str(number) / part)
    scene.publish()
    caplog.set_level("INFO")
    go_on(scene)
    named = re.findall(rf"task (\d): its local state is not used: \S+/{part}", caplog.text)
    assert sorted(named) == ["0", "1", "2"]
    assert len(re.findall(FROM_CHANGELOG, caplog.text)) == PARTITIONS
    scene.check()


def test_damaged_payload_is_named_and_rebuilt(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """At once if it is not there, else when it is first read."""
    for number, damage in enumerate((flip(0.1), cut(0.0), Path.unlink)):
        payload = sorted((scene.job.tasks_directory / str(number)).glob("payload-*"))
        assert payload
        data = payload[0].read_bytes()  # the tasks share files
        payload[0].unlink()
        payload[0].write_bytes(data)
        damage(payload[0])
    scene.publish()
    caplog.set_level("INFO")
    go_on(scene)
    for words in ("fails its checksum", "is cut short: 0 of", "is missing"):
        assert len(re.findall(rf"payload-\d+\S*: .*{words}", caplog.text)) == 1
    scene.check()


def test_a_disk_that_takes_no_more_costs_the_copy_alone(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.publish(START_MS + 80_000)
    shutil.rmtree(scene.job.tasks_directory)
    scene.write_job()  # all in memory
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        go_on(scene)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(re.findall(r"leaves no local state: .*cannot be written: File too large", caplog.text)) == PARTITIONS
    assert copies(scene) == []
    scene.publish()
    go_on(scene)
    scene.check()


def test_a_copy_that_is_not_taken_up_after_all_is_put_back(scene: Scene) -> None:
    """The worker stops, or is put out, while it reads."""
    space = PayloadSpace(scene.job.rows_directory / "one")
    task = Task(plan_of(scene.job), 1, TaskSettings(PARTITIONS, 1_000_000, 0, space))
    committed = {source.topic: at for source, at in scene.committed().items() if source.partition == 1}
    position = ChangelogPosition.parse(committed[scene.topics["predictions"]][1], TopicPartition("", 1))
    assert position is not None
    copy = find(task, {topic: offset for topic, (offset, _) in committed.items()}, position, 0)
    assert copy is not None
    assert copies(scene) == ["0", "2"]
    copy.close()
    assert copies(scene) == ["0", "1", "2"]
    space.close()
    scene.publish()
    go_on(scene)
    scene.check()


# -- what is left behind ---------------------------------------------------------------------------------


def test_what_nobody_takes_up_is_removed(scene: Scene) -> None:
    """A copy of a task that runs elsewhere now, and one that was never finished."""
    tasks = scene.job.tasks_directory
    shutil.copytree(tasks / "1", tasks / "7")
    shutil.copytree(tasks / "1", tasks / "1.part-killed")
    scene.publish()
    started(scene, scene.folder / "state", "--until-caught-up").ends_well()
    assert copies(scene) == ["0", "1", "2"]


def test_reset_forgets_the_copies_too(scene: Scene) -> None:
    done = CliRunner().invoke(app, ["reset", str(scene.job_file), "--yes"])
    assert done.exit_code == 0, done.output
    assert not scene.job.tasks_directory.exists()
