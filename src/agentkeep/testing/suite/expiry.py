"""Expiry by the injected clock: from its microsecond on, an expired row is absent to every method."""

from __future__ import annotations

from ...ids import SECOND
from ...keys import seq_sort
from ...predicates import Compare
from ...waist import HEAD, Append, Check, Delete, Engine, Key, Put
from ..fixtures import Names
from ..marks import case
from ..target import MovedClock, Target
from ..verbs import commit, conflict, doc, dumped, head, numbers, read, rows, sorts


async def test_an_expired_row_is_absent_to_every_method(engine: Engine, clock: MovedClock, name: Names) -> None:
    until = clock() + 5 * SECOND
    index, facets = {"by_text": (name("q"),), "by_pair": (name("q"), 1)}, {"x": 1}
    await commit(
        engine, name("p"), Put("note", "a", doc(0), index, facets, until), Put("note", "b", doc(0), index, facets)
    )
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.expires == until
    clock.now = until - 1
    assert await sorts(engine, "note", name("p")) == ["a", "b"]
    clock.now = until
    assert await read(engine, "note", name("p"), "a") is None
    assert await sorts(engine, "note", name("p")) == ["b"]
    assert await sorts(engine, "note", name("p"), reverse=True, lo="a") == ["b"]
    assert await sorts(engine, "note", name("p"), where=Compare("x", "eq", 1)) == ["b"]
    assert await sorts(engine, "note", name("q"), index="by_text") == ["b"]
    assert await sorts(engine, "note", name("q"), index="by_pair", where=Compare("x", "exists", True)) == ["b"]
    assert {row.key.sort for row in await dumped(engine, "note", 1000) if row.key.partition == name("p")} == {"b"}
    assert {row.key.sort for row in await rows(engine, "note", limit=1000) if row.key.partition == name("p")} == {"b"}


@case("C6")
async def test_expectations_do_not_see_an_expired_row(engine: Engine, clock: MovedClock, name: Names) -> None:
    until = clock() + SECOND
    first = await commit(engine, name("p"), *(Put("note", sort, doc(0), expires=until) for sort in "abc"))
    clock.now = until
    error = await conflict(engine, name("p"), Put("note", "a", doc(1), expect=first.id))
    assert (error.expect, error.found) == (first.id, None)
    await conflict(engine, name("p"), Put("note", "a", doc(1), expect="exists"))
    await conflict(engine, name("p"), Check("note", "a", "exists"))
    await conflict(engine, name("p"), Delete("note", "a", expect="exists"))
    await commit(engine, name("p"), Check("note", "a", "absent"), Delete("note", "b", expect="absent"))
    second = await commit(engine, name("p"), Put("note", "a", doc(2), expect="absent"))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert (row.rev, row.doc, row.expires) == (second.id, doc(2), None)
    await commit(engine, name("p"), Delete("note", "c"))
    assert await sorts(engine, "note", name("p")) == ["a"]


async def test_a_put_moves_or_ends_an_expiry(engine: Engine, clock: MovedClock, name: Names) -> None:
    until = clock() + 5 * SECOND
    await commit(
        engine, name("p"), *(Put("note", sort, doc(0), {"by_text": (name("q"),)}, {}, until) for sort in "abc")
    )
    index = {"by_text": (name("q"),)}
    await commit(
        engine, name("p"), Put("note", "a", doc(1), index, {}, until + SECOND), Put("note", "b", doc(1), index)
    )
    clock.now = until
    assert await sorts(engine, "note", name("q"), index="by_text") == ["a", "b"]
    clock.now = until + SECOND
    assert await sorts(engine, "note", name("p")) == ["b"]


async def test_a_row_may_be_put_expired(engine: Engine, clock: MovedClock, name: Names) -> None:
    await commit(engine, name("p"), Put("note", "a", doc(0), expires=clock()), Append("event", doc(0), expires=0))
    assert await read(engine, "note", name("p"), "a") is None
    assert await numbers(engine, "event", name("p")) == []
    assert (await commit(engine, name("p"), Append("event", doc(1)))).seqs == (2,)


async def test_an_expired_log_row_frees_no_number(engine: Engine, clock: MovedClock, name: Names) -> None:
    until = clock() + SECOND
    first = await commit(
        engine, name("p"), *(Append("event", doc(n), expires=until if n > 1 else None) for n in (1, 2, 3))
    )
    clock.now = until
    assert await numbers(engine, "event", name("p")) == [1]
    found = await engine.get([Key("event", name("p"), seq_sort(n)) for n in (1, 2, 3)])
    assert [row is not None for row in found] == [True, False, False]
    head_row = await read(engine, "event", name("p"), HEAD)
    assert head_row is not None
    assert head_row.expires is None
    assert (await commit(engine, name("p"), Append("event", doc(4), after=3))).seqs == (4,)
    await conflict(engine, name("p"), Put("event", seq_sort(2), doc("late"), expect=first.id))


async def test_a_log_whose_rows_have_all_expired_goes_on(database: Target) -> None:
    engine = await database.open()
    await commit(engine, "p", *(Append("event", doc(n), expires=database.clock() + SECOND) for n in range(5)))
    database.clock.move(3600 * 24 * 3)
    for number in range(20):
        await commit(engine, f"q{number}", Append("event", doc(0)), Put("note", "a", doc(0)))
    found = await head(engine, "event", "p")
    assert found is not None
    assert found.seq == 5
    assert (await commit(engine, "p", Append("event", doc(6)))).seqs == (6,)


@case("F7")
async def test_order_and_numbers_do_not_follow_the_clock(database: Target) -> None:
    """A frozen clock, one that goes back an hour, two writers five minutes apart."""
    engine = await database.open()
    for step, seconds in enumerate((0, 0, -3600, 300, -600, 7200)):
        database.clock.move(seconds)
        assert (await commit(engine, "p", Append("event", doc(step)), Put("note", "a", doc(step)))).seqs == (
            step + 1,
            None,
        )
    assert [row.doc for row in await rows(engine, "event", "p")] == [doc(step) for step in range(6)]
    row = await read(engine, "note", "p", "a")
    assert row is not None
    assert row.doc == doc(5)
