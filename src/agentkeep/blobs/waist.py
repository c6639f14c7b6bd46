"""The waist of blob stores: immutable bodies under ids that are minted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Blobs(Protocol):
    """Where large bodies lie. A body is written whole before anything names it, and never changed."""

    async def write(self, blob: str, body: bytes | memoryview, owner: str) -> None:
        """Store a body for a partition, its owner. Raises StoreError: it is then not there, or an orphan."""
        ...

    async def confirm(self, blobs: Sequence[str]) -> None:
        """Committed rows name these bodies now: they are no longer orphans."""
        ...

    async def read(self, blob: str) -> bytes | None:
        """The body, or None where there is none."""
        ...

    async def delete(self, blobs: Sequence[str]) -> None:
        """Remove bodies; no error where there is none."""
        ...

    async def orphans(self, before: int, limit: int) -> list[tuple[str, str]]:
        """(id, owner) of bodies begun before a time (microseconds) and never confirmed: a writer died."""
        ...
