"""Sampling by rate and the split, against what semantics.md section B says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from streamsample.hashing import hash64, unit_interval
from streamsample.records import Spans
from streamsample.sampling import SimpleRate, Split, StratifiedRate
from streamsample.sampling.design import unit_hash
from streamsample.sampling.stratified import stratum_of


def units(count: int, prefix: str = "user") -> Spans:
    return Spans.of([f"{prefix}-{number}".encode() for number in range(count)])


@given(st.lists(st.binary(max_size=100), max_size=20), st.integers(0, 2**64 - 1))
def test_hash_is_xxh64(items: list[bytes], seed: int) -> None:
    expected = [xxhash.xxh64_intdigest(item, seed=seed) for item in items]
    assert hash64(Spans.of(items), seed).tolist() == expected


def test_unit_interval_is_open() -> None:
    ends = unit_interval(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert 0 < ends[0] < ends[1] < 1


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_simple_keeps_the_rate(rate: float) -> None:
    # A binomial share over 200,000 units: |z| < 4.5 fails a right build once in 150,000 runs; a rate off by 2 % of
    # itself (at 0.3) is seen with a power above 0.99.
    count = 200_000
    kept = SimpleRate(rate, seed=7).decide(units(count), None)
    deviation = math.sqrt(rate * (1 - rate) / count)
    assert abs(float(kept.keep.mean()) - rate) <= 4.5 * deviation
    assert (kept.probability == rate).all()


def test_b9_raising_the_rate_keeps_the_old_sample() -> None:
    small = SimpleRate(0.01, seed=3).decide(units(50_000), None).keep
    large = SimpleRate(0.05, seed=3).decide(units(50_000), None).keep
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_b9_streams_sampled_by_the_same_unit_keep_the_same_units() -> None:
    users = units(10_000)
    shuffled = np.random.default_rng(5).permutation(len(users))
    first = SimpleRate(0.1, seed=3).decide(users, None).keep
    second = SimpleRate(0.1, seed=3).decide(users.take(shuffled), None).keep
    assert (first[shuffled] == second).all()


def test_another_seed_draws_another_sample() -> None:
    first = SimpleRate(0.5, seed=1).decide(units(10_000), None).keep
    second = SimpleRate(0.5, seed=2).decide(units(10_000), None).keep
    agree = float((first == second).mean())
    assert abs(agree - 0.5) < 4.5 * 0.005


def test_stratified_uses_each_stratums_rate() -> None:
    count = 60_000
    strata = Spans.of([(b"IS", b"DE", b"FR")[number % 3] for number in range(count)])
    design = StratifiedRate(0.1, {"IS": 1.0, "FR": 0.0}, seed=7)
    chosen = design.decide(units(count), strata)
    assert chosen.keep[0::3].all()
    assert not chosen.keep[2::3].any()
    assert abs(float(chosen.keep[1::3].mean()) - 0.1) < 4.5 * math.sqrt(0.1 * 0.9 / 20_000)
    assert chosen.probability[:3].tolist() == [1.0, 0.1, 0.0]
    assert chosen.declared[:3].tolist() == [0, -1, 1]
    assert design.largest_rate == 1.0


def test_stratified_equals_simple_where_the_rates_are_equal() -> None:
    users = units(5_000)
    strata = Spans.of([b"a"] * 5_000)
    simple = SimpleRate(0.2, seed=9).decide(users, None)
    stratified = StratifiedRate(0.2, {}, seed=9).decide(users, strata)
    assert (simple.keep == stratified.keep).all()


def test_b7_replay_in_any_batches_decides_the_same() -> None:
    users = units(1_000)
    design = SimpleRate(0.3, seed=11)
    whole = design.decide(users, None).keep
    parts = [design.decide(users.take(np.arange(at, at + 100)), None).keep for at in range(0, 1_000, 100)]
    assert (np.concatenate(parts) == whole).all()


def test_b6_horvitz_thompson_total_is_unbiased_over_seeds() -> None:
    # 2,000 replicates of a total of 300 values; the standard error of the mean estimate gives |z| < 4.
    values = np.random.default_rng(1).exponential(10, 300)
    users = units(300)
    estimates = []
    for seed in range(2_000):
        chosen = SimpleRate(0.2, seed=seed).decide(users, None)
        estimates.append(float((values[chosen.keep] / chosen.probability[chosen.keep]).sum()))
    error = np.std(estimates, ddof=1) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - values.sum()) < 4 * error


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan")])
def test_rates_outside_their_range_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be"):
        SimpleRate(rate)
    with pytest.raises(ValueError, match="rate"):
        StratifiedRate(rate, {})


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=30))
def test_a_stratum_of_two_fields_is_unambiguous(pairs: list[tuple[str, str]]) -> None:
    left = Spans.of([first.encode() for first, _ in pairs])
    right = Spans.of([second.encode() for _, second in pairs])
    names = stratum_of([left, right]).to_list()
    assert len(set(names)) == len(set(pairs))


def test_a_stratum_with_a_null_field_is_null() -> None:
    assert stratum_of([Spans.of([b"a", None]), Spans.of([b"b", b"c"])]).to_list() == [b"a/b", None]


def test_a_stratum_of_three_fields_escapes_each_once() -> None:
    fields = [Spans.of([b"a/b"]), Spans.of([b"c"]), Spans.of([b"d\\"])]
    assert stratum_of(fields).to_list() == [b"a\\/b/c/d\\\\"]


def test_split_follows_its_shares_and_never_moves_a_unit() -> None:
    split = Split({"train": 0.8, "validation": 0.1, "test": 0.1}, seed=4)
    parts = split.assign(units(100_000))
    shares = np.bincount(parts, minlength=3) / 100_000
    for share, expected in zip(shares, (0.8, 0.1, 0.1), strict=True):
        assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 100_000)
    assert (split.assign(units(100)) == parts[:100]).all()


def test_b13_split_is_independent_of_the_sample_with_the_same_seed() -> None:
    users = units(100_000)
    kept = unit_hash(users, 4) < 0.1
    in_train = Split({"train": 0.5, "test": 0.5}, seed=4).assign(users) == 0
    share = float(in_train[kept].mean())
    assert abs(share - 0.5) < 4.5 * math.sqrt(0.25 / kept.sum())


def test_split_refuses_shares_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Split({"train": 0.8, "test": 0.1})
