"""Where the payload of open rows lies: in memory up to a limit, beyond it in files, at the same addresses.

A chunk is a piece of the address space. While more is held than the limit allows, chunks that are full are written to
files, which are mapped in their place: the rows that name addresses in them do not notice, and their memory is free.
The newest go first, for what is full last is read last: rows settle in the order of their event time. A file is removed
when all of its chunks are free.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from crc32c import crc32c

from streamsample.errors import LocalStateError, StateError
from streamsample.records import Bytes, Int64s

_FILE_BYTES: Final = 256 << 20
"""A file is full beyond this: so that disk space comes back while others are still needed."""
_FAILED: Final = ctypes.c_void_p(-1).value
_REMEDY: Final = (
    "the state is restored from the changelog; if it happens again, check the disk, or give the job another "
    "state.directory"
)


class Chunk:
    """A piece of memory that never moves. view: its bytes, to be written to until it is full."""

    __slots__ = (
        "_checked", "_memory", "address", "checksum", "file", "freed", "full", "offset", "stored", "used", "view",
    )  # fmt: skip

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, _pages(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view: Bytes = np.frombuffer(self._memory, np.uint8)
        self.address: int = self.view.ctypes.data
        self.used = 0
        self.freed = False
        self.full = False
        self.file: _File | None = None
        """Where it lies; None: in memory. Nothing can be written to it then."""
        self.offset = 0
        self.stored = 0
        """Bytes in the file, whole pages."""
        self.checksum = 0
        self._checked = False

    def check(self) -> None:
        """Read it back once, if it is in a file. Raises LocalStateError if the file does not hold what was written."""
        if self.file is not None and not self._checked:
            self.file.check(self.offset, self.stored, self.checksum)
            self._checked = True

    def let_go(self) -> None:
        """Free the memory that reading has taken, if it is in a file."""
        if self.file is not None:
            self._memory.madvise(mmap.MADV_DONTNEED)


class PayloadSpace:
    """Gives chunks. directory: where files may be written, a directory of this process's own, which is made when it is
    needed; memory_limit: bytes of chunks and tables to hold in memory, None: all of them.
    """

    def __init__(self, directory: Path | None = None, memory_limit: int | None = None) -> None:
        self.directory = directory
        self._limit = memory_limit if directory is not None else None
        self._files = 0
        self._file: _File | None = None
        self._full: list[Chunk] = []
        self.table_bytes = 0
        """Of what else is in memory for the rows; their owners keep count of it."""
        self.memory_bytes = 0
        """Of chunks in memory."""
        self.file_bytes = 0
        """Of chunks in files."""

    def chunk(self, size: int) -> Chunk:
        """A new chunk of at least `size` bytes."""
        chunk = Chunk(size)
        self.memory_bytes += len(chunk.view)
        return chunk

    def filled(self, chunk: Chunk) -> None:
        """Nothing more will be written to the chunk."""
        chunk.full = True
        if self._limit is not None:
            self._full.append(chunk)

    def keep_limit(self) -> None:
        """Bring full chunks beyond the limit into files. Raises StateError if they cannot be written."""
        while self._limit is not None and self._full and self.memory_bytes + self.table_bytes > self._limit:
            chunk = self._full.pop()
            if not chunk.freed and chunk.file is None:
                self._spill(chunk)

    def free(self, chunk: Chunk) -> None:
        """Forget a chunk; nothing may read it any more."""
        chunk.freed = True
        if chunk.file is None:
            self.memory_bytes -= len(chunk.view)
            return
        self.file_bytes -= chunk.stored
        chunk.file.release()

    def close(self) -> None:
        """Remove the directory. All chunks must be free."""
        if self._file is not None:
            self._file.seal()
            self._file = None
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def keep(self, chunks: Sequence[Chunk], directory: Path) -> tuple[list[str], Int64s]:
        """Let `directory` have the files that hold these chunks, under the names returned; those that are in memory
        are written out first. Where each lies: int64[n, 5] of (number of its file, offset, bytes stored, bytes used,
        checksum), for `take_over`.

        The files are linked, not copied: they outlive this space. Raises StateError if they cannot be written.
        """
        for chunk in chunks:
            if chunk.file is None:
                self._spill(chunk)
        numbers: dict[_File, int] = {}
        for chunk in chunks:
            if chunk.file is not None:
                numbers.setdefault(chunk.file, len(numbers))
        for file in numbers:
            try:
                os.link(file.path, directory / file.path.name)
            except OSError as error:
                raise _cannot_write(directory / file.path.name, error) from error
        places = [
            (numbers[chunk.file], chunk.offset, chunk.stored, chunk.used, chunk.checksum)
            for chunk in chunks
            if chunk.file is not None
        ]
        return [file.path.name for file in numbers], np.array(places, np.int64).reshape(-1, 5)

    def take_over(self, directory: Path, names: Sequence[str], places: Int64s) -> list[Chunk]:
        """The chunks that `keep` has left in `directory`, whose files are moved to this space's own.

        Raises LocalStateError if a file is missing or too short. What they hold is looked at when it is needed.
        """
        ends = np.zeros(len(names), np.int64)
        np.maximum.at(ends, places[:, 0], places[:, 1] + places[:, 2])
        for name, end in zip(names, ends.tolist(), strict=True):
            path = directory / name
            size = path.stat().st_size if path.is_file() else -1
            if size < end:
                raise LocalStateError(
                    f"{path}: " + ("is missing" if size < 0 else f"is cut short: {size} of {end} bytes are there"),
                    remedy=_REMEDY,
                )
        files = [self._next_file(directory / name) for name in names]
        chunks = [self._chunk_in(files[number], *place) for number, *place in places.tolist()]
        for file in files:
            file.seal()
        return chunks

    def _chunk_in(self, file: _File, offset: int, stored: int, used: int, checksum: int) -> Chunk:
        chunk = Chunk(stored)
        chunk.file, chunk.offset, chunk.stored, chunk.used, chunk.checksum = file, offset, stored, used, checksum
        _map_over(chunk.address, stored, file.descriptor, offset)
        file.hold()
        self.file_bytes += stored
        return chunk

    def _spill(self, chunk: Chunk) -> None:
        if self._file is None or self._file.size >= _FILE_BYTES:
            if self._file is not None:
                self._file.seal()
            self._file = self._next_file()
        chunk.stored = _pages(chunk.used)
        data = chunk.view[: chunk.stored].data
        chunk.checksum = crc32c(data)
        chunk.offset = self._file.append(data)
        chunk.file = self._file
        _map_over(chunk.address, chunk.stored, self._file.descriptor, chunk.offset)
        self.memory_bytes -= len(chunk.view)
        self.file_bytes += chunk.stored

    def _next_file(self, found: Path | None = None) -> _File:
        """A file with the next name; `found`: one that is there already, and gets that name."""
        assert self.directory is not None
        self._files += 1
        path = self.directory / f"payload-{self._files:06d}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if found is not None:
                found.rename(path)
            return _File(path, new=found is None)
        except OSError as error:
            raise _cannot_write(path, error) from error


class _File:
    """A file of chunks. It is gone when all of them are released, and nothing is appended any more."""

    def __init__(self, path: Path, *, new: bool) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        self.size = 0
        self._chunks = 0
        self._sealed = False

    def append(self, data: memoryview) -> int:
        """Write a chunk behind the others; where it begins."""
        begin = self.size
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self.descriptor, data[written:], begin + written)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.size = begin + len(data)
        self.hold()
        return begin

    def hold(self) -> None:
        """A chunk needs it."""
        self._chunks += 1

    def check(self, offset: int, size: int, checksum: int) -> None:
        """Raises LocalStateError if what was written there is not there."""
        try:
            found = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise self._damaged(offset, f"cannot be read: {error.strerror}") from error
        if len(found) < size:
            raise self._damaged(offset, f"is cut short: {len(found)} of {size} bytes are there")
        if crc32c(found) != checksum:
            raise self._damaged(offset, f"fails its checksum over {size} bytes")

    def seal(self) -> None:
        """Nothing will be appended any more."""
        self._sealed = True
        self._remove_if_unused()

    def release(self) -> None:
        """A chunk is not needed any more."""
        self._chunks -= 1
        self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        if self._sealed and not self._chunks:
            os.close(self.descriptor)
            self.path.unlink(missing_ok=True)

    def _damaged(self, offset: int, what: str) -> LocalStateError:
        return LocalStateError(
            f"{self.path}@{offset}: the payload of open rows {what}",
            remedy=_REMEDY,
        )


def _cannot_write(path: Path, error: OSError) -> StateError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else f"cannot be written: {error.strerror}"
    return StateError(
        f"{path}: {what}; open rows beyond state.memory_limit are kept there",
        remedy=f"make room in {path.parent}, give the job another state.directory, or raise state.memory_limit",
    )


def _pages(size: int) -> int:
    return max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE


_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_MAP_FIXED: Final = 0x10  # the same on Linux and macOS, and not in the module mmap


def _map_over(address: int, size: int, descriptor: int, offset: int) -> None:
    """Let the pages at `address` be those of the file from now on. Whoever owns the range still unmaps it."""
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    if _mmap(address, size, mmap.PROT_READ, flags, descriptor, offset) == _FAILED:
        raise StateError(
            f"a file of open rows cannot be mapped: {os.strerror(ctypes.get_errno())}",
            remedy="raise vm.max_map_count, or state.memory_limit",
        )
