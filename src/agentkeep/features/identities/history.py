"""All events of a person's conversations as one history, in order of time.

The logs are merged by the time of their next event, so each stays in its own order even where clocks differ. A cursor
says how far each of them was read: nothing comes twice, and nothing is skipped.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from heapq import heapify, heappop, heapreplace
from zlib import crc32

import msgspec

from ... import keys
from ...codec import is_moved
from ...errors import Corrupt, Invalid
from ...pages import Page
from ...records import record_of
from ...store import Store
from ...waist import HEAD, Head, Key, Row, Scan
from ..conversations.records import Activity, Event
from .records import Membership

ACTIVITY, EVENT = record_of(Activity), record_of(Event)

AT_ONCE = 300
"""Conversations that one read asks about."""


async def activities(store: Store, memberships: Sequence[Membership]) -> list[Activity]:
    """The conversations of these memberships that are there, in order; not others that have their ids by now."""
    rows = await store.engine.get([_key(ACTIVITY.spec.name, one) for one in memberships]) if memberships else []
    pairs = zip(memberships, [None if row is None else ACTIVITY.decode(row) for row in rows], strict=True)
    return [found for one, found in pairs if found is not None and found.life == one.conversation_life]


async def page(store: Store, memberships: Sequence[Membership], limit: int, after: str | None) -> Page[Event]:
    """The next events of these conversations. Raises Invalid for a cursor that is damaged."""
    if not 1 <= limit <= 1_000:
        raise Invalid(f"limit={limit} must lie between 1 and 1,000", operation="history")
    positions = {} if after is None else _positions(after)
    logs = [
        log
        for at in range(0, len(memberships), AT_ONCE)
        for log in await _open(store, memberships[at : at + AT_ONCE], positions, limit)
    ]
    waiting = [log.place for log in logs if await log.fill()]
    heapify(waiting)
    events: list[Event] = []
    while waiting and len(events) < limit:
        log = waiting[0][-1]
        events.append(log.take())
        if await log.fill():
            heapreplace(waiting, log.place)
        else:
            heappop(waiting)
    positions |= {log.mark: log.position for log in logs}
    return Page(events, _cursor(positions) if waiting else None, [error for log in logs for error in log.corrupt])


class _Log:
    """The events of one conversation from a position on, up to its end as it was when it was opened."""

    def __init__(self, store: Store, of: Membership, mark: str, position: int, end: int, limit: int) -> None:
        self.mark = mark
        self.position = position
        self.corrupt: list[Corrupt] = []
        self.rows: deque[Row] = deque()
        self._store = store
        self._conversation = of.conversation
        self._end = end
        self._limit = limit
        self._next: Event | None = None

    @property
    def place(self) -> tuple[int, str, _Log]:
        """Where its next event stands among those of others."""
        assert self._next is not None
        return self._next.created_us, self._conversation, self

    def take(self) -> Event:
        """The next event."""
        assert self._next is not None
        event, self._next = self._next, None
        self.position = event.index
        return event

    async def fill(self) -> bool:
        """Read the next event, unless it is read. False at the end. Events that do not decode are noted and passed."""
        while self._next is None and (self.rows or await self._read()):
            row = self.rows.popleft()
            try:
                whole = await self._store.get_row(row.key) if is_moved(row.doc) else row
                self._next = None if whole is None else EVENT.decode(whole)
            except Corrupt as error:
                self.corrupt.append(error)
            if self._next is None:
                self.position = int(row.key.sort)
        return self._next is not None

    async def _read(self) -> bool:
        while self.position < self._end:
            lo, hi = keys.seq_sort(self.position + 1), keys.seq_sort(self._end + 1)
            scan = Scan(EVENT.spec.name, None, (keys.partition(self._conversation),), lo, hi, limit=self._limit)
            page = await self._store.engine.scan(scan)
            self.rows.extend(page.rows)
            if page.rows:
                return True
            if page.cursor is None:
                self.position = self._end
        return False


async def _open(store: Store, memberships: Sequence[Membership], positions: dict[str, int], limit: int) -> list[_Log]:
    """The logs of these conversations that go on after their positions: one read for all of them."""
    marked = [(one, _mark(one)) for one in memberships]
    asked: list[Key] = []
    for one, mark in marked:
        following = keys.seq_sort(positions.get(mark, 0) + 1)
        asked += [_key(ACTIVITY.spec.name, one), _key(EVENT.spec.name, one), _key(EVENT.spec.name, one, following)]
    rows = iter(await store.engine.get(asked))
    logs: list[_Log] = []
    for one, mark in marked:
        activity, head, following = next(rows), next(rows), next(rows)
        if activity is None or head is None or ACTIVITY.decode(activity).life != one.conversation_life:
            continue
        end = msgspec.json.decode(head.doc, type=Head).seq
        log = _Log(store, one, mark, positions.get(mark, 0), end, limit)
        log.rows.extend([] if following is None else [following])
        logs.append(log)
    return logs


def _key(kind: str, membership: Membership, sort: str = HEAD) -> Key:
    return Key(kind, keys.partition(membership.conversation), sort)


def _mark(membership: Membership) -> str:
    """What stands for a conversation in a cursor."""
    name = keys.pack((membership.conversation, membership.conversation_life))
    return blake2b(name.encode(), digest_size=9).hexdigest()


def _cursor(positions: dict[str, int]) -> str:
    body = msgspec.json.encode({mark: position for mark, position in positions.items() if position})
    return urlsafe_b64encode(crc32(body).to_bytes(4) + body).decode().rstrip("=")


def _positions(cursor: str) -> dict[str, int]:
    try:
        raw = urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        if crc32(raw[4:]).to_bytes(4) == raw[:4]:
            return msgspec.json.decode(raw[4:], type=dict[str, int])
    except (ValueError, UnicodeError, msgspec.DecodeError):
        pass
    raise Invalid("the cursor is damaged", operation="history", hint="Pass a cursor as it was given.")
