"""What a later version brings: refused by name, so that nobody believes that a setting is obeyed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streamsample.config.problems import KeyPath, Problem


@dataclass(frozen=True, slots=True)
class NotYet:
    """A setting of a later version.

    when: which values are meant. remedy: what can be done today.
    """

    what: str
    remedy: str | None = None
    when: Callable[[Any], bool] = lambda value: True


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


_DESIGNS = (
    "this version has simple, stratified, reservoir, weighted, recency, importance, convenience, quota, judgment and "
    "snowball"
)
_COMPUTED = NotYet("expressions here", "filter or compute before the topic")
_LATER_DESIGN = (
    *("size", "target_count", "weights", "decay"),
    *("order", "quota", "budget"),
)

_WHERE = NotYet("where at this place", "set it on the input or on the feedback")

_SOURCE: dict[str, NotYet] = {
    "registry": NotYet("a schema registry", "give the schemas by id: schema_files: {7: my.avsc}"),
    "subject": NotYet("a schema registry", "give the schemas by id: schema_files: {7: my.avsc}"),
    "time.format": NotYet("times as text", "give them as a number, with its unit"),
}

_INPUT: dict[str, NotYet] = {
    "match": NotYet("attribution among predictions of one id (match)", "make the id unique"),
}

_TABLE: dict[str, NotYet] = {
    "where": _WHERE,
    "registry": _SOURCE["registry"],
    "schema_registry": _SOURCE["registry"],
    "input": NotYet("several inputs", "name one", _is_list),
    "match": _INPUT["match"],
    "tests": NotYet("test timelines"),
    "timelines": NotYet("test timelines"),
    "sample.where": _WHERE,
    "sample.after": NotYet("another design than rates after the labels", "write thin: {by: <target>, rates: {...}}"),
    "features.where": _COMPUTED,
    "features.add": NotYet("computed features"),
    "split.where": _COMPUTED,
    "targets.*.corrections": NotYet("corrections of single targets", "set corrections for all targets"),
    "targets.*.match": _INPUT["match"],
    "targets.*.rules.*.where": _WHERE,
    "output.registry": _SOURCE["registry"],
    "output.subject": _SOURCE["registry"],
    **{f"sample.{key}": NotYet(f"designs with {key}", _DESIGNS) for key in _LATER_DESIGN},
    **{f"input.{key}": value for key, value in (_SOURCE | _INPUT).items()},
    **{f"feedback.*.{key}": value for key, value in _SOURCE.items()},
}


def settings() -> list[str]:
    """Every key that is refused so, or of which some values are."""
    return sorted(_TABLE)


def refused(tree: Any) -> Iterator[Problem]:
    """All settings of later versions that `tree` uses."""
    yield from _refused(tree, ())


def _refused(value: Any, path: KeyPath) -> Iterator[Problem]:
    entry = _TABLE.get(_pattern(path))
    if entry is not None and entry.when(value):
        yield Problem(path, f"not yet: {entry.what}", entry.remedy, not_yet=True)
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _refused(item, (*path, key))


def _pattern(path: KeyPath) -> str:
    """The path with names that the user chooses, and indices, as `*`."""
    steps = ["*" if isinstance(step, int) else step for step in path]
    if len(steps) > 1 and steps[0] in ("feedback", "targets", "samples"):
        steps[1] = "*"
    if steps[:2] == ["samples", "*"]:  # each is a sample
        steps[:2] = ["sample"]
    if steps[:2] == ["sample", "*"]:  # and so is each of a list
        steps[:2] = ["sample"]
    return ".".join(steps)
