"""What a sample is worth, while it is drawn: sums and figures by stratum, for metrics.

Of what is shown to a sample and what it keeps, by stratum (declared ones by name, all others as `other`):

- expected: Σπ over all that was shown by a rate, the units asked for of a window that has as many. Beside what was kept
  (`streamsample_sampled_total`) it is the mix that was aimed at.
- weights: Σw over what was kept. With w = 1/π it is the Horvitz-Thompson estimate of how many were shown. Beside the
  squares, Σw², it gives Kish's effective sample size (Σw)²/Σw² (Survey Sampling, 1965, section 8.2).
- ratios: Σ P/Q of importance over all that was shown: its mean is 1 unless P has what Q never gives.
- baseline: of a design that is not random, which records a hash of one in a hundred units falls on, by a salt of its
  own: what a random sample would look like.
- hashes: how many units' hashes begin with each of 16 values. Chi-square of them is about 15, and above 38 once in a
  thousand times, where units do not repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64, unit_interval
from streamsample.records import Bools, Float64s, Int32s, Int64s, Spans
from streamsample.sampling.window_columns import Drawn

Key: TypeAlias = tuple[str, str]
"""A sample, as metrics call it, and a stratum."""
Sums: TypeAlias = defaultdict[Key, float]

OTHER: Final = "other"
BUCKETS: Final = 16
BASELINE: Final = 0.01
_BASELINE_SALT: Final = 0x5EED_BA5E
_HASHED: Final = 2_048


def _sums() -> defaultdict[Any, float]:
    return defaultdict(float)


@dataclass(frozen=True, slots=True)
class Window:
    """The last window of a stratum that closed. threshold: τ, NaN where nothing was left out."""

    population: int
    size: int
    threshold: float


@dataclass(slots=True)
class Audit:
    """Sums since it was made, and the last windows."""

    expected: Sums = field(default_factory=_sums)
    weights: Sums = field(default_factory=_sums)
    squares: Sums = field(default_factory=_sums)
    baseline: Sums = field(default_factory=_sums)
    ratios: defaultdict[str, float] = field(default_factory=_sums)
    windows: dict[Key, Window] = field(default_factory=dict)
    hashes: dict[str, Int64s] = field(default_factory=dict)

    def add(self, other: Audit) -> None:
        """Take up what another has noted since."""
        for name in ("expected", "weights", "squares", "baseline", "ratios"):
            mine, more = getattr(self, name), getattr(other, name)
            for key, value in more.items():
                mine[key] += value
        self.windows |= other.windows
        for sample, counts in other.hashes.items():
            self.hashes[sample] = self.hashes.get(sample, 0) + counts

    def drew(self, sample: str, strata: Sequence[str], code: Int32s, probability: Float64s, keep: Bools) -> None:
        """Records that rates decided on: the index in `strata` of each (-1: another), π, and which were kept."""
        place = np.where(code < 0, len(strata), code)
        expected = np.bincount(place, probability, minlength=len(strata) + 1)
        self._add(self.expected, sample, strata, expected)
        self._weigh(sample, strata, place[keep], 1 / probability[keep])

    def weighed(self, sample: str, ratio: Float64s) -> None:
        """Records of importance, with their P/Q."""
        self.ratios[sample] += float(ratio.sum())

    def closed(self, sample: str, strata: Sequence[str], drawn: Drawn) -> None:
        """The samples of windows that closed."""
        group = np.minimum(drawn.places, len(strata))
        of_row = np.repeat(group, drawn.kept)
        asked = np.zeros(len(drawn.kept), np.int64)
        some = drawn.kept > 0
        asked[some] = drawn.k[(np.cumsum(drawn.kept) - drawn.kept)[some]]
        expected = np.bincount(group, np.minimum(asked, drawn.seen), minlength=len(strata) + 1)
        self._add(self.expected, sample, strata, expected)
        self._weigh(sample, strata, of_row, drawn.weight)
        ends = np.cumsum(drawn.kept)
        for number, place in enumerate(group.tolist()):
            size = int(drawn.kept[number])
            threshold = float(drawn.threshold[ends[number] - 1]) if size else np.nan
            name = strata[place] if place < len(strata) else OTHER
            self.windows[sample, name] = Window(int(drawn.seen[number]), size, threshold)

    def hashed(self, sample: str, hashes: NDArray[np.uint64]) -> None:
        """The hashes of units; of many, some are looked at."""
        found = np.bincount((hashes[:_HASHED] >> np.uint64(60)).astype(np.int64), minlength=BUCKETS)
        self.hashes[sample] = self.hashes.get(sample, np.zeros(BUCKETS, np.int64)) + found

    def shown(self, sample: str, strata: Sequence[str], code: Int32s, unit: Spans) -> None:
        """Records that were shown to a design that is not random."""
        chosen = unit_interval(hash64(unit, _BASELINE_SALT)) < BASELINE
        place = np.where(code < 0, len(strata), code)[chosen]
        self._add(self.baseline, sample, strata, np.bincount(place, minlength=len(strata) + 1))

    def _weigh(self, sample: str, strata: Sequence[str], place: Int32s, weight: Float64s) -> None:
        known = np.isfinite(weight)
        place, weight = place[known], weight[known]
        self._add(self.weights, sample, strata, np.bincount(place, weight, minlength=len(strata) + 1))
        self._add(self.squares, sample, strata, np.bincount(place, weight * weight, minlength=len(strata) + 1))

    @staticmethod
    def _add(sums: Sums, sample: str, strata: Sequence[str], more: NDArray[np.float64 | np.int64]) -> None:
        for name, value in zip((*strata, OTHER), more.tolist(), strict=True):
            if value:
                sums[sample, name] += value


def chi_square(counts: Int64s) -> float:
    """Of counts that should be equal; NaN of none."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2).sum() / expected) if expected else float("nan")
