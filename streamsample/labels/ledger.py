"""The books of the join: where every row and every feedback went, exactly, per target (A18)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.errors import InvariantError
from streamsample.records import Int64s

# Columns of `Ledger.rows`.
ROWS_IN: Final = 0
EXPLICIT: Final = 1
IMPLICIT: Final = 2
OPEN: Final = 3
ROW_SILENT: Final = 4
ROW_UNCOVERED: Final = 5
ROW_LIMIT: Final = 6
ROW_COLUMNS: Final = ("rows_in", "explicit", "implicit", "open", "silent", "uncovered", "limit")
"""The last three are the reasons of dropped{reason}."""

# Columns of `Ledger.feedback`.
FEEDBACK_IN: Final = 0
MATCHED: Final = 1
DUPLICATE: Final = 2
ORPHAN: Final = 3
LATE: Final = 4
PRE_CAUSAL: Final = 5
WAITING: Final = 6
NOT_SAMPLED: Final = 7
NO_VALUE: Final = 8
FEEDBACK_LIMIT: Final = 9
FEEDBACK_COLUMNS: Final = (
    "feedback_in",
    "matched",
    "duplicate",
    "orphan",
    "late",
    "pre_causal",
    "waiting",
    "not_sampled",
    "no_value",
    "limit",
)
"""The last two are the reasons of dropped{reason}."""

# Elements of `Ledger.predictions`.
PREDICTIONS_IN: Final = 0
PREDICTIONS_DUPLICATE: Final = 1
PREDICTIONS_LATE: Final = 2
PREDICTION_COLUMNS: Final = ("predictions_in", "duplicate", "late")


class Ledger:
    """Counters since the job began, as arrays that the step adds to.

    uses: for each use of a feedback the index of its target. rows: int64[targets, len(ROW_COLUMNS)]; feedback:
    int64[uses, len(FEEDBACK_COLUMNS)]: each feedback is booked once for every use; predictions:
    int64[len(PREDICTION_COLUMNS)]. labels: int64[uses], explicit labels at the close, by the
    rule that gave them; moved: as rows, what corrections have added and taken since the close.
    """

    __slots__ = ("feedback", "labels", "moved", "predictions", "rows", "targets", "uses")

    def __init__(self, targets: tuple[str, ...], uses: tuple[int, ...]) -> None:
        self.targets = targets
        self.uses = uses
        self.rows: NDArray[np.int64] = np.zeros((len(targets), len(ROW_COLUMNS)), np.int64)
        self.feedback: NDArray[np.int64] = np.zeros((len(uses), len(FEEDBACK_COLUMNS)), np.int64)
        self.predictions: Int64s = np.zeros(len(PREDICTION_COLUMNS), np.int64)
        self.labels: Int64s = np.zeros(len(uses), np.int64)
        self.moved: NDArray[np.int64] = np.zeros_like(self.rows)

    def copy(self) -> Ledger:
        """The same counts, independent of this one."""
        other = Ledger(self.targets, self.uses)
        other.rows[:] = self.rows
        other.feedback[:] = self.feedback
        other.predictions[:] = self.predictions
        other.labels[:] = self.labels
        other.moved[:] = self.moved
        return other

    def row_counts(self, target: int) -> dict[str, int]:
        """One target's rows by ROW_COLUMNS."""
        return {name: int(count) for name, count in zip(ROW_COLUMNS, self.rows[target], strict=True)}

    def feedback_counts(self, use: int) -> dict[str, int]:
        """One use's feedback by FEEDBACK_COLUMNS."""
        return {name: int(count) for name, count in zip(FEEDBACK_COLUMNS, self.feedback[use], strict=True)}

    def check(self, open_rows: int, waiting: Int64s) -> None:
        """Hold the books against themselves and against what is really held.

        open_rows: rows held open now. waiting: int64[uses], feedback waiting now for each use.
        Raises InvariantError naming the target and the counts.
        """
        if self.rows.min() < 0 or self.feedback.min() < 0 or self.predictions.min() < 0:
            raise InvariantError("a counter is negative", remedy="this is a bug: please report it with the job file")
        entered, duplicate, late = (int(count) for count in self.predictions)
        for target, name in enumerate(self.targets):
            rows = self.rows[target]
            laws = {
                "rows in = explicit + implicit + open + dropped": rows[ROWS_IN] == rows[1:].sum(),
                "open = rows held open": rows[OPEN] == open_rows,
                # a target that came later has not seen the rows settled before it
                "predictions in >= rows in + duplicate + late": entered >= rows[ROWS_IN] + duplicate + late,
            }
            _hold(name, laws, f"{self.row_counts(target)}, open {open_rows}")
        for use, target in enumerate(self.uses):
            feedback = self.feedback[use]
            laws = {
                "feedback in = matched + duplicate + orphan + late + pre_causal + waiting + not_sampled + dropped": (
                    feedback[FEEDBACK_IN] == feedback[1:].sum()
                ),
                "waiting = feedback held waiting": feedback[WAITING] == waiting[use],
            }
            _hold(self.targets[target], laws, f"{self.feedback_counts(use)}, waiting {int(waiting[use])}")


def _hold(target: str, laws: dict[str, bool], counts: str) -> None:
    for law, holds in laws.items():
        if not holds:
            raise InvariantError(
                f"target {target}: {law} is broken: {counts}",
                remedy="this is a bug, or damaged memory: stop, and restore from the changelog",
            )
