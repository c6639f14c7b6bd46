"""The conversations of a store: create, ensure, get, list, find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import keys
from ...errors import Invalid
from ...pages import Listing, Page
from ...predicates import All, Compare, Predicate, Where, parse
from ...records import record_of
from ...store import Store
from ...waist import Scalar, Scan
from ..arguments import identifier, mapping
from . import finding
from .beginnings import create, ensure
from .conversation import Conversation, checked
from .finding import Bound, Membership
from .records import Activity, ConversationRecord, Status
from .sweep import Sweep, sweep
from .timers import checked_timers
from .visibility import Judge

ACTIVITY = record_of(Activity)


class Conversations:
    """Conversations by id, by user, agent, status, recency and metadata."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(
        self,
        id: str | None = None,
        *,
        organization: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        pause_after_s: int | None = None,
        close_after_s: int | None = None,
    ) -> Conversation:
        """A new conversation; without an id it gets one. Raises Conflict where the id is taken.

        After `pause_after_s` seconds without an event it is due to be paused, after `close_after_s` to be closed:
        `sweep_timers` does it.
        """
        record = self._record(id, organization, user, agent, title, metadata, pause_after_s, close_after_s)
        made = await create(self._store, record)
        return Conversation(self._store, made.value, made.rev)

    async def ensure(
        self,
        id: str,
        *,
        organization: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        pause_after_s: int | None = None,
        close_after_s: int | None = None,
    ) -> Conversation:
        """The conversation with this id: the one that is there, as it is, or a new one. Many may call it at once."""
        record = self._record(checked(id), organization, user, agent, title, metadata, pause_after_s, close_after_s)
        found = await ensure(self._store, record)
        return Conversation(self._store, found.value, found.rev)

    async def get(self, id: str) -> Conversation | None:
        """The conversation with this id, or None."""
        found = await self._store.get(ConversationRecord, keys.partition(checked(id)))
        return None if found is None else Conversation(self._store, found.value, found.rev)

    def list(
        self,
        *,
        organization: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        status: Status | None = None,
        metadata: Mapping[str, object] | None = None,
        limit: int = 50,
        after: str | None = None,
        budget: int = 10_000,
    ) -> Listing[Activity]:
        """Conversations, the most recent first (exact to a second). Await it for a page, iterate it for all.

        It reads the index of the first of user, agent, organization and status that is given, and filters by the
        others; `metadata` maps names, dotted for nested ones, to values or operators. `budget` bounds the rows one page
        looks at.
        """
        given = {"user": user, "agent": agent, "organization": organization, "status": status}
        asked = [(name, value) for name, value in given.items() if value is not None]
        index, prefix = (f"by_{asked[0][0]}", (asked[0][1],)) if asked else ("by_recency", ("all",))
        where = _where(dict(asked[1:]), metadata)

        async def fetch(cursor: str | None) -> Page[Activity]:
            return await self._page(
                Scan(ACTIVITY.spec.name, index, prefix, None, None, True, limit, cursor, where, budget)
            )

        return Listing(fetch, after)

    def find(
        self, where: Where, *, limit: int = 50, after: str | None = None, budget: int = 10_000
    ) -> Listing[Activity]:
        """Conversations whose organization, user, agent, status or metadata.* pass a filter, in order of their ids.

        Engines that index facets (`capabilities.facet_index`) go to them directly, the others look through at
        most `budget` conversations for a page.
        """
        tree = parse(where)

        async def fetch(cursor: str | None) -> Page[Activity]:
            return await self._page(Scan(ACTIVITY.spec.name, limit=limit, after=cursor, where=tree, budget=budget))

        return Listing(fetch, after)

    def add_rule(self, name: str, judge: Judge) -> None:
        """Register a custom rule of visibility under a name, for all scopes of this store.

        `judge(viewer, event)` shows the event by True; anything else hides it, and so does a rule that no caller
        registered. It is asked for each event under `Visibility("custom", (name,))`, and does no I/O.
        """
        if not callable(judge):
            raise Invalid("a rule is a function of viewer and event", operation="add_rule")
        self._store.connection.judges[identifier(name, "name")] = judge

    async def delete(self, id: str) -> None:
        """Delete a conversation with all that is its. Raises NotFound where there is none."""
        whichever = "exists"  # in place of a rev: what is not read need not decode either
        await Conversation(self._store, ConversationRecord(id=checked(id)), whichever).delete()

    # --- rooms ---

    def list_by_participant(
        self, participant: str, *, present: bool = True, limit: int = 50, after: str | None = None
    ) -> Listing[Membership]:
        """The conversations that somebody is in, the most recently joined first; with `present=False` also those left.

        It reads an index. A page may be short and go on.
        """
        return finding.by_participant(self._store, participant, present, limit, after)

    def find_by_channel(
        self,
        channel: str,
        *,
        participant: str | None = None,
        status: Status | Sequence[Status] | None = None,
        limit: int = 2,
        after: str | None = None,
    ) -> Listing[Bound]:
        """The conversations that a channel is bound to, the oldest first; `participant`: bound for that one alone.

        `status` is one or several that they may have. A page has `limit` of them unless there are no more, so two tell
        a caller that more than one fits. It reads an index; one of its own where closed ones are not asked for.
        """
        return finding.by_channel(self._store, channel, participant, finding.statuses(status), limit, after)

    async def find_latest(
        self, participant: str, channel_type: str, *, status: Status | Sequence[Status] | None = ("open", "paused")
    ) -> Bound | None:
        """The newest conversation with a binding of this participant and channel type that is not closed, or None."""
        found = finding.by_type(self._store, participant, channel_type, finding.statuses(status))
        return next(iter(await found), None)

    async def sweep_timers(self, *, limit: int = 10_000) -> Sweep:
        """Pause and close the conversations whose timers are due, the longest due first, at most `limit` of them.

        It reads an index and passes none over. Many may sweep at once: each conversation is turned by one of them,
        and one that was active meanwhile by none. A paused one opens again with its next event. Raises StoreError
        where one cannot be turned; what was turned stays so, and the next sweep goes on.
        """
        if type(limit) is not int or limit < 1:
            raise Invalid("limit is a whole number from 1", operation="sweep_timers")
        return await sweep(self._store, limit)

    async def _page(self, scan: Scan) -> Page[Activity]:
        rows = await self._store.scan_rows(scan)
        return await self._store.decode(ACTIVITY, rows.items, rows.cursor)

    def _record(
        self,
        id: str | None,
        organization: str | None,
        user: str | None,
        agent: str | None,
        title: str | None,
        metadata: Mapping[str, Any] | None,
        pause_after_s: int | None,
        close_after_s: int | None,
    ) -> ConversationRecord:
        record = ConversationRecord(
            id=self._store.ids() if id is None else checked(id),
            organization=organization,
            user=user,
            agent=agent,
            title=title,
            metadata=mapping(metadata, "metadata"),
            created_us=self._store.clock(),
            life=self._store.ids(),
            pause_after_s=pause_after_s,
            close_after_s=close_after_s,
        )
        return checked_timers(record)


def _where(fields: Mapping[str, Scalar], metadata: Mapping[str, object] | None) -> Predicate | None:
    parts: list[Predicate] = [Compare(name, "eq", value) for name, value in fields.items()]
    asked = {f"metadata.{name}": value for name, value in mapping(metadata, "metadata").items()}
    if asked and (tree := parse(asked)) is not None:
        parts.append(tree)
    return All(tuple(parts)) if parts else None
