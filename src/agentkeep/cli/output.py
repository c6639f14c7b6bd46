"""What commands print: JSON, tables, progress; text of strangers is shown, never obeyed by the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from zlib import crc32

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..features.conversations import ConversationRecord, Event, State
from ..features.conversations.bulk import MARK
from ..ids import to_datetime
from ..transfer.lines import encode as encode

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def out() -> Console:
    """Standard output. Colours only on a terminal."""
    return Console(highlight=False, soft_wrap=False)


def emit(value: object) -> None:
    """Print one JSON value on one line of standard output."""
    sys.stdout.write(encode(value).decode() + "\n")
    sys.stdout.flush()


def clean(text: str) -> str:
    """Text without what a terminal would obey: escapes, other controls and reversals of direction are spelled out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def plain(text: str, style: str = "") -> Text:
    """Text of a stranger for a table: no markup, no controls."""
    return Text(clean(text), style=style)


def colour(name: str) -> str:
    """The colour of an agent or a person: the same each time."""
    return COLOURS[crc32(b"agentkeep" + name.encode("utf-8", "surrogatepass")) % len(COLOURS)]


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """An empty table."""
    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def pairs(rows: Mapping[str, object]) -> Table:
    """Names and values, one a line; those that are None are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None:
            made.add_row(name, value if isinstance(value, Text) else plain(str(value)))
    return made


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata on one line. Where an import notes its file it is left out: --json has it."""
    shown = {name: value for name, value in metadata.items() if name != MARK}
    return ", ".join(
        f"{name}={value if isinstance(value, str) else encode(value).decode()}" for name, value in shown.items()
    )


def when(moment: datetime) -> str:
    """A time of day and its date, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def conversation_json(record: ConversationRecord) -> dict[str, Any]:
    """A record as JSON has it here: its fields, and times as text beside the microseconds."""
    fields: dict[str, Any] = {"user": None, "agent": None, "title": None, "metadata": {}, **msgspec.to_builtins(record)}
    return {**fields, "status": record.status, "created_at": record.created_at.isoformat()}


def state_json(state: State) -> dict[str, Any]:
    """A state as JSON has it here."""
    return {name: getattr(state, name) for name in State.__struct_fields__ if name != "conversation"}


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON has it here: its fields, its index, and its time as text."""
    return {"index": event.index, **msgspec.to_builtins(event), "created_at": to_datetime(event.created_us).isoformat()}


@contextmanager
def progress(what: str) -> Generator[tuple[Progress, Any]]:
    """A progress bar on standard error, shown only where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task(what, total=None)
