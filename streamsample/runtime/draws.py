"""From the designs of a job file to what draws them: by rate or of windows, over which columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from streamsample.config import Job, Sample
from streamsample.config.columns import Each
from streamsample.formats.projection import Field, ListColumn, Projection
from streamsample.hashing import hash64
from streamsample.records import Float64s, Int64s, Spans
from streamsample.runtime.computed import SourceColumns
from streamsample.sampling import RateDesign, SimpleRate, StratifiedRate
from streamsample.sampling.multilabel import pairs_of, strongest
from streamsample.sampling.ranks import Law
from streamsample.sampling.rate_by_count import RateByCount
from streamsample.sampling.stratified import stratum_of
from streamsample.sampling.window_columns import WindowSettings

if TYPE_CHECKING:
    from streamsample.sampling.frontier import Frontier


@dataclass(frozen=True, slots=True)
class Units:
    """What is sampled. unit None: by the id. by: the columns of the strata, empty without strata.

    each: which of them is a list, whose every item is a stratum, and then rate_of: the rate of each of n strata, by
    which one is chosen; without it the record is in all of them.
    """

    unit: str | None
    by: tuple[str, ...]
    each: int | None = None
    rate_of: Callable[[Spans], Float64s] | None = None

    def unit_of(self, projection: Projection, rows: Int64s, ids: Spans) -> Spans:
        """The sampling units of m rows; null where the field is null."""
        return ids if self.unit is None else projection.text(self.unit).pick(rows)

    @property
    def several(self) -> bool:
        """Whether a record may be in several strata."""
        return self.each is not None and self.rate_of is None

    def stratum_of(self, projection: Projection, rows: Int64s) -> Spans | None:
        """The strata of m rows; null where a field is null. None without strata, or where there are several."""
        if self.rate_of is not None and self.each is not None:
            record, stratum = self.strata_of(projection, rows)
            return stratum.take(strongest(record, self.rate_of(stratum), stratum))
        if self.several or not self.by:
            return None
        return stratum_of([projection.text(path).pick(rows) for path in self.by])

    def strata_of(self, projection: Projection, rows: Int64s) -> tuple[Int64s, Spans]:
        """All strata of m rows: of each pair the row's index in `rows`, ascending, and the stratum, null where a field
        or the list is null. Every row has one at least.
        """
        assert self.each is not None
        column = projection.columns[Field(self.by[self.each], "items")]
        assert isinstance(column, ListColumn)
        record, item = pairs_of(column.first, column.items, column.valid)
        first = np.searchsorted(record, np.arange(len(column.first)))
        count = first[rows + 1] - first[rows]
        mine = np.repeat(np.arange(len(rows)), count)
        item = item.take(first[rows][mine] + np.arange(len(mine)) - (np.cumsum(count) - count)[mine])
        names = [projection.text(path).take(rows[mine]) if at != self.each else item for at, path in enumerate(self.by)]
        return mine, stratum_of(names)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a design stands. key: in the job file; called: by metrics."""

    key: str
    called: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """The columns of importance: target (P) over proposal (Q)."""

    target: str
    proposal: str


@dataclass(frozen=True, slots=True)
class Relation:
    """The columns that name where a relation begins and what it leads to; and what follows it, afresh for each task."""

    begin: str
    end: str
    frontier: Callable[[], Frontier]


@dataclass(frozen=True, slots=True)
class Draw:
    """A design that decides on each prediction as it comes. counted: what makes the rates of windows, in place of the
    design's own, afresh for each task; None: the design's are fixed. ratio: the weight, in place of 1/π.
    rule: the text column that is "true" for records that an expert's rule takes; relation: what is followed from
    seeds. With one of these nothing is random, and `slices` are the strata that are counted by name.
    """

    place: Place
    design: RateDesign
    units: Units
    counted: Callable[[], RateByCount] | None = None
    ratio: Ratio | None = None
    rule: str | None = None
    relation: Relation | None = None
    slices: tuple[str, ...] = ()

    @property
    def random(self) -> bool:
        """Whether inclusion probabilities exist."""
        return self.rule is None and self.relation is None

    @property
    def strata(self) -> tuple[str, ...]:
        """The strata that are counted by name."""
        return self.design.declared if self.random else self.slices


@dataclass(frozen=True, slots=True)
class WindowDraw:
    """A design of fixed size per window. weight: the field that is the weight, None without; of: the field whose sums
    decide how large strata are, None without; ratio: what the weight is instead, None without. exchanged: it is of
    all partitions, not of each.
    """

    place: Place
    seed: int
    settings: WindowSettings
    units: Units
    weight: str | None
    of: str | None
    ratio: Ratio | None
    exchanged: bool

    @property
    def numbers(self) -> list[str]:
        """The fields that are read as numbers."""
        ratio = () if self.ratio is None else (self.ratio.target, self.ratio.proposal)
        return [path for path in (self.weight, self.of, *ratio) if path is not None]


def draw_of(job: Job, sample: Sample, columns: SourceColumns, place: Place) -> Draw:
    """What draws a design by rate. Raises ConfigurationError where the job file does not fit the schemas."""
    units = partial(_units, sample, columns, place.key)
    if sample.count is not None:
        rates = partial(RateByCount, sample.count, sample.closes_after_ms, job.grace_ms, sample.first_rate)
        return Draw(place, SimpleRate(1.0, sample.seed), units(), rates)
    if sample.rule is not None:
        rule = columns.truth(sample.rule, f"{place.key}.rule")
        return Draw(place, SimpleRate(1.0), units(), rule=rule, slices=sample.strata)
    if sample.hops is not None:
        relation = _relation(sample, sample.hops, columns, place.key)
        return Draw(place, SimpleRate(1.0), units(), relation=relation, slices=sample.strata)
    ratio = _ratio(sample, columns, place.key)
    if ratio is not None:
        return Draw(place, SimpleRate(1.0, sample.seed), units(), ratio=ratio)
    assert sample.rate is not None
    if sample.design == "simple":
        return Draw(place, SimpleRate(sample.rate, sample.seed), units())
    names = {stratum_name(values): rate for values, rate in sample.rates_by_stratum.items()}
    design = StratifiedRate(sample.rate, names, sample.seed)
    return Draw(place, design, units(design.rate_of))


def _relation(sample: Sample, hops: int, columns: SourceColumns, key: str) -> Relation:
    begin, end = columns.text(sample.from_, f"{key}.from"), columns.text(sample.to, f"{key}.to")
    assert begin is not None
    assert end is not None
    assert sample.frontier_max is not None
    # Imported here: its kernels are compiled only for jobs that need them.
    from streamsample.sampling.frontier import Frontier

    seeds = hash64(Spans.of([seed.encode() for seed in sample.seeds]), 0)
    return Relation(begin, end, partial(Frontier, seeds, hops, sample.frontier_max))


def _ratio(sample: Sample, columns: SourceColumns, key: str) -> Ratio | None:
    if sample.target is None or sample.proposal is None:
        return None
    target = columns.column(sample.target, "number", f"{key}.target").path
    return Ratio(target, columns.column(sample.proposal, "number", f"{key}.proposal").path)


def _units(
    sample: Sample, columns: SourceColumns, key: str, rate_of: Callable[[Spans], Float64s] | None = None
) -> Units:
    settings = sample.by or ()
    by = tuple(columns.stratum(setting, f"{key}.by") for setting in settings)
    each = next((number for number, setting in enumerate(settings) if isinstance(setting, Each)), None)
    return Units(columns.text(sample.unit, f"{key}.unit"), by, each, rate_of)


def _law(sample: Sample) -> Law:
    if not sample.form.random:
        return "first"
    if sample.design == "recency":
        return "decayed"
    return sample.method if sample.design == "weighted" else "uniform"


def window_draw_of(job: Job, sample: Sample, columns: SourceColumns, place: Place) -> WindowDraw:
    """What draws a design of windows. Raises as `draw_of`."""
    key = place.key
    assert sample.k is not None
    settings = WindowSettings(
        k=sample.k,
        law=_law(sample),
        half_life_ms=sample.half_life_ms,
        window_ms=sample.closes_after_ms,
        grace_ms=job.grace_ms if sample.records is None else 0,
        records=sample.records,
        cumulative=sample.every_ms is not None,
        strata=sample.strata,
        others=job.limits.strata_max if sample.by else 0,
        windows_max=job.limits.windows_max,
        allocation=sample.allocation if sample.form.takes("allocation") else "each",
        minimum=sample.minimum,
        k_max=sample.k_max,
        replacement=sample.replacement or sample.target is not None,
        equal_weights=sample.target is not None,
        several=any(isinstance(column, Each) for column in sample.by or ()),
    )
    weight, of = (
        None if setting is None else columns.column(setting, "number", f"{key}.{name}").path
        for name, setting in (("weight", sample.weight), ("of", sample.of))
    )
    units = _units(sample, columns, key)
    ratio = _ratio(sample, columns, key)
    return WindowDraw(place, sample.seed, settings, units, weight, of, ratio, sample.exchanged)


def stratum_name(values: tuple[str, ...]) -> str:
    """The name of the stratum with these values, as the data's strata are named."""
    name = stratum_of([Spans.of([value.encode()]) for value in values])[0]
    return (name or b"").decode()
