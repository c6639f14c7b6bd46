"""Errors as exit codes and as one sentence, or one JSON object, on standard error."""

from __future__ import annotations

import sys

import click

from ..errors import (
    Conflict,
    Corrupt,
    Invalid,
    MissingExtra,
    NotFound,
    SchemaMismatch,
    StoreError,
    TooLarge,
    Unsupported,
    show_key,
)
from .output import encode

OK, FAILED, USAGE, UNAVAILABLE, NOT_FOUND, CORRUPT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

CODES: tuple[tuple[type[StoreError], int], ...] = (
    (Conflict, FAILED),
    (Invalid, USAGE),
    (TooLarge, USAGE),
    (Unsupported, USAGE),
    (MissingExtra, USAGE),
    (NotFound, NOT_FOUND),
    (Corrupt, CORRUPT),
    (SchemaMismatch, CORRUPT),
    (StoreError, UNAVAILABLE),
)
"""The first class that fits gives the code: every other StoreError is a database that does not serve."""


def code_of(error: Exception) -> int | None:
    """The exit code of an error; None for one that is a bug."""
    if isinstance(error, click.ClickException):
        return USAGE
    if isinstance(error, OSError):
        return NOT_FOUND if isinstance(error, FileNotFoundError) else UNAVAILABLE
    return next((code for kind, code in CODES if isinstance(error, kind)), None)


def report(error: Exception, code: int, as_json: bool) -> None:
    """Say what went wrong on standard error."""
    if as_json:
        sys.stderr.write(encode({"error": {**_fields(error), "exit_code": code}}).decode() + "\n")
        return
    sys.stderr.write(f"agentkeep: {sentence(error)}\n")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        sys.stderr.write(f"Try '{error.ctx.command_path} --help'.\n")


def sentence(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and not isinstance(error, StoreError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return " ".join(str(error).split())


def _fields(error: Exception) -> dict[str, object]:
    fields: dict[str, object] = {"type": type(error).__name__, "message": sentence(error)}
    if isinstance(error, StoreError):
        hint = {"hint": error.hint} if error.hint else {}
        fields |= {"message": error.message, **hint, "retryable": error.retryable, "outcome": error.outcome}
        if error.key is not None:
            fields["key"] = show_key(error.key)
    return fields
