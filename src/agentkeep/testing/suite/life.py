"""Life of an engine: open, close, Closed, schemas that grow, cancelled calls, other event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from ...errors import Closed, SchemaMismatch, StoreError
from ...waist import Append, Engine, IndexSpec, Key, KindSpec, Put, Receipt, Scan, Schema
from ..fixtures import Names
from ..marks import case, needs
from ..schema import EVENT, NOTE, SCHEMA, STATE, TURN
from ..target import Target
from ..verbs import batch, commit, doc, done, numbers, read, rows, sorts

_PATIENCE = 60.0

_calls: tuple[Callable[[Engine], Awaitable[object]], ...] = (
    lambda engine: engine.get([Key("note", "p", "a")]),
    lambda engine: engine.scan(Scan("note", prefix=("p",))),
    lambda engine: engine.scan(Scan("note", "by_text", ("q",))),
    lambda engine: engine.commit([batch("p", Put("note", "b", doc(1)))]),
    lambda engine: engine.commit([batch("p", Put("note", "b", doc(1)))], restore=True),
    lambda engine: engine.dump("note", None, 10),
)


async def test_a_call_on_a_closed_engine_is_closed(database: Target) -> None:
    engine = await database.open()
    await commit(engine, "p", Put("note", "a", doc(1)))
    await engine.close()
    for call in _calls:
        with pytest.raises(Closed) as caught:
            await call(engine)
        assert caught.value.outcome == "none"
        assert not caught.value.retryable


async def test_open_and_close_may_be_called_twice(database: Target) -> None:
    engine = await database.open()
    await commit(engine, "p", Put("note", "a", doc(1)))
    await engine.open(SCHEMA)
    assert await sorts(engine, "note", "p") == ["a"], "opening again drops nothing"
    await engine.close()
    await engine.close()


async def test_a_closed_engine_may_be_opened_again(database: Target) -> None:
    engine = await database.open()
    await engine.close()
    await engine.open(SCHEMA)
    await commit(engine, "p", Append("event", doc(1)))
    assert await numbers(engine, "event", "p") == [1]
    await engine.close()
    with pytest.raises(Closed):
        await engine.get([Key("note", "p", "a")])


async def test_an_engine_that_was_never_opened_can_be_closed(database: Target) -> None:
    await database.engine().close()


@needs(durable=True)
async def test_new_kinds_and_indexes_are_added_and_nothing_is_dropped(database: Target) -> None:
    small = Schema((KindSpec("note", indexes=NOTE.indexes[:1]), EVENT))
    engine = await database.open(small)
    await commit(engine, "p", Put("note", "old", doc(1), {"by_text": ("q",)}), Append("event", doc(1)))
    await engine.close()
    engine = await database.open(SCHEMA)
    assert await sorts(engine, "note", "q", index="by_text") == ["old"]
    assert await sorts(engine, "note", "q", index="by_pair") == [], "the engine cannot know old values; core puts them"
    await commit(
        engine, "p", Put("note", "new", doc(2), {"by_pair": ("q", 1)}), Append("turn", doc(1)), Append("event", doc(2))
    )
    await commit(engine, "p", Put("note", "old", doc(1), {"by_text": ("q",), "by_pair": ("q", 2)}, expect="exists"))
    assert await sorts(engine, "note", "q", index="by_pair") == ["new", "old"]
    await engine.close()
    engine = await database.open(small)
    assert await sorts(engine, "note", "p") == ["new", "old"]
    assert await numbers(engine, "event", "p") == [1, 2]
    await engine.close()
    engine = await database.open(SCHEMA)
    assert await sorts(engine, "note", "q", index="by_pair") == ["new", "old"]
    assert await numbers(engine, "turn", "p") == [1]


@needs(shared=True)
@case("C10")
async def test_an_older_schema_works_beside_a_newer_one(database: Target) -> None:
    old = await database.open(Schema((KindSpec("note", indexes=NOTE.indexes[:1]), EVENT)))
    await commit(old, "p", Put("note", "a", doc(1), {"by_text": ("q",)}), Append("event", doc(1)))
    new = await database.open(SCHEMA)
    for number in range(2, 6):
        engine = (old, new)[number % 2]
        await commit(
            engine, "p", Put("note", f"{number}", doc(number), {"by_text": ("q",)}), Append("event", doc(number))
        )
    for engine in (old, new):
        assert await sorts(engine, "note", "q", index="by_text") == ["2", "3", "4", "5", "a"]
        assert await numbers(engine, "event", "p") == [1, 2, 3, 4, 5]


@needs(shared=True)
async def test_many_open_a_new_database_at_once(database: Target) -> None:
    async with asyncio.timeout(_PATIENCE):
        engines = await asyncio.gather(*(database.open() for _ in range(6)))
        got = await asyncio.gather(*(commit(engine, "p", Append("event", doc(1))) for engine in engines))
    assert sorted(receipt.seqs for receipt in got) == [(n,) for n in range(1, 7)]


@needs(shared=True)
async def test_many_add_kinds_and_indexes_at_once(database: Target) -> None:
    await (await database.open(Schema((KindSpec("note"),)))).close()
    more = [
        Schema((KindSpec("note", indexes=(spec,)), kind))
        for spec, kind in zip(NOTE.indexes, (EVENT, TURN, STATE, EVENT), strict=True)
    ]
    async with asyncio.timeout(_PATIENCE):
        engines = await asyncio.gather(*(database.open(schema) for schema in more * 2))
        await asyncio.gather(*(commit(engine, f"p{n}", Put("note", "a", doc(n))) for n, engine in enumerate(engines)))
        engine = await database.open()
    for number in range(8):
        assert await sorts(engine, "note", f"p{number}") == ["a"]


@needs(durable=True)
async def test_an_index_of_another_shape_is_not_taken_for_the_old_one(database: Target) -> None:
    """Refused, or kept as it was: never read wrongly."""
    await (await database.open(Schema((KindSpec("note", indexes=(IndexSpec("ix", ("a",), ("str",)),)),)))).close()
    other = Schema((KindSpec("note", indexes=(IndexSpec("ix", ("a", "b"), ("int", "str")),)),))
    try:
        engine = await database.open(other)
    except SchemaMismatch:
        return
    await commit(engine, "p", Put("note", "a", doc(1), {"ix": (3, "x")}))
    assert await sorts(engine, "note", 3, index="ix") == ["a"]


@case("C2", "C5", "C8")
async def test_a_cancelled_commit_is_settled_by_committing_again(engine: Engine, name: Names) -> None:
    async with asyncio.timeout(_PATIENCE):
        for turns in range(40):
            one = batch(
                name(f"{turns}"),
                Append("event", doc(1)),
                Put("note", "a", doc(1), expect="absent"),
                Append("event", doc(2)),
            )
            task = asyncio.ensure_future(engine.commit([one]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (told,) = await asyncio.gather(task, return_exceptions=True)
            again = await done(engine, one)
            assert (again.id, again.seqs) == (one.id, (1, None, 2))
            if isinstance(told, list):
                assert again.replayed
            assert await numbers(engine, "event", one.partition) == [1, 2]
            assert (await done(engine, one)).replayed


@case("C5")
async def test_cancelled_calls_disturb_no_other_and_leak_nothing(engine: Engine, name: Names) -> None:
    """Commits that share a transaction with a cancelled one succeed; a leaked connection would hang this."""
    async with asyncio.timeout(_PATIENCE):
        for turn in range(15):
            made = [batch(name("p"), Append("event", doc(n))) for n in range(8)]
            tasks = [asyncio.ensure_future(engine.commit([one])) for one in made]
            reads = [asyncio.ensure_future(rows(engine, "event", name("p"))) for _ in range(4)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in (*tasks[::2], *reads[::2]):
                task.cancel()
            told = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*reads, return_exceptions=True)
            for one, answer in list(zip(made, told, strict=True))[1::2]:
                assert isinstance(answer, list), repr(answer)
                assert isinstance(answer[0], Receipt), repr(answer)
                assert answer[0].id == one.id
            settled = [await done(engine, one) for one in made]
            assert len({receipt.seqs for receipt in settled}) == 8
    found = await numbers(engine, "event", name("p"))
    assert found == list(range(1, 15 * 8 + 1))


@needs(durable=True)
@pytest.mark.parametrize(("batches", "pause"), [(30, 0), (400, 0.005), (400, 0.02)])
async def test_closing_amid_calls_ends_them_and_tells_what_may_be_written(
    database: Target, batches: int, pause: float
) -> None:
    engine = await database.open()
    made = [batch(f"p{n % 3}", Append("event", doc(n))) for n in range(batches)]
    async with asyncio.timeout(_PATIENCE):
        tasks = [asyncio.ensure_future(engine.commit([one])) for one in made]
        await asyncio.sleep(pause)
        await engine.close()
        told = await asyncio.gather(*tasks, return_exceptions=True)
    for answer in told:
        assert isinstance(answer, (list, StoreError)), f"{answer!r} is no error of ours"
    again = await database.open()
    for one, answer in zip(made, told, strict=True):
        settled = await done(again, one)
        said = answer[0] if isinstance(answer, list) else answer
        if isinstance(said, Receipt):
            assert settled == msgspec.structs.replace(said, replayed=True)
        elif isinstance(said, StoreError) and said.outcome == "none":
            assert not settled.replayed, f"{said!r} was said of a batch that was written"
    assert sum([len(await numbers(again, "event", f"p{n}")) for n in range(3)]) == batches


@case("C5")
async def test_another_event_loop_is_served_or_refused_with_an_error_of_ours(database: Target) -> None:
    engine = await database.open()
    await commit(engine, "p", Put("note", "a", doc(1)))

    async def use() -> object:
        async with asyncio.timeout(_PATIENCE):
            await commit(engine, "p", Append("event", doc(1)))
            row = await read(engine, "note", "p", "a")
            return row and row.doc

    def elsewhere() -> object:
        try:
            return asyncio.run(use())
        except StoreError as error:
            return error

    told = await asyncio.to_thread(elsewhere)
    assert isinstance(told, StoreError) or told == doc(1)
    await commit(engine, "p", Append("event", doc(2)))
