"""Conversations: events in order, state, handoffs, context windows, forks, live tails."""

from .appending import New
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
from .conversation import Conversation
from .conversations import Conversations
from .records import Activity, ConversationRecord, Event, Origin, State
from .window import Context, estimate, window

__all__ = [
    "Activity",
    "Content",
    "Context",
    "Conversation",
    "ConversationRecord",
    "Conversations",
    "Data",
    "Event",
    "Handoff",
    "Media",
    "New",
    "Origin",
    "Parts",
    "State",
    "StateChange",
    "Text",
    "ToolCall",
    "ToolResult",
    "as_content",
    "estimate",
    "text_of",
    "window",
]
