"""What a scenario is given: rounds, loads, fresh databases, and a loop to drive the sides."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg

from bench.measure import Loop

Side = TypeVar("Side")


class Bench(contextlib.ExitStack):
    """One run. Files and databases it makes are removed when it ends."""

    def __init__(self, rounds: int, quick: bool, postgres: str, peers: Path) -> None:
        super().__init__()
        self.rounds = rounds
        self.quick = quick
        self.peers = peers
        self.notes: list[str] = []
        self._postgres = postgres
        self._made = 0

    def __enter__(self) -> Self:
        self.loop = Loop()
        self.callback(self.loop.close)
        self._folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if self._postgres:
            version = self.loop.call(self._ask, "select current_setting('server_version'), current_setting('fsync')")
            self.notes.append(f"PostgreSQL {version[0].split()[0]}, fsync {version[1]}")
        return self

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A remark under the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    def load(self, full: int, quick: int) -> int:
        """A number of operations: the full one, or the one of --quick."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def database(self, engine: str) -> Iterator[str]:
        """A fresh database: the path of a SQLite file or the URL of a PostgreSQL database."""
        self._made += 1
        name = f"agentkeep_bench_{os.getpid()}_{self._made}"
        if engine == "sqlite":
            path = self._folder / f"{name}.db"
            try:
                yield str(path)
            finally:
                for file in self._folder.glob(f"{path.name}*"):
                    file.unlink()
            return
        self.loop.call(self._ask, f"drop database if exists {name} with (force)")
        self.loop.call(self._ask, f"create database {name}")
        try:
            yield f"{self._postgres.rsplit('/', 1)[0]}/{name}"
        finally:
            self.loop.call(self._ask, f"drop database {name} with (force)")

    @contextlib.contextmanager
    def side(self, side: Side) -> Iterator[Side]:
        """A side, opened and closed."""
        opened: Any = side
        self.loop.call(opened.open)
        try:
            yield side
        finally:
            self.loop.call(opened.close)

    @contextlib.contextmanager
    def sides(self, engine: str, kinds: dict[str, Callable[[str], Any]]) -> Iterator[dict[str, Any]]:
        """Each kind of side opened on a fresh database of its own."""
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(self.side(kind(stack.enter_context(self.database(engine)))))
                for name, kind in kinds.items()
            }

    @contextlib.contextmanager
    def observer(self, url: str) -> Iterator[Callable[[str], Any]]:
        """A connection beside those that are measured: asks for one value."""
        connection = self.loop.call(self._connect, url)
        try:
            yield lambda sql: self.loop.call(connection.fetchval, sql)
        finally:
            self.loop.call(connection.close)

    def log(self, name: str) -> Path:
        """A file for what a process of this run writes to stderr."""
        return self._folder / f"{name}.log"

    async def _connect(self, url: str) -> asyncpg.Connection:
        return await asyncpg.connect(url)

    async def _ask(self, sql: str) -> Any:
        connection = await asyncpg.connect(self._postgres)
        try:
            return await connection.fetchrow(sql)
        finally:
            await connection.close()
