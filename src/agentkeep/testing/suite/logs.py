"""Logs: dense numbers, heads, expectations on them, edits, deletes, trims and seals."""

from __future__ import annotations

from ...errors import Invalid
from ...keys import seq_sort
from ...waist import HEAD, Append, Check, Delete, Engine, Head, Key, Put, Scan, Trim
from ..fixtures import Names
from ..marks import case
from ..verbs import answers, batch, commit, conflict, doc, dumped, head, numbers, read, refused, rows


@case("F7", "C1")
async def test_appends_number_1_2_3_in_each_partition_and_kind(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Append("event", doc(1)), Put("state", "s", doc(0)), Append("event", doc(2)))
    assert first.seqs == (1, None, 2)
    assert (await commit(engine, name("p"), Append("event", doc(3)))).seqs == (3,)
    assert (await commit(engine, name("q"), Append("event", doc(1)))).seqs == (1,)
    assert (await commit(engine, name("p"), Append("turn", doc(1)))).seqs == (1,)
    found = await rows(engine, "event", name("p"))
    assert [(row.key.sort, row.doc) for row in found] == [(seq_sort(n), doc(n)) for n in (1, 2, 3)]


async def test_a_batch_appends_to_two_logs(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("turn", doc(0)))
    got = await commit(engine, name("p"), Append("event", doc(1)), Append("turn", doc(1)), Append("event", doc(2)))
    assert got.seqs == (1, 2, 2)
    assert await numbers(engine, "event", name("p")) == [1, 2]
    assert await numbers(engine, "turn", name("p")) == [1, 2]


@case("C1")
async def test_after_is_the_number_the_log_must_end_at(engine: Engine, name: Names) -> None:
    assert (await commit(engine, name("p"), Append("event", doc(1), after=0))).seqs == (1,)
    assert (
        await commit(engine, name("p"), Append("event", doc(2), after=1), Append("event", doc(3), after=2))
    ).seqs == (2, 3)
    for wrong in (0, 2, 4):
        error = await conflict(engine, name("p"), Append("event", doc(0), after=wrong))
        assert (error.reason, error.expect, error.found) == ("after", wrong, 3)
        assert error.key == Key("event", name("p"), HEAD)
    error = await conflict(engine, name("q"), Append("event", doc(0), after=1))
    assert (error.reason, error.found) == ("after", 0)
    assert await head(engine, "event", name("q")) is None
    assert await numbers(engine, "event", name("p")) == [1, 2, 3]


async def test_expect_exists_needs_an_open_log(engine: Engine, name: Names) -> None:
    error = await conflict(engine, name("p"), Append("event", doc(1), expect="exists"))
    assert (error.reason, error.expect, error.found) == ("sealed", "exists", None)
    await commit(engine, name("p"), Trim("event"))
    assert (await commit(engine, name("p"), Append("event", doc(1), expect="exists"))).seqs == (1,)


async def test_a_refused_append_takes_no_number(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)))
    await conflict(
        engine, name("p"), Append("event", doc("x")), Append("event", doc("y")), Check("note", "a", "exists")
    )
    assert (await commit(engine, name("p"), Append("event", doc(2)))).seqs == (2,)
    assert await head(engine, "event", name("p")) == Head(2)


async def test_the_head_is_read_as_a_row(engine: Engine, name: Names) -> None:
    assert await head(engine, "event", name("p")) is None
    await commit(engine, name("p"), Append("event", doc(1)), Append("event", doc(2)))
    row = await read(engine, "event", name("p"), HEAD)
    assert row is not None
    assert row.key == Key("event", name("p"), HEAD)
    assert await head(engine, "event", name("p")) == Head(2, 0, False)
    await commit(engine, name("p"), Trim("event", below=2, sealed=True))
    assert await head(engine, "event", name("p")) == Head(2, 1, True)


async def test_scan_does_not_give_the_head(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)))
    assert await numbers(engine, "event", name("p")) == [1]
    found = [row for row in await rows(engine, "event", limit=1000) if row.key.partition == name("p")]
    assert [row.key.sort for row in found] == [seq_sort(1)]


@case("F8")
async def test_an_edit_keeps_the_number_and_changes_the_rev(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), *(Append("event", doc(n)) for n in (1, 2, 3)))
    edit = await commit(engine, name("p"), Put("event", seq_sort(2), doc("two"), expect=first.id))
    again = await commit(engine, name("p"), Put("event", seq_sort(3), doc("three"), expect="exists"))
    found = await rows(engine, "event", name("p"))
    assert [(row.rev, row.doc) for row in found] == [
        (first.id, doc(1)),
        (edit.id, doc("two")),
        (again.id, doc("three")),
    ]
    await conflict(engine, name("p"), Put("event", seq_sort(2), doc("late"), expect=first.id))
    assert await head(engine, "event", name("p")) == Head(3)


async def test_a_put_on_a_log_needs_a_row_and_says_so(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)))
    for expect in ("any", "absent"):
        wrong = batch(name("p"), Put("event", seq_sort(2), doc(2), expect=expect))
        assert isinstance(await refused(engine, wrong), Invalid)
    for sort in ("x", "2", HEAD):
        wrong = batch(name("p"), Put("event", sort, doc(2), expect="exists"))
        assert isinstance(await refused(engine, wrong), Invalid)
    error = await conflict(engine, name("p"), Put("event", seq_sort(2), doc(2), expect="exists"))
    assert (error.expect, error.found) == ("exists", None)
    assert await numbers(engine, "event", name("p")) == [1]


async def test_a_delete_frees_no_number(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in (1, 2, 3)))
    await commit(engine, name("p"), Delete("event", seq_sort(3)), Delete("event", seq_sort(1)))
    assert await numbers(engine, "event", name("p")) == [2]
    assert (await commit(engine, name("p"), Append("event", doc(4)))).seqs == (4,)
    await commit(engine, name("p"), Delete("event", seq_sort(2)), Delete("event", seq_sort(4)))
    assert await numbers(engine, "event", name("p")) == []
    assert (await commit(engine, name("p"), Append("event", doc(5), after=4))).seqs == (5,)
    assert await head(engine, "event", name("p")) == Head(5)


async def test_a_deleted_log_row_is_absent(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Append("event", doc(1), {"by_agent": (name("i"), 1)}, {"type": "x"}))
    await commit(engine, name("p"), Delete("event", seq_sort(1), expect=first.id))
    assert await read(engine, "event", name("p"), seq_sort(1)) is None
    assert await rows(engine, "event", name("i"), index="by_agent") == []
    assert [row.key.sort for row in await dumped(engine, "event", 1000) if row.key.partition == name("p")] == [HEAD]
    await commit(engine, name("p"), Delete("event", seq_sort(1)), Check("event", seq_sort(2), "absent"))
    await commit(engine, name("p"), Check("event", seq_sort(1), "absent"))
    await conflict(engine, name("p"), Delete("event", seq_sort(1), expect="exists"))
    await conflict(engine, name("p"), Put("event", seq_sort(1), doc("again"), expect="exists"))
    await conflict(engine, name("p"), Put("event", seq_sort(1), doc("again"), expect=first.id))


async def test_an_append_and_a_delete_of_its_row_in_later_batches_of_one_call(engine: Engine, name: Names) -> None:
    first, second, third = (
        batch(name("p"), Append("event", doc(1))),
        batch(name("p"), Delete("event", seq_sort(1), expect="exists")),
        batch(name("p"), Append("event", doc(2))),
    )
    got = await answers(engine, first, second, third)
    assert [getattr(answer, "seqs", answer) for answer in got] == [(1,), (None,), (2,)]
    assert await numbers(engine, "event", name("p")) == [2]


async def test_trim_hides_rows_under_a_number_from_every_method(engine: Engine, name: Names) -> None:
    ops = [Append("event", doc(n), {"by_agent": (name("i"), n)}, {"n": n}) for n in range(1, 6)]
    first = await commit(engine, name("p"), *ops)
    await commit(engine, name("p"), Trim("event", below=4))
    assert await numbers(engine, "event", name("p")) == [4, 5]
    assert await numbers(engine, "event", name("p"), reverse=True) == [5, 4]
    assert await numbers(engine, "event", name("p"), lo=seq_sort(2), hi=seq_sort(5)) == [4]
    assert await numbers(engine, "event", name("i"), index="by_agent") == [4, 5]
    assert [row.key.sort for row in await rows(engine, "event", limit=1000) if row.key.partition == name("p")] == [
        seq_sort(4),
        seq_sort(5),
    ]
    found = await engine.get([Key("event", name("p"), seq_sort(n)) for n in range(1, 6)])
    assert [row is not None for row in found] == [False, False, False, True, True]
    kept = {row.key.sort for row in await dumped(engine, "event", 1000) if row.key.partition == name("p")}
    assert kept == {HEAD, seq_sort(4), seq_sort(5)}
    await conflict(engine, name("p"), Put("event", seq_sort(3), doc("late"), expect=first.id))
    await conflict(engine, name("p"), Check("event", seq_sort(3), "exists"))
    await commit(engine, name("p"), Delete("event", seq_sort(3)), Check("event", seq_sort(2), "absent"))
    assert await head(engine, "event", name("p")) == Head(5, 3)
    assert (await commit(engine, name("p"), Append("event", doc(6)))).seqs == (6,)


async def test_a_floor_only_rises_and_never_passes_the_last_number(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(1, 6)))
    for below, floor in ((3, 2), (1, 2), (0, 2), (-5, 2), (4, 3), (99, 5), (2, 5)):
        await commit(engine, name("p"), Trim("event", below=below))
        assert await head(engine, "event", name("p")) == Head(5, floor)
    assert (await commit(engine, name("p"), Append("event", doc(6)))).seqs == (6,)
    assert await numbers(engine, "event", name("p")) == [6]


async def test_trim_of_everything_hides_what_there_is_and_not_what_comes(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(1, 4)))
    await commit(engine, name("p"), Trim("event", below=None))
    assert await numbers(engine, "event", name("p")) == []
    assert await head(engine, "event", name("p")) == Head(3, 3)
    assert (await commit(engine, name("p"), Append("event", doc(4)), Append("event", doc(5)))).seqs == (4, 5)
    assert await numbers(engine, "event", name("p")) == [4, 5]


async def test_trim_opens_a_log_that_is_not_there(engine: Engine, name: Names) -> None:
    for number, trim in enumerate((Trim("event"), Trim("event", below=None), Trim("event", below=7))):
        assert (await commit(engine, name(f"{number}"), trim)).seqs == (None,)
        assert await head(engine, "event", name(f"{number}")) == Head(0, 0, False)
        assert (await commit(engine, name(f"{number}"), Append("event", doc(1), after=0))).seqs == (1,)
        assert await numbers(engine, "event", name(f"{number}")) == [1]


async def test_a_sealed_log_refuses_appends_until_it_is_unsealed(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)), Append("event", doc(2)))
    await commit(engine, name("p"), Trim("event", below=None, sealed=True))
    for op in (Append("event", doc(3)), Append("event", doc(3), expect="exists"), Append("event", doc(3), after=2)):
        error = await conflict(engine, name("p"), op)
        assert (error.reason, error.found) == ("sealed", 2)
        assert error.key == Key("event", name("p"), HEAD)
    await conflict(engine, name("p"), Put("note", "a", doc(1)), Append("turn", doc(1)), Append("event", doc(3)))
    assert await read(engine, "note", name("p"), "a") is None
    assert await head(engine, "turn", name("p")) is None
    await commit(engine, name("p"), Trim("event"))
    await conflict(engine, name("p"), Append("event", doc(3)))
    await commit(engine, name("p"), Trim("event", sealed=False))
    assert (await commit(engine, name("p"), Append("event", doc(3)))).seqs == (3,)
    assert await numbers(engine, "event", name("p")) == [3]


async def test_a_log_sealed_before_its_first_row_refuses_it(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Trim("event", sealed=True))
    error = await conflict(engine, name("p"), Append("event", doc(1)))
    assert (error.reason, error.found) == ("sealed", 0)


async def test_a_seal_is_of_one_log_in_one_partition(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Trim("event", sealed=True))
    await commit(engine, name("p"), Append("turn", doc(1)))
    await commit(engine, name("q"), Append("event", doc(1)))
    await commit(engine, name("p"), Put("note", "a", doc(1)))


async def test_rows_of_a_sealed_log_can_be_edited_and_deleted(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)), Append("event", doc(2)))
    await commit(engine, name("p"), Trim("event", sealed=True))
    await commit(
        engine, name("p"), Put("event", seq_sort(1), doc("one"), expect="exists"), Delete("event", seq_sort(2))
    )
    assert [row.doc for row in await rows(engine, "event", name("p"))] == [doc("one")]


async def test_the_ops_of_a_batch_on_one_head_follow_each_other(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)), Append("event", doc(2)))
    got = await commit(engine, name("p"), Append("event", doc(3)), Trim("event", below=None), Append("event", doc(4)))
    assert got.seqs == (3, None, 4)
    assert await numbers(engine, "event", name("p")) == [4]
    assert await head(engine, "event", name("p")) == Head(4, 3)
    got = await commit(engine, name("p"), Append("event", doc(5)), Trim("event", below=5, sealed=True))
    assert got.seqs == (5, None)
    assert await numbers(engine, "event", name("p")) == [5]
    await conflict(engine, name("p"), Append("event", doc(6)), Trim("event", sealed=False))
    got = await commit(engine, name("p"), Trim("event", sealed=False), Append("event", doc(6)))
    assert got.seqs == (None, 6)
    error = await conflict(engine, name("p"), Trim("event", sealed=True), Append("event", doc(7)))
    assert error.reason == "sealed"
    assert await head(engine, "event", name("p")) == Head(6, 4, False)


async def test_only_logs_are_appended_to_and_trimmed(engine: Engine, name: Names) -> None:
    for op in (Append("note", doc(1)), Trim("note")):
        assert isinstance(await refused(engine, batch(name("p"), op)), Invalid)


async def test_bounds_of_a_log_are_sort_keys(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(1, 13)))
    assert await numbers(engine, "event", name("p"), lo=seq_sort(3), hi=seq_sort(6)) == [3, 4, 5]
    assert await numbers(engine, "event", name("p"), lo=seq_sort(11)) == [11, 12]
    assert await numbers(engine, "event", name("p"), hi=seq_sort(3), reverse=True) == [2, 1]
    assert await numbers(engine, "event", name("p"), lo="", hi="x") == list(range(1, 13))
    assert await numbers(engine, "event", name("p"), lo=seq_sort(3) + "x") == list(range(4, 13))
    assert await numbers(engine, "event", name("p"), hi=seq_sort(3) + "x") == [1, 2, 3]
    assert await numbers(engine, "event", name("p"), lo="00000000000000") == list(range(1, 13))
    assert await numbers(engine, "event", name("p"), lo="000000000000001") == [10, 11, 12]
    assert await numbers(engine, "event", name("p"), hi="000000000000001") == list(range(1, 10))
    assert await numbers(engine, "event", name("p"), lo="x") == []
    assert await numbers(engine, "event", name("p"), lo=seq_sort(7), hi=seq_sort(3)) == []


@case("F5", "C1")
async def test_the_end_of_a_long_log_is_read_by_itself(engine: Engine, name: Names) -> None:
    for start in range(1, 500, 50):
        await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(start, start + 50)))
    page = await engine.scan(Scan("event", prefix=(name("p"),), reverse=True, limit=3))
    assert [row.doc for row in page.rows] == [doc(500), doc(499), doc(498)]
    assert await numbers(engine, "event", name("p"), limit=7) == list(range(1, 501))
