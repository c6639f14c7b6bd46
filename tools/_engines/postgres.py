"""PostgreSQL 15.

The database's default collation is English by ICU, as on most installed servers: order by bytes must be asked for.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .failure import ServerError
from .server import Place, Server, own

HOME = "usr/lib/postgresql/15"
BIN = f"{HOME}/bin"
PACKAGES = ("postgresql-15", "postgresql-client-15", "libnss-wrapper")
PROGRAMS = (f"{BIN}/*", f"{HOME}/lib/*.so")
UNUSED = (f"{HOME}/lib/bitcode", f"{HOME}/lib/llvmjit*")  # just-in-time compilation, which is off


@dataclass(frozen=True, slots=True)
class Postgres:
    """The recipe. Without fsync a crash of the machine loses data; a kill of the server does not."""

    fsync: bool = False
    name: str = "postgres"
    stop_signal: int = signal.SIGINT  # "fast": open transactions are rolled back

    def install(self) -> Path:
        return debian.install("postgres-15", PACKAGES, PROGRAMS, UNUSED)

    def init(self, place: Place) -> None:
        if (place.data / "PG_VERSION").exists():
            return
        password = place.write("password", place.password)
        initdb = [
            str(place.program / BIN / "initdb"),
            *("-D", str(place.data), "-U", "agentkeep", "-A", "scram-sha-256", f"--pwfile={password}"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"),
            *([] if self.fsync else ["--no-sync"]),
        ]
        user = _named_user(place)
        place.call(initdb, environment=user)
        single = [str(place.program / BIN / "postgres"), "--single", "-D", str(place.data), "postgres"]
        said = place.call(single, "CREATE DATABASE agentkeep\n", user)
        if "ERROR" in said:
            raise ServerError(f"The database agentkeep could not be created: {said.strip()}")
        kept = place.data / "agentkeep-password"
        shutil.move(password, kept)
        own(kept, place.account)

    def command(self, place: Place) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": place.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
            "jit": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(place.program / BIN / "postgres"), "-D", str(place.data), *options]

    def ready(self, place: Place) -> bool:
        return place.succeeds([str(place.program / BIN / "pg_isready"), "-d", self.url(place)])

    def url(self, place: Place) -> str:
        return f"postgresql://agentkeep:{place.password}@127.0.0.1:{place.port}/agentkeep"


def server(*, fsync: bool = False, data: Path | None = None) -> Server:
    """A PostgreSQL server, not yet started."""
    return Server(Postgres(fsync=fsync), data=data)


def _named_user(place: Place) -> dict[str, str]:
    """What makes initdb and --single, which ask for the name of their user, work for a uid that has none."""
    uid, gid = (place.account.uid, place.account.gid) if place.account else (os.geteuid(), os.getegid())
    try:
        pwd.getpwuid(uid)
    except KeyError:
        users = place.write("passwd", f"agentkeep:x:{uid}:{gid}::{place.folder}:/bin/false\n")
        groups = place.write("group", f"agentkeep:x:{gid}:\n")
        library = next(place.program.glob("usr/lib/*/libnss_wrapper.so"))
        return {"LD_PRELOAD": str(library), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": str(groups)}
    return {}
