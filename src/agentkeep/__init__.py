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
    Context,
    Conversation,
    ConversationRecord,
    Conversations,
    Data,
    Event,
    Handoff,
    Media,
    New,
    Parts,
    State,
    StateChange,
    Text,
    ToolCall,
    ToolResult,
)
from .features.observations import Observation, Observations
from .features.tasks import Task, TaskChange, Tasks
from .pages import Listing, Page
from .records import Stored, record
from .store import Store

__all__ = [
    "Activity",
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
    "Listing",
    "Media",
    "MissingExtra",
    "New",
    "NotFound",
    "Observation",
    "Observations",
    "Page",
    "Parts",
    "SchemaMismatch",
    "State",
    "StateChange",
    "Store",
    "StoreError",
    "Stored",
    "Task",
    "TaskChange",
    "Tasks",
    "Text",
    "TooLarge",
    "ToolCall",
    "ToolResult",
    "Unavailable",
    "Unsupported",
    "record",
]
