"""One conversation: append, read, hand over, fork, close, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ... import keys
from ...codec import check
from ...errors import Conflict, Invalid, Key, NotFound, StoreError
from ...pages import Page
from ...predicates import Where, evaluate, parse
from ...records import record_of
from ...store import Store, digest_of
from ...waist import Batch, Check, Delete, Op, Receipt, Scan, Trim
from .content import TYPES, Handoff, ToolCall, ToolResult, as_content
from .records import Activity, ConversationRecord, Event, Origin, State
from .window import CONTEXT_TYPES, Context, Tokens, estimate, window

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

MAX_APPEND = 45
"""Events that one append_many takes: under the batch's limit with room for what goes with them."""


class New(Struct, frozen=True, kw_only=True):
    """An event to append: what `Conversation.append` takes, as a value."""

    content: Any
    type: str | None = None
    sender: str | None = None
    role: str | None = None
    agent: str | None = None
    channel: str | None = None
    run: str | None = None
    correlation: str | None = None
    parent: int | None = None
    metadata: dict[str, Any] | None = None


class Conversation:
    """A conversation of a store. It holds the record as it was last read; events and state are always read anew.

    Handles are cheap, may be kept, and may be used by many tasks at once.
    """

    def __init__(self, store: Store, record: ConversationRecord, rev: str) -> None:
        self._store = store
        self._record = record
        self._rev = rev
        self._partition = keys.partition(record.id)
        self._active_s = 0

    def __repr__(self) -> str:
        return f"Conversation({self.id!r}, {self._record.status})"

    @property
    def id(self) -> str:
        """Its id."""
        return self._record.id

    @property
    def record(self) -> ConversationRecord:
        """The record as it was last read: user, agent, title, status, metadata, origin, times."""
        return self._record

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
        (event,) = await self._append((new,), key, after)
        return event

    async def append_many(
        self, events: Sequence[New | Mapping[str, Any] | str], *, key: str | None = None, after: int | None = None
    ) -> list[Event]:
        """Append up to 45 events as one: all are there or none, and their indexes follow each other.

        Each is a `New`, a mapping with its fields, or a text. `key` and `after` are as in `append`.
        """
        if not 1 <= len(events) <= MAX_APPEND:
            raise Invalid(f"append_many takes 1 to {MAX_APPEND} events, not {len(events)}", operation="append_many")
        return await self._append([_new(event) for event in events], key, after)

    async def _append(self, news: Sequence[tuple[Any, ...]], key: str | None, after: int | None) -> list[Event]:
        now = self._store.clock()
        events = [self._event(new, key, now) for new in news]
        digest = None if key is None else digest_of([_said(event) for event in events])
        receipt = await self._write([], events, key=key, digest=digest, after=after)
        seqs = [seq for seq in receipt.seqs if seq is not None]
        for event, seq in zip(events, seqs, strict=True):
            msgspec.structs.force_setattr(event, "index", seq)
        return events

    def _event(self, new: tuple[Any, ...], key: str | None, now: int) -> Event:
        content, type, sender, role, agent, channel, run, correlation, parent, metadata = new
        content = as_content(content)
        return Event(
            conversation=self._record.id,
            type=type or TYPES[content.__class__],
            content=content,
            sender=sender,
            role=role,
            agent=agent,
            channel=channel,
            run=run,
            correlation=correlation,
            parent=parent,
            key=key,
            metadata={} if metadata is None else metadata,
            created_us=now,
        )

    async def _write(
        self,
        ops: Sequence[Op],
        events: Sequence[Event],
        *,
        key: str | None = None,
        digest: bytes | None = None,
        after: int | None = None,
    ) -> Receipt:
        """Commit ops and events as one batch, with the recency where its second changed.

        The recency is a copy of the record, so it goes with a check that the copy is current; where it is not, the
        record is read again.
        """
        appends: list[Op] = [
            EVENT.append(event, after=None if n else after, expect="exists") for n, event in enumerate(events)
        ]
        while True:
            second = self._store.clock() // 1_000_000
            extra = [] if second == self._active_s else self._recency(second)
            try:
                receipt = await self._store.commit(self._partition, [*appends, *ops, *extra], once=key, digest=digest)
            except Conflict as error:
                if error.reason == "sealed":
                    raise await self._why_sealed(error) from None
                if error.key is None or error.key.kind != RECORD.spec.name:
                    raise
                await self.refresh()
            else:
                self._active_s = second
                return receipt

    def _recency(self, second: int) -> list[Op]:
        return [Check(RECORD.spec.name, "", self._rev), ACTIVITY.put(activity_of(self._record, second))]

    async def _why_sealed(self, error: Conflict) -> Exception:
        stored = await self._store.get(ConversationRecord, self._partition)
        if stored is None:
            return NotFound("there is no such conversation", key=self._key, operation="append")
        self._record, self._rev = stored
        if stored.value.status == "closed":
            hint = "Use reopen() to go on."
            return Invalid("the conversation is closed", key=self._key, operation="append", hint=hint)
        return error

    @property
    def _key(self) -> Key:
        return Key(RECORD.spec.name, self._partition, "")

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
        backwards = after is None
        lo = None if after is None else keys.seq_sort(after + 1)
        hi = None if before is None else keys.seq_sort(max(before, 0))
        scan = Scan(EVENT.spec.name, None, (self._partition,), lo, hi, backwards, limit, cursor, parse(where), budget)
        rows = await self._store.scan_rows(scan)
        items = rows.items[::-1] if backwards else rows.items
        return await self._store.decode(EVENT, items, rows.cursor)

    async def get(self, index: int) -> Event | None:
        """One event, or None."""
        stored = await self._store.get(Event, self._partition, keys.seq_sort(index))
        return None if stored is None else stored.value

    async def events(self, *, after: int = 0, where: Where | None = None) -> AsyncIterator[Event]:
        """All events after an index, in order, page by page. Raises Corrupt where one does not decode."""
        scan = Scan(EVENT.spec.name, None, (self._partition,), keys.seq_sort(after + 1), limit=200, where=parse(where))
        async for event in self._pages(scan):
            yield event

    async def _pages(self, scan: Scan) -> AsyncIterator[Event]:
        while True:
            rows = await self._store.scan_rows(scan)
            page = await self._store.decode(EVENT, rows.items, rows.cursor)
            if page.corrupt:
                raise page.corrupt[0]
            for event in page.items:
                yield event
            if page.cursor is None:
                return
            scan = msgspec.structs.replace(scan, after=page.cursor)

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
        wanted = parse(where)
        seen = await self.length() if after is None else after
        pause, quiet = poll, 0.0
        while True:
            lo = keys.seq_sort(seen + 1)
            rows = await self._store.scan_rows(Scan(EVENT.spec.name, None, (self._partition,), lo, limit=200))
            page = await self._store.decode(EVENT, rows.items, rows.cursor)
            if page.corrupt:
                raise page.corrupt[0]
            for event in page.items:
                seen = event.index
                if evaluate(wanted, EVENT.facet_values(event)):
                    yield event
            if page.items:
                pause, quiet = poll, 0.0
                continue
            if (idle is not None and quiet >= idle) or await self._deleted():
                return
            await self._store.sleep(pause)
            quiet += pause
            pause = min(pause * 1.5, poll * 20)

    async def _deleted(self) -> bool:
        return await self._store.get_row(self._key) is None

    async def length(self) -> int:
        """The index of the last event there ever was."""
        (row,) = await self._store.engine.get((Key(EVENT.spec.name, self._partition, ""),))
        return 0 if row is None else int(row.rev)

    async def context(
        self,
        *,
        max_tokens: int,
        tokens: Tokens = estimate,
        types: Sequence[str] = CONTEXT_TYPES,
        before: int | None = None,
    ) -> Context:
        """The longest end of the conversation that fits a model, a tool call never without its results.

        `tokens` counts an event in tokens of your model; the default estimates four characters a token.
        """
        events: list[Event] = []
        spent, cursor = 0, None
        while True:
            page = await self.history(limit=100, before=before, where={"type": list(types)}, cursor=cursor)
            events = [*page.items, *events]
            spent += sum(map(tokens, page.items))
            cursor = page.cursor
            if cursor is None or spent > max_tokens:
                return window(events, max_tokens, tokens, complete=cursor is None)

    async def pending(self, *, last: int = 200) -> list[Event]:
        """The tool calls among the last events that have no result: a run broke off there."""
        page = await self.history(limit=last, where={"type": ["tool_call", "tool_result"]})
        open_calls: dict[str, Event] = {}
        for event in page.items:
            if isinstance(event.content, ToolCall):
                open_calls[event.content.id] = event
            elif isinstance(event.content, ToolResult):
                open_calls.pop(event.content.id, None)
        return list(open_calls.values())

    # --- state ---

    async def state(self) -> State:
        """The state as it is now."""
        stored = await self._store.get(State, self._partition)
        return State(conversation=self.id) if stored is None else stored.value

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

        def merge(state: State) -> State:
            if active_agent is not UNSET and active_agent != state.active_agent:
                state = msgspec.structs.replace(state, active_agent=active_agent, previous_agent=state.active_agent)
            if phase is not UNSET:
                state = msgspec.structs.replace(state, phase=phase)
            if data is not None:
                check(dict(data), "data")
                merged = {name: value for name, value in {**state.data, **data}.items() if value is not None}
                state = msgspec.structs.replace(state, data=merged)
            return state if change is None else change(state)

        return await self._change_state(merge, lambda _: [])

    async def handoff(
        self, to: str, *, reason: str | None = None, phase: str | None = None, metadata: dict[str, Any] | None = None
    ) -> Event:
        """Pass the conversation to another agent: the state and the event that says so are one write."""
        made: list[Event] = []

        def change(state: State) -> State:
            return msgspec.structs.replace(
                state,
                active_agent=to,
                previous_agent=state.active_agent,
                handoffs=state.handoffs + 1,
                phase=state.phase if phase is None else phase,
            )

        def note(old: State) -> list[Event]:
            content = Handoff(to, old.active_agent, reason)
            new = (content, None, None, None, old.active_agent, None, None, None, None, metadata)
            made[:] = [self._event(new, None, self._store.clock())]
            return made

        await self._change_state(change, note)
        return made[0]

    async def _change_state(self, change: Callable[[State], State], note: Callable[[State], list[Event]]) -> State:
        key = Key(STATE.spec.name, self._partition, "")

        async def attempt() -> State:
            row = await self._store.get_row(key)
            old = State(conversation=self.id) if row is None else STATE.decode(row)
            new = change(old)
            events = note(old)
            if new == old and not events:
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            keep = None if row is None else STATE.unknown(row)
            put = STATE.put(new, "absent" if row is None else row.rev, keep=keep)
            if events:
                receipt = await self._write([put], events)
                seqs = [seq for seq in receipt.seqs if seq is not None]
                msgspec.structs.force_setattr(events[0], "index", seqs[0])
            else:
                await self._store.commit(self._partition, [put, Check(RECORD.spec.name, "", "exists")])
            return new

        return await self._store.again(attempt, key)

    # --- the conversation itself ---

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound where the conversation was deleted."""
        stored = await self._store.get(ConversationRecord, self._partition)
        if stored is None:
            raise NotFound("there is no such conversation", key=self._key, operation="get")
        self._record, self._rev = stored
        return self._record

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

        def change(old: ConversationRecord) -> ConversationRecord:
            merged = {k: v for k, v in {**old.metadata, **(metadata or {})}.items() if v is not None}
            known = {name: value for name, value in given.items() if value is not UNSET}
            return msgspec.structs.replace(old, metadata=merged, **known)

        return await self._change(change, [])

    async def close(self) -> ConversationRecord:
        """Close it: appends are refused from now on, reads stay. Raises Conflict where it is closed already."""
        return await self._change(lambda old: self._status(old, "closed"), [Trim(EVENT.spec.name, sealed=True)])

    async def reopen(self) -> ConversationRecord:
        """Open it again. Raises Conflict where it is open."""
        return await self._change(lambda old: self._status(old, "open"), [Trim(EVENT.spec.name, sealed=False)])

    def _status(self, old: ConversationRecord, status: Any) -> ConversationRecord:
        if old.status == status:
            raise Conflict(self._key, f"not {status}", status, hint=f"It is {status} already.", operation=status)
        return msgspec.structs.replace(old, status=status)

    async def _change(
        self, change: Callable[[ConversationRecord], ConversationRecord], ops: Sequence[Op]
    ) -> ConversationRecord:
        async def attempt() -> ConversationRecord:
            row = await self._store.get_row(self._key)
            if row is None:
                raise NotFound("there is no such conversation", key=self._key, operation="update")
            old = RECORD.decode(row)
            new = change(old)
            if new == old:
                self._record, self._rev = old, row.rev
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            active = await self._store.get(Activity, self._partition)
            second = active.value.active_s if active is not None else new.updated_us // 1_000_000
            put = RECORD.put(new, row.rev, keep=RECORD.unknown(row))
            receipt = await self._store.commit(self._partition, [put, ACTIVITY.put(activity_of(new, second)), *ops])
            self._record, self._rev = new, receipt.id
            return new

        return await self._store.again(attempt, self._key)

    async def delete(self) -> None:
        """Delete it with all its events, state and large bodies; it is gone at once, for late writers too.

        Created again under its id, its numbers go on. Raises NotFound where there is nothing to delete.
        """
        ops: list[Op] = [
            Delete(RECORD.spec.name, "", "exists"),
            Delete(STATE.spec.name, ""),
            Delete(ACTIVITY.spec.name, ""),
            Trim(EVENT.spec.name, None, sealed=True),
        ]
        try:
            await self._store.commit(self._partition, ops)
        except Conflict:
            raise NotFound("there is no such conversation", key=self._key, operation="delete") from None
        await self._store.collect(self._partition)

    async def clear(self) -> None:
        """Remove all events at once and for good; the conversation and its state stay, and numbers go on."""
        ops: list[Op] = [Check(RECORD.spec.name, "", "exists"), Trim(EVENT.spec.name, None)]
        try:
            await self._store.commit(self._partition, ops)
        except Conflict:
            raise NotFound("there is no such conversation", key=self._key, operation="clear") from None
        await self._store.collect(self._partition)

    async def fork(self, *, at: int | None = None, id: str | None = None) -> Conversation:
        """A new conversation with the events up to an index (default: all there are now), and its own life after.

        Events keep their indexes. Its state is that of now where `at` is the end; else who is active is what the
        copied handoffs say. Called again with the same `id` it goes on where it broke off. Raises Invalid for an
        index beyond the end.
        """
        length = await self.length()
        last = length if at is None else at
        if not 0 <= last <= length:
            raise Invalid(f"at={last} is not an index of this conversation, which ends at {length}", operation="fork")
        record = msgspec.structs.replace(
            await self.refresh(),
            id=self._store.ids() if id is None else id,
            origin=Origin(self.id, last),
            status="open",
            created_us=self._store.clock(),
            updated_us=0,
        )
        copy = await ensure(self._store, record)
        state = await self.state()
        if last != length:
            state = State(conversation=self.id)
        chunk: list[Event] = []
        async for event in self.events():
            if event.index > last:
                break
            if isinstance(event.content, Handoff) and last != length:
                state = _handed_over(state, event.content)
            chunk.append(event)
            if len(chunk) == MAX_APPEND:
                await copy._restore(chunk)
                chunk = []
        await copy._restore(chunk)
        await self._store.put(msgspec.structs.replace(state, conversation=copy.id))
        return copy

    async def _restore(self, events: Sequence[Event]) -> None:
        """Write events under the indexes they have. Doing it again changes nothing."""
        puts = [
            EVENT.put(msgspec.structs.replace(event, conversation=self.id), sort=keys.seq_sort(event.index))
            for event in events
        ]
        if puts:
            batch = Batch(self._partition, tuple(puts), self._store.ids())
            for answer in await self._store.commit_all([batch], restore=True):
                if isinstance(answer, StoreError):
                    raise answer


async def ensure(store: Store, record: ConversationRecord) -> Conversation:
    """The conversation with the record's id: the one that is there, or a new one."""
    partition = keys.partition(record.id)
    found = await store.get(ConversationRecord, partition)
    if found is None:
        try:
            return await create(store, record)
        except Conflict:
            found = await store.get(ConversationRecord, partition)
            if found is None:
                raise
    return Conversation(store, found.value, found.rev)


async def create(store: Store, record: ConversationRecord) -> Conversation:
    """A new conversation. Raises Conflict where its id is taken."""
    second = record.created_us // 1_000_000
    ops: list[Op] = [
        RECORD.put(record, "absent"),
        ACTIVITY.put(activity_of(record, second)),
        Trim(EVENT.spec.name, sealed=False),
    ]
    receipt = await store.commit(keys.partition(record.id), ops)
    return Conversation(store, record, receipt.id)


def activity_of(record: ConversationRecord, second: int) -> Activity:
    """The copy of a record that lists read, with the second of its last event."""
    return Activity(
        id=record.id,
        user=record.user,
        agent=record.agent,
        title=record.title,
        status=record.status,
        metadata=record.metadata,
        origin=record.origin,
        created_us=record.created_us,
        updated_us=record.updated_us,
        active_s=second,
    )


def _handed_over(state: State, handoff: Handoff) -> State:
    return msgspec.structs.replace(
        state, active_agent=handoff.to, previous_agent=handoff.previous, handoffs=state.handoffs + 1
    )


def _new(event: New | Mapping[str, Any] | str) -> tuple[Any, ...]:
    """What `append` takes, as the tuple `_event` reads. Raises Invalid for an unknown field."""
    if isinstance(event, str):
        return (event, *(None,) * 9)
    if isinstance(event, New):
        return msgspec.structs.astuple(event)
    unknown = set(event) - set(New.__struct_fields__)
    if unknown or "content" not in event:
        known = ", ".join(New.__struct_fields__)
        wrong = f"unknown fields {sorted(unknown)}" if unknown else "no content"
        raise Invalid(f"an event has {wrong}", operation="append_many", hint=f"There is: {known}.")
    return tuple(event.get(name) for name in New.__struct_fields__)


def _said(event: Event) -> tuple[object, ...]:
    """What the caller said, without the time: what tells two uses of a key apart."""
    fields = (event.type, event.content, event.sender, event.role, event.agent, event.channel, event.run)
    return (*fields, event.correlation, event.parent, event.metadata)
