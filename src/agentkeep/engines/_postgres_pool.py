"""Connections to PostgreSQL: a pool of one event loop, and the one table from the driver's errors to ours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from ..errors import Closed, Contention, Corrupt, Denied, Invalid, SchemaMismatch, StoreError, Unavailable

T = TypeVar("T")

ENGINE = "postgresql"
IDLE = 300.0
"""Seconds after which an idle connection is not trusted any more: firewalls forget connections silently."""
GRACE = 5.0
"""Seconds that close waits for calls under way."""

Record = Sequence[Any]


class Connection(Protocol):
    """What the engine uses of an asyncpg connection."""

    async def fetch(self, query: str, *args: object) -> list[Record]: ...
    async def execute(self, query: str, *args: object) -> str: ...
    async def close(self, *, timeout: float | None = None) -> None: ...
    def terminate(self) -> None: ...
    def is_closed(self) -> bool: ...
    def get_server_pid(self) -> int: ...


Connect = Callable[[], Awaitable[Connection]]


def connector(settings: Mapping[str, Any]) -> Connect:
    """How to make a connection: `asyncpg.connect` with these settings."""

    async def connect() -> Connection:
        return cast(Connection, await cast(Any, asyncpg).connect(**settings))

    return connect


class Source(Protocol):
    """Where connections come from: the engine's own pool, or one that was handed in."""

    async def take(self, fresh: bool = False) -> Connection: ...
    async def give(self, connection: Connection) -> None: ...
    async def drop(self, connection: Connection) -> None: ...
    async def close(self) -> None: ...
    def abandon(self) -> None: ...


class Pool:
    """A few connections, the one used last taken first. Dead ones are replaced when they are taken.

    `connect` is asked for each new connection; `timeout` bounds the wait for a free one.
    """

    def __init__(self, connect: Connect, most: int, timeout: float) -> None:
        self.connect = connect
        self._most = most
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._free: list[tuple[Connection, float]] = []
        self._used: set[Connection] = set()
        self._making = 0
        self._closed = False
        self._ended: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, fresh: bool = False) -> Connection:
        """A connection. `fresh`: a new one, where the one before was found dead and others may be."""
        while not self._closed:
            while self._free and not fresh:
                connection, since = self._free.pop()
                if not connection.is_closed() and self._loop.time() - since < IDLE:
                    self._used.add(connection)
                    return connection
                connection.terminate()
            if len(self._free) + len(self._used) + self._making < self._most:
                return await self._make()
            if self._free:
                self._free.pop(0)[0].terminate()
            else:
                await self._wait()
        raise Closed("the engine was closed", engine=ENGINE)

    async def give(self, connection: Connection) -> None:
        """Take back a connection whose last call went well, or failed within the database."""
        self._used.discard(connection)
        if not connection.is_closed():
            self._free.append((connection, self._loop.time()))
        self._wake()

    async def drop(self, connection: Connection) -> None:
        """Take back a connection that is dead, or in the middle of a call."""
        self._used.discard(connection)
        connection.terminate()
        self._wake()

    async def close(self) -> None:
        """Close all, those in use after a grace."""
        if self._used or self._making:
            self._ended = self._loop.create_future()
            await asyncio.wait([self._ended], timeout=GRACE)
        self._closed = True
        while self._waiting:
            self._wake()
        for connection in self._used:
            connection.terminate()
        while self._free:
            connection, _ = self._free.pop()
            try:
                await connection.close(timeout=GRACE)
            except (*DRIVER_ERRORS, TimeoutError):
                connection.terminate()

    async def _make(self) -> Connection:
        self._making += 1
        try:
            connection = await self.connect()
        except BaseException:
            self._making -= 1
            self._wake()
            raise
        self._making -= 1
        self._used.add(connection)
        if self._closed:
            await self.drop(connection)
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

    def abandon(self) -> None:
        """Let go of all, from outside of the loop, which has ended."""
        for connection in (*self._used, *(connection for connection, _ in self._free)):
            try:
                connection.terminate()
            except RuntimeError:  # The loop is closed, and so its transports are.
                pass


class Lent:
    """A pool of asyncpg that was handed in: connections go back to it after each call, and it stays open."""

    def __init__(self, pool: Any, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def take(self, fresh: bool = False) -> Connection:
        return cast(Connection, await self._pool.acquire(timeout=self._timeout))

    async def give(self, connection: Connection) -> None:
        await self._pool.release(connection)

    async def drop(self, connection: Connection) -> None:
        connection.terminate()
        await self._pool.release(connection)

    async def close(self) -> None:
        """Leave it open."""

    def abandon(self) -> None:
        """Leave it open."""


# --- calls -------------------------------------------------------------------------------------------------------

TRIES = 5


class Attempt:
    """What one attempt of a call has done: whether the statement that may write was sent."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


async def call(source: Source, operation: str, work: Callable[[Connection, Attempt], Awaitable[T]]) -> T:
    """Do some work on a connection, and again on a new one if the connection was lost.

    The work can be repeated: reads, and commits, which the database remembers. Raises a StoreError, whose outcome is
    "unknown" if a lost attempt may have written and no later one could tell.
    """
    maybe = fresh = False
    for number in range(1, TRIES + 1):
        attempt = Attempt()
        try:
            connection = await source.take(fresh)
        except (*DRIVER_ERRORS, StoreError) as error:
            raise translate(error, operation, maybe) from None
        try:
            answer = await work(connection, attempt)
        except StoreError:
            await source.give(connection)
            raise
        except DRIVER_ERRORS as error:
            fresh = lost(error) or connection.is_closed()
            if fresh or isinstance(error, TimeoutError):
                maybe = maybe or attempt.sent
                await source.drop(connection)
            else:
                await source.give(connection)
            if number == TRIES or not (fresh or again(error)):
                raise translate(error, operation, maybe) from None
        except BaseException:
            await source.drop(connection)
            raise
        else:
            await source.give(connection)
            return answer
    raise AssertionError("the last try returns or raises")


@asynccontextmanager
async def transaction(connection: Connection, begin: str = "BEGIN") -> AsyncGenerator[None]:
    """A transaction. After an error of the database, or one of ours, it is undone and the connection is clean."""
    try:
        await connection.execute(begin)
        yield
    except (StoreError, PostgresError) as error:
        if isinstance(error, StoreError) or not lost(error):
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


# --- errors ------------------------------------------------------------------------------------------------------

_errors = cast(Any, asyncpg).exceptions
PostgresError: type[Exception] = _errors.PostgresError
UniqueViolation: type[Exception] = _errors.UniqueViolationError

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    PostgresError,
    _errors.InterfaceError,
    _errors.InternalClientError,
    OSError,
    EOFError,
)
"""All that the driver raises, TimeoutError among them: it is an OSError."""


class _Meaning(NamedTuple):
    make: type[StoreError]
    message: str
    hint: str = ""
    retryable: bool | None = None


_MEANINGS: Mapping[str, _Meaning] = {
    # By SQLSTATE, the longest prefix first: https://www.postgresql.org/docs/current/errcodes-appendix.html
    "08": _Meaning(Unavailable, "the connection was lost"),
    "22": _Meaning(Invalid, "the database refused a value"),
    "23": _Meaning(Contention, "concurrent writers kept meeting on one row"),
    "25006": _Meaning(Denied, "the database is read-only", "Connect to the primary, not to a replica."),
    "25": _Meaning(Unavailable, "the transaction was ended by the server"),
    "26": _Meaning(Unavailable, "a prepared statement is gone", "Behind a transaction pooler use pooler=transaction."),
    "28": _Meaning(Denied, "the database refused the credentials", "Check user and password."),
    "2BP01": _Meaning(SchemaMismatch, "a view must change, but other objects stand on it", "Drop them first."),
    "3D": _Meaning(Invalid, "the database does not exist", "Create it, or check the path of the URL."),
    "3F": _Meaning(SchemaMismatch, "the schema is missing", "Open with ddl=create, or run print_ddl()."),
    "40": _Meaning(Contention, "concurrent writers kept getting in each other's way"),
    "42501": _Meaning(Denied, "a right is missing", "Let a role that may create objects run print_ddl(), and GRANT."),
    "42": _Meaning(SchemaMismatch, "a table or a column is missing or differs", "Open with ddl=create."),
    "53100": _Meaning(Unavailable, "the disk of the database is full", "Free some space: what was stored is safe."),
    "53300": _Meaning(Unavailable, "the database has no connection left", "Lower pool_max, or use a pooler."),
    "53": _Meaning(Unavailable, "the database is out of a resource"),
    "54": _Meaning(Invalid, "the statement is over a limit of the database"),
    "55P03": _Meaning(Contention, "a lock was not to be had in time"),
    "57014": _Meaning(Unavailable, "the database cancelled the statement", "Its statement_timeout may be too short."),
    "57P": _Meaning(Unavailable, "the database is starting or stopping"),
    "58": _Meaning(Unavailable, "the database had an input or output error"),
    "XX001": _Meaning(Corrupt, "the database found damaged data"),
    "XX002": _Meaning(Corrupt, "the database found a damaged index", "REINDEX it."),
}
_OTHER = _Meaning(Unavailable, "the database reported an error", "", False)


def translate(error: Exception, operation: str, maybe: bool = False) -> StoreError:
    """The driver's error as ours. `maybe`: something may have been written.

    The driver's text is left out: it may quote values.
    """
    if isinstance(error, StoreError):
        error.operation = error.operation or operation
        if maybe:
            error.outcome = "unknown"
        return error
    state = sqlstate(error)
    if state:
        known = next((_MEANINGS[state[:n]] for n in (5, 4, 3, 2) if state[:n] in _MEANINGS), _OTHER)
        known = known._replace(message=f"{known.message} (SQLSTATE {state})")
    elif isinstance(error, TimeoutError):
        known = _Meaning(Unavailable, "the database did not answer in time", "Raise the option timeout, or find out.")
    elif isinstance(error, (OSError, EOFError)):
        known = _Meaning(Unavailable, f"the database cannot be reached ({type(error).__name__})")
    elif lost(error):
        known = _Meaning(Unavailable, "the connection was lost")
    elif isinstance(error, ValueError):
        known = _Meaning(Invalid, "a setting or a value does not suit the driver", "Check the options of the URL.")
    else:
        known = _OTHER._replace(message=f"the driver reported {type(error).__name__}")
    made = known.make(
        known.message,
        engine=ENGINE,
        operation=operation,
        hint=known.hint,
        outcome="unknown" if maybe else "none",
        retryable=known.retryable,
    )
    made.__suppress_context__ = True
    return made


def sqlstate(error: Exception) -> str:
    """The SQLSTATE of a server's error, "" of any other."""
    return str(getattr(error, "sqlstate", None) or "") if isinstance(error, PostgresError) else ""


def lost(error: Exception) -> bool:
    """Whether the connection is gone and the call may be made again on another."""
    if isinstance(error, (TimeoutError, StoreError)):
        return False
    state = sqlstate(error)
    if state:
        return state.startswith("08") or state in ("57P01", "57P02", "57P05", "25P03")
    return isinstance(error, (OSError, EOFError)) or "connection" in str(error)


def again(error: Exception) -> bool:
    """Whether the database undid the statement to let another one pass."""
    return sqlstate(error) in ("40001", "40P01", "23505", "55P03")
