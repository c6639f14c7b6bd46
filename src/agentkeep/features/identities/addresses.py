"""Addresses: whose they are, and how they come and go.

The address's own row says whose it is, and it is one row: an address belongs to one person. A person's contacts are
rows in the person's partition that say which addresses to look at. The contact is written before the address and
removed after it, so a person's list misses none of their addresses, whatever breaks off in between; a contact whose
address is not the person's is not listed. `resolve` alone writes the address first, since nobody may have it twice: it
carries the id of the person to be, and whoever meets it makes that person.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from ... import keys
from ...errors import Conflict, Key, NotFound
from ...records import record_of
from ...store import Store
from ...waist import Delete, Op, Row
from .lookup import Addressed, at, bear, is_of, known, live, owner
from .records import Address, Contact, Identity, Reference, Spot, contact
from .rows import Found, change, external_ops, still, union

ADDRESS, CONTACT = record_of(Address), record_of(Contact)


def key_of(spot: Spot) -> Key:
    """Where an address lives."""
    return Key(ADDRESS.spec.name, spot.partition, "")


def taken(spot: Spot, operation: str) -> Conflict:
    """The error for an address that another person has. It does not say who."""
    hint = "Another person has this address: unlink it there first, or merge the two people."
    return Conflict(key_of(spot), "absent", "another person's address", operation=operation, hint=hint)


def not_theirs(spot: Spot, operation: str) -> NotFound:
    """The error for an address that the person does not have."""
    return NotFound("the person does not have this address", key=key_of(spot), operation=operation)


async def find(store: Store, spot: Spot) -> Identity | None:
    """The person who has an address, or None."""
    found = await at(store, spot)
    person = None if found is None else await owner(store, found.value)
    return None if person is None else person.value


async def resolve(store: Store, spot: Spot, new: Identity) -> Identity:
    """The person who has an address, or one like `new`, with ids of their own, who has it from now on."""

    async def attempt() -> Identity:
        while True:
            found = await at(store, spot)
            person = None if found is None else await owner(store, found.value)
            if person is not None:
                return person.value
            mine = msgspec.structs.replace(new, id=store.ids(), life=store.ids())
            await _write(store, spot, mine.reference, found, born=True)
            with suppress(Conflict):  # another one has met the address and made the person
                await bear(store, mine, spot)
                return mine
            person = await live(store, mine.id, mine.life)
            if person is not None:
                return await _fill(store, person, mine)

    return await store.again(attempt, key_of(spot))


async def _fill(store: Store, person: Found, new: Identity) -> Identity:
    """Add to a person what is known of them."""
    whole = union(person.value, new)
    if whole == person.value:
        return whole
    return await change(store, person, whole, *external_ops(person.value.external_ids, whole))


async def link(store: Store, id: str, spot: Spot) -> Address:
    """Give an address to a person. Raises NotFound, and Conflict where another person has it."""

    async def attempt() -> Address | Conflict:
        person = await known(store, id, "link")
        reference = person.value.reference
        found = await at(store, spot)
        holder = None if found is None else await owner(store, found.value)
        if holder is not None and holder.value.reference != reference:
            await still(store, person)
            return taken(spot, "link")
        if found is None or holder is None:
            await _note(store, person, spot)
            found = await _write(store, spot, reference, found)
        elif found.value.reference != reference:
            found = await _rename(store, found, reference)
        try:
            await _note(store, person, spot)
        except Conflict:
            await _settle(store, found)
            raise
        return found.value

    answer = await store.again(attempt, key_of(spot))
    if isinstance(answer, Conflict):
        raise answer
    return answer


async def _note(store: Store, person: Found, spot: Spot) -> None:
    """Write the contact of a person for an address, anew where it is there. Raises Conflict where the person changed.

    It is written once more after the address: an unlink of before, which is about to remove it, then leaves it.
    """
    ops: list[Op] = [person.check, CONTACT.put(contact(person.value.reference, spot))]
    await store.commit(keys.partition(person.value.id), ops)


async def _write(
    store: Store, spot: Spot, reference: Reference, found: Addressed | None, *, born: bool = False
) -> Addressed:
    """Write the row of an address that nobody has. Raises Conflict."""
    made = Address(
        channel_type=spot.channel_type,
        address=spot.address,
        organization=spot.organization,
        identity=reference.id,
        life=reference.life,
        linked_us=store.clock(),
        born=born,
    )
    receipt = await store.commit(spot.partition, [ADDRESS.put(made, "absent" if found is None else found.rev)])
    return Addressed(made, receipt.id)


async def _rename(store: Store, found: Addressed, reference: Reference) -> Addressed:
    """An address that names a person under an id they had before names them."""
    named = msgspec.structs.replace(found.value, identity=reference.id, life=reference.life, born=False)
    receipt = await store.commit(named.spot.partition, [found.put(named)])
    return Addressed(named, receipt.id)


async def _settle(store: Store, found: Addressed) -> None:
    """Remove an address whose person was deleted meanwhile. Raises NotFound then."""
    address = found.value
    if await live(store, address.identity, address.life) is not None:
        return
    with suppress(Conflict):  # another one has it by now
        await store.commit(address.spot.partition, [Delete(ADDRESS.spec.name, "", found.rev)])
    raise NotFound("the person was deleted meanwhile", key=key_of(address.spot), operation="link")


async def unlink(store: Store, id: str, spot: Spot) -> None:
    """Take an address from a person. Raises NotFound where the person does not have it."""

    async def attempt() -> None:
        person = await known(store, id, "unlink")
        reference = person.value.reference
        place = Key(CONTACT.spec.name, keys.partition(reference.id), contact(reference, spot).place)
        (noted,) = await store.engine.get([place])
        found = await at(store, spot)
        mine = found is not None and await is_of(store, found.value, reference)
        if mine and found is not None:
            await store.commit(spot.partition, [Delete(ADDRESS.spec.name, "", found.rev)])
        if noted is not None:
            with suppress(Conflict):  # a link has written it since
                await store.commit(place.partition, [Delete(place.kind, place.sort, noted.rev)])
        if not mine:
            await still(store, person)
            raise not_theirs(spot, "unlink")

    await store.again(attempt, key_of(spot))


async def verify(store: Store, id: str, spot: Spot, method: str) -> Address:
    """Note that a person's address was verified. Raises NotFound where the person does not have it."""

    async def attempt() -> Address:
        person = await known(store, id, "verify")
        found = await at(store, spot)
        if found is None or not await is_of(store, found.value, person.value.reference):
            await still(store, person)
            raise not_theirs(spot, "verify")
        verified = msgspec.structs.replace(found.value, verified_us=store.clock(), verified_by=method)
        await store.commit(spot.partition, [found.put(verified)])
        return verified

    return await store.again(attempt, key_of(spot))


async def listed(store: Store, person: Reference, contacts: Sequence[Row]) -> list[Address]:
    """The addresses of a person that contacts speak of: those that are the person's."""
    spots = [CONTACT.decode(row).spot for row in contacts]
    rows = await store.engine.get([key_of(spot) for spot in spots]) if spots else []
    found = [ADDRESS.decode(row) for row in rows if row is not None]
    return [address for address in found if await is_of(store, address, person)]
