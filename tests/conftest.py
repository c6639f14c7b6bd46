"""Names the engines that the conformance suite runs on here."""

from __future__ import annotations

import pytest

ENGINES = ["memory://"]


def pytest_agentkeep_engines(config: pytest.Config) -> list[str]:
    """Every engine of this repository."""
    return ENGINES
