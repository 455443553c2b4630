"""What is kept of sampled records while their window is open: their columns and bytes, by row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsample.gather import packed
from streamsample.records import Int64s, Spans

ROW_BYTES = 32
"""Of a row beside its id, stratum and payload."""


@dataclass(frozen=True, slots=True)
class RowColumns:
    """n records. ts: event times in ms; offset: in the input's partition; index: in the record there; schema: of the
    payload; split: which part; ids, payload: bytes; stratum: null without.
    """

    ts: Int64s
    offset: Int64s
    index: NDArray[np.int16]
    schema: NDArray[np.int16]
    split: NDArray[np.int8]
    ids: Spans
    stratum: Spans
    payload: Spans

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: Int64s) -> RowColumns:
        """The records at `rows`, over the same buffers."""
        return RowColumns(*(_taken(getattr(self, column.name), rows) for column in fields(self)))

    def row_bytes(self) -> Int64s:
        """What each takes, int64[n]."""
        spans = (self.ids, self.stratum, self.payload)
        return sum((np.maximum(column.size, 0).astype(np.int64) for column in spans), np.full(len(self), ROW_BYTES))

    def packed(self) -> RowColumns:
        """The same over buffers that hold nothing else."""
        return RowColumns(*(_packed(getattr(self, column.name)) for column in fields(self)))

    @staticmethod
    def empty() -> RowColumns:
        """No records."""
        long, null = np.empty(0, np.int64), Spans.nulls(0)
        short = np.empty(0, np.int16)
        return RowColumns(long, long, short, short, np.empty(0, np.int8), null, null, null)

    @staticmethod
    def concat(parts: Sequence[RowColumns]) -> RowColumns:
        """All records of `parts`, at least one, in order."""
        columns = ([getattr(part, column.name) for part in parts] for column in fields(RowColumns))
        return RowColumns(*(_joined(column) for column in columns))


class KeptRows:
    """Rows by ascending numbers. Those that nobody needs any more are let go when they outweigh the others."""

    _SLACK = 4_096

    def __init__(self) -> None:
        self._parts: list[RowColumns] = []
        self.end = 0
        """The number that the next row gets."""

    def add(self, rows: RowColumns) -> None:
        """Keep copies of n rows, numbered from `end` on."""
        if len(rows):
            self._parts.append(rows.packed())
            self.end += len(rows)

    def crowded(self, needed: int) -> bool:
        """Whether `shrink` is worth its work when `needed` rows are needed."""
        return self.end > 2 * needed + self._SLACK

    def get(self, numbers: Int64s) -> RowColumns:
        """The rows of these numbers, in their order."""
        if not self._parts:
            return RowColumns.empty()
        if len(self._parts) > 1:
            self._parts = [RowColumns.concat(self._parts)]
        return self._parts[0].take(numbers)

    def shrink(self, needed: Int64s) -> None:
        """Keep only these rows (ascending, without repetition); they are numbered 0, 1, ... from now on."""
        rows = self.get(needed)
        self._parts, self.end = [], 0
        self.add(rows)

    def bytes_used(self) -> int:
        """Bytes of the ids, strata and payloads held."""
        return sum(
            len(part.ids.buffer) + len(part.stratum.buffer) + len(part.payload.buffer) + ROW_BYTES * len(part)
            for part in self._parts
        )


def _taken(column: Any, rows: Int64s) -> Any:
    return column.take(rows) if isinstance(column, Spans) else column[rows]


def _packed(column: Any) -> Any:
    if not isinstance(column, Spans):
        return np.ascontiguousarray(column)
    return packed(column.buffer, column.start, column.size)


def _joined(columns: list[Any]) -> Any:
    return Spans.concat(columns) if isinstance(columns[0], Spans) else np.concatenate(columns)
