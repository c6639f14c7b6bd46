"""Every command, what it prints, and the code it ends with."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import pytest

from agentkeep import Store, ToolCall, ToolResult
from agentkeep.cli.app import app, run
from agentkeep.cli.output import clean

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
CHAT = {"id": "chat", "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with a support case in it."""

    async def fill(store: Store) -> None:
        talk = await store.conversations.create(
            "case-1", user="alice", agent="triage", metadata={"tier": "gold", "n": 1}
        )
        await talk.append("My invoice is [bold]wrong[/bold] \x1b[2J", sender="alice", channel="sms")
        await talk.append(ToolCall("c", "find", {"invoice": 7}), agent="triage")
        await talk.append(ToolResult("c", {"amount": 3}), agent="triage")
        await talk.append(ToolResult("c", error="timeout"), agent="triage")
        await talk.set_state(active_agent="triage")
        await talk.handoff("billing", reason="refund")
        await talk.append("Fixed.", agent="billing", channel="email")
        other = await store.conversations.create("case-2", user="bob", metadata={"tier": "free"})
        await other.close()

    return _made(tmp_path / "agents.db", fill)


def _made(path: Path, fill: Callable[[Store], Awaitable[object]]) -> str:
    async def make() -> None:
        async with Store.open(f"sqlite:///{path}") as store:
            await fill(store)

    asyncio.run(make())
    return f"sqlite:///{path}"


@pytest.fixture
def ak(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: its exit code, standard output and standard error."""

    def call(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(arg) for arg in args])
        return code, *capfd.readouterr()

    return call


Ak = Callable[..., tuple[int, str, str]]


# --- looking ---


def test_list_shows_the_most_recent_first_and_filters(ak: Ak, url: str):
    code, said, _ = ak("list", url)
    assert code == 0
    assert {"case-1", "case-2", "alice", "closed"} <= set(said.split())
    for options, expected in (
        (["--user", "alice"], ["case-1"]),
        (["--status", "closed"], ["case-2"]),
        (["--agent", "triage"], ["case-1"]),
        (["--metadata", "tier=free"], ["case-2"]),
        (["--metadata", "n=1", "--metadata", "tier=gold"], ["case-1"]),
        (["--user", "nobody"], []),
    ):
        code, said, _ = ak("list", url, *options, "--json")
        assert (code, [item["id"] for item in json.loads(said)["conversations"]]) == (0, expected)


def test_list_goes_on_behind_a_cursor(ak: Ak, url: str):
    first = json.loads(ak("list", url, "--limit", 1, "--json")[1])
    second = json.loads(ak("list", url, "--limit", 1, "--after", first["cursor"], "--json")[1])
    assert {first["conversations"][0]["id"], second["conversations"][0]["id"]} == {"case-1", "case-2"}
    by_id = {one["conversations"][0]["id"]: one["conversations"][0] for one in (first, second)}
    assert set(by_id["case-1"]) >= {"user", "agent", "status", "metadata", "last_index", "active_at", "created_at"}
    assert by_id["case-1"]["last_index"] == 6


def test_show_prints_the_record_the_state_and_the_timeline(ak: Ak, url: str):
    code, said, _ = ak("show", url, "case-1")
    assert code == 0
    for part in ("alice", "active agent", "→ find(invoice=7)", '← {"amount":3}', "← failed: timeout", "hands over to"):
        assert part in said
    assert "[bold]wrong[/bold] \\x1b[2J" in said
    assert "\x1b" not in said


def test_show_as_json_has_record_state_and_events(ak: Ak, url: str):
    code, said, _ = ak("show", url, "case-1", "--json")
    shown = json.loads(said)
    assert (code, set(shown)) == (0, {"conversation", "state", "events", "more", "corrupt"})
    assert shown["state"]["active_agent"] == "billing"
    assert [event["index"] for event in shown["events"]] == [1, 2, 3, 4, 5, 6]
    assert {"type", "content", "created_at", "created_us"} <= set(shown["events"][0])


def test_show_takes_a_part_of_the_timeline(ak: Ak, url: str):
    for options, expected in (
        (["--limit", 2], [5, 6]),
        (["--limit", 2, "--before", 5], [3, 4]),
        (["--limit", 2, "--after", 1], [2, 3]),
        (["--type", "message", "--type", "handoff"], [1, 5, 6]),
    ):
        events = json.loads(ak("show", url, "case-1", *options, "--json")[1])["events"]
        assert [event["index"] for event in events] == expected


def test_tail_prints_events_as_lines_of_json(ak: Ak, url: str):
    code, said, _ = ak("tail", url, "case-1", "--after", 4, "--idle", 0.01, "--json")
    assert (code, [json.loads(line)["index"] for line in said.splitlines()]) == (0, [5, 6])
    code, said, _ = ak("tail", url, "case-1", "--after", 4, "--idle", 0.01)
    assert "hands over to billing: refund" in said


def test_tail_follows_and_ends_with_ctrl_c(url: str):
    command = [sys.executable, "-m", "agentkeep", "tail", url, "case-2", "--after", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None

    async def speak(store: Store) -> None:
        talk = await store.conversations.get("case-2")
        assert talk is not None
        await talk.reopen()
        await talk.append("hello")

    _made(Path(url.removeprefix("sqlite:///")), speak)
    assert json.loads(process.stdout.readline())["content"] == {"kind": "text", "text": "hello"}
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=30)
    assert (process.returncode, wrong.strip()) == (130, "")


def test_text_of_strangers_cannot_steer_the_terminal():
    assert clean("a\x1b]0;x\x07b\r\u202ec\ud800\tline\n") == "a\\x1b]0;x\\x07b\\r\\u202ec\\ud800\tline\n"


# --- moving ---


def test_import_and_export_tell_what_they_did(ak: Ak, tmp_path: Path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl.gz"
    source.write_text(json.dumps(CHAT))
    url = tmp_path / "new.db"
    code, said, _ = ak("import", source, "--format", "openai", "--to", url)
    assert code == 0
    assert "1 conversations stored" in said
    code, said, _ = ak("import", source, "--format", "openai", "--to", url, "--json")
    expected = {"stored": 0, "there": 1, "events": 2, "shifted": 0, "failed": 0, "failures": []}
    assert (code, json.loads(said)) == (0, expected)
    code, said, _ = ak("export", "--from", url, target, "--json")
    assert (code, json.loads(said)) == (0, {"conversations": 1, "events": 2, "left_out": 0})
    code, said, _ = ak("import", target, "--to", tmp_path / "copy.db")
    assert code == 0
    code, said, wrong = ak("export", "--from", tmp_path / "copy.db", "--format", "openai")
    assert (code, json.loads(said)) == (0, CHAT)
    assert "1 conversations, 2 events" in wrong


def test_a_broken_line_is_named_and_ends_with_1(ak: Ak, tmp_path: Path):
    source = tmp_path / "in.jsonl"
    source.write_text("{\n" + json.dumps(CHAT) + "\n")
    code, said, wrong = ak("import", source, "--format", "openai", "--to", tmp_path / "x.db")
    assert code == 1
    assert "1 conversations stored" in said
    assert wrong.startswith("agentkeep: line 1: it is not JSON")
    code, said, wrong = ak("import", source, "--format", "openai", "--to", tmp_path / "x.db", "--json")
    failure = json.loads(said)["failures"][0]
    assert (code, failure["line"], failure["id"], wrong) == (1, 1, None, "")


def test_standard_input_and_output_are_files_too(tmp_path: Path):
    command = [sys.executable, "-m", "agentkeep"]
    url = str(tmp_path / "x.db")
    text = json.dumps(CHAT).encode()
    subprocess.run([*command, "import", "-", "--format", "openai", "--to", url], input=text, check=True)
    done = subprocess.run([*command, "export", "--from", url, "--format", "openai"], capture_output=True, check=True)
    assert json.loads(done.stdout) == CHAT


# --- errors ---


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["list", "sqlit://x.db"], 2, "Did you mean sqlite://?"),
        (["list", "sqlite:///{db}?durabilty=full"], 2, "Did you mean 'durability'?"),
        (["list", "sqlite:///{db}?durability=some"], 2, "durability"),
        (["list", "postgresql://u:secret@localhost:port/db"], 2, "does not parse"),
        (["list", "{db}", "--limit", "0"], 2, "--limit"),
        (["list", "{db}", "--metadata", "tier"], 2, "name=value"),
        (["list", "{db}", "--after", "x"], 2, "cursor"),
        (["list", "{db}", "--tenant", "acme"], 5, "tenants"),
        (["list"], 2, "URL"),
        (["lst"], 2, "lst"),
        (["import", "{db}", "--to", "{db}", "--format", "csv"], 2, "csv"),
        (["conform", "{db}"], 2, "{unique}"),
        (["demo", "--to", "memory://"], 2, "two"),
        (["list", "nowhere.db"], 4, "nowhere.db"),
        (["show", "{db}", "nobody"], 4, "nobody"),
        (["tail", "{db}", "nobody"], 4, "nobody"),
        (["import", "nowhere.jsonl", "--to", "{db}"], 4, "nowhere.jsonl"),
        (["export", "--from", "{db}", "/nowhere/x.jsonl"], 4, "/nowhere/x.jsonl"),
        (["import", "{db}", "--to", "{db}"], 5, "not an agentkeep export"),
        (["list", "{junk}"], 5, "junk"),
    ],
)
def test_errors_are_one_sentence_and_a_stable_code(
    args: list[str], code: int, part: str, ak: Ak, url: str, tmp_path: Path
):
    (tmp_path / "junk").write_bytes(b"junk" * 5_000)
    names = {"{db}": url.removeprefix("sqlite:///"), "{junk}": str(tmp_path / "junk")}
    given = [re.sub(r"\{db\}|\{junk\}", lambda found: names[found[0]], arg) for arg in args]
    got, said, wrong = ak(*given)
    assert (got, said) == (code, "")
    assert wrong.startswith("agentkeep: ")
    assert part in wrong
    assert "secret" not in wrong
    assert "Traceback" not in wrong
    got, said, wrong = ak(*given, "--json")
    error = json.loads(wrong)["error"]
    assert (got, said, error["exit_code"]) == (code, "", code)
    assert {"type", "message"} <= set(error)


def test_an_unreachable_server_is_3_and_its_password_is_masked(ak: Ak):
    code, _, wrong = ak("list", "postgresql://me:secret@127.0.0.1:1/db")
    assert code == 3
    assert "secret" not in wrong


def test_a_missing_driver_is_2_with_the_command_that_installs_it(ak: Ak, monkeypatch: pytest.MonkeyPatch):
    for module in [
        name
        for name in sys.modules
        if name.startswith(("asyncpg", "agentkeep.engines.postgres", "agentkeep.engines._postgres"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    code, _, wrong = ak("list", "postgresql://me:secret@127.0.0.1/db")
    assert code == 2
    assert "pip install 'agentkeep[postgres]'" in wrong


def test_without_click_there_is_a_hint(tmp_path: Path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(name='click')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "agentkeep", "list", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agentkeep: the command line is not installed. Run: pip install 'agentkeep[cli]'\n"


def test_a_place_that_takes_no_writes_is_3(ak: Ak, url: str, tmp_path: Path):
    code, said, wrong = ak("export", "--from", url, "/dev/full")
    assert (code, said, "No space left" in wrong) == (3, "", True)
    (tmp_path / "in.jsonl").write_text(json.dumps(CHAT))
    code, said, wrong = ak("import", tmp_path / "in.jsonl", "--format", "openai", "--to", "/proc/agents.db")
    assert (code, said, "/proc/agents.db" in wrong) == (3, "", True)


def test_a_damaged_document_is_5_and_hides_nothing_else(ak: Ak, url: str):
    _damage(url)
    code, said, _ = ak("show", url, "case-1", "--json")
    shown = json.loads(said)
    assert (code, [event["index"] for event in shown["events"]]) == (5, [1, 3, 4, 5, 6])
    assert "damaged" in shown["corrupt"][0]
    code, said, wrong = ak("export", "--from", url)
    assert (code, len(said.splitlines())) == (1, 11)
    assert "damaged" in wrong


def _damage(url: str) -> None:
    """Change a byte of the second event of the first conversation."""
    import apsw

    database = apsw.Connection(url.removeprefix("sqlite:///"))
    database.execute("UPDATE event SET doc = CAST(replace(doc, 'find', 'bind') AS BLOB) WHERE seq = 2")
    database.close()


def test_a_reader_that_goes_away_is_no_traceback(url: str):
    command = [sys.executable, "-m", "agentkeep", "export", "--from", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    wrong = process.stderr.read() if process.stderr else ""
    assert (process.wait(), wrong) == (1, "")


# --- caring ---


def test_doctor_finds_nothing_in_a_sound_database(ak: Ak, url: str):
    code, said, _ = ak("doctor", url, "--full", "--json")
    told = json.loads(said)
    assert (code, told["findings"], told["engine"]) == (0, [], "sqlite")
    assert told["counts"]["events"] == {"count": 6, "exact": True}
    assert told["counts"]["conversations"] == {"count": 2, "exact": True}
    code, said, _ = ak("doctor", url)
    assert (code, "Nothing was found." in said) == (0, True)


def test_doctor_names_damaged_documents(ak: Ak, url: str):
    _damage(url)
    code, said, _ = ak("doctor", url, "--json")
    (finding,) = json.loads(said)["findings"]
    assert (code, finding["finding"]) == (1, "corrupt")
    assert "case-1" in finding["key"]
    assert ak("doctor", url)[0] == 1


def test_doctor_names_loose_ends(ak: Ak, tmp_path: Path):
    hours_ago = 1_000_000_000_000_000

    async def fill() -> None:
        async with Store.open(f"sqlite:///{tmp_path}/x.db", clock=lambda: hours_ago) as store:
            talk = await store.conversations.create("a")
            await talk.append(ToolCall("c", "refund"), agent="billing")
            await store.blobs.write(store.ids(), b"x", "a")

    asyncio.run(fill())
    code, said, _ = ak("doctor", tmp_path / "x.db", "--json")
    assert (code, {one["finding"] for one in json.loads(said)["findings"]}) == (1, {"pending", "orphan"})


def test_conform_runs_the_suite(ak: Ak, tmp_path: Path):
    code, said, _ = ak("conform", "memory://", "-k", "test_what_was_never_written_is_absent or digest", "--json")
    told = json.loads(said)
    assert (code, told["failed"], told["pytest_exit_code"]) == (0, 0, 0)
    assert told["passed"] == sum(part["passed"] for part in told["parts"].values()) > 0
    code, said, _ = ak("conform", "memory://", "-k", "digest")
    assert (code, "promises kept" in said) == (0, True)


def test_bench_measures_and_leaves_nothing(ak: Ak, url: str):
    code, said, _ = ak("bench", url, "--seconds", 0.5, "--json")
    told = json.loads(said)
    assert (code, len(told["results"])) == (0, 4)
    assert all(one["per_second"] > 0 for one in told["results"])
    assert len(json.loads(ak("list", url, "--json")[1])["conversations"]) == 2


def test_a_tenant_sees_its_own(ak: Ak, tmp_path: Path):
    source, url = tmp_path / "in.jsonl", tmp_path / "x.db"
    source.write_text(json.dumps(CHAT))
    assert ak("import", source, "--format", "openai", "--to", url, "--tenant", "acme")[0] == 0
    assert json.loads(ak("show", url, "chat", "--tenant", "acme", "--json")[1])["conversation"]["id"] == "chat"
    assert ak("show", url, "chat", "--tenant", "other")[0] == 4
    assert ak("list", url)[0] == 5
    assert ak("doctor", url, "--tenant", "acme", "--json")[0] == 0


# --- documentation ---


def _commands() -> list[tuple[str, click.Command]]:
    return [(name, command) for name, command in app.commands.items() if not command.hidden]


@pytest.mark.parametrize(("name", "command"), _commands(), ids=[name for name, _ in _commands()])
def test_every_command_and_option_is_documented(name: str, command: click.Command):
    section = re.search(rf"^## agentkeep {name}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.M | re.S)
    assert section is not None
    shared = {"--json", "--tenant"}
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else []:
            assert f"`{option}" in section[1] or option in shared


def test_every_command_takes_json(ak: Ak):
    for name, command in _commands():
        assert any("--json" in parameter.opts for parameter in command.params), name
