"""Housekeeping on PostgreSQL: what expired, was trimmed or is remembered long enough is removed in small steps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..errors import StoreError
from ..ids import HOUR, Clock
from ..waist import KindSpec
from ._postgres_commit import KEPT
from ._postgres_pool import Attempt, Connection, Source, call, transaction
from ._postgres_sql import Statements

EVERY = 5.0
"""Seconds between two steps of one process at least; SOON where a step found more than it took."""
SOON = 0.5
STEP = 200
"""Rows of one table that a step removes at most."""


class Keeper:
    """Keeps house beside the commits of one event loop: never within one, and in one process at a time."""

    def __init__(self, source: Source, statements: Statements, kinds: Mapping[str, KindSpec], clock: Clock) -> None:
        self._source = source
        self._statements = statements
        self._kinds = kinds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time() + EVERY
        self._task: asyncio.Task[None] | None = None

    def nudge(self) -> None:
        """Start a step if it is time for one."""
        if self._task is None and self._loop.time() >= self._next:
            self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Wait for no step: what it did not finish is undone."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        more = False
        try:
            more = await self.step() >= STEP
        except StoreError:
            pass  # The next step is another try; a database in trouble is reported by the calls that need it.
        finally:
            self._next = self._loop.time() + (SOON if more else EVERY)
            self._task = None

    async def step(self) -> int:
        """Remove a little; gives how many rows of one table or log at most."""
        return max(await call(self._source, "housekeeping", self._old), await self.sweep())

    async def sweep(self) -> int:
        """Remove some of the hidden rows of one log that was trimmed; gives how many."""
        return await call(self._source, "housekeeping", self._trimmed)

    async def _old(self, attempt: Attempt) -> int:
        connection = attempt.connection
        now = self._clock()
        async with transaction(connection):
            if not await self._alone(connection):
                return 0
            most = _count(await connection.execute(self._statements.forget(), now - KEPT, STEP))
            for kind in self._kinds.values():
                # An hour of slack, as everywhere: another process's clock may find the row alive.
                for number, query in enumerate(self._statements.expire(kind)):
                    until = [now + KEPT] if kind.log and number == 0 else []
                    most = max(most, _count(await connection.execute(query, now - HOUR, STEP, *until)))
        return most

    async def _trimmed(self, attempt: Attempt) -> int:
        connection = attempt.connection
        logs = [name for name, kind in self._kinds.items() if kind.log]
        async with transaction(connection):
            if not await self._alone(connection):
                return 0
            most = 0
            for name, floor in await connection.fetch(self._statements.mark(), logs):
                _, log, partition = str(name).split("/", 2)
                most = await self._sweep(connection, self._kinds[log], partition, int(floor))
                if most < STEP:
                    await connection.execute(self._statements.unmark(), name)
        return most

    async def _sweep(self, connection: Connection, kind: KindSpec, partition: str, floor: int) -> int:
        kept, gone = self._statements.sweep(kind)
        until = self._clock() + KEPT
        hidden = _count(await connection.execute(kept, partition, floor, STEP, until))
        return max(hidden, _count(await connection.execute(gone, partition, floor, STEP)))

    async def _alone(self, connection: Connection) -> bool:
        return bool((await connection.fetch(self._statements.alone()))[0][0])


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])
