"""The one table from what asyncpg raises to the errors of agentkeep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from ..errors import Contention, Corrupt, Denied, Invalid, SchemaMismatch, StoreError, Unavailable

ENGINE = "postgresql"

_errors = cast(Any, asyncpg).exceptions
PostgresError: type[Exception] = _errors.PostgresError
UniqueViolation: type[Exception] = _errors.UniqueViolationError

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    PostgresError,
    _errors.InterfaceError,
    _errors.InternalClientError,
    OSError,
    EOFError,
)
"""All that the driver raises, TimeoutError among them: it is an OSError."""


class _Meaning(NamedTuple):
    make: type[StoreError]
    message: str
    hint: str = ""
    retryable: bool | None = None


_MEANINGS: Mapping[str, _Meaning] = {
    # By SQLSTATE, the longest prefix first: https://www.postgresql.org/docs/current/errcodes-appendix.html
    "08": _Meaning(Unavailable, "the connection was lost"),
    "22": _Meaning(Invalid, "the database refused a value"),
    "23": _Meaning(Contention, "concurrent writers kept meeting on one row"),
    "25006": _Meaning(Denied, "the database is read-only", "Connect to the primary, not to a replica."),
    "25": _Meaning(Unavailable, "the transaction was ended by the server"),
    "26": _Meaning(Unavailable, "a prepared statement is gone", "Behind a transaction pooler use pooler=transaction."),
    "28": _Meaning(Denied, "the database refused the credentials", "Check user and password."),
    "2BP01": _Meaning(SchemaMismatch, "a view must change, but other objects stand on it", "Drop them first."),
    "3D": _Meaning(Invalid, "the database does not exist", "Create it, or check the path of the URL."),
    "3F": _Meaning(SchemaMismatch, "the schema is missing", "Open with ddl=create, or run print_ddl()."),
    "40": _Meaning(Contention, "concurrent writers kept getting in each other's way"),
    "42501": _Meaning(Denied, "a right is missing", "Let a role that may create objects run print_ddl(), and GRANT."),
    "42": _Meaning(SchemaMismatch, "a table or a column is missing or differs", "Open with ddl=create."),
    "53100": _Meaning(Unavailable, "the disk of the database is full", "Free some space: what was stored is safe."),
    "53200": _Meaning(Unavailable, "the database is out of memory or locks", "Raise max_locks_per_transaction."),
    "53300": _Meaning(Unavailable, "the database has no connection left", "Lower pool_max, or use a pooler."),
    "53": _Meaning(Unavailable, "the database is out of a resource"),
    "54": _Meaning(Invalid, "the statement is over a limit of the database"),
    "55P03": _Meaning(Contention, "a lock was not to be had in time"),
    "57014": _Meaning(Unavailable, "the database cancelled the statement", "Its statement_timeout may be too short."),
    "57P": _Meaning(Unavailable, "the database is starting or stopping"),
    "58": _Meaning(Unavailable, "the database had an input or output error"),
    "XX001": _Meaning(Corrupt, "the database found damaged data"),
    "XX002": _Meaning(Corrupt, "the database found a damaged index", "REINDEX it."),
}
_OTHER = _Meaning(Unavailable, "the database reported an error", "", False)


def translate(error: Exception, operation: str, maybe: bool = False) -> StoreError:
    """The driver's error as ours. `maybe`: something may have been written.

    The driver's text is left out: it may quote values.
    """
    if isinstance(error, StoreError):
        error.operation = error.operation or operation
        if maybe:
            error.outcome = "unknown"
        return error
    state = sqlstate(error)
    if state:
        known = next((_MEANINGS[state[:n]] for n in (5, 4, 3, 2) if state[:n] in _MEANINGS), _OTHER)
        known = known._replace(message=f"{known.message} (SQLSTATE {state})")
    elif isinstance(error, TimeoutError):
        known = _Meaning(Unavailable, "the database did not answer in time", "Raise the option timeout, or find out.")
    elif isinstance(error, (OSError, EOFError)):
        known = _Meaning(Unavailable, f"the database cannot be reached ({type(error).__name__})")
    elif lost(error):
        known = _Meaning(Unavailable, "the connection was lost")
    elif isinstance(error, ValueError):
        known = _Meaning(Invalid, "a setting or a value does not suit the driver", "Check the options of the URL.")
    else:
        known = _OTHER._replace(message=f"the driver reported {type(error).__name__}")
    made = known.make(
        known.message,
        engine=ENGINE,
        operation=operation,
        hint=known.hint,
        outcome="unknown" if maybe else "none",
        retryable=known.retryable,
    )
    made.__suppress_context__ = True
    return made


def sqlstate(error: Exception) -> str:
    """The SQLSTATE of a server's error, "" of any other."""
    return str(getattr(error, "sqlstate", None) or "") if isinstance(error, PostgresError) else ""


def lost(error: Exception) -> bool:
    """Whether the connection is gone and the call may be made again on another."""
    if isinstance(error, (TimeoutError, StoreError)):
        return False
    state = sqlstate(error)
    if state:
        return state.startswith("08") or state in ("57P01", "57P02", "57P05", "25P03")
    return isinstance(error, (OSError, EOFError)) or "connection" in str(error)


def again(error: Exception) -> bool:
    """Whether the database undid the statement to let another one pass."""
    return sqlstate(error) in ("40001", "40P01", "23505", "55P03")
