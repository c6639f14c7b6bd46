"""The rules of timers: when a quiet conversation pauses, and when it closes."""

from __future__ import annotations

from ...errors import Invalid
from ...ids import DAY, SECOND
from .records import ConversationRecord, Status

LONGEST = 100 * 366 * DAY // SECOND
"""The most seconds that a timer takes: a hundred years."""

TURNS: dict[Status, tuple[Status, ...]] = {
    "open": ("paused", "closed"),
    "paused": ("open", "closed"),
    "closed": ("open",),
}
"""What each status may become."""


def checked_timers(record: ConversationRecord) -> ConversationRecord:
    """The record, if its timers can work. Raises Invalid."""
    for name in ("pause_after_s", "close_after_s"):
        seconds: object = getattr(record, name)
        if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= LONGEST):
            hint = "None takes a timer away."
            raise Invalid(f"{name} is a whole number of seconds from 1 to {LONGEST:,}", operation="timers", hint=hint)
    pause, close = record.pause_after_s, record.close_after_s
    if pause is not None and close is not None and pause >= close:
        raise Invalid(f"pause_after_s={pause} is less than close_after_s={close}, or one is None", operation="timers")
    return record


def due_s(record: ConversationRecord, active_s: int) -> int | None:
    """The second at which the next timer is due, None where there is none.

    Both count from the end of the second of the last activity: a timer is never early, and late by a second at most.
    """
    timers = {"open": (record.pause_after_s, record.close_after_s), "paused": (record.close_after_s,), "closed": ()}
    return min((active_s + 1 + after for after in timers[record.status] if after is not None), default=None)


def status_at(record: ConversationRecord, active_s: int, now_s: int) -> Status:
    """What the timers make of a conversation by now: one that is late for both closes at once."""
    due = due_s(record, active_s)
    if due is None or now_s < due:
        return record.status
    close = record.close_after_s
    return "closed" if close is not None and now_s >= active_s + 1 + close else "paused"
