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
