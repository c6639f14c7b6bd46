"""RoomKit: the conversation store alone, one commit_event a message, as the framework commits them."""

from roomkit.models.enums import ChannelType, EventType
from roomkit.models.event import EventSource, RoomEvent, TextContent
from roomkit.models.room import Room
from roomkit.store.base import ConversationStore
from roomkit.store.postgres import PostgresStore
from roomkit.store.sqlite import SQLiteStore

from bench.peers.store import USER, PeerStore, texts


def _event(room: str, channel: str, kind: ChannelType, key: str, text: str) -> RoomEvent:
    return RoomEvent(
        room_id=room,
        type=EventType.MESSAGE,
        content=TextContent(body=text),
        source=EventSource(channel_id=channel, channel_type=kind, participant_id=USER),
        idempotency_key=key,
    )


class Sqlite(PeerStore):
    async def _store(self) -> ConversationStore:
        return SQLiteStore(self.target)

    async def open(self) -> None:
        self._rooms = await self._store()

    async def start(self, conversation: str) -> None:
        await self._rooms.create_room(Room(id=conversation, metadata={"user": USER}))

    async def seed(self, conversation: str, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.append_turn(conversation, number)

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        return [event.content.body for event in await self._rooms.get_conversation(conversation, limit=limit)]

    async def append_turn(self, conversation: str, number: int) -> None:
        ((user, agent),) = texts(conversation, number, number)
        said = _event(conversation, "ws", ChannelType.WEBSOCKET, f"{number}:u", user)
        answered = _event(conversation, "ai", ChannelType.AI, f"{number}:a", agent)
        await self._rooms.commit_event(conversation, said)
        await self._rooms.commit_event(conversation, answered)

    async def close(self) -> None:
        await self._rooms.close()


class Postgres(Sqlite):
    async def _store(self) -> ConversationStore:
        store = PostgresStore(self.target)
        await store.init()
        return store
