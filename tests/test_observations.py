"""Observations: about conversations and subjects, found across them, gone with their conversation."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from agentkeep import Conflict, Invalid, NotFound, Observation, Store, TooLarge, Unavailable
from agentkeep.ids import HOUR
from agentkeep.keys import partition
from agentkeep.sync import Store as SyncStore
from agentkeep.testing.marks import case
from agentkeep.testing.values import DOCUMENTS, SEPARATED, STRINGS, SYNTAX
from engines import Database, Meeting


@pytest.fixture
async def talk(store: Store) -> str:
    return (await store.conversations.create("c")).id


async def contents(store: Store, **asked: Any) -> list[Any]:
    return [one.content async for one in store.observations.list(**asked)]


async def some(store: Store, database: Database, **about: Any) -> None:
    """Four, a microsecond apart: two types, two agents, growing confidence."""
    for n in range(4):
        database.clock.now += 1
        await store.observations.add(
            "mood" if n % 2 else "fact",
            n,
            agent="ann" if n < 2 else "bob",
            confidence=n / 4,
            metadata={"n": n},
            **about,
        )


# --- add, get, update, delete ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("about", [{"conversation": "c"}, {"subject": "invoice A-17"}])
async def test_what_is_added_is_read_back(store: Store, database: Database, talk: str, about: dict[str, str]):
    made = await store.observations.add(
        "mood", {"a": [1]}, confidence=0.25, agent="ann", event=7, metadata={"x": 1}, **about
    )
    found = await store.observations.get(made.id, **about)
    assert found == made
    assert (made.type, made.content, made.confidence, made.agent, made.event) == ("mood", {"a": [1]}, 0.25, "ann", 7)
    assert (made.metadata, made.created_us) == ({"x": 1}, database.clock())
    assert made.created_at == made.updated_at
    assert (made.conversation, made.subject) == (about.get("conversation"), about.get("subject"))
    assert await store.observations.get("other", **about) is None
    assert await store.observations.get(made.id, subject="another") is None


@pytest.mark.parametrize("content", [*DOCUMENTS, 1.0, True, "\ud800"])
async def test_content_is_any_json(store: Store, talk: str, content: Any):
    made = await store.observations.add("x", content, conversation=talk)
    found = await store.observations.get(made.id, conversation=talk)
    assert found is not None
    assert found.content == content
    assert type(found.content) is type(content)


@case("F3")
@pytest.mark.parametrize(
    "bad",
    [
        {"confidence": 1.0001}, {"confidence": -0.1}, {"confidence": math.nan}, {"confidence": math.inf},
        {"confidence": "1"}, {"confidence": True}, {"confidence": None}, {"type": ""}, {"type": " "}, {"type": 5},
        {"agent": ""}, {"agent": 5}, {"event": 0}, {"event": 1.5}, {"content": math.nan}, {"content": {"a": (1,)}},
        {"content": object()}, {"metadata": [1]}, {"metadata": {"a": math.nan}}, {"key": ""}, {"subject": "s"},
        {"conversation": None}, {"conversation": ""}, {"key": "k", "metadata": {"a": object()}},
    ],
)  # fmt: skip
async def test_bad_input_is_refused_and_nothing_is_written(store: Store, talk: str, bad: dict[str, Any]):
    with pytest.raises(Invalid):
        await store.observations.add(**{"type": "x", "content": 1, "conversation": talk, **bad})
    assert await contents(store, conversation=talk) == []
    assert await contents(store, type="x") == []


async def test_the_ends_of_confidence_are_in(store: Store, talk: str):
    for confidence in (0, 1, 0.0, 1.0, 5e-324):
        made = await store.observations.add("x", 1, conversation=talk, confidence=confidence)
        assert made.confidence == confidence
    assert len(await store.observations.list(conversation=talk, min_confidence=1)) == 2
    with pytest.raises(Invalid):
        await store.observations.list(conversation=talk, min_confidence=math.nan)


async def test_an_unknown_conversation_is_not_found(store: Store):
    for call in (
        store.observations.add("x", 1, conversation="c"), store.observations.update("x", conversation="c", content=1),
        store.observations.delete("x", conversation="c"), store.observations.list(conversation="c").page(),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await call
    assert await store.observations.get("x", conversation="c") is None
    assert await contents(store, type="x") == []


async def test_a_key_adds_one_however_long_ago(store: Store, database: Database, talk: str):
    first = await store.observations.add("x", 1, conversation=talk, key="k")
    database.clock.now += 100 * HOUR
    assert await store.observations.add("x", 1, conversation=talk, key="k") == first
    with pytest.raises(Conflict) as caught:
        await store.observations.add("x", 2, conversation=talk, key="k")
    assert caught.value.reason == "once"
    await store.conversations.create("d")
    await store.observations.add("x", 2, conversation="d", key="k")
    await store.observations.add("x", 3, subject="c", key="k")
    assert await contents(store, conversation=talk) == [1]
    assert await contents(store, subject="c") == [3]


async def test_a_key_used_by_many_at_once_adds_one(database: Database):
    stores = [await database.open() for _ in range(6)]
    await stores[0].conversations.create("c")
    made = await asyncio.gather(*(one.observations.add("x", 1, conversation="c", key="k") for one in stores))
    assert len({one.id for one in made}) == 1
    assert await contents(stores[0], conversation="c") == [1]


@pytest.mark.parametrize("about", [{"conversation": "c"}, {"subject": "s"}])
async def test_update_changes_what_is_given(store: Store, database: Database, talk: str, about: dict[str, str]):
    made = await store.observations.add("x", 1, agent="ann", event=1, metadata={"a": 1, "b": 2}, **about)
    database.clock.now += 5
    new = await store.observations.update(
        made.id, type="y", content=[2], confidence=0.5, agent=None, event=None, metadata={"a": None, "c": 3}, **about
    )
    assert new == await store.observations.get(made.id, **about)
    assert (new.type, new.content, new.confidence, new.agent, new.event) == ("y", [2], 0.5, None, None)
    assert (new.metadata, new.updated_us - new.created_us) == ({"b": 2, "c": 3}, 5)
    assert await contents(store, type="x") == []
    assert await contents(store, agent="ann") == []
    for bad in ({"confidence": 2}, {"confidence": math.nan}, {"type": ""}, {"content": math.nan}, {"event": -1}):
        with pytest.raises(Invalid):
            await store.observations.update(made.id, **about, **bad)
    with pytest.raises(NotFound):
        await store.observations.update("other", content=1, **about)
    assert await store.observations.get(made.id, **about) == new


@case("C7")
async def test_updates_at_once_are_all_kept(database: Database):
    stores = [await database.open() for _ in range(4)]
    made = await stores[0].observations.add("x", 1, subject="s")
    await asyncio.gather(
        *(stores[n % 4].observations.update(made.id, subject="s", metadata={f"n{n}": n}) for n in range(20))
    )
    found = await stores[0].observations.get(made.id, subject="s")
    assert found is not None
    assert found.metadata == {f"n{n}": n for n in range(20)}


@pytest.mark.parametrize("about", [{"conversation": "c"}, {"subject": "s"}])
async def test_delete(store: Store, talk: str, about: dict[str, str]):
    made = await store.observations.add("x", "y" * 400_000, **about)
    await store.observations.delete(made.id, **about)
    assert await store.observations.get(made.id, **about) is None
    assert await contents(store, type="x") == []
    with pytest.raises(NotFound):
        await store.observations.delete(made.id, **about)
    assert await store.blobs.orphans(store.clock() + 1, 100) == []


def test_the_sync_api_has_the_same(database: Database):
    with SyncStore.on(database.engine(), clock=database.clock) as store:
        made = store.observations.add("x", 1, subject="s", key="k")
        assert store.observations.get(made.id, subject="s") == made
        assert [one.content for one in store.observations.list(type="x")] == [1]
        store.observations.delete(made.id, subject="s")
        assert store.observations.list(subject="s").page().items == []


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("about", [{"conversation": "c"}, {"subject": "s"}])
async def test_lists_of_one_thing_are_newest_first(store: Store, database: Database, talk: str, about: dict[str, str]):
    await some(store, database, **about)
    await store.observations.add("mood", "other", subject="other", agent="ann")
    assert await contents(store, **about) == [3, 2, 1, 0]
    assert await contents(store, type="mood", **about) == [3, 1]
    assert await contents(store, agent="ann", **about) == [1, 0]
    assert await contents(store, type="mood", agent="ann", **about) == [1]
    assert await contents(store, min_confidence=0.5, **about) == [3, 2]
    assert await contents(store, type="fact", min_confidence=0.5, metadata={"n": {"lt": 3}}, **about) == [2]
    page = await store.observations.list(limit=3, **about)
    rest = await store.observations.list(limit=3, after=page.cursor, **about)
    assert [one.content for one in (*page, *rest)] == [3, 2, 1, 0]


async def test_lists_across_go_by_type_or_agent(store: Store, database: Database, talk: str):
    await some(store, database, conversation=talk)
    await some(store, database, subject="s")
    assert await contents(store, type="mood") == [3, 1, 3, 1]
    assert await contents(store, agent="bob") == [3, 2, 3, 2]
    assert await contents(store, type="mood", agent="bob") == [3, 3]
    assert await contents(store, type="fact", min_confidence=0.5) == [2, 2]
    assert await contents(store, agent="carl") == []
    with pytest.raises(Invalid, match="Give a conversation"):
        store.observations.list(min_confidence=0.5)
    with pytest.raises(Invalid):
        await store.observations.list(conversation=talk, subject="s")


# --- the life of a conversation --------------------------------------------------------------------------------------


async def test_observations_are_deleted_with_their_conversation(store: Store, database: Database, talk: str):
    for n in range(60):
        await store.observations.add("x", n, conversation=talk, key=f"k{n}")
    await store.observations.add("x", "y" * 400_000, conversation=talk)
    await store.observations.add("x", "kept", subject=talk)
    await store.conversations.delete(talk)
    assert await contents(store, type="x") == ["kept"]
    assert await store.blobs.orphans(store.clock() + 1, 100) == []
    await store.conversations.create(talk)
    assert await contents(store, conversation=talk) == []
    await store.observations.add("x", "new", conversation=talk, key="k0")
    assert await contents(store, conversation=talk) == ["new"]


async def test_what_a_deletion_left_when_it_broke_off_is_seen_by_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    store = await database.open()
    await store.conversations.create("c")
    made = await store.observations.add("x", 1, conversation="c", agent="ann", key="k")
    commit = store.commit

    async def cut(partition: str, ops: Any, **options: Any) -> Any:
        if any(op.kind == "observation" for op in ops):
            raise Unavailable("cut", retryable=False)
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", cut)
    with pytest.raises(Unavailable):
        await store.conversations.delete("c")
    monkeypatch.undo()
    for _ in range(2):
        assert await contents(store, type="x") == []
        assert await contents(store, agent="ann") == []
        assert await store.observations.get(made.id, conversation="c") is None
        await store.conversations.ensure("c")
    await store.observations.add("x", 2, conversation="c", key="k")
    assert await contents(store, type="x") == [2]


async def test_a_late_writer_adds_nothing_to_a_deleted_conversation(database: Database):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Meeting:
        meeting.append(Meeting(engine, "commit", "observation"))
        return meeting[0]

    store, other = await database.open(wrap=wrap), await database.open()
    await other.conversations.create("c")
    meeting[0].meet = lambda: other.conversations.delete("c")
    with pytest.raises(NotFound):
        await store.observations.add("x", 1, conversation="c")
    assert len(await other.scan(Observation, prefix=(partition("c"),))) == 0


async def test_a_conversation_that_changes_meanwhile_stands_in_nobodys_way(database: Database):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Meeting:
        meeting.append(Meeting(engine, "commit", "observation"))
        return meeting[0]

    store, other = await database.open(wrap=wrap), await database.open()
    talk = await other.conversations.create("c")
    meeting[0].meet = lambda: talk.update(title="new")
    await store.observations.add("x", 1, conversation="c")
    assert await contents(other, conversation="c") == [1]


# --- hostile values, tenants -----------------------------------------------------------------------------------------


@case("F1", "F2", "S2", "S5")
async def test_any_text_is_a_subject_a_conversation_and_a_type(store: Store):
    texts = [text for text in dict.fromkeys([*STRINGS, *SYNTAX, *(a + b for a, b in SEPARATED)]) if text.strip()]
    for text in texts:
        await store.conversations.create(text)
        for about in ({"subject": text}, {"conversation": text}):
            await store.observations.add(text, text, agent=text, key=text, metadata={"v": text}, **about)
    for text in texts:
        for about in ({"subject": text}, {"conversation": text}):
            assert await contents(store, metadata={"v": text}, **about) == [text]
        assert await contents(store, type=text) == [text, text]
        assert await contents(store, agent=text) == [text, text]


async def test_long_ids_fit_and_long_names_are_refused(store: Store):
    long = "\U0001f600" * 5_000
    await store.conversations.create(long)
    for about in ({"subject": long}, {"conversation": long}):
        made = await store.observations.add("x", 1, key=long, **about)
        assert await store.observations.get(made.id, **about) == made
        assert await store.observations.get(long, **about) is None
        for bad in ({"type": long}, {"type": "x", "agent": long}):
            with pytest.raises(TooLarge):
                await store.observations.add(**{"content": 1, **bad, **about})
    assert len(await store.observations.list(type="x")) == 2


@case("S7", "C3")
async def test_tenants_are_apart(database: Database):
    store = await database.open(tenants="required")
    a, b = store.scope("a"), store.scope("b")
    for scope in (a, b):
        await scope.conversations.create("c")
    made = await a.observations.add("x", "a", conversation="c", agent="ann", key="k")
    await a.observations.add("x", "a", subject="s", key="k")
    assert await b.observations.get(made.id, conversation="c") is None
    assert await contents(b, type="x") == []
    await b.observations.add("x", "b", subject="s", key="k")
    assert await contents(b, subject="s") == ["b"]
    assert await contents(a, type="x", agent="ann") == ["a"]
    with pytest.raises(Invalid):
        await store.observations.list(type="x")
