"""Runs the scenarios and prints one table: `python -m bench [--only NAME] [--quick] [--rounds N] [--json FILE]`."""

import argparse
import datetime
import json
import os
import platform
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import apsw

from bench import table
from bench.bench import Bench
from bench.scenarios import SCENARIOS, Scenario

POSTGRES = "AGENTKEEP_BENCH_POSTGRES"
PEERS = "AGENTKEEP_BENCH_PEERS"
DEFAULT_PEERS = Path(".venv-peers/bin/python")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"run this scenario; repeatable: {names}")
    parser.add_argument("--rounds", type=int, default=None, help="rounds per comparison (5, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="small loads: to try the benchmark, not to quote it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows with every round's ratio there")
    return parser.parse_args(given)


def _chosen(only: list[str] | None) -> list[Scenario]:
    if not only:
        return list(SCENARIOS)
    unknown = set(only) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        raise SystemExit(f"no scenario is called {', '.join(sorted(unknown))}; see --help")
    return [scenario for scenario in SCENARIOS if scenario.name in only]


def _missing(scenarios: list[Scenario], postgres: str, peers: Path) -> list[str]:
    """What must be there before anything is measured; nothing is skipped silently."""
    missing = []
    if any("postgres" in scenario.needs for scenario in scenarios) and not postgres:
        missing.append(f"set {POSTGRES} to the URL of a PostgreSQL whose role may create databases")
    if any("peers" in scenario.needs for scenario in scenarios) and not peers.exists():
        missing.append(f"make the peers' environment (bench/README.md) or set {PEERS} to its python")
    return missing


def environment(quick: bool, rounds: int) -> str:
    """One line: when, on what, with which versions."""
    versions = [f"Python {platform.python_version()}", f"SQLite {apsw.sqlite_lib_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in ("apsw", "asyncpg", "agentkeep")]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = "quick loads, not to be quoted" if quick else "full loads"
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{today}; {machine}; {', '.join(versions)}; {rounds} rounds, {load}"


def measure(bench: Bench, scenario: Scenario) -> list[table.Row]:
    """The rows of one scenario; one that fails is a missed row, and the others go on."""
    started = time.monotonic()
    bench.say(f"{scenario.name}: {scenario.goal}")
    try:
        rows = scenario.run(bench)
    except Exception as error:
        traceback.print_exc()
        rows = [table.Row(scenario.name, f"failed: {type(error).__name__}", goal=scenario.goal, met=False)]
    bench.say(f"{scenario.name}: {time.monotonic() - started:.0f} s")
    return rows


def main(given: Sequence[str] | None = None) -> int:
    arguments = _arguments(given)
    scenarios = _chosen(arguments.only)
    postgres = os.environ.get(POSTGRES, "")
    peers = Path(os.environ.get(PEERS, DEFAULT_PEERS)).absolute()
    if missing := _missing(scenarios, postgres, peers):
        raise SystemExit("; ".join(missing))
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    rows: list[table.Row] = []
    with Bench(rounds, arguments.quick, postgres, peers) as bench:
        for scenario in scenarios:
            rows += measure(bench, scenario)
        caption = "; ".join([environment(arguments.quick, rounds), *bench.notes])
    table.show(rows, caption)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": caption, "rows": table.as_json(rows)}, indent=1))
    missed = sum(row.met is False for row in rows)
    print(f"{missed} of {sum(row.met is not None for row in rows)} goals missed")
    return 1 if missed else 0
