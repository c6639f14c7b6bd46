"""Whole conversations read as the rows they are: what copies and exports are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
from msgspec import Struct

from ... import keys
from ...codec import is_moved
from ...errors import Corrupt, Key
from ...records import record_of
from ...store import Store
from ...waist import HEAD, Head, Row, Scan
from .records import Activity, ConversationRecord, Event, State

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

PAGE = 200


class Original(Struct, frozen=True):
    """A conversation as it is stored, without its events: its rows with their documents, and the head of its log.

    `active_s` is the second of its last event.
    """

    record: Row
    state: Row | None
    active_s: int
    head: Head

    @property
    def partition(self) -> str:
        """Where it lives."""
        return self.record.key.partition


async def records(store: Store) -> AsyncIterator[Row]:
    """The records of all conversations as rows, in order of their partitions."""
    scan = Scan(RECORD.spec.name, limit=PAGE)
    while True:
        page = await store.scan_rows(scan)
        for row in page.items:
            yield row
        if page.cursor is None:
            return
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def originals(store: Store, partitions: Sequence[str]) -> list[Original | Corrupt]:
    """The conversations in these partitions, in order, those that were deleted left out. One read for all of them."""
    asked = [
        Key(kind.spec.name, partition, HEAD) for partition in partitions for kind in (RECORD, STATE, ACTIVITY, EVENT)
    ]
    rows = iter(await store.engine.get(asked))
    found: list[Original | Corrupt] = []
    for _ in partitions:
        record, state, activity, log = (next(rows) for _ in range(4))
        if record is None or log is None:
            continue
        try:
            active_s = 0 if activity is None else ACTIVITY.decode(await store.whole(activity)).active_s
            state = None if state is None else await store.whole(state)
            found.append(Original(await store.whole(record), state, active_s, head_of(log)))
        except Corrupt as error:
            found.append(error)
    return found


async def event_pages(store: Store, original: Original) -> AsyncIterator[list[Row | Corrupt]]:
    """The events of a conversation, up to its head as it was read, page by page, with their documents whole."""
    hi = keys.seq_sort(original.head.seq + 1)
    scan = Scan(EVENT.spec.name, None, (original.partition,), None, hi, limit=PAGE)
    while True:
        page = await store.scan_rows(scan)
        yield [await _whole(store, row) if is_moved(row.doc) else row for row in page.items]
        if page.cursor is None:
            return
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def _whole(store: Store, row: Row) -> Row | Corrupt:
    try:
        return await store.whole(row)
    except Corrupt as error:
        return error


def head_of(row: Row) -> Head:
    """The head of a log, of the row that get and dump give."""
    return msgspec.json.decode(row.doc, type=Head)


async def lengths(store: Store, ids: Sequence[str]) -> list[int]:
    """The number of the last event there ever was, of each conversation. One read for all of them."""
    asked = [Key(EVENT.spec.name, keys.partition(id), HEAD) for id in ids]
    rows = await store.engine.get(asked) if asked else []
    return [0 if row is None else head_of(row).seq for row in rows]
