"""The tasks of a store: create, update, list, claim, finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ... import keys
from ...codec import Json, plain
from ...errors import Conflict, NotFound, StoreError
from ...ids import SECOND, to_datetime
from ...pages import Listing, Page
from ...records import record_of
from ...store import Store, digest_of
from ...waist import Op
from ..arguments import id_of, identifier, integer, label, mapping, merged, seconds, text
from ..changes import change
from ..claims import Claims
from .dependencies import leads_to, noted, open_ones, settle, settled
from .fields import checked, cycle, dependencies_of, said_by
from .queries import scan_of
from .records import Task, TaskChange, TaskStatus
from .rules import (
    backoff,
    begun,
    cancelled,
    completed,
    depending,
    failed,
    given_back,
    key_of,
    placed,
    requeued,
    require,
)

TASK, CHANGE = record_of(Task), record_of(TaskChange)

MAX_CLAIM = 100
"""Tasks that one call claims."""

MAX_RETRY = 365 * 24 * 3600
"""Seconds after which a failed task is tried again at most."""


class Tasks:
    """Tasks by id, queue, status, owner, conversation, parent and due time.

    A step that concerns several tasks, such as telling those that wait, may break off between them: then the error
    says `outcome="unknown"`, and the same call, the next `claim` or `settle` goes on.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claims = Claims(store, Task, "ready", "urgency")
        self._settled_us = 0

    # --- create, get, update ---

    async def create(
        self,
        title: str,
        *,
        id: str | None = None,
        description: str | None = None,
        priority: int = 0,
        owner: str | None = None,
        queue: str = "default",
        due: datetime | None = None,
        parent: str | None = None,
        dependencies: Sequence[str] = (),
        conversation: str | None = None,
        max_attempts: int = 3,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
        by: str | None = None,
    ) -> Task:
        """A new task; without an id it gets one.

        `priority` is from -100 to 100, higher first. It can be claimed from `due` on, once all its `dependencies`,
        at most 100 tasks, are done. `key` makes it idempotent for as long as the task is there: the same key gives
        the task that is there, with other content Conflict. Raises Invalid, Conflict where the id is taken,
        NotFound for an unknown parent or dependency, TooLarge.
        """
        now = self._store.clock()
        if id is not None:
            name = identifier(id, "id")
        else:
            name = self._store.ids() if key is None else id_of(identifier(key, "key"))
        fields = {
            "title": title, "description": description, "priority": priority, "owner": owner, "queue": queue,
            "due": to_datetime(now) if due is None else due, "parent": parent, "conversation": conversation,
            "max_attempts": max_attempts,
        }  # fmt: skip
        task = Task(
            id=name,
            dependencies=dependencies_of(dependencies, name),
            metadata=mapping(metadata, "metadata"),
            created_us=now,
            updated_us=now,
            **checked(fields),
        )
        if key is None:
            return await self._settled(await self._create(task, by))
        task = replace(task, key=key, said=said_by(task, due is not None))
        there = await self.get(name)
        return await self._settled(await self._create(task, by) if there is None else self._same(there, task))

    async def _create(self, task: Task, by: str | None) -> Task:
        if task.parent is not None and await self.get(task.parent) is None:
            raise NotFound("there is no such parent", key=key_of(task.parent), operation="create")
        unmet = await open_ones(self._store, task.dependencies)
        task = placed(replace(task, unmet=unmet, unsettled=True if unmet else None))
        ops = [TASK.put(task, "absent"), noted("create", None, task, task.created_us, by)]
        try:
            await self._store.commit(keys.partition(task.id), ops)
        except Conflict as error:
            there = await self.get(task.id) if task.key is not None else None
            if there is None:
                error.hint = "Another task has this id."
                raise
            return self._same(there, task)
        return task

    def _same(self, there: Task, task: Task) -> Task:
        """The task that is there, if it was created by the same call. Raises Conflict."""
        if (there.key, there.said) == (task.key, task.said):
            return there
        raise Conflict(key_of(task.id), task.key, there.key, "once", operation="create")

    async def _settled(self, task: Task) -> Task:
        try:
            return await settled(self._store, task)
        except StoreError as error:
            error.outcome = "unknown"  # the task is written, what follows is not all done
            raise

    async def get(self, id: str) -> Task | None:
        """The task with this id, or None."""
        stored = await self._store.get(Task, keys.partition(identifier(id, "id")))
        return None if stored is None else stored.value

    async def update(
        self,
        id: str,
        *,
        title: str | UnsetType = UNSET,
        description: str | UnsetType | None = UNSET,
        priority: int | UnsetType = UNSET,
        owner: str | UnsetType | None = UNSET,
        queue: str | UnsetType = UNSET,
        due: datetime | UnsetType = UNSET,
        conversation: str | UnsetType | None = UNSET,
        max_attempts: int | UnsetType = UNSET,
        dependencies: Sequence[str] | UnsetType = UNSET,
        metadata: Mapping[str, Any] | None = None,
        by: str | None = None,
    ) -> Task:
        """Change a task by compare-and-set: concurrent changes are all kept.

        `metadata` is merged, a value of None removing its name. `dependencies` are all that there shall be, and
        change only while it is pending. Raises NotFound, Invalid (a dependency would close a cycle), Conflict.
        """
        fields = {
            "title": title, "description": description, "priority": priority, "owner": owner, "queue": queue,
            "due": due, "conversation": conversation, "max_attempts": max_attempts,
        }  # fmt: skip
        fields = {name: value for name, value in fields.items() if value is not UNSET}
        given = checked(fields)
        more = mapping(metadata, "metadata")
        wanted = None if dependencies is UNSET else dependencies_of(dependencies, id)
        unmet = () if wanted is None else await self._unmet(id, wanted)

        def decide(old: Task) -> Task:
            new = replace(old, metadata=merged(old.metadata, more), **given)
            return new if wanted is None else depending(new, wanted, unmet)

        changed = [*fields, *(["metadata"] if more else []), *([] if wanted is None else ["dependencies"])]
        task = await self._settled(await self._change(id, "update", by, decide, ", ".join(changed)))
        if wanted is not None and (refused := [one for one in wanted if one not in task.dependencies]):
            raise cycle(id, refused[0])
        return task

    async def _unmet(self, id: str, wanted: Sequence[str]) -> tuple[str, ...]:
        """Which of these are not done. Raises NotFound, and Invalid where one waits for the task itself."""
        unmet = await open_ones(self._store, wanted)
        for one in unmet:
            if await leads_to(self._store, one, id):
                raise cycle(id, one)
        return unmet

    async def _change(
        self, id: str, what: str, by: str | None, decide: Callable[[Task], Task], note: str | None = None
    ) -> Task:
        """Change a task and note it, or do nothing where nothing changes. Raises NotFound."""

        def noting(old: Task) -> tuple[Task, Sequence[Op]]:
            return self._noted(old, decide(old), what, by, note)

        return await change(self._store, Task, key_of(identifier(id, "id")), noting)

    def _noted(
        self, old: Task, new: Task, what: str, by: str | None = None, note: str | None = None
    ) -> tuple[Task, Sequence[Op]]:
        new = placed(new)
        if new == old:
            return old, ()
        now = self._store.clock()
        new = replace(new, updated_us=now)
        return new, [noted(what, old.status, new, now, by, note)]

    # --- lists ---

    def list(
        self,
        *,
        queue: str | None = None,
        status: TaskStatus | None = None,
        owner: str | None = None,
        conversation: str | None = None,
        parent: str | None = None,
        due_after: datetime | None = None,
        due_before: datetime | None = None,
        metadata: Mapping[str, object] | None = None,
        limit: int = 50,
        after: str | None = None,
        budget: int = 10_000,
    ) -> Listing[Task]:
        """Tasks. Await it for a page, iterate it for all.

        It reads the index of the first of parent, conversation, owner, queue with status, and queue that is given,
        newest first, or that of the status, by due time, and filters by the others within `budget` rows. Due times,
        from (included) and to, are asked of one status, "pending" where none is given. Without any of these it gives
        all tasks in order of their ids.
        """
        asked = scan_of(queue, status, owner, conversation, parent, due_after, due_before, metadata)

        async def fetch(cursor: str | None) -> Page[Task]:
            scan = replace(asked, limit=limit, after=cursor, budget=budget)
            rows = await self._store.scan_rows(scan)
            return await self._store.decode(TASK, rows.items, rows.cursor)

        return Listing(fetch, after)

    async def count(
        self,
        *,
        queue: str | None = None,
        status: TaskStatus | None = None,
        owner: str | None = None,
        conversation: str | None = None,
        parent: str | None = None,
        due_after: datetime | None = None,
        due_before: datetime | None = None,
        metadata: Mapping[str, object] | None = None,
        budget: int = 10_000,
    ) -> tuple[int, bool]:
        """(n, exact): how many tasks `list` would give; not exact where the budget, in rows looked at, ended it."""
        scan = scan_of(queue, status, owner, conversation, parent, due_after, due_before, metadata)
        return await self._store.count(
            Task, index=scan.index, prefix=scan.prefix, lo=scan.lo, hi=scan.hi, where=scan.where, budget=budget
        )

    def history(self, id: str, *, limit: int = 50, after: str | None = None) -> Listing[TaskChange]:
        """Every change of a task, renewals of leases aside, in order."""
        partition = keys.partition(identifier(id, "id"))

        async def fetch(cursor: str | None) -> Page[TaskChange]:
            return await self._store.scan(TaskChange, prefix=(partition,), limit=limit, after=cursor)

        return Listing(fetch, after)

    # --- work ---

    async def claim(self, queue: str = "default", *, worker: str, lease: float = 60, limit: int = 1) -> list[Task]:
        """Claim up to `limit` (1 to 100) tasks of a queue for `lease` seconds: by priority, then by due time.

        Of many workers one gets a task. Each task given is running and has a `fence`, which the other calls ask for.
        A task whose lease has ended is claimed again, or dead if that was its last attempt. [] where none is ready.
        """
        label(queue, "queue")
        identifier(worker, "worker")
        integer(limit, "limit", 1, MAX_CLAIM)
        now = self._store.clock()
        if now - self._settled_us >= SECOND:
            self._settled_us = now
            await self.settle()
        found = await self._claims.claim((queue,), worker, lease, limit, self._begin)
        if not found and await self.settle():
            found = await self._claims.claim((queue,), worker, lease, limit, self._begin)
        return found

    async def claim_one(self, id: str, *, worker: str, lease: float = 60) -> Task:
        """Claim a task by its id. Raises NotFound, and Conflict where it is finished, held, not due, or waits."""
        key = key_of(identifier(id, "id"))
        task = await self._claims.claim_one(key, identifier(worker, "worker"), lease, self._begin)
        require(task, ("running",), "claim")
        return task

    def _begin(self, task: Task) -> tuple[Task, Sequence[Op]]:
        """What a claim makes of a task that it holds by now."""
        new, now = begun(task), self._store.clock()
        new = replace(new, updated_us=now)
        if new.status == "dead":
            return new, [noted("lost", task.status, new, now, note=new.error)]
        return new, [noted("claim", task.status, new, now, task.worker)]

    async def renew(self, id: str, fence: int, *, lease: float = 60) -> Task:
        """Prolong the lease to `lease` seconds from now. Raises Conflict where the fence is not held, NotFound."""
        return await self._claims.renew(key_of(identifier(id, "id")), _fence(fence), lease)

    async def complete(self, id: str, fence: int, result: Any = None) -> Task:
        """Finish a task with a result, any JSON, and make ready what waited for it alone.

        Called again with the same fence and result it gives the task that is done. Raises Conflict where the fence
        is not held (a late worker), NotFound, Invalid for a result that JSON cannot give back.
        """
        kept: Json = plain(result, "result")
        key = key_of(identifier(id, "id"))
        _fence(fence)

        def decide(old: Task) -> tuple[Task, Sequence[Op]]:
            if (old.status, old.fence) == ("done", fence) and digest_of(old.result) == digest_of(kept):
                return old, ()
            if old.status != "running" or old.fence != fence:
                raise self._claims.lost(key, fence, old, "complete")
            return self._noted(old, completed(old, kept), "complete", old.worker)

        return await self._settled(await change(self._store, Task, key, decide))

    async def fail(self, id: str, fence: int, error: str, *, retry: bool = True, retry_in: float | None = None) -> Task:
        """Give a task up with an error. It is tried again in `retry_in` seconds, by default 1, 2, 4, ... up to an hour.

        After the last attempt it is dead. `retry=False` makes it failed at once. Raises Conflict where the fence is
        not held, NotFound, Invalid.
        """
        text(error, "error")
        span = None if retry_in is None else _delay(retry_in)

        def end(old: Task) -> tuple[Task, Sequence[Op]]:
            at = self._store.clock() + (backoff(old.attempts) if span is None else span)
            return self._noted(old, failed(old, error, retry, at), "fail", old.worker, error)

        return await self._claims.finish(key_of(identifier(id, "id")), _fence(fence), end, "fail")

    async def release(self, id: str, fence: int) -> Task:
        """Give a task back untried: it is ready at once, and the attempt does not count. Raises Conflict, NotFound."""

        def end(old: Task) -> tuple[Task, Sequence[Op]]:
            return self._noted(old, given_back(old), "release", old.worker)

        return await self._claims.finish(key_of(identifier(id, "id")), _fence(fence), end, "release")

    async def cancel(self, id: str, *, by: str | None = None) -> Task:
        """Cancel a task that is pending or running: its worker's result is refused. What waits for it goes on waiting.

        Raises NotFound, and Conflict where it is done, failed or dead.
        """
        return await self._change(id, "cancel", by, cancelled)

    async def requeue(self, id: str, *, by: str | None = None) -> Task:
        """Put a dead, failed or cancelled task back, with all of its attempts. Raises NotFound, Conflict for others."""
        return await self._change(id, "requeue", by, lambda old: requeued(old, self._store.clock()))

    async def settle(self, *, limit: int = 100) -> int:
        """Go on with steps on other tasks that broke off; gives how many tasks had one. `claim` does it by itself."""
        return await settle(self._store, limit)


def _fence(value: object) -> int:
    return integer(value, "fence", 1, 2**53)


def _delay(value: float) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else seconds(value, "retry_in", MAX_RETRY)
