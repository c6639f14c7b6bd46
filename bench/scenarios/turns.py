"""A whole turn (read the last 50, append two messages) beside the peers, at several lengths of the conversation.

Every store keeps one process open for the whole run; in each round each is asked for a few turns, one after the other.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.bench import Bench
from bench.events import check_last, turn
from bench.lines import Process, started
from bench.measure import alternate, median
from bench.ours import Agentkeep
from bench.peers import PEERS, Peer
from bench.raw import Postgres, SqliteBehindHop
from bench.table import Goal, Row, compared

SIZES = (10, 100, 1_000, 3_000)
BLOCK = 5  # turns a round
FASTER, BEST = Goal(1), Goal(3)
Turns = Callable[[int, int], float]  # of a round at a size: milliseconds a turn


def turns(bench: Bench, engine: str) -> list[Row]:
    """A row per store and size; a peer is compared with agentkeep at the durability that the peer chose."""
    sizes = SIZES[:2] if bench.quick else SIZES
    peers = [peer for peer in PEERS if peer.engine == engine]
    durabilities = sorted({peer.durability for peer in peers})
    with contextlib.ExitStack() as stack:
        stores: dict[str, Turns] = {}
        for durability in durabilities:
            kinds: dict[str, Callable[[str], Any]] = {
                f"agentkeep {durability}": partial(Agentkeep, durability=durability),
                f"raw driver {durability}": Postgres
                if engine == "postgres"
                else partial(SqliteBehindHop, durability=durability),
            }
            for name, side in stack.enter_context(bench.sides(engine, kinds)).items():
                stores[name] = _here(bench, side)
        for peer in peers:
            stores[peer.name] = _there(bench, stack.enter_context(_process(bench, peer)))
        rows: list[Row] = []
        for size in sizes:
            bench.say(f"  {engine}, turn {size:,}")
            measured = alternate(
                bench.rounds, {name: partial(_measured, store, size) for name, store in stores.items()}
            )
            rows += _rows(f"turn {size:,}, {engine}", size == SIZES[-1], measured, peers, durabilities)
        return rows


def _measured(store: Turns, size: int, round_number: int) -> float:
    return store(round_number, size)


def _rows(
    title: str, final: bool, measured: dict[str, list[float]], peers: list[Peer], durabilities: list[str]
) -> list[Row]:
    rows = [
        compared(
            f"{title}: raw driver{_set(peers[0].engine, durability)}",
            "ms",
            measured[f"agentkeep {durability}"],
            measured[f"raw driver {durability}"],
            inverse=True,
        )
        for durability in durabilities
    ]
    best = min(peers, key=lambda peer: median(measured[peer.name]))
    for peer in peers:
        goal = BEST if final and peer is best else FASTER
        name = f"{peer.name}{_set(peer.engine, peer.durability)}{', the best' if peer is best else ''}"
        ours = measured[f"agentkeep {peer.durability}"]
        rows.append(compared(f"{title}: {name}", "ms", ours, measured[peer.name], goal, inverse=True))
    return rows


def _set(engine: str, durability: str) -> str:
    return f" ({durability})" if engine == "sqlite" else ""


def conversation(size: int, round_number: int) -> str:
    """Short conversations are new in each round; the long ones are filled once and grow by a few turns a round."""
    return f"t{size}-{round_number}" if size <= 100 else "long"


def _here(bench: Bench, side: Any) -> Turns:
    """Turns of a store in this process."""
    held: dict[str, int] = {}

    def measure(round_number: int, size: int) -> float:
        name = conversation(size, round_number)
        had = held.get(name, 0)
        if had < size - 1:
            if not had:
                bench.loop.call(side.prepare, name)
            for one in range(had + 1, size):
                bench.loop.call(side.append_turn, turn(name, one))
            had = size - 1
        times = []
        for one in range(had + 1, had + 1 + BLOCK):
            seconds, pages = bench.loop.one_by_one(side.turn, [turn(name, one)])
            check_last(name, pages[0], 2 * (one - 1), 50)
            times.append(1000 * seconds)
        held[name] = had + BLOCK
        return median(times)

    return measure


def _there(bench: Bench, process: Process) -> Turns:
    """Turns of a store in a process of the peers' environment."""

    def measure(round_number: int, size: int) -> float:
        answer = process.ask(conversation=conversation(size, round_number), size=size, count=BLOCK)
        bench.note(f"peers on Python {answer['python']}")
        return 1000 * median(answer["seconds"])

    return measure


@contextlib.contextmanager
def _process(bench: Bench, peer: Peer) -> Iterator[Process]:
    with bench.database(peer.engine) as target:
        bench.say(f"  opening {peer.name}")
        command = [str(bench.peers), "-m", "bench.peers", peer.name, target]
        with started(command, bench.log(peer.module)) as process:
            yield process
