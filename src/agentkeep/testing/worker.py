"""A worker process of the conformance suite: opens an engine, waits for the word, does one task, says what it did.

    python -m agentkeep.testing.worker URL TASK

TASK is a `tasks.Task` as JSON. On stdout each line is a `tasks.Told` as JSON, the first "ready" once the engine is
open; the task begins when a line arrives on stdin. The last line is "end".
"""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from ..ids import system_clock
from ..layers.limits import Limits
from ..urls import engine as engine_of
from . import hardship
from .schema import SCHEMA
from .tasks import DOES, Task, Told


async def run(url: str, task: Task) -> None:
    """One task on one engine."""
    engine = Limits(engine_of(url, system_clock))
    if task.do == "write":
        await hardship.write(engine, task, tell)
        return
    await engine.open(SCHEMA)
    try:
        tell(Told("ready", task.worker))
        await asyncio.to_thread(sys.stdin.readline)
        await (hardship.fill if task.do == "fill" else DOES[task.do])(engine, task, tell)
        tell(Told("end", task.worker))
    finally:
        await engine.close()


def tell(told: Told) -> None:
    """Say it at once: one write, so that a kill leaves no half line before it and nothing said unsaid."""
    os.write(1, msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Task)))
