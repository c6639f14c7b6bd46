"""Moves conversations from a store into a file, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import Struct

from ..errors import Corrupt, Invalid, StoreError
from ..features.conversations.originals import RECORD, Original, event_pages, originals, records
from ..store import Store
from ..waist import Row
from .files import Output
from .formats import Format, Rows
from .lines import Failure, marked

AT_ONCE = 16
BUFFER = 1_000_000


class Dumped(Struct):
    """What an export did so far. `left_out`: conversations and events that could not be written."""

    conversations: int = 0
    events: int = 0
    left_out: int = 0


async def dump(
    store: Store,
    file: Output,
    format: Format,
    *,
    failed: Callable[[Failure], None] = lambda _: None,
    progress: Callable[[Dumped, int | None], None] = lambda _, __: None,
) -> Dumped:
    """Export every conversation, each as it is when its turn comes.

    Formats whose lines are sorted need one pass over the records first, and hold a number and an id of each;
    otherwise memory does not grow with the store. `progress` gets the counts and the number of conversations, where
    it is known. What cannot be read or written in the format is given to `failed`, and the rest goes on.
    """
    done = Dumped()
    buffer = _Buffer(file)
    if format.header is not None:
        await buffer.add(format.header())

    def fail(id: str | None, error: StoreError) -> None:
        done.left_out += 1
        failed(Failure(0, str(error), id))

    async for chunk, total in _chunks(store, format, fail):
        found = await originals(store, chunk)
        whole = [one for one in found if isinstance(one, Original)]
        for error in (one for one in found if isinstance(one, Corrupt)):
            fail(None, error)
        pages = [event_pages(store, one) for one in whole]
        first = await asyncio.gather(*(anext(page) for page in pages))
        for one, begun, rest in zip(whole, first, pages, strict=True):
            await _write(one, _chain(begun, rest, done), format, buffer, fail)
            done.conversations += 1
        progress(done, total)
    await buffer.flush()
    return done


async def _write(
    one: Original, rows: Rows, format: Format, buffer: _Buffer, fail: Callable[[str | None, StoreError], None]
) -> None:
    try:
        async for line in format.write(one, rows):
            if isinstance(line, StoreError):
                fail(one.partition, line)
            else:
                await buffer.add(line)
    except (Corrupt, Invalid) as error:
        fail(one.partition, error)


async def _chain(first: list[Row | Corrupt], rest: Rows, done: Dumped) -> Rows:
    done.events += len(first)
    yield first
    async for page in rest:
        done.events += len(page)
        yield page


async def _chunks(
    store: Store, format: Format, fail: Callable[[str | None, StoreError], None]
) -> AsyncIterator[tuple[Sequence[str], int | None]]:
    """The partitions to export, a few at a time, and their number where it is known."""
    chunk: list[str] = []
    if not format.sorted:
        async for row in records(store):
            chunk.append(row.key.partition)
            if len(chunk) == AT_ONCE:
                yield chunk, None
                chunk = []
        if chunk:
            yield chunk, None
        return
    order: list[tuple[float, str]] = []
    async for row in records(store):
        try:
            note = marked(RECORD.decode(await store.whole(row)).metadata)
        except Corrupt as error:
            fail(row.key.partition, error)
            continue
        own = note.get("format") == format.name
        if own or not format.own:
            number = note.get("line")
            order.append((number if own and isinstance(number, int) else float("inf"), row.key.partition))
    order.sort()
    for at in range(0, len(order), AT_ONCE):
        yield [partition for _, partition in order[at : at + AT_ONCE]], len(order)


class _Buffer:
    """Lines on their way to a file, which is written in a thread."""

    def __init__(self, file: Output) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._size = 0

    async def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size > BUFFER:
            await self.flush()

    async def flush(self) -> None:
        if self._lines:
            data = b"\n".join([*self._lines, b""])
            self._lines, self._size = [], 0
            await asyncio.to_thread(self._file.write, data)
