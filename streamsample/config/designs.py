"""The designs as a job file may write them: what each needs, and what it may have."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Final

RATE: Final = "rate: 0.01"
K: Final = "k: 1000"
WINDOW: Final = "window: 1h"
BY: Final = "by: <field>, or a list of fields"


@dataclass(frozen=True, slots=True)
class Form:
    """One design in one of its forms. name: as messages call it; needs: the keys it must have, each with an example;
    may: those it may have. windowed: it has a fixed size per window, else a rate. estimator: how the weights of its
    records are to be used (see `formats.training`); "none": it is not random. by_unit: units of several records can be
    drawn.
    """

    name: str
    needs: Mapping[str, str]
    may: tuple[str, ...] = ()
    windowed: bool = False
    estimator: str = "horvitz_thompson"
    by_unit: bool = True

    def takes(self, key: str) -> bool:
        """Whether a key means something in it."""
        if key == "unit":
            return self.random and self.by_unit
        return key in self.needs or key in self.may or key == "design" or (self.random and key == "seed")

    @property
    def random(self) -> bool:
        """Whether inclusion probabilities exist."""
        return self.estimator != "none"


_BY_RATE: Final = {
    "simple": Form("simple sample", {"rate": RATE}),
    "stratified": Form("stratified sample", {"rate": RATE, "by": BY}, ("rates",)),
}


_JUDGMENT: Final = Form(
    "judgment sample",
    {"rule": "rule: <expression>", "version": "version: <what the rule is called>"},
    ("by", "strata"),
    estimator="none",
)
_SNOWBALL: Final = Form(
    "snowball sample",
    {
        "from": "from: <field>",
        "to": "to: <field>",
        "seeds": "seeds: [<id>, <id>]",
        "hops": "hops: 2",
        "frontier_max": "frontier_max: 100000",
    },
    ("by", "strata"),
    estimator="none",
)
_BY_COUNT: Final = Form("simple sample by count", {"count": "count: 1000", "window": WINDOW}, ("first_rate",))


def _windowed(name: str, needs: Mapping[str, str], *may: str) -> Form:
    return Form(name, {"k": K, "window": WINDOW, **needs}, ("scope", *may), windowed=True)


_OF_FIXED_SIZE: Final = {
    "stratified": _windowed(
        "stratified sample of a fixed size", {"by": BY}, "allocation", "of", "minimum", "k_max", "strata"
    ),
    "reservoir": _windowed("reservoir sample", {}, "by", "strata"),
    "weighted": _windowed("weighted sample", {"weight": "weight: <field>"}, "by", "strata", "method"),
    "recency": _windowed("recency sample", {"half_life": "half_life: 1h"}, "by", "strata", "weight"),
    "convenience": replace(_windowed("convenience sample", {}), estimator="none"),
    "quota": replace(_windowed("quota sample", {"by": BY}, "strata"), estimator="none"),
}
_REPLACED: Final = replace(
    _windowed("weighted sample with replacement", {"weight": "weight: <field>"}, "by", "strata", "replacement"),
    estimator="hansen_hurwitz",
    by_unit=False,
)
_RATIO: Final = {"target": "target: <field>", "proposal": "proposal: <field>"}
_KEPT: Final = Form(
    "sample by importance", {**_RATIO, "keep": "keep: all, or k and window"}, estimator="self_normalised"
)
_RESAMPLED: Final = replace(
    _windowed("resampling by importance", _RATIO, "by", "strata"), estimator="self_normalised", by_unit=False
)
ELSEWHERE: Final = {
    "rule": "set design: judgment",
    "version": "set design: judgment",
    **dict.fromkeys(("from", "to", "seeds", "hops", "frontier_max"), "set design: snowball"),
    "replacement": "set design: weighted, with a window",
    "target": "set design: importance",
    "proposal": "set design: importance",
    "keep": "set design: importance, without k",
    "rates": "set design: stratified",
    "by": "set design: stratified",
    "allocation": "set design: stratified",
    "minimum": "set design: stratified",
    "k_max": "set design: stratified",
    "of": "set design: stratified, allocation: neyman",
    "weight": "set design: weighted",
    "method": "set design: weighted",
    "half_life": "set design: recency",
    "count": "set design: simple",
    "first_rate": "set design: simple, with count",
    "unit": "records are taken one by one",
    "seed": "nothing is drawn at random",
    "window": "give one of window, every and records",
    "every": "set design: reservoir or weighted, without window and records",
    "records": "set design: reservoir or weighted, without window and every",
    "scope": "a count of records, and what a relation reaches, are of each partition",
    "rate": "give k, or set design: simple",
}
"""Where a key belongs that means nothing where it is given."""


_SPANS: Final = {
    "every": ("every: 30s", "since the start", ("reservoir", "weighted")),
    "records": ("records: 100000", "of numbers of records", ("stratified", "reservoir", "weighted")),
}
"""What may stand in place of `window`: an example, what samples are called then, and of which designs."""


def form_of(design: str, given: Container[str]) -> Form:
    """The form that a design has with the keys that are given."""
    if design in ("judgment", "snowball"):
        return _JUDGMENT if design == "judgment" else _SNOWBALL
    if design == "importance":
        return _RESAMPLED if "k" in given else _KEPT
    if design == "weighted" and "replacement" in given:
        return _REPLACED
    if design == "simple" and "count" in given:
        return _BY_COUNT
    if design in _BY_RATE and not (design in _OF_FIXED_SIZE and "k" in given):
        return _BY_RATE[design]
    form = _OF_FIXED_SIZE[design]
    for key, (example, called, designs) in _SPANS.items():
        if key in given and design in designs:
            needs = {name: each for name, each in form.needs.items() if name != "window"}
            may = tuple(name for name in form.may if name != "scope" or key == "every")
            return replace(form, name=f"{form.name} {called}", needs={**needs, key: example}, may=may)
    return form
