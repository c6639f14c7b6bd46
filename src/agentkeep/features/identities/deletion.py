"""Deleting a person: gone at once, their addresses free at once, the rows removed afterwards.

The row of the person becomes a tombstone, which names no one and keeps the id's last life: a resolve that broke off
long ago cannot make the person anew. What is left when a deletion breaks off is invisible, and removed by `finish`.
"""

from __future__ import annotations

from ... import keys
from ...errors import StoreError
from ...records import record_of
from ...store import Store
from ...waist import Batch, Delete, Op
from .addresses import key_of as address_key
from .lookup import live, owner
from .merging import belongings
from .records import Address, Contact, ExternalId, Identity, Membership, Reference
from .rows import change, key_of, read, unknown

ADDRESS, CONTACT = record_of(Address), record_of(Contact)
KINDS = (CONTACT, record_of(ExternalId), record_of(Membership))


async def delete(store: Store, id: str) -> None:
    """Delete a person, with the addresses and all else that is theirs.

    Raises NotFound where there is nobody; what an earlier call left is then removed all the same.
    """

    async def attempt() -> Identity | None:
        found = await live(store, id)
        if found is None:
            return None
        grave = Identity(id=found.value.id, life=found.value.life, deleted=True, pending="delete")
        await change(store, found._replace(row=None), grave)
        return found.value

    dead = await store.again(attempt, key_of(id))
    if dead is None:
        (grave,) = await read(store, id)
        if grave is not None and grave.value.deleted:
            await clean(store, grave.value.reference)
        raise unknown(id, "delete")
    await clean(store, dead.reference)


async def clean(store: Store, dead: Reference) -> None:
    """Remove what a deleted person left. May be repeated. An error's outcome is unknown: a part may be removed."""

    async def attempt() -> None:
        for kind in KINDS:
            while rows := await belongings(store, kind.spec.name, dead):
                if kind is CONTACT:
                    await _free(store, [CONTACT.decode(row) for row in rows])
                ops: list[Op] = [Delete(row.key.kind, row.key.sort) for row in rows]
                await store.commit(keys.partition(dead.id), ops)
        (grave,) = await read(store, dead.id)
        if grave is not None and grave.value.life == dead.life and grave.value.pending is not None:
            await change(store, grave, Identity(id=dead.id, life=dead.life, deleted=True))

    try:
        await store.again(attempt, key_of(dead.id))
    except StoreError as error:
        error.outcome = "unknown"  # the person is gone, what was theirs is not all removed
        raise


async def _free(store: Store, contacts: list[Contact]) -> None:
    """Remove the rows of addresses that nobody has."""
    batches: list[Batch] = []
    for row in await store.engine.get([address_key(one.spot) for one in contacts]):
        if row is not None and await owner(store, ADDRESS.decode(row)) is None:
            batches.append(Batch(row.key.partition, (Delete(ADDRESS.spec.name, "", row.rev),), store.ids()))
    for answer in await store.commit_all(batches) if batches else []:
        if isinstance(answer, StoreError):
            raise answer
