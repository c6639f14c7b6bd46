"""The records of conversations: three kinds and a log, so that appends never disturb the state.

conversation    who it is for and what it is called: changes rarely, by compare-and-set
state           who is active, phase, free data: compare-and-set
activity        a copy of the conversation with its recency: what lists read
event           the log
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from ...ids import to_datetime
from ...records import record
from .content import Content
from .visibility import Visibility, audience

Status = Literal["open", "paused", "closed"]


class Origin(Struct, frozen=True):
    """Where a fork came from: a conversation in one of its lives, and the last index it took over."""

    conversation: str
    index: int
    life: str = ""


@record("conversation", partition="id")
class ConversationRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation without its events. Times are microseconds since 1970, UTC.

    `life` tells it from others that had its id before and were deleted: idempotency keys belong to it. Conversations
    that were made before there were lives have the empty one. `pause_after_s` and `close_after_s` are seconds after the
    last activity (see `timers`).
    """

    id: str
    organization: str | None = None
    user: str | None = None
    agent: str | None = None
    title: str | None = None
    status: Status = "open"
    metadata: dict[str, Any] = {}
    origin: Origin | None = None
    created_us: int = 0
    updated_us: int = 0
    life: str = ""
    pause_after_s: int | None = None
    close_after_s: int | None = None

    @property
    def created_at(self) -> datetime:
        """When it was created, as an aware datetime."""
        return to_datetime(self.created_us)


@record(
    "activity",
    partition="id",
    indexes={
        "by_recency": ("shelf", "active_s"),
        "by_user": ("user", "active_s"),
        "by_agent": ("agent", "active_s"),
        "by_status": ("status", "active_s"),
        "by_organization": ("organization", "active_s"),
        "by_due": ("shelf", "due_s"),
    },
    facets=("organization", "user", "agent", "status", "metadata.*"),
    listed=True,
)
class Activity(ConversationRecord, frozen=True, kw_only=True, omit_defaults=True):
    """What lists give: the conversation as it is, the second of its last event, and that of its next timer."""

    active_s: int = 0
    shelf: str = "all"
    due_s: int | None = None

    @property
    def active_at(self) -> datetime:
        """When the last event came, exact to a second."""
        return to_datetime(self.active_s * 1_000_000)


@record("state", partition="conversation")
class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the next agent needs to go on, changed by compare-and-set alone."""

    conversation: str
    active_agent: str | None = None
    previous_agent: str | None = None
    phase: str | None = None
    handoffs: int = 0
    data: dict[str, Any] = {}
    updated_us: int = 0


@record(
    "event",
    partition="conversation",
    log="index",
    facets=("type", "sender", "role", "agent", "channel", "run", "correlation", "parent", "audience", "metadata.*"),
)
class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, at its place in the order: `index` is 1, 2, 3, ... without gaps.

    `sender` is who spoke (a person or a system), `agent` the agent that acted, `channel` where, `run` the agent
    run it belongs to, `correlation` an id of the caller's, `parent` the index of the event it answers.
    `visibility` says who may see it (None: all), `edits` how often it was edited. One that was retracted has the
    shape of its content, and nothing in it.
    """

    conversation: str
    type: str
    content: Content
    sender: str | None = None
    role: str | None = None
    agent: str | None = None
    channel: str | None = None
    run: str | None = None
    correlation: str | None = None
    parent: int | None = None
    key: str | None = None
    metadata: dict[str, Any] = {}
    visibility: Visibility | None = None
    created_us: int = 0
    edits: int = 0
    edited_us: int | None = None
    edited_by: str | None = None
    retracted_us: int | None = None
    retracted_by: str | None = None
    index: int = 0

    @property
    def created_at(self) -> datetime:
        """When it was appended, by the writer's clock. Order is by index, never by time."""
        return to_datetime(self.created_us)

    @property
    def edited_at(self) -> datetime | None:
        """When its content was last changed, None if never."""
        return None if self.edited_us is None else to_datetime(self.edited_us)

    @property
    def retracted_at(self) -> datetime | None:
        """When it was retracted, None if it is not."""
        return None if self.retracted_us is None else to_datetime(self.retracted_us)

    @property
    def audience(self) -> tuple[str, ...] | None:
        """The facet by which engines leave out what a viewer may not see."""
        return audience(self.visibility)


RECORDS = (ConversationRecord, Activity, State, Event)
