"""One conversation: append, read, hand over, fork, close, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Protocol, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ... import keys
from ...codec import check
from ...errors import Conflict, Corrupt, Invalid, Key, NotFound, StoreError
from ...pages import Page
from ...predicates import Where, evaluate, parse
from ...records import record_of
from ...store import Store, digest_of
from ...waist import Check, Delete, Op, Put, Receipt, Row, Scan, Trim
from ..locks import HOLDER, TERM, Held, Lease, LeaseRecord, Owner, Place
from . import belongings
from .arguments import mapping, text
from .beginnings import PER_BATCH, activity_of, fork, head_of, put_record
from .bindings import Bindings, reshelve
from .content import TYPES, Content, Handoff, ToolCall, ToolResult, as_content
from .participants import Participants
from .records import Activity, ConversationRecord, Event, State, Status
from .timers import TURNS, checked_timers
from .window import CONTEXT_TYPES, Context, Tokens, estimate, is_settled, window

RECORD, ACTIVITY, STATE, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(State), record_of(Event)

MAX_INDEX = 10**16 - 1
"""The greatest index that a log can give."""

MAX_APPEND = PER_BATCH
"""Events that one append_many takes."""


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

    Handles are cheap, may be kept, and may be used by many tasks at once. A handle is of one life: where its
    conversation was deleted and another one has its id, it writes nothing and raises NotFound.
    """

    def __init__(self, store: Store, record: ConversationRecord, rev: str) -> None:
        self._store = store
        self._record = record
        self._rev = rev
        self._partition = keys.partition(record.id)
        self._active_s = 0
        self._epoch = store.connection.epoch

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

    # --- the room ---

    @cached_property
    def participants(self) -> Participants:
        """Who is in it and who was, with the index of the event from which and up to which."""
        return Participants(self._store, self, self._write)

    @cached_property
    def bindings(self) -> Bindings:
        """The channels that are bound to it, each with its own configuration."""
        return Bindings(self._store, self, self._commit)

    def lease(self, holder: str, seconds: float = 30.0, *, wait: float | None = 0, renew: bool = True) -> Lease:
        """The lease of the conversation, for one active agent at a time: `async with talk.lease("billing") as lease`.

        Raises Conflict where another holds it for longer than `wait` seconds (None: however long), NotFound. Pass the
        lease to `append`, `handoff` and `set_state`: they then write only while it is held.
        """
        life = self._record.life
        ends = belongings.place(life, HOLDER), belongings.place(life, TERM)
        place = Place(record_of(LeaseRecord), self.id, self._partition, *ends)
        return Lease(self._store, place, holder, seconds, wait, renew, Owner(self._current, self.refresh))

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
        lease: Held | None = None,
    ) -> Event:
        """Append one event and give it back with its index.

        `content` is text, a content of `agentkeep`, a list of parts, or any JSON. `key` makes the append
        idempotent: a second one with it gives the first event's index, and raises Conflict if it says something
        else. `after` is the index the conversation must end at, else Conflict; `lease` must be held, else Conflict.
        Raises Invalid where the conversation is closed or the content cannot be kept, NotFound where it was deleted,
        TooLarge. A paused conversation is open again first.
        """
        new = (content, type, sender, role, agent, channel, run, correlation, parent, metadata)
        (event,) = await self._append((new,), key, after, lease)
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

        Each is a `New`, a mapping with its fields, text, or a content such as a tool call. `key`, `after` and `lease`
        are as in `append`.
        """
        if not 1 <= len(events) <= MAX_APPEND:
            raise Invalid(f"append_many takes 1 to {MAX_APPEND} events, not {len(events)}", operation="append_many")
        return await self._append([_new(event) for event in events], key, after, lease)

    async def _append(
        self, news: Sequence[tuple[Any, ...]], key: str | None, after: int | None, lease: Held | None
    ) -> list[Event]:
        now = self._store.clock()
        events = [self._event(new, key, now) for new in news]
        appends: list[Op] = [
            EVENT.append(event, after=None if n else after, expect="exists") for n, event in enumerate(events)
        ]
        digest = None if key is None else digest_of([_said(event) for event in events])
        receipt = await self._write(appends, key=key, digest=digest, lease=lease)
        return await self._appended(events, receipt)

    async def _appended(self, events: Sequence[Event], receipt: Receipt) -> list[Event]:
        """The events with the indexes that a receipt gives; as they were stored first, where it is a replay."""
        seqs = [seq for seq in receipt.seqs if seq is not None]
        for event, seq in zip(events, seqs, strict=True):
            msgspec.structs.force_setattr(event, "index", seq)
        if not receipt.replayed:
            return list(events)
        first: dict[int, Event] = {}
        with suppress(StoreError):  # they are there: a read that fails makes no failure of it
            for event in events:
                if (stored := await self.get(event.index)) is not None:
                    first[event.index] = stored
        return [first.get(event.index, event) for event in events]

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
        *,
        key: str | None = None,
        digest: bytes | None = None,
        replaced: Row | None = None,
        guarded: bool = False,
        lease: Held | None = None,
    ) -> Receipt:
        """Commit ops with appends as one batch, with the recency where its second changed.

        The recency is a copy of the record, so it goes with a check that the copy is current; where it is not, the
        record is read again. So does all that is `guarded`, and what follows a deletion by this process.
        """
        once = self._once(key)
        ops = [*ops, *self._held(lease)]
        while True:
            second, epoch = self._store.clock() // 1_000_000, self._store.connection.epoch
            recency: list[Op] = [self._current()] if guarded else []
            if second != self._active_s or epoch != self._epoch:
                recency = [self._current(), ACTIVITY.put(activity_of(self._record, second))]
            try:
                receipt = await self._store.commit(
                    self._partition, [*ops, *recency], once=once, digest=digest, replaced=_rows(replaced)
                )
            except Conflict as error:
                if error.reason == "sealed":
                    await self._refuse_sealed()
                else:
                    await self._look_again(error, lease)
            else:
                if not receipt.replayed:
                    self._active_s, self._epoch = second, epoch
                return receipt

    async def _commit(self, ops: Sequence[Op], replaced: Sequence[Row] = (), lease: Held | None = None) -> Receipt:
        """Commit ops without appends while the conversation is there."""
        ops = [*ops, *self._held(lease)]
        while True:
            try:
                return await self._store.commit(self._partition, [*ops, self._current()], replaced=replaced)
            except Conflict as error:
                await self._look_again(error, lease)

    async def _look_again(self, error: Conflict, lease: Held | None) -> None:
        """Read the record again where it was that which had changed. Raises the conflict where it was not."""
        if error.key is not None and error.key.kind == RECORD.spec.name:
            await self.refresh()
        else:
            raise error if lease is None else lease.lost(error, "commit")

    def _held(self, lease: Held | None) -> list[Check]:
        if lease is not None and lease.partition != self._partition:
            raise Invalid(f"{lease!r} is not a lease of this conversation", key=self._key, operation="lease")
        return [] if lease is None else [lease.check()]

    def _once(self, key: str | None) -> str | None:
        """A key as engines get it: they remember it with the partition, so the life stands before it."""
        return f"{self._record.life}/{key}" if key and self._record.life else key

    def _current(self) -> Check:
        """Holds as long as the record is the one that was read last."""
        return Check(RECORD.spec.name, "", self._rev)

    async def _refuse_sealed(self) -> None:
        """Raise why the log takes no appends, unless it takes them again by now."""
        record, head = await self.refresh(), await head_of(self._store, self._partition)
        if record.status == "closed":
            hint = "Use reopen() to go on."
            raise Invalid("the conversation is closed", key=self._key, operation="append", hint=hint)
        if record.status == "paused":
            with suppress(Conflict):
                await self._turn("open")
            return
        if head.sealed:
            hint = f"Finish it: call fork(id={self.id!r}) on {record.origin.conversation!r}." if record.origin else ""
            raise Invalid("the conversation is not complete yet", key=self._key, operation="append", hint=hint)

    def _missing(self, operation: str) -> NotFound:
        return NotFound("there is no such conversation", key=self._key, operation=operation)

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
        if not 1 <= index <= MAX_INDEX:
            return None
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
        cursor: str | None = None
        while True:
            lo = keys.seq_sort(seen + 1)
            scan = Scan(EVENT.spec.name, None, (self._partition,), lo, limit=200, after=cursor)
            rows = await self._store.scan_rows(scan)
            page = await self._store.decode(EVENT, rows.items, rows.cursor)
            if page.corrupt:
                raise page.corrupt[0]
            for event in page.items:
                seen = event.index
                if evaluate(wanted, EVENT.facet_values(event)):
                    yield event
            cursor = None if page.items else page.cursor
            if page.items:
                pause, quiet = poll, 0.0
            if page.items or cursor is not None:
                continue
            if (idle is not None and quiet >= idle) or await self._deleted():
                return
            wait = pause if idle is None else min(pause, idle - quiet)
            await self._store.sleep(wait)
            quiet += wait
            pause = min(pause * 1.5, poll * 20)

    async def _deleted(self) -> bool:
        stored = await self._store.get(ConversationRecord, self._partition)
        return stored is None or stored.value.life != self._record.life

    async def length(self) -> int:
        """The index of the last event there ever was."""
        return (await head_of(self._store, self._partition)).seq

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
        sizes: dict[int, int] = {}

        def size(event: Event) -> int:
            if event.index not in sizes:
                sizes[event.index] = tokens(event)
            return sizes[event.index]

        events: list[Event] = []
        cursor, limit = None, 100
        while True:
            page = await self.history(limit=limit, before=before, where={"type": list(types)}, cursor=cursor)
            events = [*page.items, *events]
            cursor, limit = page.cursor, min(2 * limit, 1_000)
            if cursor is None or not page.items or is_settled(events, max_tokens, size):
                return window(events, max_tokens, size, complete=cursor is None)

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
        stored = await self._store.get(State, self._partition)
        return State(conversation=self.id) if stored is None else stored.value

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

        more = None if data is None else mapping(data, "data")

        def merge(state: State) -> State:
            if active_agent is not UNSET and active_agent != state.active_agent:
                state = msgspec.structs.replace(state, active_agent=active_agent, previous_agent=state.active_agent)
            if phase is not UNSET:
                state = msgspec.structs.replace(state, phase=phase)
            if more is not None:
                check(more, "data")
                merged = {name: value for name, value in {**state.data, **more}.items() if value is not None}
                state = msgspec.structs.replace(state, data=merged)
            return state if change is None else change(state)

        async def write(old: State, put: Put, replaced: Row | None) -> None:
            await self._commit([put], _rows(replaced), lease)

        return await self._change_state(merge, write)

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
        made: list[Event] = []
        digest = None if key is None else digest_of(["handoff", to, reason, phase, metadata])

        def change(state: State) -> State:
            return msgspec.structs.replace(
                state,
                active_agent=to,
                previous_agent=state.active_agent,
                handoffs=state.handoffs + 1,
                phase=state.phase if phase is None else phase,
            )

        async def write(old: State, put: Put, replaced: Row | None) -> None:
            new = (Handoff(to, old.active_agent, reason), None, None, None, old.active_agent, *(None,) * 4, metadata)
            event = self._event(new, key, self._store.clock())
            ops = [EVENT.append(event, expect="exists"), put]
            receipt = await self._write(ops, key=key, digest=digest, replaced=replaced, guarded=True, lease=lease)
            made[:] = await self._appended([event], receipt)

        await self._change_state(change, write)
        return made[0]

    async def _change_state(self, change: Callable[[State], State], write: _WriteState) -> State:
        """Read, change, compare and set, until it holds. `write` commits the put with what goes with it."""
        key = Key(STATE.spec.name, self._partition, "")

        async def attempt() -> State:
            found = await self._store.get_stored(key)
            old = State(conversation=self.id) if found is None else STATE.decode(found[1])
            new = change(old)
            if new == old:
                return old
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            if found is None:
                await write(old, STATE.put(new, "absent"), None)
            else:
                row, whole = found
                await write(old, STATE.put(new, row.rev, keep=STATE.unknown(whole)), row)
            return new

        return await self._store.again(attempt, key)

    # --- the conversation itself ---

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound where the conversation was deleted."""
        stored = await self._store.get(ConversationRecord, self._partition)
        if stored is None or stored.value.life != self._record.life:
            raise self._missing("get")
        self._record, self._rev = stored
        return self._record

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

        return await self._change(change, [])

    async def close(self) -> ConversationRecord:
        """Close it: appends are refused from now on, reads stay. Raises Conflict where it is closed already."""
        return await self._turn("closed")

    async def pause(self) -> ConversationRecord:
        """Pause it: the next append opens it again. Raises Conflict where it is not open, Invalid for a fork that is
        not complete."""
        if (await self.refresh()).status == "open" and (await head_of(self._store, self._partition)).sealed:
            await self._refuse_sealed()
        return await self._turn("paused")

    async def reopen(self) -> ConversationRecord:
        """Open it again, which counts as activity. Raises Conflict where it is open."""
        return await self._turn("open")

    async def _turn(self, status: Status) -> ConversationRecord:
        found: list[Status] = []

        def change(old: ConversationRecord) -> ConversationRecord:
            found[:] = [old.status]
            return msgspec.structs.replace(old, status=status) if status in TURNS[old.status] else old

        record = await self._change(change, [Trim(EVENT.spec.name, sealed=status != "open")])
        if status not in TURNS[found[0]]:
            hint = f"It is {found[0]} already." if found[0] == status else "Use reopen() first."
            raise Conflict(self._key, f"not {found[0]}", found[0], operation=status, hint=hint)
        return record

    async def _change(
        self, change: Callable[[ConversationRecord], ConversationRecord], ops: Sequence[Op]
    ) -> ConversationRecord:
        async def attempt() -> ConversationRecord:
            found = await self._store.get_stored(self._key)
            if found is None:
                raise self._missing("update")
            row, whole = found
            old = RECORD.decode(whole)
            if old.life != self._record.life:
                raise self._missing("update")
            new = change(old)
            if new == old:
                self._record, self._rev = old, row.rev
                return old
            opened = new.status == "open" != old.status
            new = msgspec.structs.replace(new, updated_us=self._store.clock())
            puts = [put_record(new, row.rev, RECORD.unknown(whole)), await self._copy(new, opened)]
            crossed = (old.status == "closed") != (new.status == "closed")
            shelf, replaced = await reshelve(self._store, new) if crossed else ((), ())
            receipt = await self._store.commit(self._partition, [*puts, *ops, *shelf], replaced=[row, *replaced])
            self._record, self._rev = new, receipt.id
            return new

        return await self._store.again(attempt, self._key)

    async def _copy(self, record: ConversationRecord, opened: bool) -> Put:
        """The put that brings the activity in line with a record, unless an append changes it meanwhile.

        Where it is opened again, that is activity, and its timers start anew.
        """
        row = await self._store.get_row(Key(ACTIVITY.spec.name, self._partition, ""))
        second = record.updated_us // 1_000_000
        if row is not None and not opened:
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
                await belongings.remove(self._store, self._partition)
            await self._store.collect(self._partition)
        except StoreError as error:
            error.outcome = "unknown"  # the events are hidden, the rest is not all removed
            raise
        if gone:
            raise self._missing(operation)

    async def _hide(self, guard: type[Check] | type[Delete], ops: Sequence[Op]) -> None:
        """Commit ops while the record is this life's. Raises NotFound."""
        while True:
            with suppress(Conflict):
                await self._store.commit(self._partition, [guard(RECORD.spec.name, "", self._rev), *ops])
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


class _WriteState(Protocol):
    async def __call__(self, old: State, put: Put, replaced: Row | None) -> None: ...


def _rows(row: Row | None) -> list[Row]:
    return [] if row is None else [row]


def checked(id: object) -> str:
    """The id of a conversation. Raises Invalid for an empty one, and for what is no text."""
    return text(id, "a conversation id")


def _new(event: object) -> tuple[Any, ...]:
    """What `append` takes, as the tuple `_event` reads. Raises Invalid for an unknown field."""
    if isinstance(event, New):
        return msgspec.structs.astuple(event)
    if isinstance(event, str) or type(event) in TYPES:
        return (event, *(None,) * 9)
    if not isinstance(event, Mapping):
        raise Invalid(f"an event is a New, a mapping, a content or text, not {type(event).__name__}")
    event = cast("Mapping[str, Any]", event)
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
