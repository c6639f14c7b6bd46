"""The conformance suite itself: it is whole, it is chosen by capabilities, and it leaves other users alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentkeep.testing import suite
from agentkeep.testing.target import MovedClock, Target, Template

FOLDER = Path(suite.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
CASE = re.compile("[FCS][0-9]{1,2}")


def _tests() -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    found: dict[str, ast.AsyncFunctionDef | ast.FunctionDef] = {}
    for module in MODULES:
        for node in ast.parse((FOLDER / f"{module}.py").read_text()).body:
            if isinstance(node, (ast.AsyncFunctionDef, ast.FunctionDef)) and node.name.startswith("test_"):
                assert node.name not in found, f"{node.name} is in two modules: one would hide the other"
                found[node.name] = node
    return found


TESTS = _tests()


def test_one_line_brings_every_test():
    assert {name for name in vars(suite) if name.startswith("test_")} == set(TESTS)
    assert len(TESTS) > 150


def test_every_test_is_a_coroutine_and_no_mark_leaks_into_the_file_that_imports_it():
    assert [name for name, node in TESTS.items() if not isinstance(node, ast.AsyncFunctionDef)] == []
    assert not hasattr(suite, "pytestmark")


def test_every_test_runs_on_an_engine():
    for name, node in TESTS.items():
        taken = {one.arg for one in node.args.args}
        assert taken & {"engine", "database"}, f"{name} runs on no engine"


def test_nothing_is_skipped():
    for path in FOLDER.parent.rglob("*.py"):
        assert not re.search(r"\b(skip|skipif|importorskip|xfail)\b\(", path.read_text()), path


def test_every_case_is_of_the_list():
    named: Counter[str] = Counter()
    for name in TESTS:
        for marker in getattr(getattr(suite, name), "pytestmark", []):
            if marker.name == "case":
                assert all(CASE.fullmatch(one) for one in marker.args), name
                named.update(marker.args)
    for one in (
        "F1",
        "F2",
        "F3",
        "F4",
        "F5",
        "F6",
        "F7",
        "F8",
        *(f"C{n}" for n in range(1, 11)),
        "S1",
        "S2",
        "S4",
        "S5",
    ):
        assert named[one], f"no test of the suite holds {one}"


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_option_alone_runs_the_suite_whatever_the_asyncio_mode(tmp_path: Path):
    for mode in ("strict", "auto"):
        (tmp_path / "pytest.ini").write_text(f"[pytest]\nasyncio_mode = {mode}\naddopts = --strict-markers\n")
        done = _pytest(tmp_path, "--agentkeep-engine=memory://", "-k", "expectation or append")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"\b\d\d passed", done.stdout), done.stdout


def test_one_line_runs_the_suite_in_a_test_file(tmp_path: Path):
    (tmp_path / "test_one_line.py").write_text("from agentkeep.testing.suite import *\n\ndef test_mine(): pass\n")
    (tmp_path / "conftest.py").write_text("def pytest_agentkeep_engines(config):\n    return ['memory://']\n")
    done = _pytest(tmp_path, "-k", "test_mine or seal")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    assert re.search(r"\b[4-9] passed", done.stdout), done.stdout


def test_fixtures_of_the_same_names_in_a_conftest_do_not_take_the_place_of_the_suite_s(tmp_path: Path):
    (tmp_path / "test_one_line.py").write_text("from agentkeep.testing.suite import *\n")
    (tmp_path / "test_other.py").write_text("def test_theirs(engine, database):\n    assert engine == database == 5\n")
    fixtures = "".join(
        f"@pytest.fixture\ndef {name}():\n    return 5\n\n"
        for name in ("engine", "database", "name", "clock", "shared")
    )
    (tmp_path / "conftest.py").write_text(f"import pytest\n\n{fixtures}")
    done = _pytest(
        tmp_path, "--agentkeep-engine=memory://", "test_one_line.py", "test_other.py", "-k", "theirs or expir"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_without_an_engine_the_plugin_does_nothing(tmp_path: Path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it(request):\n"
        "    assert 'agentkeep.testing.fixtures' not in sys.modules\n"
        "    assert not [name for name in sys.modules if name.startswith(('agentkeep.engines', 'asyncpg', 'apsw'))]\n"
    )
    done = _pytest(tmp_path, "-p", "no:hypothesispytest")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("url", ["nope://", "memory://?pool_size=3"])
def test_an_engine_that_cannot_be_had_is_a_failure(tmp_path: Path, url: str):
    done = _pytest(tmp_path, f"--agentkeep-engine={url}", "-k", "test_capabilities_are_a_plain_value")
    assert done.returncode not in (0, 5), done.stdout
    assert "Invalid" in done.stdout


def test_what_an_engine_does_not_claim_is_deselected_and_its_absence_is_tested(tmp_path: Path):
    done = _pytest(tmp_path, "--agentkeep-engine=memory://", "--collect-only")
    assert "test_not_shared_a_second_engine" in done.stdout
    assert "test_not_durable_another_engine_begins_empty" in done.stdout
    assert "test_a_killed_writer" not in done.stdout
    assert "deselected" in done.stdout


def test_templates_fill_their_placeholders(tmp_path: Path):
    template = Template("memory://")
    template.url = "x://u:p@host:7/{tmp}/{unique}.db?schema=t_{unique}"
    one, two = template.fresh(tmp_path), template.fresh(tmp_path)
    assert one.url != two.url
    assert one.url == f"x://u:p@host:7/{tmp_path}/{one.unique}.db?schema=t_{one.unique}"
    assert re.fullmatch("[0-9a-f]{12}", one.unique)
    assert one.through(99).url == one.url.replace("host:7", "127.0.0.1:99")
    assert isinstance(one, Target)


def test_the_clock_moves_only_when_it_is_told():
    clock = MovedClock()
    now = clock()
    assert clock() == now
    clock.move(1.5)
    assert clock() == now + 1_500_000
