"""Samples of samples: what π becomes, and the correction of a model that learned from a thinned target.

Stages whose salts are independent are drawn one given the other, so their π multiply. Stages that share u are one
draw: a record passes all of them iff u is below the smallest of their thresholds on u, which are their π (uniform τ,
exponential 1 - exp(-wτ), priority min(1, wτ)).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from streamsample.records import Float64s


def composed(*probabilities: Float64s, u: Literal["independent", "shared"]) -> Float64s:
    """π of records that passed several stages, float64[n], from the π of each stage, float64[n].

    u: whether each stage had a salt of its own, or all decided by the same u.

    >>> first, second = np.array([0.5, 0.1]), np.array([0.2, 1.0])
    >>> composed(first, second, u="independent")
    array([0.1, 0.1])
    >>> composed(first, second, u="shared")
    array([0.2, 0.1])
    """
    stages = np.stack(probabilities)
    result: Float64s = stages.prod(axis=0) if u == "independent" else stages.min(axis=0)
    return result


def log_odds_offset(probability_of_one: float, probability_of_zero: float) -> float:
    """Log π(label=1) - log π(label=0): what thinning by a binary label has added to the log-odds of a model.

    Subtract it from the model's log-odds, or give it to the learner as a fixed offset of every record, of both classes;
    then train without the weights 1/π, which correct the same thing (King & Zeng, "Logistic regression in rare events
    data", Political Analysis 9(2), 2001, section 4.1). Raises ValueError unless both are in (0, 1].

    >>> round(log_odds_offset(1.0, 0.1), 4)
    2.3026
    """
    for probability in (probability_of_one, probability_of_zero):
        if not 0 < probability <= 1:
            raise ValueError(f"an inclusion probability must be > 0 and <= 1, found {probability}")
    return math.log(probability_of_one) - math.log(probability_of_zero)
