"""The people of a store: resolve, create, link, merge, and all that is theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ... import keys
from ...errors import Conflict, Invalid, Key, NotFound
from ...pages import Listing, Page
from ...records import record_of
from ...store import Store
from ...waist import Delete, Scan
from ..conversations.belongings import place, places
from ..conversations.conversation import mapping
from ..conversations.records import Activity, ConversationRecord, Event
from . import addresses, candidates, deletion, history, merging
from .lookup import bear, known, live
from .records import (
    Address,
    Candidate,
    Contact,
    ExternalId,
    Identity,
    Membership,
    Reference,
    name_key,
    short,
    spot,
    text,
)
from .rows import change, checked_ids, external_ops, indexed, key_of, put, read, still

T = TypeVar("T")

IDENTITY, CONTACT = record_of(Identity), record_of(Contact)
EXTERNAL, MEMBERSHIP, CONVERSATION = record_of(ExternalId), record_of(Membership), record_of(ConversationRecord)


class Identities:
    """People by id, by address, by the ids of other systems, by name and organization.

    Every method takes any id that a person has or had: the id of one who was merged into another is the other's. A
    call that meets a merge which broke off finishes it first. Addresses are compared as they are given: bring phone
    numbers and mail addresses into one form before. An `organization` makes an address unique within it; the same
    address without one, or within another, is another address.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- people ---

    async def create(
        self,
        id: str | None = None,
        *,
        display_name: str | None = None,
        email: str | None = None,
        organization: str | None = None,
        external_ids: Mapping[str, str | Sequence[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Identity:
        """A new person without an address; without an id it gets one. Raises Conflict where the id is taken.

        An id whose person was deleted may be given again: it is another person then. `external_ids` are ids of other
        systems by system, one or several. Raises TooLarge over 20 of these, or 200,000 bytes.
        """
        identity = self._new(id, display_name, email, organization, external_ids, metadata)
        if id is None:
            await bear(self._store, identity)
            return identity

        async def attempt() -> Identity | Conflict:
            (found,) = await read(self._store, identity.id)
            while found is not None and found.value.deleted and found.value.pending is not None:
                await deletion.clean(self._store, found.value.reference)
                (found,) = await read(self._store, identity.id)
            if found is not None and not found.value.deleted:
                hint = "Use get() for the person who has it."
                return Conflict(key_of(identity.id), "absent", found.rev, operation="create", hint=hint)
            ops = [put(identity, "absent" if found is None else found.rev), *external_ops({}, identity)]
            await self._store.commit(keys.partition(identity.id), ops)
            return identity

        answer = await self._store.again(attempt, key_of(identity.id))
        if isinstance(answer, Conflict):
            raise answer
        return answer

    async def get(self, id: str, *, follow: bool = True) -> Identity | None:
        """The person with this id, or the one they were merged into; None where there is none.

        `follow=False` gives what the id itself names: also one whose `merged_into` says who they are now.
        """
        found = await live(self._store, text(id, "id"))
        if found is None or follow:
            return None if found is None else found.value
        (found,) = await read(self._store, id)
        return None if found is None or found.value.deleted else found.value

    async def update(
        self,
        id: str,
        *,
        display_name: str | UnsetType | None = UNSET,
        email: str | UnsetType | None = UNSET,
        organization: str | UnsetType | None = UNSET,
        external_ids: Mapping[str, str | Sequence[str] | None] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Identity:
        """Change a person by compare-and-set: concurrent changes are all kept. Raises NotFound, TooLarge.

        `metadata` and `external_ids` are merged, a value of None removing its name.
        """
        fields = {"display_name": display_name, "email": email, "organization": organization}
        given = {name: _optional(value, name) for name, value in fields.items() if value is not UNSET}
        systems, more = checked_ids(external_ids), mapping(metadata, "metadata")

        async def attempt() -> Identity:
            found = await known(self._store, id, "update")
            old = found.value
            ids = {name: values for name, values in {**old.external_ids, **systems}.items() if values is not None}
            data = {name: value for name, value in {**old.metadata, **more}.items() if value is not None}
            new = msgspec.structs.replace(old, external_ids=ids, metadata=data, **given)
            if new == old:
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            return await change(self._store, found, new, *external_ops(old.external_ids, new))

        return await self._store.again(attempt, key_of(text(id, "id")))

    async def delete(self, id: str) -> None:
        """Delete a person under all their ids: the record, the addresses, which are free, what they are in.

        The conversations stay. It is gone at once; an error with `outcome="unknown"` says that rows may be left, which
        nobody sees: the same call, or `finish`, removes them. Raises NotFound where there is nobody.
        """
        await deletion.delete(self._store, text(id, "id"))

    def list(
        self,
        *,
        name: str | None = None,
        organization: str | None = None,
        external_id: tuple[str, str] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Listing[Identity]:
        """People, the newest first. Await it for a page, iterate it for all.

        `name` asks for display names that begin so, in any case, in order of names; `organization` for the people of
        one; `external_id` for those that another system, the first part, knows by an id, the second. It takes one of
        the three.
        """
        asked = [one for one in (name, organization, external_id) if one is not None]
        if len(asked) > 1:
            raise Invalid("list takes one of name, organization and external_id", operation="list")

        async def fetch(cursor: str | None) -> Page[Identity]:
            if external_id is not None:
                return await self._by_external(external_id, limit, cursor)
            page = await self._store.scan_rows(_scan(name, organization, limit, cursor))
            found = await self._store.decode(IDENTITY, page.items, page.cursor)
            found.items = [one for one in found.items if _is_asked(one, name, organization)]
            return found

        return Listing(fetch, after)

    async def _by_external(self, asked: tuple[str, str], limit: int, cursor: str | None) -> Page[Identity]:
        system, value = (text(one, "external_id") for one in asked)
        prefix = (short(system), short(value))
        rows = await self._store.scan_rows(Scan(EXTERNAL.spec.name, "by_value", prefix, limit=limit, after=cursor))
        page = await self._store.decode(EXTERNAL, rows.items, rows.cursor)
        people: dict[Reference, Identity] = {}
        for row in page.items:
            found = await live(self._store, row.identity, row.life)
            if found is not None and value in found.value.external_ids.get(system, ()):
                people[found.value.reference] = found.value
        return Page(list(people.values()), page.cursor, page.corrupt)

    # --- addresses ---

    async def resolve(
        self,
        channel_type: str,
        address: str,
        *,
        organization: str | None = None,
        create: bool = True,
        display_name: str | None = None,
        email: str | None = None,
        external_ids: Mapping[str, str | Sequence[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Identity:
        """The person who has an address. Nobody has it: a new person who does, with the fields given.

        However many resolve an address at once, it is one person. With `create=False` raises NotFound where nobody
        has it. Raises Invalid for an empty part. One that breaks off is finished by the next that meets the address.
        """
        at = spot(channel_type, address, organization)
        if create:
            new = self._new(None, display_name, email, organization, external_ids, metadata)
            return await addresses.resolve(self._store, at, new)
        found = await addresses.find(self._store, at)
        if found is None:
            raise NotFound("nobody has this address", key=addresses.key_of(at), operation="resolve")
        return found

    async def find(self, channel_type: str, address: str, *, organization: str | None = None) -> Identity | None:
        """The person who has an address, or None."""
        return await addresses.find(self._store, spot(channel_type, address, organization))

    async def link(self, id: str, channel_type: str, address: str, *, organization: str | None = None) -> Address:
        """Give an address to a person; who has it already keeps it.

        Raises NotFound for an unknown person, Conflict where another person has the address, without saying who.
        """
        return await addresses.link(self._store, text(id, "id"), spot(channel_type, address, organization))

    async def unlink(self, id: str, channel_type: str, address: str, *, organization: str | None = None) -> None:
        """Take an address from a person: it is free. Raises NotFound where the person does not have it."""
        await addresses.unlink(self._store, text(id, "id"), spot(channel_type, address, organization))

    def addresses(self, id: str, *, limit: int = 50, after: str | None = None) -> Listing[Address]:
        """All addresses of a person, in order of channel types and addresses, long ones last. Raises NotFound."""

        async def fetch(cursor: str | None) -> Page[Address]:
            return await self._of(id, "addresses", lambda person: self._addresses(person, limit, cursor))

        return Listing(fetch, after)

    async def _addresses(self, person: Reference, limit: int, cursor: str | None) -> Page[Address]:
        lo, hi = places(person.life)
        scan = Scan(CONTACT.spec.name, None, (keys.partition(person.id),), lo, hi, limit=limit, after=cursor)
        page = await self._store.engine.scan(scan)
        return Page(await addresses.listed(self._store, person, page.rows), page.cursor)

    async def verify(
        self, id: str, channel_type: str, address: str, *, method: str, organization: str | None = None
    ) -> Address:
        """Note that a person's address was verified now, and by what method. Raises NotFound where it is not theirs."""
        at = spot(channel_type, address, organization)
        return await addresses.verify(self._store, text(id, "id"), at, text(method, "method"))

    # --- candidates ---

    async def suggest(
        self, channel_type: str, address: str, people: Mapping[str, float], *, organization: str | None = None
    ) -> Sequence[Candidate]:
        """Note who may be behind an address: ids with a confidence from 0 to 1. Gives all candidates.

        Who was rejected is not suggested again. Raises NotFound for an unknown person, TooLarge over 100 candidates.
        """
        return await candidates.suggest(self._store, spot(channel_type, address, organization), people)

    async def candidates(
        self, channel_type: str, address: str, *, organization: str | None = None
    ) -> Sequence[Candidate]:
        """Who may be behind an address, the most likely first."""
        return await candidates.listed(self._store, spot(channel_type, address, organization))

    async def confirm(
        self, id: str, channel_type: str, address: str, *, method: str, organization: str | None = None
    ) -> Address:
        """A person it is: they get the address, verified, and there are no candidates any more.

        Raises NotFound for an unknown person, Conflict where another person has the address.
        """
        at = spot(channel_type, address, organization)
        return await candidates.confirm(self._store, text(id, "id"), at, text(method, "method"))

    async def reject(
        self, id: str, channel_type: str, address: str, *, organization: str | None = None
    ) -> Sequence[Candidate]:
        """A candidate it is not, for good. Gives those that are left. Raises NotFound where the person is none."""
        return await candidates.reject(self._store, text(id, "id"), spot(channel_type, address, organization))

    # --- merging ---

    async def merge(self, source: str, into: str) -> Identity:
        """Make two people one: all that is the source's is the target's, who is given back.

        The target keeps what it has of the record and takes the rest. The source's id leads to the target from now
        on. A merge that breaks off is finished by the same call, by any that meets one of the two, or by `finish`.
        Raises NotFound, Invalid for one and the same, TooLarge where the two records do not fit together, and Conflict
        where another merge was first: of the source into someone else, or of the target into the source.
        """
        return await merging.merge(self._store, text(source, "source"), text(into, "into"))

    async def finish(self, *, limit: int = 100) -> int:
        """Finish merges and deletions that broke off, `limit` of them at most. Gives how many there were."""
        done = 0
        for kind in ("merge", "delete"):
            page = await self._store.scan(Identity, index="by_pending", prefix=(kind,), limit=limit)
            for one in page:
                done += 1
                if one.merge is not None:
                    await merging.finish(self._store, one.merge)
                elif one.deleted:
                    await deletion.clean(self._store, one.reference)
        return done

    # --- conversations ---

    async def attach(self, id: str, conversation: str) -> None:
        """Note that a person is in a conversation; once more, that they were there again. Raises NotFound."""

        start = key_of(text(id, "id"))
        there = Key(CONVERSATION.spec.name, keys.partition(text(conversation, "conversation")), "")

        async def attempt() -> None:
            person = await known(self._store, id, "attach")
            talk = await self._store.get(ConversationRecord, there.partition)
            if talk is None:
                raise NotFound("there is no such conversation", key=there, operation="attach")
            key = _membership_key(person.value.reference, conversation)
            (row,) = await self._store.engine.get([key])
            now = self._store.clock()
            old = None if row is None else MEMBERSHIP.decode(row)
            made = Membership(
                identity=person.value.id,
                place=key.sort,
                life=person.value.life,
                conversation=conversation,
                conversation_life=talk.value.life,
                joined_us=now if old is None or old.conversation_life != talk.value.life else old.joined_us,
                active_us=now,
            )
            op = MEMBERSHIP.put(made, "absent" if row is None else row.rev)
            await self._store.commit(key.partition, [person.check, op])

        await self._store.again(attempt, start)

    async def detach(self, id: str, conversation: str) -> None:
        """Note that a person is not in a conversation any more. Raises NotFound where they were not."""

        start = key_of(text(id, "id"))
        text(conversation, "conversation")

        async def attempt() -> None:
            person = await known(self._store, id, "detach")
            key = _membership_key(person.value.reference, conversation)
            (row,) = await self._store.engine.get([key])
            if row is None:
                await still(self._store, person)
                raise NotFound("the person is not in this conversation", key=key, operation="detach")
            await self._store.commit(key.partition, [person.check, Delete(key.kind, key.sort, row.rev)])

        await self._store.again(attempt, start)

    def conversations(self, id: str, *, limit: int = 50, after: str | None = None) -> Listing[Activity]:
        """The conversations a person is in, the one attached last first. Raises NotFound.

        Those that were deleted are left out, so a page may be short and go on.
        """

        async def fetch(cursor: str | None) -> Page[Activity]:
            return await self._of(id, "conversations", lambda person: self._conversations(person, limit, cursor))

        return Listing(fetch, after)

    async def _conversations(self, person: Reference, limit: int, cursor: str | None) -> Page[Activity]:
        scan = Scan(MEMBERSHIP.spec.name, "by_recency", (person.life,), None, None, True, limit, cursor)
        rows = await self._store.scan_rows(scan)
        page = await self._store.decode(MEMBERSHIP, rows.items, rows.cursor)
        return Page(await history.activities(self._store, page.items), page.cursor, page.corrupt)

    def history(self, id: str, *, limit: int = 50, after: str | None = None) -> Listing[Event]:
        """All events of all conversations a person is in, in order of time; those of one conversation in its order.

        One page asks all these conversations for their next event. Its cursor grows by 30 bytes for each of them.
        Raises NotFound, Invalid for a damaged cursor.
        """

        async def fetch(cursor: str | None) -> Page[Event]:
            memberships = await self._of(id, "history", self._memberships)
            return await history.page(self._store, memberships, limit, cursor)

        return Listing(fetch, after)

    async def _memberships(self, person: Reference) -> Sequence[Membership]:
        lo, hi = places(person.life)
        found: list[Membership] = []
        after: str | None = None
        while True:
            scan = Scan(MEMBERSHIP.spec.name, None, (keys.partition(person.id),), lo, hi, limit=1_000, after=after)
            page = await self._store.engine.scan(scan)
            found += [MEMBERSHIP.decode(row) for row in page.rows]
            if page.cursor is None:
                return found
            after = page.cursor

    async def _of(self, id: str, operation: str, read: Callable[[Reference], Awaitable[T]]) -> T:
        """What is read of a person, who is the same before and after: a merge in between has moved a part of it."""

        async def attempt() -> T:
            person = await known(self._store, id, operation)
            answer = await read(person.value.reference)
            await still(self._store, person)
            return answer

        return await self._store.again(attempt, key_of(text(id, "id")))

    def _new(
        self,
        id: str | None,
        display_name: str | None,
        email: str | None,
        organization: str | None,
        external: object,
        metadata: Mapping[str, Any] | None,
    ) -> Identity:
        """A person as a caller describes them. Raises Invalid, TooLarge."""
        made = Identity(
            id=self._store.ids() if id is None else text(id, "id"),
            display_name=_optional(display_name, "display_name"),
            email=_optional(email, "email"),
            organization=_optional(organization, "organization"),
            external_ids={name: values for name, values in checked_ids(external).items() if values},
            metadata=mapping(metadata, "metadata"),
            created_us=self._store.clock(),
            life=self._store.ids(),
        )
        identity = indexed(made)
        put(identity, "absent")
        return identity


def _optional(value: object, field: str) -> str | None:
    """Text or None that a caller passed. Raises Invalid for anything else."""
    return None if value is None else text(value, field)


def _membership_key(person: Reference, conversation: str) -> Key:
    """Where it stands that a person is in a conversation."""
    return Key(MEMBERSHIP.spec.name, keys.partition(person.id), place(person.life, conversation))


def _scan(name: str | None, organization: str | None, limit: int, cursor: str | None) -> Scan:
    """The index range of a list."""
    if name is not None:
        lo = name_key(text(name, "name"))
        return Scan(IDENTITY.spec.name, "by_name", ("all",), lo, _above(lo), limit=limit, after=cursor)
    index, prefix = ("by_created", "all") if organization is None else ("by_organization", short(organization))
    return Scan(IDENTITY.spec.name, index, (prefix,), reverse=True, limit=limit, after=cursor)


def _above(prefix: str) -> str | None:
    """The least text greater than every one that begins so; None where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    return kept[:-1] + chr(ord(kept[-1]) + 1) if kept else None


def _is_asked(one: Identity, name: str | None, organization: str | None) -> bool:
    """Whether a person is one that a list asks for: an index holds the first letters of a name alone."""
    if name is not None:
        return one.display_name is not None and one.display_name.casefold().startswith(name.casefold())
    return organization is None or one.organization == organization
