"""How conversations begin: created, ensured, forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ... import keys
from ...blobs.bodies import INLINE, TOGETHER
from ...codec import is_moved
from ...errors import Conflict, Invalid, Key, NotFound, StoreError, TooLarge
from ...records import Stored, record_of
from ...store import Store
from ...waist import HEAD, Batch, Check, Expect, Head, Op, Put, Row, Scan, Trim
from .content import Handoff
from .records import Activity, ConversationRecord, Event, Origin, State
from .timers import due_s

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

PER_BATCH = 45
"""Events in one batch: under its limit with room for what goes with them."""


def activity_of(record: ConversationRecord, second: int) -> Activity:
    """The copy of a record that lists read, with the second of its last event and that of its next timer."""
    return Activity(
        id=record.id,
        organization=record.organization,
        user=record.user,
        agent=record.agent,
        title=record.title,
        status=record.status,
        metadata=record.metadata,
        origin=record.origin,
        created_us=record.created_us,
        updated_us=record.updated_us,
        life=record.life,
        pause_after_s=record.pause_after_s,
        close_after_s=record.close_after_s,
        active_s=second,
        due_s=due_s(record, second),
    )


def put_record(record: ConversationRecord, expect: Expect, keep: Mapping[str, Any] | None = None) -> Put:
    """The put of a record. Raises TooLarge: it is copied with the recency, so it stays in its row."""
    put = RECORD.put(record, expect, keep=keep)
    if len(put.doc) > INLINE:
        hint = "Keep large values in events or in the state."
        raise TooLarge("a conversation's record", limit=INLINE, size=len(put.doc), key=RECORD.key(record), hint=hint)
    return put


async def head_of(store: Store, partition: str) -> Head:
    """The head of the events in a partition."""
    (row,) = await store.engine.get((Key(EVENT.spec.name, partition, HEAD),))
    return _head(row)


def _head(row: Row | None) -> Head:
    return Head() if row is None else msgspec.json.decode(row.doc, type=Head)


async def create(
    store: Store, record: ConversationRecord, *, sealed: bool = False, state: State | None = None
) -> Stored[ConversationRecord]:
    """A new conversation. Raises Conflict where its id is taken."""
    ops: list[Op] = [
        put_record(record, "absent"),
        ACTIVITY.put(activity_of(record, record.created_us // 1_000_000)),
        Trim(EVENT.spec.name, sealed=sealed),
    ]
    if state is not None:
        ops.append(STATE.put(state))
    receipt = await store.commit(keys.partition(record.id), ops)
    return Stored(record, receipt.id)


async def ensure(store: Store, record: ConversationRecord) -> Stored[ConversationRecord]:
    """The conversation with the record's id: the one that is there, or a new one."""
    while True:
        found = await store.get(ConversationRecord, keys.partition(record.id))
        if found is not None:
            return found
        with suppress(Conflict):
            return await create(store, record)


# --- forks -----------------------------------------------------------------------------------------------------------


async def fork(store: Store, source: ConversationRecord, at: int | None, id: str) -> Stored[ConversationRecord]:
    """A conversation with the events of another up to an index, under their indexes.

    Its log is sealed until they are all there, so nothing is appended between them, and what broke off is seen.
    """
    key = Key(RECORD.spec.name, keys.partition(id), "")
    copy = await store.get(ConversationRecord, key.partition)
    while copy is None:
        with suppress(Conflict):
            copy = await _begin(store, source, at, id)
        copy = copy or await store.get(ConversationRecord, key.partition)
    origin = copy.value.origin
    if (
        origin is None
        or (origin.conversation, origin.life) != (source.id, source.life)
        or at not in (None, origin.index)
    ):
        hint = "Another conversation has this id, or a fork at another index."
        raise Conflict(key, "absent", copy.rev, operation="fork", hint=hint)
    try:
        while await _copy_some(store, source, copy.value, origin.index):
            pass
        there = await store.get(ConversationRecord, keys.partition(source.id))
        if there is None or there.value.life != source.life:
            raise NotFound("the conversation was deleted meanwhile", operation="fork")
        return await _finish(store, copy)
    except StoreError as error:
        error.outcome = "unknown"  # a part is there: the same call goes on
        raise


async def _begin(store: Store, source: ConversationRecord, at: int | None, id: str) -> Stored[ConversationRecord]:
    """The record of a fork and its state, with a sealed log. Raises Conflict where the id is taken."""
    if (await head_of(store, keys.partition(id))).seq:
        hint = "Its numbers go on: fork under another id."
        raise Invalid("a deleted conversation had this id", operation="fork", hint=hint)
    last, state = await _state_at(store, source.id, at)
    record = msgspec.structs.replace(
        source,
        id=id,
        origin=Origin(source.id, last, source.life),
        status="open",
        created_us=store.clock(),
        updated_us=0,
        life=store.ids(),
    )
    return await create(store, record, sealed=True, state=msgspec.structs.replace(state, conversation=id))


async def _state_at(store: Store, id: str, at: int | None) -> tuple[int, State]:
    """The index to fork at, and the state there: as it is at the end, before it what the handoffs say."""
    partition = keys.partition(id)
    head, row = await store.engine.get((Key(EVENT.spec.name, partition, HEAD), Key(STATE.spec.name, partition, "")))
    length = _head(head).seq
    last = length if at is None else at
    if not 0 <= last <= length:
        raise Invalid(f"at={last} is not an index of this conversation, which ends at {length}", operation="fork")
    if last < length:
        return last, await _handed_over(store, id, last)
    if row is not None and is_moved(row.doc):
        row = await store.get_row(row.key)
    return last, State(conversation=id) if row is None else STATE.decode(row)


async def _handed_over(store: Store, id: str, last: int) -> State:
    state, after = State(conversation=id), None
    while True:
        page = await store.scan(
            Event, prefix=(keys.partition(id),), hi=keys.seq_sort(last + 1), where={"type": "handoff"}, after=after
        )
        for event in page:
            if isinstance(event.content, Handoff):
                to, previous = event.content.to, event.content.previous
                state = msgspec.structs.replace(
                    state, active_agent=to, previous_agent=previous, handoffs=state.handoffs + 1
                )
        after = page.cursor
        if after is None:
            return state


async def _copy_some(store: Store, source: ConversationRecord, copy: ConversationRecord, last: int) -> bool:
    """Copy the events that follow those which are there. Whether there may be more."""
    partition = keys.partition(copy.id)
    head = await head_of(store, partition)
    if not head.sealed or head.seq >= last:
        return False
    scan = Scan(
        EVENT.spec.name,
        prefix=(keys.partition(source.id),),
        lo=keys.seq_sort(head.seq + 1),
        hi=keys.seq_sort(last + 1),
        limit=PER_BATCH,
    )
    while True:
        page = await store.scan_rows(scan)
        puts = [await _event(store, row, copy.id) for row in page.items]
        if not await _restore(store, partition, [put for put in puts if put is not None]):
            return True
        if page.cursor is None:
            return await _restore(store, partition, [Put(EVENT.spec.name, HEAD, msgspec.json.encode(Head(last)))])
        scan = msgspec.structs.replace(scan, after=page.cursor)


async def _event(store: Store, row: Row, id: str) -> Put | None:
    """The put of an event's copy, None where it was removed meanwhile."""
    whole = await store.get_row(row.key) if is_moved(row.doc) else row
    if whole is None:
        return None
    event = msgspec.structs.replace(EVENT.decode(whole), conversation=id)
    return EVENT.put(event, "absent", keep=EVENT.unknown(whole), sort=row.key.sort)


async def _restore(store: Store, partition: str, puts: Sequence[Put]) -> bool:
    """Write rows under the numbers they have, in order. False where another one, or an earlier try, wrote some."""
    first, size = 0, 0
    for at, put in enumerate([*puts, None]):
        if put is None or size + len(put.doc) > TOGETHER:
            if at > first:
                batch = Batch(partition, tuple(puts[first:at]), store.ids())
                (answer,) = await store.commit_all([batch], restore=True)
                if isinstance(answer, Conflict):
                    return False
                if isinstance(answer, StoreError):
                    raise answer
            first, size = at, 0
        size += 0 if put is None else len(put.doc)
    return True


async def _finish(store: Store, copy: Stored[ConversationRecord]) -> Stored[ConversationRecord]:
    """Open the log of a fork whose events are all there, unless it was closed meanwhile."""
    partition = keys.partition(copy.value.id)
    found: Stored[ConversationRecord] | None = copy
    while found is not None and found.value.status == "open" and (await head_of(store, partition)).sealed:
        with suppress(Conflict):
            check = Check(RECORD.spec.name, "", found.rev)
            await store.commit(partition, [check, Trim(EVENT.spec.name, sealed=False)])
        found = await store.get(ConversationRecord, partition)
    if found is None:
        raise NotFound("the fork was deleted meanwhile", operation="fork")
    return found
