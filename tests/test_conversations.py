"""Conversations: what every method does, what it refuses, and what concurrent use leaves true."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import math
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

import msgspec
import pydantic
import pytest

from agentkeep import (
    Conflict,
    Conversation,
    ConversationRecord,
    Corrupt,
    Data,
    Event,
    Handoff,
    Invalid,
    Media,
    New,
    NotFound,
    Parts,
    StateChange,
    Store,
    Text,
    TooLarge,
    ToolCall,
    ToolResult,
    Unavailable,
    codec,
)
from agentkeep.features.conversations.handle import Handle
from agentkeep.ids import HOUR, SECOND
from agentkeep.keys import partition, seq_sort
from agentkeep.records import record_of
from agentkeep.store import digest_of
from agentkeep.testing.marks import case
from agentkeep.testing.values import DOCUMENTS, HUGE, SEPARATED, STRINGS, SYNTAX
from agentkeep.waist import Batch, Key, Put
from engines import Database, Meeting, Script


@pytest.fixture
async def talk(store: Store) -> Conversation:
    return await store.conversations.create("support-42", user="alice", agent="triage")


async def texts(talk: Conversation, **asked: Any) -> list[str]:
    return [event.content.text async for event in talk.events(**asked) if isinstance(event.content, Text)]


async def indexes(talk: Conversation) -> list[int]:
    return [event.index async for event in talk.events()]


# --- create, ensure, get ---------------------------------------------------------------------------------------------


async def test_what_is_created_is_read_back(store: Store, database: Database):
    made = await store.conversations.create("a", user="u", agent="g", title="t", metadata={"tier": "gold", "n": 1})
    found = await store.conversations.get("a")
    assert found is not None
    assert found.record == made.record
    assert found.record.user == "u"
    assert found.record.metadata == {"tier": "gold", "n": 1}
    assert found.record.status == "open"
    assert found.record.created_us == database.clock()
    assert found.record.created_at.tzinfo is not None
    assert repr(found) == "Conversation('a', open)"


async def test_an_id_is_minted_where_none_is_given(store: Store):
    one, two = await store.conversations.create(), await store.conversations.create()
    assert one.id != two.id


async def test_a_taken_id_is_a_conflict_and_the_first_stays(store: Store):
    await store.conversations.create("a", user="first")
    with pytest.raises(Conflict):
        await store.conversations.create("a", user="second")
    found = await store.conversations.get("a")
    assert found is not None
    assert found.record.user == "first"


async def test_ensure_gives_what_is_there(store: Store):
    await store.conversations.ensure("a", user="first")
    assert (await store.conversations.ensure("a", user="second")).record.user == "first"


async def test_many_ensure_at_once(store: Store):
    found = await asyncio.gather(*[store.conversations.ensure("a", user=str(n)) for n in range(10)])
    assert len({one.record.user for one in found}) == 1


async def test_what_was_never_made_is_none(store: Store):
    assert await store.conversations.get("nobody") is None


@pytest.mark.parametrize("id", ["", None, 5, b"x", ("a",)])
async def test_an_id_is_text_and_not_empty(store: Store, id: Any):
    for call in (store.conversations.get, store.conversations.ensure, store.conversations.delete):
        with pytest.raises(Invalid):
            await call(id)
    if id is not None:
        with pytest.raises(Invalid):
            await store.conversations.create(id)


@case("S5", "F1", "F2", "S6")
async def test_ids_of_any_text_are_their_own_conversations(store: Store):
    ids = [*{*STRINGS, *SYNTAX, *(a + b for a, b in SEPARATED), "../x", "/etc", "CON", "..\\x", "user"} - {""}]
    for id in ids:
        await (await store.conversations.create(id, title=id)).append(id, key=id)
    for id in ids:
        found = await store.conversations.get(id)
        assert found is not None
        assert (found.record.id, found.record.title) == (id, id)
        assert await texts(found) == [id]


@case("S5", "S6")
@pytest.mark.parametrize("length", [380, 381, 382, 400, 512, 600, 5000])
async def test_long_ids_that_differ_at_the_end_stay_apart(store: Store, length: int):
    for last in "ab":
        talk = await store.conversations.create("x" * length + last)
        await talk.append(last)
    for last in "ab":
        found = await store.conversations.get("x" * length + last)
        assert found is not None
        assert found.id == "x" * length + last
        assert await texts(found) == [last]
    assert {row.id async for row in store.conversations.list()} == {"x" * length + last for last in "ab"}


# --- append ----------------------------------------------------------------------------------------------------------


async def test_events_are_numbered_from_one(talk: Conversation, database: Database):
    first = await talk.append("hi", sender="alice", channel="sms", metadata={"lang": "en"})
    second = await talk.append("there", role="user", agent="triage", run="r1", correlation="c1", parent=1, type="note")
    assert (first.index, second.index) == (1, 2)
    assert await talk.get(1) == first
    assert await talk.get(2) == second
    assert first.type == "message"
    assert second.type == "note"
    assert first.created_us == database.clock()
    assert await talk.length() == 2


@pytest.mark.parametrize("index", [0, -1, 3, 10**15, 10**16, 10**30, -(10**20)])
async def test_no_event_stands_where_none_was_appended(talk: Conversation, index: int):
    await talk.append_many(["a", "b"])
    assert await talk.get(index) is None


@pytest.mark.parametrize(
    ("content", "type"),
    [
        (Text("x"), "message"),
        (Parts((Text("x"), Media("image/png", data="aGk="), Data([1]))), "message"),
        (Media("image/png", url="https://example.org/x.png", name="x"), "message"),
        (ToolCall("1", "search", {"q": ["x"]}), "tool_call"),
        (ToolResult("1", {"found": None}), "tool_result"),
        (ToolResult("1", error="no"), "tool_result"),
        (Handoff("billing", "triage", "refund"), "handoff"),
        (StateChange({"phase": 1}), "state"),
        (Data({"any": [1, 1.0, None]}), "data"),
    ],
)
async def test_every_content_comes_back(talk: Conversation, content: Any, type: str):
    made = await talk.append(content)
    found = await talk.get(1)
    assert found == made
    assert (found.content, found.type) == (content, type)


async def test_plain_values_become_contents(talk: Conversation):
    for value, content in [
        ("x", Text("x")),
        ([Text("x"), Data(1)], Parts((Text("x"), Data(1)))),
        ({"a": 1}, Data({"a": 1})),
        ([1, 2], Data([1, 2])),
        ([], Data([])),
        (None, Data(None)),
        (1.0, Data(1.0)),
        (True, Data(True)),
    ]:
        assert (await talk.append(value)).content == content


class Order(pydantic.BaseModel):
    number: int
    at: datetime.datetime
    lines: tuple[str, ...] = ()


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Size(msgspec.Struct):
    width: int


async def test_models_dataclasses_and_structs_are_payloads(talk: Conversation):
    moment = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    await talk.append(Order(number=1, at=moment, lines=("a",)))
    await talk.append(Point(1, 2.0))
    await talk.append(Size(3))
    contents = [event.content async for event in talk.events()]
    assert contents == [
        Data({"number": 1, "at": "2001-01-01T00:00:00Z", "lines": ["a"]}),
        Data({"x": 1, "y": 2.0}),
        Data({"width": 3}),
    ]


async def test_a_model_that_holds_a_nan_is_refused(talk: Conversation):
    with pytest.raises(Invalid, match=r"content\.y is nan"):
        await talk.append(Point(1, math.nan))


async def test_many_are_appended_as_one(talk: Conversation):
    made = await talk.append_many(
        ["a", New(content="b", sender="bob"), {"content": {"c": 1}, "role": "tool"}, ToolCall("1", "t")]
    )
    assert [event.index for event in made] == [1, 2, 3, 4]
    assert [event async for event in talk.events()] == made
    assert made[1].sender == "bob"


@pytest.mark.parametrize(
    "events",
    [[], ["x"] * 46, [5], [None], [{"contents": "x"}], [{"sender": "x"}], [{"content": "x", "index": 4}], [b"x"]],
)
async def test_malformed_batches_of_events_are_refused_whole(talk: Conversation, events: Any):
    with pytest.raises(Invalid):
        await talk.append_many(events)
    assert await talk.length() == 0


@case("C1", "C8")
async def test_one_event_that_cannot_be_kept_refuses_all(talk: Conversation):
    with pytest.raises(Invalid):
        await talk.append_many(["a", Data(math.nan), "c"])
    assert await talk.length() == 0


async def test_forty_five_events_are_one_append(talk: Conversation):
    assert len(await talk.append_many([str(n) for n in range(45)])) == 45


async def test_a_log_that_ends_elsewhere_refuses_an_append(talk: Conversation):
    await talk.append("a", after=0)
    with pytest.raises(Conflict) as caught:
        await talk.append("b", after=0)
    assert (caught.value.reason, caught.value.expect, caught.value.found) == ("after", 0, 1)
    await talk.append_many(["b", "c"], after=1)
    assert await texts(talk) == ["a", "b", "c"]


@case("C2")
async def test_a_key_makes_an_append_idempotent(talk: Conversation, database: Database):
    first = await talk.append("hi", key="m1", metadata={"a": 1, "b": 2})
    database.clock.move(3600)
    again = await talk.append("hi", key="m1", metadata={"b": 2, "a": 1})
    assert again == first
    assert await texts(talk) == ["hi"]


@case("C2")
@pytest.mark.parametrize(
    "other",
    [
        {"content": "ho"},
        {"content": "hi", "sender": "bob"},
        {"content": "hi", "metadata": {"a": 1.0}},
        {"content": "hi", "metadata": {"a": True}},
        {"content": "hi", "type": "note"},
        {"content": "hi", "parent": 1},
        {"content": {"text": "hi"}},
    ],
)
async def test_a_key_used_for_something_else_is_a_conflict(talk: Conversation, other: dict[str, Any]):
    await talk.append("hi", metadata={"a": 1}, key="m1")
    with pytest.raises(Conflict) as caught:
        await talk.append(**other, key="m1")
    assert caught.value.reason == "once"
    assert await texts(talk) == ["hi"]


@case("C2")
async def test_a_batch_of_events_is_idempotent_as_a_whole(talk: Conversation):
    first = await talk.append_many(["a", "b"], key="k")
    assert await talk.append_many(["a", "b"], key="k") == first
    for other in (["a"], ["a", "b", "c"], ["b", "a"]):
        with pytest.raises(Conflict):
            await talk.append_many(other, key="k")
    assert await texts(talk) == ["a", "b"]


@case("C3")
async def test_a_key_belongs_to_its_conversation(store: Store):
    one, two = await store.conversations.create("a"), await store.conversations.create("b")
    assert (await one.append("x", key="k")).index == 1
    assert (await two.append("y", key="k")).index == 1
    assert await texts(one) == ["x"]
    assert await texts(two) == ["y"]


async def test_a_replay_does_not_count_as_activity(talk: Conversation, database: Database):
    await talk.append("a", key="k")
    database.clock.move(60)
    late = await talk._store.conversations.get(talk.id)  # a handle that has written nothing yet
    assert late is not None
    await late.append("a", key="k")
    await late.append("b")
    (row,) = await talk._store.conversations.list(user="alice")
    assert row.active_s * SECOND == database.clock()


async def test_a_key_of_a_cleared_event_is_still_used(talk: Conversation):
    await talk.append("a", key="k")
    await talk.clear()
    assert (await talk.append("a", key="k")).index == 1
    assert await indexes(talk) == []


@case("C1")
async def test_concurrent_appends_are_dense_and_all_there(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    made = await asyncio.gather(*[(talk, other)[n % 2].append(str(n)) for n in range(60)])
    assert sorted(event.index for event in made) == list(range(1, 61))
    assert {event.index: event.content.text for event in made} == dict(enumerate(await texts(talk), 1))


@case("F7")
async def test_order_is_by_index_with_a_frozen_or_backward_clock(talk: Conversation, database: Database):
    for n in range(3):
        await talk.append(str(n))
    database.clock.move(-3600)
    for n in range(3, 6):
        await talk.append(str(n))
    assert await texts(talk) == ["0", "1", "2", "3", "4", "5"]
    assert [e.content.text for e in await talk.history(limit=3)] == ["3", "4", "5"]


@case("F7")
async def test_two_writers_with_skewed_clocks_keep_one_order(talk: Conversation, database: Database):
    clocks = [lambda: database.clock() - 300 * SECOND, lambda: database.clock() + 300 * SECOND]
    handles = [await (await database.open(clock=clock)).conversations.get(talk.id) for clock in clocks]
    for n in range(10):
        handle = handles[n % 2]
        assert handle is not None
        assert (await handle.append(str(n))).index == n + 1
    assert await texts(talk) == [str(n) for n in range(10)]


@case("F8")
async def test_appends_never_rewrite_when_it_was_created(talk: Conversation, database: Database):
    created = talk.record.created_us
    database.clock.move(60)
    await talk.append("a")
    await talk.update(title="t")
    (row,) = await talk._store.conversations.list(user="alice")
    assert (await talk.refresh()).created_us == row.created_us == created
    assert talk.record.updated_us == database.clock()


# --- hostile values --------------------------------------------------------------------------------------------------


@case("F1", "F2", "F4")
@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
async def test_payloads_come_back_as_they_are(talk: Conversation, number: int):
    payload = DOCUMENTS[number]
    await talk.append(Data(payload))
    await talk.append(ToolCall("\x00\ud800", "\u2028", payload))
    await talk.append(ToolResult("\x00\ud800", payload))
    found = [event.content async for event in talk.events()]
    assert found == [Data(payload), ToolCall("\x00\ud800", "\u2028", payload), ToolResult("\x00\ud800", payload)]
    assert repr(found[0].data) == repr(payload)  # 1 is not 1.0, -0.0 is not 0.0
    await talk.append("and it goes on")


@case("F4")
@pytest.mark.parametrize("number", [*HUGE, -0.0, 5e-324, 1.0, 1, True, 1e22])
async def test_numbers_keep_value_and_type(talk: Conversation, number: Any):
    await talk.append({"n": number}, metadata={"n": number})
    await talk.set_state(data={"n": number})
    event, state = await talk.get(1), await talk.state()
    for found in (event.content.data["n"], event.metadata["n"], state.data["n"]):
        assert (type(found), repr(found)) == (type(number), repr(number))


@case("F1", "F2")
async def test_every_text_field_takes_any_text(store: Store):
    for text in STRINGS:
        talk = await store.conversations.create(f"c{text}", user=text, agent=text, title=text, metadata={text: text})
        await talk.append(
            text, type=text or None, sender=text, role=text, agent=text, channel=text, run=text, correlation=text,
            metadata={text: text, "list": [text]}, key=text or None,
        )  # fmt: skip
        await talk.set_state(active_agent=text, phase=text, data={text: [text, {text: text}]})
        await talk.handoff(text, reason=text, phase=text, metadata={text: text})
        one = await talk.get(1)
        state = await talk.state()
        assert one is not None
        assert (one.sender, one.role, one.run, one.metadata[text], one.content.text) == (text,) * 5
        assert (state.active_agent, state.phase, state.data[text]) == (text, text, [text, {text: text}])
        assert [e.index for e in await talk.history(where={"sender": text, f"metadata.{text}": text})] == [1]
        assert [row.id async for row in store.conversations.list(user=text, metadata={text: text})] == [f"c{text}"]


class Colour(StrEnum):
    RED = "red"


@case("F3", "F4", "S11")
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": math.nan}]}, "content.a[1].b"),
        ({"a": math.inf}, "content.a"),
        (-math.inf, "content"),
        ({1: 2}, "content"),
        ({"a": {None: 2}}, "content.a"),
        ({"a": (1, 2)}, "content.a"),
        ((1, 2), "content"),
        ({"a": b"x"}, "content.a"),
        (b"x", "content"),
        ({"a": {1, 2}}, "content.a"),
        ({"a": datetime.datetime(2001, 1, 1)}, "content.a"),
        ({"a": Colour.RED}, "content.a"),
        ({"a": object()}, "content.a"),
        (object(), "content"),
        ({"a": 10**4001}, "content.a"),
        (Data([math.nan]), "content.data[0]"),
        (ToolCall("1", "t", {"a": math.nan}), "content.arguments.a"),
        (ToolResult("1", {"a": math.nan}), "content.output.a"),
        (StateChange({"a": math.nan}), "content.changes.a"),
        (Parts((Text("x"), Data(math.nan))), "content.data"),
    ],
)
async def test_what_json_would_change_is_refused_by_path_before_any_write(talk: Conversation, value: Any, path: str):
    with pytest.raises(Invalid) as caught:
        await talk.append(value, key="k")
    assert path in str(caught.value)
    assert await talk.length() == 0


@case("F3")
@pytest.mark.parametrize("value", [math.nan, (1,), b"x", {1: 1}, object()])
async def test_metadata_and_state_refuse_it_too(store: Store, talk: Conversation, value: Any):
    for write in (
        lambda: talk.append("x", metadata={"a": value}),
        lambda: talk.set_state(data={"a": value}),
        lambda: talk.set_state(change=lambda s: msgspec.structs.replace(s, data={"a": value})),
        lambda: talk.update(metadata={"a": value}),
        lambda: talk.handoff("b", metadata={"a": value}),
        lambda: store.conversations.create("b", metadata={"a": value}),
    ):
        with pytest.raises(Invalid, match="a"):
            await write()
    assert await talk.length() == 0
    assert await store.conversations.get("b") is None
    assert (await talk.state()).data == {}


@pytest.mark.parametrize("name", ["type", "sender", "role", "agent", "channel", "run", "correlation", "parent"])
@pytest.mark.parametrize("value", [b"x", object(), ["a"], {"a": 1}, math.nan, 1.5])
async def test_a_field_of_the_wrong_type_is_refused_and_not_stored(talk: Conversation, name: str, value: Any):
    with pytest.raises(Invalid):
        await talk.append("x", **{name: value})
    assert await talk.length() == 0


@pytest.mark.parametrize("name", ["user", "agent", "title"])
async def test_a_record_of_the_wrong_type_is_refused_and_not_stored(store: Store, talk: Conversation, name: str):
    for value in (5, b"x", ["a"], object()):
        with pytest.raises(Invalid):
            await store.conversations.create("b", **{name: value})
        with pytest.raises(Invalid):
            await talk.update(**{name: value})
    for metadata in ([1], "x", 5):
        with pytest.raises(Invalid):
            await talk.append("x", metadata=metadata)  # type: ignore[arg-type]
        with pytest.raises(Invalid):
            await talk.update(metadata=metadata)  # type: ignore[arg-type]
        with pytest.raises(Invalid):
            await store.conversations.create("b", metadata=metadata)  # type: ignore[arg-type]
    assert await store.conversations.get("b") is None
    assert (await talk.refresh()).user == "alice"


@pytest.mark.parametrize(
    "content",
    [Text(5), Parts((5,)), Parts((Parts((Text("x"),)),)), ToolCall(1, "x"), ToolCall("1", None), Media("x", data=b"x")],
)
async def test_a_content_of_the_wrong_shape_is_refused_and_not_stored(talk: Conversation, content: Any):
    with pytest.raises(Invalid):
        await talk.append(content)
    assert await talk.length() == 0


@pytest.mark.parametrize("media", [Media("x"), Media("x", data="a", url="b")])
async def test_media_has_data_or_a_url(talk: Conversation, media: Media):
    with pytest.raises(Invalid):
        await talk.append(media)
    with pytest.raises(Invalid):
        await talk.append([media, Text("x")])


@case("S11")
@pytest.mark.parametrize("depth", [50, 97, 98, 99, 100, 101, 500, 5_000, 100_000])
async def test_deep_payloads_are_kept_or_refused_by_type(talk: Conversation, depth: int):
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    if depth <= 100:
        await talk.append(value)
        found = (await talk.get(1)).content.data
        for _ in range(depth):
            (found,) = found
        assert found == "x"
    else:
        with pytest.raises(Invalid, match="100 levels"):
            await talk.append(value)
        with pytest.raises(Invalid, match="100 levels"):
            await talk.append("x", metadata={"a": value})
        assert await talk.length() == 0


@case("S11")
async def test_metadata_beyond_the_floor_is_too_large(talk: Conversation):
    for metadata in ({str(n): n for n in range(65)}, {"a": "x" * 4100}, {str(n): n for n in range(100_000)}):
        with pytest.raises(TooLarge):
            await talk.append("x", metadata=metadata)
    assert await talk.length() == 0


async def test_a_record_stays_in_its_row(store: Store, talk: Conversation):
    large = {"a": [{"b": "x" * 250_000}]}
    with pytest.raises(TooLarge):
        await store.conversations.create("b", metadata=large)
    with pytest.raises(TooLarge):
        await talk.update(metadata=large)
    with pytest.raises(TooLarge):
        await store.conversations.create("b", user="x" * 500)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def ten(talk: Conversation) -> Conversation:
    await talk.append_many([{"content": str(n), "sender": "ab"[n % 2], "metadata": {"n": n}} for n in range(1, 11)])
    return talk


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, range(1, 11)),
        ({"limit": 3}, [8, 9, 10]),
        ({"limit": 3, "before": 5}, [2, 3, 4]),
        ({"limit": 3, "before": 2}, [1]),
        ({"before": 1}, []),
        ({"before": -5}, []),
        ({"before": 10**30, "limit": 1}, [10]),
        ({"after": 0, "limit": 2}, [1, 2]),
        ({"after": 8}, [9, 10]),
        ({"after": 10}, []),
        ({"after": 10**30}, []),
        ({"after": -3, "limit": 1}, [1]),
        ({"after": 2, "before": 6}, [3, 4, 5]),
        ({"where": {"sender": "a"}, "limit": 2}, [8, 10]),
        ({"where": {"sender": "a"}, "after": 0, "limit": 2}, [2, 4]),
        ({"where": {"metadata.n": {"ge": 3, "lt": 6}}}, [3, 4, 5]),
        ({"where": {"sender": ["a", "z"], "$not": {"metadata.n": 4}}, "limit": 2, "before": 7}, [2, 6]),
        ({"where": {"sender": "nobody"}}, []),
        ({"where": {}}, range(1, 11)),
    ],
)
async def test_history_gives_the_end_or_what_follows(ten: Conversation, asked: dict[str, Any], expected: Any):
    assert [event.index for event in await ten.history(**asked)] == list(expected)


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("where", [None, {"sender": "a"}])
async def test_history_pages_both_ways(ten: Conversation, limit: int, where: Any):
    for start in ({}, {"after": 0}):
        found: list[int] = []
        cursor = None
        while True:
            page = await ten.history(limit=limit, where=where, cursor=cursor, **start)
            assert len(page) <= limit
            here = [event.index for event in page]
            assert here == sorted(here)
            found = found + here if start else here + found
            cursor = page.cursor
            if cursor is None:
                break
        assert found == [n for n in range(1, 11) if where is None or n % 2 == 0]


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": 1001},
        {"budget": 0},
        {"cursor": "x"},
        {"cursor": ""},
        {"where": {"sender": None}},
        {"where": {"sender": {"like": "x"}}},
        {"where": {"$where": "1"}},
        {"where": "sender = 'a'"},
        {"where": {"sender": math.nan}},
    ],
)
async def test_malformed_questions_are_invalid(ten: Conversation, asked: dict[str, Any]):
    with pytest.raises(Invalid):
        await ten.history(**asked)


async def test_a_cursor_is_for_its_own_question(ten: Conversation, store: Store):
    other = await store.conversations.create("other")
    await other.append_many(["x", "y", "z"])
    cursor = (await ten.history(limit=2)).cursor
    for talk, asked in ((other, {}), (ten, {"after": 0}), (ten, {"where": {"sender": "a"}}), (ten, {"before": 9})):
        with pytest.raises(Invalid):
            await talk.history(limit=2, cursor=cursor, **asked)


async def test_events_gives_all_and_goes_on_where_one_stopped(talk: Conversation):
    for first in range(0, 450, 45):
        await talk.append_many([str(n) for n in range(first, first + 45)])
    assert await indexes(talk) == list(range(1, 451))
    assert [e.index async for e in talk.events(after=448)] == [449, 450]
    assert [e.index async for e in talk.events(where={"type": "note"})] == []


async def test_a_budget_ends_a_page_and_not_the_history(talk: Conversation):
    for _ in range(3):
        await talk.append_many(["x"] * 40)
    await talk.append("y", sender="bob")
    await talk.append_many(["x"] * 40)
    page = await talk.history(where={"sender": "bob"}, budget=10)
    assert (len(page), page.cursor is None) == (0, False)
    found, cursor, pages = [], None, 0
    while True:
        page = await talk.history(where={"sender": "bob"}, budget=10, cursor=cursor)
        found += [event.index for event in page]
        cursor, pages = page.cursor, pages + 1
        if cursor is None:
            break
    assert found == [121]
    assert pages >= 16


@case("C8")
async def test_pending_calls_are_found(talk: Conversation):
    await talk.append_many([ToolCall("a", "t"), ToolCall("b", "t"), ToolResult("a", 1), "hm", ToolCall("a", "t")])
    assert [event.index for event in await talk.pending()] == [2, 5]
    await talk.append(ToolResult("b", error="broken off"))
    assert [event.index for event in await talk.pending()] == [5]
    assert await talk.pending(last=1) == []


# --- state and handoffs ----------------------------------------------------------------------------------------------


async def test_state_is_empty_then_what_was_set(talk: Conversation, database: Database):
    empty = await talk.state()
    assert (empty.active_agent, empty.phase, empty.handoffs, empty.data) == (None, None, 0, {})
    await talk.set_state(active_agent="triage", phase="greeting", data={"a": 1, "b": {"c": 2}})
    state = await talk.set_state(active_agent="billing", data={"a": None, "d": 4})
    assert state == await talk.state()
    assert (state.active_agent, state.previous_agent, state.phase) == ("billing", "triage", "greeting")
    assert state.data == {"b": {"c": 2}, "d": 4}
    assert state.updated_us == database.clock()
    assert (await talk.set_state(active_agent=None, phase=None)).active_agent is None


async def test_setting_what_is_there_writes_nothing(talk: Conversation, database: Database):
    before = await talk.set_state(phase="x", data={"a": 1})
    database.clock.move(5)
    assert await talk.set_state(phase="x", data={"a": 1}) == before
    assert await talk.state() == before


@case("C7")
async def test_concurrent_changes_of_state_are_all_kept(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None

    def count(state: Any) -> Any:
        return msgspec.structs.replace(state, data={**state.data, "n": state.data.get("n", 0) + 1})

    await asyncio.gather(*[(talk, other)[n % 2].set_state(change=count) for n in range(25)])
    await asyncio.gather(*[(talk, other)[n % 2].set_state(data={f"key{n}": n}) for n in range(15)])
    data = (await talk.state()).data
    assert data.pop("n") == 25
    assert data == {f"key{n}": n for n in range(15)}


async def test_a_handoff_is_state_and_event_at_once(talk: Conversation):
    await talk.set_state(active_agent="triage", phase="greeting")
    event = await talk.handoff("billing", reason="refund", metadata={"why": "money"})
    state = await talk.state()
    assert event.content == Handoff("billing", "triage", "refund")
    assert (event.index, event.agent, event.type) == (1, "triage", "handoff")
    assert await talk.get(1) == event
    assert (state.active_agent, state.previous_agent, state.phase, state.handoffs) == (
        "billing", "triage", "greeting", 1,
    )  # fmt: skip
    await talk.handoff("triage", phase="closing")
    assert ((await talk.state()).phase, (await talk.state()).handoffs) == ("closing", 2)


@case("C2")
async def test_a_key_makes_a_handoff_idempotent(talk: Conversation):
    first = await talk.handoff("billing", reason="refund", key="h1")
    await talk.handoff("sales")
    assert await talk.handoff("billing", reason="refund", key="h1") == first
    state = await talk.state()
    assert (state.active_agent, state.handoffs) == ("sales", 2)
    assert await talk.length() == 2
    with pytest.raises(Conflict):
        await talk.handoff("other", key="h1")


async def test_concurrent_handoffs_form_one_chain(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    await asyncio.gather(*[(talk, other)[n % 2].handoff(f"agent{n}") for n in range(12)])
    state = await talk.state()
    chain = [e.content async for e in talk.events(where={"type": "handoff"})]
    assert state.handoffs == len(chain) == 12
    assert {one.to for one in chain} == {f"agent{n}" for n in range(12)}
    assert [one.previous for one in chain] == [None, *(one.to for one in chain[:-1])]
    assert state.active_agent == chain[-1].to
    assert state.previous_agent == chain[-1].previous


async def test_state_of_a_deleted_conversation_is_not_written(talk: Conversation):
    await talk.delete()
    with pytest.raises(NotFound):
        await talk.set_state(phase="x")
    with pytest.raises(NotFound):
        await talk.handoff("x")
    with pytest.raises(NotFound):
        await talk.append("x")
    assert (await talk.state()).phase is None


# --- the record ------------------------------------------------------------------------------------------------------


async def test_an_update_changes_what_is_named_and_nothing_else(talk: Conversation):
    await talk.update(title="t", metadata={"a": 1, "b": 2})
    record = await talk.update(user=None, metadata={"a": None, "c": 3})
    assert (record.user, record.agent, record.title) == (None, "triage", "t")
    assert record.metadata == {"b": 2, "c": 3}
    assert await talk.refresh() == record == talk.record


async def test_concurrent_updates_are_all_kept(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    await asyncio.gather(*[(talk, other)[n % 2].update(metadata={f"k{n}": n}) for n in range(20)])
    assert (await talk.refresh()).metadata == {f"k{n}": n for n in range(20)}


async def test_updating_what_is_gone_is_not_found(talk: Conversation):
    await talk.delete()
    for call in (talk.update(title="x"), talk.refresh(), talk.close(), talk.reopen(), talk.clear(), talk.delete()):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await talk.fork()


# --- close, delete, clear --------------------------------------------------------------------------------------------


async def test_a_closed_conversation_refuses_appends_until_it_is_reopened(talk: Conversation, database: Database):
    late = await (await database.open()).conversations.get(talk.id)
    assert late is not None
    await late.append("a")
    record = await talk.close()
    assert record.status == "closed"
    for handle in (talk, late):
        with pytest.raises(Invalid, match="closed"):
            await handle.append("b")
        with pytest.raises(Invalid, match="closed"):
            await handle.handoff("b")
    assert await texts(talk) == ["a"]
    await talk.reopen()
    await late.append("b")
    assert await texts(talk) == ["a", "b"]


async def test_closing_twice_is_a_conflict_at_once(talk: Conversation):
    talk._store.connection.sleep = _never
    await talk.close()
    with pytest.raises(Conflict, match="closed already"):
        await talk.close()
    await talk.reopen()
    with pytest.raises(Conflict, match="open already"):
        await talk.reopen()


async def _never(seconds: float) -> None:
    raise AssertionError("nothing here is worth a pause")


async def test_an_append_that_meets_a_reopening_is_done(talk: Conversation, database: Database):
    """The log was sealed when the append came, and is open when the reason is looked up."""
    await talk.close()
    stale = await (await database.open()).conversations.get(talk.id)
    assert stale is not None
    handle = stale._handle
    first = handle.refresh

    async def reopened() -> Any:
        await talk.reopen()
        return await first()

    handle.refresh = reopened  # type: ignore[method-assign]
    assert (await stale.append("x")).index == 1


async def test_a_deleted_conversation_is_gone_with_all_that_is_its(store: Store, talk: Conversation):
    await talk.append("a")
    await talk.set_state(phase="x")
    await store.conversations.delete(talk.id)
    assert await store.conversations.get(talk.id) is None
    assert await indexes(talk) == []
    assert await talk.get(1) is None
    assert [one async for one in store.conversations.list(user="alice")] == []
    with pytest.raises(NotFound):
        await store.conversations.delete(talk.id)


async def test_a_recreated_conversation_goes_on_counting(store: Store, talk: Conversation):
    await talk.append_many(["a", "b"])
    await talk.set_state(phase="old")
    await talk.delete()
    again = await store.conversations.create(talk.id, user="bob")
    assert await indexes(again) == []
    assert (await again.state()).phase is None
    assert (await again.append("c")).index == 3
    assert await texts(again) == ["c"]


@case("C3")
async def test_a_key_of_a_deleted_conversation_is_free_in_the_next_one(store: Store, talk: Conversation):
    await talk.append("x", key="k")
    await talk.delete()
    again = await store.conversations.create(talk.id)
    await again.append("x", key="k")
    assert await texts(again) == ["x"]


@case("C3")
async def test_every_keyed_write_is_new_in_every_life(store: Store, database: Database):
    """Of three lives under one id, with the same keys for the same and for other contents."""
    for life in range(3):
        talk = await store.conversations.ensure("c")
        assert (await talk.append("x", key="k")).index == 4 * life + 1
        assert [event.index for event in await talk.append_many(["y", f"{life}"], key="m")] == [
            4 * life + 2,
            4 * life + 3,
        ]
        assert (await talk.handoff("sales", key="h")).index == 4 * life + 4
        assert (await talk.state()).handoffs == 1
        assert await indexes(talk) == list(range(4 * life + 1, 4 * life + 5))
        await store.conversations.delete("c")


@case("C2")
async def test_a_key_is_the_same_for_every_handle_of_a_life(talk: Conversation, database: Database):
    first = await talk.append("x", key="k")
    await talk.update(title="changed")
    await talk.close()
    await talk.reopen()
    await talk.clear()
    other = await database.open()
    for handle in (talk, await other.conversations.ensure(talk.id), await other.conversations.get(talk.id)):
        assert handle is not None
        assert (await handle.append("x", key="k")).index == first.index
        with pytest.raises(Conflict):
            await handle.append("y", key="k")
    assert await talk.length() == 1


@case("C2")
async def test_a_retry_that_meets_the_next_life_has_what_its_own_gave(talk: Conversation, store: Store):
    """It was stored once, before the deletion: that is what a retry wants to know. The next life does not get it."""
    first = await talk.append("x", key="k")
    await talk.delete()
    again = await store.conversations.create(talk.id)
    assert (await talk.append("x", key="k")).index == first.index
    assert await indexes(again) == []


@case("C3")
async def test_a_conversation_from_before_there_were_lives_knows_its_keys(store: Store):
    """Its record has no such field, and engines remember its keys as they are."""
    made = await store.conversations.create("c")
    old = msgspec.structs.replace(made.record, life="")
    await store.commit("c", [record_of(type(old)).put(old, "exists")])
    (row,) = await store.engine.get([Key("conversation", "c", "")])
    assert row is not None
    assert b"life" not in row.doc
    talk = await store.conversations.get("c")
    assert talk is not None
    event = Event(conversation="c", type="message", content=Text("x"), key="k")
    said = ("message", Text("x"), *(None,) * 7, {})
    await store.commit("c", [record_of(Event).append(event)], once="k", digest=digest_of([said]))
    assert (await talk.append("x", key="k")).index == 1
    assert (await talk.update(title="t")).life == ""
    await talk.delete()
    again = await store.conversations.create("c")
    assert (await again.append("x", key="k")).index == 2


def test_an_empty_key_is_no_key_in_any_life():
    """A life before it must not make one of it."""
    handle = Handle.__new__(Handle)
    handle.record = ConversationRecord(id="c", life="l")
    assert [handle.once(key) for key in ("k", "", None)] == ["l/k", "", None]


APPENDS = 3
"""How many of `writes` come first and are appends."""


def writes(late: Conversation) -> list[Callable[[], Awaitable[object]]]:
    """Everything a handle can write."""
    return [
        lambda: late.append("late"),
        lambda: late.append("late", key="late"),
        lambda: late.append_many(["late", "later"]),
        lambda: late.handoff("late"),
        lambda: late.set_state(phase="late"),
        lambda: late.update(title="late"),
        lambda: late.close(),
        lambda: late.reopen(),
        lambda: late.clear(),
        lambda: late.fork(),
        lambda: late.delete(),
        lambda: late.refresh(),
    ]


@case("C3")
@pytest.mark.parametrize("number", range(12))
async def test_a_late_writer_writes_nothing_into_the_next_life(
    store: Store, talk: Conversation, database: Database, number: int
):
    """Neither the handle that deleted, nor one beside it that wrote in this second, nor one of another process."""
    beside, far = await store.conversations.get(talk.id), await (await database.open()).conversations.get(talk.id)
    assert beside is not None
    assert far is not None
    for late in (talk, beside, far):
        await late.append("before")
    await talk.delete()
    again = await store.conversations.create(talk.id, user="bob")
    await again.append("mine")
    await again.handoff("sales")
    state = await again.state()
    for late in (talk, beside):
        with pytest.raises(NotFound):
            await writes(late)[number]()
    if number < APPENDS:
        database.clock.move(1)  # of these, the first in each second looks at the record
    with pytest.raises(NotFound):
        await writes(far)[number]()
    assert await texts(again) == ["mine"]
    assert await again.length() == 5
    assert (await again.state(), await again.refresh()) == (state, again.record)


async def test_a_deletion_by_id_is_of_whatever_life_is_there(store: Store, talk: Conversation):
    await talk.append("x")
    await talk.delete()
    again = await store.conversations.create(talk.id)
    await again.append("y")
    await again.update(title="t")
    await store.conversations.delete(talk.id)
    assert await store.conversations.get(talk.id) is None


async def test_a_handle_deletes_and_clears_what_others_changed_meanwhile(store: Store, talk: Conversation):
    other = await store.conversations.get(talk.id)
    assert other is not None
    await talk.append("x")
    await other.update(title="t")
    await talk.clear()
    assert await indexes(other) == []
    await other.update(title="u")
    await talk.delete()
    assert await store.conversations.get(talk.id) is None


async def test_a_tail_ends_with_its_life(store: Store, talk: Conversation):
    await talk.append("x")
    tail = talk.tail(after=0)
    assert (await anext(tail)).index == 1
    await talk.delete()
    await store.conversations.create(talk.id)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(tail), 10)


async def test_a_life_is_kept_by_changes_and_shown_in_lists(store: Store, talk: Conversation, database: Database):
    life = talk.record.life
    assert life
    await talk.update(title="t")
    await talk.close()
    await talk.reopen()
    database.clock.move(2)
    await talk.append("x")
    assert (await talk.refresh()).life == life
    assert [one.life for one in await store.conversations.list()] == [life]
    copy = await talk.fork()
    assert copy.record.life not in ("", life)
    assert (copy.record.origin and copy.record.origin.life) == life


async def test_no_append_is_acknowledged_after_a_delete(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    acknowledged: list[int] = []

    async def write(handle: Conversation) -> None:
        while True:
            try:
                event = await handle.append("x")
            except NotFound:
                return
            acknowledged.append(event.index)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(write(handle)) for handle in (talk, other) for _ in range(3)]
    while len(acknowledged) < 30:
        await asyncio.sleep(0)
    await talk.delete()
    before = len(acknowledged)
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert await indexes(talk) == []
    again = await talk._store.conversations.create(talk.id)
    made = await again.append("new")
    assert made.index > max(acknowledged)
    assert await indexes(again) == [made.index]
    assert len(acknowledged) - before <= 6  # replies that were on their way


async def test_a_handle_that_outlived_its_database_writes_nothing(talk: Conversation, store: Store):
    """It was active in this second, so no recency goes with the append that would find the record missing."""
    async with Store.open("memory://", clock=store.clock) as empty:
        late = Conversation(empty, talk.record, talk._handle.rev)
        late._handle.active_s = store.clock() // SECOND
        with pytest.raises(NotFound):
            await late.append("x")
        assert await late.length() == 0


async def test_close_refuses_concurrent_appenders(talk: Conversation):
    acknowledged: list[int] = []

    async def write() -> None:
        while True:
            try:
                acknowledged.append((await talk.append("x")).index)
            except Invalid:
                return
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(write()) for _ in range(4)]
    while len(acknowledged) < 20:
        await asyncio.sleep(0)
    await talk.close()
    length = await talk.length()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert await talk.length() == length
    assert await indexes(talk) == sorted(acknowledged) == list(range(1, length + 1))


async def test_clear_removes_what_is_there_and_numbers_go_on(talk: Conversation, database: Database):
    await talk.append_many(["a", "b"])
    await talk.set_state(phase="x")
    await talk.clear()
    assert (await talk.append("c")).index == 3
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    assert await texts(other) == ["c"]
    assert await other.get(1) is None
    assert (await other.state()).phase == "x"
    assert [e.index for e in await other.history(after=0)] == [3]


async def test_clear_of_an_empty_and_of_a_closed_conversation(talk: Conversation):
    await talk.clear()
    await talk.append("a")
    await talk.close()
    await talk.clear()
    assert await indexes(talk) == []
    with pytest.raises(Invalid):
        await talk.append("b")


# --- lists -----------------------------------------------------------------------------------------------------------


async def listed(store: Store, **asked: Any) -> list[str]:
    return [row.id async for row in store.conversations.list(**asked)]


async def test_lists_are_newest_first_exact_to_a_second(store: Store, database: Database):
    for n in range(5):
        await store.conversations.create(f"c{n}", user="u", agent=f"g{n % 2}", metadata={"n": n})
        database.clock.move(1)
    assert await listed(store) == ["c4", "c3", "c2", "c1", "c0"]
    one = await store.conversations.get("c1")
    assert one is not None
    await one.append("x")
    assert await listed(store) == ["c1", "c4", "c3", "c2", "c0"]
    assert await listed(store, user="u") == ["c1", "c4", "c3", "c2", "c0"]
    assert await listed(store, agent="g1") == ["c1", "c3"]
    assert await listed(store, user="u", agent="g0", metadata={"n": {"gt": 0}}) == ["c4", "c2"]
    await one.close()
    assert await listed(store, status="closed") == ["c1"]
    assert await listed(store, status="open", user="u") == ["c4", "c3", "c2", "c0"]
    assert await listed(store, user="v") == []
    assert (await store.conversations.list(limit=1))[0].active_at.year == 2001


@pytest.mark.parametrize("limit", range(1, 8))
async def test_lists_page_with_every_limit(store: Store, database: Database, limit: int):
    for n in range(6):
        await store.conversations.create(f"c{n}", user="u", metadata={"even": n % 2 == 0})
        database.clock.move(1)
    for asked, expected in (
        ({}, ["c5", "c4", "c3", "c2", "c1", "c0"]),
        ({"user": "u", "metadata": {"even": True}}, ["c4", "c2", "c0"]),
    ):
        assert await listed(store, limit=limit, **asked) == expected
        found: list[str] = []
        cursor = None
        while True:
            page = await store.conversations.list(limit=limit, after=cursor, **asked)
            assert len(page) <= limit
            found += [row.id for row in page]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == expected


async def test_find_asks_any_facet(store: Store):
    for n in range(6):
        await store.conversations.create(
            f"c{n}", user=f"u{n % 3}", metadata={"n": n, "tags": ["x", f"t{n}"], "deep": {"er": n % 2}}
        )

    async def found(where: Any, **asked: Any) -> list[str]:
        return sorted([row.id async for row in store.conversations.find(where, **asked)])

    assert await found({"user": "u1"}) == ["c1", "c4"]
    assert await found({"metadata.n": {"ge": 2, "lt": 4}}) == ["c2", "c3"]
    assert await found({"metadata.tags": "t3"}) == ["c3"]
    assert await found({"$or": [{"metadata.n": 0}, {"metadata.deep.er": 1, "user": "u2"}]}) == ["c0", "c5"]
    assert await found({"metadata.deep.er": 1}, limit=1) == ["c1", "c3", "c5"]
    assert await found({}) == [f"c{n}" for n in range(6)]
    assert await found({"metadata.missing": {"exists": False}, "status": "open"}, limit=2) == [
        f"c{n}" for n in range(6)
    ]
    with pytest.raises(Invalid):
        await store.conversations.find({"user": None})


@case("S2")
async def test_names_of_metadata_are_data(store: Store):
    for n, name in enumerate(SYNTAX):
        await store.conversations.create(f"c{n}", user="u", metadata={name: "yes", "n": n})
    for n, name in enumerate(SYNTAX):
        assert await listed(store, user="u", metadata={name: "yes"}) == [f"c{n}"]
        assert await listed(store, user=name) == []
        assert await listed(store, user="u", metadata={"n": n, name: {"ne": "no"}}) == [f"c{n}"]


async def test_a_dotted_name_and_a_nested_one_are_both_asked_by_the_path(store: Store):
    await store.conversations.create("c", user="u", metadata={"a.b": 1, "a": {"b": 2}})
    for value, expected in ((1, ["c"]), (2, ["c"]), (3, [])):
        assert await listed(store, user="u", metadata={"a.b": value}) == expected


async def test_a_stale_handle_does_not_bring_an_old_record_back(store: Store, talk: Conversation, database: Database):
    stale = await (await database.open()).conversations.get(talk.id)
    assert stale is not None
    await talk.update(user="bob", title="new", metadata={"tier": "gold"})
    database.clock.move(5)
    await stale.append("x")
    assert await listed(store, user="alice") == []
    (row,) = await store.conversations.list(user="bob")
    assert (row.title, row.metadata, row.active_s * SECOND) == ("new", {"tier": "gold"}, database.clock())
    assert stale.record.user == "bob"


async def test_an_update_that_meets_an_append_keeps_the_newer_recency(
    store: Store, talk: Conversation, database: Database
):
    """The append comes between the update's read of the list row and its commit."""
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    commit = store.commit
    met = False

    async def late(*args: Any, **options: Any) -> Any:
        nonlocal met
        if not met:
            met = True
            database.clock.move(60)
            await other.append("x")
        return await commit(*args, **options)

    store.commit = late  # type: ignore[method-assign]
    await talk.update(title="new")
    (row,) = await store.conversations.list(user="alice")
    assert (row.title, row.active_s * SECOND) == ("new", database.clock())


async def test_list_rows_end_up_true_under_concurrent_updates_and_appends(
    store: Store, talk: Conversation, database: Database
):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None

    async def append(handle: Conversation) -> None:
        for _ in range(15):
            database.clock.move(1)
            await handle.append("x")

    async def update(handle: Conversation) -> None:
        for n in range(15):
            await handle.update(user=f"u{n}", metadata={"n": n})

    await asyncio.gather(append(talk), append(other), update(talk), update(other))
    record = await talk.refresh()
    (row,) = [row async for row in store.conversations.list()]
    assert (row.user, row.title, row.metadata, row.updated_us) == (
        record.user, record.title, record.metadata, record.updated_us,
    )  # fmt: skip
    last = await talk.get(await talk.length())
    assert last is not None
    # Whoever was stamped first may be written last, and writes its recency anew after a conflict.
    assert last.created_us // SECOND <= row.active_s <= database.clock() // SECOND


# --- tail ------------------------------------------------------------------------------------------------------------


async def test_a_tail_sees_what_another_handle_appends(talk: Conversation, database: Database):
    other = await (await database.open()).conversations.get(talk.id)
    assert other is not None
    await talk.append("before")
    tail = other.tail()
    waiting = asyncio.create_task(anext(tail))
    while not waiting.done():
        await talk.append("now")
        for _ in range(20):
            await asyncio.sleep(0)
    first = await waiting
    assert first.content == Text("now")
    assert first.index >= 2
    await tail.aclose()


async def test_a_tail_resumes_behind_an_index_and_filters(talk: Conversation):
    await talk.append_many([{"content": str(n), "sender": "ab"[n % 2]} for n in range(1, 11)])
    assert [e.index async for e in talk.tail(after=7, idle=1)] == [8, 9, 10]
    assert [e.index async for e in talk.tail(after=0, idle=1, where={"sender": "a"})] == [2, 4, 6, 8, 10]
    assert [e.index async for e in talk.tail(idle=1)] == []


async def test_a_tail_is_idle_for_as_long_as_it_is_asked(talk: Conversation):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    talk._store.connection.sleep = sleep
    assert [e async for e in talk.tail(idle=3.0, poll=0.1)] == []
    assert sum(slept) == pytest.approx(3.0)
    assert slept[0] == 0.1
    assert max(slept) <= 2.0
    assert slept[:5] == sorted(slept[:5])


async def test_a_tail_ends_when_the_conversation_is_deleted(talk: Conversation):
    await talk.append("a")
    seen: list[int] = []

    async def follow() -> None:
        async for event in talk.tail(after=0):
            seen.append(event.index)

    task = asyncio.create_task(follow())
    while not seen:
        await asyncio.sleep(0)
    await talk.delete()
    await asyncio.wait_for(task, 10)
    assert seen == [1]


async def test_a_tail_gets_everything_in_order_while_many_append(talk: Conversation):
    seen: list[int] = []

    async def follow() -> None:
        async for event in talk.tail(after=0):
            seen.append(event.index)
            if len(seen) == 60:
                return

    async def write() -> None:
        for _ in range(15):
            await talk.append("x")
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(follow(), *[write() for _ in range(4)]), 30)
    assert seen == list(range(1, 61))


async def test_a_tail_lives_through_a_clear(talk: Conversation):
    await talk.append_many(["a", "b"])
    await talk.clear()
    await talk.append("c")
    assert [e.index async for e in talk.tail(after=1, idle=0.1)] == [3]


# --- fork ------------------------------------------------------------------------------------------------------------


async def test_a_fork_has_the_events_under_their_indexes_and_its_own_life(ten: Conversation, store: Store):
    await ten.set_state(phase="x", data={"a": 1})
    copy = await ten.fork()
    assert copy.id != ten.id
    assert [e.content.text async for e in copy.events()] == [e.content.text async for e in ten.events()]
    assert {e.conversation async for e in copy.events()} == {copy.id}
    assert await indexes(copy) == list(range(1, 11))
    assert copy.record.origin is not None
    assert (copy.record.origin.conversation, copy.record.origin.index) == (ten.id, 10)
    assert (copy.record.user, copy.record.status) == ("alice", "open")
    assert ((await copy.state()).phase, (await copy.state()).data) == ("x", {"a": 1})
    assert (await copy.append("mine")).index == 11
    assert (await ten.append("theirs")).index == 11
    await copy.set_state(phase="y")
    assert (await ten.state()).phase == "x"
    assert set(await listed(store, user="alice")) == {copy.id, ten.id}


@pytest.mark.parametrize("at", range(11))
async def test_a_fork_at_any_index(ten: Conversation, at: int):
    copy = await ten.fork(at=at)
    assert await indexes(copy) == list(range(1, at + 1))
    assert (await copy.append("next")).index == at + 1


@pytest.mark.parametrize("at", [-1, 11, 10**20])
async def test_no_fork_beyond_the_end(ten: Conversation, store: Store, at: int):
    with pytest.raises(Invalid):
        await ten.fork(at=at, id="f")
    assert await store.conversations.get("f") is None


async def test_a_fork_in_the_middle_has_the_state_its_handoffs_say(talk: Conversation):
    await talk.set_state(active_agent="triage", phase="later")
    await talk.handoff("billing")
    await talk.append("x")
    await talk.handoff("sales")
    state = await (await talk.fork(at=2)).state()
    assert (state.active_agent, state.previous_agent, state.handoffs, state.phase) == ("billing", "triage", 1, None)
    assert (await (await talk.fork(at=0)).state()).handoffs == 0
    assert (await (await talk.fork()).state()).active_agent == "sales"


async def test_a_fork_called_again_goes_on_and_changes_nothing(ten: Conversation, store: Store):
    first = await ten.fork(id="f")
    await first.append("mine")
    await first.set_state(phase="mine")
    await ten.append("theirs")
    again = await ten.fork(id="f")
    assert await indexes(again) == list(range(1, 12))
    assert (await again.get(11)).content == Text("mine")
    assert (await again.state()).phase == "mine"
    with pytest.raises(Conflict):
        await ten.fork(at=3, id="f")
    await again.close()
    assert (await ten.fork(id="f")).record.status == "closed"


@case("C2")
async def test_a_fork_never_touches_another_conversation(ten: Conversation, store: Store):
    other = await store.conversations.create("other", user="bob")
    await other.append("precious")
    await other.set_state(phase="precious")
    for id in ("other", ten.id):
        with pytest.raises(Conflict):
            await ten.fork(id=id)
    assert await texts(other) == ["precious"]
    assert (await other.state()).phase == "precious"
    with pytest.raises(Conflict):
        await other.fork(id=(await ten.fork()).id)


async def test_a_fork_does_not_go_on_with_another_life_of_its_source(ten: Conversation, store: Store):
    await ten.fork(id="f")
    await ten.delete()
    again = await store.conversations.create(ten.id)
    await again.append("x")
    with pytest.raises(Conflict):
        await again.fork(id="f")
    assert await texts(await again.fork(id="g")) == ["x"]


async def test_a_fork_does_not_reuse_the_id_of_a_deleted_conversation(ten: Conversation, store: Store):
    other = await store.conversations.create("gone")
    await other.append("x")
    await other.delete()
    with pytest.raises(Invalid, match="deleted"):
        await ten.fork(id="gone")
    assert await store.conversations.get("gone") is None


async def test_a_fork_of_a_cleared_conversation_goes_on_counting(ten: Conversation):
    await ten.clear()
    await ten.append("k")
    copy = await ten.fork()
    assert await indexes(copy) == [11]
    await ten.clear()
    empty = await ten.fork()
    assert await indexes(empty) == []
    assert (await empty.append("l")).index == 12
    assert await indexes(await ten.fork(at=4)) == []


async def test_a_fork_of_a_closed_conversation_is_open(ten: Conversation):
    await ten.close()
    copy = await ten.fork()
    assert copy.record.status == "open"
    assert (await copy.append("x")).index == 11


async def test_a_fork_while_others_append_is_a_prefix(talk: Conversation):
    done = False

    async def write() -> None:
        while not done:
            await talk.append_many([{"content": "x"}, {"content": "y"}])
            await asyncio.sleep(0)

    writers = [asyncio.create_task(write()) for _ in range(2)]
    while await talk.length() < 100:
        await asyncio.sleep(0)
    copies = [await talk.fork() for _ in range(3)]
    done = True
    await asyncio.gather(*writers)
    for copy in copies:
        assert copy.record.origin is not None
        assert await indexes(copy) == list(range(1, copy.record.origin.index + 1))


async def test_forks_with_one_id_at_once_are_one_fork(talk: Conversation, database: Database):
    for _ in range(4):
        await talk.append_many(["x"] * 40)
    handles = [await (await database.open()).conversations.get(talk.id) for _ in range(3)]
    copies = await asyncio.gather(*[handle.fork(id="f") for handle in handles if handle is not None])
    assert len({copy.id for copy in copies}) == 1
    assert await indexes(copies[0]) == list(range(1, 161))
    assert (await copies[1].append("mine")).index == 161


async def met(database: Database, operation: str, kind: str) -> tuple[Store, Meeting]:
    made: list[Meeting] = []
    store = await database.open(wrap=lambda engine: made.append(Meeting(engine, operation, kind)) or made[0])
    return store, made[0]


async def test_a_fork_that_comes_late_changes_nothing_of_one_that_is_finished(ten: Conversation, database: Database):
    """It has read the events, and meanwhile another one finishes the fork, which is then used."""
    store, engine = await met(database, "commit", "event")
    slow = await store.conversations.get(ten.id)
    assert slow is not None
    await begin(ten, database, "f")

    async def finish() -> None:
        copy = await ten.fork(id="f")
        edited = Text("mine")
        await ten._store.update(Event, "f", seq_sort(3), lambda old: msgspec.structs.replace(old, content=edited))
        await copy.append("more")

    engine.meet = finish
    copy = await slow.fork(id="f")
    assert (await copy.get(3)).content == Text("mine")
    assert await indexes(copy) == list(range(1, 12))


async def begin(talk: Conversation, database: Database, id: str) -> None:
    """A fork that broke off after its record was written."""
    script = Script("commit")
    mine = await (await database.open(wrap=script.wrap)).conversations.get(talk.id)
    assert mine is not None
    script.set("ok", then="before")
    with pytest.raises(Unavailable):
        await mine.fork(id=id)


async def test_a_fork_whose_source_is_deleted_meanwhile_is_not_found(ten: Conversation, database: Database):
    store, engine = await met(database, "scan", "event")
    mine = await store.conversations.get(ten.id)
    assert mine is not None
    engine.meet = ten.delete
    with pytest.raises(NotFound):
        await mine.fork(id="f")
    copy = await store.conversations.get("f")
    assert copy is not None
    with pytest.raises(Invalid, match="not complete"):
        await copy.append("x")
    await copy.delete()


async def test_nothing_is_appended_to_a_fork_before_it_is_complete(talk: Conversation, database: Database):
    for _ in range(3):
        await talk.append_many(["x"] * 40)
    script = Script("commit")
    broken = await (await database.open(wrap=script.wrap)).conversations.get(talk.id)
    assert broken is not None
    script.set("ok", "ok", then="before")
    with pytest.raises(Exception, match="chaos"):
        await broken.fork(id="f")
    copy = await talk._store.conversations.get("f")
    assert copy is not None
    assert 0 < len(await indexes(copy)) < 120
    with pytest.raises(Invalid, match="not complete"):
        await copy.append("too early")
    whole = await talk.fork(id="f")
    assert await indexes(whole) == list(range(1, 121))
    assert (await copy.append("now")).index == 121


async def test_a_fork_keeps_what_this_version_does_not_know(ten: Conversation, store: Store, database: Database):
    key = Key("event", ten.id, seq_sort(3))
    row = await store.get_row(key)
    assert row is not None
    data = codec.decode(row.doc, dict)
    put = Put("event", key.sort, codec.encode({**data, "later": 1}), expect=row.rev)
    await store.commit_all([Batch(ten.id, (put,), store.ids())])
    copy = await ten.fork()
    kept = await store.get_row(Key("event", partition(copy.id), seq_sort(3)))
    assert kept is not None
    assert codec.decode(kept.doc, dict)["later"] == 1


# --- damage ----------------------------------------------------------------------------------------------------------


async def test_one_damaged_event_does_not_hide_the_others(ten: Conversation, store: Store):
    raw = store.connection.raw
    await raw.commit([Batch(ten.id, (Put("event", seq_sort(4), b"\x01junk", expect="exists"),), store.ids())])
    page = await ten.history()
    assert [event.index for event in page] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    (error,) = page.corrupt
    assert error.key == ("event", ten.id, seq_sort(4))
    with pytest.raises(Corrupt):
        await ten.get(4)
    with pytest.raises(Corrupt):
        await indexes(ten)
    with pytest.raises(Corrupt):
        [e async for e in ten.tail(after=0, idle=0.1)]
    assert [e.index async for e in ten.events(after=4)] == [5, 6, 7, 8, 9, 10]
    assert (await ten.append("on")).index == 11
    assert len((await ten.context(max_tokens=10**6)).events) == 10


async def test_a_damaged_list_row_is_written_anew(talk: Conversation, store: Store):
    await store.connection.raw.commit([Batch(talk.id, (Put("activity", "", b"junk"),), store.ids())])
    assert len((await store.conversations.list()).corrupt) <= 1
    await talk.update(title="new")
    assert [row.title async for row in store.conversations.list(user="alice")] == ["new"]


def test_hours_are_microseconds():
    assert HOUR == 3600 * SECOND
    assert Event(conversation="c", type="t", content=Text("x"), created_us=HOUR).created_at.hour == 1
