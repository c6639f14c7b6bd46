"""Connections to PostgreSQL: a pool of one event loop, and calls that outlive a lost connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from ..errors import Closed, StoreError, Unavailable
from ._postgres_errors import DRIVER_ERRORS, ENGINE, PostgresError, UniqueViolation, again, lost, translate

T = TypeVar("T")

IDLE = 300.0
"""Seconds after which an idle connection is not trusted any more: firewalls forget connections silently."""
GRACE = 5.0
"""Seconds that close waits for calls under way."""
TICKS = 10
"""Looks at the clock in one timeout. A timer of its own for each call would cost a tenth of the call."""
TRIES = 5

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Each statement sees what was committed before it, whatever the default of the role or the database is."""

Record = Sequence[Any]


class Connection(Protocol):
    """What the engine uses of an asyncpg connection."""

    async def fetch(self, query: str, *args: object) -> list[Record]:
        """The rows of a statement."""
        ...

    async def execute(self, query: str, *args: object) -> str:
        """The status of a statement; without arguments, of several."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:
        """Say goodbye."""
        ...

    def terminate(self) -> None:
        """Cut it."""
        ...

    def is_closed(self) -> bool:
        """Whether it is known to be dead."""
        ...

    def get_server_pid(self) -> int:
        """The process id that the server, or a pooler, gave at the start."""
        ...

    def get_settings(self) -> Any:
        """Where the driver keeps its types."""
        ...


Connect = Callable[[], Awaitable[Connection]]


def connector(settings: Mapping[str, Any]) -> Connect:
    """How to make a connection: `asyncpg.connect` with these settings."""

    async def connect() -> Connection:
        return acquainted(cast(Connection, await cast(Any, asyncpg).connect(**settings)))

    return connect


def acquainted(connection: Connection) -> Connection:
    """A connection that knows the arrays we send: it would look them up, with a SET for the session, at first use."""
    connection.get_settings().register_data_types(_ARRAYS)
    return connection


def _array(oid: int, name: str, element: int) -> Mapping[str, object]:
    return {
        "oid": oid,
        "ns": "pg_catalog",
        "name": name,
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
    }


# Object ids as in PostgreSQL's pg_type.dat, which never change.
_ARRAYS = [
    _array(1000, "_bool", 16),
    _array(1001, "_bytea", 17),
    _array(1007, "_int4", 23),
    _array(1009, "_text", 25),
    _array(1016, "_int8", 20),
    _array(3807, "_jsonb", 3802),
]


class Source(Protocol):
    """Where connections come from: the engine's own pool, or one that was handed in."""

    def idle(self) -> Connection | None:
        """A connection that can be had at once."""
        ...

    async def take(self, fresh: bool = False) -> Connection:
        """A connection. `fresh`: a new one, where the one before was found dead and others may be."""
        ...

    def give(self, connection: Connection) -> Awaitable[None] | None:
        """Take back a connection whose last call went well, or failed within the database."""
        ...

    def drop(self, connection: Connection) -> Awaitable[None] | None:
        """Take back a connection that is dead, or in the middle of a call."""
        ...

    def late(self, connection: Connection) -> bool:
        """Whether a connection was cut because its call took too long."""
        ...

    def patient(self, connection: Connection) -> None:
        """Let the call under way take as long as it takes."""
        ...

    async def close(self) -> None:
        """Close what was opened here, what is in use after a grace."""
        ...

    def abandon(self) -> None:
        """Let go of all, from outside of the event loop, which has ended."""
        ...


class Pool:
    """A few connections, the one used last taken first. Dead ones are replaced when they are taken.

    `timeout` bounds, in seconds, the wait for a connection and the time that it is in use.
    """

    def __init__(self, connect: Connect, most: int, timeout: float) -> None:
        self._connect = connect
        self._most = most
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._now = 0
        self._free: list[tuple[Connection, int]] = []
        self._used: dict[Connection, float] = {}
        self._late: set[Connection] = set()
        self._making = 0
        self._closed = False
        self._ended: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = self._loop.call_later(timeout / TICKS, self._tick)

    def idle(self) -> Connection | None:
        """The connection that was used last, if it lives."""
        while self._free:
            connection, since = self._free.pop()
            if not connection.is_closed() and self._now - since < TICKS * IDLE / self._timeout:
                self._used[connection] = self._now + TICKS
                return connection
            connection.terminate()
        return None

    async def take(self, fresh: bool = False) -> Connection:
        """The same, or a new connection, or the next that comes back. `fresh`: a new one."""
        while not self._closed:
            connection = None if fresh else self.idle()
            if connection is not None:
                return connection
            if len(self._free) + len(self._used) + self._making < self._most:
                return await self._make()
            if self._free:
                self._free.pop(0)[0].terminate()
            else:
                await self._wait()
        raise Closed("the engine was closed", engine=ENGINE)

    def give(self, connection: Connection) -> None:
        """Take back a connection that is clean."""
        self._used.pop(connection, None)
        self._free.append((connection, self._now))
        if self._waiting or self._ended is not None:
            self._wake()

    def drop(self, connection: Connection) -> None:
        """Cut a connection."""
        self._used.pop(connection, None)
        self._late.discard(connection)
        connection.terminate()
        self._wake()

    def late(self, connection: Connection) -> bool:
        """Whether its call ran out of time."""
        return connection in self._late

    def patient(self, connection: Connection) -> None:
        """Leave its call as much time as it takes."""
        self._used[connection] = float("inf")

    async def close(self) -> None:
        """Close all, those in use after a grace."""
        if self._used or self._making:
            self._ended = self._loop.create_future()
            await asyncio.wait([self._ended], timeout=GRACE)
        self._closed = True
        self._timer.cancel()
        while self._waiting:
            self._wake()
        for connection in self._used:
            connection.terminate()
        while self._free:
            connection, _ = self._free.pop()
            try:
                await connection.close(timeout=GRACE)
            except DRIVER_ERRORS:
                connection.terminate()

    def abandon(self) -> None:
        """Cut all; the event loop has ended."""
        for connection in (*self._used, *(connection for connection, _ in self._free)):
            try:
                connection.terminate()
            except RuntimeError:  # The loop is closed, and so its transports are.
                pass

    async def _make(self) -> Connection:
        self._making += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._making -= 1
            self._wake()
            raise
        self._making -= 1
        self._used[connection] = self._now + TICKS
        if self._closed:
            self.drop(connection)
            raise Closed("the engine was closed", engine=ENGINE)
        return connection

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except TimeoutError:
            raise Unavailable(
                f"all {self._most} connections were in use for {self._timeout:g} s",
                engine=ENGINE,
                hint="Raise pool_max, or do less at once.",
            ) from None
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._wake()
            raise

    def _wake(self) -> None:
        if self._ended is not None and not (self._used or self._making or self._waiting or self._ended.done()):
            self._ended.set_result(None)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _tick(self) -> None:
        self._now += 1
        for connection, until in self._used.items():
            if until < self._now and connection not in self._late:
                self._late.add(connection)
                connection.terminate()
        self._timer = self._loop.call_later(self._timeout / TICKS, self._tick)


class Lent:
    """A pool of asyncpg that was handed in: connections go back to it after each call, and it stays open.

    How long a call may take is that pool's `command_timeout`.
    """

    def __init__(self, pool: Any, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    def idle(self) -> Connection | None:
        """None: acquiring is a matter of the pool."""
        return None

    async def take(self, fresh: bool = False) -> Connection:
        """Acquire a connection."""
        return acquainted(cast(Connection, await self._pool.acquire(timeout=self._timeout)))

    def give(self, connection: Connection) -> Awaitable[None]:
        """Release it."""
        return cast("Awaitable[None]", self._pool.release(connection))

    def drop(self, connection: Connection) -> Awaitable[None]:
        """Cut it; the pool replaces it."""
        connection.terminate()
        return cast("Awaitable[None]", self._pool.release(connection))

    def late(self, connection: Connection) -> bool:
        """Never: the pool limits its calls."""
        return False

    def patient(self, connection: Connection) -> None:
        """The pool limits its calls."""

    async def close(self) -> None:
        """Leave the pool open."""

    def abandon(self) -> None:
        """Leave the pool open."""


# --- calls -------------------------------------------------------------------------------------------------------


class Attempt:
    """One attempt of a call, as its work sees it."""

    __slots__ = ("_source", "connection", "sent")

    def __init__(self, source: Source, connection: Connection, sent: bool = False) -> None:
        self._source = source
        self.connection = connection
        self.sent = sent
        """The statement that writes was sent: if the connection is lost now, the outcome is unknown."""

    def patient(self) -> None:
        """Let it take as long as it takes."""
        self._source.patient(self.connection)


class _Past(NamedTuple):
    """What the attempts before tell: how many, whether the last lost its connection, whether one may have written."""

    tries: int = 0
    lost: bool = False
    maybe: bool = False


_NEW = _Past()


async def fetch(source: Source, operation: str, query: str, args: Sequence[Any], writes: bool = False) -> list[Record]:
    """The rows of one statement, done as by `call`. Where a connection is idle this adds next to nothing.

    A unique violation of a statement that writes is an answer, and raised as it is.
    """
    past = _NEW
    connection = source.idle()
    if connection is not None:
        try:
            rows = await connection.fetch(query, *args)
        except DRIVER_ERRORS as error:
            past = await _failed(source, Attempt(source, connection, writes), error, operation, past)
        except BaseException:
            source.drop(connection)  # Cancelled: the statement may still run.
            raise
        else:
            source.give(connection)
            return rows

    async def work(attempt: Attempt) -> list[Record]:
        attempt.sent = writes
        return await attempt.connection.fetch(query, *args)

    return await call(source, operation, work, past)


async def call(source: Source, operation: str, work: Callable[[Attempt], Awaitable[T]], past: _Past = _NEW) -> T:
    """Do some work on a connection, and again on a new one if the connection was lost.

    The work can be repeated: reads, and commits, which the database remembers. Raises a StoreError, whose outcome is
    "unknown" if a lost attempt may have written and no later one could tell.
    """
    while True:
        try:
            connection = await source.take(past.lost)
        except (*DRIVER_ERRORS, StoreError) as error:
            raise translate(error, operation, past.maybe) from None
        attempt = Attempt(source, connection)
        try:
            answer = await work(attempt)
        except (*DRIVER_ERRORS, StoreError) as error:
            past = await _failed(source, attempt, error, operation, past)
        except BaseException:
            await _done(source.drop(connection))
            raise
        else:
            await _done(source.give(connection))
            return answer


async def _failed(source: Source, attempt: Attempt, error: Exception, operation: str, past: _Past) -> _Past:
    """Put the connection away, and raise what is to be raised."""
    connection = attempt.connection
    if isinstance(error, StoreError):
        await _done(source.give(connection))
        raise error
    if source.late(connection):
        error = TimeoutError()
    gone = isinstance(error, TimeoutError) or lost(error) or connection.is_closed()
    await _done(source.drop(connection) if gone else source.give(connection))
    if attempt.sent and isinstance(error, UniqueViolation):
        raise error
    past = _Past(past.tries + 1, gone, past.maybe or (attempt.sent and gone))
    if isinstance(error, TimeoutError) or past.tries == TRIES or not (gone or again(error)):
        raise translate(error, operation, past.maybe) from None
    return past


async def _done(later: Awaitable[None] | None) -> None:
    if later is not None:
        await later


@asynccontextmanager
async def transaction(connection: Connection, begin: str = BEGIN) -> AsyncGenerator[None]:
    """A transaction. After an error of the database, or one of ours, it is undone and the connection is clean."""
    try:
        await connection.execute(begin)
        yield
    except (StoreError, PostgresError) as error:
        if isinstance(error, StoreError) or not lost(error):
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
