"""One side in a process of its own, for several writers at once and for memory: `python -m bench.child KIND TARGET`."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any

from bench.events import event, filled, user_of
from bench.lines import Answer, claim_stdout, serve
from bench.measure import peak_megabytes
from bench.ours import Agentkeep
from bench.raw import Postgres, Sqlite

KINDS: dict[str, Callable[[str], Any]] = {"agentkeep": Agentkeep, "apsw": Sqlite, "asyncpg": Postgres}


async def done(result: Any) -> Any:
    """What a blocking or an async call gave."""
    return await result if inspect.isawaitable(result) else result


class Child:
    """Answers the requests that name its methods."""

    def __init__(self, kind: str, target: str) -> None:
        self._side = KINDS[kind](target)

    async def open(self) -> Answer:
        await done(self._side.open())
        return {}

    async def write(self, conversation: str, first: int, count: int) -> Answer:
        """Append `count` events numbered from `first`; the indexes they got."""
        await done(self._side.prepare(conversation))
        indexes = [await done(self._side.append(event(conversation, n))) for n in range(first, first + count)]
        return {"indexes": indexes}

    async def fill(self, long: int, conversations: int, each: int) -> Answer:
        """Fill the database; the events stored."""
        return {"events": await done(self._side.load(filled(long, conversations, each)))}

    async def use(self) -> Answer:
        """A little of everything on a filled database: read, list, append."""
        await done(self._side.prepare("long", "nobody"))
        await done(self._side.prepare("new"))
        for n in range(1, 51):
            await done(self._side.last("long"))
            await done(self._side.recent(user_of(n)))
            await done(self._side.append(event("new", n)))
        return {}

    async def peak(self) -> Answer:
        return {"megabytes": peak_megabytes()}

    async def close(self) -> Answer:
        await done(self._side.close())
        return {}

    async def handle(self, request: Answer) -> Answer:
        return await getattr(self, request.pop("do"))(**request)


if __name__ == "__main__":
    asyncio.run(serve(claim_stdout(), Child(*sys.argv[1:]).handle))
