"""Conversations: events in order, state, handoffs, context windows, forks, live tails."""

from .appending import New
from .bindings import Binding, Bindings
from .companions import Delivery, Marker, PrivateState, Summary, Usage, Version
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
    marked,
    text_of,
)
from .conversation import Conversation
from .conversations import Conversations
from .finding import Bound, Membership
from .participants import Participant, Participants, Stay
from .private import Private
from .records import Activity, ConversationRecord, Event, Origin, State
from .summaries import Summaries
from .sweep import Sweep
from .threads import Thread
from .usage import EventCounts, Usages
from .visibility import Viewer, Visibility, may_see
from .window import Context, estimate, trim, window

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
    "Delivery",
    "Event",
    "EventCounts",
    "Handoff",
    "Marker",
    "Media",
    "Membership",
    "New",
    "Origin",
    "Participant",
    "Participants",
    "Parts",
    "Private",
    "PrivateState",
    "State",
    "StateChange",
    "Stay",
    "Summaries",
    "Summary",
    "Sweep",
    "Text",
    "Thread",
    "ToolCall",
    "ToolResult",
    "Usage",
    "Usages",
    "Version",
    "Viewer",
    "Visibility",
    "as_content",
    "estimate",
    "marked",
    "may_see",
    "text_of",
    "trim",
    "window",
]
