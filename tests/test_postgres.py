"""What is PostgreSQL's own: round trips, groups, what keeps commits apart, lost connections, loops and threads."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from agentkeep.codec import decode
from agentkeep.engines._postgres_commit import Writer
from agentkeep.engines._postgres_pool import Pool, fetch
from agentkeep.engines.postgres import Options, PoolerWarning, Postgres
from agentkeep.errors import Conflict, StoreError, Unavailable
from agentkeep.ids import Ids
from agentkeep.keys import seq_sort
from agentkeep.predicates import parse
from agentkeep.testing.proxy import Proxy
from agentkeep.testing.schema import SCHEMA
from agentkeep.testing.verbs import batch, commit, conflict, doc, done, head, numbers, read
from agentkeep.waist import Append, Batch, Check, Delete, Head, Key, Put, Receipt, Scan, Trim
from engines import postgres_url
from postgres import Lever, Place, a_place, a_role, pgbouncer_url, until, watch

ONE = Append("event", doc(1))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """A PostgreSQL schema of this test's own."""
    async with a_place() as made:
        yield made


@pytest.fixture
async def engine(place: Place) -> Postgres:
    """An open engine."""
    return await place.open()


@pytest.fixture
async def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that engines opened after this send."""
    statements: list[str] = []
    watch(monkeypatch, statements.append)
    return statements


async def begin(seen: list[str]) -> None:
    """Count from here."""
    await asyncio.sleep(0)
    seen.clear()


async def sent(seen: list[str]) -> int:
    """How many statements were sent since the list was cleared: the driver tells of each in a callback."""
    await asyncio.sleep(0)
    return len(seen)


# --- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ops",
    [
        (ONE,),
        (ONE, ONE),
        (ONE, Put("state", "s", doc(1)), Put("note", "s", doc(1))),
        (Put("state", "s", doc(1)),),
        (Put("state", "new", doc(1), expect="absent"),),
        (Put("state", "old", doc(1), expect="exists"),),
        (Put("event", seq_sort(1), doc(1), expect="exists"),),
        (Delete("state", "old"),),
        (Delete("state", "old", expect="exists"),),
        (Delete("event", seq_sort(1), expect="exists"),),
    ],
    ids=lambda ops: " ".join(f"{type(op).__name__}-{op.kind}-{op.expect}" for op in ops),
)
async def test_a_common_batch_is_one_round_trip(place: Place, seen: list[str], ops: tuple[Any, ...]) -> None:
    engine = await place.open()
    await commit(engine, "p", ONE)
    await commit(engine, "p", Put("state", "old", doc(0)))
    await begin(seen)
    await commit(engine, "p", *ops)
    assert await sent(seen) == 1


async def test_compare_and_set_is_one_round_trip(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    first = await commit(engine, "p", Put("state", "s", doc(0)))
    await begin(seen)
    await commit(engine, "p", Put("state", "s", doc(1), expect=first.id))
    assert await sent(seen) == 1


async def test_a_replay_and_a_failed_expectation_are_four_round_trips(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    one = batch("p", ONE)
    await done(engine, one)
    await begin(seen)
    assert (await done(engine, one)).replayed
    assert await sent(seen) == 4
    await begin(seen)
    await conflict(engine, "p", Put("state", "s", doc(1), expect="exists"))
    assert await sent(seen) == 4


async def test_any_other_batch_is_four_round_trips(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    await begin(seen)
    await commit(engine, "p", Append("event", doc(1), after=0), Put("state", "s", doc(1), expect="absent"))
    assert await sent(seen) == 4


async def test_get_of_many_kinds_is_one_round_trip(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    await commit(engine, "p", ONE, Put("state", "s", doc(2)))
    await begin(seen)
    keys = [Key("event", "p", seq_sort(1)), Key("state", "p", "s"), Key("event", "p", ""), Key("note", "q", "x")]
    rows = await engine.get(keys)
    assert [row and row.key for row in rows] == [*keys[:3], None]
    assert await sent(seen) == 1


async def test_a_filtered_page_is_one_round_trip(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    for number in range(9):
        await commit(engine, "p", Append("event", doc(number), facets={"odd": number % 2}))
    await begin(seen)
    page = await engine.scan(Scan("event", prefix=("p",), where=parse({"odd": 1}), limit=9, budget=4))
    assert [row.key.sort for row in page.rows] == [seq_sort(2), seq_sort(4)]
    assert page.cursor is not None
    assert await sent(seen) == 1


# --- group commit ------------------------------------------------------------------------------------------------


async def test_writers_at_once_share_statements(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    await begin(seen)
    receipts = await asyncio.gather(*(commit(engine, f"p{n % 5}", ONE, ONE) for n in range(60)))
    assert await sent(seen) < 12
    given = Counter((n % 5, seq) for n, receipt in enumerate(receipts) for seq in receipt.seqs)
    assert given == Counter((part, seq) for part in range(5) for seq in range(1, 25))


async def test_one_writer_alone_waits_for_nobody(place: Place, seen: list[str]) -> None:
    engine = await place.open()
    await begin(seen)
    before = len(asyncio.all_tasks())
    for _ in range(5):
        await commit(engine, "p", ONE)
        assert len(asyncio.all_tasks()) == before, "it does not hop to a task"
    assert await sent(seen) == 5


async def test_a_group_falls_apart_for_one_that_fails(engine: Postgres) -> None:
    twice = batch("p3", ONE)
    await done(engine, twice)
    await commit(engine, "p5", Trim("event", sealed=True))
    batches = [batch(f"p{n}", ONE) for n in range(8)]
    batches[3] = twice
    answers = [answer for [answer] in await asyncio.gather(*(engine.commit([one]) for one in batches))]
    assert isinstance(answers[5], Conflict)
    assert answers[3] == Receipt(twice.id, (1,), replayed=True)
    assert all(answer == Receipt(batches[n].id, (1,)) for n, answer in enumerate(answers) if n not in (3, 5))


async def test_puts_of_a_group_keep_their_order(engine: Postgres) -> None:
    batches = [batch("p", ONE, Put("state", "s", doc(n))) for n in range(20)]
    receipts = [answer for [answer] in await asyncio.gather(*(engine.commit([one]) for one in batches))]
    last = max(zip(receipts, batches, strict=True), key=lambda pair: pair[0].seqs[0])[1]
    row = await read(engine, "state", "p", "s")
    assert row is not None
    assert row.rev == last.id


async def test_a_statement_takes_64_partitions_or_a_megabyte_of_documents(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each partition takes a lock of the server's, which has room for a few thousand."""
    statements: list[tuple[int, int]] = []
    appends = Writer._many_appends

    def note(writer: Writer, units: Any) -> Any:
        docs = [len(op.doc) for unit in units for one in unit for op in one.ops if isinstance(op, Append)]
        statements.append((len(units), sum(docs)))
        return appends(writer, units)

    monkeypatch.setattr(Writer, "_many_appends", note)
    engine = await place.open()
    await asyncio.gather(*(commit(engine, f"p{n}", ONE) for n in range(300)))
    large = Append("event", doc("x" * 90_000))
    await asyncio.gather(*(commit(engine, f"q{n}", large) for n in range(30)))
    answers = await engine.commit([batch("r", large) for _ in range(30)])
    assert [answer.seqs[0] for answer in answers if isinstance(answer, Receipt)] == list(range(1, 31))
    assert max(partitions for partitions, _ in statements) == 64
    assert 1_000_000 < max(length for _, length in statements) < 1_100_000


async def test_one_that_leaves_the_queue_is_not_written(engine: Postgres) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(engine.commit([batch("p", ONE)])) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[4].cancel()
    assert [task.cancelled() for task in tasks] == [False] * 4 + [True]
    assert await head(engine, "event", "p") == Head(4)


async def test_a_partition_that_is_locked_elsewhere_holds_up_no_other(place: Place, engine: Postgres) -> None:
    """A process that stops in the middle of a transaction must not stop another one's whole log."""
    await commit(engine, "stuck", ONE)
    async with place.admin.transaction():
        await place.fetch("SELECT 1 FROM {s}.heads WHERE partition = 'stuck' FOR UPDATE")
        stuck = [asyncio.create_task(engine.commit([batch("stuck", ONE)])) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*(commit(engine, f"free{n}", ONE) for n in range(20))), 5)
        assert not any(task.done() for task in stuck)
    await asyncio.gather(*stuck)
    assert await head(engine, "event", "stuck") == Head(4)


# --- what keeps commits apart ------------------------------------------------------------------------------------


async def blocked(place: Place) -> bool:
    """Whether somebody waits for a lock of a partition."""
    query = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = $1"
    space = await place.value("SELECT classid FROM pg_locks WHERE locktype = 'advisory' AND granted LIMIT 1")
    return await place.value(query, space)


async def test_a_statement_does_not_slip_into_a_transaction(
    place: Place, engine: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock of the partition both would succeed, which no order of the two explains."""
    other = await place.open()
    await commit(engine, "p", Put("state", "both", doc("before")))
    lever = Lever(monkeypatch, engine, "after its reads")
    slow = batch("p", Check("state", "mark", "absent"), Put("state", "both", doc("slow")))
    quick = batch("p", ONE, Put("state", "mark", doc("")), Put("state", "both", doc("quick")))
    first = asyncio.create_task(done(engine, slow))
    await lever.reached.wait()
    second = asyncio.create_task(done(other, quick))
    await until(lambda: _any(second.done(), blocked(place)))
    lever.go.set()
    await asyncio.gather(first, second)
    row = await read(engine, "state", "p", "both")
    assert row is not None
    assert decode(row.doc, str) == "quick"


async def test_the_default_isolation_of_a_role_does_not_matter(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot for the whole transaction would be from before the lock: each would find the other's row absent."""
    async with a_role(place, "SUPERUSER") as (role, base):
        await place.admin.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'")
        await place.open()
        first, second = [await place.open(base=base) for _ in range(2)]
        lever = Lever(monkeypatch, first, "after its reads")
        one = batch("p", Check("state", "b", "absent"), Put("state", "a", doc(1)))
        two = batch("p", Check("state", "a", "absent"), Put("state", "b", doc(2)))
        tasks = [asyncio.create_task(first.commit([one]))]
        await lever.reached.wait()
        tasks.append(asyncio.create_task(second.commit([two])))
        await until(lambda: _any(tasks[1].done(), blocked(place)))
        lever.go.set()
        (kept,), (refused,) = await asyncio.gather(*tasks)
        assert isinstance(kept, Receipt)
        assert isinstance(refused, Conflict)


async def test_an_edit_does_not_slip_behind_a_trim(
    place: Place, engine: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot is from before the trim: without the lock of the head it would edit a row that is gone."""
    other = await place.open()
    first = await commit(engine, "p", ONE)
    lever = Lever(monkeypatch, engine, "before its COMMIT")
    trimming = batch("p", Check("event", seq_sort(1), first.id), Trim("event", below=None))
    trim = asyncio.create_task(done(engine, trimming))
    await lever.reached.wait()
    monkeypatch.undo()
    edit = asyncio.create_task(other.commit([batch("p", Put("event", seq_sort(1), doc(2), expect=first.id))]))
    await until(lambda: _any(edit.done(), blocked(place)))
    lever.go.set()
    await trim
    [answer] = await edit
    assert isinstance(answer, Conflict)


async def _any(now: bool, later: Any) -> bool:
    return bool(await later) or now


async def test_checked_values_never_go_back_in_the_order_of_the_log(place: Place) -> None:
    """Writers that count `a` up by compare-and-set, and writers that log what `a` was while they checked it."""
    engines = [await place.open() for _ in range(3)]
    await commit(engines[0], "p", Put("state", "a", doc(0)))

    async def count(engine: Postgres) -> None:
        for _ in range(25):
            row = await read(engine, "state", "p", "a")
            assert row is not None
            await engine.commit([batch("p", Put("state", "a", doc(decode(row.doc, int) + 1), expect=row.rev))])

    async def note(engine: Postgres) -> None:
        for _ in range(25):
            row = await read(engine, "state", "p", "a")
            assert row is not None
            await engine.commit([batch("p", Check("state", "a", row.rev), Append("event", row.doc))])

    await asyncio.gather(*(work(engine) for engine in engines for work in (count, count, note, note)))
    noted = [decode(row.doc, int) for row in (await engines[0].scan(Scan("event", prefix=("p",), limit=999))).rows]
    assert noted
    assert noted == sorted(noted)


async def test_the_same_batch_at_once_from_everywhere_is_written_once(place: Place) -> None:
    engines = [await place.open() for _ in range(4)]
    for ops in (
        (ONE, ONE),
        (ONE, Put("state", "s", doc(1))),
        (Put("state", "t", doc(1)),),
        (ONE, Check("note", "n", "absent")),
    ):
        for once in (None, "key"):
            partition = f"{len(ops)}{ops[-1].kind}{once}"
            tries = [batch(partition, *ops, once=once, id=Ids()() if once else None) for _ in range(12)]
            tries = tries if once else tries[:1] * 12
            answers = await asyncio.gather(*(done(engines[n % 4], one) for n, one in enumerate(tries)))
            assert sorted(answer.replayed for answer in answers) == [False] + [True] * 11
            assert len({(answer.id, answer.seqs) for answer in answers}) == 1


async def test_groups_of_two_processes_never_wait_for_each_other(place: Place) -> None:
    """Each takes partitions in sorted order, whatever the order in which their batches came."""
    engines = [await place.open(application_name=place.schema) for _ in range(2)]
    count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    waiting = "SELECT count(*) > 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
    before = await place.value(count)
    parts = [f"p{number:02}" for number in range(30)]
    await asyncio.gather(*(commit(engines[0], part, ONE) for part in parts))
    async with place.admin.transaction():
        await place.fetch("SELECT 1 FROM {s}.heads WHERE partition = 'p15' FOR UPDATE")
        orders = zip(engines, (parts, parts[::-1]), strict=True)
        tasks = [asyncio.create_task(commit(engine, part, ONE)) for engine, order in orders for part in order]
        await until(lambda: place.value(waiting, place.schema))
    await asyncio.gather(*tasks)
    for engine in engines:
        await engine.close()
    assert await place.value(count) == before


async def test_the_receipt_outlives_an_edit_and_a_delete(engine: Postgres) -> None:
    first = batch("p", ONE, once="key", content="c")
    again = batch("p", ONE, once="key", content="c")
    await done(engine, first)
    await commit(engine, "p", Put("event", seq_sort(1), doc(2), expect="exists"))
    await commit(engine, "p", Put("event", seq_sort(1), doc(3), expect="exists"))
    assert await done(engine, again) == Receipt(first.id, (1,), replayed=True)
    await commit(engine, "p", Delete("event", seq_sort(1)))
    assert await done(engine, again) == Receipt(first.id, (1,), replayed=True)
    error = await engine.commit([batch("p", ONE, once="key", content="other")])
    assert isinstance(error[0], Conflict)
    assert error[0].reason == "once"


# --- lost connections --------------------------------------------------------------------------------------------


async def kill_all(place: Place, name: str) -> int:
    """End every server process of an application."""
    query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
    return await place.value(query, name)


async def test_idle_connections_that_were_killed_fail_no_call(place: Place) -> None:
    engine = await place.open(application_name=place.schema, pool_min=6, pool_max=6)
    assert await kill_all(place, place.schema) == 6
    reads = await asyncio.gather(*(engine.get([Key("state", "p", str(n))]) for n in range(12)))
    assert reads == [[None]] * 12
    await commit(engine, "p", ONE)


class Dying:
    """A connection that seems alive until it is used, as after a firewall has forgotten it."""

    def __init__(self, dead: bool) -> None:
        self._dead = dead
        self._closed = False

    async def fetch(self, query: str, *args: object) -> list[Any]:
        if self._dead:
            raise ConnectionResetError
        return [(query,)]

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        self._closed = True

    async def close(self, *, timeout: float | None = None) -> None:
        self._closed = True


async def test_of_many_dead_connections_a_call_meets_only_one() -> None:
    made = iter([*(Dying(True) for _ in range(8)), *(Dying(False) for _ in range(8))])

    async def connect() -> Any:
        return next(made)

    pool = Pool(connect, 8, 5)
    for connection in [await pool.take() for _ in range(8)]:
        pool.give(connection)
    assert await fetch(pool, "get", "x", ()) == [("x",)]
    assert await asyncio.gather(*(fetch(pool, "get", "x", ()) for _ in range(7))) == [[("x",)]] * 7
    await pool.close()


async def test_a_turn_that_was_cancelled_goes_to_the_next() -> None:
    async def connect() -> Any:
        return Dying(False)

    pool = Pool(connect, 1, 5)
    connection = await pool.take()
    first, second = (asyncio.create_task(pool.take()) for _ in range(2))
    await asyncio.sleep(0)
    pool.give(connection)
    first.cancel()
    async with asyncio.timeout(1):
        assert await second is connection
    pool.give(connection)
    await pool.close()


async def test_connections_killed_under_load_lose_and_double_nothing(place: Place) -> None:
    engine = await place.open(application_name=place.schema)
    running = True

    async def write(number: int) -> list[int | None]:
        given: list[int | None] = []
        while running:
            given += (await commit(engine, f"p{number % 3}", ONE)).seqs
            await commit(engine, f"p{number % 3}", Put("state", str(number), doc(1)))
            await commit(engine, f"p{number % 3}", ONE, Check("note", "n", "absent"))
        return given

    writers = [asyncio.create_task(write(number)) for number in range(9)]
    for _ in range(4):  # One less than a call is tried: none may fail.
        await asyncio.sleep(0.1)
        await kill_all(place, place.schema)
    running = False
    acknowledged = await asyncio.gather(*writers)
    for number in range(3):
        found = await numbers(engine, "event", f"p{number}", limit=1000)
        assert found == list(range(1, len(found) + 1))
        tokens = await place.value("SELECT count(DISTINCT token) FROM {s}.event WHERE partition = $1", f"p{number}")
        assert tokens == len(found), "each batch once"
        given = [seq for writer in acknowledged[number::3] for seq in writer]
        assert len(given) == len(set(given))
        assert set(given) <= set(found)


async def test_a_lost_reply_is_settled(place: Place) -> None:
    """The connection is cut when the statement was done: the same batch, sent again, finds what it did."""
    host, port = postgres_url().split("@")[-1].split("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        engine = await place.open(base=postgres_url().replace(f":{port}/", f":{proxy.port}/"))
        await commit(engine, "p", ONE)
        trigger = proxy.cut_when("up", b"mark-of-this-test", when="after")
        one = batch("p", Append("event", doc("mark-of-this-test")))
        assert await done(engine, one) == Receipt(one.id, (2,), replayed=True)
        assert trigger.replied
        assert await head(engine, "event", "p") == Head(2)


async def test_a_lost_reply_is_unknown_while_the_server_is_away(place: Place) -> None:
    host, port = postgres_url().split("@")[-1].split("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        engine = await place.open(base=postgres_url().replace(f":{port}/", f":{proxy.port}/"))
        await commit(engine, "p", ONE)
        proxy.refuse()
        proxy.cut_when("up", b"mark-of-this-test", when="after")
        one = batch("p", Append("event", doc("mark-of-this-test")))
        [error] = await engine.commit([one])
        assert isinstance(error, Unavailable)
        assert error.outcome == "unknown"
        [error] = await engine.commit([batch("p", ONE)])
        assert isinstance(error, Unavailable)
        assert error.outcome == "none", "nothing was sent"
        with pytest.raises(Unavailable):
            await engine.get([Key("state", "p", "s")])
        proxy.refuse(False)
        assert (await done(engine, one)).replayed
        assert await head(engine, "event", "p") == Head(2)


async def test_a_server_that_does_not_answer_is_given_up(place: Place) -> None:
    engine = await place.open(timeout=0.4)
    one = batch("p", ONE)
    await commit(engine, "p", ONE)
    async with place.admin.transaction():
        await place.fetch("SELECT 1 FROM {s}.heads FOR UPDATE")
        async with asyncio.timeout(5):
            [error] = await engine.commit([one])
        assert isinstance(error, Unavailable)
        assert (error.outcome, error.retryable) == ("unknown", True)
    answer = await done(engine, one)
    assert answer.seqs == (2,), "the abandoned statement and its repetition are one"


async def test_a_pool_that_is_in_use_says_so(place: Place) -> None:
    engine = await place.open(timeout=0.5, pool_max=1)
    await commit(engine, "p", ONE)
    async with place.admin.transaction():
        await place.fetch("SELECT 1 FROM {s}.heads FOR UPDATE")
        stuck = asyncio.create_task(engine.commit([batch("p", ONE)]))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="1 connections were in use"):
            await engine.get([Key("state", "p", "s")])
        async with asyncio.timeout(5):
            await stuck


async def test_cancelled_calls_leave_no_connection_behind(place: Place) -> None:
    engine = await place.open(pool_max=2, application_name=place.schema)
    await commit(engine, "p", ONE)
    batches = [batch("p", ONE) for _ in range(10)]
    for one in batches:
        task = asyncio.create_task(engine.commit([one]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    receipts = await asyncio.gather(*(done(engine, one) for one in batches))
    assert sorted(receipt.seqs[0] or 0 for receipt in receipts) == list(range(2, 12))
    assert await place.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", place.schema) <= 2


# --- poolers, pools, loops, threads ------------------------------------------------------------------------------


async def test_a_transaction_pooler_is_detected_and_served(place: Place) -> None:
    with pytest.warns(PoolerWarning, match="a connection pooler was detected"):
        engine = await place.open(base=pgbouncer_url())

    async def write(number: int) -> None:
        for n in range(10):
            await commit(engine, f"p{number}", ONE)
            await commit(engine, f"p{number}", Append("event", doc(n), after=2 * n + 1))
            await engine.get([Key("event", f"p{number}", seq_sort(n)), Key("state", "p", "s")])
            await engine.scan(Scan("event", prefix=(f"p{number}",), reverse=True))

    await asyncio.gather(*map(write, range(20)))
    assert {await head(engine, "event", f"p{number}") for number in range(20)} == {Head(20)}
    left = await place.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid <> 0")
    assert left == 0, "no session holds a lock"


async def test_a_pooler_can_be_named(place: Place, seen: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = await place.open(base=pgbouncer_url(), pooler="transaction")
        assert "SELECT pg_backend_pid()" not in seen
        direct = await place.open()
    await commit(engine, "p", ONE)
    await commit(direct, "p", ONE)


async def test_a_pool_that_was_handed_in_stays_open(place: Place) -> None:
    async with asyncpg.create_pool(postgres_url(), min_size=1, max_size=3) as pool:
        engine = Postgres(options=Options(schema=place.schema), pool=pool)
        await engine.open(SCHEMA)
        await asyncio.gather(*(commit(engine, f"p{n}", ONE) for n in range(9)))
        await commit(engine, "p", Append("event", doc(1), after=0))
        await engine.close()
        assert await pool.fetchval(f"SELECT count(*) FROM {place.schema}.event") == 10


async def test_it_works_from_any_loop_while_its_own_is_blocked(engine: Postgres) -> None:
    answers: list[Any] = []

    def work(number: int) -> None:
        answers.append(asyncio.run(commit(engine, "p", Append("event", doc(number)))))
        answers.append(asyncio.run(engine.get([Key("event", "p", seq_sort(1))]))[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)  # This blocks the loop in which the engine was opened.
    assert len(answers) == 8
    assert None not in answers
    await commit(engine, "p", ONE)
    assert await numbers(engine, "event", "p") == [1, 2, 3, 4, 5]
    await engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "agentkeep-postgres"]


async def test_it_can_be_closed_and_opened_in_another_loop(place: Place) -> None:
    def in_one_loop(engine: Postgres, close: bool) -> None:
        async def work() -> None:
            await engine.open(SCHEMA)
            await commit(engine, "p", ONE)
            if close:
                await engine.close()

        asyncio.run(work())

    engine = place.engine()
    for close in (True, False, True):
        await asyncio.to_thread(in_one_loop, engine, close)
    await engine.open(SCHEMA)
    assert await head(engine, "event", "p") == Head(3)


# --- housekeeping ------------------------------------------------------------------------------------------------


async def test_what_was_trimmed_is_removed_and_remembered(place: Place) -> None:
    now = [10**15]
    engine = place.engine(clock=lambda: now[0])
    await engine.open(SCHEMA)
    assert engine._home is not None
    first = batch("p", *[ONE] * 50)
    await done(engine, first)
    await commit(engine, "p", Trim("event", below=None))
    assert await engine._home.keeper.step() == 49
    assert await place.value("SELECT count(*) FROM {s}.event") == 1, "the row with the token keeps its place"
    assert (await done(engine, first)).replayed
    assert await place.value("SELECT count(*) FROM {s}.meta") == 1, "the mark of the trim is gone"
    now[0] += 26 * 3600 * 10**6
    await engine._home.keeper.step()
    now[0] += 3600 * 10**6
    await engine._home.keeper.step()
    assert await place.value("SELECT count(*) FROM {s}.event") == 0
    assert await place.value("SELECT count(*) FROM {s}.commits") == 0
    assert await head(engine, "event", "p") == Head(50, 50)


async def test_expired_rows_are_removed_an_hour_later(place: Place) -> None:
    now = [10**15]
    engine = place.engine(clock=lambda: now[0])
    await engine.open(SCHEMA)
    assert engine._home is not None
    await commit(engine, "p", Put("state", "s", doc(1), expires=now[0] + 1))
    await commit(engine, "p", Append("event", doc(1), expires=now[0] + 1))
    now[0] += 10
    await engine._home.keeper.step()
    assert await place.value("SELECT count(*) FROM {s}.state") == 1, "another clock may be behind"
    now[0] += 2 * 3600 * 10**6
    await engine._home.keeper.step()
    assert await place.value("SELECT count(*) FROM {s}.state") == 0
    assert await place.value("SELECT count(doc) FROM {s}.event") == 0


async def test_two_never_keep_house_at_once(place: Place, engine: Postgres) -> None:
    other = await place.open()
    assert engine._home is not None
    assert other._home is not None
    await commit(engine, "p", *[ONE] * 3)
    await commit(engine, "p", Trim("event", below=None))
    async with place.admin.transaction():
        await place.fetch(engine._home.keeper._statements.alone())
        assert await other._home.keeper.step() == 0
    assert await other._home.keeper.step() == 2


async def test_a_deleted_log_row_does_not_free_its_number(engine: Postgres) -> None:
    await commit(engine, "p", ONE, ONE)
    await commit(engine, "p", Delete("event", seq_sort(2), expect="exists"))
    assert (await conflict(engine, "p", Delete("event", seq_sort(2), expect="exists"))).reason == "rev"
    assert (await commit(engine, "p", ONE)).seqs == (3,)
    assert await numbers(engine, "event", "p") == [1, 3]


async def test_answers_of_one_call_are_in_order(engine: Postgres) -> None:
    batches: list[Batch] = []
    for number in range(40):
        op = (ONE, Append("event", doc(1), after=10**6), Put("state", "s", doc(number)))[number % 3]
        batches.append(batch(f"p{number % 4}", op))
    answers = await engine.commit(batches)
    for one, answer in zip(batches, answers, strict=True):
        if isinstance(one.ops[0], Append) and one.ops[0].after is not None:
            assert isinstance(answer, StoreError)
        else:
            assert isinstance(answer, Receipt)
            assert answer.id == one.id
