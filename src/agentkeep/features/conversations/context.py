"""The end of a conversation gathered for a model, behind a summary or whole."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .companions import Summary
from .content import Text, ToolCall, ToolResult
from .handle import Handle
from .reading import page, scan_of, sees
from .records import Event
from .visibility import Viewer
from .window import Context, Tokens, behind, is_covered, is_settled, window


async def context(
    handle: Handle,
    max_tokens: int,
    tokens: Tokens,
    types: Sequence[str],
    before: int | None,
    viewer: Viewer | None,
    summary: Summary | None,
) -> Context:
    """The window over as much of the end of a conversation as decides it.

    A summary that alone is more than `max_tokens` is not used.
    """
    sizes: dict[int, int] = {}

    def size(event: Event) -> int:
        if event.index not in sizes:
            sizes[event.index] = tokens(event)
        return sizes[event.index]

    spent = 0 if summary is None else tokens(_as_event(summary))
    if summary is None or spent > max_tokens:
        summary, spent, upto = None, 0, 0
    else:
        upto = summary.upto
    events: list[Event] = []
    scan = scan_of(handle, before=before, where={"type": list(types)}, viewer=viewer, reverse=True, limit=100)
    while True:
        found = await page(handle, scan, None)
        events = [*(event for event in found.items if is_told(event) and sees(handle, viewer, event)), *events]
        whole = found.cursor is None or is_covered(events, upto)
        wanted = behind(events, upto)
        if whole or not found.items or is_settled(wanted, max_tokens - spent, size):
            made = window(wanted, max_tokens - spent, size, complete=whole)
            return msgspec.structs.replace(made, tokens=made.tokens + spent, summary=summary)
        scan = msgspec.structs.replace(scan, after=found.cursor, limit=min(2 * scan.limit, 1_000))


def is_told(event: Event) -> bool:
    """Whether models are told of an event: not if it was retracted, but for tool calls and results, which are pairs."""
    return event.retracted_us is None or isinstance(event.content, (ToolCall, ToolResult))


def _as_event(summary: Summary) -> Event:
    return Event(conversation=summary.conversation, type="summary", content=Text(summary.text), agent=summary.agent)
