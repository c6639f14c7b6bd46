"""What may become of a task: pure functions from a task to the next one."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ... import keys
from ...codec import Json
from ...errors import Conflict, Key
from ...ids import HOUR, SECOND
from ..claims import released
from .records import Task, TaskStatus

MAX_PRIORITY = 100
MAX_ATTEMPTS = 1_000
MAX_DEPENDENCIES = 100

LOST = "the worker of the last attempt did not come back"


def key_of(id: str) -> Key:
    """Where a task lives."""
    return Key("task", keys.partition(id), "")


def backoff(attempts: int) -> int:
    """Microseconds until the next attempt after a failure: 1, 2, 4, ... seconds, an hour at most."""
    return min(SECOND << min(max(attempts - 1, 0), 12), HOUR)


def placed(task: Task) -> Task:
    """The task with what its indexes hold in line: how urgent it is and, unless it is held, when it is ready."""
    waits = task.status != "pending" or bool(task.unmet)
    ready = task.ready_us if task.status == "running" else None if waits else task.due_us
    return replace(task, urgency=-task.priority, ready_us=ready)


def begun(task: Task) -> Task:
    """A claimed task: running, or dead where all of its attempts were made and the last worker was lost."""
    if task.attempts >= task.max_attempts:
        return replace(released(task, None), status="dead", error=LOST)
    return replace(task, status="running", attempts=task.attempts + 1)


def completed(task: Task, result: Json) -> Task:
    """The task done. Where others wait for it, telling them is due."""
    return replace(
        released(task, None), status="done", result=result, error=None, unsettled=True if task.followed else None
    )


def failed(task: Task, error: str, retry: bool, at: int) -> Task:
    """After a failure: to be tried again at a time, dead after the last attempt, failed where it shall not be tried."""
    if not retry:
        return replace(released(task, None), status="failed", error=error)
    if task.attempts >= task.max_attempts:
        return replace(released(task, None), status="dead", error=error)
    return replace(released(task, at), status="pending", error=error, due_us=at)


def given_back(task: Task) -> Task:
    """The task as if it had not been claimed, under the fence it has by now."""
    return placed(replace(released(task, None), status="pending", attempts=max(0, task.attempts - 1)))


def cancelled(task: Task) -> Task:
    """The task cancelled, whoever holds it. Raises Conflict where it is finished otherwise."""
    require(task, ("pending", "running", "cancelled"), "cancel")
    return replace(released(task, None), status="cancelled")


def requeued(task: Task, at: int) -> Task:
    """A task that ended without success, to be tried anew with all of its attempts. Raises Conflict for others."""
    require(task, ("dead", "failed", "cancelled"), "requeue")
    return placed(replace(task, status="pending", attempts=0, error=None, due_us=at))


def without(task: Task, met: Sequence[str]) -> Task:
    """The task without some of what it waited for: ready, where that was all."""
    return placed(replace(task, unmet=tuple(id for id in task.unmet if id not in met)))


def depending(task: Task, wanted: tuple[str, ...], unmet: tuple[str, ...]) -> Task:
    """The task with other dependencies; those that it did not wait for before are yet to be tied.

    Raises Conflict where it is not pending.
    """
    if task.dependencies == wanted:
        return task
    require(task, ("pending",), "update")
    added = tuple(id for id in unmet if id not in task.unmet)
    still = tuple(dict.fromkeys([*(id for id in task.added if id in wanted), *added]))
    return replace(
        task, dependencies=wanted, unmet=unmet, added=still, unsettled=True if added or task.unsettled else None
    )


def require(task: Task, statuses: Sequence[TaskStatus], operation: str) -> None:
    """Refuse a task in another status. Raises Conflict."""
    if task.status not in statuses:
        wanted = " or ".join(statuses)
        raise Conflict(key_of(task.id), wanted, task.status, "status", operation=operation)
