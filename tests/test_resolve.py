"""The semantics of a commit as a table of cases: pure, so each line is the whole truth about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given

from agentkeep.errors import Conflict, Invalid
from agentkeep.keys import seq_sort
from agentkeep.resolve import Found, Memo, Plan, holds, lane, reads, receipt_of, resolve, simple, token, validate
from agentkeep.testing.histories import Draft, Drawn, batches, build
from agentkeep.testing.schema import SCHEMA
from agentkeep.testing.verbs import batch, new_id
from agentkeep.waist import HEAD, Append, Batch, Check, Delete, Head, Key, Put, Receipt, Row, Trim

KINDS = {kind.name: kind for kind in SCHEMA.kinds}
REV, OTHER = new_id(), new_id()


def found(
    rows: Mapping[str, str] | None = None, heads: Mapping[str, Head] | None = None, memo: Memo | None = None
) -> Found:
    """Rows of kind note by sort key with their revs, and heads by kind."""
    keyed = {Key("note", "p", sort): Row(Key("note", "p", sort), rev, b"") for sort, rev in (rows or {}).items()}
    return Found(keyed, heads or {}, memo)


def planned(ops: tuple[Any, ...], state: Found, logs: frozenset[str] = frozenset()) -> Plan:
    plan = resolve(batch("p", *ops), state, logs)
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize(
    ("expect", "rev", "held"),
    [
        ("any", None, True), ("any", REV, True), ("absent", None, True), ("absent", REV, False),
        ("exists", None, False), ("exists", REV, True), (REV, REV, True), (REV, OTHER, False), (REV, None, False),
        ("", None, False), ("", REV, False), ("ANY", REV, False),
    ],
)  # fmt: skip
def test_holds(expect: str, rev: str | None, held: bool):
    assert holds(expect, rev) is held


@pytest.mark.parametrize(
    ("ops", "head", "seqs", "after"),
    [
        ((Append("event", b""),), None, (1,), Head(1)),
        ((Append("event", b""), Append("event", b"")), Head(4), (5, 6), Head(6)),
        ((Append("event", b"", after=4),), Head(4), (5,), Head(5)),
        ((Append("event", b"", after=4), Append("event", b"", after=5)), Head(4), (5, 6), Head(6)),
        ((Append("event", b"", expect="exists"),), Head(0), (1,), Head(1)),
        ((Append("event", b""),), Head(4, 2), (5,), Head(5, 2)),
        ((Trim("event"),), None, (None,), Head()),
        ((Trim("event", 3),), Head(5), (None,), Head(5, 2)),
        ((Trim("event", 3),), Head(5, 4), (None,), Head(5, 4)),
        ((Trim("event", 99),), Head(5), (None,), Head(5, 5)),
        ((Trim("event", None),), Head(5, 1), (None,), Head(5, 5)),
        ((Trim("event", None, True),), Head(5), (None,), Head(5, 5, True)),
        ((Trim("event"),), Head(5, 1, True), (None,), Head(5, 1, True)),
        ((Trim("event", sealed=False),), Head(5, 1, True), (None,), Head(5, 1)),
        ((Trim("event", sealed=False), Append("event", b"")), Head(5, 1, True), (None, 6), Head(6, 1)),
        ((Append("event", b""), Trim("event", None)), Head(5), (6, None), Head(6, 6)),
    ],
)  # fmt: skip
def test_heads(ops: tuple[Any, ...], head: Head | None, seqs: tuple[int | None, ...], after: Head):
    plan = planned(ops, found(heads={} if head is None else {"event": head}))
    assert plan.receipt.seqs == seqs
    assert plan.heads == {"event": after}


@pytest.mark.parametrize(
    ("ops", "head", "reason", "expect", "was"),
    [
        ((Append("event", b"", after=3),), Head(4), "after", 3, 4),
        ((Append("event", b"", after=1),), None, "after", 1, 0),
        ((Append("event", b""), Append("event", b"", after=4)), Head(4), "after", 4, 5),
        ((Append("event", b"", expect="exists"),), None, "sealed", "exists", None),
        ((Append("event", b""),), Head(4, 0, True), "sealed", "any", 4),
        ((Trim("event", sealed=True), Append("event", b"")), Head(4), "sealed", "any", 4),
    ],
)  # fmt: skip
def test_conflicts_of_heads(ops: tuple[Any, ...], head: Head | None, reason: str, expect: Any, was: Any):
    with pytest.raises(Conflict) as caught:
        planned(ops, found(heads={} if head is None else {"event": head}))
    error = caught.value
    assert (error.reason, error.expect, error.found, error.key) == (reason, expect, was, Key("event", "p", HEAD))


def test_rows_are_written_with_the_rev_of_the_batch():
    one = batch("p", Put("note", "a", b"x", {"by_text": ("q",)}, {"f": 1}, 9), Append("event", b"y", expires=7))
    plan = resolve(one, found())
    assert isinstance(plan, Plan)
    assert plan.puts == (
        Row(Key("note", "p", "a"), one.id, b"x", {"by_text": ("q",)}, {"f": 1}, 9),
        Row(Key("event", "p", seq_sort(1)), one.id, b"y", {}, {}, 7),
    )
    assert plan.receipt == Receipt(one.id, (None, 1))


def test_only_a_row_that_is_there_is_deleted():
    plan = planned((Delete("note", "a"), Delete("note", "b")), found({"a": REV}))
    assert plan.deletes == (Key("note", "p", "a"),)
    assert plan.puts == ()


def test_the_first_expectation_that_does_not_hold_is_the_conflict():
    with pytest.raises(Conflict) as caught:
        planned(
            (Check("note", "a", REV), Check("note", "b", "absent"), Check("note", "c", "exists")),
            found({"a": REV, "b": OTHER}),
        )
    assert (caught.value.key, caught.value.expect, caught.value.found) == (Key("note", "p", "b"), "absent", OTHER)


def test_a_remembered_batch_is_a_receipt_before_anything_is_compared():
    receipt = Receipt(REV, (7,))
    again = batch("p", Append("event", b"", after=0), once="k")
    state = found(heads={"event": Head(9, 0, True)}, memo=Memo(receipt, again.digest))
    assert resolve(again, state) == Receipt(REV, (7,), True)
    other = msgspec.structs.replace(again, digest=bytes(16))
    with pytest.raises(Conflict) as caught:
        resolve(other, state)
    assert caught.value.reason == "once"
    plain = batch("p", Append("event", b""))
    assert resolve(plain, found(memo=Memo(receipt, None))) == Receipt(REV, (7,), True)


def test_restoring_keeps_revs_numbers_and_the_greater_head():
    logs = frozenset({"event"})
    ops = (
        Put("event", seq_sort(7), b"x", rev=OTHER),
        Put("note", "a", b"y", rev=REV),
        Put("event", HEAD, b'{"seq":5,"floor":2}'),
    )
    plan = planned(ops, found(heads={"event": Head(6, 3)}), logs)
    assert plan.heads == {"event": Head(7, 3)}
    assert [row.rev for row in plan.puts] == [OTHER, REV]
    assert planned((Put("event", HEAD, b'{"seq":1,"sealed":true}'),), found(), logs).heads == {
        "event": Head(1, 0, True)
    }


def test_a_token_is_of_the_id_or_of_partition_and_key():
    assert token(Batch("p", (), REV)) == bytes.fromhex(REV.replace("-", ""))
    keyed = {
        token(batch(partition, once=once))
        for partition, once in (
            ("p", "k"),
            ("q", "k"),
            ("p", "l"),
            ("pk", ""),
            ("p\x01", "k"),
            ("p", "\x01k"),
            ("", "pk"),
        )
        if once or partition == "pk"
    }
    assert len(keyed) == 7
    assert token(batch("p", once="k")) == token(batch("p", once="k")), "a new id does not matter"
    assert all(len(one) == 16 for one in keyed)


@pytest.mark.parametrize(
    ("ops", "where"),
    [
        ((), ""),
        ((Put("note", "a", b""),), ""),
        ((Append("event", b""),), "event"),
        ((Append("event", b""), Put("note", "a", b""), Append("event", b"")), "event"),
        ((Append("event", b""), Append("turn", b"")), ""),
        ((Trim("event"),), ""),
        ((Append("turn", b""), Trim("event")), "turn"),
    ],
)
def test_lanes(ops: tuple[Any, ...], where: str):
    assert lane(batch("p", *ops)) == where


def test_what_is_simple():
    append, put = Append("event", b""), Put("note", "a", b"")
    for ops in (
        (append,),
        (append, append),
        (append, put),
        (put, append),
        (Append("event", b"", expect="exists"), put),
    ):
        assert simple(batch("p", *ops))
    for ops in (
        (put,), (append, Append("turn", b"")), (Append("event", b"", after=1),), (append, Trim("event")),
        (append, Append("event", b"", after=1)), (append, Put("note", "a", b"", expect="absent")), (Trim("event"),),
        (append, Delete("note", "a")), (append, Check("note", "a", "any")),
    ):  # fmt: skip
        assert not simple(batch("p", *ops))


class Watched(dict[Any, Any]):
    """Remembers what was looked up in it, and decides nothing."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.asked: set[Any] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@given(batches)
def test_resolve_looks_only_at_what_reads_names_and_simple_batches_depend_only_on_their_head(drawn: list[Drawn]):
    for one in drawn:
        made = build(one, Draft("", 0, {}))
        rows = {Key(op.kind, made.partition, op.sort): Row(Key(op.kind, made.partition, op.sort), REV, b"")
                for op in made.ops if isinstance(op, (Put, Delete, Check))}  # fmt: skip
        for there in (rows, {}):
            seen, heads = Watched(there), Watched({"event": Head(3), "turn": Head(2, 1)})
            try:
                resolve(made, Found(seen, heads, None))
            except (Conflict, Invalid):
                pass
            named = reads(made)
            assert seen.asked <= set(named.keys)
            assert heads.asked <= set(named.heads)
        if simple(made):
            assert heads.asked == {lane(made)}
            full, empty = resolve(made, found(heads=heads)), resolve(made, Found(rows, heads, None))
            assert full == empty, "a simple batch reads nothing but the head of its log"


def test_the_receipt_of_a_batch_that_is_remembered_on_a_log_row():
    one = batch("p", Put("note", "a", b""), Append("event", b""), Check("note", "b", "any"), Append("event", b""))
    assert receipt_of(one, 5, REV) == Receipt(REV, (None, 5, None, 6), True)


@pytest.mark.parametrize(
    "wrong",
    [
        batch("p"),
        batch("p", Put("note", "a", b""), Put("note", "a", b"")),
        batch("p", Put("note", "a", b""), Check("note", "a", "any")),
        batch("p", Trim("event"), Trim("event")),
        batch("p", Put("nope", "a", b"")),
        batch("p", Append("note", b"")),
        batch("p", Trim("note")),
        batch("p", Put("event", seq_sort(1), b"")),
        batch("p", Put("event", seq_sort(1), b"", expect="absent")),
        batch("p", Put("event", "x", b"", expect="exists")),
        batch("p", Check("event", HEAD, "exists")),
        batch("p", Delete("event", "")),
        batch("p", Put("note", "a", b"", rev=REV)),
        batch("p", Put("note", "a", b""), id="x"),
        batch("p", Put("note", "a", b""), id=REV.upper()),
        batch("p", Put("note", "a", b""), id=REV + "\n"),
        Batch("p", (Put("note", "a", b""),), REV, "", bytes(16)),
        Batch("p", (Put("note", "a", b""),), REV, "k", None),
        Batch("p", (Put("note", "a", b""),), REV, None, bytes(16)),
    ],
)
def test_what_no_state_makes_right_is_invalid(wrong: Batch):
    with pytest.raises(Invalid):
        validate(wrong, KINDS)


def test_what_is_valid():
    validate(batch("p", Append("event", b""), Append("event", b""), Trim("event"), Put("note", "a", b"")), KINDS)
    validate(
        batch("p", Put("event", seq_sort(1), b"", expect="exists"), Put("event", seq_sort(2), b"", expect=REV)), KINDS
    )
    validate(batch("p", Check("event", seq_sort(1), "absent"), Delete("event", seq_sort(2))), KINDS)
    validate(batch("p", Put("event", seq_sort(1), b"", rev=REV), Put("event", HEAD, b"{}")), KINDS, restore=True)
    for wrong in (
        Put("event", "x", b""),
        Put("event", HEAD, b"{"),
        Put("event", HEAD, b'{"seq":"1"}'),
        Check("event", HEAD, "any"),
    ):
        with pytest.raises(Invalid):
            validate(batch("p", wrong), KINDS, restore=True)
