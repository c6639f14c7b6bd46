"""Short verbs over an engine, for tests: one batch committed, all pages read, a whole kind dumped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from ..codec import encode
from ..errors import Conflict, StoreError
from ..ids import Ids
from ..keys import seq_of
from ..waist import HEAD, Batch, Engine, Head, Key, Op, Page, Receipt, Row, Scan

new_id = Ids()


def doc(value: object) -> bytes:
    """A small document."""
    return encode(value)


def digest(value: object) -> bytes:
    """The digest of what a caller passed."""
    return blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def batch(partition: str, *ops: Op, once: str | None = None, content: object = "", id: str | None = None) -> Batch:
    """A batch with a new id. `content`: what its idempotency key stands for."""
    return Batch(partition, ops, id or new_id(), once, None if once is None else digest(content))


async def answers(engine: Engine, *batches: Batch, restore: bool = False) -> list[Receipt | StoreError]:
    """Commit batches in one call."""
    return await engine.commit(batches, restore=restore)


async def done(engine: Engine, one: Batch, *, restore: bool = False) -> Receipt:
    """Commit a batch that is to succeed. Raises its error."""
    (answer,) = await engine.commit([one], restore=restore)
    if isinstance(answer, StoreError):
        raise answer
    return answer


async def commit(
    engine: Engine, partition: str, *ops: Op, once: str | None = None, content: object = "", restore: bool = False
) -> Receipt:
    """Commit operations that are to succeed as one new batch. Raises its error."""
    return await done(engine, batch(partition, *ops, once=once, content=content), restore=restore)


async def refused(engine: Engine, one: Batch, *, restore: bool = False) -> StoreError:
    """The error of a batch that is to fail, by answer and not by exception."""
    (answer,) = await engine.commit([one], restore=restore)
    assert isinstance(answer, StoreError), f"expected an error, got {answer}"
    assert answer.outcome == "none", f"nothing was written, and the engine can know: {answer}"
    return answer


async def conflict(engine: Engine, partition: str, *ops: Op) -> Conflict:
    """The conflict of operations that are to fail."""
    error = await refused(engine, batch(partition, *ops))
    assert isinstance(error, Conflict), repr(error)
    return error


async def read(engine: Engine, kind: str, partition: str, sort: str) -> Row | None:
    """One row."""
    (row,) = await engine.get([Key(kind, partition, sort)])
    return row


async def head(engine: Engine, kind: str, partition: str) -> Head | None:
    """The head of a log."""
    row = await read(engine, kind, partition, HEAD)
    return None if row is None else msgspec.json.decode(row.doc, type=Head)


async def pages(engine: Engine, scan: Scan) -> AsyncIterator[Page]:
    """Every page of a scan, by its cursors."""
    seen: set[str] = set()
    while True:
        page = await engine.scan(scan)
        assert len(page.rows) <= scan.limit, "a page is over its limit"
        yield page
        if page.cursor is None:
            return
        assert page.cursor not in seen, "a cursor came back twice"
        seen.add(page.cursor)
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def rows(engine: Engine, kind: str, *prefix: Any, **scan: Any) -> list[Row]:
    """All rows of a scan, over all of its pages."""
    return [row async for page in pages(engine, Scan(kind, prefix=prefix, **scan)) for row in page.rows]


async def sorts(engine: Engine, kind: str, *prefix: Any, **scan: Any) -> list[str]:
    """The sort keys of a scan."""
    return [row.key.sort for row in await rows(engine, kind, *prefix, **scan)]


async def numbers(engine: Engine, kind: str, *prefix: Any, **scan: Any) -> list[int]:
    """The numbers of a log's rows."""
    return [seq_of(sort) for sort in await sorts(engine, kind, *prefix, **scan)]


async def dumped(
    engine: Engine, kind: str, limit: int = 100, *, lo: str | None = None, hi: str | None = None
) -> list[Row]:
    """Everything that dump gives of a kind, or of a range of its partitions."""
    found: list[Row] = []
    after: str | None = None
    while True:
        page = await engine.dump(kind, after, limit, lo=lo, hi=hi)
        assert len(page.rows) <= limit, "a page is over its limit"
        found += page.rows
        if page.cursor is None:
            return found
        assert page.cursor != after, "a cursor came back twice"
        after = page.cursor


def by_key(found: Iterable[Row]) -> Mapping[Key, Row]:
    """Rows by key, each once."""
    listed = list(found)
    keyed = {row.key: row for row in listed}
    assert len(keyed) == len(listed), "a row was given twice"
    return keyed
