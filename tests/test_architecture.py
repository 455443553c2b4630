"""The rules of the house: layers, sizes, the clock, what no file may hold. Exceptions are listed, and only shrink."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "streamsample"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
BENCHMARKS = sorted((REPOSITORY / "benchmarks").rglob("*.py"))
TEXTS = [
    path
    for place in (".", ".ci", "configs", "streamsample", "tests", "benchmarks", "docs")
    for path in sorted((REPOSITORY / place).glob("*" if place == "." else "**/*"))
    if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc", ".png", ".bin", ".lock") and path.name != ".git"
]

BASE = {"records", "errors", "clock", "kernels", "hashing", "gather"}
LAYERS: dict[str, set[str]] = {
    # What a room may import beside itself.
    **dict.fromkeys(BASE, BASE),
    "expressions": BASE,
    "config": BASE | {"expressions"},
    "formats": BASE | {"config"},
    "sampling": BASE | {"config"},
    "labels": BASE | {"config"},
    "kafka": BASE | {"config"},
    "runtime": BASE | {"config", "expressions", "formats", "sampling", "labels", "kafka"},
    "testing": BASE | {"config", "expressions", "formats", "sampling", "labels", "kafka", "runtime"},
}
TOP = {"cli", "__init__", "__main__", "demo"}

CLOCK_CALLS = {
    *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
}
READS_A_CLOCK = {
    "clock.py": "the one place",
    "kafka/consumer.py": "the time limit of a poll, on the library's own clock",
}

LINES_OF_A_MODULE = 500
LINES_OF_A_FUNCTION = 70
LONG_FUNCTIONS: set[str] = set()


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in TOP:
        return
    assert room in LAYERS, f"{name_of(path)}: a room without a place in LAYERS"
    for line, imported in imports(path):
        first, _, rest = imported.partition(".")
        if first == "streamsample":
            target = rest.split(".")[0]
            allowed = LAYERS[room] | {room, "__version__"}
            assert target in allowed, f"{name_of(path)}:{line}: {room} may not import {target}"
        assert first != "kafka" or room == "kafka", (
            f"{name_of(path)}:{line}: only streamsample/kafka imports the client"
        )


def test_every_layer_exists() -> None:
    assert set(LAYERS) <= {room_of(path) for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_clock_reads_the_clock(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() in READS_A_CLOCK:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            called = ".".join(ast.unparse(node).split(".")[-2:])
            assert called not in CLOCK_CALLS, f"{name_of(path)}:{node.lineno}: {called}; take a Clock instead"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            names = {f"time.{alias.name}" for alias in node.names}
            assert not names & CLOCK_CALLS, f"{name_of(path)}:{node.lineno}: {names}; take a Clock instead"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if room_of(path) in ("sampling", "labels", "formats")], ids=name_of
)
def test_steps_are_pure(path: Path) -> None:
    """No I/O, no threads, no generator of random numbers: what a step says depends on what it was given."""
    forbidden = {"random", "secrets", "socket", "threading", "asyncio", "subprocess", "requests", "prometheus_client"}
    for line, imported in imports(path):
        assert imported.split(".")[0] not in forbidden, f"{name_of(path)}:{line}: a step imports {imported}"
        assert not imported.startswith("numpy.random"), f"{name_of(path)}:{line}: a step imports {imported}"
    assert "np.random" not in path.read_text()


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *BENCHMARKS], ids=name_of)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES_OF_A_MODULE, f"{name_of(path)} has {lines} lines"


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS], ids=name_of)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            name = f"{name_of(path)}:{node.name}"
            if name in LONG_FUNCTIONS:
                assert lines > LINES_OF_A_FUNCTION, f"{name} is short now: take it off LONG_FUNCTIONS"
            else:
                assert lines <= LINES_OF_A_FUNCTION, f"{name} has {lines} lines"


def test_texts_are_found() -> None:
    assert {"pyproject.toml", "streamsample/clock.py", ".ci/run"} <= {name_of(path) for path in TEXTS}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nothing_is_left_for_later_and_no_machine_is_named(path: Path) -> None:
    later = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
    places = "|".join(["/wo" + "rk", "/ro" + "ot", "/ho" + "me/[a-z]+", "/t" + "mp", "/Us" + "ers/[a-z]+"])
    machine = re.compile(rf"(?<![\w.}}~/-])({places})(?=[/\s\"'`]|$)")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not later.search(line), f"{name_of(path)}:{number}: {line.strip()}"
        assert not machine.search(line), f"{name_of(path)}:{number}: {line.strip()}"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_no_test_is_skipped_or_mocked(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            assert name not in {"pytest.skip", "pytest.importorskip", "pytest.xfail", "unittest.mock"}, where
            assert name not in {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}, where
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            assert not (node.module or "").startswith("unittest.mock"), where
            assert node.module != "pytest" or not names & {"skip", "importorskip", "xfail"}, where
            assert node.module != "unittest" or "mock" not in names, where
