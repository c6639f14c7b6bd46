"""`agentkeep import`: conversations of a file into a database."""

from __future__ import annotations

import gc
import sys

import click
import msgspec

from ..transfer import FORMATS, Failure, Input, Loaded, load
from .errors import FAILED, OK
from .options import asynchronous, json_option, opened, shown, tenant_option
from .output import clean, emit, out, progress

KEPT = 100
"""Failures that --json lists; all of them are counted, and named on standard error."""


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--format", "name", type=click.Choice(sorted(FORMATS)), default="agentkeep", show_default=True)
@click.option("--to", "url", metavar="URL", required=True, help="The database, created where it is missing.")
@tenant_option
@json_option
@asynchronous
async def import_(file: str, name: str, url: str, tenant: str | None, as_json: bool) -> int:
    """Store the conversations of FILE ("-": standard input; gzip is recognised).

    Stopped or killed, run it again: it goes on where it was, and writes nothing twice.
    """
    failures: list[Failure] = []
    gc.set_threshold(100_000, 50, 100)  # Nothing here makes cycles, and looking for some takes a tenth of the time.

    def failed(failure: Failure) -> None:
        if len(failures) < KEPT:
            failures.append(failure)
        if not as_json:
            sys.stderr.write(f"agentkeep: {clean(str(failure))}\n")

    with Input(file) as lines:
        async with opened(url, tenant, create=True) as store:
            with progress(f"importing {lines.name}") as (bar, task):

                def advance(done: Loaded, position: int) -> None:
                    text = f"{done.stored + done.there:,} conversations"
                    bar.update(task, total=lines.size, completed=position, description=text)

                done = await load(store, lines, FORMATS[name], failed=failed, progress=advance)
    if as_json:
        emit({**msgspec.to_builtins(done), "failures": [failure._asdict() for failure in failures]})
    else:
        _tell(done, shown(url))
    return FAILED if done.failed else OK


def _tell(done: Loaded, url: str) -> None:
    console = out()
    there = f", {done.there:,} were there already" if done.there else ""
    console.print(f"{done.stored:,} conversations stored in {url}{there}; {done.events:,} events.", markup=False)
    if done.shifted:
        console.print(f"{done.shifted:,} had been deleted there: their events have new numbers, behind the old ones.")
    if done.failed:
        console.print(f"{done.failed:,} could not be imported: the lines above say why.")
