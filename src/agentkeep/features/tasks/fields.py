"""What callers pass as the fields of a task, checked, and with what stands for it in indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...errors import Invalid
from ...records import record_of
from ...store import digest_of
from ..arguments import identifier, integer, label, moment, short, text
from .records import Task
from .rules import MAX_ATTEMPTS, MAX_DEPENDENCIES, MAX_PRIORITY, key_of

TASK = record_of(Task)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller passed as the fields of a task, with what stands for it in indexes. Raises Invalid, TooLarge."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "title":
                fields[name] = text(value, name)
            case "priority":
                fields[name] = integer(value, name, -MAX_PRIORITY, MAX_PRIORITY)
            case "max_attempts":
                fields[name] = integer(value, name, 1, MAX_ATTEMPTS)
            case "queue":
                fields[name] = label(value, name)
            case "owner":
                fields[name] = None if value is None else label(value, name)
            case "due":
                fields["due_us"] = moment(value, name)
            case "conversation" | "parent":
                fields[name] = value
                fields[f"{name}_place"] = None if value is None else short(identifier(value, name))
            case _:
                fields[name] = value
    return fields


def dependencies_of(ids: object, own: str) -> tuple[str, ...]:
    """Ids of other tasks, each once. Raises Invalid."""
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise Invalid("dependencies are a list of ids of tasks")
    found = tuple(dict.fromkeys(identifier(id, "dependencies") for id in cast("Sequence[object]", ids)))
    if len(found) > MAX_DEPENDENCIES:
        raise Invalid(f"a task has at most {MAX_DEPENDENCIES} dependencies, not {len(found)}")
    if own in found:
        raise cycle(own, own)
    return found


def cycle(id: str, dependency: str) -> Invalid:
    """The refusal of a dependency that waits for the task itself."""
    return Invalid(f"the dependency {dependency[:64]!a} waits for this task itself", key=key_of(id), operation="update")


def said_by(task: Task, due: bool) -> str:
    """What tells two uses of a key apart: all that the caller passed, and no time that was minted."""
    TASK.encode(task)  # refuses what is no JSON
    parts = (task.title, task.id, task.description, task.priority, task.owner, task.queue, task.due_us if due else None)
    more = (task.parent, task.dependencies, task.conversation, task.max_attempts, task.metadata)
    return digest_of(*parts, *more).hex()
