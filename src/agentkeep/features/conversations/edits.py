"""Events changed after they were appended: edited with their history, retracted in their place, erased with replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ... import keys
from ...errors import Conflict, Invalid, Key, StoreError
from ...predicates import Compare
from ...records import record_of
from ...waist import Delete, Op, Row
from . import belongings
from .belongings import PER_BATCH, place, within
from .companions import Delivery, Version
from .content import TYPES, Content, as_content, emptied
from .handle import Handle
from .reading import EVENT, checked_index, event_at, no_event, scan_of
from .records import Event
from .visibility import Viewer

VERSION, DELIVERY = record_of(Version), record_of(Delivery)


async def edit(handle: Handle, index: int, content: Any, by: str | None, expect: int | None) -> Event:
    """Put another content in an event, and what it said before among its versions."""
    new = as_content(content)

    def change(old: Event) -> Event:
        if old.retracted_us is not None:
            raise Invalid(f"event {index} was retracted", key=_key(handle, index), operation="edit")
        if expect is not None and old.edits != expect:
            raise _Moved(old.edits)
        if new == old.content:
            return old
        _check_shape(old.content, new)
        now = handle.store.clock()
        return msgspec.structs.replace(old, content=new, edits=old.edits + 1, edited_us=now, edited_by=by)

    try:
        return await _change(handle, index, change, "edit")
    except _Moved as moved:
        hint = "Read it again: `expect` is the number of its edits."
        raise Conflict(_key(handle, index), expect, moved.edits, operation="edit", hint=hint) from None


async def retract(handle: Handle, index: int, by: str | None) -> Event:
    """Leave the shape of an event and take away what it says, for all readers."""

    def change(old: Event) -> Event:
        if old.retracted_us is not None:
            return old
        now, content = handle.store.clock(), emptied(old.content)
        return msgspec.structs.replace(old, content=content, edits=old.edits + 1, retracted_us=now, retracted_by=by)

    return await _change(handle, index, change, "retract")


async def versions(handle: Handle, index: int, viewer: Viewer | None, retracted: bool) -> list[Version]:
    """What an event said, oldest first, as it is now last."""
    event = await event_at(handle, checked_index(index, "index", "versions"), viewer)
    if event is None:
        raise no_event(handle, index, "versions")
    lo, hi = within(handle.record.life, keys.seq_sort(index))
    rows = await belongings.rows(handle.store, handle.partition, VERSION.spec.name, lo, hi)
    old = list(await handle.store.decode(VERSION, rows, None))
    if event.retracted_us is not None and not retracted:
        old = [msgspec.structs.replace(one, content=emptied(one.content)) for one in old]
    return [*(one for one in old if one.number < event.edits), _version(handle, event, None)]


async def erase(handle: Handle, index: int, replies: bool) -> int:
    """Remove an event for good, with what lives with it, and the replies to it and to them. Gives their number.

    The event goes first, so that no more replies come; the others follow, the last one first. Broken off in between,
    the same call finds those that are left by what they answer.
    """
    checked_index(index, "index", "erase")
    dead, last = ([], index) if not replies else await _replies(handle, {index}, index)
    there = await event_row(handle, index)
    if there is None and not dead:
        raise no_event(handle, index, "erase")
    try:
        removed = await remove(handle, [index]) if there is not None else 0
        known = {index, *dead}
        while dead:
            removed += await remove(handle, dead[::-1])
            dead, last = await _replies(handle, known, last)
            known.update(dead)
    except StoreError as error:
        error.outcome = "unknown"  # a part is gone: the same call goes on
        raise
    return removed


async def remove(handle: Handle, indexes: Sequence[int]) -> int:
    """Remove events in this order, each after what lives with it. Gives how many were there.

    What came to live with one meanwhile goes in the end: once the event is gone, nothing more comes.
    """
    if not indexes:
        return 0
    removed = 0
    belonging = await _belonging(handle, indexes)
    for first in range(0, len(indexes), PER_BATCH):
        some = indexes[first : first + PER_BATCH]
        await _delete(handle, [row for index in some for row in belonging.get(index, [])])
        rows = await handle.store.engine.get([_key(handle, index) for index in some])
        there = [row for row in rows if row is not None]
        if there:
            await handle.commit([Delete(row.key.kind, row.key.sort) for row in there], replaced=there)
        removed += len(there)
    await _delete(handle, [row for late in (await _belonging(handle, indexes)).values() for row in late])
    return removed


async def forget(handle: Handle, floor: int) -> None:
    """Remove what lives with events that a trim hid: those up to an index."""
    lo, hi = belongings.places(handle.record.life)[0], place(handle.record.life, keys.seq_sort(floor + 1))
    for record in (VERSION, DELIVERY):
        await _delete(handle, await belongings.rows(handle.store, handle.partition, record.spec.name, lo, hi))


async def event_row(handle: Handle, index: int) -> Row | None:
    """The row of an event as it is stored, or None."""
    (row,) = await handle.store.engine.get([_key(handle, index)])
    return row


async def _change(handle: Handle, index: int, change: Callable[[Event], Event], operation: str) -> Event:
    """Compare and set an event, keeping what it said."""
    key = _key(handle, checked_index(index, "index", operation))

    async def attempt() -> Event:
        found = await handle.store.get_stored(key)
        if found is None:
            raise no_event(handle, index, operation)
        row, whole = found
        old = EVENT.decode(whole)
        new = change(old)
        if new == old:
            return old
        ops: list[Op] = [EVENT.put(new, row.rev, keep=EVENT.unknown(whole), sort=key.sort)]
        kept = _version(handle, old, handle.store.clock())
        await handle.commit([*ops, VERSION.put(kept, "absent")], replaced=[row])
        return new

    return await handle.store.again(attempt, key)


def _version(handle: Handle, event: Event, replaced_us: int | None) -> Version:
    first = event.edits == 0
    return Version(
        conversation=handle.partition,
        place=place(handle.record.life, f"{keys.seq_sort(event.index)}/{event.edits:08d}"),
        index=event.index,
        number=event.edits,
        content=event.content,
        by=event.sender or event.agent if first else event.retracted_by or event.edited_by,
        written_us=event.created_us if first else event.retracted_us or event.edited_us or 0,
        replaced_us=replaced_us,
    )


def _check_shape(old: Content, new: Content) -> None:
    """A tool call stays that call, a message a message: what stands around them relies on it."""
    same = TYPES[type(old)] == TYPES[type(new)] and getattr(old, "id", None) == getattr(new, "id", None)
    if not same:
        hint = "A message stays a message; tool calls and results keep their ids. Append another event instead."
        raise Invalid(f"a {TYPES[type(old)]} does not become another content", operation="edit", hint=hint)


async def _replies(handle: Handle, roots: set[int], after: int) -> tuple[list[int], int]:
    """The events after an index that answer these, or one that does, ascending; and the index looked up to.

    A reply comes after what it answers, so that one pass finds all.
    """
    known, found, last = set(roots), list[int](), after
    scan = scan_of(handle, after=after, where=Compare("parent", "exists", True), limit=1_000)
    while True:
        page = await handle.store.scan_rows(scan)
        for row in page:
            index, parent = keys.seq_of(row.key.sort), row.facets.get("parent")
            if parent in known:
                known.add(index)
                found.append(index)
            last = index
        if page.cursor is None:
            return found, last
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def _belonging(handle: Handle, indexes: Sequence[int]) -> dict[int, list[Row]]:
    """What lives with events, by their index."""
    life, wanted = handle.record.life, set(indexes)
    lo, hi = place(life, keys.seq_sort(min(wanted))), place(life, keys.seq_sort(max(wanted) + 1))
    found: dict[int, list[Row]] = {}
    for record in (VERSION, DELIVERY):
        for row in await belongings.rows(handle.store, handle.partition, record.spec.name, lo, hi):
            index = int(row.key.sort.removeprefix(place(life, ""))[: len(keys.seq_sort(0))])
            if index in wanted:
                found.setdefault(index, []).append(row)
    return found


async def _delete(handle: Handle, rows: Sequence[Row]) -> None:
    for first in range(0, len(rows), PER_BATCH):
        part = rows[first : first + PER_BATCH]
        await handle.commit([Delete(row.key.kind, row.key.sort) for row in part], replaced=part)


def _key(handle: Handle, index: int) -> Key:
    return Key(EVENT.spec.name, handle.partition, keys.seq_sort(index))


class _Moved(Exception):
    """The event has another number of edits than expected; `again` is not to try it again."""

    def __init__(self, edits: int) -> None:
        self.edits = edits
