"""The command line of tools/engines."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

from . import records
from .failure import ServerError
from .processes import wait_until
from .registry import SERVERS, Options, variable, with_needs
from .server import Server

PATIENCE = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked this program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit status."""
    own, command = _split(arguments)
    parser = _parser()
    options = parser.parse_args(own)
    if (options.command == "run") != bool(command):
        parser.error("run, and only run, takes a command after --")
    try:
        if options.command == "run":
            return run(options.names, Options(fsync=options.fsync == "on"), command)
        options.act(options)
    except ServerError as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    return 0


def run(names: list[str], options: Options, command: Sequence[str]) -> int:
    """Runs a command with fresh servers of its own and returns its exit status; the servers end with it."""
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)
    try:
        with ExitStack() as stack:
            for name in with_needs(names):
                server = stack.enter_context(Server(SERVERS[name].recipe(options)))
                record = records.save(f"{name}@{os.getpid()}", server)
                stack.callback(records.path(record.name).unlink, missing_ok=True)
                server.also_remove(records.path(record.name))
                options = replace(options, urls={**options.urls, name: server.url})
            stack.callback(_ignore_signals)
            return _run_command(command, {variable(name): url for name, url in options.urls.items()})
    except Interrupted as interrupted:
        return 128 + interrupted.signum


def _run_command(command: Sequence[str], variables: dict[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env={**os.environ, **variables})
    except OSError as error:
        print(f"engines: {command[0]} cannot be run ({error.strerror}).", file=sys.stderr)
        return 127
    try:
        code = child.wait()
    except Interrupted as interrupted:
        # A terminal has sent its SIGINT to the command as well.
        if interrupted.signum != signal.SIGINT or not sys.stdin.isatty():
            child.send_signal(interrupted.signum)
        try:
            code = child.wait(PATIENCE)
        except (subprocess.TimeoutExpired, Interrupted):
            child.kill()
            code = child.wait()
    return code if code >= 0 else 128 - code


def _install(options: argparse.Namespace) -> None:
    for name in with_needs(options.names):
        needed = dict.fromkeys(SERVERS[name].needs, "")
        print(SERVERS[name].recipe(Options(urls=needed)).install())


def _start(options: argparse.Namespace) -> None:
    label = options.label or options.name
    old = records.load(label)
    if old and old.state == "running":
        raise ServerError(f"{label} runs already at {old.url}; stop it first, or start another one with --label.")
    if old:
        old.stop()
        # A server takes its own data for in use as long as the pid of the dead one is not reaped.
        wait_until(lambda: not Path(f"/proc/{old.pid}").exists(), 5)
    urls = {need: _running(need).url for need in SERVERS[options.name].needs}
    recipe = SERVERS[options.name].recipe(Options(options.fsync == "on", urls))
    server = Server(recipe, data=options.data, guarded=False).start()
    try:
        record = records.save(label, server)
    except ServerError:
        server.stop()
        raise
    described = {
        "name": label,
        "url": record.url,
        "pid": record.pid,
        "port": server.port,
        "data": str(server.place.data),
    }
    print(json.dumps(described) if options.json else record.url)


def _stop(options: argparse.Namespace) -> None:
    unknown: list[str] = []
    for label in options.labels:
        record = records.load(label)
        if record is None:
            unknown.append(label)
        else:
            record.stop()
    if unknown:
        raise ServerError(f"No server {', '.join(unknown)} was started; `engines list` shows those that were.")


def _list(options: argparse.Namespace) -> None:
    rows = [("NAME", "STATE", "PID", "URL")]
    rows += [(record.name, record.state, str(record.pid), record.url) for record in records.load_all()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _running(name: str) -> records.Record:
    record = records.load(name)
    if record is None or record.state != "running":
        raise ServerError(f"{name} does not run and is needed; start it first.")
    return record


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    own = list(arguments)
    at = own.index("--") if "--" in own else len(own)
    return own[:at], own[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engines", description="Real database servers for the tests.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fsync = argparse.ArgumentParser(add_help=False)
    fsync.add_argument("--fsync", choices=("on", "off"), default="off", help="write through to disk (default: off)")

    install = commands.add_parser("install", help="download and unpack what is missing")
    install.add_argument("names", nargs="+", choices=SERVERS, metavar="NAME")
    install.set_defaults(act=_install)

    start = commands.add_parser("start", parents=[fsync], help="start a server that stays, and print its URL")
    start.add_argument("name", choices=SERVERS, metavar="NAME")
    start.add_argument("--label", help="the name to stop it by (default: NAME)")
    start.add_argument("--data", type=Path, help="a data folder to use and keep (default: a temporary one)")
    start.add_argument("--json", action="store_true", help="print name, url, pid, port and data as JSON")
    start.set_defaults(act=_start)

    stop = commands.add_parser("stop", help="stop servers that were started")
    stop.add_argument("labels", nargs="+", metavar="LABEL")
    stop.set_defaults(act=_stop)

    listing = commands.add_parser("list", help="show the servers")
    listing.set_defaults(act=_list)

    run = commands.add_parser(
        "run",
        parents=[fsync],
        usage="engines run NAME... [--fsync on|off] -- COMMAND...",
        help="run a command with fresh servers, whose URLs are in AGENTKEEP_TEST_<NAME>",
    )
    run.add_argument("names", nargs="+", choices=SERVERS, metavar="NAME")
    return parser


def _interrupt(signum: int, _: FrameType | None) -> None:
    raise Interrupted(signum)


def _ignore_signals() -> None:
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
