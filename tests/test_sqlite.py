"""What is SQLite's own: its pragmas, transactions, files, plans and costs. The contract is in the conformance suite."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from agentkeep.engines import _sqlite_file as sqlite_file
from agentkeep.engines import sqlite
from agentkeep.engines.sqlite import SQLite
from agentkeep.errors import (
    Closed,
    Conflict,
    Contention,
    Corrupt,
    Denied,
    Invalid,
    SchemaMismatch,
    StoreError,
    TooLarge,
    Unavailable,
)
from agentkeep.ids import DAY, HOUR, SECOND, Ids
from agentkeep.keys import ABOVE, cursor, pack, seq_sort
from agentkeep.predicates import Compare, Not
from agentkeep.testing.verbs import answers, batch, commit, doc, done, head, read, refused
from agentkeep.urls import engine as from_text
from agentkeep.waist import (
    HEAD,
    Append,
    Batch,
    Column,
    Delete,
    IndexSpec,
    Key,
    KindSpec,
    Put,
    Receipt,
    Scan,
    Schema,
    Trim,
)

EVENT = KindSpec("event", log=True, indexes=(IndexSpec("by_agent", ("agent",), ("str",)),))
NOTE = KindSpec("note", indexes=(IndexSpec("by_owner", ("owner",), ("str",)),))
SCHEMA = Schema((EVENT, NOTE))
BODY = b"\x01....{}" + b" " * 1000
Open = Callable[..., Awaitable[SQLite]]


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_790_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens engines on one file, with options; closes them at the end."""
    engines: list[SQLite] = []

    async def open_(schema: Schema = SCHEMA, path: str = "", **options: Any) -> SQLite:
        clock = options.pop("clock", None)
        given = sqlite.Options(**options)
        path = path or str(tmp_path / "x.db")
        engine = SQLite(path, given, clock) if clock else SQLite(path, given)
        engines.append(engine)
        await engine.open(schema)
        if clock is None:  # Tests that use the writer's connection share it with no housekeeping.
            assert engine._files is not None
            engine._files.writer._after = lambda: None
        return engine

    yield open_
    for engine in engines:
        await engine.close()


def writer(engine: SQLite) -> Any:
    """The connection that writes."""
    files = engine._files
    assert files is not None
    return files._connection


def look(tmp_path: Path, query: str, *args: Any) -> list[Any]:
    """What another program sees in the file."""
    connection = apsw.Connection(str(tmp_path / "x.db"))
    try:
        return connection.execute(query, args).fetchall()
    finally:
        connection.close()


class Traced:
    """The statements that a connection runs meanwhile, and the transactions among them."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.statements: list[str] = []

    def __enter__(self) -> Traced:
        self._connection.trace_v2(apsw.SQLITE_TRACE_STMT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.trace_v2(0, None)

    def _note(self, event: dict[str, Any]) -> None:
        self.statements.append(event["sql"])

    @property
    def transactions(self) -> int:
        return self.statements.count("BEGIN IMMEDIATE")


class Failing:
    """A connection whose statements that begin with some text raise an error, once or always."""

    def __init__(self, inner: Any, begins: str, error: BaseException, times: int = 1) -> None:
        self._inner = inner
        self._begins = begins
        self._error = error
        self._times = times

    def execute(self, statement: str, *args: Any) -> Any:
        if self._times and statement.startswith(self._begins):
            self._times -= 1
            raise self._error
        return self._inner.execute(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def break_writer(engine: SQLite, begins: str, error: BaseException, times: int = 1) -> None:
    """Make the writer's statements fail."""
    files = engine._files
    assert files is not None
    files._writes._execute = Failing(files._connection, begins, error, times).execute  # pyright: ignore


# --- durability, groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_the_durability_asked_for_is_the_one_set(opened: Open, durability: Any, level: int):
    engine = await opened(durability=durability)
    assert writer(engine).execute("PRAGMA synchronous").get == level
    assert writer(engine).execute("PRAGMA journal_mode").get == "wal"
    assert engine.capabilities.power_loss is (durability == "full")


@pytest.mark.skipif(os.name == "nt", reason="the VFS is called unix")
def test_full_durability_syncs_the_log_before_it_answers_and_normal_does_not(tmp_path: Path):
    assert _syncs(tmp_path / "full.db", "full") == 20
    assert _syncs(tmp_path / "normal.db", "normal") == 0


def _syncs(path: Path, durability: str) -> int:
    """How often SQLite syncs a file for 20 commits: counted in its own sync calls, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", _COUNT_SYNCS, str(path), durability],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(run.stdout)


_COUNT_SYNCS = """
import asyncio, sys
import apsw
syncs = 0
class File(apsw.VFSFile):
    def __init__(self, name, flags): super().__init__("unix", name, flags)
    def xSync(self, flags):
        global syncs
        syncs += 1
        return super().xSync(flags)
class Vfs(apsw.VFS):
    def __init__(self): super().__init__("counting", "unix", makedefault=True)
    def xOpen(self, name, flags): return File(name, flags)
vfs = Vfs()
from agentkeep.engines.sqlite import SQLite, Options
from agentkeep.testing.verbs import commit
from agentkeep.waist import Append, KindSpec, Schema
async def main():
    global syncs
    engine = SQLite(sys.argv[1], Options(durability=sys.argv[2]))
    await engine.open(Schema((KindSpec("event", log=True),)))
    await commit(engine, "p", Append("event", b"x"))
    syncs = 0
    for n in range(20): await commit(engine, "p", Append("event", b"x"))
    print(syncs)
    await engine.close()
asyncio.run(main())
"""


async def test_concurrent_commits_share_transactions(opened: Open):
    engine = await opened()
    with Traced(writer(engine)) as traced:
        got = await asyncio.gather(*[commit(engine, f"p{n}", Append("event", BODY)) for n in range(100)])
    assert all(receipt.seqs == (1,) for receipt in got)
    assert traced.transactions <= 10


async def test_a_conflict_in_a_group_harms_nobody_else(opened: Open):
    engine = await opened()
    tries = [batch(f"p{n}", Append("event", BODY, after=n % 2 * 7)) for n in range(20)]
    got = [one for (one,) in await asyncio.gather(*[answers(engine, each) for each in tries])]
    assert [isinstance(one, Receipt) for one in got] == [n % 2 == 0 for n in range(20)]
    assert [type(one) for one in got if not isinstance(one, Receipt)] == [Conflict] * 10


async def test_a_call_of_many_batches_takes_several_transactions_and_keeps_their_order(opened: Open):
    engine = await opened()
    got = await answers(engine, *[batch("p", Append("event", BODY)) for _ in range(1_203)])
    assert [one.seqs for one in got if isinstance(one, Receipt)] == [(n,) for n in range(1, 1_204)]


async def test_one_engine_serves_several_event_loops_and_threads(opened: Open):
    engine = await opened()
    seen: list[int] = []

    def run() -> None:
        async def some() -> None:
            got = await asyncio.gather(*[commit(engine, "p", Append("event", BODY)) for _ in range(20)])
            seen.extend(seq for receipt in got for seq in receipt.seqs if seq)
            assert await read(engine, "event", "p", seq_sort(1)) is not None

        asyncio.run(some())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(seen) == list(range(1, 81))


def test_many_threads_share_an_inline_engine_and_its_transactions(tmp_path: Path):
    engine = SQLite(str(tmp_path / "x.db"), inline=True)
    assert engine.capabilities.inline
    drive(engine.open(SCHEMA))
    seen: list[int] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        for _ in range(25):
            (receipt,) = drive(engine.commit([batch("p", Append("event", BODY))]))
            assert isinstance(receipt, Receipt)
            seen.extend(seq for seq in receipt.seqs if seq)
            assert drive(engine.get([Key("event", "p", seq_sort(seen[-1]))]))[0] is not None

    threads = [threading.Thread(target=run) for _ in range(8)]
    with Traced(writer(engine)) as traced:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    drive(engine.close())
    assert sorted(seen) == list(range(1, 201))
    assert traced.transactions < 200


def drive(coroutine: Any) -> Any:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


# --- processes ---------------------------------------------------------------------------------------------------

_APPENDER = """
import asyncio, sys
from agentkeep.engines.sqlite import SQLite, Options
from agentkeep.testing.verbs import commit
from agentkeep.waist import Append, IndexSpec, KindSpec, Schema
async def main():
    engine = SQLite(sys.argv[1], Options(durability=sys.argv[2]))
    await engine.open(Schema((KindSpec("event", log=True),)))
    for n in range(int(sys.argv[3])):
        receipt = await commit(engine, "p", Append("event", sys.argv[4].encode()))
        print(receipt.seqs[0], flush=True)
    await engine.close()
asyncio.run(main())
"""


def appender(path: Path, durability: str, count: int, name: str) -> subprocess.Popen[str]:
    """A process that appends and tells the numbers it got."""
    command = [sys.executable, "-c", _APPENDER, str(path), durability, str(count), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_processes_that_open_and_append_at_once_leave_one_dense_log(opened: Open, tmp_path: Path):
    processes = [appender(tmp_path / "x.db", "normal", 50, f"w{n}") for n in range(4)]
    told = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(int(seq) for text in told for seq in text.split()) == list(range(1, 201))
    engine = await opened(Schema((KindSpec("event", log=True),)))
    assert (await head(engine, "event", "p")).seq == 200


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_what_was_acknowledged_survives_a_kill(opened: Open, tmp_path: Path, durability: str):
    process = appender(tmp_path / "x.db", durability, 100_000, "w")
    assert process.stdout is not None
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 60:
            process.kill()
    process.wait()
    engine = await opened(Schema((KindSpec("event", log=True),)))
    assert (await head(engine, "event", "p")).seq in (acknowledged, acknowledged + 1)
    assert len((await engine.scan(Scan("event", prefix=("p",), limit=1000))).rows) >= acknowledged


async def test_another_writer_that_keeps_the_lock_is_contention_and_nothing_is_written(opened: Open, tmp_path: Path):
    engine = await opened(busy_timeout=0.05)
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("BEGIN IMMEDIATE")
    one = batch("p", Append("event", BODY))
    error = await refused(engine, one)
    assert isinstance(error, Contention)
    assert error.retryable
    other.execute("ROLLBACK")
    other.close()
    assert (await done(engine, one)).seqs == (1,)


async def test_a_writer_waits_for_another_process(opened: Open, tmp_path: Path):
    engine = await opened(busy_timeout=20)
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(commit(engine, "p", Append("event", BODY)))
    assert (await asyncio.wait([waiting], timeout=0.2))[0] == set()
    other.execute("ROLLBACK")
    other.close()
    assert (await waiting).seqs == (1,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("mode", ["async", "inline"])
def test_a_forked_child_is_refused_and_closes_nothing_of_its_parent(tmp_path: Path, mode: str):
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORK, str(tmp_path / "x.db"), mode],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.split() == ["Closed", "Closed", "0", "ok", "(2,)"]


_FORK = """
import asyncio, gc, os, sys
from agentkeep.engines.sqlite import SQLite
from agentkeep.errors import StoreError
from agentkeep.testing.verbs import commit
from agentkeep.waist import Append, KindSpec, Schema
SCHEMA = Schema((KindSpec("event", log=True),))
async def attempt(call):
    try:
        await call
    except StoreError as error:
        print(type(error).__name__, flush=True)
async def child(engine):
    await attempt(engine.get([]))
    await attempt(SQLite(sys.argv[1]).open(SCHEMA))
    await engine.close()
    del engine
def held():
    # How many open files of this process are the database.
    there = os.stat(sys.argv[1])
    count = 0
    for fd in range(100):
        try:
            count += os.path.samestat(os.fstat(fd), there)
        except OSError:
            pass
    return count
async def parent(engine):
    await engine.open(SCHEMA)
    await commit(engine, "p", Append("event", b"x"))
engine = SQLite(sys.argv[1], inline=sys.argv[2] == "inline")
asyncio.run(parent(engine))
before = held()
pid = os.fork()
if pid == 0:
    asyncio.run(child(engine))
    del engine
    gc.collect()
    sys.exit(held() != before)
print(os.waitpid(pid, 0)[1], flush=True)
async def go_on():
    receipt = await commit(engine, "p", Append("event", b"x"))
    await engine.close()
    return receipt.seqs
print("ok", str(asyncio.run(go_on())).replace(" ", ""))
"""


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_dies_is_an_error_and_not_a_hang(opened: Open):
    engine = await opened()
    break_writer(engine, "BEGIN", SystemExit("the thread dies"))
    one = batch("p", Append("event", BODY))
    with pytest.raises(Unavailable) as caught:
        await answers(engine, one)
    assert caught.value.outcome == "unknown"
    with pytest.raises(Unavailable, match="died"):
        await answers(engine, one)
    await engine.close()
    await engine.open(SCHEMA)
    assert (await done(engine, one)).seqs == (1,)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_those_who_wait_for_a_writer_that_dies_are_told(opened: Open):
    engine = await opened()
    break_writer(engine, "BEGIN", ZeroDivisionError())
    got = await asyncio.gather(
        *[answers(engine, batch(f"p{n}", Append("event", BODY))) for n in range(300)], return_exceptions=True
    )
    assert {type(one) for one in got} == {Unavailable}


async def test_the_disk_refuses_one_batch_and_the_rest_of_its_group_is_committed(opened: Open):
    engine = await opened()
    break_writer(engine, "INSERT", apsw.IOError("disk I/O error"))
    tries = [batch(f"p{n}", Append("event", BODY)) for n in range(5)]
    got = await answers(engine, *tries)
    assert all(isinstance(one, Receipt) for one in got), "one failure, and each batch is tried again alone"
    break_writer(engine, "INSERT", apsw.IOError("disk I/O error"), times=2)
    got = await answers(engine, *[batch(f"p{n}", Append("event", BODY)) for n in range(5)])
    assert [type(one) for one in got] == [Unavailable, *[Receipt] * 4]


async def test_an_error_of_the_disk_in_commit_is_unknown_and_settled_by_committing_again(opened: Open):
    engine = await opened()
    one = batch("p", Append("event", BODY))
    break_writer(engine, "COMMIT", apsw.IOError("disk I/O error"), times=9)
    (error,) = await answers(engine, one)
    assert isinstance(error, Unavailable)
    assert error.outcome == "unknown"
    assert isinstance(error.__cause__, apsw.IOError)
    break_writer(engine, "nothing", ValueError())
    assert (await done(engine, one)).seqs == (1,)
    assert (await done(engine, one)).replayed


async def test_a_full_database_is_typed_keeps_what_it_has_and_works_again_with_space(opened: Open):
    engine = await opened()
    await commit(engine, "p", Append("event", BODY))
    writer(engine).execute("PRAGMA max_page_count=30")
    wrote, error = 1, None
    while error is None:
        (answer,) = await answers(engine, one := batch("p", Append("event", BODY * 5)))
        wrote += isinstance(answer, Receipt)
        error = answer if isinstance(answer, StoreError) else None
    assert isinstance(error, Unavailable)
    assert error.outcome == "none"
    assert "full" in str(error)
    assert (await head(engine, "event", "p")).seq == wrote
    writer(engine).execute("PRAGMA max_page_count=1000000")
    assert (await done(engine, one)).seqs == (wrote + 1,)


EVERY = [
    (getattr(apsw, name), getattr(apsw, name)("the text of SQLite"))
    for name in dir(apsw)
    if isinstance(getattr(apsw, name), type) and issubclass(getattr(apsw, name), apsw.Error)
]


@pytest.mark.parametrize(("kind", "error"), EVERY)
async def test_nothing_but_a_store_error_leaves_the_engine(opened: Open, kind: type, error: Exception):
    engine = await opened()
    for begins in ("BEGIN", "SELECT", "INSERT", "COMMIT"):
        break_writer(engine, begins, error, times=9)
        (answer,) = await answers(engine, batch("p", Append("event", BODY)))
        assert isinstance(answer, StoreError), kind
        assert answer.engine == "sqlite"
        assert answer.operation == "commit"
    break_writer(engine, "nothing", error)
    assert (await commit(engine, "p", Append("event", BODY))).seqs == (1,)
    files = engine._files
    assert files is not None
    files._idle.append(Failing(files._take(), "SELECT", error, times=9))  # pyright: ignore
    with pytest.raises(StoreError) as caught:
        await engine.get([Key("event", "p", HEAD)])
    assert caught.value.operation == "get"


async def test_values_that_sqlite_cannot_hold_are_invalid_and_harm_no_neighbour(opened: Open):
    engine = await opened()
    wrong = [
        Put("note", "a", BODY, expires=2**63),
        Put("note", "a", BODY, {"by_owner": (float("nan"),)}),
        Put("note", "a", object()),  # type: ignore[arg-type]
    ]
    for op in wrong:
        first, second, third = await answers(
            engine, batch("p", Append("event", BODY)), batch("p", op), batch("p", Append("event", BODY))
        )
        assert isinstance(first, Receipt)
        assert isinstance(second, Invalid)
        assert isinstance(third, Receipt)


async def test_a_row_over_sqlites_own_limit_is_too_large(opened: Open):
    engine = await opened()
    writer(engine).limit(apsw.SQLITE_LIMIT_LENGTH, 5_000)
    error = await refused(engine, batch("p", Append("event", b"x" * 6_000)))
    assert isinstance(error, TooLarge)
    assert error.size == 6_000


async def test_a_cancelled_commit_is_settled_by_committing_again(opened: Open):
    engine = await opened()
    one = batch("p", Append("event", BODY))
    task = asyncio.create_task(answers(engine, one))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await done(engine, one)).seqs == (1,)
    assert (await head(engine, "event", "p")).seq == 1


async def test_close_answers_what_waits_and_refuses_what_comes(opened: Open):
    engine = await opened()
    tasks = [asyncio.create_task(commit(engine, "p", Append("event", BODY))) for _ in range(50)]
    reads = [asyncio.create_task(engine.get([Key("event", "p", HEAD)])) for _ in range(50)]
    await asyncio.sleep(0)
    await engine.close()
    assert [receipt.seqs for receipt in await asyncio.gather(*tasks)] == [(n,) for n in range(1, 51)]
    await asyncio.gather(*reads)
    with pytest.raises(Closed):
        await answers(engine, batch("p", Append("event", BODY)))
    with pytest.raises(Closed):
        await engine.get([Key("event", "p", HEAD)])
    await engine.close()


async def test_close_leaves_no_log_and_no_open_file(opened: Open, tmp_path: Path):
    engine = await opened()
    await commit(engine, "p", Append("event", BODY))
    await engine.get([Key("event", "p", HEAD)])
    before = threading.active_count()
    await engine.close()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
    assert threading.active_count() < before


# --- costs -------------------------------------------------------------------------------------------------------


async def test_an_append_costs_the_same_after_ten_thousand_rows(opened: Open, tmp_path: Path):
    engine = await opened(durability="normal")
    writer(engine).execute("PRAGMA wal_autocheckpoint=0")
    log = tmp_path / "x.db-wal"

    async def append(count: int) -> tuple[float, float]:
        """Statements and bytes of log per commit."""
        writer(engine).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with Traced(writer(engine)) as traced:
            for _ in range(count):
                await commit(engine, "p", Append("event", BODY), once=Ids()())
        return len(traced.statements) / count, log.stat().st_size / count

    await append(10)
    early = await append(50)
    for _ in range(20):
        await answers(engine, *[batch("p", Append("event", BODY)) for _ in range(500)])
    late = await append(50)
    assert late[0] == early[0] == 4
    assert early[1] < 21_000
    assert late[1] < 1.15 * early[1]


async def test_a_get_and_a_page_of_a_long_log_read_few_pages(opened: Open):
    engine = await opened(durability="normal")
    for _ in range(10):
        await answers(engine, *[batch("p", Append("event", BODY, {"by_agent": ("a",)})) for _ in range(500)])
    await commit(engine, "p", Trim("event", 4_000))
    connection = writer(engine)
    for scan, expected in [
        (Scan("event", prefix=("p",), limit=10), 4_000),
        (Scan("event", prefix=("p",), limit=10, lo=seq_sort(4_500)), 4_500),
        (Scan("event", prefix=("p",), limit=10, lo=seq_sort(2), after="4600"), 4_601),
        (Scan("event", prefix=("p",), limit=10, reverse=True), 5_000),
        (Scan("event", prefix=("p",), limit=10, reverse=True, hi=seq_sort(4_900), after="4300"), 4_299),
        (Scan("event", "by_agent", ("a",), limit=10, reverse=True), 5_000),
        (Scan("event", "by_agent", ("a",), limit=10, after="4600"), 4_601),
    ]:
        place = ("p", seq_sort(int(scan.after or 0)))
        at = (pack(("a",)), *place) if scan.index else place
        scan = replace(scan, after=cursor(replace(scan, after=None), at) if scan.after else None)
        connection.cache_stats()
        connection.status(apsw.SQLITE_DBSTATUS_CACHE_HIT, True)
        page = engine._scan(connection, scan)
        assert page.rows[0].key.sort == seq_sort(expected)
        assert connection.status(apsw.SQLITE_DBSTATUS_CACHE_HIT, True)[0] < 120, scan


async def test_each_read_uses_the_index_that_is_meant_for_it(opened: Open):
    engine = await opened()
    asked = {
        "event": [
            (Scan("event", prefix=("p",)), "sqlite_autoindex_event_1 (partition=? AND seq>?)"),
            (Scan("event", prefix=("p",), reverse=True), "sqlite_autoindex_event_1 (partition=? AND seq>?)"),
            (
                Scan("event", prefix=("p",), hi=seq_sort(9)),
                "sqlite_autoindex_event_1 (partition=? AND seq>? AND seq<?)",
            ),
            (Scan("event", "by_agent", ("a",)), "event.ix_by_agent (ix_by_agent>? AND ix_by_agent<?)"),
            (Scan("event"), "sqlite_autoindex_event_1"),
        ],
        "note": [
            (Scan("note", prefix=("p",)), "sqlite_autoindex_note_1 (partition=?)"),
            (
                Scan("note", prefix=("p",), lo="a", hi="b"),
                "sqlite_autoindex_note_1 (partition=? AND sort>? AND sort<?)",
            ),
            (Scan("note", "by_owner", ("a",)), "note.ix_by_owner (ix_by_owner>? AND ix_by_owner<?)"),
            (Scan("note", lo="a", hi="b"), "sqlite_autoindex_note_1 (partition>? AND partition<?)"),
        ],
    }
    for scans in asked.values():
        for scan, index in scans:
            with Traced(writer(engine)) as traced:
                engine._scan(writer(engine), replace(scan, where=Compare("type", "eq", "x")))
            plan = _plan(engine, traced.statements[0])
            assert f"SEARCH t USING INDEX {index}" in plan or f"SCAN t USING INDEX {index}" in plan, plan
            assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("bounds", [{}, {"lo": "a"}, {"hi": "z"}, {"lo": "a", "hi": "z"}])
async def test_pages_of_a_dump_are_searched_in_their_range(opened: Open, bounds: dict[str, str]):
    engine = await opened()
    await commit(engine, "p", Append("event", BODY), Append("event", BODY), Append("event", BODY))
    first = await engine.dump("event", None, 1, **bounds)
    second = await engine.dump("event", first.cursor, 1, **bounds)
    for after in (None, first.cursor, second.cursor):
        with Traced(writer(engine)) as traced:
            engine._dump(writer(engine), Scan("event", limit=2, after=after, **bounds))
        for statement in traced.statements:
            plan = _plan(engine, statement)
            assert "TEMP B-TREE" not in plan
            ends = [f"partition{'>' if bound == 'lo' else '<'}?" for bound in bounds]
            assert all(end in plan or (after and "(partition,seq)>" in plan) for end in ends), plan


async def test_the_statements_of_a_commit_search_by_key(opened: Open):
    engine = await opened()
    await commit(engine, "p", Append("event", BODY), Put("note", "a", BODY))
    with Traced(writer(engine)) as traced:
        await commit(engine, "p", Append("event", BODY, after=1), Put("note", "a", BODY, expect="exists"), once="k")
        await commit(engine, "p", Append("event", BODY), Put("note", "a", BODY))
        await commit(engine, "p", Put("note", "a", BODY, expect="exists"))
        await commit(engine, "p", Put("event", seq_sort(1), BODY, expect="exists"))
        await commit(engine, "p", Delete("event", seq_sort(1), expect="exists"))
    plans = [_plan(engine, statement) for statement in traced.statements if statement[0] in "SIUD"]
    assert len(plans) > 15
    assert not [plan for plan in plans if "SCAN" in plan]


def _plan(engine: SQLite, statement: str) -> str:
    count = max(
        [
            int(word.rstrip("),"))
            for word in statement.replace("?", " ?").split("?")[1:]
            for word in [word.split(" ")[0]]
            if word.rstrip("),").isdigit()
        ],
        default=0,
    )
    rows = writer(engine).execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * count).fetchall()
    return "\n".join(row[3] for row in rows)


# --- files -------------------------------------------------------------------------------------------------------


async def test_stores_with_prefixes_share_a_file(opened: Open):
    one, two = await opened(prefix="one_"), await opened(prefix="two_")
    await commit(one, "p", Append("event", BODY))
    await commit(two, "p", Put("note", "a", BODY))
    assert await read(two, "event", "p", seq_sort(1)) is None
    assert await read(one, "note", "p", "a") is None


@pytest.mark.parametrize("prefix", ['x"; DROP TABLE', "1a", "A", "a b", "x" * 41])
def test_a_prefix_that_is_no_identifier_is_refused(prefix: str):
    with pytest.raises(Invalid):
        SQLite("x.db", sqlite.Options(prefix=prefix))


async def test_a_file_with_other_tables_is_fine(opened: Open, tmp_path: Path):
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("CREATE TABLE users (name); INSERT INTO users VALUES ('alice')")
    other.close()
    engine = await opened()
    await commit(engine, "p", Append("event", BODY))
    assert look(tmp_path, "SELECT * FROM users") == [("alice",)]


async def test_what_is_not_ours_is_refused_with_a_reason(tmp_path: Path):
    async def error(path: Path, schema: Schema = SCHEMA) -> StoreError:
        with pytest.raises(StoreError) as caught:
            await SQLite(str(path)).open(schema)
        return caught.value

    text = tmp_path / "letter.txt"
    text.write_text("Dear SQLite, " * 1000)
    assert isinstance(found := await error(text), Corrupt)
    assert "is not a SQLite database" in str(found)
    assert isinstance(found := await error(tmp_path / "nowhere" / "x.db"), Denied)
    assert "does not exist" in str(found)
    assert isinstance(found := await error(tmp_path), Denied)
    assert "is a directory" in str(found)
    mine = apsw.Connection(str(tmp_path / "mine.db"))
    mine.execute("CREATE TABLE event (id)")
    mine.close()
    assert isinstance(found := await error(tmp_path / "mine.db"), SchemaMismatch)
    assert "prefix" in str(found)
    assert not list(tmp_path.glob("*-wal"))


async def test_a_newer_format_is_refused_and_left_as_it_was(opened: Open, tmp_path: Path):
    engine = await opened()
    await engine.close()
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("UPDATE meta SET value = '2'")
    other.close()
    with pytest.raises(SchemaMismatch, match="format 2"):
        await opened(Schema((EVENT, NOTE, KindSpec("more"))))
    assert look(tmp_path, "SELECT name FROM sqlite_schema WHERE name = 'more'") == []


async def test_a_log_does_not_become_a_plain_kind(opened: Open):
    await opened()
    with pytest.raises(SchemaMismatch, match="event"):
        await opened(Schema((KindSpec("event"),)))


async def test_new_kinds_and_indexes_are_added_and_nothing_is_dropped(opened: Open):
    old = await opened(Schema((KindSpec("note"),)))
    await commit(old, "p", Put("note", "a", BODY))
    new = await opened(Schema((NOTE, EVENT)))
    await commit(new, "p", Put("note", "b", BODY, {"by_owner": ("alice",)}))
    assert [row.key.sort for row in (await new.scan(Scan("note", "by_owner", ("alice",)))).rows] == ["b"]
    assert await read(new, "note", "p", "a") is not None
    await commit(old, "p", Put("note", "c", BODY))
    assert [row.key.sort for row in (await old.scan(Scan("note", prefix=("p",)))).rows] == ["a", "b", "c"]


async def test_opening_what_is_there_takes_no_write_lock(opened: Open, tmp_path: Path):
    await opened()
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("BEGIN IMMEDIATE")
    await opened(busy_timeout=0)
    other.execute("ROLLBACK")
    other.close()


def test_urls_name_a_file_and_the_odd_ones_are_refused(tmp_path: Path):
    for text in (f"sqlite:///{tmp_path}/a.db", f"{tmp_path}/a.db", f"sqlite:///{tmp_path}/a.db?durability=normal"):
        engine = from_text(text, inline=True)
        drive(engine.open(SCHEMA))
        drive(engine.close())
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    for text in ("sqlite://", "sqlite:///", "sqlite:///:memory:", ":memory:", "sqlite://a.db"):
        with pytest.raises(Invalid):
            from_text(text)
    for text in ("a.db?durability=none", "a.db?readers=0", "a.db?busy_timeout=-1"):
        with pytest.raises(Invalid):
            from_text(text)


# --- views -------------------------------------------------------------------------------------------------------


async def test_the_view_of_a_kind_has_real_columns(opened: Open, tmp_path: Path):
    columns = (
        Column("name", ("name",), "str"),
        Column("size", ("deep", "it's"), "int"),
        Column("ok", ("ok",), "bool"),
        Column("at", ("at",), "time"),
        Column("tags", ("tags",), "json"),
    )
    clock = Time()
    engine = await opened(Schema((KindSpec("note", columns=columns),)), clock=clock)
    value = {"name": "Zoë", "deep": {"it's": 3}, "ok": True, "at": 1_790_000_000_000_001, "tags": ["a", 1]}
    await commit(engine, "p", Put("note", "a", doc(value)))
    await commit(engine, "p", Put("note", "b", doc({"at": -1, "name": None})))
    await commit(engine, "p", Put("note", "c", doc("\ud800")))
    await commit(engine, "p", Put("note", "d", b"\x01....not json"))
    await commit(engine, "p", Put("note", "e", b""))
    await commit(engine, "p", Put("note", "f", doc(1), expires=1))
    rows = look(tmp_path, "SELECT sort, name, size, ok, at, tags FROM note_view ORDER BY sort")
    assert rows == [
        ("a", "Zoë", 3, 1, "2026-09-21T14:13:20.000001Z", '["a",1]'),
        ("b", None, None, None, "1969-12-31T23:59:59.999999Z", None),
        *[(sort, None, None, None, None, None) for sort in "cde"],
    ]
    assert look(tmp_path, "SELECT count(document) FROM note_view") == [(2,)]


async def test_a_view_follows_its_columns_and_hides_what_is_trimmed(opened: Open, tmp_path: Path):
    await opened(Schema((KindSpec("event", log=True, columns=(Column("old", ("a",), "int"),)),)))
    engine = await opened(Schema((KindSpec("event", log=True, columns=(Column("new", ("a",), "int"),)),)))
    for n in range(3):
        await commit(engine, "p", Append("event", doc({"a": n})))
    await commit(engine, "p", Trim("event", 2))
    assert look(tmp_path, "SELECT seq, new FROM event_view ORDER BY seq") == [(2, 1), (3, 2)]


def test_a_column_with_a_quote_in_its_path_is_refused(tmp_path: Path):
    engine = SQLite(str(tmp_path / "x.db"), inline=True)
    with pytest.raises(Invalid):
        drive(engine.open(Schema((KindSpec("note", columns=(Column("a", ('x"y',), "str"),)),))))


# --- housekeeping ------------------------------------------------------------------------------------------------


async def _settled(engine: SQLite, clock: Time, steps: int = 30) -> None:
    """Let housekeeping go over everything: it moves when something is committed."""
    for _ in range(steps):
        clock.now += 6 * SECOND
        await commit(engine, "tick", Put("note", "tick", BODY))


async def test_what_expired_is_removed_and_a_log_keeps_its_numbers(opened: Open, tmp_path: Path):
    clock = Time()
    ids = Ids(clock)
    engine = await opened(clock=clock)
    await commit(engine, "p", Put("note", "a", BODY, expires=clock.now + SECOND))
    first, second = (Batch("p", (Append("event", BODY, expires=clock.now + SECOND),), ids()) for _ in range(2))
    await answers(engine, first, second)
    await _settled(engine, clock)
    assert look(tmp_path, "SELECT sort FROM note") == [("tick",)]
    assert look(tmp_path, "SELECT count(*) FROM event") == [(2,)]
    assert (await done(engine, second)).replayed, "hidden, and remembered all the same"
    clock.now += DAY + HOUR + SECOND
    await _settled(engine, clock)
    assert look(tmp_path, "SELECT count(*) FROM event") == [(0,)]
    assert (await commit(engine, "p", Append("event", BODY))).seqs == (3,)


async def test_a_deleted_row_is_remembered_for_a_day_and_then_gone(opened: Open, tmp_path: Path):
    clock = Time()
    ids = Ids(clock)
    engine = await opened(clock=clock)
    one = Batch("p", (Append("event", BODY, {"by_agent": ("a",)}),), ids(), "k", b"d" * 16)
    await done(engine, Batch("p", (Append("event", BODY, expires=1),), ids()))
    await done(engine, one)
    await done(engine, Batch("p", (Delete("event", seq_sort(2)),), ids()))
    assert look(tmp_path, "SELECT doc, facets, ix_by_agent FROM event WHERE seq = 2") == [(None, None, None)]
    clock.now += DAY
    await _settled(engine, clock)
    assert (await done(engine, replace(one, id=ids()))) == Receipt(one.id, (2,), replayed=True)
    clock.now += HOUR + SECOND
    await _settled(engine, clock)
    assert look(tmp_path, "SELECT count(*) FROM event") == [(0,)]
    assert (await head(engine, "event", "p")).seq == 2
    assert look(tmp_path, "SELECT count(*) FROM commits WHERE partition = 'p'") == [(0,)]


async def test_an_old_row_is_really_deleted_and_its_number_is_not_given_again(opened: Open, tmp_path: Path):
    clock = Time()
    engine = await opened(clock=clock)
    ids = Ids(clock)
    for _ in range(2):
        await done(engine, Batch("p", (Append("event", BODY),), ids()))
    clock.now += DAY + 2 * HOUR
    await done(engine, Batch("p", (Delete("event", seq_sort(2), expect="exists"),), ids()))
    assert look(tmp_path, "SELECT seq FROM event") == [(1,)]
    assert (await done(engine, Batch("p", (Append("event", BODY),), ids()))).seqs == (3,)


async def test_a_row_deleted_by_a_clock_behind_is_hidden_all_the_same(opened: Open):
    clock = Time()
    engine = await opened(clock=clock)
    ahead = Ids(lambda: clock.now + 10 * HOUR)
    one = Batch("p", (Append("event", BODY),), ahead())
    await done(engine, one)
    await done(engine, Batch("p", (Delete("event", seq_sort(1)),), ahead()))
    assert (await engine.scan(Scan("event", prefix=("p",)))).rows == []
    assert (await done(engine, one)).replayed


async def test_trimmed_rows_are_removed_in_small_steps_once_they_are_old(opened: Open, tmp_path: Path):
    clock = Time()
    ids = Ids(clock)
    engine = await opened(clock=clock)
    for partition in "pqrstuvw":
        await answers(engine, *[Batch(partition, (Append("event", BODY),), ids()) for _ in range(300)])
        await done(engine, Batch(partition, (Trim("event", None),), ids()))
    await _settled(engine, clock, 5)
    assert look(tmp_path, "SELECT count(*) FROM event") == [(2_400,)]
    clock.now += DAY + 2 * HOUR
    left = [2_400]
    while left[-1]:
        await _settled(engine, clock, 1)
        left += look(tmp_path, "SELECT count(*) FROM event")[0]
        assert left[-2] - left[-1] <= 1_000
        assert len(left) < 30
    assert (await commit(engine, "p", Append("event", BODY))).seqs == (301,)


async def test_only_what_is_hidden_and_old_leaves_a_trimmed_log(opened: Open, tmp_path: Path):
    clock = Time()
    ids = Ids(clock)
    engine = await opened(clock=clock)
    await answers(engine, *[Batch("p", (Append("event", BODY),), ids()) for _ in range(3)])
    clock.now += DAY + 2 * HOUR
    young = [Batch("p", (Append("event", BODY),), ids()) for _ in range(3)]
    await answers(engine, *young)
    await done(engine, Batch("p", (Trim("event", 5),), ids()))
    await _settled(engine, clock, 5)
    assert look(tmp_path, "SELECT seq FROM event ORDER BY seq") == [(4,), (5,), (6,)]
    assert (await done(engine, young[0])).replayed
    clock.now += 2 * DAY
    await _settled(engine, clock, 5)
    assert look(tmp_path, "SELECT seq FROM event") == [(5,), (6,)], "what is not hidden stays, however old it is"


async def test_housekeeping_waits_for_nobody(opened: Open, tmp_path: Path):
    clock = Time()
    engine = await opened(clock=clock, busy_timeout=30)
    assert engine._files is not None
    engine._files.writer._after = lambda: None
    await commit(engine, "p", Put("note", "a", BODY, expires=clock.now + 1))
    clock.now += 6 * SECOND
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("BEGIN IMMEDIATE")
    files = engine._files
    assert files is not None
    await asyncio.wait_for(asyncio.to_thread(files._sweep.step), 5)
    assert writer(engine).execute("PRAGMA busy_timeout").get == 30_000
    other.execute("ROLLBACK")
    other.close()


# --- reading -----------------------------------------------------------------------------------------------------


async def test_a_forged_cursor_does_not_leave_its_range(opened: Open):
    engine = await opened()
    for owner in ("acme", "bravo", "carol"):
        await commit(engine, owner, Put("note", "a", BODY, {"by_owner": (owner,)}))
    by_index = Scan("note", "by_owner", ("bravo",))
    whole = Scan("note", lo="bravo", hi="c")
    for scan, places in [
        (by_index, [("", "", ""), (pack(("acme",)), "acme", ""), (pack(("bravo",)) + ABOVE, "", "")]),
        (whole, [("acme", ""), ("carol", "")]),
        (Scan("note", prefix=("bravo",), lo="b", hi="c"), [("bravo", "a"), ("bravo", "c")]),
    ]:
        for place in places:
            for reverse in (False, True):
                asked = replace(scan, reverse=reverse)
                with pytest.raises(Invalid, match="cursor"):
                    await engine.scan(replace(asked, after=cursor(asked, place)))


async def test_facets_beyond_json_are_judged_by_core_and_never_lost(opened: Open):
    engine = await opened()
    await commit(engine, "p", Put("note", "a", BODY, facets={"n": 2**53 + 1, "t": "x"}))
    await commit(engine, "p", Put("note", "b", BODY, facets={"n": 1, "t": "x"}))
    for where in (Compare("n", "gt", 5), Not(Compare("n", "lt", 5)), Not(Compare("t", "eq", "y"))):
        rows = (await engine.scan(Scan("note", prefix=("p",), where=where))).rows
        assert "a" in [row.key.sort for row in rows]
        assert rows[0].facets == {"n": 2**53 + 1, "t": "x"}
    rows = (await engine.scan(Scan("note", prefix=("p",), where=Compare("n", "gt", 5)))).rows
    assert [row.key.sort for row in rows] == ["a"]


async def test_several_gets_are_of_one_moment(opened: Open):
    engine = await opened()
    await commit(engine, "p", Put("note", "a", doc(0)), Put("note", "b", doc(0)))
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await commit(engine, "p", Put("note", "a", doc(n)), Put("note", "b", doc(n)))

    task = asyncio.create_task(write())
    for _ in range(200):
        a, b = await engine.get([Key("note", "p", "a"), Key("note", "p", "b")])
        assert a is not None
        assert b is not None
        assert a.doc == b.doc
    stop.set()
    await task


def test_the_table_of_errors_says_what_to_do():
    for ours, message, _ in sqlite_file._ERRORS.values():
        assert issubclass(ours, StoreError)
        assert message[0].islower()
        assert not message.endswith(".")
