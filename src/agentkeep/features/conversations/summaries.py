"""Summaries of a conversation, or of it for one agent: versions that only get further."""

from __future__ import annotations

from ...errors import Conflict, Invalid, Key
from ...pages import Listing, Page
from ...records import record_of
from ...waist import Delete, Scan
from .beginnings import head_of
from .belongings import END, PER_BATCH, place, places, rows, within
from .companions import Summary, whose
from .handle import Handle
from .markers import cleared
from .reading import checked_index

SUMMARY = record_of(Summary)


class Summaries:
    """What was said so far, in short: written by whoever summarises, read by `context(summary=True)`.

    `agent=None` is the conversation's; each agent may have its own. An edit or an erasure changes no summary.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def put(self, text: str, *, upto: int, start: int = 1, agent: str | None = None) -> Summary:
        """A new version that covers the events from `start` to `upto`. The newest again, as it is, writes nothing.

        Raises Conflict where the newest covers more (read it, and go on from there), Invalid for a range that is
        empty, goes beyond the end or was cleared.
        """
        await self._check(text, start, upto)
        lo, hi = self._range(agent)
        key = Key(SUMMARY.spec.name, self._handle.partition, lo)
        further: list[int] = []

        async def attempt() -> Summary | None:
            gone, still = await cleared(self._handle)
            if upto <= gone:
                raise Invalid(f"the events up to {gone} were cleared", key=key, operation="summaries.put")
            newest = await self._newest(lo, hi)
            if newest is not None and newest.upto > upto:
                further[:] = [newest.upto]
                return None
            if newest is not None and (newest.text, newest.start, newest.upto) == (text, start, upto):
                return newest
            made = self._made(text, start, upto, 1 if newest is None else newest.version + 1, agent)
            await self._handle.commit([SUMMARY.put(made, "absent"), still])
            return made

        made = await self._handle.store.again(attempt, key)
        if made is None:
            hint = "Read the newest with get(), and summarise what follows it."
            raise Conflict(key, f"upto {upto} or less", f"upto {further[0]}", operation="summaries.put", hint=hint)
        return made

    async def get(self, *, agent: str | None = None, before: int | None = None) -> Summary | None:
        """The newest summary, or the newest that covers nothing from an index on. None where there is none."""
        gone, _ = await cleared(self._handle)
        async for one in self.list(agent=agent):
            if one.upto <= gone:
                return None
            if before is None or one.upto < before:
                return one
        return None

    def list(self, *, agent: str | None = None, limit: int = 50, after: str | None = None) -> Listing[Summary]:
        """The versions, the newest first."""
        lo, hi = self._range(agent)

        async def fetch(cursor: str | None) -> Page[Summary]:
            return await self._page(lo, hi, limit, cursor)

        return Listing(fetch, after)

    async def _newest(self, lo: str, hi: str) -> Summary | None:
        found = await self._page(lo, hi, 1, None)
        if found.corrupt:
            raise found.corrupt[0]
        return found[0] if found.items else None

    async def _page(self, lo: str, hi: str, limit: int, cursor: str | None) -> Page[Summary]:
        scan = Scan(SUMMARY.spec.name, None, (self._handle.partition,), lo, hi, True, limit, cursor)
        found = await self._handle.store.scan_rows(scan)
        return await self._handle.store.decode(SUMMARY, found.items, found.cursor)

    def _range(self, agent: str | None) -> tuple[str, str]:
        return within(self._handle.record.life, whose(agent))

    def _made(self, text: str, start: int, upto: int, version: int, agent: str | None) -> Summary:
        return Summary(
            conversation=self._handle.partition,
            place=place(self._handle.record.life, f"{whose(agent)}{END}{version:08d}"),
            text=text,
            start=start,
            upto=upto,
            version=version,
            agent=agent,
            created_us=self._handle.store.clock(),
        )

    async def _check(self, text: object, start: object, upto: object) -> None:
        if not isinstance(text, str):
            raise Invalid(f"a summary is text, not {type(text).__name__}", operation="summaries.put")
        first, last = checked_index(start, "start", "summaries.put"), checked_index(upto, "upto", "summaries.put")
        end = (await head_of(self._handle.store, self._handle.partition)).seq
        if first > last or last > end:
            what = f"a summary from {first} to {last} of a conversation that ends at {end}"
            raise Invalid(what, key=self._handle.key, operation="summaries.put", hint="start <= upto <= the end.")


async def forget(handle: Handle, floor: int) -> None:
    """Remove the summaries of events that were cleared: those up to an index."""
    lo, hi = places(handle.record.life)
    found = await rows(handle.store, handle.partition, SUMMARY.spec.name, lo, hi)
    whole = [await handle.store.whole(row) for row in found]
    dead = [row for row, one in zip(found, whole, strict=True) if SUMMARY.decode(one).upto <= floor]
    for first in range(0, len(dead), PER_BATCH):
        part = dead[first : first + PER_BATCH]
        await handle.commit([Delete(row.key.kind, row.key.sort) for row in part], replaced=part)
