"""The observations of a store: add, get, list, update, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from ... import keys
from ...codec import plain
from ...errors import Conflict, Invalid, NotFound
from ...pages import Listing, Page
from ...predicates import All, Compare, Predicate, parse
from ...records import record_of
from ...store import Store, digest_of
from ...waist import Check, Delete, Key, Op, Row, Scan
from ..arguments import id_of, identifier, integer, label, mapping, merged, short, text
from ..changes import change
from ..conversations.belongings import place
from ..conversations.records import ConversationRecord
from .records import Observation

OBSERVATION, CONVERSATION = record_of(Observation), record_of(ConversationRecord)

MAX_EVENT = 10**16 - 1
"""The greatest index that an event can have."""


_SUBJECT = "\U0010ffffsubject"
"""What the partitions of subjects begin with: `keys.partition` gives none like it, so no conversation has one."""


class Home(Struct, frozen=True):
    """Where observations lie: a partition and, of a conversation, its life and the rev of its record."""

    partition: str
    life: str | None = None
    rev: str = ""

    def place(self, id: str) -> str:
        """The sort key of an observation."""
        return short(id) if self.life is None else place(self.life, id)

    @property
    def about(self) -> str:
        """What stands in indexes for the subject, or for the conversation in this life."""
        return digest_of(self.partition, self.life).hex()

    def checks(self) -> list[Op]:
        """What refuses a batch once the conversation was deleted or changed."""
        return [] if self.life is None else [Check(CONVERSATION.spec.name, "", self.rev)]


class Observations:
    """Observations by conversation or subject, and across them by type and agent.

    Each method but `list` is told what the observation is about: a conversation, or a subject, which is any text.
    Those of a conversation are deleted with it, and one that is created under its id has none of them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(
        self,
        type: str,
        content: Any,
        *,
        conversation: str | None = None,
        subject: str | None = None,
        confidence: float = 1.0,
        agent: str | None = None,
        event: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Observation:
        """Add an observation; `content` is any JSON.

        `key` makes it idempotent where it is about: the same key gives the observation that is there, with other
        content Conflict. Raises NotFound for an unknown conversation, Invalid, TooLarge.
        """
        now = self._store.clock()
        made = Observation(
            id=self._store.ids() if key is None else id_of(identifier(key, "key")),
            type=label(text(type, "type"), "type"),
            content=plain(content, "content"),
            conversation=conversation,
            subject=subject,
            confidence=_confidence(confidence),
            agent=None if agent is None else label(agent, "agent"),
            event=None if event is None else integer(event, "event", 1, MAX_EVENT),
            metadata=mapping(metadata, "metadata"),
            key=key,
            created_us=now,
            updated_us=now,
        )
        made = replace(made, said=None if key is None else _said(made))

        async def attempt() -> Observation:
            home = await self._home(conversation, subject)
            placed = replace(made, home=home.partition, place=home.place(made.id), about=home.about)
            there = None if key is None else await self._store.get(Observation, placed.home, placed.place)
            if there is not None:
                return _same(there.value, placed)
            await self._store.commit(placed.home, [OBSERVATION.put(placed, "absent"), *home.checks()])
            return placed

        return await self._store.again(attempt, Key(OBSERVATION.spec.name, "", made.id))

    async def get(self, id: str, *, conversation: str | None = None, subject: str | None = None) -> Observation | None:
        """The observation with this id, or None. Also None where the conversation is not there."""
        try:
            key = await self._key(id, conversation, subject)
        except NotFound:
            return None
        stored = await self._store.get(Observation, key.partition, key.sort)
        return None if stored is None else stored.value

    async def update(
        self,
        id: str,
        *,
        conversation: str | None = None,
        subject: str | None = None,
        type: str | UnsetType = UNSET,
        content: Any = UNSET,
        confidence: float | UnsetType = UNSET,
        agent: str | UnsetType | None = UNSET,
        event: int | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
    ) -> Observation:
        """Change an observation by compare-and-set: concurrent changes are all kept.

        `metadata` is merged, a value of None removing its name. Raises NotFound, Invalid, TooLarge.
        """
        given: dict[str, Any] = {}
        if type is not UNSET:
            given["type"] = label(text(type, "type"), "type")
        if content is not UNSET:
            given["content"] = plain(content, "content")
        if confidence is not UNSET:
            given["confidence"] = _confidence(confidence)
        if agent is not UNSET:
            given["agent"] = None if agent is None else label(agent, "agent")
        if event is not UNSET:
            given["event"] = None if event is None else integer(event, "event", 1, MAX_EVENT)
        more = mapping(metadata, "metadata")

        def decide(old: Observation) -> tuple[Observation, Sequence[Op]]:
            new = replace(old, metadata=merged(old.metadata, more), **given)
            return (old if new == old else replace(new, updated_us=self._store.clock())), ()

        return await change(self._store, Observation, await self._key(id, conversation, subject), decide)

    async def delete(self, id: str, *, conversation: str | None = None, subject: str | None = None) -> None:
        """Delete an observation. Raises NotFound where there is none."""
        key = await self._key(id, conversation, subject)

        async def attempt() -> None:
            (row,) = await self._store.engine.get((key,))
            if row is None:
                raise NotFound("there is no such observation", key=key, operation="delete")
            await self._store.commit(key.partition, [Delete(key.kind, key.sort, row.rev)], replaced=[row])

        await self._store.again(attempt, key)

    def list(
        self,
        *,
        conversation: str | None = None,
        subject: str | None = None,
        type: str | None = None,
        agent: str | None = None,
        min_confidence: float | None = None,
        metadata: Mapping[str, object] | None = None,
        limit: int = 50,
        after: str | None = None,
        budget: int = 10_000,
    ) -> Listing[Observation]:
        """Observations. Await it for a page, iterate it for all.

        The newest first, of a conversation, of a subject, or across all of them. It reads the index of the type or
        else of the agent, and filters by the rest within `budget` rows a page; across, one of the two must be given.
        Raises NotFound for an unknown conversation, Invalid.
        """
        asked = {
            "type": None if type is None else identifier(type, "type"),
            "agent": None if agent is None else identifier(agent, "agent"),
        }
        fields = {name: value for name, value in asked.items() if value is not None}
        tree = parse({f"metadata.{name}": value for name, value in mapping(metadata, "metadata").items()})
        more: list[Predicate] = [] if tree is None else [tree]
        if min_confidence is not None:
            more.append(Compare("confidence", "ge", _confidence(min_confidence)))
        across = conversation is None and subject is None
        if across and not fields:
            hint = "Give a conversation, a subject, a type or an agent."
            raise Invalid("a list of observations is of something", operation="list", hint=hint)
        first, rest = list(fields)[:1], list(fields)[1:]
        where = _where([Compare(name, "eq", fields[name]) for name in rest] + more)
        index = "_".join(["by", *([] if across else ["about"]), *first])

        async def fetch(cursor: str | None) -> Page[Observation]:
            prefix = () if across else ((await self._home(conversation, subject)).about,)
            values = (*prefix, *(fields[name] for name in first))
            scan = Scan(OBSERVATION.spec.name, index, values, None, None, True, limit, cursor, where, budget)
            rows = await self._store.scan_rows(scan)
            found = await self._alive(rows.items) if across else rows.items
            return await self._store.decode(OBSERVATION, found, rows.cursor)

        return Listing(fetch, after)

    async def _alive(self, rows: Sequence[Row]) -> list[Row]:
        """Rows without those of conversations that ended: a deletion that broke off may have left some."""
        homes = list(dict.fromkeys(row.key.partition for row in rows if not row.key.partition.startswith(_SUBJECT)))
        found = await self._store.engine.get([Key(CONVERSATION.spec.name, home, "") for home in homes]) if homes else []
        mine = {row.key.partition: place(CONVERSATION.decode(row).life, "") for row in found if row is not None}
        return [
            row
            for row in rows
            if row.key.partition.startswith(_SUBJECT)
            or (row.key.partition in mine and row.key.sort.startswith(mine[row.key.partition]))
        ]

    async def _key(self, id: str, conversation: str | None, subject: str | None) -> Key:
        """Where an observation lies. Raises NotFound for an unknown conversation."""
        home = await self._home(conversation, subject)
        return Key(OBSERVATION.spec.name, home.partition, home.place(identifier(id, "id")))

    async def _home(self, conversation: str | None, subject: str | None) -> Home:
        """Where what is about a conversation or a subject lies. Raises NotFound, Invalid."""
        if (conversation is None) == (subject is None):
            hint = "Give a conversation or a subject."
            raise Invalid("an observation is about one thing", operation="observations", hint=hint)
        if conversation is None:
            return Home(_subject(identifier(subject, "subject")))
        partition = keys.partition(identifier(conversation, "conversation"))
        stored = await self._store.get(ConversationRecord, partition)
        if stored is None:
            key = Key(CONVERSATION.spec.name, partition, "")
            raise NotFound("there is no such conversation", key=key, operation="observations")
        return Home(partition, stored.value.life, stored.rev)


def _subject(id: str) -> str:
    """The partition of a subject."""
    return _SUBJECT + blake2b(keys.escape(id).encode(), digest_size=32).hexdigest()


def _confidence(value: object) -> float:
    """Raises Invalid for what is no number from 0 to 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise Invalid("confidence is a number from 0 to 1", hint="NaN is none.")
    return float(value)


def _where(parts: Sequence[Predicate]) -> Predicate | None:
    return All(tuple(parts)) if parts else None


def _said(made: Observation) -> str:
    """What tells two uses of a key apart: all that the caller passed, without the time."""
    OBSERVATION.encode(made)  # refuses what is no JSON
    fields = (made.type, made.content, made.confidence, made.agent, made.event, made.metadata)
    return digest_of(*fields).hex()


def _same(there: Observation, made: Observation) -> Observation:
    """The observation that is there, if it was added by the same call. Raises Conflict."""
    if (there.key, there.said) == (made.key, made.said):
        return there
    raise Conflict(OBSERVATION.key(made), made.key, there.key, "once", operation="add")
