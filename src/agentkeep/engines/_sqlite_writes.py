"""Batches into SQLite: read what they name, resolve, write, many batches in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import apsw
import msgspec

from ..codec import encode
from ..errors import Invalid, Key, StoreError
from ..ids import HOUR, Clock, time_of
from ..keys import escape, pack, seq_of
from ..resolve import Found, Memo, Plan, lane, reads, receipt_of, resolve, token
from ..waist import REMEMBERED, Batch, Head, KindSpec, Receipt, Row
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
    """The statements that write a kind. Parameters: partition, place, rev, doc, facets, odd, expires, ix_*, ..."""

    spec: KindSpec
    indexes: tuple[str, ...]
    rev: str
    memo: str
    insert: str
    update: str
    upsert: str
    remove: str
    blank: str


def statements(names: Tables, kind: KindSpec) -> Statements:
    """Made once for a kind, so that SQLite prepares them once."""
    table, place = names.of(kind.name), sort_column(kind)
    indexes = tuple(f"ix_{spec.name}" for spec in kind.indexes)
    plain = ["partition", place, "rev", "doc", "facets", "odd", "expires", *indexes]
    every = [*plain, "token", "digest"] if kind.log else plain
    sets = ", ".join(f"{name} = ?{number}" for number, name in enumerate(plain[2:], 3))
    excluded = ", ".join(f"{name} = excluded.{name}" for name in plain[2:])
    where = f"WHERE partition = ?1 AND {place} = ?2"
    nulls = ", ".join(f"{name} = NULL" for name in ("doc", "facets", "odd", *indexes))
    return Statements(
        kind,
        tuple(spec.name for spec in kind.indexes),
        f"SELECT rev FROM {table} t {where} AND {live(names, kind, '?3')}",
        f"SELECT seq, digest FROM {table} WHERE token = ?1 AND partition = ?2",
        _insert(table, every),
        f"UPDATE {table} SET {sets} {where}",
        f"{_insert(table, plain)} ON CONFLICT (partition, {place}) DO UPDATE SET {excluded}",
        f"DELETE FROM {table} {where}",
        f"UPDATE {table} SET {nulls}, expires = ?3 {where} AND token IS NOT NULL",
    )


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
        self._head = f"SELECT seq, floor, sealed FROM {heads} WHERE partition = ?1 AND kind = ?2"
        self._new_head = _insert(heads, ["partition", "kind", "seq", "floor", "sealed"])
        self._set_head = f"UPDATE {heads} SET seq = ?3, floor = ?4, sealed = ?5 WHERE partition = ?1 AND kind = ?2"
        self._memo = f"SELECT receipt, digest FROM {commits} WHERE token = ?1 AND partition = ?2"
        self._remember = _insert(commits, ["token", "partition", "receipt", "digest", "at"])

    def learn(self, kinds: Sequence[KindSpec]) -> None:
        """Know these kinds, those known before too."""
        self._kinds = {**self._kinds, **{kind.name: statements(self._names, kind) for kind in kinds}}
        self._logs = frozenset(name for name, known in self._kinds.items() if known.spec.log)

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
                answers.append(self._one(batch, self._logs if restore else frozenset(), now))
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

    def _one(self, batch: Batch, logs: Set[str], now: int) -> Answer:
        partition = escape(batch.partition)
        try:
            home = "" if logs else lane(batch)
            found = self._found(batch, partition, logs, home, now)
            plan = resolve(batch, found, logs)
        except StoreError as error:
            error.engine = "sqlite"
            return error
        if isinstance(plan, Receipt):
            return plan
        self._write(batch, partition, found, plan, logs, home, now)
        return plan.receipt

    def _found(self, batch: Batch, partition: str, logs: Set[str], home: str, now: int) -> Found:
        wanted = reads(batch, logs)
        memo = None if logs else self._remembered(batch, partition, home)
        heads: dict[str, Head | None] = {}
        for kind in wanted.heads:
            head = self._execute(self._head, (partition, kind)).fetchone()
            heads[kind] = None if head is None else Head(head[0], head[1], head[2] == 1)
        rows: dict[Key, Row | None] = {}
        for key in wanted.keys:
            known = self._kind(key.kind)
            place = seq_of(key.sort) if known.spec.log else escape(key.sort)
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
        # The rev of the row may be that of an edit: the id of the batch stands before its digest.
        rev = batch.id if row[1] is None else row[1][:36].decode()
        return Memo(receipt_of(batch, row[0], rev), row[1] and row[1][36:])

    def _write(
        self, batch: Batch, partition: str, found: Found, plan: Plan, logs: Set[str], home: str, now: int
    ) -> None:
        for kind, head in plan.heads.items():
            statement = self._new_head if found.heads.get(kind) is None else self._set_head
            self._execute(statement, (partition, kind, head.seq, head.floor, head.sealed))
        for key in plan.deletes:
            row = found.rows[key]
            assert row is not None, "resolve deletes what was found"
            self._delete(partition, row, now)
        first = next((seq for seq in plan.receipt.seqs if seq is not None), 0) if home else 0
        for row in plan.puts:
            self._put(batch, partition, row, found, logs, home, first)
        if not home and not logs:
            receipt = _encode_receipt((plan.receipt.id, plan.receipt.seqs))
            self._execute(self._remember, (token(batch), partition, receipt, batch.digest, now))

    def _put(self, batch: Batch, partition: str, row: Row, found: Found, logs: Set[str], home: str, first: int) -> None:
        known = self._kind(row.key.kind)
        facets, odd = None, None
        if row.facets:
            facets = facets_text(row.facets)
            odd = encode(dict(row.facets)) if facets is None else None
        index = row.index
        packed = [pack(index[name]) if name in index else None for name in known.indexes] if known.indexes else ()
        if not known.spec.log:
            place: str | int = escape(row.key.sort)
            self._execute(known.upsert, (partition, place, row.rev, row.doc, facets, odd, row.expires, *packed))
            return
        place = seq_of(row.key.sort)
        values = (partition, place, row.rev, row.doc, facets, odd, row.expires, *packed)
        before = found.heads.get(row.key.kind)
        if logs:
            self._execute(known.upsert, values)
        elif row.key.kind not in found.heads or (before is not None and place <= before.seq):
            self._execute(known.update, values)
        elif row.key.kind == home and place == first:
            digest = None if batch.once is None else batch.id.encode() + (batch.digest or b"")
            self._execute(known.insert, (*values, token(batch), digest))
        else:
            self._execute(known.insert, (*values, None, None))

    def _delete(self, partition: str, row: Row, now: int) -> None:
        """Remove a row; of a young one that remembers its batch, all but that."""
        known = self._kind(row.key.kind)
        if not known.spec.log:
            self._execute(known.remove, (partition, escape(row.key.sort)))
            return
        place, minted = seq_of(row.key.sort), time_of(row.rev)
        if minted + KEPT > now:
            self._execute(known.blank, (partition, place, minted))
            if self._connection.changes():
                return
        self._execute(known.remove, (partition, place))

    def _kind(self, name: str) -> Statements:
        known = self._kinds.get(name)
        if known is None:
            raise Invalid(f"the schema has no kind {name!r}", engine="sqlite", operation="commit")
        return known


_encode_receipt = msgspec.msgpack.Encoder().encode
_decode_receipt: Callable[[bytes], tuple[Any, ...]] = msgspec.msgpack.Decoder(tuple[str, tuple[int | None, ...]]).decode


def _failed(error: Exception, batch: Batch, *, unknown: bool = False) -> StoreError:
    size = max((len(getattr(op, "doc", b"")) for op in batch.ops), default=0)
    ours = store_error(error, "commit", outcome="unknown" if unknown else "none", size=size)
    ours.__cause__ = error
    return ours
