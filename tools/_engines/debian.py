"""Debian packages unpacked into a folder of the project, without root and without touching the system.

apt-get reads the system's own sources and keys, but keeps its lists and caches in `.engines/apt`. The list of
installed packages it sees is empty, so what is installed on the machine never counts. Packages are only unpacked: no
maintainer script runs. Signatures and hashes are checked by apt-get.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .failure import ServerError

ENGINES = Path(__file__).resolve().parents[2] / ".engines"
ATTEMPTS = 3

IN_EVERY_SYSTEM = frozenset({"libc6", "libgcc-s1", "libstdc++6"})
"""Left to the system: the C library must be the one of the system's loader, and apt itself needs the other two."""

UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale")
MARKER = ".installed"

APT_CONFIG = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{apt}/state";
Dir::State::status "{apt}/state/status";
Dir::Cache "{apt}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""


def install(name: str, packages: Sequence[str], programs: Sequence[str], unused: Sequence[str] = ()) -> Path:
    """The folder `.engines/NAME` with `packages` and the libraries they need, installed on the first call.

    `programs` are patterns of the files in it that will be run or loaded: every library they need must be found.
    `unused` are patterns of what to leave out. Raises ServerError.
    """
    target = ENGINES / name
    wanted = "\n".join(packages)
    if _installed(target, wanted):
        return target
    for tool in ("apt-get", "apt-cache", "dpkg-deb", "ldd"):
        if shutil.which(tool) is None:
            raise ServerError(f"{name} cannot be installed: it comes from Debian packages and {tool} was not found.")
    with _locked():
        if not _installed(target, wanted):
            _install(target, packages, programs, [*UNUSED, *unused])
            (target / MARKER).write_text(wanted)
    return target


def library_path(program: Path) -> str:
    """The value of LD_LIBRARY_PATH for programs unpacked under `program`."""
    return ":".join(
        str(folder) for folder in sorted([*program.glob("usr/lib/*-linux-*"), *program.glob("lib/*-linux-*")])
    )


def parse_depends(text: str) -> dict[str, list[str]]:
    """What `apt-cache depends --recurse --important` prints, as package -> names of the packages it depends on."""
    graph: dict[str, list[str]] = {}
    found: list[str] = []
    for line in text.splitlines():
        if not line.startswith((" ", "|", "<")):
            found = graph.setdefault(line.strip(), [])
        elif "Depends: " in line and not line.endswith(">"):
            found.append(line.rpartition(" ")[2])
    return graph


def closure(packages: Iterable[str], graph: Mapping[str, Sequence[str]]) -> list[str]:
    """`packages` and the libraries they need, theirs included; other kinds of dependency are not followed."""
    chosen = list(packages)
    for package in chosen:
        chosen += [name for name in dict.fromkeys(graph.get(package, ())) if _is_library(name) and name not in chosen]
    return chosen


def missing_libraries(ldd: str) -> list[str]:
    """The libraries that `ldd` could not find."""
    return sorted({line.split()[0] for line in ldd.splitlines() if line.endswith("=> not found")})


def _is_library(name: str) -> bool:
    # LLVM (100 MB) serves PostgreSQL's just-in-time compiler only, which is off.
    return name.startswith(("lib", "zlib")) and not name.startswith("libllvm") and name not in IN_EVERY_SYSTEM


def _installed(target: Path, wanted: str) -> bool:
    marker = target / MARKER
    return marker.exists() and marker.read_text() == wanted


def _install(target: Path, packages: Sequence[str], programs: Sequence[str], unused: Sequence[str]) -> None:
    apt = _Apt(ENGINES / "apt")
    names = closure(packages, apt.graph(packages))
    _say(f"{target.name}: downloading {len(names)} packages")
    debs = apt.download(names)
    _say(f"{target.name}: unpacking")
    new = target.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for deb in debs:
        _run(["dpkg-deb", "-x", str(deb), str(new)], f"{deb.name} could not be unpacked")
        deb.unlink()
    for path in _matching(new, unused):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    _check_libraries(new, programs)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    _say(f"{target.name}: installed in {target}")


def _check_libraries(program: Path, patterns: Sequence[str]) -> None:
    done = subprocess.run(
        ["ldd", *(str(path) for path in _matching(program, patterns))],
        env=_environment() | {"LD_LIBRARY_PATH": library_path(program)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ServerError(f"The programs in {program} cannot run on this machine ({_last_line(done.stderr)}).")
    if missing := missing_libraries(done.stdout):
        raise ServerError(f"The programs in {program} cannot run: no package brought {', '.join(missing)}.")


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


class _Apt:
    """apt-get and apt-cache with the system's sources and a state of their own."""

    def __init__(self, folder: Path) -> None:
        self._debs = folder / "debs"
        self._config = folder / "apt.conf"
        for part in ("state/lists/partial", "cache/archives/partial", "debs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "state/status").touch()
        self._config.write_text(APT_CONFIG.format(apt=folder))

    def graph(self, packages: Sequence[str]) -> dict[str, list[str]]:
        """The dependencies of packages, from lists fetched now. A source that does not answer matters only if it is
        the one that has them."""
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            _say(f"fetching package lists (attempt {attempt} of {ATTEMPTS})")
            update = self._call("apt-get", "update", "-q")
            depends = self._call("apt-cache", "depends", "--recurse", "--important", *packages)
            graph = parse_depends(depends.stdout)
            missing = [package for package in packages if package not in graph]
            if not missing:
                return graph
            reason = _reason(update.stderr) or _reason(depends.stderr)
        raise ServerError(f"This system's package sources do not offer {', '.join(missing)} ({reason}).")

    def download(self, packages: Sequence[str]) -> list[Path]:
        for deb in self._debs.glob("*.deb"):
            deb.unlink()
        for attempt in range(1, ATTEMPTS + 1):
            done = self._call("apt-get", "download", "-q", *packages)
            if done.returncode == 0:
                return sorted(self._debs.glob("*.deb"))
            _say(f"download failed (attempt {attempt} of {ATTEMPTS})")
        raise ServerError(f"The packages could not be downloaded ({_reason(done.stderr)}).")

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        config = ["-c", str(self._config)]
        return subprocess.run(
            [command[0], *config, *command[1:]], cwd=self._debs, env=_environment(), capture_output=True, text=True
        )


@contextmanager
def _locked() -> Iterator[None]:
    try:
        ENGINES.mkdir(exist_ok=True)
        lock = (ENGINES / "lock").open("w")
    except OSError as error:
        raise ServerError(f"{ENGINES} cannot be written ({error.strerror}).") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another installation to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerError(f"{failure} ({_last_line(done.stderr)}).")


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()


def _reason(text: str) -> str:
    # apt-get ends with a summary; the first complaint says why.
    complaints = (line.strip() for line in text.splitlines() if line.startswith(("E: ", "W: Failed")))
    return next(complaints, _last_line(text)).rstrip(".")


def _say(text: str) -> None:
    print(f"engines: {text}", file=sys.stderr, flush=True)
