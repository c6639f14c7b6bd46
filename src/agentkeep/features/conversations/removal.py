"""What hides events at once, deletion, clearing, trimming, and the removal of what is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ...errors import Conflict, NotFound, StoreError
from ...waist import Check, Delete, Op, Trim
from . import belongings, edits, summaries
from .beginnings import ACTIVITY, EVENT, RECORD, STATE, head_of
from .handle import Handle
from .markers import put_cleared


async def delete(handle: Handle) -> None:
    """Delete a conversation with all that is its."""
    ops: list[Op] = [
        Delete(STATE.spec.name, ""),
        Delete(ACTIVITY.spec.name, ""),
        Trim(EVENT.spec.name, None, sealed=True),
    ]
    await _remove(handle, Delete, ops, "delete")


async def clear(handle: Handle) -> None:
    """Hide all events, and with them their summaries: the marker that says so is of the same batch."""
    end = (await head_of(handle.store, handle.partition)).seq
    await _remove(handle, Check, [Trim(EVENT.spec.name, None), put_cleared(handle, end)], "clear")


async def trim(handle: Handle, start: int) -> None:
    """Hide the events before an index."""
    await _remove(handle, Check, [Trim(EVENT.spec.name, start)], "trim")


async def _remove(handle: Handle, guard: type[Check] | type[Delete], ops: Sequence[Op], operation: str) -> None:
    """Commit what hides events, then remove the rest: also where an earlier call broke off in between."""
    gone = False
    try:
        await _hide(handle, guard, ops)
    except NotFound:
        gone = True
    finally:
        handle.store.connection.epoch += 1
    try:
        if guard is Delete:
            await belongings.remove(handle.store, handle.partition)
        elif not gone:
            floor = (await head_of(handle.store, handle.partition)).floor
            await edits.forget(handle, floor)
            if operation == "clear":
                await summaries.forget(handle, floor)
        await handle.store.collect(handle.partition)
    except StoreError as error:
        error.outcome = "unknown"  # the events are hidden, the rest is not all removed
        raise
    if gone:
        raise handle.missing(operation)


async def _hide(handle: Handle, guard: type[Check] | type[Delete], ops: Sequence[Op]) -> None:
    """Commit ops while the record is this life's. Raises NotFound."""
    while True:
        with suppress(Conflict):
            await handle.store.commit(handle.partition, [guard(RECORD.spec.name, "", handle.rev), *ops])
            return
        await handle.refresh()
