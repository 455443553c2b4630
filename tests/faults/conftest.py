from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Scene
from tests.faults.workload import Workload

MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeScene]:
    """`make_scene(workload, on=None, **options)`: a job on the session's broker, or `on` another."""
    made: list[Scene] = []

    def make(workload: Workload, on: Any = None, **options: Any) -> Scene:
        servers = (on or request.getfixturevalue("broker")).bootstrap_servers
        made.append(Scene(servers, tmp_path / f"scene-{len(made)}", workload, **options))
        return made[-1]

    yield make
    for scene in made:
        scene.close()
