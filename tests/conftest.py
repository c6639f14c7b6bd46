"""Names the engines that the conformance suite runs on here, and fails where one of them cannot be had."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

POSTGRES = os.environ.get("AGENTKEEP_TEST_POSTGRES")

# An engine that is not in the package yet joins once its module is there.
ENGINES = {
    "agentkeep.engines.memory": "memory://",
    "agentkeep.engines.sqlite": "sqlite:///{tmp}/{unique}.db",
    "agentkeep.engines.postgres": f"{POSTGRES}?schema=t_{{unique}}",
}


def pytest_agentkeep_engines(config: pytest.Config) -> list[str]:
    """Every engine of this repository, unless some are named on the command line."""
    return [url for module, url in ENGINES.items() if find_spec(module) and not url.startswith("None")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A conformance run without PostgreSQL fails: nothing is skipped because it is not there."""
    conformance = any(item.path.name == "test_conformance.py" for item in items)
    if conformance and POSTGRES is None and not config.getoption("--agentkeep-engine") and find_spec(list(ENGINES)[-1]):
        raise pytest.UsageError(
            "AGENTKEEP_TEST_POSTGRES is not set: `make test` starts the server and sets it; "
            "--agentkeep-engine=URL runs the suite on the engines you name"
        )
