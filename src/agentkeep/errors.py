"""The exceptions of agentkeep.

    StoreError                  base of everything the library raises
    ├── Conflict                an expectation did not hold; nothing was written
    ├── Contention              too many writers at once; nothing was written            (retryable)
    ├── Unavailable             the database could not be reached or stopped answering   (retryable)
    ├── TooLarge                a value is over a stated limit; nothing was written
    ├── Invalid                 the caller's input is wrong
    ├── Unsupported             this engine cannot do that, and says so in its capabilities
    ├── Denied                  the database refused the credentials or a right is missing
    ├── SchemaMismatch          the stored schema differs from the one asked for
    ├── IndexNotReady           an index is still being built
    ├── Corrupt                 a stored document does not decode
    ├── Closed                  the store was closed
    ├── MissingExtra            a driver is not installed
    └── NotFound                raised by features only: the waist answers None

Messages name the engine, the operation, the key and what to do. They never hold a document, a credential
or a value of the caller's data other than ids.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Outcome = Literal["none", "unknown"]


class Key(NamedTuple):
    """The address of a row: three strings of any Unicode."""

    kind: str
    partition: str
    sort: str


class StoreError(Exception):
    """Base of everything the library raises.

    `outcome` is "none" when nothing was written and "unknown" when the database may have written before the
    answer was lost: committing the same batch again settles it. `retryable` says that the same call may
    succeed later without a change.
    """

    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        engine: str = "",
        operation: str = "",
        key: Key | None = None,
        hint: str = "",
        outcome: Outcome = "none",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.engine = engine
        self.operation = operation
        self.key = key
        self.hint = hint
        self.outcome: Outcome = outcome
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        where = " ".join(part for part in (self.engine, self.operation, show_key(self.key)) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.outcome == "unknown":
            text += " (the outcome is unknown)"
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class Conflict(StoreError):
    """An expectation did not hold; nothing was written.

    `reason` is what was compared: "rev" (a row), "after" (the head of a log), "sealed" (a deleted log),
    "once" (an idempotency key used before for something else), "fence" (a claim that is no longer held), "status"
    (what a feature's row is), "lease" (who holds it). `expect` and `found` are the two sides.
    """

    def __init__(
        self,
        key: Key,
        expect: str | int | None,
        found: str | int | None,
        reason: Literal["rev", "after", "sealed", "once", "fence", "status", "lease"] = "rev",
        *,
        engine: str = "",
        operation: str = "commit",
        hint: str = "",
    ) -> None:
        text = {
            "rev": f"expected {expect!r}, found {found!r}",
            "after": f"expected the log to end at {expect!r}, it ends at {found!r}",
            "sealed": "the log was deleted or never opened",
            "once": "the idempotency key was used before with other content",
            "fence": f"the claim with fence {expect} is not held any more, the fence is {found}",
            "status": f"expected the status {expect}, it is {found}",
            "lease": f"the lease is not free or was lost: expected {expect!r}, found {found!r}",
        }[reason]
        super().__init__(text, engine=engine, operation=operation, key=key, hint=hint)
        self.expect = expect
        self.found = found
        self.reason = reason


class Contention(StoreError):
    """Too many concurrent writers; nothing was written."""

    retryable = True


class Unavailable(StoreError):
    """The database could not be reached, or stopped answering."""

    retryable = True


class TooLarge(StoreError):
    """A value is over a limit; nothing was written. `limit` and `size` are in the unit the message names."""

    def __init__(
        self,
        what: str,
        *,
        limit: int,
        size: int,
        unit: str = "bytes",
        key: Key | None = None,
        hint: str = "",
        engine: str = "",
        operation: str = "commit",
    ) -> None:
        super().__init__(
            f"{what} is {size:,} {unit}, the limit is {limit:,}", engine=engine, operation=operation, key=key, hint=hint
        )
        self.limit = limit
        self.size = size


class Invalid(StoreError):
    """The caller's input is wrong. The message names the field and the fix."""


class Unsupported(StoreError):
    """This engine cannot do that."""


class Denied(StoreError):
    """The database refused the credentials, or a right is missing."""


class SchemaMismatch(StoreError):
    """The stored schema differs from the one asked for."""


class IndexNotReady(StoreError):
    """An index is still being built: `Store.reindex()` finishes it."""


class Corrupt(StoreError):
    """A stored document does not decode."""


class Closed(StoreError):
    """The store was closed."""


class MissingExtra(StoreError):
    """A driver is not installed; the hint is the install command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a driver that is not installed", hint=f"Run: pip install 'agentkeep[{extra}]'")
        self.extra = extra


class NotFound(StoreError):
    """A feature was asked to change something that does not exist."""


def show_key(key: Key | None) -> str:
    """The key as shown in messages: parts quoted, long ones cut."""
    if key is None:
        return ""
    return "/".join(part if part.isalnum() and len(part) <= 64 else _cut(part) for part in key if part)


def _cut(part: str) -> str:
    return ascii(part if len(part) <= 64 else part[:61] + "...")


def _rebuild(cls: type[StoreError], args: tuple[object, ...], state: dict[str, object]) -> StoreError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error
