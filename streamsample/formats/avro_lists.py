"""The kernel that reads arrays of texts out of Avro values that `avro_kernel` has checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.formats.avro_kernel import varint
from streamsample.formats.avro_schema import AvroSchema, item_type
from streamsample.formats.digits import write_digits
from streamsample.formats.pointers import address, copy, load_u8
from streamsample.formats.projection import ListColumn
from streamsample.kernels import I16, I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, kernel
from streamsample.records import Bytes, Int32s, Int64s, Spans

_BYTES, _DIGITS, _ENUM, _BOOLEAN = range(4)
_KINDS: Final = {"string": _BYTES, "bytes": _BYTES, "int": _DIGITS, "long": _DIGITS, "enum": _ENUM, "boolean": _BOOLEAN}
_WIDTH: Final = 4
_DIGITS_MAX: Final = 20


class AvroLists:
    """Reads the arrays at one path, whose types the schemas give."""

    def __init__(self, path: str, schemas: Sequence[AvroSchema]) -> None:
        symbols: list[bytes] = [b"false", b"true"]
        table = []
        for schema in schemas:
            array = next(leaf for leaf in schema.leaves(path) if leaf["type"] == "array")
            item, null, union = item_type(schema, array)
            assert item is not None
            table.append([_KINDS[item["type"]], null, union, 0 if item["type"] == "boolean" else len(symbols)])
            symbols += [symbol.encode() for symbol in item.get("symbols", ())]
        self._table = np.array(table, np.int64).reshape(-1)
        self._symbols = Spans.of(symbols)
        only_bytes = all(row[0] == _BYTES for row in table)
        self._longest = 1 if only_bytes else max(_DIGITS_MAX, *(len(symbol) for symbol in symbols))

    def read(self, buffer: Bytes, starts: Int64s, sizes: Int32s, schema: NDArray[np.int16], bound: int) -> ListColumn:
        """The items of n arrays that begin at `starts`; none where the size is negative. bound: bytes of all values."""
        rows = len(starts)
        first = np.empty(rows + 1, np.int64)
        start, size = np.empty(bound, np.int64), np.empty(bound, np.int32)
        out = np.empty(bound * self._longest, np.uint8)
        names = self._symbols
        used = _items(
            buffer, starts, sizes, schema, self._table, names.buffer, names.start, names.size, first, start, size, out
        )
        count = int(first[-1])
        return ListColumn(first, Spans(out[:used], start[:count], size[:count]), sizes >= 0)


@kernel(types.int64(U8, I64, I32, I16, I64, U8, I64, I32, I64_OUT, I64_OUT, I32_OUT, U8_OUT))
def _items(buffer, starts, sizes, schema, table, names, n_start, n_size, first, start, size, out):  # type: ignore[no-untyped-def]
    base, into, symbols = address(buffer), address(out), address(names)
    end = base + len(buffer)
    count, used = 0, np.int64(0)
    for row in range(len(starts)):
        first[row] = count
        if sizes[row] < 0:
            continue
        entry = _WIDTH * np.int64(schema[row])
        kind, null, union, symbol = table[entry], table[entry + 1], table[entry + 2], table[entry + 3]
        at = base + starts[row]
        while True:
            at, left = varint(at, end)
            if left == 0:
                break
            if left < 0:
                at, _ = varint(at, end)
                left = -left
            for _ in range(left):
                if union != 0:
                    at, branch = varint(at, end)
                    if branch == null:
                        continue
                length = np.int64(0)
                if kind == 3:
                    value = np.int64(load_u8(at))
                    at += 1
                else:
                    at, value = varint(at, end)
                if kind == 0:
                    length = value
                    copy(into + used, at, length)
                    at += length
                elif kind == 1:
                    length = write_digits(into + used, value)
                else:
                    length = np.int64(n_size[symbol + value])
                    copy(into + used, symbols + n_start[symbol + value], length)
                start[count], size[count] = used, length
                used += length
                count += 1
    first[len(starts)] = count
    return used
