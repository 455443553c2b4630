"""The join, written as plainly as its definition: all events at once, no state, no order of arrival but the offsets.

A prediction is (offset, ts, id); a feedback (source, offset, ts, id, feedback id, one value or None per use of its
feedback). The uses of a feedback are counted target by target: its rules, then what undoes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


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
    early: bool = False

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
    """settled, explicit, value (None: none), the feedback that gave it as (ts, offset): for a sum or count its last.

    used: all that it is made of, as (source, ts, offset).
    """

    settled: bool
    explicit: bool
    value: int | None
    given_by: tuple[int, int] | None
    used: tuple[tuple[int, int, int], ...] = ()


@dataclass
class Outcome:
    """records: (ts, offset, id, payload, labels, state, revision, timestamp), in the order in which they are decided.

    feedback[use]: how many are what, with orphan and pre_causal as one.
    """

    records: list[tuple[int, int, bytes, bytes, tuple[Label, ...], str, int, int]] = field(default_factory=list)
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
    corrections: int = 0,
    each: bool = False,
    by_time: bool = False,
) -> Outcome:
    """What a join must have brought out when the watermark has come to `watermark`, for disorder within `grace`.

    sources: the feedback of each source, by default its own number. corrections: for how long after the close labels
    are corrected. each: a record whenever a target closes. by_time: the first prediction of an id is that
    by time, not by offset.
    """
    widest = max(target.window for target in targets)
    span, late_horizon = widest + corrections, max(late_horizon, corrections)
    kinds = range(1 + max(use.feedback for use in uses_of(targets))) if sources is None else sources
    outcome = Outcome()
    rows: list[Prediction] = []
    for prediction in sorted(predictions, key=lambda p: (p.ts, p.offset) if by_time else (p.offset, 0)):
        if any(row.id == prediction.id and abs(row.ts - prediction.ts) <= span + skew for row in rows):
            outcome.duplicates += 1
        else:
            rows.append(prediction)

    uses = uses_of(targets)
    matched: dict[tuple[int, int], list[Feedback]] = {}
    for number, use in enumerate(uses):
        counts = dict.fromkeys(("matched", "duplicate", "late", "unknown", "waiting", "no_value"), 0)
        position = position_of(uses, number)
        closes = targets[use.target].window
        reach = use.window if use.window < closes else closes + corrections
        for event in sorted(feedback, key=lambda event: event.place):
            if kinds[event.source] != use.feedback:
                continue
            if event.values[position] is None:
                counts["no_value"] += 1
                continue
            same_id = [row for row in rows if row.id == event.id]
            own = [row for row in same_id if -skew <= event.ts - row.ts <= span]
            if own:
                taken = matched.setdefault((own[0].offset, number), [])
                if event.ts - own[0].ts > reach:
                    counts["late"] += 1
                elif any(other.feedback_id == event.feedback_id for other in taken):
                    counts["duplicate"] += 1
                else:
                    taken.append(event)
                    counts["matched"] += 1
            elif watermark <= event.ts + skew + grace:
                counts["waiting"] += 1
            elif any(span < event.ts - row.ts <= widest + late_horizon for row in same_id):
                counts["late"] += 1
            else:
                counts["unknown"] += 1
        outcome.feedback.append(counts)
    outcome.rows = [dict.fromkeys(("explicit", "implicit", "open", "silent", "uncovered"), 0) for _ in targets]

    def covered_since(target: Target) -> int:
        mine = [source for source, kind in enumerate(kinds) if kind in {rule.feedback for rule in target.rules}]
        return max([(covered_from or {}).get(source, -(10**15)) for source in mine], default=-(10**15))

    decided = []
    for row in rows:
        mine = {at: matched.get((row.offset, at), []) for at in range(len(uses))}
        covered = [row.ts - skew >= covered_since(target) for target in targets]
        story = Story(row, targets, uses, mine, covered, each)
        for moment in story.moments(watermark - grace):
            decided += [(moment, row.ts, row.offset, record) for record in story.at(moment, grace)]
        for counts, category in zip(outcome.rows, story.categories(), strict=True):
            counts[category if story.closed else "open"] += 1
    outcome.records = [record for *_, record in sorted(decided, key=lambda each: each[:3])]
    return outcome


class Story:
    """What becomes of one row, moment by moment."""

    def __init__(
        self,
        row: Prediction,
        targets: Sequence[Target],
        uses: list[Use],
        matched: dict[int, list[Feedback]],
        covered: list[bool],
        each: bool,
    ) -> None:
        self.row, self.targets, self.uses, self.matched = row, targets, uses, matched
        self.covered, self.each = covered, each
        self.labels = tuple(Label(False, False, None, None) for _ in targets)
        self.given: list[Label | None] = [None] * len(targets)
        self.final = self.closed = False
        self.revision = 0

    def moments(self, before: int) -> list[int]:
        """Every time before `before` at which anything can change."""
        times = {max(event.ts, self.row.ts) for events in self.matched.values() for event in events}
        times |= {self.row.ts + use.window for use in self.uses}
        return sorted(time for time in times if time < before)

    def at(self, moment: int, grace: int) -> list[tuple[int, int, bytes, bytes, tuple[Label, ...], str, int, int]]:
        """The record that is written when all until `moment` is known, if one is."""
        row, old = self.row, self.labels
        age = moment - row.ts
        closes = [age >= target.window for target in self.targets]
        found = [self._label(number, moment, closes[number]) for number in range(len(self.targets))]
        self.labels = tuple(label for label, _ in found)
        done, was_final = [done for _, done in found], self.final
        self.final = was_final or all(done)
        self.closed = all(closes)
        changed = [_said(now) != _said(before) for now, before in zip(self.labels, old, strict=True)]
        kept, was_kept = (any(label.settled for label in labels) for labels in (self.labels, old))
        state = None
        if was_final:
            if any(changed) and kept:
                state = "correct" if self.revision else "final"
            elif any(changed) and was_kept and self.revision:
                state = "retract"
        elif self.final:
            state = "final" if kept else "retract" if self.revision else None
        elif any(
            change and ((self.each and is_done) or (target.early and (now.explicit or before.explicit)))
            for change, is_done, target, now, before in zip(changed, done, self.targets, self.labels, old, strict=True)
        ):
            state = "early"
        if state is None:
            return []
        self.revision += 1
        a_close = any(age == target.window for target in self.targets)
        stamp = moment + grace if a_close else moment
        return [(row.ts, row.offset, row.id, row.payload, self.labels, state, self.revision - 1, stamp)]

    def categories(self) -> list[str]:
        """Where the row is in each target's books, once it is closed."""
        return [
            "explicit"
            if given is not None
            else "uncovered"
            if not covered
            else "silent"
            if target.if_silent == "drop"
            else "implicit"
            for given, covered, target in zip(self.given, self.covered, self.targets, strict=True)
        ]

    def _label(self, number: int, moment: int, closed: bool) -> tuple[Label, bool]:
        """The target's label, and whether nothing but a correction can change it."""
        target, age = self.targets[number], moment - self.row.ts
        mine = [at for at, use in enumerate(self.uses) if use.target == number]
        events = {
            (self.uses[at].rule, self.uses[at].undo): [e for e in self.matched[at] if max(e.ts, self.row.ts) <= moment]
            for at in mine
        }
        positions = [position_of(self.uses, at) for at in mine if not self.uses[at].undo]
        undo = {self.uses[at].rule: position_of(self.uses, at) for at in mine if self.uses[at].undo}
        given = self.given[number] = explicit_label(target, events, positions, undo)
        if given is not None:
            rank = next(at for at in range(len(target.rules)) if left_of(target, at, events, undo))
            rule = target.rules[rank]
            stronger = target.rules[:rank]
            fixed = (rule.take == "first" or age >= rule.window) and rule.undone_by is None
            certain = target.early and fixed and all(age >= other.window for other in stronger)
            if closed or certain:
                return given, True
            return (replace(given, settled=False) if target.early else Label(False, False, None, None)), False
        if not closed or not self.covered[number] or target.if_silent == "drop":
            return Label(False, False, None, None), closed
        return Label(True, False, target.silent_value if target.if_silent == "value" else None, None), True


def _said(label: Label) -> tuple[bool, bool, int | None]:
    return label.settled, label.explicit, label.value


def left_of(
    target: Target, at: int, events: dict[tuple[int, bool], list[Feedback]], undo: dict[int, int]
) -> list[Feedback]:
    """A rule's feedback that is not undone."""
    rule = target.rules[at]
    return [
        event
        for event in events[at, False]
        if not any(
            other.values[undo[at]] == event.feedback_id if rule.named else event.ts <= other.ts
            for other in events.get((at, True), [])
        )
    ]


def explicit_label(
    target: Target,
    events: dict[tuple[int, bool], list[Feedback]],
    positions: list[int],
    undo: dict[int, int],
) -> Label | None:
    """What the strongest rule with feedback that is not undone says."""
    for at, rule in enumerate(target.rules):
        left = left_of(target, at, events, undo)
        if left:
            return _taken(sorted(left, key=lambda event: event.place), rule.take, positions[at])
    return None


def _taken(events: list[Feedback], take: str, position: int) -> Label:
    values = [event.values[position] or 0 for event in events]
    if take in ("sum", "count"):
        value = sum(values) if take == "sum" else len(values)
        used = tuple((event.source, event.ts, event.offset) for event in events)
        return Label(True, True, value, (events[-1].ts, events[-1].offset), used)
    at = {
        "first": 0,
        "last": len(events) - 1,
        "max": values.index(max(values)),
        "min": values.index(min(values)),
    }[take]
    used = ((events[at].source, events[at].ts, events[at].offset),)
    return Label(True, True, values[at], (events[at].ts, events[at].offset), used)


def position_of(uses: list[Use], number: int) -> int:
    """The use's place among those of its feedback."""
    return sum(other.feedback == uses[number].feedback for other in uses[:number])
