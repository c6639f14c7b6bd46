"""Many at once: 50 conversations side by side, and 8 writers into one conversation."""

import contextlib
import sys
import time
from itertools import chain
from typing import Any

from bench.bench import Bench
from bench.events import event, key_of, turn
from bench.lines import started
from bench.measure import alternate, median
from bench.ours import CONNECTIONS, Agentkeep
from bench.raw import Postgres, PostgresRowLock, Sqlite, SqliteBehindHop
from bench.table import Goal, Row, compared, number

CONVERSATIONS = 50
WRITERS = 8
EACH = 100


def conversations(bench: Bench, engine: str) -> list[Row]:
    """Messages a second of 50 conversations at once, a commit a turn in the raw driver."""
    turns = bench.load(40, 5)
    messages = 2 * turns * CONVERSATIONS

    def at_once(side: Any, round_number: int) -> float:
        names = [f"r{round_number}-{one}" for one in range(CONVERSATIONS)]
        for name in names:
            bench.loop.call(side.prepare, name)
        queues = [[turn(name, one) for one in range(1, turns + 1)] for name in names]
        if isinstance(side, Sqlite):
            seconds, _ = bench.loop.one_by_one(side.append_turn, [one for queue in queues for one in queue])
        else:
            seconds, indexes = bench.loop.at_once(side.append_turn, queues)
            assert all(list(chain(*answers)) == list(range(1, 2 * turns + 1)) for answers in indexes), "wrong indexes"
        return messages / seconds

    kinds: dict[str, Any] = {"ours": Agentkeep}
    if engine == "sqlite":
        kinds |= {"raw": SqliteBehindHop, "inline": Sqlite}
    else:
        kinds |= {"raw": lambda target: Postgres(target, CONNECTIONS)}
    with bench.sides(engine, kinds) as sides:
        measured = alternate(
            bench.rounds, {name: lambda one, side=side: at_once(side, one) for name, side in sides.items()}
        )
    goal = Goal(2.5 if engine == "sqlite" else 2)
    title = f"{CONVERSATIONS} conversations at once, {engine}"
    rows = [compared(title, "messages/s", measured["ours"], measured["raw"], goal)]
    if engine == "sqlite":
        rows.append(compared(f"{title}, raw called inline", "messages/s", measured["ours"], measured["inline"]))
    return rows


def one_conversation(bench: Bench, engine: str) -> list[Row]:
    """8 writers into one conversation: from one process beside the reference, then from 8 processes."""
    return [*_one_process(bench, engine), *_processes(bench, engine)]


def _one_process(bench: Bench, engine: str) -> list[Row]:
    def together(side: Any, round_number: int) -> float:
        name = f"r{round_number}"
        bench.loop.call(side.prepare, name)
        queues = [[event(name, WRITERS * i + writer + 1) for i in range(EACH)] for writer in range(WRITERS)]
        seconds, indexes = bench.loop.at_once(side.append, queues)
        if not isinstance(side, SqliteBehindHop):  # which is told its numbers
            _check(indexes)
        if isinstance(side, Agentkeep):
            pairs = zip(indexes, queues, strict=True)
            sent = {index: one.key for got, queue in pairs for index, one in zip(got, queue, strict=True)}
            _check_stored(bench, side, name, sent)
        return WRITERS * EACH / seconds

    kinds: dict[str, Any] = {"ours": Agentkeep}
    kinds["reference"] = (
        SqliteBehindHop if engine == "sqlite" else lambda target: PostgresRowLock(target, min(WRITERS, CONNECTIONS))
    )
    with bench.sides(engine, kinds) as sides:
        measured = alternate(
            bench.rounds, {name: lambda one, side=side: together(side, one) for name, side in sides.items()}
        )
    reference = "one-row commits" if engine == "sqlite" else "a row lock per append"
    goal = None if engine == "sqlite" else Goal(2)
    title = f"8 writers, one conversation, {engine}, one process"
    total = WRITERS * EACH
    return [
        compared(f"{title}, beside {reference}", "appends/s", measured["ours"], measured["reference"], goal),
        Row(f"{title}: {total} of {total}, dense and in order", "checked in each round", goal="all", met=True),
    ]


def _processes(bench: Bench, engine: str) -> list[Row]:
    rates = []
    with bench.database(engine) as target, contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "bench.child", "agentkeep", target]
        writers = [stack.enter_context(started(command, bench.log(f"writer-{one}"))) for one in range(WRITERS)]
        for writer in writers:
            writer.ask(do="open")
        for number_ in range(bench.rounds):
            name = f"r{number_}"
            begun = time.perf_counter()
            for one, writer in enumerate(writers):
                writer.send(do="write", conversation=name, first=EACH * one + 1, count=EACH)
            indexes = [writer.receive()["indexes"] for writer in writers]
            rates.append(WRITERS * EACH / (time.perf_counter() - begun))
            _check(indexes)
            sent = {
                index: f"{name}:{EACH * one + i + 1}" for one, got in enumerate(indexes) for i, index in enumerate(got)
            }
            with bench.side(Agentkeep(target)) as side:
                bench.loop.call(side.prepare, name)
                _check_stored(bench, side, name, sent)
    title = (
        f"8 writers, one conversation, {engine}, 8 processes: {WRITERS * EACH} of {WRITERS * EACH}, dense and in order"
    )
    return [Row(title, f"{number(median(rates))} appends/s", goal="all", met=True, rounds=tuple(rates))]


def _check(indexes: list[list[int]]) -> None:
    """Every index once, none left out, and each writer's own in the order it wrote."""
    assert sorted(chain(*indexes)) == list(range(1, WRITERS * EACH + 1)), "indexes are not dense"
    assert all(own == sorted(own) for own in indexes), "a writer's events are out of order"


def _check_stored(bench: Bench, side: Any, conversation: str, sent: dict[int, str]) -> None:
    """What is read back is what was sent, in the order of the indexes."""
    stored = [key_of(text) for text in bench.loop.call(side.last, conversation, len(sent))]
    assert stored == [sent[index] for index in sorted(sent)], "stored events differ from those acknowledged"
