"""The floor: what every engine takes at least, and that one step beyond it is refused and nothing of it written."""

from __future__ import annotations

from typing import Any

import pytest

from ...errors import TooLarge
from ...keys import escape, pack, partition, seq_sort, size
from ...waist import (
    MAX_BATCH,
    MAX_BATCH_OPS,
    MAX_FACET_BYTES,
    MAX_FACETS,
    MAX_INDEX,
    MAX_INDEXES,
    MAX_PARTITION,
    MAX_ROW,
    MAX_SORT,
    Append,
    Check,
    Delete,
    Engine,
    IndexSpec,
    Key,
    KindSpec,
    Put,
    Receipt,
    Scan,
    Schema,
    Trim,
)
from ..fixtures import Names
from ..marks import case
from ..target import Target
from ..verbs import answers, batch, by_key, commit, doc, numbers, read, refused, rows, sorts

_FILLERS = ("x", "é", "\x00", "\ud800", "\udfff", "\U0001f600", " ")


def _filled(start: str, filler: str, length: int) -> str:
    """A text of exactly so many bytes after encoding."""
    text = start + filler * ((length - size(start)) // size(filler))
    return text + "x" * (length - size(text))


async def _too_large(engine: Engine, partition: str, *ops: Any, limit: int, size: int) -> None:
    error = await refused(engine, batch(partition, *ops))
    assert isinstance(error, TooLarge), repr(error)
    assert (error.limit, error.size) == (limit, size)
    assert f"{limit:,}" in str(error)
    assert f"{size:,}" in str(error)


@pytest.mark.parametrize("filler", _FILLERS)
@case("F5", "F6")
async def test_the_longest_partition_sort_key_and_index_values(engine: Engine, name: Names, filler: str) -> None:
    where, sort = _filled(name("p"), filler, MAX_PARTITION), _filled("", filler, MAX_SORT)
    queue = _filled(name("q"), filler, MAX_INDEX - len(pack(("",))))
    row = Put("note", sort, doc(1), {"by_text": (queue,)})
    await commit(engine, where, row, Append("event", doc(2)), Trim("turn"), once=_filled("", filler, 4 * MAX_PARTITION))
    assert await sorts(engine, "note", where) == [sort]
    found = await rows(engine, "note", queue, index="by_text")
    assert [row.key for row in found] == [Key("note", where, sort)]
    assert await numbers(engine, "event", where) == [1]
    for op in (Put("note", "a", doc(1)), Append("event", doc(1)), Check("note", "a", "any"), Trim("event")):
        await _too_large(engine, where + "x", op, limit=MAX_PARTITION, size=MAX_PARTITION + 1)
    for op in (Put("note", sort + "x", doc(1)), Delete("note", sort + "x"), Check("note", sort + "x", "any")):
        await _too_large(engine, where, op, limit=MAX_SORT, size=MAX_SORT + 1)
    over = Put("note", "b", doc(1), {"by_text": (queue + "x",)})
    await _too_large(engine, where, over, limit=MAX_INDEX, size=MAX_INDEX + 1)
    assert await sorts(engine, "note", where) == [sort]
    for key in (Key("note", where + "x", "a"), Key("note", where, sort + "x")):
        with pytest.raises(TooLarge):
            await engine.get([key])


@case("F5", "S6")
async def test_longer_ids_become_digests(engine: Engine, name: Names) -> None:
    ids = [name("p") + "x" * 5_000, name("p") + "x" * 4_999, "../" * 1_000 + name("p"), "\x00" * 600 + name("p")]
    for number, long in enumerate(ids):
        assert size(partition(long)) <= MAX_PARTITION
        await commit(engine, partition(long), Append("event", doc(number)))
    for number, long in enumerate(ids):
        assert [row.doc for row in await rows(engine, "event", partition(long))] == [doc(number)]


@pytest.mark.parametrize("filler", ["x", "\x00"])
@case("F5")
async def test_the_largest_row(engine: Engine, name: Names, filler: str) -> None:
    index, facets = {"by_text": (_filled(name("q"), filler, 200),)}, {"a": "b" * 100, "c": (1, True)}
    taken = size(name("p")) + size("a") + len(pack(index["by_text"]).encode()) + 1 + 100 + 1 + 8 + 8
    body = b"\xff" * (MAX_ROW - taken)
    await commit(engine, name("p"), Put("note", "a", body, index, facets))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.doc == body
    over = Put("note", "a", body + b"x", index, facets)
    await _too_large(engine, name("p"), over, limit=MAX_ROW, size=MAX_ROW + 1)
    length = MAX_ROW - size(name("p")) - len(seq_sort(1))
    await commit(engine, name("p"), Append("event", b"\x00" * length))
    await _too_large(engine, name("p"), Append("event", b"\x00" * (length + 1)), limit=MAX_ROW, size=MAX_ROW + 1)
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.doc == body
    assert await numbers(engine, "event", name("p")) == [1]


@case("F5")
async def test_the_largest_batch(engine: Engine, name: Names) -> None:
    bodies = [b"x" * 250_000] * 4
    got = await commit(engine, name("p"), *(Append("event", body) for body in bodies))
    assert got.seqs == (1, 2, 3, 4)
    assert [row.doc for row in await rows(engine, "event", name("p"))] == bodies
    over = [Append("event", body) for body in (*bodies[:3], bodies[3] + b"x")]
    await _too_large(engine, name("p"), *over, limit=MAX_BATCH, size=MAX_BATCH + 1)
    assert await numbers(engine, "event", name("p")) == [1, 2, 3, 4]


async def test_the_most_operations_of_a_batch(engine: Engine, name: Names) -> None:
    ops = [Put("note", f"{n:02}", doc(n)) if n % 2 else Append("event", doc(n)) for n in range(MAX_BATCH_OPS)]
    await commit(engine, name("p"), *ops)
    assert len(await rows(engine, "note", name("p"))) + len(await rows(engine, "event", name("p"))) == MAX_BATCH_OPS
    over = (*ops, Check("state", "a", "any"))
    await _too_large(engine, name("q"), *over, limit=MAX_BATCH_OPS, size=MAX_BATCH_OPS + 1)
    assert await rows(engine, "note", name("q")) == []


@case("S11")
async def test_the_most_facets(engine: Engine, name: Names) -> None:
    most: dict[str, Any] = {f"f{n:02}": n for n in range(MAX_FACETS)}
    await commit(engine, name("p"), Put("note", "a", doc(0), {}, most))
    over = Put("note", "b", doc(0), {}, {**most, "x": 1})
    await _too_large(engine, name("p"), over, limit=MAX_FACETS, size=MAX_FACETS + 1)
    million = Put("note", "b", doc(0), {}, {f"f{n}": n for n in range(100_000)})
    await _too_large(engine, name("p"), million, limit=MAX_FACETS, size=100_000)
    for filler in _FILLERS:
        text = _filled("", filler, MAX_FACET_BYTES - 1)
        await commit(engine, name("p"), Put("note", "a", doc(0), {}, {"x": text}))
        over = Put("note", "b", doc(0), {}, {"x": text + "x"})
        await _too_large(engine, name("p"), over, limit=MAX_FACET_BYTES, size=MAX_FACET_BYTES + 1)
    listed = tuple(range(MAX_FACET_BYTES // 8))
    over = Put("note", "b", doc(0), {}, {"x": listed})
    await _too_large(engine, name("p"), over, limit=MAX_FACET_BYTES, size=MAX_FACET_BYTES + 1)
    assert await sorts(engine, "note", name("p")) == ["a"]


@case("F3")
async def test_facets_are_finite(engine: Engine, name: Names) -> None:
    for wrong in (float("nan"), float("inf"), (1, float("-inf"))):
        error = await refused(
            engine, batch(name("p"), Put("note", "a", doc(0), {}, {"x": wrong}), Append("event", doc(0)))
        )
        assert type(error).__name__ == "Invalid"
        assert "x" in str(error)
    assert await numbers(engine, "event", name("p")) == []


async def test_the_good_batches_of_a_call_are_written(engine: Engine, name: Names) -> None:
    big = Append("event", b"x" * (MAX_ROW + 1))
    made = [
        batch(name("p"), Append("event", doc(1))),
        batch(name("p"), Append("event", doc(2)), big),
        batch(name("p"), Put("nope", "a", doc(1))),
        batch(name("p"), Append("event", doc(2))),
        batch(name("p") + "x" * MAX_PARTITION, Append("event", doc(2))),
        batch(name("q"), Append("event", doc(1))),
    ]
    got = await answers(engine, *made)
    assert [getattr(answer, "seqs", type(answer).__name__) for answer in got] == [
        (1,),
        "TooLarge",
        "Invalid",
        (2,),
        "TooLarge",
        (1,),
    ]
    assert [row.doc for row in await rows(engine, "event", name("p"))] == [doc(1), doc(2)]
    assert all(type(answer).__name__ == "TooLarge" for answer in await answers(engine, made[1], made[4]))


async def test_a_kind_has_at_most_8_indexes(database: Target) -> None:
    specs = tuple(IndexSpec(f"ix{n}", ("a", "b"), ("str", "int")) for n in range(MAX_INDEXES + 1))
    engine = await database.open(Schema((KindSpec("note", indexes=specs[:-1]), KindSpec("event", log=True))))
    index = {spec.name: (_filled("", "é", MAX_INDEX - len(pack(("", 0)))), n) for n, spec in enumerate(specs[:-1])}
    await commit(engine, _filled("", "é", MAX_PARTITION), Put("note", _filled("", "é", MAX_SORT), doc(1), index))
    for spec in specs[:-1]:
        assert len(await rows(engine, "note", *index[spec.name], index=spec.name)) == 1
    with pytest.raises(TooLarge) as caught:
        await database.engine().open(Schema((KindSpec("note", indexes=specs),)))
    assert (caught.value.limit, caught.value.size) == (MAX_INDEXES, MAX_INDEXES + 1)


@case("S11")
async def test_many_keys_and_many_batches_in_one_call(engine: Engine, name: Names) -> None:
    made = [batch(name(f"{n % 7}"), Append("event", doc(n)), Put("note", f"{n:03}", doc(n))) for n in range(300)]
    got = await answers(engine, *made)
    assert all(isinstance(answer, Receipt) for answer in got)
    keys = [Key("note", name(f"{n % 7}"), f"{n:03}") for n in range(300)]
    missing = [Key("note", name("no"), f"{n}") for n in range(4_000)]
    found = await engine.get([*keys, *missing, *keys])
    assert [row and row.doc for row in found] == [doc(n) for n in range(300)] + [None] * 4_000 + [
        doc(n) for n in range(300)
    ]
    for part in range(7):
        page = await engine.scan(Scan("event", prefix=(name(f"{part}"),), limit=1000))
        assert [row.doc for row in page.rows] == [doc(n) for n in range(part, 300, 7)]


async def test_keys_are_counted_after_encoding(engine: Engine, name: Names) -> None:
    text = name("p") + "\x00" * 300
    assert size(text) == len(escape(text)) == len(name("p")) + 600
    await _too_large(engine, text, Put("note", "a", doc(1)), limit=MAX_PARTITION, size=size(text))
    assert by_key(await rows(engine, "note", text)) == {}
