"""The command line: `agentkeep` and `python -m agentkeep`. docs/cli.md describes every command and exit code."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command in sys.argv. Gives the exit code."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print("agentkeep: the command line is not installed. Run: pip install 'agentkeep[cli]'", file=sys.stderr)
        return 2
    return run(sys.argv[1:])
