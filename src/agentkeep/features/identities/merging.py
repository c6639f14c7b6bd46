"""Merging two people: decided in one place, finished by whoever meets it.

Two people live in two partitions, and no batch writes both. So a merge goes in steps, each of them one compare-and-set
that may be done again by anyone:

1. The row of the person with the lesser id names the merge, then that of the other one. A person who is in a merge is
   in no other and is not changed: whoever wants to finishes the merge first. Rows are taken in the order of ids, so of
   two people merged into each other, or of a ring of them, one merge comes first, and none waits for itself.
2. The source's row says into whom it was merged: this decides. Lookups of its id give the target from now on.
3. What is in the source's partition goes to the target's, the addresses name the target.
4. The target takes what it lacks of the source's record and leaves the merge; the source's row keeps the target's id.

A merge whose second person is gone, or whose records do not fit together, is given up: the first row is released.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ... import keys
from ...errors import Conflict, Invalid, StoreError
from ...records import record_of
from ...store import Store
from ...waist import Batch, Delete, Key, Op, Row, Scan
from ..conversations.belongings import place, places
from .records import (
    Address,
    Contact,
    ExternalId,
    Identity,
    Membership,
    Merge,
    Reference,
    contact,
    external_id,
)
from .rows import Found, change, fits, follow, indexed, key_of, put, read, still, union, unknown

ADDRESS, CONTACT = record_of(Address), record_of(Contact)
EXTERNAL, MEMBERSHIP = record_of(ExternalId), record_of(Membership)

PER_BATCH = 40


async def merge(store: Store, source: str, into: str) -> Identity:
    """Merge one person into another. Raises NotFound, Invalid, TooLarge, and Conflict where another merge won."""
    if source == into:
        raise Invalid("a person is not merged into themselves", key=key_of(source), operation="merge")

    async def attempt() -> Identity | Conflict:
        while True:
            one, other = await _both(store, source, into)
            if begun := one.value.merge or other.value.merge:
                await finish(store, begun)
            elif one.value.merged_into is not None:
                there = await follow(store, source)
                if there is not None and there.value.reference == other.value.reference:
                    return other.value
                await still(store, other)
                return _lost(source, "The source was merged into another person.")
            elif one.value.id == other.value.id:
                return _lost(into, "The target was merged into the source.")
            else:
                put(indexed(union(other.value, one.value)), "any")  # raises TooLarge before anything is written
                begun = Merge(store.ids(), one.value.reference, other.value.reference)
                await _take(store, min(one, other, key=lambda found: found.value.id), begun)
                await finish(store, begun)

    answer = await store.again(attempt, key_of(source))
    if isinstance(answer, Conflict):
        raise answer
    return answer


def _lost(id: str, hint: str) -> Conflict:
    return Conflict(key_of(id), "a person of its own", "merged", operation="merge", hint=hint)


async def _both(store: Store, source: str, into: str) -> tuple[Found, Found]:
    """The row of the source as it is, and the person that the target's id leads to. Raises NotFound."""
    (one,) = await read(store, source)
    other = await follow(store, into)
    if one is None or await follow(store, source) is None:
        raise unknown(source, "merge")
    if other is None:
        raise unknown(into, "merge")
    return one, other


async def finish(store: Store, merge: Merge) -> None:
    """Bring a merge that was begun to its end, or see that it is there. Many may do so at once."""

    async def attempt() -> None:
        while await _step(store, merge):
            pass

    await store.again(attempt, key_of(merge.source.id))


async def _step(store: Store, merge: Merge) -> bool:
    """Do what comes next of a merge. Whether there may be more to do. Raises Conflict where another was faster."""
    source, target = await read(store, merge.source.id, merge.target.id)
    source = source if _is(source, merge.source) else None
    target = target if _is(target, merge.target) else None
    if source is not None and source.value.target == merge.target:
        return await _after(store, merge, source, target)
    if merge.source.id < merge.target.id:
        first, second = source, target
    else:
        first, second = target, source
    if first is None or first.value.merge != merge:
        if second is not None and second.value.merge == merge:
            await _release(store, second)
        return False
    if second is None or not second.value.is_live:
        await _release(store, first)
    elif second.value.merge is None:
        await _take(store, second, merge)
    elif second.value.merge != merge:
        await finish(store, second.value.merge)
    elif source is not None and target is not None and fits(union(target.value, source.value)):
        decided = msgspec.structs.replace(source.value, merged_into=merge.target.id, merged_life=merge.target.life)
        await change(store, source, decided)
    else:
        await _release(store, first)
    return True


async def _after(store: Store, merge: Merge, source: Found, target: Found | None) -> bool:
    """What is left to do of a merge that is decided."""
    if target is not None and target.value.merge == merge:
        await _move(store, source.value.reference, target)
        filled = msgspec.structs.replace(union(target.value, source.value), updated_us=store.clock())
        await change(store, target, msgspec.structs.replace(filled, merge=None, pending=None))
        return True
    if source.value.merge == merge:
        old = source.value
        rest = Identity(id=old.id, life=old.life, created_us=old.created_us, updated_us=store.clock())
        rest = msgspec.structs.replace(rest, merged_into=old.merged_into, merged_life=old.merged_life)
        await change(store, source._replace(row=None), rest)
    return False


def _is(found: Found | None, reference: Reference) -> bool:
    return found is not None and found.value.life == reference.life


async def _take(store: Store, found: Found, merge: Merge) -> None:
    await change(store, found, msgspec.structs.replace(found.value, merge=merge, pending="merge"))


async def _release(store: Store, found: Found) -> None:
    await change(store, found, msgspec.structs.replace(found.value, merge=None, pending=None))


# --- what goes with it -----------------------------------------------------------------------------------------------


async def _move(store: Store, source: Reference, target: Found) -> None:
    """All that is in the source's partition becomes the target's. Each batch checks that the target is as it was."""
    partition = keys.partition(source.id)
    for kind in (CONTACT, EXTERNAL, MEMBERSHIP):
        while rows := await belongings(store, kind.spec.name, source):
            await store.commit(keys.partition(target.value.id), [target.check, *await _puts(store, rows, target)])
            if kind is CONTACT:
                await _readdress(store, rows, source, target.value.reference)
            await store.commit(partition, [Delete(row.key.kind, row.key.sort) for row in rows])


async def belongings(store: Store, kind: str, owner: Reference) -> list[Row]:
    """The next rows of a kind in a person's partition; none is the end."""
    lo, hi = places(owner.life)
    after: str | None = None
    while True:
        scan = Scan(kind, prefix=(keys.partition(owner.id),), lo=lo, hi=hi, limit=PER_BATCH, after=after)
        page = await store.engine.scan(scan)
        if page.rows or page.cursor is None:
            return page.rows
        after = page.cursor


async def _puts(store: Store, rows: Sequence[Row], target: Found) -> list[Op]:
    owner = target.value.reference
    match rows[0].key.kind:
        case CONTACT.spec.name:
            return [CONTACT.put(contact(owner, CONTACT.decode(row).spot)) for row in rows]
        case EXTERNAL.spec.name:
            found = [EXTERNAL.decode(row) for row in rows]
            return [EXTERNAL.put(external_id(owner, one.system, one.value)) for one in found]
        case _:
            return await _memberships(store, [MEMBERSHIP.decode(row) for row in rows], owner)


async def _memberships(store: Store, theirs: Sequence[Membership], owner: Reference) -> list[Op]:
    """The source's memberships as the target's: of two for one conversation, the first and the last time stay."""
    moved = [
        msgspec.structs.replace(one, identity=owner.id, life=owner.life, place=place(owner.life, one.conversation))
        for one in theirs
    ]
    partition = keys.partition(owner.id)
    rows = await store.engine.get([Key(MEMBERSHIP.spec.name, partition, one.place) for one in moved])
    pairs = zip(moved, rows, strict=True)
    return [MEMBERSHIP.put(one if row is None else _joined(one, MEMBERSHIP.decode(row))) for one, row in pairs]


def _joined(one: Membership, other: Membership) -> Membership:
    last = max(one, other, key=lambda membership: membership.active_us)
    if one.conversation_life != other.conversation_life:
        return last
    return msgspec.structs.replace(last, joined_us=min(one.joined_us, other.joined_us))


async def _readdress(store: Store, rows: Sequence[Row], source: Reference, target: Reference) -> None:
    """The addresses of contacts that name the source name the target."""
    spots = [CONTACT.decode(row).spot for row in rows]
    batches: list[Batch] = []
    found = await store.engine.get([Key(ADDRESS.spec.name, spot.partition, "") for spot in spots])
    for row in found:
        if row is None or (address := ADDRESS.decode(row)).reference != source:
            continue
        moved = msgspec.structs.replace(address, identity=target.id, life=target.life, born=False)
        op = ADDRESS.put(moved, row.rev, keep=ADDRESS.unknown(row))
        batches.append(Batch(row.key.partition, (op,), store.ids()))
    for answer in await store.commit_all(batches) if batches else []:
        if isinstance(answer, StoreError):
            raise answer
