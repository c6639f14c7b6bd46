"""Tenants: nothing of one is seen, changed or named by another, whatever they are called and whatever they do."""

from __future__ import annotations

import random
from base64 import urlsafe_b64decode
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentkeep import (
    Conversation,
    Event,
    Invalid,
    NotFound,
    Store,
    StoreError,
    TooLarge,
    Unavailable,
    record,
)
from agentkeep.keys import seq_sort
from agentkeep.records import record_of
from agentkeep.testing.marks import case
from agentkeep.testing.values import SEPARATED, STRINGS, SYNTAX
from agentkeep.testing.verbs import dumped
from agentkeep.waist import Batch, Key, Put, Row, Scan
from engines import Database, Script

HOSTILE = (
    *("a", "b", "a\x00", "a\x01", "a\x01b", "a:", "a/b", "a#", "A", "a ", "á", "a\u0301", "\x00", "\x01", "\x02"),
    *("\ud800", "\U0010ffff", "%", "_", "*", "..", "x" * 128),
)


@record("memo", partition="id", sort="sort", indexes={"by_topic": ("topic", "n")}, facets=("topic", "metadata.*"))
class Memo(Struct, frozen=True, kw_only=True):
    id: str
    sort: str = ""
    topic: str = "t"
    n: int = 0
    body: str = ""
    metadata: dict[str, Any] = {}


@pytest.fixture
async def shared(database: Database) -> Store:
    return await database.open(tenants="required", records=[Memo])


# --- the door --------------------------------------------------------------------------------------------------------


@case("S7")
async def test_without_a_scope_every_call_is_refused(shared: Store):
    batch = Batch("c", (Put("memo", "", b"x"),), shared.ids())
    for call in (
        lambda: shared.get(Memo, "a"),
        lambda: shared.get_row(Key("memo", "a", "")),
        lambda: shared.put(Memo(id="a")),
        lambda: shared.put(Memo(id="a", body="x" * 300_000)),
        lambda: shared.update(Memo, "a", "", lambda old: old),
        lambda: shared.delete(Memo, "a"),
        lambda: shared.scan(Memo),
        lambda: shared.count(Memo),
        lambda: shared.commit("c", batch.ops),
        lambda: shared.commit_all([batch]),
        lambda: shared.collect("a"),
        lambda: shared.sweep(),
        lambda: shared.conversations.create("a"),
        lambda: shared.conversations.ensure("a"),
        lambda: shared.conversations.get("a"),
        lambda: shared.conversations.delete("a"),
        lambda: shared.conversations.list(),
        lambda: shared.conversations.find({}),
    ):
        with pytest.raises(Invalid, match="has tenants"):
            await call()
    for kind in ("memo", "conversation", "blob_chunk"):
        assert await dumped(shared.connection.engine, kind) == []


async def test_scopes_do_not_nest_and_need_tenants(shared: Store):
    scope = shared.scope("a")
    assert scope.tenant == "a"
    assert shared.tenant is None
    with pytest.raises(Invalid, match="scoped already"):
        scope.scope("b")
    async with Store.open("memory://") as plain:
        with pytest.raises(Invalid, match="no tenants"):
            plain.scope("a")


@pytest.mark.parametrize("tenant", ["", None, 5, b"x", ["a"]])
async def test_a_tenant_is_text_and_not_empty(shared: Store, tenant: Any):
    with pytest.raises(Invalid):
        shared.scope(tenant)


async def test_a_tenant_has_at_most_128_bytes(shared: Store):
    for tenant in ("x" * 128, "é" * 64):
        await shared.scope(tenant).conversations.create("x" * 600)
    for tenant in ("x" * 129, "é" * 65, "\x00" * 65):
        with pytest.raises(TooLarge):
            shared.scope(tenant)


async def test_closing_a_scope_closes_the_store(shared: Store):
    await shared.scope("a").close()
    with pytest.raises(StoreError):
        await shared.scope("b").conversations.get("a")


# --- apart -----------------------------------------------------------------------------------------------------------


@case("S5", "S7")
async def test_tenants_of_any_name_stay_apart(shared: Store):
    ids = [*dict.fromkeys(part for pair in SEPARATED for part in pair if part)][:12]
    for tenant in HOSTILE:
        scope = shared.scope(tenant)
        for id in ids:
            talk = await scope.conversations.create(id, user="u", title=tenant)
            await talk.append(tenant, key="k")
        await scope.put(Memo(id="m", body=tenant))
    for tenant in HOSTILE:
        scope = shared.scope(tenant)
        listed = [row async for row in scope.conversations.list(user="u", limit=5)]
        assert sorted(row.id for row in listed) == sorted(ids)
        assert {row.title for row in listed} == {tenant}
        assert {row.title async for row in scope.conversations.find({}, limit=3)} == {tenant}
        assert await scope.count(Memo) == (1, True)
        assert await scope.count(Event) == (len(ids), True)
        assert [memo.body for memo in await scope.scan(Memo, index="by_topic", prefix=("t",))] == [tenant]
        for id in ids:
            talk = await scope.conversations.get(id)
            assert talk is not None
            assert [e.content.text async for e in talk.events()] == [tenant]


@case("S5")
@pytest.mark.parametrize("length", [380, 381, 382, 383, 400, 512, 600, 5000])
@pytest.mark.parametrize("tenant", ["a", "x" * 128, "é" * 64])
async def test_long_ids_fit_whatever_the_tenant(shared: Store, length: int, tenant: str):
    scope = shared.scope(tenant)
    for last in "ab":
        talk = await scope.conversations.create("x" * (length - 1) + last, user="u")
        await talk.append(last)
        await talk.set_state(data={"x": last})
    for last in "ab":
        talk = await scope.conversations.get("x" * (length - 1) + last)
        assert talk is not None
        assert [e.content.text async for e in talk.events()] == [last]
    assert len(await scope.conversations.list(user="u")) == 2


@case("C3")
async def test_a_key_belongs_to_its_tenant(shared: Store):
    for tenant in ("a", "b"):
        talk = await shared.scope(tenant).conversations.create("c")
        assert (await talk.append(tenant, key="k")).index == 1
    for tenant in ("a", "b"):
        talk = await shared.scope(tenant).conversations.ensure("c")
        assert (await talk.append(tenant, key="k")).index == 1
        assert [e.content.text async for e in talk.events()] == [tenant]


@case("S7")
async def test_a_delete_by_the_wrong_tenant_changes_nothing(shared: Store):
    mine, theirs = shared.scope("a"), shared.scope("b")
    talk = await mine.conversations.create("c", user="u")
    await talk.append("x" * 300_000)
    await mine.put(Memo(id="m", body="x" * 300_000))
    before = {kind: await dumped(shared.connection.engine, kind) for kind in shared.connection.records}
    stolen = Conversation(theirs, talk.record, talk._handle.rev)
    for call in (
        theirs.conversations.delete("c"),
        stolen.delete(),
        stolen.clear(),
        stolen.close(),
        stolen.update(title="x"),
        stolen.append("x"),
        stolen.set_state(phase="x"),
        stolen.handoff("x"),
        stolen.fork(),
        theirs.update(Memo, "m", "", lambda old: old),
    ):
        with pytest.raises(NotFound):
            await call
    await theirs.delete(Memo, "m")
    assert await theirs.collect("c") == 0
    assert await theirs.sweep(older_than=-1) == 0
    assert {kind: await dumped(shared.connection.engine, kind) for kind in shared.connection.records} == before
    assert len((await mine.get(Memo, "m")).value.body) == 300_000  # type: ignore[union-attr]


@case("S7")
async def test_a_cursor_of_another_tenant_is_refused(shared: Store):
    cursors: dict[str, list[Any]] = {}
    for tenant in ("a", "b"):
        scope = shared.scope(tenant)
        for n in range(4):
            talk = await scope.conversations.create(f"{tenant}{n}", user="u")
            await scope.put(Memo(id=f"{tenant}{n}"))
        talk = await scope.conversations.create("same", user="u")
        await talk.append_many(["x", "y", "z"])
        cursors[tenant] = [
            (await scope.conversations.list(limit=2)).cursor,
            (await scope.conversations.find({}, limit=2)).cursor,
            (await scope.scan(Memo, limit=2)).cursor,
            (await talk.history(limit=1)).cursor,
        ]
    theirs = shared.scope("b")
    talk = await theirs.conversations.ensure("same")
    for cursor in cursors["a"]:
        for call in (
            lambda after: theirs.conversations.list(limit=2, after=after),
            lambda after: theirs.conversations.find({}, limit=2, after=after),
            lambda after: theirs.scan(Memo, limit=2, after=after),
            lambda after: talk.history(limit=1, cursor=after),
        ):
            with pytest.raises(Invalid, match="cursor"):
                await call(cursor)


@case("S10")
async def test_the_cursor_of_a_dump_names_no_other_tenant(shared: Store):
    for n in range(3):
        await shared.scope("a").put(Memo(id=f"secret-{n}"))
    page = await shared.scope("b").engine.dump("memo", None, 1)
    assert page.cursor is None or b"secret" not in urlsafe_b64decode(page.cursor + "===")


@pytest.mark.parametrize("tenant", ["a", "b", "\x00", "\U0010ffff"])
async def test_a_dump_of_a_tenant_takes_the_pages_of_its_own_rows(shared: Store, tenant: str):
    """However many others there are: those before and behind it are not looked at."""
    for other in ("`", "a", "a\x00", "a\x01", "aa", "b", "\x00", "\U0010ffff"):
        scope = shared.scope(other)
        talk = await scope.conversations.create("c")
        await talk.append_many([other] * 6)
    scope = shared.scope(tenant)
    for kind, count in (("event", 7), ("conversation", 1), ("memo", 0)):
        found: list[Row] = []
        pages, after = 0, None
        while pages == 0 or after is not None:
            page = await scope.engine.dump(kind, after, 3)
            found, after, pages = [*found, *page.rows], page.cursor, pages + 1
        assert (len(found), {row.key.partition for row in found} <= {"c"}) == (count, True)
        assert pages <= count // 3 + 1
    inner = await dumped(scope.engine, "event", lo="b", hi="d")
    assert len(inner) == 7
    assert await dumped(scope.engine, "event", lo="d") == await dumped(scope.engine, "event", hi="c") == []


@case("S7")
async def test_bodies_are_those_of_their_tenant(shared: Store):
    mine, theirs = shared.scope("a"), shared.scope("b")
    await mine.put(Memo(id="m", body="secret" * 100_000))
    (chunk, *_) = [row for row in await dumped(mine.engine, "blob_chunk") if row.key.sort == seq_sort(1)]
    assert await mine.blobs.read(chunk.key.partition) is not None
    assert await theirs.blobs.read(chunk.key.partition) is None
    await theirs.blobs.delete([chunk.key.partition])
    assert len((await mine.get(Memo, "m")).value.body) == 600_000  # type: ignore[union-attr]


@case("S10")
async def test_errors_name_nothing_of_another_tenant_and_no_content(shared: Store, database: Database):
    secret, canary = "content-4711", "other-tenant"
    script = Script("commit")
    broken = await database.open(tenants="required", records=[Memo], wrap=script.wrap)
    await shared.scope(canary).conversations.create("c", title=secret)
    scope = broken.scope("mine")
    talk = await scope.conversations.create("c")
    await talk.append(secret, key="k")
    script.set(then="before")
    errors: list[StoreError] = []
    for call in (
        talk.append(secret),
        talk.append(secret + "!", key="k"),
        talk.set_state(data={"a": secret}),
        scope.put(Memo(id="m", body=secret)),
    ):
        try:
            await call
        except StoreError as error:
            errors.append(error)
    script.set()
    for call in (
        talk.append(secret + "!", key="k"),
        talk.append(secret, after=9),
        scope.conversations.create("c", title=secret),
        scope.conversations.delete("d"),
        scope.put(Memo(id="m", body=secret), expect="exists"),
        talk.append(secret, metadata={"a": secret * 1000}),
    ):
        try:
            await call
        except StoreError as error:
            errors.append(error)
    assert len(errors) == 10
    for error in errors:
        for text in (str(error), repr(error), repr(error.key), repr(error.__cause__)):
            assert secret not in text
            assert canary not in text
        if error.key is not None:
            assert error.key.partition in ("c", "d", "m")
    for thing in (scope, talk, shared, scope.conversations, await scope.conversations.list()):
        assert secret not in repr(thing)
        assert canary not in repr(thing)


# --- canaries --------------------------------------------------------------------------------------------------------


class Tenant:
    """One tenant of a fuzz: its scope, and what it has written. All ids are those of all others."""

    def __init__(self, scope: Store, name: str) -> None:
        self.scope = scope
        self.canary = f"canary-{name}"
        self.counts: dict[str, int] = {}

    async def talk(self, id: str) -> Conversation:
        return await self.scope.conversations.ensure(id, user="user", agent="agent", title=self.canary)

    def check(self, *values: Any) -> None:
        """Everything that was read is this tenant's."""
        for value in values:
            for one in value if isinstance(value, list) else [value]:
                text = repr(one)
                assert "canary-" not in text.replace(self.canary, "")


async def everything(tenant: Tenant, ids: list[str], cursors: list[str], pick: random.Random) -> None:
    """One random operation of the public API, all that it reads checked."""
    scope, id, canary = tenant.scope, pick.choice(ids), tenant.canary
    talk = await tenant.talk(id)
    what = pick.randrange(22)
    foreign = pick.choice(cursors) if cursors and pick.random() < 0.3 else None
    match what:
        case 0 | 1 | 2:
            await talk.append(canary, sender="user", key=pick.choice([None, "k1", "k2"]), metadata={"canary": canary})
        case 3:
            await talk.append_many([canary, {"content": {"x": canary}}])
        case 4:
            await talk.append(canary * 25_000)
        case 5:
            await talk.set_state(data={pick.choice("ab"): canary}, phase=canary)
        case 6:
            await talk.handoff(canary, reason=canary)
        case 7:
            await talk.update(title=canary, metadata={"canary": canary})
        case 8:
            await talk.clear()
        case 9:
            await talk.delete()
        case 10:
            tenant.check((await talk.fork()).record)
        case 11:
            page = await talk.history(limit=pick.randrange(1, 9), cursor=foreign)
            tenant.check(page.items)
            cursors += [page.cursor] if page.cursor else []
        case 12:
            tenant.check(
                [event async for event in talk.events()], [event async for event in talk.tail(after=0, idle=0)]
            )
        case 13:
            tenant.check((await talk.context(max_tokens=10_000)).events, await talk.pending(), await talk.state())
        case 14:
            page = await scope.conversations.list(user="user", limit=2, after=foreign)
            tenant.check(page.items)
            cursors += [page.cursor] if page.cursor else []
        case 15:
            page = await scope.conversations.find({"status": "open"}, limit=2, after=foreign)
            tenant.check(page.items)
            cursors += [page.cursor] if page.cursor else []
        case 16:
            tenant.check([row async for row in scope.conversations.list(metadata={"canary": {"exists": True}})])
        case 17:
            await scope.put(Memo(id=id, body=canary, n=pick.randrange(5), metadata={"canary": canary}))
        case 18:
            page = await scope.scan(Memo, index="by_topic", prefix=("t",), limit=3, after=foreign)
            tenant.check(page.items)
            cursors += [page.cursor] if page.cursor else []
        case 19:
            tenant.check(await scope.get(Memo, id), (await scope.scan(Memo, where={"topic": "t"})).items)
            await scope.delete(Memo, pick.choice(ids))
        case 20:
            tenant.check(*[await dumped(scope.engine, kind) for kind in ("event", "memo", "activity", "blob_chunk")])
            tenant.check([await talk.get(n) for n in range(4)])
        case _:
            await talk.close()
            await talk.reopen()


@case("S7", "S10")
@pytest.mark.parametrize("seed", range(4))
async def test_ten_tenants_never_read_each_other(shared: Store, seed: int):
    pick = random.Random(seed)
    names = pick.sample([*HOSTILE, *STRINGS[1:], *SYNTAX], 40)
    unique = list(dict.fromkeys(name for name in names if name))[:10]
    tenants = [Tenant(shared.scope(name), str(n)) for n, name in enumerate(unique)]
    ids = ["a", "b", "a\x01b", unique[0], unique[1]]
    cursors: list[str] = []
    for _ in range(400):
        tenant = pick.choice(tenants)
        try:
            await everything(tenant, ids, cursors, pick)
        except StoreError as error:
            tenant.check(str(error), repr(error))
    for tenant in tenants:
        for kind in shared.connection.records:
            tenant.check(await dumped(tenant.scope.engine, kind))
    total = sum([len(await dumped(tenant.scope.engine, "event")) for tenant in tenants])
    assert total == len(await dumped(shared.connection.engine, "event"))


@case("S10")
async def test_spans_of_a_tenant_name_no_tenant_id_or_content(database: Database, spans: InMemorySpanExporter):
    store = await database.open(tenants="required", trace=True)
    talk = await store.scope("tenant-quokka").conversations.create(
        "id-quokka", user="user-quokka", metadata={"x": "meta-quokka"}
    )
    await talk.append("content-quokka", key="key-quokka")
    await talk.history()
    with pytest.raises(Invalid):
        await talk.history(cursor="cursor-quokka")
    with pytest.raises(StoreError):
        await store.scope("tenant-quokka").conversations.create("id-quokka")
    assert spans.get_finished_spans()
    for span in spans.get_finished_spans():
        shown = span.to_json()
        assert "quokka" not in shown, shown


async def test_a_whole_kind_scan_ends_with_its_tenant(shared: Store):
    """The neighbours in the order of keys are the hardest to tell apart."""
    for tenant in ("a", "a\x00", "a\x01", "a\x02", "aa", "b", "\x00", "`"):
        await shared.scope(tenant).put(Memo(id="m", body=tenant))
        await shared.scope(tenant).put(Memo(id="\x00", body=tenant))
        await shared.scope(tenant).put(Memo(id="\U0010ffff", body=tenant))
    for tenant in ("a", "a\x00", "a\x01", "a\x02", "aa", "b", "\x00", "`"):
        scope = shared.scope(tenant)
        assert [memo.body for memo in await scope.scan(Memo)] == [tenant] * 3
        assert [memo.id for memo in await scope.scan(Memo, lo="a")] == ["m", "\U0010ffff"]
        assert [memo.id for memo in await scope.scan(Memo, hi="n")] == ["\x00", "m"]
        assert [memo.id for memo in await scope.scan(Memo, reverse=True, limit=1)] == ["\U0010ffff"]


async def test_rows_come_out_of_a_scope_as_they_went_in(shared: Store):
    scope = shared.scope("a\x00b")
    put = record_of(Memo).put(Memo(id="m\x00", n=3, topic="x"))
    await scope.commit("m\x00", [put])
    (row,) = (await scope.scan_rows(Scan("memo"))).items
    assert row.key == Key("memo", "m\x00", "")
    (row,) = await dumped(scope.engine, "memo")
    assert row.index == {"by_topic": ("x", 3)}
    assert msgspec.json.decode(row.doc[5:])["n"] == 3


async def test_unavailable_engines_are_so_for_every_tenant(database: Database):
    script = Script()
    store = await database.open(tenants="required", wrap=script.wrap)
    script.set(then="before")
    with pytest.raises(Unavailable):
        await store.scope("a").conversations.get("c")
