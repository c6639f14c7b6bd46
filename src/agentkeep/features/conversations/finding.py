"""Finding conversations across rooms, by index: those of a participant, of a channel, of a channel type.

An index row of a conversation that was deleted may be there for a moment, or until a deletion that broke off goes on.
So each is shown only together with the conversation in whose life it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, get_args

import msgspec

from ...errors import Corrupt, Invalid, Key
from ...pages import Listing, Page
from ...records import Record, record_of
from ...store import Store
from ...waist import Row, Scan
from ..arguments import identifier
from .bindings import BINDING, OPEN, Binding
from .participants import PARTICIPANT, Participant
from .records import Activity, Status
from .tags import tag

ACTIVITY = record_of(Activity)
STATUSES: tuple[Status, ...] = get_args(Status)

T = TypeVar("T", Participant, Binding)

WIDEST = 500
"""Rows that are looked at in one go, where few of them are of a status that is asked for."""


class Membership(NamedTuple):
    """A conversation, and somebody's part in it."""

    conversation: Activity
    participant: Participant


class Bound(NamedTuple):
    """A conversation, and one of its bindings."""

    conversation: Activity
    binding: Binding


def statuses(status: Status | Sequence[Status] | None) -> tuple[Status, ...]:
    """The statuses that a caller asks for; all of them for None. Raises Invalid for others."""
    asked = STATUSES if status is None else (status,) if isinstance(status, str) else tuple(status)
    if unknown := [one for one in asked if one not in STATUSES]:
        raise Invalid(f"status is one of {', '.join(STATUSES)}, not {unknown[0]!r}", operation="conversations")
    return asked


def by_participant(store: Store, participant: str, present: bool, limit: int, after: str | None) -> Listing[Membership]:
    """See `Conversations.list_by_participant`."""
    index = "by_present" if present else "by_participant"
    scan = Scan(
        PARTICIPANT.spec.name, index, (tag(identifier(participant, "a participant's id")),), reverse=True, limit=limit
    )

    async def fetch(cursor: str | None) -> Page[Membership]:
        page = await _joined(store, PARTICIPANT, msgspec.structs.replace(scan, after=cursor), STATUSES)
        return Page([Membership(*pair) for pair in page.items], page.cursor, page.corrupt)

    return Listing(fetch, after)


def by_channel(
    store: Store, channel: str, participant: str | None, asked: Sequence[Status], limit: int, after: str | None
) -> Listing[Bound]:
    """See `Conversations.find_by_channel`."""
    prefix = (tag(identifier(channel, "a channel")),)
    index = "by_channel"
    if participant is not None:
        index, prefix = "by_member", (*prefix, tag(identifier(participant, "a participant's id")))
    return _bound(store, _open(Scan(BINDING.spec.name, index, prefix, limit=limit), asked), asked, after)


def by_type(store: Store, participant: str, channel_type: str, asked: Sequence[Status]) -> Listing[Bound]:
    """See `Conversations.find_latest`."""
    prefix = tag(identifier(participant, "a participant's id")), tag(identifier(channel_type, "channel_type"))
    return _bound(store, _open(Scan(BINDING.spec.name, "by_type", prefix, reverse=True, limit=1), asked), asked, None)


def _open(scan: Scan, asked: Sequence[Status]) -> Scan:
    """The scan of what may be open alone, where nothing else is asked for."""
    if "closed" in asked:
        return scan
    return msgspec.structs.replace(scan, index=f"open_{scan.index}", prefix=(*scan.prefix, OPEN))


def _bound(store: Store, scan: Scan, asked: Sequence[Status], after: str | None) -> Listing[Bound]:
    async def fetch(cursor: str | None) -> Page[Bound]:
        page = await _joined(store, BINDING, msgspec.structs.replace(scan, after=cursor), asked)
        return Page([Bound(*pair) for pair in page.items], page.cursor, page.corrupt)

    return Listing(fetch, after)


async def _joined(store: Store, record: Record[T], scan: Scan, asked: Sequence[Status]) -> Page[tuple[Activity, T]]:
    """A page of rows with their conversations: full, unless there are no more that have one of the statuses."""
    found: list[tuple[Activity, T]] = []
    corrupt: list[Corrupt] = []
    width = scan.limit
    while True:
        rows = await store.scan_rows(msgspec.structs.replace(scan, limit=width))
        pairs, damaged = await _pairs(store, record, rows.items, asked)
        missing = scan.limit - len(found)
        if len(pairs) > missing:
            width = pairs[missing - 1][0] + 1  # read too far: again, up to the last row wanted
            continue
        found += [(activity, value) for _, activity, value in pairs]
        corrupt += damaged
        if rows.cursor is None or len(found) == scan.limit:
            return Page(found, rows.cursor, corrupt)
        scan = msgspec.structs.replace(scan, after=rows.cursor)
        width = min(4 * width, WIDEST)


async def _pairs(
    store: Store, record: Record[T], rows: Sequence[Row], asked: Sequence[Status]
) -> tuple[list[tuple[int, Activity, T]], list[Corrupt]]:
    """The rows whose conversation is there, in their life and in one of the statuses, with their positions."""
    keys = [Key(ACTIVITY.spec.name, row.key.partition, "") for row in rows]
    found: list[tuple[int, Activity, T]] = []
    corrupt: list[Corrupt] = []
    activities = await store.engine.get(keys) if keys else []
    for at, (row, activity) in enumerate(zip(rows, activities, strict=True)):
        if activity is None:
            continue
        values, conversations = (
            await store.decode(record, [row], None),
            await store.decode(ACTIVITY, [activity], None),
        )
        corrupt += [*values.corrupt, *conversations.corrupt]
        for value, conversation in zip(values.items, conversations.items, strict=False):
            if conversation.life == value.life and conversation.status in asked:
                found.append((at, conversation, value))
    return found, corrupt
