"""Drives a LabelJoin with lists of plain events, and reads its columns back as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64
from streamsample.labels import (
    STATES,
    JoinSettings,
    LabelJoin,
    Limits,
    Rule,
    Settled,
    TargetRules,
    Undo,
    decode_delta,
    encode_delta,
)
from streamsample.records import Spans
from tests.labels.oracle import Feedback, Label, Prediction, Target, uses_of
from tests.labels.oracle import Rule as OracleRule

Hash = Callable[[Spans], NDArray[np.uint64]]
Record = tuple[int, int, bytes, bytes, tuple[Label, ...], str, int, int]


def real_hash(ids: Spans) -> NDArray[np.uint64]:
    return hash64(ids, 0)


def constant_hash(ids: Spans) -> NDArray[np.uint64]:
    return np.zeros(len(ids), np.uint64)


def weak_hash(ids: Spans) -> NDArray[np.uint64]:
    """Four different hashes, whose homes are the last slots of the table: probing wraps around."""
    return (hash64(ids, 0) & np.uint64(3)) | np.uint64(0xFFFFFFFF00000000)


def settings_of(
    targets: Sequence[Target],
    *,
    skew: int = 0,
    grace: int = 0,
    late_horizon: int = 0,
    limits: Limits | None = None,
    sources: Sequence[int] | None = None,
    corrections: int = 0,
    each: bool = False,
) -> JoinSettings:
    kinds = max(use.feedback for use in uses_of(targets)) + 1
    return JoinSettings(
        feedback=tuple(f"feedback{number}" for number in range(kinds)),
        targets=tuple(
            TargetRules(
                f"target{number}",
                tuple(rule_of(rule) for rule in target.rules),
                target.if_silent,  # type: ignore[arg-type]
                target.silent_value,
                early=target.early,
            )
            for number, target in enumerate(targets)
        ),
        grace_ms=grace,
        skew_ms=skew,
        late_horizon_ms=late_horizon,
        limits=limits or Limits(),
        sources=tuple((f"topic{number}", kind) for number, kind in enumerate(sources or ())),
        corrections_ms=corrections,
        emit_each=each,
    )


def rule_of(rule: OracleRule) -> Rule:
    undo = None if rule.undone_by is None else Undo(rule.undone_by, rule.named)
    return Rule(rule.feedback, rule.window, rule.take, undo)  # type: ignore[arg-type]


def give_predictions(join: LabelJoin, events: Sequence[Prediction], hash_ids: Hash = real_hash) -> list[int]:
    ids = Spans.of([event.id for event in events])
    codes = join.on_predictions(
        np.array([event.offset for event in events], np.int64),
        np.array([event.ts for event in events], np.int64),
        ids,
        hash_ids(ids),
        Spans.of([event.payload for event in events]),
        np.array([event.offset % 7 for event in events], np.int16),
        np.array([event.offset % 3 for event in events], np.int8),
    )
    return [int(code) for code in codes]


def give_feedback(join: LabelJoin, events: Sequence[Feedback], hash_ids: Hash = real_hash) -> None:
    if not events:
        return
    ids = Spans.of([event.id for event in events])
    width = len(events[0].values)
    values = [np.array([event.values[k] or 0 for event in events], np.int64) for k in range(width)]
    valid = [np.array([event.values[k] is not None for event in events]) for k in range(width)]
    join.on_feedback(
        events[0].source,
        np.array([event.offset for event in events], np.int64),
        np.array([event.ts for event in events], np.int64),
        ids,
        hash_ids(ids),
        values,
        valid,
        np.array([event.feedback_id for event in events], np.uint64),
    )


def records_of(settled: Settled) -> list[Record]:
    """The settled rows as the oracle writes them; also holds the columns against each other."""
    records = []
    used = settled.used
    assert list(settled.schema) == [offset % 7 for offset in settled.offset]
    assert list(settled.split) == [offset % 3 for offset in settled.offset]
    assert len(used.first) == len(settled) + 1
    assert used.first[-1] == len(used.ts)
    for row in range(len(settled)):
        labels = []
        for number, target in enumerate(settled.targets):
            given_by = None
            mine = [at for at in range(used.first[row], used.first[row + 1]) if used.target[at] == number]
            assert bool(mine) == bool(target.explicit[row]) == (target.kind[row] >= 0)
            if mine:
                last = max(mine, key=lambda at: (used.ts[at], used.source[at], used.offset[at]))
                assert mine[-1] == last
                assert used.ts[last] == target.event_time[row] == settled.ts[row] + target.delay_ms[row]
                given_by = (int(used.ts[last]), int(used.offset[last]))
            value = int(target.bits[row]) if target.valid[row] else None
            explicit = bool(target.explicit[row])
            places = tuple((int(used.source[at]), int(used.ts[at]), int(used.offset[at])) for at in mine)
            labels.append(Label(bool(target.settled[row]), explicit, value, given_by, places))
        identity, payload = settled.ids[row], settled.payload[row]
        assert identity is not None
        assert payload is not None
        state, revision = STATES[settled.state[row]], int(settled.revision[row])
        head = (int(settled.ts[row]), int(settled.offset[row]), identity, payload)
        records.append((*head, tuple(labels), state, revision, int(settled.timestamp[row])))
    return records


def restarted(settings: JoinSettings, deltas: Sequence[bytes]) -> LabelJoin:
    join = LabelJoin(settings)
    join.restore([decode_delta(delta) for delta in deltas])
    return join


def snapshot(join: LabelJoin) -> bytes:
    return encode_delta(join.snapshot_delta())


def feedback_counts(join: LabelJoin, use: int) -> dict[str, int]:
    """The ledger's counts as the oracle names them."""
    counts = join.ledger.feedback_counts(use)
    return {
        "matched": counts["matched"],
        "duplicate": counts["duplicate"],
        "late": counts["late"],
        "unknown": counts["orphan"] + counts["pre_causal"],
        "waiting": counts["waiting"],
        "no_value": counts["no_value"],
    }


def row_counts(join: LabelJoin, target: int) -> dict[str, int]:
    counts = join.ledger.row_counts(target)
    return {name: counts[name] for name in ("explicit", "implicit", "open", "silent", "uncovered")}
