"""The layout of what bottom-k keeps of a record."""

from __future__ import annotations

import numpy as np

CANDIDATE = np.dtype(
    [
        ("rank", np.float64),
        ("unit", np.uint64),
        ("weight", np.float64),
        ("source", np.int64),
        ("position", np.int64),
        ("row", np.int64),
    ]
)
"""One candidate: its rank, the hash of its unit, its weight, its place in the stream, and a number of the caller's."""
