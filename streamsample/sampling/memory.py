"""What a design that decides on each record as it comes remembers of those before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Memory(Protocol):
    """The state of one design in one partition. Depends on the records before in their order, and on nothing else."""

    @property
    def held(self) -> int:
        """Elements that a delta of everything would hold, if deltas older than the last are needed; else 0."""

    @property
    def changed(self) -> int:
        """How many of them the next delta will hold."""

    def rewrite(self) -> None:
        """Put everything into the next delta, so that older ones can go."""

    def snapshot(self) -> bytes:
        """What changed since the last call, or since `restore`: a delta."""

    def restore(self, deltas: Sequence[bytes]) -> None:
        """Go on from deltas, one at least, oldest first, in a fresh object. Raises StateError if they are damaged, or
        of other parameters.
        """
