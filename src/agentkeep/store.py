"""The store: typed records over an engine, compare-and-set, paging, large bodies, scopes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import cached_property
from random import random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from . import codec, schema, urls
from .blobs import rows as blob_rows
from .blobs.bodies import INLINE as INLINE
from .blobs.bodies import Bodies, large_ones
from .connection import Connection
from .errors import Closed, Conflict, Contention, Corrupt, IndexNotReady, Invalid, Key, NotFound, StoreError
from .ids import DAY, Clock, Ids, system_clock
from .layers.retry import Sleep, pause
from .layers.scope import Scope, checked_tenant
from .pages import Page
from .predicates import Where, evaluate, parse
from .records import Record, Stored, record_of
from .waist import Batch, Delete, Engine, Expect, Op, Receipt, Row, Scalar, Scan

if TYPE_CHECKING:
    from .features.conversations import Conversations
    from .features.identities import Identities
    from .features.locks import Locks
    from .features.observations import Observations
    from .features.tasks import Tasks

T = TypeVar("T")

PER_PAGE = 1_000
"""The most rows that one call of an engine gives: the limit of `layers.limits`."""


class Store:
    """Typed records in a database, and the features built on them.

    Use `Store.open(url)` with `async with`, or `await` it and call `close()`. A store is safe to use from many
    tasks; engines say in their docs whether from several event loops and threads.
    """

    def __init__(self, connection: Connection, tenant: str | None = None) -> None:
        self._connection = connection
        self._tenant = tenant
        self._scoped = connection.engine if tenant is None else Scope(connection.engine, tenant)

    # --- life ---

    @classmethod
    def open(
        cls,
        url: str,
        *,
        tenants: schema.Tenants = "off",
        records: Iterable[type[Any]] = (),
        trace: bool = False,
        clock: Clock = system_clock,
        inline: bool = False,
        sleep: Sleep = pause,
    ) -> Store:
        """A store for a URL; a bare path is a SQLite file. No I/O happens before it is entered or awaited.

        `tenants="required"` is recorded in the database: every use then goes through `scope(tenant=...)`.
        `records` are the caller's own record types. `trace` makes an OpenTelemetry span of each call.
        `inline` and `sleep` are for the sync API. Raises Invalid, MissingExtra; entering raises Unavailable, Denied,
        SchemaMismatch.
        """
        engine = urls.engine(url, clock, inline=inline)
        return cls.on(engine, tenants=tenants, records=records, trace=trace, clock=clock, sleep=sleep)

    @classmethod
    def on(
        cls,
        engine: Engine,
        *,
        tenants: schema.Tenants = "off",
        records: Iterable[type[Any]] = (),
        trace: bool = False,
        clock: Clock = system_clock,
        sleep: Sleep = pause,
    ) -> Store:
        """A store on an engine made by the caller: one with a pool handed in, or a custom one."""
        from .features import RECORDS

        if trace:
            from .layers.trace import Trace

            engine = Trace(engine)
        known = [*RECORDS, *(record_of(one) for one in records)]
        return cls(Connection(engine, known, tenants, clock, sleep))

    @classmethod
    def from_env(cls, variable: str = "AGENTKEEP_URL", **options: Any) -> Store:
        """A store for the URL in an environment variable. Raises Invalid when it is not set."""
        return cls.open(url_from_env(variable), **options)

    async def __aenter__(self) -> Store:
        await self._connection.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, Any, Store]:
        return self.__aenter__().__await__()

    async def close(self) -> None:
        """Close what open made. Closing a scope closes the store."""
        await self._connection.close()

    def scope(self, tenant: str) -> Store:
        """The store as one tenant sees it. Raises Invalid where the store was not opened with tenants="required"."""
        if self._connection.tenants != "required":
            raise Invalid("this store has no tenants", operation="scope", hint='Open it with tenants="required".')
        if self._tenant is not None:
            raise Invalid("this store is scoped already", operation="scope")
        return Store(self._connection, checked_tenant(tenant))

    # --- what features stand on ---

    @property
    def engine(self) -> Engine:
        """The engine with its layers. Raises Closed, and Invalid without a scope where tenants are required."""
        self._usable()
        return self._scoped

    def _usable(self) -> None:
        if not self._connection.is_open:
            raise Closed("the store is not open", hint="Use `async with Store.open(...)`, or await it.")
        if self._tenant is None and self._connection.tenants == "required":
            raise Invalid("this store has tenants", hint="Use store.scope(tenant=...).")

    @property
    def connection(self) -> Connection:
        """What all scopes of this store share."""
        return self._connection

    @property
    def tenant(self) -> str | None:
        """The tenant of this scope."""
        return self._tenant

    @property
    def clock(self) -> Clock:
        """The clock of this store."""
        return self._connection.clock

    @property
    def ids(self) -> Ids:
        """The source of new ids."""
        return self._connection.ids

    @property
    def sleep(self) -> Sleep:
        """How this store waits."""
        return self._connection.sleep

    @cached_property
    def blobs(self) -> blob_rows.RowBlobs:
        """Where bodies lie that are too large for a row."""
        return blob_rows.RowBlobs(self._scoped, self.ids, self.clock)

    @cached_property
    def _bodies(self) -> Bodies:
        return Bodies(self._scoped, self.blobs, self.ids)

    @cached_property
    def conversations(self) -> Conversations:
        """Conversations: events in order, state, handoffs, context."""
        from .features.conversations import Conversations

        return Conversations(self)

    @cached_property
    def identities(self) -> Identities:
        """People: their addresses, resolved to one person each, their conversations, their history."""
        from .features.identities import Identities

        return Identities(self)

    @cached_property
    def observations(self) -> Observations:
        """Observations: what agents noticed, about a conversation or another subject."""
        from .features.observations import Observations

        return Observations(self)

    @cached_property
    def tasks(self) -> Tasks:
        """Tasks: work that many workers share, each claimed by one."""
        from .features.tasks import Tasks

        return Tasks(self)

    @cached_property
    def locks(self) -> Locks:
        """Locks on any name, across processes: one holder at a time, fenced."""
        from .features.locks import Locks

        return Locks(self)

    # --- commit ---

    async def commit(
        self,
        partition: str,
        ops: Sequence[Op],
        *,
        once: str | None = None,
        digest: bytes | None = None,
        replaced: Sequence[Row] = (),
    ) -> Receipt:
        """Do all ops on one partition, or none. Raises Conflict and every other StoreError.

        `once` is an idempotency key, `digest` what tells two uses of it apart (see `digest_of`). `replaced` are the
        rows, as they were read, that the ops overwrite or delete: their large bodies are removed with them.
        """
        batch = Batch(partition, tuple(ops), self.ids(), once, digest)
        old = [moved.blob for row in replaced if (moved := blob_rows.moved(row)) is not None] if replaced else []
        large = large_ones(batch)
        if old or large:
            self._usable()
            return await self._bodies.commit(batch, large, old)
        (answer,) = await self.engine.commit((batch,))
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def commit_all(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit independent batches in as few round trips as the engine can: one answer each, in order.

        Batches whose documents are too large for a row are committed alone.
        """
        answers: list[Receipt | StoreError] = []
        small: list[Batch] = []
        for batch in batches:
            large = large_ones(batch)
            if not large:
                small.append(batch)
                continue
            answers += await self.engine.commit(small, restore=restore) if small else []
            small = []
            try:
                answers.append(await self._bodies.commit(batch, large, restore=restore))
            except StoreError as error:
                answers.append(error)
        return answers + (await self.engine.commit(small, restore=restore) if small else [])

    async def collect(self, partition: str) -> int:
        """Remove the large bodies of a partition that none of its rows names any more. Gives their number.

        Bodies named by kinds that this store does not know stay.
        """
        self._usable()
        return await self._bodies.collect(partition, self._connection.records.keys())

    # --- typed reading ---

    async def get(self, type: type[T], partition: str, sort: str = "") -> Stored[T] | None:
        """A record with its rev, or None. Raises Corrupt."""
        found = await self.get_row(Key(record_of(type).spec.name, partition, sort))
        return None if found is None else Stored(record_of(type).decode(found), found.rev)

    async def get_row(self, key: Key) -> Row | None:
        """A row, its document whole wherever it lies."""
        found = await self.get_stored(key)
        return None if found is None else found[1]

    async def get_stored(self, key: Key) -> tuple[Row, Row] | None:
        """A row as it is stored and with its document whole, or None. Raises Corrupt.

        A body that is missing because its row was changed meanwhile is no damage: the row is read again.
        """
        missed = ""
        while True:
            (row,) = await self.engine.get((key,))
            if row is None:
                return None
            try:
                return row, await self.whole(row)
            except Corrupt:
                if row.rev == missed:
                    raise
                missed = row.rev

    async def scan(
        self,
        type: type[T],
        *,
        index: str | None = None,
        prefix: tuple[Scalar, ...] = (),
        lo: Scalar | None = None,
        hi: Scalar | None = None,
        reverse: bool = False,
        limit: int = 100,
        after: str | None = None,
        where: Where | None = None,
        budget: int = 10_000,
    ) -> Page[T]:
        """A page of records. `budget` bounds the rows looked at when `where` keeps few of them.

        Raises Invalid for a malformed filter or cursor, IndexNotReady.
        """
        record = record_of(type)
        page = await self.scan_rows(
            Scan(record.spec.name, index, prefix, lo, hi, reverse, limit, after, parse(where), budget)
        )
        return await self.decode(record, page.items, page.cursor)

    async def scan_rows(self, scan: Scan) -> Page[Row]:
        """Rows of a range, each checked against the whole filter, until the page is full or the budget is spent."""
        if scan.index is not None and (scan.kind, scan.index) in self._connection.not_ready:
            raise IndexNotReady(
                f"the index {scan.index!r} of {scan.kind!r} is being built", hint="Run Store.reindex() to finish it."
            )
        if scan.where is None:
            page = await self.engine.scan(scan)
            return Page(page.rows, page.cursor)
        rows: list[Row] = []
        missing = scan.limit
        while True:
            page = await self.engine.scan(scan)
            kept = [at for at, row in enumerate(page.rows) if evaluate(scan.where, row.facets)]
            if len(kept) > missing:
                # Read too far, for an engine that leaves filters to core: again, up to the last row wanted.
                scan = msgspec.structs.replace(scan, limit=kept[missing - 1] + 1)
                continue
            rows += [page.rows[at] for at in kept]
            missing -= len(kept)
            # A page that is short and goes on has spent the budget; a full one has looked at least at its rows.
            left = scan.budget - len(page.rows) if len(page.rows) == scan.limit else 0
            if page.cursor is None or not missing or left <= 0:
                return Page(rows, page.cursor)
            further = min(max(missing, 4 * scan.limit), PER_PAGE, left)
            scan = msgspec.structs.replace(scan, limit=further, after=page.cursor, budget=left)

    async def decode(self, record: Record[T], rows: Sequence[Row], cursor: str | None) -> Page[T]:
        """Rows as records: a row that does not decode is named in the page's `corrupt`."""
        items: list[T] = []
        corrupt: list[Corrupt] = []
        decode = record.decoder()
        for row in rows:
            try:
                if not row.doc.startswith(codec.STUB):
                    items.append(decode(row))
                elif (whole := await self._whole_now(row)) is not None:
                    items.append(decode(whole))
            except Corrupt as error:
                corrupt.append(error)
        return Page(items, cursor, corrupt)

    async def count(
        self,
        type: type[Any],
        *,
        index: str | None = None,
        prefix: tuple[Scalar, ...] = (),
        lo: Scalar | None = None,
        hi: Scalar | None = None,
        where: Where | None = None,
        budget: int = 10_000,
    ) -> tuple[int, bool]:
        """(n, exact): how many records a scan finds; not exact where the budget, in rows looked at, ended it."""
        scan = Scan(record_of(type).spec.name, index, prefix, lo, hi, where=parse(where))
        total = 0
        while True:
            look = min(PER_PAGE, budget)
            page = await self.scan_rows(msgspec.structs.replace(scan, limit=look, budget=look))
            total += len(page)
            budget -= look
            if page.cursor is None or budget <= 0:
                return total, page.cursor is None
            scan = msgspec.structs.replace(scan, after=page.cursor)

    async def whole(self, row: Row) -> Row:
        """The row with its document, wherever that lies. Raises Corrupt where the body is not whole."""
        return await blob_rows.whole(self.blobs, row)

    async def _whole_now(self, row: Row) -> Row | None:
        """The row as `whole` gives it, or as it is by now where its body is gone; None where it is gone too."""
        try:
            return await self.whole(row)
        except Corrupt:
            return await self.get_row(row.key)

    # --- typed writing ---

    async def put(self, value: object, *, expect: Expect = "any") -> Receipt:
        """Write a record; a large body that it replaces is removed. Raises Conflict where it is not as expected."""
        record = record_of(type(value))
        key, op = record.key(value), record.put(value, expect)
        replaced = [] if expect == "absent" else [row for row in await self.engine.get((key,)) if row is not None]
        return await self.commit(key.partition, [op], replaced=replaced)

    async def delete(self, type: type[Any], partition: str, sort: str = "", *, expect: Expect = "any") -> Receipt:
        """Delete a record and its large body. Raises Conflict where it is not as expected."""
        key = Key(record_of(type).spec.name, partition, sort)
        replaced = [row for row in await self.engine.get((key,)) if row is not None]
        return await self.commit(partition, [Delete(key.kind, key.sort, expect)], replaced=replaced)

    async def update(self, type: type[T], partition: str, sort: str, change: Callable[[T], T]) -> Stored[T]:
        """Read, change, compare and set, again until it holds: no update is lost.

        `change` is called once per try with the stored value and returns the new one, under the same key. Fields
        that this version does not know are kept. Raises NotFound, Contention after 64 tries.
        """
        record = record_of(type)
        key = Key(record.spec.name, partition, sort)

        async def attempt() -> Stored[T]:
            found = await self.get_stored(key)
            if found is None:
                raise NotFound("there is nothing to update", key=key, operation="update")
            row, whole = found
            value = record.decode(whole)
            changed = change(value)
            if changed == value:
                return Stored(value, row.rev)
            if record.key(changed) != record.key(value):
                raise Invalid("an update keeps the key of a record", key=key, operation="update")
            op = record.put(changed, row.rev, keep=record.unknown(whole), sort=sort if record.log else None)
            receipt = await self.commit(partition, [op], replaced=[row])
            return Stored(changed, receipt.id)

        return await self.again(attempt, key)

    async def again(self, attempt: Callable[[], Awaitable[T]], key: Key, tries: int = 64) -> T:
        """Do a compare-and-set again while it fails because of another writer, with growing pauses."""
        for number in range(tries):
            try:
                return await attempt()
            except Conflict as error:
                if error.reason not in ("rev", "after"):
                    raise
            if number:
                await self.sleep(random() * min(0.001 * 2**number, 0.1))
        raise Contention(f"another writer won {tries} times", key=key, operation="update")

    # --- care ---

    async def reindex(self, progress: Callable[[str, int], None] | None = None) -> int:
        """Build the indexes that were added to kinds with rows, and mark them ready: see `agentkeep.reindex`."""
        from .reindex import reindex

        return await reindex(self._connection, progress)

    async def sweep(self, older_than: int = DAY, limit: int = 100) -> int:
        """Remove large bodies that no row names, begun longer ago than a time in microseconds. Gives their number.

        `older_than` must be longer than any write takes: a body is written before the row that names it.
        """
        self._usable()
        return await self._bodies.sweep(self.clock() - older_than, limit)


def url_from_env(variable: str) -> str:
    """The URL in an environment variable. Raises Invalid when it is not set."""
    url = os.environ.get(variable)
    if not url:
        raise Invalid(f"the environment variable {variable} is not set", operation="open")
    return url


def digest_of(*parts: object) -> bytes:
    """16 bytes that tell two uses of an idempotency key apart: of what the caller passed, in any order of its names."""
    return codec.digest(parts)
