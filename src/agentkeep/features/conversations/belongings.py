"""What lives with a conversation: rows of other kinds in its partition, named under its life and deleted with it.

A record says so by `@record(..., within="conversation")`, and a feature places its rows by `place`. The place begins
with the life of the conversation: one that is created under the id of a deleted one has none of the old rows, even
where the deletion broke off before it had removed them.
"""

from __future__ import annotations

import msgspec

from ...errors import Conflict
from ...keys import fitted, size
from ...records import record_of
from ...store import Store
from ...waist import MAX_SORT, Check, Delete, Key, Op, Row, Scan
from .records import ConversationRecord

RECORD = record_of(ConversationRecord)

END = "/"
PER_BATCH = 45


def place(life: str, id: str) -> str:
    """The sort key of what a conversation has under an id. A digest stands for an id that is too long."""
    room = MAX_SORT - size(life) - len(END)
    return f"{life}{END}{fitted(id, room)}"


def places(life: str) -> tuple[str, str]:
    """The range of sort keys, from and to, of all that one life has of a kind."""
    return f"{life}{END}", f"{life}{chr(ord(END) + 1)}"


async def rows(store: Store, partition: str, kind: str, lo: str, hi: str) -> list[Row]:
    """All rows of a kind in a range of places."""
    found: list[Row] = []
    scan = Scan(kind, prefix=(partition,), lo=lo, hi=hi)
    while True:
        page = await store.engine.scan(scan)
        found += page.rows
        if page.cursor is None:
            return found
        scan = msgspec.structs.replace(scan, after=page.cursor)


def within(life: str, id: str) -> tuple[str, str]:
    """The range of places, from and to, of what stands below an id: of `place(life, id + "/...")`."""
    return place(life, id + END), place(life, id + chr(ord(END) + 1))


async def remove(store: Store, partition: str) -> None:
    """Remove all that lived with ended conversations of a partition. May be repeated.

    Each deletion checks the record: one that is created meanwhile keeps what is its own.
    """
    for record in store.connection.records.values():
        if record.within == RECORD.spec.name:
            await _remove(store, partition, record.spec.name)


async def _remove(store: Store, partition: str, kind: str) -> None:
    after: str | None = None
    while True:
        (row,) = await store.engine.get((Key(RECORD.spec.name, partition, ""),))
        mine = None if row is None else place(RECORD.decode(row).life, "")
        page = await store.engine.scan(Scan(kind, prefix=(partition,), limit=PER_BATCH, after=after))
        dead = [one for one in page.rows if mine is None or not one.key.sort.startswith(mine)]
        if dead:
            ops: list[Op] = [Check(RECORD.spec.name, "", "absent" if row is None else row.rev)]
            ops += [Delete(kind, one.key.sort) for one in dead]
            try:
                await store.commit(partition, ops, replaced=dead)
            except Conflict:
                continue
        if page.cursor is None:
            return
        after = page.cursor
