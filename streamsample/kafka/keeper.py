"""Run a command that must not outlive the process that asked for it.

    python -I -S keeper.py PARENT_PID REMOVE COMMAND...

starts COMMAND, prints its process id, and ends with its exit status. If the parent dies, however it dies (kill -9
included), COMMAND is killed, and the folder REMOVE ("" for none) is deleted. If this process itself is killed, Linux
kills COMMAND. A script of its own, on the standard library alone, so that it starts in some 30 ms.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have Linux kill the calling process when the thread that forked it, the keeper's only one, ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep(parent: int, remove: str, command: list[str]) -> int:
    """Run `command` for as long as `parent` is this process's parent; the exit status, negative for a signal."""
    before_exec = _die_with_parent if sys.platform == "linux" else None
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before_exec)
    print(child.pid, flush=True)
    while (status := child.poll()) is None:
        if os.getppid() != parent:
            child.kill()
            status = child.wait()
            if remove:
                shutil.rmtree(remove, ignore_errors=True)
            return status
        time.sleep(POLL_SECONDS)
    return status


if __name__ == "__main__":
    result = keep(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    sys.exit(result if result >= 0 else 128 - result)
