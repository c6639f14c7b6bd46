"""What is known about running servers: one file each in `.engines/run`, readable by its owner only."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from .debian import ENGINES
from .failure import ServerError
from .processes import Process, end
from .server import Server

FOLDER = ENGINES / "run"


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    url: str
    pid: int
    started: int
    stop_signal: int
    folder: str
    """Its temporary folder, removed when it stops."""

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @property
    def state(self) -> str:
        return "running" if self.process.alive else "dead"

    def stop(self) -> None:
        """Ends the server if it is still that process, and removes its folder and this record."""
        end(self.process, self.stop_signal)
        shutil.rmtree(self.folder, ignore_errors=True)
        path(self.name).unlink(missing_ok=True)


def path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def save(name: str, server: Server) -> Record:
    """Records a started server under a name."""
    process = server.process
    folder = str(server.place.folder)
    record = Record(name, server.url, process.pid, process.started, server.recipe.stop_signal, folder)
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        new = path(name).with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(asdict(record)))
        new.replace(path(name))
    except OSError as error:
        raise ServerError(f"{FOLDER} cannot be written ({error.strerror}).") from error
    return record


def load(name: str) -> Record | None:
    try:
        return Record(**json.loads(path(name).read_text()))
    except FileNotFoundError:
        return None


def load_all() -> list[Record]:
    names = sorted(file.stem for file in FOLDER.glob("*.json"))
    return [record for name in names if (record := load(name))]
