"""`agentkeep show`: one conversation, its record, its state and its timeline."""

from __future__ import annotations

import click

from ..errors import NotFound
from ..features.conversations import Conversation
from ..store import Store
from .errors import CORRUPT, OK
from .options import asynchronous, id_argument, json_option, opened, tenant_option, url_argument
from .output import conversation_json, emit, event_json, out, plain, state_json
from .timeline import header, timeline


@click.command("show")
@url_argument
@id_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many events.")
@click.option("--after", type=int, metavar="N", help="The first events behind this index; without it, the last ones.")
@click.option("--before", type=int, metavar="N", help="Only events before this index.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; repeatable.")
@tenant_option
@json_option
@asynchronous
async def show(
    url: str,
    id: str,
    limit: int,
    after: int | None,
    before: int | None,
    types: tuple[str, ...],
    tenant: str | None,
    as_json: bool,
) -> int:
    """Show the conversation ID: who it is for, its state, and what happened."""
    async with opened(url, tenant) as store:
        talk = await found(store, id)
        where = {"type": list(types)} if types else None
        page = await talk.history(limit=limit, after=after, before=before, where=where)
        state, length = await talk.state(), await talk.length()
    if as_json:
        emit(
            {
                "conversation": {**conversation_json(talk.record), "last_index": length},
                "state": state_json(state),
                "events": [event_json(event) for event in page],
                "more": page.cursor is not None,
                "corrupt": [str(error) for error in page.corrupt],
            }
        )
    else:
        console = out()
        console.print(header(talk.record, state, length))
        console.print()
        console.print(timeline(page, console.width))
        for error in page.corrupt:
            console.print(plain(str(error), "red"))
        if page.cursor is not None and len(page):
            index = page[0].index if after is None else page[-1].index
            console.print(f"More: {'--before' if after is None else '--after'} {index}", style="dim")
    return CORRUPT if page.corrupt else OK


async def found(store: Store, id: str) -> Conversation:
    """The conversation with an id. Raises NotFound."""
    talk = await store.conversations.get(id)
    if talk is None:
        raise NotFound(f"there is no conversation {id!a}", operation="show", hint="`agentkeep list` names them.")
    return talk
