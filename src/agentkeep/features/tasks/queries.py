"""Which index a list of tasks reads, and what it filters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ...errors import Invalid
from ...predicates import All, Compare, Predicate, parse
from ...records import record_of
from ...waist import Scan
from ..arguments import identifier, mapping, moment, short
from .records import Task, TaskStatus

TASK = record_of(Task)

STATUSES: tuple[TaskStatus, ...] = ("pending", "running", "done", "failed", "cancelled", "dead")


def scan_of(
    queue: str | None,
    status: TaskStatus | None,
    owner: str | None,
    conversation: str | None,
    parent: str | None,
    due_after: datetime | None,
    due_before: datetime | None,
    metadata: Mapping[str, object] | None,
) -> Scan:
    """The scan of a list: newest first, but by due time and by id in ascending order. Raises Invalid."""
    if status is not None and status not in STATUSES:
        raise Invalid(f"a status is one of {', '.join(STATUSES)}", operation="list")
    lo = None if due_after is None else moment(due_after, "due_after")
    hi = None if due_before is None else moment(due_before, "due_before")
    by_due = lo is not None or hi is not None
    given: dict[str, str | None] = {
        "parent_place": None if parent is None else short(identifier(parent, "parent")),
        "conversation_place": None if conversation is None else short(identifier(conversation, "conversation")),
        "owner": None if owner is None else identifier(owner, "owner"),
        "queue": None if queue is None else identifier(queue, "queue"),
        "status": "pending" if by_due and status is None else status,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    index, fields = _access(asked, by_due)
    rest: list[Predicate] = [Compare(name, "eq", value) for name, value in asked.items() if name not in fields]
    tree = parse({f"metadata.{name}": value for name, value in mapping(metadata, "metadata").items()})
    if tree is not None:
        rest.append(tree)
    prefix = tuple(asked[name] for name in fields)
    newest_first = index not in (None, "by_status")
    return Scan(TASK.spec.name, index, prefix, lo, hi, newest_first, where=All(tuple(rest)) if rest else None)


def _access(asked: Mapping[str, str], by_due: bool) -> tuple[str | None, tuple[str, ...]]:
    """The index for what is asked, and the fields it answers."""
    order: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("by_parent", ("parent_place",)),
        ("by_conversation", ("conversation_place",)),
        ("by_owner", ("owner",)),
        ("by_state", ("queue", "status")),
        ("by_queue", ("queue",)),
        ("by_status", ("status",)),
    )
    for index, fields in order:
        if all(field in asked for field in fields) and (index == "by_status" or not by_due):
            return index, fields
    return None, ()
