"""Tasks that wait for others: how they are tied, told, and kept free of cycles.

A task names in its row what it waits for (`unmet`), and for each of these there is a row in the partition of the
other one. Steps cross partitions, so each begins with a mark in the row (`unsettled`, in an index) and may be
repeated: broken off anywhere, `settle` goes on from the mark.

tie      the waiting task is written first, with its mark and not claimable. Then a row goes beside each dependency,
         in one batch with a check that this is not done. At last the mark goes.
settle   a task that others wait for gets the mark in the batch that makes it done. Then each waiting task loses this
         dependency, and after that its row here goes. At last the mark goes.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ... import keys
from ...errors import Corrupt, Invalid, NotFound
from ...records import record_of
from ...store import Store
from ...waist import Delete, Op, Scan
from ..arguments import short
from ..changes import change
from .records import Dependent, Task, TaskChange, TaskStatus
from .rules import key_of, without

CHANGE, DEPENDENT, TASK = record_of(TaskChange), record_of(Dependent), record_of(Task)

PER_BATCH = 45

MAX_WALK = 1_000
"""Tasks that are looked at for a cycle."""


def noted(
    what: str, before: TaskStatus | None, task: Task, at_us: int, by: str | None = None, note: str | None = None
) -> Op:
    """The op that notes a change in the history of a task."""
    change = TaskChange(
        task=task.id, what=what, before=before, after=task.status, by=by, fence=task.fence, note=note, at_us=at_us
    )
    return CHANGE.append(change)


async def open_ones(store: Store, ids: Sequence[str]) -> tuple[str, ...]:
    """Those of some tasks that are not done. Raises NotFound where there is no such task."""
    found: list[str] = []
    for id in ids:
        stored = await store.get(Task, keys.partition(id))
        if stored is None:
            raise NotFound("there is no such task to depend on", key=key_of(id))
        if stored.value.status != "done":
            found.append(id)
    return tuple(found)


async def leads_to(store: Store, start: str, target: str) -> bool:
    """Whether a task waits for another one, directly or through others. Raises Invalid beyond MAX_WALK tasks."""
    seen, open_ = {start}, [start]
    while open_:
        id = open_.pop()
        if id == target:
            return True
        stored = await store.get(Task, keys.partition(id))
        further = () if stored is None else [one for one in stored.value.unmet if one not in seen]
        seen.update(further)
        open_ += further
        if len(seen) > MAX_WALK:
            raise Invalid(f"more than {MAX_WALK:,} tasks stand before {start[:64]!a}", hint="Depend on fewer tasks.")
    return False


async def tie(store: Store, task: Task) -> Task:
    """Tie a task to what it waits for, until its mark is gone. What would close a cycle is dropped from it."""
    while task.unsettled:
        refused = [id for id in task.added if await _closes(store, id, task.id)]
        met = [id for id in task.unmet if id not in refused and not await _follow(store, id, task.id)]
        task = await change(store, Task, key_of(task.id), _Tied(task, refused, met, store.clock()))
    return task


class _Tied:
    """Decides the end of a tie: nothing that was added meanwhile is taken for tied."""

    def __init__(self, seen: Task, refused: Sequence[str], met: Sequence[str], now: int) -> None:
        self._seen, self._refused, self._met, self._now = seen, refused, met, now

    def __call__(self, old: Task) -> tuple[Task, Sequence[Op]]:
        """The task without what is done or refused, and without its mark where nothing is left to tie."""
        new = without(old, [*self._met, *self._refused])
        new = replace(
            new,
            dependencies=tuple(id for id in new.dependencies if id not in self._refused),
            added=tuple(id for id in new.added if id not in self._seen.added),
        )
        if set(old.unmet) <= set(self._seen.unmet) and not new.added:
            new = replace(new, unsettled=None)
        if not self._refused:
            return new, ()
        return new, [noted("refuse", old.status, new, self._now, note=f"{len(self._refused)} would close a cycle")]


async def _closes(store: Store, id: str, target: str) -> bool:
    """Whether a dependency closes a cycle, or stands behind more tasks than are looked at."""
    try:
        return await leads_to(store, id, target)
    except Invalid:
        return True


async def _follow(store: Store, id: str, dependent: str) -> bool:
    """Note beside a task that another one waits for it, unless it is done. Whether it is noted."""
    row = Dependent(task=id, place=short(dependent), dependent=dependent)

    def decide(old: Task) -> tuple[Task, Sequence[Op]]:
        if old.status == "done":
            return old, ()
        return replace(old, followed=True), [DEPENDENT.put(row)]

    return (await change(store, Task, key_of(id), decide)).status != "done"


async def tell(store: Store, task: Task) -> Task:
    """Tell those who wait for a task that it is done, until its mark is gone."""
    partition = keys.partition(task.id)
    while True:
        page = await store.scan_rows(Scan(DEPENDENT.spec.name, prefix=(partition,), limit=PER_BATCH))
        for row in page.items:
            await _meet(store, DEPENDENT.decode(row).dependent, task.id)
        if page.items:
            await store.commit(partition, [Delete(DEPENDENT.spec.name, row.key.sort) for row in page.items])
        elif page.cursor is None:
            return await change(store, Task, key_of(task.id), lambda old: (replace(old, unsettled=None), ()))


async def _meet(store: Store, id: str, done: str) -> None:
    now = store.clock()

    def decide(old: Task) -> tuple[Task, Sequence[Op]]:
        new = without(old, [done])
        ready = bool(old.unmet) and not new.unmet
        return new, [noted("ready", old.status, new, now)] if ready else ()

    await change(store, Task, key_of(id), decide)


async def settle(store: Store, limit: int) -> int:
    """Go on with what broke off, the oldest first; gives the number of tasks. What does not decode is left."""
    page = await store.scan(Task, index="unsettled", prefix=(True,), limit=limit)
    for task in page:
        try:
            await settled(store, task)
        except Corrupt:
            continue  # one that waits does not decode: it stands in the way of this task alone
    return len(page)


async def settled(store: Store, task: Task) -> Task:
    """The task after what is due to others was done."""
    if not task.unsettled:
        return task
    return await (tell(store, task) if task.status == "done" else tie(store, task))
