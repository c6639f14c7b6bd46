"""Events as callers give them, made into the rows of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
from msgspec import Struct

from ... import keys
from ...errors import Conflict, Invalid, StoreError
from ...records import record_of
from ...store import digest_of
from ...waist import Check, Op, Receipt
from ..locks import Held
from .content import TYPES, as_content
from .handle import Handle
from .reading import checked_index, event_at, no_event
from .records import Event
from .visibility import Visibility, as_visibility

EVENT = record_of(Event)

TOGETHER = 47
"""Events and the parents they name in one batch: under its limit with the recency and a manifest."""

Given = tuple[Any, ...]
"""The fields of a New, in order."""


class New(Struct, frozen=True, kw_only=True):
    """An event to append: what `Conversation.append` takes, as a value."""

    content: Any
    type: str | None = None
    sender: str | None = None
    role: str | None = None
    agent: str | None = None
    channel: str | None = None
    run: str | None = None
    correlation: str | None = None
    parent: int | None = None
    metadata: dict[str, Any] | None = None
    visibility: Visibility | str | None = None


_FIELDS = New.__struct_fields__
_KNOWN = frozenset(_FIELDS)


async def append(
    handle: Handle, given: Sequence[Given], key: str | None, after: int | None, lease: Held | None
) -> list[Event]:
    """Append events as one batch, and give them back with their indexes."""
    now = handle.store.clock()
    events = [event_of(handle, one, key, now) for one in given]
    appends: list[Op] = [
        EVENT.append(event, after=None if n else after, expect="exists") for n, event in enumerate(events)
    ]
    digest = None if key is None else digest_of([_said(event) for event in events])
    parents: list[Op] = [Check(EVENT.spec.name, keys.seq_sort(one), "exists") for one in _parents(events, after)]
    if len(events) + len(parents) + (lease is not None) > TOGETHER:
        what = f"one append takes {TOGETHER} events and different parents together"
        raise Invalid(what, operation="append", hint="Append fewer at once.")
    try:
        receipt = await handle.append([*appends, *parents], key=key, digest=digest, lease=lease)
    except Conflict as error:
        if error.key is None or error.key.kind != EVENT.spec.name or error.reason != "rev":
            raise
        raise no_event(handle, keys.seq_of(error.key.sort), "append", "It is what parent names.") from error
    return await appended(handle, events, receipt)


def _parents(events: Sequence[Event], after: int | None) -> list[int]:
    """The events that must be there for these: their parents, but for those that stand before them in the batch."""
    found: set[int] = set()
    for at, event in enumerate(events):
        parent = event.parent
        if parent is None:
            continue
        checked_index(parent, "parent", "append")
        if after is None or not after < parent <= after + at:
            found.add(parent)
    return sorted(found)


async def appended(handle: Handle, events: Sequence[Event], receipt: Receipt) -> list[Event]:
    """The events with the indexes that a receipt gives; as they were stored first, where it is a replay."""
    seqs = [seq for seq in receipt.seqs if seq is not None]
    for event, seq in zip(events, seqs, strict=True):
        msgspec.structs.force_setattr(event, "index", seq)
    if not receipt.replayed:
        return list(events)
    first: dict[int, Event] = {}
    with suppress(StoreError):  # they are there: a read that fails makes no failure of it
        for event in events:
            if (stored := await event_at(handle, event.index)) is not None:
                first[event.index] = stored
    return [first.get(event.index, event) for event in events]


def event_of(handle: Handle, given: Given, key: str | None, now: int) -> Event:
    """The event of what a caller gave, without its index."""
    content, type, sender, role, agent, channel, run, correlation, parent, metadata, rule = given
    content = as_content(content)
    return Event(
        conversation=handle.record.id,
        type=type or TYPES[content.__class__],
        content=content,
        sender=sender,
        role=role,
        agent=agent,
        channel=channel,
        run=run,
        correlation=correlation,
        parent=parent,
        key=key,
        metadata={} if metadata is None else metadata,
        visibility=as_visibility(rule),
        created_us=now,
    )


def given_of(event: object) -> Given:
    """What `append_many` takes, as the fields of a New. Raises Invalid for an unknown one."""
    if isinstance(event, New):
        return msgspec.structs.astuple(event)
    if isinstance(event, str) or type(event) in TYPES:
        return (event, *(None,) * (len(_FIELDS) - 1))
    if not isinstance(event, Mapping):
        raise Invalid(f"an event is a New, a mapping, a content or text, not {type(event).__name__}")
    event = cast("Mapping[str, Any]", event)
    if not event.keys() <= _KNOWN or "content" not in event:
        unknown = sorted(event.keys() - _KNOWN)
        wrong = f"unknown fields {unknown}" if unknown else "no content"
        raise Invalid(f"an event has {wrong}", operation="append_many", hint=f"There is: {', '.join(_FIELDS)}.")
    return tuple([event.get(name) for name in _FIELDS])


def _said(event: Event) -> tuple[object, ...]:
    """What the caller said, without the time: what tells two uses of a key apart."""
    fields = (event.type, event.content, event.sender, event.role, event.agent, event.channel, event.run)
    rule = () if event.visibility is None else (event.visibility,)
    return (*fields, event.correlation, event.parent, event.metadata, *rule)
