"""`agentkeep doctor`: whether a database is reachable, whole, and without loose ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import click
import msgspec
from msgspec import Struct

from .. import codec
from ..errors import Corrupt, StoreError, show_key
from ..features.conversations import Conversation, ConversationRecord, Event
from ..ids import HOUR
from ..records import Record
from ..schema import CATALOG_KEY, Catalog
from ..store import Store
from ..waist import HEAD, Row
from .errors import FAILED, OK
from .options import asynchronous, json_option, opened, shown, tenant_option, url_argument
from .output import emit, out, pairs, plain, progress, table

SAMPLE = 1_000
"""Rows of each kind, and events in counts times a hundred, that are looked at without --full."""

TALKS = 50
PAGE = 500
LATE = HOUR
"""Microseconds after which an upload that was not confirmed, and a call without a result, are findings."""


class Finding(Struct, frozen=True):
    """Something that is not as it should be: what, where, and in words."""

    finding: str
    key: str
    message: str


@click.command("doctor")
@url_argument
@click.option("--full", is_flag=True, help="Look at every row, not at a sample.")
@tenant_option
@json_option
@asynchronous
async def doctor(url: str, full: bool, tenant: str | None, as_json: bool) -> int:
    """Check a database: engine, schema, counts, damaged documents, orphaned bodies, calls without a result.

    Ends with 1 where there are findings.
    """
    async with opened(url, tenant) as store:
        facts = await _facts(store, url, full)
        looked, findings = 0, list[Finding]()
        with progress("looking at rows") as (bar, task):
            async for rows, found in _examine(store, full):
                looked += rows
                findings += found
                bar.update(task, completed=looked, description=f"{looked:,} rows")
        findings += await _orphans(store)
        findings += await _pending(store, full)
    facts |= {"rows_checked": looked, "checked_all": full}
    if as_json:
        emit({**facts, "findings": [msgspec.to_builtins(one) for one in findings]})
    else:
        _print(facts, findings)
    return FAILED if findings else OK


async def _facts(store: Store, url: str, full: bool) -> dict[str, Any]:
    engine = store.connection.engine
    (row,) = await engine.get([CATALOG_KEY])
    catalog = Catalog() if row is None else codec.decode(row.doc, Catalog, row.key)
    counts: dict[str, Any] = {}
    for kind in (ConversationRecord, Event):
        number, exact = await store.count(kind, budget=1_000_000 if full else SAMPLE * 100)
        counts["conversations" if kind is ConversationRecord else "events"] = {"count": number, "exact": exact}
    return {
        "url": shown(url),
        "engine": engine.capabilities.name,
        "capabilities": msgspec.to_builtins(engine.capabilities, order="sorted"),
        "format": catalog.format,
        "tenants": catalog.tenants,
        "kinds": sorted(catalog.kinds),
        "building": [f"{kind}.{index}" for kind, index in catalog.building()],
        "counts": counts,
    }


async def _examine(store: Store, full: bool) -> AsyncIterator[tuple[int, list[Finding]]]:
    """Rows of every kind that has documents of ours, a page at a time, and what is wrong with them."""
    for record in store.connection.records.values():
        after, looked = None, 0
        while True:
            page = await store.engine.dump(record.spec.name, after, PAGE)
            yield len(page.rows), [found for row in page.rows for found in await _row(store, record, row)]
            after, looked = page.cursor, looked + len(page.rows)
            if after is None or (looked >= SAMPLE and not full):
                break


async def _row(store: Store, record: Record[Any], row: Row) -> list[Finding]:
    if record.spec.log and row.key.sort == HEAD:
        return []
    try:
        value = record.decode(await store.whole(row))
    except Corrupt as error:
        return [Finding("corrupt", show_key(row.key), error.message)]
    except StoreError as error:
        return [Finding("unreadable", show_key(row.key), str(error))]
    found: list[Finding] = []
    missing = {f"{kind}.{name}" for kind, name in store.connection.not_ready}
    index = {
        name: values for name, values in record.index(value).items() if f"{record.spec.name}.{name}" not in missing
    }
    if index != {name: values for name, values in row.index.items() if name in index}:
        found.append(Finding("index", show_key(row.key), "the index values are not those of the document"))
    if record.facet_values(value) != row.facets:
        found.append(Finding("facets", show_key(row.key), "the facets are not those of the document"))
    return found


async def _orphans(store: Store) -> list[Finding]:
    uploads = await store.blobs.orphans(store.clock() - LATE, 100)
    return [
        Finding("orphan", blob, "a large body was begun and never named: Store.sweep() removes it")
        for blob, _ in uploads
    ]


async def _pending(store: Store, full: bool) -> list[Finding]:
    """Calls without a result in the most recent conversations: a run broke off there."""
    found: list[Finding] = []
    number = 0
    async for item in store.conversations.list(limit=TALKS):
        talk = Conversation(store, item, "")
        for event in await talk.pending():
            if event.created_us < store.clock() - LATE:
                call = getattr(event.content, "name", "?")
                key = f"{item.id} at {event.index}"
                found.append(Finding("pending", key, f"the tool call {call!a} has had no result for over an hour"))
        number += 1
        if number == TALKS and not full:
            break
    return found


def _print(facts: dict[str, Any], findings: list[Finding]) -> None:
    console = out()
    capabilities = facts["capabilities"]
    counts = {name: f"{one['count']:,}" + ("" if one["exact"] else " or more") for name, one in facts["counts"].items()}
    told = [name for name in ("durable", "power_loss", "shared", "facet_index") if capabilities[name]]
    console.print(
        pairs(
            {
                "database": facts["url"],
                "engine": facts["engine"],
                "promises": ", ".join([f"atomic: {capabilities['atomic']}", *told]),
                "filters": ", ".join(sorted(capabilities["filters"])),
                "format": f"{facts['format']}, tenants {facts['tenants']}",
                "kinds": ", ".join(facts["kinds"]),
                "building": ", ".join(facts["building"]) or None,
                **counts,
                "checked": f"{facts['rows_checked']:,} rows"
                + ("" if facts["checked_all"] else ", a sample: --full checks all"),
            }
        )
    )
    if not findings:
        console.print("Nothing was found.", style="green")
        return
    shown = table("finding", "where", "what")
    for one in findings:
        shown.add_row(one.finding, plain(one.key), plain(one.message))
    console.print(shown)
