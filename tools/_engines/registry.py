"""The servers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .pgbouncer import PgBouncer
from .postgres import Postgres
from .server import Recipe


@dataclass(frozen=True, slots=True)
class Options:
    """What a person chooses, and the URLs of the servers that run already."""

    fsync: bool = False
    urls: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Entry:
    recipe: Callable[[Options], Recipe]
    needs: tuple[str, ...] = ()
    """The servers that must run first; their URLs are in the options."""


SERVERS: Mapping[str, Entry] = {
    "postgres": Entry(lambda options: Postgres(fsync=options.fsync)),
    "pgbouncer": Entry(lambda options: PgBouncer(options.urls["postgres"]), needs=("postgres",)),
}


def with_needs(names: list[str]) -> list[str]:
    """`names` and what they need, each once, in the order in which to start them."""
    ordered: list[str] = []
    for name in names:
        ordered += [one for one in [*with_needs(list(SERVERS[name].needs)), name] if one not in ordered]
    return ordered


def variable(name: str) -> str:
    """The environment variable that tells tests the URL of a server."""
    return f"AGENTKEEP_TEST_{name.upper()}"
