"""Tasks: work with priority, due time, dependencies and owners, claimed by one worker at a time."""

from .records import Task, TaskChange, TaskStatus
from .tasks import Tasks

__all__ = ["Task", "TaskChange", "TaskStatus", "Tasks"]
