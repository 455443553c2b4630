"""Sampling designs whose inclusion probabilities are known: each a file, each replayable from its seed.

Designs by rate are immutable objects over columns that decide each record by itself. Designs of fixed size are shown
records in batches, hold candidates in bounded memory, and tell their sample at any time; they can be merged, saved and
restored. Both decide by the keyed hash `u` of a record's unit (semantics B), so the same record is decided the same way
by every worker, in every order, at every replay.
"""

from streamsample.sampling.composition import composed, log_odds_offset
from streamsample.sampling.design import RateDesign, Selection
from streamsample.sampling.estimators import Estimate, effective_sample_size, mean, total
from streamsample.sampling.recency import Recency
from streamsample.sampling.reservoir import Reservoir
from streamsample.sampling.sample import Sample, Stratum
from streamsample.sampling.simple import SimpleRate
from streamsample.sampling.split import Split
from streamsample.sampling.stratified import StratifiedRate
from streamsample.sampling.weighted import Weighted

__all__ = [
    "Estimate",
    "RateDesign",
    "Recency",
    "Reservoir",
    "Sample",
    "Selection",
    "SimpleRate",
    "Split",
    "StratifiedRate",
    "Stratum",
    "Weighted",
    "composed",
    "effective_sample_size",
    "log_odds_offset",
    "mean",
    "total",
]
