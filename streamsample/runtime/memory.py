"""How this process holds its memory: what is freed is kept for the next batch, within a limit."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""See mallopt(3)."""
_KEPT_BYTES = 128 << 20
_LARGEST_BYTES = (64 << 20, 32 << 20)
"""Of a piece that is kept: more than an answer with a fetch of all partitions. The second is for older versions."""


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, up to 128 MiB, for what comes next. False if it is not glibc.

    glibc gives pieces of many MiB back to the kernel as soon as they are freed, and the next batch's have to be mapped
    and zeroed page by page: a third of the CPU time of consuming. Each thread keeps its own: with one arena for all of
    them, pieces of many sizes would cut up each other's room.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    largest = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BYTES)
    return bool(largest and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
