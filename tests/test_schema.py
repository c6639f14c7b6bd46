"""The catalog: what a database holds against what a store wants, and indexes that are built while it is used."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from agentkeep import Conversation, Event, IndexNotReady, SchemaMismatch, Store, StoreError, Unavailable, codec, record
from agentkeep.records import record_of
from agentkeep.schema import CATALOG_KEY, Catalog
from agentkeep.testing.marks import case
from agentkeep.waist import Append, Batch, Key, Page, Put
from engines import Database, Script


class _Note(Struct, frozen=True, kw_only=True):
    id: str
    sort: str = ""
    topic: str | None = None
    rank: int = 0
    body: str = ""


@record("note", partition="id", sort="sort", facets=("topic",))
class Note(_Note, frozen=True, kw_only=True):
    """The first version: no index."""


@record("note", partition="id", sort="sort", facets=("topic",), indexes={"by_topic": ("topic", "rank")})
class Indexed(_Note, frozen=True, kw_only=True):
    """The second version: an index."""


@record("note", partition="id", sort="sort", indexes={"by_topic": ("topic", "rank"), "by_rank": ("rank",)})
class Twice(_Note, frozen=True, kw_only=True):
    """The third version: two."""


@record("note", partition="id", sort="sort", indexes={"by_topic": ("rank", "topic")})
class Changed(_Note, frozen=True, kw_only=True):
    """An index under a name that stands for another one."""


@record("note", partition="id", log="rank")
class Logged(_Note, frozen=True, kw_only=True):
    """The same kind as a log."""


class _Entry(Struct, frozen=True, kw_only=True):
    owner: str
    topic: str = ""
    n: int = 0


@record("entry", partition="owner", log="n")
class Entry(_Entry, frozen=True, kw_only=True):
    pass


@record("entry", partition="owner", log="n", indexes={"by_topic": ("topic", "owner")})
class IndexedEntry(_Entry, frozen=True, kw_only=True):
    pass


async def catalog(store: Store) -> Catalog:
    (row,) = await store.connection.engine.get([CATALOG_KEY])
    assert row is not None
    return codec.decode(row.doc, Catalog)


async def fill(store: Store, count: int) -> None:
    for n in range(count):
        await store.put(Note(id=f"n{n}", topic="even" if n % 2 == 0 else None, rank=n))


async def ranks(store: Store, type: Any, topic: str = "even", **asked: Any) -> list[int]:
    found: list[int] = []
    after = None
    while True:
        page = await store.scan(type, index="by_topic", prefix=(topic,), after=after, **asked)
        found += [note.rank for note in page]
        after = page.cursor
        if after is None:
            return found


# --- opening ---------------------------------------------------------------------------------------------------------


async def test_a_new_database_has_every_index_ready(database: Database):
    store = await database.open(records=[Indexed])
    assert (await catalog(store)).building() == []
    assert (await catalog(store)).kinds["note"].indexes["by_topic"].fields == ("topic", "rank")
    assert {"conversation", "event", "state", "activity", "blob"} <= (await catalog(store)).kinds.keys()


async def test_a_new_kind_is_ready_at_once(database: Database):
    store = await database.open()
    await store.conversations.create("c")
    later = await database.open(records=[Indexed])
    await later.put(Indexed(id="a", topic="even", rank=1))
    assert await ranks(later, Indexed) == [1]
    assert await later.conversations.get("c") is not None


async def test_a_new_index_of_an_empty_kind_is_ready_at_once(database: Database):
    await database.open(records=[Note])
    store = await database.open(records=[Indexed])
    assert await ranks(store, Indexed) == []


async def test_opening_again_changes_nothing(database: Database):
    store = await database.open(records=[Indexed])
    (before,) = await store.connection.engine.get([CATALOG_KEY])
    for records in ([Indexed], [Note], []):
        await database.open(records=records)
    (after,) = await store.connection.engine.get([CATALOG_KEY])
    assert before == after


@pytest.mark.parametrize(("type", "match"), [(Changed, "by_topic"), (Logged, None)])
async def test_a_changed_declaration_is_refused(database: Database, type: Any, match: str | None):
    await database.open(records=[Indexed])
    with pytest.raises(SchemaMismatch, match=match):
        await database.open(records=[type])
    await database.open(records=[Indexed])


@case("S7")
async def test_the_mode_of_tenants_is_recorded(database: Database):
    await database.open(tenants="required")
    with pytest.raises(SchemaMismatch, match="tenants='required'"):
        await database.open()
    await database.open(tenants="required")


async def test_a_database_without_tenants_cannot_get_them(database: Database):
    await database.open()
    with pytest.raises(SchemaMismatch, match="tenants='off'"):
        await database.open(tenants="required")


@case("C10")
async def test_a_newer_format_is_refused(database: Database):
    store = await database.open()
    newer = msgspec.structs.replace(await catalog(store), format=2)
    await store.connection.engine.commit([Batch("catalog", (Put("catalog", "", codec.encode(newer)),), store.ids())])
    with pytest.raises(SchemaMismatch, match="Upgrade"):
        await database.open()
    assert (await catalog(store)).format == 2


async def test_many_stores_open_a_new_database_at_once(database: Database):
    stores = await asyncio.gather(*[database.open(records=[(Note, Indexed)[n % 2]]) for n in range(6)])
    assert "by_topic" in (await catalog(stores[0])).kinds["note"].indexes


@case("C10")
async def test_an_interrupted_opening_is_taken_up_again(database: Database):
    plain = await database.open(records=[Note])
    await fill(plain, 3)
    for number in range(8):
        script = Script()
        script.set(*["ok"] * number, then="before")
        try:
            await database.open(records=[Indexed], wrap=script.wrap)
        except Unavailable:
            continue
        break
    else:
        raise AssertionError("it never opened")
    store = await database.open(records=[Indexed])
    with pytest.raises(IndexNotReady):
        await ranks(store, Indexed)


# --- building --------------------------------------------------------------------------------------------------------


async def test_a_new_index_of_a_kind_with_rows_is_built_before_it_is_read(database: Database):
    await fill(await database.open(records=[Note]), 120)
    store = await database.open(records=[Indexed])
    with pytest.raises(IndexNotReady, match="by_topic"):
        await ranks(store, Indexed)
    assert len((await store.scan(Indexed, prefix=("n1",))).items) == 1
    told: list[tuple[str, int]] = []
    assert await store.reindex(lambda kind, rows: told.append((kind, rows))) == 120
    assert await ranks(store, Indexed) == list(range(0, 120, 2))
    assert told[-1] == ("note", 120)
    assert [rows for _, rows in told] == sorted(rows for _, rows in told)
    assert await ranks(await database.open(records=[Indexed]), Indexed, limit=7) == list(range(0, 120, 2))
    assert await store.reindex() == 0


async def test_rows_keep_their_revs_documents_and_facets(database: Database):
    old = await database.open(records=[Note])
    receipt = await old.put(Note(id="a", topic="even", rank=4))
    store = await database.open(records=[Indexed])
    await store.reindex()
    found = await store.get(Indexed, "a")
    assert found is not None
    assert found.rev == receipt.id
    page = await store.scan(Indexed, index="by_topic", prefix=("even",), where={"topic": "even"})
    assert [note.rank for note in page] == [4]


async def test_writers_that_know_the_index_write_it_meanwhile(database: Database):
    await fill(await database.open(records=[Note]), 10)
    store = await database.open(records=[Indexed])
    await store.put(Indexed(id="new", topic="even", rank=100))
    await store.update(Indexed, "n2", "", lambda old: msgspec.structs.replace(old, rank=102))
    await store.delete(Indexed, "n4")
    await store.reindex()
    assert await ranks(store, Indexed) == [0, 6, 8, 100, 102]


async def test_a_row_that_changes_while_it_is_indexed_keeps_its_change(database: Database):
    await fill(await database.open(records=[Note]), 4)
    other = await database.open(records=[Indexed])

    class Late:
        """Changes a row between the read and the write of a reindex."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.capabilities = inner, inner.capabilities

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def dump(self, kind: str, after: str | None, limit: int, **bounds: Any) -> Any:
            page = await self.inner.dump(kind, after, limit, **bounds)
            if limit > 1:
                await other.update(Indexed, "n0", "", lambda old: msgspec.structs.replace(old, rank=50))
                await other.delete(Indexed, "n2")
            return page

    store = await database.open(records=[Indexed], wrap=Late)
    await store.reindex()
    assert await ranks(store, Indexed) == [50]
    assert await store.get(Indexed, "n2") is None


@case("C10")
async def test_an_interrupted_reindex_is_run_again(database: Database):
    await fill(await database.open(records=[Note]), 130)
    for number in range(20):
        script = Script()
        store = await database.open(records=[Indexed], wrap=script.wrap)
        script.set(*["ok"] * number, then="before")
        try:
            await store.reindex()
        except StoreError:
            with pytest.raises(StoreError):
                await ranks(store, Indexed)
            script.set()
            with pytest.raises(IndexNotReady):
                await ranks(store, Indexed)
            continue
        break
    script.set()
    assert number > 4
    assert await ranks(store, Indexed) == list(range(0, 130, 2))


async def test_indexes_of_logs_are_built_too(database: Database):
    old = await database.open(records=[Entry])
    for owner in ("a", "b"):
        ops = [record_of(Entry).append(Entry(owner=owner, topic=f"t{n % 2}")) for n in range(5)]
        await old.commit(owner, ops)
    store = await database.open(records=[IndexedEntry])
    await store.reindex()
    found = await store.scan(IndexedEntry, index="by_topic", prefix=("t1",))
    assert [(entry.owner, entry.n) for entry in found] == [("a", 2), ("a", 4), ("b", 2), ("b", 4)]
    receipt = await store.commit("a", [record_of(IndexedEntry).append(IndexedEntry(owner="a", topic="t1"))])
    assert receipt.seqs == (6,)


async def test_large_and_damaged_rows_do_not_stop_it(database: Database):
    old = await database.open(records=[Note])
    await old.put(Note(id="large", topic="even", rank=1, body="x" * 700_000))
    await old.put(Note(id="small", topic="even", rank=2))
    await old.connection.raw.commit([Batch("bad", (Put("note", "", b"junk"),), old.ids())])
    store = await database.open(records=[Indexed])
    assert await store.reindex() == 3
    found = await store.scan(Indexed, index="by_topic", prefix=("even",))
    assert [len(note.body) for note in found] == [700_000, 0]
    assert await store.collect("large") == 0


async def test_indexes_are_built_for_every_tenant(database: Database):
    old = await database.open(records=[Note], tenants="required")
    for tenant in ("a", "b\x00", "\ud800"):
        await old.scope(tenant).put(Note(id="n", topic="even", rank=1, body=tenant))
        await old.scope(tenant).put(Note(id="l", topic="even", rank=2, body="x" * 300_000))
    store = await database.open(records=[Indexed], tenants="required")
    with pytest.raises(IndexNotReady):
        await ranks(store.scope("a"), Indexed)
    await store.reindex()
    for tenant in ("a", "b\x00", "\ud800"):
        assert await ranks(store.scope(tenant), Indexed) == [1, 2]
        found = await store.scope(tenant).scan(Indexed, index="by_topic", prefix=("even",))
        assert found[0].body == tenant
    assert await ranks(store.scope("c"), Indexed) == []


async def test_two_indexes_are_built_in_one_pass(database: Database):
    await fill(await database.open(records=[Note]), 10)
    store = await database.open(records=[Twice])
    assert await store.reindex() == 10
    assert await ranks(store, Twice) == [0, 2, 4, 6, 8]
    assert len(await store.scan(Twice, index="by_rank", prefix=(3,))) == 1


@case("C10")
async def test_a_store_that_does_not_know_a_building_index_opens_and_leaves_it(database: Database):
    await fill(await database.open(records=[Note]), 3)
    newer = await database.open(records=[Twice])
    for records in ([], [Note]):
        older = await database.open(records=records)
        await older.conversations.ensure("c")
        assert await older.reindex() == 0
    half = await database.open(records=[Indexed])
    assert await half.reindex() == 3
    assert await ranks(half, Indexed) == [0, 2]
    assert (await catalog(newer)).building() == [("note", "by_rank")]
    again = await database.open(records=[Twice])
    with pytest.raises(IndexNotReady):
        await again.scan(Twice, index="by_rank", prefix=(1,))
    await again.reindex()
    assert (await catalog(newer)).building() == []


async def test_a_dump_whose_first_page_is_empty_is_no_empty_kind(database: Database):
    await fill(await database.open(records=[Note]), 3)

    class Sharded:
        """An engine whose dump begins with an empty page."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.capabilities = inner, inner.capabilities

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def dump(self, kind: str, after: str | None, limit: int, **bounds: Any) -> Any:
            if after is None:
                return Page([], "1")
            return await self.inner.dump(kind, None if after == "1" else after, limit, **bounds)

    store = await database.open(records=[Indexed], wrap=Sharded)
    with pytest.raises(IndexNotReady):
        await ranks(store, Indexed)
    await store.reindex()
    assert await ranks(store, Indexed) == [0, 2]


async def test_conversations_work_while_an_index_is_built(database: Database):
    old = await database.open(records=[Entry])
    await old.commit("a", [Append("entry", record_of(Entry).encode(Entry(owner="a")))])
    store = await database.open(records=[IndexedEntry])
    talk: Conversation = await store.conversations.create("c", user="u")
    await talk.append("x")
    assert [row.id async for row in store.conversations.list(user="u")] == ["c"]
    assert (await store.get_row(Key("event", "c", "0000000000000001"))) is not None
    assert isinstance(await talk.get(1), Event)
