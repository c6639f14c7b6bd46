"""The marks of the suite's tests: which incidents a test holds, and what an engine must claim for it to apply."""

from __future__ import annotations

from typing import Any

import pytest

on_one_loop = pytest.mark.asyncio(loop_scope="session")
"""All tests of the suite run on the loop of the session's engine, whatever mode the user has. The plugin marks them."""


def case(*ids: str) -> pytest.MarkDecorator:
    """The incidents of the must-pass list that a test holds: "F1", "C2", ..."""
    return pytest.mark.case(*ids)


def needs(**capabilities: Any) -> pytest.MarkDecorator:
    """What an engine's capabilities must be for a test to apply to it."""
    return pytest.mark.needs(**capabilities)
