"""B10: the places of strata, against a plain look-up by name; spans that overlap and lie at the same place too."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from streamsample.records import Spans, pick
from streamsample.sampling.strata import Places

TEXT = b"phonetabletdesktoptvphone"
DECLARED = ["phone", "tablet", "tv", ""]


@st.composite
def spans(draw: st.DrawFn) -> Spans:
    start = draw(st.lists(st.integers(0, len(TEXT)), max_size=200))
    size = [draw(st.integers(0, min(7, len(TEXT) - at))) for at in start]
    buffer = np.frombuffer(TEXT, np.uint8)
    return Spans(buffer, np.array(start, np.int64), np.array(size, np.int32))


@given(spans(), st.sampled_from([1, 3, 1000]))
def test_b10_each_stratum_has_the_place_of_its_name(stratum: Spans, others: int) -> None:
    place = Places(DECLARED, others).of(stratum)
    expected = [
        DECLARED.index(name.decode())
        if name.decode() in DECLARED
        else len(DECLARED) + xxhash.xxh64_intdigest(name, 0) % others
        for name in stratum.to_list()
        if name is not None
    ]
    assert place.tolist() == expected


def test_b10_the_first_that_has_no_place_is_named() -> None:
    places = Places(DECLARED, 0)
    with pytest.raises(ValueError, match="stratum b'desktop' at index 2 is not declared"):
        places.of(Spans.of([b"tv", b"phone", b"desktop", b"watch"]))


def test_picking_all_copies_nothing() -> None:
    numbers, texts = np.arange(3), Spans.of([b"a", b"b", None])
    assert pick(numbers, np.arange(3)) is numbers
    assert texts.pick(np.arange(3)) is texts
    assert pick(numbers, np.array([0, 2])).tolist() == [0, 2]
    assert texts.pick(np.array([0, 2])).to_list() == [b"a", None]
