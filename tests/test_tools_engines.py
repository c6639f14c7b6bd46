"""tools/engines: what it installs, and that servers end when they should and only then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from _engines import pgbouncer, postgres, registry  # noqa: E402
from _engines.debian import closure, missing_libraries, parse_depends  # noqa: E402
from _engines.failure import ServerError  # noqa: E402
from _engines.processes import Process, descendants, kill_tree, wait_until  # noqa: E402
from _engines.server import Server  # noqa: E402

DEPENDS = """\
server
 |Depends: locales
  Depends: <virtual>
    provider
  PreDepends: libone
  Depends: libtwo
libone
  Depends: libc6
  Depends: libtwo
libtwo
  Depends: zlib1g
  Depends: libone
  Depends: libllvm14
locales
"""


def test_depends_are_read_with_alternatives_and_without_virtual_packages():
    graph = parse_depends(DEPENDS)
    assert graph["server"] == ["locales", "libone", "libtwo"]
    assert graph["locales"] == []


def test_the_closure_follows_libraries_only_and_ends_on_cycles():
    assert closure(["server"], parse_depends(DEPENDS)) == ["server", "libone", "libtwo", "zlib1g"]


def test_missing_libraries_are_named_once():
    printed = "/a:\n\tlibx.so.1 => not found\n\tliby.so.2 => /lib/liby.so.2 (0x7f)\n/b:\n\tlibx.so.1 => not found\n"
    assert missing_libraries(printed) == ["libx.so.1"]


def test_what_a_server_needs_starts_before_it_and_once():
    assert registry.with_needs(["pgbouncer", "postgres"]) == ["postgres", "pgbouncer"]


def test_a_reused_pid_is_another_process():
    here = Process.of(os.getpid())
    assert here.alive
    assert not Process(here.pid, here.started - 1).alive


def test_kill_tree_reaches_children_in_sessions_of_their_own():
    with subprocess.Popen(["sh", "-c", "setsid sleep 600 & wait"]) as shell:
        parent = Process.of(shell.pid)
        assert wait_until(lambda: len(descendants(parent.pid)) > 0, 10)
        tree = [parent, *descendants(parent.pid)]
        kill_tree(parent)
        assert not any(process.alive for process in tree)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres.server() as started:
        yield started


def ask(server: Server, sql: str, url: str = "") -> str:
    psql = server.place.program / postgres.BIN / "psql"
    return server.place.call([str(psql), "-X", "-At", "-c", sql, url or server.url]).strip()


def test_a_killed_server_restarts_with_its_data_on_its_port(server: Server):
    ask(server, "create table kept (n int); insert into kept values (7)")
    url, tree = server.url, [server.process, *descendants(server.process.pid)]
    assert len(tree) > 1
    server.kill()
    assert not any(process.alive for process in tree)
    with pytest.raises(ServerError, match="Connection refused"):
        ask(server, "select 1")
    server.restart()
    assert server.url == url
    assert ask(server, "select n from kept") == "7"


def test_a_test_server_is_set_up_as_promised(server: Server):
    shown = ask(server, "select string_agg(setting, ' ' order by name) from pg_settings where name in "
                        "('fsync', 'listen_addresses', 'max_connections', 'unix_socket_directories')")  # fmt: skip
    assert shown.split() == ["off", "127.0.0.1", "200"]
    assert ask(server, "select 'b' < 'C'") == "t", "the default collation is not the order of bytes"


def test_fsync_is_on_when_asked():
    assert "fsync=on" in postgres.Postgres(fsync=True).command(_nowhere())


def _nowhere():
    from _engines.server import Place

    return Place(Path("/p"), Path("/f"), Path("/d"), 1, "", None)


def test_pgbouncer_pools_transactions_of_the_server(server: Server):
    with pgbouncer.server(server.url) as pool:
        assert pool.port != server.port
        assert ask(server, "select current_user", pool.url) == "agentkeep"


def engines(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOLS / "engines", *arguments], capture_output=True, text=True)


def test_start_list_stop():
    label = f"test-{os.getpid()}"
    started = json.loads(engines("start", "postgres", "--label", label, "--json").stdout)
    process = Process.of(started["pid"])
    listed = [line.split() for line in engines("list").stdout.splitlines()]
    assert [label, "running", str(process.pid), started["url"]] in listed
    again = engines("start", "postgres", "--label", label)
    assert (again.returncode, label in again.stderr) == (1, True)
    assert engines("stop", label).returncode == 0
    assert not process.alive
    assert not Path(started["data"]).exists()
    assert label not in engines("list").stdout


def test_run_gives_the_url_and_exits_with_the_status_of_the_command():
    done = engines("run", "postgres", "--", "sh", "-c", "echo $AGENTKEEP_TEST_POSTGRES; exit 7")
    assert done.returncode == 7
    assert done.stdout.startswith("postgresql://agentkeep:")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_of_a_run_ends_with_it(signum: int):
    command = [TOOLS / "engines", "run", "postgres", "--", "sh", "-c", "echo ready; exec sleep 600"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout
        assert runner.stdout.readline() == "ready\n"
        record = json.loads((TOOLS.parent / ".engines" / "run" / f"postgres@{runner.pid}.json").read_text())
        tree = descendants(runner.pid)
        assert record["pid"] in [process.pid for process in tree]
        runner.send_signal(signum)
        runner.wait(30)
    assert wait_until(lambda: not Process(record["pid"], record["started"]).alive, 30)
    assert wait_until(lambda: not Path(record["folder"]).exists(), 10)
    assert wait_until(lambda: f"postgres@{runner.pid}" not in engines("list").stdout, 10)
    if signum == signal.SIGKILL:
        kill_left_over_command(tree)
    else:
        assert runner.returncode == 128 + signum
    assert wait_until(lambda: not any(process.alive for process in tree), 10)


def kill_left_over_command(tree: list[Process]) -> None:
    for process in tree:
        if process.alive:
            kill_tree(process)
