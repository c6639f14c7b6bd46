"""What a conversation used: tokens and cost by agent, and its events by type and agent."""

from __future__ import annotations

import msgspec

from ...errors import Invalid, Key
from ...pages import Listing, Page
from ...predicates import All
from ...records import record_of
from ...store import digest_of
from ...waist import Scan
from .belongings import place, places
from .companions import EventCounts, Usage, whose
from .handle import Handle
from .reading import scan_of

USAGE = record_of(Usage)


class Usages:
    """Tokens, cost and calls of a conversation, by agent."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def add(
        self,
        *,
        agent: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_micros: int = 0,
        calls: int = 1,
        key: str | None = None,
    ) -> Usage:
        """Add to what an agent, or nobody in particular, used; gives the sum so far.

        `cost_micros` is in millionths of your currency. `key` makes it idempotent for a day at least: used again it
        adds nothing, with other numbers it is a Conflict.
        """
        given = _checked(calls, input_tokens, output_tokens, cost_micros)
        digest = None if key is None else digest_of(["usage", agent, *given])
        once = f"usage/{key}" if key else key
        where = Key(USAGE.spec.name, self._handle.partition, place(self._handle.record.life, whose(agent)))

        async def attempt() -> Usage:
            found = await self._handle.store.get(Usage, where.partition, where.sort)
            empty = Usage(conversation=where.partition, place=where.sort, agent=agent)
            old = empty if found is None else found.value
            put = USAGE.put(_plus(old, given), "absent" if found is None else found.rev)
            receipt = await self._handle.commit([put], key=once, digest=digest)
            return old if receipt.replayed else _plus(old, given)

        return await self._handle.store.again(attempt, where)

    async def total(self, *, agent: str | None = None) -> Usage:
        """What an agent used; without one, what all of them did together."""
        total = Usage(conversation=self._handle.partition, place="", agent=agent)
        async for one in self.list():
            if agent is None or one.agent == agent:
                total = _plus(total, (one.calls, one.input_tokens, one.output_tokens, one.cost_micros))
        return total

    def list(self, *, limit: int = 200, after: str | None = None) -> Listing[Usage]:
        """What each agent used."""
        lo, hi = places(self._handle.record.life)

        async def fetch(cursor: str | None) -> Page[Usage]:
            scan = Scan(USAGE.spec.name, None, (self._handle.partition,), lo, hi, limit=limit, after=cursor)
            found = await self._handle.store.scan_rows(scan)
            return await self._handle.store.decode(USAGE, found.items, found.cursor)

        return Listing(fetch, after)

    async def events(self, *, budget: int = 10_000) -> EventCounts:
        """How many events there are, by type and by agent, among the first `budget`."""
        scan = scan_of(self._handle, where=All(()))
        total, exact = 0, False
        by_type: dict[str, int] = {}
        by_agent: dict[str, int] = {}
        while budget > 0 and not exact:
            look = min(1_000, budget)
            page = await self._handle.store.scan_rows(msgspec.structs.replace(scan, limit=look, budget=look))
            for row in page:
                type, agent = str(row.facets.get("type", "")), str(row.facets.get("agent", ""))
                by_type[type] = by_type.get(type, 0) + 1
                by_agent[agent] = by_agent.get(agent, 0) + 1
            total, budget, exact = total + len(page), budget - look, page.cursor is None
            scan = msgspec.structs.replace(scan, after=page.cursor)
        return EventCounts(total, by_type, by_agent, exact)


def _plus(old: Usage, given: tuple[int, int, int, int]) -> Usage:
    calls, input_tokens, output_tokens, cost_micros = given
    return msgspec.structs.replace(
        old,
        calls=old.calls + calls,
        input_tokens=old.input_tokens + input_tokens,
        output_tokens=old.output_tokens + output_tokens,
        cost_micros=old.cost_micros + cost_micros,
    )


def _checked(*given: object) -> tuple[int, int, int, int]:
    names = ("calls", "input_tokens", "output_tokens", "cost_micros")
    found: list[int] = []
    for name, value in zip(names, given, strict=True):
        if type(value) is not int or value < 0:
            raise Invalid(f"{name} is a whole number, 0 or more", operation="usage.add")
        found.append(value)
    return found[0], found[1], found[2], found[3]
