"""One conversation: append, read, hand over, fork, close, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ...errors import Invalid
from ...pages import Listing, Page
from ...predicates import Where
from ...records import record_of
from ...store import Store
from ..arguments import identifier, mapping
from ..locks import HOLDER, TERM, Held, Lease, LeaseRecord, Owner, Place
from . import belongings, chats, edits, markers, reading, removal, threads
from .appending import New, append, given_of
from .beginnings import PER_BATCH, fork, head_of
from .bindings import Bindings
from .companions import Delivery, Marker, Version
from .content import Content, ToolCall, ToolResult
from .context import context
from .handle import Handle
from .participants import Participants
from .private import Private
from .reading import event_at, scan_of
from .records import Activity, ConversationRecord, Event, State
from .state import hand_over, read_state, set_state
from .summaries import Summaries
from .threads import Thread
from .timers import checked_timers
from .usage import Usages
from .visibility import Viewer, Visibility, as_viewer
from .window import CONTEXT_TYPES, Context, Tokens, estimate

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

MAX_APPEND = PER_BATCH
"""Events that one append_many takes."""


class Conversation:
    """A conversation of a store. It holds the record as it was last read; events and state are always read anew.

    Handles are cheap, may be kept, and may be used by many tasks at once. A handle is of one life: where its
    conversation was deleted and another one has its id, it writes nothing and raises NotFound.
    """

    def __init__(self, store: Store, record: ConversationRecord, rev: str) -> None:
        self._store = store
        self._handle = Handle(store, record, rev)

    def __repr__(self) -> str:
        return f"Conversation({self.id!r}, {self.record.status})"

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def record(self) -> ConversationRecord:
        """The record as it was last read: user, agent, title, status, metadata, origin, times."""
        return self._handle.record

    # --- the room ---

    @cached_property
    def participants(self) -> Participants:
        """Who is in it and who was, with the index of the event from which and up to which."""
        return Participants(self._store, self._handle, self._handle.append)

    @cached_property
    def bindings(self) -> Bindings:
        """The channels that are bound to it, each with its own configuration."""
        return Bindings(self._store, self._handle, self._handle.commit)

    def lease(self, holder: str, seconds: float = 30.0, *, wait: float | None = 0, renew: bool = True) -> Lease:
        """The lease of the conversation, for one active agent at a time: `async with talk.lease("billing") as lease`.

        Raises Conflict where another holds it for longer than `wait` seconds (None: however long), NotFound. Pass the
        lease to `append`, `handoff` and `set_state`: they then write only while it is held.
        """
        ends = belongings.place(self.record.life, HOLDER), belongings.place(self.record.life, TERM)
        place = Place(record_of(LeaseRecord), self.id, self._handle.partition, *ends)
        return Lease(self._store, place, holder, seconds, wait, renew, Owner(self._handle.current, self.refresh))

    # --- writing events ---

    async def append(
        self,
        content: Any,
        *,
        type: str | None = None,
        sender: str | None = None,
        role: str | None = None,
        agent: str | None = None,
        channel: str | None = None,
        run: str | None = None,
        correlation: str | None = None,
        parent: int | None = None,
        metadata: dict[str, Any] | None = None,
        visibility: Visibility | str | None = None,
        key: str | None = None,
        after: int | None = None,
        lease: Held | None = None,
    ) -> Event:
        """Append one event and give it back with its index.

        `content` is text, a content of `agentkeep`, a list of parts, or any JSON. `key` makes the append
        idempotent: a second one with it gives the first event's index, and raises Conflict if it says something
        else. `after` is the index the conversation must end at, else Conflict; `lease` must be held, else Conflict.
        `visibility` is a Visibility, "all", "none" or "agents". Raises Invalid where the conversation is closed or the
        content cannot be kept, NotFound where it was deleted or there is no event `parent`, TooLarge. A paused
        conversation is open again first.
        """
        new = (content, type, sender, role, agent, channel, run, correlation, parent, metadata, visibility)
        (event,) = await append(self._handle, (new,), key, after, lease)
        return event

    async def append_many(
        self,
        events: Sequence[New | Mapping[str, Any] | Content | str],
        *,
        key: str | None = None,
        after: int | None = None,
        lease: Held | None = None,
    ) -> list[Event]:
        """Append up to 45 events as one: all are there or none, and their indexes follow each other.

        Each is a `New`, a mapping with its fields, text, or a content such as a tool call. With their different
        parents, and the lease, they are 47 at most. `key`, `after` and `lease` are as in `append`.
        """
        if not 1 <= len(events) <= MAX_APPEND:
            raise Invalid(f"append_many takes 1 to {MAX_APPEND} events, not {len(events)}", operation="append_many")
        return await append(self._handle, [given_of(event) for event in events], key, after, lease)

    # --- reading events ---

    async def history(
        self,
        *,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
        where: Where | None = None,
        visible_to: Viewer | None = None,
        budget: int = 10_000,
        cursor: str | None = None,
    ) -> Page[Event]:
        """Events, ascending: the newest `limit` (before an index), or with `after` the oldest after one.

        `where` asks type, sender, role, agent, channel, run, correlation, parent and metadata.*; `budget` bounds the
        events looked at. With `visible_to` only what the viewer may see. The page's cursor, passed with the same
        arguments, gives the page that follows in the same direction. Raises Invalid for a malformed filter.
        """
        viewer = as_viewer(visible_to)
        scan = scan_of(
            self._handle,
            before=before,
            after=after,
            where=where,
            viewer=viewer,
            reverse=after is None,
            limit=limit,
            cursor=cursor,
            budget=budget,
        )
        return await reading.page(self._handle, scan, viewer)

    async def get(self, index: int, *, visible_to: Viewer | None = None) -> Event | None:
        """One event, or None: also where the viewer may not see it."""
        return await event_at(self._handle, index, as_viewer(visible_to))

    async def count(
        self, *, where: Where | None = None, visible_to: Viewer | None = None, budget: int = 10_000
    ) -> tuple[int, bool]:
        """(n, exact): how many events there are; not exact where the budget, in events looked at, ended it."""
        viewer = as_viewer(visible_to)
        return await reading.count(
            self._handle, scan_of(self._handle, where=where, viewer=viewer, budget=budget), viewer
        )

    async def events(
        self, *, after: int = 0, where: Where | None = None, visible_to: Viewer | None = None
    ) -> AsyncIterator[Event]:
        """All events after an index, in order, page by page. Raises Corrupt where one does not decode."""
        viewer = as_viewer(visible_to)
        scan = scan_of(self._handle, after=after, where=where, viewer=viewer)
        async for event in reading.each(self._handle, scan, viewer):
            yield event

    async def tail(
        self,
        *,
        after: int | None = None,
        where: Where | None = None,
        visible_to: Viewer | None = None,
        idle: float | None = None,
        poll: float = 0.05,
    ) -> AsyncIterator[Event]:
        """Events as they come, in order, without an end; pass the last index seen as `after` to go on.

        `after=None` starts at the end. It asks every `poll` seconds, up to 20 times less often while nothing
        comes, and ends after `idle` seconds without an event, or when the conversation is deleted.
        """
        async for event in reading.follow(self._handle, after, where, as_viewer(visible_to), idle, poll):
            yield event

    async def length(self) -> int:
        """The index of the last event there ever was."""
        return (await head_of(self._store, self._handle.partition)).seq

    async def context(
        self,
        *,
        max_tokens: int,
        tokens: Tokens = estimate,
        types: Sequence[str] = CONTEXT_TYPES,
        before: int | None = None,
        visible_to: Viewer | None = None,
        summary: bool = False,
        agent: str | None = None,
    ) -> Context:
        """The longest end of the conversation that fits a model, a tool call never without its results.

        `tokens` counts an event in tokens of your model; the default estimates four characters a token. It looks no
        further back than 10,000 events without one of these types. Messages that were retracted are left out.

        With `summary` the newest one stands for the events that it covers: that of `agent`, else the conversation's.
        A viewer gets none but that of an `agent`: others may tell what it is not to see.
        """
        viewer = as_viewer(visible_to)
        newest = None
        if summary and (viewer is None or agent is not None):
            newest = await self.summaries.get(agent=agent, before=before)
        return await context(self._handle, max_tokens, tokens, types, before, viewer, newest)

    async def pending(self, *, last: int = 200) -> list[Event]:
        """The tool calls among the last events that have no result: a run broke off there."""
        page = await self.history(limit=last, where={"type": ["tool_call", "tool_result"]})
        open_calls: dict[str, Event] = {}
        for event in page.items:
            if isinstance(event.content, ToolCall):
                open_calls.pop(event.content.id, None)
                open_calls[event.content.id] = event
            elif isinstance(event.content, ToolResult):
                open_calls.pop(event.content.id, None)
        return list(open_calls.values())

    async def chat(
        self, *, agent: str | None = None, last: int | None = None, visible_to: Viewer | None = None
    ) -> list[Event]:
        """Messages, tool calls and results: of one agent, or of all merged in order, each with its agent.

        `last` keeps that many messages by the rule of `window.trim`: answers keep their questions, results their
        calls, 0 is empty. Without it the whole chat is read.
        """
        return await chats.chat(self._handle, agent, last, as_viewer(visible_to))

    # --- threads ---

    def thread(
        self,
        root: int,
        *,
        visible_to: Viewer | None = None,
        limit: int = 50,
        after: str | None = None,
        budget: int = 10_000,
    ) -> Listing[Event]:
        """The replies to an event, in order: those whose `parent` it is. One page looks at `budget` events at most."""
        return threads.thread(self._handle, root, as_viewer(visible_to), limit, after, budget)

    async def thread_summaries(
        self, roots: Sequence[int], *, visible_to: Viewer | None = None, budget: int = 10_000
    ) -> dict[int, Thread]:
        """The number of replies and the last one, of up to 100 roots.

        They are counted in one pass over the events after the first root, `budget` of them at most; `exact` says
        whether that were all.
        """
        return await threads.summarise(self._handle, roots, as_viewer(visible_to), budget)

    # --- edits ---

    async def edit(self, index: int, content: Any, *, by: str | None = None, expect: int | None = None) -> Event:
        """Put another content in an event; what it said stays among its versions. The same content writes nothing.

        `expect` is the number of `edits` it must have, else Conflict; without it the last writer wins, and no version
        is lost. Raises NotFound where there is no such event, Invalid where it was retracted, and for a content of
        another kind.
        """
        return await edits.edit(self._handle, index, content, by, expect)

    async def versions(self, index: int, *, visible_to: Viewer | None = None, retracted: bool = False) -> list[Version]:
        """What an event said, the oldest first, the last as it is now.

        Versions of a retracted event are empty, but for who asks for them by `retracted`. Raises NotFound.
        """
        return await edits.versions(self._handle, index, as_viewer(visible_to), retracted)

    async def retract(self, index: int, *, by: str | None = None) -> Event:
        """Take the content of an event away from all readers; its place stays. Again it changes nothing.

        Tool calls and results keep their ids, handoffs their agents. Raises NotFound.
        """
        return await edits.retract(self._handle, index, by)

    async def erase(self, index: int, *, replies: bool = True) -> int:
        """Remove an event for good, with its versions, deliveries and large body, and the replies to it.

        Gives the number of events removed. Numbers and keys are not used again. Broken off (`outcome="unknown"`),
        the same call goes on. Raises NotFound where nothing is left to remove.
        """
        return await edits.erase(self._handle, index, replies)

    async def trim(self, *, last: int, agent: str | None = None) -> int:
        """Remove for good what `chat(agent=agent, last=last)` does not give. Gives the index of the first event kept.

        Without an agent all events before that one go at once; of an agent its own, step by step. Nothing is written,
        and 0 given, where the chat is not longer. What a trim that broke off left behind goes with the next one.
        """
        start = (await chats.ending(self._handle, agent, last, None)).start
        if start and agent is None:
            await removal.trim(self._handle, start)
        elif start and agent is not None:
            await edits.remove(self._handle, await chats.before(self._handle, agent, start))
        return start

    # --- delivery and reading ---

    async def delivered(self) -> int:
        """The index up to which events are delivered, 0 for none."""
        return await markers.delivered(self._handle)

    async def advance_delivered(self, index: int, *, force: bool = False) -> int:
        """Say that events are delivered up to an index, by compare-and-set from the one before it.

        With `force` from any lower one: it never goes back. Raises Conflict, Invalid for an index beyond the end.
        """
        return await markers.advance(self._handle, index, force)

    async def record_delivery(self, index: int, channel: str, result: Any) -> Delivery:
        """Write what became of an event on a channel: any JSON, in place of what was recorded there before.

        Each channel has a row of its own. Raises NotFound where there is no such event.
        """
        return await markers.record_delivery(self._handle, index, channel, result)

    async def deliveries(self, index: int) -> dict[str, Delivery]:
        """What became of an event, by channel. Raises NotFound where there is no such event."""
        return await markers.deliveries(self._handle, index)

    async def mark_read(self, reader: str, index: int | None = None) -> int:
        """Say that a reader has read up to an index, or to the end. It never goes back: gives where it is.

        Raises Invalid for an index beyond the end.
        """
        return await markers.mark_read(self._handle, reader, index)

    async def unread(self, reader: str, *, visible_to: Viewer | None = None, budget: int = 10_000) -> tuple[int, bool]:
        """(n, exact): how many events after the marker of a reader the viewer may see; budget: see `count`."""
        return await markers.unread(self._handle, reader, as_viewer(visible_to), budget)

    def markers(self, *, limit: int = 50, after: str | None = None) -> Listing[Marker]:
        """How far each reader has read."""
        return markers.markers(self._handle, limit, after)

    # --- what stands beside the events ---

    @cached_property
    def summaries(self) -> Summaries:
        """What was said so far, in short."""
        return Summaries(self._handle)

    @cached_property
    def private(self) -> Private:
        """Free JSON by key, which no history shows."""
        return Private(self._handle)

    @cached_property
    def usage(self) -> Usages:
        """Tokens and cost, by agent."""
        return Usages(self._handle)

    # --- state ---

    async def state(self) -> State:
        """The state as it is now."""
        return await read_state(self._handle)

    async def set_state(
        self,
        *,
        active_agent: str | UnsetType | None = UNSET,
        phase: str | UnsetType | None = UNSET,
        data: Mapping[str, Any] | None = None,
        change: Callable[[State], State] | None = None,
        lease: Held | None = None,
    ) -> State:
        """Change the state by compare-and-set: concurrent changes are all kept.

        `data` is merged into the free data, a value of None removing its name. `change` makes a new state of the
        old one, and may be called several times. `lease` must be held, else Conflict.
        """
        return await set_state(self._handle, active_agent, phase, data, change, lease)

    async def handoff(
        self,
        to: str,
        *,
        reason: str | None = None,
        phase: str | None = None,
        metadata: dict[str, Any] | None = None,
        key: str | None = None,
        lease: Held | None = None,
    ) -> Event:
        """Pass the conversation to another agent: the state and the event that says so are one write.

        `key` makes it idempotent, and `lease` must be held, as in `append`.
        """
        return await hand_over(self._handle, to, reason, phase, metadata, key, lease)

    # --- the conversation itself ---

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound where the conversation was deleted."""
        return await self._handle.refresh()

    async def update(
        self,
        *,
        organization: str | UnsetType | None = UNSET,
        user: str | UnsetType | None = UNSET,
        agent: str | UnsetType | None = UNSET,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
        pause_after_s: int | UnsetType | None = UNSET,
        close_after_s: int | UnsetType | None = UNSET,
    ) -> ConversationRecord:
        """Change the record by compare-and-set; `metadata` is merged, a value of None removing its name.

        Timers count from the last activity, so one that is already due is done by the next sweep.
        """
        given = {"organization": organization, "user": user, "agent": agent, "title": title}
        given |= {"pause_after_s": pause_after_s, "close_after_s": close_after_s}
        more = mapping(metadata, "metadata")

        def change(old: ConversationRecord) -> ConversationRecord:
            merged = {k: v for k, v in {**old.metadata, **more}.items() if v is not None}
            known = {name: value for name, value in given.items() if value is not UNSET}
            return checked_timers(msgspec.structs.replace(old, metadata=merged, **known))

        return await self._handle.change(change, [])

    async def close(self) -> ConversationRecord:
        """Close it: appends are refused from now on, reads stay. Raises Conflict where it is closed already."""
        return await self._handle.turn("closed")

    async def pause(self) -> ConversationRecord:
        """Pause it: the next append opens it again.

        Raises Conflict where it is not open, Invalid for a fork that is not complete.
        """
        await self._handle.refuse_unfinished()
        return await self._handle.turn("paused")

    async def reopen(self) -> ConversationRecord:
        """Open it again, which counts as activity. Raises Conflict where it is open."""
        return await self._handle.turn("open")

    async def delete(self) -> None:
        """Delete it with all that is its: events, state, what lives with it, large bodies. It is gone at once.

        Late writers find nothing. One that is created under its id goes on with its numbers, and knows none of its
        keys. Raises NotFound where there is nothing to delete; what an earlier call left is then removed all the same.
        """
        await removal.delete(self._handle)

    async def clear(self) -> None:
        """Remove all events and summaries at once and for good; the conversation and its state stay, numbers go on."""
        await removal.clear(self._handle)

    async def fork(self, *, at: int | None = None, id: str | None = None) -> Conversation:
        """A new conversation with the events up to an index (default: all there are now), and its own life after.

        Events keep their indexes. Its state is that of now where `at` is the end; else who is active is what the
        copied handoffs say. Called again with the same `id` it goes on where it broke off. Raises Invalid for an
        index beyond the end and for the id of a deleted conversation, Conflict where another one has the id.
        """
        source = await self.refresh()
        copy = await fork(self._store, source, at, self._store.ids() if id is None else checked(id))
        return Conversation(self._store, copy.value, copy.rev)


def checked(id: object) -> str:
    """The id of a conversation. Raises Invalid for an empty one, and for what is no text."""
    return identifier(id, "a conversation id")
