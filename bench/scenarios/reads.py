"""Reads: the last 50 events and the 20 most recent conversations, in a small and in a large database.

The large one is also weighed: bytes per event, and the memory of a process that fills and uses it.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bench import Bench
from bench.events import check_last, user_of
from bench.lines import started
from bench.measure import alternate
from bench.ours import Agentkeep, AgentkeepSync
from bench.raw import Postgres, Sqlite, SqliteBehindHop
from bench.table import Goal, Row, compared, number

RAW = {"sqlite": "apsw", "postgres": "asyncpg"}
APIS: dict[str, dict[str, tuple[Any, Any]]] = {
    "sqlite": {"async": (Agentkeep, SqliteBehindHop), "sync": (AgentkeepSync, Sqlite)},
    "postgres": {"async": (Agentkeep, Postgres)},
}
LAST, RECENT, FLAT = Goal(1.5, least=False), Goal(2, least=False), Goal(1.2, least=False)


@dataclass(frozen=True)
class Database:
    """A filled database: where, its size, and the memory that filling and using it took."""

    target: str
    events: int
    stored: int
    filling: float
    using: float


def reads(bench: Bench, engine: str) -> list[Row]:
    """Both reads beside the raw ones in both databases, the large beside the small, and the weight of the large."""
    long, conversations, each = (10_000, 10_000, 99) if not bench.quick else (1_000, 1_000, 9)
    with contextlib.ExitStack() as stack:

        def filled(kind: str, each: int) -> Database:
            bench.say(f"  filling {kind} with {long + conversations * each:,} events")
            return stack.enter_context(_filled(bench, engine, kind, long, conversations, each))

        sizes = {"small": 1, "large": each}
        ours = {size: filled("agentkeep", one) for size, one in sizes.items()}
        raw = {size: filled(RAW[engine], one) for size, one in sizes.items()}
        rows = []
        for api, kinds in APIS[engine].items():
            rows += _api(bench, f"{engine}, {api}", kinds, ours, raw, long)
        return rows + _weight(engine, ours["large"], raw["large"])


def _api(
    bench: Bench, api: str, kinds: tuple[Any, Any], ours: dict[str, Database], raw: dict[str, Database], long: int
) -> list[Row]:
    with contextlib.ExitStack() as stack:
        sides = {}
        for kind, name, databases in zip(kinds, ("ours", "raw"), (ours, raw), strict=True):
            for size, database in databases.items():
                side = stack.enter_context(bench.side(kind(database.target)))
                bench.loop.call(side.prepare, "long", "nobody")
                sides[name, size] = side

        def last(side: Any) -> float:
            seconds, pages = bench.loop.one_by_one(side.last, ["long"] * calls)
            check_last("long", pages[-1], long, 50)
            return 1000 * seconds / calls

        def recent(side: Any) -> float:
            users = [user_of(one) for one in range(calls)]
            seconds, pages = bench.loop.one_by_one(side.recent, users)
            for user, page in zip(users, pages, strict=True):
                owners = {user_of(int(name[1:])) for name in page}
                assert (len(set(page)), owners) == (min(20, conversations_of), {user}), f"wrong page for {user}: {page}"
            return 1000 * seconds / calls

        calls = bench.load(1_000, 200)
        conversations_of = bench.load(100, 10)
        rows = []
        for what, read, goal in ((f"last 50 of {long:,}", last, LAST), ("20 most recent", recent, RECENT)):
            measured = alternate(
                bench.rounds,
                {name: lambda _, read=read, side=side: read(side) for name, side in sides.items()},
            )
            for size in ("small", "large"):
                title = f"{what}, {api}, of {ours[size].events:,} events"
                rows.append(compared(title, "ms", measured["ours", size], measured["raw", size], goal))
            title = f"{what}, {api}: {ours['large'].events:,} by {ours['small'].events:,} events"
            rows.append(compared(title, "ms", measured["ours", "large"], measured["ours", "small"], FLAT))
        return rows


def _weight(engine: str, ours: Database, raw: Database) -> list[Row]:
    title = f"{engine}, {ours.events:,} events"

    def row(what: str, unit: str, mine: float, theirs: float) -> Row:
        return Row(f"{title}: {what}", f"{number(mine)} {unit}", f"{number(theirs)} {unit}", f"{mine / theirs:.2f}x")

    return [
        row("bytes an event", "B", ours.stored / ours.events, raw.stored / raw.events),
        row("peak memory of a process that fills it", "MB", ours.filling, raw.filling),
        row("peak memory of a process that reads, lists and appends", "MB", ours.using, raw.using),
    ]


@contextlib.contextmanager
def _filled(bench: Bench, engine: str, kind: str, long: int, conversations: int, each: int) -> Iterator[Database]:
    """A database filled by one process and tried by another, so that the memory of each is its own."""
    with bench.database(engine) as target:
        command = [sys.executable, "-m", "bench.child", kind, target]
        with started(command, bench.log(f"fill-{kind}")) as child:
            child.ask(do="open")
            answer = child.ask(do="fill", long=long, conversations=conversations, each=each)
            filling = child.ask(do="peak")["megabytes"]
            child.ask(do="close")
        stored = _stored(bench, engine, target)
        with started(command, bench.log(f"use-{kind}")) as child:
            child.ask(do="open")
            child.ask(do="use")
            using = child.ask(do="peak")["megabytes"]
            child.ask(do="close")
        yield Database(target, answer["events"], stored, filling, using)


def _stored(bench: Bench, engine: str, target: str) -> int:
    """Bytes on disk: the SQLite files, or the tables and indexes of the PostgreSQL database."""
    if engine == "sqlite":
        path = Path(target)
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    with bench.observer(target) as ask:
        ask("vacuum analyze")
        return int(
            ask(
                "select sum(pg_total_relation_size(c.oid)) from pg_class c join pg_namespace n on n.oid = relnamespace"
                " where relkind in ('r', 'm') and nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
            )
        )
