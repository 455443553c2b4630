"""The kernels that check JSON, find the fields that a job names, and cut features out.

One pass over a value checks all of it against RFC 8259 and notes, for each field asked for, what stands there and where
(a *token*), and which stretches of the top-level members stay. Stricter than the RFC where it leaves a choice: the top
level is an object, no object has a key twice, strings are UTF-8 (so no lone surrogates), nesting is bounded. Nothing
outside a value's span is ever read.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.formats.json_scan import (
    ARRAY,
    ESCAPED,
    FLOAT,
    INTEGER,
    MISSING,
    NULL,
    OBJECT,
    decimal,
    scalar,
    skip,
    string_end,
    unescape,
)
from streamsample.formats.pointers import address, copy, load_i32, load_i64, load_u8, store_i32, store_i64, store_u8
from streamsample.formats.projection import Problem
from streamsample.formats.utf8 import is_utf8
from streamsample.kernels import (
    B1_OUT,
    F64_OUT,
    I16_OUT,
    I32,
    I32_OUT,
    I64,
    I64_OUT,
    U8,
    U8_OUT,
    inline,
    kernel,
)

DEPTH_MAX: Final = 128
"""How deep objects and arrays may nest, the value itself included."""
KEYS_MAX: Final = 256
"""How many keys of one object are compared here. Beyond that the caller looks for duplicates."""

TOKEN: Final = 24
"""Bytes of a token: what it is, its start, its size, int64 each."""

# The tree of the names asked for, an int32 row per node, the root first: its first child and next sibling (-1 if none),
# its name's start and size, its number among the fields (-1 if only on the way to one), 1 if it is kept or dropped.
NODE: Final = 6
CHILD, SIBLING, NAME_START, NAME_SIZE, LEAF, LISTED = range(NODE)

ALL, KEEP, DROP = range(3)
"""Which top-level members stay."""

_VALUE, _FIRST, _AFTER, _KEY = range(4)
_QUOTE, _COMMA, _COLON, _MINUS = (np.uint8(ord(c)) for c in '",:-')
_OBJECT, _OBJECT_END, _ARRAY, _ARRAY_END = (np.uint8(ord(c)) for c in "{}[]")

_BAD_JSON: Final = int(Problem.BAD_JSON)
_BAD_UTF8: Final = int(Problem.BAD_UTF8)
_DUPLICATE: Final = int(Problem.DUPLICATE_KEY)
_NOT_AN_OBJECT: Final = int(Problem.NOT_AN_OBJECT)
_OUT_OF_RANGE: Final = int(Problem.OUT_OF_RANGE)
_TOMBSTONE: Final = int(Problem.TOMBSTONE)
_TOO_DEEP: Final = int(Problem.TOO_DEEP)
_TRAILING: Final = int(Problem.TRAILING_BYTES)
_WRONG_TYPE: Final = int(Problem.WRONG_TYPE)

_MOST: Final = np.uint64((1 << 63) - 1)
_EXACT: Final = np.uint64(1 << 53)
_POWERS: Final = np.array([10.0**power for power in range(23)])
"""The powers of ten that float64 holds exactly."""


@inline
def _equal(left, right, size):  # type: ignore[no-untyped-def]
    for k in range(size):  # noqa: SIM110 - kernels have no all()
        if load_u8(left + k) != load_u8(right + k):
            return False
    return True


@inline
def _node(tree, node, attribute):  # type: ignore[no-untyped-def]
    return np.int64(load_i32(tree + 4 * (node * NODE + attribute)))


@inline
def _find(tree, names, node, key, size):  # type: ignore[no-untyped-def]
    """The child of `node` with the name at `key`, or -1. There is none below what was not asked for (-1)."""
    child = _node(tree, node, CHILD) if node >= 0 else np.int64(-1)
    while child >= 0:
        if _node(tree, child, NAME_SIZE) == size and _equal(names + _node(tree, child, NAME_START), key, size):
            break
        child = _node(tree, child, SIBLING)
    return child


# Cells of the scratch memory, int64 each: where the side buffer goes on, how many keys are held, whether keys were left
# uncompared; then FRAME cells per open object or array: whether it is an object, its node, the number of its first key;
# then the keys, two cells each: address and size.
_SIDE, _HELD, _UNSURE, _FRAMES = (8 * cell for cell in range(4))
_FRAME: Final = 24
_KEYS: Final = _FRAMES + _FRAME * DEPTH_MAX
SCRATCH: Final = (_KEYS + 16 * DEPTH_MAX * KEYS_MAX) // 8
"""Cells of scratch memory that a walk needs."""


@inline
def _register(scratch, first, key, size):  # type: ignore[no-untyped-def]
    """Hold a key of the object whose keys begin at number `first`; false if it has been there."""
    last = load_i64(scratch + _HELD)
    if last - first >= KEYS_MAX:
        store_i64(scratch + _UNSURE, 1)
        return True
    at = scratch + _KEYS + 16 * first
    end = scratch + _KEYS + 16 * last
    while at < end:
        if load_i64(at + 8) == size and _equal(load_i64(at), key, size):
            return False
        at += 16
    store_i64(end, key)
    store_i64(end + 8, size)
    store_i64(scratch + _HELD, last + 1)
    return True


@inline
def _resolve(scratch, start, size):  # type: ignore[no-untyped-def]
    """Write the escaped string to the side buffer: (start, size) there."""
    to = load_i64(scratch + _SIDE)
    after = unescape(start, start + size, to)
    store_i64(scratch + _SIDE, after)
    return to, after - to


@inline
def _extend(cuts, room, runs, joined, start, end):  # type: ignore[no-untyped-def]
    """Let the member [start, end) stay, in the last run or a new one: the number of runs, -1 if there is no room."""
    if not joined:
        if runs == room:
            return np.int64(-1)
        store_i32(cuts + 8 * runs, np.int32(start))
        runs += 1
    store_i32(cuts + 8 * runs - 4, np.int32(end))
    return np.int64(runs)


@inline
def _note(tree, node, found, token, start, size, scratch):  # type: ignore[no-untyped-def]
    """Note what stands at `node`. False if a field was asked for below it and cannot be there."""
    leaf = _node(tree, node, LEAF)
    if leaf >= 0:
        if token == ESCAPED:
            start, size = _resolve(scratch, start, size)
        store_i64(found + TOKEN * leaf, token)
        store_i64(found + TOKEN * leaf + 8, start)
        store_i64(found + TOKEN * leaf + 16, size)
    return token in (OBJECT, NULL) or _node(tree, node, CHILD) < 0


@inline
def _key(i, end, tree, names, scratch, frame):  # type: ignore[no-untyped-def]
    """Read a key and its colon: (where its value may begin, or the negative problem; its node)."""
    if load_u8(i) != _QUOTE:
        return np.int64(-_BAD_JSON), np.int64(-1)
    close, escaped = string_end(i + 1, end)
    if close < 0:
        return np.int64(-_BAD_JSON), np.int64(-1)
    start, size = i + 1, close - i - 1
    if escaped:
        start, size = _resolve(scratch, start, size)
    if not _register(scratch, load_i64(frame + 16), start, size):
        return np.int64(-_DUPLICATE), np.int64(-1)
    i = skip(close + 1, end)
    if i >= end or load_u8(i) != _COLON:
        return np.int64(-_BAD_JSON), np.int64(-1)
    return np.int64(i + 1), _find(tree, names, load_i64(frame + 8), start, size)


@inline
def _open(frame, c, node, scratch):  # type: ignore[no-untyped-def]
    """Begin the object or array whose bracket is c."""
    store_i64(frame, np.int64(c == _OBJECT))
    store_i64(frame + 8, node)
    store_i64(frame + 16, load_i64(scratch + _HELD))


@inline
def _walk(begin, end, tree, names, mode, cuts, room, found, scratch, objects):  # type: ignore[no-untyped-def]
    """Check the value in [begin, end), note tokens and runs: 0 or the problem. All but the modes and `room` are
    addresses.
    """
    problem, depth, node, state = 0, 0, np.int64(0), _VALUE
    runs, joined, stays, member = np.int64(0), False, False, begin
    i = skip(begin, end)
    if objects and i < end and load_u8(i) != _OBJECT:
        return _NOT_AN_OBJECT
    while True:
        if state == _AFTER and depth <= 1:
            if depth == 0:
                return problem if skip(i, end) == end else _TRAILING
            if mode != ALL and stays:
                runs = _extend(cuts, room, runs, joined, member - begin, i - begin)
                if runs < 0:
                    return _DUPLICATE
            joined = stays
        i = skip(i, end)
        if i >= end:
            return _BAD_JSON
        c = load_u8(i)
        frame = scratch + _FRAMES + _FRAME * (depth - 1)
        if state == _VALUE:
            if c in (_OBJECT, _ARRAY):
                if depth == DEPTH_MAX:
                    return _TOO_DEEP
                _open(frame + _FRAME, c, node, scratch)
                depth += 1
                after, token, start, size = i + 1, OBJECT if c == _OBJECT else ARRAY, i, np.int64(0)
                state = _FIRST
            else:
                after, token, start, size = scalar(i, end)
                state = _AFTER
            if after < 0:
                return _BAD_JSON
            i = after
            if node >= 0 and not _note(tree, node, found, token, start, size, scratch):
                problem = _WRONG_TYPE
            node = np.int64(-1)
        elif state == _KEY:
            start = i
            i, node = _key(i, end, tree, names, scratch, frame)
            if i < 0:
                return -i
            if depth == 1:
                member, stays = start, (node >= 0 and _node(tree, node, LISTED) != 0) == (mode == KEEP)
            state = _VALUE
        else:
            is_object = load_i64(frame) != 0
            if c == (_OBJECT_END if is_object else _ARRAY_END):
                store_i64(scratch + _HELD, load_i64(frame + 16))
                depth, state, i = depth - 1, _AFTER, i + 1
            elif state == _AFTER and c != _COMMA:
                return _BAD_JSON
            else:
                i += 1 if state == _AFTER else 0
                state = _KEY if is_object else _VALUE


@kernel(
    types.int64(
        U8, I64, I32, I32, U8, types.int64, types.int64, types.boolean, types.int64,
        I32_OUT, I64_OUT, U8_OUT, I64_OUT, I16_OUT, B1_OUT,
    )
)  # fmt: skip
def tokenize(  # type: ignore[no-untyped-def]
    buffer, starts, sizes, tree, names, leaves, mode, objects, room, cuts, found, side, scratch, problems, unsure
):  # fmt: skip
    """Check n values and find what was asked for in each; how many bytes of the side buffer are used.

    tree: NODE int32 per node, names: theirs, leaves: how many fields. objects: whether values must be objects.
    mode: which members stay, as runs of [start, end) from the value's start in cuts int32[n, room, 2], -1 beyond the
    last. found int64[n, leaves, 3]: token, start (in the buffer, or in the side buffer if ESCAPED), size; zeros
    beforehand. side: room for all values. scratch: int64[SCRATCH]. problems int16[n]: 0 or a Problem. unsure bool[n]:
    so many keys in an object that the caller must look for duplicates.
    """
    base, aside, cells = address(buffer), address(side), address(scratch)
    store_i64(cells + _SIDE, aside)
    cuts_at, found_at = address(cuts), address(found)
    tree_at, names_at = address(tree), address(names)
    for row in range(len(starts)):
        unsure[row] = False
        if sizes[row] < 0:
            problems[row] = _TOMBSTONE
            continue
        begin = base + starts[row]
        end = begin + np.int64(sizes[row])
        store_i64(cells + _HELD, 0)
        store_i64(cells + _UNSURE, 0)
        tokens = found_at + TOKEN * leaves * row
        runs = cuts_at + 8 * room * row
        problem = _walk(begin, end, tree_at, names_at, mode, runs, room, tokens, cells, objects)
        if not is_utf8(begin, end):
            problem = _BAD_UTF8
        problems[row] = problem
        unsure[row] = load_i64(cells + _UNSURE) != 0
        for leaf in range(leaves):
            at = tokens + TOKEN * leaf
            if load_i64(at) != MISSING:
                store_i64(at + 8, load_i64(at + 8) - (aside if load_i64(at) == ESCAPED else base))
    return load_i64(cells + _SIDE) - aside


@kernel(types.void(U8, I64, types.int64, types.int64, types.boolean, I64_OUT, F64_OUT, B1_OUT, B1_OUT, I16_OUT))
def numbers(buffer, found, leaves, leaf, real, integers, reals, valid, hard, problems):  # type: ignore[no-untyped-def]
    """The numbers at `leaf` of n values, as float64 if `real`, else as int64.

    found int64[n, leaves, 3], as `tokenize` leaves it. hard bool[n]: too long to convert exactly here, left to the
    caller. problems int16[n]: gets WRONG_TYPE or OUT_OF_RANGE where nothing was wrong before.
    """
    base = address(buffer)
    for row in range(len(problems)):
        valid[row], hard[row] = False, False
        place = 3 * (leaves * row + leaf)
        token, start, size = found[place], found[place + 1], found[place + 2]
        if problems[row] != 0 or token in (MISSING, NULL):
            continue
        if token != INTEGER and (token != FLOAT or not real):
            problems[row] = _WRONG_TYPE
            continue
        at, end = base + start, base + start + size
        minus = load_u8(at) == _MINUS
        digits, power = decimal(at + 1 if minus else at, end)
        if real:
            hard[row] = digits > _EXACT or power < -22 or power > 22
            if not hard[row]:
                exact = np.float64(digits)
                value = exact * _POWERS[power] if power >= 0 else exact / _POWERS[-power]
                reals[row] = -value if minus else value
        elif power != 0 or digits > (_MOST + np.uint64(1) if minus else _MOST):
            problems[row] = _OUT_OF_RANGE
            continue
        else:
            integers[row] = -np.int64(digits) if minus else np.int64(digits)
        valid[row] = True


@kernel(types.void(U8, I64, I64, I32, types.int64, I64, U8_OUT))
def splice(buffer, starts, rows, cuts, room, out_starts, out):  # type: ignore[no-untyped-def]
    """Write an object of the runs that stay for each of m rows. out_starts int64[m+1], empty where there is nothing."""
    base, to = address(buffer), address(out)
    for place in range(len(rows)):
        row = rows[place]
        if out_starts[place + 1] == out_starts[place]:
            continue
        at = to + out_starts[place]
        store_u8(at, _OBJECT)
        at += 1
        for run in range(room):
            start = np.int64(cuts[2 * (room * row + run)])
            if start < 0:
                break
            if run > 0:
                store_u8(at, _COMMA)
                at += 1
            size = np.int64(cuts[2 * (room * row + run) + 1]) - start
            copy(at, base + starts[row] + start, size)
            at += size
        store_u8(at, _OBJECT_END)
