"""Import: events that are already there, beside the raw driver's bulk insert of the same rows."""

from typing import Any

from bench.bench import Bench
from bench.events import Group, events
from bench.measure import alternate
from bench.ours import Agentkeep
from bench.raw import Postgres, SqliteBehindHop
from bench.table import Goal, Row, compared

EACH = 1_000


def bulk(bench: Bench, engine: str) -> list[Row]:
    """Events a second of conversations of 1,000 events each."""
    count = bench.load(20, 3)

    def load(side: Any, round_number: int) -> float:
        names = [f"r{round_number}-{one}" for one in range(count)]
        groups = [Group(name, "alice", events(name, 1, EACH)) for name in names]
        seconds, stored = bench.loop.one_by_one(side.load, [groups])
        assert stored == [count * EACH], "not everything was stored"
        return count * EACH / seconds

    kinds: dict[str, Any] = {"ours": Agentkeep}
    if engine == "sqlite":
        kinds["executemany of 1,000"] = SqliteBehindHop
    else:
        kinds["COPY of 1,000"] = Postgres
        kinds["unnest of 1,000"] = lambda target: Postgres(target, bulk="unnest")
    with bench.sides(engine, kinds) as sides:
        measured = alternate(
            bench.rounds, {name: lambda one, side=side: load(side, one) for name, side in sides.items()}
        )
    return [
        compared(f"import, {engine}, beside {name}", "events/s", measured["ours"], rates, Goal(0.5))
        for name, rates in measured.items()
        if name != "ours"
    ]
