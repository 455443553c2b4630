"""Windowed samples of all partitions (`scope: global`): what each task held is united by the window's owner."""

from __future__ import annotations

import random
import signal
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamsample.clock import SystemClock
from streamsample.errors import StateError
from streamsample.runtime.task import FIRST_EVENT
from tests.acceptance.cluster import MakeJob, OnBroker
from tests.acceptance.timelines import T0, Event, OneTask
from tests.acceptance.windows import (
    COUNTRIES,
    GLOBAL,
    GRACE,
    NEYMAN,
    RECENCY,
    REPLACED,
    RESERVOIR,
    SINCE,
    STRATIFIED,
    WEIGHTED,
    WINDOW,
    drawn,
    only,
    shown,
    snapshots,
    the_end,
)
from tests.faults.harness import Worker

DESIGNS = pytest.mark.parametrize(
    "design",
    [{**design, "scope": "global"} for design in (RESERVOIR, WEIGHTED, RECENCY, STRATIFIED, NEYMAN, REPLACED)],
    ids=["reservoir", "weighted", "recency", "proportional", "neyman", "replacement"],
)


class Tasks:
    """All tasks of a job, played to by hand. What they tell each other waits until it is `delivered`."""

    def __init__(
        self, design: dict[str, Any] | list[dict[str, Any]], partitions: int, exchange_bytes_max: int = 1_000_000
    ) -> None:
        self.tasks = [
            OneTask(only(design), partitions=partitions, number=number, exchange_bytes_max=exchange_bytes_max)
            for number in range(partitions)
        ]
        self.waiting: dict[int, list[bytes]] = defaultdict(list)
        """By the task they are for."""

    def play(self, number: int, events: list[Event], *, restarted: bool = False) -> None:
        """Show events to one task."""
        task = self.tasks[number].play(events)
        self.collect()
        if restarted:
            task.restarted()

    def collect(self) -> None:
        """Post what tasks have to say."""
        for task in self.tasks:
            for message in task.sent:
                self.waiting[message.to].append(message.value)
            task.sent = []

    def deliver(self, to: int, most: int | None = None) -> int:
        """Hand over the oldest messages; how many."""
        messages, self.waiting[to] = self.waiting[to][:most], [] if most is None else self.waiting[to][most:]
        if messages:
            self.tasks[to].told(messages)
            self.collect()
        return len(messages)

    def deliver_all(self, most: int | None = None) -> None:
        """Hand over everything, a few messages at a time."""
        while any(self.deliver(number, most) for number in range(len(self.tasks))):
            pass

    @property
    def said(self) -> dict[str, dict[str, Any]]:
        """The records' `sampling`, by id."""
        records = [record for task in self.tasks for record in task.records]
        found = {record["features"]["id"]: record["sampling"] for record in records}
        assert len(found) == len(records)
        return {name: sampling for name, sampling in found.items() if not name.startswith("later")}


@DESIGNS
def test_b4_b7_any_assignment_order_and_restarts_give_the_sample_of_all(design: dict[str, Any]) -> None:
    events = shown(900)
    wanted = drawn(events, design)
    for partitions, bytes_max in ((1, 1_000_000), (2, 1_000_000), (3, 900), (4, 3_000)):
        chance = random.Random(partitions)
        tasks = Tasks(design, partitions, bytes_max)
        places = [chance.randrange(partitions) for _ in events]
        for at in range(0, len(events), 60):
            for number in chance.sample(range(partitions), partitions):
                mine = [
                    event
                    for place, event in zip(places[at : at + 60], events[at : at + 60], strict=True)
                    if place == number
                ]
                tasks.play(number, mine, restarted=chance.random() < 0.3)
            tasks.deliver(chance.randrange(partitions), chance.randrange(1, 9))
        for number in range(partitions):
            tasks.play(number, the_end(f"later {number}"), restarted=number % 2 == 0)
        tasks.deliver_all(3)
        assert tasks.said == wanted
        for task in tasks.tasks:
            for record in task.records:
                where = record["lineage"]["prediction"]
                name = record["features"]["id"]
                assert name.startswith("later") or places[int(name[1:])] == where["partition"]


def test_b3_b4_one_task_owns_the_sample_of_everything_since_the_start() -> None:
    events = [event for event in shown(900) if event.at // WINDOW % 3]
    design = {**SINCE, "scope": "global"}
    for partitions in (1, 3):
        tasks = Tasks(design, partitions, 2_000)
        for at in range(0, len(events), 50):
            for number in range(partitions):
                tasks.play(number, events[at : at + 50][number::partitions], restarted=at % 200 == 0)
            tasks.deliver_all(2)
        for number in range(partitions):
            tasks.play(number, the_end(f"later {number}"))
        tasks.deliver_all()
        records = [record for task in tasks.tasks for record in task.records]
        said = {(one["sampling"]["until"], one["features"]["id"]): one["sampling"] for one in records}
        assert len(said) == len(records)
        assert said == snapshots(events, design)


def test_b7_several_samples_of_all_partitions_share_one_exchange() -> None:
    events, samples = shown(400), {"all": GLOBAL, "heavy": {**WEIGHTED, "scope": "global"}, "mine": RESERVOIR}
    tasks = Tasks(GLOBAL, 2)
    changes = {"feedback": None, "targets": None, "samples": samples}
    tasks.tasks = [OneTask(changes, partitions=2, number=number) for number in range(2)]
    for at in range(0, 400, 100):
        for number in range(2):
            tasks.play(number, events[at : at + 100][number::2], restarted=True)
        tasks.deliver_all(3)
    for number in range(2):
        tasks.play(number, the_end(f"later {number}"))
    tasks.deliver_all()
    records = [record for task in tasks.tasks for record in task.records]
    assert len({record["record_id"] for record in records}) == len(records)
    for name, sample in samples.items():
        halves = [events] if name != "mine" else [events[0::2], events[1::2]]
        wanted = {key: {**one, "sample": name} for half in halves for key, one in drawn(half, sample).items()}
        mine = {one["features"]["id"]: one["sampling"] for one in records if one["sampling"]["sample"] == name}
        assert mine == wanted


def test_a_window_waits_for_every_partition_also_for_one_without_records() -> None:
    tasks = Tasks(GLOBAL, 3)
    events = shown(300)
    tasks.play(0, events[0::2])
    tasks.play(1, events[1::2])
    for number in (0, 1):
        tasks.play(number, the_end(f"later {number}"))
    tasks.deliver_all()
    assert tasks.said == {}
    tasks.tasks[2].caught_up("shown")  # it is idle: its topic has come far, and so it has
    tasks.tasks[2].task.watermark.follow("job.shown", T0 + 3_600_000, 0)
    tasks.tasks[2].turn()
    tasks.collect()
    tasks.deliver_all()
    assert tasks.said == drawn(events, GLOBAL)
    assert {record["closed_by"] for task in tasks.tasks for record in task.records} == {"event"}


def test_b10_n_is_of_all_partitions_and_counted_once_where_a_part_is_cut() -> None:
    design = {**WEIGHTED, "scope": "global"}
    events = [
        Event("shown", T0 + WINDOW + number, f"p{number}", {"country": "DE", "amount": int(number % 5 == 0)})
        for number in range(100)
    ]
    tasks = Tasks(design, 2, 300)
    for number in range(2):
        tasks.play(number, events[number::2])
        tasks.play(number, the_end(f"later {number}"))
    assert max(map(len, tasks.waiting.values())) > 3
    tasks.deliver_all()
    assert tasks.said == drawn(events, design)
    assert [said["n"] for said in tasks.said.values()] == [100] * 4


def test_a14_b14_nothing_is_left_when_all_windows_have_closed() -> None:
    tasks = Tasks(GLOBAL, 2)
    events = shown(500)
    for number in range(2):
        tasks.play(number, events[number::2])
        tasks.play(number, [Event("shown", events[-1].at + WINDOW + 3 * GRACE, f"later {number}", {"country": "IS"})])
        tasks.play(number, [Event("shown", events[-1].at + 9 * WINDOW, f"later too {number}", {"country": "IS"})])
    tasks.deliver_all()
    for task in tasks.tasks:
        assert task.task.windows is not None
        task.restarted()
        assert (task.task.windows.open_windows, task.task.windows.held) == (1, 1)  # of the last record


def test_messages_that_are_not_ours_are_refused() -> None:
    task = OneTask(only(GLOBAL), partitions=2)
    with pytest.raises(StateError, match=r"job\.windows/0@0: this message of another task cannot be read"):
        task.told([b"something else"])
    task, other = OneTask(only(GLOBAL), partitions=2), OneTask(only({**GLOBAL, "k": 9}), partitions=2)
    other.play(shown(5)).play(the_end())
    with pytest.raises(StateError, match="a job of another shape"):
        task.told([message.value for message in other.sent])
    task, other = OneTask(only(GLOBAL), partitions=2), OneTask(only(GLOBAL), partitions=4, number=3)
    other.play(shown(5)).play(the_end())
    with pytest.raises(StateError, match="a message of task 3, there are 2"):
        task.told([message.value for message in other.sent])


# -- on a real broker ------------------------------------------------------------------------------------


def check(job: OnBroker, events: list[Event], design: dict[str, Any]) -> None:
    records = [record for record in job.records if not record["features"]["id"].startswith("later")]
    wanted = drawn(events, design)
    assert sorted(record["features"]["id"] for record in records) == sorted(wanted)
    assert {record["features"]["id"]: record["sampling"] for record in records} == wanted
    for record in records:
        where = record["lineage"]["prediction"]["partition"]
        assert where == job.partition_of(record["features"]["id"])
    assert job.dead == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_b7_on_a_broker_any_number_of_workers_draws_the_sample_of_the_topic(make_job: MakeJob, workers: int) -> None:
    job = make_job(only(GLOBAL), partitions=4)
    events = shown(2_000)
    job.publish(events[:1_200])
    job.run_workers(workers)
    job.publish(events[1_200:])
    job.later(the_end())
    job.run_workers(workers)
    check(job, events, GLOBAL)
    assert {record["sampling"]["stratum"] for record in job.records} == set(COUNTRIES)


@pytest.mark.parametrize("point", ["after_produce:3", "after_changelog:3", "before_commit:2"])
def test_b8_on_a_broker_a_killed_worker_changes_nothing(make_job: MakeJob, tmp_path: Path, point: str) -> None:
    small = {"kafka.fetch_max_bytes": 4_000, "kafka.max_partition_fetch_bytes": 2_000}
    job = make_job(only(GLOBAL, commit_interval="20ms", **small))
    events = shown(1_500)
    job.publish(events)
    job.later(the_end())
    worker = Worker(job.path, tmp_path / "worker", ["--until-caught-up"], crash_at=point)
    assert worker.ends() == -signal.SIGKILL, worker.log
    job.run()
    check(job, events, GLOBAL)


# -- A19: windows that could not be read as a whole -------------------------------------------------------


def uncovered(job: OnBroker) -> tuple[float, float]:
    """Run until caught up; how many records were in windows that gave no sample, and how many before the start."""
    live = job.live_once()
    counts = [
        live.registry.get_sample_value(
            "streamsample_sampled_total", {"design": "reservoir", "stratum": country, "outcome": "uncovered"}
        )
        for country in COUNTRIES
    ]
    before = live.registry.get_sample_value("streamsample_before_start_total", {"topic": f"{job.name}.shown"})
    return sum(count or 0 for count in counts), before or 0


@pytest.mark.parametrize("scope", ["global", "partition"])
def test_a19_the_window_of_the_start_gives_no_sample(make_job: MakeJob, scope: str) -> None:
    start, first_whole = T0 + WINDOW + 33_000, T0 + WINDOW + 40_000
    partitions = 2 if scope == "global" else 1
    job = make_job(only({**GLOBAL, "scope": scope}, start=start), partitions=partitions)
    events = shown(900)
    job.publish(events)
    job.later(the_end())
    lost, before = uncovered(job)
    check(job, [event for event in events if event.at >= first_whole], GLOBAL)
    assert lost == sum(start <= event.at < first_whole for event in events) > 50
    assert 0 < before < 50  # the log is entered a little earlier than the start


def test_a19_latest_draws_the_windows_that_begin_after_every_task(make_job: MakeJob) -> None:
    """Each task has a `now` of its own; a window is whole if it begins after the last of them."""
    job = make_job(only(GLOBAL, start="latest"), partitions=2)
    job.publish(shown(50))
    with job.live() as live:
        live.wait(lambda: len(live.worker._tasks) == 2, "the tasks")
        starts = [task.start_ms or 0 for task in live.worker._tasks.values()]
        now = SystemClock().now_ms()
        events = [replace(event, at=event.at - (T0 + WINDOW) + now + 500) for event in shown(400)]
        job.publish(events)
        job.later([replace(event, at=now + 600_000) for event in the_end()])
        whole = [event for event in events if event.at >= -(-max(starts) // WINDOW) * WINDOW]
        live.wait(lambda: live.report.progress.records_out >= len(drawn(whole, GLOBAL)) > 0, "the samples")
    check(job, whole, GLOBAL)


@pytest.mark.parametrize("scope", ["global", "partition"])
def test_a19_windows_that_retention_took_a_part_of_give_no_sample(make_job: MakeJob, scope: str) -> None:
    partitions = 2 if scope == "global" else 1
    job = make_job(only({**GLOBAL, "scope": scope}), partitions=partitions)
    events = shown(900)
    job.publish(events)
    job.later(the_end())
    job.delete_records("shown", before=100, partition=0)
    mine = [event for event in events if partitions == 1 or job.partition_of(event.id) == 0]
    covered_from = mine[100].at + GRACE
    lost, _ = uncovered(job)
    whole = [event for event in events if event.at // WINDOW * WINDOW >= covered_from]
    check(job, whole, GLOBAL)
    assert lost == len(events) - 100 - len(whole) > 0
    assert job.run().records_in == 0  # nothing changes when it is begun again


def test_a19_a_partition_of_which_nothing_is_left_is_covered_from_where_its_topic_is() -> None:
    tasks = Tasks(GLOBAL, 2)
    tasks.tasks[1].task.covered_from["job.shown"] = FIRST_EVENT
    events = shown(300)
    tasks.play(0, events[:150])
    tasks.tasks[1].caught_up("shown")
    tasks.tasks[1].task.watermark.follow("job.shown", events[149].at, 0)
    tasks.tasks[1].turn()
    tasks.tasks[1].restarted()
    for number in (0, 1):
        tasks.play(number, [*events[150 + number :: 2], *the_end(f"later {number}")])
    tasks.deliver_all()
    whole = [event for event in events if event.at // WINDOW * WINDOW >= events[149].at + GRACE]
    assert tasks.said == drawn(whole, GLOBAL)
    assert whole
