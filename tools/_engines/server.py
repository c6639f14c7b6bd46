"""One running server: its folder, its port, its life.

A recipe says what is particular about a kind of server; Server does the rest.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from .debian import library_path
from .failure import ServerError
from .processes import Account, Process, as_account, end, kill_tree, reachable, unprivileged, wait_until
from .watchdog import Watchdog

START_SECONDS = 60.0
PORTS = range(20_000, 32_000)
"""Below the range that the kernel takes ports of outgoing connections from: no port is lost over a restart."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs and as whom."""

    program: Path
    """The unpacked packages."""
    folder: Path
    """Its own temporary folder: configuration and log."""
    data: Path
    port: int
    password: str
    account: Account | None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.folder),
            "LD_LIBRARY_PATH": library_path(self.program),
        }

    def write(self, name: str, text: str) -> Path:
        """A file in the folder that only the server's user can read."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        own(path, self.account)
        return path

    def call(self, command: Sequence[str], text: str = "", environment: dict[str, str] | None = None) -> str:
        """Runs a program to its end with `text` as input and returns what it printed; raises ServerError."""
        done = self._run(command, text, environment or {})
        if done.returncode != 0:
            raise ServerError(f"{Path(command[0]).name} failed: {_tail(done.stdout)}")
        return done.stdout

    def succeeds(self, command: Sequence[str]) -> bool:
        """Whether a program ends with status 0."""
        return self._run(command, "", {}).returncode == 0

    def _run(self, command: Sequence[str], text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=text,
            cwd=self.folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_account(self.account),
        )


class Recipe(Protocol):
    """What is particular about one kind of server."""

    @property
    def name(self) -> str: ...
    @property
    def stop_signal(self) -> int:
        """Asks it to end cleanly, without waiting for its clients."""
        ...

    def install(self) -> Path:
        """Brings the program, at once when it is there, and returns its folder."""
        ...

    def init(self, place: Place) -> None:
        """Prepares `place` for a start; data that is there already is kept."""
        ...

    def command(self, place: Place) -> list[str]: ...
    def ready(self, place: Place) -> bool:
        """Whether it accepts connections."""
        ...

    def url(self, place: Place) -> str: ...


class Server:
    """A server of its own for one user: own folder, own port on 127.0.0.1, own password.

    As a context manager it starts and stops. A guarded server ends with the process that started it, even when that
    is killed by SIGKILL. `data` is kept when the server stops; without it the data is temporary.
    """

    def __init__(self, recipe: Recipe, *, data: Path | None = None, guarded: bool = True) -> None:
        self.recipe = recipe
        self._data = data
        self._guarded = guarded
        self._place: Place | None = None
        self._process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self._remove: list[Path] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def place(self) -> Place:
        if self._place is None:
            raise ServerError(f"The {self.recipe.name} server was not started.")
        return self._place

    @property
    def url(self) -> str:
        return self.recipe.url(self.place)

    @property
    def port(self) -> int:
        return self.place.port

    @property
    def process(self) -> Process:
        """The main process; raises ServerError when it does not run."""
        if self._process is None or not self._process.alive:
            raise ServerError(f"The {self.recipe.name} server does not run.")
        return self._process

    def start(self) -> Self:
        """Installs what is missing, starts, and returns when it accepts connections. Raises ServerError."""
        account = unprivileged()
        program = self.recipe.install()
        folder = _temporary_folder(self.recipe.name, account)
        self._remove = [folder]
        try:
            if self._guarded:
                self._watchdog = Watchdog()
                self._guard()
            data = _data_folder(self._data or folder / "data", account)
            program = _reachable_program(program, folder, account)
            self._place = Place(program, folder, data, 0, _password(data), account)
            self.recipe.init(self._place)
            self._place = replace(self._place, port=_free_port())
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL to every process of the server; returns when all are gone. The data and the port are kept."""
        if self._process:
            kill_tree(self._process)
        self._reap()

    def restart(self) -> None:
        """Starts it again on the same data and port, after a clean stop if it still runs. Raises ServerError."""
        self._end()
        self._launch()

    def stop(self) -> None:
        """Ends it and removes its folder. Stopping what is stopped does nothing."""
        self._end()
        for path in self._remove:
            shutil.rmtree(path, ignore_errors=True)
        if self._watchdog:
            self._watchdog.close()
            self._watchdog = None

    def also_remove(self, path: Path) -> None:
        """A file that is to go when the server's starter is killed."""
        self._remove.append(path)
        self._guard()

    def _launch(self) -> None:
        place = self.place
        with place.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.recipe.command(place),
                cwd=place.folder,
                env=place.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_account(place.account),
            )
        child = self._child
        self._process = Process.of(child.pid)
        self._guard()
        ready = wait_until(lambda: child.poll() is not None or self.recipe.ready(place), START_SECONDS)
        if child.poll() is not None:
            raise ServerError(
                f"{self.recipe.name} ended while starting: {_tail(place.log.read_text(errors='replace'))}"
            )
        if not ready:
            raise ServerError(f"{self.recipe.name} did not accept connections within {START_SECONDS:.0f} seconds.")

    def _end(self) -> None:
        if self._process:
            end(self._process, self.recipe.stop_signal)
        self._reap()

    def _reap(self) -> None:
        if self._child:
            self._child.wait()
        self._child = self._process = None

    def _guard(self) -> None:
        if self._watchdog:
            self._watchdog.guard(self._process, self.recipe.stop_signal, self._remove)


def listening(port: int) -> bool:
    """Whether something accepts TCP connections on a port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def own(path: Path, account: Account | None) -> None:
    """Gives a path to the account."""
    if account:
        os.chown(path, account.uid, account.gid)


def _temporary_folder(name: str, account: Account | None) -> Path:
    for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):
        if os.access(parent, os.W_OK) and reachable(Path(parent), account):
            folder = Path(tempfile.mkdtemp(prefix=f"agentkeep-{name}-", dir=parent))
            own(folder, account)
            return folder
    raise ServerError(
        f"No temporary folder can be used by the user that runs {name} (uid {account.uid if account else os.getuid()})."
    )


def _data_folder(data: Path, account: Account | None) -> Path:
    data = data.absolute()
    if not data.exists():
        data.mkdir(mode=0o700, parents=True)
    if not any(data.iterdir()):
        own(data, account)
    if not reachable(data, account):
        raise ServerError(f"{data} cannot be read by the user that runs the server (root never does).")
    return data


def _reachable_program(program: Path, folder: Path, account: Account | None) -> Path:
    """The program itself, or a copy of it where root's folders are closed to the server's user."""
    if reachable(program, account):
        return program
    return shutil.copytree(program, folder / "program", symlinks=True)


def _password(data: Path) -> str:
    kept = data / "agentkeep-password"
    return kept.read_text().strip() if kept.exists() else secrets.token_hex(12)


def _free_port() -> int:
    for port in random.sample(PORTS, 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError(f"No free port on 127.0.0.1 between {PORTS.start} and {PORTS.stop}.")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-5:])
