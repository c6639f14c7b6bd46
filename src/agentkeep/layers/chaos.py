"""The chaos layer: fails on purpose, where and how a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from ..errors import Contention, Key, Outcome, StoreError, Unavailable
from ..waist import Batch, Engine, Page, Receipt, Row, Scan, Schema

T = TypeVar("T")

Fault: TypeAlias = Literal["ok", "before", "after", "contention"]
"""What happens to a call: nothing, lost before the engine saw it, its reply lost, refused for contention."""

Faults: TypeAlias = Callable[[str, int], Fault]
"""The fault for an operation and its number, counted from 0 over all operations."""


class Chaos:
    """Passes calls on, or loses them or their replies. A lost reply leaves the outcome unknown, as a cut wire does."""

    def __init__(self, inner: Engine, faults: Faults) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.calls = 0
        self._faults = faults

    async def open(self, schema: Schema) -> None:
        """Open, with a fault."""
        await self._call("open", lambda: self.inner.open(schema))

    async def close(self) -> None:
        """Close, without one."""
        await self.inner.close()

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """Get, with a fault."""
        return await self._call("get", lambda: self.inner.get(keys))

    async def scan(self, scan: Scan) -> Page:
        """Scan, with a fault."""
        return await self._call("scan", lambda: self.inner.scan(scan))

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit, with a fault."""
        return await self._call("commit", lambda: self.inner.commit(batches, restore=restore))

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """Dump, with a fault."""
        return await self._call("dump", lambda: self.inner.dump(kind, after, limit, lo=lo, hi=hi))

    async def _call(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        fault = self._faults(operation, self.calls)
        self.calls += 1
        if fault == "contention":
            raise Contention("chaos", engine="chaos", operation=operation)
        outcome: Outcome = "unknown" if operation == "commit" else "none"
        if fault == "before":
            raise Unavailable("chaos: lost before it arrived", engine="chaos", operation=operation, outcome=outcome)
        answer = await call()
        if fault == "after":
            raise Unavailable("chaos: the reply was lost", engine="chaos", operation=operation, outcome=outcome)
        return answer
