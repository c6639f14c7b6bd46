"""The SQLite engine: one file, one writer that commits in groups, readers in parallel.

What is committed together shares one transaction (`_threads`, `_sqlite_writes`); readers have connections of their
own and see the last commit. With `inline` every call runs in the thread that makes it and never suspends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakSet

import msgspec

from ..errors import Closed, Invalid, Key, StoreError
from ..ids import Clock, system_clock
from ..keys import cursor, escape, position, seq_sort, unescape, unpack
from ..predicates import OPERATORS
from ..resolve import head_row
from ..urls import Url
from ..waist import HEAD, Batch, Capabilities, KindSpec, Page, Receipt, Row, Scan, Schema
from ._facets import text_facets
from ._sql import (
    Tables,
    checked,
    dump_query,
    facets_of,
    heads_query,
    key_of,
    live,
    looked_query,
    row_of,
    sort_column,
    tables,
)
from ._sqlite_file import (
    FAILURES,
    SQLITE,
    Connection,
    Options,
    begin_log,
    connect,
    create,
    refusal,
    store_error,
    sync_directory,
)
from ._sqlite_sweep import Sweep
from ._sqlite_writes import Answer, Commit, Writes, head_of, head_select
from ._threads import Crew, Turns, in_thread, tried

__all__ = ["Options", "SQLite", "from_url"]

T = TypeVar("T")


def from_url(url: Url, options: Options, clock: Clock, inline: bool) -> SQLite:
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, or a bare path."""
    if url.host:
        hint = f"Write sqlite:///{url.host}{url.path} for a relative path, sqlite:////... for an absolute one."
        raise Invalid(f"a SQLite URL has no host, {url.host!r} stands in its place", operation="open", hint=hint)
    return SQLite(url.path[1:], options, clock, inline=inline)


class SQLite:
    """A file of SQLite 3 in write-ahead mode. Usable from many event loops, threads and processes at once."""

    def __init__(
        self, path: str, options: Options | None = None, clock: Clock = system_clock, *, inline: bool = False
    ) -> None:
        if path in ("", ":memory:") or "\x00" in path:
            hint = "Use memory:// for a database that ends with the process."
            raise Invalid(f"{path!r} is not the path of a file", engine="sqlite", operation="open", hint=hint)
        self._options = options or Options()
        self._names = tables("", self._options.prefix)
        self._path = path
        self._clock = clock
        self._inline = inline
        self._lock = threading.Lock()
        self._files: _Files | None = None
        self._kinds: dict[str, _Known] = {}
        self.capabilities = Capabilities(
            name="sqlite",
            atomic="database",
            filters=OPERATORS,
            power_loss=self._options.durability == "full",
            inline=inline,
        )

    async def open(self, schema: Schema) -> None:
        """Create the file, its tables and views where they are missing."""
        checked(schema.kinds)
        if self._inline:
            self._open(schema)
        else:
            await in_thread(lambda: self._open(schema))

    async def close(self) -> None:
        """Finish the commits that wait, then close every connection."""
        if self._inline:
            self._close()
        else:
            await in_thread(self._close)

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """One answer per key, in order, all of one moment."""
        return await self._ask("get", lambda connection: self._get(connection, keys))

    async def scan(self, scan: Scan) -> Page:
        """A page of a range."""
        return await self._ask("scan", lambda connection: self._scan(connection, scan))

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit with what other callers bring meanwhile, in one transaction."""
        files = self._usable("commit")
        return await files.writer.ask(Commit(batches, restore)) if batches else []

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """The heads of a log in order of their partitions, then the rows in order of (partition, sort)."""
        scan = Scan(kind, lo=lo, hi=hi, limit=limit, after=after)
        return await self._ask("dump", lambda connection: self._dump(connection, scan))

    # --- opening and closing -------------------------------------------------------------------------------------

    def _open(self, schema: Schema) -> None:
        path = os.path.abspath(self._path)
        with self._lock:
            if self._files is not None and self._files.pid != os.getpid():
                self._files = None
            connection: Connection | None = None
            try:
                _refuse_inherited(path)
                connection = connect(path, self._options, writer=True)
                begin_log(connection, self._options)
                create(connection, self._names, schema.kinds)
                if self._options.durability == "full":
                    sync_directory(path)
            except FAILURES as error:
                if connection is not None:
                    connection.close()
                raise refusal(path, error, "open") from error
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            if self._files is None:
                self._files = _Files(path, connection, self._names, self._options, self._clock, self._inline)
                _opened.add(self._files)
            else:
                connection.close()
            self._files.learn(schema.kinds)
            self._kinds = {**self._kinds, **{kind.name: _known(self._names, kind) for kind in schema.kinds}}

    def _close(self) -> None:
        with self._lock:
            files, self._files = self._files, None
        if files is not None and files.pid == os.getpid():
            files.close()

    def _usable(self, operation: str) -> _Files:
        files = self._files
        if files is None:
            raise Closed("the engine is not open", engine="sqlite", operation=operation)
        if files.pid != os.getpid():
            raise Closed(
                "the engine was opened by the parent process", engine="sqlite", operation=operation, hint=_FORK
            )
        return files

    # --- reading -------------------------------------------------------------------------------------------------

    async def _ask(self, operation: str, question: Callable[[Connection], T]) -> T:
        files = self._usable(operation)
        if files.readers is None:
            return files.read((operation, question))
        return cast(T, await files.readers.ask((operation, question)))

    def _known(self, name: str, operation: str) -> _Known:
        known = self._kinds.get(name)
        if known is None:
            raise Invalid(f"the schema has no kind {name!r}", engine="sqlite", operation=operation)
        return known

    def _get(self, connection: Connection, keys: Sequence[Key]) -> list[Row | None]:
        now = self._clock()
        if len(keys) == 1:
            return [self._row(connection, keys[0], now)]
        connection.execute("BEGIN")
        try:
            return [self._row(connection, key, now) for key in keys]
        finally:
            connection.execute("COMMIT")

    def _row(self, connection: Connection, key: Key, now: int) -> Row | None:
        kind, query, head_query = self._known(key.kind, "get")
        partition, place = escape(key.partition), key.sort
        if not kind.log:
            found = connection.execute(query, (partition, escape(place), now)).fetchone()
        elif place == HEAD:
            head = connection.execute(head_query, (partition, key.kind)).fetchone()
            return None if head is None else head_row(key.kind, key.partition, head_of(head))
        elif len(place) == _SEQ and place.isascii() and place.isdigit():
            found = connection.execute(query, (partition, int(place), now)).fetchone()
        else:
            return None
        return None if found is None else Row(key, found[0], found[1], {}, {}, found[2])

    def _scan(self, connection: Connection, scan: Scan) -> Page:
        kind = self._known(scan.kind, "scan").spec
        query, args = looked_query(self._names, SQLITE, kind, scan, self._clock())
        if scan.where is None:
            got = connection.execute(query, args).fetchall()
            full = len(got) == min(scan.limit, scan.budget)
            return Page(_bare(kind, scan, got), cursor(scan, _place(kind, scan, got[-1])) if full else None)
        rows: list[Row] = []
        looking = connection.execute(query, args)
        for looked, found in enumerate(looking, 1):
            if found[3] is not None:
                rows.append(_with_facets(kind, found))
            if len(rows) == scan.limit or looked == scan.budget:
                looking.close()
                return Page(rows, cursor(scan, _place(kind, scan, found)))
        return Page(rows, None)

    def _dump(self, connection: Connection, scan: Scan) -> Page:
        kind = self._known(scan.kind, "dump").spec
        rows: list[Row] = []
        after = position(scan)
        if kind.log and (after is None or after[1] == HEAD):
            query, args = heads_query(SQLITE, head_select(self._names, kind), kind, scan)
            for head in connection.execute(query, args):
                rows.append(head_row(kind.name, unescape(head[3]), head_of(head)))
            scan = msgspec.structs.replace(scan, limit=scan.limit - len(rows), after=None)
        if scan.limit:
            query, args = dump_query(self._names, SQLITE, kind, scan, self._clock())
            got = connection.execute(query, args).fetchall()
            rows += [_whole(kind, found) for found in got]
            if len(got) < scan.limit:
                return Page(rows, None)
        return Page(rows, cursor(scan, rows[-1].key[1:]))


# --- rows --------------------------------------------------------------------------------------------------------

_SEQ = len(seq_sort(1))


class _Known(NamedTuple):
    spec: KindSpec
    get: str
    head: str


def _known(names: Tables, kind: KindSpec) -> _Known:
    where = f"partition = ?1 AND {sort_column(kind)} = ?2 AND {live(names, kind, '?3')}"
    get = f"SELECT rev, doc, expires FROM {names.of(kind.name)} t WHERE {where}"
    head = f"{head_select(names, kind)} WHERE h.partition = ?1 AND h.kind = ?2"
    return _Known(kind, get, head if kind.log else "")


def _bare(kind: KindSpec, scan: Scan, got: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Rows without facets. The hot loop of reading: for a partition, its name is not decoded row by row."""
    name, log = kind.name, kind.log
    if not scan.prefix or scan.index is not None:
        return [
            Row(
                key_of((name, unescape(found[0]), seq_sort(found[1]) if log else unescape(found[1]))),
                found[2],
                found[3],
                {},
                {},
                found[4],
            )
            for found in got
        ]
    partition = str(scan.prefix[0])
    if log:
        return [
            Row(key_of((name, partition, seq_sort(place))), rev, doc, {}, {}, expires)
            for _, place, rev, doc, expires in got
        ]
    return [
        Row(key_of((name, partition, unescape(place))), rev, doc, {}, {}, expires)
        for _, place, rev, doc, expires in got
    ]


def _with_facets(kind: KindSpec, found: tuple[Any, ...]) -> Row:
    facets = text_facets(found[5]) if found[5] is not None else facets_of(None, found[6])
    return msgspec.structs.replace(row_of(kind, found), facets=facets)


def _whole(kind: KindSpec, found: tuple[Any, ...]) -> Row:
    packed = zip(kind.indexes, found[7:], strict=True)
    index = {spec.name: unpack(values) for spec, values in packed if values is not None}
    return msgspec.structs.replace(_with_facets(kind, found), index=index)


def _place(kind: KindSpec, scan: Scan, found: tuple[Any, ...]) -> tuple[str, ...]:
    """The place of a row in the order of a scan."""
    here = unescape(found[0]), seq_sort(found[1]) if kind.log else unescape(found[1])
    return here if scan.index is None else (found[-1], *here)


# --- what an open engine holds -----------------------------------------------------------------------------------

_FORK = "Open it after the fork, in each process, or start processes with multiprocessing's spawn."


class _Files:
    """The connections of an open engine and the threads that use them."""

    def __init__(
        self, path: str, connection: Connection, names: Tables, options: Options, clock: Clock, inline: bool
    ) -> None:
        self.path = path
        self.pid = os.getpid()
        self._options = options
        self.identity = _identity(path)
        self._readers: list[Connection] = []
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._connection = connection
        self._writes = Writes(connection, names, clock)
        self._sweep = Sweep(connection, names, clock, int(options.busy_timeout * 1000))
        run, after = self._writes.run, self._sweep.step
        self.writer: Crew[Commit, list[Answer]] | Turns[Commit, list[Answer]]
        self.readers: Crew[_Question, object] | None = None
        if inline:
            self.writer = Turns(run, after)
        else:
            self.writer = Crew("agentkeep-sqlite-writer", 1, run, after)
            self.readers = Crew("agentkeep-sqlite-reader", options.readers, self._answer, most=1)

    def learn(self, kinds: Sequence[KindSpec]) -> None:
        """Serve these kinds too."""
        self._writes.learn(kinds)
        self._sweep.learn(kinds)

    def read(self, question: tuple[str, Callable[[Connection], T]]) -> T:
        """The answer to a question, over a connection that nobody else uses meanwhile."""
        operation, ask = question
        connection: Connection | None = None
        try:
            connection = self._take()
            return ask(connection)
        except FAILURES as error:
            raise store_error(error, operation) from error
        except StoreError as error:
            error.engine, error.operation = "sqlite", operation
            raise
        finally:
            if connection is not None:
                self._give(connection)

    def close(self) -> None:
        """Answer what waits, then close all connections, the writer's last."""
        self.writer.close()
        if self.readers is not None:
            self.readers.close()
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in (*idle, self._connection):
            connection.close()
        _opened.discard(self)

    def inherited(self) -> None:
        """In a forked child: keep what the parent uses from being closed. Closing could wait forever for its locks."""
        import ctypes

        for connection in (*self._readers, self._connection):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def _answer(self, questions: Sequence[_Question]) -> list[object]:
        return [tried(partial(self.read, question)) for question in questions]

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise Closed("the engine was closed")
            if self._idle:
                return self._idle.pop()
        connection = connect(self.path, self._options, writer=False)
        with self._lock:
            self._readers.append(connection)
        return connection

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


_Question = tuple[str, Callable[[Connection], Any]]


# --- forks -------------------------------------------------------------------------------------------------------

_opened: WeakSet[_Files] = WeakSet()
_inherited: set[tuple[int, int]] = set()
"""Files that were open when this process was forked. SQLite keeps its locks per process and file, so a child that
opened one of them anew would believe to hold what only the parent holds."""


def _forked() -> None:
    for files in _opened:
        files.inherited()
        _inherited.add(files.identity)
    _opened.clear()


def _refuse_inherited(path: str) -> None:
    if _inherited and os.path.exists(path) and _identity(path) in _inherited:
        raise Closed(
            "the parent process had the file open when it forked", engine="sqlite", operation="open", hint=_FORK
        )


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
