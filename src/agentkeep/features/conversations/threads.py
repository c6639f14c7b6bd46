"""Threads: the replies to an event, found by their parent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ...errors import Invalid
from ...pages import Listing, Page
from ...predicates import Compare
from .handle import Handle
from .reading import EVENT, checked_index, page, scan_of, sees
from .records import Event
from .visibility import Viewer

MAX_ROOTS = 100


class Thread(Struct, frozen=True):
    """The replies to an event in short: how many, the last one, and whether `replies` is all of them."""

    root: int
    replies: int
    last: Event | None
    exact: bool


def thread(
    handle: Handle, root: int, viewer: Viewer | None, limit: int, after: str | None, budget: int
) -> Listing[Event]:
    """The replies to an event, in order."""
    checked_index(root, "root", "thread")
    where = Compare("parent", "eq", root)

    async def fetch(cursor: str | None) -> Page[Event]:
        scan = scan_of(handle, after=root, where=where, viewer=viewer, limit=limit, cursor=cursor, budget=budget)
        return await page(handle, scan, viewer)

    return Listing(fetch, after)


async def summarise(handle: Handle, roots: Sequence[int], viewer: Viewer | None, budget: int) -> dict[int, Thread]:
    """The threads of several roots, counted in one pass over the events after the first of them."""
    if len(roots) > MAX_ROOTS:
        raise Invalid(f"thread_summaries takes at most {MAX_ROOTS} roots, not {len(roots)}", operation="threads")
    counts = {checked_index(root, "roots", "threads"): 0 for root in roots}
    if not counts:
        return {}
    last: dict[int, Event] = {}
    where = Compare("parent", "in", tuple(counts))
    scan = scan_of(handle, after=min(counts), where=where, viewer=viewer)
    exact = False
    while budget > 0 and not exact:
        look = min(1_000, budget)
        rows = await handle.store.scan_rows(msgspec.structs.replace(scan, limit=look, budget=look))
        for event in await handle.store.decode(EVENT, rows.items, None):
            if event.parent is not None and sees(handle, viewer, event):
                counts[event.parent] += 1
                last[event.parent] = event
        budget -= look
        exact = rows.cursor is None
        scan = msgspec.structs.replace(scan, after=rows.cursor)
    return {root: Thread(root, count, last.get(root), exact) for root, count in counts.items()}
