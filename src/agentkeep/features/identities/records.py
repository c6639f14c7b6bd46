"""The records of identities: which rows there are, and in which partition each lives.

identity        the person, in a partition of their own; also the place where merges and deletions are decided
contact         in the person's partition: an address the person may have, written before the address itself
external_id     in the person's partition: an id that another system has for the person
membership      in the person's partition: a conversation the person is in
address         in a partition of its own: whose it is; so one address belongs to one person
candidates      in the partition of the address: who may be the person behind it

Rows in a person's partition are placed under the person's life, as what lives with a conversation is.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from ... import keys
from ...errors import Invalid
from ...ids import to_datetime
from ...records import record
from ..conversations.belongings import place

SHORT = 120
"""Bytes of an index value before its digest stands for it: two of them and a tenant fit into an index."""

NAME_LETTERS = 40
"""Letters of a display name that are in its index."""


class Reference(Struct, frozen=True):
    """A person in one life: an id may be deleted and created again, and is another person then."""

    id: str
    life: str


class Merge(Struct, frozen=True):
    """One merge. It stands in the rows of both people from its beginning to its end."""

    id: str
    source: Reference
    target: Reference


@record(
    "identity",
    partition="id",
    indexes={
        "by_created": ("shelf", "created_us"),
        "by_name": ("shelf", "name_key"),
        "by_organization": ("organization_key", "created_us"),
        "by_pending": ("pending",),
    },
)
class Identity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person. Times are microseconds since 1970, UTC.

    `external_ids` are the ids that other systems have for the person, by system. `merged_into` is the id of the
    person that this one was merged into: `Identities.get` follows it. The fields after `life` are the library's own.
    """

    id: str
    display_name: str | None = None
    email: str | None = None
    organization: str | None = None
    external_ids: dict[str, tuple[str, ...]] = {}
    metadata: dict[str, Any] = {}
    created_us: int = 0
    updated_us: int = 0
    merged_into: str | None = None
    life: str = ""
    merged_life: str = ""
    merge: Merge | None = None
    deleted: bool = False
    pending: str | None = None
    shelf: str | None = None
    name_key: str | None = None
    organization_key: str | None = None

    @property
    def created_at(self) -> datetime:
        """When it was created, as an aware datetime."""
        return to_datetime(self.created_us)

    @property
    def updated_at(self) -> datetime | None:
        """When it was changed last, None where it never was."""
        return to_datetime(self.updated_us) if self.updated_us else None

    @property
    def reference(self) -> Reference:
        """The person in this life."""
        return Reference(self.id, self.life)

    @property
    def target(self) -> Reference | None:
        """The person it was merged into."""
        return None if self.merged_into is None else Reference(self.merged_into, self.merged_life)

    @property
    def is_live(self) -> bool:
        """Whether it is a person of its own: neither deleted nor merged into another."""
        return not self.deleted and self.merged_into is None


class Spot(Struct, frozen=True):
    """An address by its parts. What has the same parts is the same address: normalising is the caller's."""

    channel_type: str
    address: str
    organization: str | None = None

    @property
    def packed(self) -> str:
        """The parts as one string that no other parts give."""
        parts = (self.channel_type, self.address)
        return keys.pack(parts if self.organization is None else (*parts, self.organization))

    @property
    def partition(self) -> str:
        """Where the address lives."""
        return keys.partition(self.packed)


def spot(channel_type: object, address: object, organization: object = None) -> Spot:
    """An address that a caller passed. Raises Invalid for a part that is empty or no text."""
    return Spot(
        text(channel_type, "channel_type"),
        text(address, "address"),
        None if organization is None else text(organization, "organization"),
    )


def text(value: object, field: str) -> str:
    """Text that a caller passed. Raises Invalid, with the field, where it is empty or something else."""
    if not isinstance(value, str) or not value:
        raise Invalid(f"{field} is a non-empty string", operation="identities")
    return value


@record("address", partition="address")
class Address(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address and whose it is. `verified_us` and `verified_by` say when and how it was verified, 0 and None if not.

    `born`: the person is made by the resolve that wrote this row.
    """

    channel_type: str
    address: str
    organization: str | None = None
    identity: str
    life: str
    linked_us: int = 0
    verified_us: int = 0
    verified_by: str | None = None
    born: bool = False

    @property
    def spot(self) -> Spot:
        """The address by its parts."""
        return Spot(self.channel_type, self.address, self.organization)

    @property
    def reference(self) -> Reference:
        """The person that the row names, who may have been merged into another since."""
        return Reference(self.identity, self.life)

    @property
    def linked_at(self) -> datetime:
        """When the person got it."""
        return to_datetime(self.linked_us)

    @property
    def verified_at(self) -> datetime | None:
        """When it was verified, None where it was not."""
        return to_datetime(self.verified_us) if self.verified_us else None


@record("contact", partition="identity", sort="place")
class Contact(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address that a person may have. The address itself says who has it."""

    identity: str
    place: str
    channel_type: str
    address: str
    organization: str | None = None

    @property
    def spot(self) -> Spot:
        """The address by its parts."""
        return Spot(self.channel_type, self.address, self.organization)


def contact(owner: Reference, at: Spot) -> Contact:
    """The contact row of a person for an address."""
    return Contact(
        identity=owner.id,
        place=place(owner.life, at.packed),
        channel_type=at.channel_type,
        address=at.address,
        organization=at.organization,
    )


@record("external_id", partition="identity", sort="place", indexes={"by_value": ("system_key", "value_key")})
class ExternalId(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An id that another system has for a person; found by it. Several people may have the same one."""

    identity: str
    place: str
    life: str
    system: str
    value: str
    system_key: str
    value_key: str

    @property
    def reference(self) -> Reference:
        """The person that the row names."""
        return Reference(self.identity, self.life)


def external_id(owner: Reference, system: str, value: str) -> ExternalId:
    """The row by which a person is found under another system's id."""
    return ExternalId(
        identity=owner.id,
        place=place(owner.life, keys.pack((system, value))),
        life=owner.life,
        system=system,
        value=value,
        system_key=short(system),
        value_key=short(value),
    )


@record("membership", partition="identity", sort="place", indexes={"by_recency": ("life", "active_us")})
class Membership(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation that a person is in, in one of its lives: when the person was attached first, and last."""

    identity: str
    place: str
    life: str
    conversation: str
    conversation_life: str
    joined_us: int
    active_us: int


class Candidate(Struct, frozen=True):
    """A person that may be the one behind an address: with a confidence from 0 to 1."""

    identity: str
    life: str
    confidence: float
    rejected: bool = False

    @property
    def reference(self) -> Reference:
        """The person, who may have been merged into another since."""
        return Reference(self.identity, self.life)


@record("candidates", partition="address")
class Candidates(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may be the person behind an address."""

    channel_type: str
    address: str
    organization: str | None = None
    people: tuple[Candidate, ...] = ()


def short(value: str) -> str:
    """An index value for a text of any length: the text itself, or a digest where it is long.

    A text that begins as a digest does is digested too, so none can pretend to be one.
    """
    if not value.startswith("\U0010ffff") and keys.size(value) <= SHORT:
        return value
    return "\U0010ffff" + blake2b(keys.escape(value).encode(), digest_size=32).hexdigest()


def name_key(name: str) -> str:
    """What a display name is found by: its first letters, whatever their case."""
    return name.casefold()[:NAME_LETTERS]


RECORDS = (Identity, Contact, ExternalId, Membership, Address, Candidates)
