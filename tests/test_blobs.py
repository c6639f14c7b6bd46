"""Large bodies: whole or absent, gone with what named them, and nothing left over wherever a writer broke off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from agentkeep import (
    Conflict,
    Conversation,
    Corrupt,
    Data,
    Event,
    Invalid,
    Store,
    StoreError,
    Text,
    TooLarge,
    codec,
    record,
)
from agentkeep.blobs.bodies import INLINE, TOGETHER
from agentkeep.blobs.rows import CHUNK, KINDS, Moved, RowBlobs, whole
from agentkeep.engines.memory import Memory
from agentkeep.ids import Ids
from agentkeep.keys import seq_sort
from agentkeep.records import record_of
from agentkeep.testing.marks import case
from agentkeep.testing.verbs import dumped
from agentkeep.waist import HEAD, Batch, Delete, Key, Put, Row
from engines import Database, Meeting, Script


@record("paper", partition="id", indexes={"by_topic": ("topic", "id")}, facets=("topic",))
class Paper(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    body: str = ""
    topic: str | None = None


@pytest.fixture
async def papers(database: Database) -> Store:
    return await database.open(records=[Paper])


async def leftovers(store: Store) -> list[Row]:
    """Every row of the blob store, tombstones aside."""
    return [
        row for kind in KINDS for row in await dumped(store.engine, kind.name) if row.key.sort != HEAD or not kind.log
    ]


async def bodies(store: Store) -> int:
    """How many bodies there are, by their chunks."""
    return len({row.key.partition for row in await leftovers(store) if row.key.kind == "blob_chunk"})


def body(size: int, seed: int = 0) -> str:
    """A text whose parts all differ."""
    return "".join(f"{seed}.{n:07d}" for n in range(size // 9 + 1))[:size]


# --- sizes -----------------------------------------------------------------------------------------------------------

HEAD_BYTES = len(codec.encode(Paper(id="a", topic="t")))


@case("F5")
@pytest.mark.parametrize(
    ("size", "moved"),
    [
        (1, False),
        (INLINE - HEAD_BYTES - 1, False),
        (INLINE - HEAD_BYTES, False),
        (INLINE - HEAD_BYTES + 1, True),
        (CHUNK, True),
        (CHUNK + 1, True),
        (1_000_000, True),
        (3 * CHUNK - HEAD_BYTES, True),
        (3 * CHUNK - HEAD_BYTES + 1, True),
        (20_000_000, True),
    ],
)
async def test_a_document_of_any_size_is_one_record(papers: Store, size: int, moved: bool):
    one = Paper(id="a", body=body(size), topic="t")
    await papers.put(one)
    found = await papers.get(Paper, "a")
    assert found is not None
    assert found.value == one
    assert await bodies(papers) == moved
    assert (await papers.scan(Paper, index="by_topic", prefix=("t",))).items == [one]
    assert (await papers.scan(Paper, prefix=("a",), where={"topic": "t"})).items == [one]
    await papers.delete(Paper, "a")
    assert await papers.get(Paper, "a") is None
    assert await leftovers(papers) == []


@case("F5")
async def test_a_hundred_megabytes(papers: Store):
    one = Paper(id="a", body="x" * 100_000_000)
    await papers.put(one)
    found = await papers.get(Paper, "a")
    assert found is not None
    assert found.value == one
    await papers.delete(Paper, "a")
    assert await leftovers(papers) == []


@case("F1", "F2", "F5")
async def test_large_text_of_any_kind_comes_back(papers: Store):
    for n, text in enumerate(("\x00" * 300_000, "\ud800" * 300_000, "\u2028\U0001f600" * 100_000)):
        await papers.put(Paper(id=str(n), body=text))
        found = await papers.get(Paper, str(n))
        assert found is not None
        assert found.value.body == text


# --- replacing and deleting ------------------------------------------------------------------------------------------


@case("F5")
async def test_a_replaced_body_is_dropped(papers: Store):
    await papers.put(Paper(id="a", body=body(300_000)))
    await papers.put(Paper(id="a", body=body(400_000, 1)))
    assert await bodies(papers) == 1
    await papers.update(Paper, "a", "", lambda old: msgspec.structs.replace(old, body=body(500_000, 2)))
    assert await bodies(papers) == 1
    found = await papers.get(Paper, "a")
    assert found is not None
    assert found.value.body == body(500_000, 2)
    await papers.put(Paper(id="a", body="small"), expect=found.rev)
    assert await leftovers(papers) == []


async def test_a_refused_write_leaves_the_old_body_and_no_new_one(papers: Store):
    await papers.put(Paper(id="a", body=body(300_000)))
    for write in (
        papers.put(Paper(id="a", body=body(300_000, 1)), expect="absent"),
        papers.put(Paper(id="a", body=body(300_000, 1)), expect=papers.ids()),
        papers.delete(Paper, "a", expect=papers.ids()),
        papers.delete(Paper, "a", expect="absent"),
    ):
        with pytest.raises(Conflict):
            await write
    with pytest.raises(TooLarge):
        await papers.put(Paper(id="a", body=body(300_000, 1), topic="x" * 500))
    assert await bodies(papers) == 1
    found = await papers.get(Paper, "a")
    assert found is not None
    assert found.value.body == body(300_000)
    assert await papers.collect("a") == 0


async def test_a_large_state_drops_the_one_before(papers: Store):
    talk = await papers.conversations.create("c")
    for n in range(3):
        await talk.set_state(data={"blob": body(300_000, n)})
    await talk.handoff("billing")
    assert await bodies(papers) == 1
    assert (await talk.state()).data == {"blob": body(300_000, 2)}
    await talk.set_state(data={"blob": None})
    assert await leftovers(papers) == []


@case("C2", "F5")
async def test_a_large_event_is_idempotent_too(papers: Store):
    talk = await papers.conversations.create("c")
    first = await talk.append(body(300_000), key="k")
    assert await talk.append(body(300_000), key="k") == first
    with pytest.raises(Conflict):
        await talk.append(body(300_000, 1), key="k")
    assert await bodies(papers) == 1
    assert await talk.length() == 1
    with pytest.raises(Conflict):
        await talk.append(body(300_000), after=0)
    assert await bodies(papers) == 1


@case("F5", "C8")
async def test_forty_five_large_events_are_one_append(papers: Store):
    talk = await papers.conversations.create("c")
    made = await talk.append_many([body(210_000, n) for n in range(45)], key="k")
    assert [event.index for event in made] == list(range(1, 46))
    assert await bodies(papers) == 45
    assert [event.content.text async for event in talk.events()] == [body(210_000, n) for n in range(45)]
    with pytest.raises(Conflict):
        await talk.append_many([body(210_000, n) for n in range(44)], key="k")
    assert await bodies(papers) == 45
    await papers.delete(Event, "c", seq_sort(7))
    assert await bodies(papers) == 44
    await talk.delete()
    assert await leftovers(papers) == []


@case("F5", "C8")
@pytest.mark.parametrize("size", [30_000, 100_000, INLINE - 4_000])
async def test_a_turn_that_is_large_as_a_whole_fits_a_batch(papers: Store, size: int):
    talk = await papers.conversations.create("c")
    await talk.append_many([{"content": body(size, n), "metadata": {"a": "x" * 3_000}} for n in range(45)])
    assert [event.content.text async for event in talk.events()] == [body(size, n) for n in range(45)]
    assert await bodies(papers) == 45 - TOGETHER // (size + 3_000 + 150)
    await talk.clear()
    assert await leftovers(papers) == []


async def test_commit_all_takes_large_and_small_batches_in_order(papers: Store):
    record = record_of(Paper)
    sizes = [10, 300_000, 10, 300_000]
    batches = [
        Batch(f"p{n}", (record.put(Paper(id=f"p{n}", body=body(size)), "absent"),), papers.ids())
        for n, size in enumerate(sizes)
    ]
    await papers.put(Paper(id="p3"))
    *done, refused = await papers.commit_all(batches)
    assert [getattr(answer, "id", None) for answer in done] == [batch.id for batch in batches[:3]]
    assert isinstance(refused, Conflict)
    assert await bodies(papers) == 1
    assert [len(one.value.body) for n in range(4) if (one := await papers.get(Paper, f"p{n}"))] == [10, 300_000, 10, 0]


# --- conversations ---------------------------------------------------------------------------------------------------


async def test_clear_removes_the_bodies_of_what_it_clears_and_no_others(papers: Store):
    talk = await papers.conversations.create("c")
    await talk.set_state(data={"s": body(300_000)})
    await talk.append_many([body(300_000, 1), "small", body(300_000, 2)])
    await talk.clear()
    await talk.append(body(300_000, 3))
    assert await bodies(papers) == 2
    assert [event.content.text async for event in talk.events()] == [body(300_000, 3)]
    assert (await talk.state()).data == {"s": body(300_000)}
    await talk.delete()
    assert await leftovers(papers) == []


@case("F5")
async def test_a_delete_that_breaks_off_is_finished_by_the_next(database: Database):
    script = Script()
    store = await database.open(wrap=script.wrap)
    for call in range(12):
        talk = await store.conversations.create(f"c{call}")
        await talk.append(body(300_000))
        script.set(*["ok"] * call, then="before")
        try:
            await talk.delete()
        except StoreError:
            script.set()
            try:
                await talk.delete()
            except StoreError as error:
                assert type(error).__name__ == "NotFound"  # noqa: PT017
        script.set()
        assert await leftovers(store) == []


async def test_a_fork_has_bodies_of_its_own(papers: Store):
    talk = await papers.conversations.create("c")
    await talk.append_many([body(300_000), "small", body(150_000), body(150_000), body(400_000)])
    await talk.set_state(data={"s": body(300_000)})
    copy = await talk.fork(id="f")
    assert await bodies(papers) == 6
    await talk.fork(id="f")
    assert await bodies(papers) == 6
    await talk.delete()
    assert await bodies(papers) == 3
    assert [len(event.content.text) async for event in copy.events()] == [300_000, 5, 150_000, 150_000, 400_000]
    await copy.delete()
    assert await leftovers(papers) == []


async def test_collect_leaves_bodies_of_kinds_it_does_not_know(papers: Store, database: Database):
    await papers.put(Paper(id="c", body=body(300_000)))
    other = await database.open()
    talk = await other.conversations.create("c")
    await talk.append(body(300_000))
    await talk.delete()
    found = await papers.get(Paper, "c")
    assert found is not None
    assert len(found.value.body) == 300_000
    assert await bodies(papers) == 1


# --- races -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def met(database: Database) -> tuple[Store, Meeting]:
    """A store that lets something happen between its reads of a row and of its body."""
    made: list[Meeting] = []
    store = await database.open(
        records=[Paper], wrap=lambda engine: made.append(Meeting(engine, "scan", "blob_chunk")) or made[0]
    )
    return store, made[0]


async def test_a_reader_that_meets_a_replacement_gets_the_new_body(met: tuple[Store, Meeting]):
    store, engine = met
    await store.put(Paper(id="a", body=body(300_000), topic="t"))
    for n, read in enumerate(
        (
            lambda: store.get(Paper, "a"),
            lambda: store.update(Paper, "a", "", lambda old: old),
            lambda: store.scan(Paper, prefix=("a",)),
        ),
        1,
    ):
        engine.meet = lambda n=n: store.put(Paper(id="a", body=body(300_000, n), topic="t"))
        found = await read()
        value = found.items[0] if hasattr(found, "items") else found.value
        assert value.body == body(300_000, n)


async def test_a_reader_that_meets_a_delete_finds_nothing(met: tuple[Store, Meeting]):
    store, engine = met
    for read in (lambda: store.get(Paper, "a"), lambda: store.scan(Paper, prefix=("a",))):
        await store.put(Paper(id="a", body=body(300_000)))
        engine.meet = lambda: store.delete(Paper, "a")
        found = await read()
        assert found is None or (found.items, found.corrupt) == ([], [])


async def test_concurrent_updates_of_large_records_lose_nothing(papers: Store, database: Database):
    other = await database.open(records=[Paper])
    await papers.put(Paper(id="a", body=body(250_000)))

    async def more(store: Store) -> None:
        await store.update(Paper, "a", "", lambda old: msgspec.structs.replace(old, body=old.body + "."))

    await asyncio.gather(*[more((papers, other)[n % 2]) for n in range(10)])
    found = await papers.get(Paper, "a")
    assert found is not None
    assert found.value.body == body(250_000) + "." * 10
    await papers.sweep(older_than=-1)
    await papers.collect("a")
    assert await bodies(papers) == 1


# --- damage ----------------------------------------------------------------------------------------------------------


@case("C9")
async def test_a_body_that_is_missing_cut_or_damaged_is_corrupt_and_named(papers: Store):
    for n in range(4):
        await papers.put(Paper(id=f"p{n}", body=body(600_000), topic="t"))
    raw = papers.connection.raw
    names: dict[str, str] = {}
    for row in await dumped(papers.engine, "paper"):
        _, stub = codec.unframe(row.doc)
        names[row.key.partition] = msgspec.json.decode(stub)["blob"]
    await papers.blobs.delete([names["p0"]])
    await raw.commit([Batch(names["p1"], (Delete("blob_chunk", seq_sort(2)),), papers.ids())])
    await raw.commit(
        [Batch(names["p2"], (Put("blob_chunk", seq_sort(1), b"x" * CHUNK, expect="exists"),), papers.ids())]
    )
    page = await papers.scan(Paper, index="by_topic", prefix=("t",))
    assert [one.id for one in page] == ["p3"]
    assert sorted(error.key for error in page.corrupt if error.key) == [Key("paper", f"p{n}", "") for n in range(3)]
    for n in range(3):
        with pytest.raises(Corrupt):
            await papers.get(Paper, f"p{n}")
        with pytest.raises(Corrupt):
            await papers.update(Paper, f"p{n}", "", lambda old: Paper(id=old.id))
        await papers.put(Paper(id=f"p{n}", body="mended", topic="t"))
    assert len(await papers.scan(Paper, index="by_topic", prefix=("t",))) == 4


@case("S1")
@pytest.mark.parametrize("stub", [b"", b"junk", b"{}", b'{"blob":5,"size":1}', b'{"blob":"x","size":"y"}', b"\x80\x04"])
async def test_a_stub_that_is_none_is_corrupt(papers: Store, stub: bytes):
    doc = codec.frame(codec.MOVED, stub)
    await papers.connection.raw.commit([Batch("a", (Put("paper", "", doc),), papers.ids())])
    with pytest.raises(Corrupt):
        await papers.get(Paper, "a")
    assert len((await papers.scan(Paper, prefix=("a",))).corrupt) == 1


# --- broken off ------------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Store, Conversation], Any]] = {
    "put": lambda store, talk: store.put(Paper(id="c", body=body(900_000, 1))),
    "update": lambda store, talk: store.update(Paper, "c", "", lambda old: Paper(id="c", body=body(900_000, 1))),
    "append": lambda store, talk: talk.append(body(900_000, 1), key="k"),
    "append_many": lambda store, talk: talk.append_many([body(300_000, 1), "small", body(300_000, 2)], key="k"),
    "set_state": lambda store, talk: talk.set_state(data={"s": body(900_000, 1)}),
}


async def seen(store: Store, talk: Conversation) -> list[int]:
    """What readers see: the sizes of the record, of the state and of each event."""
    paper = await store.get(Paper, "c")
    assert paper is not None
    events = [len(event.content.text) async for event in talk.events() if isinstance(event.content, Text)]
    return [len(paper.value.body), len((await talk.state()).data.get("s", "")), *events]


@case("F5", "C2")
@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_breaks_off_at_any_call_is_whole_or_absent(database: Database, name: str, fault: Any):
    """A process that dies at its nth call, for every n: the calls after it never happen."""
    store = await database.open(records=[Paper])
    number, finished = 0, False
    while not finished:
        script = Script("commit")
        broken = await database.open(records=[Paper], wrap=script.wrap)
        talk = await store.conversations.create(f"c{number}")
        await store.put(Paper(id="c", body=body(250_000)))
        mine = await broken.conversations.get(talk.id)
        assert mine is not None
        before = await seen(store, talk)
        script.set(*["ok"] * number, fault, then="before")
        try:
            await WRITES[name](broken, mine)
        except StoreError as error:
            outcome = error.outcome
        else:
            outcome = "done"
        finished = script.seen <= number
        broke_off = await seen(store, talk)
        applied = broke_off != before
        assert outcome == "unknown" or applied == (outcome == "done"), (number, outcome)
        script.set()
        await WRITES[name](broken, mine)  # by the same key, or as an upsert
        after = await seen(store, talk)
        assert after != before
        assert not applied or after == broke_off
        await store.sweep(older_than=-1)
        for partition in (talk.id, "c"):
            await store.collect(partition)
        assert await seen(store, talk) == after
        assert await bodies(store) == sum(size > 200_000 for size in after)
        await talk.delete()
        await store.delete(Paper, "c")
        assert await leftovers(store) == []
        number += 1
    assert number >= 3


@case("C2")
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_upload_that_fails_says_that_nothing_was_committed(database: Database, fault: Any):
    script = Script("commit")
    store = await database.open(records=[Paper], wrap=script.wrap)
    for number in range(2):  # 900,000 bytes are two commits of chunks
        script.set(*["ok"] * number, fault, then="before")
        with pytest.raises(StoreError) as caught:
            await store.put(Paper(id="a", body=body(900_000)))
        assert caught.value.outcome == "none"
    script.set()
    assert await store.get(Paper, "a") is None
    assert await store.sweep(older_than=-1) == (1 if fault == "before" else 2)
    assert await leftovers(store) == []


async def test_a_body_that_is_cut_is_corrupt_before_it_is_decoded():
    class Cut(RowBlobs):
        async def read(self, blob: str) -> bytes | None:
            return b"x" * 9

    doc = codec.frame(codec.MOVED, msgspec.json.encode(Moved("b.0", 10)))
    with pytest.raises(Corrupt, match="missing or cut"):
        await whole(Cut(Memory(), Ids(), lambda: 0), Row(Key("paper", "a", ""), "r", doc))


@case("F5")
async def test_a_sweep_spares_what_is_being_written(database: Database):
    store = await database.open(records=[Paper])
    await store.blobs.write("upload.0", b"x" * 10, "a")
    assert await store.sweep() == 0
    database.clock.move(25 * 3600)
    assert await store.sweep() == 1
    assert await leftovers(store) == []
    with pytest.raises(Conflict):  # a writer that comes back late finds it sealed
        await store.blobs.write("upload.0", b"x" * 10, "a")
    await store.sweep(older_than=-1)
    assert await leftovers(store) == []


async def test_a_sweep_confirms_what_is_named(database: Database):
    script = Script("commit")
    store = await database.open(records=[Paper], wrap=script.wrap)
    script.set("ok", "ok", *["before"] * 8)  # chunks, the record, and then no confirmation
    await store.put(Paper(id="a", body=body(300_000)))
    script.set()
    assert await store.sweep(older_than=-1) == 0
    assert {row.key.kind for row in await leftovers(store)} == {"blob", "blob_chunk"}
    assert await store.sweep(older_than=-1) == 0


async def test_sweeps_go_on_in_steps(database: Database):
    store = await database.open()
    for n in range(7):
        await store.blobs.write(f"upload.{n}", b"x", "a")
    assert [await store.sweep(older_than=-1, limit=3) for _ in range(4)] == [3, 3, 1, 0]


async def test_a_write_to_a_closed_conversation_leaves_no_body(papers: Store):
    talk = await papers.conversations.create("c")
    await talk.close()
    with pytest.raises(Invalid):
        await talk.append(Data({"x": body(300_000)}))
    assert await leftovers(papers) == []
