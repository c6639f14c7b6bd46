"""Which events fit a model's context: a pure function over the end of a history.

A tool call and its results stand or fall together, and results follow their call directly, as the APIs of models
require. The window is the longest such end of the history that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from msgspec import Struct

from .companions import Summary
from .content import ToolCall, ToolResult, text_of
from .records import Event

Tokens = Callable[[Event], int]
"""The size of an event in tokens of the caller's model."""

CONTEXT_TYPES = ("message", "tool_call", "tool_result")
"""The types of events that models read."""

LOOK_BACK = 1_000
"""Events before a window among which the calls of its results are looked for."""

OVERHEAD = 4


def estimate(event: Event) -> int:
    """About one token for four characters, and four for the frame of a message."""
    return ceil(len(text_of(event.content)) / 4) + OVERHEAD


class Context(Struct, frozen=True):
    """The end of a conversation that fits: its events in order, their tokens, and where it starts.

    `start` is the index of the first event taken (0: none), `complete` whether nothing before it was left out.
    `pending` are the calls in it that have no result yet. `summary` stands for what is before; its tokens are counted.
    """

    events: tuple[Event, ...]
    tokens: int
    start: int
    complete: bool
    pending: tuple[ToolCall, ...]
    summary: Summary | None = None


def window(events: Sequence[Event], max_tokens: int, tokens: Tokens = estimate, *, complete: bool = True) -> Context:
    """The window over the newest events of a history, given oldest first.

    `complete` says that `events` is the whole history. Results whose call is not among `events` are left out.
    """
    links = _links(events)
    reach = _reach(events, links)
    first, best, spent, taken = len(events), len(events), 0, 0
    for at in range(len(events) - 1, -1, -1):
        spent += 0 if _orphan(events[at], links[at]) else tokens(events[at])
        if spent > max_tokens:
            break
        first = min(first, reach[at])
        if first >= at:
            best, taken = at, spent
    kept = [at for at in range(best, len(events)) if not _orphan(events[at], links[at])]
    answered = {links[at] for at in kept}
    pending = tuple(e.content for at in kept if isinstance((e := events[at]).content, ToolCall) and at not in answered)
    start = events[kept[0]].index if kept else 0
    return Context(tuple(_adjacent(events, kept, links)), taken, start, complete and best == 0, pending)


def is_settled(events: Sequence[Event], max_tokens: int, tokens: Tokens) -> bool:
    """Whether events before these cannot change the window: it is full, and the calls of its results are among them.

    A call that stands more than LOOK_BACK events before the window counts as missing.
    """
    links = _links(events)
    spent, orphans = 0, False
    for at in range(len(events) - 1, -1, -1):
        if _orphan(events[at], links[at]):
            orphans = True
        else:
            spent += tokens(events[at])
        if spent > max_tokens:
            return not orphans or at >= LOOK_BACK
    return False


def behind(events: Sequence[Event], upto: int) -> Sequence[Event]:
    """The events after an index, from the first of those that their tool exchanges cannot do without."""
    return events[_first_behind(events, upto) :] if upto else events


def is_covered(events: Sequence[Event], upto: int) -> bool:
    """Whether events before these cannot change what is `behind` an index: calls are not looked for too far back."""
    if not upto or not events or events[0].index > upto:
        return False
    links = _links(events)
    orphans = any(event.index > upto and _orphan(event, link) for event, link in zip(events, links, strict=True))
    far = sum(event.index <= upto for event in events) >= LOOK_BACK
    return far or (not orphans and _first_behind(events, upto) > 0)


def trim(events: Sequence[Event], *, last: int) -> list[Event]:
    """The longest end with at most `last` messages that cuts no exchange: what is read, and what a removal leaves.

    It begins with what a user says, or where `events` begin, so that each answer keeps its question, and holds the
    call of each of its results; tool calls and results are not counted. 0 is empty. Results without a call among
    `events` are left out.
    """
    links = _links(events)
    reach = _reach(events, links)
    start, first, messages = len(events), len(events), 0
    for at in range(len(events) - 1, -1, -1):
        messages += events[at].type == "message"
        if messages > last:
            break
        first = min(first, reach[at])
        if first >= at and (at == 0 or is_question(events[at])):
            start = at
    return [events[at] for at in range(start, len(events)) if last and not _orphan(events[at], links[at])]


def is_trimmed(events: Sequence[Event], last: int) -> bool:
    """Whether events before these cannot change what `trim` leaves of them."""
    if sum(event.type == "message" for event in events) <= last:
        return not last
    links = _links(events)
    return not any(map(_orphan, events, links)) or len(events) >= LOOK_BACK


def is_question(event: Event) -> bool:
    """Whether an event is what a user says: by its role, without one by having no agent."""
    return event.type == "message" and (event.role == "user" if event.role else event.agent is None)


def _first_behind(events: Sequence[Event], upto: int) -> int:
    reach = _reach(events, _links(events))
    return min((reach[at] for at, event in enumerate(events) if event.index > upto), default=len(events))


def _links(events: Sequence[Event]) -> list[int | None]:
    """For each result the position of its call: the last one before it with its id, for ids may come again."""
    calls: dict[str, int] = {}
    links: list[int | None] = []
    for at, event in enumerate(events):
        if isinstance(event.content, ToolCall):
            calls[event.content.id] = at
        links.append(calls.get(event.content.id) if isinstance(event.content, ToolResult) else None)
    return links


def _reach(events: Sequence[Event], links: Sequence[int | None]) -> list[int]:
    """For each event the first position that a window which holds it must hold too.

    A result reaches back to its call; calls that stand in a row are one turn of the agent, and reach to its first.
    """
    reach: list[int] = []
    for at, link in enumerate(links):
        if link is not None:
            reach.append(reach[link])
        elif _in_turn(events, at):
            reach.append(reach[at - 1])
        else:
            reach.append(at)
    return reach


def _in_turn(events: Sequence[Event], at: int) -> bool:
    """Whether an event is a call directly behind another call."""
    return at > 0 and isinstance(events[at].content, ToolCall) and isinstance(events[at - 1].content, ToolCall)


def _orphan(event: Event, link: int | None) -> bool:
    return link is None and isinstance(event.content, ToolResult)


def _adjacent(events: Sequence[Event], kept: Sequence[int], links: Sequence[int | None]) -> list[Event]:
    """The kept events, each result behind the turn of calls it belongs to."""
    results: dict[int, list[Event]] = {}
    for at in kept:
        if (link := links[at]) is not None:
            results.setdefault(link, []).append(events[at])
    ordered: list[Event] = []
    waiting: list[Event] = []
    for at in kept:
        if links[at] is not None:
            continue
        if not _in_turn(events, at):
            ordered += waiting
            waiting = []
        ordered.append(events[at])
        waiting += results.get(at, [])
    return ordered + waiting
