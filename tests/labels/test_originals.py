"""Waiting feedback: the store of its bytes against a dict, and its table when it has grown."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsample.labels import LabelJoin
from streamsample.labels.originals import Originals
from streamsample.records import Spans
from tests.labels.harness import give_feedback, give_predictions, settings_of
from tests.labels.oracle import Feedback, Prediction, Target

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


def test_feedback_of_two_uses_waits_in_tables_that_grow_by_odd_numbers() -> None:
    """The table has two values for each, and room for half an item."""
    targets = [Target.one(1_000, 0), Target.one(1_000, 0)]
    join = LabelJoin(settings_of(targets))
    for first, end in ((0, 385), (385, 386)):
        give_feedback(join, [Feedback(0, n, 50, b"%d" % n, n, (n, 2 * n)) for n in range(first, end)])
    give_predictions(join, [Prediction(n, 0, b"%d" % n) for n in range(386)])
    labels = join.on_watermark(10_000)
    assert [target.bits.tolist() for target in labels.targets] == [[n * k for n in range(386)] for k in (1, 2)]
