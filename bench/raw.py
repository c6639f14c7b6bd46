"""The raw drivers: apsw and asyncpg used as a careful user would, storing the same documents without a library."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apsw
import asyncpg

from bench.events import Event, Group

BULK = 1_000  # rows a transaction

# A row of about 1 KB is kept out of WITHOUT ROWID tables: SQLite gives it an overflow page of its own there.
SQLITE_TABLES = """
create table if not exists event(conversation text, n integer, doc blob not null, primary key(conversation, n));
create table if not exists conversation(id text primary key, usr text not null, updated integer not null, doc blob);
create index if not exists conversation_recent on conversation(usr, updated desc);
"""

POSTGRES_TABLES = """
create table if not exists event(conversation text, n bigint, doc bytea not null, primary key(conversation, n));
create table if not exists conversation(id text primary key, usr text not null, updated bigint not null, doc bytea);
create index if not exists conversation_recent on conversation(usr, updated desc);
"""


def _conversation(number: int, group: Group) -> tuple[str, str, int, bytes]:
    document = {"id": group.conversation, "user": group.user, "status": "open", "events": len(group.events)}
    return group.conversation, group.user, number, json.dumps(document).encode()


def _decode(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [json.loads(row[0]) for row in rows]


class Sqlite:
    """apsw, called in the thread of the caller; each append is its own transaction."""

    def __init__(self, path: str, durability: str = "full") -> None:
        self._path = path
        self._durability = durability

    def open(self) -> None:
        self._db = apsw.Connection(self._path)
        self._db.set_busy_timeout(30_000)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute(f"pragma synchronous={self._durability}")
        self._db.execute(SQLITE_TABLES)

    def prepare(self, conversation: str, user: str = "alice") -> None:
        """Nothing: a conversation exists with its first row."""

    def append(self, event: Event) -> int:
        self._db.execute("insert into event values(?,?,?)", (event.conversation, event.n, event.document))
        return event.n

    def append_turn(self, turn: tuple[Event, Event]) -> list[int]:
        self._db.execute("begin immediate")
        indexes = [self.append(event) for event in turn]
        self._db.execute("commit")
        return indexes

    def last(self, conversation: str, limit: int = 50) -> list[str]:
        rows = self._db.execute(
            "select doc from event where conversation=? order by n desc limit ?", (conversation, limit)
        ).fetchall()
        return [document["text"] for document in reversed(_decode(rows))]

    def turn(self, turn: tuple[Event, Event]) -> list[str]:
        """Read the last 50, append two."""
        texts = self.last(turn[0].conversation)
        self.append_turn(turn)
        return texts

    def recent(self, user: str, limit: int = 20) -> list[str]:
        rows = self._db.execute(
            "select doc from conversation where usr=? order by updated desc limit ?", (user, limit)
        ).fetchall()
        return [document["id"] for document in _decode(rows)]

    def load(self, groups: Iterable[Group]) -> int:
        """Bulk insert: executemany in transactions of about 1,000 rows."""
        total, number = 0, itertools.count()
        for batch in _batches(groups):
            rows = [(event.conversation, event.n, event.document) for group in batch for event in group.events]
            with self._db:
                self._db.executemany("insert into event values(?,?,?)", rows)
                self._db.executemany(
                    "insert or replace into conversation values(?,?,?,?)",
                    [_conversation(next(number), group) for group in batch],
                )
            total += len(rows)
        return total

    def close(self) -> None:
        self._db.close()


class SqliteBehindHop:
    """The same, behind one hop to a thread of its own and back: what any async library over SQLite has to pay."""

    def __init__(self, path: str, durability: str = "full") -> None:
        self._inline = Sqlite(path, durability)
        self._thread = ThreadPoolExecutor(1)

    async def _hop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def open(self) -> None:
        await self._hop(self._inline.open)

    async def prepare(self, conversation: str, user: str = "alice") -> None:
        """Nothing: a conversation exists with its first row."""

    async def append(self, event: Event) -> int:
        return await self._hop(self._inline.append, event)

    async def append_turn(self, turn: tuple[Event, Event]) -> list[int]:
        return await self._hop(self._inline.append_turn, turn)

    async def last(self, conversation: str, limit: int = 50) -> list[str]:
        return await self._hop(self._inline.last, conversation, limit)

    async def turn(self, turn: tuple[Event, Event]) -> list[str]:
        texts = await self.last(turn[0].conversation)
        await self.append_turn(turn)
        return texts

    async def recent(self, user: str, limit: int = 20) -> list[str]:
        return await self._hop(self._inline.recent, user, limit)

    async def load(self, groups: Iterable[Group]) -> int:
        return await self._hop(self._inline.load, groups)

    async def close(self) -> None:
        await self._hop(self._inline.close)
        self._thread.shutdown()


class Postgres:
    """asyncpg: N connections, each with its statements prepared; one statement is one commit."""

    APPEND = "insert into event values($1,$2,$3)"
    APPEND_TURN = "insert into event values($1,$2,$3),($4,$5,$6)"
    LAST = "select doc from event where conversation=$1 order by n desc limit $2"
    RECENT = "select doc from conversation where usr=$1 order by updated desc limit $2"
    UNNEST = "insert into event select * from unnest($1::text[],$2::bigint[],$3::bytea[])"
    TABLES = POSTGRES_TABLES

    def __init__(self, url: str, connections: int = 1, bulk: str = "copy") -> None:
        self._url = url
        self._connections = connections
        self._bulk = bulk

    async def open(self) -> None:
        self._free: asyncio.Queue[tuple[asyncpg.Connection, dict[str, Any]]] = asyncio.LifoQueue()
        for number in range(self._connections):
            connection = await asyncpg.connect(self._url)
            if number == 0:
                await connection.execute(self.TABLES)
            texts = (self.APPEND, self.APPEND_TURN, self.LAST, self.RECENT)
            self._free.put_nowait((connection, {text: await connection.prepare(text) for text in texts}))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        free = await self._free.get()
        try:
            yield free[0]
        finally:
            self._free.put_nowait(free)

    async def _fetch(self, text: str, *arguments: Any) -> list[Any]:
        free = await self._free.get()
        try:
            return await free[1][text].fetch(*arguments)
        finally:
            self._free.put_nowait(free)

    async def prepare(self, conversation: str, user: str = "alice") -> None:
        """Nothing: a conversation exists with its first row."""

    async def append(self, event: Event) -> int:
        await self._fetch(self.APPEND, event.conversation, event.n, event.document)
        return event.n

    async def append_turn(self, turn: tuple[Event, Event]) -> list[int]:
        await self._fetch(self.APPEND_TURN, *itertools.chain(*((e.conversation, e.n, e.document) for e in turn)))
        return [event.n for event in turn]

    async def last(self, conversation: str, limit: int = 50) -> list[str]:
        rows = await self._fetch(self.LAST, conversation, limit)
        return [document["text"] for document in reversed(_decode(rows))]

    async def turn(self, turn: tuple[Event, Event]) -> list[str]:
        texts = await self.last(turn[0].conversation)
        await self.append_turn(turn)
        return texts

    async def recent(self, user: str, limit: int = 20) -> list[str]:
        return [document["id"] for document in _decode(await self._fetch(self.RECENT, user, limit))]

    async def load(self, groups: Iterable[Group]) -> int:
        """Bulk insert: COPY, or one unnest statement, in transactions of about 1,000 rows."""
        total, number = 0, itertools.count()
        async with self._connection() as connection:
            for batch in _batches(groups):
                rows = [(event.conversation, event.n, event.document) for group in batch for event in group.events]
                async with connection.transaction():
                    if self._bulk == "copy":
                        await connection.copy_records_to_table("event", records=rows)
                    else:
                        await connection.execute(self.UNNEST, *map(list, zip(*rows, strict=True)))
                    await connection.copy_records_to_table(
                        "conversation", records=[_conversation(next(number), group) for group in batch]
                    )
                total += len(rows)
        return total

    async def close(self) -> None:
        while not self._free.empty():
            await self._free.get_nowait()[0].close()


class PostgresRowLock(Postgres):
    """One statement an append: the head's row lock gives the number, a unique key makes a repeat fail as a whole."""

    TABLES = (
        POSTGRES_TABLES
        + """
    create table if not exists head(conversation text primary key, next bigint not null) with (fillfactor=70);
    create table if not exists keyed(conversation text, n bigint, key text not null, doc bytea not null,
        primary key(conversation, n), unique(conversation, key));
    """
    )
    APPEND = """
    with head as (
        insert into head as h values ($1, 1)
        on conflict (conversation) do update set next = h.next + 1 returning next
    )
    insert into keyed select $1, next, $2, $3 from head returning n
    """

    async def append(self, event: Event) -> int:
        return (await self._fetch(self.APPEND, event.conversation, event.key, event.document))[0][0]


def _batches(groups: Iterable[Group]) -> Iterable[list[Group]]:
    """Groups, as many at a time as have about 1,000 events together."""
    batch: list[Group] = []
    size = 0
    for group in groups:
        batch.append(group)
        size += len(group.events)
        if size >= BULK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
