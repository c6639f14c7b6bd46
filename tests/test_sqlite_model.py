"""The SQLite engine does what the memory engine does, over random histories: a differential test."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentkeep.engines.memory import Memory
from agentkeep.engines.sqlite import SQLite
from agentkeep.errors import Conflict, StoreError
from agentkeep.ids import Ids
from agentkeep.keys import seq_sort
from agentkeep.predicates import All, Compare, Not, Some, evaluate
from agentkeep.waist import (
    HEAD,
    Append,
    Batch,
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

T = TypeVar("T")

SCHEMA = Schema(
    (
        KindSpec("event", log=True, indexes=(IndexSpec("by_agent", ("agent", "at"), ("str", "int")),)),
        KindSpec("audit", log=True),
        KindSpec("state", indexes=(IndexSpec("by_owner", ("owner",), ("str",)),)),
    )
)
START = 1_790_000_000_000_000
SECOND = 1_000_000
SORTS = ["", "x", "x\x00", "y", "\ud800z", "x1"]
NAMES = ["a", "a\x00", "", "\ud800"]
DOCS = [b"", b"\x01....{}", b"\x00\xff", b"x" * 5000]
SCALARS: list[Any] = ["m", "n\x00", 'q"', 1, 1.0, True, 0.1, -0.0, 2**60 + 1]
PATHS = ["type", "metadata.a\x00", 'k"']
EXPIRIES = [None, None, None, None, START - SECOND, START + 5 * SECOND, START + 3600 * SECOND]


def facets(r: Random) -> dict[str, Any]:
    scalars = SCALARS[:-1] if r.random() < 0.9 else SCALARS
    return {
        path: r.choice(scalars) if r.random() < 0.7 else tuple(r.sample(scalars, r.randrange(3)))
        for path in r.sample(PATHS, r.randrange(3))
    }


def an_append(r: Random) -> Append:
    kind = r.choice(["event", "event", "audit"])
    values = r.choice([("m", 1), ("m", -5), ("n\x00", 7)])
    index = {"by_agent": values} if kind == "event" and r.random() < 0.6 else {}
    after = r.choice([None] * 8 + [0, 1, 2, 3])
    expect = r.choice(["any"] * 8 + ["exists"])
    return Append(kind, r.choice(DOCS), index, facets(r), r.choice(EXPIRIES), after, expect)


def an_op(r: Random) -> Any:
    expect = r.choice(["any", "any", "absent", "exists", "last", "last", "00000000-0000-7000-8000-000000000000"])
    seq = seq_sort(r.randrange(1, 7))
    owner = {"by_owner": (r.choice(["m", "m\x00", ""]),)} if r.random() < 0.5 else {}
    match r.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            return an_append(r)
        case 5 | 6:
            return Put("state", r.choice(SORTS), r.choice(DOCS), owner, facets(r), r.choice(EXPIRIES), expect)
        case 7:
            made = an_append(r)
            edit = r.choice(["exists", "last"])
            return Put(made.kind, seq, made.doc, made.index, made.facets, made.expires, edit)
        case 8:
            return Delete(r.choice(["event", "audit"]), seq, expect)
        case 9:
            return Delete("state", r.choice(SORTS), expect)
        case 10:
            return Check("state", r.choice(SORTS), expect) if r.random() < 0.5 else Check("event", seq, expect)
        case _:
            below = r.choice([0, 0, 0, 2, 3, None])
            return Trim(r.choice(["event", "audit"]), below, r.choice([None, None, False, r.random() < 0.5]))


def a_filter(r: Random, depth: int = 0) -> Any:
    match r.randrange(9 if depth < 2 else 5):
        case 0 | 1 | 2 | 3:
            op = r.choice(["eq", "eq", "ne", "lt", "le", "gt", "ge"])
            return Compare(r.choice(PATHS), op, r.choice(SCALARS))
        case 4:
            if r.random() < 0.5:
                return Compare(r.choice(PATHS), "exists", r.random() < 0.5)
            return Compare(r.choice(PATHS), "in", tuple(r.sample(SCALARS, r.randrange(3))))
        case 5 | 6:
            return Not(a_filter(r, depth + 1))
        case 7:
            return All((a_filter(r, depth + 1), a_filter(r, depth + 1)))
        case _:
            return Some((a_filter(r, depth + 1), a_filter(r, depth + 1)))


def some_scans(r: Random) -> Iterator[Scan]:
    """Each kind of range, once."""
    for kind in ("event", "audit", "state"):
        ask = Scan(
            kind,
            reverse=r.random() < 0.5,
            limit=r.randrange(1, 5),
            where=a_filter(r) if r.random() < 0.5 else None,
            budget=r.choice([1, 2, 3, 10_000]),
        )
        yield ask
        yield replace(ask, lo=r.choice([None, "", "a", "a\x00"]), hi=r.choice([None, "b", "a\x00", "\U0010ffff"]))
        bounds = [None, None, *(SORTS if kind == "state" else [seq_sort(2), seq_sort(4), "", "0000000000000002x", "x"])]
        for partition in NAMES:
            yield replace(ask, prefix=(partition,), lo=r.choice(bounds), hi=r.choice(bounds))
        if kind == "event":
            ends = [None, -6, -5, 0, 1, 2]
            yield replace(ask, index="by_agent", prefix=("m",), lo=r.choice(ends), hi=r.choice(ends))
            yield replace(ask, index="by_agent", prefix=("m", 1))
        if kind == "state":
            yield replace(ask, index="by_owner", prefix=(r.choice(["m", "m\x00", ""]),))


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


def said(answer: Receipt | StoreError) -> object:
    if isinstance(answer, Conflict):
        return ("conflict", answer.key, answer.expect, answer.found, answer.reason)
    return ("error", type(answer), str(answer)) if isinstance(answer, StoreError) else answer


class Twins:
    """Two engines that are told the same."""

    def __init__(self, path: Path) -> None:
        self.now = START
        self.ids = Ids(lambda: self.now)
        self.engines: tuple[Engine, ...] = (
            Memory(lambda: self.now),
            SQLite(str(path), clock=lambda: self.now, inline=True),
        )
        self.done: list[Batch] = []
        self.revs: dict[Key, str] = {}
        for engine in self.engines:
            drive(engine.open(SCHEMA))

    def batch(self, partition: str, asked: list[Any], once: str | None) -> Batch:
        seen: set[Key] = set()
        made: list[Any] = []
        for op in asked:
            if not isinstance(op, Append):
                key = Key(op.kind, partition, HEAD if isinstance(op, Trim) else op.sort)
                if key in seen:
                    continue
                seen.add(key)
                if getattr(op, "expect", None) == "last":
                    op = type(op)(
                        **{**{n: getattr(op, n) for n in op.__struct_fields__}, "expect": self.revs.get(key, "exists")}
                    )
            made.append(op)
        shape = ",".join(type(op).__name__ for op in made).encode()
        digest = None if once is None else blake2b(shape, digest_size=16).digest()
        return Batch(partition, tuple(made), self.ids(), once, digest)

    def commit(self, batches: list[Batch], restore: bool = False) -> None:
        memory, sqlite = (drive(engine.commit(batches, restore=restore)) for engine in self.engines)
        assert list(map(said, sqlite)) == list(map(said, memory))
        self.done += batches
        for batch, answer in zip(batches, memory, strict=True):
            if isinstance(answer, Receipt) and not answer.replayed:
                for op, seq in zip(batch.ops, answer.seqs, strict=True):
                    sort = seq_sort(seq) if seq else getattr(op, "sort", None)
                    if sort is not None:
                        self.revs[Key(op.kind, batch.partition, sort)] = batch.id

    def same(self, ask: Scan) -> None:
        pages = [self.pages(engine, ask) for engine in self.engines]
        assert pages[1] == pages[0]

    @staticmethod
    def pages(engine: Engine, ask: Scan) -> list[Any]:
        found: list[Any] = []
        for _ in range(500):
            page = drive(engine.scan(ask))
            found.append([(row, repr(row.facets)) for row in page.rows if evaluate(ask.where, row.facets)])
            if page.cursor is None:
                return [row for rows in found for row in rows]
            ask = replace(ask, after=page.cursor)
        raise AssertionError("the pages do not end")

    def dumped(self, engine: Engine, kind: str, limit: int) -> list[Any]:
        rows: list[Any] = []
        after = None
        while True:
            page = drive(engine.dump(kind, after, limit))
            rows += page.rows
            after = page.cursor
            if after is None:
                return sorted([(row, repr(row.facets), repr(row.index)) for row in rows], key=lambda one: one[0].key)

    def close(self) -> None:
        for engine in self.engines:
            drive(engine.close())


def live_through(r: Random, twins: Twins, length: int) -> None:
    """A random history."""
    for _ in range(length):
        match r.randrange(8):
            case 0:
                twins.now += r.choice([1, 6 * SECOND, 3700 * SECOND])
            case 1 | 2 if twins.done:
                twins.commit([r.choice(twins.done[-8:])])
            case _:
                asked = [
                    twins.batch(
                        r.choice(NAMES[:2] if r.random() < 0.9 else NAMES),
                        [an_op(r) for _ in range(r.choice([1, 1, 2, 4]))],
                        r.choice([None, None, "k", "l\x00"]),
                    )
                    for _ in range(r.randrange(1, 4))
                ]
                twins.commit(asked)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_histories_end_in_the_same_rows_and_answers(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    r = Random(seed)
    twins = Twins(tmp_path_factory.mktemp("twins") / "x.db")
    try:
        live_through(r, twins, r.choice([5, 20, 40]))
        for kind in ("event", "audit", "state"):
            for limit in (1, 3, 1000):
                dumps = [twins.dumped(engine, kind, limit) for engine in twins.engines]
                assert dumps[1] == dumps[0]
        places = {"event": [HEAD, *map(seq_sort, range(1, 6)), "odd"], "state": SORTS}
        keys = [Key(kind, name, place) for kind, sorts in places.items() for name in NAMES for place in sorts]
        gets = [drive(engine.get(keys)) for engine in twins.engines]
        assert gets[1] == gets[0]
        assert [drive(twins.engines[1].get([key]))[0] for key in keys] == gets[0]
        for _ in range(4):
            for ask in some_scans(r):
                twins.same(ask)
    finally:
        twins.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_dump_restores_to_the_same_rows(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("twins")
    twins, copy = Twins(folder / "x.db"), Twins(folder / "copy.db")
    try:
        live_through(Random(seed), twins, 30)
        copy.now = twins.now
        for kind in ("event", "audit", "state"):
            for row, *_ in twins.dumped(twins.engines[1], kind, 1000):
                put = Put(kind, row.key.sort, row.doc, row.index, row.facets, row.expires, "any", row.rev)
                copy.commit([Batch(row.key.partition, (put,), copy.ids())] * 2, restore=True)
            source, target = (each.dumped(each.engines[1], kind, 1000) for each in (twins, copy))
            assert target == source
    finally:
        twins.close()
        copy.close()


def test_an_unknown_kind_is_refused_and_the_rest_of_the_group_is_committed(tmp_path: Path) -> None:
    twins = Twins(tmp_path / "x.db")
    sqlite = twins.engines[1]
    batches = [Batch("a", (Append(kind, b"x"),), twins.ids()) for kind in ("event", "nonsense", "event")]
    answers = drive(sqlite.commit(batches))
    assert [getattr(answer, "seqs", None) for answer in answers] == [(1,), None, (2,)]
    with pytest.raises(StoreError):
        drive(sqlite.get([Key("nonsense", "a", "b")]))
    twins.close()
