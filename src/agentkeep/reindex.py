"""Building indexes that were added to kinds with rows, online."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .blobs.rows import RowBlobs, whole
from .connection import Connection
from .errors import Conflict, Corrupt, StoreError
from .layers.scope import Scope, split
from .records import Record
from .waist import HEAD, Batch, Index, Put, Row

PER_PAGE = 50


async def reindex(connection: Connection, progress: Callable[[str, int], None] | None = None) -> int:
    """Go over every kind with a building index, write its rows' index values, mark it ready. Gives the rows seen.

    Rows keep their revs, a row that changes meanwhile is left to its writer, and one that does not decode is left as
    it is. It may be stopped and run again. Writers of an older version, which do not know the index, must be stopped
    first. `progress(kind, rows)`.
    """
    seen = 0
    pending = sorted(connection.not_ready)
    for kind in sorted({kind for kind, _ in pending}):
        after: str | None = None
        while True:
            page = await connection.engine.dump(kind, after, PER_PAGE)
            await _write(connection, connection.records[kind], page.rows)
            seen += len(page.rows)
            if progress is not None:
                progress(kind, seen)
            after = page.cursor
            if after is None:
                break
        for _, index in (one for one in pending if one[0] == kind):
            await connection.mark_ready(kind, index)
    connection.not_ready = frozenset()
    return seen


async def _write(connection: Connection, record: Record[Any], rows: Sequence[Row]) -> None:
    batches: list[Batch] = []
    for row in rows:
        if record.log is None or row.key.sort != HEAD:
            with suppress(Corrupt):
                put = await _reindexed(connection, record, row)
                batches.append(Batch(row.key.partition, (put,), connection.ids()))
    for answer in await connection.engine.commit(batches, restore=True) if batches else []:
        if isinstance(answer, StoreError) and not isinstance(answer, Conflict):
            raise answer


async def _reindexed(connection: Connection, record: Record[Any], row: Row) -> Put:
    engine, tenant = connection.engine, ""
    if connection.tenants == "required":
        tenant, _ = split(row.key.partition)
        engine = Scope(engine, tenant)
    value = record.decode(await whole(RowBlobs(engine, connection.ids, connection.clock), row))
    index: Index = {name: (tenant, *values) if tenant else values for name, values in record.index(value).items()}
    return Put(row.key.kind, row.key.sort, row.doc, index, row.facets, row.expires, row.rev, row.rev)
