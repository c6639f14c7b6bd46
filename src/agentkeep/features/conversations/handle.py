"""What the parts of one conversation share: its record as it was last read, and how it is written to."""

from __future__ import annotations

from collections.abc import Sequence

from ... import keys
from ...errors import Conflict, Invalid, Key, NotFound
from ...records import record_of
from ...store import Store
from ...waist import Check, Op, Receipt, Row
from .beginnings import activity_of, head_of
from .records import Activity, ConversationRecord

RECORD, ACTIVITY = record_of(ConversationRecord), record_of(Activity)


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
    ) -> Receipt:
        """Commit ops as one batch, if the conversation is of this life. `key` makes it idempotent."""
        while True:
            try:
                return await self.store.commit(
                    self.partition, [*ops, self.current()], once=self.once(key), digest=digest, replaced=replaced
                )
            except Conflict as error:
                if not self.is_stale(error):
                    raise
                await self.refresh()

    async def append(
        self,
        ops: Sequence[Op],
        *,
        key: str | None = None,
        digest: bytes | None = None,
        replaced: Sequence[Row] = (),
        guarded: bool = False,
    ) -> Receipt:
        """Commit ops with appends as one batch, with the recency where its second changed.

        The recency is a copy of the record, so it goes with a check that the copy is current; where it is not, the
        record is read again. So does all that is `guarded`, and what follows a deletion by this process.
        """
        once = self.once(key)
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
                elif self.is_stale(error):
                    await self.refresh()
                else:
                    raise
            else:
                if not receipt.replayed:
                    self.active_s, self.epoch = second, epoch
                return receipt

    def once(self, key: str | None) -> str | None:
        """A key as engines get it: they remember it with the partition, so the life stands before it."""
        return f"{self.record.life}/{key}" if key and self.record.life else key

    def is_stale(self, error: Conflict) -> bool:
        """Whether the record is not the one that was read last."""
        return error.key is not None and error.key.kind == RECORD.spec.name

    async def _refuse_sealed(self) -> None:
        """Raise why the log takes no appends, unless it takes them again by now."""
        record, head = await self.refresh(), await head_of(self.store, self.partition)
        if record.status == "closed":
            hint = "Use reopen() to go on."
            raise Invalid("the conversation is closed", key=self.key, operation="append", hint=hint)
        if head.sealed:
            hint = f"Finish it: call fork(id={record.id!r}) on {record.origin.conversation!r}." if record.origin else ""
            raise Invalid("the conversation is not complete yet", key=self.key, operation="append", hint=hint)
