"""Two members of a group on a real broker: who owns what when, and what may still be committed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.protocol.consumer import LeaveGroupRequest
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.errors import FencedError, KafkaSideError
from streamsample.kafka.consumer import ColumnarConsumer, Rebalance
from streamsample.records import TopicPartition
from tests.conftest import Broker, MakeTopic
from tests.kafka.batches import Record
from tests.kafka.consuming import producer, send, until, write

TOPICS = 2
PARTITIONS = 4


class Worker:
    """The shape of the real one: reads, and commits what it has processed in transactions, by the group's metadata."""

    def __init__(self, servers: str, name: str, group: str, topics: list[str], session_ms: int = 6000) -> None:
        self.name = name
        self.consumer = ColumnarConsumer(
            {"bootstrap_servers": servers}, group=group, client_id=name, session_timeout_ms=session_ms
        )
        self.consumer.subscribe(topics)
        self.producer = KafkaProducer(
            bootstrap_servers=servers, transactional_id=f"{group}.{name}.{time.monotonic_ns()}", retry_backoff_ms=5
        )
        self.producer.init_transactions()
        self.processed: dict[TopicPartition, int] = {}
        self.counted: Counter[TopicPartition] = Counter()
        self.history: list[Rebalance] = []

    def step(self, timeout_ms: float = 50) -> None:
        for batch in self.consumer.poll(timeout_ms):
            self.processed[batch.source] = batch.next_offset
            self.counted[batch.source] += len(batch)
        if rebalance := self.consumer.take_rebalance():
            self.apply(rebalance)

    def apply(self, rebalance: Rebalance) -> None:
        self.history.append(rebalance)
        for gone in rebalance.lost:
            self.processed.pop(gone, None)
        if rebalance.revoked:
            self.commit()
        for gone in rebalance.revoked:
            self.processed.pop(gone, None)
        self.consumer.acknowledge_rebalance()
        known = self.consumer.committed(rebalance.assigned) if rebalance.assigned else {}
        for new in rebalance.assigned & self.consumer.assignment():
            self.consumer.seek(new, known[new][0] if new in known else 0)
            self.consumer.resume([new])

    def commit(self) -> None:
        self.producer.begin_transaction()
        try:
            self.producer.send_offsets_to_transaction(
                {
                    KafkaTopicPartition(*each): OffsetAndMetadata(offset, self.name, -1)
                    for each, offset in self.processed.items()
                },
                self.consumer.group_metadata(),
            )
            self.producer.commit_transaction()
        except BaseException:
            self.producer.abort_transaction()
            raise

    def close(self) -> None:
        self.consumer.close()
        self.producer.close(timeout=5)


@pytest.fixture
def topics(make_topic: MakeTopic) -> list[str]:
    return sorted(make_topic(PARTITIONS, word=str(number)) for number in range(TOPICS))


@pytest.fixture
def new_worker(broker: Broker, topics: list[str]) -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:

        def make(name: str, **options: Any) -> Worker:
            made = Worker(broker.bootstrap_servers, name, f"g.{topics[0]}", topics, **options)
            stack.callback(made.close)
            return made

        yield make


def all_of(topics: list[str]) -> set[TopicPartition]:
    return {TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)}


def share(topics: list[str], worker: Worker) -> set[int]:
    """The tasks of a worker, whose partitions must be together."""
    found = worker.consumer.assignment()
    tasks = {each.partition for each in found}
    assert found == {TopicPartition(topic, task) for topic in topics for task in tasks}
    return tasks


def run(workers: list[Worker], condition: Callable[[], bool], what: str) -> None:
    def turn() -> bool:
        for worker in workers:
            worker.step()
        owned = [each for worker in workers for each in worker.processed]
        assert len(owned) == len(set(owned)), "two hold the same partition"
        return condition()

    until(turn, what)


def test_one_then_two_then_one_lose_and_repeat_nothing(
    broker: Broker, topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    servers = broker.bootstrap_servers
    written = 0

    def write_more() -> None:
        nonlocal written
        with producer(servers) as made:
            for part in all_of(topics):
                send(made, part.topic, [Record(0, 1000 + i, b"k", b"v") for i in range(20)], part.partition)
        written += 20

    write_more()
    first = new_worker("first")
    run([first], lambda: len(first.processed) == 8 and set(first.processed.values()) == {20}, "the first reads all")
    first.commit()
    write_more()
    run([first], lambda: set(first.processed.values()) == {40}, "more is read, and not committed")
    second = new_worker("second")

    def shared() -> bool:
        return len(share(topics, first)) == len(share(topics, second)) == 2

    run([first, second], shared, "two share")
    given = frozenset().union(*(each.revoked for each in first.history))
    assert {each.partition for each in given} == share(topics, second)
    assert not any(each.lost for each in first.history + second.history)
    # The second began where the first had come to, though the first had not committed it when asked to give up.
    run([first, second], lambda: bool(second.consumer.settled), "nothing moves any more")
    write_more()
    run([first, second], lambda: len(second.processed) == 4, "the second reads")
    run(
        [first, second],
        lambda: all(first.counted[each] + second.counted[each] == written for each in all_of(topics)),
        "every record is read once",
    )
    assert all(second.counted[each] <= written - 40 for each in all_of(topics))
    second.commit()
    second.consumer.close()
    run([first], lambda: share(topics, first) == {0, 1, 2, 3}, "the first has all again")
    write_more()
    run(
        [first],
        lambda: all(first.counted[each] + second.counted[each] == written for each in all_of(topics)),
        "every record is read once, still",
    )
    first.commit()


def test_a_revoked_partition_stays_until_it_is_acknowledged(
    broker: Broker, topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    """While the first takes its time, it reads what it keeps, stays a member, and can commit; the second waits."""
    for number in range(PARTITIONS):
        write(broker.bootstrap_servers, topics[0], [Record(0, 1000, None, b"v")] * 5, number)
    first = new_worker("first", session_ms=2000)
    run([first], lambda: len(first.processed) == 4, "the first reads")
    second = new_worker("second")
    rebalance = Rebalance()

    def revoked() -> bool:
        nonlocal rebalance
        second.step()
        first.consumer.poll(50)
        rebalance = first.consumer.take_rebalance()
        return bool(rebalance.revoked)

    until(revoked, "something is revoked")
    assert first.consumer.assignment().isdisjoint(rebalance.revoked)
    write(broker.bootstrap_servers, topics[0], [Record(0, 1000, None, b"v")] * 5, min(share(topics, first)))
    deadline = time.monotonic() + 4  # two sessions
    came = 0
    while time.monotonic() < deadline:
        came += sum(len(batch) for batch in first.consumer.poll(50))
        second.step()
        assert not second.consumer.assignment()
        assert not first.consumer.take_rebalance()
    assert came == 5
    first.commit()
    committed = first.consumer.committed(rebalance.revoked)
    assert {each: offset for each, (offset, _) in committed.items()} == {
        each: 5 for each in rebalance.revoked if each.topic == topics[0]
    }
    first.consumer.acknowledge_rebalance()
    run([first, second], lambda: len(share(topics, second)) == 2, "the second gets them")
    assert not any(each.lost for each in first.history)


def test_a_noted_rebalance_ends_the_poll_and_new_partitions_are_paused(
    topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    worker = new_worker("only")
    began = time.monotonic()
    assert worker.consumer.poll(20_000) == []
    assert time.monotonic() - began < 15
    assert not worker.consumer.settled
    rebalance = worker.consumer.take_rebalance()
    assert rebalance == Rebalance(assigned=frozenset(all_of(topics)))
    assert worker.consumer.paused() == all_of(topics)
    assert {worker.consumer.position(each) for each in all_of(topics)} == {None}
    assert worker.consumer.poll(200) == []
    assert worker.consumer.committed(all_of(topics)) == {}
    until(lambda: (worker.consumer.poll(50), worker.consumer.settled)[1], "settled")
    assert worker.consumer.group_metadata().generation_id >= 0


def test_committed_waits_for_an_open_transaction(
    broker: Broker, topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    worker = new_worker("only")
    run([worker], lambda: len(worker.consumer.assignment()) == 8, "it joins")
    part = min(all_of(topics))
    offsets = {KafkaTopicPartition(*part): OffsetAndMetadata(7, "seven", -1)}
    worker.producer.begin_transaction()
    worker.producer.send_offsets_to_transaction(offsets, worker.consumer.group_metadata())
    connection = {"bootstrap_servers": broker.bootstrap_servers}
    with ColumnarConsumer(connection, group=f"g.{topics[0]}", request_timeout_ms=1000) as other:
        with pytest.raises(KafkaSideError, match="committed offsets"):
            other.committed([part])
        worker.producer.commit_transaction()
        assert other.committed([part]) == {part: (7, "seven")}


def test_who_is_put_out_is_told_and_fenced(topics: list[str], new_worker: Callable[..., Worker]) -> None:
    first = new_worker("first")
    run([first], lambda: share(topics, first) == {0, 1, 2, 3}, "the first has all")
    first.processed = dict.fromkeys(all_of(topics), 0)
    old = first.consumer.group_metadata()
    # The broker forgets the member, as it does when the session is over; the member learns of it by its next heartbeat.
    coordinator = first.consumer._library.coordinator
    request = LeaveGroupRequest(
        group_id=old.group_id,
        member_id=old.member_id,
        members=[LeaveGroupRequest.MemberIdentity(member_id=old.member_id, group_instance_id=None, reason=None)],
    )
    coordinator._net.run(lambda: coordinator._manager.send(request, node_id=coordinator.coordinator_id))
    until(lambda: coordinator.lost, "the heartbeat tells")
    with pytest.raises(FencedError, match="not a member"):
        first.consumer.group_metadata()
    until(lambda: (first.consumer.poll(50), first.consumer._notes.lost)[1], "the poll tells")
    with pytest.raises(FencedError, match="not a member"):
        first.consumer.group_metadata()
    rebalance = first.consumer.take_rebalance()
    assert rebalance.lost == frozenset(all_of(topics))
    assert not rebalance.revoked
    first.apply(rebalance)
    run([first], lambda: len(first.consumer.assignment()) == 8, "it joins again")
    assert first.consumer.group_metadata().generation_id > old.generation_id


def _pausable(servers: str, group: str, topics: list[str], told: Queue[Any]) -> None:
    worker = Worker(servers, "paused", group, topics, session_ms=2000)
    told.put(os.getpid())
    while True:
        worker.step()
        for rebalance in worker.history:
            told.put(rebalance)
        worker.history.clear()


@contextmanager
def _process(servers: str, group: str, topics: list[str]) -> Iterator[Queue[Any]]:
    context = get_context("spawn")
    told: Queue[Any] = context.Queue()
    process = context.Process(target=_pausable, args=(servers, group, topics, told), daemon=True)
    process.start()
    try:
        yield told
    finally:
        process.kill()
        process.join()


def test_a_paused_process_finds_out_that_it_lost_all(
    broker: Broker, topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    group = f"g.{topics[0]}"
    with _process(broker.bootstrap_servers, group, topics) as told:
        pid = told.get(timeout=60)
        rebalance = told.get(timeout=30)
        assert rebalance.assigned == frozenset(all_of(topics))
        os.kill(pid, signal.SIGSTOP)
        try:
            other = new_worker("other")
            run([other], lambda: share(topics, other) == {0, 1, 2, 3}, "the other has all")
        finally:
            os.kill(pid, signal.SIGCONT)
        lost = told.get(timeout=30)
        assert lost.lost == frozenset(all_of(topics))
        assert not lost.revoked
        run([other], lambda: len(share(topics, other)) == 2, "both share")


def test_a_join_that_ends_between_two_polls_is_not_begun_again(
    topics: list[str], new_worker: Callable[..., Worker]
) -> None:
    """Members in one thread, polled in turn without waiting: each join ends while another is polled."""
    workers = [new_worker(name) for name in "abc"]
    generations: set[int] = set()

    def turn() -> bool:
        for worker in workers:
            worker.step(0)
            time.sleep(0.02)  # what a worker does between two polls
        generations.update(worker.consumer._library.group_metadata().generation_id for worker in workers)
        return sorted(len(share(topics, worker)) for worker in workers) == [1, 1, 2] and all(
            worker.consumer.settled for worker in workers
        )

    until(turn, "three share")
    assert max(generations) <= 8
