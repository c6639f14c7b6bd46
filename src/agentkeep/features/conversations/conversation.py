"""One conversation: append, read, hand over, fork, close, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ...errors import Conflict, Corrupt, Invalid, Key, NotFound, StoreError
from ...pages import Page
from ...predicates import Where
from ...records import record_of
from ...store import Store
from ...waist import Check, Delete, Op, Put, Trim
from . import belongings, reading
from .appending import New, append, given_of
from .beginnings import PER_BATCH, activity_of, fork, head_of, put_record
from .content import Content, ToolCall, ToolResult
from .handle import Handle
from .reading import event_at, scan_of
from .records import Activity, ConversationRecord, Event, State, Status
from .state import hand_over, mapping, read_state, set_state
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
        key: str | None = None,
        after: int | None = None,
    ) -> Event:
        """Append one event and give it back with its index.

        `content` is text, a content of `agentkeep`, a list of parts, or any JSON. `key` makes the append
        idempotent: a second one with it gives the first event's index, and raises Conflict if it says something
        else. `after` is the index the conversation must end at, else Conflict. Raises Invalid where the conversation
        is closed or the content cannot be kept, NotFound where it was deleted, TooLarge.
        """
        new = (content, type, sender, role, agent, channel, run, correlation, parent, metadata)
        (event,) = await append(self._handle, (new,), key, after)
        return event

    async def append_many(
        self,
        events: Sequence[New | Mapping[str, Any] | Content | str],
        *,
        key: str | None = None,
        after: int | None = None,
    ) -> list[Event]:
        """Append up to 45 events as one: all are there or none, and their indexes follow each other.

        Each is a `New`, a mapping with its fields, text, or a content such as a tool call. `key` and `after` are as
        in `append`.
        """
        if not 1 <= len(events) <= MAX_APPEND:
            raise Invalid(f"append_many takes 1 to {MAX_APPEND} events, not {len(events)}", operation="append_many")
        return await append(self._handle, [given_of(event) for event in events], key, after)

    # --- reading events ---

    async def history(
        self,
        *,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
        where: Where | None = None,
        budget: int = 10_000,
        cursor: str | None = None,
    ) -> Page[Event]:
        """Events, ascending: the newest `limit` (before an index), or with `after` the oldest after one.

        `where` asks type, sender, role, agent, channel, run, correlation, parent and metadata.*; `budget` bounds the
        events looked at. The page's cursor, passed with the same arguments, gives the page that follows in the
        same direction. Raises Invalid for a malformed filter.
        """
        scan = scan_of(
            self._handle,
            before=before,
            after=after,
            where=where,
            reverse=after is None,
            limit=limit,
            cursor=cursor,
            budget=budget,
        )
        return await reading.page(self._handle, scan)

    async def get(self, index: int) -> Event | None:
        """One event, or None."""
        return await event_at(self._handle, index)

    async def events(self, *, after: int = 0, where: Where | None = None) -> AsyncIterator[Event]:
        """All events after an index, in order, page by page. Raises Corrupt where one does not decode."""
        async for event in reading.each(self._handle, scan_of(self._handle, after=after, where=where)):
            yield event

    async def tail(
        self,
        *,
        after: int | None = None,
        where: Where | None = None,
        idle: float | None = None,
        poll: float = 0.05,
    ) -> AsyncIterator[Event]:
        """Events as they come, in order, without an end; pass the last index seen as `after` to go on.

        `after=None` starts at the end. It asks every `poll` seconds, up to 20 times less often while nothing
        comes, and ends after `idle` seconds without an event, or when the conversation is deleted.
        """
        async for event in reading.follow(self._handle, after, where, idle, poll):
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
    ) -> Context:
        """The longest end of the conversation that fits a model, a tool call never without its results.

        `tokens` counts an event in tokens of your model; the default estimates four characters a token. It looks no
        further back than 10,000 events without one of these types.
        """
        return await reading.context(self._handle, max_tokens, tokens, types, before)

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
    ) -> State:
        """Change the state by compare-and-set: concurrent changes are all kept.

        `data` is merged into the free data, a value of None removing its name. `change` makes a new state of the
        old one, and may be called several times.
        """
        return await set_state(self._handle, active_agent, phase, data, change)

    async def handoff(
        self,
        to: str,
        *,
        reason: str | None = None,
        phase: str | None = None,
        metadata: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> Event:
        """Pass the conversation to another agent: the state and the event that says so are one write.

        `key` makes it idempotent, as in `append`.
        """
        return await hand_over(self._handle, to, reason, phase, metadata, key)

    # --- the conversation itself ---

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound where the conversation was deleted."""
        return await self._handle.refresh()

    async def update(
        self,
        *,
        user: str | UnsetType | None = UNSET,
        agent: str | UnsetType | None = UNSET,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
    ) -> ConversationRecord:
        """Change the record by compare-and-set; `metadata` is merged, a value of None removing its name."""
        given = {"user": user, "agent": agent, "title": title}
        more = mapping(metadata, "metadata")

        def change(old: ConversationRecord) -> ConversationRecord:
            merged = {k: v for k, v in {**old.metadata, **more}.items() if v is not None}
            known = {name: value for name, value in given.items() if value is not UNSET}
            return msgspec.structs.replace(old, metadata=merged, **known)

        return await self._change(change, [])

    async def close(self) -> ConversationRecord:
        """Close it: appends are refused from now on, reads stay. Raises Conflict where it is closed already."""
        return await self._turn("closed")

    async def reopen(self) -> ConversationRecord:
        """Open it again. Raises Conflict where it is open."""
        return await self._turn("open")

    async def _turn(self, status: Status) -> ConversationRecord:
        turned: list[bool] = []

        def change(old: ConversationRecord) -> ConversationRecord:
            turned[:] = [old.status != status]
            return msgspec.structs.replace(old, status=status)

        record = await self._change(change, [Trim(EVENT.spec.name, sealed=status == "closed")])
        if not turned[0]:
            raise Conflict(self._handle.key, f"not {status}", status, operation=status, hint=f"It is {status} already.")
        return record

    async def _change(
        self, change: Callable[[ConversationRecord], ConversationRecord], ops: Sequence[Op]
    ) -> ConversationRecord:
        async def attempt() -> ConversationRecord:
            found = await self._store.get_stored(self._handle.key)
            if found is None:
                raise self._handle.missing("update")
            row, whole = found
            old = RECORD.decode(whole)
            if old.life != self.record.life:
                raise self._handle.missing("update")
            new = change(old)
            if new == old:
                self._handle.record, self._handle.rev = old, row.rev
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            puts = [put_record(new, row.rev, RECORD.unknown(whole)), await self._copy(new)]
            receipt = await self._store.commit(self._handle.partition, [*puts, *ops], replaced=[row])
            self._handle.record, self._handle.rev = new, receipt.id
            return new

        return await self._store.again(attempt, self._handle.key)

    async def _copy(self, record: ConversationRecord) -> Put:
        """The put that brings the activity in line with a record, unless an append changes it meanwhile."""
        row = await self._store.get_row(Key(ACTIVITY.spec.name, self._handle.partition, ""))
        second = record.updated_us // 1_000_000
        if row is not None:
            with suppress(Corrupt):  # it is a copy, and written anew
                second = ACTIVITY.decode(row).active_s
        return ACTIVITY.put(activity_of(record, second), "absent" if row is None else row.rev)

    async def delete(self) -> None:
        """Delete it with all that is its: events, state, what lives with it, large bodies. It is gone at once.

        Late writers find nothing. One that is created under its id goes on with its numbers, and knows none of its
        keys. Raises NotFound where there is nothing to delete; what an earlier call left is then removed all the same.
        """
        ops: list[Op] = [
            Delete(STATE.spec.name, ""),
            Delete(ACTIVITY.spec.name, ""),
            Trim(EVENT.spec.name, None, sealed=True),
        ]
        await self._remove(Delete, ops, "delete")

    async def _remove(self, guard: type[Check] | type[Delete], ops: Sequence[Op], operation: str) -> None:
        """Commit what hides events, then remove the rest: also where an earlier call broke off in between."""
        gone = False
        try:
            await self._hide(guard, ops)
        except NotFound:
            gone = True
        finally:
            self._store.connection.epoch += 1
        try:
            if guard is Delete:
                await belongings.remove(self._store, self._handle.partition)
            await self._store.collect(self._handle.partition)
        except StoreError as error:
            error.outcome = "unknown"  # the events are hidden, the rest is not all removed
            raise
        if gone:
            raise self._handle.missing(operation)

    async def _hide(self, guard: type[Check] | type[Delete], ops: Sequence[Op]) -> None:
        """Commit ops while the record is this life's. Raises NotFound."""
        while True:
            with suppress(Conflict):
                await self._store.commit(self._handle.partition, [guard(RECORD.spec.name, "", self._handle.rev), *ops])
                return
            await self.refresh()

    async def clear(self) -> None:
        """Remove all events at once and for good; the conversation and its state stay, and numbers go on."""
        await self._remove(Check, [Trim(EVENT.spec.name, None)], "clear")

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
    if not isinstance(id, str) or not id:
        raise Invalid("a conversation id is a non-empty string", operation="conversations")
    return id
