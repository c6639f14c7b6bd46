"""Leases: one holder at a time, of a name or of a conversation, fenced.

A lease is two rows in one partition. The holder row says who holds it and under which fence; it changes only when the
lease is taken or given back, so `Check(holder row, rev)` holds exactly as long as the lease is held, through every
renewal. The term row says until when. Who takes a lease over compares both rows, so that a renewal meanwhile wins.
Time decides only when others may take over; what protects data is the check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from .. import keys
from ..errors import Conflict, Invalid, Key, StoreError
from ..ids import DAY, SECOND
from ..records import Record, record, record_of
from ..store import Store
from ..waist import Batch, Check, Op, Receipt, Row

if TYPE_CHECKING:
    import asyncio

HOLDER, TERM = "holder", "term"
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5


class _Hold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    holder: str | None = None
    fence: int = 0
    changed_us: int = 0
    until_us: int = 0


@record("lock", partition="name")
class LockRecord(_Hold, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two rows of a named lock: the holder with its fence, or the term."""


@record("lease", partition="name", within="conversation")
class LeaseRecord(_Hold, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two rows of a conversation's lease: the holder with its fence, or the term."""


RECORDS = (LockRecord, LeaseRecord)


class Owner(NamedTuple):
    """What a lease belongs to: it is taken only while that is there.

    `current` gives a check of what was read last, `refresh` reads it again and raises NotFound where it is gone.
    """

    current: Callable[[], Check]
    refresh: Callable[[], Awaitable[object]]


class Place(NamedTuple):
    """Where the two rows of a lease lie, and the name that they carry."""

    record: Record[Any]
    name: str
    partition: str
    holder: str
    term: str


class _Found(NamedTuple):
    hold: _Hold
    until_us: int
    holder_rev: str
    term_rev: str

    def is_free(self, now_us: int) -> bool:
        """Whether it may be taken."""
        return self.hold.holder is None or now_us >= self.until_us


class Held(Protocol):
    """A lease that is held, as a batch that is to pass only under it needs it: a `Lease`, async or sync."""

    @property
    def partition(self) -> str:
        """The partition in which a batch may carry the check."""
        ...

    def check(self) -> Check:
        """The operation that holds as long as the lease is held."""
        ...

    def lost(self, error: Conflict, operation: str) -> Conflict:
        """A conflict of a batch with the check, said as what it is."""
        ...


class Lease:
    """A lease that is taken by `async with`, or by `acquire()` and given back by `release()`.

    `async with` renews it in the background, each third of its time, until the block ends; `renew=False` leaves that
    to `renew()`, as the sync API always does. A lease that was lost (its time ended, and another holder took it) is
    refused everywhere: `renew`, `release` and every batch with `check()` raise Conflict. So does the end of the block,
    unless an error ends it. A lease is used by one task at a time, and may be acquired again after its release.
    """

    def __init__(
        self,
        store: Store,
        place: Place,
        holder: str,
        seconds: float,
        wait: float | None,
        renew: bool,
        owner: Owner | None,
    ) -> None:
        self._store = store
        self._place = place
        self._holder = _text(holder, "holder")
        self._seconds = _seconds(seconds, "seconds", 0.001)
        self._wait = None if wait is None else _seconds(wait, "wait", 0)
        self._renews = renew
        self._owner = owner
        self._rev: str | None = None
        self._fence = 0
        self._until_us = 0
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Lease({self._place.name!r}, holder={self._holder!r}, fence={self._fence})"

    @property
    def fence(self) -> int:
        """The number of this holding: each holder of the lease gets a greater one. 0 before it is taken."""
        return self._fence

    @property
    def holder(self) -> str:
        """Who holds it, as given: for people to read. What counts is the fence."""
        return self._holder

    @property
    def partition(self) -> str:
        """The partition in which a batch may carry `check()`."""
        return self._place.partition

    @property
    def until_us(self) -> int:
        """The time, in microseconds since 1970, from which others may take it over."""
        return self._until_us

    async def __aenter__(self) -> Lease:
        await self.acquire()
        if self._renews:
            import asyncio  # most of the time that importing agentkeep takes

            self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            await self._stop()
        finally:
            if kind is None:
                await self.release()
            else:
                with suppress(Conflict):  # what ended the block is said, not that the lease was lost as well
                    await self.release()

    async def acquire(self) -> int:
        """Take the lease: its fence. Raises Conflict where another holds it for longer than `wait` seconds.

        A call that is cancelled holds nothing: what it had begun is settled and given back.
        """
        if self._rev is not None:
            raise Invalid("this lease is taken already", key=self._key, operation="acquire", hint="Make another one.")
        waited, pause = 0.0, FIRST_PAUSE
        while True:
            found, now_us = await _find(self._store, self._place), self._store.clock()
            if found.is_free(now_us):
                if await self._take(found):
                    return self._fence
                continue
            left = (found.until_us - now_us) / SECOND
            if self._wait is not None and waited >= self._wait:
                hint = f"{str(found.hold.holder)[:64]!r} holds it for another {left:.3g} seconds at most: pass wait=."
                raise Conflict(self._key, "free", f"fence {found.hold.fence}", "lease", operation="acquire", hint=hint)
            step = min(pause, left) if self._wait is None else min(pause, left, self._wait - waited)
            await self._store.sleep(step)
            waited, pause = waited + step, min(pause * 1.5, LONGEST_PAUSE)

    async def renew(self) -> int:
        """Hold it for its seconds from now: the time until then. Raises Conflict where it was lost."""
        until_us = self._store.clock() + self._length
        await self._commit([self._check("renew"), self._put_term(until_us)], "renew")
        self._until_us = until_us
        return until_us

    async def release(self) -> None:
        """Give it back at once. Raises Conflict where it was lost."""
        rev = self._held("release")
        await self._commit([self._put_holder(None, self._fence, rev)], "release")
        self._rev = None

    def check(self) -> Check:
        """The operation that lets a batch on `partition` pass only while this lease is held.

        Raises Invalid where it was never taken, or given back.
        """
        return self._check("check")

    def lost(self, error: Conflict, operation: str) -> Conflict:
        """The conflict of a batch with `check()`, said as what it is where it was the lease that failed."""
        if error.key != self._key:
            return error
        hint = "Another holder may have taken it: read again what you were to change."
        return Conflict(self._key, f"fence {self._fence}", "another", "lease", operation=operation, hint=hint)

    @property
    def _key(self) -> Key:
        return Key(self._place.record.spec.name, self._place.partition, self._place.holder)

    @property
    def _length(self) -> int:
        return int(self._seconds * SECOND)

    def _held(self, operation: str) -> str:
        if self._rev is None:
            hint = "Use `async with`, or acquire()."
            raise Invalid("this lease is not taken", key=self._key, operation=operation, hint=hint)
        return self._rev

    def _check(self, operation: str) -> Check:
        return Check(self._key.kind, self._key.sort, self._held(operation))

    async def _take(self, found: _Found) -> bool:
        """Whether the lease is ours now. False where another was faster."""
        fence, until_us = found.hold.fence + 1, self._store.clock() + self._length
        ops: list[Op] = [
            self._put_holder(self._holder, fence, found.holder_rev),
            self._put_term(until_us, found.term_rev),
        ]
        if self._owner is not None:
            ops.append(self._owner.current())
        batch = Batch(self._place.partition, tuple(ops), self._store.ids())
        answer = await self._settled(batch, fence)
        if isinstance(answer, Conflict):
            if answer.key is not None and answer.key.kind != self._key.kind and self._owner is not None:
                await self._owner.refresh()
            return False
        if isinstance(answer, StoreError):
            raise answer
        self._rev, self._fence, self._until_us = batch.id, fence, until_us
        return True

    async def _settled(self, batch: Batch, fence: int) -> Receipt | StoreError:
        """Commit what takes the lease. Broken off, it is committed again, which says what it did, and given back."""
        done = False
        try:
            (answer,) = await self._store.commit_all([batch])
            done = True
        finally:
            if not done:
                with suppress(StoreError):  # then it ends with its time
                    await self._give_back(batch, fence)
        return answer

    async def _give_back(self, batch: Batch, fence: int) -> None:
        (answer,) = await self._store.commit_all([batch])
        if isinstance(answer, Receipt):
            await self._store.commit(batch.partition, [self._put_holder(None, fence, batch.id)])

    async def _commit(self, ops: list[Op], operation: str) -> None:
        try:
            await self._store.commit(self._place.partition, ops)
        except Conflict as error:
            raise self.lost(error, operation) from None

    def _put_holder(self, holder: str | None, fence: int, expect: str) -> Op:
        hold = self._place.record.type(
            name=self._place.name, holder=holder, fence=fence, changed_us=self._store.clock()
        )
        return self._place.record.put(hold, expect, sort=self._place.holder)

    def _put_term(self, until_us: int, expect: str = "any") -> Op:
        term = self._place.record.type(name=self._place.name, until_us=until_us)
        return self._place.record.put(term, expect, sort=self._place.term)

    async def _keep(self) -> None:
        """Renew it each third of its time, until it is lost."""
        while True:
            await self._store.sleep(self._seconds / 3)
            if self._store.clock() < self._until_us - self._length * 2 // 3:
                continue
            try:
                await self.renew()
            except StoreError as error:
                if not error.retryable:
                    return  # the next write under the lease, or its release, is refused and says so

    async def _stop(self) -> None:
        """End the keeper, and wait until it has ended."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            import asyncio

            keeper.cancel()
            await asyncio.wait([keeper])


class Locks:
    """Locks on any name, across processes: one holder at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def hold(
        self,
        name: str,
        seconds: float = 30.0,
        *,
        holder: str | None = None,
        wait: float | None = None,
        renew: bool = True,
    ) -> Lease:
        """A lock on a name, taken by `async with`: it waits until the lock is free, at most `wait` seconds.

        A holder that dies is succeeded `seconds` after its last renewal. `fence` grows with each holder: pass it to
        what you protect, which refuses a smaller one than it has seen. Raises Conflict where the wait is over, Invalid.
        """
        return Lease(
            self._store, _lock(name), self._store.ids() if holder is None else holder, seconds, wait, renew, None
        )

    async def holder(self, name: str) -> str | None:
        """Who holds a lock now, None where nobody does."""
        found = await _find(self._store, _lock(name))
        return None if found.is_free(self._store.clock()) else found.hold.holder


def _lock(name: str) -> Place:
    return Place(record_of(LockRecord), name, keys.partition(_text(name, "name")), HOLDER, TERM)


async def _find(store: Store, place: Place) -> _Found:
    """The lease as it is now, with the revs to compare."""
    kind = place.record.spec.name
    holder, term = await store.engine.get([Key(kind, place.partition, sort) for sort in (place.holder, place.term)])
    hold: _Hold = place.record.type(name=place.name) if holder is None else place.record.decode(holder)
    until_us: int = 0 if term is None else place.record.decode(term).until_us
    return _Found(hold, until_us, _rev(holder), _rev(term))


def _rev(row: Row | None) -> str:
    return "absent" if row is None else row.rev


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name} is a non-empty string", operation="lease")
    return value


def _seconds(value: object, name: str, least: float) -> float:
    longest = DAY // SECOND
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= longest:
        raise Invalid(f"{name} is a number of seconds from {least} to {longest:,}", operation="lease")
    return float(value)
