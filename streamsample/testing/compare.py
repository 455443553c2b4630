"""What a timeline expects beside what came of it: only what differs, in the words of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

from streamsample.config.problems import Wrong
from streamsample.config.timeline import Expected, ExpectedDead, parse_when, said

_LABEL = re.compile(r"(.*) (explicit|implicit)", re.DOTALL)
_TIMES = ("event_time",)
NOTHING = "none"
"""How a target is written that is not settled."""

One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True)
class Difference:
    """Something expected that did not come so. expected, came: as the file would write them, None if there is none;
    number: of what was expected, in its list; event: the step whose prediction it concerns.
    """

    expected: str | None
    came: str | None
    number: int | None = None
    event: int | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """A training record that came. timestamp: ms since the timeline's start; event: the step of its prediction."""

    id: str
    timestamp: int
    tree: Mapping[str, Any]
    event: int | None


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter that came, and the step it is of."""

    topic: str
    id: str | None
    reason: str
    stage: str
    message: str
    event: int | None


def of_records(expected: Sequence[Expected], came: Sequence[Came], start_ms: int) -> list[Difference]:
    """Where the records differ; those of an id are compared in their order."""
    found: list[Difference] = []
    for identity in dict.fromkeys([*(each.id for each in expected), *(each.id for each in came)]):
        mine = [(number, each) for number, each in enumerate(expected) if each.id == identity]
        theirs = [each for each in came if each.id == identity]
        for wanted, got in aligned(mine, theirs, lambda one, other: not _differs(one[1], other, start_ms)):
            if wanted is None and got is not None:
                found.append(Difference(None, _short(got), event=got.event))
            elif wanted is not None and got is None:
                found.append(Difference(_flow(_said(wanted[1])), None, wanted[0]))
            elif wanted is not None and got is not None and _differs(wanted[1], got, start_ms):
                found.append(_difference(wanted[0], wanted[1], got, start_ms))
    return found


def of_dead_letters(expected: Sequence[ExpectedDead], came: Sequence[Dead], topics: Sequence[str]) -> list[Difference]:
    """Where the dead letters differ, in any order. topics: of `expected`."""
    left = list(came)
    found = []
    for number, (wanted, topic) in enumerate(zip(expected, topics, strict=True)):
        got = next((each for each in left if _fits(wanted, topic, each)), None)
        if got is None:
            said_of = {"topic": wanted.topic, "id": wanted.id, "class": wanted.reason, "stage": wanted.stage}
            words = _flow({key: value for key, value in said_of.items() if value is not None})
            found.append(Difference(f"dead letter {words}", None, number))
        else:
            left.remove(got)
    for each in left:
        words = _flow({"topic": each.topic, "id": each.id, "class": each.reason, "stage": each.stage})
        found.append(Difference(None, f"dead letter {words}: {each.message}", event=each.event))
    return found


def of_counts(expected: Mapping[str, Any], came: Mapping[str, Any], above: str = "counts") -> list[Difference]:
    """Where the counters differ that are named."""
    found = []
    for name, wanted in expected.items():
        path, got = f"{above}.{name}", came.get(name)
        if isinstance(wanted, dict) and isinstance(got, dict):
            found += of_counts(wanted, got, path)
        elif name not in came:
            found.append(Difference(f"{path}: {show(wanted)}", f"{above} has {', '.join(came)}"))
        elif wanted != got:
            found.append(Difference(f"{path}: {show(wanted)}", f"{path}: {show(got)}"))
    return found


def aligned(
    ones: Sequence[One], others: Sequence[Other], equal: Callable[[One, Other], bool]
) -> list[tuple[One | None, Other | None]]:
    """Both in their order, side by side: as many equal ones as can be (a longest common subsequence), and between them
    the rest in pairs.
    """
    rows, columns = len(ones), len(others)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for row in reversed(range(rows)):
        for column in reversed(range(columns)):
            same = equal(ones[row], others[column])
            best[row][column] = (
                1 + best[row + 1][column + 1] if same else max(best[row + 1][column], best[row][column + 1])
            )
    pairs: list[tuple[One | None, Other | None]] = []
    left: list[One] = []
    right: list[Other] = []

    def let_go() -> None:
        pairs.extend(zip_longest(left, right))
        left.clear()
        right.clear()

    row = column = 0
    while row < rows and column < columns:
        if equal(ones[row], others[column]):
            let_go()
            pairs.append((ones[row], others[column]))
            row, column = row + 1, column + 1
        elif best[row + 1][column] >= best[row][column + 1]:
            left.append(ones[row])
            row += 1
        else:
            right.append(others[column])
            column += 1
    left += ones[row:]
    right += others[column:]
    let_go()
    return pairs


def check_label(value: Any) -> None:
    """Raises Wrong if a label is written in a way that cannot be read."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("value", "kind", "source", "event_time", "delay_ms"):
                raise Wrong(f"a label has no {name}", "it has value, kind, source, event_time and delay_ms")
            if name in _TIMES and inner is not None:
                parse_when(inner)


def _label(value: Any, start_ms: int) -> dict[str, Any] | str:
    """What is said of a label: some of its fields, or NOTHING."""
    if value == NOTHING:
        return NOTHING
    if isinstance(value, dict):
        times = {name: parse_when(value[name]).since(start_ms) for name in _TIMES if value.get(name) is not None}
        return {**value, **times}
    if isinstance(value, str) and (found := _LABEL.fullmatch(value)):
        text, source = found.groups()
        try:
            return {"value": json.loads(text), "source": source}
        except ValueError:
            return {"value": text, "source": source}
    return {"value": value}


def _came_label(record: Mapping[str, Any], target: str) -> Mapping[str, Any] | str:
    if target not in record["settled"]:
        return NOTHING
    label: Mapping[str, Any] = record["targets"][target]
    return label


def _same(wanted: Any, got: Any) -> bool:
    """Whether `got` has everything that is wanted of it."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(name in got and _same(value, got[name]) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_same, wanted, got))
    if isinstance(wanted, bool) != isinstance(got, bool):
        return False
    return bool(wanted == got)


def _differs(wanted: Expected, got: Came, start_ms: int) -> list[str]:
    """The names of what differs."""
    names = ["at"] if wanted.at is not None and wanted.at.since(start_ms) - start_ms != got.timestamp else []
    names += [name for name, value in wanted.parts.items() if not _same(value, got.tree.get(name))]
    for target, value in wanted.labels.items():
        if not _same(_label(value, start_ms), _came_label(got.tree, target)):
            names.append(target)
    return names


def _difference(number: int, wanted: Expected, got: Came, start_ms: int) -> Difference:
    """Only what differs; the rest is as it was expected."""
    one: dict[str, Any] = {"id": wanted.id}
    other: dict[str, Any] = {"id": got.id}
    for name in _differs(wanted, got, start_ms):
        if name == "at" and wanted.at is not None:
            one[name], other[name] = said(wanted.at.since(start_ms) - start_ms), said(got.timestamp)
        elif name in wanted.parts:
            one[name], other[name] = _narrow(wanted.parts[name], got.tree.get(name))
        else:
            one[name], other[name] = wanted.labels[name], _label_words(_came_label(got.tree, name), wanted.labels[name])
    return Difference(_flow(one), _flow(other), number, got.event)


def _narrow(wanted: Any, got: Any) -> tuple[Any, Any]:
    """Of two mappings what differs of what is wanted."""
    if not (isinstance(wanted, dict) and isinstance(got, dict)):
        return wanted, got
    names = [name for name, value in wanted.items() if name not in got or not _same(value, got[name])]
    pairs = {name: _narrow(wanted[name], got.get(name)) for name in names}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _label_words(label: Mapping[str, Any] | str, like: Any) -> Any:
    """A label as the file would write it: with those fields that `like` has, else in short."""
    if isinstance(label, str):
        return label
    if isinstance(like, dict):
        return {name: label.get(name) for name in like}
    return f"{show(label['value'])} {label['source']}"


def _short(got: Came) -> str:
    labels = {target: _label_words(_came_label(got.tree, target), None) for target in got.tree["targets"]}
    state = {} if got.tree["state"] == "final" else {"state": got.tree["state"], "revision": got.tree["revision"]}
    return _flow({"id": got.id, **state, **labels})


def _said(wanted: Expected) -> dict[str, Any]:
    at = {} if wanted.at is None else {"at": said(wanted.at.ms) if not wanted.at.absolute else wanted.at.ms}
    return {"id": wanted.id, **at, **wanted.labels, **wanted.parts}


def _fits(wanted: ExpectedDead, topic: str, got: Dead) -> bool:
    return (
        got.topic == topic
        and wanted.id in (None, got.id)
        and wanted.reason in (None, got.reason)
        and wanted.stage in (None, got.stage)
    )


def show(value: Any) -> str:
    """A value as YAML would have it in braces."""
    if isinstance(value, dict):
        return _flow(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./@: +-]+", value) and ": " not in value else json.dumps(value)
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value)


def _flow(mapping: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {show(value)}" for name, value in mapping.items()) + "}"
