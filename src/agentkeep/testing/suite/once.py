"""Exactly once: a batch committed again, idempotency keys, lanes, and what stays remembered."""

from __future__ import annotations

import msgspec

from ...errors import Conflict, Invalid, StoreError
from ...keys import seq_sort
from ...waist import Append, Batch, Check, Delete, Engine, Put, Receipt, Trim
from ..fixtures import Names
from ..marks import case, needs
from ..target import Target
from ..verbs import answers, batch, commit, conflict, digest, doc, done, new_id, numbers, read, refused, rows


def _again(first: Receipt) -> Receipt:
    return msgspec.structs.replace(first, replayed=True)


def _renewed(one: Batch) -> Batch:
    """The same request, minted anew: what a retry after a restart of the caller commits."""
    return msgspec.structs.replace(one, id=new_id())


@case("C2")
async def test_the_same_batch_again_writes_nothing_and_gives_its_receipt(engine: Engine, name: Names) -> None:
    shapes = {
        "append": (Append("event", doc(1)),),
        "appends": (Append("event", doc(1)), Put("note", "b", doc(1)), Append("event", doc(2))),
        "put": (Put("note", "a", doc(1)),),
        "create": (Put("note", "a", doc(1), expect="absent"),),
        "after": (Append("event", doc(1), after=0),),
        "two logs": (Append("event", doc(1)), Append("turn", doc(1))),
        "delete": (Delete("note", "zz"),),
        "check": (Check("note", "zz", "absent"),),
        "trim": (Trim("event", sealed=True),),
        "append and trim": (Append("event", doc(1)), Trim("event", below=None, sealed=True)),
    }
    for label, ops in shapes.items():
        one = batch(name(label), *ops)
        first = await done(engine, one)
        before = [await rows(engine, kind, name(label)) for kind in ("event", "turn", "note")]
        assert first.replayed is False
        for _ in range(2):
            assert await done(engine, one) == _again(first), label
        assert [await rows(engine, kind, name(label)) for kind in ("event", "turn", "note")] == before, label


@case("C2")
async def test_a_key_used_again_writes_nothing_and_gives_the_first_receipt(engine: Engine, name: Names) -> None:
    for label, ops in {
        "append": (Append("event", doc(1)), Append("event", doc(2))),
        "put": (Put("note", "a", doc(1), expect="absent"),),
        "two logs": (Append("event", doc(1)), Append("turn", doc(1))),
    }.items():
        first = await commit(engine, name(label), *ops, once="k")
        second = await commit(engine, name(label), *ops, once="k")
        assert second == _again(first)
        assert len(await rows(engine, "event", name(label))) == sum(op == Append("event", op.doc) for op in ops)
        found = {row.rev for kind in ("event", "turn", "note") for row in await rows(engine, kind, name(label))}
        assert found == {first.id}


@case("C2")
async def test_a_key_used_for_something_else_is_a_conflict(engine: Engine, name: Names) -> None:
    for label, ops in {"log": (Append("event", doc(1)),), "put": (Put("note", "a", doc(1)),)}.items():
        await commit(engine, name(label), *ops, once="k", content="one")
        other = batch(name(label), *ops, Put("state", "s", doc(1)), once="k", content="two")
        error = await refused(engine, other)
        assert isinstance(error, Conflict)
        assert error.reason == "once"
        assert error.key is not None
        assert error.key.partition == name(label)
        assert await read(engine, "state", name(label), "s") is None
        await commit(engine, name(label), *ops, once="k2", content="two")


async def test_a_key_is_found_before_expectations_are_looked_at(engine: Engine, name: Names) -> None:
    first = await commit(engine, name("p"), Append("event", doc(1), after=0), once="k")
    await commit(engine, name("p"), Append("event", doc(2)))
    await commit(engine, name("p"), Trim("event", sealed=True))
    again = await commit(engine, name("p"), Append("event", doc(1), after=0), once="k")
    assert again == _again(first)


@case("C2")
async def test_a_repetition_with_other_ops_is_answered_for_the_ops_it_has(engine: Engine, name: Names) -> None:
    """The key and the digest say that it is the same request; what goes with its appends may differ."""
    event, turn = Append("event", doc(1)), Append("turn", doc(1))
    put, check = Put("note", "a", doc(1)), Check("note", "never", "exists")
    seal = Trim("event", sealed=True)
    for label, (first, again, seqs) in {
        "more": ((event, event), (check, event, put, event), (None, 2, None, 3)),
        "fewer": ((put, event, seal), (event,), (2,)),
        "other places": ((put, event, event), (event, check, event), (2, None, 3)),
        "after": ((event,), (Append("event", doc(1), after=0), put), (2, None)),
        "no log": ((put,), (check, Put("note", "b", doc(2)), Delete("note", "a")), (None, None, None)),
        "two logs": ((event, turn, event), (put, event, check, turn, event), (None, 2, None, 1, 3)),
        "two logs, fewer": ((put, event, turn), (event, turn), (2, 1)),
    }.items():
        await commit(engine, name(label), Append("event", doc(0)))
        made = await commit(engine, name(label), *first, once="k")
        before = [await rows(engine, kind, name(label)) for kind in ("event", "turn", "note")]
        assert await commit(engine, name(label), *again, once="k") == Receipt(made.id, seqs, True), label
        assert await commit(engine, name(label), *first, once="k") == _again(made), label
        assert [await rows(engine, kind, name(label)) for kind in ("event", "turn", "note")] == before, label


@case("C3")
async def test_keys_are_independent_between_partitions(engine: Engine, name: Names) -> None:
    for label in ("p", "q"):
        got = await commit(engine, name(label), Append("event", doc(label)), once="k", content=label)
        assert (got.seqs, got.replayed) == ((1,), False)
        got = await commit(engine, name(label), Put("note", "a", doc(label)), once="k", content=label)
        assert got.replayed is False
        assert [row.doc for row in await rows(engine, "event", name(label))] == [doc(label)]


@case("C3")
async def test_a_key_and_a_partition_cannot_be_shifted_into_each_other(engine: Engine, name: Names) -> None:
    base = name("p")
    for partition, once in (
        (f"{base}a", "b\x01c"),
        (f"{base}a\x01b", "c"),
        (f"{base}a\x00", "b"),
        (f"{base}a", "\x00b"),
    ):
        got = await commit(engine, partition, Append("event", doc(1)), once=once, content=partition + once)
        assert got.replayed is False


async def test_a_key_used_in_two_lanes_is_two_keys(engine: Engine, name: Names) -> None:
    lanes = (
        (Append("event", doc(1)),),
        (Append("turn", doc(1)),),
        (Append("event", doc(1)), Append("turn", doc(1))),
    )
    for ops in lanes:
        assert (await commit(engine, name("p"), *ops, once="k", content=len(ops))).replayed is False
    second = await commit(engine, name("p"), *lanes[2], once="k", content=2)
    assert (second.seqs, second.replayed) == ((2, 2), True)
    error = await refused(engine, batch(name("p"), Put("note", "a", doc(1)), once="k", content="other"))
    assert isinstance(error, Conflict), "batches that append to no log or to two share a lane"


@case("C2")
async def test_a_batch_is_remembered_after_its_rows_are_gone(engine: Engine, name: Names) -> None:
    edit = Put("event", seq_sort(1), doc("x"), expect="exists")
    for label, changes in {
        "deleted": [(Delete("event", seq_sort(1)), Delete("event", seq_sort(2)))],
        "trimmed": [(Trim("event", below=None),)],
        "sealed": [(Trim("event", below=None, sealed=True),)],
        "edited": [(edit,)],
        "edited again and again": [(edit,), (edit,), (edit, Put("note", "a", doc(1))), (edit,)],
        "edited and deleted": [(edit, Check("note", "a", "absent")), (edit,), (Delete("event", seq_sort(1)),)],
    }.items():
        one = batch(name(label), Append("event", doc(1)), Append("event", doc(2)), once="k")
        plain = batch(name(label), Append("event", doc(3)))
        first, third = await done(engine, one), await done(engine, plain)
        for ops in changes:
            await commit(engine, name(label), *ops)
        before = await numbers(engine, "event", name(label))
        assert await done(engine, one) == _again(first)
        assert await done(engine, _renewed(one)) == _again(first)
        assert await done(engine, plain) == _again(third)
        assert await numbers(engine, "event", name(label)) == before, label


async def test_a_put_is_remembered_after_its_row_is_gone(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Put("note", "a", doc(1), expect="absent"), once="k")
    first = await done(engine, one)
    await commit(engine, name("p"), Delete("note", "a"))
    assert await done(engine, one) == _again(first)
    assert await done(engine, _renewed(one)) == _again(first)
    assert await read(engine, "note", name("p"), "a") is None


async def test_a_refused_batch_is_not_remembered(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Put("note", "a", doc(1), expect="exists"), Append("event", doc(1)), once="k")
    assert isinstance(await refused(engine, one), Conflict)
    assert isinstance(await refused(engine, one), Conflict)
    await commit(engine, name("p"), Put("note", "a", doc(0)))
    got = await done(engine, one)
    assert (got.seqs, got.replayed) == ((None, 1), False)


async def test_batches_of_one_call_replay_each_other(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Append("event", doc(1)))
    keyed = batch(name("p"), Append("event", doc(2)), once="k")
    got = await answers(engine, one, keyed, one, _renewed(keyed), keyed)
    assert got == [
        Receipt(one.id, (1,)),
        Receipt(keyed.id, (2,)),
        Receipt(one.id, (1,), True),
        Receipt(keyed.id, (2,), True),
        Receipt(keyed.id, (2,), True),
    ]
    assert await numbers(engine, "event", name("p")) == [1, 2]


async def test_a_key_used_for_two_things_in_one_call(engine: Engine, name: Names) -> None:
    first, second, third = await answers(
        engine,
        batch(name("p"), Append("event", doc(1)), once="k", content=1),
        batch(name("p"), Append("event", doc(2)), once="k", content=2),
        batch(name("p"), Append("event", doc(3))),
    )
    assert isinstance(first, Receipt)
    assert isinstance(second, Conflict)
    assert second.reason == "once"
    assert isinstance(third, Receipt)
    assert (first.seqs, third.seqs) == ((1,), (2,))
    assert [row.doc for row in await rows(engine, "event", name("p"))] == [doc(1), doc(3)]


async def test_a_replay_leaves_what_was_written_since(engine: Engine, name: Names) -> None:
    one = batch(name("p"), Put("note", "a", doc(1)), Append("event", doc(1)))
    await done(engine, one)
    later = await commit(engine, name("p"), Put("note", "a", doc(2)), Append("event", doc(2)))
    await done(engine, one)
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    assert (row.rev, row.doc) == (later.id, doc(2))
    assert await numbers(engine, "event", name("p")) == [1, 2]


async def test_hostile_keys_are_distinct(engine: Engine, name: Names) -> None:
    keys = ["k", "K", "k ", " k", "k\x00", "k\ud800", "ké", "ke\u0301", "k'; --", "k%", "\U0001f600", "k" * 500]
    for position, once in enumerate(keys):
        got = await commit(engine, name("p"), Append("event", doc(position)), once=once, content=position)
        assert (got.seqs, got.replayed) == ((position + 1,), False)
    for position, once in enumerate(keys):
        got = await commit(engine, name("p"), Append("event", doc(position)), once=once, content=position)
        assert (got.seqs, got.replayed) == ((position + 1,), True)


async def test_a_key_and_its_digest_of_16_bytes_go_together(engine: Engine, name: Names) -> None:
    op = Append("event", doc(1))
    for wrong in (
        Batch(name("p"), (op,), new_id(), "k", None),
        Batch(name("p"), (op,), new_id(), None, digest(1)),
        Batch(name("p"), (op,), new_id(), "", digest(1)),
        Batch(name("p"), (op,), new_id(), "k", digest(1)[:15]),
        Batch(name("p"), (op,), new_id(), "k", digest(1) * 2),
        Batch(name("p"), (op,), "not-a-uuid", None, None),
        Batch(name("p"), (op,), new_id().upper(), None, None),
        Batch(name("p"), (), new_id(), None, None),
    ):
        assert isinstance(await refused(engine, wrong), Invalid)
    assert await numbers(engine, "event", name("p")) == []


@case("C2")
async def test_memory_lasts_at_least_24_hours(database: Target) -> None:
    engine = await database.open()
    made = [
        batch("p", Append("event", doc(1)), Append("event", doc(2))),
        batch("p", Append("event", doc(3)), once="k"),
        batch("p", Put("note", "a", doc(1)), once="k"),
        batch("p", Append("event", doc(4)), Append("turn", doc(1))),
        batch("q", Append("event", doc(1), expires=database.clock() + 1_000_000)),
    ]
    first = [await done(engine, one) for one in made]
    await commit(engine, "p", Trim("event", below=3), Delete("event", seq_sort(3)))
    for hours in (1, 12, 10.9):
        database.clock.move(3600 * hours)
        for number in range(20):
            await commit(engine, f"r{number}", Put("note", "x", doc(1)), Append("event", doc(1)))
        assert [await done(engine, one) for one in made] == [_again(one) for one in first]


@needs(durable=True)
@case("C2")
async def test_memory_outlives_the_engine(database: Target) -> None:
    """Opening and closing sweeps nothing that is still to be remembered."""
    engine = await database.open()
    made = [
        batch("p", Append("event", doc(1)), once="k"),
        batch("p", Put("note", "a", doc(1))),
        batch("q", Append("event", doc(1), expires=database.clock() + 1)),
    ]
    first = [await done(engine, one) for one in made]
    await commit(engine, "p", Trim("event", below=None))
    for _ in range(3):
        await engine.close()
        database.clock.move(3600 * 7.9)
        engine = await database.open()
        await commit(engine, "r", Append("event", doc(1)), Put("note", "x", doc(1)))
        assert [await done(engine, one) for one in made] == [_again(one) for one in first]


async def test_numbers_go_on_after_memory_has_ended(database: Target) -> None:
    engine = await database.open()
    await commit(engine, "p", Append("event", doc(1)), Append("event", doc(2)), once="k")
    await commit(engine, "p", Trim("event", below=None))
    database.clock.move(3600 * 24 * 30)
    for number in range(50):
        await commit(engine, f"r{number}", Put("note", "x", doc(1)))
    got = await commit(engine, "p", Append("event", doc(3)))
    assert got.seqs == (3,)
    assert await numbers(engine, "event", "p") == [3]


async def test_an_error_in_the_list_is_one_of_ours(engine: Engine, name: Names) -> None:
    error = await conflict(engine, name("p"), Check("note", "a", "exists"))
    assert isinstance(error, StoreError)
    assert error.engine == engine.capabilities.name
    assert error.operation == "commit"
    assert name("p") in str(error)
