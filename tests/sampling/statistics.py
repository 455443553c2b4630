"""What the statistical tests share: chi-square with its critical values, and many replicates drawn at once.

A replicate is a group of one `BottomK`: replicate r of a population of N records hashes the numbers r N … r N + N-1, so
that 20,000 samples cost one update.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64_of_integers
from streamsample.records import Float64s
from streamsample.sampling.bottom_k import BottomK
from streamsample.sampling.ranks import Law, probabilities

ALPHA = 0.001
"""The false alarm rate of each chi-square test, over seeds; with fixed seeds a test that passes passes for ever."""


def chi_square(observed: NDArray[Any], expected: NDArray[Any] | float) -> float:
    return float(((observed - expected) ** 2 / expected).sum())


def critical(degrees: int, alpha: float = ALPHA) -> float:
    """The upper quantile of chi-square, by Wilson and Hilferty (PNAS 17, 1931); within 0.5 % from 5 degrees on."""
    z = NormalDist().inv_cdf(1 - alpha)
    c = 2 / (9 * degrees)
    return degrees * (1 - c + z * math.sqrt(c)) ** 3


def z_scores(replicates: Float64s, truth: Float64s | float) -> Float64s:
    """By how many standard errors the mean of replicates (along the first axis) misses the truth."""
    error = replicates.std(axis=0, ddof=1) / math.sqrt(len(replicates))
    return (replicates.mean(axis=0) - truth) / error


def units(replicates: int, size: int, seed: int) -> NDArray[np.uint64]:
    return hash64_of_integers(np.arange(replicates * size), seed)


def show(
    state: BottomK, unit: NDArray[np.uint64], record: NDArray[np.int64], weight: Float64s, *, source: int = 0
) -> None:
    """Show each replicate the records at `record`, in that order; unit: uint64[replicates, population]."""
    replicates = len(unit)
    group = np.repeat(np.arange(replicates, dtype=np.int32), len(record))
    place = np.tile(record, replicates)
    shown = np.ascontiguousarray(unit[:, record]).ravel()
    state.update(group, shown, np.tile(weight[record], replicates), np.full(len(place), source), place, place)


def opened(law: Law, k: int, replicates: int) -> BottomK:
    state = BottomK(k, law)
    state.open(replicates)
    return state


def expansions(state: BottomK, replicates: int, weight: Float64s) -> tuple[Float64s, Float64s]:
    """I/π and π of each record in each replicate, float64[replicates, population]."""
    count, threshold, records = state.gather(np.arange(replicates, dtype=np.int32))
    inside = np.zeros((replicates, len(weight)), np.bool_)
    inside[np.repeat(np.arange(replicates), count), records["position"]] = True
    tiled = np.tile(weight, replicates)
    pi = probabilities(state.law, np.repeat(threshold, len(weight)), tiled).reshape(replicates, -1)
    return inside / pi, pi


def samples(state: BottomK, replicates: int, k: int) -> NDArray[np.int64]:
    """The k records of each replicate by rank, int64[replicates, k]; each must have k."""
    count, _, records = state.gather(np.arange(replicates, dtype=np.int32))
    assert (count == k).all()
    return records["position"].reshape(replicates, k)
