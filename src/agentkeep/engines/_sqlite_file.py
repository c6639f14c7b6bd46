"""A SQLite file: connections to it, its tables and views, and what its errors mean."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, cast

import apsw
import msgspec

from ..errors import (
    Contention,
    Corrupt,
    Denied,
    Invalid,
    Outcome,
    SchemaMismatch,
    StoreError,
    TooLarge,
    Unavailable,
)
from ..waist import Column, KindSpec
from ._facets import filter_sql
from ._sql import FORMAT, Dialect, Tables, index_ddl, kind_ddl, sort_column, system_ddl, view_select


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a `sqlite:` URL may say."""

    durability: Literal["full", "normal"] = "full"
    """full: survives a power loss. normal: survives a kill of the process; a power loss may take the last commits."""
    prefix: str = ""
    """Begins the name of every table, so that several stores share a file."""
    busy_timeout: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    """Seconds to wait for the writers of other processes."""
    readers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Threads that read, for the async API."""


# --- errors ------------------------------------------------------------------------------------------------------

_FULL_HINT = "Make space; what was acknowledged is safe, and the same call works again then."
_ERRORS: Mapping[type[Exception], tuple[type[StoreError], str, str]] = {
    apsw.BusyError: (Contention, "other processes kept the write lock", "Raise busy_timeout, or write less at once."),
    apsw.LockedError: (Contention, "the database is locked", "Raise busy_timeout."),
    apsw.ProtocolError: (Contention, "too many processes opened the file at once", "Try again."),
    apsw.FullError: (Unavailable, "the disk or the database is full", _FULL_HINT),
    apsw.IOError: (Unavailable, "the file could not be read or written", "Check the disk."),
    apsw.NoMemError: (Unavailable, "out of memory", ""),
    apsw.InterruptError: (Unavailable, "the statement was interrupted", ""),
    apsw.ReadOnlyError: (Denied, "the file or its directory is read-only", "Grant write access to both."),
    apsw.CantOpenError: (Denied, "the file could not be opened", "Check its path and its rights."),
    apsw.PermissionsError: (Denied, "access to the file was refused", "Check its rights."),
    apsw.AuthError: (Denied, "access to the file was refused", "Check its rights."),
    apsw.CorruptError: (Corrupt, "the file is damaged", "Restore a backup, or run: sqlite3 FILE .recover"),
    apsw.NotADBError: (Corrupt, "the file is not a SQLite database", "Choose another path."),
    apsw.ConstraintError: (Corrupt, "the tables contradict each other", "Something else wrote to them."),
    apsw.SQLError: (SchemaMismatch, "the tables are not those of this engine", "Something else changed them."),
    apsw.SchemaChangeError: (Contention, "the tables were changed meanwhile", "Try again."),
    apsw.ConnectionClosedError: (Unavailable, "the connection was closed", "Open the store again."),
    OverflowError: (Invalid, "a number is over 64 bits", ""),
    ValueError: (Invalid, "a text is not what it must be", ""),
    TypeError: (Invalid, "a value has the wrong type", ""),
}
FAILURES = (apsw.Error, OverflowError, ValueError, TypeError)
"""What a statement may raise."""


def store_error(error: Exception, operation: str, *, outcome: Outcome = "none", size: int = 0) -> StoreError:
    """The one table from what SQLite raises to what leaves the engine. `size`: of the largest value that was bound."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, apsw.TooBigError):
        return TooLarge("a row", limit=1_000_000_000, size=size, engine="sqlite", operation=operation)
    for kind, (ours, message, hint) in _ERRORS.items():
        if isinstance(error, kind):
            return ours(message, engine="sqlite", operation=operation, hint=hint, outcome=outcome)
    reason = f"SQLite failed: {type(error).__name__}"
    return Unavailable(reason, engine="sqlite", operation=operation, outcome=outcome, retryable=False)


# --- connections -------------------------------------------------------------------------------------------------


class Cursor(Protocol):
    """What is used of an apsw.Cursor; apsw's own types need Python 3.12."""

    @property
    def get(self) -> Any:
        """All rows: a value for one row of one column, None for no row."""
        ...

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row."""
        ...

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that are left."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Step through the rows."""
        ...

    def close(self) -> None:
        """End the statement, and with it the read transaction it holds."""
        ...


class Connection(Protocol):
    """What is used of an apsw.Connection."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, statements: str, bindings: Sequence[Any] = ...) -> Cursor:
        """Run a statement, prepared once per text."""
        ...

    def executemany(self, statements: str, bindings: Iterable[Sequence[Any]]) -> Cursor:
        """Run a statement once for each of many bindings."""
        ...

    def changes(self) -> int:
        """Rows changed by the last statement."""
        ...

    def close(self) -> None:
        """Close it; the last connection to a file copies the log into it."""
        ...


def connect(path: str, options: Options, *, writer: bool) -> Connection:
    """A connection, not yet in write-ahead mode. Raises what apsw raises."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if writer else 0)
    opened = apsw.Connection(path, flags=flags)
    connection = cast(Connection, opened)
    try:
        opened.set_busy_timeout(int(options.busy_timeout * 1000))
        if writer:
            connection.execute(f"PRAGMA synchronous={options.durability}")
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
            connection.execute("PRAGMA journal_size_limit=67108864")
            connection.execute("PRAGMA cache_size=-8000")
        else:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def refusal(path: str, error: Exception, operation: str) -> StoreError:
    """What an error of opening means: that of `store_error`, with the reason the file system shows."""
    ours = store_error(error, operation)
    folder = os.path.dirname(path)
    if isinstance(ours, Denied):
        if not os.path.isdir(folder):
            ours.message, ours.hint = f"the directory {folder!r} does not exist", "Create it first."
        elif os.path.isdir(path):
            ours.message, ours.hint = f"{path!r} is a directory", "Choose the path of a file."
        else:
            ours.message = f"{path!r} cannot be written: {ours.message}"
    elif isinstance(ours, Corrupt):
        ours.message = f"{path!r}: {ours.message}"
    ours.args = (ours.message,)
    return ours


def begin_log(connection: Connection, options: Options) -> None:
    """Switch the file to write-ahead mode. SQLite does not wait for its lock here, so this does."""
    until = time.monotonic() + options.busy_timeout
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").get
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise apsw.ReadOnlyError(f"journal_mode stays {mode}")
        return


def sync_directory(path: str) -> None:
    """Make the names of a new file and of its log survive a power loss."""
    if os.name == "nt":
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- tables ------------------------------------------------------------------------------------------------------


def create(connection: Connection, names: Tables, kinds: Iterable[KindSpec]) -> None:
    """Create what is missing in one transaction, or nothing. Raises SchemaMismatch for what is not ours."""
    kinds = tuple(kinds)
    if not _missing(connection, names, kinds):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _missing(connection, names, kinds):
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _missing(connection: Connection, names: Tables, kinds: Iterable[KindSpec]) -> list[str]:
    """The statements that make what is not there."""
    there: dict[str, str | None] = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    made: list[str] = []
    if f"{names.prefix}meta" in there:
        _check_format(connection, names)
    else:
        made += system_ddl(names, SQLITE)
        made.append(f"INSERT INTO {names.of('meta')} (name, value) VALUES ('format', '{FORMAT}')")
    for kind in kinds:
        if names.prefix + kind.name in there:
            made += _missing_indexes(connection, names, kind, there)
        else:
            made += kind_ddl(names, SQLITE._replace(table_options=""), kind)
        view = names.of(f"{kind.name}_view")
        wanted = f"CREATE VIEW {view} AS {_view(names, kind)}"
        if there.get(f"{names.prefix}{kind.name}_view") != wanted:
            made += [f"DROP VIEW IF EXISTS {view}", wanted]
    return made


def _check_format(connection: Connection, names: Tables) -> None:
    found = connection.execute(f"SELECT value FROM {names.of('meta')} WHERE name = 'format'").fetchone()
    if found is None or not str(found[0]).isdigit() or int(found[0]) > FORMAT:
        raise SchemaMismatch(
            f"the tables have the format {found and found[0]!s}, this agentkeep reads up to {FORMAT}",
            engine="sqlite",
            operation="open",
            hint="Upgrade agentkeep.",
        )


def _missing_indexes(
    connection: Connection, names: Tables, kind: KindSpec, there: Mapping[str, str | None]
) -> list[str]:
    table = names.of(kind.name)
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table[1:-1],))}
    needed = {"partition", sort_column(kind), "rev", "doc", "facets", "odd", "expires"}
    if not needed <= columns:
        raise SchemaMismatch(
            f"the table {table} is not one of kind {kind.name!r}",
            engine="sqlite",
            operation="open",
            hint="Choose another prefix, or another name for the kind: a log cannot become a plain kind.",
        )
    made: list[str] = []
    for index in kind.indexes:
        if f"ix_{index.name}" not in columns:
            made.append(f"ALTER TABLE {table} ADD COLUMN ix_{index.name} TEXT")
        if names.index_of(kind.name, f"ix_{index.name}")[1:-1] not in there:
            made.append(index_ddl(names, kind, index))
    return made


def _view(names: Tables, kind: KindSpec) -> str:
    now = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    return f"{view_select(names, SQLITE, kind)} AND (t.expires IS NULL OR t.expires > {now})"


def _json_value(table: str, column: Column) -> str:
    """A column of a view: NULL where the document is not plain JSON."""
    text = f"CAST(substr({table}.doc, 6) AS TEXT)"
    plain = f"substr({table}.doc, 1, 1) = x'01' AND json_valid({text})"
    if any('"' in part or "\x00" in part for part in column.path):
        raise Invalid(
            f"the column {column.name!r} has a quote or U+0000 in its path", engine="sqlite", operation="open"
        )
    path = "$" + "".join(f'."{part}"' for part in column.path)
    path = path.replace("'", "''")
    if column.type == "json":
        value = f"json_extract({text}, '$')" if not column.path else f"{text} -> '{path}'"
    elif column.type == "time":
        found = f"json_extract({text}, '{path}')"
        value = (
            f"strftime('%Y-%m-%dT%H:%M:%S', ({found} - ({found} % 1000000 + 1000000) % 1000000) / 1000000, 'unixepoch')"
            f" || printf('.%06dZ', ({found} % 1000000 + 1000000) % 1000000)"
        )
        plain += f" AND json_type({text}, '{path}') = 'integer'"
    else:
        value = f"json_extract({text}, '{path}')"
    return f"CASE WHEN {plain} THEN {value} END"


SQLITE = Dialect(
    text="TEXT",
    blob="BLOB",
    json="TEXT",
    integer="INTEGER",
    table_options=" WITHOUT ROWID",
    mark="?{}".format,
    filter=filter_sql,
    json_value=_json_value,
)
