"""Batches into SQLite: read what they name, resolve, write, many batches in one transaction.

What makes an append cheap is what it does not write: the head of a log is not touched by appends. Its number is the
greater of `heads.seq` and the last row's, so `heads.seq` is written when a log is opened and before a row is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import apsw
import msgspec

from ..codec import encode
from ..errors import Invalid, Key, StoreError
from ..ids import HOUR, Clock, time_of
from ..keys import escape, pack, seq_of
from ..resolve import Found, Memo, Plan, guarded, lane, reads, receipt_of, resolve, simple, token
from ..waist import REMEMBERED, Append, Batch, Check, Facets, Head, Index, KindSpec, Put, Receipt, Row
from ._facets import facets_text
from ._sql import Tables, live, sort_column
from ._sqlite_file import FAILURES, Connection, store_error

MOST = 500
"""Batches of one transaction at most."""

KEPT = REMEMBERED + HOUR
"""Microseconds that a batch is remembered: as promised, and an hour for clocks that differ."""

Answer = Receipt | StoreError


class Commit(NamedTuple):
    """What one call of `commit` brings."""

    batches: Sequence[Batch]
    restore: bool


class Statements(NamedTuple):
    """What reads and writes a kind. ?1 is the partition, ?2 the sort key or number; then the columns in order."""

    log: bool
    indexes: tuple[str, ...]
    rev: str
    insert: str
    update: str
    upsert: str
    remove: str
    memo: str = ""
    blank: str = ""
    head: str = ""


def statements(names: Tables, kind: KindSpec) -> Statements:
    """Made once for a kind, so that SQLite prepares them once."""
    table, place = names.of(kind.name), sort_column(kind)
    indexes = tuple(f"ix_{spec.name}" for spec in kind.indexes)
    plain = ["partition", place, "rev", "doc", "facets", "odd", "expires", *indexes]
    sets = ", ".join(f"{name} = ?{number}" for number, name in enumerate(plain[2:], 3))
    excluded = ", ".join(f"{name} = excluded.{name}" for name in plain[2:])
    where = f"WHERE partition = ?1 AND {place} = ?2"
    made = Statements(
        kind.log,
        tuple(spec.name for spec in kind.indexes),
        rev=f"SELECT rev FROM {table} t {where} AND {live(names, kind, '?3')}",
        insert=_insert(table, [*plain, "token", "digest"] if kind.log else plain),
        update=f"UPDATE {table} SET {sets} {where}",
        upsert=f"{_insert(table, plain)} ON CONFLICT (partition, {place}) DO UPDATE SET {excluded}",
        remove=f"DELETE FROM {table} {where}",
    )
    if not kind.log:
        return made
    nulls = ", ".join(f"{name} = NULL" for name in ("doc", "facets", "odd", *indexes))
    return made._replace(
        memo=f"SELECT seq, digest FROM {table} WHERE token = ?1 AND partition = ?2",
        blank=f"UPDATE {table} SET {nulls}, expires = ?3 {where} AND token IS NOT NULL",
        head=f"{head_select(names, kind)} WHERE h.partition = ?1 AND h.kind = '{kind.name}'",
    )


def head_select(names: Tables, kind: KindSpec) -> str:
    """The query of the heads of a log: seq, floor, sealed, partition."""
    last = f"SELECT max(seq) FROM {names.of(kind.name)} r WHERE r.partition = h.partition"
    return f"SELECT max(h.seq, COALESCE(({last}), 0)), h.floor, h.sealed, h.partition FROM {names.of('heads')} h"


def head_of(found: Sequence[Any]) -> Head:
    """A head from `head_select`."""
    return Head(found[0], found[1], found[2] == 1)


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join(f"?{number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


class Writes:
    """Commits batches over one connection. One thread at a time."""

    def __init__(self, connection: Connection, names: Tables, clock: Clock) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._clock = clock
        self._names = names
        self._kinds: Mapping[str, Statements] = {}
        self._logs: frozenset[str] = frozenset()
        heads, commits = names.of("heads"), names.of("commits")
        self._new_head = _insert(heads, ["partition", "kind", "seq", "floor", "sealed"])
        self._set_head = f"UPDATE {heads} SET seq = ?3, floor = ?4, sealed = ?5 WHERE partition = ?1 AND kind = ?2"
        self._keep_number = f"UPDATE {heads} SET seq = max(seq, ?3) WHERE partition = ?1 AND kind = ?2"
        self._memo = f"SELECT receipt, digest FROM {commits} WHERE token = ?1 AND partition = ?2"
        self._remember = _insert(commits, ["token", "partition", "receipt", "digest", "at"])

    def learn(self, kinds: Sequence[KindSpec]) -> None:
        """Know these kinds, those known before too."""
        self._kinds = {**self._kinds, **{kind.name: statements(self._names, kind) for kind in kinds}}
        self._logs = frozenset(name for name, known in self._kinds.items() if known.log)

    def run(self, works: Sequence[Commit]) -> list[list[Answer]]:
        """Commit what several callers brought, in order, in as few transactions as MOST allows."""
        asked = [(batch, work.restore) for work in works for batch in work.batches]
        answers: list[Answer] = []
        for start in range(0, len(asked), MOST):
            answers += self._together(asked[start : start + MOST])
        rest = iter(answers)
        return [[next(rest) for _ in work.batches] for work in works]

    def _together(self, asked: Sequence[tuple[Batch, bool]]) -> list[Answer]:
        """One transaction. What the disk refuses is tried again batch by batch, so one cannot fail the others."""
        answers: list[Answer] = []
        try:
            self._execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            return [_failed(error, batch) for batch, _ in asked]
        committing = False
        try:
            now = self._clock()
            for batch, restore in asked:
                answers.append(self._one(batch, self._logs if restore else None, now))
            committing = True
            self._execute("COMMIT")
        except (*FAILURES, StoreError) as error:
            self._roll_back()
            if len(asked) == 1:
                # Only while SQLite makes the transaction durable can an I/O error leave it half said.
                return [_failed(error, asked[0][0], unknown=committing and isinstance(error, apsw.IOError))]
            return [self._together([one])[0] for one in asked]
        except BaseException:
            self._roll_back()
            raise
        return answers

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._execute("ROLLBACK")
            except apsw.Error:
                pass  # Some errors end the transaction by themselves.

    def _one(self, batch: Batch, logs: Set[str] | None, now: int) -> Answer:
        partition = escape(batch.partition)
        home = lane(batch) if logs is None else ""
        try:
            straight = home and (simple(batch, after=True) or guarded(batch, after=True))
            if straight and (answer := self._append(batch, partition, home, now)):
                return answer
            found = self._found(batch, partition, logs, home, now)
            plan = resolve(batch, found, logs or frozenset())
        except StoreError as error:
            error.engine = "sqlite"
            return error
        if isinstance(plan, Receipt):
            return plan
        self._write(batch, partition, found, plan, logs, home, now)
        return plan.receipt

    def _append(self, batch: Batch, partition: str, home: str, now: int) -> Receipt | None:
        """What `resolve` would decide for a simple or guarded batch; None if that is not all there is to it."""
        known = self._kind(home)
        head = self._execute(known.head, (partition,)).fetchone()
        if head is None or head[2]:
            return None
        for op in batch.ops:
            if type(op) is Check and not self._holds(op, partition, now):
                return None
        last: int = head[0]
        seqs: list[int | None] = []
        rows: list[tuple[Any, ...]] = []
        memory: tuple[bytes | None, bytes | None] = token(batch), _digest(batch)
        for op in batch.ops:
            if type(op) is not Append:
                seqs.append(None)
                continue
            if op.after is not None and op.after != last:
                return None
            last += 1
            seqs.append(last)
            rows.append((*self._values(known, partition, last, batch.id, op), *memory))
            memory = None, None
        try:
            self._execute(known.insert, rows[0])
        except apsw.ConstraintError:
            return None  # The token is there: the batch was committed before, and nothing of it is written now.
        if len(rows) > 1:
            self._connection.executemany(known.insert, rows[1:])
        for op in batch.ops:
            if type(op) is Put:
                at = self._kind(op.kind)
                self._execute(at.upsert, self._values(at, partition, escape(op.sort), batch.id, op))
        return Receipt(batch.id, tuple(seqs))

    def _holds(self, op: Check, partition: str, now: int) -> bool:
        known = self._kind(op.kind)
        place = seq_of(op.sort) if known.log else escape(op.sort)
        row = self._execute(known.rev, (partition, place, now)).fetchone()
        return row is not None and row[0] == op.expect

    def _found(self, batch: Batch, partition: str, logs: Set[str] | None, home: str, now: int) -> Found:
        wanted = reads(batch, logs or frozenset())
        memo = self._remembered(batch, partition, home) if logs is None else None
        heads: dict[str, Head | None] = {}
        for kind in wanted.heads:
            head = self._execute(self._kind(kind).head, (partition,)).fetchone()
            heads[kind] = None if head is None else head_of(head)
        rows: dict[Key, Row | None] = {}
        for key in wanted.keys:
            known = self._kind(key.kind)
            place = seq_of(key.sort) if known.log else escape(key.sort)
            rev = self._execute(known.rev, (partition, place, now)).fetchone()
            rows[key] = None if rev is None else Row(key, rev[0], b"")
        return Found(rows, heads, memo)

    def _remembered(self, batch: Batch, partition: str, home: str) -> Memo | None:
        if not home:
            row = self._execute(self._memo, (token(batch), partition)).fetchone()
            return None if row is None else Memo(Receipt(*_decode_receipt(row[0])), row[1])
        row = self._execute(self._kind(home).memo, (token(batch), partition)).fetchone()
        if row is None:
            return None
        first, digest = row
        if digest is None:
            return Memo(receipt_of(batch, first, batch.id), None)
        return Memo(receipt_of(batch, first, str(UUID(bytes=digest[:16]))), digest[16:])

    def _write(
        self, batch: Batch, partition: str, found: Found, plan: Plan, logs: Set[str] | None, home: str, now: int
    ) -> None:
        for kind, head in plan.heads.items():
            before = found.heads.get(kind)
            if before is None:
                self._execute(self._new_head, (partition, kind, head.seq, head.floor, head.sealed))
            elif logs is not None or head.floor != before.floor or head.sealed != before.sealed:
                self._execute(self._set_head, (partition, kind, head.seq, head.floor, head.sealed))
        for key in plan.deletes:
            row = found.rows[key]
            assert row is not None, "resolve deletes what was found"
            self._delete(partition, row, now)
        mark, digest = (token(batch), _digest(batch)) if home else (None, None)
        appended: dict[str, list[tuple[Any, ...]]] = {}
        for row in plan.puts:
            kind, known = row.key.kind, self._kind(row.key.kind)
            place = int(row.key.sort) if known.log else escape(row.key.sort)
            values = self._values(known, partition, place, row.rev, row)
            if logs is not None or not known.log:
                self._execute(known.upsert, values)
            elif _is_edit(kind, place, found.heads):
                self._execute(known.update, values)
            elif kind == home and kind not in appended:
                appended[kind] = [(*values, mark, digest)]
            else:
                appended.setdefault(kind, []).append((*values, None, None))
        for kind, rows in appended.items():
            self._connection.executemany(self._kind(kind).insert, rows)
        if not home and logs is None:
            receipt = _encode_receipt((plan.receipt.id, plan.receipt.seqs))
            self._execute(self._remember, (token(batch), partition, receipt, batch.digest, now))

    def _values(self, known: Statements, partition: str, place: str | int, rev: str, row: _Written) -> tuple[Any, ...]:
        facets = odd = None
        if row.facets:
            facets = facets_text(row.facets)
            odd = encode(dict(row.facets)) if facets is None else None
        values = (partition, place, rev, row.doc, facets, odd, row.expires)
        if not known.indexes:
            return values
        index = row.index
        return (*values, *[pack(index[name]) if name in index else None for name in known.indexes])

    def _delete(self, partition: str, row: Row, now: int) -> None:
        """Remove a row; of a young one that remembers its batch, all but that."""
        kind, known = row.key.kind, self._kind(row.key.kind)
        if not known.log:
            self._execute(known.remove, (partition, escape(row.key.sort)))
            return
        place, minted = seq_of(row.key.sort), time_of(row.rev)
        if minted + KEPT > now:
            self._execute(known.blank, (partition, place, minted))
            if self._connection.changes():
                return
        self._execute(self._keep_number, (partition, kind, place))
        self._execute(known.remove, (partition, place))

    def _kind(self, name: str) -> Statements:
        known = self._kinds.get(name)
        if known is None:
            raise Invalid(f"the schema has no kind {name!r}", engine="sqlite", operation="commit")
        return known


class _Written(Protocol):
    """What Append, Put and Row have in common."""

    @property
    def doc(self) -> bytes: ...
    @property
    def index(self) -> Index: ...
    @property
    def facets(self) -> Facets: ...
    @property
    def expires(self) -> int | None: ...


def _digest(batch: Batch) -> bytes | None:
    """What stands beside a token: the rev of its row may one day be that of an edit, so the id comes first."""
    return None if batch.once is None else bytes.fromhex(batch.id.replace("-", "")) + (batch.digest or b"")


def _is_edit(kind: str, place: str | int, heads: Mapping[str, Head | None]) -> bool:
    """Whether a row of a log is one that was there before: the others are numbered above its head."""
    if kind not in heads:
        return True
    head = heads[kind]
    return head is not None and int(place) <= head.seq


_encode_receipt = msgspec.msgpack.Encoder().encode
_decode_receipt: Callable[[bytes], tuple[Any, ...]] = msgspec.msgpack.Decoder(tuple[str, tuple[int | None, ...]]).decode


def _failed(error: Exception, batch: Batch, *, unknown: bool = False) -> StoreError:
    docs = [op.doc for op in batch.ops if isinstance(op, (Append, Put))]
    size = max([len(doc) for doc in docs if type(doc) is bytes], default=0)
    ours = store_error(error, "commit", outcome="unknown" if unknown else "none", size=size)
    ours.__cause__ = error
    return ours
