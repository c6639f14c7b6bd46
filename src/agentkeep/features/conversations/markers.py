"""How far events are delivered and read: markers that only move forward, and what became of each delivery."""

from __future__ import annotations

from collections.abc import Callable

from ... import keys
from ...codec import Json, plain
from ...errors import Conflict, Invalid, Key
from ...keys import short
from ...pages import Listing, Page
from ...records import record_of
from ...waist import Check, Put, Scan
from ..arguments import identifier
from .beginnings import head_of
from .belongings import END, place, rows, within
from .companions import Delivery, Marker
from .handle import Handle
from .reading import EVENT, checked_index, count, event_at, no_event, scan_of
from .visibility import Viewer

MARKER, DELIVERY = record_of(Marker), record_of(Delivery)

DELIVERED = "delivered"
CLEARED = "cleared"
READ = "read"


# --- delivery --------------------------------------------------------------------------------------------------------


async def delivered(handle: Handle) -> int:
    """The index up to which events are delivered, 0 for none."""
    return (await _marker(handle, DELIVERED)).index


async def advance(handle: Handle, index: int, force: bool) -> int:
    """Move the delivered index from the one before it; with `force` from any lower one."""
    await _check_end(handle, checked_index(index, "index", "advance_delivered"), "advance_delivered")
    found: list[int] = []

    def change(old: Marker) -> int | None:
        found[:] = [old.index]
        return index if old.index == index - 1 or (force and old.index < index) else None

    if not await _move(handle, DELIVERED, None, change):
        key = Key(MARKER.spec.name, handle.partition, place(handle.record.life, DELIVERED))
        hint = "It moves forward only." if found[0] >= index else "Events before this one are not delivered: or force."
        raise Conflict(key, index - 1, found[0], operation="advance_delivered", hint=hint)
    return index


async def record_delivery(handle: Handle, index: int, channel: str, result: Json) -> Delivery:
    """Write what became of an event on a channel, in a row of its own."""
    checked_index(index, "index", "record_delivery")
    made = Delivery(
        conversation=handle.partition,
        place=place(handle.record.life, f"{keys.seq_sort(index)}{END}{short(identifier(channel, 'channel'))}"),
        index=index,
        channel=channel,
        result=plain(result, "result"),
        recorded_us=handle.store.clock(),
    )
    old = [
        row
        for row in await handle.store.engine.get([Key(DELIVERY.spec.name, handle.partition, made.place)])
        if row is not None
    ]
    try:
        there = Check(EVENT.spec.name, keys.seq_sort(index), "exists")
        await handle.commit([DELIVERY.put(made), there], replaced=old)
    except Conflict as error:
        if error.key is None or error.key.kind != EVENT.spec.name:
            raise
        raise no_event(handle, index, "record_delivery") from error
    return made


async def deliveries(handle: Handle, index: int) -> dict[str, Delivery]:
    """What became of an event, by channel."""
    if await event_at(handle, checked_index(index, "index", "deliveries")) is None:
        raise no_event(handle, index, "deliveries")
    lo, hi = within(handle.record.life, keys.seq_sort(index))
    found = await rows(handle.store, handle.partition, DELIVERY.spec.name, lo, hi)
    return {one.channel: one for one in await handle.store.decode(DELIVERY, found, None)}


# --- reading ---------------------------------------------------------------------------------------------------------


async def mark_read(handle: Handle, reader: str, index: int | None) -> int:
    """Move the marker of a reader to an index, or to the end, unless it is further. Gives where it is."""
    end = await _check_end(handle, index, "mark_read")
    to = end if index is None else index
    found: list[int] = []

    def change(old: Marker) -> int | None:
        found[:] = [max(old.index, to)]
        return to if old.index < to else None

    await _move(handle, _read(reader), reader, change)
    return found[0]


async def unread(handle: Handle, reader: str, viewer: Viewer | None, budget: int) -> tuple[int, bool]:
    """(n, exact): how many events after the marker of a reader the viewer may see."""
    after = (await _marker(handle, _read(reader))).index
    return await count(handle, scan_of(handle, after=after, viewer=viewer, budget=budget), viewer)


def markers(handle: Handle, limit: int, after: str | None) -> Listing[Marker]:
    """The markers of all readers."""
    lo, hi = within(handle.record.life, READ)

    async def fetch(cursor: str | None) -> Page[Marker]:
        scan = Scan(MARKER.spec.name, prefix=(handle.partition,), lo=lo, hi=hi, limit=limit, after=cursor)
        found = await handle.store.scan_rows(scan)
        return await handle.store.decode(MARKER, found.items, found.cursor)

    return Listing(fetch, after)


# --- markers ---------------------------------------------------------------------------------------------------------


async def cleared(handle: Handle) -> tuple[int, Check]:
    """The index up to which events were cleared, and the check that this is so still."""
    key = _key(handle, CLEARED)
    found = await handle.store.get(Marker, key.partition, key.sort)
    if found is None:
        return 0, Check(key.kind, key.sort, "absent")
    return found.value.index, Check(key.kind, key.sort, found.rev)


def put_cleared(handle: Handle, index: int) -> Put:
    """The put that says that events up to an index are cleared."""
    return MARKER.put(_made(handle, CLEARED, None, index))


async def _marker(handle: Handle, name: str) -> Marker:
    key = _key(handle, name)
    found = await handle.store.get(Marker, key.partition, key.sort)
    return Marker(conversation=key.partition, place=key.sort) if found is None else found.value


async def _move(handle: Handle, name: str, reader: str | None, change: Callable[[Marker], int | None]) -> bool:
    """Compare and set a marker; `change` gives where to, or None where it stays. Whether it moved."""
    key = _key(handle, name)

    async def attempt() -> bool:
        found = await handle.store.get(Marker, key.partition, key.sort)
        to = change(Marker(conversation=key.partition, place=key.sort) if found is None else found.value)
        if to is None:
            return False
        await handle.commit([MARKER.put(_made(handle, name, reader, to), "absent" if found is None else found.rev)])
        return True

    return await handle.store.again(attempt, key)


def _made(handle: Handle, name: str, reader: str | None, index: int) -> Marker:
    key = _key(handle, name)
    return Marker(
        conversation=key.partition, place=key.sort, reader=reader, index=index, marked_us=handle.store.clock()
    )


def _key(handle: Handle, name: str) -> Key:
    return Key(MARKER.spec.name, handle.partition, place(handle.record.life, name))


def _read(reader: str) -> str:
    return f"{READ}{END}{short(identifier(reader, 'reader'))}"


async def _check_end(handle: Handle, index: int | None, operation: str) -> int:
    """The end of the conversation. Raises Invalid for an index beyond it."""
    if index is not None:
        checked_index(index, "index", operation)
    end = (await head_of(handle.store, handle.partition)).seq
    if index is not None and index > end:
        raise Invalid(f"index={index} is beyond the end, which is {end}", key=handle.key, operation=operation)
    return end
