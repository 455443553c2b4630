"""Local copies: the state of a task that stopped, beside its payload, so that it need not be read from the changelog.

A copy is only a cache. It is written when a worker leaves after its last commit, and taken up by whichever worker of
this directory is given the task next, if it stands exactly where the group does: the same positions and the same place
in the changelog. Whoever takes it up moves it away first, so that no copy is used twice; any other copy is removed.

A copy is a directory: `tables`, the columns of `labels.image` (or the delta of windowed samples) one behind the other;
`head`, what they are and where the task stands; and names of the files with its payload. All of it has checksums: those
of the payload are looked at when it is first read. So nothing waits for the disk here: what a power failure takes is
noticed, and restored from the changelog.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from streamsample import __version__
from streamsample.errors import LocalStateError, StateError
from streamsample.kafka.changelog import ChangelogPosition
from streamsample.labels.image import LAYOUT, Column, Filled, Image, chunks_of, dtype_of, image_of, take_up
from streamsample.labels.tables import reserved
from streamsample.records import TopicPartition
from streamsample.runtime.state import ChunkBody
from streamsample.runtime.task import Task

log = logging.getLogger(__name__)

_MAGIC: Final = b"SSLC0001"
_BLOCK_BYTES: Final = 16 << 20
"""Of the tables, under one checksum, and read in one go."""
_STEP_BYTES: Final = 64 << 20
_CHECKSUM_BYTES: Final = 4
_REMEDY: Final = "the task is restored from the changelog"
_PLACES: Final = "payload.places"


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What the tables are, and where the task stands.

    maker: a digest of all that they depend on. position: of the changelog, as the group has it. log: see `ChunkLog`.
    columns: name, `dtype.str`, elements, elements that memory must have room for. sums: CRC-32C of each block of the
    tables. files: names of those with the payload.
    """

    maker: str
    position: str
    body: ChunkBody
    log: list[tuple[int, ...]]
    columns: list[tuple[str, str, int, int]]
    sums: list[int]
    files: list[str]


# -- leaving ------------------------------------------------------------------------------------------------


def keep_all(tasks: Iterable[Task]) -> None:
    """Write the local copies of those tasks that stand at their last commit.

    One that cannot be written is not there afterwards, and the log says why.
    """
    for task in tasks:
        if task.changed or task.log.first_offset is None:
            continue
        try:
            keep(task)
        except StateError as error:
            log.warning("task %d leaves no local state: %s", task.partition, error)


def keep(task: Task) -> None:
    """Write the local copy of a task that stands at its last commit, in place of any other; the task is of no use any
    more. Raises StateError if it cannot be written.
    """
    directory = _place_of(task)
    part: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{task.partition}.part-", dir=directory.parent))
        _write(task, part)
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    except OSError as error:
        raise StateError(
            f"{directory}: cannot be written: {error.strerror}", remedy=f"make room in {directory.parent}"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _write(task: Task, directory: Path) -> None:
    files: list[str] = []
    if task.join is not None:
        files, places = task.space.keep(chunks_of(task.join), directory)
        image = image_of(task.join) | {_PLACES: Column([places.reshape(-1)])}
    else:
        image = _of_windows(task)
    with open(directory / "tables", "wb") as out:
        sums = _write_columns(image, out)
    columns = []
    for name, (pieces, room) in image.items():
        size = sum(map(len, pieces))
        kind = pieces[0].dtype if pieces else np.dtype(np.int64)
        columns.append((name, kind.str, size, max(room, size)))
    head = _Head(_maker(task), str(task.log.position()), task.whole_body(), task.log.chunks(), columns, sums, files)
    data = _MAGIC + msgspec.msgpack.encode(head)
    (directory / "head").write_bytes(data + crc32c(data).to_bytes(_CHECKSUM_BYTES, "little"))


def _of_windows(task: Task) -> Image:
    """All that is held of them, as a delta."""
    if task.windows is None:
        return {}
    task.windows.rewrite()
    pieces, _ = task.windows.snapshot()
    return {"windows": Column([np.frombuffer(piece, np.uint8) for piece in pieces if len(piece)])}


def _write_columns(image: Image, out: IO[bytes]) -> list[int]:
    """Write all columns, one behind the other; the checksum of each block."""
    sums, checksum, room = [], 0, _BLOCK_BYTES
    for pieces, _ in image.values():
        for piece in pieces:
            rest = _bytes_of(piece)
            while len(rest):
                part, rest = rest[:room], rest[room:]
                checksum = crc32c(part, checksum)
                out.write(part)
                room -= len(part)
                if not room:
                    sums.append(checksum)
                    checksum, room = 0, _BLOCK_BYTES
    return [*sums, checksum]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


class Copies:
    """The copies that lie in a directory as a job starts; what a killed worker has half written is removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for part in directory.glob("*.part-*"):
            shutil.rmtree(part, ignore_errors=True)
        self._found = self._now()

    def remove_untouched(self) -> None:
        """Remove those that nobody has taken up or replaced since: their tasks run elsewhere."""
        for path, _ in self._found & self._now():
            shutil.rmtree(path, ignore_errors=True)

    def _now(self) -> set[tuple[Path, int]]:
        return {(head.parent, head.stat().st_mtime_ns) for head in self._directory.glob("*/head")}


# -- coming back --------------------------------------------------------------------------------------------


class LocalCopy:
    """A task's local copy that is being taken up. Goes on a little at each `step`."""

    def __init__(self, task: Task, directory: Path, head: _Head) -> None:
        self._task = task
        self._directory = directory
        self._head = head
        self._bytes = sum(dtype_of(name, kind).itemsize * size for name, kind, size, _ in head.columns)
        self._read = 0
        self._loaded: dict[str, Filled] = {}
        self._reading = self._read_all()

    @property
    def progress(self) -> float:
        """The share of its bytes that was read, 0 to 1."""
        return self._read / self._bytes if self._bytes else 1.0

    def step(self) -> bool:
        """Read on; whether the task has all of it. Raises LocalStateError if the copy is damaged: it is gone then, and
        the task as fresh as before.
        """
        end = self._read + _STEP_BYTES
        try:
            for _ in self._reading:
                if self._read >= end:
                    return False
            self._hand_over()
        except OSError as error:
            self._remove()
            raise LocalStateError(f"{error.filename}: cannot be read: {error.strerror}", remedy=_REMEDY) from error
        except LocalStateError:
            self._remove()
            raise
        self._remove()
        return True

    def close(self) -> None:
        """Put it back, unless it was taken up or is damaged: whoever is given the task next can use it."""
        if self._directory.is_dir():
            with suppress(OSError):
                self._directory.rename(_place_of(self._task))
        self._loaded = {}

    def _remove(self) -> None:
        """The payload that was taken up stays: it has been moved."""
        self._loaded = {}
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read_all(self) -> Iterator[None]:
        """Read the tables to where they will be used, block by block."""
        path = self._directory / "tables"
        found = path.stat().st_size
        if found != self._bytes:
            raise LocalStateError(f"{path}: has {found} of {self._bytes} bytes", remedy=_REMEDY)
        sums, checksum, room = iter(self._head.sums), 0, _BLOCK_BYTES
        with open(path, "rb", buffering=0) as source:
            for name, called, size, with_room in self._head.columns:
                array = reserved(with_room, dtype_of(name, called))
                rest = _bytes_of(array[:size])
                while len(rest):
                    read = source.readinto(rest[:room])
                    if not read:
                        raise LocalStateError(f"{path}@{self._read}: is cut short", remedy=_REMEDY)
                    checksum = crc32c(rest[:read], checksum)
                    rest = rest[read:]
                    room -= read
                    self._read += read
                    if not room:
                        self._check(next(sums), checksum)
                        checksum, room = 0, _BLOCK_BYTES
                        yield
                self._loaded[name] = Filled(array, size)
        self._check(next(sums), checksum)

    def _check(self, expected: int, found: int) -> None:
        if found != expected:
            begin = max(0, self._read - 1) // _BLOCK_BYTES * _BLOCK_BYTES
            where = f"{self._directory / 'tables'}@{begin}"
            raise LocalStateError(f"{where}: the block that begins there fails its checksum", remedy=_REMEDY)

    def _hand_over(self) -> None:
        task, head = self._task, self._head
        changelog = TopicPartition(task.plan.job.changelog_topic, task.partition)
        if task.join is not None:
            places = self._loaded[_PLACES].elements.reshape(-1, 5)
            chunks = task.space.take_over(self._directory, head.files, places)
            take_up(task.join, self._loaded, chunks)
        elif task.windows is not None:
            step = self._loaded["windows"].elements.tobytes()
            task.windows.restore([msgspec.structs.replace(head.body, step=step)], head.body.schemas, changelog)
        task.take_bodies([head.body])
        task.log.take_up(head.log)


def find(task: Task, positions: Mapping[str, int], position: ChangelogPosition, first_offset: int) -> LocalCopy | None:
    """The local copy of a fresh task, if it stands at these positions of the group and at this one of the changelog,
    whose first record is now at `first_offset`. Any other is removed, and the log says why. None if there is none.
    """
    directory = _claimed(task)
    if directory is None:
        return None
    try:
        head = _head_of(directory)
        _check_fits(task, head, positions, position, first_offset)
        return LocalCopy(task, directory, head)
    except LocalStateError as error:
        log.info("task %d: its local state is not used: %s", task.partition, error)
        shutil.rmtree(directory, ignore_errors=True)
        return None


def forget(task: Task) -> None:
    """Remove the local copy of a task that begins anew."""
    shutil.rmtree(_place_of(task), ignore_errors=True)


def _claimed(task: Task) -> Path | None:
    """Move the task's copy to where only this worker looks; None if there is none."""
    found, mine = _place_of(task), task.space.directory
    if mine is None or not found.is_dir():
        return None
    try:
        mine.mkdir(parents=True, exist_ok=True)
        return found.rename(mine / f"task-{task.partition}")
    except OSError as error:
        log.info("task %d: its local state is not used: %s cannot be moved: %s", task.partition, found, error.strerror)
        return None


def _head_of(directory: Path) -> _Head:
    path = directory / "head"
    try:
        data = path.read_bytes()
        inner, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if not data.startswith(_MAGIC) or crc32c(inner).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            raise LocalStateError(f"{path}: fails its checksum", remedy=_REMEDY)
        return msgspec.msgpack.decode(inner[len(_MAGIC) :], type=_Head)
    except (OSError, msgspec.DecodeError) as error:
        raise LocalStateError(f"{path}: cannot be read: {error}", remedy=_REMEDY) from error


def _check_fits(
    task: Task, head: _Head, positions: Mapping[str, int], position: ChangelogPosition, first_offset: int
) -> None:
    if head.maker != _maker(task):
        raise LocalStateError("it was written by another version of the job, or of streamsample", remedy=_REMEDY)
    if head.body.positions != positions or head.position != str(position):
        raise LocalStateError(
            f"it stands at {head.body.positions} ({head.position}), the group at {dict(positions)} ({position})",
            remedy=_REMEDY,
        )
    if first_offset > position.offset:
        raise LocalStateError("the changelog lacks what a later restore would need", remedy=_REMEDY)


def _maker(task: Task) -> str:
    """Changes with whatever a copy depends on: the job's rules, the tables' layout, the machine's byte order."""
    job = task.plan.job
    parts = (__version__, sys.byteorder, LAYOUT, job.group, *task.shape, job.state_parts, task.plan.join)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _place_of(task: Task) -> Path:
    return task.plan.job.tasks_directory / str(task.partition)
