"""From events to what a windowed sample is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Bools, Float64s, Int64s, Spans, pick
from streamsample.runtime.computed import called
from streamsample.runtime.draws import Ratio, WindowDraw
from streamsample.runtime.source import Events
from streamsample.sampling.ranks import unusable
from streamsample.sampling.window_columns import Offered

_TRUE = b"true"


@dataclass(frozen=True, slots=True)
class Unusable:
    """Events, int64[k], that a design cannot take: why in a word, and in words."""

    rows: Int64s
    reason: str
    words: str


def unusable_numbers(draw: WindowDraw, events: Events) -> Unusable | None:
    """What a design cannot take because of a number in it (B11). None: it reads no numbers."""
    key = draw.place.key
    if draw.weight is not None:
        wrong = ~_known(events, draw.weight) | unusable(_numbers(events, draw.weight))
        words = f"{called(draw.weight)}, which is the weight, is null, negative, or not finite ({key}.weight)"
        return Unusable(np.flatnonzero(wrong), "bad_weight", words)
    if draw.ratio is not None:
        return unusable_ratios(key, draw.ratio, events)
    if draw.of is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(_numbers(events, draw.of) ** 2)
        words = f"{called(draw.of)}, which sizes the strata, is null, or it or its square is not finite ({key}.of)"
        return Unusable(np.flatnonzero(~(_known(events, draw.of) & finite)), "bad_value", words)
    return None


def unusable_ratios(key: str, ratio: Ratio, events: Events) -> Unusable:
    """The events without a ratio of importance; those that the proposal cannot have given are among them (B15)."""
    target, proposal = _numbers(events, ratio.target), _numbers(events, ratio.proposal)
    wrong = ~(_known(events, ratio.target) & _known(events, ratio.proposal) & (target >= 0) & (proposal >= 0))
    wrong |= unusable(ratios(ratio, events)) | ~np.isfinite(target) | ~np.isfinite(proposal)
    words = (
        f"{called(ratio.target)} over {called(ratio.proposal)} is no weight: one is null, negative or not finite, or "
        f"the proposal is 0 where the target is not, so that it cannot have been drawn from it ({key}.target, "
        f"{key}.proposal)"
    )
    return Unusable(np.flatnonzero(wrong), "bad_ratio", words)


def is_true(text: Spans) -> Bools:
    """Which of n texts are "true", bool[n]; a null is not."""
    found = text.size == len(_TRUE)
    for place, byte in enumerate(_TRUE):
        found[found] = text.buffer[text.start[found] + place] == byte
    return np.asarray(found)


def ratios(ratio: Ratio, events: Events) -> Float64s:
    """P/Q of the events, float64[m]: 0 where P is; infinite or NaN where there is none."""
    target, proposal = _numbers(events, ratio.target), _numbers(events, ratio.proposal)
    with np.errstate(all="ignore"):
        found: Float64s = np.where(target == 0, 0.0, target / proposal)
    return found


def offered(
    draw: WindowDraw, partition: int, events: Events, unit: NDArray[np.uint64], stratum: Spans | None
) -> Offered:
    """The events with their weights. unit: the keyed hashes of their units, uint64[m]; stratum: m spans, no nulls, or
    None.
    """
    weight = np.ones(len(events.rows)) if draw.weight is None else _numbers(events, draw.weight)
    weight = weight if draw.ratio is None else ratios(draw.ratio, events)
    values: tuple[Float64s, ...] = (weight,) if draw.settings.replacement else ()
    if draw.of is not None:
        values = (of := _numbers(events, draw.of), of * of)
    offsets = pick(events.batch.offsets, events.rows)
    return Offered(partition, offsets, events.index, events.times, unit, weight, stratum, events.ids, values)


def _numbers(events: Events, path: str) -> Float64s:
    return pick(events.projection.number(path).values, events.rows).astype(np.float64, copy=False)


def _known(events: Events, path: str) -> Bools:
    return pick(events.projection.number(path).valid, events.rows)
