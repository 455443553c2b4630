"""Feedback that lies elsewhere than its predictions is noticed, whatever the topics are keyed by (A16)."""

from __future__ import annotations

import pytest

from streamsample.errors import TopicError
from streamsample.kafka.partitioner import partitions_of
from streamsample.records import Spans
from streamsample.runtime.co_partitioning import RECORDS_LOOKED_AT, Placement, check_matches, check_placement
from tests.acceptance.timelines import T0, Event, OneTask


def ids_of(partition: int, count: int, word: str = "id") -> list[bytes]:
    """Ids that the default partitioner puts into one of two partitions."""
    names = Spans.of([b"%s%d" % (word.encode(), number) for number in range(3 * count)])
    mine = partitions_of(names, 2)[0] == partition
    return [name for name in names.take(mine).to_list() if name is not None][:count]


def placement(topic: str, here: int, elsewhere: int, partitions: int = 2) -> Placement:
    looked = Placement(topic, 0, partitions)
    looked.look(Spans.of(ids_of(0, here)))
    looked.look(Spans.of(ids_of(1, elsewhere)))
    return looked


@pytest.mark.parametrize(
    ("here", "elsewhere", "by_id"),
    [
        (999, 0, None),
        (0, 999, None),
        (1000, 0, True),
        (990, 10, True),
        (989, 11, False),
        (0, 1000, False),
        (1000, 1000, True),  # only the first thousand count
    ],
)
def test_a16_the_first_thousand_ids_tell(here: int, elsewhere: int, by_id: bool | None) -> None:
    assert RECORDS_LOOKED_AT == 1000
    assert placement("t", here, elsewhere).by_id is by_id


def test_a16_one_partition_is_always_right() -> None:
    assert placement("t", 0, 5, partitions=1).by_id is True


def test_a16_a_refusal_names_both_topics_and_the_remedy() -> None:
    right, wrong, unknown = placement("p", 1000, 0), placement("f", 0, 1000), placement("x", 5, 5)
    for known in (right, wrong):
        check_placement(known, unknown)
        check_placement(unknown, known)
        check_placement(known, known)
    with pytest.raises(TopicError, match=r"p is partitioned by the prediction's id, f is not.*rekey: true"):
        check_placement(right, wrong)
    with pytest.raises(TopicError, match=r"p is partitioned by the prediction's id, f is not.*rekey: true"):
        check_placement(wrong, right)


def test_a16_topics_that_are_keyed_by_something_else_are_refused_by_their_orphans() -> None:
    """Neither topic is keyed by the id, and each by something of its own: no placement tells."""
    task = OneTask(partitions=2)
    shown, clicked = ids_of(1, 2_000, "shown"), ids_of(1, 10_100, "clicked")
    task.play([Event("shown", T0, identity.decode()) for identity in shown])
    task.play([Event("clicked", T0, identity.decode()) for identity in clicked[:9_999]])
    task.play([Event(kind, T0 + 3_600_000, f"later-{kind}") for kind in ("shown", "clicked")])
    task.task.check_matches()  # 9,999 orphans are too few to judge
    task.play([Event("clicked", T0 + 3_600_000, identity.decode()) for identity in clicked[9_999:]])
    task.play([Event(kind, T0 + 7_200_000, f"later-{kind}-2") for kind in ("shown", "clicked")])
    with pytest.raises(TopicError) as refused:
        task.task.check_matches()
    words = str(refused.value)
    assert "of 10,101 records of job.clicked only 0 met a prediction of job.shown" in words
    assert "rekey: true" in words


def test_a16_orphans_of_what_an_experts_rule_did_not_take_are_no_sign() -> None:
    rule = {"design": "judgment", "rule": "country == 'IS'", "version": "1"}
    for sample in (rule, [{"design": "simple", "rate": 0.999}, rule]):
        task = OneTask({"sample": sample}, partitions=2)
        ids = ids_of(0, 10_100)
        task.play([Event("shown", T0, identity.decode(), {"country": "DE"}) for identity in ids])
        task.play([Event("clicked", T0, identity.decode()) for identity in ids])
        task.play([Event(kind, T0 + 3_600_000, f"later-{kind}", {"country": "DE"}) for kind in ("shown", "clicked")])
        assert task.task.join is not None
        assert task.task.join.ledger.feedback_counts(0)["orphan"] > 10_000
        task.task.check_matches()


@pytest.mark.parametrize(
    ("resolved", "matched", "rate", "refused"),
    [
        (10_000, 9, 1.0, True),
        (10_000, 10, 1.0, False),
        (9_999, 0, 1.0, False),
        (99_999, 0, 0.1, False),  # of a tenth, only a tenth can match
        (100_000, 9, 0.1, True),
        (100_000, 10, 0.1, False),
    ],
)
def test_a16_how_many_orphans_are_too_many(resolved: int, matched: int, rate: float, refused: bool) -> None:
    if refused:
        with pytest.raises(TopicError):
            check_matches("p", "f", 2, resolved, matched, rate)
    else:
        check_matches("p", "f", 2, resolved, matched, rate)
    check_matches("p", "f", 1, resolved, matched, rate)
