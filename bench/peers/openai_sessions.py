"""OpenAI Agents SDK: a session per conversation; the runner saves the input, then the answer (two add_items)."""

import os

os.environ.setdefault("OPENAI_AGENTS_DISABLE_TRACING", "1")

from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession
from agents.memory.session import SessionABC
from agents.memory.sqlite_session import SQLiteSession
from sqlalchemy.ext.asyncio import create_async_engine

from bench.peers.store import PeerStore, texts


def _user(text: str) -> dict:
    return {"role": "user", "content": text}


def _agent(number: int, text: str) -> dict:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": content}


def _text(item: dict) -> str:
    content = item["content"]
    return content if isinstance(content, str) else content[0]["text"]


class SqliteSessions(PeerStore):
    async def open(self) -> None:
        self._sessions: dict[str, SessionABC] = {}

    def _session(self, conversation: str) -> SessionABC:
        return SQLiteSession(conversation, self.target)

    async def start(self, conversation: str) -> None:
        self._sessions[conversation] = self._session(conversation)

    async def seed(self, conversation: str, first: int, last: int) -> None:
        items = []
        for number, (user, agent) in enumerate(texts(conversation, first, last), first):
            items += [_user(user), _agent(number, agent)]
        # SQLAlchemySession sorts by a time of whole seconds and then by id: one call keeps the order
        await self._sessions[conversation].add_items(items)

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        return [_text(item) for item in await self._sessions[conversation].get_items(limit=limit)]

    async def append_turn(self, conversation: str, number: int) -> None:
        ((user, agent),) = texts(conversation, number, number)
        await self._sessions[conversation].add_items([_user(user)])
        await self._sessions[conversation].add_items([_agent(number, agent)])

    async def close(self) -> None:
        for session in self._sessions.values():
            session.close()


class SqlAlchemySqlite(SqliteSessions):
    driver = "aiosqlite"

    async def open(self) -> None:
        await super().open()
        self._engine = create_async_engine(self.url(self.driver))

    def _session(self, conversation: str) -> SessionABC:
        return SQLAlchemySession(conversation, engine=self._engine, create_tables=True)

    async def close(self) -> None:
        await self._engine.dispose()


class SqlAlchemyPostgres(SqlAlchemySqlite):
    driver = "asyncpg"
