"""How numba kernels are compiled: once per machine, for the types that are written beside them.

Every kernel states its signature, so that it is compiled (or loaded from numba's cache) once, at its first call or by
`load_imported`, and never again for another type by accident. Read-only arrays are accepted wherever a kernel does not
write. Kernels release the GIL, do no bounds checks, and must check every length they read from data themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

U8 = types.Array(types.uint8, 1, "C", readonly=True)
I8 = types.Array(types.int8, 1, "C", readonly=True)
I16 = types.Array(types.int16, 1, "C", readonly=True)
I32 = types.Array(types.int32, 1, "C", readonly=True)
I64 = types.Array(types.int64, 1, "C", readonly=True)
U64 = types.Array(types.uint64, 1, "C", readonly=True)
F64 = types.Array(types.float64, 1, "C", readonly=True)
B1 = types.Array(types.boolean, 1, "C", readonly=True)

U8_OUT = types.Array(types.uint8, 1, "C")
I8_OUT = types.Array(types.int8, 1, "C")
I16_OUT = types.Array(types.int16, 1, "C")
I32_OUT = types.Array(types.int32, 1, "C")
I64_OUT = types.Array(types.int64, 1, "C")
U64_OUT = types.Array(types.uint64, 1, "C")
F64_OUT = types.Array(types.float64, 1, "C")
B1_OUT = types.Array(types.boolean, 1, "C")


class Kernel:
    """A function that is compiled for its signatures; from another kernel call `inline` helpers, not this."""

    def __init__(self, function: Callable[..., Any], signatures: tuple[Any, ...]) -> None:
        self._function = function
        self._signatures = list(signatures)
        self._compiled: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return (self._compiled or self.load())(*arguments)

    def load(self) -> Any:
        """The compiled function: out of the cache, which takes some 6 ms (the first of all 300), or compiled now."""
        if self._compiled is None:
            self._compiled = numba.njit(
                self._signatures, cache=True, nogil=True, error_model="numpy", boundscheck=False
            )(self._function)
        return self._compiled

    @property
    def was_cached(self) -> bool:
        """Whether numba's cache had it; loads it."""
        return not self.load().stats.cache_misses


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a kernel for `signatures` (numba signatures, e.g. `types.int64(U8, types.int64)`)."""
    return lambda function: Kernel(function, signatures)


def load_imported() -> None:
    """Load all kernels of the package's modules that are imported by now: before work that must not stop to compile."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("streamsample."):
            for value in vars(module).values():
                if isinstance(value, Kernel):
                    value.load()


def inline(function: Callable[..., Any]) -> Any:
    """A helper that kernels call; compiled with its caller, never on its own."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)


def inline_always(function: Callable[..., Any]) -> Any:
    """A helper that becomes part of its caller, however large: for steps of a few ns, at the price of compile time."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False, forceinline=True)(function)


@intrinsic
def copy_bytes(typing, target, at, source, start, size):  # type: ignore[no-untyped-def]
    """`target[at : at + size] = source[start : start + size]` inside kernels, by memcpy; all three numbers are int64.

    A loop over bytes costs about 30 ns per 100 bytes with unsigned indices and 250 ns with signed ones (numba wraps
    negative indices); this costs 9. The ranges must lie inside their arrays and must not overlap.
    """
    signature = types.void(target, types.int64, source, types.int64, types.int64)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        out_of = context.make_array(signature.args[2])(context, builder, arguments[2])
        cgutils.raw_memcpy(
            builder,
            builder.gep(into.data, [arguments[1]]),
            builder.gep(out_of.data, [arguments[3]]),
            arguments[4],
            1,
        )
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def load_u64(typing, source, at):  # type: ignore[no-untyped-def]
    """The eight bytes `source[at : at + 8]` as a little-endian uint64, inside kernels, by one load; `at` is int64.

    The range must lie inside the array.
    """
    signature = types.uint64(source, types.int64)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        out_of = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = builder.bitcast(builder.gep(out_of.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(word, align=1)

    return signature, generate


@intrinsic
def borrow(typing, array):  # type: ignore[no-untyped-def]
    """The same array without its reference count, inside kernels, for as long as the kernel's caller keeps it.

    Numba counts references at every call of a helper that is handed an array, by atomic additions that it can remove
    only from helpers without loops: about 6 ns per array and call. A borrowed array has nothing to count.
    """
    signature = array(array)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        held.meminfo = cgutils.get_null_value(held.meminfo.type)
        held.parent = cgutils.get_null_value(held.parent.type)
        return held._getvalue()

    return signature, generate


@intrinsic
def copy_from_address(typing, target, at, address, size):  # type: ignore[no-untyped-def]
    """`target[at : at + size]` = the `size` bytes at a memory address, inside kernels; all three numbers are int64.

    For arrays that are kept elsewhere and never move. Whoever stored the address keeps its array as long as it is used.
    """
    signature = types.void(target, types.int64, types.int64, types.int64)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        source = builder.inttoptr(arguments[2], ir.IntType(8).as_pointer())
        cgutils.raw_memcpy(builder, builder.gep(into.data, [arguments[1]]), source, arguments[3], 1)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def one_by_one(typing, word):  # type: ignore[no-untyped-def]
    """The same uint64, inside kernels, by a step that the compiler cannot see through.

    A loop that has it is not made into vector instructions: their 64-bit multiplications take more than twice as long
    as those of one word at a time (10 against 4 ns for a hash).
    """
    signature = types.uint64(types.uint64)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.asm(kind, "", "=r,0", arguments, side_effect=False)

    return signature, generate
