"""A process that outlives its parent just long enough to end what the parent leaves behind.

Its standard input is a pipe that only the parent holds open. The parent writes what to clean up as lines of JSON, the
last one counts. When the pipe closes, because the parent closed it or was killed, the server ends and the paths are
removed. (PR_SET_PDEATHSIG would not do: it fires when the thread that started the server ends.)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import Process, end


class Watchdog:
    """The parent's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "_engines.watchdog"],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def guard(self, process: Process | None, signum: int, remove: Sequence[Path]) -> None:
        """Replaces what is to be ended and removed."""
        ids = [process.pid, process.started] if process else None
        order = {"process": ids, "signal": int(signum), "remove": [str(path) for path in remove]}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Has it clean up and end."""
        self._process.communicate()


def main() -> None:
    order = None
    for line in sys.stdin:
        order = json.loads(line)
    if order is None:
        return
    if order["process"]:
        end(Process(*order["process"]), order["signal"])
    for name in order["remove"]:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
