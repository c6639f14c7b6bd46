"""Running coroutines from sync code: by hand where the engine never suspends, else on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar, cast

from .errors import Closed
from .pages import Listing, Page

T = TypeVar("T")


class Bridge:
    """Runs the coroutines of one sync store. It may be used by many threads at once."""

    def __init__(self, inline: bool) -> None:
        self._inline = inline
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, or its exception. Raises Closed where `close` broke it off."""
        if not self._inline:
            try:
                return asyncio.run_coroutine_threadsafe(coroutine, self._running()).result()
            except CancelledError as error:
                raise Closed("the store was closed by another thread", outcome="unknown") from error
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value
        coroutine.close()
        raise RuntimeError("a coroutine of an inline engine suspended")

    def stream(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """The items of an async iterator, one at a time."""
        try:
            while True:
                try:
                    item = self.run(cast("Coroutine[Any, Any, T]", iterator.__anext__()))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if isinstance(iterator, AsyncGenerator):
                self.run(iterator.aclose())

    async def sleep(self, seconds: float) -> None:
        """How a store behind this bridge waits."""
        if self._inline:
            time.sleep(seconds)  # noqa: ASYNC251 - no loop runs here: the caller's thread is the one to wait
        else:
            await asyncio.sleep(seconds)

    def close(self) -> None:
        """Stop the loop, if there is one, and wait for its thread. Calls that still run are broken off."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="agentkeep-sync", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        running = asyncio.all_tasks(loop)
        for task in running:
            task.cancel()
        if running:
            loop.run_until_complete(asyncio.wait(running))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class SyncListing(Generic[T]):
    """What list() gives in the sync API: iterated it is every item of every page, `page()` is the first page."""

    def __init__(self, listing: Listing[T], bridge: Bridge) -> None:
        self._listing = listing
        self._bridge = bridge

    def page(self) -> Page[T]:
        """The first page. Raises StoreError."""
        return self._bridge.run(self._listing.page())

    def __iter__(self) -> Iterator[T]:
        return self._bridge.stream(self._listing.__aiter__())
