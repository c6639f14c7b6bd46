"""The demo: a process is killed, nothing that was acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkeep.cli.demo.story import STORY, Note

EVENTS = sum(not isinstance(step, Note) for step in STORY)


def _demo(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentkeep", "demo", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def _sound(told: dict[str, Any]) -> bool:
    return (told["lost"], told["duplicated"], len(told["events"]), told["whole"]) == (0, 0, EVENTS, True)


def test_the_case_survives_a_kill_in_a_tool_call():
    told = json.loads(_demo("--json").stdout)
    assert _sound(told)
    assert told["killed"]["signal"] == "SIGKILL"
    assert told["killed"]["acknowledged"] == told["resumed"]["found"] > 0
    assert (told["killed"]["while_running"], told["resumed"]["pending"]) == ("refund", ["call-refund"])
    assert told["killed"]["pid"] != told["resumed"]["pid"]
    assert [event["index"] for event in told["events"]] == list(range(1, EVENTS + 1))
    assert (told["state"]["active_agent"], told["state"]["handoffs"], told["state"]["phase"]) == ("triage", 4, "solved")
    assert {channel for where in told["spoke"].values() for channel in where} == {"sms", "email", "web"}
    assert set(told["spoke"]) == {"alice", "triage", "shipping", "billing"}
    assert told["seconds"] < 10


@pytest.mark.parametrize("acknowledged", [1, 3, 8])
def test_the_case_survives_a_kill_elsewhere(acknowledged: int, tmp_path: Path):
    told = json.loads(_demo("--json", "--kill-after", str(acknowledged), "--to", str(tmp_path / "x.db")).stdout)
    assert _sound(told)
    assert told["killed"]["acknowledged"] == acknowledged <= told["resumed"]["found"]


def test_the_report_is_readable_without_a_terminal():
    said = _demo().stdout
    for part in ("What happened", "The timeline", "The state", "Who spoke where", "What survived", "SIGKILL"):
        assert part in said
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 80
