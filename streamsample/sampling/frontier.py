"""The nodes that a snowball sample has reached, and in how many steps from its seeds (see `snowball`).

Nodes are told apart by the 64-bit hash of their ids: in a frontier of a million it is one time in 37 million that
two share one.

A state is given as what changed since the last one; seeds are no part of it, for whoever restores it names them again.
What a frontier decides next depends on the set of its nodes and their steps alone, not on the order in which it came to
them; so deltas unite by the fewest steps of each node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.kernels import B1_OUT, I32_OUT, I64_OUT, U64, U64_OUT, inline, kernel
from streamsample.records import Int32s
from streamsample.sampling import snapshots

_KIND: Final = "frontier"


class Frontier:
    """At most `most` nodes, the seeds among them, that are `hops` steps or fewer from a seed.

    seeds: uint64[s], the hashes of the nodes to begin with; hops: >= 1; most: >= the seeds. `refused` counts how often
    the full frontier has turned a node away. Raises ValueError for parameters out of range. Not thread-safe;
    deterministic.
    """

    def __init__(self, seeds: NDArray[np.uint64], hops: int, most: int) -> None:
        self._seeds = np.unique(seeds)
        if hops < 1 or most < len(self._seeds):
            raise ValueError(f"hops must be >= 1 and the frontier hold the seeds, found {hops} and {most}")
        self.hops, self.most = hops, most
        self.refused = 0
        self._count = len(self._seeds)
        self._node, self._steps = self._seeds.copy(), np.zeros(self._count, np.int32)
        self._changed = np.zeros(self._count, np.bool_)
        self._table = _table_of(self._node, self._count)

    def __len__(self) -> int:
        return self._count

    @property
    def held(self) -> int:
        """Nodes that a delta of everything would hold."""
        return self._count - len(self._seeds)

    @property
    def changed(self) -> int:
        """Nodes that the next delta will hold."""
        return int(np.count_nonzero(self._changed[: self._count]))

    def follow(self, begins: NDArray[np.uint64], ends: NDArray[np.uint64]) -> Int32s:
        """Follow n relations in their order, uint64[n] each: how many steps from a seed each of them is, int32[n]; 1 to
        `hops`, 0 for one whose begin was not reached, or no further step may be taken from it.
        """
        self._make_room(self._count + len(begins))
        wave = np.empty(len(begins), np.int32)
        done = np.array([self._count, 0], np.int64)
        _follow(
            *(begins, ends, self.hops, self.most),
            *(self._node, self._steps, self._changed, self._table, done, wave),
        )
        self._count = int(done[0])
        self.refused += int(done[1])
        return wave

    def rewrite(self) -> None:
        """Put everything that is held into the next delta again, so that older ones can go."""
        self._changed[len(self._seeds) : self._count] = True

    def snapshot(self) -> bytes:
        """What changed since the last call (or since `restore`)."""
        rows = np.flatnonzero(self._changed[: self._count])
        self._changed[rows] = False
        return snapshots.pack(_KIND, self._shape(), {"refused": self.refused}, [self._node[rows], self._steps[rows]])

    def restore(self, deltas: Sequence[bytes]) -> None:
        """Go on from what `snapshot` gave, oldest first, with the same parameters.

        Raises StateError if any of it is damaged, of other parameters, or holds what no frontier with them can.
        """
        dtypes: list[np.dtype[Any]] = [np.dtype(np.uint64), np.dtype(np.int32)]
        found = [snapshots.unpack(_KIND, self._shape(), data, dtypes) for data in deltas]
        nodes = np.concatenate([np.empty(0, np.uint64), *(arrays[0] for _, arrays in found)])
        steps = np.concatenate([np.empty(0, np.int32), *(arrays[1] for _, arrays in found)])
        order = np.lexsort([steps, nodes])
        nodes, first = np.unique(nodes[order], return_index=True)
        steps = steps[order][first]
        wrong = bool(((steps < 1) | (steps > self.hops)).any()) or bool(np.isin(nodes, self._seeds).any())
        if wrong or len(nodes) + len(self._seeds) > self.most:
            raise StateError(
                f"a sampling state has {len(nodes):,} nodes that are no frontier of {self.most:,} within {self.hops} "
                "steps",
                remedy=snapshots.REMEDY,
            )
        self._node = np.concatenate([self._seeds, nodes])
        self._steps = np.concatenate([np.zeros(len(self._seeds), np.int32), steps])
        self._count = len(self._node)
        self._changed = np.zeros(self._count, np.bool_)
        self._table = _table_of(self._node, self._count)
        self.refused = found[-1][0]["refused"]

    def _make_room(self, count: int) -> None:
        """Have places for so many nodes, or for as many as there may be."""
        needed = min(count, self.most)
        if needed <= len(self._node):
            return
        more = min(max(needed, 2 * len(self._node)), self.most) - len(self._node)
        self._node = np.concatenate([self._node, np.zeros(more, np.uint64)])
        self._steps = np.concatenate([self._steps, np.zeros(more, np.int32)])
        self._changed = np.concatenate([self._changed, np.zeros(more, np.bool_)])
        self._table = _table_of(self._node, self._count)

    def _shape(self) -> tuple[Any, ...]:
        return (self.hops, self.most, len(self._seeds), int(np.bitwise_xor.reduce(self._seeds)))


def _table_of(node: NDArray[np.uint64], count: int) -> Int32s:
    """Where each of the first `count` nodes is found; at least half of it stays free when `node` is full."""
    table = np.full(2 << len(node).bit_length(), -1, np.int32)
    _index(node, count, table)
    return table


@inline
def _place(node, table, word):  # type: ignore[no-untyped-def]
    """Where a node stands in the table, or would."""
    mask = np.uint64(len(table) - 1)
    at = word & mask
    while table[at] >= 0 and node[table[at]] != word:
        at = (at + np.uint64(1)) & mask
    return at


@kernel(types.void(U64, types.int64, I32_OUT))
def _index(node, count, table):  # type: ignore[no-untyped-def]
    for number in range(count):
        table[_place(node, table, node[number])] = number


@kernel(types.void(U64, U64, types.int64, types.int64, U64_OUT, I32_OUT, B1_OUT, I32_OUT, I64_OUT, I32_OUT))
def _follow(begins, ends, hops, most, node, steps, changed, table, done, wave):  # type: ignore[no-untyped-def]
    """done: how many nodes there are; how many were refused."""
    for row in range(len(begins)):
        known = table[_place(node, table, begins[row])]
        if known < 0 or steps[known] >= hops:
            wave[row] = 0
            continue
        step = steps[known] + 1
        wave[row] = step
        at = _place(node, table, ends[row])
        reached = table[at]
        if reached >= 0:
            if step < steps[reached]:
                steps[reached] = step
                changed[reached] = True
        elif done[0] < most:
            reached = done[0]
            node[reached], steps[reached], changed[reached] = ends[row], step, True
            table[at] = reached
            done[0] += 1
        else:
            done[1] += 1
