"""Claims: who may work on a row now, decided by compare-and-set, a fence and a lease.

A row can be claimed from `ready_us` on: when it is due or, while somebody holds it, when the lease ends. A claim
raises the row's fence by one and moves `ready_us` to the end of the lease. Whoever holds the claim names its fence
in all that follows; once another claim was made, or the row was taken away, the fence is not held any more, and what
a late worker brings is refused. Every step is a compare-and-set on the row's rev: time only says when a claim may be
tried, so clocks that differ can end a lease early but never make two holders. A holder whose lease has ended, and
whose row nobody else claimed, still holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from ..codec import is_moved
from ..errors import Conflict, Contention, Corrupt, Key, StoreError
from ..records import record_of
from ..store import Store
from ..waist import Batch, Op, Receipt, Row, Scalar, Scan
from .arguments import seconds
from .changes import Decide, change

MAX_LEASE = 7 * 24 * 3600
"""Seconds that a lease lasts at most; it may be renewed."""

PAGE = 32
"""Rows that one read of the index gives."""

TRIES = 64
"""Rounds in which other workers may win everything before a claim gives up."""


class Claimable(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a record that can be claimed. `ready_us` None: it cannot, and is in no index of what is ready."""

    ready_us: int | None = None
    worker: str | None = None
    fence: int = 0


T = TypeVar("T", bound=Claimable)

# --- the rules -------------------------------------------------------------------------------------------------------


def is_claimable(row: Claimable, now: int) -> bool:
    """Whether it may be claimed: it is due, or the lease on it has ended."""
    return row.ready_us is not None and row.ready_us <= now


def claimed(row: T, worker: str, until: int) -> T:
    """The row as its new holder has it: the next fence, and a lease until a time in microseconds."""
    return msgspec.structs.replace(row, worker=worker, ready_us=until, fence=row.fence + 1)


def is_held(row: Claimable, fence: int) -> bool:
    """Whether the claim with this fence is the one that counts."""
    return row.worker is not None and row.fence == fence


def renewed(row: T, until: int) -> T:
    """The row with its lease prolonged; a lease is never made shorter."""
    return msgspec.structs.replace(row, ready_us=max(until, row.ready_us or 0))


def released(row: T, ready_us: int | None) -> T:
    """The row without a holder, to be claimed from a time on, or never. The fence stays: it only grows."""
    return msgspec.structs.replace(row, worker=None, ready_us=ready_us)


def next_level(rows: Sequence[Claimable], now: int, level: str) -> int | None:
    """Where an index (..., level, ready_us) is to be read on, if all that follows on the last row's level is not due.

    None: the page may simply go on.
    """
    if not rows or is_claimable(rows[-1], now):
        return None
    return getattr(rows[-1], level) + 1


# --- reading and writing ---------------------------------------------------------------------------------------------


class _Try(Struct, Generic[T], frozen=True):
    """A row as it was found, with its document whole, and what a claim would make of it."""

    row: Row
    whole: Row
    new: T
    ops: tuple[Op, ...]


class Claims(Generic[T]):
    """Claims on the rows of one kind, found by an index that ends in `ready_us`.

    `level` names the field before it, if that is an order of its own, such as a priority: rows of a lower level come
    first, and of one level those that are ready first.
    """

    def __init__(self, store: Store, type: type[T], index: str, level: str | None = None) -> None:
        self._store = store
        self._type = type
        self._record = record_of(type)
        self._index = index
        self._level = level

    async def claim(
        self, prefix: tuple[Scalar, ...], worker: str, lease: float, limit: int, start: Decide[T]
    ) -> list[T]:
        """Claim up to `limit` rows under a prefix of the index, in its order; [] where none is ready.

        `start` gets the claimed row and may turn it into one that nobody holds, which is written and not given.
        A row that does not decode is passed over. Where some were claimed before an error, they are given.
        Raises Contention where others won every row in 64 rounds.
        """
        span = seconds(lease, "lease", MAX_LEASE)
        won: list[T] = []
        for _ in range(TRIES):
            if not await self._round(prefix, worker, span, limit, start, won):
                return won
        if won:
            return won
        raise Contention("others won every row", key=Key(self._record.spec.name, "", ""), operation="claim")

    async def claim_one(self, key: Key, worker: str, lease: float, start: Decide[T]) -> T:
        """Claim one row. Raises NotFound, and Conflict where it is not due, held by another, or not to be claimed."""
        span = seconds(lease, "lease", MAX_LEASE)

        def decide(row: T) -> tuple[T, Sequence[Op]]:
            now = self._store.clock()
            if not is_claimable(row, now):
                hint = "It is finished, waits for others, or is not due." if row.worker is None else "Another holds it."
                raise Conflict(key, "claimable", f"ready at {row.ready_us}", "status", operation="claim", hint=hint)
            return start(claimed(row, worker, now + span))

        return await change(self._store, self._type, key, decide)

    async def renew(self, key: Key, fence: int, lease: float) -> T:
        """Prolong a lease from now on. Raises Conflict where the fence is not held, NotFound."""
        until = self._store.clock() + seconds(lease, "lease", MAX_LEASE)
        return await self.finish(key, fence, lambda row: (renewed(row, until), ()), "renew")

    async def finish(self, key: Key, fence: int, end: Decide[T], operation: str) -> T:
        """Change a row by who holds its claim. Raises Conflict where the fence is not held, NotFound."""

        def decide(row: T) -> tuple[T, Sequence[Op]]:
            if not is_held(row, fence):
                raise self.lost(key, fence, row, operation)
            return end(row)

        return await change(self._store, self._type, key, decide)

    def lost(self, key: Key, fence: int, row: T, operation: str) -> Conflict:
        """The refusal of a claim that is not held."""
        hint = "Another has claimed it since." if row.worker is not None else "Nobody holds it now."
        return Conflict(key, fence, row.fence, "fence", operation=operation, hint=hint)

    async def _round(
        self, prefix: tuple[Scalar, ...], worker: str, span: int, limit: int, start: Decide[T], won: list[T]
    ) -> bool:
        """Go once through what is ready. Whether others won some, so that another round may find more."""
        now, lost = self._store.clock(), False
        scan = Scan(self._record.spec.name, self._index, prefix, limit=max(PAGE, limit))
        while True:
            page = await self._store.scan_rows(scan)
            found = await self._decoded(page.items)
            tries = [
                _Try(row, whole, *_tupled(start(claimed(value, worker, now + span))))
                for row, whole, value in found
                if is_claimable(value, now)
            ]
            while tries and len(won) < limit:
                some, tries = tries[: limit - len(won)], tries[limit - len(won) :]
                lost = await self._take(some, won) or lost
            if len(won) >= limit:
                return False
            rows = [value for _, _, value in found]
            lo = None if self._level is None else next_level(rows, now, self._level)
            if lo is not None:
                scan = msgspec.structs.replace(scan, lo=lo, after=None)
            elif page.cursor is None or (self._level is None and rows and not is_claimable(rows[-1], now)):
                return lost
            else:
                scan = msgspec.structs.replace(scan, after=page.cursor)

    async def _decoded(self, rows: Sequence[Row]) -> list[tuple[Row, Row, T]]:
        """Rows as stored, whole, and as values; what does not decode, or was replaced meanwhile, is left out."""
        found: list[tuple[Row, Row, T]] = []
        for row in rows:
            try:
                whole = await self._store.whole(row) if is_moved(row.doc) else row
                found.append((row, whole, self._record.decode(whole)))
            except Corrupt:
                continue  # lists name it
        return found

    async def _take(self, tries: Sequence[_Try[T]], won: list[T]) -> bool:
        """Commit claims; what is held then joins `won`. Whether another writer came first somewhere."""
        lost, failure = False, None
        for one, answer in zip(tries, await self._commit(tries), strict=True):
            if isinstance(answer, Conflict):
                lost = True
            elif isinstance(answer, StoreError):
                failure = failure or answer
            elif one.new.worker is not None:
                won.append(one.new)
        if failure is not None and not won:
            raise failure
        return lost

    async def _commit(self, tries: Sequence[_Try[T]]) -> list[Receipt | StoreError]:
        """One answer for each, in order; rows with large bodies are committed alone, for these are replaced."""
        if len(tries) > 1 and not any(is_moved(one.row.doc) for one in tries):
            batches = [Batch(one.row.key.partition, (self._put(one), *one.ops), self._store.ids()) for one in tries]
            return await self._store.commit_all(batches)
        answers: list[Receipt | StoreError] = []
        for one in tries:
            try:
                ops = [self._put(one), *one.ops]
                answers.append(await self._store.commit(one.row.key.partition, ops, replaced=[one.row]))
            except StoreError as error:
                answers.append(error)
        return answers

    def _put(self, one: _Try[T]) -> Op:
        return self._record.put(one.new, one.row.rev, keep=self._record.unknown(one.whole), sort=one.row.key.sort)


def _tupled(decided: tuple[T, Sequence[Op]]) -> tuple[T, tuple[Op, ...]]:
    return decided[0], tuple(decided[1])
