"""The words of JSON inside kernels, by address: white space, strings, numbers and literals, as RFC 8259 has them.

Every function is given where the value ends and reads nothing beyond. Strings are found, checked and resolved here
except for their UTF-8, which is checked for the whole value at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.formats.pointers import load_u8, load_u64, store_u8
from streamsample.kernels import inline

# What a field is. STRING: the span is what stands between the quotes. ESCAPED: the span, over the side buffer, is the
# string with its escapes resolved. INTEGER: digits only, perhaps after a minus. FLOAT: any other number.
MISSING, NULL, STRING, ESCAPED, INTEGER, FLOAT, TRUE, FALSE, OBJECT, ARRAY = range(10)
_BAD: Final = -1

_QUOTE, _BACKSLASH, _MINUS, _U = (np.uint8(ord(c)) for c in '"\\-u')
_ZERO, _NINE = np.uint8(ord("0")), np.uint8(ord("9"))
_ONES: Final = np.uint64(0x0101010101010101)
_HIGH_BITS: Final = np.uint64(0x8080808080808080)


def _escapes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for letter, stands_for in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True):
        table[ord(letter)] = ord(stands_for)
    return table


def _hex_digits() -> NDArray[np.int8]:
    table = np.full(256, -1, np.int8)
    for digit in "0123456789abcdefABCDEF":
        table[ord(digit)] = int(digit, 16)
    return table


_ESCAPES: Final = _escapes()
_HEX: Final = _hex_digits()


@inline
def skip(i, end):  # type: ignore[no-untyped-def]
    """Past white space."""
    while i < end and (load_u8(i) == 0x20 or load_u8(i) == 0x0A or load_u8(i) == 0x0D or load_u8(i) == 0x09):
        i += 1
    return i


@inline
def _hex4(i, end):  # type: ignore[no-untyped-def]
    """The four hex digits at i, or -1."""
    if end - i < 4:
        return -1
    value = np.int64(0)
    for k in range(4):
        digit = np.int64(_HEX[load_u8(i + k)])
        if digit < 0:
            return -1
        value = value * 16 + digit
    return value


@inline
def _escape(i, end):  # type: ignore[no-untyped-def]
    """What the escape at i, behind its backslash, stands for, and where it ends: (code point or -1, end)."""
    if i >= end:
        return -1, i
    if load_u8(i) != _U:
        code = np.int64(_ESCAPES[load_u8(i)])
        return (code if code > 0 else -1), i + 1
    code = _hex4(i + 1, end)
    i += 5
    if code < 0xD800 or code > 0xDFFF:
        return code, i
    if code > 0xDBFF or end - i < 6 or load_u8(i) != _BACKSLASH or load_u8(i + 1) != _U:
        return -1, i
    low = _hex4(i + 2, end)
    if low < 0xDC00 or low > 0xDFFF:
        return -1, i
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), i + 6


@inline
def string_end(i, end):  # type: ignore[no-untyped-def]
    """(place of the closing quote or -1, whether there are escapes) of the string whose first character is at i."""
    escaped = False
    while True:
        while end - i >= 8:  # eight at a time, as long as none of them is a quote, a backslash or a control character
            word = load_u64(i)
            quote, backslash = word ^ (_ONES * np.uint64(0x22)), word ^ (_ONES * np.uint64(0x5C))
            low = (word - _ONES * np.uint64(0x20)) & ~word
            if (low | ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash)) & _HIGH_BITS:
                break
            i += 8
        while i < end and load_u8(i) >= 0x20 and load_u8(i) != _QUOTE and load_u8(i) != _BACKSLASH:
            i += 1
        if i >= end or load_u8(i) < 0x20:
            return np.int64(_BAD), escaped
        if load_u8(i) == _QUOTE:
            return np.int64(i), escaped
        escaped = True
        code, i = _escape(i + 1, end)
        if code < 0:
            return np.int64(_BAD), escaped


@inline
def unescape(i, end, at):  # type: ignore[no-untyped-def]
    """Write the string in [i, end), whose escapes are known to be right, with them resolved; where the writing ends."""
    while i < end:
        if load_u8(i) != _BACKSLASH:
            store_u8(at, load_u8(i))
            at, i = at + 1, i + 1
            continue
        code, i = _escape(i + 1, end)
        if code < 0x80:
            store_u8(at, np.uint8(code))
            at += 1
            continue
        more = 1 if code < 0x800 else (2 if code < 0x10000 else 3)
        lead = 0xC0 if more == 1 else (0xE0 if more == 2 else 0xF0)
        store_u8(at, np.uint8(lead | (code >> (6 * more))))
        for k in range(more):
            store_u8(at + 1 + k, np.uint8(0x80 | ((code >> (6 * (more - 1 - k))) & 0x3F)))
        at += 1 + more
    return at


@inline
def _digits(i, end):  # type: ignore[no-untyped-def]
    """Past decimal digits."""
    while i < end and load_u8(i) >= _ZERO and load_u8(i) <= _NINE:
        i += 1
    return i


@inline
def _number(i, end):  # type: ignore[no-untyped-def]
    """(end, INTEGER or FLOAT) of the number at i, or (-1, FLOAT)."""
    first = i + 1 if load_u8(i) == _MINUS else i
    i = _digits(first, end)
    if i == first or (load_u8(first) == _ZERO and i - first > 1):
        return np.int64(_BAD), FLOAT
    token = INTEGER
    if i < end and load_u8(i) == 0x2E:
        token, first = FLOAT, i + 1
        i = _digits(first, end)
        if i == first:
            return np.int64(_BAD), FLOAT
    if i < end and load_u8(i) | 0x20 == 0x65:
        token, first = FLOAT, i + 1
        if first < end and (load_u8(first) == 0x2B or load_u8(first) == _MINUS):
            first += 1
        i = _digits(first, end)
        if i == first:
            return np.int64(_BAD), FLOAT
    return np.int64(i), token


_WORDS: Final = np.frombuffer(b"true nullfalse", np.uint8)


@inline
def scalar(i, end):  # type: ignore[no-untyped-def]
    """(end or -1, token, start, size) of the string, number or literal at i. An ESCAPED one's span is still escaped."""
    c = load_u8(i)
    if c == _QUOTE:
        close, escaped = string_end(i + 1, end)
        return close + 1 if close >= 0 else close, ESCAPED if escaped else STRING, i + 1, close - i - 1
    if c == _MINUS or (c >= _ZERO and c <= _NINE):
        after, token = _number(i, end)
        return after, token, i, after - i
    if c == 0x74:
        token, word, size = TRUE, 0, 4
    elif c == 0x6E:
        token, word, size = NULL, 5, 4
    else:
        token, word, size = FALSE, 9, 5
    if end - i < size:
        return np.int64(_BAD), token, i, size
    for k in range(size):
        if load_u8(i + k) != _WORDS[word + k]:
            return np.int64(_BAD), token, i, size
    return np.int64(i + size), token, i, size


@inline
def decimal(at, end):  # type: ignore[no-untyped-def]
    """(digits without the point, power of ten) of a number without its sign; (digits, 1000) if there are too many."""
    digits, count, power = np.uint64(0), 0, np.int64(0)
    point = False
    while at < end and load_u8(at) | 0x20 != 0x65:
        c = load_u8(at)
        at += 1
        if c == 0x2E:
            point = True
            continue
        digits = digits * np.uint64(10) + np.uint64(c - _ZERO)
        count += 1 if digits > np.uint64(0) else 0
        power -= 1 if point else 0
        if count > 19:
            return digits, np.int64(1000)
    if at < end:
        at += 1
        down = load_u8(at) == _MINUS
        at += 1 if down or load_u8(at) == 0x2B else 0
        exponent = np.int64(0)
        while at < end and exponent < 1000:
            exponent = exponent * 10 + np.int64(load_u8(at) - _ZERO)
            at += 1
        power += -exponent if down else exponent
    return digits, power
