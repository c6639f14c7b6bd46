"""Housekeeping of a SQLite file: what is hidden or no longer remembered is removed, in small steps."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from ..ids import SECOND, Clock
from ..waist import KindSpec
from ._sql import Query, Tables
from ._sqlite_file import Connection
from ._sqlite_writes import KEPT

EVERY = 5 * SECOND
"""Between two steps."""

MOST = 200
"""Rows that one statement of a step looks at."""


LOGS = 5
"""Trimmed logs that one step shortens."""


class Sweep:
    """One step at a time, over the writer's connection, between its transactions.

    A log row is removed when its batch is no longer remembered, every other row when it has expired.
    """

    def __init__(self, connection: Connection, names: Tables, clock: Clock, patience: int) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._clock = clock
        self._patience = patience
        self._names = names
        self._kinds: dict[str, KindSpec] = {}
        self._last: int | None = None
        self._head = ("", "")
        heads, commits = names.of("heads"), names.of("commits")
        self._heads = (
            f"SELECT partition, kind, floor FROM {heads} WHERE (partition, kind) > (?1, ?2) "
            f"ORDER BY partition, kind LIMIT {MOST}"
        )
        old = f"FROM {commits} WHERE at <= ?1 ORDER BY at LIMIT"
        self._commits = (
            f"SELECT 1 {old} 1",
            f"DELETE FROM {commits} WHERE (token, partition) IN (SELECT token, partition {old} {MOST})",
        )

    def learn(self, kinds: Sequence[KindSpec]) -> None:
        """Sweep these kinds too, beginning with the next step."""
        self._kinds = {**self._kinds, **{kind.name: kind for kind in kinds}}
        self._last = None

    def step(self) -> None:
        """Do a step if one is due. What fails is left for the next one: nothing here is promised by a time."""
        now = self._clock()
        if self._last is not None and abs(now - self._last) < EVERY:
            return
        self._last = now
        try:
            due = self._due(now)
            if due:
                self._remove(due)
        except apsw.Error:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")

    def _remove(self, due: Sequence[Query]) -> None:
        self._execute("PRAGMA busy_timeout=0")
        try:
            self._execute("BEGIN IMMEDIATE")
            for statement, args in due:
                self._execute(statement, args)
            self._execute("COMMIT")
        finally:
            self._execute(f"PRAGMA busy_timeout={self._patience}")

    def _due(self, now: int) -> list[Query]:
        """The deletions that would find something: looking takes no write lock."""
        due: list[Query] = []
        forgotten = now - KEPT
        probe, delete = self._commits
        if self._execute(probe, (forgotten,)).get is not None:
            due.append((delete, [forgotten]))
        minted = f"{forgotten // 1000:012x}"
        before = f"{minted[:8]}-{minted[8:]}"
        for kind in self._kinds.values():
            table = self._names.of(kind.name)
            old = f"FROM {table} WHERE expires <= ?1{' AND rev < ?2' if kind.log else ''}"
            args = [forgotten, before] if kind.log else [now]
            if self._execute(f"SELECT 1 {old} LIMIT 1", args).get is not None:
                rows = f"rowid IN (SELECT rowid {old} LIMIT {MOST})"
                if kind.log:
                    due.append((self._keep_numbers(kind, rows), args))
                due.append((f"DELETE FROM {table} WHERE {rows}", args))
        return due + self._trimmed(before)

    def _keep_numbers(self, kind: KindSpec, rows: str) -> str:
        """The last row of a log may go, its number not: see `_sqlite_writes`."""
        last = f"SELECT partition, max(seq) AS seq FROM {self._names.of(kind.name)} WHERE {rows} GROUP BY partition"
        return (
            f"UPDATE {self._names.of('heads')} AS h SET seq = max(h.seq, gone.seq) FROM ({last}) gone "
            f"WHERE h.partition = gone.partition AND h.kind = '{kind.name}'"
        )

    def _trimmed(self, before: str) -> list[Query]:
        """What is hidden at the start of a few logs. Each step goes on where the one before stopped."""
        due: list[Query] = []
        heads = self._execute(self._heads, self._head).fetchall()
        for partition, name, floor in heads:
            kind = self._kinds.get(name)
            if floor and kind is not None:
                hidden = f"FROM {self._names.of(name)} WHERE partition = ?1 AND seq <= ?2 ORDER BY seq LIMIT"
                oldest = self._execute(f"SELECT rev {hidden} 1", (partition, floor)).get
                if oldest is not None and oldest < before:
                    rows = f"SELECT rowid FROM (SELECT rowid, rev {hidden} {MOST}) WHERE rev < ?3"
                    due.append(
                        (f"DELETE FROM {self._names.of(name)} WHERE rowid IN ({rows})", [partition, floor, before])
                    )
            if len(due) == LOGS:
                return due
            self._head = (partition, name)
        if len(heads) < MOST:
            self._head = ("", "")
        return due
