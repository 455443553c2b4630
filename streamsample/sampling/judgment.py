"""Judgment sampling: what an expert's rule takes. Not random: π is null.

The rule has a version, so that a sample says which rule took it: a rule that changes makes another design.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamsample.records import Bools
from streamsample.sampling.sample import Sample, not_random


class Judgment:
    """The records for which `rule`, given columns of n elements, says True: bool[n].

    >>> judgment = Judgment(lambda amount: amount > 100, version="large amounts, 2")
    >>> sample = judgment.take(np.array([50, 500]))
    >>> sample.position, sample.design
    (array([1]), 'judgment (large amounts, 2)')
    """

    def __init__(self, rule: Callable[..., Bools], version: str) -> None:
        self._rule = rule
        self.name = f"judgment ({version})"
        self.n = 0

    def take(self, *columns: Any) -> Sample:
        """Those of the next n records that are taken. Raises ValueError if the rule does not give bool[n]."""
        keep = np.asarray(self._rule(*columns))
        if keep.dtype != np.bool_ or keep.shape != (len(columns[0]),):
            raise ValueError(f"{self.name} must say True or False of each record, found {keep.dtype} {keep.shape}")
        begin, self.n = self.n, self.n + len(keep)
        return not_random(self.name, begin, keep, int(keep.sum()))
