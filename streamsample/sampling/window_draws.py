"""What windows drew with replacement, and the weights of it: see `replacement`."""

from __future__ import annotations

import numpy as np

from streamsample.records import Float64s, Int64s
from streamsample.sampling.draws import times_drawn
from streamsample.sampling.totals import exact_sum
from streamsample.sampling.window_columns import WindowPart, WindowSettings


def drawn_again(settings: WindowSettings, part: WindowPart) -> tuple[Float64s, Float64s, Int64s]:
    """π, the weight and the number of draws of each record of `part`: float64[m], float64[m], int64[m]."""
    k, v = settings.k, part.candidates["weight"]
    draws, whole = (
        np.zeros(len(part), np.int64),
        np.repeat(np.array([float(exact_sum(words)) for words in part.groups.sums]), part.groups.kept),
    )
    ends = np.cumsum(part.groups.kept).tolist()
    for begin, end in zip([0, *ends[:-1]], ends, strict=False):
        draws[begin:end] = times_drawn(part.candidates[begin:end], k)
    with np.errstate(divide="ignore"):
        probability = -np.expm1(k * np.log1p(-np.minimum(v / whole, 1.0)))
    weight = draws.astype(np.float64) if settings.equal_weights else draws * whole / (k * v)
    return probability, weight, draws
