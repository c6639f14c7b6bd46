"""The one table a run prints: what was measured, both sides, their ratio, the goal and whether it was met."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound of a ratio. `least`: at least `bound`; otherwise at most."""

    bound: float
    least: bool = True

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.bound:g}x"


@dataclass(frozen=True)
class Row:
    """One line. Without a goal the figure is stated only, and `met` is None."""

    what: str
    ours: str
    reference: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    rounds: tuple[float, ...] = ()


def compared(
    what: str,
    unit: str,
    ours: Sequence[float],
    reference: Sequence[float],
    goal: Goal | None = None,
    *,
    inverse: bool = False,
) -> Row:
    """A row of two sides measured in the same rounds: medians, and the median of the ratios round by round.

    The ratio is ours by the reference, or with `inverse` the reference by ours ("three times faster").
    """
    pairs = zip(ours, reference, strict=True)
    rounds = tuple(b / a if inverse else a / b for a, b in pairs)
    ratio = statistics.median(rounds)
    faster = " faster" if inverse else ""
    return Row(
        what,
        f"{number(statistics.median(ours))} {unit}",
        f"{number(statistics.median(reference))} {unit}",
        f"{ratio:.2f}x{faster} ({min(rounds):.2f} to {max(rounds):.2f})",
        f"{goal}{faster}" if goal else "",
        goal.met(ratio) if goal else None,
        rounds,
    )


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


VERDICTS = {True: "met", False: "MISSED", None: ""}
HEADS = ("what", "agentkeep", "reference", "ratio (rounds)", "goal", "")


def _cells(row: Row) -> tuple[str, ...]:
    return row.what, row.ours, row.reference, row.ratio, row.goal, VERDICTS[row.met]


def show(rows: Sequence[Row], caption: str) -> None:
    """Print the table, with rich if it is there."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain(rows, caption))
        return
    table = Table(*HEADS, caption=caption)
    for row in rows:
        table.add_row(*_cells(row), style="bold red" if row.met is False else None)
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def plain(rows: Sequence[Row], caption: str) -> str:
    """The table as text."""
    lines = [HEADS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*texts, caption])


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a file."""
    return [dataclasses.asdict(row) for row in rows]
