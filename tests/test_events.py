"""What happens to events after they were appended: edited, retracted, erased, answered, delivered, read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentkeep import (
    Conflict,
    Conversation,
    Data,
    Handoff,
    Invalid,
    Media,
    NotFound,
    Parts,
    StateChange,
    Store,
    Text,
    ToolCall,
    ToolResult,
    Unavailable,
    Viewer,
    Visibility,
)
from agentkeep.features.conversations.companions import Delivery, Marker, Version
from agentkeep.ids import SECOND
from agentkeep.testing.values import STRINGS
from agentkeep.waist import Delete
from engines import Database

ALICE = Viewer(id="alice")
WRONG: list[Any] = ["1", 1.0, True, None, 0, -1, 10**16]
ODD = [*dict.fromkeys([*(text for text in STRINGS if text), "a#b", "a:b", "a/b", "a/", "x" * 5_000, "x" * 5_001, "🧵"])]


@pytest.fixture
async def talk(store: Store) -> Conversation:
    return await store.conversations.create("c", user="alice")


async def kept(store: Store, kind: type[Any]) -> list[Any]:
    """All rows of a kind that live with the conversation."""
    return list(await store.scan(kind, prefix=("c",), limit=1_000))


def said(versions: list[Version]) -> list[Any]:
    return [getattr(one.content, "text", one.content) for one in versions]


# --- edits -----------------------------------------------------------------------------------------------------------


async def test_an_edit_is_read_and_what_was_said_is_kept(talk: Conversation, database: Database):
    first = await talk.append("teh", sender="alice", key="k", metadata={"n": 1})
    database.clock.move(1)
    edited = await talk.edit(1, "the", by="bob")
    database.clock.move(1)
    await talk.edit(1, "The", by="carol")
    event = await talk.get(1)
    assert event is not None
    assert (event.content, event.edits, event.edited_by, event.index) == (Text("The"), 2, "carol", 1)
    assert (event.created_us, event.sender, event.key, event.metadata) == (first.created_us, "alice", "k", {"n": 1})
    assert event.edited_at is not None
    assert event.edited_us == first.created_us + 2 * SECOND
    assert edited.edits == 1
    versions = await talk.versions(1)
    assert said(versions) == ["teh", "the", "The"]
    assert [(one.number, one.by) for one in versions] == [(0, "alice"), (1, "bob"), (2, "carol")]
    assert [one.written_us - first.created_us for one in versions] == [0, SECOND, 2 * SECOND]
    assert [one.replaced_us for one in versions] == [first.created_us + SECOND, first.created_us + 2 * SECOND, None]
    assert (await talk.history())[0] == event
    assert (await talk.append("teh", sender="alice", key="k", metadata={"n": 1})).content == Text("The")


async def test_the_same_content_again_writes_nothing(talk: Conversation):
    await talk.append("a")
    await talk.edit(1, "b")
    assert (await talk.edit(1, "b")).edits == 1
    assert said(await talk.versions(1)) == ["a", "b"]


async def test_an_edit_expects_a_number_of_edits(talk: Conversation):
    await talk.append("a")
    await talk.edit(1, "b", expect=0)
    with pytest.raises(Conflict) as caught:
        await talk.edit(1, "c", expect=0)
    assert (caught.value.expect, caught.value.found) == (0, 1)
    assert said(await talk.versions(1)) == ["a", "b"]


async def test_edits_at_once_lose_no_version(talk: Conversation, database: Database):
    await talk.append("0")
    others = [await (await database.open()).conversations.get("c") for _ in range(3)]
    tried = await asyncio.gather(*[one.edit(1, str(n)) for n, one in enumerate(others, 1) if one is not None])
    versions = await talk.versions(1)
    assert sorted(said(versions)) == ["0", "1", "2", "3"]
    assert sorted(one.edits for one in tried) == [1, 2, 3]


async def test_of_edits_at_once_that_expect_the_same_one_is_done(talk: Conversation):
    await talk.append("0")
    tried = await asyncio.gather(*[talk.edit(1, str(n), expect=0) for n in range(1, 6)], return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in tried) == 4
    assert len(await talk.versions(1)) == 2


async def test_a_large_body_that_was_replaced_stays_a_version_until_it_is_erased(store: Store, talk: Conversation):
    await talk.append("x" * 400_000)
    await talk.edit(1, "y" * 400_000)
    await talk.edit(1, "z")
    assert [len(text) for text in said(await talk.versions(1))] == [400_000, 400_000, 1]
    assert await talk.erase(1) == 1
    assert await kept(store, Version) == []
    assert await store.collect("c") == 0


@pytest.mark.parametrize(
    ("content", "other"),
    [("a", ToolCall("1", "f")), (ToolCall("1", "f"), ToolCall("2", "f")), (ToolResult("1", "x"), "text")],
)
async def test_an_edit_keeps_the_kind_of_content(talk: Conversation, content: Any, other: Any):
    await talk.append(content)
    with pytest.raises(Invalid):
        await talk.edit(1, other)
    assert len(await talk.versions(1)) == 1


@pytest.mark.parametrize("index", WRONG)
async def test_an_index_of_a_wrong_type_is_refused(talk: Conversation, index: Any):
    await talk.append("a")
    calls = [
        lambda: talk.edit(index, "b"),
        lambda: talk.retract(index),
        lambda: talk.erase(index),
        lambda: talk.versions(index),
        lambda: talk.record_delivery(index, "sms", 1),
        lambda: talk.deliveries(index),
        lambda: talk.advance_delivered(index),
        lambda: talk.thread_summaries([index]),
    ]
    if index is not None:
        calls += [lambda: talk.mark_read("r", index), lambda: talk.append("b", parent=index)]
    for call in calls:
        with pytest.raises(Invalid):
            await call()
    assert await talk.length() == 1


async def test_what_is_not_there_is_not_found(talk: Conversation):
    await talk.append("a")
    await talk.append("b")
    await talk.erase(1)
    for index in (1, 3):
        for call in (
            talk.edit(index, "x"),
            talk.retract(index),
            talk.erase(index),
            talk.versions(index),
            talk.record_delivery(index, "sms", 1),
            talk.deliveries(index),
            talk.append("x", parent=index),
            talk.append_many(["x", {"content": "y", "parent": index}]),
        ):
            with pytest.raises(NotFound):
                await call
    assert await talk.length() == 2


async def test_a_handle_of_a_deleted_life_changes_nothing(store: Store, talk: Conversation):
    await talk.append("old")
    await store.conversations.delete("c")
    new = await store.conversations.create("c")
    event = await new.append("new")
    for call in (
        lambda: talk.edit(event.index, "x"),
        lambda: talk.retract(event.index),
        lambda: talk.erase(event.index),
        lambda: talk.mark_read("r", event.index),
        lambda: talk.record_delivery(event.index, "sms", 1),
        lambda: talk.usage.add(input_tokens=1),
        lambda: talk.private.set("k", 1),
        lambda: talk.summaries.put("s", upto=event.index),
        lambda: talk.trim(last=0),
    ):
        with pytest.raises(NotFound):
            await call()
    assert await new.get(event.index) == event
    assert await new.unread("r") == (1, True)


# --- retract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("secret", Text("")),
        (Parts((Text("secret"), Media("image/png", data="c2VjcmV0"))), Text("")),
        (Media("image/png", url="https://secret"), Text("")),
        (Data({"a": "secret"}), Data(None)),
        (ToolCall("1", "f", {"a": "secret"}), ToolCall("1", "f")),
        (ToolResult("1", "secret"), ToolResult("1", error="retracted")),
        (Handoff("b", "a", "secret"), Handoff("b", "a")),
        (StateChange({"a": "secret"}), StateChange({})),
    ],
)
async def test_what_is_retracted_keeps_its_place_and_says_nothing(talk: Conversation, content: Any, left: Any):
    await talk.append("before")
    await talk.append(content)
    await talk.append("after")
    event = await talk.retract(2, by="alice")
    assert event.content == left
    assert event.retracted_at is not None
    assert event.retracted_by == "alice"
    assert [one.index for one in await talk.history()] == [1, 2, 3]
    assert await talk.get(2) == event
    assert "secret" not in repr(await talk.history())
    assert "secret" not in repr(await talk.versions(2))
    assert "secret" in repr(await talk.versions(2, retracted=True)) or isinstance(content, (Media, Parts))
    assert await talk.retract(2) == event
    with pytest.raises(Invalid):
        await talk.edit(2, "again")


async def test_models_are_not_told_of_retracted_messages_but_of_pairs(talk: Conversation):
    await talk.append_many(["a", "b", ToolCall("1", "f", {"x": 1}), ToolResult("1", "r")])
    await talk.retract(2)
    await talk.retract(4)
    window = await talk.context(max_tokens=1_000)
    assert [event.index for event in window.events] == [1, 3, 4]
    assert window.pending == ()
    assert [event.index for event in await talk.chat()] == [1, 3, 4]


# --- erase and threads -----------------------------------------------------------------------------------------------


async def threaded(talk: Conversation) -> None:
    """1 and 4 are roots; 2, 3, 6 answer 1; 7 answers 3; 5 answers 4."""
    for parent in (None, 1, 1, None, 4, 1, 3):
        await talk.append("x", parent=parent)


async def test_erasing_takes_the_replies_along_and_nothing_else(store: Store, talk: Conversation):
    await threaded(talk)
    for index in range(1, 8):
        await talk.edit(index, "y")
        await talk.record_delivery(index, "sms", "ok")
    assert await talk.erase(1) == 5
    assert [event.index async for event in talk.events()] == [4, 5]
    assert {one.index for one in await kept(store, Version)} == {4, 5}
    assert {one.index for one in await kept(store, Delivery)} == {4, 5}
    assert (await talk.append("next")).index == 8
    with pytest.raises(NotFound):
        await talk.erase(1)


async def test_erasing_without_replies_leaves_them(talk: Conversation):
    await threaded(talk)
    assert await talk.erase(1, replies=False) == 1
    assert [event.index async for event in talk.events()] == [2, 3, 4, 5, 6, 7]
    assert await talk.erase(1) == 4


async def test_an_erased_key_is_still_used(talk: Conversation):
    await talk.append("a", key="k")
    await talk.erase(1)
    assert (await talk.append("a", key="k")).index == 1
    assert await talk.length() == 1


async def test_many_replies_are_erased_and_an_erasure_that_broke_off_goes_on(
    store: Store, talk: Conversation, monkeypatch: pytest.MonkeyPatch
):
    await talk.append("root")
    for _ in range(3):
        await talk.append_many([{"content": "x", "parent": 1}] * 45)
    await talk.append("other")
    commit, done = store.commit, 0

    async def broken(*args: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == 3:
            raise Unavailable("cut", retryable=False)
        return await commit(*args, **options)

    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(Unavailable) as caught:
        await talk.erase(1)
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    assert await talk.get(1) is None
    with pytest.raises(NotFound):
        await talk.append("late", parent=1)
    assert await talk.erase(1) == 135 - 45
    assert [event.index async for event in talk.events()] == [137]


@pytest.mark.parametrize("late", ["a delivery", "an edit"])
async def test_what_comes_while_an_event_is_erased_goes_too(
    store: Store, talk: Conversation, monkeypatch: pytest.MonkeyPatch, late: str
):
    await talk.append("x")
    await talk.edit(1, "y")
    commit = store.commit

    async def meeting(partition: str, ops: Any, **options: Any) -> Any:
        if any(isinstance(op, Delete) and op.kind == "event" for op in ops):
            monkeypatch.undo()
            await (talk.edit(1, "z" * 400_000) if late == "an edit" else talk.record_delivery(1, "sms", "ok"))
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", meeting)
    assert await talk.erase(1) == 1
    assert await kept(store, Version) == []
    assert await kept(store, Delivery) == []


async def test_events_and_their_parents_fill_a_batch_together(talk: Conversation):
    await talk.append_many(["x"] * 45)
    await talk.append_many([{"content": "x" * 250_000 if n == 7 else "x", "parent": 1 + n // 44} for n in range(45)])
    await talk.append_many([{"content": "x", "parent": n + 1} for n in range(23)])
    with pytest.raises(Invalid):
        await talk.append_many([{"content": "x", "parent": n + 1} for n in range(24)])


async def test_a_reply_that_meets_an_erasure_is_erased_or_refused(talk: Conversation):
    await threaded(talk)
    tried = await asyncio.gather(
        talk.erase(1), *[talk.append("late", parent=parent) for parent in (1, 3, 2)], return_exceptions=True
    )
    assert isinstance(tried[0], int)
    left = [event.index async for event in talk.events()]
    assert left == [4, 5]
    assert all(isinstance(one, NotFound) or one.index > 7 for one in tried[1:] if not isinstance(one, int))


async def test_a_batch_may_answer_its_own_events_where_their_numbers_are_known(talk: Conversation):
    await talk.append("a")
    await talk.append_many(["b", {"content": "c", "parent": 2}, {"content": "d", "parent": 1}], after=1)
    assert [event.parent async for event in talk.events()] == [None, None, 2, 1]
    for parent in (5, 6, 9):
        with pytest.raises(NotFound):
            await talk.append_many([{"content": "c", "parent": parent}], after=4)


async def test_a_thread_is_paged_in_order(talk: Conversation):
    await talk.append("root")
    for n in range(20):
        await talk.append(str(n), parent=1 if n % 2 else None, visibility="agents" if n == 3 else None)
    assert [event.index async for event in talk.thread(1)] == list(range(3, 22, 2))
    page = await talk.thread(1, limit=3)
    assert [event.index for event in page] == [3, 5, 7]
    more = await talk.thread(1, limit=3, after=page.cursor)
    assert [event.index for event in more] == [9, 11, 13]
    assert 5 not in [event.index async for event in talk.thread(1, visible_to=ALICE)]
    assert [event async for event in talk.thread(2)] == []


async def test_summaries_of_threads(talk: Conversation):
    await threaded(talk)
    found = await talk.thread_summaries([1, 4, 2, 3])
    assert {root: one.replies for root, one in found.items()} == {1: 3, 4: 1, 2: 0, 3: 1}
    assert found[1].last == await talk.get(6)
    assert found[2].last is None
    assert all(one.exact for one in found.values())
    assert not (await talk.thread_summaries([1], budget=2))[1].exact
    assert await talk.thread_summaries([]) == {}
    with pytest.raises(Invalid):
        await talk.thread_summaries(list(range(1, 102)))


async def test_summaries_of_threads_count_what_a_viewer_sees(talk: Conversation):
    await talk.append("root")
    await talk.append("a", parent=1)
    await talk.append("b", parent=1, visibility=Visibility("custom", ("no",)))
    await talk.append("c", parent=1, visibility="agents")
    found = (await talk.thread_summaries([1], visible_to=ALICE))[1]
    assert (found.replies, found.last) == (1, await talk.get(2))


# --- delivery --------------------------------------------------------------------------------------------------------


async def test_delivery_moves_one_by_one_and_never_back(talk: Conversation):
    await talk.append_many(["x"] * 5)
    assert await talk.delivered() == 0
    assert await talk.advance_delivered(1) == 1
    for index, force in ((1, False), (3, False), (1, True)):
        with pytest.raises(Conflict) as caught:
            await talk.advance_delivered(index, force=force)
        assert caught.value.found == 1
    assert await talk.advance_delivered(4, force=True) == 4
    with pytest.raises(Invalid):
        await talk.advance_delivered(6, force=True)
    assert await talk.advance_delivered(5) == 5
    assert await talk.delivered() == 5


async def test_one_of_many_who_deliver_moves_it(talk: Conversation):
    await talk.append_many(["x"] * 5)
    tried = await asyncio.gather(*[talk.advance_delivered(1) for _ in range(5)], return_exceptions=True)
    assert sum(one == 1 for one in tried) == 1
    assert sum(isinstance(one, Conflict) for one in tried) == 4


async def test_channels_at_once_lose_no_result(talk: Conversation):
    await talk.append("x")
    await asyncio.gather(*[talk.record_delivery(1, f"ch{n}", {"n": n}) for n in range(20)])
    await talk.edit(1, "y")
    found = await talk.deliveries(1)
    assert {one.channel: one.result for one in found.values()} == {f"ch{n}": {"n": n} for n in range(20)}
    await talk.record_delivery(1, "ch0", None)
    assert (await talk.deliveries(1))["ch0"].result is None


async def test_channels_and_readers_of_any_text_are_apart(talk: Conversation):
    await talk.append_many(["x"] * 2)
    for n, name in enumerate(ODD):
        await talk.record_delivery(1, name, n)
        await talk.mark_read(name, 1 + n % 2)
    assert {one.channel: one.result for one in (await talk.deliveries(1)).values()} == {x: n for n, x in enumerate(ODD)}
    assert await talk.deliveries(2) == {}
    assert {one.reader: one.index async for one in talk.markers(limit=7)} == {x: 1 + n % 2 for n, x in enumerate(ODD)}


@pytest.mark.parametrize("name", ["", None, 5, b"x"])
async def test_names_are_text_and_not_empty(talk: Conversation, name: Any):
    await talk.append("x")
    for call in (
        talk.record_delivery(1, name, 1),
        talk.mark_read(name),
        talk.unread(name),
        talk.private.get(name),
        talk.private.set(name, 1),
    ):
        with pytest.raises(Invalid):
            await call
    if name is not None:
        for call in (talk.usage.add(agent=name), talk.summaries.get(agent=name), talk.chat(agent=name)):
            with pytest.raises(Invalid):
                await call


# --- read markers ----------------------------------------------------------------------------------------------------


async def test_a_marker_never_moves_back(store: Store, talk: Conversation):
    await talk.append_many(["x"] * 5)
    assert await talk.unread("r") == (5, True)
    assert await talk.mark_read("r", 3) == 3
    assert await talk.mark_read("r", 2) == 3
    assert await talk.unread("r") == (2, True)
    assert await talk.unread("other") == (5, True)
    assert await talk.mark_read("r") == 5
    with pytest.raises(Invalid):
        await talk.mark_read("r", 6)
    await asyncio.gather(*[talk.mark_read("many", n) for n in (4, 1, 5, 2, 3)])
    assert {one.reader: one.index async for one in talk.markers()} == {"r": 5, "many": 5}
    await store.conversations.delete("c")
    assert await kept(store, Marker) == []


async def test_unread_counts_what_the_reader_sees_and_within_a_budget(talk: Conversation):
    for n in range(10):
        await talk.append("x", visibility="agents" if n % 2 else None)
    assert await talk.unread("r", visible_to=ALICE) == (5, True)
    assert await talk.unread("r", visible_to=Viewer(id="b", agent=True)) == (10, True)
    assert await talk.unread("r", budget=4) == (4, False)
    await talk.erase(1)
    assert await talk.unread("r", visible_to=ALICE) == (4, True)


async def test_an_empty_conversation_has_nothing_to_mark(talk: Conversation):
    assert await talk.mark_read("r") == 0
    assert [one async for one in talk.markers()] == []
    with pytest.raises(Invalid):
        await talk.mark_read("r", 1)


# --- clear -----------------------------------------------------------------------------------------------------------


async def test_a_clear_that_was_acknowledged_survives_its_process(database: Database):
    store = await database.open()
    talk = await store.conversations.create("c")
    await talk.append("x" * 400_000)
    await talk.edit(1, "y")
    await talk.record_delivery(1, "sms", "ok")
    await talk.summaries.put("s", upto=1)
    await talk.clear()
    other = await (await database.open()).conversations.get("c")
    assert other is not None
    assert len(await other.history()) == 0
    assert await other.summaries.get() is None
    assert (await other.append("next")).index == 2
    assert await kept(store, Version) == []
    assert await kept(store, Delivery) == []


async def test_a_clear_that_broke_off_after_its_commit_hides_everything(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    store = await database.open()
    talk = await store.conversations.create("c")
    await talk.append_many(["a", "b"])
    await talk.edit(1, "y")
    await talk.summaries.put("s", upto=2)
    await talk.summaries.put("s", upto=2, agent="billing")
    commit, done = store.commit, 0

    async def broken(*args: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done > 1:
            raise Unavailable("cut", retryable=False)
        return await commit(*args, **options)

    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(Unavailable) as caught:
        await talk.clear()
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    other = await (await database.open()).conversations.get("c")
    assert other is not None
    assert len(await other.history()) == 0
    for agent in (None, "billing"):
        assert await other.summaries.get(agent=agent) is None
        with pytest.raises(Invalid):
            await other.summaries.put("late", upto=2, agent=agent)
    with pytest.raises(NotFound):
        await other.versions(1)
    await other.clear()
    assert await kept(store, Version) == []
