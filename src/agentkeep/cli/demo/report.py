"""What the demo prints: what happened, the timeline, the state, who spoke where, the context, what survived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...features.conversations import Event, text_of
from ..output import colour, conversation_json, event_json, out, plain, state_json, table
from ..timeline import header, timeline

if TYPE_CHECKING:
    from .watch import Outcome


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The whole report as one object."""
    context = outcome.context
    return {
        "url": outcome.url,
        "seconds": round(outcome.seconds, 3),
        "killed": {
            "pid": outcome.pids[0],
            "signal": "SIGKILL",
            "acknowledged": len(outcome.acknowledged),
            "while_running": outcome.running,
        },
        "resumed": {
            "pid": outcome.pids[1],
            "found": outcome.found,
            "pending": outcome.pending,
            "active_agent": outcome.active_agent,
            "repeated_step": outcome.repeated,
        },
        "lost": outcome.lost,
        "duplicated": outcome.duplicated,
        "whole": outcome.whole,
        "conversation": conversation_json(outcome.record),
        "state": state_json(outcome.state),
        "spoke": {who: dict(where) for who, where in spoke(outcome.events).items()},
        "context": {"tokens": context.tokens, "start": context.start, "events": [e.index for e in context.events]},
        "events": [event_json(event) for event in outcome.events],
    }


def show(outcome: Outcome, kept: bool) -> None:
    """Print the report."""
    console = out()
    acknowledged = len(outcome.acknowledged)
    _title(console, "What happened")
    where = f"in {outcome.url}" if kept else "in a temporary SQLite file"
    console.print(f"A support case {where}: one person on three channels, three agents, two processes.", markup=False)
    middle = f"in the middle of the tool call {outcome.running}" if outcome.running else "on its way"
    console.print(
        f"1. Process {outcome.pids[0]} had {acknowledged} events acknowledged and was killed {middle} (SIGKILL)."
    )
    pending = f", {', '.join(outcome.pending)} without a result" if outcome.pending else ""
    there = f"{outcome.found} events, {outcome.active_agent} active{pending}"
    console.print(
        f"2. Process {outcome.pids[1]} opened the database: {there}. It repeated the last step under its key, and told "
        "the story to its end."
    )
    _title(console, "The timeline")
    marks = {outcome.found: f"process {outcome.pids[0]} killed, process {outcome.pids[1]} goes on"}
    console.print(timeline(outcome.events, console.width, marks=marks))
    _title(console, "The state")
    console.print(header(outcome.record, outcome.state, len(outcome.events)))
    _title(console, "Who spoke where")
    console.print(_spoke(outcome.events))
    context = outcome.context
    active = outcome.state.active_agent
    _title(console, f"What {active} would give its model: {context.tokens} tokens, from event {context.start} on")
    for event in context.events:
        console.print(_line(event, console.width))
    _title(console, "What survived")
    console.print(_survived(outcome))
    if kept:
        console.print(f"Look again: agentkeep show {outcome.url} {outcome.record.id}", soft_wrap=True, markup=False)


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def spoke(events: Sequence[Event]) -> dict[str, Counter[str]]:
    """How often each person and agent spoke, by channel."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        if event.type == "message":
            found.setdefault(event.sender or event.agent or "?", Counter())[event.channel or "-"] += 1
    return found


def _spoke(events: Sequence[Event]) -> Table:
    said = spoke(events)
    channels = list(dict.fromkeys(channel for where in said.values() for channel in where))
    made = table("", *channels, "tool calls", "handed over", right=(*channels, "tool calls", "handed over"))
    for who, where in said.items():
        calls = sum(event.type == "tool_call" and event.agent == who for event in events)
        passed = sum(event.type == "handoff" and event.agent == who for event in events)
        numbers = [*(where[channel] for channel in channels), calls, passed]
        made.add_row(plain(who, colour(who)), *[str(number) if number else Text("·", "dim") for number in numbers])
    return made


def _line(event: Event, width: int) -> Text:
    who = event.sender or event.agent or "?"
    text = plain(f"{event.index:>3} ", "dim").append_text(plain(f"{who}: ", colour(who)))
    text.append_text(plain(text_of(event.content)))
    text.truncate(width, overflow="ellipsis")
    return text


def _survived(outcome: Outcome) -> Table:
    made = Table.grid(padding=(0, 2))
    rows = (
        ("acknowledged before the kill", len(outcome.acknowledged), ""),
        ("found by the second process", outcome.found, ""),
        ("lost", outcome.lost, "red" if outcome.lost else "green"),
        ("there twice", outcome.duplicated, "red" if outcome.duplicated else "green"),
        ("events in the end", len(outcome.events), ""),
    )
    for name, number, style in rows:
        made.add_row(name, Text(str(number), f"bold {style}", justify="right"))
    made.add_row("seconds", Text(f"{outcome.seconds:.1f}", justify="right"))
    return made
