"""The databases a conformance test runs on: from a URL with placeholders to opened engines on fresh databases."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from ..ids import SECOND, Clock
from ..layers.limits import Limits
from ..urls import engine as engine_of
from ..urls import parse
from ..waist import Capabilities, Engine, Schema
from .schema import SCHEMA

_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "mongodb": 27017, "redis": 6379}


class MovedClock:
    """A clock that stands until it is moved. It starts in 2001, so an engine that asks another one is found out."""

    def __init__(self, now: int = 1_000_000_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        """Microseconds since 1970."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass, or go back."""
        self.now += round(seconds * SECOND)


class Template:
    """A URL with placeholders, and what its engine claims. Nothing is connected."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = parse(url).scheme
        example = url.replace("{tmp}", "/nowhere").replace("{unique}", "x")
        self.capabilities: Capabilities = engine_of(example).capabilities
        self._more = {
            "inline": engine_of(example, inline=True).capabilities.inline,
            "server": parse(example).host is not None,
            "file": parse(example).host is None and "{tmp}" in url,
        }

    def has(self, needs: dict[str, object]) -> bool:
        """Whether the engine is one of these capabilities.

        Beside those of `Capabilities`: `inline`, whether it is so when it is asked for; `server`, whether its URL has
        a host, so that connections can be cut; `file`, whether it is a path under {tmp}, so that a disk can be full.
        """
        return all(
            (self._more[name] if name in self._more else getattr(self.capabilities, name)) == wanted
            for name, wanted in needs.items()
        )

    def fresh(self, tmp: Path) -> Target:
        """A new, empty database."""
        return Target(self, tmp)


class Target:
    """One database, empty at first. Each `engine()` is a new engine on it, wrapped in Limits as a store does."""

    def __init__(self, template: Template, tmp: Path) -> None:
        self._template = template
        self._tmp = tmp
        self._opened: list[Engine] = []
        self._more: list[Target] = []
        self.unique = uuid4().hex[:12]
        self.url = template.url.replace("{tmp}", str(tmp)).replace("{unique}", self.unique)
        self.capabilities = template.capabilities
        self.clock = MovedClock()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server, for a proxy before it."""
        url = parse(self.url)
        port = url.port or _PORTS.get(url.scheme)
        assert url.host is not None
        assert port is not None, f"give the port in the {url.scheme} URL: connections are to be cut on the way there"
        return socket.gethostbyname(url.host), port

    def through(self, port: int) -> Target:
        """The same database, reached over a port of 127.0.0.1."""
        parts = urlsplit(self.url)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        target = Target(self._template, self._tmp)
        target.url = urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{port}"))
        target.clock = self.clock
        self._more.append(target)
        return target

    @property
    def path(self) -> Path:
        """The file or directory of the database."""
        return Path(parse(self.url).path)

    def engine(self, clock: Clock | None = None) -> Engine:
        """A new engine on this database, not yet opened. Its clock is `self.clock` unless another is given."""
        return Limits(engine_of(self.url, clock or self.clock))

    async def open(self, schema: Schema = SCHEMA, clock: Clock | None = None) -> Engine:
        """A new engine on this database, opened, and closed with the target."""
        engine = self.engine(clock)
        self._opened.append(engine)
        await engine.open(schema)
        return engine

    def fresh(self) -> Target:
        """Another new, empty database of the same engine, closed with this one."""
        target = self._template.fresh(self._tmp)
        self._more.append(target)
        return target

    async def close(self) -> None:
        """Close every engine that was opened here."""
        for target in self._more:
            await target.close()
        for engine in self._opened:
            await engine.close()
