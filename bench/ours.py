"""agentkeep as the benchmarks use it: the only file here that names the library."""

import itertools
from collections.abc import Iterable
from typing import Any

from agentkeep import ConversationRecord, Store, Text
from agentkeep import Event as Stored
from agentkeep.features.conversations import bulk
from agentkeep.sync import Store as BlockingStore
from bench.events import CREATED, Event, Group

LOADING = 8  # conversations loaded at once
CONNECTIONS = 10  # what Store.open gives a PostgreSQL store; the raw driver gets as many


def url(target: str, durability: str = "full") -> str:
    """What Store.open takes for a file or for a PostgreSQL URL."""
    return target if target.startswith("postgresql") else f"{target}?durability={durability}"


def _message(event: Event) -> dict[str, str]:
    return {"content": event.text, "sender": event.sender, "channel": "sms"}


def _copy(group: Group) -> bulk.Copy:
    """A conversation as the import hands it to the store."""
    record = ConversationRecord(id=group.conversation, user=group.user, created_us=CREATED)
    said = (
        Stored(
            conversation=one.conversation,
            type="message",
            content=Text(one.text),
            sender=one.sender,
            channel="sms",
            key=one.key,
            created_us=CREATED + one.n,
        )
        for one in group.events
    )
    return bulk.copy_of(record, None, said, group.conversation, CREATED)


class Agentkeep:
    """The async API."""

    def __init__(self, target: str, durability: str = "full") -> None:
        self._url = url(target, durability)

    async def open(self) -> None:
        self._talks: dict[str, Any] = {}
        self._opened = Store.open(self._url)
        self._store = await self._opened.__aenter__()

    async def prepare(self, conversation: str, user: str = "alice") -> None:
        """Make the conversation and keep its handle."""
        self._talks[conversation] = await self._store.conversations.ensure(conversation, user=user)

    async def append(self, event: Event) -> int:
        talk = self._talks[event.conversation]
        return (await talk.append(event.text, sender=event.sender, channel="sms", key=event.key)).index

    async def append_turn(self, turn: tuple[Event, Event]) -> list[int]:
        talk = self._talks[turn[0].conversation]
        appended = await talk.append_many([_message(event) for event in turn], key=turn[0].key)
        return [event.index for event in appended]

    async def last(self, conversation: str, limit: int = 50) -> list[str]:
        return [event.content.text for event in await self._talks[conversation].history(limit=limit)]

    async def turn(self, turn: tuple[Event, Event]) -> list[str]:
        texts = await self.last(turn[0].conversation)
        await self.append_turn(turn)
        return texts

    async def recent(self, user: str, limit: int = 20) -> list[str]:
        return [talk.id for talk in await self._store.conversations.list(user=user, limit=limit)]

    async def load(self, groups: Iterable[Group]) -> int:
        """Import: some conversations to a call, as `agentkeep import` does behind its parser."""
        total, source = 0, iter(groups)
        while some := list(itertools.islice(source, LOADING)):
            written = await bulk.write(self._store, [_copy(group) for group in some], hopeful=True)
            assert all(one.new and one.error is None for one in written), "not everything was stored"
            total += sum(len(group.events) for group in some)
        return total

    async def close(self) -> None:
        await self._opened.__aexit__(None, None, None)


class AgentkeepSync:
    """The sync API; on SQLite its calls run in the caller's thread."""

    def __init__(self, target: str, durability: str = "full") -> None:
        self._url = url(target, durability)

    def open(self) -> None:
        self._talks: dict[str, Any] = {}
        self._opened = BlockingStore.open(self._url)
        self._store = self._opened.__enter__()

    def prepare(self, conversation: str, user: str = "alice") -> None:
        """Make the conversation and keep its handle."""
        self._talks[conversation] = self._store.conversations.ensure(conversation, user=user)

    def append(self, event: Event) -> int:
        talk = self._talks[event.conversation]
        return talk.append(event.text, sender=event.sender, channel="sms", key=event.key).index

    def last(self, conversation: str, limit: int = 50) -> list[str]:
        return [event.content.text for event in self._talks[conversation].history(limit=limit)]

    def recent(self, user: str, limit: int = 20) -> list[str]:
        return [talk.id for talk in self._store.conversations.list(user=user, limit=limit).page()]

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
