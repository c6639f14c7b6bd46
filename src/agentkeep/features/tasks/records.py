"""The records of tasks: the task, the log of its changes, and who waits for it.

task              one row in a partition of its own
task_change       its history: a log in the same partition
task_dependent    one row for each task that waits for this one, in this one's partition, until it is done
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, field

from ...codec import Json
from ...ids import to_datetime
from ...records import record
from ..claims import Claimable

TaskStatus = Literal["pending", "running", "done", "failed", "cancelled", "dead"]


@record(
    "task",
    partition="id",
    indexes={
        "ready": ("queue", "urgency", "ready_us"),
        "by_queue": ("queue", "created_us"),
        "by_state": ("queue", "status", "created_us"),
        "by_owner": ("owner", "created_us"),
        "by_status": ("status", "due_us"),
        "by_conversation": ("conversation_place", "created_us"),
        "by_parent": ("parent_place", "created_us"),
        "unsettled": ("unsettled", "updated_us"),
    },
    facets=("queue", "status", "owner", "priority", "conversation_place", "parent_place", "metadata.*"),
)
class Task(Claimable, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of work. Times are microseconds since 1970, UTC.

    `due_us` is when it may first be claimed. `worker`, `fence` and `ready_us`, the end of the lease, are those of the
    claim on a running task. `unmet` are the dependencies that are not done: while there is one, it cannot be claimed.
    `attempts` counts the claims since it was created or put back by hand.

    `urgency` is the priority inverted, `conversation_place` and `parent_place` are ids as an index holds them.
    `followed`: others wait for it. `unsettled`: a step on other tasks is due, which `Tasks.settle` does. `added` are
    dependencies that an update gave it and that may close a cycle. `said` tells two uses of its `key` apart.
    """

    id: str
    title: str
    description: str | None = None
    status: TaskStatus = "pending"
    priority: int = 0
    owner: str | None = None
    queue: str = "default"
    due_us: int = 0
    parent: str | None = None
    dependencies: tuple[str, ...] = ()
    conversation: str | None = None
    result: Json = None
    error: str | None = None
    attempts: int = 0
    max_attempts: int = 3
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    key: str | None = None
    created_us: int = 0
    updated_us: int = 0
    unmet: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    followed: bool = False
    unsettled: bool | None = None
    said: str | None = None
    urgency: int = 0
    conversation_place: str | None = None
    parent_place: str | None = None

    @property
    def created_at(self) -> datetime:
        """When it was created."""
        return to_datetime(self.created_us)

    @property
    def updated_at(self) -> datetime:
        """When it was changed last."""
        return to_datetime(self.updated_us)

    @property
    def due_at(self) -> datetime:
        """When it may first be claimed, or claimed again after a failure."""
        return to_datetime(self.due_us)

    @property
    def leased_until(self) -> datetime | None:
        """When the lease of its holder ends, None where nobody holds it."""
        return None if self.worker is None or self.ready_us is None else to_datetime(self.ready_us)


@record("task_change", partition="task", log="number")
class TaskChange(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of a task: what was done, by whom, when, from which status to which.

    `what` is create, claim, complete, fail, release, cancel, requeue, update, ready (its last dependency is done),
    lost (the worker of the last attempt did not come back) or refuse (a dependency would have closed a cycle). `note`
    is the error of a failure, or what an update changed.
    """

    task: str
    what: str
    before: TaskStatus | None = None
    after: TaskStatus
    by: str | None = None
    fence: int = 0
    note: str | None = None
    at_us: int = 0
    number: int = 0

    @property
    def at(self) -> datetime:
        """When, by the writer's clock. Order is by number."""
        return to_datetime(self.at_us)


@record("task_dependent", partition="task", sort="place")
class Dependent(Struct, frozen=True, kw_only=True):
    """A task that waits for the one in whose partition this row is."""

    task: str
    place: str
    dependent: str


RECORDS = (Task, TaskChange, Dependent)
