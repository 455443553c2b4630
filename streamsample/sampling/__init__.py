"""Sampling designs whose inclusion probabilities are known: each a file, each replayable from its seed.

A design is an immutable object over columns. It decides by the keyed hash `u` of a record's unit (semantics B), so the
same record is decided the same way by every worker, in every order, at every replay.
"""

from streamsample.sampling.design import RateDesign, Selection
from streamsample.sampling.simple import SimpleRate
from streamsample.sampling.split import Split
from streamsample.sampling.stratified import StratifiedRate

__all__ = ["RateDesign", "Selection", "SimpleRate", "Split", "StratifiedRate"]
