"""Whole conversations written in bulk: many to a commit, and resumably.

Whoever writes the same copies again finds, by the log's head and the last event that is there, how far the first run
came: nothing is written twice, however much later that is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Struct

from ... import keys
from ...errors import Conflict, Corrupt, Invalid, Key, StoreError, TooLarge
from ...ids import Ids
from ...layers.limits import facets_size
from ...records import Record, record_of
from ...store import INLINE, Store
from ...waist import HEAD, Append, Batch, Check, Head, Op, Put, Rev, Row, Trim
from .beginnings import activity_of
from .originals import head_of
from .records import Activity, ConversationRecord, Event, State

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

C = TypeVar("C", bound=ConversationRecord)

MARK = "import"
"""The name in a record's metadata under which an import notes where the conversation came from."""

PER_BATCH = 45
BATCH_BYTES = 600_000
"""Bytes of documents in one batch: with their facets they stay under the floor's 1,000,000."""

TRIES = 8


class Copy(Struct, frozen=True, kw_only=True):
    """A conversation to write, or a part of a long one, as the rows it is to have.

    `numbers` are those of `events`, ascending. `since` is the number of the event before them (0: this is the first
    part), `more` says that parts follow, `head` is that of the log once all of them are there.

    A copy of what comes from elsewhere has a `digest`, which its record carries in metadata.import, and appends its
    events. A copy of what was in a store before has none: it puts its rows with the revs that they had. Two
    conversations with one id are the same if the digest is, or the revs are. Where a deleted conversation had its id, a
    copy begins another life, and the rev of its record is another one (`_reborn`).
    """

    id: str
    record: Put
    activity: Put
    state: Put | None
    events: Sequence[Put] | Sequence[Append]
    numbers: Sequence[int]
    head: Head
    since: int = 0
    more: bool = False
    digest: str | None = None


class Standing(NamedTuple):
    """How much of a copy is there.

    `there`: the number of its events that are there. `shift`: they stand under numbers that are greater by this,
    because a deleted conversation had the lower ones. `rev`: the rev of the record, None where there is none.
    `last`: sort key and rev of the last put of this copy that is there. `start`: the number behind which its events
    are to come in a log that a deleted conversation left, else 0.
    """

    there: int
    shift: int
    rev: Rev | None
    last: tuple[str, Rev] | None
    start: int = 0


NOTHING = Standing(0, 0, None, None)


class Written(NamedTuple):
    """What became of one copy: whether it, or its rest, was written now, the shift of its numbers, or the error."""

    new: bool
    shift: int
    error: StoreError | None


def copy_of(record: ConversationRecord, state: State | None, events: Iterable[Event], digest: str, now: int) -> Copy:
    """The copy of a conversation that comes from elsewhere: its events get the numbers 1, 2, 3, ..."""
    appends = [EVENT.append(event) for event in events]
    return Copy(
        id=record.id,
        record=RECORD.put(record, "absent"),
        activity=ACTIVITY.put(activity_of(record, now // 1_000_000)),
        state=None if state is None else STATE.put(state, "absent"),
        events=appends,
        numbers=range(1, len(appends) + 1),
        head=Head(len(appends)),
        digest=digest,
    )


async def write(store: Store, copies: Sequence[Copy], *, hopeful: bool = False) -> list[Written]:
    """Write copies of different conversations in as few commits as the engine can: one answer each, in order.

    All of them have a digest, or none has. What is there already is left as it is; `hopeful` expects that nothing is,
    and looks only where that proves wrong. An answer has an error where a limit refuses the copy, or where another
    conversation has its id. Raises the errors of a database that does not answer; the same call then goes on.
    """
    restore = any(one.digest is None for one in copies)
    answers = [Written(False, 0, None)] * len(copies)
    waiting: Sequence[int] = range(len(copies))
    for attempt in range(TRIES):
        # Appends meet a log that is not new with a Conflict. Puts would be hidden by what a deleted log left.
        if hopeful and attempt == 0 and not restore:
            found: Sequence[Standing | StoreError] = [NOTHING] * len(copies)
        else:
            found = await standings(store, [copies[n] for n in waiting])
        batches: list[Batch] = []
        owners: list[int] = []
        for n, standing in zip(waiting, found, strict=True):
            made = standing if isinstance(standing, StoreError) else _plan(copies[n], standing, store.ids)
            if isinstance(made, StoreError):
                answers[n] = Written(False, 0, made)
                continue
            if isinstance(standing, Standing):
                answers[n] = Written(answers[n].new, standing.shift, None)
            batches += made
            owners += [n] * len(made)
        failed: dict[int, StoreError] = {}
        given = await store.commit_all(batches, restore=restore) if batches else []
        for n, answer in zip(owners, given, strict=True):
            if isinstance(answer, StoreError):
                failed.setdefault(n, answer)
            else:
                answers[n] = answers[n]._replace(new=True)
        for n, error in failed.items():
            if not isinstance(error, (Conflict, Invalid, TooLarge)):
                raise error
            if not isinstance(error, Conflict) or attempt == TRIES - 1:
                answers[n] = Written(False, 0, error)
        waiting = [n for n, error in failed.items() if isinstance(error, Conflict)]
        if not waiting:
            break
    return answers


# --- how much is there -------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """The rows of a conversation that may be a copy's."""

    record: Row | None
    state: Row | None
    head: Head

    def shift(self, one: Copy) -> int:
        """By how much the copy's numbers are, or will be, greater here: a deleted log's numbers are not used again."""
        return max(0, (self.head.seq if self.record is None else self.head.floor) - one.head.floor)

    def there(self, one: Copy) -> int:
        """How many events of the copy are there by the log's head."""
        return 0 if self.record is None else bisect_right(one.numbers, self.head.seq - self.shift(one))


async def standings(store: Store, copies: Sequence[Copy]) -> list[Standing | StoreError]:
    """How much of each copy is there, or why it cannot be written: two reads for all of them."""
    partitions = [keys.partition(one.id) for one in copies]
    rows = iter(await store.engine.get([key for partition in partitions for key in _keys(partition)]))
    found = [_Found(next(rows), next(rows), Head() if (log := next(rows)) is None else head_of(log)) for _ in copies]
    lasts = [
        Key(EVENT.spec.name, partition, keys.seq_sort(one.numbers[there - 1] + seen.shift(one)))
        for one, partition, seen in zip(copies, partitions, found, strict=True)
        if (there := seen.there(one))
    ]
    events = iter(await store.engine.get(lasts) if lasts else [])
    return [
        await _standing(store, one, seen, next(events) if seen.there(one) else None)
        for one, seen in zip(copies, found, strict=True)
    ]


async def _standing(store: Store, one: Copy, seen: _Found, last: Row | None) -> Standing | StoreError:
    """What is there of a copy, judged by the record, by the last event that is there, and by what is missing."""
    shift, there = seen.shift(one), seen.there(one)
    key = Key(RECORD.spec.name, keys.partition(one.id), "")
    if seen.record is None:
        gone = Invalid("the beginning of this conversation is not there", key=key, operation="import")
        return gone if one.since else Standing(0, shift, None, None, seen.head.seq and one.head.floor + shift)
    whole = there == len(one.events)
    try:
        same = there == 0 or (last is not None and await _same_event(store, one.events[there - 1], last))
        if same and not await _same_record(store, one, seen):
            same = whole and there > 0 and await _older(store, one, seen)
    except Corrupt as error:
        return error
    reached = seen.head.seq - shift
    if not same or (not whole and (reached < one.since or (there == 0 and not one.since))):
        return Invalid(
            "a conversation with this id is there with other content",
            key=key,
            operation="import",
            hint="It was left as it is. Delete it first, or import into another database.",
        )
    known = None if last is None or one.digest is not None else (last.key.sort, last.rev)
    return Standing(there, shift, seen.record.rev, known)


async def _same_record(store: Store, one: Copy, seen: _Found) -> bool:
    assert seen.record is not None
    if one.digest is None:
        state = None if seen.state is None else seen.state.rev
        return seen.record.rev in _revs(one, seen) and state == (None if one.state is None else one.state.rev)
    mark: Any = RECORD.decode(await store.whole(seen.record)).metadata.get(MARK)
    return isinstance(mark, dict) and cast("dict[str, object]", mark).get("digest") == one.digest


def _revs(one: Copy, seen: _Found) -> tuple[Rev | None, ...]:
    """The revs that the record of a copy has where it is written: its own, or that of a later life."""
    rev = one.record.rev
    return (rev,) if rev is None else (rev, _rev_anew(rev, one.head.floor + seen.shift(one)))


async def _same_event(store: Store, op: Put | Append, row: Row) -> bool:
    """Whether the row is what the op writes: by its rev, or by all but its time."""
    if isinstance(op, Put):
        return row.rev == op.rev
    there = EVENT.decode(await store.whole(row))
    given = EVENT.decode(Row(row.key, "", op.doc))
    return there == msgspec.structs.replace(given, created_us=there.created_us)


async def _older(store: Store, one: Copy, seen: _Found) -> bool:
    """Whether a copy that has revs is what the conversation there was before its record or state were changed."""
    if one.digest is not None or seen.record is None:
        return False
    for record, put, row in ((RECORD, one.record, seen.record), (STATE, one.state, seen.state)):
        if put is not None:
            given = record.decode(Row(Key(put.kind, "", put.sort), "", put.doc)).updated_us
            if row is None or given > record.decode(await store.whole(row)).updated_us:
                return False
    return True


def _keys(partition: str) -> tuple[Key, Key, Key]:
    return (
        Key(RECORD.spec.name, partition, ""),
        Key(STATE.spec.name, partition, ""),
        Key(EVENT.spec.name, partition, HEAD),
    )


# --- what is missing ---------------------------------------------------------------------------------------------


def _plan(one: Copy, standing: Standing, ids: Ids) -> list[Batch] | StoreError:
    """The batches that write what is missing of a copy; each but the first checks that the one before it is there."""
    there, shift, record, last, start = standing
    if record is not None and there == len(one.events):
        return []
    if start and record is None:
        one = _reborn(one, start)
    key = Key(EVENT.spec.name, keys.partition(one.id), "")
    try:
        for op in one.events[there + PER_BATCH :]:
            facets_size(op.facets)
    except (TooLarge, Invalid) as error:
        error.key = key
        return error
    cuts = _cuts(one.events, there)
    end = [] if one.more else _end(one, shift)
    if end and shift and len(cuts) == 1:
        cuts = [max(there, len(one.events) - 1), len(one.events)]
    batches: list[Batch] = []
    for cut in cuts:
        id = ids()
        closing = end if cut == len(one.events) and len(batches) == len(cuts) - 1 else []
        ops = _opening(one, shift, closing) if record is None else [*_checks(record, last), *closing]
        batches.append(Batch(key.partition, (*ops, *_events(one, there, cut, shift)), id))
        record = record or one.record.rev or id
        if cut > there:
            put = one.events[cut - 1]
            if isinstance(put, Put):
                last = keys.seq_sort(one.numbers[cut - 1] + shift), put.rev or id
            there = cut
    return batches


def _opening(one: Copy, shift: int, closing: list[Op]) -> list[Op]:
    """What begins a conversation: its log is opened, and what a deleted one left in it stays hidden."""
    log = closing or [Trim(EVENT.spec.name, None if shift else 0, sealed=False)]
    return [*log, one.record, one.activity, *([] if one.state is None else [one.state])]


def _reborn(one: Copy, start: int) -> Copy:
    """A copy in another life than the deleted conversation had, which may have been the same copy.

    Its name and its rev are made of what there is, not minted: imports of the same copy at once write the same.
    """
    record, activity = _live_anew(one.record, RECORD, start), _live_anew(one.activity, ACTIVITY, start)
    if record.rev is not None:
        record = msgspec.structs.replace(record, rev=_rev_anew(record.rev, start))
    return msgspec.structs.replace(one, record=record, activity=activity)


def _live_anew(put: Put, record: Record[C], start: int) -> Put:
    row = Row(Key(put.kind, "", put.sort), "", put.doc)
    old = record.decode(row)
    first, _, _ = old.life.partition("@")
    new = msgspec.structs.replace(old, life=f"{first}@{start}")
    return msgspec.structs.replace(put, doc=record.encode(new, record.unknown(row)))


def _rev_anew(rev: Rev, start: int) -> Rev:
    """The rev of a record in the life that begins behind a number: a handle of an earlier life does not have it."""
    return rev[:-12] + blake2b(f"{rev}@{start}".encode(), digest_size=6).hexdigest()


def _checks(record: Rev, last: tuple[str, Rev] | None) -> list[Op]:
    """What must be there for a batch to go on: the record, and the event before puts. Appends name its number."""
    return [Check(RECORD.spec.name, "", record), *([] if last is None else [Check(EVENT.spec.name, *last)])]


def _events(one: Copy, start: int, stop: int, shift: int) -> Sequence[Op]:
    """The ops of some events: puts under their numbers, or appends of which the first names the number before it."""
    ops = one.events[start:stop]
    if one.digest is None:
        return (
            [
                msgspec.structs.replace(op, sort=keys.seq_sort(n + shift))
                for op, n in zip(ops, one.numbers[start:], strict=False)
            ]
            if shift
            else ops
        )
    if not ops:
        return ops
    first = msgspec.structs.replace(ops[0], after=one.numbers[start] + shift - 1)
    return [first, *ops[1:]]


def _end(one: Copy, shift: int) -> list[Op]:
    """The head of the finished log, where it says more than the number of its last event."""
    if one.head == Head(one.numbers[-1] if one.numbers else 0):
        return []
    head = Head(one.head.seq + shift, one.head.floor + shift, one.head.sealed)
    return [Put(EVENT.spec.name, HEAD, msgspec.json.encode(head))]


def _cuts(ops: Sequence[Put] | Sequence[Append], start: int) -> list[int]:
    """Where batches of the events from `start` end. A document that goes to the blob store is small, and two ops."""
    cuts: list[int] = []
    number, size = 0, 0
    for at in range(start, len(ops)):
        length = len(ops[at].doc)
        large = length > INLINE
        number, size = number + 1 + large, size + (200 if large else length)
        if number > PER_BATCH or size > BATCH_BYTES:
            cuts.append(at)
            number, size = 1 + large, 200 if large else length
    return [*cuts, len(ops)]
