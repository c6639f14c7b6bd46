"""The conformance suite on every engine of this repository (tests/engines.py names them)."""

from agentkeep.testing.suite import *  # noqa: F403
