"""What a feedback says: the labels of rules, and the ids of what it undoes, as the 8-byte bits that the join keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsample.formats.projection import Field, Projection
from streamsample.hashing import hash64
from streamsample.records import Bools, Int64s, Spans

FEEDBACK_ID_SEED = 1
_CLASS_SEED = 2


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """Where a rule's label is in its feedback: a constant's bits, or a field.

    field: "integer" or "number"; "text" with `codes` (the label is the place among them), or without: the field is the
    id of the feedback undone, and its hash is what the join compares.
    """

    constant: int
    field: Field | None
    codes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The field's path; empty for a constant."""
        return "" if self.field is None else self.field.path

    def read(self, projection: Projection, rows: Int64s) -> tuple[Int64s, Bools | None]:
        """The 8-byte bits of m labels, int64[m], and whether there is one, bool[m] (None: always)."""
        if self.field is None:
            return np.full(len(rows), self.constant, np.int64), None
        path = self.field.path
        if self.field.kind == "text":
            texts = projection.text(path).take(rows)
            known: Bools = texts.size >= 0
            return (self._coded(texts) if self.codes else _references(texts)), known
        column = projection.integer(path) if self.field.kind == "integer" else projection.number(path)
        values = column.values[rows]
        bits = values if values.dtype == np.int64 else values.view(np.int64)
        return np.asarray(bits, np.int64), column.valid[rows]

    def unusable(self, projection: Projection, rows: Int64s) -> Bools | None:
        """Where the label is not a number, infinite or no class, bool[m]; None if it cannot be."""
        if self.field is None:
            return None
        if self.field.kind == "number":
            return ~np.isfinite(projection.number(self.field.path).values[rows])
        if not self.codes:
            return None
        texts = projection.text(self.field.path).take(rows)
        return np.asarray((texts.size >= 0) & (self._coded(texts) < 0))

    @property
    def needed(self) -> str:
        """What `unusable` labels are not."""
        return f"one of {', '.join(self.codes)}" if self.codes else "a finite number"

    def _coded(self, texts: Spans) -> Int64s:
        """Each text's place among the codes, -1 for another one."""
        found = np.full(len(texts), -1, np.int64)
        hashes = hash64(Spans(texts.buffer, texts.start, np.maximum(texts.size, 0)), _CLASS_SEED)
        names = Spans.of([code.encode() for code in self.codes])
        for code, name in enumerate(hash64(names, _CLASS_SEED)):
            found[(hashes == name) & (texts.size == names.size[code])] = code
        return found


def _references(texts: Spans) -> Int64s:
    hashes = hash64(Spans(texts.buffer, texts.start, np.maximum(texts.size, 0)), FEEDBACK_ID_SEED)
    return hashes.view(np.int64)
