"""The channels that a conversation is bound to, each with its own configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, Protocol, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ... import keys
from ...codec import is_moved
from ...errors import Corrupt, Invalid, Key, NotFound
from ...ids import to_datetime
from ...pages import Listing, Page
from ...predicates import parse
from ...records import record, record_of
from ...store import Store
from ...waist import Delete, Op, Receipt, Row, Scan
from ..arguments import identifier, mapping
from .belongings import place, places
from .records import ConversationRecord
from .tags import tag

Access = Literal["read_write", "read_only", "write_only", "none"]

ACCESSES = get_args(Access)

OPEN = "open"
"""The shelf of bindings among which an open conversation is looked for."""

SHELVED = 40
"""Bindings that go into the batch which closes or opens a conversation."""


@record(
    "binding",
    partition="conversation",
    within="conversation",
    indexes={
        "by_channel": ("channel_tag", "created_us"),
        "by_member": ("channel_tag", "participant_tag", "created_us"),
        "by_type": ("participant_tag", "type_tag", "created_us"),
        "open_by_channel": ("channel_tag", "shelf", "created_us"),
        "open_by_member": ("channel_tag", "participant_tag", "shelf", "created_us"),
        "open_by_type": ("participant_tag", "type_tag", "shelf", "created_us"),
    },
    facets=("shelf",),
)
class Binding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel of a conversation. Times are microseconds since 1970; `created_us` is that of the conversation.

    `configuration` and `capabilities` are any JSON. `access` is what the channel may do, `visibility` who sees what
    comes from it, in words of the caller's; `participant` is who is reached by it. One without a shelf is of a closed
    conversation; one with a shelf need not be of an open one.
    """

    conversation: str
    life: str
    channel: str
    channel_type: str
    configuration: Any = None
    capabilities: Any = None
    muted: bool = False
    access: Access = "read_write"
    visibility: str | None = None
    participant: str | None = None
    metadata: dict[str, Any] = {}
    bound_us: int = 0
    updated_us: int = 0
    created_us: int = 0
    channel_tag: str = ""
    type_tag: str = ""
    participant_tag: str | None = None
    shelf: str | None = OPEN

    @property
    def bound_at(self) -> datetime:
        """When it was bound, as an aware datetime."""
        return to_datetime(self.bound_us)


RECORDS = (Binding,)
BINDING = record_of(Binding)


class Room(Protocol):
    """The conversation that they belong to."""

    @property
    def record(self) -> ConversationRecord:
        """Its record as it was read last."""
        ...

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound."""
        ...


class Commit(Protocol):
    """Commits ops while the conversation is there."""

    async def __call__(self, ops: Sequence[Op], *, replaced: Sequence[Row] = ()) -> Receipt:
        """Raises Conflict, NotFound."""
        ...


class Bindings:
    """The bindings of one conversation: `talk.bindings`."""

    def __init__(self, store: Store, room: Room, commit: Commit) -> None:
        self._store = store
        self._room = room
        self._commit = commit
        self._partition = keys.partition(room.record.id)
        self._life = room.record.life

    def __repr__(self) -> str:
        return f"Bindings({self._room.record.id!r})"

    async def add(
        self,
        channel: str,
        channel_type: str,
        *,
        configuration: Any = None,
        capabilities: Any = None,
        muted: bool = False,
        access: Access = "read_write",
        visibility: str | None = None,
        participant: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Binding:
        """Bind a channel. Raises Conflict where it is bound already, Invalid where the conversation is closed."""
        key, record = self._key(channel), await self._room.refresh()
        if record.status == "closed":
            hint = "Use reopen() to go on."
            raise Invalid("the conversation is closed", key=key, operation="bindings", hint=hint)
        binding = Binding(
            conversation=record.id,
            life=record.life,
            channel=channel,
            channel_type=channel_type,
            configuration=configuration,
            capabilities=capabilities,
            muted=muted,
            access=access,
            visibility=visibility,
            participant=participant,
            metadata=mapping(metadata, "metadata"),
            bound_us=self._store.clock(),
            created_us=record.created_us,
        )
        binding = _checked(binding)
        await self._commit([BINDING.put(binding, "absent", sort=key.sort)])
        return binding

    async def get(self, channel: str) -> Binding | None:
        """The binding of a channel, or None."""
        stored = await self._store.get(Binding, self._partition, self._key(channel).sort)
        return None if stored is None else stored.value

    def list(self, *, limit: int = 100, after: str | None = None) -> Listing[Binding]:
        """All bindings, in order of their channels."""
        lo, hi = places(self._life)

        async def fetch(cursor: str | None) -> Page[Binding]:
            scan = Scan(BINDING.spec.name, None, (self._partition,), lo, hi, limit=limit, after=cursor)
            rows = await self._store.scan_rows(scan)
            return await self._store.decode(BINDING, rows.items, rows.cursor)

        return Listing(fetch, after)

    async def update(
        self,
        channel: str,
        *,
        configuration: Any = UNSET,
        capabilities: Any = UNSET,
        muted: bool | UnsetType = UNSET,
        access: Access | UnsetType = UNSET,
        visibility: str | UnsetType | None = UNSET,
        participant: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
        change: Callable[[Binding], Binding] | None = None,
    ) -> Binding:
        """Change a binding by compare-and-set: concurrent changes are all kept. Raises NotFound.

        What is given replaces what is there; `metadata` is merged, a value of None removing its name. `change` makes
        a new binding of the old one, with the same channel and type, and may be called several times.
        """
        given: dict[str, Any] = {"configuration": configuration, "capabilities": capabilities, "muted": muted}
        given |= {"access": access, "visibility": visibility, "participant": participant}
        known = {name: value for name, value in given.items() if value is not UNSET}
        more = mapping(metadata, "metadata")

        def merge(old: Binding) -> Binding:
            merged = {k: v for k, v in {**old.metadata, **more}.items() if v is not None}
            new = msgspec.structs.replace(old, metadata=merged, **known)
            return _checked(_same(new if change is None else change(new), old))

        return await self._change(channel, merge)

    async def _change(self, channel: str, change: Callable[[Binding], Binding]) -> Binding:
        key = self._key(channel)

        async def attempt() -> Binding:
            found = await self._store.get_stored(key)
            if found is None:
                raise self._missing(channel, "update")
            row, whole = found
            old = BINDING.decode(whole)
            new = change(old)
            if new == old:
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            await self._commit([BINDING.put(new, row.rev, keep=BINDING.unknown(whole), sort=key.sort)], replaced=[row])
            return new

        return await self._store.again(attempt, key)

    async def remove(self, channel: str) -> None:
        """Unbind a channel. Raises NotFound where it is not bound."""
        key = self._key(channel)

        async def attempt() -> None:
            (row,) = await self._store.engine.get((key,))
            if row is None:
                raise self._missing(channel, "remove")
            await self._commit([Delete(key.kind, key.sort, row.rev)], replaced=[row])

        await self._store.again(attempt, key)

    def _key(self, channel: str) -> Key:
        return Key(BINDING.spec.name, self._partition, place(self._life, identifier(channel, "a channel")))

    def _missing(self, channel: str, operation: str) -> NotFound:
        return NotFound("the channel is not bound", key=self._key(channel), operation=operation)


async def reshelve(store: Store, record: ConversationRecord) -> tuple[Sequence[Op], Sequence[Row]]:
    """The puts that take the bindings of a closed conversation off the shelf, or put those of an opened one back.

    They go into the batch that closes or opens it, with the rows they replace. Of a conversation with more bindings,
    and of one whose document lies elsewhere, they stay on the shelf: who looks there looks at the conversation too.
    So what is off the shelf fits one batch, and an open conversation has all its bindings on it.
    """
    closed = record.status == "closed"
    lo, hi = places(record.life)
    where = parse({"shelf": {"exists": closed}})
    scan = Scan(BINDING.spec.name, None, (keys.partition(record.id),), lo, hi, limit=SHELVED + 1, where=where)
    page = await store.scan_rows(scan)
    if len(page) > SHELVED:
        return (), ()
    puts: list[Op] = []
    rows: list[Row] = []
    for row in page:
        if not (closed and is_moved(row.doc)):
            with suppress(Corrupt):  # it is found by nobody, and keeps no conversation from being closed
                puts.append(await _shelved(store, row, None if closed else OPEN))
                rows.append(row)
    return puts, rows


async def _shelved(store: Store, row: Row, shelf: str | None) -> Op:
    whole = await store.whole(row)
    binding = msgspec.structs.replace(BINDING.decode(whole), shelf=shelf)
    return BINDING.put(binding, row.rev, keep=BINDING.unknown(whole), sort=row.key.sort)


def _same(new: Binding, old: Binding) -> Binding:
    fixed = ("conversation", "life", "channel", "channel_type", "bound_us", "created_us", "shelf")
    for name in fixed:
        if getattr(new, name) != getattr(old, name):
            raise Invalid(f"{name} of a binding does not change", operation="update", hint="Remove it and add another.")
    return new


def _checked(binding: Binding) -> Binding:
    """The binding with its index values. Raises Invalid."""
    if binding.access not in ACCESSES:
        raise Invalid(f"access is one of {', '.join(ACCESSES)}, not {binding.access!r}", operation="bindings")
    if binding.participant is not None:
        identifier(binding.participant, "participant")
    return msgspec.structs.replace(
        binding,
        channel_tag=tag(binding.channel),
        type_tag=tag(identifier(binding.channel_type, "channel_type")),
        participant_tag=None if binding.participant is None else tag(binding.participant),
    )
