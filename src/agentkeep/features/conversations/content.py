"""What an event can hold: text, parts, tool calls and results, handoffs, changes of state, any JSON."""

from __future__ import annotations

from json import dumps
from typing import TypeAlias, cast

from msgspec import Struct

from ...codec import Json, check, plain
from ...errors import Invalid


class Text(Struct, frozen=True, tag_field="kind", tag="text"):
    """Plain text."""

    text: str


class Media(Struct, frozen=True, tag_field="kind", tag="media", omit_defaults=True):
    """An image, a sound, a file: its bytes as base64, or a URL. Large ones go to the blob store by themselves."""

    media_type: str
    data: str | None = None
    url: str | None = None
    name: str | None = None


class Parts(Struct, frozen=True, tag_field="kind", tag="parts"):
    """A message of several parts, in order."""

    parts: tuple[Text | Media | Data, ...]


class ToolCall(Struct, frozen=True, tag_field="kind", tag="tool_call"):
    """An agent calls a tool. `id` ties the result to it."""

    id: str
    name: str
    arguments: Json = None


class ToolResult(Struct, frozen=True, tag_field="kind", tag="tool_result", omit_defaults=True):
    """What a tool gave back, or why it failed."""

    id: str
    output: Json = None
    error: str | None = None


class Handoff(Struct, frozen=True, tag_field="kind", tag="handoff", omit_defaults=True):
    """The conversation passes from one agent to another."""

    to: str
    previous: str | None = None
    reason: str | None = None


class StateChange(Struct, frozen=True, tag_field="kind", tag="state"):
    """Names and new values of free data, as a note in the timeline."""

    changes: dict[str, Json]


class Data(Struct, frozen=True, tag_field="kind", tag="data"):
    """Any other JSON."""

    data: Json


Content: TypeAlias = Text | Parts | Media | ToolCall | ToolResult | Handoff | StateChange | Data

TYPES: dict[type, str] = {
    Text: "message",
    Parts: "message",
    Media: "message",
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Handoff: "handoff",
    StateChange: "state",
    Data: "data",
}
"""The type of an event whose caller names none."""


def as_content(value: object) -> Content:
    """What a caller passed, as content: a str is Text, a list of contents is Parts, other JSON is Data.

    pydantic models and dataclasses become Data. Raises Invalid, with the path, for what JSON cannot give back.
    """
    if type(value) is str:
        return Text(value)
    if type(value) in TYPES:
        content = cast(Content, value)
        _check(content)
        return content
    if isinstance(value, (list, tuple)):
        parts = cast("list[object]", value)
        if parts and all(isinstance(part, (Text, Media, Data)) for part in parts):
            return as_content(Parts(tuple(cast("list[Text | Media | Data]", parts))))
    return Data(plain(cast(object, value), "content"))


def text_of(content: Content) -> str:
    """The words of a content, for counting, searching and showing."""
    match content:
        case Text(text):
            return text
        case Parts(parts):
            return "\n".join(text for part in parts if (text := text_of(part)))
        case Media(media_type, _, url, name):
            return f"[{media_type} {name or url or ''}".rstrip() + "]"
        case ToolCall(_, name, arguments):
            return f"{name}({_show(arguments)})"
        case ToolResult(_, output, error):
            return error if error is not None else _show(output)
        case Handoff(to, previous, reason):
            return f"{previous or '?'} → {to}" + (f": {reason}" if reason else "")
        case StateChange(changes):
            return _show(changes)
        case Data(data):
            return _show(data)


def emptied(content: Content) -> Content:
    """The shape of a content with nothing in it: what is left of an event that was retracted.

    Tool calls and results keep their ids, so that they are still pairs, and handoffs say from whom to whom.
    """
    match content:
        case ToolCall(id, name):
            return ToolCall(id, name)
        case ToolResult(id):
            return ToolResult(id, error="retracted")
        case Handoff(to, previous):
            return Handoff(to, previous)
        case StateChange():
            return StateChange({})
        case Data():
            return Data(None)
        case _:
            return Text("")


def marked(content: Content, agent: str | None) -> Content:
    """A content whose first text says which agent speaks: `[agent] `. What has no text stays as it is."""
    if agent is None:
        return content
    match content:
        case Text(text):
            return Text(f"[{agent}] {text}")
        case Parts(parts):
            first = next((at for at, part in enumerate(parts) if isinstance(part, Text)), None)
            if first is None:
                return content
            return Parts((*parts[:first], Text(f"[{agent}] {text_of(parts[first])}"), *parts[first + 1 :]))
        case _:
            return content


def _show(value: Json) -> str:
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def _check(content: Content) -> None:
    match content:
        case ToolCall(arguments=data):
            check(data, "content.arguments")
        case ToolResult(output=data):
            check(data, "content.output")
        case StateChange(changes):
            check(changes, "content.changes")
        case Data(data):
            check(data, "content.data")
        case Parts(parts):
            for part in parts:
                _check(part)
        case Media(data=data, url=url):
            if (data is None) == (url is None):
                raise Invalid("media has either data or a url", hint="Pass base64 text as data, or a url.")
        case _:
            pass
