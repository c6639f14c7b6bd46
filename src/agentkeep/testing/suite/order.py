"""Order and pages: of partitions, of every type of index, forwards and back, by every limit, with cursors that hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from ...errors import Invalid
from ...predicates import Compare
from ...waist import Append, Delete, Engine, Key, Put, Scan
from ..fixtures import Names
from ..marks import case
from ..target import Target
from ..values import FLOATS, INTEGERS, SEPARATED, STRINGS, SYNTAX
from ..verbs import batch, commit, doc, pages, read, refused, rows, sorts


async def _fill(engine: Engine, partition: str, *ops: Put) -> None:
    for start in range(0, len(ops), 40):
        await commit(engine, partition, *ops[start : start + 40])


@case("F1", "F2", "F6", "S5")
async def test_sort_keys_are_distinct_and_in_order_of_code_points(engine: Engine, name: Names) -> None:
    await _fill(engine, name("p"), *(Put("note", text, doc(text.encode("utf-8", "replace").hex())) for text in STRINGS))
    assert await sorts(engine, "note", name("p")) == sorted(STRINGS)
    assert await sorts(engine, "note", name("p"), reverse=True) == sorted(STRINGS, reverse=True)
    found = await engine.get([Key("note", name("p"), text) for text in STRINGS])
    assert [row and row.key.sort for row in found] == list(STRINGS)


@case("F1", "F2", "F6", "S5")
async def test_partitions_are_distinct(engine: Engine, name: Names) -> None:
    labels = [name("p") + text for text in STRINGS]
    for number, label in enumerate(labels):
        await commit(engine, label, Put("note", "a", doc(number)), Append("event", doc(number)))
    for number, label in enumerate(labels):
        assert [row.doc for row in await rows(engine, "note", label)] == [doc(number)]
        found = await rows(engine, "event", label)
        assert [(row.key, row.doc) for row in found] == [(Key("event", label, f"{1:016d}"), doc(number))]


@case("F1", "F2", "F6", "S4")
async def test_text_in_an_index_is_distinct_and_in_order_of_code_points(engine: Engine, name: Names) -> None:
    queue = name("q")
    ops = [
        Put("note", text, doc(0), {"by_text": (queue + text,), "by_all": (queue, True, 0, text)}) for text in STRINGS
    ]
    await _fill(engine, name("p"), *ops)
    assert await sorts(engine, "note", queue, True, 0, index="by_all") == sorted(STRINGS)
    assert await sorts(engine, "note", queue, True, 0, index="by_all", reverse=True) == sorted(STRINGS, reverse=True)
    for text in STRINGS:
        assert await sorts(engine, "note", queue + text, index="by_text") == [text]
        assert await sorts(engine, "note", queue, True, 0, text, index="by_all") == [text]


@case("S5")
async def test_fields_cannot_be_shifted_into_each_other(engine: Engine, name: Names) -> None:
    pairs = list(dict.fromkeys(SEPARATED))
    for number, (left, right) in enumerate(pairs):
        index = {"by_all": (name("q") + left, False, 0, right)}
        await commit(engine, name("p") + left, Put("note", right, doc(number), index))
    for number, (left, right) in enumerate(pairs):
        row = await read(engine, "note", name("p") + left, right)
        assert row is not None
        assert row.doc == doc(number)
        found = await rows(engine, "note", name("q") + left, False, 0, right, index="by_all")
        assert [row.doc for row in found] == [doc(number)]


@case("S4", "S5")
async def test_a_prefix_is_whole_values_and_no_pattern(engine: Engine, name: Names) -> None:
    for label in ("u1", "u10", "u1%", "u1_", "u1*", "u", "U1", "u1\x00"):
        await commit(engine, name("p"), Put("note", label, doc(0), {"by_pair": (name(label), 1)}))
    for label in ("u1", "u10", "u1%", "u1_", "u1*", "u", "U1", "u1\x00"):
        assert await sorts(engine, "note", name(label), index="by_pair") == [label]
    for label in ("%", "u%", "u_", "*", "u?", ""):
        assert await sorts(engine, "note", name(label), index="by_pair") == []


@case("S2", "S4")
async def test_query_syntax_in_keys_is_text(engine: Engine, name: Names) -> None:
    for text in SYNTAX:
        await commit(engine, name("p") + text, Put("note", text, doc(text.isascii()), {"by_text": (name("q") + text,)}))
    for text in SYNTAX:
        assert await sorts(engine, "note", name("p") + text) == [text]
        assert await sorts(engine, "note", name("q") + text, index="by_text") == [text]


@case("F4")
async def test_integers_in_an_index_are_in_order(engine: Engine, name: Names) -> None:
    ops = [Put("note", f"{number}", doc(0), {"by_pair": (name("q"), number)}) for number in INTEGERS]
    await _fill(engine, name("p"), *ops)
    expected = [f"{number}" for number in sorted(INTEGERS)]
    assert await sorts(engine, "note", name("q"), index="by_pair") == expected
    assert await sorts(engine, "note", name("q"), index="by_pair", reverse=True) == expected[::-1]
    for lo, hi in ((-1, 7), (0, 2**53), (-(2**53), 0), (2**53, None), (None, -(2**53)), (8, 7)):
        wanted = [n for n in sorted(INTEGERS) if (lo is None or n >= lo) and (hi is None or n < hi)]
        assert await sorts(engine, "note", name("q"), index="by_pair", lo=lo, hi=hi) == [f"{n}" for n in wanted]


@case("F4")
async def test_floats_in_an_index_are_in_order(engine: Engine, name: Names) -> None:
    ops = [Put("note", f"{number!r}", doc(0), {"by_real": (name("q"), number)}) for number in FLOATS]
    await _fill(engine, name("p"), *ops)
    expected = [f"{number!r}" for number in sorted(FLOATS)]
    assert await sorts(engine, "note", name("q"), index="by_real") == expected
    assert await sorts(engine, "note", name("q"), index="by_real", lo=-0.0, hi=1.5) == ["0.0", "5e-324", "0.1", "1.0"]
    await commit(engine, name("p"), Put("note", "minus zero", doc(0), {"by_real": (name("q"), -0.0)}))
    assert await sorts(engine, "note", name("q"), 0.0, index="by_real") == ["0.0", "minus zero"]


@pytest.mark.parametrize("wrong", [2**53 + 1, -(2**53) - 1, 1.5, "1", True])
async def test_an_index_value_of_another_type_or_range_is_refused(engine: Engine, name: Names, wrong: Any) -> None:
    error = await refused(engine, batch(name("p"), Put("note", "a", doc(0), {"by_pair": (name("q"), wrong)})))
    assert isinstance(error, Invalid)
    for scan in (Scan("note", "by_pair", (name("q"), wrong)), Scan("note", "by_pair", (name("q"),), lo=wrong)):
        with pytest.raises(Invalid):
            await engine.scan(scan)
    assert await read(engine, "note", name("p"), "a") is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), 1])
@case("F3")
async def test_a_number_that_is_not_finite_is_in_no_index(engine: Engine, name: Names, wrong: Any) -> None:
    error = await refused(engine, batch(name("p"), Put("note", "a", doc(0), {"by_real": (name("q"), wrong)})))
    assert isinstance(error, Invalid)
    assert await read(engine, "note", name("p"), "a") is None


async def test_booleans_in_an_index_are_in_order(engine: Engine, name: Names) -> None:
    for flag in (True, False):
        await commit(engine, name("p"), Put("note", f"{flag}", doc(0), {"by_all": (name("q"), flag, 0, "x")}))
    assert await sorts(engine, "note", name("q"), index="by_all") == ["False", "True"]
    assert await sorts(engine, "note", name("q"), index="by_all", lo=True) == ["True"]
    assert await sorts(engine, "note", name("q"), index="by_all", hi=True) == ["False"]


async def test_every_prefix_of_an_index_fixes_its_fields(engine: Engine, name: Names) -> None:
    every = [(flag, rank, text) for flag in (False, True) for rank in (-1, 0, 1) for text in ("x", "y")]
    ops = [Put("note", f"{place}", doc(0), {"by_all": (name("q"), *place)}) for place in every]
    await _fill(engine, name("p"), *ops)
    order = [f"{place}" for place in every]
    assert await sorts(engine, "note", name("q"), index="by_all") == order
    assert await sorts(engine, "note", name("q"), True, index="by_all") == order[6:]
    assert await sorts(engine, "note", name("q"), True, 0, index="by_all") == order[8:10]
    assert await sorts(engine, "note", name("q"), True, 0, "y", index="by_all") == order[9:10]
    assert await sorts(engine, "note", name("q"), True, index="by_all", lo=0, hi=1) == order[8:10]
    assert await sorts(engine, "note", name("q"), True, 0, index="by_all", lo="x", hi="y") == order[8:9]


async def test_ties_of_an_index_are_in_order_of_partition_and_sort(engine: Engine, name: Names) -> None:
    places = [
        (name(partition), sort)
        for partition in ("b", "a\ud800", "a", "a\x00")
        for sort in ("2", "10", "\U0001f600", "1")
    ]
    for partition, sort in places:
        await commit(engine, partition, Put("note", sort, doc(0), {"by_pair": (name("q"), 5)}))
    found = await rows(engine, "note", name("q"), index="by_pair", limit=3)
    assert [(row.key.partition, row.key.sort) for row in found] == sorted(places)
    found = await rows(engine, "note", name("q"), index="by_pair", limit=3, reverse=True)
    assert [(row.key.partition, row.key.sort) for row in found] == sorted(places, reverse=True)


async def test_a_row_is_in_an_index_iff_it_has_a_value(engine: Engine, name: Names) -> None:
    first = {"by_pair": (name("q"), 1), "by_text": (name("q"),)}
    await commit(engine, name("p"), Put("note", "a", doc(0), first), Put("note", "b", doc(0)))
    assert await sorts(engine, "note", name("q"), index="by_pair") == ["a"]
    await commit(
        engine, name("p"), Put("note", "a", doc(1), {"by_pair": (name("q"), 2)}), Put("note", "b", doc(1), first)
    )
    assert await sorts(engine, "note", name("q"), index="by_pair") == ["b", "a"]
    assert await sorts(engine, "note", name("q"), index="by_text") == ["b"]
    await commit(engine, name("p"), Put("note", "a", doc(2)), Delete("note", "b"))
    assert await sorts(engine, "note", name("q"), index="by_pair") == []
    assert await sorts(engine, "note", name("q"), index="by_text") == []


async def test_an_index_of_a_log_follows_edits(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n), {"by_agent": (name("q"), -n)}) for n in (1, 2, 3)))
    await commit(engine, name("r"), Append("event", doc(9), {"by_agent": (name("q"), -2)}))
    found = await rows(engine, "event", name("q"), index="by_agent")
    assert [row.doc for row in found] == [doc(3), doc(2), doc(9), doc(1)]
    edit = Put("event", f"{3:016d}", doc("three"), {"by_agent": (name("q"), 7)}, expect="exists")
    await commit(engine, name("p"), edit, Put("event", f"{2:016d}", doc("gone"), expect="exists"))
    found = await rows(engine, "event", name("q"), index="by_agent")
    assert [row.doc for row in found] == [doc(9), doc(1), doc("three")]


async def test_bounds_of_a_partition_include_lo_and_exclude_hi(engine: Engine, name: Names) -> None:
    await _fill(engine, name("p"), *(Put("note", text, doc(0)) for text in STRINGS))
    for lo in ("", "a", "a\x00", "a\x01", "\ud7ff", "\ud800", "\ue000", "\U0010ffff"):
        for hi in (None, "", "a", "a\x00", "b", "\ud800", "\udfff", "\U0010ffff"):
            wanted = [text for text in sorted(STRINGS) if text >= lo and (hi is None or text < hi)]
            assert await sorts(engine, "note", name("p"), lo=lo, hi=hi) == wanted
            assert await sorts(engine, "note", name("p"), lo=lo, hi=hi, reverse=True) == wanted[::-1]


@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_of_every_limit_give_each_row_once(engine: Engine, name: Names, reverse: bool) -> None:
    for number in range(11):
        index = {"by_pair": (name("q"), number // 3)}
        await commit(engine, name("p"), Put("note", f"{number:02}", doc(0), index), Append("event", doc(number)))
    ways: tuple[Mapping[str, Any], ...] = (
        {"kind": "note", "prefix": (name("p"),)},
        {"kind": "note", "index": "by_pair", "prefix": (name("q"),)},
        {"kind": "note", "index": "by_pair", "prefix": (name("q"),), "lo": 1, "hi": 3},
        {"kind": "event", "prefix": (name("p"),)},
        {"kind": "event", "prefix": (name("p"),), "lo": f"{3:016d}", "hi": f"{9:016d}"},
    )
    for way in ways:
        scan = Scan(**way, reverse=reverse, limit=1000)
        whole = [row.key for row in (await engine.scan(scan)).rows]
        assert len(whole) in (11, 6)
        for limit in range(1, 14):
            smaller = msgspec.structs.replace(scan, limit=limit)
            assert [row.key async for page in pages(engine, smaller) for row in page.rows] == whole


async def test_the_whole_kind_is_in_order_of_partition_and_sort(database: Target) -> None:
    engine = await database.open()
    places = [(partition, sort) for partition in ("b", "a", "a\x00", "\ud800") for sort in ("2", "1", "", "\x00")]
    for partition, sort in places:
        await commit(engine, partition, Put("note", sort, doc(0)), Append("event", doc(0)))
    for limit in (1, 3, 100):
        for reverse in (False, True):
            found = await rows(engine, "note", limit=limit, reverse=reverse)
            assert [(row.key.partition, row.key.sort) for row in found] == sorted(places, reverse=reverse)
            for lo, hi in (("a", None), (None, "a\x00"), ("a\x00", "b"), ("", "\U0010ffff"), ("c", "d"), ("b", "a")):
                found = await rows(engine, "note", limit=limit, reverse=reverse, lo=lo, hi=hi)
                wanted = [place for place in places if place[0] >= (lo or "") and (hi is None or place[0] < hi)]
                assert [(row.key.partition, row.key.sort) for row in found] == sorted(wanted, reverse=reverse)
            found = await rows(engine, "event", limit=limit, reverse=reverse)
            assert len(found) == 16
            assert [row.key for row in found] == sorted((row.key for row in found), reverse=reverse)


def _numbered(name: Names, number: int, body: int = 0) -> Put:
    return Put("note", f"{number:02}", doc(body), {"by_pair": (name("q"), number)})


def _both_ways(name: Names, limit: int, reverse: bool = False) -> tuple[Scan, Scan]:
    """The rows of `_numbered` by sort key, and by index."""
    return (
        Scan("note", prefix=(name("p"),), limit=limit, reverse=reverse),
        Scan("note", "by_pair", (name("q"),), limit=limit, reverse=reverse),
    )


@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_neither_repeat_nor_skip_while_others_write(engine: Engine, name: Names, reverse: bool) -> None:
    """Rows appear before and behind the cursor, and the row under it is put again."""
    always = range(0, 40, 2)
    for number in always:
        await commit(engine, name("p"), _numbered(name, number))
    for scan in _both_ways(name, 3, reverse):
        seen: list[int] = []
        async for page in pages(engine, scan):
            seen += [int(row.key.sort) for row in page.rows]
            await commit(engine, name("p"), _numbered(name, len(seen) % 20 * 2 + 1))
            if page.rows:
                await commit(engine, name("p"), _numbered(name, seen[-1], len(seen)))
        assert seen == sorted(set(seen), reverse=reverse), "a row came twice, or out of order"
        assert set(always) <= set(seen), "a row that was always there is missing"


async def test_the_row_under_a_cursor_may_go(engine: Engine, name: Names) -> None:
    for number in range(6):
        await commit(engine, name("p"), _numbered(name, number))
    for scan in _both_ways(name, 2):
        page = await engine.scan(scan)
        await commit(engine, name("p"), Delete("note", "01"))
        rest = await engine.scan(msgspec.structs.replace(scan, after=page.cursor))
        assert [row.key.sort for row in rest.rows] == ["02", "03"]
        await commit(engine, name("p"), _numbered(name, 1))


async def test_a_cursor_of_another_scan_is_refused(engine: Engine, name: Names) -> None:
    for label in ("p", "q"):
        for number in range(4):
            index = {"by_pair": (name(label), number), "by_text": (name(label),)}
            await commit(engine, name(label), Put("note", f"{number}", doc(0), index), Append("event", doc(0)))
    scan = Scan("note", prefix=(name("p"),), limit=2)
    indexed = Scan("note", "by_pair", (name("p"),), limit=2)
    cursor, other = (await engine.scan(scan)).cursor, (await engine.scan(indexed)).cursor
    assert cursor is not None
    assert other is not None
    replace = msgspec.structs.replace
    for wrong in (
        replace(scan, prefix=(name("q"),)),
        replace(scan, reverse=True),
        replace(scan, lo="1"),
        replace(scan, hi="3"),
        replace(scan, where=Compare("x", "exists", False)),
        replace(scan, prefix=()),
        replace(scan, kind="state"),
        Scan("event", prefix=(name("p"),)),
        indexed,
    ):
        with pytest.raises(Invalid):
            await engine.scan(replace(wrong, after=cursor))
    for wrong in (
        scan,
        replace(indexed, prefix=(name("q"),)),
        replace(indexed, prefix=(name("p"), 1)),
        replace(indexed, lo=0),
        Scan("note", "by_text", (name("p"),)),
    ):
        with pytest.raises(Invalid):
            await engine.scan(replace(wrong, after=other))
    more = await engine.scan(replace(scan, limit=50, budget=77, after=cursor))
    assert [row.key.sort for row in more.rows] == ["2", "3"], "limit and budget may change between pages"


async def test_a_damaged_cursor_is_refused(engine: Engine, name: Names) -> None:
    for number in range(4):
        await commit(engine, name("p"), Put("note", f"{number}", doc(0)), Append("event", doc(0)))
    for kind in ("note", "event"):
        scan = Scan(kind, prefix=(name("p"),), limit=2)
        cursor = (await engine.scan(scan)).cursor
        assert cursor is not None
        changed = [
            cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor) - 1)
        ]
        cut = [cursor[:at] for at in range(0, len(cursor) - 2)]
        for wrong in (*changed, *cut, cursor + "AAAA", "\x00", "\ud800", "é", "null", "W10", "WzFd", "x" * 10_000):
            with pytest.raises(Invalid):
                await engine.scan(msgspec.structs.replace(scan, after=wrong))
        for wrong in (*changed[::5], "", "\x00", "W10"):
            with pytest.raises(Invalid):
                await engine.dump(kind, wrong, 10)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["note", "event"])
async def test_a_scan_of_a_whole_kind_ranges_over_its_partitions(
    engine: Engine, name: Names, kind: str, reverse: bool
) -> None:
    base = name("p")
    partitions = [f"{base}{end}" for end in ("", "\x00", "\x01", "a", "é", "\ud800", "\U0001f600")]
    for partition in partitions:
        await commit(engine, partition, Append("event", doc(0)) if kind == "event" else Put("note", "a", doc(0)))
    for lo, hi in ((0, 7), (1, 6), (3, 3), (2, 4)):
        top = f"{base}\U0010ffff" if hi == 7 else partitions[hi]
        scan = Scan(kind, lo=partitions[lo], hi=top, reverse=reverse, limit=2)
        found = [row.key.partition async for page in pages(engine, scan) for row in page.rows]
        assert found == (partitions[lo:hi][::-1] if reverse else partitions[lo:hi])


async def test_scans_that_make_no_sense_are_refused(engine: Engine, name: Names) -> None:
    q = name("q")
    for wrong in (
        Scan("nope", prefix=(q,)),
        Scan("note", "nope", (q,)),
        Scan("note", "by_pair"),
        Scan("note", "by_pair", lo="a"),
        Scan("note", "by_pair", (q, 1), lo=1),
        Scan("note", "by_pair", (q, 1, 1)),
        Scan("note", prefix=(q, "a")),
        Scan("note", prefix=(1,)),
        Scan("note", prefix=(q,), lo=1),
        Scan("note", lo=1),
        Scan("note", prefix=(q,), limit=0),
        Scan("note", prefix=(q,), limit=-1),
        Scan("note", prefix=(q,), limit=1001),
        Scan("note", prefix=(q,), budget=0),
        Scan("note", prefix=(q,), budget=10**9),
    ):
        with pytest.raises(Invalid):
            await engine.scan(wrong)
    for kind, limit in (("nope", 10), ("note", 0), ("note", 1001)):
        with pytest.raises(Invalid):
            await engine.dump(kind, None, limit)
    for bound in cast("list[Any]", [1, b"a"]):
        for bounds in ({"lo": bound}, {"hi": bound}):
            with pytest.raises(Invalid):
                await engine.dump("note", None, 10, **bounds)
    with pytest.raises(Invalid):
        await engine.get([Key("nope", q, "a")])
