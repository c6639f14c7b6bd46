"""Private state of a conversation: free JSON by the key of its owner, which no history shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...codec import Json, plain
from ...errors import Key
from ...keys import short
from ...records import Stored, record_of
from ...waist import Delete, Expect
from ..arguments import identifier
from .belongings import place
from .companions import PrivateState
from .handle import Handle

PRIVATE = record_of(PrivateState)


class Private:
    """Free JSON of a conversation, by key: of an agent, a channel, an integration."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def get(self, key: str) -> Stored[Json] | None:
        """The value under a key with its rev, or None."""
        found = await self._handle.store.get(PrivateState, self._handle.partition, self._key(key).sort)
        return None if found is None else Stored(found.value.value, found.rev)

    async def set(self, key: str, value: Json, *, expect: Expect = "any") -> str | None:
        """Write the value under a key, None to remove it. Gives its new rev.

        `expect` is "any", "absent", "exists", or the rev it must have. Raises Conflict where it is not so, Invalid
        for what JSON cannot give back.
        """
        where = self._key(key)
        old = [row for row in await self._handle.store.engine.get([where]) if row is not None]
        if value is None:
            await self._handle.commit([Delete(where.kind, where.sort, expect)], replaced=old)
            return None
        put = PRIVATE.put(self._made(where, key, value), expect)
        return (await self._handle.commit([put], replaced=old)).id

    async def update(self, key: str, change: Callable[[Any], Json]) -> Json:
        """Compare and set until it holds: `change` makes the new value of the old one, None where there is none."""

        async def attempt() -> Json:
            found = await self.get(key)
            new = change(None if found is None else found.value)
            if found is not None or new is not None:
                await self.set(key, new, expect="absent" if found is None else found.rev)
            return new

        return await self._handle.store.again(attempt, self._key(key))

    def _made(self, where: Key, key: str, value: Json) -> PrivateState:
        return PrivateState(conversation=where.partition, place=where.sort, key=key, value=plain(value, "value"))

    def _key(self, key: object) -> Key:
        return Key(
            PRIVATE.spec.name, self._handle.partition, place(self._handle.record.life, short(identifier(key, "key")))
        )
