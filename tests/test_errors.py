"""Errors: they say where and what to do, survive pickling, and hold neither documents nor credentials."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from agentkeep import errors
from agentkeep.errors import (
    Closed,
    Conflict,
    Contention,
    Key,
    MissingExtra,
    StoreError,
    TooLarge,
    Unavailable,
    show_key,
)

KEY = Key("note", "support-42", "a/b")
EVERY = [
    StoreError(
        "it failed", engine="sqlite", operation="get", key=KEY, hint="Try again.", outcome="unknown", retryable=True
    ),
    Conflict(KEY, "absent", "0190", engine="memory"),
    Conflict(KEY, 3, 4, "after"),
    Conflict(KEY, "any", 4, "sealed"),
    Conflict(KEY, None, None, "once", hint="Use a new key."),
    Contention("too many writers", engine="sqlite", operation="commit"),
    Unavailable("the connection was lost", outcome="unknown"),
    TooLarge("a row", limit=300_000, size=300_001, key=KEY),
    MissingExtra("postgresql://", "postgres"),
    Closed("the engine is not open"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: StoreError):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
        assert again.retryable is error.retryable


def test_every_error_is_a_store_error_and_is_in_the_tree():
    tree = inspect.getdoc(errors)
    assert tree is not None
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, StoreError)
            assert name in tree


def test_a_message_names_engine_operation_key_and_what_to_do():
    told = str(EVERY[0])
    for part in ("sqlite", "get", "note", "support-42", "a/b", "it failed", "unknown", "Try again."):
        assert part in told


def test_retryable():
    assert [type(error).__name__ for error in EVERY if error.retryable] == ["StoreError", "Contention", "Unavailable"]
    assert not Unavailable("x", retryable=False).retryable
    assert Unavailable.retryable
    assert {error.outcome for error in EVERY} == {"none", "unknown"}


@pytest.mark.parametrize(
    ("reason", "told"), [("rev", "expected"), ("after", "end at"), ("sealed", "deleted"), ("once", "idempotency key")]
)
def test_a_conflict_says_what_was_compared(reason: str, told: str):
    error = Conflict(KEY, "x", "y", reason)  # type: ignore[arg-type]
    assert told in str(error)
    assert (error.expect, error.found, error.reason) == ("x", "y", reason)


@pytest.mark.case("S10")
def test_a_key_is_shown_as_ascii_and_cut():
    shown = show_key(Key("note", "a\x00b\ud800\n\x1b[31m" + "x" * 500, ""))
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 150
    assert show_key(None) == ""
    assert show_key(Key("note", "p1", "a")) == "note/p1/a"
    str(Conflict(Key("k", "\ud800" * 600, "\x00"), "absent", None)).encode()
