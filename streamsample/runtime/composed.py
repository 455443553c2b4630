"""What designs that are drawn one after the other say together of a record (B13).

While a record is open, in a window or for its labels, what the designs by rate have said of it lies behind its payload,
the last one's outermost (see `rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsample.formats.training import SamplingColumns, StageColumns
from streamsample.records import Float64s, Int64s, Spans
from streamsample.runtime.plan import SamplePlan
from streamsample.runtime.rows import pack, unpack
from streamsample.sampling.composition import composed


@dataclass(frozen=True, slots=True)
class Said:
    """What a design by rate said of m records. probability: its own π, which is its threshold on `u`, float64[m], NaN
    if it is not random; stratum: m spans, or None without strata.
    """

    probability: Float64s
    stratum: Spans | None

    def take(self, rows: Int64s) -> Said:
        """The same of the records at `rows`."""
        return Said(self.probability[rows], None if self.stratum is None else self.stratum.take(rows))


def packed(features: Spans, said: Sequence[Said]) -> Spans:
    """The payloads of m records with what was said of them."""
    for each in said:
        features = pack(features, each.stratum, each.probability)
    return features


def unpacked(payload: Spans, designs: int) -> tuple[Spans, tuple[Said, ...]]:
    """The features, and what so many designs by rate said."""
    said = list[Said]()
    for _ in range(designs):
        payload, stratum, probability = unpack(payload)
        said.append(Said(probability, stratum))
    return payload, tuple(reversed(said))


def by_rate(said: Said) -> SamplingColumns:
    """What a design by rate says of m records: the threshold on `u` is π itself, and there is no n or k."""
    pi, none = said.probability, np.full(len(said.probability), -1, np.int64)
    stratum = Spans.nulls(len(pi)) if said.stratum is None else said.stratum
    return SamplingColumns(pi, pi, stratum, 1.0 / pi, none, none, none, none)


def sampling_of(
    sample: SamplePlan, said: Sequence[Said], window: SamplingColumns | None = None
) -> SamplingColumns | None:
    """What all designs of a sample say together; None without any. window: what the one of windows says.

    What has no meaning of the whole, such as n, is the last one's.
    """
    columns = [by_rate(each) for each in said]
    if window is not None:
        columns.append(window)
    if len(columns) < 2:
        return columns[0] if columns else None
    pi = _whole(sample.sharing, [each.probability for each in columns])
    shared = len(set(sample.sharing)) == 1
    stages = tuple(StageColumns(each.probability, each.threshold, each.n, each.k, each.stratum) for each in columns)
    threshold = pi if shared else np.full(len(pi), np.nan)
    return replace(columns[-1], probability=pi, threshold=threshold, weight=1.0 / pi, stages=stages)


def passed_before(sample: SamplePlan, said: Sequence[Said]) -> Float64s | None:
    """The threshold on `u` of the next design, float64[m], that those before have set; None if none shares it."""
    mine = sample.sharing[len(said)] if sample.sharing else -1
    earlier = [each.probability for each, group in zip(said, sample.sharing, strict=False) if group == mine]
    return composed(*earlier, u="shared") if earlier else None


def given(sample: SamplePlan, said: Sequence[Said], pi: Float64s) -> Float64s:
    """π of the next design, float64[m], from its threshold on `u`, given that what it is shown passed those before: one
    that shares `u` has been decided in part.
    """
    before = passed_before(sample, said)
    return pi if before is None else np.minimum(before, pi) / before


def _whole(sharing: tuple[int, ...], probabilities: list[Float64s]) -> Float64s:
    groups = [
        composed(*(pi for pi, of in zip(probabilities, sharing, strict=True) if of == group), u="shared")
        for group in dict.fromkeys(sharing)
    ]
    return composed(*groups, u="independent")
