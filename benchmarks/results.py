"""What was measured: one row per figure, printed as a table and written to benchmarks/results.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

PATH = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached: of the value itself, or of its ratio to the reference."""

    of: Literal["value", "ratio"]
    bound: Literal[">=", "<=", "<"]
    number: float

    def __str__(self) -> str:
        return f"{self.of} {self.bound} {number(self.number)}"

    def reached(self, value: float, ratio: float | None) -> bool:
        """Whether it holds. False if it is about the ratio, and there is none."""
        found = value if self.of == "value" else ratio
        if found is None:
            return False
        if self.bound == ">=":
            return found >= self.number
        return found <= self.number if self.bound == "<=" else found < self.number


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its reference. ratio = value / reference_value; target None: for information."""

    name: str
    value: float
    unit: str
    reference: str | None = None
    reference_value: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference_value if self.reference_value else None

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached(self.value, self.ratio)

    def as_row(self) -> dict[str, object]:
        """The row of results.json."""
        row = asdict(self)
        row |= {"ratio": self.ratio, "target": self.target and str(self.target), "reached": self.reached}
        order = ("name", "value", "unit", "reference", "reference_value", "ratio", "target", "reached")
        return {key: row[key] for key in order}


def write(figures: Iterable[Figure], path: Path = PATH) -> None:
    """Write results.json."""
    path.write_text(json.dumps([figure.as_row() for figure in figures], indent=1) + "\n")


def show(figures: Iterable[Figure], console: Console) -> None:
    """Print one line per figure."""
    for figure in figures:
        line = f"  {figure.name:<44}{number(figure.value):>10} {figure.unit:<16}"
        if figure.reference_value is not None:
            ratio = f" ratio {figure.ratio:.2f}" if figure.ratio is not None else ""
            line += f" {number(figure.reference_value):>9} {figure.reference}{ratio}"
        if figure.target is not None:
            line += f"  [{figure.target}: {'reached' if figure.reached else 'MISSED'}]"
        console.print(line, style="red" if figure.reached is False else None, highlight=False, markup=False)


def number(value: float) -> str:
    """A figure as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
