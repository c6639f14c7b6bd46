"""What concurrent workers do to an engine, the same in a coroutine, a thread with its own loop, or a process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from ..codec import decode, encode
from ..errors import Conflict, StoreError
from ..keys import seq_of, seq_sort
from ..waist import Append, Batch, Check, Engine, Key, Put, Receipt, Row, Scan
from .verbs import new_id

T = TypeVar("T")

SECONDS = 60.0
"""How long a worker goes on trying before it fails."""


class Task(msgspec.Struct, frozen=True):
    """What one worker is to do: `do` names a function of this module."""

    do: str
    worker: int = 0
    partitions: tuple[str, ...] = ()
    count: int = 0
    until: int = 0
    queue: str = ""
    seed: int = 0


class Told(msgspec.Struct, frozen=True):
    """What a worker says as it goes: what it is about to commit, and what was acknowledged."""

    what: str
    worker: int
    number: int = 0
    partition: str = ""
    id: str = ""
    seqs: tuple[int, ...] = ()


Tell = Callable[[Told], None]


def turn(partition: str, worker: int, number: int, id: str, more: str = "") -> Batch:
    """A turn of a conversation: two events that belong together, the state, and a row with an index entry."""
    said = encode({"worker": worker, "number": number, "more": more})
    name = f"{worker}.{number}"
    return Batch(
        partition,
        (
            Append("event", said, {"by_agent": (f"{partition}/{worker}", number)}, {"worker": worker}),
            Put("state", f"latest {worker}", said),
            Append("event", said),
            Put("note", name, said, {"by_pair": (f"{partition}/{worker}", number)}),
        ),
        id,
    )


async def settle(engine: Engine, one: Batch) -> Receipt:
    """Commit a batch until its outcome is known, as store.py does. Raises what is not retryable, and Conflict."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                (answer,) = await engine.commit([one])
            except StoreError as error:
                answer = error
            if isinstance(answer, Receipt):
                return answer
            if not answer.retryable and answer.outcome != "unknown":
                raise answer
            await asyncio.sleep(random.uniform(0.001, 0.02))


async def reading(ask: Callable[[], Awaitable[T]]) -> T:
    """Read until it is answered. Raises what is not retryable."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await ask()
            except StoreError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(random.uniform(0.001, 0.02))


async def append(engine: Engine, task: Task, tell: Tell) -> None:
    """Append `count` turns, to each partition in turn, and tell each acknowledgement."""
    for number in range(task.count):
        partition = task.partitions[number % len(task.partitions)]
        one = turn(partition, task.worker, number, new_id())
        tell(Told("trying", task.worker, number, partition, one.id))
        tell(acknowledged(task, number, one, await settle(engine, one)))


async def follow(engine: Engine, task: Task, tell: Tell) -> None:
    """Follow a log to the number `until`; whatever was seen once never gets a new neighbour at or under it."""
    (partition,) = task.partitions
    seen = 0
    async with asyncio.timeout(SECONDS):
        while seen < task.until:
            scan = Scan("event", prefix=(partition,), lo=seq_sort(seen + 1), limit=50)
            for row in (await reading(lambda scan=scan: engine.scan(scan))).rows:
                if seq_of(row.key.sort) != seen + 1:
                    raise AssertionError(
                        f"{seq_of(row.key.sort)} came after {seen}: a number was missing when it was read"
                    )
                seen += 1
            await asyncio.sleep(0)
    tell(Told("followed", task.worker, seen))


async def count(engine: Engine, task: Task, tell: Tell) -> None:
    """Add one to a counter `count` times by compare-and-set."""
    (partition,) = task.partitions
    for _ in range(task.count):
        async with asyncio.timeout(SECONDS):
            while True:
                (row,) = await reading(lambda: engine.get([Key("state", partition, "counter")]))
                value = 0 if row is None else decode(row.doc, int)
                put = Put("state", "counter", encode(value + 1), expect="absent" if row is None else row.rev)
                try:
                    await settle(engine, Batch(partition, (put,), new_id()))
                    break
                except Conflict:
                    await asyncio.sleep(random.uniform(0, 0.005))
        tell(Told("added", task.worker))


class Job(msgspec.Struct, frozen=True):
    """A row of a queue: who has it, and its fence, which rises with each claim."""

    owner: int | None = None
    fence: int = 0
    finished: bool = False


MOST_CLAIMS = 2_000
"""How often a worker looks for a job before it takes the queue for one that never ends."""

LEASE = 1_000
"""How far a claim moves a job into the future: beyond `now` of every worker of a race."""


async def claim(engine: Engine, row: Row, worker: int, queue: str, due: int) -> tuple[str, Job] | None:
    """Take a job by its rev, due again at the end of the lease. The new rev and the job, or None: another was first."""
    job = Job(worker, decode(row.doc, Job).fence + 1)
    put = Put("note", row.key.sort, encode(job), {"by_pair": (queue, due)}, expect=row.rev)
    try:
        got = await settle(engine, Batch(row.key.partition, (put,), new_id()))
    except Conflict:
        return None
    return got.id, job


async def finish(engine: Engine, key: Key, rev: str, job: Job) -> bool:
    """Complete a job if the claim still stands: out of the queue, and one event that says who did it."""
    done = encode(msgspec.structs.replace(job, finished=True))
    ops = Put("note", key.sort, done, expect=rev), Append("event", done)
    try:
        await settle(engine, Batch(key.partition, ops, new_id()))
    except Conflict:
        return False
    return True


async def work(engine: Engine, task: Task, tell: Tell) -> None:
    """Claim and finish jobs of a queue that are due at 0 until there are none."""
    chance = random.Random(task.seed)
    scan = Scan("note", "by_pair", (task.queue,), hi=1, limit=20)
    for _ in range(MOST_CLAIMS):
        found = (await reading(lambda: engine.scan(scan))).rows
        if not found:
            return
        row = chance.choice(found)
        claimed = await claim(engine, row, task.worker, task.queue, LEASE)
        if claimed is None:
            continue
        rev, job = claimed
        tell(Told("claimed", task.worker, job.fence, row.key.partition, rev))
        if await finish(engine, row.key, rev, job):
            tell(Told("finished", task.worker, job.fence, row.key.partition, rev))
    raise AssertionError("the queue does not end: jobs that were taken are still found in it")


async def reserve(engine: Engine, task: Task, tell: Tell) -> None:
    """Take an address for this worker, `count` addresses in turn: one of all workers gets each."""
    for number in range(task.count):
        partition = f"{task.partitions[0]}/{number}"
        put = Put("state", "owner", encode(task.worker), expect="absent")
        try:
            got = await settle(engine, Batch(partition, (put, Check("note", "never", "absent")), new_id()))
        except Conflict:
            continue
        tell(Told("reserved", task.worker, number, partition, got.id))


def acknowledged(task: Task, number: int, one: Batch, got: Receipt) -> Told:
    """What a worker says of a turn that was committed."""
    seqs = tuple([seq for seq in got.seqs if seq is not None])
    return Told("done", task.worker, number, one.partition, one.id, seqs)


DOES: dict[str, Callable[[Engine, Task, Tell], Awaitable[None]]] = {
    "append": append,
    "follow": follow,
    "count": count,
    "work": work,
    "reserve": reserve,
}
