"""What the parts of one conversation share: its record as it was last read, and how it is written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from ... import keys
from ...errors import Conflict, Corrupt, Invalid, Key, NotFound
from ...records import record_of
from ...store import Store
from ...waist import Check, Op, Put, Receipt, Row, Trim
from ..locks import Held
from .beginnings import activity_of, head_of, put_record
from .bindings import reshelve
from .records import Activity, ConversationRecord, Event, Status
from .timers import TURNS

RECORD, ACTIVITY, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(Event)


class Handle:
    """A conversation in one of its lives. Where another one has its id by now, it writes nothing: NotFound."""

    def __init__(self, store: Store, record: ConversationRecord, rev: str) -> None:
        self.store = store
        self.record = record
        self.rev = rev
        self.partition = keys.partition(record.id)
        self.active_s = 0
        self.epoch = store.connection.epoch

    @property
    def key(self) -> Key:
        """Where its record lives."""
        return Key(RECORD.spec.name, self.partition, "")

    def missing(self, operation: str) -> NotFound:
        """The error of who finds nothing, or another life."""
        return NotFound("there is no such conversation", key=self.key, operation=operation)

    def current(self) -> Check:
        """Holds as long as the record is the one that was read last."""
        return Check(RECORD.spec.name, "", self.rev)

    async def refresh(self) -> ConversationRecord:
        """Read the record again. Raises NotFound where the conversation was deleted."""
        stored = await self.store.get(ConversationRecord, self.partition)
        if stored is None or stored.value.life != self.record.life:
            raise self.missing("get")
        self.record, self.rev = stored
        return self.record

    async def commit(
        self,
        ops: Sequence[Op],
        *,
        key: str | None = None,
        digest: bytes | None = None,
        replaced: Sequence[Row] = (),
        lease: Held | None = None,
    ) -> Receipt:
        """Commit ops as one batch, if the conversation is of this life. `key` makes it idempotent.

        `lease` must be held, else Conflict.
        """
        ops = [*ops, *self._held(lease)]
        while True:
            try:
                return await self.store.commit(
                    self.partition, [*ops, self.current()], once=self.once(key), digest=digest, replaced=replaced
                )
            except Conflict as error:
                await self._look_again(error, lease)

    async def append(
        self,
        ops: Sequence[Op],
        *,
        key: str | None = None,
        digest: bytes | None = None,
        replaced: Sequence[Row] = (),
        guarded: bool = False,
        lease: Held | None = None,
    ) -> Receipt:
        """Commit ops with appends as one batch, with the recency where its second changed.

        The recency is a copy of the record, so it goes with a check that the copy is current; where it is not, the
        record is read again. So does all that is `guarded`, and what follows a deletion by this process. A paused
        conversation is opened first; `lease` must be held, else Conflict.
        """
        once = self.once(key)
        ops = [*ops, *self._held(lease)]
        while True:
            second, epoch = self.store.clock() // 1_000_000, self.store.connection.epoch
            recency: list[Op] = [self.current()] if guarded else []
            if second != self.active_s or epoch != self.epoch:
                recency = [self.current(), ACTIVITY.put(activity_of(self.record, second))]
            try:
                receipt = await self.store.commit(
                    self.partition, [*ops, *recency], once=once, digest=digest, replaced=replaced
                )
            except Conflict as error:
                if error.reason == "sealed":
                    await self._refuse_sealed()
                else:
                    await self._look_again(error, lease)
            else:
                if not receipt.replayed:
                    self.active_s, self.epoch = second, epoch
                return receipt

    def once(self, key: str | None) -> str | None:
        """A key as engines get it: they remember it with the partition, so the life stands before it."""
        return f"{self.record.life}/{key}" if key and self.record.life else key

    async def turn(self, status: Status) -> ConversationRecord:
        """Close it, pause it, or open it. Raises Conflict where its status does not allow it."""
        found: list[Status] = []

        def turned(old: ConversationRecord) -> ConversationRecord:
            found[:] = [old.status]
            return msgspec.structs.replace(old, status=status) if status in TURNS[old.status] else old

        record = await self.change(turned, [Trim(EVENT.spec.name, sealed=status != "open")])
        if status not in TURNS[found[0]]:
            hint = f"It is {found[0]} already." if found[0] == status else "Use reopen() first."
            raise Conflict(self.key, f"not {found[0]}", found[0], operation=status, hint=hint)
        return record

    async def change(
        self, change: Callable[[ConversationRecord], ConversationRecord], ops: Sequence[Op]
    ) -> ConversationRecord:
        """Change the record by compare-and-set, its copy with it, and do these ops in the same batch."""

        async def attempt() -> ConversationRecord:
            found = await self.store.get_stored(self.key)
            if found is None:
                raise self.missing("update")
            row, whole = found
            old = RECORD.decode(whole)
            if old.life != self.record.life:
                raise self.missing("update")
            new = change(old)
            if new == old:
                self.record, self.rev = old, row.rev
                return old
            opened = new.status == "open" != old.status
            new = msgspec.structs.replace(new, updated_us=self.store.clock())
            puts = [put_record(new, row.rev, RECORD.unknown(whole)), await self._copy(new, opened)]
            crossed = (old.status == "closed") != (new.status == "closed")
            shelf, replaced = await reshelve(self.store, new) if crossed else ((), ())
            receipt = await self.store.commit(self.partition, [*puts, *ops, *shelf], replaced=[row, *replaced])
            self.record, self.rev = new, receipt.id
            return new

        return await self.store.again(attempt, self.key)

    async def _copy(self, record: ConversationRecord, opened: bool) -> Put:
        """The put that brings the activity in line with a record, unless an append changes it meanwhile.

        Where it is opened again, that is activity, and its timers start anew.
        """
        row = await self.store.get_row(Key(ACTIVITY.spec.name, self.partition, ""))
        second = record.updated_us // 1_000_000
        if row is not None and not opened:
            with suppress(Corrupt):  # it is a copy, and written anew
                second = ACTIVITY.decode(row).active_s
        return ACTIVITY.put(activity_of(record, second), "absent" if row is None else row.rev)

    def _held(self, lease: Held | None) -> list[Check]:
        if lease is not None and lease.partition != self.partition:
            raise Invalid(f"{lease!r} is not a lease of this conversation", key=self.key, operation="lease")
        return [] if lease is None else [lease.check()]

    async def _look_again(self, error: Conflict, lease: Held | None) -> None:
        """Read the record again where it was that which had changed. Raises the conflict where it was not."""
        if error.key is not None and error.key.kind == RECORD.spec.name:
            await self.refresh()
        else:
            raise error if lease is None else lease.lost(error, "commit")

    async def refuse_unfinished(self) -> None:
        """Raise for a fork that is not complete, whose log is sealed though it is open."""
        if (await self.refresh()).status == "open" and (await head_of(self.store, self.partition)).sealed:
            await self._refuse_sealed()

    async def _refuse_sealed(self) -> None:
        """Raise why the log takes no appends, unless it takes them again by now."""
        record, head = await self.refresh(), await head_of(self.store, self.partition)
        if record.status == "closed":
            hint = "Use reopen() to go on."
            raise Invalid("the conversation is closed", key=self.key, operation="append", hint=hint)
        if record.status == "paused":
            with suppress(Conflict):
                await self.turn("open")
            return
        if head.sealed:
            hint = f"Finish it: call fork(id={record.id!r}) on {record.origin.conversation!r}." if record.origin else ""
            raise Invalid("the conversation is not complete yet", key=self.key, operation="append", hint=hint)
