"""What a worker process goes through on purpose: a full disk, and files it has no right to write. POSIX only."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

from ..errors import StoreError
from ..waist import Append, Batch, Engine, Receipt
from .schema import SCHEMA
from .tasks import Task, Tell, Told, acknowledged, settle, turn
from .verbs import batch, doc, done, new_id

NOBODY = 65534


async def fill(engine: Engine, task: Task, tell: Tell) -> None:
    """Append until no file may grow beyond `until` bytes, tell the error; with room again settle the last turn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (task.until, hard))
    try:
        number, last = await _until_full(engine, task, tell)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tell(acknowledged(task, number, last, await settle(engine, last)))


async def _until_full(engine: Engine, task: Task, tell: Tell) -> tuple[int, Batch]:
    for number in range(task.count):
        one = turn(task.partitions[0], task.worker, number, new_id(), "x" * 40_000)
        tell(Told("trying", task.worker, number, one.partition, one.id))
        try:
            (answer,) = await engine.commit([one])
        except StoreError as error:
            answer = error
        if not isinstance(answer, Receipt):
            tell(Told("full", task.worker, number, type(answer).__name__, answer.outcome))
            return number, one
        tell(acknowledged(task, number, one, answer))
    raise AssertionError("the disk did not become full")


async def write(engine: Engine, task: Task, tell: Tell) -> None:
    """Try to write without rights: root gives up its own."""
    await asyncio.to_thread(int)  # What Python imports when it is first used is out of reach afterwards.
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    tell(Told("ready", task.worker))
    try:
        await engine.open(SCHEMA)
        await done(engine, batch(task.partitions[0], Append("event", doc(1))))
    except StoreError as error:
        tell(Told("failed", task.worker, partition=type(error).__name__, id=error.outcome))
    finally:
        await engine.close()
    tell(Told("end", task.worker))
