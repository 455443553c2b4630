"""The samples of windows that have closed, from what was held of them."""

from __future__ import annotations

import numpy as np

from streamsample.sampling.ranks import probabilities
from streamsample.sampling.window_columns import Drawn, WindowPart, WindowSettings


def samples_of(settings: WindowSettings, part: WindowPart) -> Drawn:
    """The samples of all groups of `part`, which holds whatever any partition has of their windows."""
    groups, records, rows = part.groups, part.candidates, part.rows
    threshold = np.repeat(groups.threshold, groups.kept)
    return Drawn(
        rows=rows,
        source=records["source"],
        probability=probabilities(settings.law, threshold, records["weight"]),
        threshold=np.where(np.isfinite(threshold), threshold, np.nan),
        n=np.repeat(groups.n, groups.kept),
        k=np.full(len(part), settings.k),
        settled_at=np.repeat((groups.window + 1) * settings.window_ms + settings.grace_ms, groups.kept),
        places=groups.place,
        seen=groups.n,
        kept=groups.kept,
    )
