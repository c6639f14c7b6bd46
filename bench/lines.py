"""Processes that are asked in JSON lines: one request a line on stdin, one answer a line on stdout.

Only the standard library is used here: the peers' environment imports this module too.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 900  # seconds for one answer

Answer = dict[str, Any]


class Process:
    """A process started by this one; it ends when its stdin is closed."""

    def __init__(self, command: Sequence[str], log: IO[str]) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive() tells why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> Answer:
        assert self._process.stdout is not None
        limit = threading.Timer(PATIENCE, self._process.kill)
        limit.start()
        try:
            line = self._process.stdout.readline()
        finally:
            limit.cancel()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}: {self._tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def ask(self, **request: Any) -> Answer:
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _tail(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()[-600:].strip()


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[Process]:
    """A process for the length of the block; what it writes to stderr goes to the file."""
    with log.open("w") as file, contextlib.closing(Process(command, file)) as process:
        yield process


def claim_stdout() -> IO[str]:
    """Stdout for the answers alone; whatever else this process prints from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


async def serve(answers: IO[str], handle: Callable[[Answer], Awaitable[Answer]]) -> None:
    """The other end: answer each line of stdin until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer = await handle(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
