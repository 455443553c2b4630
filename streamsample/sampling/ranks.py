"""Ranks: how a unit's keyed hash u and its weight w decide who is kept, and the inclusion probability that follows.

All random designs keep the smallest ranks. With τ the smallest rank that was not kept, π is the threshold on u below
which the record is kept, its weight given:

    law           rank r            weight w    π = P(r < τ)       source
    uniform       u                 not used    min(1, τ)          bottom-k, k minimum values
    exponential   -log1p(-u) / w    w           1 - exp(-w τ)      Efraimidis & Spirakis (2006): key U^(1/w)
    priority      u / w             w           min(1, w τ)        Duffield, Lund & Thorup, J. ACM 54(6) (2007)
    decayed       log of            log w       1 - exp(-w e^τ)    Cormode, Shkapenyuk, Srivastava & Xu, ICDE 2009
                  exponential
    first         w                 the time    none: NaN          not random; u is not used

That π may be used as if τ had been fixed beforehand is the rank conditioning of Cohen & Kaplan, PODC 2007
(Ting, "Adaptive threshold sampling", SIGMOD 2022, for any rule under which a kept unit's own rank does not move τ).
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from streamsample.kernels import inline_always
from streamsample.records import Bools, Float64s

_LOG_2 = math.log(2)

Law: TypeAlias = Literal["uniform", "exponential", "priority", "decayed", "first"]
UNIFORM, EXPONENTIAL, PRIORITY, DECAYED, FIRST = range(5)
CODES: dict[Law, int] = {
    "uniform": UNIFORM,
    "exponential": EXPONENTIAL,
    "priority": PRIORITY,
    "decayed": DECAYED,
    "first": FIRST,
}
"""What kernels call the laws."""

NOT_FULL = np.inf
"""τ while everything is kept: then π = 1."""

WEIGHT_MAX = 2.0**900
"""No rank overflows, nor falls to zero, while weights lie between this and its inverse."""


@inline_always
def rank_of(law, u, weight):  # type: ignore[no-untyped-def]
    """The rank of a unit, inside kernels, from u in (0, 1) and its weight (> 0; of any sign for decayed: log w)."""
    if law == UNIFORM:
        return u
    if law == FIRST:
        return weight
    if law == PRIORITY:
        return u / weight
    exponential = -math.log1p(-u)
    return exponential / weight if law == EXPONENTIAL else math.log(exponential) - weight


@inline_always
def rank_at_least(law, u, weight):  # type: ignore[no-untyped-def]
    """A number below the rank that costs no logarithm, by -log1p(-u) > u, and log u >= its exponent times log 2."""
    if law == UNIFORM:
        return u
    if law == FIRST:
        return weight
    if law == DECAYED:
        exponent = (np.float64(u).view(np.int64) >> 52) - 1023
        return exponent * _LOG_2 - 0.001 - weight
    return 0.999 * u / weight


def decayed(weight: Float64s | None, since_landmark: Float64s, half_life: float) -> Float64s:
    """Log w + λ (t - L), float64[n]: the weight of the law decayed. Of a weight of zero it means nothing."""
    log_weight: Float64s = since_landmark * (_LOG_2 / half_life)
    if weight is not None:
        log_weight += np.log(np.where(weight > 0, weight, 1.0))
    return log_weight


def probabilities(law: Law, threshold: Float64s, weight: Float64s) -> Float64s:
    """π of n records, float64[n], from the threshold τ of each and its weight: also the threshold on u that τ means."""
    if law == "uniform":
        return np.minimum(1.0, threshold)
    if law == "first":
        return np.full(len(threshold), np.nan)
    with np.errstate(over="ignore"):
        if law == "priority":
            return np.minimum(1.0, weight * threshold)
        exponent = weight * threshold if law == "exponential" else np.exp(weight + threshold)
        return -np.expm1(-exponent)


def unusable(weight: Float64s) -> Bools:
    """Which of n weights no design takes: NaN, negative, infinite, or beyond `WEIGHT_MAX` or its inverse. bool[n].

    Zero is a weight: it says that the record is never sampled.
    """
    with np.errstate(invalid="ignore"):
        wrong: Bools = (weight != 0) & ~((weight >= 1 / WEIGHT_MAX) & (weight <= WEIGHT_MAX))
    return wrong


def numbers(column: ArrayLike, count: int, what: str) -> Float64s:
    """A column as float64[count]. Raises ValueError for another length."""
    result = np.ascontiguousarray(column, np.float64)
    if result.shape != (count,):
        raise ValueError(f"there must be one {what} for each of {count} ids, found shape {result.shape}")
    return result


def weights(column: ArrayLike, count: int) -> Float64s:
    """Weights as float64[count]. Raises ValueError for another length, or naming the first `unusable` index."""
    weight = numbers(column, count, "weight")
    wrong = unusable(weight)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"a weight must be a finite number >= 0, found {weight[row]} at index {row}")
    return weight
