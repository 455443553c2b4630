"""A worker process of a service with several: `python -m streamsample.runtime.member`, started by `service` only."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

from streamsample.clock import SystemClock
from streamsample.config import load_job
from streamsample.config.backfill import Backfill, backfilling
from streamsample.errors import StreamsampleError
from streamsample.runtime.logs import log_at
from streamsample.runtime.report import Progress
from streamsample.runtime.service import Options, run_one

log = logging.getLogger(__name__)


def main(path: str, status: str, until_caught_up: str, parent: str, log_level: str, backfill: str) -> int:
    """Run one worker, telling the parent in the file `status` how it goes. The exit code is the command line's."""
    import signal

    log_at(log_level)

    def tell(progress: Progress) -> None:
        if os.getppid() != int(parent):
            os.kill(os.getpid(), signal.SIGTERM)  # The parent is gone: nobody serves our metrics or stops us.
        partial = Path(f"{status}.part")
        partial.write_text(json.dumps(asdict(progress)))
        partial.replace(status)

    options = Options(until_caught_up=until_caught_up == "1", on_warning=log.debug, on_progress=tell)
    try:
        job = load_job(Path(path), os.environ)
        if backfill:
            job = backfilling(job, Backfill(**json.loads(backfill)))
        run_one(job, options, SystemClock(), serve=False)
    except StreamsampleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
