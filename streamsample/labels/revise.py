"""Records before, at and after a row's close: early ones, those of single targets, corrections, retractions.

What a row says is a function of its feedback and of time: a label is looked at just before a moment and at it, and what
has changed decides whether a record is written. So nothing depends on when feedback was read, and a row's state is its
matched feedback and the number of records that it has given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import types

from streamsample.gather import packed
from streamsample.kernels import B1, I8_OUT, I32_OUT, I64, borrow, kernel
from streamsample.labels import ledger as books
from streamsample.labels.choice import certain_after, choose
from streamsample.labels.coverage import Coverage
from streamsample.labels.ledger import Ledger
from streamsample.labels.matches import Matches, count_matches
from streamsample.labels.results import CORRECT, EARLY, FINAL, RETRACT, FeedbackUsed, Settled, TargetColumns
from streamsample.labels.rows import Rows
from streamsample.labels.segments import packed_addresses
from streamsample.labels.settings import JoinSettings
from streamsample.labels.settle import room_for_choice, room_for_use
from streamsample.labels.tables import OPEN_ROWS, ROW_TABLE, ChosenOut, RuleTable, UsedOut
from streamsample.records import Bools, Int64s

_EARLY: Final = np.int8(EARLY)
_FINAL: Final = np.int8(FINAL)
_CORRECT: Final = np.int8(CORRECT)
_RETRACT: Final = np.int8(RETRACT)
NOTHING: Final = -1


@dataclass(frozen=True, slots=True)
class _Label:
    """One target's label of n rows at a moment. done: nothing but a correction can change it; closed: by its window."""

    columns: TargetColumns
    use: np.ndarray[tuple[int], np.dtype[np.int8]]
    done: Bools
    closed: Bools
    category: Int64s

    def differs(self, other: _Label) -> Bools:
        """Where the label is another one than before."""
        now, before = self.columns, other.columns
        same = (now.settled == before.settled) & (now.explicit == before.explicit)
        return ~np.asarray(same & (now.valid == before.valid) & (now.bits == before.bits))


@dataclass(frozen=True, slots=True)
class Moments:
    """n rows to look at, each at a time of its own: ordered by (time, ts, offset, index). Rows with `ts <
    settled_before` were closed before.
    """

    times: Int64s
    handles: Int64s
    settled_before: int
    coverage: Coverage


def build_revised(
    settings: JoinSettings, rows: Rows, matches: Matches, rules: RuleTable, ledger: Ledger, moments: Moments
) -> Settled:
    """Look at rows at their moments: the records that come of it, with the books brought up to date."""
    times, handles = moments.times, moments.handles
    count = len(handles)
    held = rows.columns(handles)
    most = count_matches(rows.table, matches.table, handles)
    before, now = (room_for_choice(count * len(settings.targets)) for _ in range(2))
    used = room_for_use(count, most)
    choose(rows.table, matches.table, rules, handles, times - 1, False, before, used)
    total = choose(rows.table, matches.table, rules, handles, times, False, now, used)
    old = _labels(settings, held.ts, times - 1, before, moments)
    new = _labels(settings, held.ts, times, now, moments)
    closing = _book(ledger, held.ts, times, old, new, settings.window_ms, moments.settled_before)
    rows.table.counts[OPEN_ROWS] -= int(np.count_nonzero(closing))
    changed = [label.differs(was) for label, was in zip(new, old, strict=True)]
    news = [
        change & ((label.done & settings.emit_each) | (target.early & (label.columns.explicit | was.columns.explicit)))
        for change, label, was, target in zip(changed, new, old, settings.targets, strict=True)
    ]
    state, revision = np.empty(count, np.int8), np.empty(count, np.int32)
    decide(
        rows.table, handles, _all([label.done for label in old]), _all([label.done for label in new]),
        _any([label.columns.settled for label in old]), _any([label.columns.settled for label in new]),
        _any(changed), _any(news), closing, state, revision,
    )  # fmt: skip
    keep = np.flatnonzero(state != NOTHING)
    closes = _any([label.closed & ~was.closed for label, was in zip(new, old, strict=True)])
    held = rows.columns(handles[keep])
    times = times[keep]
    rows.check_payload(held.ts, stays=True)
    return Settled(
        ts=held.ts,
        offset=held.offset,
        index=held.within,
        ids=packed(rows.table.ids, held.id_place, held.id_size),
        payload=packed_addresses(held.payload, held.payload_size),
        schema=held.schema,
        split=held.split,
        settled_at=times + settings.grace_ms,
        timestamp=np.where(closes[keep], times + settings.grace_ms, times),
        state=state[keep],
        revision=revision[keep],
        targets=tuple(label.columns.take(keep) for label in new),
        before=tuple(label.columns.take(keep) for label in old),
        used=_used(used, total, keep, [label.columns.explicit for label in new]),
    )


def _labels(settings: JoinSettings, ts: Int64s, times: Int64s, chosen: ChosenOut, moments: Moments) -> list[_Label]:
    """Every target's label of n rows at `times`."""
    return [_label(settings, number, ts, times, chosen, moments) for number in range(len(settings.targets))]


def _label(
    settings: JoinSettings, number: int, ts: Int64s, times: Int64s, chosen: ChosenOut, moments: Moments
) -> _Label:
    target, count = settings.targets[number], len(ts)
    mine = slice(number * count, (number + 1) * count)
    use = chosen.use[mine]
    given = use >= 0
    closed = (ts < moments.settled_before) | (times >= ts + target.window_ms)
    certain = given & (times >= ts + np.append(certain_after(settings), 0)[use])
    done = closed | (certain & target.early)
    covered = moments.coverage.of(number, ts)
    explicit = given & (done | target.early)
    silent = done & ~given & covered
    kinds = np.array([*(each.feedback for each in settings.uses), -1], np.int16)
    quiet = books.ROW_SILENT if target.if_silent == "drop" else books.IMPLICIT
    bits = np.where(explicit, chosen.bits[mine], 0)
    if target.if_silent == "value":
        bits[silent] = target.silent_bits
    columns = TargetColumns(
        bits=bits,
        valid=explicit | (silent & (target.if_silent == "value")),
        settled=done & (given | (silent & (target.if_silent != "drop"))),
        explicit=explicit,
        event_time=np.where(explicit, chosen.event_time[mine], 0),
        delay_ms=np.where(explicit, chosen.delay[mine], 0),
        kind=np.where(explicit, kinds[use], np.int16(-1)).astype(np.int16),
    )
    category = np.where(given, books.EXPLICIT, np.where(covered, quiet, books.ROW_UNCOVERED))
    return _Label(columns, use, done, closed, category)


def _book(
    ledger: Ledger,
    ts: Int64s,
    times: Int64s,
    old: list[_Label],
    new: list[_Label],
    window_ms: int,
    settled_before: int,
) -> Bools:
    """Enter the rows that close, and move those whose label is corrected afterwards; which rows close."""
    end = ts + window_ms
    closing: Bools = (ts >= settled_before) & (times == end)
    after = (ts < settled_before) | (times > end)
    for number, (was, label) in enumerate(zip(old, new, strict=True)):
        book = ledger.rows[number]
        book[books.OPEN] -= np.count_nonzero(closing)
        book += np.bincount(label.category[closing], minlength=len(book))
        ledger.labels += np.bincount(label.use[closing & (label.use >= 0)], minlength=len(ledger.labels))
        other = after & (was.category != label.category)
        moved = np.bincount(label.category[other], minlength=len(book))
        moved -= np.bincount(was.category[other], minlength=len(book))
        for column in (books.IMPLICIT, books.ROW_SILENT):  # what was not covered then may be by now
            short = min(int(book[column] + moved[column]), 0)
            moved[column] -= short
            moved[books.ROW_UNCOVERED] += short
        book += moved
        ledger.moved[number] += moved
    return closing


@kernel(types.void(ROW_TABLE, I64, B1, B1, B1, B1, B1, B1, B1, I8_OUT, I32_OUT))
def decide(  # type: ignore[no-untyped-def]
    table, handles, was_final, final, was_kept, kept, changed, news, closing, state, revision
):
    """What each moment writes (a state, or NOTHING), and which revision of its row that is; rows count them.

    final: every target is done. kept: a target is labelled. news: something to write before the row is final. closing:
    the last window ends; a row that says something has given a record then, though the job's file be another now.
    """
    rows = borrow(table.rows)
    for i in range(len(handles)):
        given = rows[handles[i]].revision
        what = np.int8(NOTHING)
        if was_final[i]:
            if changed[i] and kept[i]:
                what = _CORRECT if given > 0 else _FINAL
            elif changed[i] and was_kept[i] and given > 0:
                what = _RETRACT
            elif closing[i] and kept[i] and given == 0:
                what = _FINAL
        elif final[i]:
            if kept[i]:
                what = _FINAL
            elif given > 0:
                what = _RETRACT
        elif news[i]:
            what = _EARLY
        state[i] = what
        revision[i] = given
        if what != NOTHING:
            rows[handles[i]].revision = given + 1


def _used(used: UsedOut, total: int, keep: Int64s, explicit: list[Bools]) -> FeedbackUsed:
    """The feedback behind the records that are written and the labels that are shown."""
    count = len(used.first) - 1
    row = np.repeat(np.arange(count), np.diff(used.first))
    target = used.target[:total]
    wanted = np.zeros(count, np.bool_)
    wanted[keep] = True
    shown = wanted[row] & np.stack(explicit)[target, row]
    first = np.zeros(len(keep) + 1, np.int64)
    np.cumsum(np.bincount(row[shown], minlength=count)[keep], out=first[1:])
    return FeedbackUsed(
        first,
        target[shown],
        used.source[:total][shown],
        used.ts[:total][shown],
        used.offset[:total][shown],
        used.within[:total][shown],
    )


def _all(masks: list[Bools]) -> Bools:
    return np.asarray(np.logical_and.reduce(masks), np.bool_)


def _any(masks: list[Bools]) -> Bools:
    return np.asarray(np.logical_or.reduce(masks), np.bool_)
