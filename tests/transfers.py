"""What the tests of import and export share."""

from __future__ import annotations

from pathlib import Path

from agentkeep import Store
from agentkeep.transfer import FORMATS, Failure, Input, Loaded, Output, dump, load

_ROOTS = Path(__file__).resolve().parents[2:4]
SGD = next((p for root in _ROOTS if (p := root / "shared" / "data" / "sgd_dev.jsonl.gz").exists()), Path("/nowhere"))
"""Real dialogues, where they are there."""


async def load_lines(store: Store, place: Path, format: str, *lines: str | bytes) -> tuple[Loaded, list[Failure]]:
    """Import lines, by way of a file."""
    path = place / "in.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return await load_file(store, path, format)


async def load_file(store: Store, path: Path, format: str) -> tuple[Loaded, list[Failure]]:
    """Import a file."""
    failures: list[Failure] = []
    with Input(str(path)) as file:
        loaded = await load(store, file, FORMATS[format], failed=failures.append)
    return loaded, failures


async def dump_bytes(store: Store, place: Path, format: str) -> bytes:
    """What an export writes. Nothing may be left out."""
    written, failures = await dump_with_failures(store, place, format)
    assert failures == []
    return written


async def dump_with_failures(store: Store, place: Path, format: str) -> tuple[bytes, list[Failure]]:
    """What an export writes, and what it could not."""
    path = place / "out.jsonl"
    failures: list[Failure] = []
    with Output(str(path)) as file:
        await dump(store, file, FORMATS[format], failed=failures.append)
    return path.read_bytes(), failures
