"""Names that CEL itself cannot have.

That is `has(field)` of a top-level field, fields that are called as CEL's types and reserved words are, and fields
whose names are no identifiers: these stand in backquotes.

    has(type) && `user-id` > 1        (_x74797065 != null) && _x757365722d6964 > 1
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

_QUOTED: Final = r"'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|//[^\n]*"
_PART: Final = r"(?:[A-Za-z_]\w*|`[^`\n.]+`)"
_TAKEN: Final = (
    "bool|bytes|double|dyn|google|int|list|map|null_type|string|type|uint|"
    "as|break|const|continue|else|for|function|if|import|let|loop|namespace|package|return|var|void|while"
)
_TOKENS: Final = re.compile(
    rf"{_QUOTED}|\bhas\s*\(\s*(?P<has>{_PART}(?:\.{_PART})*)\s*\)|`(?P<quoted>[^`\n.]+)`|\b(?P<taken>{_TAKEN})\b(?!\s*\()",
    re.DOTALL | re.ASCII,
)
_ALIAS: Final = re.compile(r"\b_x((?:[0-9a-f]{2})+)\b")


class Rewritten:
    """A text as CEL can read it: `text`. Missing and null are the same in records, so `has(a)` is `a != null`."""

    def __init__(self, given: str) -> None:
        self.text = ""
        self._starts: list[int] = []
        self._places: list[int] = []
        self._rewrite(given, 0)

    def place(self, at: int) -> int:
        """Where a place of `text` is in the text as it was given."""
        piece = bisect_right(self._starts, at) - 1
        return self._places[piece] + at - self._starts[piece]

    def _rewrite(self, given: str, offset: int) -> None:
        at = 0
        for found in _TOKENS.finditer(given):
            name = found["quoted"] or found["taken"]
            if name is None and found["has"] is None:
                continue
            start = offset + found.start()
            self._append(given[at : found.start()], offset + at)
            if name is not None:
                self._append(_cel_part(name), start)
            else:
                self._append("(", start)
                self._rewrite(found["has"], offset + found.start("has"))
                self._append(" != null)", start)
            at = found.end()
        self._append(given[at:], offset + at)

    def _append(self, piece: str, place: int) -> None:
        self._starts.append(len(self.text))
        self._places.append(place)
        self.text += piece


def real_name(name: str) -> str:
    """The field, or the message, with the names as they were given."""
    return _ALIAS.sub(lambda found: bytes.fromhex(found[1]).decode(), name)


def cel_name(path: str) -> str:
    """What the field at `path` is called in a rewritten text."""
    return ".".join(map(_cel_part, path.split(".")))


def _cel_part(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and not re.fullmatch(_TAKEN, name)
    return name if plain else f"_x{name.encode().hex()}"
