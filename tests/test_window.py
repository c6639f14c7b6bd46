"""The context window keeps calls and results as the APIs of models want them."""

from __future__ import annotations

from agentkeep import Event, Text, ToolCall, ToolResult
from agentkeep.features.conversations import window


def _event(index: int, content: Text | ToolCall | ToolResult) -> Event:
    return Event(conversation="a", type="message", content=content, index=index)


def _order(*contents: Text | ToolCall | ToolResult) -> list[int]:
    events = [_event(index, content) for index, content in enumerate(contents, 1)]
    return [event.index for event in window(events, 10_000).events]


def test_a_result_stands_before_the_call_of_the_next_turn():
    assert _order(ToolCall("a", "f"), ToolResult("a", 1), ToolCall("b", "f"), ToolResult("b", 2)) == [1, 2, 3, 4]


def test_the_results_of_one_turn_stand_behind_all_of_its_calls():
    assert _order(ToolCall("a", "f"), ToolCall("b", "f"), Text("x"), ToolResult("b", 2), ToolResult("a", 1)) == [
        *(1, 2, 5, 4, 3),
    ]
