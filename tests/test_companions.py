"""Chats and their trimming, summaries, usage and private state."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeep import (
    Conflict,
    Conversation,
    Data,
    Event,
    EventCounts,
    Invalid,
    Media,
    Parts,
    Store,
    Summary,
    Text,
    ToolCall,
    ToolResult,
    Viewer,
    Visibility,
)
from agentkeep.features.conversations import estimate, marked, trim
from agentkeep.features.conversations.companions import PrivateState, Usage, Version
from agentkeep.testing.values import DOCUMENTS, STRINGS
from engines import Database


@pytest.fixture
async def talk(store: Store) -> Conversation:
    return await store.conversations.create("c", user="alice")


def indexes(events: Any) -> list[int]:
    return [event.index for event in events]


async def everything(talk: Conversation) -> list[int]:
    return [event.index async for event in talk.events()]


# --- trim: the rule --------------------------------------------------------------------------------------------------


def chat_of(kinds: str) -> list[Event]:
    """u: a user's message, a: an answer, c: a call, r: its result, h: a handoff's note."""
    contents = {"u": Text("q"), "a": Text("x"), "c": ToolCall("1", "f"), "r": ToolResult("1", "o"), "h": Data(1)}
    types = {"u": "message", "a": "message", "c": "tool_call", "r": "tool_result", "h": "data"}
    return [
        Event(conversation="c", type=types[k], content=contents[k], agent=None if k == "u" else "x", index=n)
        for n, k in enumerate(kinds, 1)
    ]


@pytest.mark.parametrize(
    ("kinds", "last", "left"),
    [
        ("uaua", 0, ""),
        ("uaua", 1, ""),
        ("uaua", 2, "ua"),
        ("uaua", 3, "ua"),
        ("uaua", 4, "uaua"),
        ("uaua", 100, "uaua"),
        ("ucra", 2, "ucra"),
        ("ucra", 1, ""),
        ("uucra", 2, "ucra"),
        ("uau", 1, "u"),
        ("uau", 2, "u"),
        ("auau", 3, "uau"),
        ("a", 1, "a"),
        ("rua", 3, "ua"),
        ("ucuara", 3, ""),
        ("ucuara", 4, "ucuara"),
        ("", 5, ""),
    ],
)
def test_what_is_left_of_a_chat(kinds: str, last: int, left: str):
    found = trim(chat_of(kinds), last=last)
    names = {(e.index): k for e, k in zip(chat_of(kinds), kinds, strict=True)}
    assert "".join(names[event.index] for event in found) == left


@given(st.text("uacrh", max_size=12), st.integers(0, 8))
@settings(max_examples=300, deadline=None)
def test_no_answer_is_left_without_its_question_and_no_result_without_its_call(kinds: str, last: int):
    found = trim(chat_of(kinds), last=last)
    assert sum(event.type == "message" for event in found) <= last
    assert found == [] or found[0].agent is None or indexes(found)[0] == indexes(trim(chat_of(kinds), last=99))[0]
    calls: set[str] = set()
    for event in found:
        if isinstance(event.content, ToolCall):
            calls.add(event.content.id)
        if isinstance(event.content, ToolResult):
            assert event.content.id in calls
    assert trim(found, last=last) == found


# --- chats -----------------------------------------------------------------------------------------------------------


async def session(talk: Conversation) -> None:
    """Two agents answer in turns."""
    for n in range(3):
        for agent in ("billing", "travel"):
            await talk.append(f"question {n}", role="user", sender="alice", agent=agent)
            await talk.append(ToolCall(f"{agent}{n}", "f"), agent=agent)
            await talk.append(ToolResult(f"{agent}{n}", "o"), agent=agent)
            await talk.append(f"answer {n}", role="assistant", agent=agent)
    await talk.handoff("travel")


async def test_the_chat_of_one_agent_and_of_all_merged(talk: Conversation):
    await session(talk)
    assert indexes(await talk.chat()) == list(range(1, 25))
    assert indexes(await talk.chat(agent="billing")) == [1, 2, 3, 4, 9, 10, 11, 12, 17, 18, 19, 20]
    assert indexes(await talk.chat(agent="travel", last=2)) == [21, 22, 23, 24]
    assert indexes(await talk.chat(agent="travel", last=3)) == [21, 22, 23, 24]
    assert indexes(await talk.chat(last=4)) == list(range(17, 25))
    assert await talk.chat(last=0) == []
    assert await talk.chat(agent="nobody", last=5) == []


async def test_a_removal_leaves_what_a_reading_gives(store: Store, talk: Conversation):
    await session(talk)
    await talk.edit(1, "question")
    for agent, last in (("billing", 4), ("travel", 3), (None, 4), (None, 0)):
        read = await talk.chat(agent=agent, last=last)
        others = [i for i in indexes(await talk.chat()) if (await talk.get(i)).agent != agent]  # type: ignore[union-attr]
        await talk.trim(last=last, agent=agent)
        assert await talk.chat(agent=agent) == read
        if agent is not None:
            left = [event for event in await talk.chat() if event.agent != agent]
            assert indexes(left) == others
        assert await talk.trim(last=last, agent=agent) == 0
    assert await store.scan(Version, prefix=("c",)) is not None
    assert len(await store.scan(Version, prefix=("c",))) == 0
    assert (await talk.append("next")).index == 26


async def test_a_chat_that_is_not_too_long_keeps_what_stands_before_it(talk: Conversation):
    await talk.handoff("billing")
    await talk.append("hi")
    assert await talk.trim(last=1) == 0
    assert await everything(talk) == [1, 2]


async def test_long_chats_are_read_from_the_end(talk: Conversation):
    for _ in range(10):
        await talk.append_many([{"content": "q"}, {"content": "a", "agent": "x"}] * 22)
    await talk.append(ToolCall("far", "f"), agent="x")
    await talk.append_many([{"content": "a", "agent": "x"}] * 45)
    await talk.append(ToolResult("far", "o"), agent="x")
    assert indexes(await talk.chat(last=10)) == []
    assert indexes(await talk.chat(last=60))[0] == 427


@pytest.mark.parametrize("last", [-1, 1.5, "2", True])
async def test_last_is_a_number(talk: Conversation, last: Any):
    for call in (talk.chat(last=last), talk.trim(last=last)):
        with pytest.raises(Invalid):
            await call


def test_an_answer_is_marked_with_its_agent():
    media = Media("image/png", url="u")
    assert marked(Text("hi"), "a") == Text("[a] hi")
    assert marked(Text("hi"), None) == Text("hi")
    assert marked(Parts((media, Text("hi"), Text("you"))), "a") == Parts((media, Text("[a] hi"), Text("you")))
    for content in (Parts((media,)), Parts(()), media, ToolCall("1", "f"), Data(1)):
        assert marked(content, "a") == content


# --- summaries -------------------------------------------------------------------------------------------------------


async def test_summaries_are_versions_that_get_further(store: Store, talk: Conversation, database: Database):
    await talk.append_many(["x"] * 10)
    assert await talk.summaries.get() is None
    first = await talk.summaries.put("one", upto=4)
    assert (first.version, first.start, first.upto) == (1, 1, 4)
    assert await talk.summaries.put("one", upto=4) == first
    await talk.summaries.put("two", upto=8)
    await talk.summaries.put("mine", upto=2, agent="billing")
    with pytest.raises(Conflict):
        await talk.summaries.put("late", upto=7)
    other = await (await database.open()).conversations.get("c")
    assert other is not None
    newest = await other.summaries.get()
    assert newest is not None
    assert (newest.text, newest.version) == ("two", 2)
    assert (await other.summaries.get(before=8)) == first
    assert (await other.summaries.get(agent="billing")).text == "mine"  # type: ignore[union-attr]
    assert await other.summaries.get(agent="travel") is None
    assert [one.text async for one in talk.summaries.list(limit=1)] == ["two", "one"]
    await store.conversations.delete("c")
    assert len(await store.scan(Summary, prefix=("c",))) == 0


async def test_of_summaries_at_once_the_furthest_stays(talk: Conversation):
    await talk.append_many(["x"] * 10)
    tried = await asyncio.gather(*[talk.summaries.put(str(n), upto=n) for n in (3, 9, 1, 7, 5)], return_exceptions=True)
    assert all(isinstance(one, (Summary, Conflict)) for one in tried)
    newest = await talk.summaries.get()
    assert newest is not None
    assert newest.text == "9"
    listed = [one.upto async for one in talk.summaries.list()]
    assert listed == sorted(listed, reverse=True)


async def test_a_summary_that_meets_a_clear_is_refused(
    store: Store, talk: Conversation, monkeypatch: pytest.MonkeyPatch
):
    await talk.append_many(["x"] * 2)
    commit = store.commit

    async def meeting(partition: str, ops: Any, **options: Any) -> Any:
        if any(op.kind == "summary" for op in ops):
            monkeypatch.undo()
            await talk.clear()
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", meeting)
    with pytest.raises(Invalid):
        await talk.summaries.put("secret", upto=2)
    assert len(await store.scan(Summary, prefix=("c",))) == 0


@pytest.mark.parametrize("wrong", [{"upto": 3}, {"upto": 0}, {"upto": 1, "start": 2}, {"upto": "1"}, {"upto": True}])
async def test_a_range_that_is_none_is_refused(talk: Conversation, wrong: dict[str, Any]):
    await talk.append_many(["x"] * 2)
    with pytest.raises(Invalid):
        await talk.summaries.put("s", **wrong)
    not_text: Any = 5
    with pytest.raises(Invalid):
        await talk.summaries.put(not_text, upto=1)
    assert await talk.summaries.get() is None


async def test_agents_of_any_text_have_their_own(talk: Conversation):
    await talk.append("x")
    agents = {*STRINGS, "a", "a/", "a/00000001", "all", "agent:a", "x" * 5_000} - {""}
    for agent in agents:
        await talk.summaries.put(agent, upto=1, agent=agent)
        await talk.usage.add(agent=agent, input_tokens=len(agent))
    for agent in agents:
        found = await talk.summaries.get(agent=agent)
        assert found is not None
        assert (found.text, found.agent) == (agent, agent)
        assert (await talk.usage.total(agent=agent)).input_tokens == len(agent)
    assert await talk.summaries.get() is None


async def test_a_context_stands_behind_its_summary(talk: Conversation):
    await talk.append_many(["a" * 400] * 10)
    summary = await talk.summaries.put("short", upto=8)
    window = await talk.context(max_tokens=1_000, summary=True)
    assert indexes(window.events) == [9, 10]
    assert window.summary == summary
    assert window.complete
    alone = estimate(Event(conversation="c", type="summary", content=Text("short")))
    assert window.tokens == alone + sum(map(estimate, window.events))
    tight = await talk.context(max_tokens=150, summary=True)
    assert indexes(tight.events) == [10]
    assert not tight.complete
    assert indexes((await talk.context(max_tokens=500, summary=True, before=8)).events) == [4, 5, 6, 7]
    assert (await talk.context(max_tokens=alone - 1, summary=True)).summary is None
    assert (await talk.context(max_tokens=1_000)).summary is None


async def test_a_summary_never_cuts_a_tool_exchange(talk: Conversation):
    await talk.append_many(
        ["a", ToolCall("1", "f"), ToolCall("2", "f"), "b", ToolResult("1", "x"), ToolResult("2", "y")]
    )
    for upto in range(1, 7):
        await talk.summaries.put(f"up to {upto}", upto=upto)
        window = await talk.context(max_tokens=1_000, summary=True)
        assert window.summary is not None
        called = {e.content.id for e in window.events if isinstance(e.content, ToolCall)}
        answered = {e.content.id for e in window.events if isinstance(e.content, ToolResult)}
        assert answered == {"1", "2"} or (upto == 6 and not window.events)
        assert called == answered
        assert window.pending == ()


async def test_a_call_far_before_the_end_of_a_summary_is_found(talk: Conversation):
    await talk.append(ToolCall("far", "f"))
    for _ in range(6):
        await talk.append_many(["x"] * 45)
    await talk.summaries.put("s", upto=271)
    await talk.append(ToolResult("far", "o"))
    window = await talk.context(max_tokens=100_000, summary=True)
    assert indexes(window.events) == [1, 272, *range(2, 272)]
    none = await talk.context(max_tokens=50, summary=True)
    assert none.events == ()


async def test_a_viewer_gets_no_summary_but_that_of_an_agent(talk: Conversation):
    await talk.append("secret", visibility="agents")
    await talk.append("hi")
    await talk.summaries.put("a secret", upto=1)
    await talk.summaries.put("for billing", upto=1, agent="billing")
    viewer = Viewer(id="alice")
    assert (await talk.context(max_tokens=100, summary=True, visible_to=viewer)).summary is None
    billing = Viewer(id="billing", agent=True)
    window = await talk.context(max_tokens=100, summary=True, visible_to=billing, agent="billing")
    assert window.summary is not None
    assert indexes(window.events) == [2]


# --- usage -----------------------------------------------------------------------------------------------------------


async def test_usage_is_added_once_for_a_key(store: Store, talk: Conversation):
    one = await talk.usage.add(agent="a", input_tokens=10, output_tokens=5, cost_micros=7, key="run-1")
    assert (one.calls, one.input_tokens, one.output_tokens, one.cost_micros) == (1, 10, 5, 7)
    assert await talk.usage.add(agent="a", input_tokens=10, output_tokens=5, cost_micros=7, key="run-1") == one
    with pytest.raises(Conflict):
        await talk.usage.add(agent="a", input_tokens=11, key="run-1")
    await talk.append("x", key="run-1")
    await talk.usage.add(input_tokens=1)
    await talk.usage.add(agent="a", output_tokens=2**60, calls=0)
    assert (await talk.usage.total(agent="a")).output_tokens == 5 + 2**60
    total = await talk.usage.total()
    assert (total.calls, total.input_tokens, total.cost_micros) == (2, 11, 7)
    assert await talk.usage.total(agent="b") == Usage(conversation="c", place="", agent="b")
    assert sorted([str(one.agent) async for one in talk.usage.list(limit=1)]) == ["None", "a"]
    await store.conversations.delete("c")
    assert len(await store.scan(Usage, prefix=("c",))) == 0


async def test_usage_that_is_added_at_once_is_all_there(talk: Conversation):
    await asyncio.gather(*[talk.usage.add(agent="a", input_tokens=n, key=f"k{n % 10}") for n in range(10)])
    await asyncio.gather(*[talk.usage.add(agent="a", input_tokens=n, key=f"k{n}") for n in range(10)])
    assert (await talk.usage.total()).input_tokens == 45


@pytest.mark.parametrize("wrong", [{"input_tokens": -1}, {"output_tokens": 1.5}, {"cost_micros": "1"}, {"calls": True}])
async def test_usage_is_whole_numbers(talk: Conversation, wrong: dict[str, Any]):
    with pytest.raises(Invalid):
        await talk.usage.add(**wrong)
    assert (await talk.usage.total()).calls == 0


async def test_events_are_counted_by_type_and_agent(talk: Conversation):
    await session(talk)
    found = await talk.usage.events()
    types = {"message": 12, "tool_call": 6, "tool_result": 6, "handoff": 1}
    assert found == EventCounts(25, types, {"billing": 12, "travel": 12, "": 1}, True)
    part = await talk.usage.events(budget=7)
    assert (part.total, part.exact) == (7, False)


# --- private state ---------------------------------------------------------------------------------------------------


async def test_private_state_is_compared_and_set_and_shown_nowhere(store: Store, talk: Conversation):
    assert await talk.private.get("k") is None
    rev = await talk.private.set("k", {"secret": 1}, expect="absent")
    assert await talk.private.get("k") == ({"secret": 1}, rev)
    with pytest.raises(Conflict):
        await talk.private.set("k", 2, expect="absent")
    assert rev is not None
    await talk.private.set("k", 2, expect=rev)
    with pytest.raises(Conflict):
        await talk.private.set("k", 3, expect=rev)
    await asyncio.gather(*[talk.private.update("n", lambda old: (old or 0) + 1) for _ in range(10)])
    assert (await talk.private.get("n")).value == 10  # type: ignore[union-attr]
    assert len(await talk.history()) == 0
    await talk.private.set("k", None)
    assert await talk.private.get("k") is None
    await talk.clear()
    assert await talk.private.get("n") is not None
    await store.conversations.delete("c")
    assert len(await store.scan(PrivateState, prefix=("c",))) == 0


@pytest.mark.parametrize("value", DOCUMENTS)
async def test_private_state_is_given_back_as_it_was(talk: Conversation, value: Any):
    if value is not None:
        await talk.private.set("k", value)
        found = await talk.private.get("k")
        assert found is not None
        assert found.value == value
    with pytest.raises(Invalid):
        await talk.private.set("k", {"a": math.nan})


async def test_owners_of_any_text_are_apart_and_large_state_is_kept(store: Store, talk: Conversation):
    owners: Sequence[str] = sorted({*STRINGS, "x" * 5_000, "a/b", "a"} - {""})
    for n, owner in enumerate(owners):
        await talk.private.set(owner, n)
    assert [(await talk.private.get(owner)).value for owner in owners] == list(range(len(owners)))  # type: ignore[union-attr]
    await talk.private.set("a", "x" * 500_000)
    await talk.private.set("a", "y")
    assert await store.collect("c") == 0


async def test_tenants_are_apart(database: Database):
    store = await database.open(tenants="required")
    talks = [await store.scope(tenant).conversations.create("c") for tenant in ("a", "b")]
    for n, talk in enumerate(talks):
        await talk.append("x", visibility=Visibility("roles", ("r",)))
        await talk.edit(1, str(n))
        await talk.private.set("k", n)
        await talk.usage.add(input_tokens=n, key="k")
        await talk.summaries.put(str(n), upto=1)
    await talks[0].erase(1)
    await talks[0].clear()
    assert (await talks[1].private.get("k")).value == 1  # type: ignore[union-attr]
    assert (await talks[1].usage.total()).input_tokens == 1
    assert (await talks[1].summaries.get()).text == "1"  # type: ignore[union-attr]
    assert len(await talks[1].versions(1)) == 2
