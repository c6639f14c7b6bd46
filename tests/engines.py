"""The engines that the tests of this repository run on, and databases made on them: the one place that names them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from agentkeep import Store
from agentkeep.engines.memory import Memory
from agentkeep.layers.chaos import Chaos, Fault
from agentkeep.predicates import All
from agentkeep.schema import Tenants
from agentkeep.testing.target import MovedClock
from agentkeep.urls import engine as engine_of
from agentkeep.urls import parse
from agentkeep.waist import Batch, Engine, Page, Scan

POSTGRES = "AGENTKEEP_TEST_POSTGRES"
"""The environment variable that names a PostgreSQL server: `make test` starts one."""

ENGINES = [
    "memory://",
    "sqlite:///{tmp}/{unique}.db",
    f"{os.environ.get(POSTGRES, 'postgresql://not-set')}?schema=t_{{unique}}",
]
"""URLs: `{tmp}` is a new directory, `{unique}` a new identifier. What cannot be reached fails, it is not skipped."""

Wrap = Callable[[Engine], Engine]


def names() -> list[str]:
    """The schemes of ENGINES, as the ids of tests."""
    return [parse(url).scheme for url in ENGINES]


async def soon(seconds: float) -> None:
    """A pause that takes no time and lets others go on."""
    await asyncio.sleep(0)


class Database:
    """A new, empty database. Each `open()` is another store on it, closed with the database."""

    def __init__(self, template: str, tmp: Path) -> None:
        self.scheme = parse(template).scheme
        self.url = template.replace("{tmp}", str(tmp)).replace("{unique}", uuid4().hex[:12])
        self.clock = MovedClock()
        self._memory = Memory(self.clock) if self.scheme == "memory" else None
        self._opened: list[Store] = []

    def engine(self, clock: Callable[[], int] | None = None) -> Engine:
        """Another engine on this database, not yet opened."""
        if self._memory is None:
            return engine_of(self.url, clock or self.clock)
        view = copy(self._memory)  # its own life, the same rows
        view._clock = clock or self.clock
        return view

    def _turning(self, engine: Engine) -> Engine:
        """An engine that never suspends would let no two tasks meet."""
        return engine if self._memory is None else Turning(engine)

    async def open(
        self,
        *,
        wrap: Wrap | None = None,
        tenants: Tenants = "off",
        records: Iterable[type[Any]] = (),
        trace: bool = False,
        clock: Callable[[], int] | None = None,
        sleep: Callable[[float], Any] = soon,
    ) -> Store:
        """A store on this database, as another process would open it. `wrap` puts a layer around its engine."""
        engine = self.engine(clock)
        store = Store.on(
            self._turning(engine) if wrap is None else wrap(self._turning(engine)),
            tenants=tenants,
            records=records,
            trace=trace,
            clock=clock or self.clock,
            sleep=sleep,
        )
        self._opened.append(store)
        return await store

    async def close(self) -> None:
        """Close every store that was opened here."""
        for store in self._opened:
            await store.close()


def is_missing() -> bool:
    """Whether no PostgreSQL server was named."""
    return not os.environ.get(POSTGRES)


def postgres_url() -> str:
    """The URL of the test server. Fails where there is none."""
    url = os.environ.get(POSTGRES)
    assert url, f"{POSTGRES} is not set: `make test` starts the server and sets it"
    return url


class Turning:
    """An engine that lets other tasks go on before and after each of its calls, as one over a network does."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0)
            answer = await getattr(self.inner, name)(*args, **options)
            await asyncio.sleep(0)
            return answer

        return call


class Meeting:
    """An engine that lets something happen once, before it is asked an operation about a kind."""

    def __init__(self, inner: Engine, operation: str, kind: str) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.meet: Callable[[], Any] | None = None
        self._about = operation, kind

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if self.meet is not None and name == self._about[0] and self._about[1] in _kinds(args[0]):
                meet, self.meet = self.meet, None
                await meet()
            return await getattr(self.inner, name)(*args, **options)

        return call


def _kinds(asked: Any) -> set[str]:
    """The kinds that the argument of get, scan or commit is about."""
    if isinstance(asked, Scan):
        return {asked.kind}
    return {op.kind for one in asked for op in (one.ops if isinstance(one, Batch) else [one])}


class Script:
    """Faults for the chaos layer, call by call: a list, then `then`. Operations not in `on` are left alone."""

    def __init__(self, *on: str) -> None:
        self.on = on or ("get", "scan", "commit", "dump")
        self.faults: list[Fault] = []
        self.then: Fault = "ok"
        self.seen = 0

    def __call__(self, operation: str, number: int) -> Fault:
        """The next fault."""
        if operation not in self.on:
            return "ok"
        self.seen += 1
        return self.faults.pop(0) if self.faults else self.then

    def set(self, *faults: Fault, then: Fault = "ok") -> None:
        """Begin anew with these."""
        self.faults, self.then, self.seen = list(faults), then, 0

    def wrap(self, engine: Engine) -> Engine:
        """The chaos layer around an engine."""
        return Chaos(engine, self)


class Unfiltered:
    """An engine that evaluates no filter, as one without facets would."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.capabilities = msgspec.structs.replace(inner.capabilities, filters=frozenset(), facet_index=False)
        self.scans = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def scan(self, scan: Scan) -> Page:
        """Rows with their facets, whatever is asked; the cursor is that of the scan asked for."""
        self.scans += 1
        everything = All(()) if scan.where is not None else None
        return await self.inner.scan(msgspec.structs.replace(scan, where=everything))
