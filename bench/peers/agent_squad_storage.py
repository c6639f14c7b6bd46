"""Agent Squad: the SQL chat storage on a local file; the orchestrator saves each message by save_chat_message."""

import logging

from agent_squad.storage.sql_chat_storage import SqlChatStorage
from agent_squad.types import ConversationMessage

from bench.peers.store import USER, PeerStore, texts

AGENT = "bench"
logging.disable(logging.WARNING)


def _messages(user: str, agent: str) -> list[ConversationMessage]:
    return [
        ConversationMessage(role="user", content=[{"text": user}]),
        ConversationMessage(role="assistant", content=[{"text": agent}]),
    ]


class Sqlite(PeerStore):
    async def open(self) -> None:
        self._storage = SqlChatStorage(url=f"file:{self.target}")
        await self._storage.initialize()

    async def start(self, conversation: str) -> None:
        """Nothing: a conversation begins with its first message."""

    async def seed(self, conversation: str, first: int, last: int) -> None:
        messages = [message for pair in texts(conversation, first, last) for message in _messages(*pair)]
        await self._storage.save_chat_messages(USER, conversation, AGENT, messages)

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        newest = await self._storage.fetch_chat(USER, conversation, AGENT, max_history_size=limit)
        return [message.content[0]["text"] for message in newest]

    async def append_turn(self, conversation: str, number: int) -> None:
        ((user, agent),) = texts(conversation, number, number)
        for message in _messages(user, agent):
            await self._storage.save_chat_message(USER, conversation, AGENT, message)

    async def close(self) -> None:
        await self._storage.close()
