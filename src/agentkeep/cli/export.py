"""`agentkeep export`: the conversations of a database as a file."""

from __future__ import annotations

import sys

import click
import msgspec
from rich.console import Console

from ..transfer import FORMATS, Dumped, Failure, Output, dump
from .errors import FAILED, OK
from .options import asynchronous, json_option, opened, tenant_option
from .output import clean, emit, encode, out, progress


@click.command("export")
@click.argument("file", metavar="[FILE]", default="-")
@click.option("--from", "url", metavar="URL", required=True, help="The database.")
@click.option("--format", "name", type=click.Choice(sorted(FORMATS)), default="agentkeep", show_default=True)
@tenant_option
@json_option
@asynchronous
async def export_(file: str, url: str, name: str, tenant: str | None, as_json: bool) -> int:
    """Write every conversation to FILE (default: standard output; gzip where its name ends in .gz).

    FILE appears when all is written. Lines that were imported come out in the order they went in.
    """

    def failed(failure: Failure) -> None:
        sys.stderr.write(f"agentkeep: {clean(str(failure))}\n")

    async with opened(url, tenant) as store:
        with Output(file) as lines, progress("exporting") as (bar, task):

            def advance(done: Dumped, total: int | None) -> None:
                bar.update(task, total=total, completed=done.conversations, description=f"{done.events:,} events")

            done = await dump(store, lines, FORMATS[name], failed=failed, progress=advance)
    if as_json and file == "-":
        sys.stderr.write(encode(msgspec.to_builtins(done)).decode() + "\n")
    elif as_json:
        emit(msgspec.to_builtins(done))
    else:
        console = Console(stderr=True, highlight=False) if file == "-" else out()
        console.print(f"{done.conversations:,} conversations, {done.events:,} events exported.")
        if done.left_out:
            console.print(f"{done.left_out:,} could not be: the lines above say why.")
    return FAILED if done.left_out else OK
