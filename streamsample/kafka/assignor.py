"""Which worker gets which task: a cooperative, co-partitioning, sticky assignor.

The unit is the task: one partition number of all topics. Tasks are balanced (the numbers of tasks of two members differ
by at most one), stay with their owners as far as balance allows, and, by the cooperative protocol (KIP-429), go to a
new owner only after the old one has given them up: a move takes two rounds of the group's protocol.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from streamsample.records import TopicPartition

_VERSION = 2
"""Of the subscription on the wire: the first that tells the generation of what a member says it owns."""


@dataclass(frozen=True)
class Member:
    """A member of the group as it presents itself: what it wants, what it owns, and since which generation."""

    topics: frozenset[str]
    owned: frozenset[TopicPartition]
    generation: int


def assign_tasks(
    partition_counts: Mapping[str, int], members: Mapping[str, Member]
) -> dict[str, frozenset[TopicPartition]]:
    """What each member gets in this round. Depends on its arguments only.

    Partitions that a member must give up are in nobody's share until they are free. A partition of a topic that the
    task's owner does not subscribe to (workers of two versions of a job) is nobody's either.
    """
    owners = _owners(members)
    tasks = range(max((partition_counts.get(topic, 0) for m in members.values() for topic in m.topics), default=0))
    holders = {task: _holder(task, owners) for task in tasks}
    chosen = _balance(tasks, holders, sorted(members))
    shares: dict[str, set[TopicPartition]] = {name: set() for name in members}
    for task, name in chosen.items():
        wanted = {TopicPartition(t, task) for t in members[name].topics if task < partition_counts.get(t, 0)}
        if all(owners.get(TopicPartition(t, task), name) == name for t in partition_counts):
            shares[name] |= wanted
        else:  # another must first give up its part: this member keeps what it has of the task, but gets no more
            shares[name] |= {each for each in wanted if owners.get(each) == name}
    return {name: frozenset(share) for name, share in shares.items()}


def _owners(members: Mapping[str, Member]) -> dict[TopicPartition, str]:
    """Who owns each partition: of several that say so, the one of the latest generation, then the first by name."""
    owners: dict[TopicPartition, str] = {}
    for name in sorted(members):
        for partition in members[name].owned:
            other = owners.get(partition)
            if other is None or members[other].generation < members[name].generation:
                owners[partition] = name
    return owners


def _holder(task: int, owners: Mapping[TopicPartition, str]) -> str | None:
    """The member that owns most of a task's partitions."""
    held: dict[str, int] = defaultdict(int)
    for partition, name in owners.items():
        if partition.partition == task:
            held[name] += 1
    return min(held, key=lambda name: (-held[name], name), default=None)


def _balance(tasks: Iterable[int], holders: Mapping[int, str | None], names: list[str]) -> dict[int, str]:
    """The member of each task, with as few moves as balance allows.

    With n tasks and m members, n mod m members get one more than the others: those that hold most already.
    """
    if not names:
        return {}
    held: dict[str, list[int]] = {name: [] for name in names}
    free = []
    for task in tasks:
        holder = holders[task]
        if holder is None:
            free.append(task)
        else:
            held[holder].append(task)
    least, more = divmod(len(free) + sum(map(len, held.values())), len(names))
    fullest = sorted(names, key=lambda name: (-len(held[name]), name))
    room = {name: least + (place < more) for place, name in enumerate(fullest)}
    chosen = {}
    for name in names:
        for task in held[name][: room[name]]:
            chosen[task] = name
        free.extend(held[name][room[name] :])
        room[name] -= min(len(held[name]), room[name])
    free.sort(reverse=True)
    for name in sorted(names, key=lambda name: (-room[name], name)):
        for _ in range(room[name]):
            chosen[free.pop()] = name
    return chosen


class TaskAssignor(AbstractPartitionAssignor):
    """`assign_tasks` as kafka-python wants it. One per consumer: it remembers what the member owns."""

    name = "streamsample-tasks"
    version = _VERSION

    def __init__(self) -> None:
        self._owned: frozenset[TopicPartition] = frozenset()
        self._generation = -1

    def supported_protocols(self) -> list[Any]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Set[str]) -> Any:
        """What the member tells the group's leader."""
        return ConsumerProtocolSubscription(
            version=_VERSION,
            topics=sorted(topics),
            user_data=b"",
            owned_partitions=[
                ConsumerProtocolSubscription.TopicPartition(topic=topic, partitions=partitions)
                for topic, partitions in _by_topic(self._owned)
                if topic in topics
            ],
            generation_id=self._generation,
        )

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """Called on the group's leader only."""
        asking = {member.member_id: _parse(member.metadata) for member in members}
        topics = frozenset[str]().union(*(member.topics for member in asking.values()))
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in sorted(topics)}
        return {
            name: ConsumerProtocolAssignment(_VERSION, _by_topic(share), b"")
            for name, share in assign_tasks(counts, asking).items()
        }

    def on_assignment(self, assignment: Any, generation: int) -> None:
        self._owned = frozenset(TopicPartition(*partition) for partition in assignment.partitions())
        self._generation = generation

    def forget(self) -> None:
        """The group has put this member out: it owns nothing any more."""
        self._owned = frozenset()
        self._generation = -1


def _parse(metadata: Any) -> Member:
    owned = frozenset(
        TopicPartition(each.topic, partition)
        for each in metadata.owned_partitions or ()
        for partition in each.partitions
    )
    generation = -1 if metadata.generation_id is None else metadata.generation_id
    return Member(frozenset(metadata.topics), owned, generation)


def _by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(partitions):
        found[topic].append(partition)
    return sorted(found.items())
