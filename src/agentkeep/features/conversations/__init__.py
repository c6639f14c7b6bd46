"""Conversations: events in order, state, handoffs, context windows, forks, live tails."""

from .bindings import Binding, Bindings
from .content import (
    Content,
    Data,
    Handoff,
    Media,
    Parts,
    StateChange,
    Text,
    ToolCall,
    ToolResult,
    as_content,
    text_of,
)
from .conversation import Conversation, New
from .conversations import Conversations
from .finding import Bound, Membership
from .participants import Participant, Participants, Stay
from .records import Activity, ConversationRecord, Event, Origin, State
from .sweep import Sweep
from .window import Context, estimate, window

__all__ = [
    "Activity",
    "Binding",
    "Bindings",
    "Bound",
    "Content",
    "Context",
    "Conversation",
    "ConversationRecord",
    "Conversations",
    "Data",
    "Event",
    "Handoff",
    "Media",
    "Membership",
    "New",
    "Origin",
    "Participant",
    "Participants",
    "Parts",
    "State",
    "StateChange",
    "Stay",
    "Sweep",
    "Text",
    "ToolCall",
    "ToolResult",
    "as_content",
    "estimate",
    "text_of",
    "window",
]
