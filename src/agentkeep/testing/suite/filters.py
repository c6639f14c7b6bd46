"""Filters: every operator against the evaluator of predicates.py, hostile fields and values, the budget of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...predicates import OPERATORS, All, Compare, Not, Predicate, Some, evaluate
from ...waist import Append, Engine, Facets, Put, Row, Scan
from ..fixtures import Names
from ..marks import case
from ..target import Target
from ..values import HUGE, STRINGS, SYNTAX
from ..verbs import commit, doc, pages, rows

_VALUES: tuple[Any, ...] = (
    "a", "A", "a ", "", "1", "true", "á", "\U0001f600", 0, 1, -1, 2, 10, 1.0, 0.0, -0.0, 0.5, -2.5, 1e300, 5e-324,
    True, False, 2**53, 2**53 + 1, 2**63, -(2**70), 10**30, 0.1, 2.0**53, 3.0,
)  # fmt: skip
_ODD: tuple[Any, ...] = ("\x00", "a\x00", "\ud800", "\udfffa", "\\u0000", *HUGE)


async def _put(engine: Engine, partition: str, every: Sequence[Facets]) -> None:
    ops = [Put("note", f"{number:04}", doc(number), {}, facets) for number, facets in enumerate(every)]
    for start in range(0, len(ops), 40):
        await commit(engine, partition, *ops[start : start + 40])


async def _found(engine: Engine, scan: Scan) -> list[Row]:
    """What the engine lets through, once what it need not judge is judged."""
    found = [row async for page in pages(engine, scan) for row in page.rows]
    return [row for row in found if evaluate(scan.where, row.facets)]


async def _agrees(engine: Engine, partition: str, every: Sequence[Facets], where: Predicate) -> None:
    scan = Scan("note", prefix=(partition,), where=where, limit=1000)
    wanted = [f"{number:04}" for number, facets in enumerate(every) if evaluate(where, facets)]
    assert [row.key.sort for row in await _found(engine, scan)] == wanted, where


async def test_every_operator_agrees_with_the_evaluator_on_scalars(engine: Engine, name: Names) -> None:
    every: list[Facets] = [{}, *({"x": value} for value in (*_VALUES, *_ODD))]
    await _put(engine, name("p"), every)
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        for value in (*_VALUES, *_ODD):
            await _agrees(engine, name("p"), every, Compare("x", op, value))
    for values in ((), ("a", 1), (True, 0.5, "á"), (2**63, "\x00"), (1.0, 10**30), (*_VALUES, *_ODD)):
        await _agrees(engine, name("p"), every, Compare("x", "in", values))
    for path in ("x", "y"):
        for value in (True, False):
            await _agrees(engine, name("p"), every, Compare(path, "exists", value))


async def test_every_operator_agrees_with_the_evaluator_on_lists(engine: Engine, name: Names) -> None:
    lists: tuple[tuple[Any, ...], ...] = (
        (), ("a",), ("a", "b"), (1, 2), (1, "a", True), (0.5, 3), ("",), (False,), ("\x00", "a"), (2**63, 1), (2, 2.5),
    )  # fmt: skip
    every: list[Facets] = [{"x": values} for values in lists]
    await _put(engine, name("p"), every)
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        for value in ("a", "b", "", 1, 2, 0.5, 2.5, True, False, 2**63, "\x00"):
            await _agrees(engine, name("p"), every, Compare("x", op, value))
    for values in ((), ("a",), (1, "b"), (True,), (2**63,), ("\x00", 0.5)):
        await _agrees(engine, name("p"), every, Compare("x", "in", values))
    for value in (True, False):
        await _agrees(engine, name("p"), every, Compare("x", "exists", value))


async def test_trees_agree_with_the_evaluator(engine: Engine, name: Names) -> None:
    every: list[Facets] = [
        {"a": a, "b": b} if a is not None and b is not None else {"b": b} if b is not None else {}
        for a in (None, 1, "x", "\ud800")
        for b in (None, True, ("x", 2))
    ]
    await _put(engine, name("p"), every)
    a, b = Compare("a", "eq", 1), Compare("b", "eq", "x")
    c, d = Compare("missing", "eq", 1), Compare("a", "ne", 2**64)
    for where in (
        All(()), Some(()), Not(All(())), Not(Some(())),
        All((a, b)), Some((a, b)), Not(a), Not(b), Not(c), Not(Not(c)), Not(Some((a, b))), Not(All((a, b))),
        All((Not(c), b)), Some((c, All((a, Not(b))))), All((a, All((b, Some((c, d)))))), Not(d), All((d, Not(b))),
        Some((Not(Compare("a", "exists", True)), b)), All((Compare("a", "eq", True), Compare("a", "eq", 1))),
    ):  # fmt: skip
        await _agrees(engine, name("p"), every, where)


@case("S2", "S4")
async def test_hostile_fields_and_values_are_only_themselves(engine: Engine, name: Names) -> None:
    texts = (*SYNTAX, *STRINGS)
    every: list[Facets] = [{"canary": "secret"}, {}]
    every += [{text: "v"} for text in texts] + [{"k": text} for text in texts]
    await _put(engine, name("p"), every)
    for text in texts:
        for where in (
            Compare(text, "eq", "v"),
            Compare(text, "exists", True),
            Compare("k", "eq", text),
            Compare("k", "in", (text, "none")),
        ):
            await _agrees(engine, name("p"), every, where)
    for text in SYNTAX:
        for where in (Compare(text, "ne", text), Compare("k", "lt", text), Compare(text, "gt", "")):
            await _agrees(engine, name("p"), every, where)


@case("S2")
async def test_a_filter_reaches_no_other_partition(engine: Engine, name: Names) -> None:
    await commit(engine, name("mine"), Put("note", "a", doc(0), {"by_text": (name("i"),)}, {"x": "1"}))
    await commit(engine, name("theirs"), Put("note", "canary", doc(0), {"by_text": (name("j"),)}, {"x": "1"}))
    for text in SYNTAX:
        for where in (
            Compare(text, "exists", False),
            Compare("x", "ne", text),
            Not(Compare(text, "eq", text)),
            Some((Compare("x", "eq", text), Compare("x", "eq", "1"))),
        ):
            for scan in (
                Scan("note", prefix=(name("mine"),), where=where),
                Scan("note", "by_text", (name("i"),), where=where),
            ):
                assert [row.key.sort for row in await _found(engine, scan)] == ["a"]


async def test_a_page_with_a_filter_gives_the_facets(engine: Engine, name: Names) -> None:
    facets: Facets = {"x": 1, "tags": ("a", "\x00", 2**70), "": "", "\ud800": True, 'q"': 0.5, "one": ("a",), "no": ()}
    await commit(engine, name("p"), Put("note", "a", doc(0), {}, facets), Append("event", doc(0), {}, facets))
    for kind in ("note", "event"):
        (row,) = await rows(engine, kind, name("p"), where=Compare("x", "eq", 1))
        assert dict(row.facets) == dict(facets)
        assert row.facets["\ud800"] is True
        assert dict(row.index) == {}
        (row,) = await rows(engine, kind, name("p"))
        assert dict(row.facets) == {}


async def test_filters_go_with_every_kind_of_scan(engine: Engine, name: Names) -> None:
    for number in range(30):
        index = {"by_pair": (name("q"), 30 - number)}
        facets: Facets = {"n": number, "even": number % 2 == 0}
        event = Append("event", doc(number), {"by_agent": (name("q"), number)}, facets)
        await commit(engine, name("p"), Put("note", f"{number:02}", doc(number), index, facets), event)
    where = All((Compare("even", "eq", True), Compare("n", "ge", 10)))
    wanted = [doc(number) for number in range(10, 30, 2)]
    for limit in (1, 3, 100):
        for scan, expected in (
            (Scan("note", prefix=(name("p"),)), wanted),
            (Scan("note", prefix=(name("p"),), lo="12", hi="20"), wanted[1:5]),
            (Scan("note", prefix=(name("p"),), reverse=True), wanted[::-1]),
            (Scan("note", "by_pair", (name("q"),)), wanted[::-1]),
            (Scan("note", "by_pair", (name("q"),), lo=5, hi=15, reverse=True), wanted[3:8]),
            (Scan("event", prefix=(name("p"),), reverse=True), wanted[::-1]),
            (Scan("event", "by_agent", (name("q"),)), wanted),
        ):
            asked = msgspec.structs.replace(scan, where=where, limit=limit)
            assert [row.doc for row in await _found(engine, asked)] == expected


async def test_a_page_looks_at_no_more_than_its_budget_and_goes_on(engine: Engine, name: Names) -> None:
    for start in range(0, 200, 50):
        ops = [Put("note", f"{n:03}", doc(n), {"by_pair": (name("q"), n)}, {"n": n}) for n in range(start, start + 50)]
        await commit(engine, name("p"), *ops)
    where = Compare("n", "in", (0, 99, 100, 199))
    for way in (Scan("note", prefix=(name("p"),)), Scan("note", "by_pair", (name("q"),))):
        for reverse in (False, True):
            for budget in (1, 7, 50, 200, 1000):
                scan = msgspec.structs.replace(way, where=where, limit=3, budget=budget, reverse=reverse)
                every = [page async for page in pages(engine, scan)]
                kept = [row.key.sort for page in every for row in page.rows if evaluate(where, row.facets)]
                assert kept == sorted(("000", "099", "100", "199"), reverse=reverse)
                if not engine.capabilities.facet_index:
                    assert len(every) >= 200 // budget, "a page looked at more than its budget"
    missed = Scan("note", prefix=(name("p"),), where=Compare("n", "eq", -1), budget=10, limit=5)
    page = await engine.scan(missed)
    if engine.capabilities.filters >= {"eq"} and not engine.capabilities.facet_index:
        assert page.rows == []
        assert page.cursor is not None, "an empty page is not the end"
    assert await _found(engine, missed) == []


async def test_a_rare_row_of_a_whole_kind_is_found(database: Target) -> None:
    """Where facets are claimed to be indexed, in a page that looks at more than its budget; else by going on."""
    engine = await database.open()
    for number in range(300):
        await commit(
            engine, f"p{number:03}", Put("note", "a", doc(number), {}, {"n": number, "tags": ("t", f"t{number}")})
        )
    for where in (Compare("n", "eq", 250), Compare("tags", "eq", "t250"), Compare("n", "in", (250, -1))):
        every = [page async for page in pages(engine, Scan("note", where=where, limit=5, budget=20))]
        kept = [row.doc for page in every for row in page.rows if evaluate(where, row.facets)]
        assert kept == [doc(250)]
        if not engine.capabilities.facet_index:
            assert len(every) >= 300 // 20
        elif where.op == "eq":
            assert len(every) < 300 // 20, "facet_index is claimed, and the whole kind was looked through"


async def test_what_is_claimed_is_filtered_and_what_is_not_comes_whole(engine: Engine, name: Names) -> None:
    await _put(engine, name("p"), [{"n": n, "t": f"{n}"} for n in range(10)])
    asked: dict[str, Any] = {"eq": 3, "ne": 3, "lt": 3, "le": 3, "gt": 3, "ge": 3, "in": (3, 4), "exists": False}
    assert engine.capabilities.filters <= OPERATORS
    assert set(asked) == OPERATORS
    for op, value in asked.items():
        where = Compare("n", op, value)  # type: ignore[arg-type]
        found = await rows(engine, "note", name("p"), where=where)
        wanted = [n for n in range(10) if op not in engine.capabilities.filters or evaluate(where, {"n": n})]
        assert [row.doc for row in found] == [doc(n) for n in wanted], op
