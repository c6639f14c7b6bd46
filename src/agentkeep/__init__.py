"""agentkeep: one storage library for AI agents.

async with Store.open("agents.db") as store:
    talk = await store.conversations.ensure("support-42", user="alice")
    await talk.append("My invoice is wrong", sender="alice", channel="sms", key="msg-881")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    Closed,
    Conflict,
    Contention,
    Corrupt,
    Denied,
    IndexNotReady,
    Invalid,
    MissingExtra,
    NotFound,
    SchemaMismatch,
    StoreError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from .pages import Listing, Page
from .records import Stored, record
from .store import Store

if TYPE_CHECKING:
    from .features.public import *

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "Address",
    "Binding",
    "Bindings",
    "Bound",
    "Candidate",
    "Closed",
    "Conflict",
    "Contention",
    "Context",
    "Conversation",
    "ConversationRecord",
    "Conversations",
    "Corrupt",
    "Data",
    "Delivery",
    "Denied",
    "Event",
    "EventCounts",
    "Handoff",
    "Identities",
    "Identity",
    "IndexNotReady",
    "Invalid",
    "Lease",
    "Listing",
    "Locks",
    "Marker",
    "Media",
    "Membership",
    "MissingExtra",
    "New",
    "NotFound",
    "Observation",
    "Observations",
    "Page",
    "Participant",
    "Participants",
    "Parts",
    "Private",
    "SchemaMismatch",
    "State",
    "StateChange",
    "Stay",
    "Store",
    "StoreError",
    "Stored",
    "Summaries",
    "Summary",
    "Sweep",
    "Task",
    "TaskChange",
    "Tasks",
    "Text",
    "Thread",
    "TooLarge",
    "ToolCall",
    "ToolResult",
    "Unavailable",
    "Unsupported",
    "Usage",
    "Usages",
    "Version",
    "Viewer",
    "Visibility",
    "record",
]


def __getattr__(name: str) -> object:
    """A name of a feature. Features are loaded when the first one is asked for: importing agentkeep stays quick."""
    from .features import public

    if name in public.__all__:
        return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
