"""The laws of the assignor, on groups that Hypothesis makes up."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.cluster import ClusterMetadata
from kafka.protocol.consumer import JoinGroupResponse
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from streamsample.kafka.assignor import Member, TaskAssignor, assign_tasks
from streamsample.records import TopicPartition

TOPICS = ("clicks", "impressions", "orders")
Shares = dict[str, frozenset[TopicPartition]]


def member(owned: frozenset[TopicPartition] = frozenset(), generation: int = 1) -> Member:
    return Member(frozenset(TOPICS), owned, generation)


def task(number: int) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(topic, number) for topic in TOPICS)


def tasks_of(share: frozenset[TopicPartition]) -> set[int]:
    return {partition.partition for partition in share}


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, dict[str, Member]]:
    """Some tasks, some members who own some of them."""
    count = draw(st.integers(0, 24))
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    owners = draw(st.lists(st.sampled_from([None, *names]), min_size=count, max_size=count))
    owned: dict[str, frozenset[TopicPartition]] = defaultdict(frozenset)
    for number, name in enumerate(owners):
        if name is not None:
            owned[name] |= task(number)
    return count, {name: member(owned[name]) for name in names}


def counts(count: int) -> dict[str, int]:
    return dict.fromkeys(TOPICS, count)


def rounds(count: int, members: dict[str, Member], most: int = 5) -> list[Shares]:
    """Rounds of the protocol until none revokes any more; what is given up in one is free in the next."""
    found = []
    for generation in range(2, 2 + most):
        shares = assign_tasks(counts(count), members)
        found.append(shares)
        done = all(members[name].owned <= shares[name] for name in members)
        members = {name: member(share, generation) for name, share in shares.items()}
        if done:
            break
    return found


@settings(max_examples=300, deadline=None)
@given(groups())
def test_two_rounds_end_balanced_and_complete(group: tuple[int, dict[str, Member]]) -> None:
    count, members = group
    history = rounds(count, members)
    assert len(history) <= 2
    sizes = [len(tasks_of(share)) for share in history[-1].values()]
    assert max(sizes) - min(sizes) <= 1
    assert Counter(p for share in history[-1].values() for p in share) == Counter(
        p for number in range(count) for p in task(number)
    )


@settings(max_examples=300, deadline=None)
@given(groups())
def test_topics_of_a_task_stay_together(group: tuple[int, dict[str, Member]]) -> None:
    count, members = group
    for shares in rounds(count, members):
        for share in shares.values():
            assert share == frozenset().union(*(task(number) for number in tasks_of(share)))


@settings(max_examples=300, deadline=None)
@given(groups())
def test_nothing_is_given_before_it_is_given_up(group: tuple[int, dict[str, Member]]) -> None:
    count, members = group
    owner = {p: name for name, each in members.items() for p in each.owned}
    for name, share in assign_tasks(counts(count), members).items():
        assert all(owner.get(p, name) == name for p in share)


@settings(max_examples=300, deadline=None)
@given(groups())
def test_no_more_moves_than_balance_asks_for(group: tuple[int, dict[str, Member]]) -> None:
    """The least: with n tasks and m members, the n mod m fullest keep one more than n div m, the others n div m."""
    count, members = group
    held = sorted((len(tasks_of(each.owned)) for each in members.values()), reverse=True)
    least, more = divmod(count, len(members))
    must_move = sum(max(size - least - (place < more), 0) for place, size in enumerate(held))
    final = rounds(count, members)[-1]
    moved = sum(len(tasks_of(each.owned) - tasks_of(final[name])) for name, each in members.items())
    assert moved == must_move


@settings(max_examples=100, deadline=None)
@given(groups(), st.randoms())
def test_depends_on_nothing_but_its_arguments(group: tuple[int, dict[str, Member]], random: object) -> None:
    count, members = group
    names = list(members)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert assign_tasks(counts(count), {name: members[name] for name in names}) == assign_tasks(counts(count), members)


def test_one_member_then_two_then_one() -> None:
    alone = assign_tasks(counts(4), {"a": member()})
    assert tasks_of(alone["a"]) == {0, 1, 2, 3}
    shrunk = assign_tasks(counts(4), {"a": member(alone["a"]), "b": member()})
    assert (tasks_of(shrunk["a"]), tasks_of(shrunk["b"])) == ({0, 1}, set())
    shared = assign_tasks(counts(4), {"a": member(shrunk["a"]), "b": member()})
    assert (tasks_of(shared["a"]), tasks_of(shared["b"])) == ({0, 1}, {2, 3})
    assert tasks_of(assign_tasks(counts(4), {"b": member(shared["b"])})["b"]) == {0, 1, 2, 3}


def test_the_later_generation_owns_what_two_claim() -> None:
    """A member that was away does not know what became of its partitions."""
    stale = Member(frozenset(TOPICS), task(0) | task(1), 3)
    fresh = Member(frozenset(TOPICS), task(0) | task(1), 7)
    shares = assign_tasks(counts(2), {"stale": stale, "fresh": fresh})
    assert tasks_of(shares["stale"]) == set()
    assert len(tasks_of(shares["fresh"])) == 1


def test_a_task_held_in_two_halves_is_first_given_up() -> None:
    half = frozenset({TopicPartition("clicks", 0)})
    rest = task(0) - half
    shares = assign_tasks(counts(1), {"a": member(half), "b": member(rest)})
    assert shares == {"a": frozenset(), "b": rest}
    assert assign_tasks(counts(1), {"a": member(), "b": member(rest)})["b"] == task(0)


def test_a_topic_of_fewer_partitions_has_no_place_in_later_tasks() -> None:
    shares = assign_tasks({"clicks": 1, "impressions": 2, "orders": 2}, {"a": member()})
    assert shares["a"] == (task(0) | task(1)) - {TopicPartition("clicks", 1)}


def test_workers_of_two_versions_get_what_they_subscribe_to() -> None:
    old = Member(frozenset(["impressions"]), frozenset(), 1)
    shares = assign_tasks(counts(2), {"a": old, "b": member()})
    assert {p.topic for p in shares["a"]} == {"impressions"}
    assert shares["b"] in (task(0), task(1))


def test_what_it_says_to_the_group_survives_the_wire() -> None:
    assignor = TaskAssignor()
    cluster = ClusterMetadata(bootstrap_servers="localhost:9092")
    cluster._partitions = {topic: dict.fromkeys(range(3)) for topic in TOPICS}
    others = TaskAssignor()

    def joining(name: str, which: TaskAssignor) -> object:
        said = which.metadata(set(TOPICS)).encode()
        return JoinGroupResponse.JoinGroupResponseMember(
            member_id=name, metadata=ConsumerProtocolSubscription.decode(said)
        )

    shares = assignor.assign(cluster, [joining("a", assignor)])
    assignor.on_assignment(ConsumerProtocolAssignment.decode(shares["a"].encode()), 4)
    shares = assignor.assign(cluster, [joining("a", assignor), joining("b", others)])
    kept = ConsumerProtocolAssignment.decode(shares["a"].encode())
    assert sorted(kept.partitions()) == sorted(task(0) | task(1))
    assert ConsumerProtocolAssignment.decode(shares["b"].encode()).partitions() == []
    assignor.forget()
    said = ConsumerProtocolSubscription.decode(assignor.metadata(set(TOPICS)).encode())
    assert (list(said.owned_partitions), said.generation_id) == ([], -1)
