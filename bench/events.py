"""The events every side stores: the same text for the same number, about 1 KB as a document.

The text of an event begins with its id in brackets, so that whoever reads it back, through whatever store, can tell
which event it is. Only the standard library is used here: the peers' environment imports this module too.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TEXT_BYTES = 820
CREATED = 1_750_000_000_000_000


def _fillers(count: int) -> tuple[str, ...]:
    choose = random.Random(7)
    words = ["".join(choose.choices("abcdefghijklmnoprstuvwz", k=choose.randint(2, 9))) for _ in range(2_000)]
    return tuple(" ".join(choose.choices(words, k=TEXT_BYTES // 3))[:TEXT_BYTES] for _ in range(count))


FILLERS = _fillers(64)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a conversation: its number from 1, its text, and the document a raw driver stores for it."""

    conversation: str
    n: int
    sender: str
    text: str
    key: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """One conversation to be loaded at once: whose it is, and its events in order."""

    conversation: str
    user: str
    events: list[Event]


def event(conversation: str, n: int) -> Event:
    """Event n of a conversation; odd numbers are the user's, even ones the agent's."""
    key = f"{conversation}:{n}"
    sender = "alice" if n % 2 else "agent"
    text = f"[{key}] {FILLERS[n % len(FILLERS)]}"
    document = {
        "id": f"018f0000-0000-7000-8000-{n:012x}",
        "conversation_id": conversation,
        "type": "message",
        "sender": sender,
        "channel": "sms",
        "key": key,
        "created_at": CREATED + n,
        "text": text,
    }
    return Event(conversation, n, sender, text, key, json.dumps(document, separators=(",", ":")).encode())


def events(conversation: str, first: int, count: int) -> list[Event]:
    """`count` events of a conversation, beginning with number `first`."""
    return [event(conversation, n) for n in range(first, first + count)]


def turn(conversation: str, number: int) -> tuple[Event, Event]:
    """Turn `number` (from 1): what the user said and what the agent answered."""
    return event(conversation, 2 * number - 1), event(conversation, 2 * number)


def keys_before(conversation: str, number: int, limit: int) -> list[str]:
    """The keys of the newest `limit` events before turn `number`, oldest first."""
    last = 2 * (number - 1)
    return [f"{conversation}:{n}" for n in range(max(1, last - limit + 1), last + 1)]


def key_of(text: str) -> str:
    """The key that the text of an event begins with."""
    if not text.startswith("["):
        raise ValueError(f"not a text of this benchmark: {text[:40]!r}")
    return text[1 : text.index("]")]


def check_last(conversation: str, texts: Iterable[str], last: int, limit: int) -> None:
    """Raise unless `texts` are the newest `limit` events up to number `last`, oldest first."""
    expected = [f"{conversation}:{n}" for n in range(max(1, last - limit + 1), last + 1)]
    found = [key_of(text) for text in texts]
    if found != expected:
        raise AssertionError(
            f"{conversation}: expected {expected[:1]}..{expected[-1:]}, read {found[:1]}..{found[-1:]}"
        )


USERS = 100


def user_of(conversation: int) -> str:
    """The user of conversation number `conversation` in a filled database."""
    return f"user-{conversation % USERS}"


def filled(long: int, conversations: int, each: int) -> Iterator[Group]:
    """A database: one conversation `long` of `long` events, and `conversations` of `each` events for 100 users."""
    yield Group("long", "nobody", events("long", 1, long))
    for number in range(conversations):
        yield Group(f"c{number}", user_of(number), events(f"c{number}", 1, each))
