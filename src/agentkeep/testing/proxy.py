"""A TCP proxy that cuts, delays and swallows on command, for tests that break a connection in the middle of a commit.

It runs in a thread and an event loop of its own, so it works on while the loop of the test is blocked, and a control
has taken effect when it returns. Directions: "up" is from client to server, "down" from server to client.

    with Proxy("127.0.0.1", 5432) as proxy:
        connect(port=proxy.port)
        trigger = proxy.cut_when("up", b"COMMIT", when="after")
        ...                        # the client sees its connection reset; the server has committed
        assert trigger.replied

Bytes are matched as they travel: an encrypted connection passes, but nothing can be matched in it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Literal, Self, TypeVar

from ._links import LONGEST_PATTERN, Counters, Direction, Link, Rules, Trigger

__all__ = ["Counters", "Direction", "Proxy", "Trigger"]

T = TypeVar("T")
CONTROL_SECONDS = 10.0


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes connections on to an IPv4 address.

    `reply_seconds` bounds how long a cut with when="after" waits for the server's reply.
    """

    def __init__(self, target_host: str, target_port: int, *, reply_seconds: float = 2.0) -> None:
        self._rules = Rules((target_host, target_port), reply_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port to connect to; it stays the same until `stop`."""
        if self._reserved is None:
            raise RuntimeError("the proxy is not started")
        return self._reserved.getsockname()[1]

    @property
    def counters(self) -> Counters:
        """What has passed so far."""
        return self._rules.counters

    def start(self) -> None:
        """Opens the port. Starting what runs does nothing."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="agentkeep-proxy", daemon=True)
            self._thread.start()
            # Bound but never listening, it keeps the port ours while connections are refused.
            self._reserved = _bound(0)
            self._call(self._listen)

    def stop(self) -> None:
        """Resets all connections and closes the port. Stopping what is stopped does nothing."""
        if self._loop and self._thread and self._reserved:
            self._call(self._refuse)
            self._call(self._cut)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._reserved.close()
            self._loop = self._thread = self._reserved = None

    def cut(self) -> None:
        """Resets all connections now, on both sides."""
        self._call(self._cut)

    def refuse(self, on: bool = True) -> None:
        """New connections are refused, as by a server that is down; those that exist live on."""
        self._call(self._refuse if on else self._listen)

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Passes on each chunk `seconds` after it came, in one direction or in both. Chunks keep their order, and
        those that come together leave together: it is latency, not a lower rate."""
        changed: dict[Direction, float] = {one: seconds for one in self._rules.delays if direction in (one, None)}
        self._rules.delays = self._rules.delays | changed

    def blackhole(self, on: bool = True) -> None:
        """Connections are accepted and stay open, but nothing that is sent arrives. One that lived through it has
        lost bytes and stays dead after blackhole(False)."""
        self._call(self._swallow, on)

    def cut_after_bytes(self, count: int, direction: Direction) -> Trigger:
        """Passes on `count` more bytes in a direction, over all connections, then resets the connection of the last."""
        left = count

        def find(_: bytes, chunk: bytes) -> int | None:
            nonlocal left
            left -= len(chunk)
            return len(chunk) + left if left <= 0 else None

        return self._add(Trigger(direction, find, times=1, after=False))

    def cut_when(
        self,
        direction: Direction,
        match: bytes | Callable[[bytes], bool],
        when: Literal["before", "after"] = "before",
        times: int = 1,
    ) -> Trigger:
        """Resets the connection on which something matches: bytes, wherever chunks divide them, or a chunk that a
        function says yes to. It happens `times` times. The function runs in the proxy's thread and may not control it.

        before  the chunk is not passed on
        after   it is; in direction "up" the reply is awaited and swallowed, so that the client sees a cut although
                the server has done the work
        """
        if isinstance(match, bytes) and not 0 < len(match) <= LONGEST_PATTERN:
            raise ValueError(f"a pattern has 1 to {LONGEST_PATTERN} bytes, not {len(match)}")
        after = when == "after"

        def find(before: bytes, chunk: bytes) -> int | None:
            if isinstance(match, bytes):
                found = match in before[max(0, len(before) - len(match) + 1) :] + chunk
            else:
                found = match(chunk)
            return (len(chunk) if after else 0) if found else None

        return self._add(Trigger(direction, find, times=times, after=after))

    def clear(self) -> None:
        """Back to passing everything on at once; connections that are dead stay dead."""
        self._rules.triggers = ()
        self.delay(0.0)
        self.blackhole(False)
        self.refuse(False)

    def _add(self, trigger: Trigger) -> Trigger:
        self._rules.triggers = (*self._rules.triggers, trigger)
        return trigger

    def _call(self, control: Callable[..., Coroutine[object, object, T]], *arguments: object) -> T:
        if self._loop is None:
            raise RuntimeError("the proxy is not started")
        return asyncio.run_coroutine_threadsafe(control(*arguments), self._loop).result(CONTROL_SECONDS)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            # Not sock_accept: a connection would be in no one's hands between the accept and the task's next step.
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def _refuse(self) -> None:
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        links = dict(self._links)
        for task in links.values():
            task.cancel()
        await asyncio.gather(*links.values(), return_exceptions=True)
        for link in links:
            link.close(reset=True)

    async def _swallow(self, on: bool) -> None:
        self._rules.swallow = on
        for link in self._links:
            link.lost = link.lost or on

    def _accept(self) -> None:
        # For its client a connection exists before this. A control finds it nevertheless: this loop polls its sockets
        # between the call of a control and the control's first step.
        with suppress(BlockingIOError):
            while self._listener:
                self._link(self._listener.accept()[0])

    def _link(self, client: socket.socket) -> None:
        self._rules.counters = replace(self.counters, connections=self.counters.connections + 1)
        link = Link(self._rules, client)
        task = asyncio.create_task(link.run())
        self._links[link] = task
        task.add_done_callback(lambda _: self._links.pop(link))


def _bound(port: int) -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setblocking(False)
    opened.bind(("127.0.0.1", port))
    return opened
