"""What changed in a windowed sample between two commits, and its binary form in the changelog (see `snapshots`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Float64s, Int32s, Int64s, Spans
from streamsample.sampling import snapshots
from streamsample.sampling.candidate import CANDIDATE
from streamsample.sampling.kept_rows import RowColumns

_KIND = "windows"
_INT, _BYTES = np.dtype(np.int64), np.dtype(np.uint8)
_ROW_TYPES: dict[str, tuple[np.dtype[Any], ...]] = {
    **dict.fromkeys(("ts", "offset", "window"), (_INT,)),
    "place": (np.dtype(np.int32),),
    "schema": (np.dtype(np.int16),),
    "split": (np.dtype(np.int8),),
    **dict.fromkeys(("ids", "stratum", "payload"), (np.dtype(np.int32), _BYTES)),
}


@dataclass(frozen=True, slots=True)
class GroupColumns:
    """Groups that had records, g of them. n: all the records each has had; threshold: τ, infinite where none was left
    out.
    """

    window: Int64s
    place: Int32s
    n: Int64s
    threshold: Float64s


@dataclass(frozen=True, slots=True)
class WindowDelta:
    """One commit's change.

    needed_until: a restore whose watermark is larger needs nothing of this. groups: absolute, of several deltas the
    newest counts.
    candidates: structured array of `CANDIDATE`, those that no earlier delta has; rows: what is kept of each, in the
    same order.
    """

    watermark: int
    needed_until: int
    groups: GroupColumns
    candidates: NDArray[np.void]
    rows: RowColumns

    @property
    def elements(self) -> int:
        """Candidates and groups."""
        return len(self.candidates) + len(self.groups.window)


def encode_window_delta(delta: WindowDelta) -> bytes:
    """The delta in its binary form."""
    arrays: list[NDArray[Any]] = [getattr(delta.groups, column.name) for column in fields(GroupColumns)]
    arrays.append(delta.candidates)
    rows = delta.rows.packed()
    for column in fields(RowColumns):
        value = getattr(rows, column.name)
        arrays += [value.size, value.buffer] if isinstance(value, Spans) else [value]
    numbers = {"watermark": delta.watermark, "needed_until": delta.needed_until}
    return snapshots.pack(_KIND, (), numbers, arrays)


def decode_window_delta(data: bytes) -> WindowDelta:
    """The delta of a binary form. Raises StateError when it is damaged."""
    dtypes: list[np.dtype[Any]] = [_INT, np.dtype(np.int32), _INT, np.dtype(np.float64), CANDIDATE]
    dtypes += [dtype for column in fields(RowColumns) for dtype in _ROW_TYPES[column.name]]
    numbers, arrays = snapshots.unpack(_KIND, (), data, dtypes)
    groups, candidates, rows = GroupColumns(*arrays[:4]), arrays[4], _rows(arrays[5:])
    return WindowDelta(numbers["watermark"], numbers["needed_until"], groups, candidates, rows)


def _rows(arrays: list[NDArray[Any]]) -> RowColumns:
    left = iter(arrays)
    columns: list[Any] = []
    for column in fields(RowColumns):
        first = next(left)
        if len(_ROW_TYPES[column.name]) == 1:
            columns.append(first)
            continue
        room = np.maximum(first, 0).astype(np.int64)
        columns.append(Spans(next(left), np.cumsum(room) - room, first))
    return RowColumns(*columns)
