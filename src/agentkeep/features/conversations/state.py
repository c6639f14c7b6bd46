"""The state of a conversation: changed by compare-and-set, and handed over together with the event that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from ...codec import check
from ...errors import Key
from ...records import record_of
from ...store import digest_of
from ...waist import Put, Row
from ..arguments import mapping
from ..locks import Held
from .appending import New, appended, event_of, given_of
from .content import Handoff
from .handle import Handle
from .records import Event, State

STATE, EVENT = record_of(State), record_of(Event)


async def read_state(handle: Handle) -> State:
    """The state as it is now."""
    stored = await handle.store.get(State, handle.partition)
    return State(conversation=handle.record.id) if stored is None else stored.value


async def set_state(
    handle: Handle,
    active_agent: str | UnsetType | None,
    phase: str | UnsetType | None,
    data: Mapping[str, Any] | None,
    change: Callable[[State], State] | None,
    lease: Held | None,
) -> State:
    """Merge what is given into the state."""
    more = None if data is None else mapping(data, "data")

    def merge(state: State) -> State:
        if active_agent is not UNSET and active_agent != state.active_agent:
            state = msgspec.structs.replace(state, active_agent=active_agent, previous_agent=state.active_agent)
        if phase is not UNSET:
            state = msgspec.structs.replace(state, phase=phase)
        if more is not None:
            check(more, "data")
            merged = {name: value for name, value in {**state.data, **more}.items() if value is not None}
            state = msgspec.structs.replace(state, data=merged)
        return state if change is None else change(state)

    async def write(old: State, put: Put, replaced: list[Row]) -> None:
        await handle.commit([put], replaced=replaced, lease=lease)

    return await _change_state(handle, merge, write)


async def hand_over(
    handle: Handle,
    to: str,
    reason: str | None,
    phase: str | None,
    metadata: dict[str, Any] | None,
    key: str | None,
    lease: Held | None,
) -> Event:
    """Make another agent the active one, and append the event that says so."""
    made: list[Event] = []
    digest = None if key is None else digest_of(["handoff", to, reason, phase, metadata])

    def change(state: State) -> State:
        return msgspec.structs.replace(
            state,
            active_agent=to,
            previous_agent=state.active_agent,
            handoffs=state.handoffs + 1,
            phase=state.phase if phase is None else phase,
        )

    async def write(old: State, put: Put, replaced: list[Row]) -> None:
        new = New(content=Handoff(to, old.active_agent, reason), agent=old.active_agent, metadata=metadata)
        event = event_of(handle, given_of(new), key, handle.store.clock())
        ops = [EVENT.append(event, expect="exists"), put]
        receipt = await handle.append(ops, key=key, digest=digest, replaced=replaced, guarded=True, lease=lease)
        made[:] = await appended(handle, [event], receipt)

    await _change_state(handle, change, write)
    return made[0]


async def _change_state(handle: Handle, change: Callable[[State], State], write: _Write) -> State:
    """Read, change, compare and set, until it holds. `write` commits the put with what goes with it."""
    key = Key(STATE.spec.name, handle.partition, "")

    async def attempt() -> State:
        found = await handle.store.get_stored(key)
        old = State(conversation=handle.record.id) if found is None else STATE.decode(found[1])
        new = change(old)
        if new == old:
            return old
        new = msgspec.structs.replace(new, updated_us=handle.store.clock())
        if found is None:
            await write(old, STATE.put(new, "absent"), [])
        else:
            row, whole = found
            await write(old, STATE.put(new, row.rev, keep=STATE.unknown(whole)), [row])
        return new

    return await handle.store.again(attempt, key)


class _Write(Protocol):
    async def __call__(self, old: State, put: Put, replaced: list[Row]) -> None: ...
