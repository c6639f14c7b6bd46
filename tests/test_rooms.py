"""The room side of conversations: organisations, participants, bindings, and finding conversations by them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from agentkeep import Binding, Conflict, Conversation, Invalid, NotFound, Stay, Store, TooLarge, Unavailable
from agentkeep.features.conversations.belongings import places
from agentkeep.features.conversations.participants import Participant
from agentkeep.keys import partition
from agentkeep.testing.values import SEPARATED, STRINGS, SYNTAX
from engines import Database

HOSTILE = [
    *{*STRINGS, *SYNTAX, *(a + b for a, b in SEPARATED), "a#b", "a:b", "a/b", "a\nb", "a\0b", "\ud800", "😀"} - {""}
]
LONG = ["x" * 5_000 + last for last in "ab"]


@pytest.fixture
async def talk(store: Store) -> Conversation:
    return await store.conversations.create("room", organization="acme", user="alice")


async def who(talk: Conversation, index: int) -> list[tuple[str, str | None]]:
    return [(stay.participant, stay.role) async for stay in talk.participants.present_at(index)]


async def rooms(store: Store, participant: str, **asked: Any) -> list[str]:
    return [one.conversation.id async for one in store.conversations.list_by_participant(participant, **asked)]


async def bound(store: Store, channel: str, **asked: Any) -> list[str]:
    return [one.conversation.id async for one in store.conversations.find_by_channel(channel, **asked)]


# --- organisations ---------------------------------------------------------------------------------------------------


async def test_conversations_are_listed_by_organization(store: Store, database: Database):
    for number in range(6):
        database.clock.move(1)
        await store.conversations.create(
            f"c{number}", organization=f"o{number % 2}", user="u", metadata={"tier": number // 2}
        )
    await (await opened(store, "c2")).close()
    assert [one.id async for one in store.conversations.list(organization="o0")] == ["c4", "c2", "c0"]
    assert [one.id async for one in store.conversations.list(organization="o0", status="open")] == ["c4", "c0"]
    assert [one.id async for one in store.conversations.list(organization="o1", metadata={"tier": 1})] == ["c3"]
    assert [one.id async for one in store.conversations.list(organization="o1", user="u", limit=1)] == [
        "c5",
        "c3",
        "c1",
    ]
    assert [one.id async for one in store.conversations.find({"organization": "o0", "status": "closed"})] == ["c2"]
    talk = await opened(store, "c4")
    assert (await talk.update(organization="o1")).organization == "o1"
    assert [one.id async for one in store.conversations.list(organization="o0")] == ["c2", "c0"]
    assert (await talk.fork(id="f")).record.organization == "o1"
    assert (await store.conversations.ensure("c4", organization="x")).record.organization == "o1"


async def opened(store: Store, id: str) -> Conversation:
    talk = await store.conversations.get(id)
    assert talk is not None
    return talk


# --- participants ----------------------------------------------------------------------------------------------------


async def test_a_participant_joins_changes_and_leaves_with_an_event_each(talk: Conversation, database: Database):
    await talk.append("before")
    joined = await talk.participants.join(
        "bob", role="member", display_name="Bob", identity="id-1", channel="sms", metadata={"a": 1, "b": 2}
    )
    assert (joined.id, joined.role, joined.joined_index, joined.joined_us) == ("bob", "member", 2, database.clock())
    assert joined.is_present
    assert joined.joined_at.tzinfo is not None
    assert await talk.participants.get("bob") == joined
    await talk.append("during")
    database.clock.move(5)
    owner = await talk.participants.update("bob", role="owner", metadata={"a": None, "c": 3})
    assert (owner.role, owner.display_name, owner.metadata, owner.joined_index) == ("owner", "Bob", {"b": 2, "c": 3}, 2)
    await talk.append("later")
    left = await talk.participants.leave("bob")
    assert (left.left_index, left.left_us, left.is_present) == (6, database.clock(), False)
    assert left.left_at is not None
    types = [event.type async for event in talk.events()]
    joins = "participant.joined", "participant.changed", "participant.left"
    assert types == ["message", joins[0], "message", joins[1], "message", joins[2]]
    assert [await who(talk, index) for index in range(1, 8)] == [
        [],
        [("bob", "member")],
        [("bob", "member")],
        [("bob", "owner")],
        [("bob", "owner")],
        [],
        [],
    ]


async def test_joining_twice_is_joining_once(talk: Conversation):
    first = await talk.participants.join("bob", role="member")
    assert await talk.participants.join("bob", role="owner") == first
    assert await talk.length() == 1
    found = await asyncio.gather(*[talk.participants.join("eve", role=str(n)) for n in range(6)])
    assert len({one.role for one in found}) == 1
    assert await talk.length() == 2


async def test_what_changes_no_stay_is_no_event(talk: Conversation):
    await talk.participants.join("bob", role="member")
    assert (await talk.participants.update("bob", display_name="Bobby")).display_name == "Bobby"
    assert (await talk.participants.update("bob", role="member")).role == "member"
    assert await talk.length() == 1
    stays = [stay async for stay in talk.participants.between(0, 10)]
    assert len(stays) == 1
    assert stays[0].from_at.tzinfo is not None
    assert stays[0].left_at is None


async def test_who_left_and_came_back_was_there_twice(talk: Conversation):
    await talk.participants.join("bob")  # 1
    await talk.participants.leave("bob")  # 2
    await talk.append("alone")  # 3
    await talk.participants.join("eve")  # 4
    await talk.participants.join("bob", role="guest")  # 5
    await talk.participants.leave("eve")  # 6
    assert [await who(talk, at) for at in range(1, 7)] == [
        [("bob", None)],
        [],
        [],
        [("eve", None)],
        [("eve", None), ("bob", "guest")],
        [("bob", "guest")],
    ]

    def told(stays: Sequence[Stay]) -> list[tuple[str, int, int | None]]:
        return [(stay.participant, stay.from_index, stay.left_index) for stay in stays]

    between = talk.participants.between
    assert told([one async for one in between(0, 99)]) == [("bob", 1, 2), ("eve", 4, 6), ("bob", 5, None)]
    assert told([one async for one in between(2, 3)]) == []
    assert told([one async for one in between(0, 99, participant="bob", limit=1)]) == [("bob", 1, 2), ("bob", 5, None)]
    assert [one.id async for one in talk.participants.list()] == ["bob"]
    assert [one.id async for one in talk.participants.list(present=False, limit=1)] == ["bob", "eve"]


async def test_the_index_is_exact_while_others_append(database: Database):
    store, other = await database.open(), await database.open()
    talk = await store.conversations.create("room")
    theirs = await opened(other, "room")

    async def chatter() -> None:
        for number in range(30):
            await theirs.append(str(number))

    async def come_and_go(name: str) -> None:
        for _ in range(3):
            await talk.participants.join(name)
            await talk.participants.leave(name)

    await asyncio.gather(chatter(), come_and_go("a"), come_and_go("b"))
    present: set[str] = set()
    async for event in talk.events():
        if event.type.startswith("participant"):
            name = event.content.data["participant"]  # type: ignore[union-attr]
            (present.add if event.type == "participant.joined" else present.discard)(name)
        assert {stay.participant async for stay in talk.participants.present_at(event.index)} == present
    assert await talk.length() == 30 + 12


async def test_leaving_what_is_not_there_is_not_found(talk: Conversation):
    with pytest.raises(NotFound):
        await talk.participants.leave("nobody")
    with pytest.raises(NotFound):
        await talk.participants.update("nobody", role="x")
    await talk.participants.join("bob")
    await talk.participants.leave("bob")
    with pytest.raises(NotFound):
        await talk.participants.leave("bob")
    assert await talk.participants.get("nobody") is None
    assert await talk.length() == 2


async def test_a_closed_conversation_takes_no_participants(talk: Conversation):
    await talk.participants.join("bob")
    await talk.close()
    for call in (talk.participants.join("eve"), talk.participants.leave("bob"), talk.bindings.add("sms", "sms")):
        with pytest.raises(Invalid, match="closed"):
            await call
    assert [one.id async for one in talk.participants.list()] == ["bob"]
    with pytest.raises(Conflict):
        await talk.close()


async def test_a_deleted_conversation_has_no_room(store: Store, talk: Conversation):
    await talk.participants.join("bob")
    await talk.bindings.add("sms", "sms", participant="bob")
    await talk.delete()
    for call in (talk.participants.join("eve"), talk.participants.join("bob"), talk.bindings.add("ws", "ws")):
        with pytest.raises(NotFound):
            await call
    assert await rooms(store, "bob") == []
    assert await bound(store, "sms") == []
    again = await store.conversations.create("room")
    assert await again.participants.get("bob") is None
    assert await again.bindings.get("sms") is None
    for late in (talk.participants.join("eve"), talk.bindings.add("ws", "ws")):
        with pytest.raises(NotFound):
            await late
    assert [one async for one in again.participants.between(0, 99)] == []


async def test_what_an_earlier_deletion_left_is_not_found_by_index(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = await database.open()
    talk = await store.conversations.create("room")
    await talk.participants.join("bob")
    await talk.bindings.add("sms", "sms", participant="bob")
    commit = store.commit

    async def broken(name: str, ops: Any, **options: Any) -> Any:
        if any(op.kind in ("participant", "binding") for op in ops):
            raise Unavailable("cut", retryable=False)
        return await commit(name, ops, **options)

    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(Unavailable):
        await talk.delete()
    monkeypatch.undo()
    assert await rooms(store, "bob") == []
    new = await store.conversations.create("room")
    assert len(await store.scan(Participant, prefix=(partition("room"),))) == 1
    assert await rooms(store, "bob") == []
    assert await bound(store, "sms") == []
    assert await store.conversations.find_latest("bob", "sms") is None
    await new.participants.join("bob")
    assert await rooms(store, "bob") == ["room"]


async def test_conversations_of_a_participant_are_those_it_is_in_latest_first(store: Store, database: Database):
    for number in range(5):
        talk = await store.conversations.create(f"c{number}")
        database.clock.move(1)
        await talk.participants.join("bob", role=str(number))
        await talk.participants.join("eve")
    await (await opened(store, "c3")).participants.leave("bob")
    await (await opened(store, "c4")).close()
    assert await rooms(store, "bob") == ["c4", "c2", "c1", "c0"]
    assert await rooms(store, "bob", present=False, limit=2) == ["c4", "c3", "c2", "c1", "c0"]
    database.clock.move(1)
    await (await opened(store, "c3")).participants.join("bob")
    page = await store.conversations.list_by_participant("bob", limit=1)
    assert [(one.conversation.id, one.participant.joined_index) for one in page] == [("c3", 4)]
    assert page.cursor is not None
    assert await rooms(store, "nobody") == []


async def test_a_crash_while_joining_leaves_all_or_nothing(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = await database.open()
    talk = await store.conversations.create("room")
    commit = store.commit

    async def broken(name: str, ops: Any, **options: Any) -> Any:
        await commit(name, ops, **options)
        raise Unavailable("the answer was lost", outcome="unknown", retryable=False)

    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(Unavailable):
        await talk.participants.join("bob", role="member")
    monkeypatch.undo()
    assert (await talk.participants.join("bob", role="member")).joined_index == 1
    assert await talk.length() == 1
    assert await who(talk, 1) == [("bob", "member")]


# --- bindings --------------------------------------------------------------------------------------------------------


async def test_a_binding_is_added_read_changed_listed_and_removed(talk: Conversation, database: Database):
    configuration = {"from": "+1", "retry": [1, 2.5, None, {"deep": True}]}
    added = await talk.bindings.add(
        "sms-main",
        "sms",
        configuration=configuration,
        capabilities=["media"],
        muted=True,
        access="read_only",
        visibility="internal",
        participant="bob",
        metadata={"a": 1},
    )
    assert await talk.bindings.get("sms-main") == added
    assert (added.configuration, added.capabilities, added.muted) == (configuration, ["media"], True)
    assert (added.access, added.visibility, added.participant) == ("read_only", "internal", "bob")
    assert (added.bound_us, added.bound_at.tzinfo is not None) == (database.clock(), True)
    plain = await talk.bindings.add("ws", "websocket")
    assert (plain.access, plain.muted, plain.configuration) == ("read_write", False, None)
    database.clock.move(1)
    changed = await talk.bindings.update("sms-main", muted=False, access="none", metadata={"a": None, "b": 2})
    assert (changed.muted, changed.access, changed.metadata) == (False, "none", {"b": 2})
    assert (changed.configuration, changed.updated_us) == (configuration, database.clock())
    assert (await talk.bindings.update("sms-main", configuration=None, participant=None)).configuration is None
    assert [one.channel async for one in talk.bindings.list(limit=1)] == ["sms-main", "ws"]
    await talk.bindings.remove("sms-main")
    assert await talk.bindings.get("sms-main") is None
    assert await talk.length() == 0


async def test_a_binding_that_is_there_is_a_conflict(talk: Conversation):
    await talk.bindings.add("sms", "sms", configuration=1)
    with pytest.raises(Conflict):
        await talk.bindings.add("sms", "sms", configuration=2)
    found = await talk.bindings.get("sms")
    assert found is not None
    assert found.configuration == 1


async def test_a_binding_that_is_not_there_is_not_found(talk: Conversation):
    with pytest.raises(NotFound):
        await talk.bindings.remove("sms")
    with pytest.raises(NotFound):
        await talk.bindings.update("sms", muted=True)


async def test_concurrent_changes_of_a_binding_are_all_kept(database: Database):
    stores = [await database.open() for _ in range(3)]
    await (await stores[0].conversations.create("room")).bindings.add("sms", "sms", configuration=[])
    talks = [await opened(store, "room") for store in stores]

    def added(name: int) -> Any:
        def change(old: Binding) -> Binding:
            from msgspec.structs import replace

            return replace(old, configuration=[*old.configuration, name])

        return change

    await asyncio.gather(*[talks[n % 3].bindings.update("sms", change=added(n)) for n in range(12)])
    found = await talks[0].bindings.get("sms")
    assert found is not None
    assert sorted(found.configuration) == list(range(12))


async def test_what_a_binding_does_not_take_is_invalid_and_nothing_is_written(talk: Conversation):
    for wrong in ({"access": "all"}, {"participant": ""}, {"metadata": 5}, {"configuration": float("nan")}):
        with pytest.raises(Invalid):
            await talk.bindings.add("sms", "sms", **wrong)  # type: ignore[arg-type]
    for channel, type in (("", "sms"), ("sms", ""), (5, "sms")):
        with pytest.raises(Invalid):
            await talk.bindings.add(channel, type)  # type: ignore[arg-type]
    assert await talk.bindings.get("sms") is None
    await talk.bindings.add("sms", "sms")
    for wrong in (
        {"access": "all"},
        {"change": lambda old: Binding(conversation="x", life="", channel="", channel_type="")},
    ):
        with pytest.raises(Invalid):
            await talk.bindings.update("sms", **wrong)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        await talk.participants.join("")
    with pytest.raises(Invalid):
        await talk.participants.join("a", metadata=5)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        talk.participants.between(3, 1)


async def test_a_configuration_may_be_large(store: Store, talk: Conversation):
    await talk.bindings.add("sms", "sms", configuration="x" * 500_000)
    await talk.bindings.update("sms", configuration="y" * 500_000)
    found = await talk.bindings.get("sms")
    assert found is not None
    assert found.configuration == "y" * 500_000
    assert [one.binding.configuration[:1] async for one in store.conversations.find_by_channel("sms")] == ["y"]
    await talk.bindings.remove("sms")
    assert await store.blobs.orphans(store.clock() + 1, 100) == []


# --- routing ---------------------------------------------------------------------------------------------------------


async def test_conversations_are_found_by_channel_oldest_first(store: Store, database: Database):
    for number in range(5):
        database.clock.move(1)
        talk = await store.conversations.create(f"c{number}")
        if number != 1:
            await talk.bindings.add("shared", "sms", participant=f"p{number % 2}")
    await (await opened(store, "c0")).close()
    late = await opened(store, "c1")
    await late.bindings.add("shared", "sms", participant="p1")
    page = await store.conversations.find_by_channel("shared")
    assert [one.conversation.id for one in page] == ["c0", "c1"]
    assert page.cursor is not None
    assert await bound(store, "shared") == ["c0", "c1", "c2", "c3", "c4"]
    assert await bound(store, "shared", status="open", limit=1) == ["c1", "c2", "c3", "c4"]
    assert await bound(store, "shared", status="closed") == ["c0"]
    assert await bound(store, "shared", participant="p0", status=["open", "paused"]) == ["c2", "c4"]
    assert await bound(store, "shared", participant="p1") == ["c1", "c3"]
    one = await store.conversations.find_by_channel("shared", status="closed")
    assert (len(one), one.cursor) == (1, None)
    assert one[0].binding.participant == "p0"
    await late.bindings.remove("shared")
    assert await bound(store, "shared", participant="p1") == ["c3"]
    await (await opened(store, "c3")).bindings.update("shared", participant="p9")
    assert await bound(store, "shared", participant="p9") == ["c3"]
    assert await bound(store, "nothing") == []
    with pytest.raises(Invalid):
        store.conversations.find_by_channel("shared", status="opened")  # type: ignore[arg-type]


async def test_the_one_open_conversation_is_found_among_many_closed_ones(store: Store, database: Database):
    for number in range(40):
        talk = await store.conversations.create(f"c{number:02d}")
        await talk.bindings.add("shared", "sms", participant="bob")
        if number not in (20, 30, 35):
            await talk.close()
    page = await store.conversations.find_by_channel("shared", status="open")
    assert [one.conversation.id for one in page] == ["c20", "c30"]
    page = await store.conversations.find_by_channel("shared", status="open", after=page.cursor)
    assert ([one.conversation.id for one in page], page.cursor) == (["c35"], None)


async def test_the_latest_open_conversation_of_a_participant_and_channel_type(store: Store, database: Database):
    for number in range(4):
        database.clock.move(1)
        talk = await store.conversations.create(f"c{number}")
        await talk.bindings.add(f"sms-{number}", "sms" if number < 3 else "email", participant="bob")
    latest = await store.conversations.find_latest("bob", "sms")
    assert latest is not None
    assert (latest.conversation.id, latest.binding.channel) == ("c2", "sms-2")
    await (await opened(store, "c2")).close()
    await (await opened(store, "c1")).pause()
    latest = await store.conversations.find_latest("bob", "sms")
    assert latest is not None
    assert latest.conversation.id == "c1"
    open_one = await store.conversations.find_latest("bob", "sms", status="open")
    assert open_one is not None
    assert open_one.conversation.id == "c0"
    assert await store.conversations.find_latest("bob", "fax") is None
    assert await store.conversations.find_latest("eve", "sms") is None


# --- ids and tenants -------------------------------------------------------------------------------------------------


async def test_ids_of_any_text_are_their_own(store: Store):
    ids = [*HOSTILE, *LONG]
    talk = await store.conversations.create("a/b:c#d\n\0😀")
    for id in ids:
        await talk.participants.join(id, role=id, channel=id, identity=id, display_name=id)
        await talk.bindings.add(id, id, participant=id, visibility=id, configuration={id: id})
    assert {one.id async for one in talk.participants.list()} == set(ids)
    assert {one.channel async for one in talk.bindings.list()} == set(ids)
    for id in ids:
        (membership,) = await store.conversations.list_by_participant(id)
        assert (membership.participant.id, membership.conversation.id) == (id, talk.id)
        (found,) = await store.conversations.find_by_channel(id, participant=id)
        assert found.binding.channel == id
        latest = await store.conversations.find_latest(id, id)
        assert latest is not None
        assert latest.binding.channel == id
        (stay,) = [one async for one in talk.participants.between(0, 9_999, participant=id)]
        assert stay.participant == id


@pytest.mark.parametrize("id", ["x" * 5_000, "\ud800" * 200, "a\0/"])
async def test_rooms_may_have_any_id(store: Store, id: str):
    talk = await store.conversations.create(id)
    await talk.participants.join("bob")
    await talk.bindings.add("sms", "sms")
    assert await rooms(store, "bob") == [id]
    assert await bound(store, "sms") == [id]
    await talk.delete()
    assert await rooms(store, "bob") == []


async def test_another_tenant_sees_nothing(database: Database):
    store = await database.open(tenants="required")
    acme, other = store.scope("acme" * 32), store.scope("other")
    for scope in (acme, other):
        talk = await scope.conversations.create("room", organization="o", pause_after_s=1)
        if scope is acme:
            for id in ("bob", *LONG):
                await talk.participants.join(id)
                await talk.bindings.add(id, id, participant=id)
    assert await rooms(acme, "bob") == ["room"]
    assert await rooms(other, "bob") == []
    assert await bound(other, "bob") == []
    assert await other.conversations.find_latest("bob", "bob") is None
    theirs = await opened(other, "room")
    assert await theirs.participants.get("bob") is None
    assert len(await theirs.bindings.list()) == 0
    await other.conversations.delete("room")
    assert [one.id async for one in other.conversations.list(organization="o")] == []
    assert await rooms(acme, LONG[0]) == ["room"]
    database.clock.move(10)
    assert (await other.conversations.sweep_timers()).paused == []
    assert (await acme.conversations.sweep_timers()).paused == ["room"]
    async with other.locks.hold("l", wait=0, renew=False), acme.locks.hold("l", wait=0, renew=False):
        assert await acme.locks.holder("l") is not None


async def test_all_that_is_a_rooms_is_deleted_with_it(store: Store, talk: Conversation):
    for number in range(60):
        await talk.participants.join(f"p{number}")
        await talk.bindings.add(f"c{number}", "sms")
    life = talk.record.life
    async with talk.lease("agent", renew=False):
        pass
    await talk.delete()
    from agentkeep.waist import Scan

    for kind in ("participant", "stay", "binding", "lease"):
        page = await store.engine.scan(Scan(kind, prefix=(partition(talk.id),)))
        assert page.rows == [], kind
    assert places(life)


async def test_large_metadata_of_a_participant_is_kept_or_refused(talk: Conversation):
    await talk.participants.join("bob", metadata={"x": "y" * 400_000})
    await talk.participants.update("bob", metadata={"x": "z" * 400_000})
    found = await talk.participants.get("bob")
    assert found is not None
    assert found.metadata == {"x": "z" * 400_000}
    with pytest.raises((TooLarge, Invalid)):
        await talk.participants.join("eve", metadata={"x": float("inf")})
    assert await talk.participants.get("eve") is None
    assert await talk.length() == 1


# --- the shelf of open conversations ---------------------------------------------------------------------------------


async def shelved(store: Store, channel: str) -> list[str]:
    """The conversations that the index of open ones names, whether they are open or not."""
    page = await store.scan(Binding, index="open_by_channel", prefix=(channel, "open"))
    return [one.conversation for one in page]


async def test_what_is_closed_is_off_the_index_and_comes_back(store: Store, database: Database):
    for id in "abc":
        talk = await store.conversations.create(id, close_after_s=10)
        await talk.bindings.add("shared", "sms", participant="bob")
        await talk.bindings.add(f"ws-{id}", "ws", configuration="x" * 300_000)
    a, b = await opened(store, "a"), await opened(store, "b")
    await a.close()
    assert await shelved(store, "shared") == ["b", "c"]
    database.clock.move(11)
    await b.append("here")
    assert (await store.conversations.sweep_timers()).closed == ["c"]
    assert await shelved(store, "shared") == ["b"]
    assert await bound(store, "shared", status="closed") == ["a", "c"]
    await a.bindings.update("shared", muted=True, configuration="y" * 300_000)
    assert await shelved(store, "shared") == ["b"]
    await b.pause()
    assert await bound(store, "shared", status=["open", "paused"]) == ["b"]
    await a.reopen()
    assert await shelved(store, "shared") == ["a", "b"]
    found = await store.conversations.find_latest("bob", "sms", status="open")
    assert found is not None
    assert (found.conversation.id, found.binding.muted, len(found.binding.configuration)) == ("a", True, 300_000)
    for talk in (a, b):
        await talk.delete()
    assert await store.blobs.orphans(store.clock() + 1, 100) == []


async def test_a_conversation_with_many_bindings_is_found_as_it_is(store: Store):
    talk = await store.conversations.create("a")
    for number in range(45):
        await talk.bindings.add(f"c{number}", "ws", configuration="x" * 30_000)
    for times in range(2):
        await talk.close()
        assert await bound(store, "c1", status="open") == []
        assert await bound(store, "c1", status="closed") == ["a"]
        await talk.reopen()
        assert await bound(store, "c1", status="open") == ["a"]
        for number in range(10 * (1 - times)):
            await talk.bindings.remove(f"c{number + 10}")
    await talk.close()
    assert await shelved(store, "c1") == []
    await talk.reopen()
    assert await bound(store, "c1", status="open") == ["a"]


async def test_an_open_conversation_is_found_whatever_met(database: Database):
    stores = [await database.open() for _ in range(3)]
    talks = [await stores[0].conversations.create("a"), *[await opened(one, "a") for one in stores[1:]]]
    await talks[0].bindings.add("sms", "sms", configuration=0)

    async def turning(talk: Conversation) -> None:
        for _ in range(8):
            for turn in (talk.close, talk.reopen):
                with suppress(Conflict):
                    await turn()

    async def changing(talk: Conversation) -> None:
        for number in range(8):
            await talk.bindings.update("sms", configuration=number)

    await asyncio.gather(turning(talks[0]), turning(talks[1]), changing(talks[2]))
    with suppress(Conflict):
        await talks[0].reopen()
    assert await bound(stores[0], "sms", status="open") == ["a"]
