"""Processes of servers: which one is meant, who it runs as, and how all of it ends."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POLL = 0.01
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group that server processes run as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Process:
    """One process: the kernel reuses pids, but not a pid together with its start time (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has `pid` now; raises ProcessLookupError."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(pid, int(stat[19]))

    @property
    def alive(self) -> bool:
        """False as well for a zombie: it holds no files, sockets or memory."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in "ZX"


def unprivileged() -> Account | None:
    """Who servers run as: `nobody` where this process is root, which many servers refuse; None is its own user."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(NOBODY, NOBODY)
    return Account(entry.pw_uid, entry.pw_gid)


def reachable(path: Path, account: Account | None) -> bool:
    """Whether the account can read the path, which needs the right to pass all of its parents."""
    try:
        return spawn_and_wait(["test", "-r", str(path)], account).returncode == 0
    except PermissionError:
        return False


def spawn_and_wait(command: list[str], account: Account | None) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as the account from the root folder."""
    return subprocess.run(command, cwd="/", capture_output=True, **as_account(account))


def as_account(account: Account | None) -> dict[str, int | list[int]]:
    """The arguments of subprocess that make a child run as the account."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def end(process: Process, signum: int, patience: float = 10.0) -> None:
    """Asks a process to end by a signal; after `patience` seconds kills it and its descendants."""
    if not process.alive:
        return
    _send(process.pid, signum)
    if not wait_until(lambda: not process.alive, patience):
        kill_tree(process)


def kill_tree(process: Process, patience: float = 10.0) -> None:
    """SIGKILL to a process and all its descendants; returns when none is left.

    A process group would not do: PostgreSQL gives each of its children a session of its own. The process is stopped
    first, so that it starts no child between the count and the kill.
    """
    if not process.alive:
        return
    _send(process.pid, signal.SIGSTOP)
    wait_until(lambda: (_stat(process.pid) or ["Z"])[0] in "TtZX", patience)
    tree = [process, *descendants(process.pid)]
    for member in tree:
        if member.alive:
            _send(member.pid, signal.SIGKILL)
    if not wait_until(lambda: not any(member.alive for member in tree), patience):
        raise TimeoutError(f"processes {[member.pid for member in tree if member.alive]} survived SIGKILL")


def descendants(pid: int) -> list[Process]:
    """The children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[Process] = []
    waiting = parents.get(pid, [])
    while waiting:
        child = waiting.pop()
        waiting += parents.get(child, [])
        if stat := _stat(child):
            found.append(Process(child, int(stat[19])))
    return found


def wait_until(condition: Callable[[], bool], patience: float) -> bool:
    """Whether the condition came true within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass  # it ended by itself


def _stat(pid: int) -> list[str] | None:
    # proc(5): the name may hold spaces and brackets; after it come state, ppid, ... and starttime as the 20th.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
