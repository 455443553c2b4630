"""Named places at which a fault test lets the process die, as by kill -9.

STREAMSAMPLE_CRASH_AT=name kills the process when it passes `crash_point("name")`, name:3 when it does so the third
time.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "STREAMSAMPLE_CRASH_AT"


class _Fuse:
    """Burns down with each passage of one name."""

    def __init__(self, setting: str) -> None:
        name, _, count = setting.partition(":")
        if count and not (count.isdecimal() and int(count) > 0):
            raise ValueError(f"{VARIABLE}={setting}: expected name or name:n with n >= 1")
        self.name = name
        self.left = int(count or 1)

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


_fuse = _Fuse(os.environ.get(VARIABLE, ""))


def crash_point(name: str) -> None:
    """Die here if the environment says so. Costs one comparison otherwise."""
    if name == _fuse.name:
        _fuse.burn()
