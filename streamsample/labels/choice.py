"""Which label a row's matched feedback comes to: strength, undoing and `take` (A10), in one place.

Nothing here depends on arrival: a rule's feedback is put in the order of event time, then topic, partition, offset.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I64, borrow, inline, kernel
from streamsample.labels.settings import TAKES, JoinSettings
from streamsample.labels.tables import (
    CHOSEN_OUT,
    ENTRIES,
    ENTRIES_FREE,
    FREE_HEAD,
    MATCH_TABLE,
    NONE,
    ROW_TABLE,
    RULE_TABLE,
    USED_OUT,
    RuleTable,
)

_LAST: Final = TAKES.index("last")
_MAX: Final = TAKES.index("max")
_MIN: Final = TAKES.index("min")
_SUM: Final = TAKES.index("sum")
_COUNT: Final = TAKES.index("count")
_INT_MAX: Final = 2**63 - 1


def rule_table(settings: JoinSettings) -> RuleTable:
    """The settings as kernels read them."""
    uses, targets = settings.uses, settings.targets
    first = np.array([min(n for n, use in enumerate(uses) if use.target == t) for t in range(len(targets))], np.int64)
    return RuleTable(
        take=np.array([TAKES.index(use.take) for use in uses], np.int8),
        undone_by=np.array([use.undone_by for use in uses], np.int8),
        named=np.array([use.named for use in uses], np.bool_),
        window=np.array([use.window_ms for use in uses], np.int64),
        is_float=np.array([targets[use.target].is_float for use in uses], np.bool_),
        first=first,
        end=first + np.array([len(target.rules) for target in targets], np.int64),
    )


@inline
def comes_before(entries, left, right):  # type: ignore[no-untyped-def]
    """Whether an entry is smaller than another by (event time, topic, offset, index)."""
    if entries[left].ts != entries[right].ts:
        return entries[left].ts < entries[right].ts
    if entries[left].source != entries[right].source:
        return entries[left].source < entries[right].source
    if entries[left].offset != entries[right].offset:
        return entries[left].offset < entries[right].offset
    return entries[left].index < entries[right].index


@inline
def is_undone(entries, head, entry, undo, named, until):  # type: ignore[no-untyped-def]
    """Whether feedback that has taken effect by `until` undoes the entry, whichever of the two was read first."""
    other = head
    while other >= 0:
        if entries[other].use == undo and entries[other].at <= until:
            if named:
                if np.uint64(entries[other].bits) == entries[entry].feedback_id:
                    return True
            elif entries[entry].ts <= entries[other].ts:
                return True
        other = entries[other].next
    return False


@inline
def gather_rule(entries, head, use, undo, named, until, order):  # type: ignore[no-untyped-def]
    """The rule's feedback that counts, in order, to the front of `order`; returns how many."""
    count, entry = 0, head
    while entry >= 0:
        counts = entries[entry].use == use and entries[entry].at <= until and count < len(order)
        if counts and (undo < 0 or not is_undone(entries, head, entry, undo, named, until)):
            place = count
            while place > 0 and comes_before(entries, entry, order[place - 1]):
                order[place] = order[place - 1]
                place -= 1
            order[place] = entry
            count += 1
        entry = entries[entry].next
    return count


@inline
def is_less(left, right, is_float):  # type: ignore[no-untyped-def]
    """Whether a value's bits are the smaller value's."""
    if is_float:
        return float_of(left) < float_of(right)
    return left < right


@inline
def float_of(bits):  # type: ignore[no-untyped-def]
    """The float64 of 8 bytes."""
    return np.int64(bits).view(np.float64)


@inline
def bits_of_float(value):  # type: ignore[no-untyped-def]
    """The 8 bytes of a float64."""
    return np.float64(value).view(np.int64)


@inline
def add(left, right, is_float):  # type: ignore[no-untyped-def]
    """The sum's bits; whole numbers stay within 64 bits."""
    if is_float:
        return bits_of_float(float_of(left) + float_of(right))
    total = left + right
    if right > 0 and total < left:
        return np.int64(_INT_MAX)
    if right < 0 and total > left:
        return np.int64(-_INT_MAX - 1)
    return total


@inline
def taken(entries, order, count, take, is_float):  # type: ignore[no-untyped-def]
    """What `count` feedback in order come to: the place in `order` of the one that says when, and the value's bits.

    A sum or a count became what it is with the last of them.
    """
    place = count - 1 if take == _LAST or take >= _SUM else 0
    bits = entries[order[place]].bits
    if take in (_MAX, _MIN):
        for i in range(1, count):
            other = entries[order[i]].bits
            if is_less(bits, other, is_float) if take == _MAX else is_less(other, bits, is_float):
                place, bits = i, other
    elif take == _COUNT:
        bits = bits_of_float(np.float64(count)) if is_float else np.int64(count)
    elif take == _SUM:
        bits = entries[order[0]].bits
        for i in range(1, count):
            bits = add(bits, entries[order[i]].bits, is_float)
    return place, bits


@inline
def free_chain(rows, row, entries, counts):  # type: ignore[no-untyped-def]
    """Give back a row's matched feedback."""
    entry = rows[row].head
    while entry >= 0:
        after = entries[entry].next
        entries[entry].next = np.int32(counts[FREE_HEAD])
        counts[FREE_HEAD] = entry
        counts[ENTRIES_FREE] += 1
        counts[ENTRIES] -= 1
        entry = after
    rows[row].head = NONE


@kernel(types.int64(ROW_TABLE, MATCH_TABLE, RULE_TABLE, I64, I64, types.boolean, CHOSEN_OUT, USED_OUT))
def choose(table, match, rules, handles, until, free, chosen, used):  # type: ignore[no-untyped-def]
    """Each target's label of each row by the feedback in effect at `until`, and what was used; how many were.

    The strongest rule with feedback decides. free: give the rows' feedback back.
    """
    rows, entries, counts = borrow(table.rows), borrow(match.entries), borrow(match.counts)
    scratch = np.empty(match.per_row_max, np.int64)
    order = borrow(scratch)
    count, total = len(handles), 0
    used.first[0] = 0
    for i in range(count):
        row = handles[i]
        head = np.int64(rows[row].head)
        single = head >= 0 and entries[head].next < 0
        for target in range(len(rules.first)):
            at = target * count + i
            chosen.use[at] = NONE
            chosen.event_time[at] = chosen.delay[at] = chosen.bits[at] = 0
            if head < 0:
                continue
            for use in range(rules.first[target], rules.end[target]):
                undo = np.int64(rules.undone_by[use])
                named = undo >= 0 and rules.named[undo]
                if single:  # as most are: nothing to compare it with, nothing that undoes it
                    order[0] = head
                    found = np.int64(entries[head].use == use and entries[head].at <= until[i])
                else:
                    found = gather_rule(entries, head, use, undo, named, until[i], order)
                if found == 0:
                    continue
                place, bits = taken(entries, order, found, rules.take[use], rules.is_float[use])
                chosen.use[at] = use
                chosen.event_time[at] = entries[order[place]].ts
                chosen.delay[at] = entries[order[place]].ts - rows[row].ts
                chosen.bits[at] = bits
                several = rules.take[use] >= _SUM
                for k in range(0 if several else place, found if several else place + 1):
                    used.target[total] = target
                    used.source[total] = entries[order[k]].source
                    used.ts[total] = entries[order[k]].ts
                    used.offset[total] = entries[order[k]].offset
                    used.within[total] = entries[order[k]].index
                    total += 1
                break
        used.first[i + 1] = total
        if free and head >= 0:
            free_chain(rows, row, entries, counts)
    return total


def certain_after(settings: JoinSettings) -> NDArray[np.int64]:
    """int64[uses]: how long after the prediction nothing can change an explicit label by this rule any more.

    All stronger rules' windows have ended, and its own unless the first feedback decides; what can be undone is certain
    only at the close.
    """
    found = np.zeros(len(settings.uses), np.int64)
    for number, use in enumerate(settings.uses):
        target = settings.targets[use.target]
        if use.undoes >= 0:
            continue
        stronger = max((rule.window_ms for rule in target.rules[: use.rule]), default=0)
        own = 0 if use.take == "first" else use.window_ms
        found[number] = target.window_ms if use.undone_by >= 0 else max(stronger, own)
    return found
