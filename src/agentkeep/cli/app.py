"""The group of commands, and the edge of the process: errors become sentences and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from .bench import bench
from .conform import conform
from .demo import COMMANDS as DEMO
from .doctor import doctor
from .errors import FAILED, INTERRUPTED, OK, code_of, report
from .export import export_
from .import_ import import_
from .list import list_
from .show import show
from .tail import tail


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="agentkeep")
@click.option("--debug", is_flag=True, hidden=True, help="Show the traceback of an error.")
def app(debug: bool) -> None:
    """Conversations of AI agents in any database: look at them, move them, check them.

    A URL names the database: agents.db, sqlite:///agents.db, postgresql://user@host/db. Every command takes --json.
    """


for command in (*DEMO, import_, export_, list_, show, tail, doctor, conform, bench):
    app.add_command(command)


def run(args: Sequence[str]) -> int:
    """Run a command. Gives the exit code, as docs/cli.md lists them."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = app.main(list(args), prog_name="agentkeep", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if "--debug" in args or (code := code_of(error)) is None:
            raise
        report(error, code, as_json="--json" in args)
        return code
