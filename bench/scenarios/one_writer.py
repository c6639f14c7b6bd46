"""One writer: append and get the index back, beside the raw driver, and late in a conversation beside early in it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bench.bench import Bench
from bench.events import events, filled, turn
from bench.measure import Count, alternate, bytes_written, median, sqlite_statements
from bench.ours import Agentkeep, AgentkeepSync
from bench.raw import Postgres, Sqlite, SqliteBehindHop
from bench.table import Goal, Row, compared
from bench.wire import counting

EARLY, LATE = 10, 10_000  # turns
BLOCK = 5  # turns timed together


def one_writer(bench: Bench, engine: str, durability: str = "full", bound: float = 0.8) -> list[Row]:
    """One-row commits a second, the async API beside the driver behind a hop, the sync one beside the driver inline."""
    if engine == "postgres":
        return [_commits(bench, "writer, PostgreSQL", engine, Agentkeep, Postgres, bound)]
    kinds: list[tuple[str, Any, Any]] = [("async", Agentkeep, SqliteBehindHop), ("sync", AgentkeepSync, Sqlite)]
    return [
        _commits(
            bench,
            f"writer, SQLite {durability}, {api}",
            engine,
            lambda target, kind=ours: kind(target, durability),
            lambda target, kind=raw: kind(target, durability),
            bound,
        )
        for api, ours, raw in kinds
    ]


def _commits(
    bench: Bench, what: str, engine: str, ours: Callable[[str], Any], raw: Callable[[str], Any], bound: float
) -> Row:
    count = bench.load(2_000, 200)

    def rate(side: Any, round_number: int) -> float:
        conversation = f"w{round_number}"
        bench.loop.call(side.prepare, conversation)
        seconds, indexes = bench.loop.one_by_one(side.append, events(conversation, 1, count))
        assert indexes == list(range(1, count + 1)), f"{what}: wrong indexes"
        return count / seconds

    with bench.sides(engine, {"ours": ours, "raw": raw}) as sides:
        measured = alternate(
            bench.rounds, {name: lambda one, side=side: rate(side, one) for name, side in sides.items()}
        )
    return compared(what, "commits/s", measured["ours"], measured["raw"], Goal(bound))


def flat_turns(bench: Bench, engine: str) -> list[Row]:
    """Turns of two events late in a conversation, by turns early in one: time, bytes written, statements."""
    late = bench.load(LATE, 500)
    title = f"turn {late:,} by turn {EARLY}, {engine}"
    goal = Goal(1.1, least=False)
    with bench.database(engine) as target:
        with bench.side(Agentkeep(target)) as side, _written(bench, engine, target) as written:
            bench.loop.call(side.load, filled(2 * late, 0, 0))
            bench.loop.call(side.prepare, "long")
            blocks = _Blocks(bench, side, late, written)
            rounds = [blocks.round() for _ in range(bench.rounds)]
        with _counted(bench, engine, target) as (relayed, count), bench.side(Agentkeep(relayed)) as side:
            bench.loop.call(side.prepare, "long")
            blocks = _Blocks(bench, side, blocks.done, lambda: count.value)
            statements = [blocks.round() for _ in range(bench.rounds)]
    times = {name: [1000 * one[name][0] for one in rounds] for name in ("early", "late")}
    sizes = {name: [one[name][1] / 1024 for one in rounds] for name in ("early", "late")}
    counts = {name: [one[name][1] for one in statements] for name in ("early", "late")}
    return [
        compared(f"{title}: time", "ms", times["late"], times["early"], goal),
        compared(f"{title}: bytes written", "KiB", sizes["late"], sizes["early"], goal),
        compared(f"{title}: statements", "", counts["late"], counts["early"], goal),
    ]


class _Blocks:
    """Blocks of a few turns, early in a new conversation and late in the long one, taken alternately."""

    def __init__(self, bench: Bench, side: Agentkeep, late: int, counter: Callable[[], int]) -> None:
        self._bench = bench
        self._side = side
        self._counter = counter
        self._made = 0
        self._prefix = f"short-{late}"
        self.done = late

    def round(self) -> dict[str, tuple[float, float]]:
        """Seconds and counter a turn, medians of the blocks of one round."""
        measured = alternate(self._bench.load(60, 4), {"early": self._early, "late": self._late})
        return {
            name: (median(seconds for seconds, _ in blocks), median(counted for _, counted in blocks))
            for name, blocks in measured.items()
        }

    def _early(self, _: int) -> tuple[float, float]:
        self._made += 1
        conversation = f"{self._prefix}-{self._made}"
        self._bench.loop.call(self._side.prepare, conversation)
        return self._timed(conversation, 1)

    def _late(self, _: int) -> tuple[float, float]:
        first = self.done + 1
        self.done += EARLY - 1 + BLOCK
        return self._timed("long", first)

    def _timed(self, conversation: str, first: int) -> tuple[float, float]:
        """Nine turns before the block, the same for both, so that both begin as warm."""
        start = first + EARLY - 1
        block = [turn(conversation, one) for one in range(start, start + BLOCK)]
        self._bench.loop.one_by_one(self._side.append_turn, [turn(conversation, one) for one in range(first, start)])
        before = self._counter()
        seconds, indexes = self._bench.loop.one_by_one(self._side.append_turn, block)
        assert indexes == [[event.n for event in one] for one in block], "wrong indexes"
        return seconds / len(block), (self._counter() - before) / len(block)


@contextlib.contextmanager
def _written(bench: Bench, engine: str, target: str) -> Iterator[Callable[[], int]]:
    """A counter of bytes written: by this process (SQLite), to the write-ahead log (PostgreSQL)."""
    if engine == "sqlite":
        yield bytes_written
        return
    with bench.observer(target) as ask:
        yield lambda: int(ask("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


@contextlib.contextmanager
def _counted(bench: Bench, engine: str, target: str) -> Iterator[tuple[str, Count]]:
    """Where to open the database so that its statements are counted, and the count."""
    if engine == "sqlite":
        with sqlite_statements() as count:
            yield target, count
        return
    with bench.loop.entered(counting(target)) as relayed:
        yield relayed
