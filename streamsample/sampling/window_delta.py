"""What changed in a windowed sample between two commits, and its binary form in the changelog (see `snapshots`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.records import Spans
from streamsample.sampling import snapshots
from streamsample.sampling.candidate import CANDIDATE
from streamsample.sampling.kept_rows import RowColumns
from streamsample.sampling.window_columns import GroupColumns, WindowPart

_KIND = "windows"
_INT, _BYTES = np.dtype(np.int64), np.dtype(np.uint8)
_GROUP_TYPES: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(("window", "n", "kept", "sums"), _INT),
    "place": np.dtype(np.int32),
    "threshold": np.dtype(np.float64),
}
_ROW_TYPES: dict[str, tuple[np.dtype[Any], ...]] = {
    **dict.fromkeys(("ts", "offset"), (_INT,)),
    **dict.fromkeys(("index", "schema"), (np.dtype(np.int16),)),
    "split": (np.dtype(np.int8),),
    **dict.fromkeys(("ids", "stratum", "payload"), (np.dtype(np.int32), _BYTES)),
}


@dataclass(frozen=True, slots=True)
class WindowDelta:
    """One commit's change.

    needed_until: a restore whose watermark is larger needs nothing of this. part: the groups that changed, absolute, of
    several deltas the newest counts; and of their candidates those that no earlier delta has. read: how many records
    the sample had been shown, where its windows are of so many records.
    """

    watermark: int
    needed_until: int
    part: WindowPart
    read: int = 0

    @property
    def elements(self) -> int:
        """Candidates and groups."""
        return len(self.part) + len(self.part.groups.window)


def encode_window_delta(delta: WindowDelta) -> bytes:
    """The delta in its binary form."""
    width = delta.part.groups.sums.shape[1]
    numbers = {"watermark": delta.watermark, "needed_until": delta.needed_until, "sums": width, "read": delta.read}
    return snapshots.pack(_KIND, (), numbers, _arrays(delta.part))


def decode_window_delta(data: bytes) -> WindowDelta:
    """The delta of a binary form. Raises StateError when it is damaged."""
    numbers, arrays = snapshots.unpack(_KIND, (), data, _dtypes())
    part = _part(arrays, numbers["sums"])
    return WindowDelta(numbers["watermark"], numbers["needed_until"], part, numbers["read"])


def _arrays(part: WindowPart) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = [getattr(part.groups, column.name) for column in fields(GroupColumns)]
    arrays.append(part.candidates)
    rows = part.rows.packed()
    for column in fields(RowColumns):
        value = getattr(rows, column.name)
        arrays += [value.size, value.buffer] if isinstance(value, Spans) else [value]
    return arrays


def _dtypes() -> list[np.dtype[Any]]:
    groups = [_GROUP_TYPES[column.name] for column in fields(GroupColumns)]
    return [*groups, CANDIDATE, *(dtype for column in fields(RowColumns) for dtype in _ROW_TYPES[column.name])]


def _part(arrays: list[NDArray[Any]], width: int) -> WindowPart:
    count = len(fields(GroupColumns))
    groups, candidates, rows = arrays[:count], arrays[count], arrays[count + 1 :]
    groups[-1] = groups[-1].reshape(len(groups[0]), width)
    return WindowPart(GroupColumns(*groups), candidates, _rows(rows))


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
