"""Capabilities, asserted both ways: what is claimed works, and what is not claimed is refused or absent."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import pytest

from ...errors import StoreError
from ...layers.limits import Limits
from ...predicates import OPERATORS
from ...urls import engine as engine_of
from ...waist import Append, Capabilities, Engine, Key, Put, Receipt, Scan
from ..fixtures import Names
from ..marks import needs
from ..schema import SCHEMA
from ..target import Target
from ..verbs import batch, commit, doc, dumped, numbers, read, sorts

T = TypeVar("T")


async def test_capabilities_are_a_plain_value(engine: Engine) -> None:
    claimed = engine.capabilities
    assert type(claimed) is Capabilities
    assert claimed.name
    assert claimed.filters <= OPERATORS
    assert claimed.durable or not claimed.power_loss, "what a kill loses, a power loss loses too"


async def test_a_new_database_is_empty(database: Target) -> None:
    first = await database.open()
    await commit(first, "p", Put("note", "a", doc(1)), Append("event", doc(1)))
    other = await database.fresh().open()
    assert await dumped(other, "note") == []
    assert await dumped(other, "event") == []


@needs(shared=True)
async def test_shared_two_engines_on_one_database_see_each_other_at_once(database: Target) -> None:
    one, two = await database.open(), await database.open()
    for number in range(1, 6):
        for engine, other in ((one, two), (two, one)):
            first = await commit(engine, "p", Put("note", f"{number}", doc(number)), Append("event", doc(number)))
            row = await read(other, "note", "p", f"{number}")
            assert row is not None
            assert row.rev == first.id
            assert (await numbers(other, "event", "p"))[-1:] == [first.seqs[1]]
    assert await numbers(one, "event", "p") == list(range(1, 11))
    scan = Scan("event", prefix=("p",), limit=4)
    page = await one.scan(scan)
    rest = await two.scan(msgspec.structs.replace(scan, after=page.cursor, limit=100))
    assert [row.doc for row in (*page.rows, *rest.rows)] == [doc(n) for n in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]


@needs(shared=False)
async def test_not_shared_a_second_engine_is_refused_or_sees_another_database(database: Target) -> None:
    one = await database.open()
    await commit(one, "p", Put("note", "a", doc(1)))
    try:
        two = await database.open()
    except StoreError:
        return
    assert await read(two, "note", "p", "a") is None


@needs(durable=True)
async def test_durable_what_was_acknowledged_is_there_after_closing(database: Target) -> None:
    one = await database.open()
    keyed = batch("p", Append("event", doc(1)), Put("note", "a", doc(1), {"by_text": ("q",)}, {"x": 1}), once="k")
    (first,) = await one.commit([keyed])
    await one.close()
    two = await database.open()
    row = await read(two, "note", "p", "a")
    assert row is not None
    assert row.doc == doc(1)
    assert await sorts(two, "note", "q", index="by_text") == ["a"]
    assert isinstance(first, Receipt)
    (again,) = await two.commit([keyed])
    assert again == Receipt(first.id, first.seqs, True)
    assert (await commit(two, "p", Append("event", doc(2)))).seqs == (2,)


@needs(durable=False)
async def test_not_durable_another_engine_begins_empty(database: Target) -> None:
    one = await database.open()
    await commit(one, "p", Put("note", "a", doc(1)))
    await one.close()
    assert await read(await database.open(), "note", "p", "a") is None


@needs(index_reads="committed")
async def test_committed_index_reads_see_what_was_acknowledged(engine: Engine, name: Names) -> None:
    for number in range(30):
        await commit(engine, name(), Put("note", f"{number:02}", doc(0), {"by_pair": (name("q"), number)}))
        assert len(await sorts(engine, "note", name("q"), index="by_pair")) == number + 1


@needs(inline=True)
async def test_inline_calls_never_suspend(database: Target) -> None:
    engine = Limits(engine_of(database.url, database.clock, inline=True))
    _by_hand(engine.open(SCHEMA))
    try:
        one = batch("p", Put("note", "a", doc(1), {"by_text": ("q",)}, {"x": 1}), Append("event", doc(1)))
        assert _by_hand(engine.commit([one])) == [Receipt(one.id, (None, 1))]
        (row,) = _by_hand(engine.get([Key("note", "p", "a")]))
        assert row is not None
        assert row.doc == doc(1)
        assert len(_by_hand(engine.scan(Scan("note", "by_text", ("q",)))).rows) == 1
        assert len(_by_hand(engine.dump("event", None, 10)).rows) == 2
        _by_hand(engine.commit([batch("p", Put("state", "s", doc(2)))], restore=True))
    finally:
        _by_hand(engine.close())


def _by_hand(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    coroutine.close()
    pytest.fail("the engine claims to be inline, but its call suspended")
