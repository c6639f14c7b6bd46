"""One connection through the proxy: what it obeys, what it counts and how it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from typing import Literal

Direction = Literal["up", "down"]
"""From client to server, or from server to client."""
Waiting = asyncio.Queue[tuple[float, bytes]]
"""Chunks with the time from which they may be passed on; an empty chunk is the end."""

CHUNK = 65_536
LONGEST_PATTERN = 1_024
QUEUED_CHUNKS = 64
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: close() sends RST (socket(7))."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What came from clients (up) and from the server (down) over all connections, passed on or not.

    `round_trips` counts the changes of direction to up: a request is one, however many chunks it takes, and requests
    sent together before any reply are one. Subtract two values to see what happened between them.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    chunks_up: int = 0
    chunks_down: int = 0
    round_trips: int = 0
    connections: int = 0

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Trigger:
    """A cut that waits for its moment, made by `Proxy.cut_when` and `Proxy.cut_after_bytes`.

    `fired` is how often it cut; `replied` how often the server's reply had arrived by then (only when="after", "up").
    """

    def __init__(
        self, direction: Direction, find: Callable[[bytes, bytes], int | None], *, times: int, after: bool
    ) -> None:
        self.direction: Direction = direction
        self.left = times
        self.after = after
        self.fired = 0
        self.replied = 0
        self._find = find
        self._changed = threading.Condition()

    def take(self, before: bytes, chunk: bytes) -> int | None:
        """How many bytes of the chunk to pass on before the cut; None means no cut."""
        cut = self._find(before, chunk) if self.left > 0 else None
        if cut is not None:
            self.left -= 1
        return cut

    def report(self, *, replied: bool) -> None:
        """Called by the proxy when it cuts."""
        with self._changed:
            self.fired += 1
            self.replied += replied
            self._changed.notify_all()

    def wait(self, seconds: float, fired: int = 1) -> bool:
        """Whether it has cut `fired` times within `seconds`. It blocks: an async test calls it in a thread."""
        with self._changed:
            return self._changed.wait_for(lambda: self.fired >= fired, seconds)


@dataclass(slots=True)
class Rules:
    """What the links of a proxy obey, and what they count. Values are replaced, never changed in place."""

    target: tuple[str, int]
    reply_seconds: float
    counters: Counters = Counters()
    delays: dict[Direction, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    triggers: tuple[Trigger, ...] = ()
    swallow: bool = False


class _Cut(Exception):
    """Ends a link by a reset."""


class Link:
    """One connection of a client and its counterpart to the server."""

    def __init__(self, rules: Rules, client: socket.socket) -> None:
        self.lost = rules.swallow
        self._rules = rules
        self._client = _tuned(client)
        self._server = _tuned(socket.socket())
        self._last: Direction | None = None
        self._trigger: Trigger | None = None
        self._muted = False
        self._replied = False
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Passes bytes on until both sides have ended, one of them fails, or a cut."""
        try:
            await self._pass()
            self.close(reset=False)
        except* (_Cut, OSError):
            if self._trigger:
                self._trigger.report(replied=self._replied)  # first: who sees the cut finds it counted
            _close(self._client, reset=True)
            if self._muted:
                await self._let_finish()
        finally:
            self.close(reset=True)

    def close(self, *, reset: bool) -> None:
        """Closes both sides; what is closed already stays as it is."""
        _close(self._client, reset=reset)
        _close(self._server, reset=reset)

    async def _pass(self) -> None:
        if not self.lost:
            await asyncio.get_running_loop().sock_connect(self._server, self._rules.target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_one_way("up", self._client, self._server))
            if not self.lost:
                group.create_task(self._pass_one_way("down", self._server, self._client))

    async def _pass_one_way(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        waiting: Waiting = asyncio.Queue(QUEUED_CHUNKS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(direction, source, waiting))
            group.create_task(self._write(direction, waiting, sink))

    async def _read(self, direction: Direction, source: socket.socket, waiting: Waiting) -> None:
        loop = asyncio.get_running_loop()
        ended = False
        while not ended:
            chunk = await loop.sock_recv(source, CHUNK)
            ended = not chunk
            if not ended:
                self._count(direction, len(chunk))
            if direction == "down" and self._muted:
                self._replied = self._replied or not ended
                self._answered.set()
            await waiting.put((loop.time() + self._rules.delays[direction], chunk))

    async def _write(self, direction: Direction, waiting: Waiting, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        before, ended = b"", False
        while not ended:
            due, chunk = await waiting.get()
            ended = not chunk
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            if self.lost:
                if ended and direction == "up":
                    raise _Cut  # the client gave up
            elif direction == "down" and self._muted:
                continue
            elif ended:
                sink.shutdown(socket.SHUT_WR)
            else:
                await self._forward(direction, before, chunk, sink)
                before = (before + chunk)[-LONGEST_PATTERN:]

    async def _forward(self, direction: Direction, before: bytes, chunk: bytes, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for trigger in self._rules.triggers:
            if trigger.direction == direction and (size := trigger.take(before, chunk)) is not None:
                self._trigger = trigger
                self._muted = trigger.after and direction == "up"
                await loop.sock_sendall(sink, chunk[:size])
                if self._muted:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._answered.wait(), self._rules.reply_seconds)
                raise _Cut
        await loop.sock_sendall(sink, chunk)

    async def _let_finish(self) -> None:
        # A reset could discard what the server has not read yet; an ordinary end of input lets it do all it was sent.
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # TimeoutError is one
            self._server.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(self._rules.reply_seconds):
                while await loop.sock_recv(self._server, CHUNK):
                    pass

    def _count(self, direction: Direction, size: int) -> None:
        now = self._rules.counters
        if direction == "up":
            trips = now.round_trips + (self._last != "up")
            now = replace(now, bytes_up=now.bytes_up + size, chunks_up=now.chunks_up + 1, round_trips=trips)
        else:
            now = replace(now, bytes_down=now.bytes_down + size, chunks_down=now.chunks_down + 1)
        self._last = direction
        self._rules.counters = now


def _tuned(end: socket.socket) -> socket.socket:
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def _close(end: socket.socket, *, reset: bool) -> None:
    if end.fileno() >= 0:
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.close()
