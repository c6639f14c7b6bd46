"""The process that tells the support case: it stores each step, and says so once the store has acknowledged it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ...features.conversations import Conversation, Event, ToolCall, ToolResult
from ..errors import OK
from ..options import asynchronous, opened, tenant_option
from ..output import emit
from .story import FIRST, PERSON, REFUND, STORY, TITLE, Get, Note, Pass, Say, Step, Use, key

URL_VARIABLE = "AGENTKEEP_URL"
"""The environment variable with the database: command lines can be read by every user of a machine."""


@click.command("_play", hidden=True)
@click.argument("id")
@click.option("--forever", is_flag=True, help="Wait for ever while the refund is running.")
@tenant_option
@asynchronous
async def play(id: str, forever: bool, tenant: str | None) -> int:
    """Tell the story of a conversation from where it broke off, and print each acknowledged event as a line of JSON."""
    async with opened(os.environ[URL_VARIABLE], tenant, create=True) as store:
        talk = await store.conversations.ensure(id, user=PERSON, agent=FIRST, title=TITLE, metadata={"order": "7714"})
        state = await talk.state()
        if state.active_agent is None:
            state = await talk.set_state(active_agent=FIRST, phase="new")
        told = [event async for event in talk.events()]
        pending = [event.content.id for event in await talk.pending() if isinstance(event.content, ToolCall)]
        begin = broken_off(told)
        active = state.active_agent
        emit({"found": len(told), "pending": pending, "active_agent": active, "repeats": begin + 1 if told else None})
        for number, step in enumerate(STORY[begin:], begin):
            event = await _tell(talk, number, step)
            if event is not None:
                emit({"stored": event.index, "key": event.key})
            if forever and isinstance(step, Use) and step.call == REFUND:
                emit({"running": step.tool})
                sys.stdin.read()
    return OK


async def _tell(talk: Conversation, number: int, step: Step) -> Event | None:
    """Store one step. Telling a step again changes nothing: events have keys, and the state says who is active."""
    match step:
        case Say(who, channel, text) if who == PERSON:
            return await talk.append(text, sender=who, role="user", channel=channel, key=key(number))
        case Say(who, channel, text):
            return await talk.append(text, agent=who, role="assistant", channel=channel, key=key(number))
        case Use(call, tool, arguments):
            agent = (await talk.state()).active_agent
            return await talk.append(ToolCall(call, tool, dict(arguments)), agent=agent, key=key(number))
        case Get(call, output):
            agent = (await talk.state()).active_agent
            return await talk.append(ToolResult(call, dict(output)), agent=agent, key=key(number))
        case Pass(to, reason, phase):
            if (await talk.state()).phase == phase:
                return None
            return await talk.handoff(to, reason=reason, phase=phase)
        case Note(data):
            await talk.set_state(data=data)
            return None


def broken_off(told: Sequence[Event]) -> int:
    """The step that stored the last event there is: it is told again, for its end may not have been reached.

    Handoffs have no key; they are counted.
    """
    if not told:
        return 0
    last = told[-1]
    if last.key is not None:
        return next(number for number in range(len(STORY)) if key(number) == last.key)
    passed = sum(event.type == "handoff" for event in told)
    return [number for number, step in enumerate(STORY) if isinstance(step, Pass)][passed - 1]
