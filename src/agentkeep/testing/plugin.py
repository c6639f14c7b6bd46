"""The pytest plugin: which engines the conformance suite runs on, and how its tests are chosen.

    pytest --agentkeep-engine=URL ...       the suite, on each URL
    from agentkeep.testing.suite import *   the suite in a test file of yours; URLs from the option or from the hook
                                            `pytest_agentkeep_engines` of your conftest.py

In a URL, `{tmp}` is a temporary directory of the session and `{unique}` a new lower-case identifier: each database
that a test asks for must be a new, empty one, e.g. `sqlite:///{tmp}/{unique}.db` or
`postgresql://localhost/test?schema=t_{unique}`. An engine that cannot be reached fails its tests. A test of something
that an engine's capabilities do not claim is deselected for that engine. Without a URL the plugin does nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

_FIXTURES = "agentkeep.testing.fixtures"


class Hooks:
    """What a conftest.py may answer."""

    @pytest.hookspec
    def pytest_agentkeep_engines(self, config: pytest.Config) -> list[str]:  # pyright: ignore[reportReturnType]
        """URLs of the engines that the conformance suite runs on."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hook by which a conftest.py names engines."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option by which the command line names engines."""
    parser.getgroup("agentkeep").addoption(
        "--agentkeep-engine",
        action="append",
        default=[],
        metavar="URL",
        help="run agentkeep's conformance suite on this engine; {tmp} and {unique} make each database a new one",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Load the suite's fixtures if there is an engine to run on, and collect the suite if no path is given."""
    config.addinivalue_line("markers", "case(*ids): the incidents of the must-pass list that a conformance test holds")
    config.addinivalue_line("markers", "needs(**capabilities): the capabilities an engine has where this test applies")
    given: list[str] = config.getoption("--agentkeep-engine") or []
    answers: list[list[str]] = config.hook.pytest_agentkeep_engines(config=config)
    urls = list(dict.fromkeys(given or [url for answer in answers for url in answer]))
    if not urls:
        return
    pytest.register_assert_rewrite("agentkeep.testing")
    fixtures = import_module(_FIXTURES)
    config.stash[fixtures.URLS] = urls
    config.pluginmanager.register(fixtures, _FIXTURES)
    if given and config.args_source is not pytest.Config.ArgsSource.ARGS:
        suite = Path(__file__).with_name("suite")
        config.args = sorted(str(path) for path in suite.glob("[!_]*.py"))
