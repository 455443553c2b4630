"""What is held of tumbling windows of event time, by stratum, for samples of fixed size.

Pure: arrays in, columns out. A window [w·size, (w+1)·size) closes once the watermark has passed its end and the grace;
what is held of it is final then, and its memory is free. What that is depends on the set of its records alone: on
neither their order nor what was read in between (see `bottom_k`). The samples are made of it by `window_samples`.

Two kinds of windows are other. Those of so many records lie on the partition's count of records, in place of event
time, and without grace. And where the sample is of everything since the start, a window that closes is united with all
before it, and a copy of the whole is given.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import InvariantError, StateError
from streamsample.records import Bools, Float64s, Int32s, Int64s, Spans
from streamsample.sampling.bottom_k import BottomK
from streamsample.sampling.kept_rows import KeptRows, RowColumns
from streamsample.sampling.ranks import decayed
from streamsample.sampling.strata import Places
from streamsample.sampling.totals import WORDS, add_exactly, carry
from streamsample.sampling.window_columns import Details, GroupColumns, Offered, WindowPart, WindowSettings
from streamsample.sampling.window_delta import WindowDelta
from streamsample.sampling.window_kernels import count_pairs, look_up

if TYPE_CHECKING:
    from streamsample.sampling.draws import Draws

_NEVER = -(2**62)
_FOREVER = 2**62
_PLACE_BITS = 48
"""Of a record's place in its partition, by which of those of one time the first is found: the partition counts before
it, as long as offsets are below 2^33.
"""
_WHOLE = _NEVER
"""The window that all closed ones are united in, where the sample is of everything since the start."""


class WindowedSample:
    """The open windows of one task: of its partition's records, or of what all partitions hold. Not thread-safe;
    deterministic.
    """

    def __init__(self, settings: WindowSettings) -> None:
        self.settings = settings
        self.watermark = _NEVER
        self._places = Places(settings.strata, settings.others) if settings.strata or settings.others else None
        self._candidates = _candidates(settings)
        self._kept = KeptRows()
        self._group_of: dict[int, dict[int, int]] = {}
        """The group of each open window and place."""
        self._by_time: list[int] = []
        """The open windows, a heap: closing looks at what closes only."""
        self._size = settings.records or settings.window_ms
        self._read = 0
        """Records shown, where windows are of so many."""
        self._n = np.empty(0, np.int64)
        self._sums = [np.empty((0, WORDS), np.int64) for _ in range(settings.sums)]
        self._changed: set[int] = set()
        """Groups that had records since the last delta."""
        self._saved = 0
        """Rows before this number are in an earlier delta."""

    @property
    def open_windows(self) -> int:
        """Windows that have records and are not closed."""
        return len(self._by_time)

    @property
    def first_open(self) -> int:
        """The first window that the watermark has not passed, with the grace."""
        return (self.watermark - self.settings.grace_ms - 1) // self._size

    @property
    def held(self) -> int:
        """Candidates of all open windows."""
        return len(self._candidates)

    @property
    def elements(self) -> int:
        """What a delta of everything would hold: candidates, and the groups that they are in."""
        return self.held + sum(len(groups) for groups in self._group_of.values())

    def bytes_used(self) -> int:
        """Bytes of memory that the state takes."""
        return self._candidates.memory_bytes() + self._kept.bytes_used()

    def on_records(self, offered: Offered, details: Callable[[Int64s], Details]) -> Bools:
        """Take n records; which of them came after their window had closed, and were not counted: bool[n].

        details: gives what is to be kept of the records at some rows; few are asked for. Raises StateError when too
        many windows are open.
        """
        window = self._windows_of(offered)
        late: Bools = window < self.first_open
        if not late.any():
            self._take(offered, window, details)
        elif not late.all():
            rows = np.flatnonzero(~late)
            self._take(offered.take(rows), window[rows], lambda some: details(rows[some]))
        return late

    def on_part(self, part: WindowPart) -> None:
        """Unite with what another partition held of windows when they closed there. Each of its groups comes once.

        Raises StateError when too many windows are open.
        """
        if not len(part.groups.n):
            return
        candidates = part.candidates.copy()
        candidates["row"] = np.arange(self._kept.end, self._kept.end + len(part))
        self._kept.add(part.rows)
        self._unite(part.groups.window, part.groups, candidates)
        if self._kept.crowded(self.held):
            self._let_go()

    def on_watermark(self, watermark: int) -> WindowPart | None:
        """Close the windows whose end and grace lie before the watermark: what is held of them, None if none closed.

        watermark: at most `goal`.
        """
        self.watermark = max(self.watermark, watermark)
        first, closing = self.first_open, list[int]()
        while self._by_time and self._by_time[0] < first:
            closing.append(heappop(self._by_time))
        return self._close(closing) if closing else None

    def goal(self, watermark: int) -> int:
        """How far `on_watermark` may go at a watermark of event time: so far, or as far as records were counted."""
        return watermark if self.settings.records is None else self._read + 1

    def next_deadline(self) -> int | None:
        """The watermark up to which (inclusive) nothing closes. None: no window is open."""
        if not self._by_time:
            return None
        return (self._by_time[0] + 1) * self._size + self.settings.grace_ms

    def rewrite(self) -> None:
        """Put everything that is held into the next delta again, so that older ones can go."""
        self._saved = 0
        self._changed = {group for groups in self._group_of.values() for group in groups.values()}

    def snapshot_delta(self) -> WindowDelta:
        """What changed since the last call (or since `restore`): it costs what changed, not what is open."""
        if self._kept.crowded(self.held):
            self._let_go()
        _, part = self._part(sorted(self._group_of), self._changed, self._saved)
        self._changed, self._saved = set(), self._kept.end
        ends = (part.groups.window + 1) * self._size + self.settings.grace_ms
        needed = int(ends.max(initial=_NEVER))
        if self.settings.cumulative or self.settings.records:
            needed = _FOREVER  # until it is written again: its end is not one of event time
        return WindowDelta(self.watermark, needed, part, self._read)

    def restore(self, deltas: Sequence[WindowDelta]) -> None:
        """Rebuild the state from deltas, oldest first, into a fresh object."""
        if self._group_of or self._kept.end:
            raise InvariantError("restore into a sample that is in use", remedy="restore into a fresh WindowedSample")
        if not deltas:
            return
        self.watermark, self._read = deltas[-1].watermark, deltas[-1].read
        parts = [delta.part for delta in deltas]
        groups = GroupColumns.concat([part.groups for part in parts])
        newest, number = self._newest(groups)
        open_groups = groups.take(newest)
        group, _, _ = self._groups(open_groups.window, open_groups.place)
        self._n[group] = open_groups.n
        for sums, words in zip(self._sums, np.hsplit(open_groups.sums, len(self._sums) or 1), strict=False):
            sums[group] = words
        candidates = np.concatenate([part.candidates for part in parts])
        rows = RowColumns.concat([part.rows for part in parts])
        # What was displaced since has a rank above the threshold; what was written twice is united.
        number = np.repeat(number, groups.kept)
        order = np.lexsort([*(candidates[name] for name in ("position", "source", "unit", "rank")), number])
        order = order[np.searchsorted(number[order], 0) :]
        self._kept.add(rows.take(order))
        candidates = candidates[order]
        candidates["row"] = np.arange(len(order))
        count = np.bincount(number[order], minlength=len(group))
        self._candidates.absorb(group, count, open_groups.threshold, candidates)
        self._saved, self._changed = self._kept.end, set()

    def _newest(self, groups: GroupColumns) -> tuple[Int64s, Int64s]:
        """Where the newest of each group stands whose window is open, int64[m]; and of each of `groups`, which of those
        m it is, int64[g], -1 if its window has closed. Closed windows that were united are part of the whole.
        """
        pairs = np.stack([groups.window, groups.place])[:, ::-1]
        unique, last, inverse = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        whole = unique[0] == _WHOLE
        is_open = whole | (unique[0] >= self.first_open)
        number = np.where(is_open, np.cumsum(is_open) - 1, -1)
        united = dict(zip(unique[1][whole].tolist(), number[whole].tolist(), strict=True))
        if united:
            number[~is_open] = [united.get(place, -1) for place in unique[1][~is_open].tolist()]
        return len(groups.window) - 1 - last[is_open], number[inverse.reshape(-1)[::-1]]

    # -- taking -----------------------------------------------------------------------------------

    def _windows_of(self, offered: Offered) -> Int64s:
        if self.settings.records is None:
            return offered.ts // self._size
        number = np.arange(len(offered.ts))
        if self.settings.several and len(number):  # all strata of a record are one
            number = np.cumsum(np.diff(offered.positions(number), prepend=offered.positions(number[:1])) != 0)
        begin = self._read
        self._read += int(number[-1]) + 1 if len(number) else 0
        found: Int64s = (begin + number) // self._size
        return found

    def _unite(self, window: Int64s, groups: GroupColumns, candidates: NDArray[np.void]) -> None:
        """Add what was held of groups to those of `window` and the same places; each comes once."""
        group, _, _ = self._groups(window, groups.place)
        self._n[group] += groups.n
        for sums, more in zip(self._sums, np.hsplit(groups.sums, len(self._sums) or 1), strict=False):
            sums[group] += more
        self._candidates.absorb(group, groups.kept, groups.threshold, candidates)

    def _take(self, offered: Offered, window: Int64s, details: Callable[[Int64s], Details]) -> None:
        if not len(window):
            return
        place = np.zeros(len(window), np.int32)
        if self._places is not None and offered.stratum is not None:
            place = self._places.of(offered.stratum)
            if self.settings.several:
                rows = _once_each(offered.positions(np.arange(len(place))), place, len(self._places))
                offered, window, place = offered.take(rows), window[rows], place[rows]
                of_all, details = details, lambda some: of_all(rows[some])
        group, met, count = self._groups(window, place)
        self._n[met] += count
        for value, sums in zip(offered.values, self._sums, strict=True):
            add_exactly(value, group, sums)
        unit, weight = offered.unit, offered.weight
        never = weight <= 0
        if self.settings.half_life_ms is not None:
            since = (offered.ts - window * self._size).astype(np.float64)
            weight = decayed(weight, since, self.settings.half_life_ms)
        if self.settings.law == "first":
            weight = offered.ts.astype(np.float64)
            places = offered.positions(np.arange(len(offered.ts)))
            unit = np.uint64(offered.source << _PLACE_BITS) + places.astype(np.uint64)
        if never.any():
            some = np.flatnonzero(~never)
            near = some[self._candidates.near(group[some], unit[some], weight[some])]
        else:
            near = self._candidates.near(group, unit, weight)
        if len(near):
            self._keep(offered, near, group[near], unit[near], weight[near], details)

    def _keep(
        self,
        offered: Offered,
        chosen: Int64s,
        group: Int32s,
        unit: NDArray[np.uint64],
        weight: Float64s,
        details: Callable[[Int64s], Details],
    ) -> None:
        """Show the chosen records to their groups, and keep what is needed of those that stay."""
        begin, before = self._kept.end, self.held
        numbers = np.arange(begin, begin + len(chosen))
        source = np.full(len(chosen), offered.source)
        self._candidates.update(group, unit, weight, source, offered.positions(chosen), numbers)
        if len(chosen) > before:  # a window's first records: most have displaced each other
            chosen = chosen[self._survivors(begin)]
        more = details(chosen)
        self._kept.add(
            RowColumns(
                ts=offered.ts[chosen],
                offset=offered.offset[chosen],
                index=offered.index[chosen],
                schema=more.schema,
                split=more.split,
                ids=offered.ids.take(chosen),
                stratum=Spans.nulls(len(chosen)) if offered.stratum is None else offered.stratum.take(chosen),
                payload=more.payload,
            )
        )
        if self._kept.crowded(self.held):
            self._let_go()

    def _survivors(self, begin: int) -> Int64s:
        """Which of the rows numbered from `begin` on are held, int64[m], ascending; they are numbered anew."""
        rows = self._candidates.rows()
        fresh = rows >= begin
        stay = np.unique(rows[fresh])
        rows[fresh] = begin + np.searchsorted(stay, rows[fresh])
        self._candidates.renumber(rows)
        return stay - begin

    def _let_go(self) -> None:
        """Forget the bytes of rows that are no candidates any more."""
        rows = self._candidates.rows()
        needed = np.zeros(self._kept.end, np.bool_)
        needed[rows] = True
        number = np.cumsum(needed) - 1
        self._saved = int(np.count_nonzero(needed[: self._saved]))
        self._kept.shrink(np.flatnonzero(needed))
        self._candidates.renumber(number[rows])

    # -- groups -----------------------------------------------------------------------------------

    def _groups(self, window: Int64s, place: Int32s) -> tuple[Int32s, Int32s, Int64s]:
        """The group of each of n windows and places, int32[n], made where it is missing; and which groups these are,
        int32[g], each how often, int64[g].
        """
        if not len(window):
            return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)
        places = 1 if self._places is None else len(self._places)
        low = int(window.min())
        most = (int(window.max()) - low + 1) * places
        if most < 4 * len(window) + 65_536:
            counts, table, group = np.zeros(most, np.int64), np.empty(most, np.int32), np.empty(len(window), np.int32)
            count_pairs(window, place, low, places, counts)
            met = np.flatnonzero(counts)
            table[met] = groups = self._of_pairs(low + met // places, met % places)
            look_up(window, place, low, places, table, group)
            return group, groups, counts[met]
        windows, number = np.unique(window, return_inverse=True)
        met, inverse, count = np.unique(number * places + place, return_inverse=True, return_counts=True)
        groups = self._of_pairs(windows[met // places], met % places)
        return groups[inverse], groups, count

    def _of_pairs(self, windows: Int64s, places: Int64s) -> Int32s:
        pairs = list(zip(windows.tolist(), places.tolist(), strict=True))
        missing = [(window, place) for window, place in pairs if place not in self._group_of.get(window, ())]
        for (window, place), group in zip(missing, self._candidates.open(len(missing)).tolist(), strict=True):
            if window not in self._group_of:
                self._group_of[window] = {}
                if window != _WHOLE:
                    heappush(self._by_time, window)
            self._group_of[window][place] = group
        found = np.array([self._group_of[window][place] for window, place in pairs], np.int32)
        self._changed.update(found.tolist())
        if len(self._by_time) > self.settings.windows_max:
            raise StateError(
                f"{len(self._by_time):,} windows are open, limits.windows_max is {self.settings.windows_max:,}",
                remedy="make the windows longer, or look for what holds the watermark back",
            )
        if len(found) and found.max() >= len(self._n):
            more = int(found.max()) + 1 - len(self._n)
            self._n = np.concatenate([self._n, np.zeros(more, np.int64)])
            self._sums = [np.concatenate([sums, np.zeros((more, WORDS), np.int64)]) for sums in self._sums]
        return found

    def _part(
        self, windows: Sequence[int], among: Container[int] | None = None, since: int = 0
    ) -> tuple[Int32s, WindowPart]:
        """What is held of these windows, by window and place: of all groups or those `among`, of the rows from the
        number `since` on. And the groups.
        """
        each = [(w, p, g) for w in windows for p, g in sorted(self._group_of[w].items()) if among is None or g in among]
        window, place, group = np.array(each, np.int64).reshape(-1, 3).T.astype(np.int64, "C")
        groups = group.astype(np.int32)
        counts, threshold, candidates = self._candidates.gather(groups)
        if since:
            fresh = candidates["row"] >= since
            counts = np.bincount(np.repeat(np.arange(len(counts)), counts)[fresh], minlength=len(counts))
            candidates = candidates[fresh]
        columns = GroupColumns(window, place.astype(np.int32), self._n[groups], threshold, counts, self._words(groups))
        return groups, WindowPart(columns, candidates, self._kept.get(candidates["row"]))

    def _words(self, groups: Int32s) -> NDArray[np.int64]:
        """The words of the exact sums of some groups, int64[g, s], carried."""
        words = [np.empty((len(groups), 0), np.int64)]
        for sums in self._sums:
            words.append(sums[groups])
            carry(words[-1])
            sums[groups] = words[-1]
        return np.concatenate(words, axis=1)

    def _close(self, windows: Sequence[int]) -> WindowPart:
        if self.settings.cumulative:
            return WindowPart.concat([self._whole_with(window) for window in windows])
        groups, part = self._part(windows)
        part = replace(part, rows=part.rows.packed())  # what it lies in is let go
        self._forget(groups, windows)
        return part

    def _whole_with(self, window: int) -> WindowPart:
        """Unite a window with all before it; what is held of the whole, as of that window."""
        groups, part = self._part([window])
        self._unite(np.full(len(groups), _WHOLE), part.groups, part.candidates)
        self._forget(groups, [window])
        _, whole = self._part([_WHOLE])
        named = replace(whole.groups, window=np.full(len(whole.groups.window), window))
        return WindowPart(named, whole.candidates, whole.rows.packed())

    def _forget(self, groups: Int32s, windows: Sequence[int]) -> None:
        self._candidates.close(groups)
        self._changed.difference_update(groups.tolist())
        self._n[groups] = 0
        for sums in self._sums:
            sums[groups] = 0
        for window in windows:
            del self._group_of[window]


def _once_each(offset: Int64s, place: Int32s, places: int) -> Int64s:
    """Two strata of one record may share a place, in which it stands once, by the first of them: the rows, int64[m]."""
    record = np.cumsum(np.diff(offset, prepend=offset[:1]) != 0)
    return np.sort(np.unique(record * places + place, return_index=True)[1])


def _candidates(settings: WindowSettings) -> BottomK | Draws:
    if not settings.replacement:
        return BottomK(settings.candidates_max, settings.law)
    # Imported here: its kernels are compiled only for jobs that need them.
    from streamsample.sampling.draws import Draws

    return Draws(settings.k)
