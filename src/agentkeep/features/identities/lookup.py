"""Who someone is: the person behind an id or an address, with what broke off before finished first."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from ... import keys
from ...errors import Conflict, Key
from ...records import record_of
from ...store import Store
from ...waist import Put
from .merging import finish
from .records import Address, Contact, Identity, Reference, Spot, contact
from .rows import Found, external_ops, follow, indexed, put, read, unknown

ADDRESS, CONTACT = record_of(Address), record_of(Contact)


class Addressed(NamedTuple):
    """An address as it was read."""

    value: Address
    rev: str

    def put(self, value: Address) -> Put:
        """The op that replaces it, as it was read."""
        return ADDRESS.put(value, self.rev)


async def live(store: Store, id: str, life: str | None = None) -> Found | None:
    """The person that an id leads to, who is in no merge: one that was begun is finished first."""
    while True:
        found = await follow(store, id, life)
        if found is None or found.value.merge is None:
            return found
        await finish(store, found.value.merge)


async def known(store: Store, id: str, operation: str) -> Found:
    """As `live`. Raises NotFound."""
    found = await live(store, id)
    if found is None:
        raise unknown(id, operation)
    return found


async def at(store: Store, spot: Spot) -> Addressed | None:
    """The row of an address."""
    (row,) = await store.engine.get([Key(ADDRESS.spec.name, spot.partition, "")])
    return None if row is None else Addressed(ADDRESS.decode(row), row.rev)


async def owner(store: Store, address: Address) -> Found | None:
    """The person who has an address. None where that person was deleted: the address is free.

    Where a resolve broke off before it had made the person, the person is made.
    """
    found = await live(store, address.identity, address.life)
    if found is not None or not address.born:
        return found
    (row,) = await read(store, address.identity)
    if row is None:
        with suppress(Conflict):  # another one made the person
            await bear(store, newborn(store, address.reference, address.organization), address.spot)
    return await live(store, address.identity, address.life)


async def is_of(store: Store, address: Address, person: Reference) -> bool:
    """Whether an address belongs to a person."""
    if address.reference == person:
        return True
    found = await owner(store, address)
    return found is not None and found.value.reference == person


def newborn(store: Store, reference: Reference, organization: str | None) -> Identity:
    """A person of whom nothing is known but an address."""
    made = Identity(id=reference.id, life=reference.life, organization=organization, created_us=store.clock())
    return indexed(made)


async def bear(store: Store, identity: Identity, spot: Spot | None = None) -> None:
    """Make a person, with the contact that an address brings. Raises Conflict where the id is, or was, someone's."""
    ops = [put(identity, "absent"), *external_ops({}, identity)]
    if spot is not None:
        ops.append(CONTACT.put(contact(identity.reference, spot)))
    await store.commit(keys.partition(identity.id), ops)
