"""Samples of fixed size per tumbling window of event time and stratum, of one task's records.

Pure: arrays in, columns out. A window [w·size, (w+1)·size) closes once the watermark has passed its end and the grace;
its sample is final then, and its memory is free. What the sample is depends on the set of its records alone: on neither
their order nor what was read in between (see `bottom_k`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from heapq import heappop, heappush

import numpy as np

from streamsample.errors import InvariantError, StateError
from streamsample.records import Bools, Float64s, Int32s, Int64s, Spans
from streamsample.sampling.bottom_k import BottomK
from streamsample.sampling.kept_rows import KeptRows, RowColumns
from streamsample.sampling.ranks import decayed, probabilities
from streamsample.sampling.strata import Places
from streamsample.sampling.window_columns import Details, Drawn, Offered, WindowSettings
from streamsample.sampling.window_delta import GroupColumns, WindowDelta

_NEVER = -(2**62)


class WindowedSample:
    """The windowed sample of one task. Not thread-safe; deterministic."""

    def __init__(self, settings: WindowSettings) -> None:
        self.settings = settings
        self.watermark = _NEVER
        self._places = Places(settings.strata, settings.others) if settings.strata or settings.others else None
        self._candidates = BottomK(settings.k, settings.law)
        self._kept = KeptRows()
        self._group_of: dict[int, dict[int, int]] = {}
        """The group of each open window and place."""
        self._by_time: list[int] = []
        """The open windows, a heap: closing looks at what closes only."""
        self._n = np.empty(0, np.int64)
        self._changed: set[int] = set()
        """Groups that had records since the last delta."""
        self._saved = 0
        """Rows before this number are in an earlier delta."""

    @property
    def open_windows(self) -> int:
        """Windows that have records and are not closed."""
        return len(self._group_of)

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
        window = offered.ts // self.settings.window_ms
        late: Bools = window < self._first_open()
        rows = np.flatnonzero(~late)
        if len(rows):
            self._take(offered, window, rows, details)
        return late

    def on_watermark(self, watermark: int) -> Drawn | None:
        """Close the windows whose end and grace lie before the watermark; their samples, or None if none closed."""
        self.watermark = max(self.watermark, watermark)
        first, closing = self._first_open(), list[int]()
        while self._by_time and self._by_time[0] < first:
            closing.append(heappop(self._by_time))
        return self._close(closing) if closing else None

    def next_deadline(self) -> int | None:
        """The watermark up to which (inclusive) nothing closes. None: no window is open."""
        if not self._by_time:
            return None
        return (self._by_time[0] + 1) * self.settings.window_ms + self.settings.grace_ms

    def rewrite(self) -> None:
        """Put everything that is held into the next delta again, so that older ones can go."""
        self._saved = 0
        self._changed = {group for groups in self._group_of.values() for group in groups.values()}

    def snapshot_delta(self) -> WindowDelta:
        """What changed since the last call (or since `restore`): it costs what changed, not what is open."""
        if self._kept.crowded(self.held):
            self._let_go()
        window, place, group = self._open_groups(sorted(self._group_of), self._changed)
        self._changed = set()
        _, threshold, candidates = self._candidates.gather(group)
        fresh = candidates[candidates["row"] >= self._saved]
        self._saved = self._kept.end
        ends = (window + 1) * self.settings.window_ms + self.settings.grace_ms
        return WindowDelta(
            watermark=self.watermark,
            needed_until=int(ends.max(initial=_NEVER)),
            groups=GroupColumns(window, place, self._n[group], threshold),
            candidates=fresh,
            rows=self._kept.get(fresh["row"]),
        )

    def restore(self, deltas: Sequence[WindowDelta]) -> None:
        """Rebuild the state from deltas, oldest first, into a fresh object."""
        if self._group_of or self._kept.end:
            raise InvariantError("restore into a sample that is in use", remedy="restore into a fresh WindowedSample")
        if not deltas:
            return
        self.watermark = deltas[-1].watermark
        window, place, n, threshold = self._newest(deltas)
        group = self._groups(window, place)
        self._n[group] = n
        candidates = np.concatenate([delta.candidates for delta in deltas])
        rows = RowColumns.concat([delta.rows for delta in deltas])
        # What was displaced since has a rank above the threshold; what was written twice is united.
        number = _positions(window, place, rows.window, rows.place)
        order = np.lexsort([*(candidates[name] for name in ("position", "source", "unit", "rank")), number])
        order = order[np.searchsorted(number[order], 0) :]
        self._kept.add(rows.take(order))
        candidates = candidates[order]
        candidates["row"] = np.arange(len(order))
        count = np.bincount(number[order], minlength=len(group))
        self._candidates.absorb(group, count, threshold, candidates)
        self._saved, self._changed = self._kept.end, set()

    def _newest(self, deltas: Sequence[WindowDelta]) -> tuple[Int64s, Int32s, Int64s, Float64s]:
        """Window, place, n and threshold of all groups whose windows are open, as the newest delta has each."""
        names = ("window", "place", "n", "threshold")
        window, place, n, threshold = (
            np.concatenate([getattr(delta.groups, name) for delta in deltas])[::-1] for name in names
        )
        _, newest = np.unique(np.stack([window, place]), axis=1, return_index=True)
        newest = newest[window[newest] >= self._first_open()]
        return window[newest], place[newest], n[newest], threshold[newest]

    # -- taking -----------------------------------------------------------------------------------

    def _take(self, offered: Offered, window: Int64s, rows: Int64s, details: Callable[[Int64s], Details]) -> None:
        window = window[rows]
        stratum = None if offered.stratum is None else offered.stratum.take(rows)
        place = np.zeros(len(rows), np.int32)
        if self._places is not None and stratum is not None:
            place = self._places.of(stratum)
        group = self._groups(window, place)
        self._n += np.bincount(group, minlength=len(self._n))
        unit, weight = offered.unit[rows], offered.weight[rows]
        eligible = np.flatnonzero(weight > 0)
        if self.settings.half_life_ms is not None:
            since = (offered.ts[rows] - window * self.settings.window_ms).astype(np.float64)
            weight = decayed(weight, since, self.settings.half_life_ms)
        near = eligible[self._candidates.near(group[eligible], unit[eligible], weight[eligible])]
        if not len(near):
            return
        chosen = rows[near]
        more = details(chosen)
        begin = self._kept.end
        self._kept.add(
            RowColumns(
                ts=offered.ts[chosen],
                offset=offered.offset[chosen],
                window=window[near],
                place=place[near],
                schema=more.schema,
                split=more.split,
                ids=offered.ids.take(chosen),
                stratum=Spans.nulls(len(near)) if stratum is None else stratum.take(near),
                payload=more.payload,
            )
        )
        offset = offered.offset[chosen]
        numbers = np.arange(begin, self._kept.end)
        source = np.zeros(len(near), np.int64)
        self._candidates.update(group[near], unit[near], weight[near], source, offset, numbers)
        if self._kept.crowded(self.held):
            self._let_go()

    def _let_go(self) -> None:
        """Forget the bytes of rows that are no candidates any more."""
        rows = self._candidates.rows()
        needed = np.zeros(self._kept.end, np.bool_)
        needed[rows] = True
        number = np.cumsum(needed) - 1
        self._saved = int(np.count_nonzero(needed[: self._saved]))
        self._kept.shrink(np.flatnonzero(needed))
        self._candidates.renumber(number[rows])

    def _first_open(self) -> int:
        return (self.watermark - self.settings.grace_ms - 1) // self.settings.window_ms

    # -- groups -----------------------------------------------------------------------------------

    def _groups(self, window: Int64s, place: Int32s) -> Int32s:
        """The group of each window and place, made where it is missing. int32[n]."""
        if not len(window):
            return np.empty(0, np.int32)
        places = 1 if self._places is None else len(self._places)
        low = int(window.min())
        code = (window - low) * places + place
        most = (int(window.max()) - low + 1) * places
        if most < 4 * len(code) + 65_536:
            met = np.flatnonzero(np.bincount(code, minlength=most))
            table = np.zeros(most, np.int32)
            table[met] = self._of_codes(met, low, places)
            found: Int32s = table[code]
            return found
        met, inverse = np.unique(code, return_inverse=True)
        return self._of_codes(met, low, places)[inverse]

    def _of_codes(self, codes: Int64s, low: int, places: int) -> Int32s:
        pairs = [(low + code // places, code % places) for code in codes.tolist()]
        missing = [(window, place) for window, place in pairs if place not in self._group_of.get(window, ())]
        for (window, place), group in zip(missing, self._candidates.open(len(missing)).tolist(), strict=True):
            if window not in self._group_of:
                self._group_of[window] = {}
                heappush(self._by_time, window)
            self._group_of[window][place] = group
        found = np.array([self._group_of[window][place] for window, place in pairs], np.int32)
        self._changed.update(found.tolist())
        if len(self._group_of) > self.settings.windows_max:
            raise StateError(
                f"{len(self._group_of):,} windows are open, limits.windows_max is {self.settings.windows_max:,}",
                remedy="make the windows longer, or look for what holds the watermark back",
            )
        if len(found) and found.max() >= len(self._n):
            self._n = np.concatenate([self._n, np.zeros(found.max() + 1 - len(self._n), np.int64)])
        return found

    def _open_groups(
        self, windows: Sequence[int], among: Container[int] | None = None
    ) -> tuple[Int64s, Int32s, Int32s]:
        """Window, place and group of the groups of these windows, all or those `among`, by window and place."""
        each = [(w, p, g) for w in windows for p, g in sorted(self._group_of[w].items()) if among is None or g in among]
        columns = np.array(each, np.int64).reshape(-1, 3).T
        return columns[0].copy(), columns[1].astype(np.int32), columns[2].astype(np.int32)

    def _close(self, windows: Sequence[int]) -> Drawn:
        _, places, groups = self._open_groups(windows)
        counts, thresholds, records = self._candidates.gather(groups)
        threshold = np.repeat(thresholds, counts)
        rows = self._kept.get(records["row"]).packed()
        drawn = Drawn(
            rows=rows,
            probability=probabilities(self.settings.law, threshold, records["weight"]),
            threshold=np.where(np.isfinite(threshold), threshold, np.nan),
            n=np.repeat(self._n[groups], counts),
            k=np.full(len(records), self.settings.k),
            settled_at=(rows.window + 1) * self.settings.window_ms + self.settings.grace_ms,
            places=places,
            seen=self._n[groups],
            kept=counts,
        )
        self._candidates.close(groups)
        self._changed.difference_update(groups.tolist())
        self._n[groups] = 0
        for window in windows:
            del self._group_of[window]
        return drawn


def _positions(window: Int64s, place: Int32s, of_window: Int64s, of_place: Int32s) -> Int64s:
    """The index of each (of_window, of_place) among the pairs (window, place); -1 where it is none of them."""
    index = {pair: number for number, pair in enumerate(zip(window.tolist(), place.tolist(), strict=True))}
    pairs = zip(of_window.tolist(), of_place.tolist(), strict=True)
    return np.fromiter((index.get(pair, -1) for pair in pairs), np.int64, len(of_window))
