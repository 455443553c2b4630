"""The store of waiting feedback's bytes against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsample.labels.originals import Originals
from streamsample.records import Spans

STEPS = st.lists(
    st.tuples(st.sets(st.integers(0, 20), min_size=1), st.sets(st.integers(0, 20)), st.integers(0, 3000)), max_size=30
)


@given(STEPS)
def test_what_is_kept_comes_back(steps: list[tuple[set[int], set[int], int]]) -> None:
    """Handles are used again, and the buffer is packed while others are alive."""
    kept, wanted = Originals(), dict[int, bytes]()
    for number, (new, gone, size) in enumerate(steps):
        wanted = {handle: held for handle, held in wanted.items() if handle not in gone}
        given_ = {handle: b"%d-%d-" % (number, handle) * (size // 4) for handle in sorted(new)}
        wanted |= given_
        live = np.array(sorted(wanted), np.int64)
        kept.put(np.array(list(given_), np.int64), Spans.of(given_.values()), lambda live=live: live)  # type: ignore[misc]
        assert kept.of(live).to_list() == [wanted[handle] for handle in sorted(wanted)]
    kept.clear()
    assert kept.bytes_used() == 0
