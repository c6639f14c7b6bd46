"""The store: typed records over an engine, compare-and-set, paging, large bodies, scopes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from random import random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from . import codec, schema, urls
from .blobs import rows as blob_rows
from .connection import Connection
from .errors import Closed, Conflict, Contention, Corrupt, IndexNotReady, Invalid, Key, NotFound, StoreError
from .ids import DAY, Clock, Ids, system_clock
from .layers.retry import Sleep
from .layers.scope import Scope, checked_tenant
from .pages import Page
from .predicates import Where, evaluate, parse
from .records import Record, Stored, record_of
from .waist import Append, Batch, Delete, Engine, Expect, Op, Put, Receipt, Row, Scalar, Scan

if TYPE_CHECKING:
    from .features.conversations import Conversations

T = TypeVar("T")

INLINE = 200_000
"""Bytes of a document above which it moves to the blob store: a row stays under the floor with its index and facets."""


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
        sleep: Sleep = asyncio.sleep,
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
        sleep: Sleep = asyncio.sleep,
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
        if not self._connection.is_open:
            raise Closed("the store is not open", hint="Use `async with Store.open(...)`, or await it.")
        if self._tenant is None and self._connection.tenants == "required":
            raise Invalid("this store has tenants", hint="Use store.scope(tenant=...).")
        return self._scoped

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
    def conversations(self) -> Conversations:
        """Conversations: events in order, state, handoffs, context."""
        from .features.conversations import Conversations

        return Conversations(self)

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
        if old or _is_large(batch):
            return await self._commit_large(batch, old)
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
            if not _is_large(batch):
                small.append(batch)
                continue
            answers += await self.engine.commit(small, restore=restore) if small else []
            small = []
            try:
                answers.append(await self._commit_large(batch, [], restore))
            except StoreError as error:
                answers.append(error)
        return answers + (await self.engine.commit(small, restore=restore) if small else [])

    async def _commit_large(self, batch: Batch, old: Sequence[str], restore: bool = False) -> Receipt:
        """Write large bodies, then the batch with what names them, then drop the bodies that it replaced."""
        ops: list[Op] = []
        manifests: list[Op] = []
        written: list[str] = []
        for op in batch.ops:
            if not isinstance(op, (Put, Append)) or len(op.doc) <= INLINE:
                ops.append(op)
                continue
            blob = self.ids()
            await self.blobs.write(blob, op.doc, batch.partition)
            written.append(blob)
            stub = codec.frame(codec.MOVED, msgspec.json.encode(blob_rows.Moved(blob, len(op.doc))))
            ops.append(msgspec.structs.replace(op, doc=stub))
            manifest = blob_rows.Manifest(len(op.doc), op.kind)
            manifests.append(Put(blob_rows.MANIFEST.name, blob, codec.encode(manifest)))
        whole = msgspec.structs.replace(batch, ops=(*ops, *manifests))
        (answer,) = await self.engine.commit((whole,), restore=restore)
        if isinstance(answer, StoreError):
            if answer.outcome == "none":
                await self._drop(batch.partition, written)
            raise answer
        if answer.id == batch.id:
            for blob in written:
                await self.blobs.confirm(blob)
            await self._drop(batch.partition, old)
        else:
            await self._drop(batch.partition, written)
        return Receipt(answer.id, answer.seqs[: len(ops)], answer.replayed)

    async def _drop(self, partition: str, blobs: Iterable[str]) -> None:
        """Remove bodies, then their manifests: broken off in between, `collect` finds the rest."""
        for blob in blobs:
            await self.blobs.delete(blob)
            (answer,) = await self.engine.commit(
                [Batch(partition, (Delete(blob_rows.MANIFEST.name, blob),), self.ids())]
            )
            if isinstance(answer, StoreError):
                raise answer

    async def collect(self, partition: str) -> int:
        """Remove the large bodies of a partition that none of its rows names any more. Gives their number.

        Manifests are listed before rows: a body whose row comes later is in neither list.
        """
        kind = blob_rows.MANIFEST.name
        manifests = {row.key.sort: row async for row in self._rows(Scan(kind, prefix=(partition,)))}
        named: set[str] = set()
        for kind in {codec.decode(row.doc, blob_rows.Manifest, row.key).kind for row in manifests.values()}:
            async for row in self._rows(Scan(kind, prefix=(partition,))):
                if (stub := blob_rows.moved(row)) is not None:
                    named.add(stub.blob)
        dead = [blob for blob in manifests if blob not in named]
        await self._drop(partition, dead)
        return len(dead)

    async def _rows(self, scan: Scan) -> AsyncIterator[Row]:
        while True:
            page = await self.engine.scan(scan)
            for row in page.rows:
                yield row
            if page.cursor is None:
                return
            scan = msgspec.structs.replace(scan, after=page.cursor)

    # --- typed reading ---

    async def get(self, type: type[T], partition: str, sort: str = "") -> Stored[T] | None:
        """A record with its rev, or None. Raises Corrupt."""
        found = await self.get_row(Key(record_of(type).spec.name, partition, sort))
        return None if found is None else Stored(record_of(type).decode(found), found.rev)

    async def get_row(self, key: Key) -> Row | None:
        """A row, its document whole wherever it lies."""
        (row,) = await self.engine.get((key,))
        return row if row is None else await self.whole(row)

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
        wanted, rows = scan.limit, list[Row]()
        while True:
            page = await self.engine.scan(scan)
            rows += page.rows if scan.where is None else [r for r in page.rows if evaluate(scan.where, r.facets)]
            # A page that is short and goes on has spent the budget; a full one has looked at least at its rows.
            spent = len(page.rows) if len(page.rows) == scan.limit else scan.budget
            if page.cursor is None or len(rows) == wanted or spent >= scan.budget:
                return Page(rows, page.cursor)
            left = scan.budget - spent
            scan = msgspec.structs.replace(scan, limit=wanted - len(rows), after=page.cursor, budget=left)

    async def decode(self, record: Record[T], rows: Sequence[Row], cursor: str | None) -> Page[T]:
        """Rows as records: a row that does not decode is named in the page's `corrupt`."""
        items: list[T] = []
        corrupt: list[Corrupt] = []
        for row in rows:
            try:
                items.append(record.decode(await self.whole(row) if codec.is_moved(row.doc) else row))
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
        scan = Scan(record_of(type).spec.name, index, prefix, lo, hi, limit=min(1_000, budget), where=parse(where))
        total, looked = 0, 0
        while True:
            page = await self.scan_rows(msgspec.structs.replace(scan, budget=budget - looked))
            total += len(page)
            if page.cursor is None:
                return total, True
            looked += len(page) if len(page) == scan.limit else budget
            if looked >= budget:
                return total, False
            scan = msgspec.structs.replace(scan, after=page.cursor)

    async def whole(self, row: Row) -> Row:
        """The row with its document, wherever that lies. Raises Corrupt where the body is not whole."""
        return await blob_rows.whole(self.blobs, row)

    # --- typed writing ---

    async def put(self, value: object, *, expect: Expect = "any") -> Receipt:
        """Write a record. Raises Conflict where it is not as expected."""
        record = record_of(type(value))
        return await self.commit(record.key(value).partition, [record.put(value, expect)])

    async def delete(self, type: type[Any], partition: str, sort: str = "", *, expect: Expect = "any") -> Receipt:
        """Delete a record and its large body."""
        key = Key(record_of(type).spec.name, partition, sort)
        (row,) = await self.engine.get((key,))
        ops = [Delete(key.kind, key.sort, row.rev if row is not None and expect == "any" else expect)]
        return await self.commit(partition, ops, replaced=[] if row is None else [row])

    async def update(self, type: type[T], partition: str, sort: str, change: Callable[[T], T]) -> Stored[T]:
        """Read, change, compare and set, again until it holds: no update is lost.

        `change` is called once per try with the stored value and returns the new one. Fields that this version does
        not know are kept. Raises NotFound, Contention after 64 tries.
        """
        record = record_of(type)
        key = Key(record.spec.name, partition, sort)

        async def attempt() -> Stored[T]:
            (row,) = await self.engine.get((key,))
            if row is None:
                raise NotFound("there is nothing to update", key=key, operation="update")
            whole = await self.whole(row)
            value = record.decode(whole)
            changed = change(value)
            if changed == value:
                return Stored(value, row.rev)
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
        """Remove large bodies that no row names, begun longer ago than a time in microseconds. Gives their number."""
        removed = 0
        for blob, owner in await self.blobs.orphans(self.clock() - older_than, limit):
            (manifest,) = await self.engine.get((Key("blob", owner, blob),))
            if manifest is None:
                await self.blobs.delete(blob)
                removed += 1
            else:
                await self.blobs.confirm(blob)
        return removed


def _is_large(batch: Batch) -> bool:
    return any(isinstance(op, (Put, Append)) and len(op.doc) > INLINE for op in batch.ops)


def url_from_env(variable: str) -> str:
    """The URL in an environment variable. Raises Invalid when it is not set."""
    url = os.environ.get(variable)
    if not url:
        raise Invalid(f"the environment variable {variable} is not set", operation="open")
    return url


def digest_of(*parts: object) -> bytes:
    """16 bytes that tell two uses of an idempotency key apart: of what the caller passed, as JSON."""
    return blake2b(codec.encode(parts), digest_size=16).digest()
