"""The store: typed reads and writes, compare-and-set, pages within budgets, one answer per batch."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from agentkeep import (
    Closed,
    Conflict,
    Contention,
    Corrupt,
    Event,
    IndexNotReady,
    Invalid,
    Listing,
    NotFound,
    Page,
    Store,
    Stored,
    StoreError,
    Text,
    TooLarge,
    record,
)
from agentkeep.engines.memory import Memory
from agentkeep.keys import seq_sort
from agentkeep.records import record_of
from agentkeep.store import digest_of
from agentkeep.testing.marks import case
from agentkeep.testing.values import STRINGS
from agentkeep.waist import Append, Batch, Check, Delete, Key, Put, Scan, Trim
from engines import Database, Unfiltered


@record(
    "job",
    partition="id",
    sort="sort",
    indexes={"due": ("queue", "run_us")},
    facets=("queue", "n", "tag"),
)
class Task(Struct, frozen=True, kw_only=True):
    id: str
    sort: str = ""
    queue: str = "main"
    run_us: int | None = None
    n: int = 0
    tag: str | None = None


def tagged(n: int, every: int) -> Task:
    return Task(id="p", sort=f"{n:05d}", run_us=n, n=n, tag="rare" if n % every == every - 1 else None)


@pytest.fixture
async def tasks(database: Database) -> Store:
    return await database.open(records=[Task])


async def fill(store: Store, count: int, every: int = 7) -> None:
    """`count` tasks in one partition; one of `every` has the tag."""
    puts = [record_of(Task).put(tagged(n, every)) for n in range(count)]
    batches = [Batch("p", tuple(puts[first : first + 50]), store.ids()) for first in range(0, count, 50)]
    for answer in await store.commit_all(batches):
        assert not isinstance(answer, StoreError)


# --- life ------------------------------------------------------------------------------------------------------------


async def test_nothing_works_before_open_and_after_close(database: Database):
    store = Store.on(database.engine(), clock=database.clock)
    for _ in range(2):
        for call in (
            lambda: store.get(Event, "a"),
            lambda: store.conversations.create("a"),
            lambda: store.conversations.get("a"),
            lambda: store.collect("a"),
            lambda: store.sweep(),
            lambda: store.commit("a", [Check("event", seq_sort(1), "any")]),
        ):
            with pytest.raises(Closed):
                await call()
        async with store:
            await store.conversations.ensure("a")


async def test_a_store_is_awaited_or_entered_and_closed_twice(database: Database):
    store = await Store.on(database.engine(), clock=database.clock)
    await store.conversations.create("a")
    await store.close()
    await store.close()
    async with Store.on(database.engine(), clock=database.clock) as store:
        assert await store.conversations.get("a") is not None
    with pytest.raises(Closed):
        await store.conversations.get("a")


async def test_a_store_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGENTKEEP_URL", "memory://")
    async with Store.from_env() as store:
        await store.conversations.create("a")
    monkeypatch.setenv("OTHER", "")
    for variable in ("OTHER", "NONE_SUCH"):
        with pytest.raises(Invalid, match=variable):
            Store.from_env(variable)
    with pytest.raises(Invalid):
        Store.open("nosuch://x")
    with pytest.raises(Invalid):
        Store.open("")


async def test_opening_fails_closed(database: Database):
    engine = database.engine()
    await database.open(tenants="required")
    with pytest.raises(StoreError):
        await Store.on(engine, clock=database.clock)
    with pytest.raises(Closed):
        await engine.get([Key("event", "a", "")])


# --- commit ----------------------------------------------------------------------------------------------------------


async def test_a_commit_is_all_or_nothing(tasks: Store):
    put = Put("job", "", b"x")
    with pytest.raises(Conflict) as caught:
        await tasks.commit("p", [put, Check("job", "other", "exists")])
    assert caught.value.key == Key("job", "p", "other")
    assert await tasks.get_row(Key("job", "p", "")) is None
    receipt = await tasks.commit("p", [put, Append("event", b"e"), Trim("event"), Delete("job", "other")])
    assert receipt.seqs == (None, 1, None, None)


@pytest.mark.parametrize(
    "ops",
    [
        [],
        [Put("nokind", "", b"x")],
        [Put("event", "", b"x")],
        [Put("event", seq_sort(1), b"x")],
        [Append("job", b"x")],
        [Put("job", "", b"x"), Delete("job", "")],
        [Put("job", "", b"x", rev="x")],
        [Put("job", "", b"x", index={"nope": (1,)})],
        [Put("job", "", b"x", index={"due": ("a",)})],
        [Put("job", "", b"x", index={"due": ("a", "b")})],
        [Put("job", "", b"x", index={"due": ("a", 2**53 + 1)})],
        [Put("job", "", b"x", facets={"x": float("nan")})],
    ],
)
async def test_malformed_commits_are_invalid(tasks: Store, ops: Any):
    with pytest.raises(Invalid):
        await tasks.commit("p", ops)


@pytest.mark.parametrize(
    ("partition", "ops"),
    [
        ("p" * 600, [Put("job", "", b"x")]),
        ("p", [Put("job", "s" * 300, b"x")]),
        ("p", [Put("job", "", b"x", index={"due": ("q" * 500, 1)})]),
        ("p", [Put("job", "", b"x", facets={str(n): n for n in range(65)})]),
        ("p", [Put("job", "", b"x", facets={"a": "x" * 4097})]),
        ("p", [Put("job", str(n), b"x") for n in range(51)]),
    ],
)
async def test_what_is_over_the_floor_is_too_large(tasks: Store, partition: str, ops: Any):
    with pytest.raises(TooLarge) as caught:
        await tasks.commit(partition, ops)
    assert caught.value.size > caught.value.limit


async def test_commit_all_answers_each_batch(tasks: Store):
    good, bad = Put("job", "", b"x"), Check("job", "", "exists")
    batches = [Batch(f"p{n}", (bad if n == 1 else good,), tasks.ids()) for n in range(3)]
    first, second, third = await tasks.commit_all(batches)
    assert isinstance(second, Conflict)
    assert not isinstance(first, StoreError)
    assert not isinstance(third, StoreError)
    assert await tasks.commit_all([]) == []


def test_a_digest_is_of_what_was_said_in_any_order():
    same = digest_of({"a": 1, "b": [{"c": 1, "d": "\ud800"}]})
    assert same == digest_of({"b": [{"d": "\ud800", "c": 1}], "a": 1})
    assert len({digest_of(one) for one in (1, 1.0, True, "1", [1], None, {"1": 1}, "\ud800", "\x00")}) == 9
    assert digest_of("a", "b") != digest_of("ab")
    assert len(same) == 16


# --- records ---------------------------------------------------------------------------------------------------------


async def test_put_get_delete(tasks: Store):
    assert await tasks.get(Task, "p") is None
    receipt = await tasks.put(Task(id="p", n=1))
    assert await tasks.get(Task, "p") == Stored(Task(id="p", n=1), receipt.id)
    await tasks.put(Task(id="p", n=2), expect=receipt.id)
    for expect in (receipt.id, "absent"):
        with pytest.raises(Conflict):
            await tasks.put(Task(id="p", n=3), expect=expect)
        with pytest.raises(Conflict):
            await tasks.delete(Task, "p", expect=expect)
    assert (await tasks.get(Task, "p")).value.n == 2  # type: ignore[union-attr]
    await tasks.delete(Task, "p")
    await tasks.delete(Task, "p")
    with pytest.raises(Conflict):
        await tasks.delete(Task, "p", expect="exists")
    with pytest.raises(Conflict):
        await tasks.put(Task(id="p"), expect="exists")
    assert await tasks.get(Task, "p") is None


@case("F1", "F2", "F6", "S5")
async def test_keys_of_any_text_stay_apart(tasks: Store):
    for text in STRINGS:
        await tasks.put(Task(id=f"p{text}", sort=text, queue=text, run_us=1, tag=text))
    for text in STRINGS:
        expected = Task(id=f"p{text}", sort=text, queue=text, run_us=1, tag=text)
        assert (await tasks.get(Task, f"p{text}", text)).value == expected  # type: ignore[union-attr]
        assert (await tasks.scan(Task, prefix=(f"p{text}",))).items == [expected]
        assert (await tasks.scan(Task, index="due", prefix=(text,), where={"tag": text})).items == [expected]


async def test_what_is_no_record_is_invalid(tasks: Store):
    for call in (tasks.put(5), tasks.get(int, "p"), tasks.delete(int, "p"), tasks.scan(int), tasks.count(int)):
        with pytest.raises(Invalid, match="not a record"):
            await call
    with pytest.raises(Invalid):
        await tasks.put(Event(conversation="c", type="t", content=Text("x")))


async def test_a_record_the_store_was_not_opened_with_is_invalid(store: Store):
    with pytest.raises(Invalid, match="no kind"):
        await store.put(Task(id="p"))
    with pytest.raises(Invalid, match="no kind"):
        await store.get(Task, "p")


# --- update ----------------------------------------------------------------------------------------------------------


def plus(old: Task) -> Task:
    return msgspec.structs.replace(old, n=old.n + 1)


@case("C7")
async def test_no_update_is_lost_between_tasks_and_stores(tasks: Store, database: Database):
    others = [await database.open(records=[Task]) for _ in range(2)]
    await tasks.put(Task(id="p"))
    made = await asyncio.gather(*[[tasks, *others][n % 3].update(Task, "p", "", plus) for n in range(30)])
    assert sorted(one.value.n for one in made) == list(range(1, 31))
    assert (await tasks.get(Task, "p")).value.n == 30  # type: ignore[union-attr]


@case("C7")
async def test_no_update_is_lost_between_threads(database: Database):
    store = await database.open(records=[Task])
    await store.put(Task(id="p"))
    failed: list[BaseException] = []

    async def count() -> None:
        mine = Store.on(database.engine(), records=[Task], clock=database.clock)
        async with mine:
            for _ in range(10):
                await mine.update(Task, "p", "", plus)

    def work() -> None:
        try:
            asyncio.run(count())
        except BaseException as error:  # noqa: BLE001 - it is for the test's thread to judge
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failed == []
    assert (await store.get(Task, "p")).value.n == 40  # type: ignore[union-attr]


async def test_an_update_that_changes_nothing_writes_nothing(tasks: Store):
    receipt = await tasks.put(Task(id="p"))
    assert (await tasks.update(Task, "p", "", lambda old: old)).rev == receipt.id


async def test_updating_what_is_absent_is_not_found(tasks: Store):
    with pytest.raises(NotFound) as caught:
        await tasks.update(Task, "p", "", plus)
    assert caught.value.key == Key("job", "p", "")


@pytest.mark.parametrize("moved", [Task(id="q"), Task(id="p", sort="x")])
async def test_an_update_keeps_the_key(tasks: Store, moved: Task):
    await tasks.put(Task(id="p", n=1))
    with pytest.raises(Invalid, match="keeps the key"):
        await tasks.update(Task, "p", "", lambda old: moved)
    assert await tasks.get(Task, "q") is None


async def test_an_update_that_never_wins_is_contention(tasks: Store):
    await tasks.put(Task(id="p"))
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    tasks.connection.sleep = sleep

    async def attempt() -> None:
        raise Conflict(Key("job", "p", ""), "a", "b")

    with pytest.raises(Contention, match="64 times"):
        await tasks.again(attempt, Key("job", "p", ""))
    assert len(paused) == 63
    assert all(0 <= pause <= 0.1 for pause in paused)


@pytest.mark.parametrize("reason", ["once", "sealed"])
async def test_a_conflict_that_another_try_cannot_change_is_raised_at_once(tasks: Store, reason: Any):
    tried: list[int] = []

    async def attempt() -> None:
        tried.append(1)
        raise Conflict(Key("job", "p", ""), None, None, reason)

    with pytest.raises(Conflict):
        await tasks.again(attempt, Key("job", "p", ""))
    assert tried == [1]


async def test_what_the_change_raises_comes_through(tasks: Store):
    await tasks.put(Task(id="p"))

    def fail(old: Task) -> Task:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await tasks.update(Task, "p", "", fail)


async def test_an_event_is_edited_in_place(store: Store):
    talk = await store.conversations.create("c")
    await talk.append_many(["a", "b"])
    await store.update(Event, "c", seq_sort(1), lambda old: msgspec.structs.replace(old, content=Text("A")))
    assert [e.content for e in await talk.history()] == [Text("A"), Text("b")]
    await store.delete(Event, "c", seq_sort(1))
    assert [e.index for e in await talk.history()] == [2]
    assert (await talk.append("c")).index == 3


# --- scan, count, listings -------------------------------------------------------------------------------------------


async def test_scans_of_a_partition_an_index_and_a_kind(tasks: Store):
    await fill(tasks, 20)
    await tasks.put(Task(id="q", run_us=3, queue="other"))

    async def found(**asked: Any) -> list[int | None]:
        return [task.run_us for task in await tasks.scan(Task, **asked)]

    assert await found(prefix=("p",), lo="00003", hi="00006") == [3, 4, 5]
    assert await found(prefix=("p",), reverse=True, limit=2) == [19, 18]
    assert await found(index="due", prefix=("main",), lo=17) == [17, 18, 19]
    assert await found(index="due", prefix=("main", 4)) == [4]
    assert await found(index="due", prefix=("other",)) == [3]
    assert await found(index="due", prefix=("none",)) == []
    assert await found(lo="q") == [3]
    assert len(await found()) == 21


@pytest.mark.parametrize(
    "asked",
    [
        {"index": "nope", "prefix": ("a",)},
        {"index": "due"},
        {"index": "due", "prefix": (1,)},
        {"index": "due", "prefix": ("a", 1, 2)},
        {"index": "due", "prefix": ("a", 1), "lo": 1},
        {"index": "due", "prefix": ("a",), "lo": "x"},
        {"prefix": ("a", "b")},
        {"prefix": (1,)},
        {"limit": 0},
        {"limit": 1001},
        {"budget": 0},
        {"after": "junk"},
        {"where": {"n": None}},
        {"where": {"n": {"near": 1}}},
        {"where": 5},
    ],
)
async def test_malformed_scans_are_invalid(tasks: Store, asked: dict[str, Any]):
    with pytest.raises(Invalid):
        await tasks.scan(Task, **asked)
    if "limit" not in asked and "after" not in asked:
        with pytest.raises(Invalid):
            await tasks.count(Task, **asked)


@pytest.mark.parametrize("unfiltered", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 50, 999])
async def test_pages_with_a_filter_are_whole_with_every_limit(database: Database, limit: int, unfiltered: bool):
    store = await database.open(records=[Task], wrap=Unfiltered if unfiltered else None)
    await fill(store, 60)
    for asked in ({"prefix": ("p",)}, {"index": "due", "prefix": ("main",)}, {}):
        for reverse in (False, True):
            found: list[int] = []
            cursor = None
            while True:
                page = await store.scan(
                    Task, where={"tag": "rare"}, limit=limit, after=cursor, reverse=reverse, **asked
                )
                assert len(page) <= limit
                found += [task.n for task in page]
                cursor = page.cursor
                if cursor is None:
                    break
            expected = [n for n in range(60) if n % 7 == 6]
            assert found == (expected[::-1] if reverse else expected)


async def test_a_filter_that_core_evaluates_takes_few_calls(database: Database):
    engines: list[Unfiltered] = []
    store = await database.open(records=[Task], wrap=lambda engine: engines.append(Unfiltered(engine)) or engines[0])
    await fill(store, 1_000, every=1_000)
    engines[0].scans = 0
    page = await store.scan(Task, prefix=("p",), where={"tag": "rare"}, limit=1)
    assert [task.n for task in page] == [999]
    assert engines[0].scans <= 8


@pytest.mark.parametrize("unfiltered", [False, True])
@pytest.mark.parametrize("budget", [1, 2, 9, 10, 11, 25, 59, 60, 61, 1000])
async def test_a_page_looks_at_no_more_than_its_budget(database: Database, budget: int, unfiltered: bool):
    store = await database.open(records=[Task], wrap=Unfiltered if unfiltered else None)
    await fill(store, 60, every=10)
    page = await store.scan(Task, prefix=("p",), where={"tag": "rare"}, limit=50, budget=budget)
    assert [task.n for task in page] == [n for n in range(min(budget, 60)) if n % 10 == 9]
    assert (page.cursor is None) == (budget > 60)
    rest = await store.scan(Task, prefix=("p",), where={"tag": "rare"}, limit=50, after=page.cursor)
    if page.cursor is not None:
        assert [task.n for task in page] + [task.n for task in rest] == [9, 19, 29, 39, 49, 59]


@pytest.mark.parametrize("unfiltered", [False, True])
async def test_counts_are_exact_within_their_budget(database: Database, unfiltered: bool):
    store = await database.open(records=[Task], wrap=Unfiltered if unfiltered else None)
    await fill(store, 60, every=10)
    assert await store.count(Task) == (60, True)
    assert await store.count(Task, prefix=("p",), lo="00010", hi="00020") == (10, True)
    assert await store.count(Task, index="due", prefix=("main",), lo=50) == (10, True)
    assert await store.count(Task, prefix=("p",), where={"tag": "rare"}) == (6, True)
    assert await store.count(Task, prefix=("p",), where={"tag": "none"}) == (0, True)
    assert await store.count(Task, prefix=("q",)) == (0, True)
    for budget in (1, 9, 30, 59):
        assert await store.count(Task, prefix=("p",), budget=budget) == (budget, False)
        assert await store.count(Task, prefix=("p",), where={"tag": "rare"}, budget=budget) == ((budget) // 10, False)
    assert await store.count(Task, prefix=("p",), budget=61) == (60, True)


async def test_a_count_goes_over_many_pages(tasks: Store):
    await fill(tasks, 2_345, every=2)
    assert await tasks.count(Task, prefix=("p",)) == (2_345, True)
    assert await tasks.count(Task, prefix=("p",), where={"tag": "rare"}) == (1_172, True)
    assert await tasks.count(Task, prefix=("p",), where={"tag": "rare"}, budget=1_500) == (750, False)


async def test_a_page_is_a_sequence_that_names_what_is_corrupt(tasks: Store):
    await fill(tasks, 3)
    raw = tasks.connection.raw
    await raw.commit([Batch("p", (Put("job", "00001", b"junk", {"due": ("main", 1)}),), tasks.ids())])
    page = await tasks.scan(Task, index="due", prefix=("main",), limit=2)
    assert isinstance(page, Page)
    assert (len(page), page[0].n, [task.n for task in page]) == (1, 0, [0])
    assert [error.key for error in page.corrupt] == [Key("job", "p", "00001")]
    assert repr(page) == "Page(1 items, cursor=...)"
    last = await tasks.scan(Task, index="due", prefix=("main",), limit=2, after=page.cursor)
    assert [task.n for task in last] == [2]
    assert repr(last) == "Page(1 items, cursor=None)"


async def test_a_listing_is_a_page_or_everything():
    pages = {None: Page([1, 2], "a"), "a": Page([], "b"), "b": Page([3], None)}
    asked: list[str | None] = []

    async def fetch(after: str | None) -> Page[int]:
        asked.append(after)
        return pages[after]

    listing = Listing(fetch)
    assert asked == []
    assert (await listing).items == [1, 2]
    assert (await listing.page()).items == [1, 2]
    assert [item async for item in listing] == [1, 2, 3]
    assert [item async for item in Listing(fetch, "a")] == [3]
    pages["b"] = Page([3], None, [Corrupt("x")])
    with pytest.raises(Corrupt):
        [item async for item in listing]


@pytest.mark.parametrize("unfiltered", [False, True])
async def test_an_engine_without_filters_answers_every_question_alike(database: Database, unfiltered: bool):
    store = await database.open(wrap=Unfiltered if unfiltered else None)
    for n in range(12):
        talk = await store.conversations.create(f"c{n:02d}", user=f"u{n % 2}", agent=f"g{n % 3}", metadata={"n": n})
        await talk.append_many([{"content": str(m), "metadata": {"m": m}} for m in range(5)])
        database.clock.move(1)
    found = [row.id async for row in store.conversations.list(user="u0", agent="g0", limit=1)]
    assert found == ["c06", "c00"]
    assert [row.id async for row in store.conversations.find({"metadata.n": {"gt": 9}}, limit=1)] == ["c10", "c11"]
    talk = await store.conversations.ensure("c03")
    assert [e.index for e in await talk.history(where={"metadata.m": [1, 3]}, limit=1)] == [4]
    assert [e.index async for e in talk.events(where={"metadata.m": {"ne": 2}})] == [1, 2, 4, 5]
    assert len((await talk.context(max_tokens=100)).events) == 5


async def test_no_index_that_is_building_is_read(tasks: Store):
    tasks.connection.not_ready = frozenset({("job", "due")})
    with pytest.raises(IndexNotReady, match="reindex"):
        await tasks.scan(Task, index="due", prefix=("main",))
    with pytest.raises(IndexNotReady):
        await tasks.count(Task, index="due", prefix=("main",))
    assert (await tasks.scan(Task)).items == []


async def test_rows_are_read_whole(store: Store):
    await store.conversations.create("c")
    row = await store.get_row(Key("conversation", "c", ""))
    assert row is not None
    assert await store.get_stored(row.key) == (row, row)
    assert await store.get_stored(Key("conversation", "d", "")) is None
    assert (await store.scan_rows(Scan("conversation", prefix=("c",)))).items == [row]


def test_the_memory_engine_is_a_new_one_each_time():
    assert Store.open("memory://").connection.raw is not Store.open("memory://").connection.raw
    assert isinstance(Store.open("memory://").connection.raw, Memory)
