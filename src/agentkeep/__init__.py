"""agentkeep: one storage library for AI agents.

async with Store.open("agents.db") as store:
    talk = await store.conversations.ensure("support-42", user="alice")
    await talk.append("My invoice is wrong", sender="alice", channel="sms", key="msg-881")
"""

__version__ = "0.1.0"

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
from .features.conversations import (
    Activity,
    Binding,
    Bindings,
    Bound,
    Context,
    Conversation,
    ConversationRecord,
    Conversations,
    Data,
    Event,
    Handoff,
    Media,
    Membership,
    New,
    Participant,
    Participants,
    Parts,
    State,
    StateChange,
    Stay,
    Sweep,
    Text,
    ToolCall,
    ToolResult,
)
from .features.locks import Lease, Locks
from .pages import Listing, Page
from .records import Stored, record
from .store import Store

__all__ = [
    "Activity",
    "Binding",
    "Bindings",
    "Bound",
    "Closed",
    "Conflict",
    "Contention",
    "Context",
    "Conversation",
    "ConversationRecord",
    "Conversations",
    "Corrupt",
    "Data",
    "Denied",
    "Event",
    "Handoff",
    "IndexNotReady",
    "Invalid",
    "Lease",
    "Listing",
    "Locks",
    "Media",
    "Membership",
    "MissingExtra",
    "New",
    "NotFound",
    "Page",
    "Participant",
    "Participants",
    "Parts",
    "SchemaMismatch",
    "State",
    "StateChange",
    "Stay",
    "Store",
    "StoreError",
    "Stored",
    "Sweep",
    "Text",
    "TooLarge",
    "ToolCall",
    "ToolResult",
    "Unavailable",
    "Unsupported",
    "record",
]
