"""Designs without probabilities, composition, the log-odds offset, and the rate from a target per window."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamsample.errors import StateError
from streamsample.hashing import salted
from streamsample.records import Spans
from streamsample.sampling import (
    Convenience,
    Judgment,
    Quota,
    Reservoir,
    SimpleCount,
    SimpleRate,
    Snowball,
    Weighted,
    composed,
    log_odds_offset,
)
from tests.sampling.statistics import z_scores


def spans(count: int) -> Spans:
    return Spans.of([b"%d" % number for number in range(count)])


def test_b12_convenience_takes_the_first_that_come() -> None:
    convenience = Convenience(k=3)
    taken = [convenience.take(2).position.tolist() for _ in range(3)]
    assert taken == [[0, 1], [2], []]
    assert convenience.n == 6


def test_b12_quota_takes_the_first_of_each_slice() -> None:
    quota = Quota(k=2, slices=["a", "b"], others=1)
    assert quota.take(["a", "a", "a", "x", "b"]).position.tolist() == [0, 1, 3, 4]
    sample = quota.take(["y", "z", "b", "b"])
    assert sample.position.tolist() == [5, 7]
    assert [(each.name, each.n) for each in sample.strata] == [("a", 3), ("b", 3), ("(other 0)", 3)]
    assert [sample.strata[at].name for at in sample.stratum] == ["(other 0)", "b"]
    with pytest.raises(ValueError, match="not declared"):
        Quota(k=1, slices=["a"]).take(["b"])


def test_b12_judgment_says_which_rule_it_was() -> None:
    judgment = Judgment(lambda x, y: x > y, version="7")
    assert judgment.take(np.array([1, 5]), np.array([2, 2])).position.tolist() == [1]
    sample = judgment.take(np.array([3]), np.array([2]))
    assert (sample.design, sample.position.tolist(), sample.n) == ("judgment (7)", [2], 3)
    with pytest.raises(ValueError, match="True or False"):
        Judgment(lambda x: x, version="8").take(np.array([1, 2]))


def test_b12_snowball_keeps_its_limits() -> None:
    chain = [str(number) for number in range(10)]
    snowball = Snowball(["0"], hops=4, frontier_max=100)
    assert snowball.take(chain[:-1], chain[1:]).position.tolist() == [0, 1, 2, 3]
    star = Snowball(["0"], hops=4, frontier_max=3)
    assert star.take(["0"] * 5, chain[1:6]).position.tolist() == [0, 1, 2, 3, 4]
    assert star.refused == 3
    assert star.take(["2", "3"], ["8", "9"]).position.tolist() == [5]
    # A shorter way found later counts.
    short = Snowball(["0"], hops=2, frontier_max=9)
    assert short.take(["0", "1", "0", "2"], ["1", "2", "2", "3"]).position.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Convenience(k=0),
        lambda: Quota(k=0, slices=["a"]),
        lambda: Snowball(["a"], hops=0, frontier_max=9),
        lambda: Snowball(["a", "b"], hops=1, frontier_max=1),
        lambda: SimpleCount(count=0, window_ms=1, first_rate=1),
        lambda: SimpleCount(count=1, window_ms=1, first_rate=0),
    ],
)
def test_parameters_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]


def test_b13_independent_stages_multiply() -> None:
    """A reservoir of 20 from those of 60 that a rate of a half, with a salt of its own, lets through: E[I/π] = 1."""
    expanded = np.zeros((4_000, 60))
    ids = spans(60)
    for seed in range(4_000):
        first = SimpleRate(0.5, seed=salted(seed, "first")).decide(ids, None)
        rows = np.flatnonzero(first.keep)
        reservoir = Reservoir(k=20, seed=seed)
        reservoir.update(ids.take(rows), position=rows)
        sample = reservoir.sample()
        pi = composed(first.probability[sample.position], sample.probability, u="independent")
        expanded[seed, sample.position] = 1 / pi
    assert (np.abs(z_scores(expanded, 1.0)) < 4.5).all()


def test_b13_stages_that_share_u_take_the_smallest_threshold() -> None:
    """The same, and by weight too, all by one u: a record passes iff u is below the smallest π; E[I/π] = 1."""
    expanded = np.zeros((4_000, 60))
    ids, weight = spans(60), np.arange(60) % 5 + 0.5
    for seed in range(4_000):
        first = SimpleRate(0.5, seed=seed).decide(ids, None)
        weighted = Weighted(k=25, seed=seed)
        weighted.update(ids, weight)
        sample = weighted.sample()
        both = sample.take(first.keep[sample.position])
        pi = composed(first.probability[both.position], both.probability, u="shared")
        assert (both.u < pi).all()
        expanded[seed, both.position] = 1 / pi
    assert (np.abs(z_scores(expanded, 1.0)) < 4.5).all()


def test_b17_the_offset_is_what_thinning_adds_to_the_log_odds() -> None:
    ones, zeros = 300, 90_000
    offset = log_odds_offset(0.8, 0.05)
    thinned = math.log(ones * 0.8 / (zeros * 0.05))
    assert math.isclose(thinned - offset, math.log(ones / zeros))
    assert log_odds_offset(0.3, 0.3) == 0
    for wrong in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="inclusion probability"):
            log_odds_offset(wrong, 0.5)


def test_a_target_per_window_sets_the_rate_from_closed_windows_only() -> None:
    design = SimpleCount(count=100, window_ms=1_000, first_rate=0.5, seed=1, windows=2)
    rates = []
    for window, records in enumerate([400, 400, 800, 200, 50]):
        time = np.full(records, 1_000 * window)
        rates.append(float(design.decide(spans(records), time).probability[0]))
        # The rate of an open window stays, whatever closes meanwhile and however many come.
        assert set(design.decide(spans(records), time).probability) == {rates[-1]}
        design.close(1_000 * (window + 1))
    assert rates == [0.5, 0.125, 0.125, 2 * 100 / (800 + 1_600), 2 * 100 / (1_600 + 400)]


def test_a_window_without_a_closed_one_has_the_first_rate() -> None:
    design = SimpleCount(count=10, window_ms=1_000, first_rate=0.25)
    time = np.array([0, 1_000, 2_500, 2_999])
    assert design.decide(spans(4), time).probability.tolist() == [0.25] * 4
    design.close(2_999)
    late = design.decide(spans(2), np.array([500, 2_600]))
    assert late.probability.tolist() == [0.0, 0.25]
    assert not late.keep[0]
    assert len(design.decide(spans(0), np.empty(0, np.int64)).keep) == 0


def test_a_target_per_window_draws_near_it_and_nested() -> None:
    design = SimpleCount(count=500, window_ms=1_000, first_rate=1.0, seed=3)
    design.decide(spans(10_000), np.zeros(10_000, np.int64))
    design.close(1_000)
    chosen = design.decide(spans(10_000), np.full(10_000, 1_000))
    assert (chosen.keep == SimpleRate(0.05, seed=3).decide(spans(10_000), None).keep).all()
    assert abs(int(chosen.keep.sum()) - 500) < 4.5 * math.sqrt(500)


def test_b8_a_restored_target_per_window_keeps_its_rates() -> None:
    design = SimpleCount(count=10, window_ms=1_000, first_rate=0.25)
    design.decide(spans(100), np.arange(100) * 50)
    design.close(2_000)
    restored = SimpleCount(count=10, window_ms=1_000, first_rate=0.25)
    restored.restore(design.snapshot())
    time = np.arange(200) * 50
    assert (restored.decide(spans(200), time).probability == design.decide(spans(200), time).probability).all()
    assert restored.snapshot() == design.snapshot()
    with pytest.raises(StateError, match="cannot go on as"):
        SimpleCount(count=11, window_ms=1_000, first_rate=0.25).restore(design.snapshot())
    with pytest.raises(StateError, match="checksum"):
        restored.restore(design.snapshot()[:-1])
