"""Which of a feedback's records the join can use, and how many of them may wait."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamsample.errors import StateError
from streamsample.records import Bools, Int64s, Spans
from streamsample.runtime.computed import called
from streamsample.runtime.plan import FeedbackPlan, Plan
from streamsample.runtime.source import Events
from streamsample.sampling.design import unit_hash


def usable(
    item: FeedbackPlan, events: Events, refuse: Callable[[Events, Int64s, str, str], None]
) -> tuple[Events, Spans | None]:
    """The events whose own id and labels are there, and these ids (None: their places are). refuse: is given the rest,
    the reason and its words.
    """
    own = None
    if item.own_id is not None:
        own = events.projection.text(item.own_id).take(events.rows)
        missing = np.flatnonzero(own.size < 0)
        if len(missing):
            words = f"{called(item.own_id)} is null, and it is {item.source.role}.id"
            refuse(events, missing, "missing_id", words)
            kept = np.flatnonzero(own.size >= 0)
            events, own = events.take(kept), own.take(kept)
    for column in item.values:
        bad = column.unusable(events.projection, events.rows)
        if bad is not None and bad.any():
            words = f"{called(column.path)}, which is a label, is not {column.needed}"
            refuse(events, np.flatnonzero(bad), "bad_value", words)
            kept = np.flatnonzero(~bad)
            events, own = events.take(kept), None if own is None else own.take(kept)
    return events, own


def not_sampled(plan: Plan, ids: Spans) -> Bools | None:
    """Where the designs cannot have kept the prediction of this id, whatever its stratum (A18)."""
    designs = [draw.design for draw in plan.draws if draw.units.unit is None]
    if not designs:
        return None
    never: Bools = np.any([unit_hash(ids, design.seed) >= design.largest_rate for design in designs], axis=0)
    return never


def check_waiting(plan: Plan, task: int, waiting: int, more: int) -> None:
    """Raises StateError if more would wait than may: feedback that is dropped would turn into silence, a lie."""
    most = plan.job.limits.waiting_max
    if waiting + more > most:
        raise StateError(
            f"task {task}: {waiting:,} feedback records wait for their predictions, and {more:,} more came: "
            f"limits.waiting_max is {most:,}",
            remedy="raise limits.waiting_max, or look for predictions that lag far behind their feedback",
        )
