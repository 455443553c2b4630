"""From events to what a windowed sample is shown."""

from __future__ import annotations

import numpy as np

from streamsample.hashing import hash64
from streamsample.records import Int64s, Spans
from streamsample.runtime.plan import WindowDraw
from streamsample.runtime.source import Events
from streamsample.sampling.ranks import unusable
from streamsample.sampling.window_columns import Offered


def unusable_weights(events: Events, path: str) -> Int64s:
    """The events, int64[k], whose weight at `path` is null, NaN, negative, or out of range (B11)."""
    column = events.projection.number(path)
    weight = column.values[events.rows].astype(np.float64)
    return np.flatnonzero(~column.valid[events.rows] | unusable(weight))


def offered(draw: WindowDraw, partition: int, events: Events, unit: Spans, stratum: Spans | None) -> Offered:
    """The events with their units' hashes and their weights. unit, stratum: m spans, no nulls."""
    rows = events.rows
    weight = np.ones(len(rows))
    if draw.weight is not None:
        weight = events.projection.number(draw.weight).values[rows].astype(np.float64)
    hashes = hash64(unit, draw.seed)
    return Offered(partition, events.batch.offsets[rows], events.times, hashes, weight, stratum, events.ids)
