"""A timeline as a person reads it: index, time, channel, who, and what was said or done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from ..features.conversations import (
    ConversationRecord,
    Data,
    Event,
    Handoff,
    Parts,
    State,
    StateChange,
    ToolCall,
    ToolResult,
    text_of,
)
from .output import clean, colour, encode, metadata_text, pairs, plain, when

LONGEST = 600
"""Characters of one event that are shown."""


def header(record: ConversationRecord, state: State, events: int) -> Table:
    """The record and the state of a conversation."""
    active = state.active_agent
    return pairs(
        {
            "conversation": plain(record.id, "bold"),
            "title": record.title,
            "user": record.user,
            "agent": record.agent if active is None else None,
            "status": record.status,
            "created": when(record.created_at),
            "events": f"{events:,}",
            "metadata": metadata_text(record.metadata) or None,
            "fork of": None if record.origin is None else f"{record.origin.conversation}, up to {record.origin.index}",
            "active agent": None if active is None else _active(state),
            "phase": state.phase,
            "data": encode(state.data).decode() if state.data else None,
        }
    )


def _active(state: State) -> Text:
    text = plain(state.active_agent or "", colour(state.active_agent or ""))
    before = f" (before: {clean(state.previous_agent)})" if state.previous_agent else ""
    return text.append(f"{before}, {state.handoffs} handoff{'' if state.handoffs == 1 else 's'}", "dim")


def timeline(
    events: Iterable[Event], width: int, *, live: bool = False, marks: Mapping[int, str] | None = None
) -> Table:
    """Events as rows; `width` is that of the screen. `live`: one of many tables that stand under each other.

    `marks` are remarks, each behind the event of an index.
    """
    made = Table.grid(padding=(0, 1))
    made.add_column(justify="right", style="dim", no_wrap=True, min_width=4 if live else None)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(style="dim", no_wrap=True, min_width=6 if live else None, max_width=10)
    made.add_column(no_wrap=True, min_width=8 if live else None, max_width=max(8, width // 6))
    made.add_column(overflow="fold")
    day = ""
    for event in events:
        today, time = when(event.created_at).split(" ")
        if today != day and not live:
            made.add_row("", today)
            day = today
        made.add_row(str(event.index), time, plain(event.channel or ""), _who(event), said(event))
        if marks is not None and event.index in marks:
            made.add_row("", "", "", "", Text(f"── {marks[event.index]} ──", "bold red"))
    return made


def _who(event: Event) -> Text:
    name = event.sender or event.agent or event.role or ""
    return plain(name, colour(name))


def said(event: Event) -> Text:
    """What an event says, marked by what it is."""
    match event.content:
        case ToolCall(_, name, arguments):
            return plain(f"→ {name}({_arguments(arguments)})", "cyan")
        case ToolResult(_, output, error):
            return plain(f"← failed: {error}", "red") if error is not None else plain(f"← {_value(output)}", "dim cyan")
        case Handoff(to, _, reason):
            text = Text("⇢ hands over to ", "bold").append_text(plain(to, f"bold {colour(to)}"))
            return text.append(f": {clean(reason)}" if reason else "")
        case StateChange(changes):
            return plain("· " + ", ".join(f"{name} = {_value(value)}" for name, value in changes.items()), "dim")
        case Data(data):
            return plain(_cut(encode(data).decode()), "dim")
        case Parts(parts):
            return Text("\n").join(plain(_cut(text_of(part))) for part in parts)
        case content:
            return plain(_cut(text_of(content)))


def _arguments(value: object) -> str:
    if isinstance(value, dict):
        return _cut(", ".join(f"{name}={_value(item)}" for name, item in value.items()))  # type: ignore[union-attr]
    return "" if value is None else _value(value)


def _value(value: object) -> str:
    return _cut(value if isinstance(value, str) else encode(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"
