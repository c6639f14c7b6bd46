"""Agno: a session whose runs are rows; a turn is one run, stored by upsert_session and upsert_run as the agent does."""

import logging
import os
import time

os.environ.setdefault("AGNO_TELEMETRY", "false")

from agno.db.base import BaseDb, SessionType
from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.models.message import Message
from agno.run.agent import RunInput, RunOutput
from agno.run.base import RunStatus
from agno.session.agent import AgentSession

from bench.peers.store import USER, PeerStore, texts

AGENT = "bench"
logging.getLogger("agno").setLevel(logging.ERROR)


class Sqlite(PeerStore):
    def _database(self) -> BaseDb:
        return SqliteDb(db_file=self.target)

    async def open(self) -> None:
        self._db = self._database()
        self._read: dict[str, AgentSession] = {}

    async def start(self, conversation: str) -> None:
        self._read[conversation] = AgentSession(
            session_id=conversation,
            agent_id=AGENT,
            user_id=USER,
            session_data={"session_state": {}},
            runs=[],
            created_at=int(time.time()),
        )
        self._db.upsert_session(session=self._read[conversation])

    def _run(self, conversation: str, number: int) -> None:
        ((user, agent),) = texts(conversation, number, number)
        run = RunOutput(
            run_id=f"{conversation}-{number}",
            agent_id=AGENT,
            session_id=conversation,
            user_id=USER,
            content=agent,
            status=RunStatus.completed,
            input=RunInput(input_content=user),
            messages=[Message(role="user", content=user), Message(role="assistant", content=agent)],
        )
        self._db.upsert_run(run=run, session_id=conversation, user_id=USER, run_index=number - 1)

    async def seed(self, conversation: str, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self._run(conversation, number)

    async def read_last(self, conversation: str, limit: int) -> list[str]:
        session = self._db.get_session(
            session_id=conversation, session_type=SessionType.AGENT, user_id=USER, runs_limit=limit // 2
        )
        assert isinstance(session, AgentSession)
        self._read[conversation] = session
        return [str(message.content) for run in session.runs or [] for message in run.messages or []]

    async def append_turn(self, conversation: str, number: int) -> None:
        self._db.upsert_session(session=self._read[conversation])
        self._run(conversation, number)

    async def close(self) -> None:
        self._db.close()


class Postgres(Sqlite):
    def _database(self) -> BaseDb:
        return PostgresDb(db_url=self.url("psycopg"))
