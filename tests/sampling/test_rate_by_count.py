"""Rates by a target count against `SimpleCount`, shown one window after the other."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsample.errors import StateError
from streamsample.records import Spans
from streamsample.sampling import SimpleCount
from streamsample.sampling.rate_by_count import RateByCount

COUNT, WINDOW, GRACE = 3, 100, 30


def rates_of(times: list[int]) -> dict[int, float]:
    """By window, from the library: each is closed when a later one begins that lies behind its end and grace."""
    library, found = SimpleCount(COUNT, WINDOW, 0.5), {}
    for window in sorted({each // WINDOW for each in times}):
        members = np.array([each for each in times if each // WINDOW == window])
        library.close(window * WINDOW - GRACE - 1)
        decided = library.decide(Spans.of([b"%d" % each for each in members]), members)
        found[window] = float(decided.probability[0])
    return found


@given(
    st.lists(st.integers(0, 60), max_size=150),
    st.lists(st.integers(1, 30), min_size=1),
    st.randoms(),
    st.booleans(),
)
@settings(deadline=None)
def test_b7_a_rate_depends_on_neither_order_nor_batches_nor_restarts(
    gaps: list[int], sizes: list[int], order: Random, restored: bool
) -> None:
    """Disorder within the grace: who is earlier by less than that may come later."""
    times = np.cumsum(gaps).tolist()
    shuffled = sorted(times, key=lambda each: each + order.random() * GRACE)
    wanted, rates, at, turn = rates_of(times), RateByCount(COUNT, WINDOW, GRACE, 0.5), 0, 0
    while at < len(times):
        batch = shuffled[at : at + sizes[turn % len(sizes)]]
        found, late = rates.decide(np.array(batch, np.int64))
        assert not late.any()
        assert found.tolist() == [wanted[each // WINDOW] for each in batch]
        at, turn = at + len(batch), turn + 1
        if restored:
            data, rates = rates.snapshot(), RateByCount(COUNT, WINDOW, GRACE, 0.5)
            rates.restore([data])


def test_a8_a_late_record_is_late_however_the_batches_lie() -> None:
    times = np.array([10, 131, 20, 90, 130, 200, 99, 131])
    for cuts in ([8], [1, 8], [2, 8], [1, 2, 3, 4, 5, 6, 7, 8]):
        rates, found, begin = RateByCount(COUNT, WINDOW, GRACE, 0.5), list[bool](), 0
        for end in cuts:
            found += rates.decide(times[begin:end])[1].tolist()
            begin = end
        assert found == [False, False, True, True, False, False, True, False]


def test_b14_what_is_held_of_past_windows_is_bounded() -> None:
    rates = RateByCount(COUNT, WINDOW, GRACE, 0.5)
    for begin in range(0, 100_000, 50):
        rates.decide(np.arange(begin, begin + 50))
        assert len(rates.snapshot()) < 400
    rate, _ = rates.decide(np.array([100_000]))
    assert rate.tolist() == [0.03]


def test_another_target_or_damage_is_refused() -> None:
    data = RateByCount(COUNT, WINDOW, GRACE, 0.5).snapshot()
    with pytest.raises(StateError):
        RateByCount(COUNT + 1, WINDOW, GRACE, 0.5).restore([data])
    with pytest.raises(StateError):
        RateByCount(COUNT, WINDOW, GRACE, 0.5).restore([data[:-1]])
