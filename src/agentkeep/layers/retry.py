"""The retry layer: does again what failed for a passing reason, and so settles unknown outcomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from random import random
from typing import TypeGuard, TypeVar

from ..errors import Key, StoreError
from ..waist import Batch, Engine, Page, Receipt, Row, Scan, Schema

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

FIRST = 0.025
LONGEST = 2.0


async def pause(seconds: float) -> None:
    """Wait, and let other tasks go on."""
    import asyncio  # a third of the time that importing agentkeep takes, and needed by no sync application

    await asyncio.sleep(seconds)


class Retry:
    """Up to `tries` attempts, the pauses between them doubling from 25 ms, with jitter.

    A batch whose outcome is unknown is committed again as it is: the engine remembers batches, so it is applied
    once (docs/contract.md, "Exactly once").
    """

    def __init__(self, inner: Engine, sleep: Sleep, tries: int = 8) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self._sleep = sleep
        self._tries = tries

    async def open(self, schema: Schema) -> None:
        """Open, retried."""
        await self._again(lambda: self.inner.open(schema))

    async def close(self) -> None:
        """Close, once."""
        await self.inner.close()

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """Get, retried."""
        return await self._again(lambda: self.inner.get(keys))

    async def scan(self, scan: Scan) -> Page:
        """Scan, retried."""
        return await self._again(lambda: self.inner.scan(scan))

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit; the batches that failed for a passing reason are committed again, alone."""
        answers = await self._attempt(batches, None, restore)
        for attempt in range(1, self._tries):
            failed = [n for n, answer in enumerate(answers) if type(answer) is not Receipt and _passing(answer)]
            if not failed:
                break
            await self._pause(attempt)
            again = await self._attempt([batches[n] for n in failed], [answers[n] for n in failed], restore)
            for n, answer in zip(failed, again, strict=True):
                answers[n] = answer
        return answers

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """Dump, retried."""
        return await self._again(lambda: self.inner.dump(kind, after, limit, lo=lo, hi=hi))

    async def _attempt(
        self, batches: Sequence[Batch], before: Sequence[Receipt | StoreError] | None, restore: bool
    ) -> list[Receipt | StoreError]:
        """One attempt at batches that were answered so before (None: this is the first)."""
        try:
            answers = await self.inner.commit(batches, restore=restore)
        except StoreError as error:
            if not error.retryable and before is None:
                raise
            return [_undecided(one, error) for one in before or [None] * len(batches)]
        for n, answer in enumerate(answers):
            if type(answer) is not Receipt and _passing(answer):
                answers[n] = _undecided(before[n] if before else None, answer)
        return answers

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, self._tries):
            try:
                return await call()
            except StoreError as error:
                if not error.retryable:
                    raise
            await self._pause(attempt)
        return await call()

    async def _pause(self, attempt: int) -> None:
        await self._sleep(min(FIRST * 2 ** (attempt - 1), LONGEST) * (0.5 + random() / 2))


def _passing(answer: Receipt | StoreError) -> TypeGuard[StoreError]:
    return isinstance(answer, StoreError) and answer.retryable


def _undecided(before: Receipt | StoreError | None, error: StoreError) -> StoreError:
    """The error of a batch, its own, after an attempt that decided nothing: what was unknown stays unknown."""
    own = copy(error).with_traceback(error.__traceback__)
    own.__cause__ = error.__cause__
    if isinstance(before, StoreError) and before.outcome == "unknown":
        own.outcome = "unknown"
    return own
