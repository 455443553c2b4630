"""Snowball sampling: from seeds along a relation, as far as limits allow. Not random: π is null.

A record relates two nodes (who invited whom, what was seen after what). It is taken when its first node was reached in
fewer than `hops` steps from a seed; then its second node is reached in one step more (Goodman, Ann. Math. Stat. 32(1),
1961). The stream is read once: a relation that came before its first node was reached is not followed. The
frontier, all nodes that were reached, is limited: once it is full, no new node is reached.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamsample.sampling.frontier import Frontier
from streamsample.sampling.sample import Sample, not_random
from streamsample.sampling.units import Ids, hashes_of


class Snowball:
    """Records within `hops` steps of the seeds, over at most `frontier_max` nodes.

    >>> snowball = Snowball(["ada"], hops=2, frontier_max=100)
    >>> snowball.take(["ada", "bob", "cleo", "dan"], ["bob", "cleo", "dan", "eve"]).position
    array([0, 1])
    """

    name = "snowball"

    def __init__(self, seeds: Iterable[str], *, hops: int, frontier_max: int) -> None:
        self._frontier = Frontier(hashes_of(list(seeds), 0), hops, frontier_max)
        self.n = 0

    @property
    def refused(self) -> int:
        """How often the full frontier has turned a node away."""
        return self._frontier.refused

    def take(self, first: Ids, second: Ids) -> Sample:
        """Those of the next n relations that are taken, by the ids of their two nodes. Raises as `hashes_of`, and
        ValueError if they are not as many.
        """
        begins, ends = hashes_of(first, 0), hashes_of(second, 0)
        if len(begins) != len(ends):
            raise ValueError(f"each relation has two nodes, found {len(begins)} and {len(ends)}")
        keep = self._frontier.follow(begins, ends) > 0
        begin, self.n = self.n, self.n + len(keep)
        return not_random(self.name, begin, keep, int(keep.sum()))
