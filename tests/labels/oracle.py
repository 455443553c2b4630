"""The join, written as plainly as its definition: all events at once, no state, no order of arrival but the offsets.

A prediction is (offset, ts, id); a feedback (source, offset, ts, id, feedback id, one value or None per target of its
source).
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Target:
    window: int
    source: int
    if_silent: str = "null"
    silent_value: int = 0


@dataclass(frozen=True)
class Label:
    """settled, explicit, value (None: none), the feedback that gave it as (ts, offset)."""

    settled: bool
    explicit: bool
    value: int | None
    given_by: tuple[int, int] | None


@dataclass
class Outcome:
    """records: (ts, offset, id, payload, labels), of rows whose deadline the last watermark has passed.

    feedback[target]: how many are what, with orphan and pre_causal as one.
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
) -> Outcome:
    """What a join must have brought out when the watermark has come to `watermark`, for disorder within `grace`."""
    widest = max(target.window for target in targets)
    outcome = Outcome()
    rows: list[Prediction] = []
    for prediction in sorted(predictions, key=lambda p: p.offset):
        if any(row.id == prediction.id and abs(row.ts - prediction.ts) <= widest + skew for row in rows):
            outcome.duplicates += 1
        else:
            rows.append(prediction)

    matched: dict[tuple[int, int], list[Feedback]] = {}
    for number, target in enumerate(targets):
        counts = dict.fromkeys(("matched", "duplicate", "late", "unknown", "waiting", "no_value"), 0)
        position = _position(targets, number)
        for event in sorted(feedback, key=lambda f: f.offset):
            if event.source != target.source:
                continue
            if event.values[position] is None:
                counts["no_value"] += 1
                continue
            same_id = [row for row in rows if row.id == event.id]
            own = [row for row in same_id if -skew <= event.ts - row.ts <= widest]
            if own:
                taken = matched.setdefault((own[0].offset, number), [])
                if event.ts - own[0].ts > target.window:
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
        outcome.rows.append(dict.fromkeys(("explicit", "implicit", "open", "silent", "uncovered"), 0))

    for row in sorted(rows, key=lambda row: (row.ts, row.offset)):
        if watermark <= row.ts + widest + grace:
            for counts in outcome.rows:
                counts["open"] += 1
            continue
        labels = tuple(
            _label(
                row,
                target,
                _position(targets, number),
                matched.get((row.offset, number), []),
                skew,
                covered_from or {},
                outcome.rows[number],
            )
            for number, target in enumerate(targets)
        )
        if any(label.settled for label in labels):
            outcome.records.append((row.ts, row.offset, row.id, row.payload, labels))
    return outcome


def _label(
    row: Prediction,
    target: Target,
    position: int,
    events: list[Feedback],
    skew: int,
    covered_from: dict[int, int],
    counts: dict[str, int],
) -> Label:
    if events:
        first = min(events, key=lambda event: (event.ts, event.offset))
        counts["explicit"] += 1
        return Label(True, True, first.values[position], (first.ts, first.offset))
    if row.ts - skew < covered_from.get(target.source, -(10**15)):
        counts["uncovered"] += 1
        return Label(False, False, None, None)
    if target.if_silent == "drop":
        counts["silent"] += 1
        return Label(False, False, None, None)
    counts["implicit"] += 1
    return Label(True, False, target.silent_value if target.if_silent == "value" else None, None)


def _position(targets: list[Target], number: int) -> int:
    """The target's place among those of its source."""
    return sum(other.source == targets[number].source for other in targets[:number])
