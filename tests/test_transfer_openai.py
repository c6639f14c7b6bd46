"""Messages in the Chat Completions format come out as they went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeep import Data, Media, Parts, Store, Text, ToolCall, ToolResult
from agentkeep.transfer import openai
from agentkeep.transfer.lines import canonical
from transfers import dump_bytes, load_lines

WEATHER = {
    "id": "weather-1",
    "metadata": {"tier": "gold"},
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "messages": [
        {"role": "system", "content": "You know the weather."},
        {"role": "user", "name": "alice", "content": "Rain in Oslo and Rome?"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "sun"}]},
        {"role": "assistant", "content": "Rain in Oslo, sun in Rome."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And here?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "image_url", "image_url": {"url": "https://example.org/sky.jpg", "detail": "low"}},
            ],
        },
    ],
}


def _line(value: object) -> str:
    return json.dumps(value)


def _back(messages: list[Any]) -> bytes:
    return canonical(openai.messages_of(openai.events_of(messages, "x", 0)))


async def test_lines_come_back_in_their_order(tmp_path: Path):
    unnamed = {"messages": [{"role": "user", "content": "\ud800 \x00"}], "metadata": {}}
    lines = [WEATHER, unnamed, {"id": "a", "messages": []}, unnamed]
    async with Store.open("memory://") as store:
        loaded, failures = await load_lines(store, tmp_path, "openai", *map(_line, lines))
        assert (loaded.stored, failures) == (4, [])
        written = await dump_bytes(store, tmp_path, "openai")
        again, _ = await load_lines(store, tmp_path, "openai", *map(_line, lines))
    assert [canonical(json.loads(line)) for line in written.splitlines()] == [canonical(line) for line in lines]
    assert (again.stored, again.there) == (0, 4)


async def test_messages_become_events(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "openai", _line(WEATHER))
        talk = await store.conversations.get("weather-1")
        assert talk is not None
        events = [event async for event in talk.events()]
        assert talk.record.metadata["tier"] == "gold"
        assert (await talk.state()).data == {"openai": {"tools": WEATHER["tools"]}}
        assert await talk.pending() == []
    assert [event.role for event in events] == [
        "system",
        "user",
        *["assistant"] * 2,
        *["tool"] * 2,
        "assistant",
        "user",
    ]
    assert (events[1].sender, events[1].content) == ("alice", Text("Rain in Oslo and Rome?"))
    assert events[2].content == ToolCall("c1", "weather", {"city": "Oslo"})
    assert events[3].content == ToolCall("c2", "weather", {"city": "Rome"})
    assert events[4].content == ToolResult("c1", "rain")
    assert isinstance(events[7].content, Parts)
    text, picture, low = events[7].content.parts
    assert (text, picture) == (Text("And here?"), Media("image/png", data="iVBORw0KGgo="))
    assert isinstance(low, Data)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "assistant", "content": "x", "tool_calls": []},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": "x", "audio": {"id": "y" * 2_000}},
        {"role": "tool", "content": None, "tool_call_id": 7},
        {"role": "tool", "content": "x", "tool_call_id": "a", "name": "f"},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "user", "content": {"any": 1.0}},
        {"role": "user", "content": "x", "name": 5},
        {"role": "user", "content": [], "extra": {"role": "system"}},
        {"role": "martian", "content": "x"},
    ],
)
def test_messages_of_any_form_come_back(message: dict[str, Any]):
    plain = {"role": "user", "content": "x"}
    for messages in ([message], [plain, message, plain], [message, message]):
        assert _back(messages) == canonical(messages)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
_arguments = st.text(max_size=8) | _json.map(json.dumps) | _json.map(lambda v: json.dumps(v, separators=(",", ":")))
_calls = st.fixed_dictionaries(
    {
        "id": st.text(max_size=3),
        "type": st.sampled_from(["function", "custom"]),
        "function": st.fixed_dictionaries({"name": st.text(max_size=3), "arguments": _arguments}),
    }
)
_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        "content": st.none()
        | st.text(max_size=8)
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}) | _json, max_size=2),
        "name": st.text(max_size=3),
        "tool_calls": st.lists(_calls, max_size=3),
        "tool_call_id": st.text(max_size=3),
        "refusal": _json,
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(_messages, max_size=4))
def test_any_messages_come_back(messages: list[dict[str, Any]]):
    assert _back(messages) == canonical(messages)


async def test_any_conversation_can_be_written(tmp_path: Path):
    async with Store.open("memory://") as store:
        talk = await store.conversations.create("a", user="alice")
        await talk.append("Where is it?", sender="alice", channel="sms")
        await talk.handoff("shipping")
        await talk.append(ToolCall("c", "track", {"order": 7}), agent="shipping")
        await talk.append(ToolResult("c", {"place": "Lyon"}), agent="shipping")
        await talk.append("In Lyon.", agent="shipping")
        (line,) = (await dump_bytes(store, tmp_path, "openai")).splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "name": "alice", "content": "Where is it?"},
        {
            "role": "assistant",
            "name": "shipping",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "track", "arguments": '{"order":7}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": '{"place": "Lyon"}'},
        {"role": "assistant", "name": "shipping", "content": "In Lyon."},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[]", "object"),
        ("{}", "no list of messages"),
        ('{"messages": [{"content": "x"}]}', "messages[0]"),
        ('{"messages": [], "id": 5}', "id"),
        ('{"messages": [], "metadata": {"import": 1}}', "metadata.import"),
        ('{"messages": [{"role": "user", "content": 1e999}]}', "range"),
        (json.dumps({"messages": [], "metadata": {"a": "x" * 5_000}}), "4,096"),
    ],
)
async def test_a_line_that_is_no_chat_is_named(line: str, reason: str, tmp_path: Path):
    async with Store.open("memory://") as store:
        loaded, failures = await load_lines(store, tmp_path, "openai", line, _line(WEATHER))
    assert (loaded.stored, [failure.line for failure in failures]) == (1, [1])
    assert reason in failures[0].reason
