"""`agentkeep demo`: a support case that outlives the process that tells it."""

from .play import play
from .watch import demo

COMMANDS = (demo, play)

__all__ = ["COMMANDS"]
