"""`agentkeep bench`: a short measurement of one database through the public API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import uuid4

import click

from ..features.conversations import Conversation
from ..store import Store
from .errors import OK
from .options import asynchronous, json_option, opened, shown, tenant_option, url_argument
from .output import emit, out, progress, table

CROWD = 20
TEXT = "x" * 500
READ = 50
LISTED = 20
SHARES = (0.35, 0.35, 0.15, 0.15)
"""Of the time that is given, what each measurement gets."""


class Measured(NamedTuple):
    """One line: what was done, how often a second, the median and the 99th percentile in milliseconds."""

    what: str
    per_second: float
    median_ms: float
    p99_ms: float
    times: int


@click.command("bench")
@url_argument
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=6.0, show_default=True, help="How long, about.")
@tenant_option
@json_option
@asynchronous
async def bench(url: str, seconds: float, tenant: str | None, as_json: bool) -> int:
    """Measure appends and reads of this database from here, and remove what was written.

    It is no comparison of databases: it measures this machine, this network and one process of Python.
    """
    async with opened(url, tenant, create=True) as store:
        mark = f"bench-{uuid4().hex[:12]}"
        talks: list[Conversation] = []
        try:
            with progress("measuring"):
                talks += await asyncio.gather(
                    *(store.conversations.ensure(f"{mark}-{n}", user=mark) for n in range(CROWD))
                )
                results = await _measure(store, talks, mark, seconds)
        finally:
            for talk in talks:
                await talk.delete()
    if as_json:
        emit({"url": shown(url), "text_bytes": len(TEXT), "results": [one._asdict() for one in results]})
    else:
        shown_ = table(
            "what", "per second", "median ms", "p99 ms", "times", right=("per second", "median ms", "p99 ms", "times")
        )
        for one in results:
            shown_.add_row(
                one.what, f"{one.per_second:,.0f}", f"{one.median_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.times:,}"
            )
        out().print(shown_)
    return OK


async def _measure(store: Store, talks: list[Conversation], user: str, seconds: float) -> list[Measured]:
    async def append(talk: Conversation) -> None:
        await talk.append(TEXT, sender="bench")

    async def read() -> None:
        await talks[0].history(limit=READ)

    async def listing() -> None:
        await store.conversations.list(user=user, limit=LISTED)

    one, crowd, reads, lists = (seconds * share for share in SHARES)
    return [
        await _timed("append, one writer", [lambda: append(talks[0])], one),
        await _timed(
            f"append, {CROWD} conversations at once", [lambda talk=talk: append(talk) for talk in talks], crowd
        ),
        await _timed(f"read the last {READ} events", [read], reads),
        await _timed(f"list {LISTED} conversations of a user", [listing], lists),
    ]


async def _timed(what: str, calls: list[Callable[[], Awaitable[None]]], seconds: float) -> Measured:
    """Each call again and again, all of them at once, until the time is over."""
    spent: list[float] = []
    begin = time.perf_counter()

    async def repeat(call: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            await call()
            spent.append(time.perf_counter() - start)

    await asyncio.gather(*(repeat(call) for call in calls))
    total = time.perf_counter() - begin
    spent.sort()
    median, p99 = spent[len(spent) // 2], spent[min(len(spent) - 1, len(spent) * 99 // 100)]
    return Measured(what, len(spent) / total, median * 1000, p99 * 1000, len(spent))
