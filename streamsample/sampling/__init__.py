"""Sampling designs whose inclusion probabilities are known: each a file, each replayable from its seed.

    by rate, with an immutable object     SimpleRate, StratifiedRate              decide(...) -> Selection
    of fixed size, random                 Reservoir, Weighted, Recency,           update(...), sample() -> Sample,
                                          StratifiedReservoir, WithReplacement,   merge, snapshot, restore
                                          ImportanceResample
    by rate, from a target per window     SimpleCount                             decide(...), close(until)
    weighted by what is known, kept       Importance                              take(...) -> Sample
    not random: π is null                 Convenience, Quota, Judgment, Snowball  take(...) -> Sample

Random designs decide by the keyed hash `u` of a record's unit (semantics B), so the same record is decided the same way
by every worker, in every order, at every replay. `total` and `mean` estimate from a sample what the whole would give,
and `draw` samples any iterable.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamsample.sampling.composition import composed, log_odds_offset
    from streamsample.sampling.convenience import Convenience
    from streamsample.sampling.design import RateDesign, Selection
    from streamsample.sampling.estimators import Estimate, effective_sample_size, mean, total
    from streamsample.sampling.importance import Importance, ImportanceResample, probability_ratios
    from streamsample.sampling.iterables import draw
    from streamsample.sampling.judgment import Judgment
    from streamsample.sampling.quota import Quota
    from streamsample.sampling.recency import Recency
    from streamsample.sampling.replacement import WithReplacement
    from streamsample.sampling.reservoir import Reservoir
    from streamsample.sampling.sample import Sample, Stratum
    from streamsample.sampling.simple import SimpleCount, SimpleRate
    from streamsample.sampling.snowball import Snowball
    from streamsample.sampling.split import Split
    from streamsample.sampling.stratified import StratifiedRate
    from streamsample.sampling.stratified_reservoir import StratifiedReservoir
    from streamsample.sampling.weighted import Weighted

__all__ = [
    "Convenience",
    "Estimate",
    "Importance",
    "ImportanceResample",
    "Judgment",
    "Quota",
    "RateDesign",
    "Recency",
    "Reservoir",
    "Sample",
    "Selection",
    "SimpleCount",
    "SimpleRate",
    "Snowball",
    "Split",
    "StratifiedRate",
    "StratifiedReservoir",
    "Stratum",
    "Weighted",
    "WithReplacement",
    "composed",
    "draw",
    "effective_sample_size",
    "log_odds_offset",
    "mean",
    "probability_ratios",
    "total",
]

_HOMES = {
    "Convenience": "convenience",
    "Estimate": "estimators",
    "Importance": "importance",
    "ImportanceResample": "importance",
    "Judgment": "judgment",
    "Quota": "quota",
    "RateDesign": "design",
    "Recency": "recency",
    "Reservoir": "reservoir",
    "Sample": "sample",
    "Selection": "design",
    "SimpleCount": "simple",
    "SimpleRate": "simple",
    "Snowball": "snowball",
    "Split": "split",
    "StratifiedRate": "stratified",
    "StratifiedReservoir": "stratified_reservoir",
    "Stratum": "sample",
    "Weighted": "weighted",
    "WithReplacement": "replacement",
    "composed": "composition",
    "draw": "iterables",
    "effective_sample_size": "estimators",
    "log_odds_offset": "composition",
    "mean": "estimators",
    "probability_ratios": "importance",
    "total": "estimators",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a job compiles the kernels of its own design, and no others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
