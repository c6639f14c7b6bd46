"""The public names of all features: what `agentkeep` gives when one of them is asked for, not when it is imported."""

from .conversations import (
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
from .identities import Address, Candidate, Identities, Identity
from .observations import Observation, Observations
from .tasks import Task, TaskChange, Tasks

__all__ = [
    "Activity",
    "Address",
    "Candidate",
    "Context",
    "Conversation",
    "ConversationRecord",
    "Conversations",
    "Data",
    "Event",
    "Handoff",
    "Identities",
    "Identity",
    "Media",
    "New",
    "Observation",
    "Observations",
    "Parts",
    "State",
    "StateChange",
    "Task",
    "TaskChange",
    "Tasks",
    "Text",
    "ToolCall",
    "ToolResult",
]
