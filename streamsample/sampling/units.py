"""What users call their records: ids as numbers or text, in arrays or any iterable, to the keyed hash of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsample.hashing import hash64, hash64_of_integers
from streamsample.records import Spans

Ids: TypeAlias = Spans | NDArray[np.generic] | Iterable[str] | Iterable[bytes] | Iterable[int]


def spans_of(ids: Ids) -> Spans:
    """Text ids as n spans of UTF-8. Raises TypeError for anything but text and bytes."""
    if isinstance(ids, Spans):
        return ids
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "US":
        return _of_fixed_width(ids)
    return Spans.of([_encoded(item) for item in ids])


def hashes_of(ids: Ids, seed: int) -> NDArray[np.uint64]:
    """XXH64 of n ids, keyed by `seed`, uint64[n].

    Text is hashed as UTF-8, an integer as its eight little-endian bytes: 7 and "7" are different ids. Raises TypeError
    for other types, ValueError for a null.
    """
    if isinstance(ids, range):
        ids = np.arange(ids.start, ids.stop, ids.step)
    elif not isinstance(ids, Spans | np.ndarray):
        ids = np.asarray(ids) if hasattr(ids, "__array__") else list(ids)
        if isinstance(ids, list) and ids and all(isinstance(item, int | np.integer) for item in ids):
            ids = np.array(ids, np.int64)
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        return hash64_of_integers(ids.astype(np.int64, copy=False), seed)
    spans = spans_of(ids)
    if (spans.size < 0).any():
        raise ValueError(f"an id is needed for each record, found null at index {int(np.argmax(spans.size < 0))}")
    return hash64(spans, seed)


def _encoded(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise TypeError(f"ids and strata are text, bytes or integers, found {item!r}")


def _of_fixed_width(ids: NDArray[Any]) -> Spans:
    encoded = np.char.encode(ids, "utf-8") if ids.dtype.kind == "U" else np.ascontiguousarray(ids)
    width = max(encoded.dtype.itemsize, 1)
    start = np.arange(len(encoded)) * width
    return Spans(encoded.view(np.uint8), start, np.char.str_len(encoded).astype(np.int32))
