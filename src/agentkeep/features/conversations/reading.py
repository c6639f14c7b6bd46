"""Events read: one, a page, all of them, as they come, and as a window for a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from ... import keys
from ...pages import Page
from ...predicates import Where, evaluate, parse
from ...records import record_of
from ...waist import Scan
from .beginnings import head_of
from .handle import Handle
from .records import ConversationRecord, Event
from .window import Context, Tokens, is_settled, window

EVENT = record_of(Event)

MAX_INDEX = 10**16 - 1
"""The greatest index that a log can give."""

PER_PAGE = 200


async def event_at(handle: Handle, index: int) -> Event | None:
    """The event with an index, or None."""
    if not 1 <= index <= MAX_INDEX:
        return None
    stored = await handle.store.get(Event, handle.partition, keys.seq_sort(index))
    return None if stored is None else stored.value


def scan_of(
    handle: Handle,
    *,
    before: int | None = None,
    after: int | None = None,
    where: Where | None = None,
    reverse: bool = False,
    limit: int = PER_PAGE,
    cursor: str | None = None,
    budget: int = 10_000,
) -> Scan:
    """The scan of the events after an index and before one."""
    lo = None if after is None else keys.seq_sort(after + 1)
    hi = None if before is None else keys.seq_sort(max(before, 0))
    return Scan(EVENT.spec.name, None, (handle.partition,), lo, hi, reverse, limit, cursor, parse(where), budget)


async def page(handle: Handle, scan: Scan) -> Page[Event]:
    """A page of events, ascending whatever the direction."""
    rows = await handle.store.scan_rows(scan)
    items = rows.items[::-1] if scan.reverse else rows.items
    return await handle.store.decode(EVENT, items, rows.cursor)


async def each(handle: Handle, scan: Scan) -> AsyncIterator[Event]:
    """All events of a scan, page by page. Raises Corrupt where one does not decode."""
    while True:
        found = await page(handle, scan)
        if found.corrupt:
            raise found.corrupt[0]
        for event in found.items:
            yield event
        if found.cursor is None:
            return
        scan = msgspec.structs.replace(scan, after=found.cursor)


async def follow(
    handle: Handle, after: int | None, where: Where | None, idle: float | None, poll: float
) -> AsyncIterator[Event]:
    """Events as they come, until it is quiet for `idle` seconds or the conversation is deleted."""
    wanted = parse(where)
    seen = (await head_of(handle.store, handle.partition)).seq if after is None else after
    pause, quiet = poll, 0.0
    cursor: str | None = None
    while True:
        found = await page(handle, scan_of(handle, after=seen, cursor=cursor))
        if found.corrupt:
            raise found.corrupt[0]
        for event in found.items:
            seen = event.index
            if evaluate(wanted, EVENT.facet_values(event)):
                yield event
        cursor = None if found.items else found.cursor
        if found.items:
            pause, quiet = poll, 0.0
        if found.items or cursor is not None:
            continue
        if (idle is not None and quiet >= idle) or await _is_deleted(handle):
            return
        wait = pause if idle is None else min(pause, idle - quiet)
        await handle.store.sleep(wait)
        quiet += wait
        pause = min(pause * 1.5, poll * 20)


async def _is_deleted(handle: Handle) -> bool:
    stored = await handle.store.get(ConversationRecord, handle.partition)
    return stored is None or stored.value.life != handle.record.life


async def context(handle: Handle, max_tokens: int, tokens: Tokens, types: Sequence[str], before: int | None) -> Context:
    """The window over as much of the end of a conversation as decides it."""
    sizes: dict[int, int] = {}

    def size(event: Event) -> int:
        if event.index not in sizes:
            sizes[event.index] = tokens(event)
        return sizes[event.index]

    events: list[Event] = []
    scan = scan_of(handle, before=before, where={"type": list(types)}, reverse=True, limit=100)
    while True:
        found = await page(handle, scan)
        events = [*found.items, *events]
        if found.cursor is None or not found.items or is_settled(events, max_tokens, size):
            return window(events, max_tokens, size, complete=found.cursor is None)
        scan = msgspec.structs.replace(scan, after=found.cursor, limit=min(2 * scan.limit, 1_000))
