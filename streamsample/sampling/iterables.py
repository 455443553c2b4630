"""Sampling Python objects: any iterable, read once, of which only what may still be sampled is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

from streamsample.records import Int64s
from streamsample.sampling.sample import Sample

Item = TypeVar("Item")

_BATCH = 10_000


class _Design(Protocol):
    n: Any
    update: Callable[..., None]

    def held(self) -> Int64s: ...

    def sample(self) -> Sample: ...


def draw(
    items: Iterable[Item],
    design: _Design,
    *,
    id: Callable[[Item], Any] | None = None,
    **columns: Callable[[Item], Any],
) -> tuple[list[Item], Sample]:
    """Sample an iterable; the sampled items, and beside each what it stands for.

    design: a fresh one of fixed size. id: the id of an item's unit (default: its ordinal). columns: how to get what
    else `design.update` takes: weight, time, stratum, value. Memory is O(what the design holds). Raises ValueError if
    the design was shown anything before, or as its `update` does.

    >>> from streamsample.sampling import Reservoir, Weighted
    >>> lines = (f"line {number}" for number in range(1_000))
    >>> drawn, sample = draw(lines, Reservoir(k=3, seed=1))
    >>> len(drawn), drawn[0] == f"line {sample.position[0]}"
    (3, True)
    >>> orders = [("tea", 2.0), ("coffee", 3.0), ("nothing", 0.0)]
    >>> drawn, sample = draw(orders, Weighted(k=2), id=lambda order: order[0], weight=lambda order: order[1])
    >>> drawn
    [('tea', 2.0), ('coffee', 3.0)]
    """
    if design.n:
        raise ValueError("the design was shown other records before: take a fresh one, and merge it afterwards")
    kept: dict[int, Item] = {}
    begin = 0
    for batch in _batches(items):
        ids = range(begin, begin + len(batch)) if id is None else [id(item) for item in batch]
        design.update(ids, **{name: [read(item) for item in batch] for name, read in columns.items()})
        kept |= enumerate(batch, begin)
        kept = {position: kept[position] for position in set(design.held().tolist())}
        begin += len(batch)
    sample = design.sample()
    return [kept[position] for position in sample.position.tolist()], sample


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
