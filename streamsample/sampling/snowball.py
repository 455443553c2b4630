"""Snowball sampling: from seeds along a relation, as far as limits allow. Not random: π is null.

A record relates two nodes (who invited whom, what was seen after what). It is taken when its first node was reached in
fewer than `hops` steps from a seed; then its second node is reached in one step more (Goodman, Ann. Math. Stat. 32(1),
1961). The stream is read once: a relation that came before its first node was reached is not followed. The
frontier, all nodes that were reached, is limited: once it is full, no new node is reached.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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
        starts = hashes_of(list(seeds), 0).tolist()
        if hops < 1 or frontier_max < len(starts):
            raise ValueError(f"hops must be >= 1 and the frontier hold the seeds, found {hops} and {frontier_max}")
        self.hops, self.frontier_max = hops, frontier_max
        self._steps = dict.fromkeys(starts, 0)
        self.refused = 0
        self.n = 0

    def take(self, first: Ids, second: Ids) -> Sample:
        """Those of the next n relations that are taken, by the ids of their two nodes.

        `refused` counts how often the full frontier has turned a node away.
        """
        begins, ends = hashes_of(first, 0).tolist(), hashes_of(second, 0).tolist()
        keep = np.zeros(len(begins), np.bool_)
        for row, (start, end) in enumerate(zip(begins, ends, strict=True)):
            steps = self._steps.get(start, self.hops)
            if steps < self.hops:
                keep[row] = True
                self._reach(end, steps + 1)
        begin, self.n = self.n, self.n + len(keep)
        return not_random(self.name, begin, keep, int(keep.sum()))

    def _reach(self, node: int, steps: int) -> None:
        known = self._steps.get(node)
        if known is not None:
            self._steps[node] = min(known, steps)
        elif len(self._steps) < self.frontier_max:
            self._steps[node] = steps
        else:
            self.refused += 1
