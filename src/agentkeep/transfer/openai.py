"""The Chat Completions format: one object a line, {"messages": [...]}, with an id and metadata where there are some.

A message is an event, each of its tool calls one more, so that a call and its result are found here like any other.
Every message is turned back at once: where that does not give the same JSON, the message is kept whole as data. What
comes out is what went in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec

from ..codec import Json
from ..errors import Invalid, StoreError
from ..features.conversations import (
    Content,
    ConversationRecord,
    Data,
    Event,
    Media,
    Parts,
    State,
    Text,
    ToolCall,
    ToolResult,
    as_content,
    text_of,
)
from ..features.conversations.bulk import MARK, copy_of
from .lines import Failure, Found, Line, canonical, decode, digest, encode, mark, marked

NAME = "openai"
SPEAKERS = ("system", "developer", "user", "assistant")
MAX_EXTRA = 300
"""Bytes of further fields that a message keeps as metadata; with more it is kept whole as data."""

Message = dict[str, Json]


# --- reading -----------------------------------------------------------------------------------------------------


def read(lines: Iterable[Line], now: int) -> Iterator[Found | Failure]:
    """Each line as a conversation, created now.

    A line without an id gets one made of its content; the second such line with the same content gets "-2" behind.
    """
    twins: dict[str, int] = {}
    for number, text in lines:
        id = None
        try:
            chat = decode(text, dict[str, Json])
            digested = digest(chat)
            id = chat.get("id", UNNAMED)
            note = mark(NAME, number, digested)
            if id is UNNAMED:
                twins[digested] = twins.get(digested, 0) + 1
                id = f"chat-{digested}" + (f"-{twins[digested]}" if twins[digested] > 1 else "")
                note[MARK]["unnamed"] = True
            if not isinstance(id, str) or not id:
                id = None
                raise Invalid("id is not a non-empty text")
            metadata, rest = _metadata(chat)
            record = ConversationRecord(id=id, metadata={**metadata, **note}, created_us=now)
            state = State(conversation=id, data={NAME: rest} if rest else {}, updated_us=now)
            yield Found(number, copy_of(record, state, events_of(_messages(chat), id, now), digested, now))
        except StoreError as error:
            yield Failure(number, str(error), id)


UNNAMED = object()


def events_of(messages: Sequence[Message], conversation: str, now: int) -> list[Event]:
    """The events of messages, in order. `metadata.message` is the number of the message."""
    events: list[Event] = []
    for number, message in enumerate(messages):
        made = _natural(number, message)
        if not made or canonical(messages_of(made)) != canonical([message]):
            made = [
                Event(
                    conversation="", type="message", content=Data(message), metadata={"message": number, "whole": True}
                )
            ]
        for event in made:
            events.append(_finished(event, conversation, message, now))
    return events


def _finished(event: Event, conversation: str, message: Message, now: int) -> Event:
    content = as_content(event.content)
    return msgspec.structs.replace(
        event, content=content, conversation=conversation, role=message["role"], created_us=now
    )


def _messages(chat: dict[str, Json]) -> list[Message]:
    messages = chat.get("messages")
    if not isinstance(messages, list):
        raise Invalid("there is no list of messages")
    for number, message in enumerate(cast("list[object]", messages)):
        if not isinstance(message, dict) or not isinstance(cast("Message", message).get("role"), str):
            raise Invalid(f"messages[{number}] is no object with a role")
    return cast("list[Message]", messages)


def _metadata(chat: dict[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """What goes to the record's metadata, and what is kept beside it."""
    rest = {name: value for name, value in chat.items() if name not in ("id", "messages", "metadata")}
    metadata = chat.get("metadata", UNNAMED)
    if isinstance(metadata, dict) and metadata:
        if MARK in metadata:
            raise Invalid(f"metadata.{MARK} is a name that imports use themselves")
        return cast("dict[str, Json]", metadata), rest
    return {}, rest if metadata is UNNAMED else {**rest, "metadata": metadata}


def _natural(number: int, message: Message) -> list[Event]:
    """The events of a message, none where it is of no form known here."""
    role, content = message["role"], message.get("content")
    metadata: dict[str, Json] = {"message": number}
    known = {"role", "content"}
    made: list[tuple[str, Content, dict[str, Json]]] = []
    name: object = None
    if role in SPEAKERS:
        name = message.get("name")
        known |= {"name"}
        if content is not None:
            made.append(("message", _content(content), {}))
    elif role == "tool":
        known |= {"tool_call_id"}
        made.append(("tool_result", ToolResult(str(message.get("tool_call_id")), content), {}))
    calls = message.get("tool_calls")
    if role == "assistant" and isinstance(calls, list) and calls:
        known |= {"tool_calls"}
        made += [("tool_call", *_call(call)) for call in cast("list[Json]", calls)]
    extra = {field: value for field, value in message.items() if field not in known}
    if len(canonical(extra)) > MAX_EXTRA or not (name is None or isinstance(name, str)):
        return []
    if extra:
        metadata["extra"] = extra
    who: dict[str, Any] = {"agent" if role == "assistant" else "sender": name}
    return [
        Event(
            conversation="",
            type=type,
            content=content,
            role=role,
            metadata={**(metadata if at == 0 else {"message": number}), **form},
            **who,
        )
        for at, (type, content, form) in enumerate(made)
    ]


def _content(content: Json) -> Content:
    if isinstance(content, str):
        return Text(content)
    if isinstance(content, list):
        return Parts(tuple(_part(part) for part in cast("list[Json]", content)))
    return Data(content)


def _part(part: Json) -> Text | Media | Data:
    match part:
        case {"type": "text", "text": str(text)} if len(part) == 2:
            return Text(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            media = _media(url)
            return media if canonical(_part_of(media)) == canonical(part) else Data(part)
        case _:
            return Data(part)


def _media(url: str) -> Media:
    if url.startswith("data:") and ";base64," in url:
        media_type, _, data = url.removeprefix("data:").partition(";base64,")
        return Media(media_type, data=data)
    return Media("image", url=url)


def _call(call: Json) -> tuple[Content, dict[str, Json]]:
    """A tool call and how its arguments are written, or anything else as data, which the way back tells apart."""
    match call:
        case {"id": str(id), "type": "function", "function": {"name": str(name), "arguments": str(text)}}:
            value, form = _arguments(text)
            return ToolCall(id, name, value), form
        case {"id": str(id), "type": "custom", "custom": {"name": str(name), "input": value}}:
            return ToolCall(id, name, value), {"form": "custom"}
        case _:
            return Data(call), {}


def _arguments(text: str) -> tuple[Json, dict[str, Json]]:
    """The value of a call's arguments where one of two ways to write it gives the same text, else the text."""
    try:
        value = decode(text.encode(), object)
    except (Invalid, UnicodeEncodeError):
        return text, {}
    if not isinstance(value, str):
        for form in FORMS:
            if _written(value, form) == text:
                return value, {} if form == FORMS[0] else {"form": form}
    return text, {}


FORMS = ("compact", "spaced")


def _written(value: Json, form: Json) -> str:
    separators = (", ", ": ") if form == "spaced" else (",", ":")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=separators)


# --- writing -----------------------------------------------------------------------------------------------------


def line(record: ConversationRecord, state: State | None, events: Sequence[Event]) -> bytes:
    """Any conversation as a line. Handoffs, changes of state and other data have no place in it and are left out."""
    note = marked(record.metadata)
    rest: object = state.data.get(NAME) if state is not None and note.get("format") == NAME else None
    chat: dict[str, Json] = {} if note.get("unnamed") else {"id": record.id}
    metadata = {name: value for name, value in record.metadata.items() if name != MARK}
    if metadata:
        chat["metadata"] = metadata
    chat["messages"] = messages_of(events)
    return encode({**chat, **cast("Message", rest)} if isinstance(rest, dict) else chat)


def messages_of(events: Iterable[Event]) -> list[Message]:
    """Events as messages: the calls of one turn of an assistant stand in one message."""
    messages: list[Message] = []
    last: tuple[Json, bool] = (None, False)
    for event in events:
        if event.type not in ("message", "tool_call", "tool_result"):
            continue
        number = event.metadata.get("message")
        if isinstance(event.content, ToolCall):
            if last != (number, True):
                messages.append({**_speaker(event, "assistant"), "content": None})
            messages[-1].setdefault("tool_calls", []).append(_call_of(event, event.content))
        else:
            messages.append(_message(event))
        last = number, messages[-1]["role"] == "assistant"
    return messages


def _message(event: Event) -> Message:
    match event.content:
        case Data(data) if event.metadata.get("whole"):
            return dict(cast("Message", data))
        case ToolResult(id, output, error):
            plain = error is None and isinstance(output, (str, list))
            said: Json = cast(Json, output) if plain else text_of(event.content)
            return {"role": "tool", **_extra(event), "tool_call_id": id, "content": said}
        case Text(text):
            said = text
        case Parts(parts):
            said = [_part_of(part) for part in parts]
        case Media():
            said = [_part_of(event.content)]
        case _:
            said = text_of(event.content)
    return {**_speaker(event, "user" if event.agent is None else "assistant"), "content": said}


def _speaker(event: Event, role: str) -> Message:
    role = event.role if event.role in SPEAKERS else role
    name = event.agent if role == "assistant" else event.sender
    return {"role": role, **({} if name is None else {"name": name}), **_extra(event)}


def _extra(event: Event) -> dict[str, Json]:
    extra = event.metadata.get("extra")
    return cast("dict[str, Json]", extra) if isinstance(extra, dict) else {}


def _part_of(part: Text | Media | Data) -> Json:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Media(media_type, data, url) if media_type.startswith("image"):
            return {"type": "image_url", "image_url": {"url": url or f"data:{media_type};base64,{data}"}}
        case Media():
            return {"type": "text", "text": text_of(part)}
        case Data(data):
            return data


def _call_of(event: Event, call: ToolCall) -> Json:
    form = event.metadata.get("form")
    if form == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": _written(call.arguments, form)}
    return {"id": call.id, "type": "function", "function": function}
