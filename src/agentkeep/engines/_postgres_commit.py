"""Commits on PostgreSQL: group commit of appends, single puts and deletes, and transactions for the rest."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ..errors import Key, StoreError
from ..ids import HOUR, Clock
from ..keys import escape, pack, seq_of
from ..resolve import Found, Memo, Plan, guarded, lane, reads, receipt_of, resolve, simple, token
from ..waist import REMEMBERED, Append, Batch, Check, Delete, Head, KindSpec, Put, Receipt, Row
from ._postgres_errors import ENGINE, UniqueViolation
from ._postgres_pool import Attempt, Connection, Source, call, fetch, transaction
from ._postgres_sql import Shape, Statements, lock_of, representable, value_columns
from ._sql import facets_json

Answer: TypeAlias = Receipt | StoreError
Unit: TypeAlias = Sequence[Batch]
"""Batches of one partition that append to one log, in order."""

LANES = 2
"""Statements of grouped appends under way at once, for each log."""
GROUP = 64
"""Batches of different partitions in one statement at most, for each takes a lock of the server's."""
GROUP_BYTES = 1_000_000
"""Bytes of documents after which no more batches join a statement."""

KEPT = REMEMBERED + HOUR
"""For how long a commit and a deleted log row are remembered: with slack for clocks that differ."""

_receipts = msgspec.json.Decoder(tuple[str, tuple[int | None, ...]])


class Writer:
    """Commits batches through the connections of one event loop."""

    def __init__(
        self,
        source: Source,
        statements: Statements,
        kinds: Mapping[str, KindSpec],
        clock: Clock,
        nudge: Callable[[], None],
    ) -> None:
        self._nudge = nudge
        self._source = source
        self._statements = statements
        self._kinds = kinds
        self._clock = clock
        self._logs = frozenset(name for name, kind in kinds.items() if kind.log)
        self._lines = {name: Line(self._together) for name in self._logs}

    async def commit(self, batches: Sequence[Batch], restore: bool) -> list[Answer]:
        """One answer per batch, in order."""
        self._nudge()
        if len(batches) == 1:
            return await self._unit(batches, restore)
        chains: dict[str, list[int]] = defaultdict(list)
        for number, batch in enumerate(batches):
            chains[batch.partition].append(number)
        answers: dict[int, Answer] = {}

        async def chain(numbers: list[int]) -> None:
            for unit in self._units(batches, numbers, restore):
                given = await self._unit([batches[number] for number in unit], restore)
                answers.update(zip(unit, given, strict=True))

        await asyncio.gather(*map(chain, chains.values()))
        return [answers[number] for number in range(len(batches))]

    def _units(self, batches: Sequence[Batch], numbers: list[int], restore: bool) -> list[list[int]]:
        """The batches of one partition in runs that one statement can hold."""
        units: list[list[int]] = []
        before: str | None = None
        room = 0
        for number in numbers:
            batch = batches[number]
            log = lane(batch) if not restore and self._shares(batch) else None
            if log is not None and log == before and len(units[-1]) < GROUP and room > 0:
                units[-1].append(number)
            else:
                units.append([number])
                room = GROUP_BYTES
            room -= _bytes(batch)
            before = log
        return units

    async def _unit(self, unit: Unit, restore: bool) -> list[Answer]:
        batch = unit[0]
        if restore:
            return [await self._decided(batch, True)]
        if not self._shares(batch):
            return [await self._single(batch)]
        line = self._lines[lane(batch)]
        if not line.enter(batch.partition):
            return await line.join(unit)
        try:
            return [await self._alone(batch)] if len(unit) == 1 else (await self._together([unit]))[0]
        finally:
            line.leave(batch.partition)

    def _shares(self, batch: Batch) -> bool:
        """Whether one statement can decide it, with others if need be."""
        return simple(batch) or ((check := guarded(batch)) is not None and check.kind not in self._logs)

    # --- appends -------------------------------------------------------------------------------------------------

    async def _alone(self, batch: Batch) -> Answer:
        """A batch of appends by a statement, or in a transaction if that tells nothing."""
        one = len(batch.ops) == 1
        query, args = self._one_append(batch) if one else self._many_appends([[batch]])
        try:
            rows = await fetch(self._source, "commit", query, args, writes=True)
        except UniqueViolation:
            rows = []
        except StoreError as error:
            return _named(error)
        if not rows:
            return await self._decided(batch)
        return Receipt(batch.id, (rows[0][0],)) if one else _receipt(batch, rows[0][1] - _appended(batch) + 1)

    async def _each(self, unit: Unit) -> list[Answer]:
        return [await self._alone(batch) for batch in unit]

    async def _together(self, units: list[Unit]) -> list[list[Answer]]:
        """The batches of several units in one statement; if it fails as a whole, each is decided alone."""
        query, args = self._many_appends(units)
        try:
            rows = await fetch(self._source, "commit", query, args, writes=True)
        except UniqueViolation:
            return list(await asyncio.gather(*map(self._each, units)))
        except StoreError as error:
            if error.retryable or error.outcome == "unknown":
                return [[_named(error) for _ in unit] for unit in units]
            return list(await asyncio.gather(*map(self._each, units)))
        last: dict[str, int] = {row[0]: row[1] for row in rows}
        answers: list[list[Answer]] = []
        for unit, (partition, backs) in zip(units, _behind(units), strict=True):
            end = last.get(partition)
            if end is None:
                answers.append([await self._decided(batch) for batch in unit])
            else:
                answers.append([_receipt(batch, end - back) for batch, back in zip(unit, backs, strict=True)])
        return answers

    async def _decided(self, batch: Batch, restore: bool = False) -> Answer:
        try:
            return await self._transact(batch, restore)
        except StoreError as error:
            return _named(error)

    def _one_append(self, batch: Batch) -> tuple[str, Sequence[Any]]:
        op = batch.ops[0]
        assert isinstance(op, Append)
        partition = escape(batch.partition)
        args = (partition, lock_of(partition), *self._values(op, batch.id), token(batch), batch.digest)
        return self._statements.append(op.kind, op.expect == "exists"), args

    def _many_appends(self, units: list[Unit]) -> tuple[str, Sequence[Any]]:
        together: dict[str, list[Batch]] = defaultdict(list)
        for unit in units:
            together[escape(unit[0].partition)] += unit
        places: list[tuple[str, int, int, bool, str | None, str | None]] = []
        guard: str | None = None
        rows: list[tuple[Any, ...]] = []
        puts: dict[str, dict[tuple[str, str], tuple[Any, ...]]] = {}
        for partition in sorted(together):
            batches = together[partition]
            check = _one_check(batches)
            if check is _NEVER or (check is not None and guard not in (None, check.kind)):
                continue  # One statement cannot tell: no number comes back, and each is decided by itself.
            guard = guard if check is None else check.kind
            count = back = sum(map(_appended, batches))
            opened = next(op.expect for op in batches[0].ops if isinstance(op, Append)) == "exists"
            sort, rev = (None, None) if check is None else (escape(check.sort), check.expect)
            places.append((partition, count, lock_of(partition), opened, sort, rev))
            for batch in batches:
                memory = (token(batch), batch.digest)
                for op in batch.ops:
                    if isinstance(op, Append):
                        back -= 1
                        rows.append((partition, back, *self._values(op, batch.id), *memory))
                        memory = (None, None)
                    elif isinstance(op, Put):
                        row = (partition, escape(op.sort), *self._values(op, batch.id))
                        puts.setdefault(op.kind, {})[row[0], row[1]] = row
        kinds = tuple(sorted(puts))
        args = _arrays(6, places)
        log = lane(units[0][0])
        args += _arrays(len(value_columns(self._kinds[log])) + 4, rows)
        for kind in kinds:
            args += _arrays(len(value_columns(self._kinds[kind])) + 2, puts[kind].values())
        return self._statements.appends(log, kinds, guard), args

    def _values(self, op: Put | Append | Row, rev: str) -> tuple[Any, ...]:
        """The values of `value_columns`."""
        facets, odd = facets_json(op.facets, representable) if op.facets else (None, None)
        kind = op.key.kind if isinstance(op, Row) else op.kind
        indexes = self._kinds[kind].indexes
        if not indexes:
            return rev, op.doc, facets, odd, op.expires
        packed = [pack(op.index[spec.name]) if spec.name in op.index else None for spec in indexes]
        return rev, op.doc, facets, odd, op.expires, *packed

    # --- single puts and deletes ---------------------------------------------------------------------------------

    async def _single(self, batch: Batch) -> Answer:
        """A batch of one put or delete by one statement, if that can tell; others in a transaction."""
        op = batch.ops[0]
        if len(batch.ops) > 1 or not isinstance(op, (Put, Delete)):
            return await self._decided(batch)
        delete, log = isinstance(op, Delete), op.kind in self._logs
        if (delete and op.expect == "absent") or (log and op.expect in ("any", "absent")):
            return await self._decided(batch)
        expect = op.expect if op.expect in ("any", "absent", "exists") else "rev"
        partition, now = escape(batch.partition), self._clock()
        receipt = Receipt(batch.id, (None,))
        place = seq_of(op.sort) if log else escape(op.sort)
        args: list[Any] = [partition, lock_of(partition), place, now, token(batch), _encoded(receipt), batch.digest]
        if expect == "rev":
            args.append(op.expect)
        if not isinstance(op, Delete):
            args += self._values(op, batch.id)
        elif log:
            args.append(now + KEPT)
        query = self._statements.single(op.kind, expect, delete)

        try:
            if await fetch(self._source, "commit", query, args, writes=True):
                return receipt
        except UniqueViolation:
            pass
        except StoreError as error:
            return _named(error)
        return await self._decided(batch)

    # --- transactions --------------------------------------------------------------------------------------------

    async def _transact(self, batch: Batch, restore: bool) -> Receipt:
        """Any batch: lock the partition, read what it depends on, resolve, write. Four round trips."""
        partition = escape(batch.partition)
        begin = self._statements.begin(lock_of(partition))

        async def work(attempt: Attempt) -> Receipt:
            connection = attempt.connection
            async with transaction(connection, begin):
                found, floors = await self._found(connection, batch, partition, restore)
                plan = resolve(batch, found, self._logs if restore else frozenset())
                if isinstance(plan, Receipt):
                    return plan
                if write := self._write(batch, plan, partition, floors, restore):
                    await connection.fetch(write[0], *write[1])
                    attempt.sent = True
            return plan.receipt

        return await call(self._source, "commit", work)

    async def _found(
        self, connection: Connection, batch: Batch, partition: str, restore: bool
    ) -> tuple[Found, dict[str, int]]:
        wanted = reads(batch, self._logs if restore else frozenset())
        memo_of = None if restore else lane(batch)
        by_kind: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        for number, key in enumerate(wanted.keys):
            place = seq_of(key.sort) if key.kind in self._logs else escape(key.sort)
            by_kind[key.kind].append((number, place))
        kinds = tuple(sorted(by_kind))
        args: list[Any] = [partition, list(wanted.heads)]
        if memo_of is not None:
            args.append(token(batch))
        if kinds:
            args.append(self._clock())
        for kind in kinds:
            args += _arrays(2, by_kind[kind])
        rows: dict[Key, Row | None] = {}
        heads: dict[str, Head | None] = {}
        memo: Memo | None = None
        for what, text, receipt, digest, seq, floor, sealed in await connection.fetch(
            self._statements.found(kinds, memo_of), *args
        ):
            if what >= 0:
                key = wanted.keys[int(what)]
                rows[key] = Row(key, text, b"")
            elif what == -1:
                heads[text] = Head(seq, floor, bool(sealed))
            else:
                memo = _memo(batch, text, receipt, digest, seq)
        return Found(rows, heads, memo), {kind: head.floor for kind, head in heads.items() if head}

    def _write(
        self, batch: Batch, plan: Plan, partition: str, floors: Mapping[str, int], restore: bool
    ) -> tuple[str, list[Any]] | None:
        """The statement that does what was planned; None if nothing is to be done, and a restore is not remembered."""
        appended, put = self._rows(batch, plan, restore)
        deleted: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for key in plan.deletes:
            deleted[key.kind].append((seq_of(key.sort) if key.kind in self._logs else escape(key.sort),))
        trimmed = [kind for kind, head in plan.heads.items() if head.floor > floors.get(kind, 0)]
        memory = not restore and not lane(batch)
        shape = Shape(
            tuple(sorted(appended)), tuple(sorted(put)), tuple(sorted(deleted)), bool(plan.heads), bool(trimmed), memory
        )
        if not any(shape):
            return None
        args: list[Any] = [partition]
        for kind in shape.appended:
            args += _arrays(len(value_columns(self._kinds[kind])) + 3, appended[kind])
        for kind in shape.put:
            args += _arrays(len(value_columns(self._kinds[kind])) + 1, put[kind])
        for kind in shape.deleted:
            args += _arrays(1, deleted[kind])
            if kind in self._logs:
                args.append(self._clock() + KEPT)
        if shape.heads:
            args += _arrays(4, [(kind, head.seq, head.floor, int(head.sealed)) for kind, head in plan.heads.items()])
        if shape.trimmed:
            args += _arrays(2, [(trim_mark(kind, partition), str(plan.heads[kind].floor)) for kind in trimmed])
        if memory:
            args += [token(batch), _encoded(plan.receipt), batch.digest, self._clock()]
        return self._statements.write(shape), args

    def _rows(
        self, batch: Batch, plan: Plan, restore: bool
    ) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[tuple[Any, ...]]]]:
        """Rows to insert at new numbers of a log, and rows to put, by kind."""
        new = {(op.kind, seq) for op, seq in zip(batch.ops, plan.receipt.seqs, strict=True) if seq is not None}
        remembered = "" if restore else lane(batch)
        appended: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        put: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in plan.puts:
            kind, log = row.key.kind, row.key.kind in self._logs
            place = int(row.key.sort) if log else escape(row.key.sort)
            values = (place, *self._values(row, row.rev))
            if (kind, place) in new:
                first = kind == remembered and not appended[kind]
                appended[kind].append((*values, *((token(batch), batch.digest) if first else (None, None))))
            else:
                put[kind].append(values)
        return appended, put


class _Waiting(NamedTuple):
    unit: Unit
    answer: asyncio.Future[list[Answer]]


class Line:
    """Group commit: one writer alone goes straight through; those who come meanwhile share the next statement.

    A partition is in one statement at a time: a second one would wait for the first one's lock, and all that shares
    it too.
    """

    def __init__(self, together: Callable[[list[Unit]], Awaitable[list[list[Answer]]]]) -> None:
        self._together = together
        self._busy = 0
        self._flying: set[str] = set()
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, partition: str) -> bool:
        """Take a lane, if one is free. Who took one leaves it."""
        if self._busy >= LANES or partition in self._flying:
            return False
        self._busy += 1
        self._flying.add(partition)
        return True

    def leave(self, partition: str) -> None:
        """Give the lane to those who wait, if there are any."""
        self._flying.remove(partition)
        taken = self._take() if self._waiting else []
        if not taken:
            self._busy -= 1
            return
        task = asyncio.get_running_loop().create_task(self._drain(taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def join(self, unit: Unit) -> list[Answer]:
        """The answers for a unit that shares a statement with those who wait too.

        Cancelled while it waits, it is not written; once its statement was sent, the outcome is unknown.
        """
        waiting = _Waiting(unit, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        return await waiting.answer

    async def _drain(self, taken: list[_Waiting]) -> None:
        partitions: set[str] = set()
        try:
            while taken:
                partitions = {waiting.unit[0].partition for waiting in taken}
                try:
                    answers = await self._together([waiting.unit for waiting in taken])
                except BaseException:
                    for waiting in taken:
                        waiting.answer.cancel()
                    raise
                for waiting, answer in zip(taken, answers, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(answer)
                # Whoever was answered may have its next batch ready: let it join before the lane is given up.
                await asyncio.sleep(0)
                self._flying -= partitions
                taken = self._take()
        finally:
            self._flying -= partitions
            self._busy -= 1

    def _take(self) -> list[_Waiting]:
        """Those that can share the next statement; their partitions fly from now on."""
        taken: list[_Waiting] = []
        left: list[_Waiting] = []
        batches = length = 0
        for waiting in self._waiting:
            if waiting.answer.done():
                continue
            if waiting.unit[0].partition in self._flying or batches >= GROUP or length >= GROUP_BYTES:
                left.append(waiting)
                continue
            taken.append(waiting)
            batches += len(waiting.unit)
            length += sum(map(_bytes, waiting.unit))
        self._waiting = left
        self._flying |= {waiting.unit[0].partition for waiting in taken}
        return taken


def trim_mark(kind: str, partition: str) -> str:
    """The name of the entry by which housekeeping finds the hidden rows of a log."""
    return f"trim/{kind}/{partition}"


_NEVER = Check("", "", "never")
"""Stands for checks that one statement cannot make."""


def _one_check(batches: Sequence[Batch]) -> Check | None:
    """What must stand for the batches of a partition; _NEVER where one statement cannot tell."""
    checks = {op for batch in batches for op in batch.ops if isinstance(op, Check)}
    if not checks:
        return None
    first = checks.pop()
    changed = any(isinstance(op, Put) and op.kind == first.kind for batch in batches for op in batch.ops)
    return _NEVER if checks or changed else first


def _appended(batch: Batch) -> int:
    return sum(isinstance(op, Append) for op in batch.ops)


def _bytes(batch: Batch) -> int:
    return sum(len(op.doc) for op in batch.ops if isinstance(op, (Append, Put)))


def _behind(units: Iterable[Unit]) -> list[tuple[str, list[int]]]:
    """Of each unit its partition, and of its batches how many rows of the partition come after their first one."""
    units = list(units)
    after: dict[str, int] = defaultdict(int)
    behind: list[tuple[str, list[int]]] = []
    for unit in reversed(units):
        partition = escape(unit[0].partition)
        backs: list[int] = []
        for batch in reversed(unit):
            after[partition] += _appended(batch)
            backs.append(after[partition] - 1)
        behind.append((partition, backs[::-1]))
    return behind[::-1]


def _receipt(batch: Batch, first: int) -> Receipt:
    if len(batch.ops) == 1:
        return Receipt(batch.id, (first,))
    return msgspec.structs.replace(receipt_of(batch, first, batch.id), replayed=False)


def _memo(batch: Batch, rev: str | None, receipt: bytes | None, digest: bytes | None, seq: int | None) -> Memo:
    if rev is None or seq is None:
        id, seqs = _receipts.decode(receipt or b"")
        return Memo(Receipt(id, seqs, replayed=True), digest)
    if batch.once is None:
        rev = batch.id
    elif digest is not None and len(digest) > 16:
        # The row was edited: the id of the batch that appended it stands behind the digest.
        digest, id = digest[:-16], digest[-16:].hex()
        rev = f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}"
    return Memo(receipt_of(batch, seq, rev), digest)


def _encoded(receipt: Receipt) -> bytes:
    return msgspec.json.encode((receipt.id, receipt.seqs))


def _arrays(width: int, rows: Iterable[Sequence[Any]]) -> list[list[Any] | None]:
    """Rows as columns. One that is NULL throughout is NULL itself: unnest fills it up, and nothing of it is sent."""
    columns = [None if column.count(None) == len(column) else list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


def _named(error: StoreError) -> StoreError:
    """An error as the answer of one batch: its own object, since each may be raised somewhere else."""
    named = copy(error)
    named.engine = named.engine or ENGINE
    named.operation = named.operation or "commit"
    return named
