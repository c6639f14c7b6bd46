"""What the tests of the PostgreSQL engine share: schemas of their own, statements seen on their way, and a lever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from agentkeep import urls
from agentkeep.engines import _postgres_pool
from agentkeep.engines._postgres_commit import Writer
from agentkeep.engines.postgres import Postgres
from agentkeep.ids import system_clock
from agentkeep.testing.schema import SCHEMA
from agentkeep.waist import Schema
from engines import postgres_url

PGBOUNCER = "AGENTKEEP_TEST_PGBOUNCER"


def pgbouncer_url() -> str:
    """The URL of the pooler. Fails where there is none."""
    url = os.environ.get(PGBOUNCER)
    assert url, f"{PGBOUNCER} is not set: `make test` starts the pooler and sets it"
    return url


def url_of(user: str, password: str) -> str:
    """The URL of the test server for another role."""
    url = urlsplit(postgres_url())
    return url._replace(netloc=f"{user}:{password}@{url.netloc.rpartition('@')[2]}").geturl()


class Place:
    """A PostgreSQL schema of one test, the engines on it, and a connection to look at it from outside."""

    def __init__(self, admin: Any) -> None:
        self.admin = admin
        self.schema = f"t_{uuid4().hex[:12]}"
        self._engines: list[Postgres] = []

    def engine(self, base: str = "", clock: Callable[[], int] = system_clock, **options: Any) -> Postgres:
        """An engine that is closed with the place."""
        asked = "&".join(f"{name}={value}" for name, value in {"schema": self.schema, **options}.items())
        made = urls.engine(f"{base or postgres_url()}?{asked}", clock)
        assert isinstance(made, Postgres)
        self._engines.append(made)
        return made

    async def open(self, schema: Schema = SCHEMA, **options: Any) -> Postgres:
        """An open engine."""
        engine = self.engine(**options)
        await engine.open(schema)
        return engine

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Rows, `{s}` being the schema."""
        return await self.admin.fetch(query.replace("{s}", self.schema), *args)

    async def value(self, query: str, *args: Any) -> Any:
        """One value."""
        return (await self.fetch(query, *args))[0][0]

    async def close(self) -> None:
        """Close the engines and drop the schema."""
        for engine in self._engines:
            await engine.close()
        await self.admin.execute(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')
        await self.admin.close()


@asynccontextmanager
async def a_role(place: Place, rights: str = "") -> AsyncIterator[tuple[str, str]]:
    """A new role: its name and the URL by which it connects."""
    name, password = f"r_{uuid4().hex[:8]}", uuid4().hex
    await place.admin.execute(f"CREATE ROLE {name} LOGIN {rights} PASSWORD '{password}'")
    try:
        yield name, url_of(name, password)
    finally:
        await place.admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@asynccontextmanager
async def a_place() -> AsyncIterator[Place]:
    """A new place."""
    place = Place(await asyncpg.connect(postgres_url()))
    try:
        yield place
    finally:
        await place.close()


def watch(monkeypatch: Any, note: Callable[[str], None]) -> None:
    """Be told of every statement that engines opened from now on send."""

    def connector(settings: Any) -> Callable[[], Awaitable[Any]]:
        async def connect() -> Any:
            connection = _postgres_pool.acquainted(await asyncpg.connect(**settings))
            connection.add_query_logger(lambda record: note(record.query))
            return connection

        return connect

    monkeypatch.setattr("agentkeep.engines.postgres.connector", connector)


class Lever:
    """Stops a transaction after its reads, or before its COMMIT, until it is let go."""

    def __init__(self, monkeypatch: Any, engine: Postgres, where: str) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        assert engine._home is not None
        writer = engine._home.commit.__self__
        assert isinstance(writer, Writer)
        found = writer._found

        async def stop(*args: Any) -> Any:
            answer = await found(*args)
            await self._stop()
            return answer

        if where == "after its reads":
            monkeypatch.setattr(writer, "_found", stop)
        else:
            transaction = _postgres_pool.transaction

            @asynccontextmanager
            async def slow(connection: Any, begin: str = "BEGIN") -> AsyncIterator[None]:
                async with transaction(connection, begin):
                    yield
                    await self._stop()

            monkeypatch.setattr("agentkeep.engines._postgres_commit.transaction", slow)

    async def _stop(self) -> None:
        self.reached.set()
        await self.go.wait()


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> None:
    """Wait until something is true, looking again and again."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.005)
