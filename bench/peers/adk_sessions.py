"""Google ADK: the database session service; a session of the newest events is read, then two events are appended."""

import logging

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from bench.peers.store import USER, PeerStore, texts

APP = "bench"
logging.getLogger("google_adk").setLevel(logging.ERROR)


def _event(author: str, role: str, invocation: str, text: str) -> Event:
    content = types.Content(role=role, parts=[types.Part(text=text)])
    return Event(author=author, invocation_id=invocation, content=content)


class Sqlite(PeerStore):
    driver = "aiosqlite"

    async def open(self) -> None:
        self._service = DatabaseSessionService(self.url(self.driver))
        self._read: dict[str, Session] = {}

    async def start(self, conversation: str) -> None:
        self._read[conversation] = await self._service.create_session(
            app_name=APP, user_id=USER, session_id=conversation
        )

    async def seed(self, conversation: str, first: int, last: int) -> None:
        for number in range(first, last + 1):
            await self.append_turn(conversation, number)

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        newest = GetSessionConfig(num_recent_events=limit)
        session = await self._service.get_session(app_name=APP, user_id=USER, session_id=conversation, config=newest)
        assert session is not None
        self._read[conversation] = session
        return [event.content.parts[0].text for event in session.events]

    async def append_turn(self, conversation: str, number: int) -> None:
        ((user, agent),) = texts(conversation, number, number)
        session = self._read[conversation]
        await self._service.append_event(session, _event("user", "user", f"i{number}", user))
        await self._service.append_event(session, _event("agent", "model", f"i{number}", agent))

    async def close(self) -> None:
        await self._service.close()


class Postgres(Sqlite):
    driver = "asyncpg"
