"""The conformance suite on every engine of this repository (tests/engines.py names them)."""

from agentkeep.testing.fixtures import database  # noqa: F401 - the suite's, not the one of conftest.py
from agentkeep.testing.suite import *  # noqa: F403
