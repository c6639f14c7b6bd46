"""Chats: what models were told, of one agent or of all merged in order, and its removal by the rule of reading."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ...errors import Invalid
from ...predicates import All, Compare, Predicate
from ..arguments import identifier
from .beginnings import head_of
from .context import is_told
from .handle import Handle
from .reading import each, page, scan_of
from .records import Event
from .visibility import Viewer
from .window import CONTEXT_TYPES, is_trimmed, trim


class Chat(NamedTuple):
    """The end of a chat, and the index of its first event; 0 where nothing is cut."""

    events: list[Event]
    start: int


async def chat(handle: Handle, agent: str | None, last: int | None, viewer: Viewer | None) -> list[Event]:
    """The chat of one agent, or that of all, in order."""
    if last is not None:
        return (await ending(handle, agent, last, viewer)).events
    scan = scan_of(handle, where=_told(agent), viewer=viewer)
    return [event async for event in each(handle, scan, viewer) if is_told(event)]


async def ending(handle: Handle, agent: str | None, last: int, viewer: Viewer | None) -> Chat:
    """What `trim` leaves of a chat, and where it begins."""
    if type(last) is not int or last < 0:
        raise Invalid("last is the number of messages to keep, 0 or more", operation="trim")
    end = (await head_of(handle.store, handle.partition)).seq
    events: list[Event] = []
    scan = scan_of(handle, before=end + 1, where=_told(agent), viewer=viewer, reverse=True)
    while True:
        found = await page(handle, scan, viewer)
        if found.corrupt:
            raise found.corrupt[0]
        events = [*filter(is_told, found.items), *events]
        if found.cursor is None or is_trimmed(events, last):
            kept = trim(events, last=last)
            if kept == events:
                return Chat(kept, 0)
            return Chat(kept, kept[0].index if kept else end + 1)
        scan = msgspec.structs.replace(scan, after=found.cursor, limit=min(2 * scan.limit, 1_000))


async def before(handle: Handle, agent: str, start: int) -> list[int]:
    """The indexes of the events of an agent's chat before an index."""
    scan = scan_of(handle, before=start, where=_told(agent))
    return [event.index async for event in each(handle, scan, None)]


def _told(agent: str | None) -> Predicate:
    types = Compare("type", "in", CONTEXT_TYPES)
    return types if agent is None else All((types, Compare("agent", "eq", identifier(agent, "agent"))))
