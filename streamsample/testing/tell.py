"""The results of tests as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from streamsample.testing.suite import Result

Line = tuple[str, str]
"""A style of rich, and what is said."""


def lines_of(result: Result, name: str) -> Iterator[Line]:
    """One line for a test that passed; for one that failed, what was expected (-) and what came (+) as well, each with
    its line of the file `name`.
    """
    if result.passed:
        yield "green", f"  ok    {result.name}"
        return
    yield "bold red", f"  FAIL  {result.name}  ({name}:{result.line})"
    for difference, expected_line, event_line in result.differences:
        of = "" if event_line is None else f"of the event in line {event_line}"
        if difference.expected is not None:
            yield (
                "red",
                _noted(f"    - {difference.expected}", f"expected in line {expected_line}" if expected_line else ""),
            )
        if difference.came is not None:
            yield "green", _noted(f"    + {difference.came}", f"came {of}".rstrip() if of else "came")
        elif difference.expected is not None:
            yield "dim", "      did not come"


def _noted(text: str, note: str) -> str:
    return f"{text:<60}  # {note}" if note else text
