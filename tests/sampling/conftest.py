from __future__ import annotations

from importlib.util import find_spec

# It has no wheels for the newest Pythons.
collect_ignore = [] if find_spec("datasketches") else ["test_against_datasketches.py"]
