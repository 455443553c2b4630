"""The draw of a job with targets, derived again: see `derivation`.

When a record is written and with which label, its feedback decides; which predictions are drawn, and with which π and
stratum, does not. Thinning is checked the other way round: the label that a record has says with which π it must have
been kept, and the hash of its id whether it was. What is not there may not be settled, or was dropped by its label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from streamsample.config import Job
from streamsample.config.thin import NO_LABEL
from streamsample.records import Bools, Float64s, Int64s, Spans
from streamsample.runtime.composed import Said, sampling_of
from streamsample.runtime.derivation import Derivation, Left, Record, named
from streamsample.runtime.plan import Plan, SamplePlan
from streamsample.runtime.samples import Samples
from streamsample.runtime.source import Events
from streamsample.sampling.design import unit_hash

_Place: TypeAlias = tuple[int, int, int]
"""Where a prediction was read: partition, offset, index in the record."""
_Words: TypeAlias = tuple[tuple[float, bytes | None], ...]
_Draw: TypeAlias = tuple[float | None, bytes | None, tuple[float | None, ...]]
"""π, the stratum, and π of each stage."""


class LabelledDerivation(Derivation):
    """One sample of a job with targets, or its thinning, or both."""

    def __init__(self, job: Job, plan: Plan, sample: SamplePlan, window: str) -> None:
        super().__init__(job, plan, sample, window)
        self._places: set[_Place] = set()
        self._kept: dict[_Place, tuple[_Words, float]] = {}
        """What the designs said, and the hash that thinning looks at, of each record of the span that they kept."""
        self._together = cache(self._said_together)

    def stamped(self, timestamps: Int64s) -> Bools:
        """A record that feedback caused has that feedback's time, which may be before its prediction's."""
        found: Bools = timestamps >= self.span.begin - self._job.skew_ms
        return found

    def _take(self, samples: Samples, events: Events) -> None:
        partition, thinning = events.batch.partition, self._plan.thinning
        mine = self._inside(events) & ~self._among(events, self._unwritten)
        self._places |= set(_places(partition, events.take(np.flatnonzero(mine))))
        kept = samples.kept(0, events)
        if kept is None:
            return
        mine = self._inside(kept.events) & ~self._among(kept.events, self._unwritten)
        kept = kept.take(np.flatnonzero(mine))
        hashes = unit_hash(kept.events.ids, 0 if thinning is None else thinning.seed).tolist()
        for place, words, u in zip(_places(partition, kept.events), named(kept), hashes, strict=True):
            self._kept[place] = words, u

    def _compare(self, written: list[Record], source: Left, output: Left) -> None:
        """Of all revisions of a record; each record counts once."""
        verdict = self._verdict
        seen: set[_Place] = set()
        wrong: set[_Place] = set()
        revisions: set[tuple[str, int]] = set()
        gone = {place for place in self._kept if self._place_is_gone(place, source)}
        verdict.derived = len(self._kept) - len(gone)
        for record in written:
            where, sampling = record.tree["lineage"]["prediction"], record.tree["sampling"]
            place = (where["partition"], where["offset"], where["index"])
            if where["topic"] != self._job.input.topic:
                continue
            if self._place_is_gone(place, source):
                verdict.gone += 1
            if place not in self._places or place in gone:
                continue
            revision = (record.tree["record_id"], record.tree["revision"])
            if revision in revisions:
                verdict.doubled += 1
                verdict.note("was written twice", record.tree)
            revisions.add(revision)
            seen.add(place)
            derived = self._drawn(place, record.tree)
            stages = tuple(stage["probability"] for stage in sampling["stages"])
            said: _Draw = (sampling["probability"], (sampling["stratum"] or "").encode() or None, stages)
            if said == derived or place in wrong:
                continue
            wrong.add(place)
            if derived is None:
                verdict.unexpected += 1
                verdict.note("was written, but is not in the sample", record.tree)
            else:
                verdict.differing += 1
                verdict.note(f"π, stratum, π of the stages: derived {derived}, written {said}", record.tree)
        verdict.equal = len(seen - wrong)
        verdict.pending = len(self._kept.keys() - seen - gone)

    def _place_is_gone(self, place: _Place, source: Left) -> bool:
        """Whether the input lacks a prediction, or what decides on it."""
        if self._endless and place[0] in self._cut:
            return True
        return place[1] < source.begins.get(place[0], 0)

    def _drawn(self, place: _Place, tree: Mapping[str, Any]) -> _Draw | None:
        """π and the stratum that a record must say; None if it must not be there."""
        if place not in self._kept:
            return None
        words, u = self._kept[place]
        if self._plan.thinning is not None:
            rate, label = self._thinned(tree)
            if u >= rate:
                return None
            words = (*words, (rate, label))
        return self._together(words)

    def _thinned(self, tree: Mapping[str, Any]) -> tuple[float, bytes]:
        """The rate by which a record was kept, 0 if it has none, and the label, as text."""
        thinning, thin = self._plan.thinning, self._job.thin
        assert thinning is not None
        assert thin is not None
        target = tree["targets"][thin.by]
        if tree["state"] == "retract":
            # With the π of what it takes back, which is one of the rates; its label is the one that is not kept.
            stages = tree["sampling"]["stages"]
            last = stages[-1] if stages else tree["sampling"]
            rates = {*thinning.rates.values(), thinning.other}
            return (last["probability"] if last["probability"] in rates else 0.0), (last["stratum"] or "").encode()
        value = target["value"]
        label = NO_LABEL if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        known = thin.by in tree["settled"] or target["source"] == "explicit"
        return (thinning.rates.get(label, thinning.other) if known else 0.0), label.encode()

    def _said_together(self, words: _Words) -> _Draw:
        said = [Said(np.array([pi]), None if name is None else Spans.of([name])) for pi, name in words]
        columns = sampling_of(self._sample, said)
        assert columns is not None
        stages = tuple(_known(stage.probability) for stage in columns.stages)
        return _known(columns.probability), columns.stratum[0] or None, stages


def _places(partition: int, events: Events) -> Iterator[_Place]:
    columns = (events.batch.offsets[events.rows].tolist(), events.index.tolist())
    return ((partition, offset, index) for offset, index in zip(*columns, strict=True))


def _known(probability: Float64s) -> float | None:
    """The only π, None where there is none."""
    return None if np.isnan(probability[0]) else float(probability[0])
