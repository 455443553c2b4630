"""What an open row of the join costs beside its payload: by the join's own account, and by what the process grows."""

from __future__ import annotations

import gc
from typing import Any

_BATCH = 40_000
_MEAN_DELAY_MS = 120_000
_SHARE = 0.1


def open_rows(rows: int) -> dict[str, float]:
    """Bytes per open row beside its payload, with its id, its place in the index and its matched feedback.

    by_tables: `LabelJoin.state_bytes`. by_process: by how much the resident memory has grown. dict: the same for a
    dict of Python lists, as the loop of the reference holds them.
    """
    import numpy as np
    import psutil

    from benchmarks import data
    from streamsample.labels import JoinSettings, LabelJoin, Rule, TargetRules

    numbers = np.arange(rows)
    times = data.serving_times(numbers, rows, 500_000)
    parts = [numbers[at : at + 200_000] for at in range(0, rows, 200_000)]
    ids = np.concatenate([data.impression_ids(part) for part in parts])
    values = np.concatenate([data.impressions(part, times[part]) for part in parts])
    clicked, clicked_at = data.click_plan(rows, 500_000, _SHARE, _MEAN_DELAY_MS)
    inside = clicked_at <= times[-1]
    settings = JoinSettings(("clicks",), (TargetRules("clicked", (Rule(0, 600_000),), "value", 0),), grace_ms=5_000)

    early = clicked_at <= times[_BATCH - 1]  # once through everything, so that only what stays is counted
    _feed(LabelJoin(settings), ids[:_BATCH], times[:_BATCH], values[:_BATCH], clicked[early], clicked_at[early])
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    join = LabelJoin(settings)
    _feed(join, ids, times, values, clicked[inside], clicked_at[inside])
    gc.collect()
    grown = process.memory_info().rss - before
    counts = join.counts()
    assert (counts.open_rows, counts.matches) == (rows, int(inside.sum())), counts
    payload = rows * data.VALUE_BYTES
    by_tables = (join.state_bytes() - payload) / rows
    del join
    return {"by_tables": by_tables, "by_process": (grown - payload) / rows, "dict": _of_dict(ids, times, values)}


def _feed(join: Any, ids: Any, times: Any, values: Any, clicked: Any, clicked_at: Any) -> None:
    """Predictions in batches, each followed by the clicks up to its time."""
    import numpy as np

    from benchmarks import data
    from streamsample.hashing import hash64

    done = 0
    for begin in range(0, len(ids), _BATCH):
        rows = slice(begin, begin + _BATCH)
        keys = data.spans(ids[rows])
        n = len(keys)
        join.on_predictions(
            np.arange(begin, begin + n), times[rows], keys, hash64(keys, 0), data.spans(values[rows]),
            schema=np.zeros(n, np.int16), split=np.full(n, -1, np.int8),
        )  # fmt: skip
        end = int(np.searchsorted(clicked_at, times[rows][-1], side="right"))
        which = clicked[done:end]
        refers = data.spans(ids[which])
        ones = [np.ones(len(which), np.int64)]
        join.on_feedback(0, np.arange(done, end), clicked_at[done:end], refers, hash64(refers, 0), ones)
        join.on_watermark(int(times[rows][-1]))
        join.snapshot_delta()
        done = end


def _of_dict(ids: Any, times: Any, values: Any) -> float:
    import psutil

    rows = min(len(ids), 200_000)
    gc.collect()
    before = psutil.Process().memory_info().rss
    held = {}
    for key, served, value in zip(ids[:rows], times[:rows].tolist(), values[:rows], strict=True):
        held[key.tobytes().decode()] = [served, value.tobytes(), None]
    grown = psutil.Process().memory_info().rss - before
    assert len(held) == rows
    return float(grown - values[:rows].nbytes) / rows
