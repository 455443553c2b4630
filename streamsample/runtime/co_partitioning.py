"""Whether the feedback of an id is in the partition of the same number as its prediction (A16).

A task sees one partition number of every topic, so a feedback topic that is keyed otherwise than the predictions would
look like users who stay silent. Two signs give it away: on the first records, ids do not lie where the default
partitioner puts them, though those of the other topic do; later, nearly no feedback finds its prediction.
"""

from __future__ import annotations

import numpy as np

from streamsample.errors import TopicError
from streamsample.kafka.partitioner import partitions_of
from streamsample.labels.ledger import Ledger
from streamsample.records import Spans
from streamsample.runtime.layout import Layout
from streamsample.runtime.plan import Plan

RECORDS_LOOKED_AT = 1_000
_AGREE = 0.99
_FEEDBACK_MIN = 10_000
_MATCHED_MIN = 0.001
_REMEDY = (
    "key both topics by the prediction's id with the default partitioner (murmur2; librdkafka: "
    "partitioner=murmur2_random), or set `rekey: true` on the one that is not"
)


class Placement:
    """Counts, on a source's first records, how many ids lie where the default partitioner puts them. rekeyed: they were
    put there.
    """

    def __init__(self, topic: str, partition: int, partitions: int, *, rekeyed: bool = False) -> None:
        self.topic = topic
        self._rekeyed = rekeyed
        self._partition = partition
        self._partitions = partitions
        self._seen = 0
        self._agree = 0

    def look(self, ids: Spans) -> None:
        """Look at the ids (m spans) of more records, until enough were seen."""
        if self._partitions == 1 or self._rekeyed or self._seen >= RECORDS_LOOKED_AT or not len(ids):
            return
        some = ids.take(np.arange(min(len(ids), RECORDS_LOOKED_AT - self._seen)))
        self._seen += len(some)
        self._agree += int((partitions_of(some, self._partitions)[0] == self._partition).sum())

    @property
    def by_id(self) -> bool | None:
        """Whether the topic is partitioned by the id; None while too little was seen."""
        if self._partitions == 1 or self._rekeyed:
            return True
        if self._seen < RECORDS_LOOKED_AT:
            return None
        return self._agree >= _AGREE * self._seen


def check_placement(predictions: Placement, feedback: Placement) -> None:
    """Raises TopicError if one topic is partitioned by the id and the other is not."""
    if predictions.by_id is None or feedback.by_id is None or predictions.by_id == feedback.by_id:
        return
    by_id, otherwise = (predictions, feedback) if predictions.by_id else (feedback, predictions)
    raise TopicError(
        f"{by_id.topic} is partitioned by the prediction's id, {otherwise.topic} is not: feedback would never meet "
        "its predictions",
        remedy=_REMEDY,
    )


def check_matches(
    predictions: str, feedback: str, partitions: int, resolved: int, matched: int, largest_rate: float
) -> None:
    """Raises TopicError if, of `resolved` feedback records, nearly none found its prediction.

    largest_rate: of the sampling design; that share of the feedback can match at most.
    """
    if partitions == 1 or resolved < _FEEDBACK_MIN / largest_rate:
        return
    if matched < _MATCHED_MIN * largest_rate * resolved:
        raise TopicError(
            f"of {resolved:,} records of {feedback} only {matched:,} met a prediction of {predictions}: the two "
            "topics do not seem to be partitioned alike",
            remedy=_REMEDY,
        )


def check_all_matches(plan: Plan, layout: Layout, ledger: Ledger) -> None:
    """`check_matches` of each feedback that is read as it is, by a task's books."""
    if plan.join is None or any(not draw.random for draw in plan.draws):
        return  # however few a design that is not random takes, all other feedback has no prediction here
    for number, use in enumerate(plan.join.uses):
        name = plan.join.feedback[use.feedback]
        topics = [item.source.topic for item in plan.feedback if item.name == name]
        if any(topic in layout.origins for topic in topics):
            continue  # it lies where the default partitioner puts it
        counts, rate = ledger.feedback_counts(number), plan.samples[0].largest_rate
        resolved = counts["matched"] + counts["orphan"]
        check_matches(plan.input.topic, " and ".join(topics), layout.tasks, resolved, counts["matched"], rate)
