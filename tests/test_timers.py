"""Timers: quiet conversations pause and close, each once, none passed over, and activity wins."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentkeep import Conflict, Conversation, ConversationRecord, Invalid, Store, Text, Unavailable
from agentkeep.features.conversations.beginnings import activity_of
from agentkeep.features.conversations.belongings import place
from agentkeep.features.conversations.records import Activity, Event
from agentkeep.features.conversations.timers import TURNS, due_s, status_at
from agentkeep.ids import SECOND
from agentkeep.keys import partition
from agentkeep.records import record_of
from agentkeep.waist import Batch, Put, Trim
from engines import Database, Meeting
from transfers import dump_bytes, load_lines

RECORD, ACTIVITY, EVENT = record_of(ConversationRecord), record_of(Activity), record_of(Event)


async def opened(store: Store, id: str) -> Conversation:
    talk = await store.conversations.get(id)
    assert talk is not None
    return talk


async def status(store: Store, id: str) -> str:
    listed = [one.status async for one in store.conversations.find({}) if one.id == id]
    record = (await opened(store, id)).record
    assert listed == [record.status]
    return record.status


def test_the_rules_of_timers():
    record = ConversationRecord(id="a", pause_after_s=10, close_after_s=60)
    paused = msgspec.structs.replace(record, status="paused")
    closed = msgspec.structs.replace(record, status="closed")
    assert (due_s(record, 100), due_s(paused, 100), due_s(closed, 100)) == (111, 161, None)
    assert due_s(ConversationRecord(id="a"), 100) is None
    assert [status_at(record, 100, now) for now in (110, 111, 160, 161)] == ["open", "paused", "paused", "closed"]
    assert [status_at(paused, 100, now) for now in (111, 161)] == ["paused", "closed"]
    assert status_at(closed, 100, 10**9) == "closed"
    only = ConversationRecord(id="a", pause_after_s=10, status="paused")
    assert (due_s(only, 100), status_at(only, 100, 10**9)) == (None, "paused")
    assert set(TURNS) == {"open", "paused", "closed"}


async def test_a_quiet_conversation_pauses_then_closes(store: Store, database: Database):
    talk = await store.conversations.create("a", pause_after_s=10, close_after_s=60)
    await store.conversations.create("b")
    database.clock.move(10)
    swept = await store.conversations.sweep_timers()
    assert (swept.paused, swept.closed, swept.more, swept.corrupt) == ([], [], False, [])
    database.clock.move(1)
    assert (await store.conversations.sweep_timers()).paused == ["a"]
    assert await status(store, "a") == "paused"
    assert [one.id async for one in store.conversations.list(status="paused")] == ["a"]
    assert (await store.conversations.sweep_timers()).paused == []
    database.clock.move(50)
    assert (await store.conversations.sweep_timers()).closed == ["a"]
    assert await status(store, "a") == "closed"
    with pytest.raises(Invalid, match="closed"):
        await talk.append("late")
    assert (await store.conversations.sweep_timers()).closed == []
    await talk.reopen()
    assert (await store.conversations.sweep_timers()).closed == []
    database.clock.move(11)
    assert (await store.conversations.sweep_timers()).paused == ["a"]
    database.clock.move(10**9)
    assert (await store.conversations.sweep_timers()).closed == ["a"]
    assert await status(store, "b") == "open"


async def test_what_is_late_for_both_closes(store: Store, database: Database):
    await store.conversations.create("a", pause_after_s=10, close_after_s=60)
    database.clock.move(100)
    swept = await store.conversations.sweep_timers()
    assert (swept.paused, swept.closed) == ([], ["a"])


async def test_an_event_opens_a_paused_conversation_again_whoever_appends(database: Database):
    store, other = await database.open(), await database.open()
    talk = await store.conversations.create("a", pause_after_s=10)
    await talk.append("one")  # a handle that has appended in this second looks at no record
    stale = await opened(other, "a")
    await stale.append("two")
    database.clock.move(11)
    assert (await other.conversations.sweep_timers()).paused == ["a"]
    database.clock.move(-11)
    assert (await talk.append("three")).index == 3
    assert await status(store, "a") == "open"
    database.clock.move(11)
    assert (await store.conversations.sweep_timers()).paused == ["a"]
    found = await asyncio.gather(*[one.append("x") for one in (talk, stale) * 3])
    assert sorted(event.index for event in found) == [4, 5, 6, 7, 8, 9]
    assert await status(store, "a") == "open"
    assert (await store.conversations.sweep_timers()).paused == []


async def test_every_kind_of_append_opens_it_again_and_reading_does_not(store: Store, database: Database):
    talk = await store.conversations.create("a")
    for call in (
        lambda: talk.append_many(["a", "b"], key="k"),
        lambda: talk.handoff("billing"),
        lambda: talk.participants.join("bob"),
        lambda: talk.reopen(),
    ):
        assert (await talk.pause()).status == "paused"
        await talk.history()
        await talk.set_state(phase="x")
        await talk.bindings.add("sms", "sms")
        await talk.bindings.remove("sms")
        await talk.update(title="t")
        await talk.append_many(["a", "b"], key="k") if await talk.length() else None
        assert await status(store, "a") == "paused"
        await call()
        assert await status(store, "a") == "open"
    await talk.pause()
    with pytest.raises(Conflict):
        await talk.pause()
    await talk.close()
    with pytest.raises(Conflict):
        await talk.close()
    with pytest.raises(Conflict, match="reopen"):
        await talk.pause()
    with pytest.raises(Invalid):
        await talk.append("late")


async def test_activity_puts_a_timer_off_and_changing_it_moves_it(store: Store, database: Database):
    talk = await store.conversations.create("a", pause_after_s=10)
    for _ in range(4):
        database.clock.move(8)
        await talk.append("x")
        assert (await store.conversations.sweep_timers()).paused == []
    await talk.update(pause_after_s=None, close_after_s=5)
    database.clock.move(6)
    assert (await store.conversations.sweep_timers()).closed == ["a"]
    await talk.reopen()
    await talk.update(close_after_s=None)
    database.clock.move(10**6)
    assert (await store.conversations.sweep_timers()).closed == []


@pytest.mark.parametrize(
    "timers",
    [
        {"pause_after_s": 0},
        {"close_after_s": -1},
        {"pause_after_s": 1.5},
        {"pause_after_s": True},
        {"close_after_s": "5"},
        {"pause_after_s": 2**60},
        {"pause_after_s": 10, "close_after_s": 10},
        {"pause_after_s": 11, "close_after_s": 10},
    ],
)
async def test_timers_that_cannot_work_are_invalid(store: Store, timers: dict[str, Any]):
    with pytest.raises(Invalid):
        await store.conversations.create("a", **timers)
    assert await store.conversations.get("a") is None
    talk = await store.conversations.create("a")
    with pytest.raises(Invalid):
        await talk.update(**timers)
    assert (await talk.refresh()).pause_after_s is None


@pytest.mark.parametrize("limit", [0, -1, None, 1.5])
async def test_a_sweep_has_a_limit(store: Store, limit: Any):
    with pytest.raises(Invalid):
        await store.conversations.sweep_timers(limit=limit)


async def test_one_that_is_active_meanwhile_is_not_turned(database: Database):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Any:
        meeting.append(Meeting(engine, "commit", "conversation"))
        return meeting[0]

    store, other = await database.open(), await database.open(wrap=wrap)
    talk = await store.conversations.create("a", close_after_s=10)
    database.clock.move(11)
    meeting[0].meet = lambda: talk.append("I am here")
    swept = await other.conversations.sweep_timers()
    assert (swept.paused, swept.closed) == ([], [])
    assert await status(store, "a") == "open"
    meeting[0].meet = lambda: talk.update(close_after_s=None)
    database.clock.move(11)
    assert (await other.conversations.sweep_timers()).closed == []
    meeting[0].meet = lambda: talk.delete()
    await talk.update(close_after_s=1)
    assert (await other.conversations.sweep_timers()).closed == []
    assert await store.conversations.get("a") is None
    assert [one async for one in store.conversations.find({})] == []


async def test_a_fork_that_is_not_complete_is_not_turned(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = await database.open()
    talk = await store.conversations.create("a", close_after_s=10)
    await talk.append("one")
    commit_all = store.commit_all

    async def broken(batches: Any, **options: Any) -> Any:
        if options.get("restore"):
            raise Unavailable("cut", retryable=False)
        return await commit_all(batches, **options)

    monkeypatch.setattr(store, "commit_all", broken)
    with pytest.raises(Unavailable):
        await talk.fork(id="f")
    monkeypatch.undo()
    database.clock.move(11)
    assert (await store.conversations.sweep_timers()).closed == ["a"]
    fork = await opened(store, "f")
    with pytest.raises(Invalid, match="complete"):
        await fork.pause()
    with pytest.raises(Invalid, match="complete"):
        await fork.append("x")
    assert (await talk.fork(id="f")).record.status == "open"
    assert [event.content.text async for event in fork.events() if isinstance(event.content, Text)] == ["one"]
    assert (await store.conversations.sweep_timers()).closed == ["f"]


async def test_an_append_writes_no_more_than_before(database: Database):
    seen: list[int] = []

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner, self.capabilities = inner, inner.capabilities

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def commit(self, batches: Any, **options: Any) -> Any:
            seen.extend(len(batch.ops) for batch in batches)
            return await self.inner.commit(batches, **options)

    store = await database.open(wrap=Counting)
    for timers in ({}, {"pause_after_s": 10, "close_after_s": 20}):
        talk = await store.conversations.create(**timers)
        seen.clear()
        for _ in range(3):
            await talk.append("x")
        database.clock.move(1)
        await talk.append("x")
        assert seen == [3, 1, 1, 3]


# --- many ------------------------------------------------------------------------------------------------------------

MANY = 2_500


async def made(store: Store, database: Database, count: int, prefix: str = "r", **timers: int) -> list[str]:
    """Conversations, each a second after the one before, in bulk; their ids, in the order in which they are due."""
    batches: list[Batch] = []
    start = database.clock() // SECOND
    for number in range(count):
        record = ConversationRecord(
            id=f"{prefix}{number * 7919 % count:05d}", created_us=(start + number) * SECOND, life=store.ids(), **timers
        )
        ops = (
            RECORD.put(record, "absent"),
            ACTIVITY.put(activity_of(record, start + number)),
            Trim(EVENT.spec.name, sealed=False),
        )
        batches.append(Batch(partition(record.id), ops, store.ids()))
    for at in range(0, count, 250):
        for answer in await store.commit_all(batches[at : at + 250]):
            assert not isinstance(answer, Exception)
    return [batch.partition for batch in batches]


async def test_thousands_are_turned_in_one_sweep_in_the_order_in_which_they_are_due(store: Store, database: Database):
    ids = await made(store, database, MANY, close_after_s=100)
    database.clock.move(MANY + 200)
    began = time.monotonic()
    swept = await store.conversations.sweep_timers()
    assert time.monotonic() - began < 60
    assert swept.closed == ids
    assert not swept.more
    assert (await store.conversations.sweep_timers()).closed == []
    count, exact = await store.count(Activity, index="by_status", prefix=("closed",))
    assert (count, exact) == (MANY, True)


async def test_none_is_starved_by_older_ones_that_live(store: Store, database: Database):
    await made(store, database, 300, "old", close_after_s=10**6)
    young = await made(store, database, 300, "young", close_after_s=1)
    database.clock.move(1_000)
    first = await store.conversations.sweep_timers(limit=130)
    assert (first.closed, first.more) == (young[:130], True)
    second = await store.conversations.sweep_timers(limit=170)
    assert (second.closed, second.more) == (young[130:], False)


async def test_two_sweepers_turn_each_conversation_once(database: Database):
    stores = [await database.open() for _ in range(2)]
    ids = await made(stores[0], database, 400, pause_after_s=5)
    database.clock.move(1_000)
    one, two = await asyncio.gather(*[store.conversations.sweep_timers() for store in stores])
    assert sorted(one.paused + two.paused) == sorted(ids)


async def test_one_that_fails_keeps_no_other_from_its_turn(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = await database.open()
    await made(store, database, 10, close_after_s=5)
    database.clock.move(1_000)
    commit_all = store.commit_all

    async def broken(batches: Any, **options: Any) -> Any:
        answers = await commit_all(batches[1:], **options)
        return [Unavailable("cut", retryable=False), *answers]

    monkeypatch.setattr(store, "commit_all", broken)
    with pytest.raises(Unavailable):
        await store.conversations.sweep_timers()
    monkeypatch.undo()
    assert len((await store.conversations.sweep_timers()).closed) == 1


async def test_one_that_does_not_decode_is_named_and_left(store: Store, database: Database):
    ids = await made(store, database, 3, close_after_s=5)
    database.clock.move(1_000)
    await store.commit(ids[1], [Put("conversation", "", b"damaged")])
    swept = await store.conversations.sweep_timers()
    assert swept.closed == [ids[0], ids[2]]
    assert [error.key.partition for error in swept.corrupt if error.key is not None] == [ids[1]]


async def test_a_binding_that_does_not_decode_keeps_no_conversation_open(store: Store, database: Database):
    talk = await store.conversations.create("a", close_after_s=5)
    await talk.bindings.add("sms", "sms")
    damaged = Put("binding", place(talk.record.life, "sms"), b"damaged", facets={"shelf": "open"})
    await store.commit("a", [damaged])
    database.clock.move(1_000)
    assert (await store.conversations.sweep_timers()).closed == ["a"]
    await talk.reopen()
    await talk.close()


async def test_an_import_keeps_timers_and_what_is_paused(store: Store, database: Database, tmp_path: Path):
    talk = await store.conversations.create("a", organization="acme", pause_after_s=5, close_after_s=50)
    await talk.append("one")
    await talk.pause()
    written = await dump_bytes(store, tmp_path, "agentkeep")
    async with Store.open("memory://", clock=database.clock) as there:
        _, failures = await load_lines(there, tmp_path, "agentkeep", written)
        assert failures == []
        copy = await opened(there, "a")
        assert (copy.record.status, copy.record.organization) == ("paused", "acme")
        assert (await copy.append("two")).index == 2
        assert await status(there, "a") == "open"
        database.clock.move(51)
        assert (await there.conversations.sweep_timers()).closed == ["a"]
