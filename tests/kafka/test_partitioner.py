from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from streamsample.kafka.partitioner import partitions_of
from streamsample.records import Spans


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=70), max_size=20), st.integers(1, 1000))
def test_partition_is_that_of_the_default_partitioner(keys: list[bytes], partitions: int) -> None:
    chosen, turn = partitions_of(Spans.of(keys), partitions)
    assert chosen.dtype == np.int32
    assert chosen.tolist() == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
    assert turn == 0


def test_known_hashes_of_the_java_client() -> None:
    # From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    chosen, _ = partitions_of(Spans.of(known), 2**31 - 1)
    assert chosen.tolist() == [(value & 0x7FFFFFFF) % (2**31 - 1) for value in known.values()]


def test_null_keys_take_turns_and_empty_keys_do_not() -> None:
    keys = Spans.of([None, b"", None, None, b"k", None])
    chosen, turn = partitions_of(keys, 3, turn=1)
    of_empty, of_k = (murmur2(b"") & 0x7FFFFFFF) % 3, (murmur2(b"k") & 0x7FFFFFFF) % 3
    assert chosen.tolist() == [1, of_empty, 2, 0, of_k, 1]
    assert turn == 2


def test_no_partitions_are_refused() -> None:
    with pytest.raises(ValueError, match="0 partitions"):
        partitions_of(Spans.of([b"k"]), 0)
