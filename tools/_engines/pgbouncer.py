"""PgBouncer in transaction pooling mode before a PostgreSQL server."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import debian
from .server import Place, Server, listening

PROGRAM = "usr/sbin/pgbouncer"


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """The recipe; `upstream` is the URL of the PostgreSQL server."""

    upstream: str
    name: str = "pgbouncer"
    stop_signal: int = signal.SIGTERM  # at once; SIGINT would wait for the clients

    def install(self) -> Path:
        return debian.install("pgbouncer", ("pgbouncer",), (PROGRAM,))

    def init(self, place: Place) -> None:
        url = urlsplit(self.upstream)
        place.write("users.txt", f'"{url.username}" "{url.password}"\n')

    def command(self, place: Place) -> list[str]:
        url = urlsplit(self.upstream)
        database = url.path.lstrip("/")
        config = place.write(
            "pgbouncer.ini",
            "[databases]\n"
            f"{database} = host={url.hostname} port={url.port} dbname={database}\n"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {place.port}\n"
            "unix_socket_dir =\n"
            "auth_type = scram-sha-256\n"
            f"auth_file = {place.folder / 'users.txt'}\n"
            "pool_mode = transaction\n"
            "max_client_conn = 1000\n",
        )
        return [str(place.program / PROGRAM), str(config)]

    def ready(self, place: Place) -> bool:
        return listening(place.port)

    def url(self, place: Place) -> str:
        url = urlsplit(self.upstream)
        return url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{place.port}").geturl()


def server(upstream: str) -> Server:
    """A PgBouncer before the PostgreSQL server that has the URL `upstream`, not yet started."""
    return Server(PgBouncer(upstream))
