"""Rows and expectations: what a batch writes, what it is compared with, and that it is all or nothing."""

from __future__ import annotations

import pytest

from ...errors import Invalid
from ...waist import Append, Check, Delete, Engine, Key, Put
from ..fixtures import Names
from ..marks import case
from ..verbs import answers, batch, by_key, commit, conflict, doc, done, head, new_id, numbers, read, refused, rows


async def test_a_row_comes_back_as_it_was_put(engine: Engine, name: Names) -> None:
    facets = {"type": "x", "tags": ("a", "b")}
    receipt = await commit(engine, name("p"), Put("note", "a", doc({"x": 1}), {"by_text": (name("i"),)}, facets))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert (row.key, row.rev, row.doc) == (Key("note", name("p"), "a"), receipt.id, doc({"x": 1}))
    assert (dict(row.index), dict(row.facets), row.expires) == ({}, {}, None), "a get leaves out what the doc holds"
    assert receipt.seqs == (None,)
    assert not receipt.replayed


async def test_what_was_never_written_is_none(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Put("note", "a", doc(1)))
    keys = [
        Key("note", name("p"), "b"),
        Key("note", name("q"), "a"),
        Key("state", name("p"), "a"),
        Key("event", name("p"), "0000000000000001"),
        Key("event", name("p"), ""),
    ]
    assert await engine.get(keys) == [None] * 5
    assert await rows(engine, "note", name("q")) == []


async def test_get_answers_in_order_and_as_often_as_asked(engine: Engine, name: Names) -> None:
    for label in "abc":
        await commit(engine, name("p"), Put("note", label, doc(label)))
    keys = [Key("note", name("p"), label) for label in "cxaac"]
    found = await engine.get(keys)
    assert [None if row is None else row.key.sort for row in found] == ["c", None, "a", "a", "c"]
    assert await engine.get([]) == []


async def test_get_takes_many_keys_of_many_kinds(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), *(Put("state", f"{n}", doc(n)) for n in range(50)))
    await commit(engine, name("p"), *(Append("event", doc(n)) for n in range(50)))
    keys = [Key("state", name("p"), f"{n}") for n in range(150)]
    keys += [Key("event", name("p"), f"{n:016d}") for n in range(1, 151)]
    found = await engine.get(keys)
    assert [row is not None for row in found] == ([True] * 50 + [False] * 100) * 2


async def test_a_key_of_a_log_that_is_no_number_is_absent(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Append("event", doc(1)))
    odd = [
        "a",
        "1",
        "00000000000000001",
        "000000000000000x",
        "0000000000000000",
        "-000000000000001",
        "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١",
    ]
    assert await engine.get([Key("event", name("p"), sort) for sort in odd]) == [None] * len(odd)


async def test_a_put_replaces_the_row_and_its_rev(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Put("note", "a", doc(1)))
    second = await commit(engine, name("p"), Put("note", "a", doc(2)))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert (row.rev, row.doc) == (second.id, doc(2))


async def test_every_row_of_a_batch_has_its_rev(engine: Engine, name: Names) -> None:
    receipt = await commit(
        engine, name("p"), Put("note", "a", doc(1)), Append("event", doc(2)), Put("state", "a", doc(3))
    )
    found = [await read(engine, "note", name("p"), "a"), await read(engine, "state", name("p"), "a")]
    found += await rows(engine, "event", name("p"))
    assert [row and row.rev for row in found] == [receipt.id] * 3
    assert receipt.seqs == (None, 1, None)


@case("C7")
async def test_expect_absent(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Put("note", "a", doc(1), expect="absent"))
    error = await conflict(engine, name("p"), Put("note", "a", doc(2), expect="absent"))
    assert (error.reason, error.expect, error.found) == ("rev", "absent", first.id)
    assert error.key == Key("note", name("p"), "a")
    assert not error.retryable


@case("C7")
async def test_expect_exists(engine: Engine, name: Names) -> None:
    error = await conflict(engine, name("p"), Put("note", "a", doc(1), expect="exists"))
    assert (error.expect, error.found) == ("exists", None)
    await commit(engine, name("p"), Put("note", "a", doc(1)))
    await commit(engine, name("p"), Put("note", "a", doc(2), expect="exists"))


@case("C7")
async def test_expect_a_rev(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Put("note", "a", doc(1)))
    second = await commit(engine, name("p"), Put("note", "a", doc(2), expect=first.id))
    error = await conflict(engine, name("p"), Put("note", "a", doc(3), expect=first.id))
    assert (error.expect, error.found) == (first.id, second.id)
    await commit(engine, name("p"), Delete("note", "a", expect=second.id))
    error = await conflict(engine, name("p"), Put("note", "a", doc(4), expect=second.id))
    assert (error.expect, error.found) == (second.id, None)


async def test_a_check_compares_and_writes_nothing(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Put("note", "a", doc(1)))
    for expect in (first.id, "exists", "any"):
        assert (await commit(engine, name("p"), Check("note", "a", expect))).seqs == (None,)
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.rev == first.id
    await conflict(engine, name("p"), Check("note", "a", "absent"))
    await conflict(engine, name("p"), Check("note", "a", new_id()))
    await conflict(engine, name("p"), Check("note", "b", "exists"))
    await commit(engine, name("p"), Check("note", "b", "absent"))
    assert await read(engine, "note", name("p"), "b") is None


async def test_a_check_sees_a_row_of_a_log(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Append("event", doc(1)))
    await commit(engine, name("p"), Check("event", f"{1:016d}", first.id), Check("event", f"{2:016d}", "absent"))
    await conflict(engine, name("p"), Check("event", f"{1:016d}", "absent"))


async def test_deleting_what_is_absent_is_no_error(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Delete("note", "a"))
    await commit(engine, name("p"), Delete("event", f"{1:016d}"))
    await commit(engine, name("p"), Delete("note", "a", expect="absent"))
    await conflict(engine, name("p"), Delete("note", "a", expect="exists"))
    await commit(engine, name("p"), Put("note", "a", doc(1)))
    await conflict(engine, name("p"), Delete("note", "a", expect="absent"))
    await commit(engine, name("p"), Delete("note", "a", expect="exists"))
    assert await read(engine, "note", name("p"), "a") is None


@case("C8")
async def test_a_failed_expectation_writes_nothing(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Put("note", "a", doc("old")), Put("note", "z", doc("z")))
    await conflict(
        engine,
        name("p"),
        Put("note", "a", doc("new"), {"by_text": (name("i"),)}),
        Put("note", "b", doc("b")),
        Delete("note", "z"),
        Append("event", doc(1)),
        Check("state", "s", "exists"),
    )
    assert {row.key.sort: row.rev for row in await rows(engine, "note", name("p"))} == {"a": first.id, "z": first.id}
    assert await rows(engine, "note", name("i"), index="by_text") == []
    assert await rows(engine, "event", name("p")) == []
    assert await head(engine, "event", name("p")) is None
    assert (await commit(engine, name("p"), Append("event", doc(1)))).seqs == (1,)


@case("S10")
async def test_neither_errors_nor_logs_show_documents(
    engine: Engine, name: Names, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    secret = doc("canary-8d1f")
    facets = {"x": "canary-8d1f"}
    await commit(engine, name("p"), Put("note", "a", secret, {}, facets), Append("event", secret, {}, facets))
    errors = [
        await refused(engine, batch(name("p"), Put("note", "a", secret, {}, facets, expect="absent"))),
        await refused(engine, batch(name("p"), Append("event", secret, {}, facets, after=9))),
        await refused(engine, batch(name("p"), Put("nope", "a", secret, {}, facets))),
        await refused(engine, batch(name("p"), Put("note", "a", secret * 40_000, {}, facets))),
    ]
    for error in errors:
        assert "canary-8d1f" not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert "canary-8d1f" not in caplog.text
    assert "canary-8d1f" not in f"{engine!r} {vars(engine)}"


async def test_a_batch_is_checked_against_the_state_before_it(engine: Engine, name: Names) -> None:
    await commit(engine, name("p"), Put("note", "a", doc(1)))
    ops = Put("note", "b", doc(2)), Check("state", "a", "absent"), Put("note", "a", doc(3), expect="exists")
    await commit(engine, name("p"), *ops)
    await conflict(engine, name("p"), Delete("note", "a"), Put("note", "c", doc(1)), Check("note", "b", "absent"))
    assert {row.key.sort for row in await rows(engine, "note", name("p"))} == {"a", "b"}


async def test_a_batch_has_at_most_one_op_per_key(engine: Engine, name: Names) -> None:
    twice = batch(name("p"), Put("note", "a", doc(1)), Check("note", "a", "any"))
    assert isinstance(await refused(engine, twice), Invalid)
    assert await read(engine, "note", name("p"), "a") is None


async def test_the_batches_of_a_call_are_independent(engine: Engine, name: Names) -> None:
    good, bad, other = (
        batch(name("p"), Put("note", "a", doc(1), expect="absent")),
        batch(name("p"), Put("note", "a", doc(2), expect="absent"), Put("note", "b", doc(2))),
        batch(name("q"), Put("note", "a", doc(3), expect="absent")),
    )
    first, second, third = await answers(engine, good, bad, other)
    assert (getattr(first, "id", None), getattr(third, "id", None)) == (good.id, other.id)
    assert type(second).__name__ == "Conflict"
    found = by_key(await rows(engine, "note", name("p")))
    assert {key.sort: row.doc for key, row in found.items()} == {"a": doc(1)}


async def test_the_batches_of_one_partition_apply_in_list_order(engine: Engine, name: Names) -> None:
    steps = [batch(name("p"), Put("note", "a", doc(0), expect="absent"), Append("event", doc(0)))]
    for n in range(1, 20):
        steps.append(batch(name("p"), Put("note", "a", doc(n), expect=steps[-1].id), Append("event", doc(n), after=n)))
    mixed = [
        one for pair in zip(steps, (batch(name(), Append("event", doc(1))) for _ in steps), strict=True) for one in pair
    ]
    got = await answers(engine, *mixed)
    assert [getattr(answer, "seqs", answer) for answer in got[::2]] == [(None, n) for n in range(1, 21)]
    assert [getattr(answer, "seqs", answer) for answer in got[1::2]] == [(1,)] * 20
    assert [row.doc for row in await rows(engine, "event", name("p"))] == [doc(n) for n in range(20)]


async def test_a_commit_of_nothing_answers_nothing(engine: Engine) -> None:
    assert await engine.commit([]) == []


async def test_partitions_are_independent(engine: Engine, name: Names) -> None:
    for label in ("u1", "u10", "u1/", "u", "U1"):
        await commit(engine, name(label), Put("note", "a", doc(label)), Append("event", doc(label)))
    for label in ("u1", "u10", "u1/", "u", "U1"):
        assert [row.doc for row in await rows(engine, "note", name(label))] == [doc(label)]
        assert await numbers(engine, "event", name(label)) == [1]


@pytest.mark.parametrize("size", [0, 1, 5, 1000, 299_000])
@case("F5")
async def test_documents_of_any_length_and_any_bytes_come_back(engine: Engine, name: Names, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    await done(engine, batch(name("p"), Put("note", "a", body), Append("event", body)))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert row.doc == body
    assert type(row.doc) is bytes
    assert [row.doc for row in await rows(engine, "event", name("p"))] == [body]
