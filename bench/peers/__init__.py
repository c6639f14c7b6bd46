"""The peers: stores of other frameworks, each driven alone and the way its own framework drives it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A peer's store on one engine. `durability` is what the peer sets on SQLite, in our words."""

    name: str
    engine: str
    module: str
    store: str
    durability: str = "full"


PEERS: tuple[Peer, ...] = (
    Peer("OpenAI Agents SQLiteSession", "sqlite", "openai_sessions", "SqliteSessions"),
    Peer("OpenAI Agents SQLAlchemySession, SQLite", "sqlite", "openai_sessions", "SqlAlchemySqlite"),
    Peer("LangGraph AsyncSqliteSaver", "sqlite", "langgraph_savers", "SqliteSaver"),
    Peer("RoomKit SQLiteStore", "sqlite", "roomkit_stores", "Sqlite", durability="normal"),
    Peer("Agno SqliteDb", "sqlite", "agno_databases", "Sqlite"),
    Peer("Google ADK DatabaseSessionService, SQLite", "sqlite", "adk_sessions", "Sqlite"),
    Peer("Agent Squad SqlChatStorage", "sqlite", "agent_squad_storage", "Sqlite"),
    Peer("OpenAI Agents SQLAlchemySession, PostgreSQL", "postgres", "openai_sessions", "SqlAlchemyPostgres"),
    Peer("LangGraph AsyncPostgresSaver", "postgres", "langgraph_savers", "PostgresSaver"),
    Peer("RoomKit PostgresStore", "postgres", "roomkit_stores", "Postgres"),
    Peer("Agno PostgresDb", "postgres", "agno_databases", "Postgres"),
    Peer("Google ADK DatabaseSessionService, PostgreSQL", "postgres", "adk_sessions", "Postgres"),
)
