"""`agentkeep tail`: the events of a conversation as they come."""

from __future__ import annotations

import click

from .errors import OK
from .options import asynchronous, id_argument, json_option, opened, tenant_option, url_argument
from .output import emit, event_json, out
from .show import found
from .timeline import timeline


@click.command("tail")
@url_argument
@id_argument
@click.option("--after", type=int, metavar="N", help="Begin behind this index; without it, with what comes next.")
@click.option("--idle", type=float, metavar="SECONDS", help="End after so many seconds without an event.")
@tenant_option
@json_option
@asynchronous
async def tail(url: str, id: str, after: int | None, idle: float | None, tenant: str | None, as_json: bool) -> int:
    """Follow the conversation ID until Ctrl-C, or until it is deleted. With --json: one event a line."""
    async with opened(url, tenant) as store:
        talk = await found(store, id)
        console = out()
        async for event in talk.tail(after=after, idle=idle):
            if as_json:
                emit(event_json(event))
            else:
                console.print(timeline([event], console.width, live=True))
    return OK
