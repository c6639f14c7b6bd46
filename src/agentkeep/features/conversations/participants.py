"""Who is in a conversation, in which role, and who was there when.

Joining, leaving and a change of role are each one write with an event of the conversation, whose index is the moment:
`participant.joined`, `participant.left`, `participant.changed`. Whoever joined with event 7 and left with event 12 was
there for the events 7 to 11, whatever else was appended meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ... import keys
from ...errors import Invalid, Key, NotFound
from ...ids import to_datetime
from ...pages import Listing, Page
from ...predicates import Where, parse
from ...records import Record, record, record_of
from ...store import Store
from ...waist import HEAD, Head, Op, Put, Receipt, Row, Scan
from ..arguments import identifier, mapping
from .belongings import place, places
from .content import Data
from .records import ConversationRecord, Event
from .tags import tag

EVENT = record_of(Event)

T = TypeVar("T")

MAX_SEQ = 10**16 - 2
"""The greatest index that is asked for: no log is as long."""


@record(
    "participant",
    partition="conversation",
    within="conversation",
    indexes={"by_participant": ("tag", "joined_us"), "by_present": ("present_tag", "joined_us")},
    facets=("left_us",),
)
class Participant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody in a conversation, or who was: then `left_index` says since when. Times are microseconds since 1970."""

    conversation: str
    life: str
    id: str
    role: str | None = None
    display_name: str | None = None
    identity: str | None = None
    channel: str | None = None
    metadata: dict[str, Any] = {}
    joined_index: int = 0
    joined_us: int = 0
    left_index: int | None = None
    left_us: int | None = None
    role_index: int = 0
    tag: str = ""
    present_tag: str | None = None

    @property
    def is_present(self) -> bool:
        """Whether it is in the conversation."""
        return self.left_index is None

    @property
    def joined_at(self) -> datetime:
        """When it joined last, as an aware datetime."""
        return to_datetime(self.joined_us)

    @property
    def left_at(self) -> datetime | None:
        """When it left, as an aware datetime, None while it is there."""
        return None if self.left_us is None else to_datetime(self.left_us)


@record("stay", partition="conversation", within="conversation", facets=("tag", "left_index"))
class Stay(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One participant in one role, from the event `from_index` up to and without the event `left_index`."""

    conversation: str
    participant: str
    role: str | None = None
    identity: str | None = None
    channel: str | None = None
    from_index: int = 0
    from_us: int = 0
    left_index: int | None = None
    left_us: int | None = None
    tag: str = ""

    @property
    def from_at(self) -> datetime:
        """When it began, as an aware datetime."""
        return to_datetime(self.from_us)

    @property
    def left_at(self) -> datetime | None:
        """When it ended, as an aware datetime, None while it lasts."""
        return None if self.left_us is None else to_datetime(self.left_us)


RECORDS = (Participant, Stay)
PARTICIPANT, STAY = record_of(Participant), record_of(Stay)


class Room(Protocol):
    """The conversation that they are in."""

    @property
    def record(self) -> ConversationRecord:
        """Its record as it was read last."""
        ...

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound."""
        ...


class Write(Protocol):
    """Commits ops with appends while the conversation is there, and opens it again where it is paused."""

    async def __call__(self, ops: Sequence[Op], *, replaced: Sequence[Row] = (), guarded: bool = False) -> Receipt:
        """Raises Conflict, Invalid where the conversation is closed, NotFound."""
        ...


class _Found(Struct, frozen=True):
    """A participant and its last stay as they are stored, and the last index of the conversation."""

    value: Participant | None
    row: Row | None
    keep: dict[str, Any]
    stay: Stay | None
    stay_rev: str
    last: int


class Participants:
    """The participants of one conversation: `talk.participants`."""

    def __init__(self, store: Store, room: Room, write: Write) -> None:
        self._store = store
        self._room = room
        self._write = write
        self._partition = keys.partition(room.record.id)
        self._life = room.record.life

    def __repr__(self) -> str:
        return f"Participants({self._room.record.id!r})"

    async def join(
        self,
        id: str,
        *,
        role: str | None = None,
        display_name: str | None = None,
        identity: str | None = None,
        channel: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Participant:
        """Let somebody in, from an event of its own on. Who is in already is given back as it is.

        `identity` names the person behind it, `channel` how it takes part. Raises Invalid where the conversation is
        closed, NotFound where it was deleted.
        """
        new = Participant(
            conversation=self._room.record.id,
            life=self._life,
            id=identifier(id, "a participant's id"),
            role=role,
            display_name=display_name,
            identity=identity,
            channel=channel,
            metadata=mapping(metadata, "metadata"),
            tag=tag(id),
            present_tag=tag(id),
        )

        def change(found: _Found, now: int) -> Participant:
            if found.value is not None and found.value.is_present:
                return found.value
            at = found.last + 1
            return msgspec.structs.replace(new, joined_index=at, joined_us=now, role_index=at)

        return await self._change(id, "participant.joined", change)

    async def leave(self, id: str) -> Participant:
        """Let somebody out, from an event of its own on. Raises NotFound for who is not in, Invalid, as `join`."""

        def change(found: _Found, now: int) -> Participant:
            value = self._present(found, id)
            return msgspec.structs.replace(value, left_index=found.last + 1, left_us=now, present_tag=None)

        return await self._change(id, "participant.left", change)

    async def update(
        self,
        id: str,
        *,
        role: str | UnsetType | None = UNSET,
        display_name: str | UnsetType | None = UNSET,
        identity: str | UnsetType | None = UNSET,
        channel: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
    ) -> Participant:
        """Change somebody who is in, by compare-and-set; `metadata` is merged, a value of None removing its name.

        Another role, identity or channel begins another stay, with an event of its own. Raises NotFound for who is
        not in.
        """
        given = {"role": role, "display_name": display_name, "identity": identity, "channel": channel}
        known = {name: value for name, value in given.items() if value is not UNSET}
        more = mapping(metadata, "metadata")

        def change(found: _Found, now: int) -> Participant:
            value = self._present(found, id)
            merged = {k: v for k, v in {**value.metadata, **more}.items() if v is not None}
            new = msgspec.structs.replace(value, metadata=merged, **known)
            moved = (new.role, new.identity, new.channel) != (value.role, value.identity, value.channel)
            return msgspec.structs.replace(new, role_index=found.last + 1) if moved else new

        return await self._change(id, "participant.changed", change)

    async def get(self, id: str) -> Participant | None:
        """Somebody who is in the conversation or was, or None."""
        stored = await self._store.get(Participant, self._partition, self._sort(id))
        return None if stored is None else stored.value

    def list(self, *, present: bool = True, limit: int = 100, after: str | None = None) -> Listing[Participant]:
        """Who is in the conversation, in order of their ids; with `present=False` also who was."""
        lo, hi = places(self._life)
        return self._listing(PARTICIPANT, lo, hi, {"left_us": {"exists": False}} if present else None, limit, after)

    def present_at(self, index: int, *, limit: int = 100, after: str | None = None) -> Listing[Stay]:
        """Who was there when an event was appended, in which role: in the order in which they joined."""
        return self.between(index, index, limit=limit, after=after)

    def between(
        self, first: int, last: int, *, participant: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[Stay]:
        """Who was there for any of the events from `first` to `last`, in order; `participant`: that one alone.

        Who changed roles, or left and came back, has several stays.
        """
        if type(first) is not int or type(last) is not int or not 0 <= first <= last:
            raise Invalid("first and last are indexes of events, from 0, in order", operation="between")
        lo, hi = place(self._life, keys.seq_sort(0)), place(self._life, keys.seq_sort(min(last, MAX_SEQ) + 1))
        here: dict[str, object] = {"$or": [{"left_index": {"exists": False}}, {"left_index": {"gt": first}}]}
        who: dict[str, object] = {} if participant is None else {"tag": tag(participant)}
        return self._listing(STAY, lo, hi, {**here, **who}, limit, after)

    def _listing(
        self, kind: Record[T], lo: str, hi: str, where: Where | None, limit: int, after: str | None
    ) -> Listing[T]:
        tree = parse(where)

        async def fetch(cursor: str | None) -> Page[T]:
            rows = await self._store.scan_rows(
                Scan(kind.spec.name, None, (self._partition,), lo, hi, limit=limit, after=cursor, where=tree)
            )
            return await self._store.decode(kind, rows.items, rows.cursor)

        return Listing(fetch, after)

    def _sort(self, id: str) -> str:
        return place(self._life, identifier(id, "a participant's id"))

    def _key(self, id: str) -> Key:
        return Key(PARTICIPANT.spec.name, self._partition, self._sort(id))

    def _present(self, found: _Found, id: str) -> Participant:
        if found.value is None or not found.value.is_present:
            raise NotFound("there is no such participant", key=self._key(id), operation="participants")
        return found.value

    async def _change(self, id: str, type: str, change: Callable[[_Found, int], Participant]) -> Participant:
        """Read, change, compare and set, until it holds.

        Where a stay begins or ends, an event goes with it, which must become the next one: so its index is known.
        """
        key = self._key(id)

        async def attempt() -> Participant:
            found, now = await self._find(key), self._store.clock()
            new = change(found, now)
            if new == found.value:
                await self._room.refresh()
                return new
            rev = "absent" if found.row is None else found.row.rev
            ops: list[Op] = [PARTICIPANT.put(new, rev, keep=found.keep, sort=key.sort)]
            stays = self._stays(found, new, now)
            if stays:
                said = {"participant": new.id, "role": new.role}
                event = Event(conversation=new.conversation, type=type, content=Data(said), created_us=now)
                ops += [*stays, EVENT.append(event, after=found.last, expect="exists")]
            await self._write(ops, replaced=[] if found.row is None else [found.row], guarded=True)
            return new

        return await self._store.again(attempt, key)

    async def _find(self, key: Key) -> _Found:
        head_key = Key(EVENT.spec.name, self._partition, HEAD)
        (log,) = await self._store.engine.get((head_key,))
        last = 0 if log is None else msgspec.json.decode(log.doc, type=Head).seq
        found = await self._store.get_stored(key)
        if found is None:
            return _Found(None, None, {}, None, "absent", last)
        row, whole = found
        value = PARTICIPANT.decode(whole)
        stay = await self._store.get(Stay, self._partition, self._stay(value.role_index))
        keep = PARTICIPANT.unknown(whole)
        return _Found(value, row, keep, stay and stay.value, "absent" if stay is None else stay.rev, last)

    def _stay(self, index: int) -> str:
        return place(self._life, keys.seq_sort(index))

    def _stays(self, found: _Found, new: Participant, now: int) -> Sequence[Put]:
        """The stay that ends with a change, and the one that begins: none where it is the same one that lasts."""
        puts: list[Put] = []
        old = found.value
        if old is not None and old.is_present and (old.role_index != new.role_index or not new.is_present):
            ended = found.stay or _begun(old)
            ended = msgspec.structs.replace(ended, left_index=found.last + 1, left_us=now)
            puts.append(STAY.put(ended, found.stay_rev, sort=self._stay(old.role_index)))
        if new.is_present and (old is None or old.role_index != new.role_index):
            begun = msgspec.structs.replace(_begun(new), from_us=now)
            puts.append(STAY.put(begun, "absent", sort=self._stay(new.role_index)))
        return puts


def _begun(value: Participant) -> Stay:
    return Stay(
        conversation=value.conversation,
        participant=value.id,
        role=value.role,
        identity=value.identity,
        channel=value.channel,
        from_index=value.role_index,
        from_us=value.joined_us,
        tag=value.tag,
    )
