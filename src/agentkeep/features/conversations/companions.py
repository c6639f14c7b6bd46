"""The records that stand beside the events of a conversation and live with it.

version    what an event said before an edit          place: index / number
delivery   what became of an event on a channel       place: index / channel
marker     how far a reader has read, or delivery is  place: delivered, or read / reader
summary    what an agent, or all, said so far         place: whose / number
usage      tokens and cost of an agent                place: whose
private    free JSON that no history shows            place: key
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from ...codec import Json
from ...ids import to_datetime
from ...keys import short
from ...records import record
from ..arguments import identifier
from .content import Content


@record("version", partition="conversation", sort="place", within="conversation")
class Version(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an event said before an edit: version `number` (0: as it was appended), by whom and until when."""

    conversation: str
    place: str
    index: int
    number: int
    content: Content
    by: str | None = None
    written_us: int = 0
    replaced_us: int | None = None

    @property
    def written_at(self) -> datetime:
        """When it was appended, or put there by an edit."""
        return to_datetime(self.written_us)


@record("delivery", partition="conversation", sort="place", within="conversation")
class Delivery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an event on a channel: any JSON of whoever delivers."""

    conversation: str
    place: str
    index: int
    channel: str
    result: Json = None
    recorded_us: int = 0

    @property
    def recorded_at(self) -> datetime:
        """When it was recorded."""
        return to_datetime(self.recorded_us)


@record("marker", partition="conversation", sort="place", within="conversation")
class Marker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The index up to which a reader has read; without a reader, up to which events are delivered."""

    conversation: str
    place: str
    reader: str | None = None
    index: int = 0
    marked_us: int = 0

    @property
    def marked_at(self) -> datetime:
        """When it was moved last."""
        return to_datetime(self.marked_us)


@record("summary", partition="conversation", sort="place", within="conversation")
class Summary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said from one index to another, in short: of the conversation, or for one agent."""

    conversation: str
    place: str
    text: str
    start: int
    upto: int
    version: int
    agent: str | None = None
    created_us: int = 0

    @property
    def created_at(self) -> datetime:
        """When it was put."""
        return to_datetime(self.created_us)


@record("usage", partition="conversation", sort="place", within="conversation")
class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens and cost so far, of an agent or without one. `cost_micros` is in millionths of the caller's currency."""

    conversation: str
    place: str
    agent: str | None = None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0


@record("private", partition="conversation", sort="place", within="conversation")
class PrivateState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Free JSON under a key of its owner."""

    conversation: str
    place: str
    key: str
    value: Json = None


class EventCounts(Struct, frozen=True):
    """Events by type and by agent; not exact where the budget ended the count. Events without an agent are under ""."""

    total: int
    by_type: dict[str, int]
    by_agent: dict[str, int]
    exact: bool


RECORDS = (Version, Delivery, Marker, Summary, Usage, PrivateState)

CONVERSATION = "all"


def whose(agent: object) -> str:
    """The part of a place that says of which agent a row is; None is the conversation's. Raises Invalid."""
    return CONVERSATION if agent is None else f"agent:{short(identifier(agent, 'agent'))}"
