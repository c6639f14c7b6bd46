"""agentkeep's own format: everything of a conversation, so that another engine has it as it was.

    {"agentkeep": "conversations", "version": 1}
    {"conversation": {...}, "rev": "...", "active_s": 1, "head": {"seq": 3, "floor": 0, "sealed": false}}
    {"state": {...}, "rev": "..."}
    {"event": {...}, "index": 1, "rev": "..."}
    {"end": {"events": 3}}

Documents stand in it as they are stored, fields that this version does not know included. `head` is the log's: the
last number given, the number up to which events were cleared, and whether it is closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .. import codec, keys
from ..errors import Corrupt, Invalid, Key, SchemaMismatch
from ..features.conversations.beginnings import activity_of
from ..features.conversations.bulk import ACTIVITY, EVENT, RECORD, STATE, Copy
from ..features.conversations.originals import Original
from ..records import Record
from ..waist import Head, Put, Rev, Row
from .lines import Failure, Found, Line, decode, encode

T = TypeVar("T")

NAME = "agentkeep"
VERSION = 1
PART = 1_000
PART_BYTES = 4_000_000
"""Events, and bytes of documents, of a long conversation that are held and written at a time."""

DOCUMENTS = ("conversation", "state", "event")

_REV = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class End(Struct, frozen=True):
    """The number of a conversation's events: a file that was cut does not have it."""

    events: int


class Entry(Struct, frozen=True):
    """Any line but the header."""

    conversation: Raw | UnsetType = UNSET
    state: Raw | UnsetType = UNSET
    event: Raw | UnsetType = UNSET
    end: End | UnsetType = UNSET
    rev: str = ""
    active_s: int = 0
    head: Head = Head()
    index: int = 0
    agentkeep: str = ""
    version: int = 0


_DECODER = msgspec.json.Decoder(Entry)


# --- reading -----------------------------------------------------------------------------------------------------


class _Open(Struct):
    """The conversation whose lines are being read."""

    line: int
    copy: Copy
    events: list[Put]
    numbers: list[int]
    size: int = 0
    count: int = 0
    last: int = 0


def read(lines: Iterable[Line], now: int) -> Iterator[Found | Failure]:
    """Each conversation, a long one in parts. Raises Corrupt for another file, SchemaMismatch for a later version.

    A line that cannot be read takes the rest of its conversation with it: its log would have a hole.
    """
    state: _Open | None = None
    skipping, begun = False, False
    number = 0
    for number, text in lines:
        try:
            entry, how = _entry(text)
            if not begun and entry.agentkeep != "conversations":
                raise Corrupt("this is not an agentkeep export", operation="import", hint="Name its --format.")
            if entry.agentkeep:
                begun = True
                if entry.version > VERSION:
                    raise SchemaMismatch(
                        f"the file has version {entry.version}, this agentkeep reads {VERSION}",
                        hint="Upgrade agentkeep.",
                    )
            elif entry.conversation is not UNSET:
                if state is not None:
                    yield _cut(state)
                state, skipping = None, True
                state, skipping = _begin(number, entry, how), False
            elif not skipping:
                if state is None:
                    skipping = True
                    raise Invalid("it belongs to no conversation")
                if found := _take(state, entry, how):
                    yield found
                if entry.end is not UNSET:
                    state = None
        except (Corrupt, Invalid) as error:
            if not begun:
                raise Corrupt(
                    "this is not an agentkeep export", operation="import", hint="Name its --format."
                ) from None
            yield Failure(number, error.message, None if state is None else state.copy.id)
            state, skipping = None, True
    if state is not None:
        yield _cut(state)


def _cut(state: _Open) -> Failure:
    return Failure(state.line, "the file ends before the conversation does: it was cut", state.copy.id)


def _entry(text: bytes) -> tuple[Entry, int]:
    """A line, and the form of the document in it. Lone surrogates are what the standard library is needed for."""
    try:
        return _DECODER.decode(text), codec.PLAIN
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lifted = decode(text, dict[str, Any])
    docs = {name: encode(lifted.pop(name)) for name in DOCUMENTS if name in lifted}
    try:
        entry = msgspec.convert(lifted, Entry)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None
    return msgspec.structs.replace(entry, **{name: Raw(doc) for name, doc in docs.items()}), codec.ODD


def _begin(number: int, entry: Entry, how: int) -> _Open:
    put, record = _put(RECORD, entry.conversation, entry.rev, how)
    if not record.id:
        raise Invalid("the conversation has no id")
    head = entry.head
    if not 0 <= head.floor <= head.seq:
        raise Invalid("the head of the log is not one")
    activity = ACTIVITY.put(activity_of(record, entry.active_s))
    copy = Copy(id=record.id, record=put, activity=activity, state=None, events=(), numbers=(), head=head)
    return _Open(number, copy, [], [], last=head.floor)


def _take(state: _Open, entry: Entry, how: int) -> Found | None:
    """Take a line of a conversation; gives the part that is full, or the last one."""
    full = None
    if entry.state is not UNSET:
        put, value = _put(STATE, entry.state, entry.rev, how)
        _same_id(state, value.conversation)
        state.copy = msgspec.structs.replace(state.copy, state=put)
    elif entry.event is not UNSET:
        put, value = _put(EVENT, entry.event, entry.rev, how, entry.index)
        _same_id(state, value.conversation)
        if not state.last < entry.index <= state.copy.head.seq:
            raise Invalid(f"the event has the number {entry.index}: it is out of order, or not in the log")
        if len(state.events) == PART or state.size > PART_BYTES:
            full = _part(state, more=True)
        state.events.append(put)
        state.numbers.append(entry.index)
        state.size, state.count, state.last = state.size + len(put.doc), state.count + 1, entry.index
    elif entry.end is not UNSET:
        if entry.end.events != state.count:
            raise Invalid(f"the conversation has {entry.end.events} events, {state.count} are there: lines are missing")
        full = _part(state, more=False)
    else:
        raise Invalid("the line is no conversation, state, event or end")
    return full


def _part(state: _Open, more: bool) -> Found:
    copy = msgspec.structs.replace(state.copy, events=state.events, numbers=state.numbers, more=more)
    state.copy = msgspec.structs.replace(state.copy, since=state.last)
    state.events, state.numbers, state.size = [], [], 0
    return Found(state.line, copy)


def _same_id(state: _Open, id: str) -> None:
    if id != state.copy.id:
        raise Invalid(f"it belongs to the conversation {id!a}")


def _put(record: Record[T], doc: Raw | UnsetType, rev: Rev, how: int, index: int = 0) -> tuple[Put, T]:
    """The operation that writes a document as it stands in the file, and its value. Raises Invalid, Corrupt."""
    if doc is UNSET or not _REV.fullmatch(rev):
        raise Invalid("the line has no rev")
    sort = keys.seq_sort(index) if index else ""
    framed = codec.frame(how, bytes(doc))
    value = record.decode(Row(Key(record.spec.name, "", sort or keys.seq_sort(0)), rev, framed))
    put = Put(record.spec.name, sort, framed, {}, record.facet_values(value), None, "absent", rev)
    return put, value


# --- writing -----------------------------------------------------------------------------------------------------


def header() -> bytes:
    """The first line of a file."""
    return encode({"agentkeep": "conversations", "version": VERSION})


def opening(original: Original) -> bytes:
    """The lines before the events of a conversation. Raises Corrupt."""
    head = encode(original.head)
    fields = b',"active_s":%d,"head":%b}' % (original.active_s, head)
    text = _line(b"conversation", original.record, fields)
    return text if original.state is None else text + b"\n" + _line(b"state", original.state, b"}")


def event(row: Row) -> bytes:
    """The line of an event. Raises Corrupt."""
    return _line(b"event", row, b',"index":%d}' % keys.seq_of(row.key.sort))


def ending(events: int) -> bytes:
    """The line after the events of a conversation."""
    return encode({"end": End(events)})


def _line(name: bytes, row: Row, rest: bytes) -> bytes:
    _, body = codec.unframe(row.doc, row.key)
    return b'{"%b":%b,"rev":"%b"%b' % (name, body, row.rev.encode(), rest)
