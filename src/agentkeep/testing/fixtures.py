"""The fixtures of the conformance suite, registered by the plugin when there is an engine to run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from ..waist import Engine
from .marks import on_one_loop
from .target import MovedClock, Target, Template

__all__ = ["agentkeep_template", "clock", "database", "engine", "name", "shared"]

URLS = pytest.StashKey[list[str]]()
_SUITE = "agentkeep.testing.suite"
_NUMBERS = pytest.StashKey["count[int]"]()


class Names:
    """Partitions and index values that no other test uses: `name("a")` is the same each time within a test."""

    def __init__(self, unique: str) -> None:
        self._unique = unique
        self._more = count()

    def __call__(self, label: str | None = None) -> str:
        """A name of its own, or the one for this label."""
        return f"{self._unique}.{next(self._more) if label is None else label}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite on each engine."""
    if "agentkeep_template" in metafunc.fixturenames:
        urls = metafunc.config.stash[URLS]
        templates = [Template(url) for url in urls]
        names = [template.name for template in templates]
        labels = [f"{name}{number}" if names.count(name) > 1 else name for number, name in enumerate(names)]
        metafunc.parametrize("agentkeep_template", templates, indirect=True, ids=labels, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: object, name: str, obj: object) -> None:
    """Mark the tests of the suite, and no other test of the file that imports them, before pytest-asyncio looks."""
    module: str = getattr(obj, "__module__", None) or ""
    if name.startswith("test_") and module.startswith(_SUITE):
        marks: list[pytest.Mark] = getattr(obj, "pytestmark", [])
        if not any(mark.name == "asyncio" for mark in marks):
            on_one_loop(obj)  # type: ignore[arg-type]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of capabilities that an engine does not claim."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        marker = item.get_closest_marker("needs")
        params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        template = params.get("agentkeep_template")
        unmet = marker is not None and isinstance(template, Template) and not template.has(dict(marker.kwargs))
        (dropped if unmet else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture(scope="session")
def agentkeep_template(request: pytest.FixtureRequest) -> Template:
    """The engine a test runs on."""
    return request.param


@pytest_asyncio.fixture(loop_scope="session")
async def database(agentkeep_template: Template, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A new, empty database with its own clock. Its engines are closed afterwards."""
    target = agentkeep_template.fresh(tmp_path_factory.mktemp("agentkeep"))
    yield target
    await target.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(agentkeep_template: Template, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """The database that most tests share, each in partitions of its own."""
    target = agentkeep_template.fresh(tmp_path_factory.mktemp("agentkeep"))
    yield target
    await target.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(shared: Target) -> Engine:
    """An engine opened on SCHEMA that most tests share. Name partitions and index values by `name`."""
    return await shared.open()


@pytest.fixture
def clock(shared: Target) -> MovedClock:
    """The clock of `engine`: move it forward only."""
    return shared.clock


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Names:
    """Names of this test's own."""
    numbers = request.config.stash.setdefault(_NUMBERS, count())
    return Names(f"t{next(numbers)}")
