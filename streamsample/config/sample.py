"""The section `sample` of a job file: which predictions are kept."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import Field

from streamsample.config.columns import (
    ColumnSetting,
    ColumnsSetting,
    Each,
    ExpressionText,
    StrataSetting,
    StratumColumn,
    shown,
)
from streamsample.config.designs import ELSEWHERE, Form, form_of
from streamsample.config.models import Section
from streamsample.config.problems import KeyPath, Problem, show
from streamsample.config.values import Flag, Limit, PositiveDuration, Rate, Rates, Seed, Seeds, Strata, Text, Whole

Design = Literal[
    "simple",
    "stratified",
    "reservoir",
    "weighted",
    "recency",
    "importance",
    "convenience",
    "quota",
    "judgment",
    "snowball",
]
HOPS_MAX: Final = 1_000


class Sample(Section):
    """Which predictions are kept."""

    design: Design = Field(
        description="`simple`: one rate, or about `count` units per window; `stratified`: a rate per stratum, or k "
        "units per window divided among its strata; `reservoir`: k units per window and stratum, all equally likely; "
        "`weighted`: the heavier the likelier; `recency`: the younger the likelier; `importance`: weighted to speak"
        " of another distribution; and not random: `convenience`: the first k of each window; `quota`: the first k "
        "of each slice; `judgment`: what an expert's rule takes; `snowball`: what a relation leads to from `seeds`"
    )
    rate: Rate | None = Field(
        None, description="the share that is kept; with strata: of those that `rates` does not name"
    )
    by: StrataSetting | None = Field(
        None,
        description="what makes the strata, or slices: fields, expressions, bins of a number, or the items of a list "
        "(each)",
    )
    count: Limit | None = Field(
        None,
        description="`simple`: about how many units of each window and partition are kept; the rate is made of the "
        "three last windows that were closed when it began",
    )
    first_rate: Rate = Field(1.0, description="the rate of windows before any has closed")
    rates: Rates = Field(
        {}, description="shares of single strata, 0 to 1; with several fields in `by` one level of mapping for each"
    )
    k: Limit | None = Field(
        None, description="how many units are kept per window and stratum, at least 2; `stratified`: per window"
    )
    allocation: Literal["proportional", "equal", "neyman"] = Field(
        "proportional",
        description="how k is divided among the strata of a window: by their records, equally, or by records times the "
        "standard deviation of the field `of`",
    )
    of: ColumnSetting | None = Field(
        None, description="the field or expression, a number, whose total is to have the least variance"
    )
    minimum: Whole = Field(2, description="what each stratum gives at least, if it has as much")
    k_max: Limit | None = Field(None, description="what each stratum gives at most; default: k")
    window_ms: PositiveDuration | None = Field(
        None, alias="window", description="the length of the windows of event time, one after the other since 1970"
    )
    every_ms: PositiveDuration | None = Field(
        None,
        alias="every",
        description="in place of `window`: the sample of everything since the start, written at each multiple of this "
        "in event time before which anything new happened",
    )
    records: Limit | None = Field(
        None, description="in place of `window`: a sample of each so many usable records of a partition"
    )
    weight: ColumnSetting | None = Field(
        None, description="the field or expression that is the weight, a number >= 0; 0 is never kept"
    )
    method: Literal["exponential", "priority"] = Field(
        "exponential",
        description="`exponential`: as if drawn one after the other; `priority`: the best for sums of weights",
    )
    replacement: Flag = Field(
        False,
        description="`weighted`: k independent draws of each window and stratum; a record may be drawn several times",
    )
    target: ColumnSetting | None = Field(
        None, description="`importance`: the probability or density, up to a factor, of what the sample is to speak of"
    )
    proposal: ColumnSetting | None = Field(
        None, description="`importance`: that of what the records were drawn from, such as a logged propensity"
    )
    keep: Literal["all"] | None = Field(
        None, description="`importance`: keep all records, with weights; or give k and window, to draw with replacement"
    )
    rule: ExpressionText | None = Field(
        None, description="`judgment`: the condition, an expression, of the records that are taken"
    )
    version: Text | None = Field(
        None, description="`judgment`: which rule it is; part of the design's name on the record"
    )
    from_: ColumnSetting | None = Field(
        None, alias="from", description="`snowball`: the field or expression that names where a relation begins"
    )
    to: ColumnSetting | None = Field(None, description="`snowball`: that which names what it leads to")
    seeds: Seeds = Field((), description="`snowball`: what is reached from the beginning, as `from` names it")
    hops: Limit | None = Field(
        None, description="`snowball`: how many relations, one after the other, are followed from a seed, at most 1000"
    )
    frontier_max: Limit | None = Field(
        None,
        description="`snowball`: how much may be reached in a partition, seeds included; what more there is is not "
        "followed, and counted",
    )
    half_life_ms: PositiveDuration | None = Field(
        None, alias="half_life", description="how much older a record is that counts half as much"
    )
    strata: Strata = Field(
        (), description="strata with a place of their own; all others share `limits.strata_max` places by hash"
    )
    scope: Literal["global", "partition"] = Field(
        "global",
        description="what a window's sample is drawn from: `global`: the whole topic; `partition`: each partition by "
        "itself, which needs no exchange between the workers",
    )
    unit: ColumnsSetting | None = Field(
        None, description="the field or fields whose records are kept or dropped together; default: the id"
    )
    seed: Seed = Field(0, description="another seed draws another sample")

    @property
    def windowed(self) -> bool:
        """Whether the design has a fixed size per window; else it has a rate."""
        return self.form.windowed

    @property
    def name(self) -> str:
        """What records call the design: with the version of the rule where that is one."""
        return self.design if self.version is None else f"{self.design} ({self.version})"

    @property
    def has_state(self) -> bool:
        """Whether what is drawn depends on what was seen before."""
        return self.windowed or self.count is not None or self.hops is not None

    @property
    def exchanged(self) -> bool:
        """Whether a window's sample is one of all partitions, so that tasks tell each other what they held."""
        return self.form.takes("scope") and self.scope == "global"

    @property
    def closes_after_ms(self) -> int:
        """The length of its windows of event time; 0 without."""
        return self.window_ms or self.every_ms or 0

    @property
    def form(self) -> Form:
        """The design as it is written."""
        return form_of(self.design, self._given())

    @property
    def rates_by_stratum(self) -> dict[tuple[str, ...], float]:
        """The rates that are given, by the values of the fields in `by`, as text."""
        return dict(_leaves(self.rates, ()))

    @property
    def rate_max(self) -> float:
        """The largest rate: what no stratum can exceed. 1 in designs without rates."""
        return 1.0 if self.rate is None else max([self.rate, *self.rates_by_stratum.values()])

    def problems(self) -> Iterator[Problem]:
        given, form = self._given(), self.form
        for key in given:
            if not form.takes(key):
                remedy = ELSEWHERE.get(key, "set design: reservoir")
                yield Problem((key,), f"has no meaning in a {form.name}", remedy, at_key=True)
        for key, remedy in form.needs.items():
            if key not in given:
                what = "strata" if key == "by" else key
                yield Problem((), f"a {form.name} needs {what}", f"set {remedy}")
        if self.k == 1 and form.random:
            yield Problem(("k",), "must be at least 2, found 1", "a variance needs two")
        # What draws again, or follows no threshold of strata, has no way to take a record once for all its strata.
        single = form.estimator not in ("horvitz_thompson", "none") or self.design in ("judgment", "snowball")
        if single and any(isinstance(column, Each) for column in self.by or ()):
            what = f"not yet: several strata per record (each) in a {form.name}"
            yield Problem(("by",), what, "set design: stratified, reservoir, weighted, recency or quota", not_yet=True)
        if "strata" in given and self.by is None:
            yield Problem(("strata",), "are named, but nothing says what makes them", "set by: <field>", at_key=True)
        if self.design == "stratified" and self.by is not None:
            yield from _depth_problems(self.rates, ("rates",), self.by)
        if form.takes("allocation"):
            yield from self._allocation_problems(given)
        if form.takes("hops"):
            yield from self._snowball_problems()

    def _snowball_problems(self) -> Iterator[Problem]:
        if self.hops is not None and self.hops > HOPS_MAX:
            yield Problem(("hops",), f"must be at most {HOPS_MAX}, found {self.hops}")
        if self.frontier_max is not None and self.frontier_max < len(self.seeds):
            what = f"must be at least the {len(self.seeds)} seeds, found {self.frontier_max}"
            yield Problem(("frontier_max",), what, "raise it, or name fewer seeds")

    def _given(self) -> list[str]:
        """The keys that are given, and say something."""
        return [
            field.alias or name
            for name, field in type(self).model_fields.items()
            if name in self.model_fields_set and getattr(self, name) not in (None, (), {}, False)
        ]

    def _allocation_problems(self, given: Container[str]) -> Iterator[Problem]:
        if self.allocation == "neyman" and self.of is None:
            yield Problem((), "allocation: neyman needs the field whose total is estimated", "set of: <field>")
        if self.allocation != "neyman" and "of" in given:
            yield Problem(("of",), "is for allocation: neyman only", "remove it", at_key=True)
        most = self.k_max or self.k or self.minimum
        if self.minimum > most:
            yield Problem(("minimum",), f"must be at most {most}, found {self.minimum}", "no stratum gives more")


def _leaves(rates: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in rates.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _depth_problems(rates: Any, path: KeyPath, by: tuple[StratumColumn, ...]) -> Iterator[Problem]:
    """One level of mapping for each field in `by`, then a number."""
    if not by:
        if isinstance(rates, Mapping):
            yield Problem(path, "must be a number, found a mapping", "one level for each field in by")
    elif not isinstance(rates, Mapping):
        remedy = "one level for each field in by"
        yield Problem(path, f"must be a mapping by {', then '.join(map(shown, by))}, found {show(rates)}", remedy)
    else:
        for key, value in rates.items():
            yield from _depth_problems(value, (*path, key), by[1:])
