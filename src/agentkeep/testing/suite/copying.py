"""Dump and restore: everything once, and a copy that has the same rows, revs, numbers, floors and seals."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Iterable

import pytest

from ...engines.memory import Memory
from ...errors import Conflict, Invalid
from ...ids import SECOND
from ...keys import seq_sort
from ...layers.limits import Limits
from ...waist import HEAD, Append, Check, Delete, Engine, Head, Key, Put, Row, Trim
from ..fixtures import Names
from ..marks import case
from ..schema import SCHEMA
from ..target import MovedClock, Target
from ..values import STRINGS
from ..verbs import (
    batch,
    by_key,
    commit,
    conflict,
    doc,
    done,
    dumped,
    head,
    new_id,
    numbers,
    read,
    refused,
    rows,
    sorts,
)

_KINDS = ("note", "event", "turn", "state")


async def _fill(engine: Engine, clock: MovedClock) -> None:
    for number, text in enumerate(STRINGS):
        facets = {"n": number, "t": text, text: (text, number, 2**70, True)}
        index = {"by_text": (text,), "by_pair": (text, number), "by_all": (text, number % 2 == 0, number, text)}
        expires = clock() + 100 * SECOND if number % 3 == 0 else None
        await commit(
            engine, text, Put("note", text, doc(number), index, facets, expires), Put("state", text, doc(text == "a"))
        )
        await commit(
            engine, text, Append("event", doc(number), {"by_agent": (text, number)}, facets), Append("event", doc(0))
        )
    await commit(engine, "gone", Put("note", "a", doc(0), expires=clock() + SECOND), Put("note", "b", doc(0)))
    await commit(engine, "gone", Delete("note", "b"))
    await commit(engine, "log", *(Append("turn", doc(n)) for n in range(1, 8)))
    await commit(engine, "log", Delete("turn", seq_sort(5)), Delete("turn", seq_sort(7)), Trim("turn", below=3))
    await commit(engine, "sealed", Append("turn", doc(1)))
    await commit(engine, "sealed", Trim("turn", below=None, sealed=True))
    await commit(engine, "opened", Trim("turn"))
    clock.move(10)


async def _all(engine: Engine, limit: int = 100) -> dict[Key, Row]:
    found: dict[Key, Row] = {}
    for kind in _KINDS:
        found |= by_key(await dumped(engine, kind, limit))
    return found


def _restored(row: Row) -> Put:
    return Put(row.key.kind, row.key.sort, row.doc, row.index, row.facets, row.expires, rev=row.rev)


async def _copy(source: Engine, to: Engine) -> None:
    for key, row in (await _all(source)).items():
        await done(to, batch(key.partition, _restored(row)), restore=True)


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_dump_gives_every_row_and_head_once_and_whole(database: Target, limit: int) -> None:
    engine, model = await database.open(), Limits(Memory(database.clock))
    await model.open(SCHEMA)
    start = database.clock.now
    await _fill(engine, database.clock)
    database.clock.now = start
    await _fill(model, database.clock)
    got, expected = await _all(engine, limit), await _all(model)
    assert {key: row for key, row in got.items() if row.key.sort == HEAD and key.kind in ("event", "turn")}
    assert {key: _content(row) for key, row in got.items()} == {key: _content(row) for key, row in expected.items()}


_RANGES = (
    ("", None), (None, ""), (None, "a\x01"), ("a", "a\x00"), ("a\x00", "a\x02"), ("\ud7ff", "\ue000"),
    ("\U0010ffff", None), ("aa", "ab"), ("b", "a"), ("a", "a"),
)  # fmt: skip
"""Ranges of partitions, wide, narrow and empty, that begin and end at, before and behind STRINGS."""


@pytest.mark.parametrize("limit", [1, 4, 1000])
@case("S7")
async def test_a_dump_of_a_range_gives_exactly_its_rows_and_heads(database: Target, limit: int) -> None:
    engine = await database.open()
    for text in STRINGS:
        await commit(engine, text, Put("note", text, doc(0), {"by_text": (text,)}), Append("event", doc(text == "a")))
    await commit(engine, "a\x00a", Trim("event"))
    await commit(engine, "a\x00c", Append("event", doc(1)), Delete("note", "x"))
    await commit(engine, "a\x00c", Trim("event", below=None, sealed=True))
    for kind in ("note", "event"):
        everything = await dumped(engine, kind, 1000)
        for lo, hi in _RANGES:
            wanted = [
                row for row in everything if row.key.partition >= (lo or "") and (hi is None or row.key.partition < hi)
            ]
            got = await dumped(engine, kind, limit, lo=lo, hi=hi)
            assert by_key(got) == by_key(wanted), (lo, hi)


@pytest.mark.parametrize("limit", [1, 2, 3])
@case("S7", "S10")
async def test_a_dump_of_a_range_gives_no_cursor_that_names_another_partition(database: Target, limit: int) -> None:
    engine = await database.open()
    for partition in ("a secret", "m", "m\x00", "m\ud800", "n secret"):
        await commit(engine, partition, Put("note", "a", doc(0)), Append("event", doc(0)), Append("event", doc(1)))
    for kind in ("note", "event"):
        for lo, hi, count in (("m", "n", 3), ("b", "m", 0), ("n", "n", 0)):
            partitions: set[str] = set()
            after: str | None = None
            while True:
                page = await engine.dump(kind, after, limit, lo=lo, hi=hi)
                partitions |= {row.key.partition for row in page.rows}
                after = page.cursor
                if after is None:
                    break
                assert b"secret" not in _shown(after)
            assert len(partitions) == count


def _shown(cursor: str) -> bytes:
    """A cursor with what base64 hides in it."""
    return cursor.encode() + urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))


@case("S7")
async def test_a_cursor_of_another_range_is_refused(database: Target) -> None:
    engine = await database.open()
    for partition in "abcd":
        await commit(engine, partition, Put("note", "a", doc(0)), Append("event", doc(0)))
    for kind in ("note", "event"):
        mine = (await engine.dump(kind, None, 1, lo="b", hi="d")).cursor
        assert mine is not None
        for bounds in ({}, {"lo": "b"}, {"hi": "d"}, {"lo": "a", "hi": "d"}, {"lo": "c", "hi": "d"}):
            with pytest.raises(Invalid):
                await engine.dump(kind, mine, 1, **bounds)


def _content(row: Row) -> object:
    return row.doc, dict(row.index), dict(row.facets), row.expires


async def test_a_copy_through_another_engine_and_back_is_the_same(database: Target) -> None:
    """Rows, revs, index values, facets, expiries, numbers, heads, floors and seals."""
    engine, back = await database.open(), await database.fresh().open(clock=database.clock)
    await _fill(engine, database.clock)
    between = Limits(Memory(database.clock))
    await between.open(SCHEMA)
    await _copy(engine, between)
    await _copy(between, back)
    first, last = await _all(engine), await _all(back)
    assert first == await _all(between)
    assert first == last
    assert await head(back, "turn", "log") == Head(7, 2)
    assert await head(back, "turn", "sealed") == Head(1, 1, True)
    assert await head(back, "turn", "opened") == Head()
    assert await numbers(back, "turn", "log") == [3, 4, 6]
    assert (await commit(back, "log", Append("turn", doc(8)))).seqs == (8,)
    assert (await conflict(back, "sealed", Append("turn", doc(2)))).reason == "sealed"
    assert await sorts(back, "note", "a", index="by_pair") == await sorts(engine, "note", "a", index="by_pair") == ["a"]
    database.clock.move(200)
    assert await _all(engine) == {key: row for key, row in first.items() if row.expires is None}
    late = {key for key in await _all(back) if key != Key("turn", "log", seq_sort(8))}
    assert late == {key for key, row in first.items() if row.expires is None}, "an expiry came along"


async def test_a_restored_copy_can_be_restored_again(database: Target) -> None:
    engine, other = await database.open(), await database.fresh().open(clock=database.clock)
    await _fill(engine, database.clock)
    for _ in range(2):
        await _copy(engine, other)
        assert await _all(other) == await _all(engine)


async def test_restore_keeps_a_given_rev_and_number(engine: Engine, name: Names) -> None:
    revs = [new_id() for _ in range(3)]
    await commit(engine, name("p"), Put("note", "a", doc(1), rev=revs[0]), restore=True)
    await commit(engine, name("p"), Put("event", seq_sort(4), doc(4), rev=revs[1]), restore=True)
    await commit(engine, name("p"), Put("event", seq_sort(2), doc(2), rev=revs[2]), restore=True)
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.rev == revs[0]
    found = await rows(engine, "event", name("p"))
    assert [(row.key.sort, row.rev) for row in found] == [(seq_sort(2), revs[2]), (seq_sort(4), revs[1])]
    assert await head(engine, "event", name("p")) == Head(4), "the head is the greatest number given"
    await commit(engine, name("p"), Put("note", "a", doc(2), expect=revs[0]))
    assert (await commit(engine, name("p"), Append("event", doc(5)))).seqs == (5,)


async def test_restored_heads_take_the_greater(engine: Engine, name: Names) -> None:
    async def restore(given: Head) -> Head | None:
        body = b'{"seq":%d,"floor":%d,"sealed":%b}' % (given.seq, given.floor, b"true" if given.sealed else b"false")
        await commit(engine, name("p"), Put("event", HEAD, body), restore=True)
        return await head(engine, "event", name("p"))

    assert await restore(Head(5, 2)) == Head(5, 2)
    assert await restore(Head(3, 3)) == Head(5, 3)
    assert await restore(Head(9, 1)) == Head(9, 3)
    assert await restore(Head(0, 0, True)) == Head(9, 3, True)
    assert await restore(Head(0, 0, False)) == Head(9, 3, True)
    await commit(engine, name("p"), Trim("event", sealed=False))
    assert (await commit(engine, name("p"), Append("event", doc(10)))).seqs == (10,)


async def test_rows_and_their_head_are_restored_in_one_batch_in_any_order(engine: Engine, name: Names) -> None:
    top = Put("event", HEAD, b'{"seq":9,"floor":1,"sealed":false}')
    ops = [Put("event", seq_sort(n), doc(n)) for n in (3, 1, 2)]
    for label, order in {"first": (top, *ops), "last": (*ops, top)}.items():
        await commit(engine, name(label), *order, restore=True)
        assert await head(engine, "event", name(label)) == Head(9, 1)
        assert await numbers(engine, "event", name(label)) == [2, 3]


async def test_restoring_over_newer_rows_raises_nothing_and_lowers_nothing(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(1, 6)))
    await commit(engine, name("p"), Put("event", seq_sort(2), doc("old")), restore=True)
    assert await head(engine, "event", name("p")) == Head(5)
    found = await rows(engine, "event", name("p"))
    assert [row.doc for row in found] == [doc(1), doc("old"), doc(3), doc(4), doc(5)]


async def test_expectations_hold_when_restoring(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Put("note", "a", doc(1)), Append("event", doc(1)))
    for op in (
        Put("note", "a", doc(2), expect="absent", rev=new_id()),
        Put("event", seq_sort(1), doc(2), expect="absent"),
        Put("event", seq_sort(2), doc(2), expect="exists"),
        Check("note", "b", "exists"),
    ):
        error = await refused(engine, batch(name("p"), op, Put("note", "c", doc(0))), restore=True)
        assert isinstance(error, Conflict)
    assert await sorts(engine, "note", name("p")) == ["a"]
    await commit(engine, name("p"), Put("note", "a", doc(2), expect=first.id), restore=True)


async def test_a_restoring_batch_is_not_remembered(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Put("note", "a", doc(1)), Put("event", seq_sort(1), doc(1)), Append("turn", doc(1)))
    await done(engine, one, restore=True)
    await commit(engine, name("p"), Put("note", "a", doc(2)))
    again = await done(engine, one, restore=True)
    assert (again.replayed, again.seqs) == (False, (None, None, 2))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.doc == doc(1)


async def test_restoring_and_committing_a_batch_are_two_things(engine: Engine, name: Names) -> None:
    """Neither is taken for a repetition of the other."""
    one = batch(name("p"), Put("note", "a", doc(1)), Put("state", "a", doc(1)))
    await done(engine, one)
    await commit(engine, name("p"), Put("note", "a", doc(2)))
    assert not (await done(engine, one, restore=True)).replayed
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.doc == doc(1)
    for shape in ((Put("note", "b", doc(1)),), (Append("turn", doc(1)),)):
        other = batch(name("q"), *shape)
        await done(engine, other, restore=True)
        assert not (await done(engine, other)).replayed
    assert await numbers(engine, "turn", name("q")) == [1, 2]


async def test_only_restore_may_give_revs_and_numbers(engine: Engine, name: Names) -> None:
    for op in (
        Put("note", "a", doc(1), rev=new_id()),
        Put("event", seq_sort(3), doc(1)),
        Put("event", HEAD, b"{}", expect="exists"),
    ):
        assert isinstance(await refused(engine, batch(name("p"), op)), Invalid)
    assert await numbers(engine, "event", name("p")) == []


async def test_what_cannot_be_restored_is_refused_with_an_error_of_ours(engine: Engine, name: Names) -> None:
    for sort, body in (
        ("x", doc(1)),
        ("12", doc(1)),
        (HEAD, b"{"),
        (HEAD, doc(1)),
        (HEAD, b'{"seq":"x"}'),
        (HEAD, b""),
    ):
        error = await refused(engine, batch(name("p"), Put("event", sort, body)), restore=True)
        assert isinstance(error, Invalid)
    assert await head(engine, "event", name("p")) is None


@case("C2")
async def test_a_copy_does_not_disturb_what_is_remembered(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Append("event", doc(1)), once="k")
    first = await done(engine, one)
    found = [row for row in await dumped(engine, "event", 1000) if row.key.partition == name("p")]
    await commit(engine, name("p"), *_puts(found), restore=True)
    again = await done(engine, one)
    assert (again.id, again.seqs, again.replayed) == (first.id, first.seqs, True)
    assert await numbers(engine, "event", name("p")) == [1]


def _puts(found: Iterable[Row]) -> list[Put]:
    return [_restored(row) for row in found]
