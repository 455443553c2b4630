"""What can be wrong with a job file, before it is known where in the file it stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way from the file's root to a value: keys of mappings, and indices of lists."""


class Expanded(str):
    """Text that came out of `${VAR}`. `written` is how it stands in the file.

    A number or a flag may be given so; what is shown in errors is what is written, never what the environment holds.
    """

    written: str

    def __new__(cls, text: str, written: str) -> Expanded:
        made = super().__new__(cls, text)
        made.written = written
        return made


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and what to do about it.

    at_key: it is the key itself that is wrong, so that its position is shown and not its value's.
    not_yet: a later version brings it. at: how many characters into the value the place is. excerpt: lines to be shown
    below the message, with a caret under the place.
    """

    path: KeyPath
    what: str
    remedy: str | None = None
    at_key: bool = False
    not_yet: bool = False
    at: int = 0
    excerpt: str = ""

    def under(self, path: KeyPath) -> Problem:
        """The same, seen from above `path`."""
        return replace(self, path=path + self.path)

    def __str__(self) -> str:
        text = f"{key_name(self.path)}: {self.what}" if self.path else self.what
        return f"{text} - {self.remedy}" if self.remedy else text


class Wrong(ValueError):
    """A value that cannot be used; raised by the parsers of single values."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what} - {remedy}" if remedy else what)


class WrongTogether(ValueError):
    """Values that do not fit each other; the paths are relative to the section that holds them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def key_name(path: KeyPath) -> str:
    """`targets.clicked.rules[0].from`"""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def show(value: Any) -> str:
    """A value of the file as a reader of the file would write it, cut to one line."""
    if isinstance(value, Expanded):
        return value.written
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of more than 64 bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return type(value).__name__


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    close = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.7)
    return close[0] if close else None


def listed(words: Sequence[str], last: str = "or") -> str:
    """`a, b or c`"""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
