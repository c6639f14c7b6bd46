"""Events read: one, a page, all of them, as they come, and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from ... import keys
from ...errors import Invalid, Key, NotFound
from ...pages import Page
from ...predicates import Where, evaluate, parse
from ...records import record_of
from ...waist import Scan
from .beginnings import head_of
from .handle import Handle
from .records import ConversationRecord, Event
from .visibility import JUDGED, Viewer, may_see, wanted

EVENT = record_of(Event)

MAX_INDEX = 10**16 - 1
"""The greatest index that a log can give."""

PER_PAGE = 200


def checked_index(index: object, name: str, operation: str, lowest: int = 1) -> int:
    """An index that a caller passed. Raises Invalid for what cannot be one."""
    if type(index) is not int or not lowest <= index <= MAX_INDEX:
        shown = index if type(index) is int else type(index).__name__
        raise Invalid(f"{name} is the index of an event, {lowest} or more, not {shown}", operation=operation)
    return index


def no_event(handle: Handle, index: int, operation: str, hint: str = "") -> NotFound:
    """The error of who names an event that is not there."""
    key = Key(EVENT.spec.name, handle.partition, keys.seq_sort(index))
    return NotFound(f"there is no event {index}", key=key, operation=operation, hint=hint)


def sees(handle: Handle, viewer: Viewer | None, event: Event) -> bool:
    """Whether the viewer, if there is one, may see an event."""
    return viewer is None or may_see(event.visibility, viewer, event, handle.store.connection.judges)


async def event_at(handle: Handle, index: int, viewer: Viewer | None = None) -> Event | None:
    """The event with an index, or None: also where the viewer may not see it."""
    if not 1 <= index <= MAX_INDEX:
        return None
    stored = await handle.store.get(Event, handle.partition, keys.seq_sort(index))
    return stored.value if stored is not None and sees(handle, viewer, stored.value) else None


def scan_of(
    handle: Handle,
    *,
    before: int | None = None,
    after: int | None = None,
    where: Where | None = None,
    viewer: Viewer | None = None,
    reverse: bool = False,
    limit: int = PER_PAGE,
    cursor: str | None = None,
    budget: int = 10_000,
) -> Scan:
    """The scan of the events after an index and before one."""
    lo = None if after is None else keys.seq_sort(after + 1)
    hi = None if before is None else keys.seq_sort(max(before, 0))
    tree = wanted(parse(where), viewer)
    return Scan(EVENT.spec.name, None, (handle.partition,), lo, hi, reverse, limit, cursor, tree, budget)


async def page(handle: Handle, scan: Scan, viewer: Viewer | None) -> Page[Event]:
    """A page of events, ascending whatever the direction. The scan is made for the viewer by `scan_of`."""
    rows = await handle.store.scan_rows(scan)
    items = rows.items[::-1] if scan.reverse else rows.items
    found = await handle.store.decode(EVENT, items, rows.cursor)
    if viewer is not None:
        found.items = [event for event in found.items if sees(handle, viewer, event)]
    return found


async def count(handle: Handle, scan: Scan, viewer: Viewer | None) -> tuple[int, bool]:
    """(n, exact): how many events of a scan the viewer may see, among as many as the budget of the scan allows."""
    total, budget = 0, scan.budget
    while True:
        look = min(1_000, budget)
        rows = await handle.store.scan_rows(msgspec.structs.replace(scan, limit=look, budget=look))
        asked = [row for row in rows if row.facets.get("audience") == (JUDGED,)]
        judged = await handle.store.decode(EVENT, asked, None)
        total += len(rows) - len(asked) + sum(sees(handle, viewer, event) for event in judged)
        budget -= look
        if rows.cursor is None or budget <= 0:
            return total, rows.cursor is None
        scan = msgspec.structs.replace(scan, after=rows.cursor)


async def each(handle: Handle, scan: Scan, viewer: Viewer | None) -> AsyncIterator[Event]:
    """All events of a scan, page by page. Raises Corrupt where one does not decode."""
    while True:
        found = await page(handle, scan, viewer)
        if found.corrupt:
            raise found.corrupt[0]
        for event in found.items:
            yield event
        if found.cursor is None:
            return
        scan = msgspec.structs.replace(scan, after=found.cursor)


async def follow(
    handle: Handle, after: int | None, where: Where | None, viewer: Viewer | None, idle: float | None, poll: float
) -> AsyncIterator[Event]:
    """Events as they come, until it is quiet for `idle` seconds or the conversation is deleted."""
    tree = parse(where)
    seen = (await head_of(handle.store, handle.partition)).seq if after is None else after
    pause, quiet = poll, 0.0
    cursor: str | None = None
    while True:
        found = await page(handle, scan_of(handle, after=seen, cursor=cursor), None)
        if found.corrupt:
            raise found.corrupt[0]
        for event in found.items:
            seen = event.index
            if evaluate(tree, EVENT.facet_values(event)) and sees(handle, viewer, event):
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
