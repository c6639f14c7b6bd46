"""The process that watches: it starts the first one, kills it, starts the second one, and counts what survived."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import msgspec
from msgspec import Struct

from ... import urls
from ...errors import StoreError, Unavailable, Unsupported
from ...features.conversations import Context, ConversationRecord, Event, State
from ..errors import FAILED, OK
from ..options import asynchronous, json_option, opened, shown, tenant_option
from ..output import emit
from .play import URL_VARIABLE
from .report import as_json as told_as_json
from .report import show
from .story import STORY, Note

TOKENS = 160
"""The context window that is shown."""


class Outcome(Struct, kw_only=True):
    """What happened to the processes, and what was found afterwards."""

    url: str
    pids: tuple[int, int]
    acknowledged: list[int]
    running: str | None
    found: int
    pending: list[str]
    active_agent: str | None
    repeated: int | None
    record: ConversationRecord
    state: State
    events: list[Event]
    context: Context
    seconds: float

    @property
    def lost(self) -> int:
        """Acknowledged events that are not there."""
        return len(set(self.acknowledged) - {event.index for event in self.events})

    @property
    def duplicated(self) -> int:
        """Events that are there more often than the story tells them."""
        said = Counter((event.type, repr(event.content)) for event in self.events)
        return sum(count - 1 for count in said.values())

    @property
    def whole(self) -> bool:
        """Whether every step of the story is there, once."""
        wanted = sum(not isinstance(step, Note) for step in STORY)
        return not self.lost and not self.duplicated and len(self.events) == wanted


@click.command()
@click.option("--to", "url", metavar="URL", help="The database; without it a temporary SQLite file.")
@click.option("--kill-after", type=int, metavar="N", help="Kill after N acknowledged events, not in the refund.")
@tenant_option
@json_option
@asynchronous
async def demo(url: str | None, kill_after: int | None, tenant: str | None, as_json: bool) -> int:
    """Watch a conversation survive: a process that stores a support case is killed, a second one goes on.

    One person on three channels, three agents, tool calls, handoffs. No network is needed.
    """
    with tempfile.TemporaryDirectory(prefix="agentkeep-demo-") as place:
        outcome = await _watch(url or str(Path(place) / "demo.db"), kill_after, tenant, url is not None)
    if as_json:
        emit(told_as_json(outcome))
    else:
        show(outcome, kept=url is not None)
    return OK if outcome.whole else FAILED


async def _watch(url: str, kill_after: int | None, tenant: str | None, kept: bool) -> Outcome:
    if not urls.engine(url).capabilities.shared:
        raise Unsupported(f"{shown(url)} lives in one process, and the demo has two", operation="demo")
    begin = time.perf_counter()
    id = f"support-{uuid4().hex[:6]}" if kept else "support-42"
    acknowledged: list[int] = []
    running: str | None = None
    first = _Player(url, id, tenant, forever=True)
    async for line in first.lines():
        if "stored" in line:
            acknowledged.append(line["stored"])
        running = line.get("running")
        if running is not None or len(acknowledged) == kill_after:
            first.kill()
            break
    second = _Player(url, id, tenant, forever=False)
    lines = [line async for line in second.lines()]
    async with opened(url, tenant) as store:
        talk = await store.conversations.get(id)
        if talk is None:
            raise Unavailable("the conversation is gone", operation="demo")
        return Outcome(
            url=shown(url),
            pids=(first.pid, second.pid),
            acknowledged=acknowledged,
            running=running,
            found=lines[0]["found"],
            pending=lines[0]["pending"],
            active_agent=lines[0]["active_agent"],
            repeated=lines[0]["repeats"],
            record=talk.record,
            state=await talk.state(),
            events=[event async for event in talk.events()],
            context=await talk.context(max_tokens=TOKENS),
            seconds=time.perf_counter() - begin,
        )


class _Player:
    """A process that tells the story."""

    def __init__(self, url: str, id: str, tenant: str | None, forever: bool) -> None:
        self._environment = {**os.environ, URL_VARIABLE: url}
        self._arguments = ["_play", id, *(["--forever"] if forever else []), *(["--tenant", tenant] if tenant else [])]
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """What it prints, line by line. Raises StoreError where it fails by itself."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentkeep", *self._arguments),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self._environment,
        )
        self._process, self.pid = process, process.pid
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async for line in process.stdout:
                yield msgspec.json.decode(line)
            said = (await process.stderr.read()).decode(errors="replace").strip()
            if await process.wait() != 0:
                raise StoreError(f"a process of the demo failed: {said.removeprefix('agentkeep: ')}", operation="demo")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    def kill(self) -> None:
        """Kill it with SIGKILL: it cannot clean up."""
        assert self._process is not None
        self._process.kill()
