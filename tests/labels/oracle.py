"""The join, written as plainly as its definition: all events at once, no state, no order of arrival but the offsets.

A prediction is (offset, ts, id); a feedback (source, offset, ts, id, feedback id, one value or None per use of its
feedback). The uses of a feedback are counted target by target: its rules, then what undoes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prediction:
    offset: int
    ts: int
    id: bytes
    payload: bytes = b""


@dataclass(frozen=True)
class Feedback:
    source: int
    offset: int
    ts: int
    id: bytes
    feedback_id: int
    values: tuple[int | None, ...]

    @property
    def place(self) -> tuple[int, int, int]:
        """What is first: event time, then topic, then offset."""
        return self.ts, self.source, self.offset


@dataclass(frozen=True)
class Rule:
    """undone_by: the feedback that undoes this one's; named: by its id, which is its value."""

    window: int
    feedback: int
    take: str = "first"
    undone_by: int | None = None
    named: bool = True


@dataclass(frozen=True)
class Target:
    rules: tuple[Rule, ...]
    if_silent: str = "null"
    silent_value: int = 0

    @staticmethod
    def one(window: int, feedback: int, if_silent: str = "null", silent_value: int = 0) -> Target:
        """A target of one rule."""
        return Target((Rule(window, feedback),), if_silent, silent_value)

    @property
    def window(self) -> int:
        return max(rule.window for rule in self.rules)


@dataclass(frozen=True)
class Use:
    """One thing that a feedback is used for: a rule of a target (undo False), or to undo one."""

    target: int
    rule: int
    feedback: int
    window: int
    undo: bool


def uses_of(targets: Sequence[Target]) -> list[Use]:
    found = []
    for number, target in enumerate(targets):
        found += [Use(number, at, rule.feedback, rule.window, False) for at, rule in enumerate(target.rules)]
        found += [
            Use(number, at, rule.undone_by, target.window, True)
            for at, rule in enumerate(target.rules)
            if rule.undone_by is not None
        ]
    return found


@dataclass(frozen=True)
class Label:
    """settled, explicit, value (None: none), the feedback that gave it as (ts, offset): for a sum or count its last."""

    settled: bool
    explicit: bool
    value: int | None
    given_by: tuple[int, int] | None
    used: int = 1
    """How much feedback it is made of."""


@dataclass
class Outcome:
    """records: (ts, offset, id, payload, labels), of rows whose deadline the last watermark has passed.

    feedback[use]: how many are what, with orphan and pre_causal as one.
    """

    records: list[tuple[int, int, bytes, bytes, tuple[Label, ...]]] = field(default_factory=list)
    feedback: list[dict[str, int]] = field(default_factory=list)
    rows: list[dict[str, int]] = field(default_factory=list)
    duplicates: int = 0


def join(
    predictions: list[Prediction],
    feedback: list[Feedback],
    targets: list[Target],
    *,
    skew: int,
    grace: int,
    late_horizon: int,
    watermark: int,
    covered_from: dict[int, int] | None = None,
    sources: Sequence[int] | None = None,
) -> Outcome:
    """What a join must have brought out when the watermark has come to `watermark`, for disorder within `grace`.

    sources: the feedback of each source, by default its own number.
    """
    widest = max(target.window for target in targets)
    kinds = range(1 + max(use.feedback for use in uses_of(targets))) if sources is None else sources
    outcome = Outcome()
    rows: list[Prediction] = []
    for prediction in sorted(predictions, key=lambda p: p.offset):
        if any(row.id == prediction.id and abs(row.ts - prediction.ts) <= widest + skew for row in rows):
            outcome.duplicates += 1
        else:
            rows.append(prediction)

    uses = uses_of(targets)
    matched: dict[tuple[int, int], list[Feedback]] = {}
    for number, use in enumerate(uses):
        counts = dict.fromkeys(("matched", "duplicate", "late", "unknown", "waiting", "no_value"), 0)
        position = position_of(uses, number)
        for event in sorted(feedback, key=lambda event: event.place):
            if kinds[event.source] != use.feedback:
                continue
            if event.values[position] is None:
                counts["no_value"] += 1
                continue
            same_id = [row for row in rows if row.id == event.id]
            own = [row for row in same_id if -skew <= event.ts - row.ts <= widest]
            if own:
                taken = matched.setdefault((own[0].offset, number), [])
                if event.ts - own[0].ts > use.window:
                    counts["late"] += 1
                elif any(other.feedback_id == event.feedback_id for other in taken):
                    counts["duplicate"] += 1
                else:
                    taken.append(event)
                    counts["matched"] += 1
            elif watermark <= event.ts + skew + grace:
                counts["waiting"] += 1
            elif any(widest < event.ts - row.ts <= widest + late_horizon for row in same_id):
                counts["late"] += 1
            else:
                counts["unknown"] += 1
        outcome.feedback.append(counts)
    outcome.rows = [dict.fromkeys(("explicit", "implicit", "open", "silent", "uncovered"), 0) for _ in targets]

    def covered_since(target: Target) -> int:
        mine = [source for source, kind in enumerate(kinds) if kind in {rule.feedback for rule in target.rules}]
        return max([(covered_from or {}).get(source, -(10**15)) for source in mine], default=-(10**15))

    for row in sorted(rows, key=lambda row: (row.ts, row.offset)):
        if watermark <= row.ts + widest + grace:
            for counts in outcome.rows:
                counts["open"] += 1
            continue
        labels = []
        for number, target in enumerate(targets):
            events = {
                (use.rule, use.undo): matched.get((row.offset, at), [])
                for at, use in enumerate(uses)
                if use.target == number
            }
            positions = [position_of(uses, at) for at, use in enumerate(uses) if use.target == number and not use.undo]
            undo = {use.rule: position_of(uses, at) for at, use in enumerate(uses) if use.target == number and use.undo}
            label = explicit_label(target, events, positions, undo)
            labels.append(label or silent_label(target, row.ts - skew >= covered_since(target), outcome.rows[number]))
            outcome.rows[number]["explicit"] += label is not None
        if any(label.settled for label in labels):
            outcome.records.append((row.ts, row.offset, row.id, row.payload, tuple(labels)))
    return outcome


def explicit_label(
    target: Target,
    events: dict[tuple[int, bool], list[Feedback]],
    positions: list[int],
    undo: dict[int, int],
) -> Label | None:
    """What the strongest rule with feedback that is not undone says."""
    for at, rule in enumerate(target.rules):
        left = [
            event
            for event in events[at, False]
            if not any(
                other.values[undo[at]] == event.feedback_id if rule.named else event.ts <= other.ts
                for other in events.get((at, True), [])
            )
        ]
        if left:
            return _taken(sorted(left, key=lambda event: event.place), rule.take, positions[at])
    return None


def _taken(events: list[Feedback], take: str, position: int) -> Label:
    values = [event.values[position] or 0 for event in events]
    if take in ("sum", "count"):
        value = sum(values) if take == "sum" else len(values)
        return Label(True, True, value, (events[-1].ts, events[-1].offset), len(events))
    at = {
        "first": 0,
        "last": len(events) - 1,
        "max": values.index(max(values)),
        "min": values.index(min(values)),
    }[take]
    return Label(True, True, values[at], (events[at].ts, events[at].offset))


def silent_label(target: Target, covered: bool, counts: dict[str, int]) -> Label:
    what = "uncovered" if not covered else "silent" if target.if_silent == "drop" else "implicit"
    counts[what] += 1
    value = target.silent_value if what == "implicit" and target.if_silent == "value" else None
    return Label(what == "implicit", False, value, None)


def position_of(uses: list[Use], number: int) -> int:
    """The use's place among those of its feedback."""
    return sum(other.feedback == uses[number].feedback for other in uses[:number])
