"""Records that are in several strata at once: each is drawn once, by the stratum that keeps the most.

π is the largest of the strata's thresholds on `u` (B10): a record is kept iff one of its strata would keep it, for all
share the same u. Rates do not depend on what was drawn before, so nothing else need be known.
"""

from __future__ import annotations

import numpy as np

from streamsample.hashing import hash64
from streamsample.records import Float64s, Int64s, Spans


def pairs_of(first: Int64s, items: Spans, valid: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Int64s, Spans]:
    """The strata of n records that have one for each item of a list: of each pair the record, and the item's text.

    first: int64[n + 1], where each record's items begin. valid: bool[n]. A record without items has one stratum with an
    empty name, one without a list (not `valid`) a null one.
    """
    count = np.diff(first)
    lacking = (count == 0) | ~valid
    each = np.where(lacking, 1, count)
    record = np.repeat(np.arange(len(count)), each)
    begins = np.cumsum(each) - each
    item = first[:-1][record] + np.arange(len(record)) - begins[record]
    alone = lacking[record]
    # One more item, empty, for those that have none.
    start, size = np.append(items.start, 0), np.append(items.size, 0)
    place = np.where(alone, len(items), item)
    sizes = np.where(valid[record], size[place], -1).astype(np.int32)
    return record, Spans(items.buffer, start[place], sizes)


def strongest(record: Int64s, rate: Float64s, names: Spans) -> Int64s:
    """Of n records, each with at least one pair, the pair with the largest rate: int64[n], indices of pairs.

    record: int64[p], ascending; rate: float64[p]; names: p spans. Ties are broken by the names' hashes.
    """
    order = np.lexsort((hash64(names, 0), -rate, record))
    mine = record[order]
    return order[np.flatnonzero(np.append(True, mine[1:] != mine[:-1]))] if len(order) else order
