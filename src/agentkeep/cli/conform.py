"""`agentkeep conform`: the conformance suite on one engine, as a table of promises."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import click

from ..errors import Invalid, MissingExtra
from ..urls import parse
from .errors import FAILED, OK
from .options import json_option, shown, url_argument
from .output import clean, emit, out, plain, progress, table


class Result(NamedTuple):
    """One test: the part of the contract it belongs to, its promise, and what came of it ("" where it passed)."""

    part: str
    promise: str
    failure: str


@click.command("conform")
@url_argument
@click.option("-k", "only", metavar="EXPRESSION", help="Only the tests that match, as in pytest -k.")
@json_option
def conform(url: str, only: str | None, as_json: bool) -> int:
    """Run the conformance suite on an engine, and say which promises it keeps.

    Each test needs a new, empty database: in URL, {tmp} becomes a temporary directory and {unique} a new name, as in
    'sqlite:///{tmp}/{unique}.db' or 'postgresql://localhost/test?schema=t_{unique}'.
    """
    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        raise MissingExtra("the conformance suite", "testing")
    if "{unique}" not in url and parse(url).scheme != "memory":
        raise Invalid(
            f"{shown(url)} names one database, and the suite needs new ones",
            operation="conform",
            hint="Put {unique} into it, e.g. 'sqlite:///{tmp}/{unique}.db'.",
        )
    with tempfile.TemporaryDirectory() as place, progress("running the suite"):
        results, said, code = _run(url, only, Path(place))
    if as_json:
        emit(_json(url, results, code))
    else:
        _print(results, said)
    return OK if code == 0 else FAILED


def _run(url: str, only: str | None, place: Path) -> tuple[list[Result], str, int]:
    (place / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = session\n")
    report = place / "report.xml"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "junit_family=xunit1",
        f"--junitxml={report}",
        f"--agentkeep-engine={url}",
    ]
    command = [sys.executable, "-m", "pytest", *options, *(["-k", only] if only else [])]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if not report.exists():
        return [], done.stdout + done.stderr, done.returncode
    return [_result(case) for case in ElementTree.parse(report).iter("testcase")], done.stdout, done.returncode


def _result(case: ElementTree.Element) -> Result:
    name = case.get("name", "").partition("[")[0]
    wrong = case.find("failure")
    wrong = case.find("error") if wrong is None else wrong
    failure = "" if wrong is None else (wrong.get("message") or "it failed").splitlines()[0]
    part = Path(case.get("file", "")).stem
    return Result(part, name.removeprefix("test_").replace("_", " "), failure)


def _parts(results: list[Result]) -> dict[str, tuple[int, int]]:
    """Passed and failed tests by part of the contract."""
    parts: dict[str, tuple[int, int]] = {}
    for result in results:
        passed, failed = parts.get(result.part, (0, 0))
        parts[result.part] = (passed + (not result.failure), failed + bool(result.failure))
    return parts


def _json(url: str, results: list[Result], code: int) -> dict[str, object]:
    passed = sum(not result.failure for result in results)
    return {
        "url": shown(url),
        "passed": passed,
        "failed": len(results) - passed,
        "pytest_exit_code": code,
        "parts": {part: {"passed": good, "failed": bad} for part, (good, bad) in _parts(results).items()},
        "failures": [result._asdict() for result in results if result.failure],
    }


def _print(results: list[Result], said: str) -> None:
    console = out()
    if not results:
        console.print(plain(said.strip() or "The suite did not run."))
        return
    shown = table("part of the contract", "passed", "failed", right=("passed", "failed"))
    for part, (passed, failed) in _parts(results).items():
        shown.add_row(part, str(passed), plain(str(failed), "red" if failed else "dim"))
    console.print(shown)
    for result in results:
        if result.failure:
            console.print(plain(f"{result.part}: {result.promise}", "red"))
            console.print(plain(f"    {clean(result.failure)[:200]}", "dim"))
    failed = sum(bool(result.failure) for result in results)
    console.print(f"{len(results) - failed} promises kept, {failed} broken.")
