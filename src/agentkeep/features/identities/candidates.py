"""Candidates: the people who may be behind an address, until one of them is confirmed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from ...errors import Invalid, Key, TooLarge
from ...records import record_of
from ...store import Store
from ...waist import Delete
from .addresses import link, verify
from .lookup import known
from .records import Address, Candidate, Candidates, Reference, Spot, text
from .rows import follow, still, unknown

CANDIDATES = record_of(Candidates)

MAX_CANDIDATES = 100

People = dict[Reference, Candidate]


async def suggest(store: Store, spot: Spot, people: Mapping[str, float]) -> list[Candidate]:
    """Add people, or change their confidence; who was rejected stays so. Raises NotFound, Invalid, TooLarge."""
    given: dict[Reference, float] = {}
    for id, confidence in _checked(people).items():
        person = await known(store, id, "suggest")
        given[person.value.reference] = max(confidence, given.get(person.value.reference, 0.0))

    def add(found: People) -> People:
        for reference, confidence in given.items():
            rejected = reference in found and found[reference].rejected
            found[reference] = Candidate(reference.id, reference.life, confidence, rejected)
        return found

    return _open(await _change(store, spot, add))


async def listed(store: Store, spot: Spot) -> list[Candidate]:
    """Who may be behind an address, the most likely first. Those rejected, and those deleted, are left out."""
    found = await store.get(Candidates, spot.partition)
    return _open(await _now(store, () if found is None else found.value.people))


async def confirm(store: Store, id: str, spot: Spot, method: str) -> Address:
    """One of them it is: the person gets the address, verified. Raises NotFound, Conflict where another has it.

    The candidates are removed last: one that broke off is finished by the same call.
    """
    await link(store, id, spot)
    address = await verify(store, id, spot, method)
    await store.commit(spot.partition, [Delete(CANDIDATES.spec.name, "")])
    return address


async def reject(store: Store, id: str, spot: Spot) -> list[Candidate]:
    """Note that a person is not the one, for good. Raises NotFound where the person is no candidate."""

    async def attempt() -> list[Candidate]:
        person = await known(store, id, "reject")
        reference = person.value.reference

        def drop(found: People) -> People:
            if reference in found:
                found[reference] = msgspec.structs.replace(found[reference], rejected=True)
            return found

        found = await _change(store, spot, drop)
        if reference not in found:
            await still(store, person)
            raise unknown(id, "reject")
        return _open(found)

    return await store.again(attempt, Key(CANDIDATES.spec.name, spot.partition, ""))


async def _change(store: Store, spot: Spot, change: Callable[[People], People]) -> People:
    async def attempt() -> People:
        found = await store.get(Candidates, spot.partition)
        people = change(await _now(store, () if found is None else found.value.people))
        if len(people) > MAX_CANDIDATES:
            raise TooLarge("the candidates", limit=MAX_CANDIDATES, size=len(people), unit="people", operation="suggest")
        new = Candidates(
            channel_type=spot.channel_type,
            address=spot.address,
            organization=spot.organization,
            people=tuple(people.values()),
        )
        await store.commit(spot.partition, [CANDIDATES.put(new, "absent" if found is None else found.rev)])
        return people

    return await store.again(attempt, Key(CANDIDATES.spec.name, spot.partition, ""))


async def _now(store: Store, people: tuple[Candidate, ...]) -> People:
    """The candidates as who they are now: merged ones are one, with the greater confidence, rejected if one was."""
    found: People = {}
    for one in people:
        person = await follow(store, one.identity, one.life)
        if person is None:
            continue
        reference = person.value.reference
        other = found.get(reference, one)
        confidence, rejected = max(one.confidence, other.confidence), one.rejected or other.rejected
        found[reference] = Candidate(reference.id, reference.life, confidence, rejected)
    return found


def _open(people: People) -> list[Candidate]:
    wanted = [one for one in people.values() if not one.rejected]
    return sorted(wanted, key=lambda one: (-one.confidence, one.identity))


def _checked(people: object) -> dict[str, float]:
    if not isinstance(people, Mapping) or not people:
        raise Invalid("candidates are a mapping of people's ids to confidences", operation="suggest")
    found: dict[str, float] = {}
    for id, confidence in cast("Mapping[object, object]", people).items():
        if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
            raise Invalid("a confidence is a number from 0 to 1", operation="suggest")
        found[text(id, "id")] = float(confidence)
    return found
