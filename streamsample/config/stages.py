"""A sample as a job file may write it: one design, or a list of designs that are drawn one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Discriminator, Tag

from streamsample.config.columns import Columns, described
from streamsample.config.problems import KeyPath, Problem, WrongTogether
from streamsample.config.sample import Sample

STAGES_MAX: Final = 8
ONE: Final = "[one]"
SEVERAL: Final = "[several]"
"""How the two ways to write a sample are told apart, in places where no key of the file can be meant."""


def problems(stages: tuple[Sample, ...]) -> Iterator[Problem]:
    """What is wrong with a list although each of its designs is right by itself; paths are relative to the list."""
    if not 2 <= len(stages) <= STAGES_MAX:
        remedy = "write it without the list" if stages else "name a design"
        yield Problem((), f"must be a list of 2 to {STAGES_MAX} designs, found {len(stages)}", remedy)
    for index, stage in enumerate(stages):
        if stage.windowed and index < len(stages) - 1:
            what = f"a {stage.design} sample of windows must be the last of a list, and the only one"
            yield Problem((index, "design"), what, "put the designs by rate before it")
        for key in ("replacement", "target"):
            if getattr(stage, key):
                what = f"not yet: a {stage.form.name} in a list"
                remedy = "put a simple or stratified rate, a judgment, or a reservoir in its place"
                yield Problem((index, key), what, remedy, not_yet=True)


def _checked(stages: tuple[Sample, ...]) -> tuple[Sample, ...]:
    if found := tuple(problems(stages)):
        raise WrongTogether(found)
    return stages


def _form(given: Any) -> str:
    return SEVERAL if isinstance(given, list | tuple) else ONE


SampleSetting: TypeAlias = Annotated[
    Annotated[Sample, Tag(ONE)] | Annotated[tuple[Sample, ...], AfterValidator(_checked), Tag(SEVERAL)],
    Discriminator(_form),
]


def stages_of(setting: Sample | tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The designs, in order."""
    return setting if isinstance(setting, tuple) else (setting,)


def paths_of(path: KeyPath, stages: tuple[Sample, ...]) -> list[KeyPath]:
    """Where each of the designs stands. path: of the sample."""
    return [path] if len(stages) == 1 else [(*path, index) for index in range(len(stages))]


def sharing(stages: tuple[Sample, ...], identity: Columns | None) -> tuple[int, ...]:
    """Which stages share u, for they hash the same unit by the same seed: of each the number of the first such (B13).

    identity: what makes the input's id, which is the unit where none is named.
    """
    hashed = [
        (described(stage.unit or identity), stage.seed) if stage.form.random else number  # with no u, none is shared
        for number, stage in enumerate(stages)
    ]
    return tuple(hashed.index(each) for each in hashed)
