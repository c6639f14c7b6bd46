"""The scenarios of a run, in the order of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.bench import Bench
from bench.scenarios.bulk import bulk
from bench.scenarios.crowds import conversations, one_conversation
from bench.scenarios.one_writer import flat_turns, one_writer
from bench.scenarios.reads import reads
from bench.scenarios.turns import turns
from bench.table import Row


@dataclass(frozen=True)
class Scenario:
    """What is measured, the goal in words, what must be there, and the function that measures it."""

    name: str
    goal: str
    needs: frozenset[str]
    run: Callable[[Bench], list[Row]]


def _on(engine: str, name: str, goal: str, run: Callable[[Bench, str], list[Row]], *needs: str) -> Scenario:
    return Scenario(f"{name}-{engine}", goal, frozenset({engine, *needs}), lambda bench: run(bench, engine))


def _both(name: str, goal: str, run: Callable[[Bench, str], list[Row]], *needs: str) -> list[Scenario]:
    return [_on(engine, name, goal, run, *needs) for engine in ("sqlite", "postgres")]


FULL = "append and get the index back: at least 0.8x the raw one-row commits/s"
NORMAL = "append and get the index back, durability=normal: at least 0.5x the raw one-row commits/s"
FLAT = "turn 10,000 costs at most 1.1x turn 10, in time, bytes written and statements"
CROWD = "50 conversations at once: at least 2.5x (SQLite) or 2x (PostgreSQL) raw with one commit a turn"
ONE = "8 writers into one conversation: 800 of 800, dense and in order; PostgreSQL at least 2x a row lock per append"
READS = "last 50 of 10,000 at most 1.5x raw, 20 most recent of 10,000 at most 2x raw, flat to 1,000,000 events"
TURNS = "a whole turn: faster than every peer at 10, 100, 1,000 and 3,000 turns, at least 3x the best at 3,000"
IMPORT = "import: at least 0.5x the raw bulk insert"

SCENARIOS: tuple[Scenario, ...] = (
    _on("sqlite", "writer", FULL, one_writer),
    _on("sqlite", "writer-normal", NORMAL, partial(one_writer, durability="normal", bound=0.5)),
    _on("postgres", "writer", FULL, one_writer),
    *_both("flat", FLAT, flat_turns),
    *_both("conversations", CROWD, conversations),
    *_both("one-conversation", ONE, one_conversation),
    *_both("reads", READS, reads),
    *_both("turns", TURNS, turns, "peers"),
    *_both("import", IMPORT, bulk),
)
