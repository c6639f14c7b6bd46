"""The Schema-Guided Dialogue format: one dialogue a line, each service an agent.

    {"dialogue_id": ..., "services": [...], "turns": [{"speaker": "user" | "system", "text": ..., "frames": [...]}]}

A dialogue is a conversation, a turn a message. A frame's `call` and `results` are a tool call and its result before
the system's message, what its `slots` changed is a change of state after the user's message, and the final slots are
the state's data. Where the service changes there is a handoff. docs/transfer.md has the mapping in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, cast

from msgspec import UNSET, Struct, UnsetType

from ..errors import Invalid, StoreError
from ..features.conversations import (
    Content,
    ConversationRecord,
    Event,
    Handoff,
    State,
    StateChange,
    Text,
    ToolCall,
    ToolResult,
    as_content,
)
from ..features.conversations.bulk import copy_of
from .lines import Failure, Found, Line, canonical, decode, digest, encode, mark

NAME = "sgd"
PERSON = "user"

Slot = str | int | float | bool | list[Any] | dict[str, Any]


class Call(Struct, forbid_unknown_fields=True):
    """A tool call."""

    method: str
    parameters: dict[str, Any]


class Frame(Struct, forbid_unknown_fields=True):
    """What one service has of a turn."""

    service: str
    intent: str | UnsetType = UNSET
    slots: dict[str, Slot] | UnsetType = UNSET
    call: Call | UnsetType = UNSET
    results: list[Any] | UnsetType = UNSET


class Turn(Struct, forbid_unknown_fields=True):
    """One turn."""

    speaker: Literal["user", "system"]
    text: str
    frames: list[Frame]


class Dialogue(Struct, forbid_unknown_fields=True):
    """One line."""

    dialogue_id: str
    services: list[str]
    turns: list[Turn]


# --- reading -----------------------------------------------------------------------------------------------------


def read(lines: Iterable[Line], now: int) -> Iterator[Found | Failure]:
    """Each line as a conversation, created now."""
    for number, text in lines:
        id = None
        try:
            dialogue = decode(text, Dialogue)
            id = dialogue.dialogue_id
            if not id:
                raise Invalid("dialogue_id is empty")
            digested = digest(dialogue)
            events, state = events_of(dialogue, now)
            record = ConversationRecord(
                id=id,
                user=PERSON,
                agent=dialogue.services[0] if dialogue.services else None,
                metadata={"services": dialogue.services, **mark(NAME, number, digested)},
                created_us=now,
            )
            yield Found(number, copy_of(record, state, events, digested, now))
        except StoreError as error:
            yield Failure(number, str(error), id)


def events_of(dialogue: Dialogue, now: int) -> tuple[list[Event], State]:
    """The events of a dialogue in order, and the state at its end."""
    telling = _Telling(dialogue.dialogue_id, now)
    for number, turn in enumerate(dialogue.turns):
        telling.turn(number, turn)
    state = State(
        conversation=dialogue.dialogue_id,
        active_agent=telling.agent,
        previous_agent=telling.previous,
        handoffs=telling.handoffs,
        data=telling.slots,
        updated_us=now,
    )
    return telling.events, state


class _Telling:
    """The events of one dialogue so far, the agent that has it, and the slots of each service."""

    def __init__(self, id: str, now: int) -> None:
        self.events: list[Event] = []
        self.agent: str | None = None
        self.previous: str | None = None
        self.handoffs = 0
        self.slots: dict[str, dict[str, Slot]] = {}
        self._id = id
        self._now = now

    def turn(self, number: int, turn: Turn) -> None:
        if turn.speaker == "user":
            self._message(number, turn, PERSON, None)
            self._hand_over(number, turn, [frame.service for frame in turn.frames])
        else:
            self._hand_over(number, turn, [frame.service for frame in turn.frames[:1]])
            for at, frame in enumerate(turn.frames):
                self._tool(number, at, frame)
            self._message(number, turn, None, turn.frames[0].service if turn.frames else self.agent)
        for at, frame in enumerate(turn.frames):
            if turn.speaker == "user":
                self._tool(number, at, frame)
            if frame.slots is not UNSET:
                self._slots(number, at, frame.service, frame.slots)

    def _add(
        self,
        type: str,
        content: Content,
        metadata: dict[str, Any],
        agent: str | None,
        sender: str | None = None,
        role: str | None = None,
    ) -> None:
        self.events.append(
            Event(
                conversation=self._id,
                type=type,
                content=content,
                sender=sender,
                role=role,
                agent=agent,
                metadata=metadata,
                created_us=self._now,
            )
        )

    def _message(self, number: int, turn: Turn, sender: str | None, agent: str | None) -> None:
        metadata: dict[str, Any] = {"turn": number}
        services: list[str] = []
        intents: list[str | None] = []
        slots: list[bool] = []
        for frame in turn.frames:
            services.append(frame.service)
            intents.append(None if frame.intent is UNSET else frame.intent)
            slots.append(frame.slots is not UNSET)
        if services != [agent]:
            metadata["services"] = services
        if intents.count(None) < len(intents):
            metadata["intents"] = intents
        if (sender is None) in slots:
            metadata["slots"] = slots
        self._add("message", Text(turn.text), metadata, agent, sender, "assistant" if sender is None else "user")

    def _hand_over(self, number: int, turn: Turn, services: list[str]) -> None:
        if not services or self.agent in services:
            return
        if self.agent is not None:
            intent = turn.frames[0].intent
            handoff = Handoff(services[0], self.agent, None if intent is UNSET else intent)
            self._add("handoff", handoff, {"turn": number}, self.agent)
            self.previous = self.agent
            self.handoffs += 1
        self.agent = services[0]

    def _tool(self, number: int, at: int, frame: Frame) -> None:
        id = f"call-{number}.{at}" if at else f"call-{number}"
        if frame.call is not UNSET:
            call = ToolCall(id, frame.call.method, frame.call.parameters)
            self._add("tool_call", as_content(call), _place(number, at), frame.service)
        if frame.results is not UNSET:
            self._add("tool_result", as_content(ToolResult(id, frame.results)), _place(number, at), frame.service)

    def _slots(self, number: int, at: int, service: str, slots: dict[str, Slot]) -> None:
        old = self.slots.get(service, {})
        if old == slots and (not old or canonical(old) == canonical(slots)):
            return
        changes: dict[str, Slot | None] = {name: None for name in old if name not in slots}
        changes |= {name: value for name, value in slots.items() if name not in old or not _equal(old[name], value)}
        self.slots[service] = slots
        self._add("state", as_content(StateChange(changes)), _place(number, at), service)


def _equal(a: Slot, b: Slot) -> bool:
    return a == b and (type(a) is str or canonical(a) == canonical(b))


def _place(number: int, at: int) -> dict[str, Any]:
    return {"turn": number, "frame": at} if at else {"turn": number}


# --- writing -----------------------------------------------------------------------------------------------------


def line(record: ConversationRecord, state: State | None, events: Sequence[Event]) -> bytes:
    """A conversation that came from a dialogue, as its line. Raises Invalid where it has other events."""
    return encode(dialogue_of(record, events))


def dialogue_of(record: ConversationRecord, events: Sequence[Event]) -> Dialogue:
    """The dialogue that a conversation was made of. Raises Invalid where it has other events."""
    turns: dict[int, list[Event]] = {}
    for event in events:
        number = event.metadata.get("turn")
        if not isinstance(number, int):
            raise Invalid(f"event {event.index} did not come from a dialogue, so its line cannot be written")
        turns.setdefault(number, []).append(event)
    slots: dict[str, dict[str, Slot]] = {}
    services = cast("list[str]", record.metadata.get("services", []))
    return Dialogue(record.id, services, [_turn(turns[number], slots) for number in sorted(turns)])


def _turn(events: list[Event], slots: dict[str, dict[str, Slot]]) -> Turn:
    message = next((event for event in events if event.type == "message"), None)
    if message is None or not isinstance(message.content, Text):
        raise Invalid(f"the turn of event {events[0].index} has no message")
    person = message.role == "user"
    metadata = message.metadata
    services = cast("list[str]", metadata.get("services", [message.agent]))
    frames = [Frame(service) for service in services]
    for frame, intent in zip(frames, cast("list[str | None]", metadata.get("intents", ())), strict=False):
        frame.intent = UNSET if intent is None else intent
    has = cast("list[bool]", metadata.get("slots", [person] * len(frames)))
    for at, frame in enumerate(frames):
        for event in events:
            if event.metadata.get("frame", 0) == at:
                _place_in(frame, event, slots)
        if has[at]:
            frame.slots = slots.get(frame.service, {})
    return Turn("user" if person else "system", message.content.text, frames)


def _place_in(frame: Frame, event: Event, slots: dict[str, dict[str, Slot]]) -> None:
    match event.content:
        case ToolCall(_, name, arguments):
            frame.call = Call(name, arguments)
        case ToolResult(_, output):
            frame.results = output
        case StateChange(changes):
            merged = {**slots.get(frame.service, {}), **changes}
            slots[frame.service] = {name: merged[name] for name in sorted(merged) if merged[name] is not None}
        case _:
            pass
