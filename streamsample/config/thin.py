"""The section `thin` of a job file: which labelled records are kept, by what became known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from streamsample.config.models import Section
from streamsample.config.problems import Problem, listed, show
from streamsample.config.targets import Target
from streamsample.config.values import Name, Rate, Rates, Seed

NO_LABEL = "null"
"""The key of `rates` for records whose label is null."""


class Thin(Section):
    """Which labelled records are kept: a design by rate over the labels, after `sample`, which is before them."""

    by: Name = Field(description="the target whose label decides, by its name in `targets`")
    rate: Rate = Field(1.0, description="the share that is kept of records whose label `rates` does not name")
    rates: Rates = Field({}, description="shares by label, 0 to 1; `null` for records whose label is null")
    seed: Seed = Field(
        0, description="of the hash of the id; with the seed of `sample`, and no `unit` there, both share their hash"
    )
    offset: Literal["log_odds"] | None = Field(
        None,
        description="in place of weights: the records carry log π(1) - log π(0), for the learner as a fixed offset",
    )

    @property
    def rates_by_label(self) -> dict[str, float]:
        """The rates that are given, by the labels as text."""
        return {str(label): float(rate) for label, rate in self.rates.items()}

    def rate_of(self, label: str) -> float:
        """The rate of a label, as text."""
        return self.rates_by_label.get(label, self.rate)

    def problems_with(self, targets: Mapping[str, Target]) -> Iterator[Problem]:
        """What does not fit the targets."""
        target = targets.get(self.by)
        if target is None:
            there = f"there is {listed(list(targets), 'and')}" if targets else "give targets, or thin by sample"
            yield Problem(("thin", "by"), f'there is no target "{self.by}"', there)
            return
        if target.type == "double":
            yield Problem(("thin", "by"), "names a double, which has no classes", "an int, a boolean or a string")
            return
        for label, rate in self.rates.items():
            if isinstance(rate, Mapping):
                yield Problem(("thin", "rates", label), "must be a share, found a mapping", "one share for each label")
            elif not _is_label(str(label), target):
                labels = listed([*target.codes, NO_LABEL]) if target.codes else "a whole number, or null"
                yield Problem(("thin", "rates", label), f"must be {labels}, found {show(label)}", at_key=True)
        if self.offset is not None:
            yield from self._offset_problems(target)

    def _offset_problems(self, target: Target) -> Iterator[Problem]:
        if target.type == "string":
            yield Problem(
                ("thin", "offset"), "is for labels 0 and 1, or false and true", "remove it: weights are given"
            )
        elif not all(self.rate_of(label) > 0 for label in binary_labels(target)):
            yield Problem(("thin", "offset"), "needs a rate > 0 of both labels", "log 0 is no number")


def binary_labels(target: Target) -> tuple[str, str]:
    """The texts of the labels 0 and 1 of a binary target."""
    return ("false", "true") if target.type == "boolean" else ("0", "1")


def _is_label(text: str, target: Target) -> bool:
    if text == NO_LABEL:
        return True
    if target.codes:
        return text in target.codes
    return text.removeprefix("-").isdecimal()


def described(thin: Thin) -> dict[str, Any]:
    """What decides a record, for `identity`."""
    rates = sorted(thin.rates_by_label.items())
    return {"by": thin.by, "rate": thin.rate, "rates": rates, "seed": thin.seed, "offset": thin.offset}
