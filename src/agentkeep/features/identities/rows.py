"""The rows of people: read, followed through merges, written with what is derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from ... import keys
from ...blobs.bodies import INLINE
from ...errors import Conflict, Invalid, Key, NotFound, TooLarge
from ...records import record_of
from ...store import Store
from ...waist import Check, Delete, Expect, Op, Put, Row
from .records import ExternalId, Identity, external_id, name_key, short

IDENTITY, EXTERNAL = record_of(Identity), record_of(ExternalId)

MAX_EXTERNAL = 20
"""Ids of other systems that one call may give."""


class Found(NamedTuple):
    """A person as read: the value, its rev, and the row whose fields that this version does not know are kept."""

    value: Identity
    rev: str
    row: Row | None

    @property
    def check(self) -> Check:
        """Holds as long as the row is the one that was read: the person is live, and no merge has begun."""
        return Check(IDENTITY.spec.name, "", self.rev)


def key_of(id: str) -> Key:
    """Where a person lives."""
    return Key(IDENTITY.spec.name, keys.partition(id), "")


def unknown(id: str, operation: str) -> NotFound:
    """The error for an id that no person has."""
    return NotFound("there is no such person", key=key_of(id), operation=operation)


async def read(store: Store, *ids: str) -> list[Found | None]:
    """The rows under ids, in order: of people, of those merged into others, of deleted ones."""
    rows = await store.engine.get([key_of(id) for id in ids])
    return [None if row is None else Found(IDENTITY.decode(row), row.rev, row) for row in rows]


async def follow(store: Store, id: str, life: str | None = None) -> Found | None:
    """The person that an id leads to, through merges; None where there is none, or only in another life."""
    (found,) = await read(store, id)
    while found is not None and not found.value.deleted and life in (None, found.value.life):
        target = found.value.target
        if target is None:
            return found
        life = target.life
        (found,) = await read(store, target.id)
    return None


async def still(store: Store, person: Found) -> None:
    """Raises Conflict where a person was merged or deleted since they were read: what was found then says nothing."""
    found = await follow(store, person.value.id, person.value.life)
    if found is None or found.value.reference != person.value.reference:
        raise Conflict(key_of(person.value.id), person.rev, "another person", operation="identities")


def indexed(identity: Identity) -> Identity:
    """A person with the fields that its indexes read: who is merged or deleted is on no list."""
    live = identity.is_live
    name, organization = identity.display_name, identity.organization
    return msgspec.structs.replace(
        identity,
        shelf="all" if live else None,
        name_key=name_key(name) if live and name is not None else None,
        organization_key=short(organization) if live and organization is not None else None,
    )


def put(identity: Identity, expect: Expect, keep: Mapping[str, Any] | None = None) -> Put:
    """The put of a person. Raises TooLarge."""
    op = IDENTITY.put(identity, expect, keep=keep)
    if len(op.doc) > INLINE:
        hint = "Keep large values elsewhere, and their ids in the metadata."
        raise TooLarge("a person's record", limit=INLINE, size=len(op.doc), key=key_of(identity.id), hint=hint)
    return op


async def change(store: Store, found: Found, new: Identity, *ops: Op) -> Identity:
    """Replace a person's row as it was read, with other ops in its partition. Raises Conflict."""
    made = indexed(new)
    keep = {} if found.row is None else IDENTITY.unknown(found.row)
    await store.commit(keys.partition(new.id), [put(made, found.rev, keep), *ops])
    return made


def fits(identity: Identity) -> bool:
    """Whether a person's record stays in its row."""
    try:
        put(indexed(identity), "any")
    except TooLarge:
        return False
    return True


def union(one: Identity, other: Identity) -> Identity:
    """A person with what another one has and they have not. Of two values of a field, theirs stays."""
    systems = {
        system: tuple(dict.fromkeys([*one.external_ids.get(system, ()), *other.external_ids.get(system, ())]))
        for system in {**one.external_ids, **other.external_ids}
    }
    return msgspec.structs.replace(
        one,
        display_name=one.display_name if one.display_name is not None else other.display_name,
        email=one.email if one.email is not None else other.email,
        organization=one.organization if one.organization is not None else other.organization,
        external_ids=systems,
        metadata={**other.metadata, **one.metadata},
    )


# --- ids of other systems --------------------------------------------------------------------------------------------


def external_ops(old: Mapping[str, tuple[str, ...]], new: Identity) -> list[Op]:
    """What brings the rows of external ids in line with a person's record."""
    before = {(system, value) for system, values in old.items() for value in values}
    after = {(system, value) for system, values in new.external_ids.items() for value in values}
    ops: list[Op] = [EXTERNAL.put(external_id(new.reference, *one)) for one in sorted(after - before)]
    gone = [external_id(new.reference, *one).place for one in sorted(before - after)]
    return [*ops, *(Delete(EXTERNAL.spec.name, place) for place in gone)]


def checked_ids(given: object) -> dict[str, tuple[str, ...] | None]:
    """The external ids that a caller passed: text, or several texts, by system; None stands for none.

    Raises Invalid for anything else, TooLarge for too many.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise Invalid(f"external_ids is a mapping of systems to ids, not {type(given).__name__}")
    found: dict[str, tuple[str, ...] | None] = {}
    for system, values in cast("Mapping[object, object]", given).items():
        found[_text(system)] = None if values is None else _texts(values)
    count = sum(len(values or ()) for values in found.values())
    if count > MAX_EXTERNAL:
        raise TooLarge("the external ids", limit=MAX_EXTERNAL, size=count, unit="ids", operation="identities")
    return found


def _texts(values: object) -> tuple[str, ...]:
    several = cast("Sequence[object]", values) if isinstance(values, (list, tuple)) else (values,)
    return tuple(dict.fromkeys([_text(value) for value in several]))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Invalid("external_ids maps non-empty strings to one or several non-empty strings", operation="identities")
    return value
