"""Turning the conversations whose timers are due, in the order in which they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from ...errors import Conflict, Corrupt, Key, StoreError
from ...ids import SECOND
from ...records import record_of
from ...store import Store
from ...waist import HEAD, Batch, Head, Row, Scan, Trim
from .beginnings import activity_of, put_record
from .bindings import reshelve
from .records import Activity, ConversationRecord, Event, Status
from .timers import status_at

RECORD, ACTIVITY, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(Event)

PER_PAGE = 100


class Sweep(Struct, frozen=True):
    """What one sweep turned, as ids in the order in which they were due. `more`: it ended at its limit.

    `corrupt` names those that do not decode; they are left as they are.
    """

    paused: list[str]
    closed: list[str]
    more: bool
    corrupt: list[Corrupt]


class _Turn(NamedTuple):
    id: str
    status: Status
    batch: Batch


async def sweep(store: Store, limit: int) -> Sweep:
    """Pause and close what is due by now, the longest due first: see `Conversations.sweep_timers`."""
    now_s = store.clock() // SECOND
    done = Sweep([], [], False, [])
    scan = Scan(ACTIVITY.spec.name, "by_due", ("all",), None, now_s + 1)
    while True:
        left = limit - len(done.paused) - len(done.closed)
        page = await store.scan_rows(msgspec.structs.replace(scan, limit=min(PER_PAGE, max(left, 1))))
        if left < 1:
            return msgspec.structs.replace(done, more=bool(page.items))
        await _commit(store, await _turns(store, page.items, now_s, done.corrupt), done)
        if page.cursor is None:
            return done
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def _turns(store: Store, activities: Sequence[Row], now_s: int, corrupt: list[Corrupt]) -> list[_Turn]:
    keys = [Key(kind.spec.name, row.key.partition, HEAD) for row in activities for kind in (RECORD, EVENT)]
    found = iter(await store.engine.get(keys) if keys else [])
    turns: list[_Turn] = []
    for activity in activities:
        record, log = next(found), next(found)
        try:
            turn = None if record is None or log is None else await _turn(store, activity, record, log, now_s)
        except Corrupt as error:
            corrupt.append(error)
        else:
            turns += [] if turn is None else [turn]
    return turns


async def _turn(store: Store, activity: Row, record: Row, log: Row, now_s: int) -> _Turn | None:
    """The batch that turns a conversation, if it still is as it was read: its record and its activity are checked.

    An open conversation whose log is sealed is a fork that is not complete: it has to be finished first.
    """
    value, active_s = RECORD.decode(record), ACTIVITY.decode(activity).active_s
    status = status_at(value, active_s, now_s)
    if status == value.status or (value.status == "open" and msgspec.json.decode(log.doc, type=Head).sealed):
        return None
    new = msgspec.structs.replace(value, status=status, updated_us=store.clock())
    shelf, _ = await reshelve(store, new) if status == "closed" else ((), ())
    ops = (
        put_record(new, record.rev, RECORD.unknown(record)),
        ACTIVITY.put(activity_of(new, active_s), activity.rev),
        Trim(EVENT.spec.name, sealed=True),
        *shelf,
    )
    return _Turn(value.id, status, Batch(record.key.partition, ops, store.ids()))


async def _commit(store: Store, turns: Sequence[_Turn], done: Sweep) -> None:
    """Commit the turns; one that fails for good is raised once the others are written down.

    A conflict says that the conversation was active, changed or turned meanwhile: it is no longer ours to turn.
    """
    failed: StoreError | None = None
    answers = await store.commit_all([turn.batch for turn in turns]) if turns else []
    for turn, answer in zip(turns, answers, strict=True):
        if not isinstance(answer, StoreError):
            (done.closed if turn.status == "closed" else done.paused).append(turn.id)
        elif not isinstance(answer, Conflict):
            failed = answer
    if failed is not None:
        raise failed
