"""What designs that are not random take of events: by an expert's rule, or by following a relation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamsample.hashing import hash64
from streamsample.records import Bools, Int32s, Spans
from streamsample.runtime.computed import called
from streamsample.runtime.draws import Draw, Relation
from streamsample.runtime.source import Events
from streamsample.runtime.windowing import Unusable, is_true
from streamsample.sampling.design import Selection
from streamsample.sampling.strata import DeclaredStrata

if TYPE_CHECKING:
    from streamsample.sampling.frontier import Frontier


def unrelated(key: str, relation: Relation, events: Events) -> Unusable:
    """The events that do not name both ends of a relation."""
    begin, end = (_text(events, path) for path in (relation.begin, relation.end))
    words = f"{called(relation.begin)} or {called(relation.end)} is null, so nothing is related ({key}.from, {key}.to)"
    return Unusable(np.flatnonzero((begin.size < 0) | (end.size < 0)), "missing_relation", words)


def taken(
    draw: Draw, frontier: Frontier | None, events: Events, stratum: Spans | None
) -> tuple[Selection, Spans | None]:
    """What a design takes, and the strata. frontier: where it has one; stratum: m spans, None without strata; then a
    relation's is its number of steps from a seed, which is meant for what is taken only.
    """
    if draw.relation is not None and frontier is not None:
        begin, end = (hash64(_text(events, path), 0) for path in (draw.relation.begin, draw.relation.end))
        wave = frontier.follow(begin, end)
        if stratum is None:
            return _selection(draw, wave > 0, None), _waves(wave, frontier.hops)
        return _selection(draw, wave > 0, stratum), stratum
    assert draw.rule is not None
    return _selection(draw, is_true(_text(events, draw.rule)), stratum), stratum


def _selection(draw: Draw, keep: Bools, stratum: Spans | None) -> Selection:
    declared = np.full(len(keep), -1, np.int32)
    if stratum is not None and draw.slices:
        declared = DeclaredStrata(draw.slices).codes(stratum)
    return Selection(keep, np.full(len(keep), np.nan), declared)


def _waves(wave: Int32s, hops: int) -> Spans:
    return Spans.of([str(number).encode() for number in range(hops + 1)]).take(wave.astype(np.int64))


def _text(events: Events, path: str) -> Spans:
    return events.projection.text(path).take(events.rows)
