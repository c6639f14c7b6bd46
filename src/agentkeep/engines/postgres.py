"""The PostgreSQL engine: one statement and one round trip for the common commits, on asyncpg."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlencode
from zlib import crc32

import msgspec

from ..errors import Closed, Invalid, Key, StoreError
from ..ids import Clock, system_clock
from ..predicates import OPERATORS
from ..urls import Url, parse
from ..waist import Batch, Capabilities, Page, Receipt, Row, Scan, Schema
from ._postgres_ddl import Part, parts
from ._postgres_errors import ENGINE
from ._postgres_make import Wanted, make
from ._postgres_pool import GRACE, Attempt, Lent, Pool, Source, call, connector
from ._postgres_side import Side
from ._postgres_sql import Statements
from ._sql import checked, tables

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a postgresql:// URL."""

    schema: str = "agentkeep"
    """The PostgreSQL schema of the tables, created if it is missing. Empty: the first of the search path."""
    prefix: str = ""
    """Put before the name of every table."""
    pool_min: int = 1
    """Connections made when it is opened."""
    pool_max: int = 10
    """Connections at most, for each event loop it is used from (one, as a rule)."""
    timeout: float = 30.0
    """Seconds for a connection, for one from the pool, and for a statement."""
    ddl: Literal["create", "verify"] = "create"
    """Create what is missing, or only say so."""
    pooler: Literal["auto", "session", "transaction"] = "auto"
    """What stands between: behind a transaction pooler statements are not prepared."""
    application_name: str = "agentkeep"
    host: str | None = None
    sslmode: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslrootcert: str | None = None
    sslcrl: str | None = None
    target_session_attrs: str | None = None


class PoolerWarning(UserWarning):
    """A connection pooler was detected that changes how the engine works."""


def from_url(url: Url, options: Options, clock: Clock, inline: bool) -> Postgres:
    """`postgresql://user:password@host:port/database`."""
    return Postgres(url, options, clock)


def print_ddl(schema: Schema, options: Options | None = None) -> str:
    """Every statement a store of these kinds needs, for a role that may create objects.

    The role of the application then needs USAGE on the schema, SELECT, INSERT, UPDATE, DELETE on its tables, and
    the option ddl=verify, or no right to create anything.
    """
    options = options or Options()
    checked(schema.kinds)
    made = parts(tables(options.schema, options.prefix), schema.kinds)
    return "".join(f"{statement};\n" for part in made for statement in part.sql if part.what != "column")


class Postgres:
    """A PostgreSQL database, from any event loop and thread: each loop that is not the one of `open` has its share.

    `pool`: an asyncpg pool to use instead of connections of its own. It is not closed. Behind a transaction pooler
    it must have been made with `statement_cache_size=0`. Calls from other loops go to the loop of `open` then.
    """

    capabilities = Capabilities(name=ENGINE, atomic="database", filters=OPERATORS, facet_index=True)

    def __init__(
        self,
        url: Url | str = "postgresql://",
        options: Options | None = None,
        clock: Clock = system_clock,
        *,
        pool: Any = None,
    ) -> None:
        self._url = parse(url) if isinstance(url, str) else url
        self._options = options or Options()
        self._clock = clock
        self._pool = pool
        self._names = tables(self._options.schema, self._options.prefix)
        self._lock = threading.Lock()
        self._home: Side | None = None
        self._away: _Away | None = None
        self._make: Callable[[Source], Side] | None = None
        self._schema: Schema | None = None
        self._unprepared = self._options.pooler == "transaction"

    # --- life ----------------------------------------------------------------------------------------------------

    async def open(self, schema: Schema) -> None:
        """Connect, create or verify the tables. The event loop that runs this is the engine's home.

        An engine that is open goes over to other kinds with the connections it has.
        """
        checked(schema.kinds)
        made = parts(self._names, schema.kinds)
        home = self._home
        if home is not None and not home.loop.is_closed():
            if home.loop is not asyncio.get_running_loop():
                return await self._over(home.loop, lambda: self.open(schema))
            if schema != self._schema:
                await self._prepare(home.source, schema, made)
                await home.keeper.stop()
            return None
        source: Source | None = None
        try:
            source = await self._source()
            await self._prepare(source, schema, made)
        except BaseException:
            if source is not None:
                await source.close()
            raise
        if home is not None:
            home.source.abandon()
        return None

    async def close(self) -> None:
        """Close the connections it made. Calls under way have a few seconds to end."""
        with self._lock:
            home, self._home = self._home, None
            away, self._away = self._away, None
        if away is not None:
            await away.close()
        if home is None:
            return
        if home.loop is asyncio.get_running_loop():
            await home.close()
        elif home.loop.is_running():
            await self._over(home.loop, home.close)
        else:
            home.source.abandon()

    # --- calls ---------------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """One answer per key, in order, in one round trip."""
        return await self._call("get", lambda side: side.get(keys))

    async def scan(self, scan: Scan) -> Page:
        """A page of a range, in one round trip."""
        return await self._call("scan", lambda side: side.scan(scan))

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Appends, and single puts and deletes, in one round trip; other batches in four."""
        home = self._home
        if home is not None and home.loop is asyncio.get_running_loop():
            return await home.commit(batches, restore)
        return await self._call("commit", lambda side: side.commit(batches, restore))

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """The heads of a log in order of partition, then rows in order of the primary key."""
        scan = Scan(kind, lo=lo, hi=hi, limit=limit, after=after)
        return await self._call("dump", lambda side: side.dump(scan))

    def _call(self, operation: str, ask: Callable[[Side], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        home = self._home
        if home is None:
            raise Closed("the engine is not open", engine=ENGINE, operation=operation)
        if home.loop is asyncio.get_running_loop():
            return ask(home)
        if self._pool is not None:
            return self._over(home.loop, lambda: ask(home))
        with self._lock:
            if self._away is None:
                self._away = _Away(self._another)
            away = self._away
        return away.call(ask)

    async def _another(self) -> Side:
        assert self._make is not None
        return self._make(self._own())

    @staticmethod
    async def _over(loop: asyncio.AbstractEventLoop, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), loop))

    # --- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _aside(self) -> AsyncGenerator[Source]:
        """Connections beside those of the event loop, for a while."""
        source = Lent(self._pool, self._options.timeout) if self._pool is not None else self._own()
        try:
            yield source
        finally:
            await source.close()

    async def _source(self) -> Source:
        if self._pool is not None:
            return Lent(self._pool, self._options.timeout)
        if self._options.pooler == "auto":
            await self._detect(self._own(probe=True))
        return self._own()

    def _own(self, probe: bool = False) -> Pool:
        options, url = self._options, self._url
        given = ("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "target_session_attrs")
        asked = {name: value for name in given if (value := getattr(options, name)) is not None}
        # Compiling a query takes longer than our queries do. Poolers refuse settings they do not know.
        quick = {"jit": "off"} if options.pooler == "auto" and not probe and not self._unprepared else {}
        settings = {
            "dsn": f"postgresql://?{urlencode(asked)}",
            "host": url.host or options.host,
            "port": url.port,
            "user": url.user,
            "password": url.password,
            "database": url.path.lstrip("/") or None,
            "timeout": options.timeout,
            "statement_cache_size": 0 if probe or self._unprepared else 1000,
            "max_cached_statement_lifetime": 0,
            "max_cacheable_statement_size": 0,
            "server_settings": {"application_name": options.application_name, **quick},
        }
        return Pool(connector(settings), options.pool_max, options.timeout)

    async def _detect(self, source: Pool) -> None:
        """A pooler gives each client a process id that is not the server's."""

        async def work(attempt: Attempt) -> bool:
            rows = await attempt.connection.fetch("SELECT pg_backend_pid()")
            return rows[0][0] != attempt.connection.get_server_pid()

        try:
            self._unprepared = await call(source, "open", work)
        finally:
            await source.close()
        if self._unprepared:
            text = "a connection pooler was detected: statements are not prepared, which costs some speed. "
            warnings.warn(f"{text}If it pools by session, say pooler=session.", PoolerWarning, stacklevel=2)

    # --- tables --------------------------------------------------------------------------------------------------

    async def _prepare(self, source: Source, schema: Schema, made: list[Part]) -> None:
        """See that everything is there, then begin to use it."""
        server = await call(source, "open", _server)
        if server.encoding != "UTF8":
            raise Invalid(f"the database is encoded in {server.encoding}", hint="Use one in UTF8.", engine=ENGINE)
        name = f"{self._names.schema or server.schema}.{self._names.prefix}"
        await make(source, self._aside, Wanted(made, self._names.of("meta"), name), self._options.ddl == "create")
        await self._warm(source)
        kinds = {kind.name: kind for kind in schema.kinds}
        statements = Statements(self._names, kinds, crc32(name.encode()) - 0x80000000)
        side = partial(Side, statements=statements, names=self._names, kinds=kinds, clock=self._clock)
        with self._lock:
            self._make, self._home, self._schema = side, side(source), schema
            away = self._away
        if away is not None:
            await away.renew(side)

    async def _warm(self, source: Source) -> None:
        taken = [await source.take() for _ in range(self._options.pool_min)] if isinstance(source, Pool) else []
        for connection in taken:
            source.give(connection)


class _Away:
    """An event loop in a thread of its own, for calls from loops that are not the engine's home."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Side]]) -> None:
        self._make = make
        self._side: Side | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentkeep-postgres", daemon=True)
        self._thread.start()

    async def call(self, ask: Callable[[Side], Coroutine[Any, Any, T]]) -> T:
        """Do it there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(ask), self._loop))

    async def renew(self, make: Callable[[Source], Side]) -> None:
        """Go over to other kinds with the connections it has."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._renew(make), self._loop))

    async def close(self) -> None:
        """Close its connections and end the thread."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(), self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, GRACE)
        self._loop.close()

    async def _ask(self, ask: Callable[[Side], Coroutine[Any, Any, T]]) -> T:
        if self._side is None:
            self._side = await self._make()
        return await ask(self._side)

    async def _renew(self, make: Callable[[Source], Side]) -> None:
        before = self._side
        if before is not None:
            self._side = make(before.source)
            await before.keeper.stop()

    async def _end(self) -> None:
        if self._side is not None:
            await self._side.close()


class _Server(NamedTuple):
    encoding: str
    schema: str


async def _server(attempt: Attempt) -> _Server:
    rows = await attempt.connection.fetch("SELECT current_setting('server_encoding'), COALESCE(current_schema(), '')")
    return _Server(rows[0][0], rows[0][1])
