"""Worker processes seen from the test: started together, listened to, killed by the test that started them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from .tasks import SECONDS, Task, Told

_told = msgspec.json.Decoder(Told)


class Process:
    """One worker. `told` is what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, task: Task) -> None:
        self._process = process
        self.task = task
        self.told: list[Told] = []

    async def said(self, what: str, times: int = 1) -> None:
        """Listen until it has said something so often. Raises AssertionError, with its stderr, if it ends before."""
        async with asyncio.timeout(SECONDS):
            while sum(told.what == what for told in self.told) < times:
                if not await self._line():
                    raise AssertionError(f"a worker ended without saying {what!r}:\n{await self._errors()}")

    async def start(self) -> None:
        """Give the word."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def end(self) -> list[Told]:
        """Listen to the end. Raises AssertionError, with its stderr, if it failed."""
        await self.said("end")
        await self._process.wait()
        return self.told

    async def kill(self) -> list[Told]:
        """Kill it (SIGKILL), and listen to what it had said before."""
        if self._process.returncode is None:
            self._process.kill()
        async with asyncio.timeout(SECONDS):
            while await self._line():
                pass
            await self._process.wait()
        return self.told

    async def _line(self) -> bool:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if line.endswith(b"\n"):
            self.told.append(_told.decode(line))
        return bool(line)

    async def _errors(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode("utf-8", "replace")[-4000:]


@asynccontextmanager
async def processes(url: str, tasks: Sequence[Task]) -> AsyncGenerator[list[Process]]:
    """Workers whose engines are open and who wait for the word. None of them outlives the block."""
    started: list[Process] = []
    try:
        for task in tasks:
            command = sys.executable, "-m", "agentkeep.testing.worker", url, msgspec.json.encode(task).decode()
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
            started.append(Process(process, task))
        await asyncio.gather(*(process.said("ready") for process in started))
        yield started
    finally:
        for process in started:
            await process.kill()


async def ran(url: str, tasks: Sequence[Task]) -> list[Told]:
    """Everything that workers said who began together and ended well."""
    async with processes(url, tasks) as started:
        for process in started:
            await process.start()
        return [told for every in await asyncio.gather(*(process.end() for process in started)) for told in every]
