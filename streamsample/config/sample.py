"""The section `sample` of a job file: which predictions are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import Field

from streamsample.config.models import Section
from streamsample.config.problems import KeyPath, Problem, show
from streamsample.config.values import FieldPath, FieldPaths, Limit, PositiveDuration, Rate, Rates, Seed, Strata

Design = Literal["simple", "stratified", "reservoir", "weighted", "recency"]

WINDOWED: Final = ("reservoir", "weighted", "recency")
"""Designs of fixed size per window."""
_NEEDS: Final[dict[str, dict[str, str]]] = {
    "simple": {"rate": "rate: 0.01"},
    "stratified": {"rate": "rate: 0.01", "by": "by: <field>, or a list of fields"},
    "reservoir": {"k": "k: 1000", "window": "window: 1h"},
    "weighted": {"k": "k: 1000", "window": "window: 1h", "weight": "weight: <field>"},
    "recency": {"k": "k: 1000", "window": "window: 1d", "half_life": "half_life: 1h"},
}
_MAY: Final[dict[str, tuple[str, ...]]] = {
    "simple": (),
    "stratified": ("rates",),
    "reservoir": ("by", "strata", "scope"),
    "weighted": ("by", "strata", "scope", "method"),
    "recency": ("by", "strata", "scope", "weight"),
}
_ALWAYS: Final = ("design", "unit", "seed")
_ELSEWHERE: Final = {
    "rates": "set design: stratified",
    "by": "set design: stratified",
    "weight": "set design: weighted",
    "method": "set design: weighted",
    "half_life": "set design: recency",
    "rate": "give k, or set design: simple",
}
_FIXED_SIZE: Final = "give a rate, or set design: reservoir with by: k units of each stratum"


class Sample(Section):
    """Which predictions are kept."""

    design: Design = Field(
        description="`simple`: one rate; `stratified`: a rate per stratum; `reservoir`: k units per window and "
        "stratum, all equally likely; `weighted`: the heavier the likelier; `recency`: the younger the likelier"
    )
    rate: Rate | None = Field(
        None, description="the share that is kept; with strata: of those that `rates` does not name"
    )
    by: FieldPaths | None = Field(None, description="the field or fields whose values make the strata")
    rates: Rates = Field(
        {}, description="shares of single strata, 0 to 1; with several fields in `by` one level of mapping for each"
    )
    k: Limit | None = Field(None, description="how many units are kept per window and stratum, at least 2")
    window_ms: PositiveDuration | None = Field(
        None, alias="window", description="the length of the windows of event time, one after the other since 1970"
    )
    weight: FieldPath | None = Field(None, description="the field that is the weight, a number >= 0; 0 is never kept")
    method: Literal["exponential", "priority"] = Field(
        "exponential",
        description="`exponential`: as if drawn one after the other; `priority`: the best for sums of weights",
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
    unit: FieldPath | None = Field(
        None, description="the field whose records are kept or dropped together; default: the id"
    )
    seed: Seed = Field(0, description="another seed draws another sample")

    @property
    def windowed(self) -> bool:
        """Whether the design has a fixed size per window; else it has a rate."""
        return self.design in WINDOWED

    @property
    def rates_by_stratum(self) -> dict[tuple[str, ...], float]:
        """The rates that are given, by the values of the fields in `by`, as text."""
        return dict(_leaves(self.rates, ()))

    @property
    def rate_max(self) -> float:
        """The largest rate: what no stratum can exceed. 1 in designs without rates."""
        return 1.0 if self.rate is None else max([self.rate, *self.rates_by_stratum.values()])

    def problems(self) -> Iterator[Problem]:
        given = {
            (field.alias or name): getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name in self.model_fields_set and getattr(self, name) not in (None, (), {})
        }
        if self.design == "stratified" and "k" in given:
            what = "not yet: strata of a fixed size with an allocation"
            yield Problem(("k",), what, _FIXED_SIZE, at_key=True, not_yet=True)
            return
        needs = _NEEDS[self.design]
        for key in given:
            if key not in needs and key not in _MAY[self.design] and key not in _ALWAYS:
                remedy = _ELSEWHERE.get(key, "set design: reservoir")
                yield Problem((key,), f"has no meaning in a {self.design} sample", remedy, at_key=True)
        for key, remedy in needs.items():
            if key not in given:
                what = "strata" if key == "by" else key
                yield Problem((), f"a {self.design} sample needs {what}", f"set {remedy}")
        if self.k == 1:
            yield Problem(("k",), "must be at least 2, found 1", "a variance needs two")
        if "strata" in given and self.by is None:
            yield Problem(("strata",), "are named, but nothing says what makes them", "set by: <field>", at_key=True)
        if self.design == "stratified" and self.by is not None:
            yield from _depth_problems(self.rates, ("rates",), self.by)


def _leaves(rates: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in rates.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _depth_problems(rates: Any, path: KeyPath, by: tuple[str, ...]) -> Iterator[Problem]:
    """One level of mapping for each field in `by`, then a number."""
    if not by:
        if isinstance(rates, Mapping):
            yield Problem(path, "must be a number, found a mapping", "one level for each field in by")
    elif not isinstance(rates, Mapping):
        remedy = "one level for each field in by"
        yield Problem(path, f"must be a mapping by {', then '.join(by)}, found {show(rates)}", remedy)
    else:
        for key, value in rates.items():
            yield from _depth_problems(value, (*path, key), by[1:])
