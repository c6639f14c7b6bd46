"""`agentkeep list`: the conversations of a database, the most recent first."""

from __future__ import annotations

from typing import Literal

import click

from ..features.conversations.originals import lengths
from .errors import CORRUPT, OK
from .options import asynchronous, json_option, metadata_of, opened, tenant_option, url_argument
from .output import colour, conversation_json, emit, metadata_text, out, plain, table, when

WIDE = 100
"""Columns of a screen that has room for metadata."""


@click.command("list")
@url_argument
@click.option("--user", metavar="NAME", help="Only those of a user.")
@click.option("--agent", metavar="NAME", help="Only those of an agent.")
@click.option("--status", type=click.Choice(["open", "paused", "closed"]), help="Only those of this status.")
@click.option("--metadata", metavar="NAME=VALUE", multiple=True, help="Only those with this metadata; repeatable.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="CURSOR", help="Go on behind a page: the cursor it ended with.")
@tenant_option
@json_option
@asynchronous
async def list_(
    url: str,
    user: str | None,
    agent: str | None,
    status: Literal["open", "paused", "closed"] | None,
    metadata: tuple[str, ...],
    limit: int,
    after: str | None,
    tenant: str | None,
    as_json: bool,
) -> int:
    """List conversations, the most recent first."""
    where = metadata_of(metadata)
    async with opened(url, tenant) as store:
        page = await store.conversations.list(
            user=user, agent=agent, status=status, metadata=where, limit=limit, after=after
        )
        counts = await lengths(store, [item.id for item in page])
    if as_json:
        items = [
            {**conversation_json(item), "last_index": count, "active_at": item.active_at.isoformat()}
            for item, count in zip(page, counts, strict=True)
        ]
        corrupt = [str(error) for error in page.corrupt]
        emit({"conversations": items, "cursor": page.cursor, "corrupt": corrupt})
    else:
        console = out()
        wide = ["metadata"] if console.width >= WIDE else []
        shown = table("id", "user", "agent", "status", "events", "last activity", *wide, right=("events",))
        for column in shown.columns[1:]:
            column.no_wrap, column.overflow = True, "ellipsis"
        for item, count in zip(page, counts, strict=True):
            who = [plain(name or "", colour(name or "")) for name in (item.user, item.agent)]
            extra = [plain(metadata_text(item.metadata), "dim")] if wide else []
            shown.add_row(plain(item.id), *who, item.status, f"{count:,}", when(item.active_at)[:16], *extra)
        console.print(shown if len(page) else "No conversations.")
        for error in page.corrupt:
            console.print(plain(str(error), "red"))
        if page.cursor is not None:
            console.print(f"More: --after {page.cursor}", soft_wrap=True, markup=False)
    return CORRUPT if page.corrupt else OK
