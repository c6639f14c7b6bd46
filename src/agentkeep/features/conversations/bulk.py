"""Whole conversations written in bulk: many to a commit, and resumably.

Events are written under their numbers. Whoever writes the same copies again finds, by the log's head and the last
event that is there, how far the first run came: nothing is written twice, however much later that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from ... import keys
from ...errors import Conflict, Corrupt, Invalid, Key, StoreError, TooLarge
from ...ids import Ids
from ...layers.limits import facets_size
from ...records import Record, record_of
from ...store import INLINE, Store
from ...waist import HEAD, Batch, Check, Head, Op, Put, Rev, Row, Trim
from .conversation import activity_of
from .originals import head_of
from .records import Activity, ConversationRecord, Event, State

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

MARK = "import"
"""The name in a record's metadata under which an import notes where the conversation came from."""

PER_BATCH = 45
BATCH_BYTES = 600_000
"""Bytes of documents in one batch: with their facets they stay under the floor's 1,000,000."""

TRIES = 8


class Copy(Struct, frozen=True, kw_only=True):
    """A conversation to write, or a part of a long one, as the rows it is to have.

    `events` are ascending; `since` is the number of the event before them (0: this is the first part), `more` says
    that parts follow, `head` is that of the log once all of them are there. Two conversations with one id are the
    same if their records carry the same `digest` in metadata.import; copies without one give revs, and are the same
    if their revs are.
    """

    id: str
    record: Put
    activity: Put
    state: Put | None
    events: tuple[Put, ...]
    head: Head
    since: int = 0
    more: bool = False
    digest: str | None = None


class Standing(NamedTuple):
    """How much of a copy is there.

    `reached`: its events up to this number. `shift`: they stand under numbers that are greater by this, because a
    deleted conversation had the lower ones. `rev`: the rev of the record, None where there is none. `last`: sort
    key and rev of the last event that is there, where it belongs to this copy.
    """

    reached: int
    shift: int
    rev: Rev | None
    last: tuple[str, Rev] | None


class Written(NamedTuple):
    """What became of one copy: whether it, or its rest, had to be written, the shift of its numbers, or the error."""

    new: bool
    shift: int
    error: StoreError | None


def copy_of(record: ConversationRecord, state: State, events: Iterable[Event], digest: str, now: int) -> Copy:
    """The copy of a conversation that comes from elsewhere: its events get the numbers 1, 2, 3, ..."""
    puts = tuple([EVENT.put(event, "absent", sort=keys.seq_sort(n)) for n, event in enumerate(events, 1)])
    return Copy(
        id=record.id,
        record=RECORD.put(record, "absent"),
        activity=ACTIVITY.put(activity_of(record, now // 1_000_000)),
        state=STATE.put(state, "absent"),
        events=puts,
        head=Head(len(puts)),
        digest=digest,
    )


async def write(store: Store, copies: Sequence[Copy]) -> list[Written]:
    """Write copies of different conversations in as few commits as the engine can: one answer each, in order.

    What is there already is left as it is. An answer has an error where a limit refuses the copy, or where another
    conversation has its id. Raises the errors of a database that does not answer; the same call then goes on.
    """
    answers: list[Written | None] = [None] * len(copies)
    waiting = list(range(len(copies)))
    for attempt in range(TRIES):
        found = await standings(store, [copies[n] for n in waiting])
        batches: list[Batch] = []
        owners: list[int] = []
        for n, standing in zip(waiting, found, strict=True):
            made = standing if isinstance(standing, StoreError) else _plan(copies[n], standing, store.ids)
            if isinstance(made, StoreError):
                answers[n] = Written(False, 0, made)
                continue
            before, shift = answers[n], standing.shift if isinstance(standing, Standing) else 0
            answers[n] = Written(bool(made) or (before is not None and before.new), shift, None)
            batches += made
            owners += [n] * len(made)
        failed: dict[int, StoreError] = {}
        for n, answer in zip(owners, await store.commit_all(batches, restore=True) if batches else [], strict=True):
            if isinstance(answer, StoreError):
                failed.setdefault(n, answer)
        for n, error in failed.items():
            if not isinstance(error, (Conflict, Invalid, TooLarge)):
                raise error
            if not isinstance(error, Conflict) or attempt == TRIES - 1:
                answers[n] = Written(False, 0, error)
        waiting = [n for n, error in failed.items() if isinstance(error, Conflict)]
        if not waiting:
            break
    return cast("list[Written]", answers)


async def standings(store: Store, copies: Sequence[Copy]) -> list[Standing | StoreError]:
    """How much of each copy is there, or why it cannot be written: two reads for all of them."""
    partitions = [keys.partition(one.id) for one in copies]
    rows = iter(await store.engine.get([key for partition in partitions for key in _keys(partition)]))
    found = [_Found(next(rows), next(rows), next(rows)) for _ in copies]
    last = [_last(one, seen) for one, seen in zip(copies, found, strict=True)]
    asked = [
        Key(EVENT.spec.name, partition, _shifted(put, seen.shift(one)))
        for one, partition, seen, put in zip(copies, partitions, found, last, strict=True)
        if put is not None
    ]
    events = iter(await store.engine.get(asked) if asked else [])
    return [
        await _standing(store, one, seen, put, None if put is None else next(events))
        for one, seen, put in zip(copies, found, last, strict=True)
    ]


class _Found(NamedTuple):
    record: Row | None
    state: Row | None
    log: Row | None

    @property
    def head(self) -> Head:
        return Head() if self.log is None else head_of(self.log)

    def shift(self, one: Copy) -> int:
        reached = self.head.floor if self.record is not None else self.head.seq
        return max(0, reached - one.head.floor)


def _last(one: Copy, seen: _Found) -> Put | None:
    """The last event of a copy that should be there by the log's head."""
    if seen.record is None:
        return None
    reached = keys.seq_sort(max(0, seen.head.seq - seen.shift(one)))
    return next((put for put in reversed(one.events) if put.sort <= reached), None)


async def _standing(store: Store, one: Copy, seen: _Found, put: Put | None, event: Row | None) -> Standing | StoreError:
    shift = seen.shift(one)
    reached = seen.head.seq - shift
    key = Key(RECORD.spec.name, keys.partition(one.id), "")
    other = Invalid(
        "a conversation with this id is there with other content",
        key=key,
        operation="import",
        hint="It was left as it is. Delete it first, or import into another database.",
    )
    if seen.record is None:
        gone = Invalid("the beginning of this conversation is not there", key=key, operation="import")
        return gone if one.since else Standing(reached, shift, None, None)
    try:
        if put is not None and (event is None or not await _same_event(store, put, event)):
            return other
        same = await _same(store, one, seen)
    except Corrupt as error:
        return error
    whole = put is (one.events[-1] if one.events else None)
    if not same and not (whole and put is not None and await _older(store, one, seen)):
        return other
    if not whole and (reached < one.since or (put is None and not one.since)):
        return other
    last = None if put is None or event is None else (event.key.sort, event.rev)
    return Standing(max(reached, one.head.seq) if whole else reached, shift, seen.record.rev, last)


async def _same(store: Store, one: Copy, seen: _Found) -> bool:
    assert seen.record is not None
    if one.digest is None:
        state = None if seen.state is None else seen.state.rev
        return seen.record.rev == one.record.rev and state == (None if one.state is None else one.state.rev)
    mark: Any = RECORD.decode(await store.whole(seen.record)).metadata.get(MARK)
    return isinstance(mark, dict) and cast("dict[str, object]", mark).get("digest") == one.digest


async def _older(store: Store, one: Copy, seen: _Found) -> bool:
    """Whether a copy that has revs is what the conversation there was before its record or state were changed."""
    if one.digest is not None or seen.record is None:
        return False
    for record, put, row in ((RECORD, one.record, seen.record), (STATE, one.state, seen.state)):
        if put is not None and (
            row is None or _updated(record, Row(row.key, "", put.doc)) > _updated(record, await store.whole(row))
        ):
            return False
    return True


def _updated(record: Record[Any], row: Row) -> int:
    return record.decode(row).updated_us


async def _same_event(store: Store, put: Put, row: Row) -> bool:
    """Whether the row is what the put writes: by its rev, or by all but its time."""
    if put.rev is not None:
        return row.rev == put.rev
    there = EVENT.decode(await store.whole(row))
    given = EVENT.decode(Row(row.key, "", put.doc))
    return there == msgspec.structs.replace(given, created_us=there.created_us)


def _plan(one: Copy, standing: Standing, ids: Ids) -> list[Batch] | StoreError:
    """The batches that write what is missing of a copy; each but the first checks that the one before it is there."""
    rest = [put for put in one.events if keys.seq_of(put.sort) > standing.reached]
    if standing.rev is not None and not rest:
        return []
    key = Key(EVENT.spec.name, keys.partition(one.id), "")
    try:
        for put in rest[PER_BATCH:]:
            facets_size(key, put.facets)
    except (TooLarge, Invalid) as error:
        return error
    batches: list[Batch] = []
    record, last = standing.rev, standing.last
    chunks = _chunks(rest)
    end = [] if one.more else _end(one, standing.shift)
    if end and standing.shift and len(chunks) == 1:
        chunks = [rest[:-1], rest[-1:]]
    for number, chunk in enumerate(chunks, 1):
        id = ids()
        closing = end if number == len(chunks) else []
        ops = _opening(one, standing.shift, closing) if record is None else [*_checks(record, last), *closing]
        batches.append(Batch(key.partition, (*ops, *[_under(put, standing.shift) for put in chunk]), id))
        record = record or one.record.rev or id
        if chunk:
            last = _shifted(chunk[-1], standing.shift), chunk[-1].rev or id
    return batches


def _opening(one: Copy, shift: int, closing: list[Op]) -> list[Op]:
    """What begins a conversation: its log is opened, and what a deleted one left in it stays hidden."""
    log = closing or [Trim(EVENT.spec.name, None if shift else 0, sealed=False)]
    return [*log, one.record, one.activity, *([] if one.state is None else [one.state])]


def _checks(record: Rev, last: tuple[str, Rev] | None) -> list[Op]:
    """What must be there for a batch to go on: the record, and the last event before."""
    event = [] if last is None else [Check(EVENT.spec.name, *last)]
    return [Check(RECORD.spec.name, "", record), *event]


def _end(one: Copy, shift: int) -> list[Op]:
    """The head of the finished log, where it says more than the number of its last event."""
    last = keys.seq_of(one.events[-1].sort) if one.events else 0
    if one.head == Head(last) and last:
        return []
    head = Head(one.head.seq + shift, one.head.floor + shift, one.head.sealed)
    return [Put(EVENT.spec.name, HEAD, msgspec.json.encode(head))]


def _chunks(puts: Sequence[Put]) -> list[list[Put]]:
    """Events by batches; a document that goes to the blob store is small in the batch, and two ops."""
    chunks: list[list[Put]] = [[]]
    ops, size = 0, 0
    for put in puts:
        large = len(put.doc) > INLINE
        ops, size = ops + 1 + large, size + (200 if large else len(put.doc))
        if chunks[-1] and (ops > PER_BATCH or size > BATCH_BYTES):
            chunks.append([])
            ops, size = 1 + large, 200 if large else len(put.doc)
        chunks[-1].append(put)
    return chunks


def _shifted(put: Put, shift: int) -> str:
    return keys.seq_sort(keys.seq_of(put.sort) + shift) if shift else put.sort


def _under(put: Put, shift: int) -> Put:
    return msgspec.structs.replace(put, sort=_shifted(put, shift)) if shift else put


def _keys(partition: str) -> tuple[Key, Key, Key]:
    return (
        Key(RECORD.spec.name, partition, ""),
        Key(STATE.spec.name, partition, ""),
        Key(EVENT.spec.name, partition, HEAD),
    )
