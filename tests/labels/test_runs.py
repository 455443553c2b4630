"""Sorted runs against plain sorting."""

from __future__ import annotations

import numpy as np
import pytest

from streamsample.labels.runs import SortedRuns, stable_order


@pytest.mark.parametrize("span", [1, 2**16 - 1, 2**16, 2**20, 2**32 - 1, 2**32, 2**50])
@pytest.mark.parametrize("start", [-(2**40), 0, 1_700_000_000_000])
def test_the_order_is_that_of_a_stable_sort(span: int, start: int) -> None:
    random = np.random.default_rng(span % 1000)
    spread = random.integers(0, span, 3000, endpoint=True)
    times = start + np.concatenate([[0, span], spread, spread[::7]]).astype(np.int64)
    assert stable_order(times).tolist() == np.argsort(times, kind="stable").tolist()


@pytest.mark.parametrize("span", [5, 100_000, 2**33])
def test_pairs_come_out_by_time_then_by_order_of_addition(span: int) -> None:
    random = np.random.default_rng(3)
    runs, held, added = SortedRuns(), [], 0
    for step in range(60):
        count = int(random.integers(0, 40))
        times = random.integers(0, span, count)
        runs.add(times, np.arange(added, added + count))
        held += list(zip(times.tolist(), range(added, added + count), strict=True))
        added += count
        before = int(random.integers(0, span)) * step // 60
        taken = runs.take_before(before)
        assert list(zip(*(column.tolist() for column in taken), strict=True)) == sorted(
            pair for pair in held if pair[0] < before
        )
        held = [pair for pair in held if pair[0] >= before]
        assert len(runs) == len(held)
        assert runs.first() == min((time for time, _ in held), default=None)
