"""Thinning by label: which labelled records are written, by the rate of what became known (B16, B17).

A row is admitted iff the hash u of its id is below the rate of its label; so each revision of its label decides anew,
with the same u. The join says what the label was just before: a row that is admitted only now gives its final record,
one that was written is corrected, or retracted if it is no longer admitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsample.config import Job, Sample
from streamsample.config.thin import NO_LABEL, binary_labels
from streamsample.formats.training import SamplingSpec, StageSpec
from streamsample.labels import FINAL, Settled
from streamsample.labels.results import CORRECT, RETRACT, TargetColumns
from streamsample.records import Bools, Float64s, Int64s, Spans
from streamsample.sampling.composition import log_odds_offset
from streamsample.sampling.design import unit_hash


@dataclass(frozen=True, slots=True)
class Thinned:
    """Settled rows of which n are left. rows: int64[n], which; fresh: bool[n], whose first record this is, although the
    label was known before; probability: π of the label, float64[n]; label: as text, n spans. decided: of the rows that
    closed, by each label that has a rate and all others as `other`, how many were kept and how many dropped.
    """

    settled: Settled
    rows: Int64s
    fresh: Bools
    probability: Float64s
    label: Spans
    decided: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Thinning:
    """Rates by the label of a target. target: its number; codes: texts of labels that are numbers in the columns;
    rates: by label as text, other: of all others. offset: in place of weights, None with weights.
    """

    target: int
    codes: tuple[str, ...]
    rates: Mapping[str, float]
    other: float
    seed: int
    offset: float | None

    def thin(self, settled: Settled) -> Thinned:
        """The records that are left of `settled`."""
        u = unit_hash(settled.ids, self.seed)
        new, code, text = self._rates(settled.targets[self.target])
        now = u < new
        if settled.before:
            old, *_ = self._rates(settled.before[self.target])
            was = (settled.revision > 0) & (u < old)
        else:
            old, was = new, np.zeros(len(settled), np.bool_)
        retracted = settled.state == RETRACT
        now &= ~retracted
        rows = np.flatnonzero(now | was)
        closing = settled.state == FINAL
        counts = [np.bincount(code[closing & which], minlength=len(self.rates) + 1).tolist() for which in (now, ~now)]
        decided = dict(zip((*self.rates, "other"), zip(*counts, strict=True), strict=True))
        state = np.where(now, settled.state, np.int8(RETRACT)).astype(np.int8)
        fresh = now & ~was & (settled.revision > 0)
        state[fresh & (settled.state == CORRECT)] = FINAL
        left = replace(settled.take(rows), state=state[rows])
        probability = np.where(now, new, old)[rows]
        return Thinned(left, rows, fresh[rows], probability, text.take(rows), decided)

    def _rates(self, columns: TargetColumns) -> tuple[Float64s, Int64s, Spans]:
        """Of each label its rate, 0 where there is no label yet, its place in `rates`, behind all for others, and the
        label as text.
        """
        known = columns.settled | columns.explicit
        bits, which = np.unique(columns.bits, return_inverse=True)
        names = [self.codes[value] if self.codes else str(value) for value in bits.tolist()] + [NO_LABEL]
        rates = np.array([self.rates.get(name, self.other) for name in names])
        declared = list(self.rates)
        codes = np.array([declared.index(name) if name in self.rates else len(declared) for name in names])
        place = np.where(columns.valid, which, len(names) - 1)
        texts = Spans.of([name.encode() for name in names])
        return np.where(known, rates[place], 0.0), codes[place], texts.take(place)


def thinning_of(job: Job) -> Thinning | None:
    """The thinning that a job asks for."""
    thin = job.thin
    if thin is None:
        return None
    target = job.targets[thin.by]
    zero, one = binary_labels(target)
    offset = None if thin.offset is None else log_odds_offset(thin.rate_of(one), thin.rate_of(zero))
    number = list(job.targets).index(thin.by)
    return Thinning(number, target.codes, thin.rates_by_label, thin.rate, thin.seed, offset)


def thinned_spec(job: Job, sampling: SamplingSpec | None) -> SamplingSpec | None:
    """What records say of sampling: `sampling`, which was before the labels, and the thinning after them."""
    thinning = thinning_of(job)
    if job.thin is None or thinning is None:
        return sampling
    name = f"thinned by {job.thin.by}"
    if sampling is None:
        return SamplingSpec(name, job.thin.seed, log_odds_offset=thinning.offset)
    stages = (*sampling.stages, StageSpec(name, None, job.thin.seed))
    design = f"{sampling.design} + {name}"
    return replace(sampling, design=design, seed=job.thin.seed, stages=stages, log_odds_offset=thinning.offset)


def thinned_sharing(job: Job, stages: Sequence[Sample], sharing: Sequence[int]) -> tuple[int, ...]:
    """`config.stages.sharing`, of the designs before the labels and of the thinning after them."""
    if job.thin is None:
        return tuple(sharing)
    for stage, group in zip(stages, sharing, strict=True):
        if stage.seed == job.thin.seed and stage.form.random and stage.unit in (None, job.input.id):
            return (*sharing, group)
    return (*sharing, max(sharing, default=-1) + 1)
