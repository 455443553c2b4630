"""Memory by address inside kernels.

An array that is passed from helper to helper costs two atomic counts of its references each time, and each signed
index a test for a negative one: an interpreter of small steps spends most of its time on them. An address is a plain
int64. Nothing is checked and nothing is kept alive: the kernel that takes an array's address holds the array, and
every address must lie inside it. Little-endian machines only, as the columns' types are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def address(typing, array):  # type: ignore[no-untyped-def]
    """The address of the first element of a contiguous array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


def _load(kind: Any, word: ir.Type) -> Any:
    def load(typing, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.load(builder.inttoptr(arguments[0], word.as_pointer()), align=1)

        return kind(types.int64), generate

    return intrinsic(load)


def _store(kind: Any, word: ir.Type) -> Any:
    def store(typing, at, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            builder.store(arguments[1], builder.inttoptr(arguments[0], word.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, kind), generate

    return intrinsic(store)


load_u8 = _load(types.uint8, ir.IntType(8))
load_u64 = _load(types.uint64, ir.IntType(64))
load_i32 = _load(types.int32, ir.IntType(32))
load_i64 = _load(types.int64, ir.IntType(64))
load_f32 = _load(types.float32, ir.FloatType())
load_f64 = _load(types.float64, ir.DoubleType())
store_u8 = _store(types.uint8, ir.IntType(8))
store_i32 = _store(types.int32, ir.IntType(32))
store_i64 = _store(types.int64, ir.IntType(64))
store_f64 = _store(types.float64, ir.DoubleType())


@intrinsic
def copy(typing, target, source, size):  # type: ignore[no-untyped-def]
    """Copy `size` bytes from address to address. The ranges must not overlap."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(arguments[0], byte),
            builder.inttoptr(arguments[1], byte),
            arguments[2],
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
